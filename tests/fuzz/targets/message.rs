//! `message::decode` and `cache::changes`: from a message's body to what is written.

use std::collections::HashSet;
use std::fmt::Debug;
use std::ops::RangeInclusive;
use std::sync::LazyLock;

use fastrand::Rng;
use persistent_cache_service::cache::keyspace::{Keyspace, ReaderLocks};
use persistent_cache_service::cache::{CacheChange, CreditWrite, KeyWrite, Layout, changes};
use persistent_cache_service::clock::EpochMs;
use persistent_cache_service::entitlement::stored::CacheFormat;
use persistent_cache_service::entitlement::{Entitlement, UsageOf};
use persistent_cache_service::message::{Event, MalformedBody, Message, decode};
use serde_json::Value;

use super::{Memory, Target, hold, is_a_line};
use crate::judge::Probe;
use crate::mutate::json::{Samples, quoted};
use crate::mutate::json_input;

pub const TARGET: Target = Target {
    name: "message",
    about: "the body of a message, to what is written to Redis",
    weight: 60,
    memory: Memory {
        per_byte: 48,
        // What few enough values to be plausible in any text may take.
        constant: 1536 * 1024,
    },
    input,
    check,
};

const SENT_AT: EpochMs = EpochMs(1_795_200_000_000);
/// When a state may have been true: from 2015 until an hour after the message was sent.
const STATES: RangeInclusive<EpochMs> = EpochMs(1_420_070_400_000)..=EpochMs(SENT_AT.0 + 3_600_000);

macro_rules! samples {
    ($($name:literal),* $(,)?) => {
        [$(include_str!(concat!("../../samples/", $name, ".json"))),*]
    };
}

/// The documented messages, and one with every field.
pub(super) const MESSAGES: [&str; 13] = samples![
    "event-entitlements-updated-empty",
    "event-purge-customer",
    "event-subscriptions-migrated",
    "event-unknown",
    "eventbridge-envelope",
    "graphql-credit-balance-updated",
    "graphql-entitlements-updated-v2",
    "graphql-package-published",
    "graphql-usage-updated-v2",
    "sns-envelope",
    "webhook-entitlements-updated",
    "webhook-measurement-reported",
    "extra/graphql-entitlements-every-field",
];

/// Keys that the decoder looks for, beside those in the samples.
const KEYS: [&str; 42] = [
    "type",
    "eventType",
    "detail-type",
    "__typename",
    "Type",
    "Message",
    "TopicArn",
    "detail",
    "payload",
    "data",
    "entitlementsUpdatedV2",
    "entitlementsUpdated",
    "usageUpdatedV2",
    "usageUpdated",
    "usageMeasurementUpdated",
    "creditBalanceUpdated",
    "packagePublished",
    "entitlementsV2",
    "entitlements",
    "customerIds",
    "customers",
    "customerId",
    "resourceId",
    "refId",
    "id",
    "featureId",
    "currencyId",
    "currency",
    "creditRate",
    "amount",
    "migrationType",
    "accessDeniedReason",
    "usagePeriodEnd",
    "usagePeriodAnchor",
    "nextResetDate",
    "entitlementUpdatedAt",
    "entitlementsUpdatedAt",
    "usageUpdatedAt",
    "totalConsumed",
    "entitlementReference",
    "timestamp",
    "",
];

/// Texts that the decoder distinguishes.
const TEXTS: [&str; 30] = [
    "entitlements.updated",
    "ENTITLEMENTS_UPDATED",
    "EntitlementsUpdated",
    "EntitlementsUpdatedV2",
    "measurement.reported",
    "MEASUREMENT_REPORTED",
    "UsageUpdated",
    "UsageMeasurementUpdated",
    "UsageUpdatedV2",
    "CREDIT_BALANCE_UPDATED",
    "CreditBalanceUpdated",
    "PURGE_CUSTOMER_PERSISTENT_CACHE_REQUESTED",
    "customer.deleted",
    "CUSTOMER_DELETED",
    "SUBSCRIPTIONS_MIGRATED",
    "PACKAGE_PUBLISHED",
    "NEW_CUSTOMERS",
    "ALL_CUSTOMERS",
    "Notification",
    "SubscriptionConfirmation",
    "FEATURE",
    "CREDIT",
    "CreditEntitlement",
    "MONTH",
    "WEEK",
    "YEAR",
    "HOUR",
    "Incremental",
    "FLUCTUATING",
    "next",
];

