//! What has to change in the cache for an event. Pure: decides, and leaves the doing to `store`.
//!
//! A change is made to be applied twice, or late, without harm: whether a key is written is decided key by key
//! against the timestamp stored beside it, in one atomic step on the server (see `store`).

pub mod foresight;
pub mod keyspace;
pub mod readers;

use crate::config::CacheUpdatePolicy;
use crate::entitlement::stored::{CacheFormat, entitlements_json, metadata_json, usage_json};
use crate::entitlement::{Entitlement, EpochMs, MeasuredUsage, Subject};
use crate::message::{EntitlementsUpdated, Event, UsageUpdated};
use keyspace::{Keyspace, credit_usage_key, feature_usage_key, metadata_key, timestamp_key, usage_key};

/// A value that is written, with its timestamp, if what is stored is not newer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyWrite {
    /// The value's key.
    pub key: String,
    /// JSON.
    pub value: String,
    /// When the state in the value was true at the origin.
    pub timestamp: EpochMs,
}

/// One change, applied in one atomic step (an invalidation excepted).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheChange {
    /// A customer's (or resource's) entitlements, metadata and usages.
    WriteEntitlements {
        /// The SDKs' locks to wait for.
        locks: Vec<String>,
        /// Marks of purges: if one was sent later than this, this is late news.
        purge_marks: Vec<String>,
        /// When the message was sent.
        sent_at: EpochMs,
        /// How many of the writes, from the first, are the list itself: they are written together, or not at all.
        list: usize,
        /// The customer key first.
        writes: Vec<KeyWrite>,
    },
    /// One usage.
    WriteUsage {
        /// The SDKs' locks to wait for.
        locks: Vec<String>,
        /// The customer key's timestamp key: without it nothing is written.
        customer_timestamp_key: String,
        /// The usage.
        write: KeyWrite,
    },
    /// Forget a customer's entitlements and metadata; usage keys stay.
    Purge {
        /// The SDKs' locks to wait for.
        locks: Vec<String>,
        /// The keys to delete: the timestamp keys, then as many values.
        keys: Vec<String>,
        /// Where the purge is remembered.
        mark: String,
        /// When the message was sent.
        sent_at: EpochMs,
    },
    /// Forget every customer of the environment.
    InvalidateEnvironment(Invalidation),
}

impl CacheChange {
    /// What it changes, and where: a customer's key, so this is for the log at `debug` alone.
    pub fn what_and_where(&self) -> (&'static str, &str) {
        match self {
            Self::WriteEntitlements { writes, .. } => (
                "entitlements",
                writes.first().map_or("", |write| write.key.as_str()),
            ),
            Self::WriteUsage { write, .. } => ("usage", &write.key),
            Self::Purge { keys, .. } => ("purge", keys.get(keys.len() / 2).map_or("", String::as_str)),
            Self::InvalidateEnvironment(walk) => ("invalidation", &walk.pattern),
        }
    }
}

/// A walk over all customers' keys of an environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalidation {
    /// The SCAN pattern of the keys to unlink.
    pub pattern: String,
    /// Where the invalidation is remembered: from before the walk, since a late message must not bring a customer
    /// back behind it.
    pub mark: String,
    /// The mark stays when the walk has ended. If not, a late message finds no key of its customer then, and the
    /// policy lets it write nothing (unless a reader has refetched: for that the workers remember it too).
    pub keeps_mark: bool,
    /// When the message was sent.
    pub sent_at: EpochMs,
}

/// Where and how changes are written.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Spells the keys.
    pub keyspace: Keyspace,
    /// Which readers the values are for.
    pub format: CacheFormat,
    /// Which customers are written.
    pub policy: CacheUpdatePolicy,
}

