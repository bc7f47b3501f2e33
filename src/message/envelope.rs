//! Opens what a message is wrapped in: SNS notification, EventBridge event, the event's own `payload` or `data`, the
//! GraphQL answer; each in any other, up to a bound. Nothing here knows what an event means.

use serde::de::DeserializeSeed as _;

use super::convert::flat_or_nested;
use super::event_types::{Change, EventType, OTHER, event_type};
use super::field::{Field, FieldSeed};
use super::surrogates::replace_lone_surrogates;
use super::timestamp::{StateTimes, Timestamp};
use super::wire::{GRAPHQL_FIELDS, LEVELS_MAX, Level, LevelFields};
use super::{MalformedBody, Message};
use crate::entitlement::{CustomerId, EpochMs, ResourceId, Subject};

/// A level of a message, and those around it. A field is looked for in the payload first and then outwards.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'s> {
    /// The name of the field that holds this level; empty for the body.
    key: &'static str,
    pub(super) level: &'s Level<'s>,
    outer: Option<&'s Scope<'s>>,
}

/// Reads what is inside the envelopes.
pub(super) type Read<'r> = &'r mut dyn FnMut(EventType, &Scope<'_>) -> Result<Message, MalformedBody>;

/// The event's type, if an envelope so far has a documented name. The outermost documented name decides; an undocumented
/// one (`next` of graphql-ws, an own `detail-type` of a bus) leaves the decision to the envelopes inside.
type Named = Option<EventType>;

/// Opens a body.
pub(super) fn open(body: &str, read: Read<'_>) -> Result<Message, MalformedBody> {
    open_text(body, "", None, None, LEVELS_MAX, read)
}

/// Opens JSON text that has to be an object. `levels`: how many more may be inside one another.
fn open_text(
    text: &str,
    key: &'static str,
    outer: Option<&Scope<'_>>,
    named: Named,
    levels: usize,
    read: Read<'_>,
) -> Result<Message, MalformedBody> {
    let within = |fault: MalformedBody| fault.within(&outer.map(Scope::path).unwrap_or_default());
    let text = text.trim_start_matches('\u{feff}');
    let mut repaired = None;
    let level = parse(text, levels).or_else(|error| {
        repaired = replace_lone_surrogates(text);
        repaired
            .as_deref()
            .map_or(Err(error), |repaired| parse(repaired, levels))
    });
    let level = level.map_err(|error| {
        let position = format!("{key} line {} column {}", error.line(), error.column());
        // An error of the syntax quotes nothing of the text. Its position is already in the place.
        let problem = error.to_string();
        let problem = problem.split(" at line ").next().unwrap_or_default();
        within(MalformedBody::at(
            position.trim_start(),
            format!("not JSON: {problem}"),
        ))
    })?;
    let whole: &&str = if key.is_empty() { &"body" } else { &"Message" };
    let level = level.named(whole).take().map_err(within)?;
    let level = level.ok_or_else(|| within(MalformedBody::at(whole, "expected an object, found null")))?;
    let scope = Scope {
        key,
        level: &level,
        outer,
    };
    scope.open(named, levels, read)
}

fn parse(text: &str, levels: usize) -> Result<Field<Box<Level<'_>>>, serde_json::Error> {
    let mut json = serde_json::Deserializer::from_str(text);
    let level = FieldSeed::levels(levels).deserialize(&mut json)?;
    json.end()?;
    Ok(level)
}

