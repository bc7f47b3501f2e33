//! A deleter deletes messages or makes them visible again, up to ten in one call.
//!
//! One deleter at a time gathers a batch. While it makes its call, the next one gathers. What fails is retried by the same
//! deleter for as long as the queue hides the message, and holds up no others. Afterwards the message is delivered again, and
//! then changes nothing.

use std::iter;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, at, never, select};

use super::context::{Context, Sent};
use super::in_flight::Recorded;
use crate::backoff::Backoff;
use crate::shutdown::Stop;
use crate::sqs::Operation;

/// SQS accepts this many entries per call.
pub const BATCH_MAX: usize = 10;
/// How long a batch waits to be filled: far less than a call takes.
const GATHER: Duration = Duration::from_millis(5);
/// How long to wait for the end of an extension that is under way.
const EXTENSION_WAIT: Duration = Duration::from_millis(20);

pub struct Deleter {
    pub context: Arc<Context>,
    /// Shared by all deleters; locked by the one that gathers a batch.
    pub recorded: Arc<Mutex<Receiver<Recorded>>>,
}

impl Deleter {
    /// Works until the exit phase.
    pub fn run(&self) {
        while self.step() {}
    }

    /// Gathers one batch and completes it. False in the exit phase.
    pub fn step(&self) -> bool {
        let recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        let batch = gather(&recorded, BATCH_MAX, &self.context.shutdown.exit, &never());
        drop(recorded); // another deleter gathers the next one
        let is_over = batch.is_empty();
        self.complete(batch);
        !is_over
    }

    /// Sends these endings to the queue, repeatedly if necessary. In the release phase each gets one last try.
    fn complete(&self, mut pending: Vec<Recorded>) {
        let (in_flight, shutdown) = (&self.context.in_flight, &self.context.shutdown);
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        while !pending.is_empty() {
            let is_last_try = shutdown.release.is_stopped();
            let (deletes, retries): (Vec<_>, Vec<_>) = pending.into_iter().partition(is_delete);
            // An extension that is under way would undo the change of the visibility.
            let is_extended = |retry: &Recorded| in_flight.is_being_extended(retry.id);
            let (extended, retries): (Vec<_>, Vec<_>) = retries.into_iter().partition(is_extended);
            let mut failed = self.call(Operation::Delete, deletes);
            failed.extend(self.call(Operation::ChangeVisibility, retries));

            let wait = if is_last_try { EXTENSION_WAIT } else { backoff.next_wait(fastrand::f64()) };
            let now = Instant::now();
            let has_time = |recorded: &Recorded| !is_last_try && in_flight.time_left(recorded.id, now) > wait;
            let (again, given_up): (Vec<_>, Vec<_>) = failed.into_iter().partition(has_time);
            for recorded in given_up {
                self.give_up(recorded.ending.operation(), "there is no time for another try");
                in_flight.remove([recorded.id]);
            }
            pending = extended.into_iter().chain(again).collect();
            if pending.is_empty() {
                return;
            }
            if !is_last_try {
                self.complete_others(&mut pending, wait);
            } else if shutdown.exit.wait(wait) {
                return;
            }
        }
    }

    /// Waits until these are tried again, or for the release phase. What others wait for is completed meanwhile, unless another
    /// deleter does it or it fails as well.
    fn complete_others(&self, pending: &mut Vec<Recorded>, wait: Duration) {
        let (due_at, release) = (Instant::now() + wait, &self.context.shutdown.release);
        let mut has_failed = false;
        while !has_failed
            && pending.len() < BATCH_MAX
            && let Ok(recorded) = self.recorded.try_lock()
        {
            let others = gather(&recorded, BATCH_MAX - pending.len(), release, &at(due_at));
            drop(recorded);
            if others.is_empty() {
                break;
            }
            let (deletes, retries): (Vec<_>, Vec<_>) = others.into_iter().partition(is_delete);
            // Those are sent with the next try: they may have to wait for the end of an extension.
            pending.extend(retries);
            let failed = self.call(Operation::Delete, deletes);
            has_failed = !failed.is_empty();
            pending.extend(failed);
        }
        release.wait(due_at.saturating_duration_since(Instant::now()));
    }

    /// One call. Returns those that failed and may succeed later.
    fn call(&self, operation: Operation, batch: Vec<Recorded>) -> Vec<Recorded> {
        if batch.is_empty() {
            return batch;
        }
        let handles = batch.iter().map(|recorded| recorded.receipt_handle.clone());
        let result = if operation == Operation::Delete {
            self.context.queue.delete_batch(&handles.collect::<Vec<_>>())
        } else {
            let visible_in = batch.iter().map(|recorded| recorded.ending.visible_in());
            let entries: Vec<_> = handles.zip(visible_in).collect();
            self.context.queue.change_visibility_batch(&entries)
        };
        let (mut ended, mut again) = (Vec::new(), Vec::new());
        for (recorded, sent) in self.context.sent(operation, batch, result) {
            match sent {
                Sent::Failed => again.push(recorded),
                Sent::Refused(failure) => {
                    self.give_up(operation, &format!("{}: {}", failure.code, failure.message));
                    ended.push(recorded.id);
                }
                Sent::Done => ended.push(recorded.id),
            }
        }
        self.context.in_flight.remove(ended);
        again
    }

    fn give_up(&self, operation: Operation, error: &str) {
        let what = if operation == Operation::Delete { "deleted" } else { "released" };
        let message = format!(
            "a message cannot be {what}: it is delivered again when its visibility timeout ends, and changes nothing if it was applied"
        );
        self.context.queue_failed(operation, "given up", &message, error);
    }
}

fn is_delete(recorded: &Recorded) -> bool {
    recorded.ending.operation() == Operation::Delete
}

/// Up to so many, after waiting for the first; none if the stop comes before it, or the time.
fn gather(
    recorded: &Receiver<Recorded>,
    at_most: usize,
    stop: &Stop,
    until: &Receiver<Instant>,
) -> Vec<Recorded> {
    let first = select! {
        recv(recorded) -> first => first.ok(),
        recv(stop.channel()) -> _ => None,
        recv(until) -> _ => None,
    };
    let Some(first) = first else { return Vec::new() };
    if recorded.len() + 1 < at_most {
        // Not waiting on the channel: each message would wake this thread.
        stop.wait(GATHER);
    }
    iter::once(first).chain(recorded.try_iter()).take(at_most).collect()
}
