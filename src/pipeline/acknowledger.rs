//! Tells the queue how deliveries ended, gathered into batches across pollers and workers.
//!
//! What fails is tried again for as long as its receipt handle lives, and holds up nothing else meanwhile: it waits
//! in a bounded list while others go on. A full list takes nothing new, which slows the workers down, and they the
//! pollers: a queue that takes no deletes must not be drained.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::backoff::Backoff;
use super::settle::{Settled, Settlement};
use crate::log::FaultLog;
use crate::ops::metrics::Metrics;
use crate::shutdown::Stop;
use crate::sqs::{BatchOutcome, Operation, Queue, QueueError, ReceiptHandle};

/// SQS takes so many entries a call.
const BATCH: usize = 10;
/// How long the first settled delivery waits for company: far below a call's round trip.
const GATHER: Duration = Duration::from_millis(5);
/// The waits between two tries of an entry.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Entries that wait for another try; a few hundred bytes each.
const WAITING_AT_MOST: usize = 200;
/// How often a thread that only waits looks for the stop.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// One acknowledger.
#[derive(Clone)]
pub struct Acknowledger {
    /// The queue.
    pub queue: Arc<dyn Queue>,
    /// What workers settled. Its end ends the loop, once nothing waits for another try.
    pub settled: Receiver<Settled>,
    /// Counted in.
    pub metrics: Arc<Metrics>,
    /// Where failures are logged.
    pub faults: Arc<FaultLog>,
    /// The stop's budget is over: one last try for what is left.
    pub out_of_time: Stop,
}

/// A settled delivery on its way to the queue.
struct Entry {
    settled: Settled,
    backoff: Backoff,
    not_before: Instant,
}

impl Entry {
    fn new(settled: Settled) -> Self {
        Self {
            settled,
            backoff: Backoff::new(FIRST_WAIT, LONGEST_WAIT),
            not_before: Instant::now(),
        }
    }

    fn operation(&self) -> Operation {
        match self.settled.settlement {
            Settlement::Delete => Operation::Delete,
            Settlement::Retry { .. } => Operation::ChangeVisibility,
        }
    }

    fn receipt_handle(&self) -> &ReceiptHandle {
        self.settled.lease.handle().receipt_handle()
    }
}

impl Acknowledger {
    /// Settles until no worker is left and nothing waits for another try.
    pub fn run(&self) {
        let mut waiting: Vec<Entry> = Vec::new();
        let mut is_open = true;
        while is_open || !waiting.is_empty() {
            if self.out_of_time.is_stopped() {
                self.finish(waiting);
                return;
            }
            let mut batch = take_due(&mut waiting, Instant::now());
            let may_take = is_open && waiting.len() < WAITING_AT_MOST;
            if batch.is_empty() {
                let until = next_try(&waiting).min(Instant::now() + LOOK_EVERY);
                if !may_take {
                    self.out_of_time
                        .wait(until.saturating_duration_since(Instant::now()));
                    continue;
                }
                match self.settled.recv_deadline(until) {
                    Ok(settled) => batch.push(Entry::new(settled)),
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => {
                        is_open = false;
                        continue;
                    }
                }
            }
            if may_take {
                self.fill(&mut batch);
            }
            waiting.extend(self.settle(batch));
        }
    }

