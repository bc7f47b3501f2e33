//! The composition root: builds every real part, starts every thread, and stops them in order.

pub(crate) mod credentials;
mod crew;
mod queue;
mod reports;
mod signals;
mod stop;
mod store;
mod systemd;
mod verbosity;

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded, select};

use crate::aws::EdgeCredentials;
use crate::cache::Layout;
use crate::cache::keyspace::Keyspace;
use crate::config::Config;
use crate::edge::EdgeClient;
use crate::http_client;
use crate::log::{FaultLog, LogHandle};
use crate::ops::health::{HealthBoard, Patience};
use crate::ops::metrics::Metrics;
use crate::ops::server::OpsServer;
use crate::ops::status::{Fixed, StatusBoard};
use crate::pipeline::acknowledger::{Acknowledger, Baton};
use crate::pipeline::gate::RedisGate;
use crate::pipeline::guard::Guard;
use crate::pipeline::heartbeat::Heartbeat;
use crate::pipeline::lease::Leases;
use crate::pipeline::poison::PoisonLog;
use crate::pipeline::poller::{LONGEST_BACKOFF, Poller, Polling};
use crate::pipeline::polls::Polls;
use crate::pipeline::sampler::Sampler;
use crate::pipeline::settle::Outbox;
use crate::pipeline::worker::Worker;
use crate::sentry_reports::Reporter;
use crate::shutdown::stop_pair;
use crate::sqs::Queue;
use crate::store::{CacheStore, server_name};
use credentials::Surroundings;
use crew::Crew;
use stop::{Crews, InHand, Stops, Triggers, stop};

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

/// What stands in for the real parts: a program that embeds the service, or a test that breaks it on purpose, brings
/// its own.
#[derive(Default, Clone)]
pub struct Parts {
    /// Instead of the SQS client.
    pub queue: Option<Arc<dyn Queue>>,
    /// Instead of Redis.
    pub store: Option<Arc<dyn CacheStore>>,
    /// Instead of what follows from the configuration.
    pub patience: Option<Patience>,
    /// The log whose level a signal may raise; without one, the signal is left to the program.
    pub log: Option<LogHandle>,
}

/// What every loop reports to.
struct Reports {
    health: Arc<HealthBoard>,
    metrics: Arc<Metrics>,
    faults: Arc<FaultLog>,
    gate: Arc<RedisGate>,
    reporter: Reporter,
    /// None if there is no status page.
    status: Option<Arc<StatusBoard>>,
}

/// Runs the service until a signal asks it to stop. Fails only if it cannot start: no port, no thread.
pub fn run(config: &Config, log: LogHandle) -> anyhow::Result<Ended> {
    let parts = Parts {
        log: Some(log),
        ..Parts::default()
    };
    run_with(config, parts)
}

/// The same, on other parts than the real ones.
pub fn run_with(config: &Config, parts: Parts) -> anyhow::Result<Ended> {
    let (died, deaths) = bounded(16);
    let signals = signals::stop_signals(&died)?;
    if let Some(log) = &parts.log {
        verbosity::listen(log.clone(), &died)?;
    }
    http_client::install_crypto_provider();

    let metrics = Arc::new(Metrics::new()?);
    let patience = parts.patience.unwrap_or_else(|| patience(config));
    let health = Arc::new(HealthBoard::new(config.consumers, patience, Instant::now()));
    let faults = Arc::new(FaultLog::new());
    let gate = Arc::new(RedisGate::new(
        Arc::clone(&health),
        Arc::clone(&metrics),
        Arc::clone(&faults),
    ));
    let status = status_board(config, &health, &metrics, &faults);
    let reports = Reports {
        health,
        metrics,
        faults,
        gate,
        reporter: Reporter::default(),
        status,
    };

    let ops = Arc::new(OpsServer::bind(
        config.port,
        Arc::clone(&reports.health),
        Arc::clone(&reports.metrics),
        reports.status.clone(),
    )?);
    let serve = {
        let ops = Arc::clone(&ops);
        move || ops.run()
    };
    let ops_crew = Crew::start("ops-http", &died, vec![serve])?;
    log::info!(port = ops.local_port(); "serving /livez, /readyz and /metrics");

    let (triggers, crews, in_hand) = start_loops(config, parts, &reports, &died)?;
    let (watchdog_end, watchdog_stop) = stop_pair();
    let watchdog = systemd::start_watchdog(&reports.health, &reports.faults, watchdog_stop, &died)?;
    systemd::tell_ready(&reports.faults);

    let ended = wait_for_the_end(&signals, &deaths);
    if ended == Ended::LoopDied {
        reports.reporter.report_error("a loop of this service died");
    }
    let began = Instant::now();
    systemd::tell_stopping(config.shutdown_timeout, &reports.faults);
    stop(
        config.shutdown_timeout,
        began,
        &reports,
        triggers,
        &crews,
        &in_hand,
    );
    drop(watchdog_end);
    if let Some(watchdog) = watchdog {
        watchdog.wait(began + config.shutdown_timeout);
    }
    ops.unblock();
    ops_crew.wait(began + config.shutdown_timeout);
    reports.faults.flush(Instant::now());
    log::info!(stop_secs = began.elapsed().as_secs_f64(); "stopped");
    Ok(ended)
}

