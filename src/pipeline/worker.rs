//! Turns deliveries into changes and makes them so, many in one round trip.
//!
//! A worker takes what is waiting, never waits to fill a batch. A delivery whose customer is locked by an SDK
//! is parked and tried again while others go on. A panic while one message is decoded costs that message one
//! try, not the worker.

mod applying;
mod ending;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, select};

use super::gate::RedisGate;
use super::lease::Held;
use super::poison::PoisonLog;
use super::polls::Polls;
use super::settle::{Outbox, Settlement, settle_permanent};
use crate::cache::{CacheChange, Layout, changes};
use crate::config::PoisonPolicy;
use crate::entitlement::EpochMs;
use crate::log::FaultLog;
use crate::message::{self, Event};
use crate::ops::metrics::Metrics;
use crate::sentry_reports::Reporter;
use crate::shutdown::Stop;
use crate::store::{CacheStore, LockPatience, Outcome};

/// Deliveries in one round trip, or a few more, since a receive is taken whole: enough that the round trip is shared,
/// few enough that none waits for long.
const TAKE_AT_MOST: usize = 64;
/// Bytes of bodies after which no further delivery is taken: the bodies, their changes and the request are in memory
/// together. Of large ones a few are worth a round trip.
const BYTES_AT_MOST: usize = 256 * 1024;
/// How often a locked customer is tried again: an SDK holds its lock for a few milliseconds as a rule.
const LOCKED_AGAIN: Duration = Duration::from_millis(20);
/// Deliveries parked behind locks, and bytes of their bodies (a delivery takes some three times its body). From either
/// on nothing new is taken, so that memory stays bounded: what is parked may exceed it by what was taken last.
const PARKED_AT_MOST: usize = 256;
const PARKED_BYTES_AT_MOST: usize = 4 * 1024 * 1024;

/// What all workers share.
#[derive(Clone)]
pub struct Worker {
    /// What pollers received, a receive at a time.
    pub deliveries: Receiver<Vec<Held>>,
    /// Where deliveries go when they have ended.
    pub settled: Outbox,
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
    /// What the pollers are at: decides how soon others may have what is given back.
    pub polls: Arc<Polls>,
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
        self.held.lease.is_lost(now)
    }

    fn locks(&self) -> LockPatience {
        LockPatience::after(self.locked_since.map_or(Duration::ZERO, |since| since.elapsed()))
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
                    .flatten()
                    .for_each(|held| self.give_back_one(held));
                return;
            }
            let Some(taken) = self.take(&parked, try_parked_at) else {
                return;
            };
            let now = Instant::now();
            let begun = taken.into_iter().filter_map(|held| self.begin(held, now));
            let mut jobs: Vec<Job> = begun.collect();
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
            self.settled.hand_over();
        }
    }

    /// What is waiting, after waiting for the first if nothing is parked. `None` when nothing will come.
    fn take(&self, parked: &[Job], try_parked_at: Instant) -> Option<Vec<Held>> {
        let is_full = parked.len() >= PARKED_AT_MOST
            || bytes_of(parked.iter().map(|job| &job.held)) >= PARKED_BYTES_AT_MOST;
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
            Some(held) => taken.extend(held),
            // Nothing will come any more.
            None if parked.is_empty() => return None,
            None => {
                self.out_of_time.wait(wait);
            }
        }
        let mut bytes = bytes_of(&taken);
        while taken.len() < TAKE_AT_MOST && bytes < BYTES_AT_MOST {
            let Ok(held) = self.deliveries.try_recv() else {
                break;
            };
            bytes += bytes_of(&held);
            taken.extend(held);
        }
        Some(taken)
    }

    /// Decodes a delivery. `None` if it has ended already: it changes nothing, or cannot be read.
    fn begin(&self, held: Held, now: Instant) -> Option<Job> {
        if held.lease.is_lost(now) {
            self.lost(&held);
            return None;
        }
        let delivery = &held.delivery;
        let decoded = catch_unwind(AssertUnwindSafe(|| {
            let message = message::decode(&delivery.body, delivery.sent_at)?;
            let ignored = match &message.event {
                Event::Ignored { label } => Some(*label),
                Event::EntitlementsUpdated(_)
                | Event::UsageUpdated(_)
                | Event::Purged(_)
                | Event::EnvironmentInvalidated => None,
            };
            Ok((ignored, changes(message, &self.layout).collect::<Vec<_>>()))
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
        change.is_outdated_by(EpochMs(self.invalidated_at.load(Ordering::SeqCst)))
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
}

fn bytes_of<'a>(deliveries: impl IntoIterator<Item = &'a Held>) -> usize {
    deliveries.into_iter().map(|held| held.delivery.body.len()).sum()
}

/// An invalidation is a walk over many keys, no atomic step.
fn is_walk(change: &CacheChange) -> bool {
    matches!(change, CacheChange::InvalidateEnvironment(_))
}
