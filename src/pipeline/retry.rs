//! How a delivery ends, and what is logged of a message that cannot be read.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::config::PoisonPolicy;
use crate::event::MalformedBody;
use crate::sqs::{Delivery, Operation};

/// How a delivery ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Its effect is in Redis, or it has none: it is deleted.
    Delete,
    /// It stays in the queue and becomes visible again after this time: whole seconds, at most 12 h.
    Retry { visible_in: Duration },
}

impl Ending {
    /// The call that tells the queue.
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
pub fn permanent_failure(policy: PoisonPolicy, receive_count: u32, jitter: f64) -> Ending {
    match policy {
        PoisonPolicy::Delete => Ending::Delete,
        PoisonPolicy::Redrive => Ending::Retry {
            visible_in: retry_delay(receive_count, 30, jitter),
        },
    }
}

/// The ending of a message that failed for a reason that may pass.
pub fn temporary_failure(receive_count: u32, jitter: f64) -> Ending {
    Ending::Retry {
        visible_in: retry_delay(receive_count, 2, jitter),
    }
}

/// `first_secs`, doubled for each receive after the first. At least one second.
fn retry_delay(receive_count: u32, first_secs: u64, jitter: f64) -> Duration {
    let doublings = receive_count.saturating_sub(1).min(16);
    let full = Duration::from_secs(first_secs << doublings).min(RETRY_DELAY_MAX);
    let delay = full.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0);
    Duration::from_secs(delay.as_secs().max(1))
}

/// Message ids that are remembered.
const REMEMBERED_MAX: usize = 1_024;

/// Logs each malformed message once, with id, size and the location of the error, never its content.
#[derive(Debug, Default)]
pub struct MalformedLog {
    logged: Mutex<VecDeque<String>>,
}

impl MalformedLog {
    /// Logs the message, unless it was logged before. `bytes` is the length of its body.
    pub fn log(&self, delivery: &Delivery, bytes: usize, error: &MalformedBody, ending: Ending) {
        let message_id = delivery.message_id.as_str();
        if !self.is_new(message_id) {
            log::debug!("message {message_id} still cannot be read");
            return;
        }
        let fate = match ending {
            Ending::Delete => "it is deleted (POISON_POLICY=delete)",
            Ending::Retry { .. } => "it is left to the queue's dead-letter rule (POISON_POLICY=redrive)",
        };
        log::warn!(
            message_id, bytes, receive_count = delivery.receive_count, err:% = error;
            "cannot read a message: {fate}"
        );
    }

    fn is_new(&self, message_id: &str) -> bool {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = !logged.iter().any(|id| id == message_id);
        if is_new {
            if logged.len() >= REMEMBERED_MAX {
                logged.pop_front();
            }
            logged.push_back(message_id.to_owned());
        }
        is_new
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
        let log = MalformedLog::default();
        assert!(log.is_new("1") && !log.is_new("1"));
        (0..REMEMBERED_MAX).for_each(|number| assert!(log.is_new(&format!("other {number}"))));
        assert_eq!(log.logged.lock().unwrap().len(), REMEMBERED_MAX);
        assert!(log.is_new("1"), "forgotten");
    }
}
