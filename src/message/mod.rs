//! Decodes a message from the queue: every shape a state change comes in (webhook, GraphQL v1 and v2, event log; raw, in
//! SNS and EventBridge envelopes) becomes ONE type, so that the rest of the code knows no shape. Pure.
//!
//! `serde_json` reads a body once, into the nodes of `tree`. `envelope` finds the event's type and the payload; `convert`,
//! and `entries` for lists, make the domain values. What is not understood is a fault with its location. The
//! content there is never shown, since it is a customer's.

mod convert;
mod entries;
mod envelope;
mod event_types;
mod subjects;
mod timestamp;
mod tree;

#[cfg(test)]
mod tests;

pub use self::subjects::Subjects;
use self::timestamp::StateTimes;
use crate::clock::EpochMs;
use crate::entitlement::{Entitlement, Subject, Usage, UsageOf};

/// One decoded SQS body.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// What it says.
    pub event: Event,
    /// When it was sent: the earlier of its own `timestamp` and its `SentTimestamp`, because a redrive from a dead-letter
    /// queue gives it a new `SentTimestamp`.
    pub sent_at: EpochMs,
    /// State timestamps in it that were ignored as impossible: more than one hour after `SentTimestamp`, or before 2015.
    pub implausible_timestamps: u32,
}

/// A state change at Stigg.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A customer's (or resource's) whole entitlement list.
    EntitlementsUpdated(EntitlementsUpdated),
    /// One usage: of a metered feature or of a credit currency.
    UsageUpdated(UsageUpdated),
    /// What is cached for these is out of date, and the new state is not known: the next reader must ask Stigg.
    Purged(Subjects),
    /// The same for every customer of the environment.
    EnvironmentInvalidated,
    /// A type that changes nothing here.
    Ignored {
        /// A bounded label for metrics: the type's name if it is documented, else `other`.
        label: &'static str,
    },
}

/// A whole entitlement list.
#[derive(Debug, Clone, PartialEq)]
pub struct EntitlementsUpdated {
    /// Whose it is.
    pub subject: Subject,
    /// When it was true at the origin.
    pub updated_at: EpochMs,
    /// Why the customer as a whole has no access, if so (`NoActiveSubscription` …).
    pub access_denied_reason: Option<String>,
    /// The list. Empty only together with an `access_denied_reason`: an empty one without is [`Event::Purged`].
    pub entitlements: Vec<Entitlement>,
}

/// One usage.
#[derive(Debug, Clone, PartialEq)]
pub struct UsageUpdated {
    /// Whose it is.
    pub subject: Subject,
    /// The feature or the currency.
    pub of: UsageOf,
    /// How much.
    pub usage: Usage,
    /// When that was true at the origin.
    pub updated_at: EpochMs,
    /// What is left of the currency, if the message says so.
    pub balance: Option<CreditBalance>,
}

/// What is left of a credit currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreditBalance {
    /// Nothing is left.
    pub is_exhausted: bool,
    /// When what is left expires, if it does.
    pub valid_until: Option<EpochMs>,
}

/// A body that could not be read. Says where and why, never what the body held.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {problem}", if .place.is_empty() { "body" } else { .place })]
pub struct MalformedBody {
    /// A path into the body: `payload.customerId`. Empty for the body itself.
    pub place: String,
    /// What is wrong there, without the content.
    pub problem: String,
}

type Decoded<T> = Result<T, MalformedBody>;

/// Decodes one SQS body. `sent_at` is its `SentTimestamp`: the time of a state that has no other.
///
/// # Errors
/// The body is not JSON, is not an object, names no event, lacks what its event needs (a customer, the entitlement list,
/// a usage), or has a value of another type there. Decoding it again gives the same error.
pub fn decode(body: &str, sent_at: EpochMs) -> Result<Message, MalformedBody> {
    decode_answer(body, sent_at, sent_at)
}

/// The same for an answer of the Edge API: `fallback` is the time of a state that has no other.
pub fn decode_answer(body: &str, asked_at: EpochMs, fallback: EpochMs) -> Result<Message, MalformedBody> {
    envelope::open(body, (String::new(), 0), None, &|event_type, scope| {
        let mut times = StateTimes::new(asked_at, fallback);
        let own_time = scope.find_valid(|level| times.possible(level.timestamp.date()));
        // Stigg's webhook reference requires `entitlementsUpdatedAt` where it lets `timestamp` be absent.
        let stated = own_time
            .or_else(|| scope.find_valid(|level| times.possible(level.entitlements_updated_at.date())));
        times.fallback = stated.unwrap_or(fallback);
        Ok(Message {
            event: convert::event(event_type, scope, &times)?,
            sent_at: own_time.filter(|at| at.0 != 0).map_or(asked_at, |at| at.min(asked_at)),
            implausible_timestamps: times.impossible.get(),
        })
    })
}

impl MalformedBody {
    /// A fault at a field.
    fn at(place: &str, problem: impl Into<String>) -> Self {
        Self { place: place.to_owned(), problem: problem.into() }
    }

    /// The same fault, seen from the object that holds `outer`. Paths are built from the inside out, so that a message
    /// without a fault costs nothing for them.
    fn within(self, outer: &str) -> Self {
        Self { place: join(outer, &self.place), ..self }
    }
}

/// Joins two paths, either of which may be empty. Keeps the end of a long one: envelopes may nest a hundred times.
fn join(outer: &str, inner: &str) -> String {
    const BYTES_MAX: usize = 200;
    let is_one = outer.is_empty() || inner.is_empty() || inner.starts_with('[');
    let path = [outer, if is_one { "" } else { "." }, inner].concat();
    let end = path.len().checked_sub(BYTES_MAX).and_then(|start| path.get(start..));
    end.map_or_else(|| path.clone(), |end| format!("…{end}"))
}
