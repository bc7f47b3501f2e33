//! A worker turns deliveries into changes and applies those of many deliveries in one call.
//!
//! It takes what is waiting and never waits to fill a batch. A delivery whose customer is locked by an SDK is parked
//! while others go on. A message of many changes is applied in bounded chunks. A panic costs its message one try.

use std::collections::VecDeque;
use std::mem::take;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, never, select};

use super::context::{Context, add, seconds, seconds_now};
use super::ending::Ending;
use super::gate::Access;
use super::in_flight::InFlightDelivery;
use crate::backoff::Backoff;
use crate::cache::{CacheChange, Changes, changes};
use crate::message::{self, Event};
use crate::refresh::RefreshQueue;
use crate::sqs::Delivery;
use crate::store::{CacheStore, Cause, LockPatience, Outcome, StoreError};

/// The limits of a round: messages, bytes of bodies, changes. Enough that messages share the cost of a call, few enough
/// that none waits for long. The last message may exceed the bytes.
const ROUND_MESSAGES_MAX: usize = 64;
const ROUND_BYTES_MAX: usize = 256 * 1024;
const ROUND_CHANGES_MAX: usize = 500;
/// A locked customer is retried when it has waited a tenth longer: an SDK usually holds its lock for a few milliseconds,
/// but the one of a refetch, which purges wait for, for up to a minute.
pub const LOCKED_RETRY_MIN: Duration = Duration::from_millis(20);
const LOCKED_RETRY_MAX: Duration = Duration::from_secs(1);
/// A worker that holds this many messages, or bytes of them, takes no new ones: they wait behind locks.
const HELD_MESSAGES_MAX: usize = 256;
const HELD_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long to wait for deliveries at a time.
const IDLE: Duration = Duration::from_secs(1);

pub struct Worker {
    context: Arc<Context>,
    deliveries: Receiver<Vec<InFlightDelivery>>,
    /// Not decoded yet: a large message may take many times its length.
    taken: VecDeque<InFlightDelivery>,
    jobs: Vec<Job>,
    /// Not recorded yet.
    ended: Vec<(InFlightDelivery, Ending)>,
    /// The last call failed; it is made again after this wait.
    retry: Option<(Arc<()>, Duration)>,
    backoff: Backoff,
}

/// A delivery whose changes are being applied.
struct Job {
    /// Without its body.
    message: InFlightDelivery,
    body_bytes: usize,
    /// Not begun.
    changes: Changes,
    /// For the next call, which is due at this time: later, if readers' locks are waited for.
    begun: Vec<Attempt>,
    due_at: Instant,
    has_written: bool,
    /// The error of the first change that Redis refused. The others are still applied.
    refusal: Option<StoreError>,
}

struct Attempt {
    change: CacheChange,
    locked_since: Option<Instant>,
}

impl Job {
    fn new(message: InFlightDelivery, body_bytes: usize, changes: Changes) -> Self {
        let (begun, due_at) = (Vec::new(), message.delivery.received_at);
        Self { message, body_bytes, changes, begun, due_at, has_written: false, refusal: None }
    }

    fn is_done(&self) -> bool {
        self.begun.is_empty() && self.changes.len() == 0
    }

    /// An invalidation scans many keys and is not atomic. It is its message's only change.
    fn is_invalidation(&self) -> bool {
        let is_one = |attempt: &Attempt| matches!(attempt.change, CacheChange::InvalidateEnvironment(_));
        self.begun.iter().any(is_one)
    }

    /// Begins as many changes as there is room for.
    fn begin_changes(&mut self, room: &mut usize) {
        *room = room.saturating_sub(self.begun.len());
        let begun = self.changes.by_ref().take(*room).map(|change| Attempt { change, locked_since: None });
        let before = self.begun.len();
        self.begun.extend(begun);
        *room -= self.begun.len() - before;
    }
}