/// An error must not contain any content of a customer's message.
const CONTENT: [&str; 6] = ["demo", "example.com", "feature-", "cred-type", "Storage", "site-"];

static SAMPLES: LazyLock<Samples> = LazyLock::new(|| {
    let messages = MESSAGES.iter().map(|text| serde_json::from_str::<Value>(text));
    Samples::new(messages.map(|message| message.expect("a sample is JSON")), &KEYS, &TEXTS)
});

fn input(rng: &mut Rng) -> Vec<u8> {
    json_input(rng, &SAMPLES)
}

fn check(input: &[u8], probe: &mut Probe) -> Result<bool, String> {
    let body = String::from_utf8_lossy(input);
    let formats = [CacheFormat::Compatible, CacheFormat::V3, CacheFormat::V4];
    // Which one it is follows from the input, so that a replay takes the same.
    let layout = &Layout { keyspace: Keyspace::new("fuzz"), format: formats[input.len() % 3] };
    let (decoded, changes) = probe.measure(|| {
        let decoded = decode(&body, SENT_AT);
        let changes: Vec<CacheChange> = match &decoded {
            Ok(message) => changes(message.clone(), layout).collect(),
            Err(_) => Vec::new(),
        };
        (decoded, changes)
    });
    same("decoded twice", &decode(&body, SENT_AT), &decoded)?;
    match &decoded {
        Err(fault) => {
            tells_nothing(fault)?;
            Ok(false)
        }
        Ok(message) => {
            envelopes_change_nothing(&body, message)?;
            same("the time of sending", &(message.sent_at <= SENT_AT), &true)?;
            for change in &changes {
                writes_only_below_the_prefix(change, message.sent_at)?;
            }
            fits(&message.event, &changes, layout)?;
            Ok(true)
        }
    }
}

fn same<T: PartialEq + Debug>(what: &str, one: &T, other: &T) -> Result<(), String> {
    hold(one == other, || {
        let show = |value: &T| format!("{value:?}").chars().take(2_000).collect::<String>();
        format!("{what}, it is the same\n   {}\n   {}", show(one), show(other))
    })
}

fn tells_nothing(fault: &MalformedBody) -> Result<(), String> {
    let fault = fault.to_string();
    is_a_line(&fault, 300)?;
    let quoted = CONTENT.iter().find(|content| fault.contains(**content));
    hold(quoted.is_none(), || format!("an error quotes nothing of the body: {fault}"))
}

