//! Turns deliveries into changes and makes them so, many in one round trip.
//!
//! A worker takes what is waiting, never waits to fill a batch. A delivery whose customer is locked by an SDK
//! is parked and tried again while others go on. A panic while one message is decoded costs that message one
//! try, not the worker.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, select};

use super::gate::{During, Evidence, RedisGate};
use super::lease::Held;
use super::poison::PoisonLog;
use super::poller::seconds_now;
use super::settle::{GIVEN_BACK, Settled, Settlement, settle_permanent, settle_temporary};
use crate::cache::{CacheChange, Invalidation, Layout, changes_for};
use crate::clock;
use crate::config::PoisonPolicy;
use crate::event::{self, Event};
use crate::log::FaultLog;
use crate::ops::metrics::Metrics;
use crate::sentry_reports::Reporter;
use crate::shutdown::Stop;
use crate::sqs::Delivery;
use crate::store::{CacheStore, Locks, NOPERM, Outcome, READERS_LOCK, Reach, STOPPED, StoreError};

/// Deliveries in one round trip: enough that the round trip is shared, few enough that none waits for long.
const TAKE_AT_MOST: usize = 64;
/// Bytes of bodies after which no further delivery is taken: their changes are held in memory together.
const BYTES_AT_MOST: usize = 1024 * 1024;
/// How often a locked customer is tried again: an SDK holds its lock for a few milliseconds as a rule.
const LOCKED_AGAIN: Duration = Duration::from_millis(20);
/// Deliveries parked behind locks; at this number nothing new is taken, so that memory stays bounded.
const PARKED_AT_MOST: usize = 256;
/// How often a Redis that refuses to write is tried again.
const REFUSED_AGAIN: Duration = Duration::from_secs(1);

/// What all workers share.
#[derive(Clone)]
pub struct Worker {
    /// What pollers received.
    pub deliveries: Receiver<Held>,
    /// Where deliveries go when they have ended.
    pub settled: Sender<Settled>,
    /// Redis.
    pub store: Arc<dyn CacheStore>,
    /// Where and how changes are written.
    pub layout: Layout,
    /// What becomes of unreadable bodies.
    pub poison_policy: PoisonPolicy,
    /// Which unreadable bodies have been logged.
    pub poison_log: Arc<PoisonLog>,
    /// When the last invalidation of the environment that this process has begun was sent (epoch milliseconds).
    pub invalidated_at: Arc<AtomicI64>,
    /// Told of each write's end.
    pub gate: Arc<RedisGate>,
    /// Counted in.
    pub metrics: Arc<Metrics>,
    /// Where failures are logged.
    pub faults: Arc<FaultLog>,
    /// Told of what should not happen.
    pub reporter: Reporter,
    /// No poller hands over any more: what is in the channel is the rest.
    pub last_delivery: Stop,
    /// The stop's budget is over: what is not done is given back.
    pub out_of_time: Stop,
}

/// A delivery on its way into Redis.
struct Job {
    held: Held,
    changes: Vec<CacheChange>,
    locked_since: Option<Instant>,
}

impl Job {
    fn is_walk(&self) -> bool {
        self.changes.iter().any(is_walk)
    }

    fn is_lost(&self, now: Instant) -> bool {
        self.held.lease.handle().is_lost(now)
    }

    fn locks(&self) -> Locks {
        match self.locked_since {
            Some(since) if since.elapsed() >= READERS_LOCK => Locks::Outlasted,
            _ => Locks::Respect,
        }
    }
}

impl Worker {
    /// Works until no delivery comes any more.
    pub fn run(&self) {
        let mut parked: Vec<Job> = Vec::new();
        let mut try_parked_at = Instant::now();
        loop {
            if self.out_of_time.is_stopped() {
                self.give_back(parked);
                self.deliveries
                    .try_iter()
                    .for_each(|held| self.settle(held, GIVEN_BACK));
                return;
            }
            let Some(taken) = self.take(&parked, try_parked_at) else {
                return;
            };
            let mut jobs: Vec<Job> = taken.into_iter().filter_map(|held| self.begin(held)).collect();
            self.forget_lost(&mut parked);
            if !parked.is_empty() && Instant::now() >= try_parked_at {
                jobs.append(&mut parked);
                try_parked_at = Instant::now() + LOCKED_AGAIN;
            }
            // A walk takes long and may fail alone: it goes after the others, by itself.
            let (walks, others): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(Job::is_walk);
            if !others.is_empty() {
                parked.extend(self.apply(others));
            }
            for walk in walks {
                parked.extend(self.apply(vec![walk]));
            }
        }
    }