impl Worker {
    pub fn new(context: Arc<Context>, deliveries: Receiver<Vec<InFlightDelivery>>) -> Self {
        let backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(1));
        let (taken, jobs, ended) = (VecDeque::new(), Vec::new(), Vec::new());
        Self { context, deliveries, taken, jobs, ended, retry: None, backoff }
    }

    /// Works until the release phase, which takes over whatever this worker holds.
    pub fn run(mut self) {
        while self.step() {}
    }

    /// One round: takes what is waiting and applies it. False when there will be nothing more to do.
    pub fn step(&mut self) -> bool {
        let retry = self.retry.take(); // held until this try has ended
        match &retry {
            Some((_, wait)) => _ = self.context.shutdown.release.wait(*wait),
            None if self.receive() => {}
            None => return false,
        }
        if self.context.shutdown.release.is_stopped() {
            return false;
        }
        let round = self.begin_round();
        self.context.record(take(&mut self.ended));
        self.apply(round);
        true
    }

    /// Takes what is waiting, unless there is something else to do; if there is nothing, waits. False if nothing will come.
    fn receive(&mut self) -> bool {
        if self.jobs.iter().any(|job| job.begun.is_empty()) {
            return true; // others may take what is waiting
        }
        let retry_at = self.jobs.iter().map(|job| job.due_at).min();
        let wait = retry_at.map_or(IDLE, |at| at.saturating_duration_since(Instant::now()));
        let held_bytes: usize = self.jobs.iter().map(|job| job.body_bytes).sum();
        let is_full = self.jobs.len() >= HELD_MESSAGES_MAX || held_bytes >= HELD_BYTES_MAX;
        let source = if is_full { &never() } else { &self.deliveries };
        let release = &self.context.shutdown.release;
        if self.taken.is_empty() {
            select! {
                recv(source) -> deliveries => match deliveries {
                    Ok(deliveries) => self.taken.extend(deliveries),
                    Err(_) if self.jobs.is_empty() => return false,
                    Err(_) => _ = release.wait(wait),
                },
                recv(release.channel()) -> _ => return false,
                default(wait) => {}
            }
        }
        let (mut messages, mut bytes) = (0, 0);
        while messages < ROUND_MESSAGES_MAX && bytes < ROUND_BYTES_MAX {
            if let Some(mut message) = self.taken.pop_front() {
                let body = take(&mut message.delivery.body);
                messages += 1;
                bytes += body.len();
                match decode(&self.context, &message.delivery, &body) {
                    Ok(changes) => self.jobs.push(Job::new(message, body.len(), changes)),
                    Err(ending) => self.ended.push((message, ending)),
                }
            } else if let Ok(deliveries) = source.try_recv() {
                self.taken.extend(deliveries);
            } else {
                break;
            }
        }
        true
    }

    /// Takes out the jobs of the next call: those that are due, as far as there is room for their changes.
    fn begin_round(&mut self) -> Vec<Job> {
        let (now, mut room, mut round) = (Instant::now(), ROUND_CHANGES_MAX, Vec::new());
        for mut job in take(&mut self.jobs) {
            if room == 0 || job.due_at > now {
                self.jobs.push(job);
                continue;
            }
            job.begin_changes(&mut room);
            if job.is_done() {
                self.end(job);
            } else if !job.is_invalidation() {
                round.push(job);
            } else if round.is_empty() {
                (room, round) = (0, vec![job]); // it takes long and may fail alone: it goes by itself
            } else {
                self.jobs.push(job);
            }
        }
        round
    }

    /// One call for all jobs.
    fn apply(&mut self, jobs: Vec<Job>) {
        let started = Instant::now();
        let ids = jobs.iter().map(|job| job.message.id);
        let mut are_held = self.context.in_flight.are_held(ids, started).into_iter();
        let is_held = |_: &Job| are_held.next().unwrap_or_default();
        let (jobs, lost): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(is_held);
        for job in lost {
            self.context.expired(&job.message.delivery);
        }
        if jobs.is_empty() {
            return;
        }
        match catch_unwind(AssertUnwindSafe(|| self.call_store(&jobs))) {
            Ok(Ok(outcomes)) => {
                self.backoff.reset();
                let now = Instant::now();
                self.context.metrics.write_duration.observe((now - started).as_secs_f64());
                self.conclude(jobs, outcomes, now);
            }
            Ok(Err(error)) if error.is_stopped() => log::warn!("{error}"),
            Ok(Err(error)) => self.redis_failed(jobs, &error, started),
            // Whose change it was is not known: each is tried alone.
            Err(_) if jobs.len() > 1 => jobs.into_iter().for_each(|job| self.apply(vec![job])),
            Err(_) => {
                for job in jobs {
                    let ending = self.context.panicked(&job.message.delivery);
                    self.ended.push((job.message, ending));
                }
            }
        }
        self.context.record(take(&mut self.ended));
    }

    /// Applies what was begun of each job; an outcome per change, in order.
    fn call_store(&self, jobs: &[Job]) -> Result<Vec<Result<Outcome, StoreError>>, StoreError> {
        let keep_going = || !self.context.shutdown.release.is_stopped();
        let now = Instant::now();
        let row = jobs.iter().flat_map(|job| &job.begun).map(|attempt| {
            let waited = now.saturating_duration_since(attempt.locked_since.unwrap_or(now));
            (&attempt.change, waited)
        });
        let refreshes = self.context.refreshes.as_deref();
        apply_once(&*self.context.store, &row.collect::<Vec<_>>(), refreshes, &keep_going)
    }

    /// The jobs are kept and retried while their messages are hidden from others.
    fn redis_failed(&mut self, jobs: Vec<Job>, error: &StoreError, began: Instant) {
        let Context { metrics, gate, .. } = &*self.context;
        metrics.write_errors.inc();
        add(&metrics.messages_failed, "redis", jobs.len() as u64);
        let retry = gate.retry_write(); // before the gate closes: nothing but this retry is to open it
        gate.failed(Access::Write, error, began);
        self.retry = Some((retry, self.backoff.next_wait(fastrand::f64())));
        self.jobs.extend(jobs);
    }

    /// Records what became of each change. Jobs that are done end, the others are parked or go on.
    fn conclude(&mut self, jobs: Vec<Job>, outcomes: Vec<Result<Outcome, StoreError>>, now: Instant) {
        let mut outcomes = outcomes.into_iter();
        let (mut has_written, mut has_deleted) = (false, false);
        for mut job in jobs {
            let (mut locked, mut retry_in) = (Vec::new(), LOCKED_RETRY_MAX);
            for (mut attempt, outcome) in job.begun.drain(..).zip(&mut outcomes) {
                let (change, key) = attempt.change.describe();
                let result = outcome.as_ref().map_or("refused by Redis", |outcome| outcome.label());
                let message_id = job.message.delivery.message_id.as_str();
                log::debug!(message_id, change, key, outcome = result; "handled a change");
                match outcome {
                    Ok(Outcome::Locked) => {
                        let waited = now.saturating_duration_since(*attempt.locked_since.get_or_insert(now));
                        retry_in = retry_in.min(waited / 10).max(LOCKED_RETRY_MIN);
                        locked.push(attempt);
                    }
                    Ok(outcome) if self.count(outcome) => {
                        (job.has_written, has_written) = (true, true);
                        has_deleted |= attempt.change.only_deletes();
                        if let (Some(refreshes), CacheChange::Purge(purge)) =
                            (&self.context.refreshes, attempt.change)
                        {
                            refreshes.add(purge.subject, Instant::now());
                        }
                    }
                    Ok(_) => {}
                    Err(error) => _ = job.refusal.get_or_insert(error),
                }
            }
            // One with more changes goes on with them, unless most of the next call would be those that are locked.
            if job.changes.len() == 0 || locked.len() > ROUND_CHANGES_MAX / 2 {
                job.due_at = now + retry_in;
            }
            job.begun = locked;
            if job.is_done() {
                self.end(job);
            } else {
                self.jobs.push(job);
            }
        }
        // A Redis whose memory is full still deletes, and lets a script that has deleted something write as well.
        if has_written && !has_deleted {
            self.context.gate.succeeded(Access::Write);
        }
        if has_written {
            self.context.metrics.last_write.set(seconds_now());
        }
    }

    /// All changes of the job were made, skipped or refused.
    fn end(&mut self, job: Job) {
        let (context, delivery) = (&self.context, &job.message.delivery);
        if job.has_written {
            let age_secs = seconds_now() - seconds(delivery.sent_at);
            context.metrics.message_age.observe(age_secs.max(0.0));
        }
        let ending = match &job.refusal {
            Some(error) => context.refused(delivery, error),
            None => context.completed(delivery),
        };
        self.ended.push((job.message, ending));
    }

    /// Counts an outcome. True if something was written.
    fn count(&self, outcome: Outcome) -> bool {
        let (written, stale, reason) = match outcome {
            Outcome::Applied { written, stale } => (written, stale, "stale"),
            Outcome::PurgedLater => (0, 1, "stale"),
            Outcome::SkippedByPolicy => (0, 1, "policy"),
            Outcome::NoCustomer => (0, 1, "no_customer"),
            Outcome::Locked => (0, 0, ""),
        };
        if stale > 0 {
            add(&self.context.metrics.writes_skipped, reason, stale);
        }
        written > 0
    }
}

