//! The Redis gate: closed while Redis cannot be used.
//!
//! While it is closed nothing is received: messages that cannot be written would only use up their receive counts.
//! What is in flight is kept.
//!
//! After a failed write only a successful write proves that Redis is back; a PING proves nothing. While a worker is
//! about to retry its write, that retry decides; if nobody holds anything to write, the sampler writes a probe. A
//! failed read is ended by a successful one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::select;

use crate::log::FaultLog;
use crate::ops::health::HealthBoard;
use crate::ops::metrics::Metrics;
use crate::shutdown::{Stop, StopTrigger, stop_pair};
use crate::store::StoreError;

/// The prefix of the kinds of all Redis faults in the log.
const FAULT: &str = "redis ";
/// A recovery this soon after another belongs to the same outage: part of the work succeeds and part does not. It is logged
/// once it has lasted this long.
const STABLE_AFTER: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct RedisGate {
    state: Mutex<GateState>,
    /// Cloned by each worker that is about to retry a write.
    retries: Arc<()>,
    health: Arc<HealthBoard>,
    metrics: Arc<Metrics>,
    faults: Arc<FaultLog>,
}

#[derive(Debug)]
struct GateState {
    closed: Option<Closed>,
    has_failed: bool,
    recovered_at: Option<Instant>,
}

#[derive(Debug)]
struct Closed {
    needs_write: bool,
    /// Dropped with the rest when Redis is back, which wakes whoever waits for that.
    _opens: StopTrigger,
    opened: Stop,
}

impl Closed {
    fn new() -> Self {
        let (opens, opened) = stop_pair();
        Self { needs_write: false, _opens: opens, opened }
    }
}

/// What has failed or succeeded: a PING or INFO, or a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

impl RedisGate {
    /// Closed, until a first call succeeds.
    pub fn new(health: Arc<HealthBoard>, metrics: Arc<Metrics>, faults: Arc<FaultLog>) -> Arc<Self> {
        let closed = Some(Closed::new());
        let state = Mutex::new(GateState { closed, has_failed: false, recovered_at: None });
        Arc::new(Self { state, retries: Arc::default(), health, metrics, faults })
    }

    /// The caller will retry its failed write: until it drops this, no probe opens the gate.
    pub fn retry_write(&self) -> Arc<()> {
        Arc::clone(&self.retries)
    }

    /// Only a write can open the gate, and no worker has one to make.
    pub fn needs_probe(&self) -> bool {
        let needs_write = self.state().closed.as_ref().is_some_and(|closed| closed.needs_write);
        needs_write && Arc::strong_count(&self.retries) == 1
    }

    pub fn is_open(&self) -> bool {
        self.state().closed.is_none()
    }

    /// Waits until the gate is open, the stop comes or the time is over. True if it is open.
    pub fn wait_open(&self, stop: &Stop, at_most: Duration) -> bool {
        let Some(opened) = self.state().closed.as_ref().map(|closed| closed.opened.clone()) else {
            return true;
        };
        select! {
            recv(opened.channel()) -> _ => {}
            recv(stop.channel()) -> _ => {}
            default(at_most) => {}
        }
        self.is_open()
    }

    /// Logs a recovery that was not logged at once. To be called every now and then.
    pub fn tick(&self, now: Instant) {
        let recovered_at = self.state().recovered_at;
        if self.is_open() && recovered_at.is_some_and(|at| now.saturating_duration_since(at) >= STABLE_AFTER)
        {
            self.log_recovery(now);
        }
    }

    /// An access that began at this time failed, and not because of what was written.
    pub fn failed(&self, access: Access, error: &StoreError, began: Instant) {
        let now = Instant::now();
        let mut state = self.state();
        // A call that began before Redis recovered says nothing about it now.
        if state.closed.is_none() && state.recovered_at.is_some_and(|recovered_at| began < recovered_at) {
            return;
        }
        state.closed.get_or_insert_with(Closed::new).needs_write |= access == Access::Write;
        state.has_failed = true;
        self.publish(false);
        drop(state);
        let kind = format!("{FAULT}{}", error.cause.label());
        let message = "Redis cannot be used: receiving from the queue is paused, nothing is lost";
        self.faults.fault(&kind, log::Level::Error, message, &error.message, now);
    }

    pub fn succeeded(&self, access: Access) {
        let mut state = self.state();
        let is_enough = |closed: &Closed| access == Access::Write || !closed.needs_write;
        if !state.closed.as_ref().is_some_and(is_enough) {
            return;
        }
        state.closed = None;
        self.publish(true);
        if !state.has_failed {
            drop(state); // writing the log may block
            return log::info!("connected to Redis");
        }
        let now = Instant::now();
        let last = state.recovered_at.replace(now);
        drop(state);
        if last.is_none_or(|last| now.saturating_duration_since(last) >= STABLE_AFTER) {
            self.log_recovery(now);
        }
    }

