//! The end of a stop that ran out of time: what is still in hand is given back over the heads of those who hold it.
//!
//! A worker whose call to Redis hangs holds its messages until that call's own deadline, which may lie beyond the stop's
//! budget. Should it apply one after all, that does no harm: it comes again and then changes nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, unbounded};

use super::lease::Leases;
use super::polls::Polls;
use crate::log::FaultLog;
use crate::ops::metrics::Metrics;
use crate::sqs::{Operation, Queue, ReceiptHandle};

/// SQS takes so many entries a call.
const BATCH: usize = 10;

/// Gives back what is in hand. Clones share the work.
#[derive(Clone)]
pub struct GiveBack {
    queue: Arc<dyn Queue>,
    batches: Receiver<Vec<ReceiptHandle>>,
    polls: Arc<Polls>,
    metrics: Arc<Metrics>,
    faults: Arc<FaultLog>,
}

impl GiveBack {
    /// Takes all that is in hand, and not yet settled, out of the hands that hold it. None if nothing is.
    pub fn of_all_in_hand(
        queue: Arc<dyn Queue>,
        leases: &Leases,
        polls: Arc<Polls>,
        metrics: Arc<Metrics>,
        faults: Arc<FaultLog>,
    ) -> Option<Self> {
        let handles = leases.settle_all();
        if handles.is_empty() {
            return None;
        }
        let (sender, batches) = unbounded();
        for batch in handles.chunks(BATCH) {
            // The receiver lives below.
            let _ = sender.send(batch.to_vec());
        }
        Some(Self {
            queue,
            batches,
            polls,
            metrics,
            faults,
        })
    }

    /// How many calls there are to make.
    pub fn calls(&self) -> usize {
        self.batches.len()
    }

    /// Makes calls until there are none left.
    pub fn run(&self) {
        for batch in &self.batches {
            give_back(&*self.queue, &self.polls, &self.metrics, &self.faults, batch);
        }
    }
}

/// Makes up to ten messages visible to others, as soon as no poll of this process can take them. If that fails, they are
/// visible when their visibility timeout ends.
pub(super) fn give_back(
    queue: &dyn Queue,
    polls: &Polls,
    metrics: &Metrics,
    faults: &FaultLog,
    handles: Vec<ReceiptHandle>,
) {
    let visible_in = polls.over_in(Instant::now());
    let entries: Vec<(ReceiptHandle, Duration)> =
        handles.into_iter().map(|handle| (handle, visible_in)).collect();
    let failed = |kind: &str, error: &str| {
        metrics
            .queue_errors
            .with_label_values(&[Operation::ChangeVisibility.label()])
            .inc();
        faults.fault(
            &format!("give back {kind}"),
            log::Level::Warn,
            "cannot give messages back at the stop: they become visible when their visibility timeout ends",
            error,
            Instant::now(),
        );
    };
    match queue.change_visibility_batch(&entries) {
        Ok(outcome) => {
            let failures = outcome
                .iter()
                .flatten()
                .inspect(|failure| failed(&failure.code, &failure.message));
            log::debug!(
                "gave back {} messages at the stop",
                entries.len() - failures.count()
            );
        }
        Err(error) => failed(&error.kind, &error.message),
    }
}
