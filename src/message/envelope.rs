//! Opens what a message is wrapped in: SNS notification, EventBridge event, the event's own `payload` or `data`, the
//! GraphQL answer; each in any other, up to a bound. Nothing here knows what an event means.

use serde::de::DeserializeSeed as _;

use super::MalformedBody;
use super::convert::flat_or_nested;
use super::event_types::{EventType, OTHER, event_type};
use super::field::{Field, FieldSeed};
use super::surrogates::replace_lone_surrogates;
use super::timestamp::{StateTimes, Timestamp};
use super::wire::{GRAPHQL_FIELDS, LEVELS_MAX, Level, LevelFields};
use crate::entitlement::{CustomerId, EpochMs, ResourceId, Subject};

/// A level of a message, and those around it. A field is looked for in the payload first and then outwards.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'s> {
    /// The name of the field that holds this level; empty for the body.
    pub(super) key: &'static str,
    pub(super) level: &'s Level<'s>,
    pub(super) outer: Option<&'s Scope<'s>>,
}

/// Reads what is inside the envelopes.
pub(super) type Read<'r, T> = &'r mut dyn FnMut(EventType, &Scope<'_>) -> Result<T, MalformedBody>;

/// What the envelopes so far say of the event. The outermost documented name decides; an undocumented one (`next` of
/// graphql-ws, whatever a bus calls its `detail-type`) lets the envelopes inside speak.
#[derive(Debug, Clone, Copy, Default)]
struct Named {
    event_type: Option<EventType>,
    is_named: bool,
}

impl Named {
    fn by(&mut self, name: &str) {
        self.is_named = true;
        self.event_type = self.event_type.or_else(|| event_type(name));
    }
}

/// Opens a body.
pub(super) fn open<T>(body: &str, read: Read<'_, T>) -> Result<T, MalformedBody> {
    open_text(body, "", None, Named::default(), LEVELS_MAX, read)
}

/// Opens JSON text that has to be an object. `levels`: how many more may be inside one another.
fn open_text<T>(
    text: &str,
    key: &'static str,
    outer: Option<&Scope<'_>>,
    named: Named,
    levels: usize,
    read: Read<'_, T>,
) -> Result<T, MalformedBody> {
    let within = |fault: MalformedBody| fault.within(&outer.map(Scope::path).unwrap_or_default());
    let at = |place: &str, problem: &str| within(MalformedBody::at(place, problem));
    if levels == 0 {
        return Err(at(key, TOO_DEEP));
    }
    let text = text.trim_start_matches('\u{feff}');
    let repaired;
    let mut parsed = parse(text, levels);
    if parsed.is_err()
        && let Some(text) = replace_lone_surrogates(text)
    {
        repaired = text;
        parsed = parse(&repaired, levels);
    }
    match parsed {
        Ok(level) => {
            let whole: &&str = if key.is_empty() { &"body" } else { &"Message" };
            let level = level.named(whole).take().map_err(within)?;
            let level = level.ok_or_else(|| at(whole, "expected an object, found null"))?;
            open_level(&level, key, outer, named, levels, read)
        }
        Err(error) => {
            let position = format!("{key} line {} column {}", error.line(), error.column());
            // An error of the syntax quotes nothing of the text. Its position is already in the place.
            let problem = error.to_string();
            let problem = problem.split(" at line ").next().unwrap_or_default();
            Err(at(position.trim_start(), &format!("not JSON: {problem}")))
        }
    }
}

const TOO_DEEP: &str = "more than 8 envelopes inside one another";

fn parse(text: &str, levels: usize) -> Result<Field<Box<Level<'_>>>, serde_json::Error> {
    let mut json = serde_json::Deserializer::from_str(text);
    let level = FieldSeed::new(levels).deserialize(&mut json)?;
    json.end()?;
    Ok(level)
}

