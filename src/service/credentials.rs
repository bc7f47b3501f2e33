//! AWS credentials: the provider of a source, and the thread that renews what it fetched.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::threads::Background;
use crate::aws::{CredentialsProvider, EdgeCredentials, RenewingCredentials, provider};
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

/// The provider of this source. Unless its credentials are static, a thread renews them.
pub(super) fn start(
    source: &CredentialSource,
    purpose: &'static Purpose,
    config: &Config,
    edge: &Arc<EdgeClient>,
    background: &mut Background,
) -> anyhow::Result<Arc<dyn CredentialsProvider>> {
    let edge = EdgeCredentials::new(Arc::clone(edge), config.queue_url.clone());
    let (provider, renewing) = provider(source, config.proxy.clone(), edge);
    log::info!(credentials = provider.describe().as_str(); "calls to {} are signed", purpose.signs);
    if let Some(credentials) = renewing {
        let (metrics, faults) = (Arc::clone(&background.metrics), Arc::clone(&background.faults));
        let exit = background.exit.clone();
        background.spawn(purpose.thread, move || {
            renew(&credentials, purpose, &metrics, &faults, &exit);
        })?;
    }
    Ok(provider)
}

/// Renews ahead of expiry until the exit phase.
fn renew(
    credentials: &RenewingCredentials,
    purpose: &'static Purpose,
    metrics: &Metrics,
    faults: &FaultLog,
    exit: &Stop,
) {
    let (kind, what) = (purpose.thread, purpose.signs);
    let mut logged = None;
    loop {
        let renewed = credentials.renew_if_due(clock::now());
        let holds_any = credentials.holds_any(clock::now());
        match renewed {
            Ok(()) => {
                if let Some(outage) = faults.recovered(kind, Duration::ZERO, Instant::now()) {
                    log::info!(lasted_secs = outage.lasted.as_secs_f64(); "credentials are available again");
                }
            }
            Err(error) => {
                let message = if holds_any {
                    format!(
                        "cannot renew the credentials of {what}: those at hand are used as long as they last"
                    )
                } else {
                    format!("there are no credentials for {what}: asking again")
                };
                faults.fault(kind, log::Level::Error, &message, &error.message, Instant::now());
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
