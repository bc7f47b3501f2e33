//! Opens what a message is wrapped in: SNS notification, EventBridge event, the event's own `payload` or `data`, the
//! GraphQL answer; each in any other, up to a bound.
//!
//! What comes out is the event's name and a [`Scope`]: the objects from the outermost envelope to the payload. A
//! field is looked for in the payload first and then outwards, so that a message may put its customer or its
//! timestamp on either side of `payload`. Nothing here knows what an event means.

use bumpalo::Bump;

use super::MalformedBody;
use super::fields::{self, Fields};
use super::identity;
use super::names::{EventName, GRAPHQL_FIELDS, event_name};
use super::tree::{Json, Reading, TreeError};
use crate::entitlement::{EpochMs, Subject};

/// SNS around EventBridge around an event around a GraphQL answer makes seven objects; a body that is wrapped deeper
/// is no message of Stigg's.
const LEVELS_MAX: usize = 8;

/// Keys that hold the payload, or the next envelope.
const WRAPPERS: [&str; 3] = ["detail", "payload", "data"];

/// A body without its envelopes.
#[derive(Debug)]
pub(super) enum Opened<'a> {
    /// An event with a documented name.
    Event(EventName, Scope<'a>),
    /// Something that has a name, but none that is documented.
    Unknown,
}

/// Why a body was not opened.
#[derive(Debug)]
pub(super) enum Unopened {
    /// It, or a text in it, has to be read as [`Reading::Any`].
    Unusual,
    Malformed(MalformedBody),
}

impl Unopened {
    fn within(self, outer: &str) -> Self {
        match self {
            Self::Unusual => Self::Unusual,
            Self::Malformed(fault) => Self::Malformed(fault.within(outer)),
        }
    }
}

impl From<MalformedBody> for Unopened {
    fn from(fault: MalformedBody) -> Self {
        Self::Malformed(fault)
    }
}

/// The objects of a message, the payload innermost.
#[derive(Debug)]
pub(super) struct Scope<'a> {
    /// Outermost first; never empty.
    levels: Vec<Level<'a>>,
}

#[derive(Debug)]
struct Level<'a> {
    /// The key that led here; empty for the body itself.
    key: &'static str,
    fields: Fields<'a>,
}

/// Opens a body. The outermost documented name decides; an undocumented one (`next` of graphql-ws, whatever a bus
/// calls its `detail-type`) lets the envelopes inside speak.
/// Everything of it is put into the room.
pub(super) fn open<'a>(body: &'a str, room: &'a Bump, reading: Reading) -> Result<Opened<'a>, Unopened> {
    let mut scope = Scope {
        levels: Vec::with_capacity(LEVELS_MAX),
    };
    let mut name = None;
    let mut is_named = false;
    let mut key = "";
    let mut fields = parse(body, "", room, reading)?;
    loop {
        if scope.levels.len() == LEVELS_MAX {
            let problem = format!("more than {LEVELS_MAX} envelopes inside one another");
            return Err(MalformedBody::at(key, problem).within(&scope.path()).into());
        }
        if let Some(notice) = sns_notice(&fields) {
            return Ok(Opened::Event(notice, scope));
        }
        if is_sns_notification(&fields) {
            // Of the SNS envelope nothing is kept: its `Timestamp` is when it was published, not when it was true.
            let message = fields::text(&fields, "Message").map_err(|fault| fault.within(&scope.path()))?;
            let message =
                message.ok_or_else(|| MalformedBody::at("Message", "missing").within(&scope.path()))?;
            scope.enter(key, Fields::default());
            key = "Message";
            fields = parse(message, key, room, reading).map_err(|fault| fault.within(&scope.path()))?;
            continue;
        }
        for text in names_in(&fields) {
            is_named = true;
            name = name.or_else(|| event_name(text));
        }
        let inner = inner(&fields);
        scope.enter(key, fields);
        let Some((inner_key, inner_fields)) = inner else {
            break;
        };
        if GRAPHQL_FIELDS.contains(&inner_key) {
            is_named = true;
            name = name.or_else(|| event_name(inner_key));
        }
        (key, fields) = (inner_key, inner_fields);
    }
    match name {
        Some(name) => Ok(Opened::Event(name, scope)),
        None if is_named => Ok(Opened::Unknown),
        None => Err(Unopened::Malformed(scope.fault(
            "type",
            "missing: neither type, eventType, detail-type, __typename nor a GraphQL field names the event",
        ))),
    }
}

/// Parses JSON text that has to be an object. `place` is where the text stands.
fn parse<'a>(text: &'a str, place: &str, room: &'a Bump, reading: Reading) -> Result<Fields<'a>, Unopened> {
    let whole = if place.is_empty() { "body" } else { place };
    match Json::parse(text.trim_start_matches('\u{feff}'), room, reading) {
        Ok(Json::Object(fields)) => Ok(fields),
        Ok(other) => Err(fields::unexpected(whole, "an object", &other).into()),
        Err(TreeError::Unusual) => Err(Unopened::Unusual),
        Err(TreeError::TooMany) => {
            Err(MalformedBody::at(whole, "holds more values than its length allows").into())
        }
        Err(TreeError::Syntax(error)) => {
            let position = format!("line {} column {}", error.line(), error.column());
            let place = if place.is_empty() {
                position
            } else {
                format!("{place} {position}")
            };
            // A syntax error of serde_json quotes nothing of the text; its position is already in the place.
            let problem = error.to_string();
            let problem = problem.split(" at line ").next().unwrap_or_default();
            Err(MalformedBody::at(&place, format!("not JSON: {problem}")).into())
        }
    }
}

