//! Makes the changes of many deliveries so in one round trip, and again for as long as Redis is away.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Job, Worker, is_walk};
use crate::cache::{CacheChange, Invalidation};
use crate::clock;
use crate::entitlement::EpochMs;
use crate::pipeline::gate::{During, Evidence};
use crate::pipeline::poller::seconds_now;
use crate::sqs::Delivery;
use crate::store::{Cause, Outcome, StoreError};

/// How often a Redis that refuses to write is tried again.
const REFUSED_AGAIN: Duration = Duration::from_secs(1);

impl Worker {
    /// Makes the jobs' changes so. Returns those that a lock holds up.
    pub(super) fn apply(&self, jobs: Vec<Job>) -> Vec<Job> {
        let mut jobs = jobs;
        // Redis may be away for long.
        self.settled.hand_over();
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
                Ok(Err(error)) if error.is_stopped() => {
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
            Err(error) if error.cause == Cause::NoPermission => Ok(Err(error)),
            Err(error) => Err(error),
        }
    }

    fn conclude(&self, jobs: Vec<Job>, outcomes: Vec<Result<Outcome, StoreError>>) -> Vec<Job> {
        let mut outcomes = outcomes.into_iter();
        let mut locked = Vec::new();
        let now = clock::now();
        let mut wrote_any = false;
        for mut job in jobs {
            let outcomes: Vec<_> = outcomes.by_ref().take(job.changes.len()).collect();
            if let Some(error) = outcomes.iter().find_map(|outcome| outcome.as_ref().err()) {
                let error = error.clone();
                for change in &job.changes {
                    told(&job.held.delivery, change, "refused by Redis");
                }
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
            for (outcome, change) in outcomes.into_iter().flatten().zip(&job.changes) {
                told(&job.held.delivery, change, outcome.label());
                wrote |= self.count(outcome);
            }
            if wrote {
                self.metrics
                    .message_age
                    .observe(age_secs(&job.held.delivery, now));
                wrote_any = true;
            }
            self.complete(job.held);
        }
        if wrote_any {
            self.metrics.last_write.set(seconds_now());
        }
        locked
    }
}

/// For whoever asks why a customer is not in the cache.
fn told(delivery: &Delivery, change: &CacheChange, outcome: &str) {
    let (what, key) = change.describe();
    log::debug!(message_id = delivery.message_id.as_str(), change = what, key, outcome; "made a change");
}

#[allow(clippy::cast_precision_loss)] // an age in ms fits
fn age_secs(delivery: &Delivery, now: EpochMs) -> f64 {
    now.0.saturating_sub(delivery.sent_at.0).max(0) as f64 / 1_000.0
}
