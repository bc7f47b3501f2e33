//! What the pollers are at, as far as a stop has to know it.
//!
//! A long poll cannot be called back. Whatever becomes visible while one is open may be handed to it, and if the
//! process has ended by then, it is hidden from everybody for a visibility timeout. So nothing that is given back becomes
//! visible before the process's own polls are over.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The queue begins to count a poll's wait when the request has arrived, a little later than it was sent.
const ON_THE_WAY: Duration = Duration::from_secs(1);

/// What all pollers are at.
#[derive(Debug)]
pub struct Polls {
    /// Until when the queue may answer each poller's call.
    open: Mutex<Vec<Option<Instant>>>,
    /// Calls that are likely to bring messages soon.
    likely: AtomicUsize,
    /// Pollers that hold messages.
    handing_over: AtomicUsize,
}

impl Polls {
    /// For this many pollers.
    pub fn new(pollers: usize) -> Arc<Self> {
        Arc::new(Self {
            open: Mutex::new(vec![None; pollers]),
            likely: AtomicUsize::new(0),
            handing_over: AtomicUsize::new(0),
        })
    }

    /// A poller calls; the queue may take until `until` to answer. `is_likely`: it may well bring messages, and soon.
    pub fn call(&self, poller: usize, until: Instant, is_likely: bool) -> Call<'_> {
        self.set(poller, Some(until));
        let likely = is_likely.then(|| Counted::in_(&self.likely));
        Call {
            polls: self,
            poller,
            _likely: likely,
        }
    }

    /// A poller holds messages for as long as what is returned lives.
    pub fn hand_over(&self) -> Counted<'_> {
        Counted::in_(&self.handing_over)
    }

    /// Some poller holds messages, or is likely to receive some soon: at a stop worth waiting for.
    pub fn are_expecting(&self) -> bool {
        self.likely.load(Ordering::SeqCst) > 0 || self.are_handing_over()
    }

    /// Some poller holds messages.
    pub fn are_handing_over(&self) -> bool {
        self.handing_over.load(Ordering::SeqCst) > 0
    }

    /// After how long none of the calls that are open now takes a message any more: whole seconds, as SQS wants them.
    pub fn over_in(&self, now: Instant) -> Duration {
        let open = self.open();
        let Some(until) = open.iter().flatten().max() else {
            return Duration::ZERO;
        };
        let left = until.saturating_duration_since(now) + ON_THE_WAY;
        Duration::from_secs(left.as_secs() + u64::from(left.subsec_nanos() > 0))
    }

    fn set(&self, poller: usize, until: Option<Instant>) {
        if let Some(slot) = self.open().get_mut(poller) {
            *slot = until;
        }
    }

    fn open(&self) -> MutexGuard<'_, Vec<Option<Instant>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call to the queue that is not yet answered; answered when dropped.
#[derive(Debug)]
pub struct Call<'a> {
    polls: &'a Polls,
    poller: usize,
    _likely: Option<Counted<'a>>,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.polls.set(self.poller, None);
    }
}

/// Counts one for as long as it lives.
#[derive(Debug)]
pub struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn in_(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_waits_for_the_last_open_call_and_for_none_that_was_answered() {
        let (polls, now) = (Polls::new(2), Instant::now());
        assert_eq!(polls.over_in(now), Duration::ZERO);
        let first = polls.call(0, now + Duration::from_secs(4), false);
        let second = polls.call(1, now + Duration::from_millis(9_500), false);
        assert_eq!(polls.over_in(now), Duration::from_secs(11));
        drop(second);
        assert_eq!(polls.over_in(now), Duration::from_secs(5));
        assert_eq!(
            polls.over_in(now + Duration::from_mins(1)),
            Duration::from_secs(1),
            "its answer is under way"
        );
        drop(first);
        assert_eq!(polls.over_in(now), Duration::ZERO);
    }

    #[test]
    fn a_stop_waits_for_calls_that_are_likely_to_bring_something_and_for_who_holds_messages() {
        let (polls, now) = (Polls::new(2), Instant::now());
        let quiet = polls.call(0, now, false);
        assert!(!polls.are_expecting());
        let busy = polls.call(1, now, true);
        assert!(polls.are_expecting() && !polls.are_handing_over());
        drop(busy);
        let holding = polls.hand_over();
        drop(quiet);
        assert!(polls.are_expecting() && polls.are_handing_over());
        drop(holding);
        assert!(!polls.are_expecting());
    }
}
