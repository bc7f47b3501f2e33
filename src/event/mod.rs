//! Decodes every shape a state change comes in (webhook, GraphQL v1 and v2, event log; raw, SNS and
//! EventBridge envelopes) into ONE type, so that the rest of the code knows no shape. Pure.

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

/// Decodes one SQS body. `sent_at` is its `SentTimestamp`: the time of last resort.
pub fn decode(_body: &str, _sent_at: EpochMs) -> Result<Event, MalformedBody> {
    todo!()
}
