//! A reader that refetches after a miss, step by step as SDK 3.95.0 does it: it takes the refetch lock, asks the origin,
//! takes the write lock, reads the timestamps, writes what is not older, and releases both. Between its steps anything
//! may happen. It extends its locks for as long as that takes, as redlock does.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use redis::Commands;
use serde_json::{Map, Value, json};

use super::origin::Origin;
use super::truth::{Listing, Measured, Subject, Truth, rate_of};
use crate::support::redis::TestRedis;
use crate::support::stage::PREFIX;

/// What the SDKs take their locks for.
const LOCK_MS: u32 = 5_000;
/// A lock of this age is extended. (redlock waits until half a second is left; here nobody wakes at that time.)
const EXTENDED_AFTER: Duration = Duration::from_secs(1);
/// The SDK's own time to live.
const EXPIRY_SECS: u64 = 604_800;

/// A reader at work on one subject.
pub struct Reader {
    pub subject: Subject,
    token: String,
    /// Stigg answers slowly: until then it has no answer.
    pub answered_at: Option<Instant>,
    refetch_lock: Lock,
    write_lock: Option<Lock>,
    /// What it fetched: (key, value, timestamp).
    items: Vec<(String, String, i64)>,
    /// The stored timestamps, once it has read them.
    stored: Option<Vec<Option<i64>>>,
    pub fetched: String,
}

struct Lock {
    key: String,
    extended: Instant,
}

impl Lock {
    fn take(connection: &mut redis::Connection, key: String, token: &str) -> Option<Self> {
        let mut set = redis::cmd("SET");
        set.arg(&key).arg(token).arg("NX").arg("PX").arg(LOCK_MS);
        let taken: Option<String> = set.query(connection).expect("redis answers");
        taken.map(|_| Self { key, extended: Instant::now() })
    }

    fn extend(&mut self, connection: &mut redis::Connection) {
        let extended: bool = connection.pexpire(&self.key, LOCK_MS.into()).expect("redis answers");
        assert!(
            extended,
            "{} expired before its reader came to extend it: this machine is too slow for the test",
            self.key
        );
        self.extended = Instant::now();
    }

    /// Deletes it if it is still its holder's.
    fn release(&self, connection: &mut redis::Connection, token: &str) {
        let held: Option<String> = connection.get(&self.key).expect("redis answers");
        if held.as_deref() == Some(token) {
            connection.del::<_, ()>(&self.key).expect("redis answers");
        }
    }
}

impl Reader {
    /// Looks for the subject and, if that is a miss, begins to refetch it. Stigg's answer is what is true now, and takes
    /// this long.
    pub fn begin(
        redis: &TestRedis,
        subject: &Subject,
        origin: &mut Origin,
        takes: Option<Duration>,
    ) -> Option<Self> {
        let mut connection = redis.connection();
        if !is_miss(&mut connection, subject) {
            return None;
        }
        let token = format!("reader-{}", fastrand::u64(..));
        let refetch_lock = Lock::take(&mut connection, subject.owner().refetch_lock_key(PREFIX), &token)?;
        let (truth, usages) = origin.answer(subject);
        let fetched = match &truth {
            Truth::Listed(listing) => format!("the list of {}", listing.at),
            Truth::Unknown | Truth::Nothing | Truth::Denied { .. } => "no entitlements".to_owned(),
        };
        let pace = takes.map_or(String::new(), |takes| format!(", which takes {takes:?}"));
        origin.note(subject, &format!("a reader fetched {fetched}{pace}"));
        Some(Self {
            items: items(subject, &truth, &usages),
            subject: subject.clone(),
            token,
            answered_at: takes.map(|takes| Instant::now() + takes),
            refetch_lock,
            write_lock: None,
            stored: None,
            fetched,
        })
    }

    /// Stigg has not answered yet.
    pub fn is_waiting(&self) -> bool {
        self.answered_at.is_some_and(|at| Instant::now() < at)
    }

    /// Extends its locks if it is time.
    pub fn extend_locks(&mut self, redis: &TestRedis) {
        for lock in std::iter::once(&mut self.refetch_lock).chain(&mut self.write_lock) {
            if lock.extended.elapsed() > EXTENDED_AFTER {
                lock.extend(&mut redis.connection());
            }
        }
    }

    /// Takes the next step; true when it has written and released its locks.
    pub fn step(&mut self, redis: &TestRedis, origin: &mut Origin) -> bool {
        let mut connection = redis.connection();
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
            for lock in self.write_lock.iter().chain([&self.refetch_lock]) {
                lock.release(&mut connection, &self.token);
            }
            origin.note(&self.subject, &format!("a reader wrote {}", self.fetched));
            return true;
        }
        let key = self.subject.owner().lock_key(PREFIX);
        let lock = Lock::take(&mut connection, key, &self.token);
        self.write_lock = Some(lock.expect("nobody else takes this write lock"));
        let timestamps: Vec<String> = self.items.iter().map(|(key, ..)| format!("{key}#timestamp")).collect();
        let stored: Vec<Option<String>> = connection.mget(&timestamps).expect("redis answers");
        let parsed = stored.into_iter().map(|text| text.and_then(|text| text.parse().ok())).collect();
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
        let stamps: Vec<Option<i64>> =
            connection.mget(&[format!("{key}#timestamp"), global]).expect("redis answers");
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
        let mut calculated = json!({
            "feature": particulars,
            "usageLimit": limit,
            "hasUnlimitedUsage": false,
            "hasSoftLimit": false,
            "enumValues": [],
        });
        if let Some(rate) = rate_of(feature) {
            let (reason, valid_until) = rate.entry_under(listing.balances.get(rate.currency));
            calculated["hasSoftLimit"] = json!(rate.has_soft_limit);
            calculated["creditRate"] = json!({"amount": 2, "currencyId": rate.currency});
            if let Some(reason) = reason {
                calculated["accessDeniedReason"] = json!(reason);
            }
            if let Some(valid_until) = valid_until {
                calculated["validUntil"] = json!(valid_until);
            }
        }
        let entry = json!({
            "calculatedEntitlement": calculated,
            "featureUsage": {"currentUsage": measured.map_or(0, |measured| measured.value)},
        });
        entries.insert(feature.clone(), entry);
    }
    Value::Object(entries)
}
