//! Whether Redis is there. Workers and the sampler report, pollers and workers wait.
//!
//! While Redis is away nothing is received: messages that were received and cannot be written would be given
//! back or held only to come again, a loop that burns receive counts. What is in hand is kept.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::select;

use crate::log::FaultLog;
use crate::ops::health::HealthBoard;
use crate::ops::metrics::Metrics;
use crate::shutdown::{Stop, StopTrigger, stop_pair};
use crate::store::StoreError;

/// What the log calls all faults of Redis.
const FAULT: &str = "redis ";
/// How long a refused write stands against answers: longer than a worker waits between two tries.
const REFUSAL_STANDS: Duration = Duration::from_secs(5);

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
    /// `None` while Redis is there.
    away: Option<Away>,
    /// When Redis last answered a write by refusing it (a replica, full, ACL …).
    refused_at: Option<Instant>,
    /// A call has failed since it was there: else its coming is no return.
    failed: bool,
}

/// Redis is away. Dropped when it is there again, which wakes whoever waits for that.
#[derive(Debug)]
struct Away {
    since: Instant,
    _over: StopTrigger,
    wait: Stop,
}

impl Away {
    fn since(now: Instant) -> Self {
        let (over, wait) = stop_pair();
        Self {
            since: now,
            _over: over,
            wait,
        }
    }
}

/// What was done when Redis failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum During {
    /// A write of a worker, who will try it again.
    Write,
    /// A question of the sampler.
    Question,
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
            away: Some(Away::since(Instant::now())),
            refused_at: None,
            failed: false,
        };
        Self {
            state: Mutex::new(state),
            health,
            metrics,
            faults,
        }
    }

    /// A call failed with an error that reaches all of Redis.
    pub fn lost(&self, error: &StoreError, during: During) {
        let now = Instant::now();
        let kind = format!("{FAULT}{}", error.cause.label());
        let mut state = self.state();
        state.away.get_or_insert_with(|| Away::since(now));
        state.failed = true;
        match during {
            During::Write if refuses_writes(error) => state.refused_at = Some(now),
            During::Write => state.refused_at = None,
            // A question that is refused says nothing of writes, and the next one that is answered ends it.
            During::Question => {}
        }
        self.tell(false);
        drop(state);
        self.faults.fault(
            &kind,
            log::Level::Error,
            "Redis cannot be used: receiving from the queue is paused, nothing is lost",
            &error.message,
            now,
        );
    }

    /// A call succeeded.
    pub fn found(&self, evidence: Evidence) {
        let mut state = self.state();
        let Some(away_since) = state.away.as_ref().map(|away| away.since) else {
            return;
        };
        // As long as a worker tries to write and is refused, an answer proves nothing. If none has tried for a
        // while, nobody holds a message to try with: then a poller must fetch one.
        let is_refusing = state.refused_at.is_some_and(|at| at.elapsed() < REFUSAL_STANDS);
        if is_refusing && evidence == Evidence::Answered {
            return;
        }
        let failed = state.failed;
        *state = State {
            away: None,
            refused_at: None,
            failed: false,
        };
        self.tell(true);
        drop(state);
        let outage = self.faults.recovered(FAULT, Duration::ZERO, Instant::now());
        if failed {
            let away_secs = away_since.elapsed().as_secs_f64();
            log::info!(away_secs, failed_tries = outage.map_or(0, |outage| outage.faults); "Redis is back after {away_secs:.1} s");
        } else {
            log::info!("connected to Redis");
        }
    }

    /// Told while the state is locked: two threads must not tell in another order than they changed it.
    fn tell(&self, connected: bool) {
        self.health.set_redis_connected(connected);
        self.metrics.redis_up.set(i64::from(connected));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Redis is there, as far as is known.
    pub fn is_open(&self) -> bool {
        self.state().away.is_none()
    }

    /// Redis answers but refuses to write.
    pub fn is_refusing_writes(&self) -> bool {
        self.state().refused_at.is_some()
    }

    /// Waits until Redis is there, the stop comes or the time is over. True if Redis is there.
    pub fn wait_open(&self, stop: &Stop, at_most: Duration) -> bool {
        let deadline = Instant::now() + at_most;
        loop {
            let Some(opens) = self.state().away.as_ref().map(|away| away.wait.clone()) else {
                return true;
            };
            select! {
                recv(opens.channel()) -> _ => {}
                recv(stop.channel()) -> _ => return self.is_open(),
                default(deadline.saturating_duration_since(Instant::now())) => return self.is_open(),
            }
        }
    }
}

fn refuses_writes(error: &StoreError) -> bool {
    matches!(
        error.cause.label(),
        "READONLY" | "OOM" | "MISCONF" | "NOPERM" | "NOREPLICAS"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::health::Patience;
    use crate::store::Cause;

    fn gate() -> RedisGate {
        let metrics = Arc::new(Metrics::new().unwrap());
        let health = HealthBoard::new(1, Patience::default(), Instant::now());
        RedisGate::new(Arc::new(health), metrics, Arc::new(FaultLog::new()))
    }

    fn fault(kind: &str) -> StoreError {
        let cause = match kind {
            "MISCONF" => Cause::CannotPersist,
            "READONLY" => Cause::ReadOnly,
            _ => Cause::Io,
        };
        StoreError {
            message: format!("{kind} on purpose"),
            cause,
        }
    }

    #[test]
    fn a_question_that_was_refused_is_made_good_by_one_that_is_answered() {
        let gate = gate();
        gate.lost(&fault("MISCONF"), During::Question);
        assert!(!gate.is_open() && !gate.is_refusing_writes());
        gate.found(Evidence::Answered);
        assert!(gate.is_open());
    }

    #[test]
    fn a_write_that_was_refused_is_made_good_by_a_write() {
        let gate = gate();
        gate.lost(&fault("READONLY"), During::Write);
        gate.found(Evidence::Answered);
        assert!(!gate.is_open(), "a replica answers questions");
        gate.found(Evidence::Wrote);
        assert!(gate.is_open());
    }

    /// A wait that only looks now and then would end half of its pause too late, each time.
    #[test]
    fn who_waits_is_woken_when_redis_is_there() {
        const TIMES: usize = 100;
        let gate = gate();
        let waits = std::sync::Barrier::new(2);
        let began = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..TIMES {
                    waits.wait();
                    assert!(gate.wait_open(&Stop::never(), Duration::from_mins(1)));
                    waits.wait();
                }
            });
            for _ in 0..TIMES {
                gate.lost(&fault("io"), During::Write);
                waits.wait();
                Stop::never().wait(Duration::from_millis(1));
                gate.found(Evidence::Wrote);
                waits.wait();
            }
        });
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }

    #[test]
    fn a_wait_ends_with_its_time_and_with_the_stop() {
        let gate = gate();
        assert!(!gate.wait_open(&Stop::never(), Duration::from_millis(10)));
        let (trigger, stop) = stop_pair();
        drop(trigger);
        assert!(!gate.wait_open(&stop, Duration::from_mins(1)));
        gate.found(Evidence::Answered);
        assert!(gate.wait_open(&stop, Duration::ZERO));
    }

    #[test]
    fn health_and_metric_agree_with_the_gate_whoever_reports_first() {
        let gate = gate();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        gate.lost(&fault("io"), During::Write);
                        gate.found(Evidence::Wrote);
                        let state = gate.state();
                        let is_open = state.away.is_none();
                        assert_eq!(gate.health.is_redis_connected(), is_open);
                        assert_eq!(gate.metrics.redis_up.get(), i64::from(is_open));
                    }
                });
            }
        });
    }
}
