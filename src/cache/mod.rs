//! Decides what a message changes in the cache. Pure: `store` applies it.
//!
//! A change can be applied twice, or late, without harm: whether a key is written is decided key by key by the
//! timestamp stored beside it, in one atomic step on the server (`store/apply.lua`).

pub mod credit;
pub mod keyspace;
pub mod readers;

use std::collections::BTreeSet;
use std::iter;

use crate::clock::EpochMs;
use crate::entitlement::stored::{CacheFormat, entitlements_json, metadata_json, usage_json};
use crate::entitlement::{CurrencyId, Entitlement, FeatureId, Subject, Usage, UsageOf};
use crate::message::{CreditBalance, EntitlementsUpdated, Event, Message, UsageUpdated};
use keyspace::{Keyspace, ReaderLocks, balance_key, credit_usage_key, feature_usage_key, metadata_key};

/// Usages written in one atomic step with their list: a script call has 3,900 arguments at most, and a usage takes four, a
/// credit eight and the currency of a rate one.
const USAGES_WITH_LIST: usize = 900;
/// Credits written with their list: half of the arguments.
const CREDITS_WITH_LIST: usize = 225;

/// A value that is written with its timestamp, unless something newer is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyWrite {
    /// The value's key.
    pub key: String,
    /// JSON.
    pub value: String,
    /// When the state in the value was true at the origin.
    pub timestamp: EpochMs,
}

/// The usage of a credit currency. If it has no period, the stored one is kept (see `apply.lua`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreditWrite {
    /// Where it is written.
    pub key: String,
    /// Where its balance is kept.
    pub balance_key: String,
    /// Credits consumed.
    pub usage: Usage,
    /// Whether `nextResetDate` stands beside the end of the period.
    pub has_next_reset_date: bool,
    /// When this was true at the origin.
    pub timestamp: EpochMs,
}

/// A customer's (or resource's) entitlements, metadata and usages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntitlementsWrite {
    /// The SDKs' locks.
    pub locks: ReaderLocks,
    /// See [`Keyspace::tombstones`]: if one of these purges was sent later than this, nothing is written.
    pub tombstones: Vec<String>,
    /// When the message was sent; for an answer from Stigg, when Stigg was asked.
    pub sent_at: EpochMs,
    /// It is an answer from Stigg, not a message: an earlier purge does not make it out of date, whatever its timestamp.
    pub is_from_edge_api: bool,
    /// The list, at the customer key.
    pub list: KeyWrite,
    /// Written together with the list or not at all. `None` in format v3.
    pub metadata: Option<KeyWrite>,
    /// Usages of metered features.
    pub usages: Vec<KeyWrite>,
    /// Usages of credit currencies.
    pub credits: Vec<CreditWrite>,
    /// The currencies that entries are paid in, whose balance may deny access. Empty in format v4.
    pub rate_currencies: Vec<CurrencyId>,
}

/// One usage of a metered feature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageWrite {
    /// The SDKs' locks.
    pub locks: ReaderLocks,
    /// `K`: if it is not cached, nothing is written.
    pub customer_key: String,
    /// The usage.
    pub write: KeyWrite,
}

/// One usage of a credit currency, and what follows from its balance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BalanceWrite {
    /// The SDKs' locks.
    pub locks: ReaderLocks,
    /// `K`: if it is not cached, nothing is written.
    pub customer_key: String,
    /// The currency.
    pub currency: CurrencyId,
    /// The usage.
    pub credit: CreditWrite,
    /// What is left, if the message says so.
    pub balance: Option<CreditBalance>,
    /// The stored list is changed to fit the balance (not in format v4).
    pub adjusts_list: bool,
}

/// Deletes a customer's entitlements and metadata; usage keys stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PurgeWrite {
    /// Whose.
    pub subject: Subject,
    /// The SDKs' locks.
    pub locks: ReaderLocks,
    /// Where the purge is recorded.
    pub tombstone: String,
    /// `K`.
    pub customer_key: String,
    /// `K:metadata`.
    pub metadata_key: String,
    /// When the message was sent.
    pub sent_at: EpochMs,
    /// An operator's purge: it clears what the tombstone recorded before.
    pub resets_tombstone: bool,
}

/// Deletes the keys of every customer of the environment. Not atomic: a scan in bounded batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalidation {
    /// Spells the keys.
    pub keyspace: Keyspace,
    /// An operator's invalidation: it overwrites what the tombstone recorded before.
    pub resets_tombstone: bool,
    /// When the message was sent.
    pub sent_at: EpochMs,
}

