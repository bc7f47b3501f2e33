//! What a customer may do, and how much of it has been used: the domain values that every message shape is
//! decoded into. Pure: no I/O, no clock. `stored` is the JSON that the SDKs read from Redis.

pub mod stored;

use std::borrow::Cow;

use serde::Serialize;
use serde_json::Number;

use crate::clock::EpochMs;

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub String);
        impl $name {
            /// The id as it was given, unescaped.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
    };
}
text_id!(
    /// A customer's id as the company gave it to Stigg (`customer.id`, `customerId`; never `entityId`). Not empty.
    CustomerId
);
text_id!(
    /// A resource's id (`resource.id`, `resourceId`): a site, a workspace … of one customer. Not empty.
    ResourceId
);
text_id!(
    /// A feature's id (`feature.id` in webhooks, `feature.refId` in GraphQL). Not empty.
    FeatureId
);
text_id!(
    /// A credit currency's id (`currencyId`). Not empty.
    CurrencyId
);

/// Whose state it is: a customer's own, or that of one of the customer's resources.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Subject {
    /// The customer.
    pub customer: CustomerId,
    /// The resource, if the state is a resource's.
    pub resource: Option<ResourceId>,
}

/// An optional JSON field, told apart as the readers tell it apart: a field that was absent is left out of
/// what is written, one that was null stays null.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Given<T> {
    /// The message did not have the field.
    #[default]
    Absent,
    /// The message had the field, as null.
    Null,
    /// The message had the field.
    Value(T),
}

/// How much has been used, and the period it is counted in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// Units used; may be fractional.
    pub current_usage: Number,
    /// Start of the period, if known.
    pub period_start: Option<EpochMs>,
    /// End of the period, if known (`usagePeriodEnd`, else `nextResetDate`).
    pub period_end: Option<EpochMs>,
}

/// A usage and when it was true at its origin.
#[derive(Debug, Clone, PartialEq)]
pub struct MeasuredUsage {
    /// The usage.
    pub usage: Usage,
    /// When it was true at the origin.
    pub updated_at: EpochMs,
}

/// One entry of a customer's entitlement list.
#[derive(Debug, Clone, PartialEq)]
pub enum Entitlement {
    /// Access to a feature.
    Feature(Box<FeatureEntitlement>),
    /// An amount of a credit currency.
    Credit(Box<CreditEntitlement>),
}

/// A feature, with the spellings the readers know (GraphQL's).
#[derive(Debug, Clone, PartialEq)]
pub struct Feature {
    /// Its id.
    pub id: FeatureId,
    /// `BOOLEAN`, `NUMBER` or `ENUM` (passed through as given).
    pub feature_type: Option<Cow<'static, str>>,
    /// `Incremental`, `Fluctuating` or `None`; absent if the message had none.
    pub meter_type: Option<Cow<'static, str>>,
    /// Name of one unit; empty if none.
    pub units: String,
    /// Name of several units; empty if none.
    pub units_plural: String,
    /// Name shown to people, if the message had one.
    pub display_name: Option<String>,
}

impl Feature {
    /// True if readers look for a usage key: a `NUMBER` feature whose meter is `Incremental` or `Fluctuating`.
    pub fn is_metered(&self) -> bool {
        self.feature_type.as_deref() == Some("NUMBER")
            && matches!(self.meter_type.as_deref(), Some("Incremental" | "Fluctuating"))
    }
}

/// What one unit of a feature costs in a credit currency.
#[derive(Debug, Clone, PartialEq)]
pub struct CreditRate {
    /// Credits a unit.
    pub amount: Number,
    /// The currency.
    pub currency_id: String,
}

/// JSON that is passed on as given, without space between its tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct RawJson(pub String);

impl RawJson {
    /// The JSON of a value.
    pub fn of(value: &(impl Serialize + ?Sized)) -> Self {
        // A value of a message is JSON in any case: its numbers are finite and its keys are text.
        Self(serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned()))
    }

    /// The JSON text.
    pub fn get(&self) -> &str {
        &self.0
    }
}

/// Access to a feature.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureEntitlement {
    /// The feature.
    pub feature: Feature,
    /// The resource it is for, if the entry itself names one.
    pub resource_id: Option<ResourceId>,
    /// Units that may be used in a period.
    pub usage_limit: Given<Number>,
    /// No limit at all.
    pub has_unlimited_usage: Given<bool>,
    /// Use above the limit is allowed.
    pub has_soft_limit: bool,
    /// Why access is denied, if it is.
    pub access_denied_reason: Option<String>,
    /// Values of an enum feature: a list, passed through as given.
    pub enum_values: Option<RawJson>,
    /// When the entitlement ends, if it does.
    pub valid_until: Option<EpochMs>,
    /// What a unit costs in credits, if it does.
    pub credit_rate: Option<CreditRate>,
    /// `MONTH` …
    pub reset_period: Given<Cow<'static, str>>,
    /// What the periods go by, as GraphQL has it:
    /// `{"__typename": "MonthlyResetPeriodConfig", "monthlyAccordingTo": "SubscriptionStart"}`.
    pub reset_period_configuration: Given<RawJson>,
    /// What periods are counted from.
    pub usage_period_anchor: Option<EpochMs>,
    /// What the entry itself says of the usage (`currentUsage`, 0 if it had none; the periods).
    pub usage: Usage,
    /// When that usage was true, if the entry carries one: `None` if it had neither `currentUsage` nor
    /// `usageUpdatedAt`, since a zero would be an invention.
    pub usage_updated_at: Option<EpochMs>,
}

/// An amount of a credit currency.
#[derive(Debug, Clone, PartialEq)]
pub struct CreditEntitlement {
    /// The currency's id.
    pub currency_id: CurrencyId,
    /// The currency: its `currencyId`, and `displayName` … as given, without `__typename`.
    pub currency: RawJson,
    /// Credits granted.
    pub usage_limit: Given<Number>,
    /// Use above the limit is allowed.
    pub has_soft_limit: bool,
    /// Why access is denied, if it is.
    pub access_denied_reason: Option<String>,
    /// When the entitlement ends, if it does.
    pub valid_until: Option<EpochMs>,
    /// What the entry itself says of the usage (`currentUsage`, 0 if it had none; the periods).
    pub usage: Usage,
    /// When that usage was true; `None` as in [`FeatureEntitlement::usage_updated_at`].
    pub usage_updated_at: Option<EpochMs>,
}
