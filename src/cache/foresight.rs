//! What a change would do to what is stored. Pure: for those who want to know before it is done.
//!
//! The scripts in `store` decide, atomically; this foretells their decision. A story replays messages of every kind and
//! compares what was foretold with what was then done.

use std::fmt::{Display, Formatter};

use super::keyspace::timestamp_key;
use super::{CacheChange, KeyWrite};
use crate::config::CacheUpdatePolicy;
use crate::entitlement::EpochMs;

/// What a change would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Foresight {
    /// Values that would be written (each with its timestamp), or keys that would be deleted.
    pub written: Vec<String>,
    /// Values that would stay, as something newer is stored.
    pub stale: Vec<String>,
    /// What it is, in a word.
    pub what: &'static str,
    /// Why nothing at all would be done.
    pub nothing_because: Option<&'static str>,
}

impl Display for Foresight {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.what)?;
        if let Some(why) = self.nothing_because {
            return write!(formatter, " nothing: {why}");
        }
        if !self.written.is_empty() {
            write!(formatter, " {}", self.written.join(" "))?;
        }
        if !self.stale.is_empty() {
            write!(formatter, "; newer is stored at {}", self.stale.join(" "))?;
        }
        Ok(())
    }
}

/// The keys whose content decides.
pub fn keys_to_know(change: &CacheChange) -> Vec<String> {
    match change {
        CacheChange::WriteEntitlements {
            purge_marks, writes, ..
        } => {
            let mut keys = purge_marks.clone();
            keys.extend(writes.iter().map(|write| timestamp_key(&write.key)));
            keys.extend(writes.first().map(|write| write.key.clone()));
            keys
        }
        CacheChange::WriteUsage {
            customer_timestamp_key,
            write,
            ..
        } => vec![customer_timestamp_key.clone(), timestamp_key(&write.key)],
        CacheChange::Purge { keys, .. } => keys.clone(),
        CacheChange::InvalidateEnvironment(_) => Vec::new(),
    }
}

/// What the change would do, where `stored` tells what is at a key.
pub fn foresee<'s>(
    change: &CacheChange,
    policy: CacheUpdatePolicy,
    stored: &dyn Fn(&str) -> Option<&'s str>,
) -> Foresight {
    let timestamp = |key: &str| stored(&timestamp_key(key)).and_then(number);
    let is_newer =
        |write: &KeyWrite| write.timestamp.0 != 0 && timestamp(&write.key) > Some(write.timestamp.0);
    let sort = |write: &KeyWrite, is_stale: bool, foresight: &mut Foresight| {
        let to = if is_stale {
            &mut foresight.stale
        } else {
            &mut foresight.written
        };
        to.push(write.key.clone());
    };
    let mut foresight = Foresight::default();
    match change {
        CacheChange::WriteEntitlements {
            purge_marks,
            sent_at,
            list,
            writes,
            ..
        } => {
            foresight.what = "would write";
            let Some(first) = writes.first() else {
                return foresight;
            };
            foresight.nothing_because = if is_late_news(purge_marks, *sent_at, first, stored) {
                Some("it is late news of what was purged since")
            } else if policy == CacheUpdatePolicy::UpdateIfExists
                && writes.iter().all(|write| timestamp(&write.key).is_none())
                && stored(&first.key).is_none()
            {
                Some("the customer is not cached (CACHE_UPDATE_POLICY=UPDATE_IF_EXISTS)")
            } else {
                None
            };
            if foresight.nothing_because.is_none() {
                let list_is_stale = writes.iter().take(*list).any(is_newer);
                for (index, write) in writes.iter().enumerate() {
                    let is_stale = if index < *list {
                        list_is_stale
                    } else {
                        is_newer(write)
                    };
                    sort(write, is_stale, &mut foresight);
                }
            }
        }
        CacheChange::WriteUsage {
            customer_timestamp_key,
            write,
            ..
        } => {
            foresight.what = "would write";
            if stored(customer_timestamp_key).is_none() {
                foresight.nothing_because = Some("the customer is not cached");
            } else {
                sort(write, is_newer(write), &mut foresight);
            }
        }
        CacheChange::Purge { keys, .. } => {
            foresight.what = "would delete";
            foresight.written = keys.iter().filter(|key| stored(key).is_some()).cloned().collect();
            if foresight.written.is_empty() {
                foresight.nothing_because = Some("the customer is not cached");
            }
        }
        CacheChange::InvalidateEnvironment(invalidation) => {
            foresight.what = "would delete every key of a customer in the environment:";
            foresight.written.push(invalidation.pattern.clone());
        }
    }
    foresight
}

/// A purge was sent after the change, or a newer list is known to have been forgotten: see `write_entitlements.lua`.
fn is_late_news<'s>(
    marks: &[String],
    sent_at: EpochMs,
    list: &KeyWrite,
    stored: &dyn Fn(&str) -> Option<&'s str>,
) -> bool {
    let is_stored = stored(&timestamp_key(&list.key)).and_then(number) > Some(0);
    marks.iter().enumerate().any(|(index, mark)| {
        let Some(mark) = stored(mark) else { return false };
        let (purged, forgotten) = mark.split_once(':').unwrap_or((mark, ""));
        // The third mark is that of a resource's customer: a purge of that one leaves the resource's entry in place.
        let spares = index == 2 && is_stored;
        let is_purged = number(purged) >= Some(sent_at.0) && !spares;
        let is_forgotten =
            index == 1 && list.timestamp.0 != 0 && number(forgotten).unwrap_or(0) > list.timestamp.0;
        is_purged || is_forgotten
    })
}

fn number(text: &str) -> Option<i64> {
    text.parse().ok()
}
