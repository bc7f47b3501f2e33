//! What `GET /status` answers, and what the page is made of. Data alone; nothing here is a secret or a customer's.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use crate::clock;
use crate::entitlement::EpochMs;

/// A moment, told as people and programs read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment(pub(super) EpochMs);

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&clock::rfc3339(self.0))
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Report {
    pub(super) service: &'static str,
    pub(super) version: &'static str,
    pub(super) commit: &'static str,
    pub(super) now: Moment,
    pub(super) started_at: Moment,
    pub(super) uptime_secs: u64,
    pub(super) state: State,
    /// Why it is not ready.
    pub(super) reasons: Vec<&'static str>,
    pub(super) state_since: Moment,
    pub(super) messages: Messages,
    /// Of the last minute, five minutes, quarter of an hour; fewer while less time has passed.
    pub(super) rates: Vec<Rates>,
    pub(super) queue: Queue,
    pub(super) redis: Redis,
    pub(super) credentials: Credentials,
    /// The newest first.
    pub(super) errors: Vec<Fault>,
    pub(super) settings: Vec<Setting>,
    /// The charts: from sample to sample, the oldest first.
    pub(super) history: Vec<Step>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    Ready,
    NotReady,
    Stopping,
    /// The loops are dead.
    Dead,
}

/// Counts since the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Messages {
    pub(super) received: u64,
    pub(super) processed: u64,
    pub(super) failed_tries: u64,
    pub(super) malformed: u64,
    pub(super) writes_skipped: u64,
    pub(super) in_flight: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Rates {
    pub(super) window_secs: u64,
    /// The time over which it was really measured: from sample to now.
    pub(super) measured_secs: f64,
    pub(super) received_per_sec: f64,
    pub(super) processed_per_sec: f64,
    pub(super) errors_per_min: f64,
    pub(super) age: Option<Typical>,
    pub(super) handling: Option<Typical>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Typical {
    pub(super) mean_secs: f64,
    /// 95 of 100 are at most this, as exactly as the metric's buckets are; null beyond the largest.
    pub(super) p95_at_most_secs: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Step {
    /// The end of the step, before now.
    pub(super) ago_secs: f64,
    pub(super) secs: f64,
    pub(super) processed_per_sec: f64,
    pub(super) errors_per_min: f64,
    pub(super) mean_age_secs: Option<f64>,
    pub(super) mean_handling_secs: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Queue {
    pub(super) url: String,
    pub(super) region: String,
    pub(super) last_poll_at: Option<Moment>,
    pub(super) pollers: Pollers,
    /// Failed calls since the start, by operation.
    pub(super) errors: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Pollers {
    pub(super) alive: usize,
    /// Of them, or beyond the grace: their last call failed.
    pub(super) failing: usize,
    pub(super) silent: usize,
    pub(super) total: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Redis {
    pub(super) at: String,
    pub(super) connected: bool,
    pub(super) last_write_at: Option<Moment>,
    pub(super) write_errors: u64,
    pub(super) hit_ratio_percent: f64,
    pub(super) used_memory_bytes: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Credentials {
    pub(super) source: &'static str,
    pub(super) expire_at: Option<Moment>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Fault {
    pub(super) level: &'static str,
    pub(super) what: String,
    pub(super) why: String,
    pub(super) times: u64,
    pub(super) first_at: Moment,
    pub(super) last_at: Moment,
    /// What it hindered is done again.
    pub(super) is_over: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Setting {
    pub(super) name: String,
    pub(super) group: String,
    pub(super) is_secret: bool,
    pub(super) is_set: bool,
    /// Given by the operator, rather than left to its default.
    pub(super) is_given: bool,
    /// Null for a secret, and for what is not set.
    pub(super) value: Option<String>,
}
