//! A look at whose customers are in Redis. It only reads, in small steps of which each takes a connection of the pool
//! for itself, so that no writer waits for the whole of it.

use std::collections::BTreeSet;

use redis::cmd;

use super::redis_store::{RedisStore, stopped};
use super::{StoreError, Survey};
use crate::cache::keyspace::{ANY_CUSTOMER_KEYS, Keyspace, prefix_of};

/// Keys that one step looks at: a millisecond of the server's time.
const KEYS_A_STEP: u32 = 1_000;
/// So many steps at most: a million keys.
const STEPS_MAX: u32 = 1_000;
/// So many prefixes are kept: more tell nothing more.
const OTHERS_MAX: usize = 100;

pub(super) fn survey(
    store: &RedisStore,
    own: &Keyspace,
    go_on: &dyn Fn() -> bool,
) -> Result<Survey, StoreError> {
    let mut others = BTreeSet::new();
    let mut cursor = b"0".to_vec();
    for _ in 0..STEPS_MAX {
        let (next, keys) = step(store, &cursor)?;
        for key in keys {
            if own.is_customers(&key) {
                return Ok(Survey {
                    has_own: true,
                    others,
                    is_whole: false,
                });
            }
            if others.len() < OTHERS_MAX {
                others.extend(prefix_of(&key));
            }
        }
        if next == b"0" {
            return Ok(Survey {
                has_own: false,
                others,
                is_whole: true,
            });
        }
        if !go_on() {
            return Err(stopped("gave up looking whose customers are in Redis"));
        }
        cursor = next;
    }
    Ok(Survey {
        has_own: false,
        others,
        is_whole: false,
    })
}

/// One step from `cursor`: where to go on, and the keys that look like those of customers.
fn step(store: &RedisStore, cursor: &[u8]) -> Result<(Vec<u8>, Vec<Vec<u8>>), StoreError> {
    let mut scan = cmd("SCAN");
    scan.arg(cursor)
        .arg("MATCH")
        .arg(ANY_CUSTOMER_KEYS)
        .arg("COUNT")
        .arg(KEYS_A_STEP);
    store.on_a_connection(|connection| {
        let answer = store.ask(connection, &scan, "cannot look whose customers are in")?;
        redis::from_redis_value(answer).map_err(|_| store.not_ours("SCAN answered in an unknown form"))
    })
}
