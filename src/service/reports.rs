//! Starts the error reports in the background: an unreachable Edge API or Sentry neither stops nor slows the main job.

use std::sync::Arc;
use std::time::{Duration, Instant};

use log::Level;

use super::threads::Background;
use crate::config::{Config, Secret, SentryConfig};
use crate::edge::EdgeClient;
use crate::log::FaultLog;
use crate::pipeline::backoff::Backoff;
use crate::sentry_reports::{self, Guard, Reporter};
use crate::shutdown::Stop;

/// How often the DSN's file is read again.
const READ_EVERY: Duration = Duration::from_secs(10);

/// Lets `reporter` report as soon as a DSN is known, until the exit phase.
pub(super) fn start(
    config: &Config,
    edge: Arc<EdgeClient>,
    reporter: Reporter,
    background: &mut Background,
) -> anyhow::Result<()> {
    let (sentry, proxy) = (config.sentry.clone(), config.proxy.clone());
    let environment = config.environment_prefix.clone();
    let (faults, exit) = (Arc::clone(&background.faults), background.exit.clone());
    background.spawn("reports", move || {
        let (dsn, file) = match &sentry {
            SentryConfig::Disabled => return,
            SentryConfig::Dsn(dsn) => (read_dsn(dsn, &faults, &exit), dsn.is_file().then_some(dsn)),
            SentryConfig::RemoteConfiguration => (ask_for_dsn(&edge, &faults, &exit), None),
        };
        let Some(dsn) = dsn else { return };
        let version = env!("CARGO_PKG_VERSION");
        // The guard delivers the last reports when it is dropped.
        let guard = match sentry_reports::start(&reporter, &dsn, version, &environment, proxy) {
            Ok(guard) => guard,
            Err(error) => return log::warn!(err:% = error; "errors are not reported to Sentry"),
        };
        log::info!("errors of this service are reported to Sentry");
        match file {
            Some(file) => follow_file(file, dsn, &guard, &faults, &exit),
            None => while !exit.wait(Duration::from_hours(1)) {},
        }
    })
}

/// The DSN of the settings. Its file was there when they were validated; if it is gone, it is waited for.
fn read_dsn(dsn: &Secret, faults: &FaultLog, exit: &Stop) -> Option<String> {
    loop {
        match dsn.read() {
            Ok(dsn) => return Some(dsn),
            Err(error) => file_failed(faults, &error.to_string()),
        }
        if exit.wait(READ_EVERY) {
            return None;
        }
    }
}

/// Uses what the DSN's file holds whenever that changes. If it is no DSN, the one before stays in use.
fn follow_file(file: &Secret, mut known: String, guard: &Guard, faults: &FaultLog, exit: &Stop) {
    while !exit.wait(READ_EVERY) {
        match file.read() {
            Ok(dsn) if dsn == known => {}
            Ok(dsn) => {
                known = dsn;
                match guard.turn_to(&known) {
                    Ok(()) => log::info!(
                        "the file of SENTRY_DSN_FILE has changed: errors are reported to the new DSN"
                    ),
                    Err(error) => log::warn!(
                        err:% = error;
                        "the file of SENTRY_DSN_FILE has changed, but cannot be used: errors are reported to the DSN before"
                    ),
                }
            }
            Err(error) => file_failed(faults, &error.to_string()),
        }
    }
}

fn file_failed(faults: &FaultLog, error: &str) {
    let message = "cannot read the file of SENTRY_DSN_FILE: check the path and its permissions; trying again";
    faults.fault("SENTRY_DSN_FILE", Level::Warn, message, error, Instant::now());
}

/// The DSN of the remote configuration. `None` if it has none, or in the exit phase.
fn ask_for_dsn(edge: &EdgeClient, faults: &FaultLog, exit: &Stop) -> Option<String> {
    let mut backoff = Backoff::new(Duration::from_secs(5), Duration::from_mins(10));
    loop {
        match edge.sentry_dsn() {
            Ok(dsn) => return dsn,
            Err(error) => {
                let kind = format!("remote configuration {}", error.kind);
                let message = "cannot ask the Edge API where to report errors: trying again, the cache is kept fresh meanwhile";
                faults.fault(&kind, Level::Warn, message, &error.message, Instant::now());
            }
        }
        if exit.wait(backoff.next_wait(fastrand::f64())) {
            return None;
        }
    }
}
