//! What is in hand: each delivery's receipt handle and how long it still lives.
//!
//! Each poller has a page of its own, so that none waits for another. A lease leaves its page when it is
//! dropped, on whatever way its delivery ends: none can be forgotten. The heartbeat reads the pages.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::ops::metrics::Metrics;
use crate::sqs::{Delivery, ReceiptHandle};

/// SQS hides a message for no longer than this, counted from its receipt, however often it is extended.
const LONGEST: Duration = Duration::from_hours(12);
/// What is assumed of a queue that does not tell its visibility timeout: SQS's own default.
pub const ASSUMED_TIMEOUT: Duration = Duration::from_secs(30);

const IN_HAND: u8 = 0;
const SETTLED: u8 = 1;
const LOST: u8 = 2;

/// Everything in hand.
#[derive(Debug)]
pub struct Leases {
    pages: Vec<Mutex<Page>>,
    timeout_ms: AtomicU64,
    /// The queue has told its timeout.
    is_known: AtomicBool,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Page {
    places: Vec<Option<Arc<Handle>>>,
    free: Vec<usize>,
}

/// One receipt handle, as worker and heartbeat share it. Times are milliseconds after `received_at`.
#[derive(Debug)]
pub struct Handle {
    id: ReceiptHandle,
    received_at: Instant,
    /// Until when the last extension hides the message; 0 if it was never extended.
    extended_until_ms: AtomicU64,
    is_being_extended: AtomicBool,
    state: AtomicU8,
}

/// The right to settle one delivery. Dropping it takes it off the books.
#[derive(Debug)]
pub struct Lease {
    handle: Arc<Handle>,
    leases: Arc<Leases>,
    page: usize,
    place: usize,
}

/// A delivery in hand.
#[derive(Debug)]
pub struct Held {
    /// What was received.
    pub delivery: Delivery,
    /// How long it is ours.
    pub lease: Lease,
}

impl Leases {
    /// Shelves for this many pollers.
    pub fn new(pollers: usize, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            pages: (0..pollers.max(1)).map(|_| Mutex::default()).collect(),
            timeout_ms: AtomicU64::new(millis(ASSUMED_TIMEOUT)),
            is_known: AtomicBool::new(false),
            metrics,
        })
    }

    /// The visibility timeout that new leases get and extensions ask for.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms.load(Ordering::Acquire))
    }

    /// The queue has told its timeout: it holds for what was received before, too.
    pub fn set_timeout(&self, timeout: Duration) {
        self.timeout_ms.store(millis(timeout), Ordering::SeqCst);
        self.is_known.store(true, Ordering::SeqCst);
    }

    /// Takes a delivery in hand, on this poller's page.
    pub fn hold(self: &Arc<Self>, poller: usize, delivery: Delivery) -> Held {
        let handle = Arc::new(Handle {
            id: delivery.receipt_handle.clone(),
            received_at: delivery.received_at,
            extended_until_ms: AtomicU64::new(0),
            is_being_extended: AtomicBool::new(false),
            state: AtomicU8::new(IN_HAND),
        });
        let page_number = poller % self.pages.len();
        let mut page = self.page(page_number);
        let place = if let Some(place) = page.free.pop() {
            place
        } else {
            page.places.push(None);
            page.places.len() - 1
        };
        if let Some(slot) = page.places.get_mut(place) {
            *slot = Some(Arc::clone(&handle));
        }
        drop(page);
        self.metrics.in_flight.inc();
        let lease = Lease {
            handle,
            leases: Arc::clone(self),
            page: page_number,
            place,
        };
        Held { delivery, lease }
    }

    /// What is in hand, not settled, and has used up half of its time, the most urgent first. What has used up all of
    /// it is lost.
    pub fn due(&self, now: Instant) -> Vec<Arc<Handle>> {
        let half = self.timeout() / 2;
        let mut due = Vec::new();
        self.for_each(|handle| {
            let is_due = handle.state.load(Ordering::SeqCst) == IN_HAND
                && !self.is_lost(handle, now)
                && self.time_left(handle, now) <= half
                && !handle.extension(self.timeout(), now).is_zero();
            if is_due {
                due.push(Arc::clone(handle));
            }
        });
        due.sort_by_cached_key(|handle| self.time_left(handle, now));
        due
    }

    /// Whatever is in hand ends here and now: its holders may no longer decide. Gives what the queue knows it by.
    pub fn settle_all(&self) -> Vec<ReceiptHandle> {
        let mut settled = Vec::new();
        self.for_each(|handle| {
            if handle.settle() {
                settled.push(handle.id.clone());
            }
        });
        settled
    }

    /// The message is, or will be, received again by somebody: what is done with it here is in vain.
    fn is_lost(&self, handle: &Handle, now: Instant) -> bool {
        if handle.state.load(Ordering::SeqCst) == LOST || handle.age(now) >= LONGEST {
            return true;
        }
        // An assumed timeout proves nothing: where the queue's own is longer, a message that is dropped in error stays
        // hidden for all of it. To apply it late does no harm. What was extended is hidden for as long as was asked for.
        let is_certain =
            self.is_known.load(Ordering::SeqCst) || handle.extended_until_ms.load(Ordering::SeqCst) != 0;
        is_certain && self.time_left(handle, now).is_zero()
    }

    /// How long the message stays hidden, as far as is known.
    fn time_left(&self, handle: &Handle, now: Instant) -> Duration {
        let until_ms = match handle.extended_until_ms.load(Ordering::SeqCst) {
            0 => self.timeout_ms.load(Ordering::SeqCst),
            until_ms => until_ms,
        };
        Duration::from_millis(until_ms.saturating_sub(millis(handle.age(now))))
    }

    fn for_each(&self, mut act: impl FnMut(&Arc<Handle>)) {
        for page in 0..self.pages.len() {
            self.page(page).places.iter().flatten().for_each(&mut act);
        }
    }

    fn page(&self, number: usize) -> MutexGuard<'_, Page> {
        let Some(page) = self.pages.get(number) else {
            unreachable!("a page's number comes from its remainder");
        };
        page.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handle {
    /// The handle itself.
    pub fn receipt_handle(&self) -> &ReceiptHandle {
        &self.id
    }

    /// For how long the message may be hidden from `now` on: the timeout, less near the end of the 12 h. Whole
    /// seconds; zero when there is nothing left to ask for.
    pub fn extension(&self, timeout: Duration, now: Instant) -> Duration {
        let left =
            LONGEST.saturating_sub(now.saturating_duration_since(self.received_at) + Duration::from_secs(5));
        Duration::from_secs(timeout.min(left).as_secs())
    }

    /// Begins an extension. None if the delivery has been settled meanwhile: then nothing of it may be changed.
    pub fn begin_extension(self: &Arc<Self>) -> Option<Extension> {
        // In this order: who settles looks in the other one, so that one of the two sees the other.
        self.is_being_extended.store(true, Ordering::SeqCst);
        let extension = Extension(Arc::clone(self));
        (self.state.load(Ordering::SeqCst) == IN_HAND).then_some(extension)
    }

    /// True if this was still to be decided.
    fn settle(&self) -> bool {
        self.state
            .compare_exchange(IN_HAND, SETTLED, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.received_at)
    }
}

