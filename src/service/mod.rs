//! The composition root: builds every component, starts every thread, and shuts them down.

mod connections;
mod reports;
mod signals;
mod systemd;
mod threads;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded, select};
use log::LevelFilter;
use signal_hook::consts::{SIGTERM, SIGUSR1};

use crate::cache::Layout;
use crate::cache::keyspace::Keyspace;
use crate::config::Config;
use crate::edge::EdgeClient;
use crate::http_client;
use crate::log::FaultLog;
use crate::ops::health::HealthBoard;
use crate::ops::metrics::Metrics;
use crate::ops::server::OpsServer;
use crate::ops::status::{Fixed, StatusBoard};
use crate::pipeline::context::Context;
use crate::pipeline::deleter::{BATCH_MAX, Deleter};
use crate::pipeline::gate::RedisGate;
use crate::pipeline::in_flight::{InFlight, Recorded};
use crate::pipeline::poller::{self, Poller};
use crate::pipeline::prefix_check::check_prefix;
use crate::pipeline::sampler::Sampler;
use crate::pipeline::visibility::Visibility;
use crate::pipeline::worker::Worker;
use crate::sentry_reports::Reporter;
use crate::shutdown::{Phases, Stop, StopTrigger, shutdown_phases};
use crate::sqs::Queue;
use crate::store::{CacheStore, server_name};
use signals::LogLevel;
use threads::Threads;

/// Messages that wait between pollers and workers, at least. With fewer, the calls to Redis are smaller, and each
/// message costs Redis more.
const WAITING_MESSAGES: usize = 40;
/// What a shutdown may take after a loop has died: nobody completes what it held.
const LOOP_DIED_BUDGET: Duration = Duration::from_secs(5);
/// How often to check what is due, at least.
const TICK: Duration = Duration::from_secs(5);

/// The exit statuses of the service: it was asked to stop, or one of its loops panicked (`EX_SOFTWARE` of sysexits.h: a
/// defect, a restart may help).
const STOPPED: u8 = 0;
const LOOP_DIED: u8 = 70;

/// Replaces real components: in a program that embeds the service, or a test that breaks it on purpose.
#[derive(Default, Clone)]
pub struct Overrides {
    /// Instead of the SQS client.
    pub queue: Option<Arc<dyn Queue>>,
    /// Instead of Redis.
    pub store: Option<Arc<dyn CacheStore>>,
    /// How long a poller may be silent, instead of what follows from the configuration.
    pub silent_after: Option<Duration>,
    /// The level of the log, which SIGUSR1 may raise; without one, the signal is left to the program.
    pub log_level: Option<LevelFilter>,
}

/// What every part is built from.
struct Setup<'a> {
    config: &'a Config,
    edge: Arc<EdgeClient>,
    metrics: Arc<Metrics>,
    faults: Arc<FaultLog>,
    /// Ends the threads.
    exit: Stop,
    /// All that end in the exit phase at the latest.
    threads: Threads,
}

