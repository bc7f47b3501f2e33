//! How a delivery ends: applied, failed, lost or given back; each is counted and told here.

use std::time::Instant;

use super::{Job, Worker};
use crate::pipeline::lease::Held;
use crate::pipeline::settle::{Settled, Settlement, given_back, settle_permanent, settle_temporary};
use crate::store::{Outcome, StoreError};

impl Worker {
    /// Counts an outcome. True if something was written.
    pub(super) fn count(&self, outcome: Outcome) -> bool {
        let skipped = |reason: &str, by: u64| {
            self.metrics
                .writes_skipped
                .with_label_values(&[reason])
                .inc_by(by);
        };
        match outcome {
            Outcome::Applied { written, stale } => {
                // Nearly always none: then the counter is not looked for.
                if stale > 0 {
                    skipped("stale", stale);
                }
                return written > 0;
            }
            Outcome::PurgedLater => skipped("stale", 1),
            Outcome::SkippedByPolicy => skipped("policy", 1),
            Outcome::NoCustomer => skipped("no_customer", 1),
            Outcome::Locked => {}
        }
        false
    }

    /// The delivery has had its effect, or has none.
    pub(super) fn complete(&self, held: Held) {
        let delivery = &held.delivery;
        self.metrics.messages_processed.inc();
        self.metrics
            .message_handling_duration
            .observe(delivery.received_at.elapsed().as_secs_f64());
        log::debug!(message_id = delivery.message_id.as_str(); "applied a message");
        self.settle(held, Settlement::Delete);
    }

    /// Redis refused a change of this delivery, and only that.
    pub(super) fn failed(&self, held: Held, error: &StoreError) {
        let delivery = &held.delivery;
        let settlement = if error.is_permanent() {
            settle_permanent(self.poison_policy, delivery.receive_count, fastrand::f64())
        } else {
            settle_temporary(delivery.receive_count, fastrand::f64())
        };
        self.metrics.write_errors.inc();
        let fate = if settlement == Settlement::Delete {
            "it is deleted (POISON_POLICY=delete)"
        } else {
            self.metrics.messages_failed.with_label_values(&["other"]).inc();
            "it is tried again later"
        };
        self.faults.fault(
            &format!("write {}", error.cause.label()),
            log::Level::Error,
            &format!("cannot apply message {}: {fate}", delivery.message_id),
            &error.message,
            Instant::now(),
        );
        self.reporter
            .report_error(&format!("Redis refused a change: {}", error.cause.label()));
        self.settle(held, settlement);
    }

    pub(super) fn panicked(&self, held: Held) {
        let delivery = &held.delivery;
        self.metrics.messages_failed.with_label_values(&["panic"]).inc();
        self.faults.fault(
            "panic",
            log::Level::Error,
            &format!(
                "a defect of this service was met by message {}: it is tried again",
                delivery.message_id
            ),
            "panic; see the line before, and report it",
            Instant::now(),
        );
        let settlement = settle_temporary(delivery.receive_count, fastrand::f64());
        self.settle(held, settlement);
    }

    pub(super) fn lost(&self, held: &Held) {
        self.metrics.messages_failed.with_label_values(&["expired"]).inc();
        self.faults.fault(
            "expired",
            log::Level::Warn,
            "a message could not be applied while it was hidden from others: it is dropped here and comes again",
            &format!("the receipt handle of message {} has expired", held.delivery.message_id),
            Instant::now(),
        );
    }

    pub(super) fn give_back(&self, jobs: Vec<Job>) {
        for job in jobs {
            self.give_back_one(job.held);
        }
    }

    pub(super) fn give_back_one(&self, held: Held) {
        let settlement = given_back(self.polls.over_in(Instant::now()));
        self.settle(held, settlement);
    }

    pub(super) fn settle(&self, held: Held, settlement: Settlement) {
        let lease = held.lease;
        lease.settle();
        self.settled.put(Settled { lease, settlement });
    }
}