    /// Adds what else has been settled, until the batch is full or the first has waited for long enough.
    fn fill(&self, batch: &mut Vec<Entry>) {
        let until = Instant::now() + GATHER;
        while batch.len() < BATCH {
            match self.settled.recv_deadline(until) {
                Ok(settled) => batch.push(Entry::new(settled)),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// The stop's budget is over: everything that is left gets one try.
    fn finish(&self, waiting: Vec<Entry>) {
        let mut left = waiting;
        left.extend(self.settled.try_iter().map(Entry::new));
        while !left.is_empty() {
            let rest = left.split_off(left.len().min(BATCH));
            self.settle(left);
            left = rest;
        }
    }

    /// One call for each sort. Returns what is to be tried again.
    fn settle(&self, batch: Vec<Entry>) -> Vec<Entry> {
        let (deletes, visibility): (Vec<Entry>, Vec<Entry>) = batch
            .into_iter()
            .partition(|entry| entry.operation() == Operation::Delete);
        let mut again = self.call(Operation::Delete, deletes, |entries| {
            let handles: Vec<ReceiptHandle> = entries
                .iter()
                .map(|entry| entry.receipt_handle().clone())
                .collect();
            self.queue.delete_batch(&handles)
        });
        again.extend(self.call(Operation::ChangeVisibility, visibility, |entries| {
            let entries: Vec<(ReceiptHandle, Duration)> = entries
                .iter()
                .map(|entry| {
                    let visible_in = match entry.settled.settlement {
                        Settlement::Retry { visible_in } => visible_in,
                        Settlement::Delete => Duration::ZERO,
                    };
                    (entry.receipt_handle().clone(), visible_in)
                })
                .collect();
            self.queue.change_visibility_batch(&entries)
        }));
        again
    }

    fn call(
        &self,
        operation: Operation,
        entries: Vec<Entry>,
        call: impl Fn(&[Entry]) -> Result<BatchOutcome, QueueError>,
    ) -> Vec<Entry> {
        if entries.is_empty() {
            return entries;
        }
        match call(&entries) {
            Ok(outcome) => entries
                .into_iter()
                .zip(outcome)
                .filter_map(|(entry, failure)| {
                    let failure = failure?;
                    self.failed_entry(
                        operation,
                        entry,
                        &failure.code,
                        &failure.message,
                        failure.sender_fault,
                    )
                })
                .collect(),
            Err(error) => {
                self.metrics
                    .queue_errors
                    .with_label_values(&[operation.label()])
                    .inc();
                entries
                    .into_iter()
                    .filter_map(|entry| self.again(operation, entry, &error.kind, &error.message))
                    .collect()
            }
        }
    }

    fn failed_entry(
        &self,
        operation: Operation,
        entry: Entry,
        code: &str,
        words: &str,
        is_beyond_help: bool,
    ) -> Option<Entry> {
        self.metrics
            .queue_errors
            .with_label_values(&[operation.label()])
            .inc();
        let error = format!("{code} {words}");
        if is_beyond_help {
            self.gave_up(operation, code, &error);
            return None;
        }
        self.again(operation, entry, code, &error)
    }

    /// The entry with the time of its next try; none if its handle does not live until then.
    fn again(&self, operation: Operation, mut entry: Entry, kind: &str, error: &str) -> Option<Entry> {
        let now = Instant::now();
        let wait = entry.backoff.next_wait(fastrand::f64());
        if entry.settled.lease.handle().time_left(now) <= wait {
            self.gave_up(operation, kind, error);
            return None;
        }
        entry.not_before = now + wait;
        let message = if operation == Operation::Delete {
            "cannot delete a message: trying again"
        } else {
            "cannot change a message's visibility: trying again"
        };
        self.faults.fault(
            &format!("{} {kind}", operation.label()),
            log::Level::Warn,
            message,
            error,
            now,
        );
        Some(entry)
    }

    fn gave_up(&self, operation: Operation, kind: &str, error: &str) {
        let message = if operation == Operation::Delete {
            "cannot delete a message: it comes again when its visibility timeout ends, and then changes nothing"
        } else {
            "cannot change a message's visibility: it comes again when its visibility timeout ends"
        };
        self.faults.fault(
            &format!("{} {kind}", operation.label()),
            log::Level::Warn,
            message,
            error,
            Instant::now(),
        );
    }
}

/// Up to a batch of those whose time has come.
fn take_due(waiting: &mut Vec<Entry>, now: Instant) -> Vec<Entry> {
    let (mut due, later): (Vec<Entry>, Vec<Entry>) =
        waiting.drain(..).partition(|entry| entry.not_before <= now);
    let rest = due.split_off(due.len().min(BATCH));
    waiting.extend(rest);
    waiting.extend(later);
    due
}

fn next_try(waiting: &[Entry]) -> Instant {
    let earliest = waiting.iter().map(|entry| entry.not_before).min();
    earliest.unwrap_or_else(|| Instant::now() + LOOK_EVERY)
}
