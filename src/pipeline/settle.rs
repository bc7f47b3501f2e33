//! How a delivery ends, and the way of what has ended to the acknowledgers. The one place where that is decided.

use std::cell::RefCell;
use std::time::Duration;

use crossbeam_channel::Sender;

use super::lease::Lease;
use super::waits::send_by;
use crate::config::PoisonPolicy;

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
#[derive(Debug)]
pub struct Settled {
    /// The delivery's receipt handle, and how long it lives.
    pub lease: Lease,
    /// Its end.
    pub settlement: Settlement,
}

/// Deliveries that are handed over together: as many as SQS takes in one call.
pub const TOGETHER: usize = 10;

/// What one worker has settled, on its way to the acknowledgers. It goes in tens, since each handing over may wake one of
/// them; less of them when [`hand_over`](Self::hand_over) is called, or the worker ends.
#[derive(Debug)]
pub struct Outbox {
    acknowledgers: Sender<Vec<Settled>>,
    waiting: RefCell<Vec<Settled>>,
}

impl Outbox {
    /// Empty.
    pub fn new(acknowledgers: Sender<Vec<Settled>>) -> Self {
        Self {
            acknowledgers,
            waiting: RefCell::default(),
        }
    }

    /// Takes what was settled. Waits for room if it is time to hand over.
    pub fn put(&self, settled: Settled) {
        let mut waiting = self.waiting.borrow_mut();
        waiting.push(settled);
        let is_full = waiting.len() >= TOGETHER;
        drop(waiting);
        if is_full {
            self.hand_over();
        }
    }

    /// Hands over what there is. Waits for room.
    pub fn hand_over(&self) {
        let together = self.waiting.take();
        // No acknowledger is left only when the process is ending: the messages come again.
        if !together.is_empty()
            && let Err(back) = send_by(&self.acknowledgers, together, None)
        {
            log::debug!("no acknowledger is left for {} messages", back.into_inner().len());
        }
    }
}

/// Another worker's, to the same acknowledgers.
impl Clone for Outbox {
    fn clone(&self) -> Self {
        Self::new(self.acknowledgers.clone())
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.hand_over();
    }
}

/// The longest that a message is hidden before its next try.
const LONGEST_DELAY: Duration = Duration::from_mins(15);

/// What becomes of a message that can never be applied: a body that cannot be read, a change that Redis will always
/// refuse. `jitter` in 0 to 1, here and below, takes up to half of a wait away, so that many that failed together
/// do not come back together.
pub fn settle_permanent(policy: PoisonPolicy, receive_count: u32, jitter: f64) -> Settlement {
    match policy {
        PoisonPolicy::Delete => Settlement::Delete,
        // Hidden for longer each time: it leaves room for others until the dead-letter rule takes it.
        PoisonPolicy::Redrive => Settlement::Retry {
            visible_in: retry_delay(receive_count, 30, jitter),
        },
    }
}

/// What becomes of a message whose handling failed for a reason that may pass.
pub fn settle_temporary(receive_count: u32, jitter: f64) -> Settlement {
    Settlement::Retry {
        visible_in: retry_delay(receive_count, 2, jitter),
    }
}

/// What becomes of a message that was received but not applied when the service stops: others may have it, as soon as
/// none of the service's own polls can take it (see [`Polls::over_in`](super::polls::Polls::over_in)).
pub fn given_back(polls_over_in: Duration) -> Settlement {
    Settlement::Retry {
        visible_in: polls_over_in,
    }
}

/// `first_secs` doubled for each receive after the first, at most 15 minutes, less the jitter: whole seconds, as SQS
/// takes them, at least one.
fn retry_delay(receive_count: u32, first_secs: u64, jitter: f64) -> Duration {
    let doublings = receive_count.saturating_sub(1).min(16);
    let full = Duration::from_secs(first_secs << doublings).min(LONGEST_DELAY);
    let wait = full.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0);
    Duration::from_secs(wait.as_secs().max(1))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use crossbeam_channel::unbounded;

    use super::*;
    use crate::entitlement::EpochMs;
    use crate::ops::metrics::Metrics;
    use crate::pipeline::lease::Leases;
    use crate::sqs::{Delivery, ReceiptHandle};

    fn secs(settlement: Settlement) -> u64 {
        match settlement {
            Settlement::Retry { visible_in } => visible_in.as_secs(),
            Settlement::Delete => panic!("deleted"),
        }
    }

    fn settled(leases: &Arc<Leases>, id: usize) -> Settled {
        let delivery = Delivery {
            message_id: id.to_string(),
            receipt_handle: ReceiptHandle(id.to_string()),
            body: String::new(),
            sent_at: EpochMs(0),
            receive_count: 1,
            received_at: Instant::now(),
        };
        Settled {
            lease: leases.hold(0, delivery).lease,
            settlement: Settlement::Delete,
        }
    }

    #[test]
    fn what_is_settled_is_handed_over_in_tens_and_the_rest_when_it_is_asked_for_or_the_worker_ends() {
        let leases = Leases::new(1, Arc::new(Metrics::new().unwrap()));
        let (sender, receiver) = unbounded();
        let outbox = Outbox::new(sender);
        let sizes = || {
            receiver
                .try_iter()
                .map(|together| together.len())
                .collect::<Vec<_>>()
        };
        (0..23).for_each(|id| outbox.put(settled(&leases, id)));
        assert_eq!(sizes(), [10, 10]);
        outbox.hand_over();
        outbox.hand_over();
        assert_eq!(sizes(), [3]);
        outbox.put(settled(&leases, 23));
        drop(outbox);
        assert_eq!(sizes(), [1]);
    }

    #[test]
    fn what_can_never_be_applied_is_hidden_for_longer_each_time_but_never_for_more_than_15_minutes() {
        let hidden: Vec<u64> = [1, 2, 3, 6, 40]
            .iter()
            .map(|count| secs(settle_permanent(PoisonPolicy::Redrive, *count, 0.0)))
            .collect();
        assert_eq!(hidden, [30, 60, 120, 900, 900]);
    }

    #[test]
    fn what_can_never_be_applied_is_deleted_only_when_asked_for() {
        assert_eq!(settle_permanent(PoisonPolicy::Delete, 1, 0.0), Settlement::Delete);
    }

    #[test]
    fn a_failed_try_comes_again_soon_at_first_and_jitter_takes_half_away_at_most() {
        assert_eq!(secs(settle_temporary(1, 0.0)), 2);
        assert_eq!(secs(settle_temporary(4, 0.0)), 16);
        assert_eq!(secs(settle_temporary(4, 1.0)), 8);
        assert_eq!(secs(settle_temporary(1, 1.0)), 1, "never at once");
    }
}
