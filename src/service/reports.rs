//! Starts the error reports in the background: an unreachable Edge API or Sentry neither stops nor slows the main job.

use std::sync::Arc;
use std::time::{Duration, Instant};

use log::Level;

use super::Setup;
use crate::backoff::Backoff;
use crate::config::SentryConfig;
use crate::edge::EdgeClient;
use crate::log::FaultLog;
use crate::sentry_reports::Reporter;
use crate::shutdown::Stop;

const UNREPORTED: &str = "errors are not reported to Sentry";

impl Setup<'_> {
    /// Lets `reporter` report as soon as a DSN is known, until the exit phase.
    pub(super) fn start_reports(&self, reporter: Reporter) -> anyhow::Result<()> {
        let (sentry, proxy) = (self.config.sentry.clone(), self.config.proxy.clone());
        let environment = self.config.environment_prefix.clone();
        let (edge, faults, exit) = (Arc::clone(&self.edge), Arc::clone(&self.faults), self.exit.clone());
        self.threads.spawn("reports", move || {
            let dsn = match &sentry {
                SentryConfig::Disabled => None,
                SentryConfig::Dsn(dsn) => match dsn.read() {
                    Ok(dsn) => Some(dsn),
                    Err(error) => return log::warn!(err:% = error; "{UNREPORTED}: check SENTRY_DSN_FILE"),
                },
                SentryConfig::RemoteConfiguration => ask_for_dsn(&edge, &faults, &exit),
            };
            let Some(dsn) = dsn else { return };
            if let Err(error) = reporter.start(&dsn, &environment, proxy) {
                return log::warn!(err = error.as_str(); "{UNREPORTED}");
            }
            reporter.report_panics();
            log::info!("errors of this service are reported to Sentry");
            while !exit.wait(Duration::from_hours(1)) {}
            reporter.close();
        })
    }
}

/// The DSN of the remote configuration. `None` if it has none, or in the exit phase.
fn ask_for_dsn(edge: &EdgeClient, faults: &FaultLog, exit: &Stop) -> Option<String> {
    let mut backoff = Backoff::new(Duration::from_secs(5), Duration::from_mins(10));
    loop {
        match edge.sentry_dsn() {
            Ok(dsn) => return dsn,
            Err(error) => {
                let kind = format!("remote configuration {}", error.kind);
                let message = "cannot ask the Edge API for the Sentry DSN: retrying; the cache is unaffected";
                faults.fault(&kind, Level::Warn, message, &error.message, Instant::now());
            }
        }
        if exit.wait(backoff.next_wait(fastrand::f64())) {
            return None;
        }
    }
}
