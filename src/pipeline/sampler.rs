//! Looks at Redis from time to time: finds out that it is away while nothing is written, that it is back, and
//! what its statistics say. Watches the pollers, too: one that has gone silent cannot tell so itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::gate::{During, Evidence, RedisGate};
use crate::log::FaultLog;
use crate::ops::health::HealthBoard;
use crate::ops::metrics::Metrics;
use crate::ops::status::StatusBoard;
use crate::shutdown::Stop;
use crate::store::{CacheStore, Cause};

/// How often a Redis that is away is asked whether it is back.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// How often Sentinel, if there is one, is asked whether the primary has changed.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);
/// How often the statistics are read.
const SAMPLE_EVERY: Duration = Duration::from_secs(5);

/// The sampler.
pub struct Sampler {
    /// Redis.
    pub store: Arc<dyn CacheStore>,
    /// Told what was found.
    pub gate: Arc<RedisGate>,
    /// Asked whether the pollers come round.
    pub health: Arc<HealthBoard>,
    /// Set to what was found.
    pub metrics: Arc<Metrics>,
    /// Told of the time, so that it can write its counts.
    pub faults: Arc<FaultLog>,
    /// Told of the time, so that it can take its samples; none if there is no status page.
    pub status: Option<Arc<StatusBoard>>,
    /// Ends the loop.
    pub stop: Stop,
}

impl Sampler {
    /// Samples until the stop.
    pub fn run(&self) {
        let mut sampled_at: Option<Instant> = None;
        let mut followed_at: Option<Instant> = None;
        let mut was_live = true;
        loop {
            self.faults.tick(Instant::now());
            if let Some(status) = &self.status {
                status.tick(Instant::now());
            }
            let is_live = self.health.is_live(Instant::now());
            if was_live && !is_live {
                log::error!(
                    "no poller has come round for longer than any call may take: the loops are dead, a defect; /livez \
                     says 503 so that the service is restarted"
                );
            }
            was_live = is_live;
            if followed_at.is_none_or(|at| at.elapsed() >= FOLLOW_EVERY) {
                self.follow_primary();
                followed_at = Some(Instant::now());
            }
            let is_due = sampled_at.is_none_or(|at| at.elapsed() >= SAMPLE_EVERY);
            if !self.gate.is_open() || is_due {
                self.look();
                sampled_at = Some(Instant::now());
            }
            if self.stop.wait(ASK_AGAIN) {
                return;
            }
        }
    }

    /// What is written to the old primary after a promotion is lost: the sooner it is noticed, the better.
    fn follow_primary(&self) {
        if let Err(error) = self.store.follow_primary() {
            self.faults.fault(
                "sentinel",
                log::Level::Warn,
                "cannot ask whether Redis's primary has changed: the one known so far is used",
                &error.message,
                Instant::now(),
            );
        }
    }

    fn look(&self) {
        if let Err(error) = self.store.ping() {
            return self.gate.lost(&error, During::Question);
        }
        match self.store.info() {
            Ok(info) => self.metrics.observe_redis_info(&info),
            Err(error) if error.cause == Cause::ReadOnly => return self.gate.lost(&error, During::Question),
            // An ACL may deny INFO: the cache works without its statistics.
            Err(error) => self.faults.fault(
                "info",
                log::Level::Warn,
                "cannot read the statistics of Redis: hit ratio and memory metrics stay as they are",
                &error.message,
                Instant::now(),
            ),
        }
        self.gate.found(Evidence::Answered);
    }
}
