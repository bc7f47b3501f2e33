//! Refills what purges delete (`REFRESH_AFTER_PURGE`): a customer or resource that was cached and got purged is refetched, as
//! `warm` does it, in the background.
//!
//! The workers add what they have purged to the [`RefreshQueue`]. One thread, [`Refresher::dispatch`], takes `REFRESH_RATE`
//! subjects a second from it. Others, [`Refresher::run`], ask the Edge API and write. A failed refresh is retried for an hour.
//! Then, or if the queue is full or the service stops, the subject stays uncached, and the next reader asks Stigg.

use std::collections::{BTreeMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, select};
use log::Level;

use crate::backoff::wait_after;
use crate::cache::Layout;
use crate::edge::EdgeClient;
use crate::entitlement::Subject;
use crate::log::FaultLog;
use crate::ops::metrics::Metrics;
use crate::refetch::{RefetchError, Refetcher};
use crate::shutdown::Stop;
use crate::store::{Outcome, RedisStore};

/// Subjects that wait at most: about 20 MB.
pub const CAPACITY: usize = 100_000;
/// How long after its purge a subject is retried. A `Retry-After` that asks for more is cut to this.
const RETRY_FOR: Duration = Duration::from_hours(1);
/// The wait before a subject's second try. It doubles with each later one.
const RETRY_WAIT: Duration = Duration::from_secs(1);
const RETRY_WAIT_MAX: Duration = Duration::from_mins(5);
/// The first pause of all refreshes. It doubles with each later one, until a refresh succeeds.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Without such faults for so long, refreshes work again.
const RECOVERED_AFTER: Duration = Duration::from_secs(5);
/// How often an empty or paused queue is looked at.
const IDLE: Duration = Duration::from_millis(100);
/// In the fault log, the kind of faults that pause all refreshes.
const PAUSED: &str = "refresh.paused";

/// The subjects that wait to be refreshed, each once. A full queue drops the one that is due first.
pub struct RefreshQueue {
    capacity: usize,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By the time when each is due. The number keeps apart those that are due together, in the order of their arrival.
    due: BTreeMap<(Instant, u64), Refresh>,
    /// The subjects in `due`.
    subjects: HashSet<Arc<Subject>>,
    last_number: u64,
    /// How many [`Hold`]s exist.
    holds: usize,
    paused_until: Option<Instant>,
    /// How many there were since the last success.
    pauses: u32,
}

/// A subject to refresh.
pub struct Refresh {
    subject: Arc<Subject>,
    purged_at: Instant,
    /// How many have failed.
    tries: u32,
}

/// Keeps all subjects in the queue while it exists: an invalidation's scan would delete again what was refreshed meanwhile.
pub struct Hold<'a>(&'a RefreshQueue);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.lock().holds -= 1;
    }
}

impl RefreshQueue {
    pub fn new(capacity: usize, metrics: Arc<Metrics>) -> Self {
        Self { capacity, metrics, state: Mutex::default() }
    }

    /// Queues a subject that was purged now.
    pub fn add(&self, subject: Subject, now: Instant) {
        self.insert(Refresh { subject: Arc::new(subject), purged_at: now, tries: 0 }, now);
    }

