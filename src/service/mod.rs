//! The composition root: builds every component, starts every thread, and shuts them down.

mod credentials;
mod log_level;
mod peers;
mod pipeline;
mod reports;
mod shut_down;
mod signals;
mod systemd;
mod threads;

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
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
use crate::pipeline::deleter::BATCH_MAX;
use crate::pipeline::ending::MalformedIds;
use crate::pipeline::gate::RedisGate;
use crate::pipeline::in_flight::InFlight;
use crate::pipeline::poller;
use crate::sentry_reports::Reporter;
use crate::shutdown::shutdown_phases;
use crate::sqs::Queue;
use crate::store::{CacheStore, server_name};
use log_level::LogLevel;
use threads::{Background, Threads};

/// How the service ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to stop.
    Stopped,
    /// One of its loops panicked: a defect.
    LoopDied,
}

impl Ended {
    /// The exit status of the process: 0, or 70 (`EX_SOFTWARE` of sysexits.h: a defect, a restart may help).
    pub fn exit_status(self) -> u8 {
        match self {
            Self::Stopped => 0,
            Self::LoopDied => 70,
        }
    }
}

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

/// Runs the service until a signal asks it to stop. Fails only if it cannot start: no port, no thread.
pub fn run(config: &Config, overrides: Overrides) -> anyhow::Result<Ended> {
    let (died, deaths) = bounded(16);
    let signals = signals::listen(overrides.log_level.is_some(), &died)?;
    let mut log_level =
        LogLevel::new(overrides.log_level.unwrap_or(LevelFilter::Trace), crate::log::set_level);
    http_client::install_crypto_provider();

    let (triggers, shutdown) = shutdown_phases();
    let metrics = Arc::new(Metrics::new()?);
    let faults = Arc::new(FaultLog::default());
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
    let mut background = Background {
        metrics: Arc::clone(&metrics),
        faults: Arc::clone(&faults),
        exit: shutdown.exit.clone(),
        died,
        threads: Vec::new(),
    };
    let server = OpsServer::bind(config.port, health.clone(), metrics.clone(), status.clone())?;
    let server = Arc::new(server);
    let endpoints = Arc::clone(&server);
    let http = Threads::start("ops-http", &background.died, vec![move || endpoints.run()])?;
    log::info!(port = server.local_port(); "serving /livez, /readyz and /metrics");

    let edge = Arc::new(EdgeClient::new(
        config.edge_api_url.clone(),
        config.server_api_key.clone(),
        config.proxy.clone(),
    ));
    let reporter = Reporter::default();
    reports::start(config, Arc::clone(&edge), reporter.clone(), &mut background)?;
    let store = match overrides.store {
        Some(store) => store,
        None => peers::store(config, &edge, &mut background)?,
    };
    let queue = match overrides.queue {
        Some(queue) => queue,
        // Pollers, deleters, and the thread that extends visibility.
        None => peers::queue(config, &edge, config.consumers * 2 + 1, &mut background)?,
    };
    let (recorded_sender, recorded) = bounded(config.consumers * 2 * BATCH_MAX);
    let context = Arc::new(Context {
        batch_size: config.batch_size,
        wait_time: config.wait_time,
        poison_policy: config.poison_policy,
        layout: Layout {
            keyspace: Keyspace::new(config.environment_prefix.clone()),
            format: config.cache_format,
            policy: config.cache_update_policy,
        },
        environment_prefix: config.environment_prefix.clone(),
        queue,
        store,
        in_flight: InFlight::new(config.consumers, Arc::clone(&metrics)),
        gate: RedisGate::new(Arc::clone(&health), Arc::clone(&metrics), Arc::clone(&faults)),
        health,
        metrics,
        faults,
        reporter,
        malformed_ids: MalformedIds::default(),
        invalidated_at: AtomicI64::new(i64::MIN),
        recorded: recorded_sender,
        shutdown,
    });
    let pipeline = pipeline::start(config, &context, recorded, status, &mut background)?;
    systemd::start_watchdog(&context.health, &mut background)?;
    systemd::notify_ready(&context.faults);

    let ended = wait_for_the_end(&signals, &deaths, &mut log_level);
    if ended == Ended::LoopDied {
        context.reporter.report_error("a loop of this service died");
    }
    let (began, budget) = (Instant::now(), config.shutdown_timeout);
    systemd::notify_stopping(budget, &context.faults);
    shut_down::shut_down(budget, began, &context, triggers, &pipeline, &background);
    server.unblock();
    http.wait(began + budget);
    crate::log::log_summaries(Duration::ZERO);
    log::info!(stop_secs = began.elapsed().as_secs_f64(); "stopped");
    Ok(ended)
}

fn wait_for_the_end(signals: &Receiver<i32>, deaths: &Receiver<String>, log_level: &mut LogLevel) -> Ended {
    loop {
        select! {
            recv(signals) -> signal => match signal.unwrap_or(SIGTERM) {
                SIGUSR1 => log_level.signalled(Instant::now()),
                signal => {
                    let name = if signal == SIGTERM { "SIGTERM" } else { "SIGINT" };
                    log::info!(signal = name; "stopping: no new messages are received");
                    return Ended::Stopped;
                }
            },
            recv(deaths) -> thread => {
                let thread = thread.unwrap_or_default();
                log::error!(thread_name = thread.as_str(); "a loop of this service died: a defect; ending so that it is restarted");
                return Ended::LoopDied;
            }
            default(log_level.raised_for(Instant::now())) => log_level.time_passed(Instant::now()),
        }
    }
}

/// A call to the queue may take its long poll, some slack, and a fetch of credentials before it. A failed call is followed by a
/// wait.
fn silent_after(config: &Config) -> Duration {
    let call_max = config.wait_time + peers::RECEIVE_SLACK + peers::CREDENTIALS_FETCH_MAX;
    call_max + poller::BACKOFF_MAX + Duration::from_secs(5)
}
