//! Redis, as the model reads it: keys taken apart into whose they are and what they hold.

use std::collections::{BTreeMap, BTreeSet};

use persistent_cache_service::clock;
use serde_json::Value;

use super::truth::Subject;
use crate::support::redis::{Entry, TestRedis};
use crate::support::stage::PREFIX;

/// The two are read one after the other; the service's expiries and the readers' are far apart.
const EXPIRY_TOLERANCE_SECS: i64 = 60;
/// A tombstone's life.
const TOMBSTONE_SECS_MAX: i64 = 12 * 60 * 60;

/// A value and the timestamp beside it.
#[derive(Debug, Clone, PartialEq)]
pub struct Stamped {
    pub value: Value,
    pub at: i64,
}

/// What is cached of one subject: the parts of its keys after the customer key, `""` for the customer key itself.
pub type Cached = BTreeMap<String, Stamped>;

/// Everything that readers could see.
#[derive(Debug, Default)]
pub struct Cache {
    pub of: BTreeMap<Subject, Cached>,
    /// Who has a tombstone of a purge.
    pub tombstones: BTreeSet<Subject>,
    /// What is wrong with the form of it.
    pub faults: Vec<String>,
}

/// Reads all of Redis.
pub fn look(redis: &TestRedis, subjects: &[Subject]) -> Cache {
    let mut cache = Cache::default();
    let snapshot = redis.snapshot();
    for (key, entry) in &snapshot {
        if key.starts_with(&format!("{PREFIX}:check:")) {
            continue;
        }
        if let Some(whose) = key.strip_prefix(&format!("{PREFIX}:purged")) {
            if let Err(fault) = tombstone(entry) {
                cache.faults.push(format!("{key} {fault}: {}", entry.value));
            }
            let key = format!("{PREFIX}{whose}");
            let of = subjects.iter().find(|subject| subject.owner().key(PREFIX) == key);
            cache.tombstones.extend(of.cloned());
            continue;
        }
        let value_key = key.strip_suffix("#timestamp").unwrap_or(key);
        if entry.ttl <= 0 {
            cache.faults.push(format!("{key} has no expiry"));
        }
        let Some((subject, part)) = owner_of(value_key, subjects) else {
            cache.faults.push(format!("{key} is nobody's key: {}", entry.value));
            continue;
        };
        // The last credit balance: the service's own, beside the currency's usage.
        if part.starts_with("credit_") && part.ends_with("#balance") {
            continue;
        }
        if value_key != key {
            if !snapshot.contains_key(value_key) {
                cache.faults.push(format!("{key} stands without its value"));
            }
            continue;
        }
        match stamped(entry, snapshot.get(&format!("{key}#timestamp"))) {
            Ok(stamped) => {
                cache.of.entry(subject.clone()).or_default().insert(part.to_owned(), stamped);
            }
            Err(fault) => cache.faults.push(format!("{key} {fault}: {}", entry.value)),
        }
    }
    cache
}

fn stamped(value: &Entry, timestamp: Option<&Entry>) -> Result<Stamped, &'static str> {
    let timestamp = timestamp.ok_or("stands without its timestamp")?;
    if (timestamp.ttl - value.ttl).abs() > EXPIRY_TOLERANCE_SECS {
        return Err("has another expiry than its timestamp");
    }
    Ok(Stamped {
        value: serde_json::from_str(&value.value).map_err(|_| "is no JSON")?,
        at: timestamp.value.parse().map_err(|_| "has a timestamp that is none")?,
    })
}

/// `<when the purge was sent>`, or `<when>:<timestamp of the newest list forgotten>`. The latter is not in the future: no
/// list that comes would be new enough.
fn tombstone(entry: &Entry) -> Result<(), &'static str> {
    let (purged, forgotten) = entry.value.split_once(':').unwrap_or((&entry.value, "0"));
    let number = |text: &str| text.parse::<i64>().map_err(|_| "is no tombstone");
    if number(purged)?.max(number(forgotten)?) > clock::now().0 {
        return Err("is of the future");
    }
    if entry.ttl > TOMBSTONE_SECS_MAX {
        return Err("stays too long");
    }
    Ok(())
}

/// Whose key it is, and its part after the customer key. The longest customer key that fits: ids may hold colons.
fn owner_of<'a, 'k>(key: &'k str, subjects: &'a [Subject]) -> Option<(&'a Subject, &'k str)> {
    subjects
        .iter()
        .filter_map(|subject| {
            let rest = key.strip_prefix(&subject.owner().key(PREFIX))?;
            let part = rest.strip_prefix(':').unwrap_or(rest);
            let is_part = part == "metadata" || part.starts_with("f_") || part.starts_with("credit_");
            (rest.is_empty() || (rest.starts_with(':') && is_part)).then_some((subject, part))
        })
        .max_by_key(|(subject, _)| subject.owner().key(PREFIX).len())
}
