//! AWS credentials: the provider of a source, and the thread that renews what it fetched.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::threads::Background;
use crate::aws::{CredentialsProvider, provider};
use crate::clock;
use crate::config::{Config, CredentialSource};
use crate::edge::EdgeClient;
use crate::log::FaultLog;
use crate::ops::metrics::Metrics;
use crate::pipeline::context::seconds;
use crate::shutdown::Stop;

/// What credentials are for.
#[derive(Debug)]
pub(super) struct Purpose {
    /// The name of the thread that renews them, and of their faults.
    pub thread: &'static str,
    /// Whose calls they sign.
    pub signs: &'static str,
    /// Their expiry is published as a metric.
    pub publishes_expiry: bool,
}

/// The provider of this source, and a thread that renews its credentials.
pub(super) fn start(
    source: &CredentialSource,
    purpose: &'static Purpose,
    config: &Config,
    edge: &Arc<EdgeClient>,
    background: &mut Background,
) -> anyhow::Result<Arc<CredentialsProvider>> {
    let provider = provider(source, config.proxy.clone(), edge, &config.queue_url);
    log::info!(credentials = provider.describe().as_str(); "calls to {} are signed", purpose.signs);
    let (metrics, faults) = (Arc::clone(&background.metrics), Arc::clone(&background.faults));
    let (credentials, exit) = (Arc::clone(&provider), background.exit.clone());
    background.spawn(purpose.thread, move || renew(&credentials, purpose, &metrics, &faults, &exit))?;
    Ok(provider)
}

/// Renews ahead of expiry until the exit phase.
fn renew(
    credentials: &CredentialsProvider,
    purpose: &'static Purpose,
    metrics: &Metrics,
    faults: &FaultLog,
    exit: &Stop,
) {
    let (kind, what) = (purpose.thread, purpose.signs);
    let mut logged = None;
    loop {
        let renewed = credentials.renew_if_due(clock::now());
        let holds_any = credentials.usable(clock::now()).is_some();
        match renewed {
            Ok(_) => {
                if let Some(outage) = faults.recovered(kind, Duration::ZERO, Instant::now()) {
                    log::info!(lasted_secs = outage.lasted.as_secs_f64(); "credentials are available again");
                }
            }
            Err(error) => {
                // Two kinds: the worse one is not held back as a repetition of the other.
                let (fault, message) = if holds_any {
                    let used = "those at hand are used as long as they last";
                    ("renewal", format!("cannot renew the credentials of {what}: {used}"))
                } else {
                    ("absence", format!("there are no credentials for {what}: asking again"))
                };
                let fault = format!("{kind} {fault}");
                faults.fault(&fault, log::Level::Error, &message, &error.message, Instant::now());
            }
        }
        // A caller may have fetched them, not this loop.
        let held = Some((credentials.describe(), credentials.expiry()));
        if holds_any && held != logged {
            log::info!(credentials = credentials.describe().as_str(); "renewed the credentials of {what}");
            logged = held;
        }
        if let Some(expiry) = credentials.expiry().filter(|_| purpose.publishes_expiry) {
            let gauge = metrics.credentials_expiry.with_label_values::<&str>(&[]);
            gauge.set(seconds(expiry));
        }
        let wait = credentials.next_renewal_in(clock::now());
        if exit.wait(wait.max(Duration::from_millis(100))) {
            return;
        }
    }
}