/// One change, applied in one atomic step (an invalidation excepted).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheChange {
    /// See [`EntitlementsWrite`].
    WriteEntitlements(Box<EntitlementsWrite>),
    /// See [`UsageWrite`].
    WriteUsage(UsageWrite),
    /// See [`BalanceWrite`].
    WriteBalance(BalanceWrite),
    /// See [`PurgeWrite`].
    Purge(PurgeWrite),
    /// See [`Invalidation`].
    InvalidateEnvironment(Invalidation),
}

impl CacheChange {
    /// What it changes, and at which key. Names a customer: only for the log at `debug`.
    pub fn describe(&self) -> (&'static str, &str) {
        match self {
            Self::WriteEntitlements(write) => ("entitlements", &write.list.key),
            Self::WriteUsage(usage) => ("usage", &usage.write.key),
            Self::WriteBalance(balance) => ("credit balance", &balance.credit.key),
            Self::Purge(purge) => ("purge", &purge.customer_key),
            Self::InvalidateEnvironment(_) => ("invalidation", ""),
        }
    }

    /// True for a purge and for an invalidation.
    pub fn only_deletes(&self) -> bool {
        matches!(self, Self::Purge(_) | Self::InvalidateEnvironment(_))
    }
}

/// Where and how changes are written.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Spells the keys.
    pub keyspace: Keyspace,
    /// Which readers the values are for.
    pub format: CacheFormat,
}

/// The changes of one message, made one by one: a migration may list 90,000 customers.
pub type Changes = Box<dyn ExactSizeIterator<Item = CacheChange> + Send>;

/// What a message changes. Empty if nothing.
pub fn changes(message: Message, layout: &Layout) -> Changes {
    let sent_at = message.sent_at;
    match message.event {
        Event::EntitlementsUpdated(update) => {
            Box::new(entitlements_changes(&update, sent_at, layout).into_iter())
        }
        Event::UsageUpdated(update) => Box::new(iter::once(usage_change(update, layout))),
        Event::Purged(subjects) => {
            let (keyspace, count) = (layout.keyspace.clone(), subjects.len());
            let purge = move |index| purge_change(&subjects.get(index), sent_at, &keyspace);
            Box::new((0..count).map(purge))
        }
        Event::EnvironmentInvalidated => {
            Box::new(iter::once(CacheChange::InvalidateEnvironment(Invalidation {
                keyspace: layout.keyspace.clone(),
                resets_tombstone: false,
                sent_at,
            })))
        }
        Event::Ignored { .. } => Box::new(iter::empty()),
    }
}

fn entitlements_changes(update: &EntitlementsUpdated, sent_at: EpochMs, layout: &Layout) -> Vec<CacheChange> {
    let Layout { keyspace, format, .. } = layout;
    let timestamp = update.updated_at;
    let customer_key = keyspace.customer_key(&update.subject);
    let locks = keyspace.reader_locks(&update.subject);
    let mut usages = Vec::with_capacity(update.entitlements.len());
    let mut credits = Vec::new();
    let mut rate_currencies = BTreeSet::new();
    for Entitlement { of, is_metered, rate_currency, usage, usage_updated_at, .. } in &update.entitlements {
        rate_currencies.extend(rate_currency.as_ref().filter(|_| *format != CacheFormat::V4));
        match (of, usage_updated_at) {
            (UsageOf::Feature(feature), Some(at)) if *is_metered => {
                usages.push(usage_write(&customer_key, feature, usage, *at, *format));
            }
            // SDK 3.x knows no credits: its form has neither the entry nor the usage.
            (UsageOf::Credit(currency), Some(at)) if *format != CacheFormat::V3 => {
                let credit = credit_write(&customer_key, currency, usage, *at, *format);
                credits.push((currency.clone(), credit));
            }
            (UsageOf::Feature(_) | UsageOf::Credit(_), _) => {}
        }
    }
    let more_credits = credits.split_off(credits.len().min(CREDITS_WITH_LIST));
    let with_list = USAGES_WITH_LIST.saturating_sub(2 * credits.len() + rate_currencies.len() / 4);
    let rest = usages.split_off(usages.len().min(with_list));
    let usage = |write| {
        let (locks, customer_key) = (locks.clone(), customer_key.clone());
        CacheChange::WriteUsage(UsageWrite { locks, customer_key, write })
    };
    let credit = |(currency, credit)| {
        let (locks, customer_key) = (locks.clone(), customer_key.clone());
        CacheChange::WriteBalance(BalanceWrite {
            locks,
            customer_key,
            currency,
            credit,
            balance: None,
            adjusts_list: false,
        })
    };
    let rest: Vec<CacheChange> =
        rest.into_iter().map(usage).chain(more_credits.into_iter().map(credit)).collect();
    let list = CacheChange::WriteEntitlements(Box::new(EntitlementsWrite {
        locks,
        tombstones: keyspace.tombstones(&update.subject),
        sent_at,
        is_from_edge_api: false,
        metadata: (*format != CacheFormat::V3).then(|| KeyWrite {
            key: metadata_key(&customer_key),
            value: metadata_json(update.access_denied_reason.as_deref()),
            timestamp,
        }),
        list: KeyWrite {
            key: customer_key,
            value: entitlements_json(&update.entitlements, *format),
            timestamp,
        },
        usages,
        credits: credits.into_iter().map(|(_, credit)| credit).collect(),
        rate_currencies: rate_currencies.into_iter().cloned().collect(),
    }));
    iter::once(list).chain(rest).collect()
}

