//! Taking the readers' lock of a refetch: for who asks Stigg for a state and writes it, as an SDK does after a miss.

use std::time::Duration;

use redis::{Value, cmd};

use super::redis_store::{RedisStore, served};
use super::{Reach, StoreError};

/// Deletes the lock if it is still the one that was taken.
const RELEASE: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";

impl RedisStore {
    /// Takes a lock for so long. False: somebody else holds it.
    pub fn take_lock(&self, key: &str, token: &str, life: Duration) -> Result<bool, StoreError> {
        let mut set = cmd("SET");
        set.arg(key).arg(token).arg("NX").arg("PX");
        set.arg(u64::try_from(life.as_millis()).unwrap_or(u64::MAX));
        let answer = self.one_call(&set, "cannot take a lock in")?;
        Ok(answer != Value::Nil)
    }

    /// Gives a lock back that has not run out.
    pub fn release_lock(&self, key: &str, token: &str) -> Result<(), StoreError> {
        let mut release = cmd("EVAL");
        release.arg(RELEASE).arg(1).arg(key).arg(token);
        self.one_call(&release, "cannot give a lock back in").map(|_| ())
    }

    /// Tells the readers that wait for a refetch that it has been done. Whom an ACL forbids it, leaves them to their
    /// timeout.
    pub fn tell_refetched(&self, channel: &str) {
        let mut publish = cmd("PUBLISH");
        publish.arg(channel).arg("{}");
        if let Err(error) = self.one_call(&publish, "cannot publish in") {
            log::debug!(err:% = error; "readers that wait for a refetch were not told");
        }
    }

    fn one_call(&self, call: &redis::Cmd, doing: &str) -> Result<Value, StoreError> {
        self.on_a_connection(|connection| {
            let mut calls = super::request::Calls::default();
            calls.add(call);
            let answer = self.round_trip(connection, &calls)?.pop().unwrap_or(Value::Nil);
            served(answer).map_err(|error| StoreError {
                reach: Reach::Redis,
                ..self.server_error(connection, error, doing)
            })
        })
    }
}