impl<'s> Scope<'s> {
    /// Opens what is wrapped in this level.
    fn open(&self, mut named: Named, levels: usize, read: Read<'_>) -> Result<Message, MalformedBody> {
        if levels == 0 {
            let outer = self.outer.map(Self::path).unwrap_or_default();
            return Err(
                MalformedBody::at(self.key, "more than 8 envelopes inside one another").within(&outer),
            );
        }
        let fields = &self.level.fields;
        if let Some(notice @ ("SubscriptionConfirmation" | "UnsubscribeConfirmation")) =
            fields.sns_type.caption()
        {
            // SNS about its own subscription.
            return read(event_type(notice).unwrap_or(OTHER), self);
        }
        if fields.sns_type.caption() == Some("Notification")
            || (fields.topic_arn.if_valid().is_some() && fields.message.if_valid().is_some())
        {
            let message = fields
                .message
                .text()
                .map_err(|fault| fault.within(&self.path()))?;
            let message = message.ok_or_else(|| self.missing("Message"))?;
            // Of the SNS envelope nothing is kept: its `Timestamp` is when it was published, not when it was true.
            let nothing = Level::default();
            let scope = Scope {
                level: &nothing,
                ..*self
            };
            return open_text(message, "Message", Some(&scope), named, levels - 1, read);
        }
        let texts = [
            &fields.kind,
            &fields.event_type,
            &fields.detail_type,
            &fields.typename,
        ];
        let texts = texts.into_iter().filter_map(Field::if_valid).map(AsRef::as_ref);
        let field_name = self
            .level
            .inner
            .as_ref()
            .map(|(_, key, _)| *key)
            .filter(|key| GRAPHQL_FIELDS.contains(key));
        for name in texts.chain(field_name) {
            // A documented name is never replaced; the other type is.
            if named.is_none_or(|named| named == OTHER) {
                named = Some(event_type(name).unwrap_or(OTHER));
            }
        }
        if let Some((_, key, level)) = &self.level.inner {
            let inner = Scope {
                key,
                level,
                outer: Some(self),
            };
            return inner.open(named, levels - 1, read);
        }
        let Some(event_type) = named else {
            return Err(self.fault(
                "type",
                "missing: neither type, eventType, detail-type, __typename nor a GraphQL field names the event",
            ));
        };
        let usage = self.outwards().find_map(|scope| scope.level.usage.as_deref());
        match usage.filter(|_| event_type.change == Change::Usage) {
            Some(level) => read(
                event_type,
                &Scope {
                    key: "usage",
                    level,
                    outer: Some(self),
                },
            ),
            None => read(event_type, self),
        }
    }

    /// This level and those around it.
    fn outwards(&self) -> impl Iterator<Item = Scope<'s>> {
        std::iter::successors(Some(*self), |scope| scope.outer.copied())
    }

    /// Reads something from the innermost level that has it.
    pub(super) fn find<T>(
        &self,
        read: impl Fn(&'s LevelFields<'s>) -> Result<Option<T>, MalformedBody>,
    ) -> Result<Option<T>, MalformedBody> {
        for scope in self.outwards() {
            match read(&scope.level.fields) {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(fault) => return Err(fault.within(&scope.path())),
            }
        }
        Ok(None)
    }

    /// The innermost value of the right kind.
    pub(super) fn find_valid<T>(&self, field: impl Fn(&'s LevelFields<'s>) -> &'s Field<T>) -> Option<&'s T> {
        self.outwards()
            .find_map(|scope| field(&scope.level.fields).if_valid())
    }

    /// The innermost valid date; if it is the time of a state, the innermost possible one.
    pub(super) fn find_date(
        &self,
        field: impl Fn(&'s LevelFields<'s>) -> &'s Field<Timestamp>,
        times: Option<&StateTimes>,
    ) -> Option<EpochMs> {
        let dates = self
            .outwards()
            .filter_map(|scope| field(&scope.level.fields).if_valid());
        let is_possible = |at: &EpochMs| times.is_none_or(|times| times.is_possible(*at));
        dates.map(|at| at.0).find(is_possible)
    }

    /// Whose state it is, if the message says so.
    pub(super) fn subject_if_any(&self) -> Result<Option<Subject>, MalformedBody> {
        let id =
            |fields: &'s LevelFields<'s>| flat_or_nested(&fields.customer_id, &fields.customer, "customer");
        let Some(customer) = self.find(id)? else {
            return Ok(None);
        };
        let id =
            |fields: &'s LevelFields<'s>| flat_or_nested(&fields.resource_id, &fields.resource, "resource");
        let resource = self.find(id)?;
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
