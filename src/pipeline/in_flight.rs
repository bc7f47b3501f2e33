//! The in-flight tracker: every delivery that was received and not yet completed, and every open poll.
//!
//! One mutex guards it, held for a few microseconds a call. All threads need it, so what is done for many deliveries takes
//! it once. Whoever holds a [`Ticket`] works on its delivery; dropping the ticket, on whatever path, removes the entry.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

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
    /// Notified when nothing is in flight, and when a poll closes.
    quieter: Condvar,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Tracked {
    entries: HashMap<u64, Entry>,
    next_id: u64,
    /// Each poller's open poll: until when the queue may hand out messages to it, and whether that is likely soon.
    polls: Vec<Option<(Instant, bool)>>,
    timeout: Duration,
    is_timeout_known: bool,
    is_releasing: bool,
}

#[derive(Debug)]
struct Entry {
    receipt_handle: ReceiptHandle,
    received_at: Instant,
    extended_until: Option<Instant>,
    /// When the next extension is due.
    extend_at: Instant,
    is_being_extended: bool,
    /// How the delivery ends is decided, by its holder or by the release phase: it is no longer extended, and only
    /// the ticket that is recorded, too, has an effect.
    is_recorded: bool,
}

#[derive(Debug)]
pub struct Ticket {
    id: u64,
    is_recorded: bool,
    /// The entry was removed before the ticket is dropped.
    is_removed: bool,
    in_flight: Arc<InFlight>,
}

/// A delivery that is being worked on.
#[derive(Debug)]
pub struct InFlightDelivery {
    pub delivery: Delivery,
    pub ticket: Ticket,
}

/// A delivery whose ending is decided and still has to be sent to the queue.
#[derive(Debug)]
pub struct Recorded {
    pub receipt_handle: ReceiptHandle,
    pub ending: Ending,
    pub ticket: Ticket,
}

/// An extension that is under way.
#[derive(Debug)]
pub struct Extension {
    id: u64,
    pub receipt_handle: ReceiptHandle,
    /// Whole seconds.
    pub hidden_for: Duration,
}

/// What became of an extension.
#[derive(Debug, Clone, Copy)]
pub enum Extended {
    Until(Instant),
    /// It can be tried again.
    Failed,
    /// The queue does not know the receipt handle any more.
    Forgotten,
}

impl InFlight {
    pub fn new(pollers: usize, metrics: Arc<Metrics>) -> Arc<Self> {
        let tracked = Mutex::new(Tracked {
            entries: HashMap::new(),
            next_id: 0,
            polls: vec![None; pollers],
            timeout: ASSUMED_TIMEOUT,
            is_timeout_known: false,
            is_releasing: false,
        });
        Arc::new(Self { tracked, quieter: Condvar::new(), metrics })
    }

