//! What is in hand: each delivery's receipt handle and how long it still lives.
//!
//! Each poller has a page of its own, so that none waits for another. A lease leaves its page when it is
//! dropped, on whatever way its delivery ends: none can be forgotten. The heartbeat reads the pages.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
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
    visible_after_ms: AtomicU64,
    extended: AtomicU64,
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
            metrics,
        })
    }

    /// The visibility timeout that new leases get and extensions ask for.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms.load(Ordering::Acquire))
    }

    /// The queue has told its timeout: it holds for what was received before, too.
    pub fn set_timeout(&self, timeout: Duration) {
        self.timeout_ms.store(millis(timeout), Ordering::Release);
        self.for_each(|handle| {
            if handle.extended.load(Ordering::Acquire) == 0 {
                handle.visible_after_ms.store(millis(timeout), Ordering::Release);
            }
        });
    }

    /// Takes a delivery in hand, on this poller's page.
    pub fn hold(self: &Arc<Self>, poller: usize, delivery: Delivery) -> Held {
        let handle = Arc::new(Handle {
            id: delivery.receipt_handle.clone(),
            received_at: delivery.received_at,
            visible_after_ms: AtomicU64::new(self.timeout_ms.load(Ordering::Acquire)),
            extended: AtomicU64::new(0),
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

    /// What is in hand, not settled, and has used up half of its time. What has used up all of it is lost.
    pub fn due(&self, now: Instant) -> Vec<Arc<Handle>> {
        let half_ms = self.timeout_ms.load(Ordering::Acquire) / 2;
        let mut due = Vec::new();
        self.for_each(|handle| {
            if handle.state.load(Ordering::Acquire) != IN_HAND || handle.is_lost(now) {
                return;
            }
            let left_ms = handle
                .visible_after_ms
                .load(Ordering::Acquire)
                .saturating_sub(handle.age_ms(now));
            if left_ms <= half_ms && !handle.extension(self.timeout(), now).is_zero() {
                due.push(Arc::clone(handle));
            }
        });
        due
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

    /// The queue has hidden the message for this long, from before the call was made.
    pub fn extended(&self, called_at: Instant, by: Duration) {
        self.extended.fetch_add(1, Ordering::AcqRel);
        self.visible_after_ms
            .store(self.age_ms(called_at) + millis(by), Ordering::Release);
    }

    /// The queue does not know the handle any more.
    pub fn lose(&self) {
        // A settled one has its end, and its delete may have been what the queue forgot it for.
        let _ = self
            .state
            .compare_exchange(IN_HAND, LOST, Ordering::AcqRel, Ordering::Acquire);
    }

    /// The message is, or will be, received again by somebody: what is done with it here is in vain.
    pub fn is_lost(&self, now: Instant) -> bool {
        self.state.load(Ordering::Acquire) == LOST || self.time_left(now).is_zero()
    }

    /// How long the handle still lives.
    pub fn time_left(&self, now: Instant) -> Duration {
        let visible_after_ms = self.visible_after_ms.load(Ordering::Acquire);
        Duration::from_millis(visible_after_ms.saturating_sub(self.age_ms(now)))
    }

    fn age_ms(&self, now: Instant) -> u64 {
        millis(now.saturating_duration_since(self.received_at))
    }
}

impl Lease {
    /// The handle.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// How the delivery ends is decided: it is no longer extended.
    pub fn settle(&self) {
        let _ = self
            .handle
            .state
            .compare_exchange(IN_HAND, SETTLED, Ordering::AcqRel, Ordering::Acquire);
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
        held.lease.handle().extended(start + secs(15), secs(30));
        assert_eq!(due(&leases, start + secs(25)), ["2"]);
        assert_eq!(held.lease.handle().time_left(start + secs(25)), secs(20));
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
        let held = leases.hold(0, received("1", start));
        assert!(!held.lease.handle().is_lost(start + secs(29)));
        assert!(held.lease.handle().is_lost(start + secs(30)));
        assert!(due(&leases, start + secs(31)).is_empty());
        let forgotten = leases.hold(0, received("2", start));
        forgotten.lease.handle().lose();
        assert!(forgotten.lease.handle().is_lost(start));
    }

    #[test]
    fn the_queues_own_timeout_holds_for_what_was_received_before_it_was_told() {
        let (leases, start) = (leases(), Instant::now());
        let held = leases.hold(0, received("1", start));
        leases.set_timeout(secs(4));
        assert_eq!(due(&leases, start + secs(2)), ["1"]);
        assert!(held.lease.handle().is_lost(start + secs(4)));
    }

    #[test]
    fn nothing_is_hidden_for_more_than_12_hours() {
        let (leases, start) = (leases(), Instant::now());
        let held = leases.hold(0, received("1", start));
        let end = |left: u64| start + LONGEST.saturating_sub(secs(left));
        let near_the_end = end(15);
        held.lease.handle().extended(end(25), secs(30));
        assert_eq!(held.lease.handle().extension(secs(30), near_the_end), secs(10));
        held.lease.handle().extended(near_the_end, secs(10));
        assert!(due(&leases, end(5)).is_empty());
        assert!(held.lease.handle().is_lost(end(5)));
    }
}
