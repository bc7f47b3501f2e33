//! A deleter deletes messages or makes them visible again, up to ten in one call.
//!
//! All deleters share one queue. One of them at a time waits for deliveries and gathers a batch; while it makes its
//! call, the next one gathers. What fails is retried by the same deleter for as long as the queue hides the message;
//! afterwards the message comes again, and then changes nothing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, select};
use log::Level;

use super::backoff::Backoff;
use super::context::Context;
use super::ending::Ending;
use super::in_flight::Recorded;
use crate::sqs::{BatchOutcome, Operation, QueueError, ReceiptHandle};

/// SQS takes so many entries a call.
pub const BATCH_MAX: usize = 10;
/// How long a batch waits to be filled: far less than a call takes.
const GATHER: Duration = Duration::from_millis(5);
/// How long to wait for the end of an extension that is under way.
const EXTENSION_WAIT: Duration = Duration::from_millis(20);

/// What all deleters take from.
#[derive(Debug)]
pub struct RecordedQueue {
    receiver: Receiver<Vec<Recorded>>,
    /// Received with the last batch, and too much for it.
    rest: Vec<Recorded>,
}

impl RecordedQueue {
    pub fn new(receiver: Receiver<Vec<Recorded>>) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            receiver,
            rest: Vec::new(),
        }))
    }
}

pub struct Deleter {
    context: Arc<Context>,
    queue: Arc<Mutex<RecordedQueue>>,
}

impl Deleter {
    pub fn new(context: Arc<Context>, queue: Arc<Mutex<RecordedQueue>>) -> Self {
        Self { context, queue }
    }

    /// Works until the exit phase.
    pub fn run(&self) {
        while self.step() {}
    }

    /// Gathers one batch and completes it. False in the exit phase.
    pub fn step(&self) -> bool {
        let batch = self.gather();
        let is_over = batch.is_empty();
        self.complete(batch);
        !is_over
    }

    /// Up to ten deliveries, after waiting for the first; none in the exit phase.
    fn gather(&self) -> Vec<Recorded> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let mut batch = std::mem::take(&mut queue.rest);
        if batch.is_empty() {
            select! {
                recv(queue.receiver) -> first => batch = first.unwrap_or_default(),
                recv(self.context.shutdown.exit.channel()) -> _ => return batch,
            }
        }
        let deadline = Instant::now() + GATHER;
        while batch.len() < BATCH_MAX
            && let Ok(more) = queue.receiver.recv_deadline(deadline)
        {
            batch.extend(more);
        }
        queue.rest = batch.split_off(batch.len().min(BATCH_MAX));
        batch
    }

    /// Tells the queue how these ended, again and again if need be. In the release phase each gets one last try.
    fn complete(&self, batch: Vec<Recorded>) {
        let (in_flight, shutdown) = (&self.context.in_flight, &self.context.shutdown);
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let mut pending = batch;
        while !pending.is_empty() {
            let is_last_try = shutdown.release.is_stopped();
            let is_delete = |recorded: &Recorded| recorded.ending == Ending::Delete;
            let (deletes, retries): (Vec<_>, Vec<_>) = pending.into_iter().partition(is_delete);
            // An extension that is under way would undo the change of the visibility.
            let is_extended = |retry: &Recorded| in_flight.is_being_extended(&retry.ticket);
            let (extended, retries): (Vec<_>, Vec<_>) = retries.into_iter().partition(is_extended);
            let mut failed = self.call(Operation::Delete, deletes);
            failed.extend(self.call(Operation::ChangeVisibility, retries));

            let wait = if failed.is_empty() {
                EXTENSION_WAIT
            } else {
                backoff.next_wait(fastrand::f64())
            };
            let now = Instant::now();
            let has_time =
                |failed: &Recorded| !is_last_try && in_flight.time_left(&failed.ticket, now) > wait;
            let (again, given_up): (Vec<_>, Vec<_>) = failed.into_iter().partition(has_time);
            for recorded in given_up {
                self.gave_up(recorded.ending.operation(), "there is no time for another try");
            }
            if !again.is_empty() {
                shutdown.release.wait(wait);
            } else if !extended.is_empty() && shutdown.exit.wait(EXTENSION_WAIT) {
                return;
            }
            pending = again;
            pending.extend(extended);
        }
    }

    /// One call. Returns those that failed and may succeed later.
    fn call(&self, operation: Operation, batch: Vec<Recorded>) -> Vec<Recorded> {
        if batch.is_empty() {
            return batch;
        }
        let failures = match self.call_queue(operation, &batch) {
            Ok(failures) => failures,
            Err(error) => {
                self.failed(operation, &error.kind, &error.message);
                return batch;
            }
        };
        if failures.iter().all(Option::is_none) {
            let is_delete = operation == Operation::Delete;
            let what = if is_delete {
                "messages can be deleted"
            } else {
                "messages' visibility can be changed"
            };
            self.context
                .queue_succeeded(&format!("{} ", operation.label()), what);
        }
        let mut again = Vec::new();
        for (recorded, failure) in batch.into_iter().zip(failures) {
            match failure {
                None => {}
                Some(failure) if failure.is_final() => {
                    self.gave_up(operation, &format!("{}: {}", failure.code, failure.message));
                }
                Some(failure) => {
                    self.failed(operation, &failure.code, &failure.message);
                    again.push(recorded);
                }
            }
        }
        again
    }

    fn call_queue(&self, operation: Operation, batch: &[Recorded]) -> Result<BatchOutcome, QueueError> {
        let handles = batch.iter().map(|recorded| recorded.receipt_handle.clone());
        if operation == Operation::Delete {
            return self.context.queue.delete_batch(&handles.collect::<Vec<_>>());
        }
        let entries = handles.zip(batch.iter().map(|recorded| recorded.ending.visible_in()));
        let entries: Vec<(ReceiptHandle, Duration)> = entries.collect();
        self.context.queue.change_visibility_batch(&entries)
    }

    fn failed(&self, operation: Operation, kind: &str, error: &str) {
        let message = if operation == Operation::Delete {
            "cannot delete a message: trying again"
        } else {
            "cannot change a message's visibility: trying again"
        };
        let kind = format!("{} {kind}", operation.label());
        self.context
            .queue_failed(operation, &kind, Level::Warn, message, error);
    }

    fn gave_up(&self, operation: Operation, error: &str) {
        let message = if operation == Operation::Delete {
            "cannot delete a message: it comes again, and then changes nothing"
        } else {
            "cannot change a message's visibility: it comes again when its visibility timeout ends"
        };
        let kind = format!("{} given up", operation.label());
        self.context
            .queue_failed(operation, &kind, Level::Warn, message, error);
    }
}