    /// A poller calls the queue, which may answer until `until`. `is_likely`: messages are expected soon.
    pub fn open_poll(self: &Arc<Self>, poller: usize, until: Instant, is_likely: bool) -> OpenPoll<'_> {
        self.tracked().polls[poller] = Some((until, is_likely));
        OpenPoll { in_flight: self, poller }
    }

    /// Records how deliveries end. Those that are no longer this process's are left out.
    pub fn record(&self, ended: Vec<(InFlightDelivery, Ending)>) -> Vec<Recorded> {
        let mut tracked = self.tracked();
        let mut record = |ticket: &Ticket| {
            let entry = tracked.entries.get_mut(&ticket.id);
            let entry = entry.filter(|entry| !entry.is_recorded);
            entry.map(|entry| entry.is_recorded = true).is_some()
        };
        let are_held: Vec<bool> = ended.iter().map(|(ended, _)| record(&ended.ticket)).collect();
        drop(tracked); // before the tickets that need it
        let recorded = |((ended, ending), is_held): ((InFlightDelivery, Ending), bool)| {
            let InFlightDelivery { delivery, mut ticket } = ended;
            // The entry may have been taken over: then it is not this ticket's to remove.
            ticket.is_recorded = is_held;
            is_held.then(|| Recorded { receipt_handle: delivery.receipt_handle, ending, ticket })
        };
        ended.into_iter().zip(are_held).filter_map(recorded).collect()
    }

    /// Removes deliveries that are completed.
    pub fn complete(&self, mut completed: Vec<Recorded>) {
        if completed.is_empty() {
            return;
        }
        let mut tracked = self.tracked();
        for Recorded { ticket, .. } in &mut completed {
            if tracked.entry(ticket).is_some() {
                tracked.entries.remove(&ticket.id);
            }
            ticket.is_removed = true;
        }
        self.changed(&tracked);
    }

    /// For each delivery, false if it is no longer this process's: it is, or will be, received again by somebody, so
    /// whatever is done with it here is in vain.
    pub fn are_held<'a>(&self, tickets: impl Iterator<Item = &'a Ticket>, now: Instant) -> Vec<bool> {
        let tracked = self.tracked();
        let is_held = |ticket| {
            let entry = tracked.entry(ticket);
            entry.is_some_and(|entry| !tracked.is_expired(entry, now))
        };
        tickets.map(is_held).collect()
    }

    /// How long the message stays hidden, as far as is known.
    pub fn time_left(&self, ticket: &Ticket, now: Instant) -> Duration {
        let tracked = self.tracked();
        let entry = tracked.entry(ticket);
        entry.map_or(Duration::ZERO, |entry| tracked.hidden_until(entry).saturating_duration_since(now))
    }

    /// A call that extends it is under way, and would undo another change of its visibility.
    pub fn is_being_extended(&self, ticket: &Ticket) -> bool {
        let tracked = self.tracked();
        tracked.entry(ticket).is_some_and(|entry| entry.is_being_extended)
    }

    pub fn timeout(&self) -> Duration {
        self.tracked().timeout
    }

    /// The queue's own visibility timeout is known; it holds for earlier deliveries too.
    pub fn set_timeout(&self, timeout: Duration) {
        let mut tracked = self.tracked();
        tracked.timeout = timeout;
        tracked.is_timeout_known = true;
        for entry in tracked.entries.values_mut() {
            entry.extend_at = entry.extend_at.min(entry.received_at + timeout / 2);
        }
    }

    /// Begins to extend up to `max` deliveries that have used up half of their time, the most urgent first.
    pub fn begin_extensions(&self, max: usize, now: Instant) -> Vec<Extension> {
        let mut tracked = self.tracked();
        let timeout = tracked.timeout;
        let is_due =
            |entry: &Entry| !entry.is_recorded && entry.extend_at <= now && !tracked.is_expired(entry, now);
        let due = tracked.entries.iter().filter(|(_, entry)| is_due(entry));
        let mut due: Vec<_> = due.map(|(id, entry)| (tracked.hidden_until(entry), *id)).collect();
        due.sort_unstable();
        let begin = |(_, id)| {
            let entry = tracked.entries.get_mut(&id)?;
            let longest = (entry.received_at + HIDDEN_MAX).saturating_duration_since(now);
            let hidden_for = Duration::from_secs(timeout.min(longest).as_secs());
            entry.extend_at = now + timeout / 8; // if this one fails
            entry.is_being_extended = !hidden_for.is_zero();
            let receipt_handle = entry.receipt_handle.clone();
            entry.is_being_extended.then_some(Extension { id, receipt_handle, hidden_for })
        };
        due.into_iter().filter_map(begin).take(max).collect()
    }

    pub fn end_extension(&self, extension: &Extension, result: Extended) {
        let mut tracked = self.tracked();
        let Some(entry) = tracked.entries.get_mut(&extension.id) else {
            return;
        };
        entry.is_being_extended = false;
        match result {
            Extended::Until(until) => {
                entry.extended_until = Some(until);
                entry.extend_at = until.checked_sub(extension.hidden_for / 2).unwrap_or(until);
            }
            // If it was recorded meanwhile, its own delete may be why the queue forgot it.
            Extended::Forgotten if !entry.is_recorded => {
                tracked.entries.remove(&extension.id);
                self.changed(&tracked);
            }
            Extended::Forgotten | Extended::Failed => {}
        }
    }

    /// The release phase: takes every delivery that is not recorded from whoever holds it, to be released. From now on
    /// dropping a ticket removes only what is recorded; the rest is for the next call. A message that is applied all
    /// the same comes again and then changes nothing.
    pub fn take_over(self: &Arc<Self>, now: Instant) -> Vec<Recorded> {
        let mut tracked = self.tracked();
        tracked.is_releasing = true;
        let visible_in = tracked.polls_over_in(now);
        let held = tracked.entries.iter_mut().filter(|(_, entry)| !entry.is_recorded);
        let take = |(id, entry): (&u64, &mut Entry)| {
            entry.is_recorded = true;
            Recorded {
                receipt_handle: entry.receipt_handle.clone(),
                ending: Ending::Retry { visible_in },
                ticket: self.ticket(*id, true),
            }
        };
        held.map(take).collect()
    }

    /// Waits until nothing is in flight and no poll is open that is likely to bring messages; before `quiet_at`, no
    /// poll at all. False if the deadline came first.
    pub fn wait_until_drained(&self, quiet_at: Instant, deadline: Instant) -> bool {
        let mut tracked = self.tracked();
        loop {
            let now = Instant::now();
            let is_waited_for = |(_, is_likely): &(Instant, bool)| *is_likely || now < quiet_at;
            if tracked.entries.is_empty() && !tracked.polls.iter().flatten().any(is_waited_for) {
                return true;
            }
            if now >= deadline {
                return false;
            }
            let next = if now < quiet_at { quiet_at.min(deadline) } else { deadline };
            let wait = self.quieter.wait_timeout(tracked, next - now);
            tracked = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn ticket(self: &Arc<Self>, id: u64, is_recorded: bool) -> Ticket {
        Ticket { id, is_recorded, is_removed: false, in_flight: Arc::clone(self) }
    }

    fn changed(&self, tracked: &Tracked) {
        let count = i64::try_from(tracked.entries.len()).unwrap_or(i64::MAX);
        self.metrics.in_flight.set(count);
        if count == 0 {
            self.quieter.notify_all();
        }
    }

    /// A panic leaves nothing half done here.
    fn tracked(&self) -> MutexGuard<'_, Tracked> {
        self.tracked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tracked {
    /// None if the delivery is no longer the ticket holder's.
    fn entry(&self, ticket: &Ticket) -> Option<&Entry> {
        let entry = self.entries.get(&ticket.id)?;
        (entry.is_recorded == ticket.is_recorded).then_some(entry)
    }

    /// An assumed timeout proves nothing: the queue's own may be longer, and a message dropped in error would stay
    /// hidden for all of it.
    fn is_expired(&self, entry: &Entry, now: Instant) -> bool {
        let is_certain = self.is_timeout_known || entry.extended_until.is_some();
        is_certain && self.hidden_until(entry) <= now
    }

    fn hidden_until(&self, entry: &Entry) -> Instant {
        entry.extended_until.unwrap_or(entry.received_at + self.timeout)
    }

    /// After how long none of the open polls takes a message any more, in whole seconds. What becomes visible earlier
    /// could be handed to one of them; this process ends, and the message would be hidden for a visibility timeout.
    fn polls_over_in(&self, now: Instant) -> Duration {
        let Some(until) = self.polls.iter().flatten().map(|(until, _)| *until).max() else {
            return Duration::ZERO;
        };
        let left = until.saturating_duration_since(now) + REQUEST_TRAVEL;
        Duration::from_secs(left.as_secs() + u64::from(left.subsec_nanos() > 0))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.is_removed {
            return;
        }
        let mut tracked = self.in_flight.tracked();
        let is_kept = tracked.is_releasing && !self.is_recorded;
        if !is_kept && tracked.entry(self).is_some() {
            tracked.entries.remove(&self.id);
            self.in_flight.changed(&tracked);
        }
    }
}

/// A call to the queue that is not answered yet. Dropping it closes the poll.
#[derive(Debug)]
pub struct OpenPoll<'a> {
    in_flight: &'a Arc<InFlight>,
    poller: usize,
}

impl OpenPoll<'_> {
    /// Tracks what the poll brought before it is closed: a shutdown never finds neither.
    pub fn received(self, deliveries: Vec<Delivery>) -> Vec<InFlightDelivery> {
        let mut tracked = self.in_flight.tracked();
        let timeout = tracked.timeout;
        let track = |delivery: Delivery| {
            let entry = Entry {
                receipt_handle: delivery.receipt_handle.clone(),
                received_at: delivery.received_at,
                extended_until: None,
                extend_at: delivery.received_at + timeout / 2,
                is_being_extended: false,
                is_recorded: false,
            };
            let id = tracked.next_id;
            tracked.next_id += 1;
            tracked.entries.insert(id, entry);
            let ticket = self.in_flight.ticket(id, false);
            InFlightDelivery { delivery, ticket }
        };
        let received = deliveries.into_iter().map(track).collect();
        self.in_flight.changed(&tracked);
        received
    }
}

impl Drop for OpenPoll<'_> {
    fn drop(&mut self) {
        self.in_flight.tracked().polls[self.poller] = None;
        self.in_flight.quieter.notify_all();
    }
}
