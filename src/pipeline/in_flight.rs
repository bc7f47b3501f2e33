//! The in-flight tracker: every delivery that was received and not yet completed, and every open poll.
//!
//! One mutex guards it, held for a few microseconds a call. All threads need it, so what is done for many deliveries takes
//! it once. A delivery that its holder drops stays tracked, and is released when the service stops.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::context::Sent;
use super::ending::Ending;
use crate::ops::metrics::Metrics;
use crate::sqs::{Delivery, ReceiptHandle};

/// SQS hides a message for at most 12 hours after its receipt, however often it is extended; less what a call takes.
const HIDDEN_MAX: Duration = Duration::from_secs(12 * 3_600 - 5);
/// Assumed until the queue's visibility timeout is known: SQS's default.
pub const ASSUMED_TIMEOUT: Duration = Duration::from_secs(30);
/// The queue counts a long poll's wait from when the request arrived, a little after it was sent.
const REQUEST_TRAVEL: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct InFlight {
    tracked: Mutex<Tracked>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Tracked {
    entries: BTreeMap<u64, Entry>,
    next_id: u64,
    /// For each poller that has called the queue, until when the queue may hand out messages to it.
    polls: Vec<Option<Instant>>,
    /// The queue's visibility timeout, once it is known.
    timeout: Option<Duration>,
}

#[derive(Debug)]
struct Entry {
    receipt_handle: ReceiptHandle,
    received_at: Instant,
    extended_until: Option<Instant>,
    /// No extension is tried before.
    extend_from: Instant,
    is_being_extended: bool,
    /// How the delivery ends is decided, by its holder or by the release phase: it is no longer extended, and nobody else
    /// can decide it.
    is_recorded: bool,
}

/// A delivery that is being worked on.
#[derive(Debug)]
pub struct InFlightDelivery {
    pub id: u64,
    pub delivery: Delivery,
}

/// A delivery whose ending is decided and still has to be sent to the queue.
#[derive(Debug)]
pub struct Recorded {
    pub id: u64,
    pub receipt_handle: ReceiptHandle,
    pub ending: Ending,
}

impl InFlight {
    pub fn new(pollers: usize, metrics: Arc<Metrics>) -> Self {
        let tracked = Mutex::new(Tracked {
            entries: BTreeMap::new(),
            next_id: 0,
            polls: vec![None; pollers],
            timeout: None,
        });
        Self { tracked, metrics }
    }

    /// A poller calls the queue, which may hand out messages to it until then.
    pub fn open_poll(&self, poller: usize, until: Instant) {
        self.tracked().polls[poller] = Some(until);
    }

    /// The poller's call has ended. What it brought is tracked in the same moment, so a shutdown finds one or the other.
    pub fn close_poll(&self, poller: usize, received: Vec<Delivery>) -> Vec<InFlightDelivery> {
        let mut tracked = self.tracked();
        tracked.polls[poller] = None;
        let track = |delivery: Delivery| {
            let entry = Entry {
                receipt_handle: delivery.receipt_handle.clone(),
                received_at: delivery.received_at,
                extended_until: None,
                extend_from: delivery.received_at,
                is_being_extended: false,
                is_recorded: false,
            };
            let id = tracked.next_id;
            tracked.next_id += 1;
            tracked.entries.insert(id, entry);
            InFlightDelivery { id, delivery }
        };
        let received = received.into_iter().map(track).collect();
        self.count(&tracked);
        received
    }

    /// For each delivery, false if it is no longer this process's: it is, or will be, received again by somebody, so
    /// whatever is done with it here is wasted.
    pub fn are_held(&self, ids: impl IntoIterator<Item = u64>, now: Instant) -> Vec<bool> {
        let mut tracked = self.tracked();
        let is_held = |id| match tracked.entries.get(&id) {
            Some(entry) if tracked.is_expired(entry, now) => {
                tracked.entries.remove(&id);
                false
            }
            entry => entry.is_some_and(|entry| !entry.is_recorded),
        };
        let are_held = ids.into_iter().map(is_held).collect();
        self.count(&tracked);
        are_held
    }

    /// Records how deliveries end. Those that are no longer this process's are left out.
    pub fn record(&self, ended: Vec<(InFlightDelivery, Ending)>) -> Vec<Recorded> {
        let mut tracked = self.tracked();
        let record = |(InFlightDelivery { id, delivery }, ending)| {
            let entry = tracked.entries.get_mut(&id).filter(|entry| !entry.is_recorded)?;
            entry.is_recorded = true;
            Some(Recorded { id, receipt_handle: delivery.receipt_handle, ending })
        };
        ended.into_iter().filter_map(record).collect()
    }

    /// The release phase: records every delivery as released whose ending nobody has recorded. A message that is applied all
    /// the same is delivered again and then changes nothing.
    pub fn take_over(&self, now: Instant) -> Vec<Recorded> {
        let mut tracked = self.tracked();
        let visible_in = tracked.polls_over_in(now);
        let held = tracked.entries.iter_mut().filter(|(_, entry)| !entry.is_recorded);
        let take = |(id, entry): (&u64, &mut Entry)| {
            entry.is_recorded = true;
            let receipt_handle = entry.receipt_handle.clone();
            Recorded { id: *id, receipt_handle, ending: Ending::Retry { visible_in } }
        };
        held.map(take).collect()
    }

    /// These are completed, or given up.
    pub fn remove(&self, ids: impl IntoIterator<Item = u64>) {
        let mut tracked = self.tracked();
        for id in ids {
            tracked.entries.remove(&id);
        }
        self.count(&tracked);
    }

    /// How long the message stays hidden, as far as is known.
    pub fn time_left(&self, id: u64, now: Instant) -> Duration {
        let tracked = self.tracked();
        let hidden_until = tracked.entries.get(&id).map(|entry| tracked.hidden_until(entry));
        hidden_until.unwrap_or(now).saturating_duration_since(now)
    }

    /// A call that extends it is under way, and would undo another change of its visibility.
    pub fn is_being_extended(&self, id: u64) -> bool {
        self.tracked().entries.get(&id).is_some_and(|entry| entry.is_being_extended)
    }

    pub fn timeout(&self) -> Duration {
        self.tracked().timeout()
    }

    /// The queue's own visibility timeout is known; it holds for earlier deliveries too.
    pub fn set_timeout(&self, timeout: Duration) {
        self.tracked().timeout = Some(timeout);
    }

    /// Begins to extend up to `max` deliveries that have used up half of their time, the most urgent first: by the visibility
    /// timeout, from now on.
    pub fn begin_extensions(&self, max: usize, now: Instant) -> Vec<(u64, ReceiptHandle)> {
        let mut tracked = self.tracked();
        let timeout = tracked.timeout();
        let is_due = |entry: &Entry| {
            let is_half_over = tracked.hidden_until(entry) <= now + timeout / 2;
            let is_possible =
                now + timeout <= entry.received_at + HIDDEN_MAX && !tracked.is_expired(entry, now);
            is_half_over && is_possible && entry.extend_from <= now && !entry.is_recorded
        };
        let due = tracked.entries.iter().filter(|(_, entry)| is_due(entry));
        let mut due: Vec<_> = due.map(|(id, entry)| (tracked.hidden_until(entry), *id)).collect();
        due.sort_unstable();
        let begin = |(_, id)| {
            let entry = tracked.entries.get_mut(&id)?;
            entry.extend_from = now + timeout / 8; // if this one fails
            entry.is_being_extended = true;
            Some((id, entry.receipt_handle.clone()))
        };
        due.into_iter().filter_map(begin).take(max).collect()
    }

    /// An extension, to this time if it succeeded, has ended.
    pub fn end_extension(&self, id: u64, until: Instant, sent: &Sent) {
        let mut tracked = self.tracked();
        let Some(entry) = tracked.entries.get_mut(&id) else {
            return;
        };
        entry.is_being_extended = false;
        match sent {
            Sent::Done => entry.extended_until = Some(until),
            // If it was recorded meanwhile, its own delete may be why the queue forgot it.
            Sent::Refused(_) if !entry.is_recorded => {
                tracked.entries.remove(&id);
                self.count(&tracked);
            }
            Sent::Refused(_) | Sent::Failed => {}
        }
    }

    /// Nothing is in flight; `with_polls`: and no poll can bring anything.
    pub fn is_drained(&self, with_polls: bool) -> bool {
        let tracked = self.tracked();
        tracked.entries.is_empty() && (!with_polls || tracked.polls.iter().all(Option::is_none))
    }

    fn count(&self, tracked: &Tracked) {
        self.metrics.in_flight.set(i64::try_from(tracked.entries.len()).unwrap_or(i64::MAX));
    }

    /// A panic leaves nothing half done here.
    fn tracked(&self) -> MutexGuard<'_, Tracked> {
        self.tracked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tracked {
    fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(ASSUMED_TIMEOUT)
    }

    /// An assumed timeout proves nothing: the queue's own may be longer, and a message dropped in error would stay
    /// hidden for all of it.
    fn is_expired(&self, entry: &Entry, now: Instant) -> bool {
        let is_certain = self.timeout.is_some() || entry.extended_until.is_some();
        is_certain && self.hidden_until(entry) <= now
    }

    fn hidden_until(&self, entry: &Entry) -> Instant {
        entry.extended_until.unwrap_or(entry.received_at + self.timeout())
    }

    /// After how long none of the open polls takes a message any more, in whole seconds. What becomes visible earlier
    /// could be handed to one of them; this process ends, and the message would be hidden for a visibility timeout.
    fn polls_over_in(&self, now: Instant) -> Duration {
        let Some(until) = self.polls.iter().flatten().max() else {
            return Duration::ZERO;
        };
        let left = until.saturating_duration_since(now) + REQUEST_TRAVEL;
        Duration::from_secs(left.as_secs() + u64::from(left.subsec_nanos() > 0))
    }
}