fn wait_for_the_end(signals: &Receiver<&'static str>, deaths: &Receiver<String>) -> Ended {
    select! {
        recv(signals) -> signal => {
            log::info!(signal = signal.unwrap_or("signal"); "stopping: no new messages are received");
            Ended::Stopped
        }
        recv(deaths) -> thread => {
            let thread = thread.unwrap_or_default();
            log::error!(thread_name = thread.as_str(); "a loop of this service died: a defect; ending so that it is restarted");
            Ended::LoopDied
        }
    }
}

/// A call to the queue may take its wait, its slack, and a fetch of credentials before it; after a failed one comes a
/// wait.
fn patience(config: &Config) -> Patience {
    let longest_call = config.wait_time + queue::RECEIVE_SLACK + queue::LONGEST_FETCH;
    Patience {
        silent_after: longest_call + LONGEST_BACKOFF + Duration::from_secs(5),
        failing_grace: Duration::from_secs(15),
    }
}

/// What the status page is made of, if there is one.
fn status_board(
    config: &Config,
    health: &Arc<HealthBoard>,
    metrics: &Arc<Metrics>,
    faults: &Arc<FaultLog>,
) -> Option<Arc<StatusBoard>> {
    let fixed = Fixed {
        queue_url: config.queue_url.clone(),
        region: config.region.clone(),
        credential_source: config.credentials.name(),
        redis_at: server_name(&config.redis),
        settings: config.shown.clone(),
    };
    let (health, metrics, faults) = (Arc::clone(health), Arc::clone(metrics), Arc::clone(faults));
    let board = || Arc::new(StatusBoard::new(fixed, health, metrics, faults, Instant::now()));
    config.status_page.then(board)
}

fn start_loops(
    config: &Config,
    parts: Parts,
    reports: &Reports,
    died: &crew::Died,
) -> anyhow::Result<(Triggers, Crews, InHand)> {
    let (polling, polling_stop) = stop_pair();
    let (hand_over, last_hand_over) = stop_pair();
    let (deliveries_end, last_delivery) = stop_pair();
    let (time, out_of_time) = stop_pair();
    let (background_end, background_stop) = stop_pair();

    let edge = Arc::new(EdgeClient::new(
        config.edge_api_url.clone(),
        config.server_api_key.clone(),
        config.proxy.clone(),
    ));
    let mut background = vec![reports::start(
        config,
        Arc::clone(&edge),
        reports.reporter.clone(),
        Arc::clone(&reports.faults),
        background_stop.clone(),
        died,
    )?];

    let store = if let Some(store) = parts.store {
        store
    } else {
        let surroundings = Surroundings {
            proxy: config.proxy.clone(),
            edge: EdgeCredentials::new(Arc::clone(&edge), config.queue_url.clone()),
            reports,
            stop: background_stop.clone(),
            died,
        };
        let (signer, renewal) = store::signer(config, surroundings)?;
        background.extend(renewal);
        Arc::new(store::open(config, signer)?)
    };
    let sampler = Sampler {
        store: Arc::clone(&store),
        gate: Arc::clone(&reports.gate),
        health: Arc::clone(&reports.health),
        metrics: Arc::clone(&reports.metrics),
        faults: Arc::clone(&reports.faults),
        status: reports.status.clone(),
        stop: background_stop.clone(),
    };
    background.push(Crew::start("sampler", died, vec![move || sampler.run()])?);
    let guard = Guard {
        store: Arc::clone(&store),
        gate: Arc::clone(&reports.gate),
        keyspace: Keyspace::new(config.environment_prefix.clone()),
        prefix: config.environment_prefix.clone(),
        stop: background_stop.clone(),
    };
    background.push(Crew::start("guard", died, vec![move || guard.run()])?);

    // As many acknowledgers as pollers: a delete takes as long as a receive, so fewer would slow the polling.
    let acknowledger_count = config.consumers;
    let queue = if let Some(queue) = parts.queue {
        queue
    } else {
        // The heartbeat calls, too.
        let callers = config.consumers + acknowledger_count + 1;
        let (queue, renewal) = queue::start(config, edge, callers, reports, background_stop.clone(), died)?;
        background.extend(renewal);
        queue
    };
    let leases = Leases::new(config.consumers, Arc::clone(&reports.metrics));
    let heartbeat = Heartbeat {
        queue: Arc::clone(&queue),
        leases: Arc::clone(&leases),
        metrics: Arc::clone(&reports.metrics),
        faults: Arc::clone(&reports.faults),
        stop: background_stop,
    };
    background.push(Crew::start("heartbeat", died, vec![move || heartbeat.run()])?);

    let triggers = Triggers {
        polling,
        hand_over,
        deliveries: deliveries_end,
        time,
        background: background_end,
    };
    let in_hand = InHand {
        queue,
        leases,
        polls: Polls::new(config.consumers),
        died: died.clone(),
    };
    let stops = Stops {
        polling: polling_stop,
        last_hand_over,
        last_delivery,
        out_of_time,
    };
    let [pollers, workers, acknowledgers] =
        start_pipeline(config, reports, store, &in_hand, acknowledger_count, stops, died)?;
    let crews = Crews {
        pollers,
        workers,
        acknowledgers,
        background,
    };
    Ok((triggers, crews, in_hand))
}

