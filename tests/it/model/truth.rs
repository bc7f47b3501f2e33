//! What is true of each subject, and what was told of it.

use std::collections::BTreeMap;

use serde_json::json;

use crate::support::sdk::Owner;
use crate::support::state::{State, boolean, credit, fluctuating, iso, metered, number};

/// A customer, or a resource of one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    pub customer: String,
    pub resource: Option<String>,
}

impl Subject {
    pub fn owner(&self) -> Owner<'_> {
        Owner {
            customer: &self.customer,
            resource: self.resource.as_deref(),
        }
    }
}

/// Every list has it, and its limit is the list's version.
pub const VERSION_FEATURE: &str = "feature-version";
pub const SWITCH: &str = "feature-switch";
pub const CURRENCY: &str = "cred-ai";

/// A value that was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    pub value: i64,
    pub at: i64,
}

/// A list of entitlements as it was made.
#[derive(Debug, Clone)]
pub struct Listing {
    pub at: i64,
    /// Limits by feature; `None` is a feature without one.
    pub limits: BTreeMap<String, Option<i64>>,
    /// What it was made with, by the last part of the usage's key (`f_…`, `credit_…`).
    pub usages: BTreeMap<String, Measured>,
}

/// What is true of a subject.
#[derive(Debug, Clone)]
pub enum Truth {
    /// The origin never heard of it.
    Unknown,
    Listed(Listing),
    /// Nothing, and the reason was told.
    Denied {
        reason: &'static str,
        at: i64,
    },
    /// Nothing, for no reason that was told.
    Nothing,
}

/// What happened to a subject since the last look.
#[derive(Debug, Default, Clone)]
pub struct Since {
    /// It may have been forgotten: a purge of it was sent, or of its customer, or of all.
    pub purged: bool,
    /// All was forgotten, usages too.
    pub invalidated: bool,
    /// A list (or a denial) was sent.
    pub listed: bool,
    /// The newest measurement that was sent, by the last part of its key.
    pub told: BTreeMap<String, Measured>,
}

/// A subject's story.
#[derive(Debug, Clone)]
pub struct Story {
    pub truth: Truth,
    /// The truth was sent, or will be.
    pub is_told: bool,
    pub usages: BTreeMap<String, Measured>,
    /// Every usage that was ever sent or fetched: by the last part of its key, by timestamp.
    pub stamped: BTreeMap<String, BTreeMap<i64, Measured>>,
    pub since: Since,
    /// What was done, for the one who has to find out.
    pub log: Vec<String>,
}

/// The list as the API would give it.
pub fn state_of(subject: &Subject, listing: &Listing, with_credit: bool) -> State {
    let mut entitlements = Vec::new();
    for (feature, limit) in &listing.limits {
        let measured = listing.usages.get(&format!("f_{feature}"));
        let limit = limit.unwrap_or_default();
        let mut entitlement = match (feature.as_str(), measured) {
            (SWITCH, _) => boolean(feature),
            (_, None) => number(feature, limit),
            ("feature-storage", Some(measured)) => {
                let mut storage = fluctuating(feature, limit, 0.0);
                storage["currentUsage"] = json!(measured.value);
                storage
            }
            (_, Some(measured)) => metered(feature, limit, measured.value),
        };
        if let Some(measured) = measured {
            entitlement["usageUpdatedAt"] = json!(iso(measured.at));
        }
        entitlements.push(entitlement);
    }
    if with_credit {
        let measured = listing.usages[&format!("credit_{CURRENCY}")];
        let mut credit = credit(CURRENCY, 1_000_000, measured.value);
        credit["usageUpdatedAt"] = json!(iso(measured.at));
        entitlements.push(credit);
    }
    for entitlement in &mut entitlements {
        entitlement["entitlementUpdatedAt"] = json!(iso(listing.at));
        entitlement["customerId"] = json!(subject.customer);
        entitlement["resourceId"] = json!(subject.resource);
    }
    State {
        customer: subject.customer.clone(),
        resource: subject.resource.clone(),
        updated_at_ms: listing.at,
        access_denied_reason: None,
        entitlements,
    }
}
