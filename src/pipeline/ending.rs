//! How a delivery ends: decided here, with what is counted and logged of it.

use std::time::{Duration, Instant};

use log::Level;

use super::context::{Context, add};
use crate::backoff::wait_after;
use crate::config::PoisonPolicy;
use crate::message::MalformedBody;
use crate::sqs::{Delivery, Operation};
use crate::store::StoreError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Its effect is in Redis, or it has none: it is deleted.
    Delete,
    /// It stays in the queue and becomes visible again after this time: whole seconds, at most 12 h.
    Retry { visible_in: Duration },
}

impl Ending {
    /// The queue call that this ending needs.
    pub fn operation(self) -> Operation {
        match self {
            Self::Delete => Operation::Delete,
            Self::Retry { .. } => Operation::ChangeVisibility,
        }
    }

    pub fn visible_in(self) -> Duration {
        match self {
            Self::Delete => Duration::ZERO,
            Self::Retry { visible_in } => visible_in,
        }
    }
}

const RETRY_DELAY_MAX: Duration = Duration::from_mins(15);

/// The ending of a message that failed: deleted if the policy says so, or retried. After 30 s if the failure is permanent (a
/// body that cannot be read, a foreign value at its key), else after 2 s; doubled for each receive after the first. `jitter` in
/// 0 to 1 takes up to half of the delay away, so that many failures do not return at once.
fn failure(is_permanent: bool, policy: PoisonPolicy, receive_count: u32, jitter: f64) -> Ending {
    if is_permanent && policy == PoisonPolicy::Delete {
        return Ending::Delete;
    }
    let first = Duration::from_secs(if is_permanent { 30 } else { 2 });
    let wait = wait_after(receive_count.saturating_sub(1), first, RETRY_DELAY_MAX, jitter);
    Ending::Retry { visible_in: Duration::from_secs(wait.as_secs().max(1)) }
}

impl Context {
    /// All changes of the message were made or skipped.
    pub fn completed(&self, delivery: &Delivery) -> Ending {
        let took_secs = delivery.received_at.elapsed().as_secs_f64();
        self.metrics.messages_processed.inc();
        self.metrics.message_handling_duration.observe(took_secs);
        log::debug!(message_id = delivery.message_id.as_str(); "applied a message");
        Ending::Delete
    }

    /// Redis refused a change of this message, and no other's.
    pub fn refused(&self, delivery: &Delivery, error: &StoreError) -> Ending {
        let kind = error.cause.label();
        self.metrics.write_errors.inc();
        self.reporter.report_error(&format!("Redis refused a change: {kind}"));
        let (ending, fate) = self.failed("other", error.is_permanent(), delivery);
        let message = format!("cannot apply message {}: {fate}", delivery.message_id);
        self.message_fault(delivery, &format!("write {kind}"), Level::Error, &message, &error.message);
        ending
    }

    /// The body cannot be read. The error names a location in it, never its content.
    pub fn malformed(&self, delivery: &Delivery, body_bytes: usize, error: &MalformedBody) -> Ending {
        self.metrics.messages_malformed.inc();
        self.reporter.report_error(&format!("cannot read a message: {error}"));
        let (ending, fate) = self.failed("malformed", true, delivery);
        let message = format!("cannot read a message of {body_bytes} bytes: {fate}");
        self.message_fault(delivery, "malformed", Level::Warn, &message, &error.to_string());
        ending
    }

    /// Handling this message panicked; others are not affected.
    pub fn panicked(&self, delivery: &Delivery) -> Ending {
        let (ending, fate) = self.failed("panic", false, delivery);
        let message = format!("message {} triggered a defect of this service: {fate}", delivery.message_id);
        let error = "panic; see the line before, and report it";
        self.message_fault(delivery, "panic", Level::Error, &message, error);
        ending
    }

    /// The message is, or will be, received again by somebody.
    pub fn expired(&self, delivery: &Delivery) {
        add(&self.metrics.messages_failed, "expired", 1);
        let message = "a message could not be applied while it was hidden from others: it is dropped here and delivered again";
        let error = format!("the receipt handle of message {} has expired", delivery.message_id);
        self.message_fault(delivery, "expired", Level::Warn, message, &error);
    }

    /// Timestamps in the message were ignored.
    pub fn implausible(&self, delivery: &Delivery, timestamps: u32) {
        self.metrics.implausible_timestamps.inc_by(timestamps.into());
        let message =
            format!("message {} carries impossible timestamps: they are ignored", delivery.message_id);
        let error =
            format!("{timestamps} of them are more than an hour ahead of SentTimestamp, or before 2015");
        self.message_fault(delivery, "implausible timestamp", Level::Warn, &message, &error);
    }

    fn message_fault(&self, delivery: &Delivery, fault: &str, level: Level, message: &str, error: &str) {
        self.faults.note(fault, level, message, error, Instant::now());
        let (message_id, receive_count) = (delivery.message_id.as_str(), delivery.receive_count);
        log::log!(level, fault, message_id, receive_count, err = error; "{message}");
    }

    /// How a failed message ends, and a text that says so.
    fn failed(&self, reason: &str, is_permanent: bool, delivery: &Delivery) -> (Ending, &'static str) {
        let ending = failure(is_permanent, self.poison_policy, delivery.receive_count, fastrand::f64());
        if ending == Ending::Delete {
            return (ending, "it is deleted (POISON_POLICY=delete)");
        }
        add(&self.metrics.messages_failed, reason, 1);
        (ending, "it is retried later, until the queue's dead-letter rule takes it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(ending: Ending) -> u64 {
        match ending {
            Ending::Retry { visible_in } => visible_in.as_secs(),
            Ending::Delete => panic!("deleted"),
        }
    }

    #[test]
    fn a_permanent_failure_is_hidden_for_longer_each_time_up_to_15_minutes() {
        let hidden: Vec<u64> = [1, 2, 3, 6, 40]
            .iter()
            .map(|count| secs(failure(true, PoisonPolicy::Redrive, *count, 0.0)))
            .collect();
        assert_eq!(hidden, [30, 60, 120, 900, 900]);
    }

    #[test]
    fn a_permanent_failure_is_deleted_only_when_the_policy_says_so() {
        assert_eq!(failure(true, PoisonPolicy::Delete, 1, 0.0), Ending::Delete);
    }

    #[test]
    fn a_temporary_failure_is_retried_soon_at_first_and_jitter_takes_at_most_half_away() {
        assert_eq!(secs(failure(false, PoisonPolicy::Delete, 1, 0.0)), 2);
        assert_eq!(secs(failure(false, PoisonPolicy::Delete, 4, 0.0)), 16);
        assert_eq!(secs(failure(false, PoisonPolicy::Delete, 4, 1.0)), 8);
        assert_eq!(secs(failure(false, PoisonPolicy::Delete, 1, 1.0)), 1, "never at once");
    }
}