/// Messages between pollers and workers, at least.
const WAITING_MESSAGES: usize = 20;

/// Starts what messages pass through. Returns the pollers, the workers and the acknowledgers.
fn start_pipeline(
    config: &Config,
    reports: &Reports,
    store: Arc<dyn CacheStore>,
    in_hand: &InHand,
    acknowledger_count: usize,
    stops: Stops,
    died: &crew::Died,
) -> anyhow::Result<[Crew; 3]> {
    // What waits is memory, and a poller that waits holds a receive as well: one for each worker, or as many small ones
    // as make a round trip to Redis worth its while. The rest stays in the queue.
    let waiting = (WAITING_MESSAGES / usize::from(config.batch_size)).clamp(1, config.consumers);
    let (delivery_sender, deliveries) = bounded(waiting.max(config.workers));
    // What workers hand over may be one message or ten: two for each acknowledger.
    let (settled_sender, settled) = bounded(acknowledger_count * 2);

    let acknowledger = Acknowledger {
        queue: Arc::clone(&in_hand.queue),
        settled,
        baton: Baton::default(),
        metrics: Arc::clone(&reports.metrics),
        faults: Arc::clone(&reports.faults),
        out_of_time: stops.out_of_time.clone(),
    };
    let worker = Worker {
        deliveries,
        settled: Outbox::new(settled_sender),
        store,
        layout: Layout {
            keyspace: Keyspace::new(config.environment_prefix.clone()),
            format: config.cache_format,
            policy: config.cache_update_policy,
        },
        poison_policy: config.poison_policy,
        poison_log: Arc::new(PoisonLog::default()),
        invalidated_at: Arc::new(AtomicI64::new(i64::MIN)),
        polls: Arc::clone(&in_hand.polls),
        gate: Arc::clone(&reports.gate),
        metrics: Arc::clone(&reports.metrics),
        faults: Arc::clone(&reports.faults),
        reporter: reports.reporter.clone(),
        last_delivery: stops.last_delivery,
        out_of_time: stops.out_of_time,
    };
    let poller = Poller {
        index: 0,
        queue: Arc::clone(&in_hand.queue),
        deliveries: delivery_sender,
        leases: Arc::clone(&in_hand.leases),
        polling: Polling {
            batch_size: config.batch_size,
            wait_time: config.wait_time,
        },
        gate: Arc::clone(&reports.gate),
        health: Arc::clone(&reports.health),
        metrics: Arc::clone(&reports.metrics),
        faults: Arc::clone(&reports.faults),
        polls: Arc::clone(&in_hand.polls),
        stop: stops.polling,
        last_hand_over: stops.last_hand_over,
    };
    // Those at the end of the line first. The last senders are in the threads: when the workers end, the
    // acknowledgers do.
    let acknowledgers = Crew::start(
        "acknowledger",
        died,
        clones(acknowledger_count, |_| {
            let acknowledger = acknowledger.clone();
            move || acknowledger.run()
        }),
    )?;
    let workers = Crew::start(
        "worker",
        died,
        clones(config.workers, |_| {
            let worker = worker.clone();
            move || worker.run()
        }),
    )?;
    let pollers = Crew::start(
        "poller",
        died,
        clones(config.consumers, |index| {
            let poller = Poller {
                index,
                ..poller.clone()
            };
            move || poller.run()
        }),
    )?;
    Ok([pollers, workers, acknowledgers])
}

fn clones<L>(count: usize, make: impl FnMut(usize) -> L) -> Vec<L> {
    (0..count).map(make).collect()
}
