//! The sampler checks Redis when nothing else does, reads its statistics, and drives what needs a regular tick. It also
//! watches the pollers: one that is stuck cannot report it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::context::Context;
use crate::ops::status::StatusBoard;
use crate::store::Cause;

/// How often a Redis that cannot be used is checked.
const CHECK_EVERY: Duration = Duration::from_millis(500);
/// How often Sentinel, if there is one, is asked whether the primary has changed.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);
/// How often the statistics are read.
const SAMPLE_EVERY: Duration = Duration::from_secs(5);

pub struct Sampler {
    context: Arc<Context>,
    /// None if there is no status page.
    status: Option<Arc<StatusBoard>>,
    sampled_at: Option<Instant>,
    followed_at: Option<Instant>,
    was_live: bool,
}

impl Sampler {
    pub fn new(context: Arc<Context>, status: Option<Arc<StatusBoard>>) -> Self {
        Self {
            context,
            status,
            sampled_at: None,
            followed_at: None,
            was_live: true,
        }
    }

    /// Works until the exit phase.
    pub fn run(mut self) {
        loop {
            self.step(Instant::now());
            if self.context.shutdown.exit.wait(CHECK_EVERY) {
                return;
            }
        }
    }

    /// Does what is due.
    pub fn step(&mut self, now: Instant) {
        let context = &self.context;
        context.faults.tick(now);
        context.gate.tick(now);
        if let Some(status) = &self.status {
            status.tick(now);
        }
        let is_live = context.health.is_live(now);
        if self.was_live && !is_live {
            log::error!(
                "no poller has made progress for longer than any call may take: the loops are dead, a defect; /livez \
                 says 503 so that the service is restarted"
            );
        }
        self.was_live = is_live;
        let is_due =
            |last: Option<Instant>, every| last.is_none_or(|at| now.saturating_duration_since(at) >= every);
        if is_due(self.followed_at, FOLLOW_EVERY) {
            self.follow_primary();
            self.followed_at = Some(now);
        }
        if !self.context.gate.is_open() || is_due(self.sampled_at, SAMPLE_EVERY) {
            self.check_redis();
            self.sampled_at = Some(now);
        }
    }

    /// What is written to the old primary after a promotion is lost: the sooner it is noticed, the better.
    fn follow_primary(&self) {
        if let Err(error) = self.context.store.follow_primary() {
            self.warn(
                "sentinel",
                "cannot ask whether Redis's primary has changed: the one known so far is used",
                &error.message,
            );
        }
    }

    fn check_redis(&self) {
        let Context { store, gate, .. } = &*self.context;
        if let Err(error) = store.ping() {
            return gate.read_failed(&error);
        }
        match store.info() {
            Ok(info) => self.context.metrics.observe_redis_info(&info),
            Err(error) if error.cause == Cause::ReadOnly => return gate.read_failed(&error),
            // An ACL may deny INFO: the cache works without its statistics.
            Err(error) => self.warn(
                "info",
                "cannot read the statistics of Redis: hit ratio and memory metrics stay as they are",
                &error.message,
            ),
        }
        gate.read_succeeded();
        if gate.needs_probe() {
            match store.probe_write() {
                Ok(()) => gate.write_succeeded(),
                Err(error) => gate.write_failed(&error),
            }
        }
    }

    fn warn(&self, kind: &str, message: &str, error: &str) {
        self.context.fault(kind, log::Level::Warn, message, error);
    }
}