fn open_level<T>(
    level: &Level<'_>,
    key: &'static str,
    outer: Option<&Scope<'_>>,
    mut named: Named,
    levels: usize,
    read: Read<'_, T>,
) -> Result<T, MalformedBody> {
    let scope = Scope { key, level, outer };
    let fields = &level.fields;
    if let Some(notice @ ("SubscriptionConfirmation" | "UnsubscribeConfirmation")) = fields.sns_type.caption()
    {
        // SNS about its own subscription.
        return read(event_type(notice).unwrap_or(OTHER), &scope);
    }
    if fields.sns_type.caption() == Some("Notification")
        || (fields.topic_arn.if_valid().is_some() && fields.message.if_valid().is_some())
    {
        // Of the SNS envelope nothing is kept: its `Timestamp` is when it was published, not when it was true.
        let within = |fault: MalformedBody| fault.within(&scope.path());
        let message = fields.message.text().map_err(within)?;
        let message = message.ok_or_else(|| scope.missing("Message"))?;
        let nothing = Level::default();
        let scope = Scope {
            key,
            level: &nothing,
            outer,
        };
        return open_text(message, "Message", Some(&scope), named, levels - 1, read);
    }
    for name in [
        &fields.kind,
        &fields.event_type,
        &fields.detail_type,
        &fields.typename,
    ] {
        if let Some(name) = name.if_valid() {
            named.by(name);
        }
    }
    let Some(inner) = &level.inner else {
        return match named {
            Named { event_type: Some(event_type), .. } => read(event_type, &scope),
            Named { is_named: true, .. } => read(OTHER, &scope),
            Named { .. } => Err(scope.fault(
                "type",
                "missing: neither type, eventType, detail-type, __typename nor a GraphQL field names the event",
            )),
        };
    };
    if GRAPHQL_FIELDS.contains(&inner.key) {
        named.by(inner.key);
    }
    match &inner.level {
        Some(level) => open_level(level, inner.key, Some(&scope), named, levels - 1, read),
        None => Err(scope.fault(inner.key, TOO_DEEP)),
    }
}

impl<'s> Scope<'s> {
    /// This level and those around it.
    fn outwards(&self) -> impl Iterator<Item = Scope<'s>> {
        std::iter::successors(Some(*self), |scope| scope.outer.copied())
    }

    /// Reads something from the innermost level that has it.
    pub(super) fn find<T>(
        &self,
        read: impl Fn(&'s Level<'s>) -> Result<Option<T>, MalformedBody>,
    ) -> Result<Option<T>, MalformedBody> {
        for scope in self.outwards() {
            match read(scope.level) {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(fault) => return Err(fault.within(&scope.path())),
            }
        }
        Ok(None)
    }

    /// The innermost value of the right kind.
    pub(super) fn find_valid<T>(&self, field: impl Fn(&'s Level<'s>) -> &'s Field<T>) -> Option<&'s T> {
        self.outwards().find_map(|scope| field(scope.level).if_valid())
    }

    /// The innermost valid date; if it is the time of a state, the innermost possible one.
    pub(super) fn find_date(
        &self,
        field: impl Fn(&'s Level<'s>) -> &'s Field<Timestamp>,
        times: Option<&StateTimes>,
    ) -> Option<EpochMs> {
        let dates = self.outwards().filter_map(|scope| field(scope.level).if_valid());
        let is_possible = |at: &EpochMs| times.is_none_or(|times| times.is_possible(*at));
        dates.map(|at| at.0).find(is_possible)
    }

    /// The `usage` of the innermost level that has one.
    pub(super) fn find_usage(&self) -> Option<&'s Level<'s>> {
        self.outwards().find_map(|scope| scope.level.usage.as_deref())
    }

    /// Whose state it is, if the message says so.
    pub(super) fn subject_if_any(&self) -> Result<Option<Subject>, MalformedBody> {
        let fields = |level: &'s Level<'s>| -> &'s LevelFields<'s> { &level.fields };
        let customer = self
            .find(|level| flat_or_nested(&fields(level).customer_id, &fields(level).customer, "customer"))?;
        let Some(customer) = customer else {
            return Ok(None);
        };
        let resource = self
            .find(|level| flat_or_nested(&fields(level).resource_id, &fields(level).resource, "resource"))?;
        Ok(Some(Subject {
            customer: CustomerId(customer.to_owned()),
            resource: resource.map(|id| ResourceId(id.to_owned())),
        }))
    }

    /// Whose state it is.
    pub(super) fn subject(&self) -> Result<Subject, MalformedBody> {
        self.subject_if_any()?.ok_or_else(|| self.missing("customerId"))
    }

    /// The fault of a payload without this field.
    pub(super) fn missing(&self, key: &str) -> MalformedBody {
        self.fault(key, "missing")
    }

    /// A fault in this level.
    fn fault(&self, key: &str, problem: &str) -> MalformedBody {
        MalformedBody::at(key, problem).within(&self.path())
    }

    /// The path from the body to this level.
    pub(super) fn path(&self) -> String {
        let mut keys: Vec<_> = self
            .outwards()
            .map(|scope| scope.key)
            .filter(|key| !key.is_empty())
            .collect();
        keys.reverse();
        keys.join(".")
    }
}