/// The changes that a message demands. One that cannot be read has ended.
fn decode(context: &Context, delivery: &Delivery, body: &str) -> Result<Changes, Ending> {
    let decoded = catch_unwind(AssertUnwindSafe(|| {
        let decoded = message::decode(body, delivery.sent_at)?;
        if let Event::Ignored { label } = &decoded.event {
            add(&context.metrics.messages_ignored, label, 1);
        }
        if decoded.implausible_timestamps > 0 {
            context.implausible(delivery, decoded.implausible_timestamps);
        }
        Ok(changes(decoded, &context.layout))
    }));
    match decoded {
        Ok(changes) => changes.map_err(|error| context.malformed(delivery, body.len(), &error)),
        Err(_) => Err(context.panicked(delivery)),
    }
}

/// One call for these changes, each with how long it has waited for readers' locks; an outcome each, in order. An
/// invalidation is not atomic and has to be the only change. Whom it purges is added to `refreshes`.
pub fn apply_once(
    store: &dyn CacheStore,
    changes: &[(&CacheChange, Duration)],
    refreshes: Option<&RefreshQueue>,
    keep_going: &dyn Fn() -> bool,
) -> Result<Vec<Result<Outcome, StoreError>>, StoreError> {
    let [(CacheChange::InvalidateEnvironment(invalidation), _)] = changes else {
        let row = changes.iter().map(|(change, waited)| (*change, LockPatience::after(*waited)));
        return store.apply(&row.collect::<Vec<_>>(), keep_going);
    };
    // The scan would delete again, key by key, what was refreshed before its end.
    let _held = refreshes.map(RefreshQueue::hold);
    let each = |key: &[u8]| {
        if let Some(refreshes) = refreshes
            && let Some(subject) = invalidation.keyspace.subject_of(key)
        {
            refreshes.add(subject, Instant::now());
        }
    };
    match store.invalidate(invalidation, &each, keep_going) {
        Ok(unlinked) => {
            log::info!(unlinked; "invalidated the environment: unlinked {unlinked} keys");
            let (written, stale) = (unlinked, 0);
            Ok(vec![Ok(Outcome::Applied { written, stale })])
        }
        // Only an invalidation needs SCAN and UNLINK: a server that refuses these alone fails its message alone.
        Err(error)
            if matches!(error.cause, Cause::NoPermission | Cause::Other(_))
                && store.probe_write().is_ok() =>
        {
            Ok(vec![Err(error)])
        }
        Err(error) => Err(error),
    }
}
