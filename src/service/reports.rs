//! Starts the error reports, in the background: an unreachable Edge API or Sentry neither stops nor slows the
//! main job.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::crew::{Crew, Died};
use crate::config::{Config, Secret, SentryConfig};
use crate::edge::EdgeClient;
use crate::log::FaultLog;
use crate::pipeline::backoff::Backoff;
use crate::sentry_reports::{self, Guard, Reporter};
use crate::shutdown::Stop;

/// How often the DSN's file is looked at. It is small, and a new DSN may wait that long.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Lets `reporter` report as soon as a DSN is known, until the stop.
pub(super) fn start(
    config: &Config,
    edge: Arc<EdgeClient>,
    reporter: Reporter,
    faults: Arc<FaultLog>,
    stop: Stop,
    died: &Died,
) -> anyhow::Result<Crew> {
    let (sentry, proxy) = (config.sentry.clone(), config.proxy.clone());
    let environment = config.environment_prefix.clone();
    let run = move || {
        let mut file = None;
        let dsn = match &sentry {
            SentryConfig::Disabled => return,
            SentryConfig::Dsn(dsn) => {
                file = dsn.is_file().then_some(dsn);
                wait_for_dsn(dsn, &faults, &stop)
            }
            SentryConfig::RemoteConfiguration => ask(&edge, &faults, &stop),
        };
        let Some(dsn) = dsn else { return };
        let version = env!("CARGO_PKG_VERSION");
        match sentry_reports::start(&reporter, &dsn, version, &environment, proxy.clone()) {
            // The guard delivers the last reports when it is dropped.
            Ok(guard) => {
                log::info!("errors of this service are reported to Sentry");
                match file {
                    Some(file) => follow(file, dsn, &guard, &faults, &stop),
                    None => while !stop.wait(Duration::from_hours(1)) {},
                }
            }
            Err(error) => log::warn!(err:% = error; "errors are not reported to Sentry"),
        }
    };
    Crew::start("reports", died, vec![run])
}

/// The DSN of the settings. Its file was there when they were judged; if it has gone since, it is waited for.
fn wait_for_dsn(dsn: &Secret, faults: &FaultLog, stop: &Stop) -> Option<String> {
    loop {
        match dsn.read() {
            Ok(dsn) => return Some(dsn),
            Err(error) => unreadable(faults, &error.to_string()),
        }
        if stop.wait(LOOK_AGAIN) {
            return None;
        }
    }
}

/// Takes up what the DSN's file holds whenever that has changed, until the stop. What is no DSN is told once, and
/// the one before goes on.
fn follow(file: &Secret, mut seen: String, guard: &Guard, faults: &FaultLog, stop: &Stop) {
    while !stop.wait(LOOK_AGAIN) {
        let dsn = match file.read() {
            Ok(dsn) => dsn,
            Err(error) => {
                unreadable(faults, &error.to_string());
                continue;
            }
        };
        if dsn == seen {
            continue;
        }
        match guard.turn_to(&dsn) {
            Ok(()) => {
                log::info!("the file of SENTRY_DSN_FILE has changed: errors are reported to the new DSN");
            }
            Err(error) => log::warn!(
                err:% = error;
                "the file of SENTRY_DSN_FILE has changed, but cannot be used: errors are reported to the DSN before"
            ),
        }
        seen = dsn;
    }
}

fn unreadable(faults: &FaultLog, error: &str) {
    faults.fault(
        "SENTRY_DSN_FILE",
        log::Level::Warn,
        "cannot read the file of SENTRY_DSN_FILE: check the path and its permissions; looking again",
        error,
        Instant::now(),
    );
}

/// The DSN of the remote configuration, asked for until there is an answer. `None`: there is none, or the stop came.
fn ask(edge: &EdgeClient, faults: &FaultLog, stop: &Stop) -> Option<String> {
    let mut backoff = Backoff::new(Duration::from_secs(5), Duration::from_mins(10));
    loop {
        match edge.sentry_dsn() {
            Ok(dsn) => return dsn,
            Err(error) => faults.fault(
                &format!("remote configuration {}", error.kind),
                log::Level::Warn,
                "cannot ask the Edge API where to report errors: trying again, the cache is kept fresh meanwhile",
                &error.message,
                Instant::now(),
            ),
        }
        if stop.wait(backoff.next_wait(fastrand::f64())) {
            return None;
        }
    }
}