fn usage_change(update: UsageUpdated, layout: &Layout) -> CacheChange {
    let customer_key = layout.keyspace.customer_key(&update.subject);
    let locks = layout.keyspace.reader_locks(&update.subject);
    let (usage, timestamp, format) = (&update.usage, update.updated_at, layout.format);
    match update.of {
        UsageOf::Feature(feature) => {
            let write = usage_write(&customer_key, &feature, usage, timestamp, format);
            CacheChange::WriteUsage(UsageWrite { locks, customer_key, write })
        }
        UsageOf::Credit(currency) => CacheChange::WriteBalance(BalanceWrite {
            locks,
            credit: credit_write(&customer_key, &currency, usage, timestamp, format),
            customer_key,
            currency,
            balance: update.balance,
            adjusts_list: format != CacheFormat::V4,
        }),
    }
}

fn usage_write(
    customer_key: &str,
    feature: &FeatureId,
    usage: &Usage,
    timestamp: EpochMs,
    format: CacheFormat,
) -> KeyWrite {
    KeyWrite { key: feature_usage_key(customer_key, feature), value: usage_json(usage, format), timestamp }
}

fn credit_write(
    customer_key: &str,
    currency: &CurrencyId,
    usage: &Usage,
    timestamp: EpochMs,
    format: CacheFormat,
) -> CreditWrite {
    CreditWrite {
        key: credit_usage_key(customer_key, currency),
        balance_key: balance_key(customer_key, currency),
        usage: usage.clone(),
        has_next_reset_date: format == CacheFormat::Compatible,
        timestamp,
    }
}

fn purge_change(subject: &Subject, sent_at: EpochMs, keyspace: &Keyspace) -> CacheChange {
    let customer_key = keyspace.customer_key(subject);
    CacheChange::Purge(PurgeWrite {
        subject: subject.clone(),
        locks: keyspace.reader_locks(subject),
        tombstone: keyspace.tombstone(subject),
        metadata_key: metadata_key(&customer_key),
        customer_key,
        sent_at,
        resets_tombstone: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::decode;

    #[test]
    fn a_list_of_many_features_and_credits_keeps_to_the_arguments_of_one_call() {
        let feature = |number| {
            format!(
                r#"{{"__typename":"FeatureEntitlement","feature":{{"refId":"f{number}","featureType":"NUMBER",
                "meterType":"Incremental"}},"currentUsage":1}}"#
            )
        };
        let credit = |number| {
            format!(
                r#"{{"__typename":"CreditEntitlement","currency":{{"currencyId":"c{number}"}},"currentUsage":1}}"#
            )
        };
        let entries: Vec<String> = (0..1_000).map(feature).chain((0..100).map(credit)).collect();
        let body = format!(
            r#"{{"type":"ENTITLEMENTS_UPDATED","payload":{{"customerId":"ann","entitlementsV2":[{}]}}}}"#,
            entries.join(",")
        );
        let layout = Layout { keyspace: Keyspace::new("p"), format: CacheFormat::Compatible };
        let message = decode(&body, EpochMs(1_795_161_600_000)).unwrap();
        let mut changes = changes(message, &layout);
        let Some(CacheChange::WriteEntitlements(list)) = changes.next() else {
            panic!("the list comes first");
        };
        assert_eq!(list.credits.len(), 100);
        assert!(4 * list.usages.len() + 8 * list.credits.len() < 3_850, "{}", list.usages.len());
        assert_eq!(list.usages.len() + changes.len(), 1_000, "the others follow");
    }
}
