//! What all loops share.

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
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
use crate::sqs::{BatchOutcome, EntryFailure, Operation, Queue, QueueError};
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
    pub recorded: Sender<Recorded>,
    /// With REFRESH_AFTER_PURGE: whom the workers purged.
    pub refreshes: Option<Arc<RefreshQueue>>,
    pub shutdown: Phases<Stop>,
}

/// What became of one entry of a batch.
#[derive(Debug, Clone)]
pub enum Sent {
    Done,
    /// It can be sent again.
    Failed,
    /// Sending it again cannot help: the queue does not know the receipt handle any more.
    Refused(EntryFailure),
}

impl Context {
    /// Records how deliveries end and sends them to the deleters. Waits for room until the exit phase: there is none
    /// only while the queue fails.
    pub fn record(&self, ended: Vec<(InFlightDelivery, Ending)>) {
        if ended.is_empty() {
            return;
        }
        for recorded in self.in_flight.record(ended) {
            let _ = self.recorded.send(recorded); // fails once all deleters have ended
        }
    }

    pub fn fault(&self, kind: &str, level: Level, message: &str, error: &str) {
        self.faults.fault(kind, level, message, error, Instant::now());
    }

    /// Counts and logs a failed call to the queue, as a fault whose kind begins with the operation's label.
    pub fn queue_failed(&self, operation: Operation, kind: &str, message: &str, error: &str) {
        let (operation, is_receive) = (operation.label(), operation == Operation::Receive);
        add(&self.metrics.queue_errors, operation, 1);
        let level = if is_receive { Level::Error } else { Level::Warn };
        self.fault(&format!("{operation} {kind}"), level, message, error);
    }

    /// What became of each entry of a batch call to the queue.
    pub fn sent<T>(
        &self,
        operation: Operation,
        entries: Vec<T>,
        result: Result<BatchOutcome, QueueError>,
    ) -> Vec<(T, Sent)> {
        let label = operation.label();
        let is_delete = operation == Operation::Delete;
        let what = if is_delete { "delete messages" } else { "change the visibility of messages" };
        let failed = |kind: &str, error: &str| {
            self.queue_failed(operation, kind, &format!("cannot {what}: retrying"), error);
            Sent::Failed
        };
        let failures = match result {
            Ok(failures) => failures,
            Err(error) => {
                let failed = failed(&error.kind, &error.message);
                return entries.into_iter().map(|entry| (entry, failed.clone())).collect();
            }
        };
        if failures.iter().all(Option::is_none) {
            self.works_again(label, format_args!("calls ({label}) succeed"));
        }
        let sent = failures.into_iter().map(|failure| match failure {
            None => Sent::Done,
            Some(failure) if failure.is_final() => Sent::Refused(failure),
            Some(failure) => failed(&failure.code, &failure.message),
        });
        entries.into_iter().zip(sent).collect()
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
