//! What is true of each subject, and which messages were sent about it.

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
        Owner { customer: &self.customer, resource: self.resource.as_deref() }
    }
}

/// Every list has it, and its limit is the list's version.
pub const VERSION_FEATURE: &str = "feature-version";
pub const SWITCH: &str = "feature-switch";
/// A list may carry the usage of this currency.
pub const CURRENCY: &str = "cred-ai";
pub const CURRENCIES: [&str; 2] = [CURRENCY, "cred-events"];

/// A usage key's last part for a currency.
pub fn credit_part(currency: &str) -> String {
    format!("credit_{currency}")
}

/// A value that was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    pub value: i64,
    pub at: i64,
    /// Start and end of the usage period, of a currency whose message has them.
    pub period: Option<[i64; 2]>,
}

/// A credit balance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Balance {
    pub at: i64,
    pub left: i64,
    pub valid_until: Option<i64>,
}

/// How a feature is paid for with credits.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    pub currency: &'static str,
    pub has_soft_limit: bool,
    /// Why access is denied whatever the balance is.
    pub own_reason: Option<&'static str>,
}

impl Rate {
    /// The `accessDeniedReason` and `validUntil` of an entry under a balance, as SDK 3.95.0 computes them.
    pub fn entry_under(&self, balance: Option<&Balance>) -> (Option<&'static str>, Option<i64>) {
        let is_exhausted = balance.is_some_and(|balance| balance.left <= 0);
        let by_balance = (is_exhausted && !self.has_soft_limit).then_some("InsufficientCredits");
        (self.own_reason.or(by_balance), balance.and_then(|balance| balance.valid_until))
    }
}

/// Features that are paid for with credits. The last one is metered.
pub const RATED: [&str; 4] = ["feature-ai", "feature-ai-soft", "feature-ai-off", "feature-events"];

/// The credit rate of a feature.
pub fn rate_of(feature: &str) -> Option<Rate> {
    let currency = if feature == "feature-events" { CURRENCIES[1] } else { CURRENCY };
    RATED.contains(&feature).then_some(Rate {
        currency,
        has_soft_limit: feature == "feature-ai-soft",
        own_reason: (feature == "feature-ai-off").then_some("FeatureNotFound"),
    })
}

/// A list of entitlements as it was made.
#[derive(Debug, Clone)]
pub struct Listing {
    pub at: i64,
    /// Limits by feature; `None` is a feature without one.
    pub limits: BTreeMap<String, Option<i64>>,
    /// The usages it was made with, by the last part of the usage's key (`f_…`, `credit_…`).
    pub usages: BTreeMap<String, Measured>,
    /// The balances it was made with, by currency.
    pub balances: BTreeMap<&'static str, Balance>,
}

/// What is true of a subject.
#[derive(Debug, Clone)]
pub enum Truth {
    /// The origin never heard of it.
    Unknown,
    Listed(Listing),
    /// Nothing, and a message gave the reason.
    Denied {
        reason: &'static str,
        at: i64,
    },
    /// Nothing, and no message gave a reason.
    Nothing,
}

/// Which lists (or denials) were sent.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lists {
    #[default]
    None,
    /// By a redrive only.
    Redriven,
    New,
}

/// What happened to a subject since the last look.
#[derive(Debug, Default, Clone)]
pub struct Since {
    /// It may have been forgotten: a purge of it was sent, or of its customer, or of all.
    pub purged: bool,
    /// All was forgotten, usages too.
    pub invalidated: bool,
    /// Lists (or denials) that were sent.
    pub lists: Lists,
    /// A reader fetched it first at this time (and has written what it fetched, when the look comes).
    pub fetched: Option<i64>,
    /// The newest measurement that was sent, by the last part of its key.
    pub sent: BTreeMap<String, Measured>,
    /// The same of those that were made and sent after `fetched`.
    pub sent_after_fetch: BTreeMap<String, Measured>,
    /// The newest balance that was sent, by currency.
    pub balances: BTreeMap<&'static str, Balance>,
    /// The same of those that were made and sent after `fetched`.
    pub balances_after_fetch: BTreeMap<&'static str, Balance>,
}

/// A subject's story.
#[derive(Debug, Clone)]
pub struct Story {
    pub truth: Truth,
    /// The truth was sent, or will be.
    pub is_published: bool,
    pub usages: BTreeMap<String, Measured>,
    /// The newest balance, by currency.
    pub balances: BTreeMap<&'static str, Balance>,
    /// Every usage that was ever sent or fetched: by the last part of its key, by timestamp.
    pub stamped: BTreeMap<String, BTreeMap<i64, Measured>>,
    /// Every balance that was ever made: by currency, by timestamp.
    pub every_balance: BTreeMap<&'static str, BTreeMap<i64, Balance>>,
    pub since: Since,
    /// What was done, for whoever has to find out.
    pub log: Vec<String>,
}

impl Story {
    pub fn new() -> Self {
        Self {
            truth: Truth::Unknown,
            is_published: true,
            usages: BTreeMap::new(),
            balances: BTreeMap::new(),
            stamped: BTreeMap::new(),
            every_balance: BTreeMap::new(),
            since: Since::default(),
            log: Vec::new(),
        }
    }
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
        if let Some(rate) = rate_of(feature) {
            let (reason, valid_until) = rate.entry_under(listing.balances.get(rate.currency));
            entitlement["creditRate"] = json!({"amount": 2, "currencyId": rate.currency});
            entitlement["hasSoftLimit"] = json!(rate.has_soft_limit);
            entitlement["accessDeniedReason"] = json!(reason);
            entitlement["isGranted"] = json!(reason.is_none());
            entitlement["validUntil"] = json!(valid_until);
        }
        entitlements.push(entitlement);
    }
    if with_credit {
        let measured = listing.usages[&credit_part(CURRENCY)];
        let mut credit = credit(CURRENCY, 1_000_000, measured.value);
        credit["usageUpdatedAt"] = json!(iso(measured.at));
        credit["usagePeriodStart"] = json!(measured.period.map(|period| iso(period[0])));
        credit["usagePeriodEnd"] = json!(measured.period.map(|period| iso(period[1])));
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