    /// What is waiting, after waiting for the first if nothing is parked. `None` when nothing will come.
    fn take(&self, parked: &[Job], try_parked_at: Instant) -> Option<Vec<Held>> {
        let is_full = parked.len() >= PARKED_AT_MOST;
        let wait = if parked.is_empty() {
            Duration::from_secs(1)
        } else {
            try_parked_at.saturating_duration_since(Instant::now())
        };
        let mut taken = Vec::new();
        if is_full {
            self.out_of_time.wait(wait);
            return Some(taken);
        }
        let next = select! {
            recv(self.deliveries) -> held => held.ok(),
            recv(self.last_delivery.channel()) -> _ => self.deliveries.try_recv().ok(),
            default(wait) => return Some(taken),
        };
        match next {
            Some(held) => taken.push(held),
            // Nothing will come any more.
            None if parked.is_empty() => return None,
            None => {
                self.out_of_time.wait(wait);
            }
        }
        let mut bytes: usize = taken.iter().map(|held| held.delivery.body.len()).sum();
        while taken.len() < TAKE_AT_MOST && bytes < BYTES_AT_MOST {
            let Ok(held) = self.deliveries.try_recv() else {
                break;
            };
            bytes += held.delivery.body.len();
            taken.push(held);
        }
        Some(taken)
    }

    /// Decodes a delivery. `None` if it has ended already: it changes nothing, or cannot be read.
    fn begin(&self, held: Held) -> Option<Job> {
        if held.lease.handle().is_lost(Instant::now()) {
            self.lost(&held);
            return None;
        }
        let delivery = &held.delivery;
        let decoded = catch_unwind(AssertUnwindSafe(|| {
            let event = event::decode(&delivery.body, delivery.sent_at)?;
            let ignored = match &event {
                Event::Ignored { label } => Some(*label),
                Event::EntitlementsUpdated(_)
                | Event::UsageUpdated(_)
                | Event::Purged(_)
                | Event::EnvironmentInvalidated => None,
            };
            Ok((ignored, changes_for(&event, delivery.sent_at, &self.layout)))
        }));
        match decoded {
            Ok(Ok((ignored, changes))) => {
                if let Some(label) = ignored {
                    self.metrics.messages_ignored.with_label_values(&[label]).inc();
                }
                if changes.is_empty() {
                    self.complete(held);
                    return None;
                }
                if changes.iter().any(|change| self.is_late_news(change)) {
                    self.count(Outcome::PurgedLater);
                    self.complete(held);
                    return None;
                }
                Some(Job {
                    held,
                    changes,
                    locked_since: None,
                })
            }
            Ok(Err(malformed)) => {
                self.metrics.messages_malformed.inc();
                // The fault names a place, never what stood there.
                self.reporter
                    .report_error(&format!("cannot read a message: {malformed}"));
                let settlement =
                    settle_permanent(self.poison_policy, delivery.receive_count, fastrand::f64());
                self.poison_log.malformed(delivery, &malformed, settlement);
                if settlement != Settlement::Delete {
                    self.metrics
                        .messages_failed
                        .with_label_values(&["malformed"])
                        .inc();
                }
                self.settle(held, settlement);
                None
            }
            Err(_) => {
                self.panicked(held);
                None
            }
        }
    }

    /// The environment was invalidated after the message was sent: what is cached by now was asked for later.
    fn is_late_news(&self, change: &CacheChange) -> bool {
        let CacheChange::WriteEntitlements { sent_at, .. } = change else {
            return false;
        };
        sent_at.0 <= self.invalidated_at.load(Ordering::SeqCst)
    }

