//! The end: every key in Redis against the newest state that was sent.

use crate::redis_pair::{RedisPair, connect};
use crate::world::{Key, Version};

/// Keys in one check.
const SLICE: usize = 500;

/// Each key that is not as it has to be, and how it is. Keys and numbers are the run's own inventions.
pub fn lost(redis: &RedisPair, keys: &[Key]) -> Vec<String> {
    let mut connection = connect(redis.primary_port()).expect("redis answers");
    let mut lost = Vec::new();
    for keys in keys.chunks(SLICE) {
        let mut mget = redis::cmd("MGET");
        for key in keys {
            mget.arg(&key.name).arg(format!("{}#timestamp", key.name));
        }
        let found: Vec<Option<String>> = mget.query(&mut connection).expect("redis answers");
        for (key, pair) in keys.iter().zip(found.chunks(2)) {
            if let Some(newest) = key.newest
                && let Err(fault) = compare(key, newest, pair[0].as_deref(), pair[1].as_deref())
            {
                lost.push(format!("{}: {fault}", key.name));
            }
        }
    }
    lost
}

fn compare(key: &Key, newest: Version, value: Option<&str>, timestamp: Option<&str>) -> Result<(), String> {
    let (Some(value), Some(timestamp)) = (value, timestamp) else {
        return Err(format!("absent (value: {}, timestamp: {})", value.is_some(), timestamp.is_some()));
    };
    if timestamp != newest.at_ms.to_string() {
        return Err(format!("of {timestamp}, and {} was sent", newest.at_ms));
    }
    match key.number_in(value, newest) {
        Some(number) if number == newest.number => Ok(()),
        other => Err(format!(
            "its timestamp is the newest, but its value is that of {other:?} and not of {}",
            newest.number
        )),
    }
}
