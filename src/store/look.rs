//! Looking at keys, for those who tell people what is stored. Nothing is changed by it.

use std::time::Duration;

use redis::{Value, cmd};

use super::redis_store::{RedisStore, served};
use super::request::Calls;
use super::{NOPERM, Reach, StoreError};
use crate::entitlement::EpochMs;

/// One key, as it was at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// What it holds.
    pub content: Content,
    /// How long it will hold it.
    pub life: Life,
}

/// What a key holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// There is no such key.
    Absent,
    /// Text.
    Text(String),
    /// Bytes that are no text.
    NotText,
    /// No string at all, but a list or the like: somebody else's.
    Foreign,
}

/// How long a key lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// There is no such key.
    Absent,
    /// It has no expiry.
    ForEver,
    /// It expires.
    Left(Duration),
    /// The ACL forbids the question (`PTTL`).
    Untold,
}

impl Look {
    /// No such key.
    pub const ABSENT: Self = Self {
        content: Content::Absent,
        life: Life::Absent,
    };

    /// The text that the key holds.
    pub fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Text(text) => Some(text),
            Content::Absent | Content::NotText | Content::Foreign => None,
        }
    }
}

impl RedisStore {
    /// Looks at keys, in one round trip and in the order given.
    pub fn look(&self, keys: &[String]) -> Result<Vec<Look>, StoreError> {
        const DOING: &str = "cannot read from";
        self.on_a_connection(|connection| {
            let mut calls = Calls::default();
            for key in keys {
                calls.add(cmd("GET").arg(key));
                calls.add(cmd("PTTL").arg(key));
            }
            let answers = self.round_trip(connection, &calls)?;
            let mut looks = Vec::with_capacity(keys.len());
            for pair in answers.chunks_exact(2) {
                let told = |answer: &Value| served(answer.clone());
                let content = match told(&pair[0]) {
                    Ok(Value::Nil) => Content::Absent,
                    Ok(Value::BulkString(bytes)) => {
                        String::from_utf8(bytes).map_or(Content::NotText, Content::Text)
                    }
                    Ok(_) => return Err(self.not_ours("GET answered in an unknown form")),
                    Err(error) if error.code() == "WRONGTYPE" => Content::Foreign,
                    Err(error) => {
                        return Err(StoreError {
                            reach: Reach::Redis,
                            ..self.server_error(connection, error, DOING)
                        });
                    }
                };
                let life = match told(&pair[1]) {
                    Ok(Value::Int(-1)) => Life::ForEver,
                    Ok(Value::Int(left)) => u64::try_from(left)
                        .map_or(Life::Absent, |left| Life::Left(Duration::from_millis(left))),
                    Err(error) if error.code() == NOPERM => Life::Untold,
                    Ok(_) | Err(_) => return Err(self.not_ours("PTTL answered in an unknown form")),
                };
                looks.push(Look { content, life });
            }
            Ok(looks)
        })
    }
}

impl RedisStore {
    /// What time it is at the server. None if it cannot be asked: it is a second opinion, no more.
    pub fn time(&self) -> Option<EpochMs> {
        let answer =
            self.on_a_connection(|connection| self.ask(connection, &cmd("TIME"), "cannot ask the time of"));
        let (secs, micros): (String, String) = redis::from_redis_value(answer.ok()?).ok()?;
        let (secs, micros): (i64, i64) = (secs.parse().ok()?, micros.parse().ok()?);
        Some(EpochMs(secs.checked_mul(1_000)?.checked_add(micros / 1_000)?))
    }
}