/// An extension that is under way; ends when dropped. Of one handle there is one at a time: the heartbeat's.
#[derive(Debug)]
pub struct Extension(Arc<Handle>);

impl Extension {
    /// What is extended.
    pub fn handle(&self) -> &Handle {
        &self.0
    }

    /// The queue has hidden the message for this long, from before the call was made.
    pub fn succeeded(self, called_at: Instant, by: Duration) {
        let until_ms = millis(self.0.age(called_at)) + millis(by);
        self.0.extended_until_ms.store(until_ms, Ordering::SeqCst);
    }

    /// The queue does not know the handle any more. True if that is news: a delivery that was settled meanwhile has its
    /// end, and its delete may be why the queue forgot it.
    pub fn refused(self) -> bool {
        self.0
            .state
            .compare_exchange(IN_HAND, LOST, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }
}

impl Drop for Extension {
    fn drop(&mut self) {
        self.0.is_being_extended.store(false, Ordering::SeqCst);
    }
}

impl Lease {
    /// What the queue knows the delivery by.
    pub fn receipt_handle(&self) -> &ReceiptHandle {
        &self.handle.id
    }

    /// It is certain that the message is, or will be, received again: what is done with it here is in vain.
    pub fn is_lost(&self, now: Instant) -> bool {
        self.leases.is_lost(&self.handle, now)
    }