    /// Makes the jobs' changes so. Returns those that a lock holds up.
    fn apply(&self, jobs: Vec<Job>) -> Vec<Job> {
        let mut jobs = jobs;
        loop {
            let started = Instant::now();
            let tried = catch_unwind(AssertUnwindSafe(|| self.round_trip(&jobs)));
            match tried {
                Ok(Ok(outcomes)) => {
                    self.metrics
                        .write_duration
                        .observe(started.elapsed().as_secs_f64());
                    self.gate.found(Evidence::Wrote);
                    return self.conclude(jobs, outcomes);
                }
                Ok(Err(error)) if error.kind == STOPPED => {
                    log::warn!("{error}");
                    self.give_back(jobs);
                    return Vec::new();
                }
                Ok(Err(error)) => {
                    self.metrics.write_errors.inc();
                    self.metrics
                        .messages_failed
                        .with_label_values(&["redis"])
                        .inc_by(jobs.len() as u64);
                    self.gate.lost(&error, During::Write);
                    if self.gate.is_refusing_writes() {
                        self.out_of_time.wait(REFUSED_AGAIN);
                    }
                    while !self.gate.is_open() && !self.gate.is_refusing_writes() {
                        if self.out_of_time.is_stopped() {
                            break;
                        }
                        self.gate.wait_open(&self.out_of_time, Duration::from_secs(1));
                        self.forget_lost(&mut jobs);
                    }
                    if self.out_of_time.is_stopped() {
                        self.give_back(jobs);
                        return Vec::new();
                    }
                    self.forget_lost(&mut jobs);
                    if jobs.is_empty() {
                        return jobs;
                    }
                }
                // Whose fault it was is not known: each goes alone, so that one bad message stops no other.
                Err(_) if jobs.len() > 1 => {
                    let mut locked = Vec::new();
                    for job in jobs.drain(..) {
                        locked.extend(self.apply(vec![job]));
                    }
                    return locked;
                }
                Err(_) => {
                    for job in jobs {
                        self.panicked(job.held);
                    }
                    return Vec::new();
                }
            }
        }
    }

    /// All changes of all jobs; an outcome for each change, in order.
    fn round_trip(&self, jobs: &[Job]) -> Result<Vec<Result<Outcome, StoreError>>, StoreError> {
        let mut atomic = Vec::new();
        for job in jobs {
            let locks = job.locks();
            atomic.extend(
                job.changes
                    .iter()
                    .filter(|change| !is_walk(change))
                    .map(|change| (change, locks)),
            );
        }
        let written = if atomic.is_empty() {
            Vec::new()
        } else {
            self.store.apply(&atomic, &|| !self.out_of_time.is_stopped())?
        };
        let mut written = written.into_iter();
        let mut outcomes = Vec::new();
        for change in jobs.iter().flat_map(|job| &job.changes) {
            if let CacheChange::InvalidateEnvironment(invalidation) = change {
                outcomes.push(self.walk(invalidation)?);
            } else {
                outcomes.extend(written.next());
            }
        }
        Ok(outcomes)
    }

    /// Only a walk needs SCAN and UNLINK: that an ACL forbids these is no reason to stop everything.
    fn walk(&self, invalidation: &Invalidation) -> Result<Result<Outcome, StoreError>, StoreError> {
        self.invalidated_at
            .fetch_max(invalidation.sent_at.0, Ordering::SeqCst);
        match self
            .store
            .invalidate(invalidation, &|| !self.out_of_time.is_stopped())
        {
            Ok(unlinked) => {
                log::info!(unlinked; "invalidated the environment: unlinked {unlinked} keys");
                Ok(Ok(Outcome::Applied {
                    written: unlinked,
                    stale: 0,
                }))
            }
            Err(error) if error.kind == NOPERM => Ok(Err(StoreError {
                reach: Reach::Change,
                ..error
            })),
            Err(error) => Err(error),
        }
    }

    fn conclude(&self, jobs: Vec<Job>, outcomes: Vec<Result<Outcome, StoreError>>) -> Vec<Job> {
        let mut outcomes = outcomes.into_iter();
        let mut locked = Vec::new();
        for mut job in jobs {
            let outcomes: Vec<_> = outcomes.by_ref().take(job.changes.len()).collect();
            if let Some(error) = outcomes.iter().find_map(|outcome| outcome.as_ref().err()) {
                let error = error.clone();
                self.failed(job.held, &error);
                continue;
            }
            if outcomes.contains(&Ok(Outcome::Locked)) {
                // What was applied beside it may be applied again.
                job.locked_since.get_or_insert_with(Instant::now);
                locked.push(job);
                continue;
            }
            let mut wrote = false;
            for outcome in outcomes.into_iter().flatten() {
                wrote |= self.count(outcome);
            }
            if wrote {
                self.metrics.message_age.observe(age_secs(&job.held.delivery));
                self.metrics.last_write.set(seconds_now());
            }
            self.complete(job.held);
        }
        locked
    }

