//! Tells the queue how deliveries ended, gathered into batches across pollers and workers.

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
/// Tries of a batch. After the last the message comes again when its visibility timeout ends, and changes nothing.
const TRIES: u32 = 4;

/// One acknowledger.
pub struct Acknowledger {
    /// The queue.
    pub queue: Arc<dyn Queue>,
    /// What workers settled. Its end ends the loop.
    pub settled: Receiver<Settled>,
    /// Counted in.
    pub metrics: Arc<Metrics>,
    /// Where failures are logged.
    pub faults: Arc<FaultLog>,
    /// The stop's budget is over: no more waiting between tries.
    pub out_of_time: Stop,
}

#[derive(Default)]
struct Gathered {
    deletes: Vec<ReceiptHandle>,
    visibility: Vec<(ReceiptHandle, Duration)>,
}

impl Gathered {
    fn add(&mut self, settled: Settled) {
        match settled.settlement {
            Settlement::Delete => self.deletes.push(settled.receipt_handle),
            Settlement::Retry { visible_in } => self.visibility.push((settled.receipt_handle, visible_in)),
        }
    }

    fn is_full(&self) -> bool {
        self.deletes.len() >= BATCH || self.visibility.len() >= BATCH
    }
}

impl Acknowledger {
    /// Settles until no worker is left.
    pub fn run(&self) {
        while let Ok(first) = self.settled.recv() {
            let mut gathered = Gathered::default();
            gathered.add(first);
            let until = Instant::now() + GATHER;
            while !gathered.is_full() {
                match self.settled.recv_deadline(until) {
                    Ok(settled) => gathered.add(settled),
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
                }
            }
            self.settle(gathered);
        }
    }

    fn settle(&self, gathered: Gathered) {
        let count = gathered.deletes.len() + gathered.visibility.len();
        self.until_done(Operation::Delete, gathered.deletes, |batch| {
            self.queue.delete_batch(batch)
        });
        self.until_done(Operation::ChangeVisibility, gathered.visibility, |batch| {
            self.queue.change_visibility_batch(batch)
        });
        self.metrics
            .in_flight
            .sub(i64::try_from(count).unwrap_or_default());
    }

    /// Calls until every entry is done, is known to be beyond help, or the tries are used up.
    fn until_done<E: Clone>(
        &self,
        operation: Operation,
        mut entries: Vec<E>,
        call: impl Fn(&[E]) -> Result<BatchOutcome, QueueError>,
    ) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        for attempt in 1..=TRIES {
            if entries.is_empty() {
                return;
            }
            let last = attempt == TRIES;
            match call(&entries) {
                Ok(outcome) => {
                    let mut failed = Vec::new();
                    for (entry, failure) in entries.into_iter().zip(outcome) {
                        let Some(failure) = failure else { continue };
                        self.failed(
                            operation,
                            &failure.code,
                            &failure.message,
                            last || failure.sender_fault,
                        );
                        if !failure.sender_fault {
                            failed.push(entry);
                        }
                    }
                    entries = failed;
                }
                Err(error) => self.failed(operation, &error.kind, &error.message, last),
            }
            if !entries.is_empty() && !last {
                self.out_of_time.wait(backoff.next_wait(fastrand::f64()));
                if self.out_of_time.is_stopped() {
                    return;
                }
            }
        }
    }

    fn failed(&self, operation: Operation, kind: &str, error: &str, gave_up: bool) {
        self.metrics
            .queue_errors
            .with_label_values(&[operation.label()])
            .inc();
        let message = match (operation, gave_up) {
            (Operation::Delete, true) => {
                "cannot delete a message: it comes again when its visibility timeout ends, and then changes nothing"
            }
            (Operation::Delete, false) => "cannot delete a message: trying again",
            (_, true) => {
                "cannot change a message's visibility: it comes again when its visibility timeout ends"
            }
            (_, false) => "cannot change a message's visibility: trying again",
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
