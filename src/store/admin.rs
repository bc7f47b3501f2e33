//! Calls of commands and startup checks, beside the changes: keys, the server's clock and state, prefixes of customers,
//! the readers' refetch lock.

use std::collections::BTreeSet;
use std::time::Duration;

use redis::{Cmd, Value, cmd};

use super::connection::PooledConnection;
use super::errors::{Cause, StoreError};
use super::redis_store::RedisStore;
use crate::cache::keyspace::{ANY_CUSTOMER_KEYS, Keyspace, prefix_of};
use crate::clock::EpochMs;

/// When a key of `check` expires if it is not deleted.
const PROBE_SECS: u32 = 10;
/// Keys examined by one step of a scan for prefixes: a millisecond of the server's time.
const KEYS_A_STEP: u32 = 1_000;
/// Steps of that scan: a million keys.
const STEPS_MAX: u32 = 1_000;
/// Prefixes that are kept; a warning names only a few.
const OTHERS_MAX: usize = 100;
/// Deletes the lock if it is still the one that was taken.
const RELEASE: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";

/// One key, as it was at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySnapshot {
    /// What it holds.
    pub content: Content,
    /// How long it will hold it.
    pub expiry: KeyExpiry,
}

/// What a key holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// There is no such key.
    Absent,
    /// Text.
    Text(String),
    /// Bytes that are not text.
    NotText,
    /// A list, hash or the like, written by somebody else.
    Foreign,
}

/// How long a key lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyExpiry {
    /// There is no such key.
    Absent,
    /// It never expires.
    Never,
    /// It expires after this time.
    In(Duration),
    /// The server refuses the question (`PTTL`).
    Unknown,
}

impl KeySnapshot {
    /// No such key.
    pub const ABSENT: Self = Self { content: Content::Absent, expiry: KeyExpiry::Absent };

    /// The text that the key holds.
    pub fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Text(text) => Some(text),
            Content::Absent | Content::NotText | Content::Foreign => None,
        }
    }
}

/// What a server says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerFacts {
    /// It answers `INFO`.
    pub is_known: bool,
    /// `redis_version`.
    pub version: Option<String>,
    /// `master` or `slave`.
    pub role: Option<String>,
    /// Bytes; 0 is no bound.
    pub maxmemory: Option<u64>,
    /// What is done when it is full.
    pub maxmemory_policy: Option<String>,
}

/// Whose customers are in Redis, as far as was scanned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrefixScan {
    /// Customers of the environment itself are there.
    pub has_own: bool,
    /// The prefixes of others, a bounded number.
    pub others: BTreeSet<String>,
    /// Everything was scanned; else only a first part.
    pub is_complete: bool,
}

impl RedisStore {
    /// Keys as they are, in one round trip and in the order given.
    pub fn snapshot(&self, keys: &[String]) -> Result<Vec<KeySnapshot>, StoreError> {
        let questions = |key: &String| {
            let (mut get, mut pttl) = (cmd("GET"), cmd("PTTL"));
            get.arg(key);
            pttl.arg(key);
            [get, pttl]
        };
        let questions: Vec<Cmd> = keys.iter().flat_map(questions).collect();
        let replies = self.pool.on_a_connection(|connection| self.pool.round_trip(connection, &questions))?;
        let (pairs, _) = replies.as_chunks::<2>();
        pairs.iter().map(|[value, expiry]| self.key_snapshot(value, expiry)).collect()
    }

    fn key_snapshot(&self, value: &Value, expiry: &Value) -> Result<KeySnapshot, StoreError> {
        let reply = |reply: &Value| self.pool.unless_refused(reply.clone(), "cannot read from");
        let content = match reply(value) {
            Ok(Value::Nil) => Content::Absent,
            Ok(Value::BulkString(bytes)) => String::from_utf8(bytes).map_or(Content::NotText, Content::Text),
            Ok(_) => return Err(self.pool.not_ours("GET answered in an unknown form")),
            Err(error) if error.cause == Cause::WrongType => Content::Foreign,
            Err(error) => return Err(error),
        };
        let expiry = match reply(expiry) {
            Ok(Value::Int(-1)) => KeyExpiry::Never,
            Ok(Value::Int(left)) => u64::try_from(left)
                .map_or(KeyExpiry::Absent, |left| KeyExpiry::In(Duration::from_millis(left))),
            Err(error) if is_refused(&error) => KeyExpiry::Unknown,
            Ok(_) | Err(_) => return Err(self.pool.not_ours("PTTL answered in an unknown form")),
        };
        Ok(KeySnapshot { content, expiry })
    }

    /// The server's time. `None` if it cannot be read: it only confirms this machine's clock.
    pub fn time(&self) -> Option<EpochMs> {
        let (secs, micros): (i64, i64) = self.ask(&cmd("TIME"), "cannot ask the time of").ok()?;
        Some(EpochMs(secs.checked_mul(1_000)?.checked_add(micros / 1_000)?))
    }

