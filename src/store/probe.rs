//! What `check` asks of Redis, and the service does not.

use redis::{Value, cmd};

use super::redis_store::{RedisStore, served};
use super::request::Calls;
use super::{NOPERM, Reach, StoreError};

/// How long a probe key lives, should nobody delete it.
const PROBE_SECS: u32 = 10;

/// What a server says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerFacts {
    /// The ACL allows the questions.
    pub told: bool,
    /// `redis_version`.
    pub version: Option<String>,
    /// `master` or `slave`.
    pub role: Option<String>,
    /// Bytes; 0 is no bound.
    pub maxmemory: Option<u64>,
    /// What is done when it is full.
    pub maxmemory_policy: Option<String>,
}

impl RedisStore {
    /// What the server says of itself. Fails if it does not answer; what an ACL forbids to ask is left out.
    pub fn facts(&self) -> Result<ServerFacts, StoreError> {
        const DOING: &str = "cannot ask";
        self.on_a_connection(|connection| {
            let mut facts = ServerFacts::default();
            for section in ["server", "memory", "replication"] {
                let mut info = cmd("INFO");
                info.arg(section);
                let answer = match self.ask(connection, &info, DOING) {
                    Ok(answer) => answer,
                    Err(error) if error.kind == NOPERM => continue,
                    Err(error) => return Err(error),
                };
                let text = redis::from_redis_value::<String>(answer)
                    .map_err(|_| self.not_ours("INFO is no text"))?;
                facts.read(&text);
            }
            // Managed servers may hide a part of INFO; ROLE is the same everywhere.
            match self.ask(connection, &cmd("ROLE"), DOING) {
                Ok(Value::Array(role)) => {
                    if let Some(Value::BulkString(role)) = role.first() {
                        facts.role = Some(String::from_utf8_lossy(role).into_owned());
                    }
                }
                Ok(_) => {}
                Err(error) if error.kind == NOPERM => {}
                Err(error) => return Err(error),
            }
            Ok(facts)
        })
    }

    /// Writes a key, reads it and deletes it.
    pub fn write_read_delete(&self, key: &str) -> Result<(), StoreError> {
        const VALUE: &[u8] = b"probe";
        self.on_a_connection(|connection| {
            let mut calls = Calls::default();
            calls.add(cmd("SET").arg(key).arg(VALUE).arg("EX").arg(PROBE_SECS));
            calls.add(cmd("GET").arg(key));
            calls.add(cmd("DEL").arg(key));
            let answers = self.round_trip(connection, &calls)?;
            let doing = ["cannot write to", "cannot read from", "cannot delete from"];
            let mut read = Value::Nil;
            for (index, (answer, doing)) in answers.into_iter().zip(doing).enumerate() {
                let answer = served(answer).map_err(|error| StoreError {
                    reach: Reach::Redis,
                    ..self.server_error(connection, error, doing)
                })?;
                if index == 1 {
                    read = answer;
                }
            }
            if read == Value::BulkString(VALUE.to_vec()) {
                Ok(())
            } else {
                Err(self.not_ours("a key that was written does not read as what was written"))
            }
        })
    }
}

impl ServerFacts {
    fn read(&mut self, info: &str) {
        self.told = true;
        for line in info.lines() {
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_from_info() {
        let mut facts = ServerFacts::default();
        facts.read("# Server\r\nredis_version:7.0.15\r\n");
        facts.read("maxmemory:0\r\nmaxmemory_policy:noeviction\r\nmaxmemory_human:0B\r\nrole:master\r\n");
        let expected = ServerFacts {
            told: true,
            version: Some("7.0.15".to_owned()),
            role: Some("master".to_owned()),
            maxmemory: Some(0),
            maxmemory_policy: Some("noeviction".to_owned()),
        };
        assert_eq!(facts, expected);
    }
}
