//! Whether Redis is there. Workers and the sampler report, pollers and workers wait.
//!
//! While Redis is away nothing is received: messages that were received and cannot be written would be given
//! back or held only to come again, a loop that burns receive counts. What is in hand is kept.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::log::FaultLog;
use crate::ops::health::HealthBoard;
use crate::ops::metrics::Metrics;
use crate::shutdown::Stop;
use crate::store::StoreError;
use std::sync::Arc;

/// How often a waiting thread looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Whether Redis is there, as far as is known.
#[derive(Debug)]
pub struct RedisGate {
    state: Mutex<State>,
    health: Arc<HealthBoard>,
    metrics: Arc<Metrics>,
    faults: Arc<FaultLog>,
}

#[derive(Debug)]
struct State {
    /// Since when Redis is away; `None` while it is there.
    away_since: Option<Instant>,
    /// Redis answers but refuses to write (a replica, full, ACL …): only a write that succeeds ends this.
    refuses_writes: bool,
    /// It was there once: else its coming is no return.
    was_there: bool,
}

/// What showed that Redis is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// It answered.
    Answered,
    /// It took a write.
    Wrote,
}

impl RedisGate {
    /// Redis is taken to be away until something shows that it is there.
    pub fn new(health: Arc<HealthBoard>, metrics: Arc<Metrics>, faults: Arc<FaultLog>) -> Self {
        let state = State {
            away_since: Some(Instant::now()),
            refuses_writes: false,
            was_there: false,
        };
        Self {
            state: Mutex::new(state),
            health,
            metrics,
            faults,
        }
    }

    /// A call failed with an error that reaches all of Redis.
    pub fn lost(&self, error: &StoreError) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.away_since.is_none() {
            state.away_since = Some(Instant::now());
        }
        state.refuses_writes = refuses_writes(error);
        drop(state);
        self.health.set_redis_connected(false);
        self.metrics.redis_up.set(0);
        self.faults.fault(
            &format!("redis {}", error.kind),
            log::Level::Error,
            "Redis is away: receiving from the queue is paused, nothing is lost",
            &error.message,
            Instant::now(),
        );
    }

    /// A call succeeded.
    pub fn found(&self, evidence: Evidence) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(away_since) = state.away_since else {
            return;
        };
        if state.refuses_writes && evidence == Evidence::Answered {
            return;
        }
        let returned = state.was_there;
        *state = State {
            away_since: None,
            refuses_writes: false,
            was_there: true,
        };
        drop(state);
        self.health.set_redis_connected(true);
        self.metrics.redis_up.set(1);
        if returned {
            let away_secs = away_since.elapsed().as_secs_f64();
            log::info!(away_secs; "Redis is back after {away_secs:.1} s");
        } else {
            log::info!("connected to Redis");
        }
    }

    /// Redis is there, as far as is known.
    pub fn is_open(&self) -> bool {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .away_since
            .is_none()
    }

    /// Redis answers but refuses to write.
    pub fn is_refusing_writes(&self) -> bool {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .refuses_writes
    }

    /// Waits until Redis is there, the stop comes or the time is over. True if Redis is there.
    pub fn wait_open(&self, stop: &Stop, at_most: Duration) -> bool {
        let deadline = Instant::now() + at_most;
        while !self.is_open() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || stop.wait(left.min(LOOK_EVERY)) {
                return self.is_open();
            }
        }
        true
    }
}

fn refuses_writes(error: &StoreError) -> bool {
    matches!(
        error.kind.as_str(),
        "READONLY" | "OOM" | "MISCONF" | "NOPERM" | "NOREPLICAS"
    )
}
