//! The sampler checks Redis when nothing else does, reads its statistics, and drives what needs a regular tick. It also
//! watches the pollers: one that is stuck cannot report it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use log::Level;

use super::context::Context;
use super::gate::Access;
use crate::ops::status::StatusBoard;
use crate::store::Cause;

/// How often a Redis that cannot be used is checked, and Sentinel, if there is one, is asked for the primary.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// How often the statistics are read.
const SAMPLE_EVERY: Duration = Duration::from_secs(5);

pub struct Sampler {
    context: Arc<Context>,
    /// None if there is no status page.
    status: Option<Arc<StatusBoard>>,
    sample_at: Instant,
    was_live: bool,
}

impl Sampler {
    pub fn new(context: Arc<Context>, status: Option<Arc<StatusBoard>>) -> Self {
        Self { context, status, sample_at: Instant::now(), was_live: true }
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
        crate::log::log_summaries(crate::log::WINDOW);
        context.gate.tick(now);
        if let Some(status) = &self.status {
            status.tick(now);
        }
        let is_live = context.health.is_live(now);
        if self.was_live && !is_live {
            log::error!(
                "no poller has made progress for longer than any call may take: the loops are dead; /livez \
                 answers 503 so that the service is restarted"
            );
        }
        self.was_live = is_live;
        // What is written to the old primary after a promotion is lost: the sooner it is noticed, the better.
        match context.store.follow_primary() {
            Ok(()) => context.works_again("sentinel", "the sentinels answer"),
            Err(error) => {
                let message = "cannot ask the sentinels for Redis's primary: the last known one is used";
                context.fault("sentinel", Level::Warn, message, &error.message);
            }
        }
        if now >= self.sample_at || !context.gate.is_open() {
            self.sample_at = now + SAMPLE_EVERY;
            self.check_redis();
        }
    }

    fn check_redis(&self) {
        let Context { store, gate, .. } = &*self.context;
        let began = Instant::now();
        if let Err(error) = store.ping() {
            return gate.failed(Access::Read, &error, began);
        }
        match store.info() {
            Ok(info) => {
                self.context.metrics.observe_redis_info(&info);
                self.context.works_again("info", "the statistics of Redis can be read");
            }
            Err(error) if error.cause == Cause::ReadOnly => return gate.failed(Access::Read, &error, began),
            // An ACL may deny INFO: the cache works without its statistics.
            Err(error) => {
                let message =
                    "cannot read the statistics of Redis: hit ratio and memory metrics stay as they are";
                self.context.fault("info", Level::Warn, message, &error.message);
            }
        }
        gate.succeeded(Access::Read);
        if gate.needs_probe() {
            match store.probe_write() {
                Ok(()) => gate.succeeded(Access::Write),
                Err(error) => gate.failed(Access::Write, &error, began),
            }
        }
    }
}
