//! A reader that refetches after a miss, step by step as SDK 3.95.0 does it: it takes the lock of the refetch, asks
//! the origin, takes the customer's lock, reads the timestamps, and writes what is not older. Between its steps
//! anything may happen.

use std::collections::BTreeMap;

use redis::Commands;
use serde_json::{Map, Value, json};

use super::origin::Origin;
use super::truth::{Listing, Measured, Subject, Truth};
use crate::support::redis::TestRedis;
use crate::support::stage::PREFIX;

/// What the SDKs take their locks for.
const LOCK_MS: u32 = 5_000;
/// The SDK's own time to live.
const EXPIRY_SECS: u64 = 604_800;

/// A reader at work on one subject.
pub struct Reader {
    pub subject: Subject,
    /// What it was told: (key, value, timestamp).
    items: Vec<(String, String, i64)>,
    /// The stored timestamps, once it has read them.
    stored: Option<Vec<Option<i64>>>,
    pub told: String,
}

fn refetch_lock(subject: &Subject) -> String {
    let owner = subject.owner();
    let customer = format!(
        "{PREFIX}:refetchEntityEntitlementsAfterCacheMiss-{}",
        owner.customer
    );
    owner
        .resource
        .map_or(customer.clone(), |resource| format!("{customer}:{resource}"))
}

fn take(connection: &mut redis::Connection, lock: &str) -> bool {
    let mut set = redis::cmd("SET");
    set.arg(lock).arg("a-reader").arg("NX").arg("PX").arg(LOCK_MS);
    let taken: Option<String> = set.query(connection).expect("redis answers");
    taken.is_some()
}

impl Reader {
    /// Looks for the subject and, if that is a miss, begins to refetch it.
    pub fn begin(redis: &TestRedis, subject: &Subject, origin: &mut Origin) -> Option<Self> {
        let mut connection = redis.connection();
        if !is_miss(&mut connection, subject) || !take(&mut connection, &refetch_lock(subject)) {
            return None;
        }
        let (truth, usages) = origin.answer(subject);
        let told = match &truth {
            Truth::Listed(listing) => format!("the list of {}", listing.at),
            Truth::Unknown | Truth::Nothing | Truth::Denied { .. } => "no entitlements".to_owned(),
        };
        origin.note(subject, &format!("a reader fetched {told}"));
        Some(Self {
            items: items(subject, &truth, &usages),
            subject: subject.clone(),
            stored: None,
            told,
        })
    }

    /// Takes the next step; true when it has written and let go of its locks.
    pub fn step(&mut self, redis: &TestRedis, origin: &mut Origin) -> bool {
        let mut connection = redis.connection();
        let lock = self.subject.owner().lock_key(PREFIX);
        if let Some(stored) = &self.stored {
            let mut write = redis::pipe();
            write.atomic();
            for ((key, value, at), stored) in self.items.iter().zip(stored) {
                if stored.is_none_or(|stored| *at == 0 || stored <= *at) {
                    write.set_ex(key, value, EXPIRY_SECS).ignore();
                    write.set_ex(format!("{key}#timestamp"), at, EXPIRY_SECS).ignore();
                }
            }
            write.exec(&mut connection).expect("redis answers");
            for lock in [lock, refetch_lock(&self.subject)] {
                connection.del::<_, ()>(lock).expect("redis answers");
            }
            origin.note(&self.subject, &format!("a reader wrote {}", self.told));
            return true;
        }
        assert!(take(&mut connection, &lock), "nobody else takes {lock}");
        let timestamps: Vec<String> = self
            .items
            .iter()
            .map(|(key, ..)| format!("{key}#timestamp"))
            .collect();
        let stored: Vec<Option<String>> = connection.mget(&timestamps).expect("redis answers");
        let parsed = stored
            .into_iter()
            .map(|text| text.and_then(|text| text.parse().ok()))
            .collect();
        self.stored = Some(parsed);
        false
    }
}

fn is_miss(connection: &mut redis::Connection, subject: &Subject) -> bool {
    let key = subject.owner().key(PREFIX);
    let entitlements: Option<String> = connection.get(&key).expect("redis answers");
    let Some(entitlements) = entitlements else {
        return true;
    };
    if subject.resource.is_some() {
        let global = format!("{PREFIX}:c_{}#timestamp", subject.customer);
        let stamps: Vec<Option<i64>> = connection
            .mget(&[format!("{key}#timestamp"), global])
            .expect("redis answers");
        // A timestamp of 0 is a time to the SDK; none is a miss.
        if !matches!(stamps[..], [Some(own), Some(global)] if own >= global) {
            return true;
        }
    }
    let entitlements: Map<String, Value> = serde_json::from_str(&entitlements).expect("an object");
    let mut metered = entitlements
        .values()
        .map(|entry| &entry["calculatedEntitlement"]["feature"])
        .filter(|feature| matches!(feature["meterType"].as_str(), Some("Incremental" | "Fluctuating")));
    metered.any(|feature| {
        let usage_key = format!("{key}:f_{}", feature["id"].as_str().unwrap_or_default());
        !connection.exists::<_, bool>(usage_key).expect("redis answers")
    })
}

fn items(
    subject: &Subject,
    truth: &Truth,
    usages: &BTreeMap<String, Measured>,
) -> Vec<(String, String, i64)> {
    let key = subject.owner().key(PREFIX);
    let Truth::Listed(listing) = truth else {
        return vec![(key, "{}".to_owned(), 0)];
    };
    let mut items = vec![(key.clone(), entitlements(listing, usages).to_string(), listing.at)];
    for feature in listing.limits.keys() {
        let part = format!("f_{feature}");
        if let Some(measured) = usages.get(&part) {
            let usage = json!({"currentUsage": measured.value}).to_string();
            items.push((format!("{key}:{part}"), usage, measured.at));
        }
    }
    items
}

/// The list in the form of SDK 3.x, as far as anybody here looks at it.
fn entitlements(listing: &Listing, usages: &BTreeMap<String, Measured>) -> Value {
    let mut entries = Map::new();
    for (feature, limit) in &listing.limits {
        let measured = usages.get(&format!("f_{feature}"));
        let mut particulars = json!({"id": feature, "featureType": "NUMBER", "units": "", "unitsPlural": ""});
        if measured.is_some() {
            particulars["meterType"] = json!("Incremental");
        }
        let entry = json!({
            "calculatedEntitlement": {
                "feature": particulars,
                "usageLimit": limit,
                "hasUnlimitedUsage": false,
                "hasSoftLimit": false,
                "enumValues": [],
            },
            "featureUsage": {"currentUsage": measured.map_or(0, |measured| measured.value)},
        });
        entries.insert(feature.clone(), entry);
    }
    Value::Object(entries)
}