/// What an event means does not hang on what it is wrapped in.
fn envelopes_change_nothing(body: &str, message: &Message) -> Result<(), String> {
    if body.len() > 8 * 1024 {
        return Ok(());
    }
    let text = String::from_utf8(quoted(body)).expect("JSON is text");
    let in_sns = format!(r#"{{"Type":"Notification","Timestamp":"2001-01-01T00:00:00Z","Message":{text}}}"#);
    let body = body.trim_start_matches('\u{feff}');
    let in_event_bridge = format!(r#"{{"detail-type":"any","time":"2001-01-01T00:00:00Z","detail":{body}}}"#);
    for wrapped in [in_sns, in_event_bridge] {
        match decode(&wrapped, SENT_AT) {
            Ok(inside) => same("wrapped", &inside, message)?,
            // The parser has a limit for nesting.
            Err(fault) if fault.problem.contains("recursion") => {}
            Err(fault) => return Err(format!("wrapped, it is understood too, not: {fault}")),
        }
    }
    Ok(())
}

fn writes_only_below_the_prefix(change: &CacheChange, message_sent_at: EpochMs) -> Result<(), String> {
    let below = |key: &String| hold(key.starts_with("fuzz:c_"), || format!("a key is a customer's: {key:?}"));
    let all_locks = |locks: &ReaderLocks| {
        let is_right = locks.write.iter().all(|lock| lock.starts_with("fuzz-"))
            && locks.refetch.starts_with("fuzz:refetchEntityEntitlementsAfterCacheMiss-");
        hold(is_right, || format!("locks are the readers': {locks:?}"))
    };
    let is_tombstone = |key: &String| {
        hold(key == "fuzz:purged" || key.starts_with("fuzz:purged:c_"), || {
            format!("a tombstone is one: {key:?}")
        })
    };
    let credit = |credit: &CreditWrite| {
        below(&credit.key)?;
        below(&credit.balance_key)?;
        is_plausible(credit.timestamp)
    };
    match change {
        CacheChange::WriteEntitlements(write) => {
            hold(write.sent_at <= message_sent_at, || "a list is not newer than its message".to_owned())?;
            all_locks(&write.locks)?;
            write.tombstones.iter().try_for_each(is_tombstone)?;
            let customer_key = &write.list.key;
            let mut seen = HashSet::new();
            let writes = std::iter::once(&write.list).chain(&write.metadata).chain(&write.usages);
            for write in writes {
                below(&write.key)?;
                hold(write.key.starts_with(customer_key.as_str()), || {
                    format!("a write is its customer's: {:?}", write.key)
                })?;
                hold(seen.insert(&write.key), || format!("a key is written once: {:?}", write.key))?;
                is_stored_well(write)?;
            }
            write.credits.iter().try_for_each(credit)
        }
        CacheChange::WriteUsage(usage) => {
            all_locks(&usage.locks)?;
            below(&usage.customer_key)?;
            below(&usage.write.key)?;
            is_stored_well(&usage.write)
        }
        CacheChange::WriteBalance(balance) => {
            all_locks(&balance.locks)?;
            below(&balance.customer_key)?;
            credit(&balance.credit)
        }
        CacheChange::Purge(purge) => {
            all_locks(&purge.locks)?;
            is_tombstone(&purge.tombstone)?;
            below(&purge.customer_key)?;
            below(&purge.metadata_key)
        }
        CacheChange::InvalidateEnvironment(invalidation) => {
            same("the pattern", &invalidation.keyspace.customer_keys_pattern(), &"fuzz:c_*".to_owned())
        }
    }
}

fn is_plausible(timestamp: EpochMs) -> Result<(), String> {
    hold(timestamp.0 == 0 || STATES.contains(&timestamp), || {
        format!("a state is neither from before 2015 nor from later than the message: {timestamp:?}")
    })
}

fn is_stored_well(write: &KeyWrite) -> Result<(), String> {
    let KeyWrite { key, value, timestamp } = write;
    is_plausible(*timestamp)?;
    let parsed = serde_json::from_str::<Value>(value);
    hold(parsed.is_ok_and(|value| value.is_object()), || format!("{key:?} holds a JSON object"))
}

/// As many changes, and entries in them, as the event has.
fn fits(event: &Event, changes: &[CacheChange], layout: &Layout) -> Result<(), String> {
    let expected = match event {
        Event::EntitlementsUpdated(update) => {
            let features = |entitlement: &&Entitlement| matches!(entitlement.of, UsageOf::Feature(_));
            let entries = match layout.format {
                CacheFormat::V3 => update.entitlements.iter().filter(features).count(),
                CacheFormat::Compatible | CacheFormat::V4 => update.entitlements.len(),
            };
            let Some(CacheChange::WriteEntitlements(write)) = changes.first() else {
                return Err("an entitlement list is written".to_owned());
            };
            let stored: Value = serde_json::from_str(&write.list.value).map_err(|error| error.to_string())?;
            same("the number of entries", &stored.as_object().map(serde_json::Map::len), &Some(entries))?;
            hold(update.access_denied_reason.is_some() || !update.entitlements.is_empty(), || {
                "an empty list has a reason".to_owned()
            })?;
            // What does not fit into the call of the list follows it.
            1 + changes.len().saturating_sub(1)
        }
        Event::Purged(subjects) => {
            hold(!subjects.is_empty(), || "a purge is somebody's".to_owned())?;
            subjects.len()
        }
        Event::UsageUpdated(_) | Event::EnvironmentInvalidated => 1,
        Event::Ignored { .. } => 0,
    };
    same("the number of changes", &changes.len(), &expected)
}