    /// What the server says of itself. Fails if it does not answer; what it refuses to tell is left out.
    pub fn facts(&self) -> Result<ServerFacts, StoreError> {
        let mut facts = ServerFacts::default();
        for section in ["server", "memory", "replication"] {
            match self.ask::<String>(cmd("INFO").arg(section), "cannot ask") {
                Ok(text) => facts.read(&text),
                Err(error) if is_refused(&error) => {}
                Err(error) => return Err(error),
            }
        }
        // Managed servers may hide a part of INFO; ROLE is the same everywhere.
        match self.ask::<Value>(&cmd("ROLE"), "cannot ask") {
            Ok(Value::Array(role)) => {
                if let Some(Value::BulkString(role)) = role.first() {
                    facts.role = Some(String::from_utf8_lossy(role).into_owned());
                }
            }
            Err(error) if !is_refused(&error) => return Err(error),
            Ok(_) | Err(_) => {}
        }
        Ok(facts)
    }

    /// Writes a key, reads it and deletes it.
    pub fn write_read_delete(&self, key: &str) -> Result<(), StoreError> {
        const VALUE: &str = "probe";
        let mut set = cmd("SET");
        set.arg(key).arg(VALUE).arg("EX").arg(PROBE_SECS);
        self.ask::<Value>(&set, "cannot write to")?;
        let read: Option<String> = self.ask(cmd("GET").arg(key), "cannot read from")?;
        self.ask::<Value>(cmd("DEL").arg(key), "cannot delete from")?;
        if read.as_deref() == Some(VALUE) {
            return Ok(());
        }
        Err(self.pool.not_ours("a key that was written does not read as what was written"))
    }

    /// Takes a lock for so long. False: somebody else holds it.
    pub fn take_lock(&self, key: &str, token: &str, lifetime: Duration) -> Result<bool, StoreError> {
        let mut set = cmd("SET");
        set.arg(key).arg(token).arg("NX").arg("PX");
        set.arg(u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX));
        let reply: Value = self.ask(&set, "cannot take a lock in")?;
        Ok(reply != Value::Nil)
    }

    /// Releases a lock that has not expired.
    pub fn release_lock(&self, key: &str, token: &str) -> Result<(), StoreError> {
        let mut release = cmd("EVAL");
        release.arg(RELEASE).arg(1).arg(key).arg(token);
        self.ask::<Value>(&release, "cannot release a lock in").map(|_| ())
    }

    /// Wakes the readers that wait for a refetch. If an ACL forbids it, they wait for their timeout.
    pub fn publish_refetched(&self, channel: &str) {
        let mut publish = cmd("PUBLISH");
        publish.arg(channel).arg("{}");
        if let Err(error) = self.ask::<Value>(&publish, "cannot publish in") {
            log::debug!(err:% = error; "readers that wait for a refetch were not notified");
        }
    }

    /// Scans for customers, until one of the environment itself is found or `STEPS_MAX` is reached. Each step takes a
    /// connection for itself, so that no writer waits for the whole scan.
    pub(super) fn scan_for_prefixes(
        &self,
        own: &Keyspace,
        keep_going: &dyn Fn() -> bool,
    ) -> Result<PrefixScan, StoreError> {
        let mut scan = PrefixScan::default();
        let mut cursor = b"0".to_vec();
        for _ in 0..STEPS_MAX {
            let (next, keys) = self.pool.on_a_connection(|connection| {
                self.scan(connection, &cursor, ANY_CUSTOMER_KEYS, KEYS_A_STEP)
            })?;
            for key in keys {
                if own.is_customer_key(&key) {
                    scan.has_own = true;
                    return Ok(scan);
                }
                if scan.others.len() < OTHERS_MAX {
                    scan.others.extend(prefix_of(&key));
                }
            }
            if next == b"0" {
                scan.is_complete = true;
                break;
            }
            if !keep_going() {
                return Err(StoreError::stopped("stopped scanning for the customers in Redis"));
            }
            cursor = next;
        }
        Ok(scan)
    }

    /// One step of a scan: where to go on, and the keys that match.
    pub(super) fn scan(
        &self,
        connection: &mut PooledConnection,
        cursor: &[u8],
        pattern: &str,
        count: u32,
    ) -> Result<(Vec<u8>, Vec<Vec<u8>>), StoreError> {
        let mut scan = cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(count);
        let reply = self.pool.query(connection, &scan, "cannot scan the keys of")?;
        redis::from_redis_value(reply).map_err(|_| self.pool.not_ours("SCAN answered in an unknown form"))
    }

    fn ask<T: redis::FromRedisValue>(&self, command: &Cmd, doing: &str) -> Result<T, StoreError> {
        let reply = self.pool.on_a_connection(|connection| self.pool.query(connection, command, doing))?;
        redis::from_redis_value(reply).map_err(|_| self.pool.not_ours("a reply of an unknown form"))
    }
}

/// An ACL forbids the question, or the server does not know it: it was renamed, or a managed service lacks it.
fn is_refused(error: &StoreError) -> bool {
    matches!(error.cause, Cause::NoPermission | Cause::Other(_))
}

impl ServerFacts {
    fn read(&mut self, info: &str) {
        self.is_known = true;
        for (name, value) in info.lines().filter_map(|line| line.split_once(':')) {
            let value = value.trim().to_owned();
            match name {
                "redis_version" => self.version = Some(value),
                "role" => self.role = Some(value),
                "maxmemory" => self.maxmemory = value.parse().ok(),
                "maxmemory_policy" => self.maxmemory_policy = Some(value),
                _ => {}
            }
        }
    }
}
