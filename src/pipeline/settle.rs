//! How a delivery ends. The one place where that is decided. Pure.

use std::time::Duration;

use crate::config::PoisonPolicy;
use crate::sqs::ReceiptHandle;

/// How a delivery ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// Its effect is in Redis (or it has none): delete it.
    Delete,
    /// It is left in the queue and becomes visible again after this time.
    Retry {
        /// Whole seconds, 0 to 12 h.
        visible_in: Duration,
    },
}

/// A delivery and how it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// The delivery.
    pub receipt_handle: ReceiptHandle,
    /// Its end.
    pub settlement: Settlement,
}

/// The longest that a message is hidden before its next try.
const LONGEST_DELAY: Duration = Duration::from_secs(15 * 60);

/// What becomes of a body that cannot be read.
pub fn settle_malformed(policy: PoisonPolicy, receive_count: u32) -> Settlement {
    match policy {
        PoisonPolicy::Delete => Settlement::Delete,
        // Hidden for longer each time: it leaves room for others until the dead-letter rule takes it.
        PoisonPolicy::Redrive => Settlement::Retry {
            visible_in: retry_delay(receive_count, 30),
        },
    }
}

/// What becomes of a message whose handling failed for a reason of its own.
pub fn settle_failed(receive_count: u32) -> Settlement {
    Settlement::Retry {
        visible_in: retry_delay(receive_count, 2),
    }
}

/// What becomes of a message that was received but not begun when the service stops: others may have it at once.
pub const GIVEN_BACK: Settlement = Settlement::Retry {
    visible_in: Duration::ZERO,
};

/// `first_secs` doubled for each receive after the first.
fn retry_delay(receive_count: u32, first_secs: u64) -> Duration {
    let doublings = receive_count.saturating_sub(1).min(16);
    Duration::from_secs(first_secs << doublings).min(LONGEST_DELAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(settlement: Settlement) -> u64 {
        match settlement {
            Settlement::Retry { visible_in } => visible_in.as_secs(),
            Settlement::Delete => panic!("deleted"),
        }
    }

    #[test]
    fn an_unreadable_body_is_hidden_for_longer_each_time_but_never_for_more_than_15_minutes() {
        let hidden: Vec<u64> = [1, 2, 3, 6, 40]
            .iter()
            .map(|count| secs(settle_malformed(PoisonPolicy::Redrive, *count)))
            .collect();
        assert_eq!(hidden, [30, 60, 120, 900, 900]);
    }

    #[test]
    fn an_unreadable_body_is_deleted_only_when_asked_for() {
        assert_eq!(settle_malformed(PoisonPolicy::Delete, 1), Settlement::Delete);
    }

    #[test]
    fn a_failed_try_comes_again_soon_at_first() {
        assert_eq!(secs(settle_failed(1)), 2);
        assert_eq!(secs(settle_failed(4)), 16);
    }
}
