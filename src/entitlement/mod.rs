//! What a customer may do, and how much of it has been used: the domain values that every message shape is
//! decoded into. Pure: no I/O, no clock. `stored` is the JSON that the SDKs read from Redis.

pub mod stored;

use serde_json::Number;

use crate::clock::EpochMs;

macro_rules! text_ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub String);
        impl $name {
            /// The id as it was given, unescaped.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
    )*};
}
text_ids! {
    /// A customer's id as the company gave it to Stigg (`customer.id`, `customerId`; never `entityId`). Not empty.
    CustomerId;
    /// A resource's id (`resource.id`, `resourceId`): a site, a workspace … of one customer. Not empty.
    ResourceId;
    /// A feature's id (`feature.id` in webhooks, `feature.refId` in GraphQL). Not empty.
    FeatureId;
    /// A credit currency's id (`currencyId`). Not empty.
    CurrencyId;
}

/// Whose state it is: a customer's own, or that of one of the customer's resources.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Subject {
    /// The customer.
    pub customer: CustomerId,
    /// The resource, if the state is a resource's.
    pub resource: Option<ResourceId>,
}

/// What a usage or an entitlement is of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum UsageOf {
    /// A feature.
    Feature(FeatureId),
    /// A credit currency.
    Credit(CurrencyId),
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

/// One entry of a customer's entitlement list. What only the readers look at is JSON: fields in their spelling (GraphQL's) and
/// order (that of SDK 3.x).
#[derive(Debug, Clone, PartialEq)]
pub struct Entitlement {
    /// The feature or the currency.
    pub of: UsageOf,
    /// Readers look for a usage key: a `NUMBER` feature whose meter is `Incremental` or `Fluctuating`.
    pub is_metered: bool,
    /// The currency that the feature's usage is paid in.
    pub rate_currency: Option<CurrencyId>,
    /// What the feature or currency is: `"id":"api","featureType":"NUMBER"`.
    pub particulars: String,
    /// `,"displayName":"API"`, which only 4.x readers know. Empty for a currency.
    pub display_name: String,
    /// What access it gives: `,"usageLimit":100,"hasSoftLimit":false`.
    pub access: String,
    /// How its periods are counted: `,"resetPeriod":"MONTH"`. May be empty.
    pub reset: String,
    /// What periods are counted from.
    pub usage_period_anchor: Option<EpochMs>,
    /// What the entry itself says of the usage (`currentUsage`, 0 if it had none; the periods).
    pub usage: Usage,
    /// When that usage was true, if the entry carries one: `None` if it had neither `currentUsage` nor
    /// `usageUpdatedAt`, since a zero would be an invention.
    pub usage_updated_at: Option<EpochMs>,
}

impl UsageOf {
    /// The id of the feature or the currency.
    pub fn id(&self) -> &str {
        match self {
            Self::Feature(feature) => feature.as_str(),
            Self::Credit(currency) => currency.as_str(),
        }
    }
}