/// What an event changes. `sent_at` is the message's `SentTimestamp`. Empty if nothing.
pub fn changes_for(event: &Event, sent_at: EpochMs, layout: &Layout) -> Vec<CacheChange> {
    match event {
        Event::EntitlementsUpdated(update) => vec![entitlements_change(update, sent_at, layout)],
        Event::UsageUpdated(update) => vec![usage_change(update, layout)],
        Event::Purged(subjects) => subjects
            .iter()
            .map(|subject| purge_change(&subject, sent_at, layout))
            .collect(),
        Event::EnvironmentInvalidated => vec![CacheChange::InvalidateEnvironment(Invalidation {
            pattern: layout.keyspace.customer_keys_pattern(),
            mark: layout.keyspace.environment_purge_mark(),
            keeps_mark: layout.policy == CacheUpdatePolicy::Upsert,
            sent_at,
        })],
        Event::Ignored { .. } => Vec::new(),
    }
}

fn entitlements_change(update: &EntitlementsUpdated, sent_at: EpochMs, layout: &Layout) -> CacheChange {
    let customer_key = layout.keyspace.customer_key(&update.subject);
    let mut writes = Vec::with_capacity(2 + update.entitlements.len());
    writes.push(KeyWrite {
        key: customer_key.clone(),
        value: entitlements_json(&update.entitlements, layout.format),
        timestamp: update.updated_at,
    });
    if layout.format != CacheFormat::V3 {
        writes.push(KeyWrite {
            key: metadata_key(&customer_key),
            value: metadata_json(update.access_denied_reason.as_deref()),
            timestamp: update.updated_at,
        });
    }
    let list = writes.len();
    let carried = |entitlement| carried_usage(entitlement, &customer_key, layout.format);
    writes.extend(update.entitlements.iter().filter_map(carried));
    CacheChange::WriteEntitlements {
        locks: layout.keyspace.lock_keys(&update.subject),
        purge_marks: layout.keyspace.purge_marks(&update.subject),
        sent_at,
        list,
        writes,
    }
}

/// The usage that readers look for in a key of its own, if the entitlement carries one.
fn carried_usage(entitlement: &Entitlement, customer_key: &str, format: CacheFormat) -> Option<KeyWrite> {
    let (timestamp, key, usage) = match entitlement {
        Entitlement::Feature(entitlement) if entitlement.feature.is_metered() => (
            entitlement.usage_updated_at?,
            feature_usage_key(customer_key, &entitlement.feature.id),
            &entitlement.usage,
        ),
        Entitlement::Feature(_) => return None,
        // SDK 3.x knows no credits: its form has neither the entry nor the usage.
        Entitlement::Credit(_) if format == CacheFormat::V3 => return None,
        Entitlement::Credit(entitlement) => (
            entitlement.usage_updated_at?,
            credit_usage_key(customer_key, &entitlement.currency_id),
            &entitlement.usage,
        ),
    };
    Some(KeyWrite {
        key,
        value: usage_json(usage, format),
        timestamp,
    })
}

fn usage_change(update: &UsageUpdated, layout: &Layout) -> CacheChange {
    let customer_key = layout.keyspace.customer_key(&update.subject);
    let MeasuredUsage { usage, updated_at } = &update.measured;
    CacheChange::WriteUsage {
        locks: layout.keyspace.lock_keys(&update.subject),
        customer_timestamp_key: timestamp_key(&customer_key),
        write: KeyWrite {
            key: usage_key(&customer_key, &update.of),
            value: usage_json(usage, layout.format),
            timestamp: *updated_at,
        },
    }
}

fn purge_change(subject: &Subject, sent_at: EpochMs, layout: &Layout) -> CacheChange {
    let customer_key = layout.keyspace.customer_key(subject);
    let metadata_key = metadata_key(&customer_key);
    CacheChange::Purge {
        locks: layout.keyspace.lock_keys(subject),
        mark: layout.keyspace.purge_mark(subject),
        sent_at,
        keys: vec![
            timestamp_key(&customer_key),
            timestamp_key(&metadata_key),
            customer_key,
            metadata_key,
        ],
    }
}
