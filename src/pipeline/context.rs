//! What all loops share.

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, select};
use log::Level;
use prometheus::IntCounterVec;

use super::ending::Ending;
use super::gate::RedisGate;
use super::in_flight::{InFlight, InFlightDelivery, Recorded};
use crate::cache::Layout;
use crate::clock;
use crate::clock::EpochMs;
use crate::config::PoisonPolicy;
use crate::log::FaultLog;
use crate::ops::health::HealthBoard;
use crate::ops::metrics::Metrics;
use crate::refresh::RefreshQueue;
use crate::sentry_reports::Reporter;
use crate::shutdown::{Phases, Stop};
use crate::sqs::{Operation, Queue};
use crate::store::CacheStore;

pub struct Context {
    /// Messages per receive, 1 to 10.
    pub batch_size: u8,
    /// A long poll's wait.
    pub wait_time: Duration,
    pub poison_policy: PoisonPolicy,
    pub layout: Layout,
    pub queue: Arc<dyn Queue>,
    pub store: Arc<dyn CacheStore>,
    pub in_flight: InFlight,
    pub gate: Arc<RedisGate>,
    pub health: Arc<HealthBoard>,
    pub metrics: Arc<Metrics>,
    pub faults: Arc<FaultLog>,
    pub reporter: Reporter,
    /// To the deleters. Bounded: when they fall behind, the workers wait.
    pub recorded: Sender<Vec<Recorded>>,
    /// With REFRESH_AFTER_PURGE: whom the workers purged.
    pub refreshes: Option<Arc<RefreshQueue>>,
    pub shutdown: Phases<Stop>,
}

impl Context {
    /// Records how deliveries end and sends them to the deleters. Waits for room until the exit phase: there is none
    /// only while the queue fails.
    pub fn record(&self, ended: Vec<(InFlightDelivery, Ending)>) {
        let recorded = self.in_flight.record(ended);
        if recorded.is_empty() {
            return;
        }
        select! {
            send(self.recorded, recorded) -> _ => {}
            recv(self.shutdown.exit.channel()) -> _ => {}
        }
    }

    pub fn fault(&self, kind: &str, level: Level, message: &str, error: &str) {
        self.faults.fault(kind, level, message, error, Instant::now());
    }

    /// Counts and logs a failed call to the queue.
    pub fn queue_failed(&self, operation: Operation, kind: &str, level: Level, message: &str, error: &str) {
        add(&self.metrics.queue_errors, operation.label(), 1);
        self.fault(kind, level, message, error);
    }

    /// Logs that what these kinds of fault prevented works again: once, by whoever notices first.
    pub fn works_again(&self, kinds: &str, what: impl Display) {
        // An intermittent fault must not log each recovery.
        const QUIET: Duration = Duration::from_secs(5);
        if let Some(outage) = self.faults.recovered(kinds, QUIET, Instant::now()) {
            let lasted_secs = outage.lasted.as_secs_f64();
            log::info!(lasted_secs, failed_tries = outage.faults; "{what} again after {lasted_secs:.1} s");
        }
    }
}

/// Adds to the counter with this label.
pub fn add(counters: &IntCounterVec, label: &str, by: u64) {
    counters.with_label_values(&[label]).inc_by(by);
}

/// As Prometheus wants timestamps: seconds since the epoch.
#[allow(clippy::cast_precision_loss)] // milliseconds since 1970 have 41 bits
pub fn seconds(at: EpochMs) -> f64 {
    at.0 as f64 / 1_000.0
}

pub fn seconds_now() -> f64 {
    seconds(clock::now())
}