/// SNS telling of its own subscription. Such a message has `Type`, capital, which no event has.
fn sns_notice(fields: &Fields<'_>) -> Option<EventName> {
    let notice = fields.get("Type")?.as_str()?;
    matches!(notice, "SubscriptionConfirmation" | "UnsubscribeConfirmation").then(|| event_name(notice))?
}

fn is_sns_notification(fields: &Fields<'_>) -> bool {
    let is = |key: &str| fields.get(key).is_some_and(|value| value.as_str().is_some());
    fields.get("Type").and_then(Json::as_str) == Some("Notification") || (is("TopicArn") && is("Message"))
}

/// The texts that may name the event at this level.
fn names_in<'f>(fields: &'f Fields<'_>) -> impl Iterator<Item = &'f str> {
    ["type", "eventType", "detail-type", "__typename"]
        .into_iter()
        .filter_map(|key| fields.get(key).and_then(Json::as_str))
}

/// The payload, or the next envelope, in this one.
fn inner<'a>(fields: &Fields<'a>) -> Option<(&'static str, Fields<'a>)> {
    WRAPPERS
        .into_iter()
        .chain(GRAPHQL_FIELDS)
        .find_map(|key| Some((key, fields.get(key)?.as_object()?)))
}

impl<'a> Scope<'a> {
    /// Adds a level inside the innermost.
    fn enter(&mut self, key: &'static str, fields: Fields<'a>) {
        self.levels.push(Level { key, fields });
    }

    /// Makes the object under `key`, wherever it is, the innermost level; does nothing if there is none.
    pub(super) fn enter_object(&mut self, key: &'static str) {
        let object = |level: &Level<'a>| level.fields.get(key)?.as_object();
        if let Some(object) = self.levels.iter().rev().find_map(object) {
            self.enter(key, object);
        }
    }

    /// Reads something from the innermost level that has it.
    pub(super) fn find<T>(
        &self,
        read: impl Fn(&Fields<'a>) -> Result<Option<T>, MalformedBody>,
    ) -> Result<Option<T>, MalformedBody> {
        Ok(self.find_with_depth(read)?.map(|(found, _)| found))
    }

    /// The same, with the depth it was found at, for [`Self::path_to`].
    pub(super) fn find_with_depth<T>(
        &self,
        read: impl Fn(&Fields<'a>) -> Result<Option<T>, MalformedBody>,
    ) -> Result<Option<(T, usize)>, MalformedBody> {
        for (depth, level) in self.levels.iter().enumerate().rev() {
            match read(&level.fields) {
                Ok(None) => {}
                Ok(Some(found)) => return Ok(Some((found, depth))),
                Err(fault) => return Err(fault.within(&self.path_to(depth))),
            }
        }
        Ok(None)
    }

    /// The innermost valid date of that name.
    pub(super) fn date(&self, key: &str) -> Option<EpochMs> {
        self.levels
            .iter()
            .rev()
            .find_map(|level| fields::date(&level.fields, key))
    }

    /// When the message says that it was true: its `timestamp`, else its `entitlementsUpdatedAt` (which Stigg's
    /// webhook reference requires where it lets `timestamp` be absent), else when it was sent.
    pub(super) fn message_time(&self, sent_at: EpochMs) -> EpochMs {
        self.date("timestamp")
            .or_else(|| self.date("entitlementsUpdatedAt"))
            .unwrap_or(sent_at)
    }

    /// Whose state it is, if the message says so.
    pub(super) fn subject_if_any(&self) -> Result<Option<Subject>, MalformedBody> {
        let Some(customer) = self.find(identity::customer)? else {
            return Ok(None);
        };
        Ok(Some(Subject {
            customer,
            resource: self.find(identity::resource)?,
        }))
    }

    /// Whose state it is.
    pub(super) fn subject(&self) -> Result<Subject, MalformedBody> {
        self.subject_if_any()?.ok_or_else(|| self.missing("customerId"))
    }

    /// The payload, if it is no EventBridge envelope: that one has an `id` of its own.
    pub(super) fn payload(&self) -> Option<&Fields<'a>> {
        let innermost = self.levels.last().map(|level| &level.fields)?;
        (!innermost.contains_key("detail-type")).then_some(innermost)
    }

    /// The fault of a payload without this field.
    pub(super) fn missing(&self, key: &str) -> MalformedBody {
        self.fault(key, "missing")
    }

    /// A fault in the payload.
    pub(super) fn fault(&self, key: &str, problem: &str) -> MalformedBody {
        MalformedBody::at(key, problem).within(&self.path())
    }

    /// The path to the payload.
    pub(super) fn path(&self) -> String {
        self.path_to(self.levels.len())
    }

    /// The path to the level of that depth.
    pub(super) fn path_to(&self, depth: usize) -> String {
        let keys = self
            .levels
            .iter()
            .take(depth.saturating_add(1))
            .map(|level| level.key);
        keys.filter(|key| !key.is_empty()).collect::<Vec<_>>().join(".")
    }
}