    pub fn hold(&self) -> Hold<'_> {
        self.lock().holds += 1;
        Hold(self)
    }

    /// Removes the subject that is due first. `None` if none is due, during a pause, and during a hold.
    fn take(&self, now: Instant) -> Option<Refresh> {
        let mut state = self.lock();
        if state.holds > 0 || state.paused_until > Some(now) {
            return None;
        }
        let refresh = state.due.first_entry().filter(|first| first.key().0 <= now)?.remove();
        state.subjects.remove(&refresh.subject);
        self.metrics.refreshes_queued.dec();
        Some(refresh)
    }

    /// Puts it back for another try, after a longer wait each time. False if it was purged too long ago.
    fn retry(&self, mut refresh: Refresh, now: Instant, jitter: f64) -> bool {
        let due_at = now + wait_after(refresh.tries, RETRY_WAIT, RETRY_WAIT_MAX, jitter);
        refresh.tries += 1;
        let is_due_in_time = due_at <= refresh.purged_at + RETRY_FOR;
        if is_due_in_time {
            self.insert(refresh, due_at);
        }
        is_due_in_time
    }

    /// Pauses all refreshes, longer each time, and at least for as long as the Edge API asked. `tries` is how often the subject
    /// had failed before, 0 if the fault is not its own.
    fn pause(&self, tries: u32, at_least: Duration, now: Instant, jitter: f64) {
        let mut state = self.lock();
        let mut until = now + at_least.min(RETRY_FOR);
        // Refreshes that fail during a pause began before it: together they are one failure, and lengthen it once. Subjects that
        // keep failing, each with its own growing wait, hold up no others.
        if tries == 0 && state.paused_until <= Some(now) {
            until = until.max(now + wait_after(state.pauses, PAUSE, PAUSE_MAX, jitter));
            state.pauses += 1;
        }
        state.paused_until = state.paused_until.max(Some(until));
    }

    /// A subject that is queued already stays as it is: one refresh is enough.
    fn insert(&self, refresh: Refresh, due_at: Instant) {
        let mut state = self.lock();
        if state.subjects.contains(&refresh.subject) {
            return;
        }
        if state.due.len() >= self.capacity
            && let Some((_, oldest)) = state.due.pop_first()
        {
            state.subjects.remove(&oldest.subject);
            self.metrics.refreshes_queued.dec();
            self.count("dropped");
        }
        state.last_number += 1;
        let number = state.last_number;
        state.subjects.insert(Arc::clone(&refresh.subject));
        state.due.insert((due_at, number), refresh);
        self.metrics.refreshes_queued.inc();
    }

    fn count(&self, result: &str) {
        self.metrics.refreshes.with_label_values(&[result]).inc();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refreshes what is in the queue.
pub struct Refresher {
    pub queue: Arc<RefreshQueue>,
    /// That of the workers, whose pool has one more connection for each thread here, so that no message waits for one.
    pub store: Arc<RedisStore>,
    pub layout: Layout,
    pub edge: Arc<EdgeClient>,
    pub faults: Arc<FaultLog>,
    /// Ends it: the signal of the drain phase.
    pub stop: Stop,
}

impl Refresher {
    /// Takes subjects from the queue, at most this many a second, and sends them to the threads in [`Self::run`], until the stop.
    pub fn dispatch(&self, rate: u32, refreshes: &Sender<Refresh>) {
        let interval = Duration::from_secs(1) / rate;
        let mut next_at = Instant::now();
        while !self.stop.wait(next_at.saturating_duration_since(Instant::now())) {
            let now = Instant::now();
            match self.queue.take(now) {
                None => next_at = now + IDLE,
                Some(refresh) => {
                    select! {
                        send(refreshes, refresh) -> _ => {}
                        recv(self.stop.channel()) -> _ => {}
                    }
                    // Only the lateness of a timer is made up for; a longer delay is not.
                    next_at = (next_at + interval).max(now);
                }
            }
        }
        if let left @ 1.. = self.queue.lock().due.len() {
            log::info!(left; "stopping: {left} purged customers are not refreshed; their next readers ask Stigg");
        }
    }

    /// Refreshes what [`Self::dispatch`] sends, until that ends.
    pub fn run(&self, refreshes: &Receiver<Refresh>) {
        for refresh in refreshes {
            self.refresh(refresh);
        }
    }

    fn refresh(&self, refresh: Refresh) {
        let refetcher = Refetcher { store: &self.store, layout: &self.layout, edge: &self.edge };
        // A panic fails this refresh, and does not end the thread.
        let result = catch_unwind(AssertUnwindSafe(|| refetcher.try_refetch(&refresh.subject, true)));
        let now = Instant::now();
        match result.unwrap_or_else(|_| Err(RefetchError::Customer("a defect; report it".to_owned()))) {
            // In this order: an SDK or another instance is refilling it; this machine's clock is behind that of the purge; the
            // refetch lock expired before the write.
            Ok(Some(Outcome::Locked | Outcome::PurgedLater | Outcome::SkippedByPolicy)) => {
                self.retry(refresh, now);
            }
            Ok(Some(Outcome::Applied { written: 0, .. })) => self.queue.count("skipped"),
            Ok(outcome) => {
                self.queue.count(if outcome.is_some() { "refreshed" } else { "skipped" });
                self.queue.lock().pauses = 0;
                if let Some(outage) = self.faults.recovered(PAUSED, RECOVERED_AFTER, now) {
                    log::info!(lasted_secs = outage.lasted.as_secs_f64(); "purged customers are refreshed again");
                }
            }
            Err(RefetchError::Customer(why)) => self.failed(&why, now),
            Err(RefetchError::Everyone(why)) => self.pause(refresh, 0, &why, None, now),
            Err(RefetchError::Retryable(why, at_least)) => {
                let tries = refresh.tries;
                self.pause(refresh, tries, &why, at_least, now);
            }
        }
    }

    fn pause(&self, refresh: Refresh, tries: u32, why: &str, at_least: Option<Duration>, now: Instant) {
        let message = "cannot refresh purged customers: retrying; meanwhile their readers ask Stigg";
        self.faults.fault(PAUSED, Level::Warn, message, why, now);
        self.queue.pause(tries, at_least.unwrap_or_default(), now, fastrand::f64());
        self.retry(refresh, now);
    }

    fn retry(&self, refresh: Refresh, now: Instant) {
        if !self.queue.retry(refresh, now, fastrand::f64()) {
            self.failed("tried for an hour", now);
        }
    }

    fn failed(&self, why: &str, now: Instant) {
        self.queue.count("failed");
        let message = "a purged customer is not refreshed: the next reader asks Stigg";
        self.faults.fault("refresh.failed", Level::Warn, message, why, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entitlement::CustomerId;

    const SECOND: Duration = Duration::from_secs(1);

    fn queue(capacity: usize) -> RefreshQueue {
        RefreshQueue::new(capacity, Arc::new(Metrics::new().unwrap()))
    }

    fn subject(id: &str) -> Subject {
        Subject { customer: CustomerId(id.to_owned()), resource: None }
    }

    /// Whoever is in turn now, one after the other.
    fn taken(queue: &RefreshQueue, now: Instant) -> Vec<String> {
        let next = || queue.take(now).map(|refresh| refresh.subject.customer.0.clone());
        std::iter::from_fn(next).collect()
    }

    fn counted(queue: &RefreshQueue, result: &str) -> u64 {
        queue.metrics.refreshes.with_label_values(&[result]).get()
    }

    #[test]
    fn a_queued_customer_who_is_purged_again_is_refreshed_once_and_one_in_progress_again() {
        let (queue, now) = (queue(10), Instant::now());
        for id in ["a", "b", "a"] {
            queue.add(subject(id), now);
        }
        assert_eq!(queue.metrics.refreshes_queued.get(), 2);
        let in_progress = queue.take(now).unwrap();
        queue.add(subject("a"), now);
        assert!(queue.retry(in_progress, now, 0.0));
        assert_eq!(taken(&queue, now), ["b", "a"], "at once, not after the wait of a retry");
        assert_eq!(taken(&queue, now + 2 * RETRY_FOR), [""; 0]);
        assert_eq!(queue.metrics.refreshes_queued.get(), 0);
    }

    #[test]
    fn a_full_queue_drops_the_oldest_and_counts_it() {
        let (queue, now) = (queue(3), Instant::now());
        for id in ["a", "b", "c", "c", "d", "e"] {
            queue.add(subject(id), now);
        }
        assert_eq!((queue.metrics.refreshes_queued.get(), counted(&queue, "dropped")), (3, 2));
        queue.add(subject("a"), now);
        assert_eq!(taken(&queue, now), ["d", "e", "a"], "one that was dropped can be added again");
    }

    #[test]
    fn nobody_is_in_turn_while_an_invalidation_scans() {
        let (queue, now) = (queue(3), Instant::now());
        let (one, other) = (queue.hold(), queue.hold());
        queue.add(subject("a"), now);
        drop(one);
        assert_eq!(taken(&queue, now), [""; 0]);
        drop(other);
        assert_eq!(taken(&queue, now), ["a"]);
    }

    #[test]
    fn one_who_fails_is_retried_later_each_time_for_an_hour() {
        let (queue, began) = (queue(3), Instant::now());
        queue.add(subject("a"), began);
        let (mut now, mut tries) = (began, 1);
        let mut refresh = queue.take(now).unwrap();
        while queue.retry(refresh, now, 0.0) {
            let before = now;
            refresh = loop {
                match queue.take(now) {
                    Some(refresh) => break refresh,
                    None => now += IDLE,
                }
            };
            assert!(now - before >= SECOND && now - before <= RETRY_WAIT_MAX + IDLE);
            tries += 1;
        }
        let lasted = now - began;
        assert!(lasted + RETRY_WAIT_MAX + SECOND > RETRY_FOR && lasted <= RETRY_FOR + SECOND, "{lasted:?}");
        assert!((15..25).contains(&tries), "{tries}");
    }

    #[test]
    fn those_who_keep_failing_hold_up_no_other() {
        let (queue, began) = (queue(1_000), Instant::now());
        let mut now = began;
        // Twenty turns a second; every tenth customer fails each time.
        let mut until = |end: Instant, name: &str| {
            while now < end {
                let refresh = queue.take(now);
                match refresh.as_ref().map(|refresh| refresh.subject.customer.0.as_str()) {
                    Some(taken) if taken == name => return now,
                    Some(taken) if taken.ends_with('0') => {
                        queue.pause(refresh.as_ref().unwrap().tries, Duration::ZERO, now, 0.0);
                        queue.retry(refresh.unwrap(), now, 0.0);
                    }
                    Some(_) => queue.lock().pauses = 0,
                    None => {}
                }
                now += SECOND / 20;
            }
            now
        };
        for number in 0..1_000 {
            queue.add(subject(&number.to_string()), began);
        }
        let later = until(began + Duration::from_mins(20), "");
        queue.add(subject("new"), later);
        let waited = until(later + RETRY_FOR, "new") - later;
        assert!(waited < 10 * SECOND, "{waited:?}");
    }

    #[test]
    fn all_pause_for_as_long_as_was_asked_and_longer_each_time_until_one_succeeds() {
        let (queue, now) = (queue(3), Instant::now());
        queue.add(subject("a"), now);
        queue.pause(0, 7 * SECOND, now, 0.0);
        queue.pause(0, Duration::ZERO, now, 0.0);
        assert_eq!(taken(&queue, now + 6 * SECOND), [""; 0]);
        let paused_for = |at: Instant| {
            queue.pause(0, Duration::ZERO, at, 0.0);
            queue.lock().paused_until.unwrap() - at
        };
        assert_eq!(paused_for(now + 7 * SECOND), SECOND / 10, "the two before were one");
        assert_eq!(paused_for(now + 9 * SECOND), SECOND / 5);
        queue.lock().pauses = 0;
        assert_eq!(paused_for(now + 13 * SECOND), SECOND / 20);
        queue.pause(0, 100 * RETRY_FOR, now + 20 * SECOND, 0.0);
        assert_eq!(taken(&queue, now + 20 * SECOND + RETRY_FOR), ["a"]);
    }
}