/// Runs the service until a signal asks it to stop. Returns its exit status: 0, or 70 after a panic in one of its loops. Fails
/// only if it cannot start: no port, no thread.
pub fn run(config: &Config, overrides: Overrides) -> anyhow::Result<u8> {
    let faults = Arc::new(FaultLog::default());
    let (died, deaths) = bounded(16);
    // Threads that wait for signals or in long polls cannot be woken, and must not delay the end of the process.
    let left_behind = Threads::new(&died);
    let signals = signals::listen(overrides.log_level.is_some(), &left_behind)?;
    let mut log_level =
        LogLevel::new(overrides.log_level.unwrap_or(LevelFilter::Trace), crate::log::set_level);
    http_client::install_crypto_provider();

    let (triggers, shutdown) = shutdown_phases();
    let metrics = Arc::new(Metrics::new()?);
    let silent_after = overrides.silent_after.unwrap_or_else(|| silent_after(config));
    let health = Arc::new(HealthBoard::new(config.consumers, silent_after, Instant::now()));
    let status = config.status_page.then(|| {
        let fixed = Fixed {
            queue_url: config.queue_url.clone(),
            region: config.region.clone(),
            credential_source: config.credentials.name(),
            redis_at: server_name(&config.redis),
            settings: config.shown.clone(),
        };
        let (health, metrics, faults) = (health.clone(), metrics.clone(), faults.clone());
        Arc::new(StatusBoard::new(fixed, health, metrics, faults, Instant::now()))
    });
    let setup = Setup {
        config,
        edge: Arc::new(EdgeClient::new(
            config.edge_api_url.clone(),
            config.server_api_key.clone(),
            config.proxy.clone(),
        )),
        metrics: Arc::clone(&metrics),
        faults: Arc::clone(&faults),
        exit: shutdown.exit.clone(),
        threads: Threads::new(&died),
    };
    let server = OpsServer::bind(config.port, health.clone(), metrics.clone(), status.clone())?;
    let server = Arc::new(server);
    let endpoints = Arc::clone(&server);
    setup.threads.spawn("ops-http", move || endpoints.run())?;
    log::info!(port = server.local_port(); "serving /livez, /readyz and /metrics");

    let reporter = Reporter::default();
    setup.start_reports(reporter.clone())?;
    // While a deleter waits for a batch to fill, the workers go on: room for more than they do in that time.
    let (recorded_sender, recorded) = bounded(config.consumers * BATCH_MAX * 5);
    let layout =
        Layout { keyspace: Keyspace::new(config.environment_prefix.clone()), format: config.cache_format };
    let store = setup.store()?;
    let context = Arc::new(Context {
        batch_size: config.batch_size,
        wait_time: config.wait_time,
        poison_policy: config.poison_policy,
        refreshes: setup.start_refresher(&layout, &store, &shutdown.drain)?,
        layout,
        store: overrides.store.unwrap_or(store),
        queue: overrides.queue.map_or_else(|| setup.queue(), Ok)?,
        in_flight: InFlight::new(config.consumers, Arc::clone(&metrics)),
        gate: RedisGate::new(Arc::clone(&health), Arc::clone(&metrics), Arc::clone(&faults)),
        health,
        metrics,
        faults,
        reporter,
        recorded: recorded_sender,
        shutdown,
    });
    setup.start_loops(&context, recorded, status, &left_behind)?;
    systemd::notify_ready(&context.faults);

    let status = wait_for_the_end(&signals, &deaths, &mut log_level, &context);
    let began = Instant::now();
    let mut budget = config.shutdown_timeout;
    if status == LOOP_DIED {
        context.reporter.report_error("a loop of this service died");
        budget = budget.min(LOOP_DIED_BUDGET);
    }
    systemd::notify_stopping(budget, &context.faults);
    shut_down(budget, began, &context, triggers);
    server.unblock();
    setup.threads.wait(began + budget);
    crate::log::log_summaries(Duration::ZERO);
    log::info!(stop_secs = began.elapsed().as_secs_f64(); "stopped");
    Ok(status)
}

impl Setup<'_> {
    /// Starts the threads that messages pass through: the last in line first, so that nothing waits for long.
    fn start_loops(
        &self,
        context: &Arc<Context>,
        recorded: Receiver<Recorded>,
        status: Option<Arc<StatusBoard>>,
        left_behind: &Threads,
    ) -> anyhow::Result<()> {
        let (config, threads) = (self.config, &self.threads);
        let sampler = Sampler::new(Arc::clone(context), status);
        threads.spawn("sampler", move || sampler.run())?;
        let visibility = Visibility::new(Arc::clone(context), Instant::now());
        threads.spawn("visibility", move || visibility.run())?;
        let (checked, prefix) = (Arc::clone(context), config.environment_prefix.clone());
        threads.spawn("prefix-check", move || check_prefix(&checked, &prefix))?;

        // As many deleters as pollers: a delete takes as long as a receive, so fewer would slow the polling.
        let recorded = Arc::new(Mutex::new(recorded));
        for index in 0..config.consumers {
            let deleter = Deleter { context: Arc::clone(context), recorded: Arc::clone(&recorded) };
            threads.spawn(format!("deleter-{index}"), move || deleter.run())?;
        }
        // What waits is memory, and a poller that waits holds a receive as well: one for each worker, or as many small ones
        // as make a call to Redis worth its while. The rest stays in the queue.
        let waiting = (WAITING_MESSAGES / usize::from(config.batch_size)).clamp(1, config.consumers);
        let (deliveries, received) = bounded(waiting.max(config.workers));
        for index in 0..config.workers {
            let worker = Worker::new(Arc::clone(context), received.clone());
            threads.spawn(format!("worker-{index}"), move || worker.run())?;
        }
        for index in 0..config.consumers {
            let poller = Poller::new(Arc::clone(context), index, deliveries.clone());
            left_behind.spawn(format!("poller-{index}"), move || poller.run())?;
        }
        Ok(())
    }
}