    /// How long the message stays hidden, as far as is known. Where the queue did not tell its timeout this is a belief,
    /// good enough to give up a delete by.
    pub fn time_left(&self, now: Instant) -> Duration {
        self.leases.time_left(&self.handle, now)
    }

    /// A call that extends it is under way, and would undo another change of its visibility.
    pub fn is_being_extended(&self) -> bool {
        self.handle.is_being_extended.load(Ordering::SeqCst)
    }

    /// How the delivery ends is decided: it is no longer extended. An extension that is under way still ends.
    pub fn settle(&self) {
        self.handle.settle();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut page = self.leases.page(self.page);
        if let Some(slot) = page.places.get_mut(self.place) {
            *slot = None;
            page.free.push(self.place);
        }
        drop(page);
        self.leases.metrics.in_flight.dec();
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entitlement::EpochMs;

    fn leases() -> Arc<Leases> {
        Leases::new(2, Arc::new(Metrics::new().unwrap()))
    }

    fn received(id: &str, received_at: Instant) -> Delivery {
        Delivery {
            message_id: id.to_owned(),
            receipt_handle: ReceiptHandle(id.to_owned()),
            body: String::new(),
            sent_at: EpochMs(0),
            receive_count: 1,
            received_at,
        }
    }

    fn due(leases: &Leases, now: Instant) -> Vec<String> {
        let due = leases.due(now);
        due.iter().map(|handle| handle.id.0.clone()).collect()
    }

    fn extend(held: &Held, called_at: Instant, by: Duration) {
        let extension = held.lease.handle.begin_extension().unwrap();
        extension.succeeded(called_at, by);
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn a_message_is_extended_at_half_of_its_time_counted_from_its_receipt() {
        let (leases, start) = (leases(), Instant::now());
        let held = leases.hold(0, received("1", start));
        let _later = leases.hold(1, received("2", start + secs(10)));
        assert!(due(&leases, start + secs(14)).is_empty());
        assert_eq!(due(&leases, start + secs(15)), ["1"]);
        extend(&held, start + secs(15), secs(30));
        assert_eq!(due(&leases, start + secs(25)), ["2"]);
        assert_eq!(held.lease.time_left(start + secs(25)), secs(20));
    }

    #[test]
    fn what_is_settled_or_dropped_is_not_extended_and_the_gauge_follows() {
        let (leases, start) = (leases(), Instant::now());
        let settled = leases.hold(0, received("1", start));
        settled.lease.settle();
        let dropped = leases.hold(0, received("2", start));
        assert_eq!(leases.metrics.in_flight.get(), 2);
        drop(dropped);
        assert_eq!(leases.metrics.in_flight.get(), 1);
        assert!(due(&leases, start + secs(20)).is_empty());
        let again = leases.hold(0, received("3", start));
        assert_eq!(due(&leases, start + secs(20)), ["3"], "a place is used again");
        drop((settled, again));
        assert_eq!(leases.metrics.in_flight.get(), 0);
    }

    #[test]
    fn a_handle_whose_time_is_over_or_that_the_queue_has_forgotten_is_lost() {
        let (leases, start) = (leases(), Instant::now());
        leases.set_timeout(secs(30));
        let held = leases.hold(0, received("1", start));
        assert!(!held.lease.is_lost(start + secs(29)));
        assert!(held.lease.is_lost(start + secs(30)));
        assert!(due(&leases, start + secs(31)).is_empty());
        let forgotten = leases.hold(0, received("2", start));
        assert!(forgotten.lease.handle.begin_extension().unwrap().refused());
        assert!(forgotten.lease.is_lost(start));
    }

    #[test]
    fn an_assumed_timeout_is_no_proof_that_a_handle_is_lost_but_an_extension_is() {
        let (leases, start) = (leases(), Instant::now());
        let held = leases.hold(0, received("1", start));
        assert!(
            !held.lease.is_lost(start + secs(600)),
            "the queue's own may be longer"
        );
        assert_eq!(due(&leases, start + secs(600)), ["1"], "it is still extended");
        assert_eq!(held.lease.time_left(start + secs(600)), secs(0));
        extend(&held, start + secs(600), secs(30));
        assert!(!held.lease.is_lost(start + secs(629)));
        assert!(held.lease.is_lost(start + secs(630)));
    }

    #[test]
    fn what_is_settled_is_not_extended_and_tells_while_an_extension_is_under_way() {
        let (leases, start) = (leases(), Instant::now());
        let held = leases.hold(0, received("1", start));
        let under_way = held.lease.handle.begin_extension().unwrap();
        held.lease.settle();
        assert!(held.lease.is_being_extended());
        assert!(!under_way.refused(), "it has its end");
        assert!(!held.lease.is_being_extended());
        assert!(held.lease.handle.begin_extension().is_none());
        assert!(!held.lease.is_being_extended());
        assert!(!held.lease.is_lost(start));
    }

    #[test]
    fn what_is_taken_out_of_all_hands_is_what_was_neither_settled_nor_lost_and_is_taken_once() {
        let (leases, start) = (leases(), Instant::now());
        let settled = leases.hold(0, received("settled", start));
        settled.lease.settle();
        let lost = leases.hold(0, received("lost", start));
        assert!(lost.lease.handle.begin_extension().unwrap().refused());
        let _held = [("1", 0), ("2", 1)].map(|(id, poller)| leases.hold(poller, received(id, start)));
        let taken: Vec<String> = leases.settle_all().into_iter().map(|handle| handle.0).collect();
        assert_eq!(taken, ["1", "2"]);
        assert!(leases.settle_all().is_empty());
    }

    #[test]
    fn the_most_urgent_is_extended_first() {
        let (leases, start) = (leases(), Instant::now());
        let _held = [(2, 3), (0, 1), (1, 2)]
            .map(|(secs_later, id)| leases.hold(0, received(&id.to_string(), start + secs(secs_later))));
        assert_eq!(due(&leases, start + secs(20)), ["1", "2", "3"]);
    }

    #[test]
    fn the_queues_own_timeout_holds_for_what_was_received_before_it_was_told() {
        let (leases, start) = (leases(), Instant::now());
        let held = leases.hold(0, received("1", start));
        leases.set_timeout(secs(4));
        assert_eq!(due(&leases, start + secs(2)), ["1"]);
        assert!(held.lease.is_lost(start + secs(4)));
    }

    #[test]
    fn nothing_is_hidden_for_more_than_12_hours() {
        let (leases, start) = (leases(), Instant::now());
        let held = leases.hold(0, received("1", start));
        let end = |left: u64| start + LONGEST.saturating_sub(secs(left));
        let near_the_end = end(15);
        extend(&held, end(25), secs(30));
        assert_eq!(held.lease.handle.extension(secs(30), near_the_end), secs(10));
        extend(&held, near_the_end, secs(10));
        assert!(due(&leases, end(5)).is_empty());
        assert!(held.lease.is_lost(end(5)));
    }
}
