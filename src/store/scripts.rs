//! The scripts: their calls, and their answers.

use std::collections::HashSet;

use redis::{Cmd, Value, cmd};

use super::request::Calls;
use super::{Locks, Outcome};
use crate::cache::keyspace::{TIMESTAMP_SUFFIX, purge_mark_of, timestamp_key_of, value_key};
use crate::cache::{CacheChange, KeyWrite};
use crate::config::{CacheUpdatePolicy, Expiry};
use crate::entitlement::EpochMs;

/// A script and the SHA-1 that Redis knows it by.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) source: &'static str,
    sha1: String,
}

impl Script {
    fn new(source: &'static str) -> Self {
        Self {
            source,
            sha1: redis::Script::new(source).get_hash().to_owned(),
        }
    }
}

/// All scripts.
#[derive(Debug)]
pub(super) struct Scripts {
    write_entitlements: Script,
    write_usage: Script,
    purge: Script,
}

/// How long a purge is remembered: SQS can hide a received message for 12 h at most, so a message that was
/// received before the purge was sent comes again within that time.
const PURGE_MARK_SECS: i64 = 12 * 60 * 60;

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            write_entitlements: Script::new(include_str!("write_entitlements.lua")),
            write_usage: Script::new(include_str!("write_usage.lua")),
            purge: Script::new(include_str!("purge.lua")),
        }
    }

    /// Every script, to load them.
    pub(super) fn all(&self) -> [&Script; 3] {
        [&self.write_entitlements, &self.write_usage, &self.purge]
    }

    /// Adds the call that makes a change. An invalidation is no script: a call that does nothing takes its place.
    pub(super) fn add_call(
        &self,
        calls: &mut Calls,
        change: &CacheChange,
        minds: Locks,
        policy: CacheUpdatePolicy,
        expiry: Expiry,
    ) {
        // Keys begin with the locks that are minded.
        let minded = |held_by_readers: &'_ [String]| match minds {
            Locks::Respect => held_by_readers.len(),
            Locks::Outlasted => 0,
        };
        match change {
            CacheChange::WriteEntitlements {
                locks,
                purge_marks,
                sent_at,
                list,
                writes,
            } => {
                let lock_count = minded(locks);
                let keys = lock_count + purge_marks.len() + 2 * writes.len();
                evalsha(calls, &self.write_entitlements, keys, 7 + 2 * writes.len());
                add_keys(calls, &locks[..lock_count]);
                add_keys(calls, purge_marks);
                for KeyWrite { key, .. } in writes {
                    calls.arg(key.as_bytes());
                    calls.arg_of([key.as_bytes(), TIMESTAMP_SUFFIX]);
                }
                calls.number(lock_count).number(purge_marks.len());
                calls.number(i64::from(policy == CacheUpdatePolicy::UpdateIfExists));
                add_expiry(calls, expiry);
                calls.number(sent_at.0).number(*list).number(PURGE_MARK_SECS);
                for KeyWrite { value, timestamp, .. } in writes {
                    calls.number(timestamp.0).arg(value.as_bytes());
                }
            }
            CacheChange::WriteUsage {
                locks,
                customer_timestamp_key,
                write,
            } => {
                let lock_count = minded(locks);
                evalsha(calls, &self.write_usage, lock_count + 3, 4);
                add_keys(calls, &locks[..lock_count]);
                calls.arg(customer_timestamp_key.as_bytes());
                calls.arg(write.key.as_bytes());
                calls.arg_of([write.key.as_bytes(), TIMESTAMP_SUFFIX]);
                calls.number(lock_count);
                add_expiry(calls, expiry);
                calls.number(write.timestamp.0).arg(write.value.as_bytes());
            }
            CacheChange::Purge {
                locks,
                keys,
                mark,
                sent_at,
            } => {
                let lock_count = minded(locks);
                evalsha(calls, &self.purge, lock_count + 1 + keys.len(), 4);
                add_keys(calls, &locks[..lock_count]);
                calls.arg(mark.as_bytes());
                add_keys(calls, keys);
                calls.number(lock_count).number(sent_at.0).number(PURGE_MARK_SECS);
                calls.number(keys.len() / 2);
            }
            CacheChange::InvalidateEnvironment(_) => {
                calls.begin(1).arg(b"PING");
            }
        }
    }
}

/// The call that remembers an invalidation of the environment: a purge of no key. By source, since it is rare.
pub(super) fn set_mark(mark: &str, sent_at: EpochMs) -> Cmd {
    let mut call = cmd("EVAL");
    call.arg(include_str!("purge.lua")).arg(1).arg(mark);
    call.arg(0).arg(sent_at.0).arg(PURGE_MARK_SECS).arg(0);
    call
}

/// Unlinks each value with its timestamp, whichever of the two SCAN came upon: in between, a reader may have
/// written both anew, and half of a pair would be a state that nothing ever replaces. By source, since it is rare.
pub(super) fn unlink_pairs(scanned: &[Vec<u8>], mark: &str, sent_at: EpochMs) -> Cmd {
    let values: HashSet<&[u8]> = scanned.iter().map(|key| value_key(key)).collect();
    let mut call = cmd("EVAL");
    call.arg(include_str!("unlink.lua")).arg(3 * values.len());
    for value in values {
        let own_mark = purge_mark_of(value, mark);
        call.arg(value).arg(timestamp_key_of(value));
        call.arg(own_mark.as_deref().unwrap_or(value));
    }
    call.arg(sent_at.0).arg(PURGE_MARK_SECS);
    call
}

/// The call that forgets it, unless a later one is remembered by now.
pub(super) fn clear_mark(mark: &str, sent_at: EpochMs) -> Cmd {
    let mut call = cmd("EVAL");
    call.arg("if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end");
    call.arg(1).arg(mark).arg(sent_at.0);
    call
}

/// Begins a script's call: so many keys and so many other arguments follow.
fn evalsha(calls: &mut Calls, script: &Script, keys: usize, others: usize) {
    calls.begin(3 + keys + others).arg(b"EVALSHA");
    calls.arg(script.sha1.as_bytes()).number(keys);
}

fn add_keys(calls: &mut Calls, keys: &[String]) {
    for key in keys {
        calls.arg(key.as_bytes());
    }
}

fn add_expiry(calls: &mut Calls, expiry: Expiry) {
    match expiry {
        Expiry::Never => calls.arg(b""),
        Expiry::Seconds(seconds) => calls.number(seconds),
    };
}

/// A script's answer: `{status, keys written, keys skipped as stale}`. `None` if it is none of ours.
pub fn outcome(answer: &Value) -> Option<Outcome> {
    let Value::Array(fields) = answer else { return None };
    let [Value::Int(status), Value::Int(written), Value::Int(stale)] = fields.as_slice() else {
        return None;
    };
    match *status {
        0 => Some(Outcome::Applied {
            written: u64::try_from(*written).ok()?,
            stale: u64::try_from(*stale).ok()?,
        }),
        1 => Some(Outcome::Locked),
        2 => Some(Outcome::SkippedByPolicy),
        3 => Some(Outcome::PurgedLater),
        4 => Some(Outcome::NoCustomer),
        _ => None,
    }
}
