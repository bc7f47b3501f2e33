//! What is watched while it runs: that no stored timestamp goes back, that something goes on, that every instance
//! lives.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use persistent_cache_service::shutdown::Stop;

use crate::redis_pair::connect;
use crate::run::Stage;

/// How often keys are checked.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Keys in one check, in turn: all of them within a second.
const SLICE: usize = 1_000;
/// A shorter time without a write is no outage, but two batches.
const OUTAGE: Duration = Duration::from_millis(300);
/// How often progress is reported.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// The keys whose timestamp went back, or away.
#[derive(Default)]
pub struct WentBack {
    found: Mutex<Vec<String>>,
}

impl WentBack {
    pub fn found(&self) -> Vec<String> {
        self.found.lock().expect("no holder panics").clone()
    }

    fn add(&self, what: String) {
        self.found.lock().expect("no holder panics").push(what);
    }
}

/// Checks the timestamps of all keys in turn, always on the primary.
pub fn for_stale(stage: &Stage, keys: &[String], went_back: &WentBack, stop: &Stop) {
    let mut seen: Vec<Option<i64>> = vec![None; keys.len()];
    let mut connection: Option<(u16, redis::Connection)> = None;
    let mut from = 0;
    loop {
        let stopped = stop.wait(LOOK_EVERY);
        // At the end once more all of them.
        let slices = if stopped { keys.len().div_ceil(SLICE) } else { 1 };
        for _ in 0..slices {
            let to = (from + SLICE).min(keys.len());
            // Held during the check: the primary stays the primary.
            let redis = stage.redis();
            let port = redis.primary_port();
            if connection.as_ref().is_none_or(|(known, _)| *known != port) {
                connection = connect(port).ok().map(|connection| (port, connection));
            }
            let Some((_, open)) = &mut connection else {
                continue;
            };
            let mut mget = redis::cmd("MGET");
            for key in &keys[from..to] {
                mget.arg(format!("{key}#timestamp"));
            }
            let Ok(found) = mget.query::<Vec<Option<i64>>>(open) else {
                connection = None;
                continue;
            };
            drop(redis);
            for (offset, now) in found.into_iter().enumerate() {
                let (key, before) = (&keys[from + offset], &mut seen[from + offset]);
                if now < *before {
                    went_back.add(format!("{key} went back from {before:?} to {now:?}"));
                }
                *before = now;
            }
            from = if to == keys.len() { 0 } else { to };
        }
        if stopped {
            return;
        }
    }
}

/// Measures how long no progress is made while messages are waiting: neither a write to Redis nor a delete. Checks
/// that the instances run, and reports progress.
pub fn for_outages(stage: &Stage, stop: &Stop) {
    let mut connection: Option<(u16, redis::Connection)> = None;
    let mut last = (0, 0);
    let mut went_on_at = Instant::now();
    let mut reported_at = Instant::now();
    while !stop.wait(LOOK_EVERY) {
        if let Err(ended) = stage.fleet.check() {
            stage.journal.fail(ended);
            return;
        }
        let counts = stage.queue.counts();
        let writes = writes(stage, &mut connection).unwrap_or(last.1);
        let now = (counts.deleted, writes);
        if now != last || counts.visible == 0 {
            let outage = went_on_at.elapsed();
            if now != last && outage >= OUTAGE {
                stage.journal.outage(went_on_at, Instant::now());
            }
            last = now;
            went_on_at = Instant::now();
        }
        if reported_at.elapsed() >= REPORT_EVERY {
            reported_at = Instant::now();
            println!(
                "{} sent, {} applied, {} redelivered, {} waiting, {} in flight; {}",
                counts.sent,
                counts.deleted,
                counts.redelivered,
                counts.visible,
                counts.in_flight,
                stage.journal.latest()
            );
        }
    }
}

/// How many SETs the primary has run since it started: every write of the service is one.
fn writes(stage: &Stage, connection: &mut Option<(u16, redis::Connection)>) -> Option<u64> {
    let redis = stage.redis();
    let port = redis.primary_port();
    if connection.as_ref().is_none_or(|(known, _)| *known != port) {
        *connection = connect(port).ok().map(|connection| (port, connection));
    }
    let (_, open) = connection.as_mut()?;
    let Ok(info) = redis::cmd("INFO").arg("commandstats").query::<String>(open) else {
        *connection = None;
        return None;
    };
    drop(redis);
    let line = info.lines().find_map(|line| line.strip_prefix("cmdstat_set:calls="))?;
    line.split(',').next()?.parse().ok()
}
