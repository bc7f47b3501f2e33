//! Starts the error reports, in the background: an unreachable Edge API or Sentry neither stops nor slows the
//! main job.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::crew::{Crew, Died};
use crate::config::{Config, SentryConfig};
use crate::edge::EdgeClient;
use crate::log::FaultLog;
use crate::pipeline::backoff::Backoff;
use crate::sentry_reports::{self, Reporter};
use crate::shutdown::Stop;

/// Lets `reporter` report as soon as a DSN is known, until the stop.
pub(super) fn start(
    config: &Config,
    edge: Arc<EdgeClient>,
    reporter: Reporter,
    faults: Arc<FaultLog>,
    stop: Stop,
    died: &Died,
) -> anyhow::Result<Crew> {
    let (sentry, environment) = (config.sentry.clone(), config.environment_prefix.clone());
    let run = move || {
        let dsn = match &sentry {
            SentryConfig::Disabled => return,
            SentryConfig::Dsn(dsn) => match dsn.read() {
                Ok(dsn) => Some(dsn),
                Err(error) => {
                    log::warn!(err:% = error; "errors are not reported to Sentry: check SENTRY_DSN_FILE");
                    None
                }
            },
            SentryConfig::RemoteConfiguration => ask(&edge, &faults, &stop),
        };
        let Some(dsn) = dsn else { return };
        match sentry_reports::start(&reporter, &dsn, env!("CARGO_PKG_VERSION"), &environment) {
            Ok(_guard) => {
                log::info!("errors of this service are reported to Sentry");
                // The guard delivers the last reports when it is dropped.
                while !stop.wait(Duration::from_secs(3_600)) {}
            }
            Err(error) => log::warn!(err:% = error; "errors are not reported to Sentry"),
        }
    };
    Crew::start("reports", died, vec![run])
}

/// The DSN of the remote configuration, asked for until there is an answer. `None`: there is none, or the stop came.
fn ask(edge: &EdgeClient, faults: &FaultLog, stop: &Stop) -> Option<String> {
    let mut backoff = Backoff::new(Duration::from_secs(5), Duration::from_secs(600));
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
