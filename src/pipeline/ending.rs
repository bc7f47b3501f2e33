//! How a delivery ends: decided here, with what is counted and logged of it.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use log::Level;

use super::context::{Context, add};
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

/// The longest that a message is hidden before its next try.
const RETRY_DELAY_MAX: Duration = Duration::from_mins(15);

/// The ending of a message that can never be applied: a body that cannot be read, a foreign value at its key. `jitter`
/// in 0 to 1, here and below, takes up to half of the delay away, so that many failures do not return at once.
fn permanent_failure(policy: PoisonPolicy, receive_count: u32, jitter: f64) -> Ending {
    match policy {
        PoisonPolicy::Delete => Ending::Delete,
        PoisonPolicy::Redrive => retry(receive_count, 30, jitter),
    }
}

/// The ending of a message that failed for a reason that may pass.
fn temporary_failure(receive_count: u32, jitter: f64) -> Ending {
    retry(receive_count, 2, jitter)
}

/// After `first_secs`, doubled for each receive after the first.
fn retry(receive_count: u32, first_secs: u64, jitter: f64) -> Ending {
    let doublings = receive_count.saturating_sub(1).min(16);
    let full = Duration::from_secs(first_secs << doublings).min(RETRY_DELAY_MAX);
    let secs = full.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0).as_secs().max(1);
    let visible_in = Duration::from_secs(secs);
    Ending::Retry { visible_in }
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
        let ending = self.failed("other", error.is_permanent(), delivery);
        self.metrics.write_errors.inc();
        let fate = match ending {
            Ending::Delete => "it is deleted (POISON_POLICY=delete)",
            Ending::Retry { .. } => "it is tried again later",
        };
        let (kind, message) = (
            error.cause.label(),
            format!("cannot apply message {}: {fate}", delivery.message_id),
        );
        self.fault(&format!("write {kind}"), Level::Error, &message, &error.message);
        self.reporter
            .report_error(&format!("Redis refused a change: {kind}"));
        ending
    }

    /// The body cannot be read. The error names a location in it, never its content.
    pub fn malformed(&self, delivery: &Delivery, body_bytes: usize, error: &MalformedBody) -> Ending {
        let ending = self.failed("malformed", true, delivery);
        self.metrics.messages_malformed.inc();
        self.reporter
            .report_error(&format!("cannot read a message: {error}"));
        let fate = match ending {
            Ending::Delete => "it is deleted (POISON_POLICY=delete)",
            Ending::Retry { .. } => "it is left to the queue's dead-letter rule (POISON_POLICY=redrive)",
        };
        let (message_id, receive_count) = (delivery.message_id.as_str(), delivery.receive_count);
        if self.malformed_ids.is_new(message_id) {
            log::warn!(message_id, bytes = body_bytes, receive_count, err:% = error; "cannot read a message: {fate}");
        } else {
            log::debug!("message {message_id} still cannot be read");
        }
        ending
    }

    /// Handling this message panicked; others are not affected.
    pub fn panicked(&self, delivery: &Delivery) -> Ending {
        let message_id = &delivery.message_id;
        let message = format!("a defect of this service was met by message {message_id}: it is tried again");
        self.fault(
            "panic",
            Level::Error,
            &message,
            "panic; see the line before, and report it",
        );
        self.failed("panic", false, delivery)
    }

    /// The message is, or will be, received again by somebody.
    pub fn expired(&self, delivery: &Delivery) {
        add(&self.metrics.messages_failed, "expired", 1);
        let message = "a message could not be applied while it was hidden from others: it is dropped here and comes again";
        let error = format!(
            "the receipt handle of message {} has expired",
            delivery.message_id
        );
        self.fault("expired", Level::Warn, message, &error);
    }

    fn failed(&self, reason: &str, is_permanent: bool, delivery: &Delivery) -> Ending {
        let (count, jitter) = (delivery.receive_count, fastrand::f64());
        let ending = if is_permanent {
            permanent_failure(self.settings.poison_policy, count, jitter)
        } else {
            temporary_failure(count, jitter)
        };
        if ending != Ending::Delete {
            add(&self.metrics.messages_failed, reason, 1);
        }
        ending
    }
}

/// The last ids of malformed messages: each is logged once.
#[derive(Debug, Default)]
pub struct MalformedIds(Mutex<VecDeque<String>>);

impl MalformedIds {
    const MAX: usize = 1_024;

    fn is_new(&self, message_id: &str) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.iter().any(|id| id == message_id) {
            return false;
        }
        if known.len() >= Self::MAX {
            known.pop_front();
        }
        known.push_back(message_id.to_owned());
        true
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
            .map(|count| secs(permanent_failure(PoisonPolicy::Redrive, *count, 0.0)))
            .collect();
        assert_eq!(hidden, [30, 60, 120, 900, 900]);
    }

    #[test]
    fn a_permanent_failure_is_deleted_only_when_the_policy_says_so() {
        assert_eq!(permanent_failure(PoisonPolicy::Delete, 1, 0.0), Ending::Delete);
    }

    #[test]
    fn a_temporary_failure_is_retried_soon_at_first_and_jitter_takes_at_most_half_away() {
        assert_eq!(secs(temporary_failure(1, 0.0)), 2);
        assert_eq!(secs(temporary_failure(4, 0.0)), 16);
        assert_eq!(secs(temporary_failure(4, 1.0)), 8);
        assert_eq!(secs(temporary_failure(1, 1.0)), 1, "never at once");
    }

    #[test]
    fn a_malformed_message_is_new_once_and_the_memory_of_it_is_bounded() {
        let ids = MalformedIds::default();
        assert!(ids.is_new("1") && !ids.is_new("1"));
        (0..MalformedIds::MAX).for_each(|number| assert!(ids.is_new(&format!("other {number}"))));
        assert_eq!(ids.0.lock().unwrap().len(), MalformedIds::MAX);
        assert!(ids.is_new("1"), "forgotten");
    }
}
