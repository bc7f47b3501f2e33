//! Decodes every shape a state change comes in (webhook, GraphQL v1 and v2, event log; raw, SNS and
//! EventBridge envelopes) into ONE type, so that the rest of the code knows no shape. Pure.
//!
//! A message passes through: `envelope` (what is it wrapped in, what is it called), `names` (what does that mean),
//! then one of `entitlements` (and `entry`), `usage`, `credit`, `purge`; all of them read through `fields`,
//! `identity` and `dates`, from a `tree` that borrows from the body. What is not understood is refused with the place of the fault; what the place held is
//! never told, since it is a customer's.

mod envelope;
mod names;

mod credit;
mod entitlements;
mod entry;
mod purge;
mod usage;

mod dates;
mod fields;
mod identity;
mod tree;

#[cfg(test)]
mod tests;

use bumpalo::Bump;

use self::envelope::{Opened, Scope, Unopened};
use self::names::{Change, EventName};
use self::tree::Reading;
use crate::entitlement::{CurrencyId, Entitlement, EpochMs, FeatureId, MeasuredUsage, Subject};

/// A state change at Stigg.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A customer's (or resource's) whole entitlement list.
    EntitlementsUpdated(EntitlementsUpdated),
    /// One usage: of a metered feature or of a credit currency.
    UsageUpdated(UsageUpdated),
    /// What is cached for these is no longer true and what is true is not known: the next reader must ask.
    Purged(Vec<Subject>),
    /// The same for every customer of the environment.
    EnvironmentInvalidated,
    /// A type that changes nothing here.
    Ignored {
        /// A bounded label for metrics: the type's name if it is a documented one, else `other`.
        label: &'static str,
    },
}

/// A whole entitlement list.
#[derive(Debug, Clone, PartialEq)]
pub struct EntitlementsUpdated {
    /// Whose.
    pub subject: Subject,
    /// When it was true at the origin.
    pub updated_at: EpochMs,
    /// Why the customer as a whole has no access, if so (`NoActiveSubscription` …).
    pub access_denied_reason: Option<String>,
    /// The list. Empty only together with an `access_denied_reason`: an empty one without is [`Event::Purged`].
    pub entitlements: Vec<Entitlement>,
}

/// What a usage is of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum UsageOf {
    /// A metered feature.
    Feature(FeatureId),
    /// A credit currency.
    Credit(CurrencyId),
}

/// One usage.
#[derive(Debug, Clone, PartialEq)]
pub struct UsageUpdated {
    /// Whose.
    pub subject: Subject,
    /// Of what.
    pub of: UsageOf,
    /// How much, and when it was true.
    pub measured: MeasuredUsage,
}

/// A body that could not be read. Says where and why, never what the body held.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct MalformedBody {
    /// A path into the body (`payload.customerId`) or a position (`line 1 column 17`).
    pub place: String,
    /// What is wrong there, without the content.
    pub problem: String,
}

/// When a body says that it was true, if it says so: for those who have no `SentTimestamp`.
pub fn told_time(body: &str) -> Option<EpochMs> {
    // The time of last resort stands for none.
    const UNTOLD: EpochMs = EpochMs(i64::MIN);
    opened(body, |opened| match opened {
        Ok(Opened::Event(_, scope)) => Some(scope.message_time(UNTOLD)).filter(|at| *at != UNTOLD),
        Ok(Opened::Unknown) | Err(_) => None,
    })
}

/// Opens a body for a reader. An unusual one is opened twice: what was read of it until then is given back first.
fn opened<T>(body: &str, read: impl FnOnce(Result<Opened<'_>, MalformedBody>) -> T) -> T {
    {
        let room = room_for(body);
        match envelope::open(body, &room, Reading::Usual) {
            Ok(opened) => return read(Ok(opened)),
            Err(Unopened::Malformed(fault)) => return read(Err(fault)),
            Err(Unopened::Unusual) => {}
        }
    }
    let room = room_for(body);
    read(match envelope::open(body, &room, Reading::Any) {
        Ok(opened) => Ok(opened),
        Err(Unopened::Malformed(fault)) => Err(fault),
        // Then nothing is.
        Err(Unopened::Unusual) => Err(MalformedBody::at("body", "cannot be read")),
    })
}

/// Room for what is read of a body: in one piece, unless it is an unusual one. Documented messages take two and a half
/// times their length.
fn room_for(body: &str) -> Bump {
    Bump::with_capacity(body.len() * 5 / 2)
}

/// Decodes one SQS body. `sent_at` is its `SentTimestamp`: the time of last resort.
///
/// # Errors
/// The body is not JSON, no object, names no event, or lacks what its event cannot do without (a customer, the
/// entitlement list, a usage), or holds there a value of another kind. Trying again gives the same.
pub fn decode(body: &str, sent_at: EpochMs) -> Result<Event, MalformedBody> {
    opened(body, |opened| match opened? {
        Opened::Event(name, scope) => decode_event(name, scope, sent_at),
        Opened::Unknown => Ok(Event::Ignored { label: names::OTHER }),
    })
}

fn decode_event(name: EventName, scope: Scope<'_>, sent_at: EpochMs) -> Result<Event, MalformedBody> {
    match name.change {
        Change::Entitlements => entitlements::decode(&scope, sent_at),
        Change::Usage => usage::decode(name, scope, sent_at),
        Change::CreditBalance => credit::decode(&scope, sent_at),
        Change::Purge => purge::requested(&scope),
        Change::CustomerDeleted => purge::customer_deleted(&scope),
        Change::Migration => purge::migrated(&scope),
        Change::PackagePublished => purge::package_published(name, &scope),
        Change::Nothing => Ok(Event::Ignored { label: name.label }),
    }
}