/// Waits for a signal or the death of a loop, and meanwhile does what is due every few seconds. Returns the exit status.
fn wait_for_the_end(
    signals: &Receiver<i32>,
    deaths: &Receiver<String>,
    log_level: &mut LogLevel,
    context: &Context,
) -> u8 {
    let watchdog = sd_notify::watchdog_enabled();
    // Half of the timeout, as systemd recommends.
    let tick = watchdog.map_or(TICK, |timeout| TICK.min(timeout / 2));
    loop {
        if watchdog.is_some() {
            systemd::feed_watchdog(&context.health, &context.faults);
        }
        select! {
            recv(signals) -> signal => match signal.unwrap_or(SIGTERM) {
                SIGUSR1 => log_level.signalled(Instant::now()),
                signal => {
                    let name = if signal == SIGTERM { "SIGTERM" } else { "SIGINT" };
                    log::info!(signal = name; "stopping: no new messages are received");
                    return STOPPED;
                }
            },
            recv(deaths) -> thread => {
                let thread = thread.unwrap_or_default();
                log::error!(thread_name = thread.as_str(); "a loop of this service died because of a defect: exiting, so that the service is restarted");
                return LOOP_DIED;
            }
            default(tick) => log_level.tick(Instant::now()),
        }
    }
}

/// Ends all loops, in three phases within one time budget. Nothing that was received is lost or stays hidden.
/// 1. Drain: pollers receive nothing more; what their last calls bring is applied like everything before it.
/// 2. Release, at 75 % of the budget at the latest: everything not applied is released to the queue.
/// 3. Exit: the threads end.
fn shut_down(budget: Duration, began: Instant, context: &Context, triggers: Phases<StopTrigger>) {
    let deadline = began + budget;
    let release_at = began + budget.mul_f64(0.75);
    // Long polls cannot be woken. Wait a moment for them anyway: a message may be on its way to one of them.
    let polls_until = began + (budget / 5).min(Duration::from_secs(2));
    let mut release = Some(triggers.release);
    context.health.begin_stop();
    drop(triggers.drain);
    loop {
        let now = Instant::now();
        if context.in_flight.is_drained(now < polls_until) {
            break;
        }
        if now >= deadline {
            log::warn!(
                "some messages could not be completed in time: they are delivered again when their visibility timeout ends"
            );
            break;
        }
        if now >= release_at {
            // Again and again: a poll may have brought something meanwhile.
            let released = context.in_flight.take_over(now);
            if let Some(release) = release.take() {
                log::warn!("out of time: what is not yet applied is released to the queue");
                drop(release); // after the take-over: its holders end
            }
            for released in released {
                let _ = context.recorded.send_deadline(released, deadline);
            }
        }
        context.shutdown.exit.wait(Duration::from_millis(10));
    }
    drop(release);
    drop(triggers.exit);
}

/// A call to the queue may take its long poll, some slack, and a fetch of credentials before it. A failed call is followed by a
/// wait.
fn silent_after(config: &Config) -> Duration {
    let call_max = config.wait_time + connections::RECEIVE_SLACK + connections::CREDENTIALS_FETCH_MAX;
    call_max + poller::BACKOFF_MAX + Duration::from_secs(5)
}
