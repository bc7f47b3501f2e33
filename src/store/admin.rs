//! What the commands ask of Redis, beside the changes: keys, the server's clock and state, the readers' refetch lock.

use std::collections::HashSet;
use std::time::Duration;

use redis::{Value, cmd, pipe};

use super::connection::unless_refused;
use super::errors::{Cause, StoreError, unexpected};
use super::redis_store::RedisStore;
use crate::cache::keyspace::{Keyspace, value_key};
use crate::clock::EpochMs;
use crate::entitlement::Subject;

/// When a key of `check` expires if it is not deleted.
const PROBE_SECS: u32 = 10;
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
    /// The server refuses `PTTL`.
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
    /// It runs in cluster mode.
    pub is_cluster: bool,
}

impl RedisStore {
    /// Keys as they are, in one round trip and in the order given.
    pub fn snapshot(&self, keys: &[String]) -> Result<Vec<KeySnapshot>, StoreError> {
        let mut questions = pipe();
        for key in keys {
            questions.cmd("GET").arg(key).cmd("PTTL").arg(key);
        }
        let request = questions.get_packed_pipeline();
        let replies =
            self.connections.on_one(|connection| connection.round_trip(&request, 2 * keys.len()))?;
        let (pairs, _) = replies.as_chunks::<2>();
        pairs.iter().map(|[value, expiry]| self.key_snapshot(value, expiry)).collect()
    }

    fn key_snapshot(&self, value: &Value, expiry: &Value) -> Result<KeySnapshot, StoreError> {
        let config = &self.connections.config;
        let reply = |reply: &Value| unless_refused(reply.clone(), "cannot read from", config);
        let content = match reply(value) {
            Ok(Value::Nil) => Content::Absent,
            Ok(Value::BulkString(bytes)) => String::from_utf8(bytes).map_or(Content::NotText, Content::Text),
            Ok(_) => return Err(unexpected("GET answered in an unknown form", config)),
            Err(error) if error.cause == Cause::WrongType => Content::Foreign,
            Err(error) => return Err(error),
        };
        let expiry = match reply(expiry) {
            Ok(Value::Int(-1)) => KeyExpiry::Never,
            Ok(Value::Int(left)) => u64::try_from(left)
                .map_or(KeyExpiry::Absent, |left| KeyExpiry::In(Duration::from_millis(left))),
            Err(error) if error.is_unsupported() => KeyExpiry::Unknown,
            Ok(_) | Err(_) => return Err(unexpected("PTTL answered in an unknown form", config)),
        };
        Ok(KeySnapshot { content, expiry })
    }

    /// The texts of these keys at one moment, in the order given. `None` also for what holds no text (a hash, say).
    pub fn texts(&self, keys: &[String]) -> Result<Vec<Option<String>>, StoreError> {
        let reply: Vec<Option<Vec<u8>>> = self.connections.ask(cmd("MGET").arg(keys), "cannot read from")?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned(); // as ioredis reads it
        Ok(reply.into_iter().map(|bytes| bytes.map(text)).collect())
    }

    /// So many cached customers and resources at random, or all if there are fewer. Scans the whole server.
    pub fn sample(&self, keyspace: &Keyspace, count: usize) -> Result<HashSet<Subject>, StoreError> {
        self.connections.on_one(|connection| {
            let (mut sample, mut seen) = (Vec::new(), 0);
            Self::scan(connection, &keyspace.customer_keys_pattern(), |_, keys| {
                let values = keys.iter().filter(|key| value_key(key) == key.as_slice());
                for subject in values.filter_map(|key| keyspace.subject_of(key)) {
                    seen += 1;
                    if sample.len() < count {
                        sample.push(subject);
                    } else if let Some(place) = sample.get_mut(fastrand::usize(..seen)) {
                        *place = subject;
                    }
                }
                Ok(true)
            })?;
            Ok(sample.into_iter().collect()) // a scan may find a key twice
        })
    }

    /// The server's time. `None` if it cannot be read: it only confirms this machine's clock.
    pub fn time(&self) -> Option<EpochMs> {
        let (secs, micros): (i64, i64) = self.connections.ask(&cmd("TIME"), "cannot ask the time of").ok()?;
        Some(EpochMs(secs.checked_mul(1_000)?.checked_add(micros / 1_000)?))
    }

    /// What the server says of itself. Fails if it does not answer; what it refuses to answer is left out.
    pub fn facts(&self) -> Result<ServerFacts, StoreError> {
        let info = match self.connections.ask::<String>(&cmd("INFO"), "cannot ask") {
            Err(error) if error.is_unsupported() => None,
            info => Some(info?),
        };
        let field = |name| {
            let mut lines = info.as_deref().unwrap_or_default().lines();
            let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.map(|value| value.trim().to_owned())
        };
        let role = || {
            let answer: Vec<Value> = self.connections.ask(&cmd("ROLE"), "cannot ask").ok()?;
            redis::from_redis_value(answer.into_iter().next()?).ok()
        };
        Ok(ServerFacts {
            is_known: info.is_some(),
            version: field("redis_version"),
            role: field("role").or_else(role),
            maxmemory: field("maxmemory").and_then(|bytes| bytes.parse().ok()),
            maxmemory_policy: field("maxmemory_policy"),
            is_cluster: field("cluster_enabled").as_deref() == Some("1"),
        })
    }

    /// Writes a key, reads it and deletes it.
    pub fn write_read_delete(&self, key: &str) -> Result<(), StoreError> {
        const VALUE: &str = "probe";
        let mut set = cmd("SET");
        set.arg(key).arg(VALUE).arg("EX").arg(PROBE_SECS);
        self.connections.ask::<Value>(&set, "cannot write to")?;
        let read: Option<String> = self.connections.ask(cmd("GET").arg(key), "cannot read from")?;
        self.connections.ask::<Value>(cmd("DEL").arg(key), "cannot delete from")?;
        if read.as_deref() == Some(VALUE) {
            return Ok(());
        }
        Err(unexpected("a key that was written does not read as what was written", &self.connections.config))
    }

    /// Takes a lock for this long. False: somebody else holds it.
    pub fn take_lock(&self, key: &str, token: &str, lifetime: Duration) -> Result<bool, StoreError> {
        let mut set = cmd("SET");
        set.arg(key).arg(token).arg("NX").arg("PX");
        set.arg(u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX));
        let reply: Value = self.connections.ask(&set, "cannot take a lock in")?;
        Ok(reply != Value::Nil)
    }

    /// Releases a lock that has not expired.
    pub fn release_lock(&self, key: &str, token: &str) -> Result<(), StoreError> {
        let mut release = cmd("EVAL");
        release.arg(RELEASE).arg(1).arg(key).arg(token);
        self.connections.ask::<Value>(&release, "cannot release a lock in").map(|_| ())
    }

    /// Wakes the readers that wait for a refetch. If an ACL forbids it, they wait for their timeout.
    pub fn publish_refetched(&self, channel: &str) {
        let mut publish = cmd("PUBLISH");
        publish.arg(channel).arg("{}");
        if let Err(error) = self.connections.ask::<Value>(&publish, "cannot publish in") {
            log::debug!(err:% = error; "readers that wait for a refetch were not notified");
        }
    }
}