    /// Counts an outcome. True if something was written.
    fn count(&self, outcome: Outcome) -> bool {
        let skipped = |reason: &str, by: u64| {
            self.metrics
                .writes_skipped
                .with_label_values(&[reason])
                .inc_by(by);
        };
        match outcome {
            Outcome::Applied { written, stale } => {
                skipped("stale", stale);
                return written > 0;
            }
            Outcome::PurgedLater => skipped("stale", 1),
            Outcome::SkippedByPolicy => skipped("policy", 1),
            Outcome::NoCustomer => skipped("no_customer", 1),
            Outcome::Locked => {}
        }
        false
    }

    /// The delivery has had its effect, or has none.
    fn complete(&self, held: Held) {
        let delivery = &held.delivery;
        self.metrics.messages_processed.inc();
        self.metrics
            .message_handling_duration
            .observe(delivery.received_at.elapsed().as_secs_f64());
        log::debug!(message_id = delivery.message_id.as_str(); "applied a message");
        self.settle(held, Settlement::Delete);
    }

    /// Redis refused a change of this delivery, and only that.
    fn failed(&self, held: Held, error: &StoreError) {
        debug_assert_eq!(error.reach, Reach::Change);
        let delivery = &held.delivery;
        let settlement = if error.is_permanent() {
            settle_permanent(self.poison_policy, delivery.receive_count, fastrand::f64())
        } else {
            settle_temporary(delivery.receive_count, fastrand::f64())
        };
        self.metrics.write_errors.inc();
        let fate = if settlement == Settlement::Delete {
            "it is deleted (POISON_POLICY=delete)"
        } else {
            self.metrics.messages_failed.with_label_values(&["other"]).inc();
            "it is tried again later"
        };
        self.faults.fault(
            &format!("write {}", error.kind),
            log::Level::Error,
            &format!("cannot apply message {}: {fate}", delivery.message_id),
            &error.message,
            Instant::now(),
        );
        self.reporter
            .report_error(&format!("Redis refused a change: {}", error.kind));
        self.settle(held, settlement);
    }

    fn panicked(&self, held: Held) {
        let delivery = &held.delivery;
        self.metrics.messages_failed.with_label_values(&["panic"]).inc();
        self.faults.fault(
            "panic",
            log::Level::Error,
            &format!(
                "a defect of this service was met by message {}: it is tried again",
                delivery.message_id
            ),
            "panic; see the line before, and report it",
            Instant::now(),
        );
        let settlement = settle_temporary(delivery.receive_count, fastrand::f64());
        self.settle(held, settlement);
    }

    /// Drops those whose receipt handle no longer lives: they come again by themselves.
    fn forget_lost(&self, jobs: &mut Vec<Job>) {
        let now = Instant::now();
        jobs.retain(|job| {
            let is_lost = job.is_lost(now);
            if is_lost {
                self.lost(&job.held);
            }
            !is_lost
        });
    }

    fn lost(&self, held: &Held) {
        self.metrics.messages_failed.with_label_values(&["expired"]).inc();
        self.faults.fault(
            "expired",
            log::Level::Warn,
            "a message could not be applied while it was hidden from others: it is dropped here and comes again",
            &format!("the receipt handle of message {} has expired", held.delivery.message_id),
            Instant::now(),
        );
    }

    fn give_back(&self, jobs: Vec<Job>) {
        for job in jobs {
            self.settle(job.held, GIVEN_BACK);
        }
    }

    fn settle(&self, held: Held, settlement: Settlement) {
        let Held { delivery, lease } = held;
        lease.settle();
        // No acknowledger is left only when the process is ending: the message comes again.
        if self.settled.send(Settled { lease, settlement }).is_err() {
            log::debug!("no acknowledger is left for message {}", delivery.message_id);
        }
    }
}

/// An invalidation is a walk over many keys, no atomic step.
fn is_walk(change: &CacheChange) -> bool {
    matches!(change, CacheChange::InvalidateEnvironment(_))
}

#[allow(clippy::cast_precision_loss)] // an age in ms fits
fn age_secs(delivery: &Delivery) -> f64 {
    clock::now().0.saturating_sub(delivery.sent_at.0).max(0) as f64 / 1_000.0
}
