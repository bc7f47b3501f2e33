//! Starts the threads that messages pass through.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, bounded};

use super::threads::{Background, Threads};
use crate::config::Config;
use crate::ops::status::StatusBoard;
use crate::pipeline::context::Context;
use crate::pipeline::deleter::{Backlog, Deleter};
use crate::pipeline::in_flight::Recorded;
use crate::pipeline::poller::Poller;
use crate::pipeline::prefix_check::check_prefix;
use crate::pipeline::sampler::Sampler;
use crate::pipeline::visibility::Visibility;
use crate::pipeline::worker::Worker;

/// The threads that messages pass through.
pub(super) struct PipelineThreads {
    pub(super) pollers: Threads,
    pub(super) workers: Threads,
    pub(super) deleters: Threads,
}

/// Starts the loops: the last in line first, so that nothing waits for long.
pub(super) fn start(
    config: &Config,
    context: &Arc<Context>,
    recorded: Receiver<Vec<Recorded>>,
    status: Option<Arc<StatusBoard>>,
    background: &mut Background,
) -> anyhow::Result<PipelineThreads> {
    let sampler = Sampler::new(Arc::clone(context), status);
    background.spawn("sampler", move || sampler.run())?;
    let visibility = Visibility::new(Arc::clone(context), Instant::now());
    background.spawn("visibility", move || visibility.run())?;
    let checked = Arc::clone(context);
    background.spawn("prefix-check", move || check_prefix(&checked))?;

    // Room for one receive of each poller: workers that are busy find more for their next call to Redis, and fewer threads
    // wait for each other. The rest stays in the queue.
    let (deliveries, received) = bounded(config.consumers);
    let backlog = Backlog::new(recorded);
    let deleter = |_| {
        let deleter = Deleter { context: Arc::clone(context), backlog: Arc::clone(&backlog) };
        move || deleter.run()
    };
    let worker = |_| {
        let worker = Worker::new(Arc::clone(context), received.clone());
        move || worker.run()
    };
    let poller = |index| {
        let poller = Poller::new(Arc::clone(context), index, deliveries.clone());
        move || poller.run()
    };
    let died = &background.died;
    Ok(PipelineThreads {
        // As many as pollers: a delete takes as long as a receive, so fewer would slow the polling.
        deleters: Threads::start("deleter", died, (0..config.consumers).map(deleter).collect())?,
        workers: Threads::start("worker", died, (0..config.workers).map(worker).collect())?,
        pollers: Threads::start("poller", died, (0..config.consumers).map(poller).collect())?,
    })
}