    fn log_recovery(&self, now: Instant) {
        if let Some(outage) = self.faults.recovered(FAULT, Duration::ZERO, now) {
            let (lasted_secs, failed_tries) = (outage.lasted.as_secs_f64(), outage.faults);
            log::info!(lasted_secs, failed_tries; "Redis recovered after {lasted_secs:.1} s");
        }
    }

    /// Called with the state locked: two threads must not publish in another order than they changed it.
    fn publish(&self, is_open: bool) {
        self.health.set_redis_connected(is_open);
        self.metrics.redis_up.set(i64::from(is_open));
    }

    fn state(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Cause;

    fn gate() -> Arc<RedisGate> {
        let metrics = Arc::new(Metrics::new().unwrap());
        let health = HealthBoard::new(1, Duration::from_mins(1), Instant::now());
        RedisGate::new(Arc::new(health), metrics, Arc::new(FaultLog::default()))
    }

    fn error(kind: &str) -> StoreError {
        StoreError { message: format!("{kind} on purpose"), cause: Cause::Other(kind.to_owned()) }
    }

    #[test]
    fn a_call_that_began_before_redis_was_back_does_not_begin_another_outage() {
        let gate = gate();
        let began = Instant::now();
        gate.failed(Access::Write, &error("io"), began);
        gate.succeeded(Access::Write);
        gate.failed(Access::Write, &error("timeout"), began);
        assert!(gate.is_open());
        gate.failed(Access::Write, &error("timeout"), Instant::now());
        assert!(!gate.is_open());
    }

    #[test]
    fn a_failed_read_is_ended_by_a_successful_one() {
        let gate = gate();
        gate.failed(Access::Read, &error("MISCONF"), Instant::now());
        assert!(!gate.is_open() && !gate.needs_probe());
        gate.succeeded(Access::Read);
        assert!(gate.is_open());
    }

    #[test]
    fn a_failed_write_is_ended_by_a_successful_write_alone_whatever_the_error_was() {
        for kind in ["READONLY", "timeout", "io", "ERR"] {
            let gate = gate();
            gate.succeeded(Access::Read);
            gate.failed(Access::Write, &error(kind), Instant::now());
            gate.failed(Access::Read, &error("timeout"), Instant::now());
            gate.succeeded(Access::Read);
            assert!(!gate.is_open() && gate.needs_probe(), "{kind}");
            gate.succeeded(Access::Write);
            assert!(gate.is_open() && !gate.needs_probe(), "{kind}");
        }
    }

    #[test]
    fn no_probe_is_needed_while_a_worker_is_about_to_retry() {
        let gate = gate();
        let retries = [gate.retry_write(), gate.retry_write()];
        gate.failed(Access::Write, &error("io"), Instant::now());
        assert!(!gate.needs_probe());
        drop(retries);
        assert!(gate.needs_probe());
    }

    #[test]
    fn a_fault_that_returns_at_once_is_one_outage() {
        let gate = gate();
        let is_announced = || gate.faults.recent_faults().iter().all(|fault| fault.is_over);
        gate.succeeded(Access::Read);
        gate.failed(Access::Write, &error("io"), Instant::now());
        gate.succeeded(Access::Write);
        assert!(is_announced(), "the first recovery is logged at once");
        for _ in 0..3 {
            gate.failed(Access::Write, &error("io"), Instant::now());
            gate.succeeded(Access::Write);
            assert!(gate.is_open() && !is_announced());
        }
        gate.tick(Instant::now());
        assert!(!is_announced());
        gate.tick(Instant::now() + STABLE_AFTER);
        assert!(is_announced(), "it has lasted");
    }

    /// A wait that only looks now and then would end half of its pause too late, each time.
    #[test]
    fn who_waits_is_woken_when_redis_is_back() {
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
                gate.failed(Access::Write, &error("io"), Instant::now());
                waits.wait();
                gate.succeeded(Access::Write);
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
        gate.succeeded(Access::Read);
        assert!(gate.wait_open(&stop, Duration::ZERO));
    }

    #[test]
    fn health_and_metric_agree_with_the_gate_whoever_reports_first() {
        let gate = gate();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        gate.failed(Access::Write, &error("io"), Instant::now());
                        gate.succeeded(Access::Write);
                        let state = gate.state();
                        let is_open = state.closed.is_none();
                        assert_eq!(gate.health.readiness(Instant::now()).redis_connected, is_open);
                        assert_eq!(gate.metrics.redis_up.get(), i64::from(is_open));
                    }
                });
            }
        });
    }
}
