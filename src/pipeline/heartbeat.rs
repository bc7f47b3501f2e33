//! Keeps what is in hand hidden from others: extends each message's visibility at half of its time.
//!
//! Without it a message that waits for a lock or for Redis would be received again meanwhile, by this service or
//! another, its receive count would grow, and the dead-letter rule could take it for nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::lease::{ASSUMED_TIMEOUT, Extension, Handle, Leases};
use crate::log::FaultLog;
use crate::ops::metrics::Metrics;
use crate::shutdown::Stop;
use crate::sqs::{EntryFailure, Operation, Queue, ReceiptHandle};

/// SQS takes so many entries a call.
const BATCH: usize = 10;

/// The heartbeat.
pub struct Heartbeat {
    /// The queue.
    pub queue: Arc<dyn Queue>,
    /// What is in hand.
    pub leases: Arc<Leases>,
    /// Counted in.
    pub metrics: Arc<Metrics>,
    /// Where failures are logged.
    pub faults: Arc<FaultLog>,
    /// Ends the loop. Comes after the workers have ended.
    pub stop: Stop,
}

impl Heartbeat {
    /// Beats until the stop.
    pub fn run(&self) {
        let mut asking = Backoff::new(Duration::from_secs(1), Duration::from_mins(1));
        let mut calling = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));
        let mut ask_at = Some(Instant::now());
        let mut call_at = Instant::now();
        loop {
            let now = Instant::now();
            if ask_at.is_some_and(|at| at <= now) {
                ask_at = (!self.learn_timeout()).then(|| Instant::now() + asking.next_wait(fastrand::f64()));
            }
            if call_at <= now {
                if self.beat(Instant::now()) {
                    calling.reset();
                } else {
                    call_at = Instant::now() + calling.next_wait(fastrand::f64());
                }
            }
            let pause = (self.leases.timeout() / 8).clamp(Duration::from_millis(100), Duration::from_secs(1));
            if self.stop.wait(pause) {
                return;
            }
        }
    }

    /// Asks for the queue's own timeout. True when the question is settled.
    fn learn_timeout(&self) -> bool {
        let assumed_secs = ASSUMED_TIMEOUT.as_secs();
        match self.queue.visibility_timeout() {
            Ok(timeout) if timeout.is_zero() => {
                log::warn!(
                    "the queue's visibility timeout is 0 s, so that other consumers receive each message while it is still \
                     worked on: this service asks for {assumed_secs} s with each receive; set 30 s on the queue"
                );
                true
            }
            Ok(timeout) => {
                self.leases.set_timeout(timeout);
                log::debug!("the queue's visibility timeout is {} s", timeout.as_secs());
                true
            }
            Err(error) if error.refused => {
                log::warn!(
                    err:% = error;
                    "the queue does not tell its visibility timeout (sqs:GetQueueAttributes is not allowed): \
                     {assumed_secs} s are assumed; if the queue's is shorter, allow the question"
                );
                true
            }
            Err(error) => {
                self.failed(
                    Operation::GetAttributes,
                    &format!("cannot ask for the queue's visibility timeout: {assumed_secs} s are assumed until it answers"),
                    &error.kind,
                    &error.message,
                );
                false
            }
        }
    }

    /// Extends what is due. False if a call failed: then the rest waits for the next beat.
    pub(super) fn beat(&self, now: Instant) -> bool {
        let timeout = self.leases.timeout();
        let due = self.leases.due(now);
        let mut due = due.iter().filter_map(Handle::begin_extension);
        loop {
            let batch: Vec<Extension> = due.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                return true;
            }
            let called_at = Instant::now().max(now);
            let entry = |extension: &Extension| {
                let handle = extension.handle();
                let by = handle.extension(timeout, called_at);
                (handle.receipt_handle().clone(), by)
            };
            let entries: Vec<(ReceiptHandle, Duration)> = batch.iter().map(entry).collect();
            match self.queue.change_visibility_batch(&entries) {
                Ok(outcome) => {
                    for ((extension, (_, by)), failure) in batch.into_iter().zip(&entries).zip(outcome) {
                        match failure {
                            None => extension.succeeded(called_at, *by),
                            Some(failure) => self.not_extended(extension, &failure),
                        }
                    }
                }
                Err(error) => {
                    self.failed(
                        Operation::ChangeVisibility,
                        "cannot extend the visibility of messages in hand: trying again; when their time is over they \
                         come again, and then change nothing",
                        &error.kind,
                        &error.message,
                    );
                    return false;
                }
            }
        }
    }

    fn not_extended(&self, extension: Extension, failure: &EntryFailure) {
        let error = format!("{} {}", failure.code, failure.message);
        if failure.is_final() {
            // It has been settled in the meantime, or its time was over: either way it is no longer ours.
            let _ = extension.refused();
            log::debug!(err = error.as_str(); "the queue does not know a receipt handle any more");
            return;
        }
        self.failed(
            Operation::ChangeVisibility,
            "cannot extend the visibility of a message in hand: trying again",
            &failure.code,
            &error,
        );
    }

    fn failed(&self, operation: Operation, message: &str, kind: &str, error: &str) {
        self.metrics
            .queue_errors
            .with_label_values(&[operation.label()])
            .inc();
        self.faults.fault(
            &format!("heartbeat {} {kind}", operation.label()),
            log::Level::Warn,
            message,
            error,
            Instant::now(),
        );
    }
}
