//! The queue's client and its credentials.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Reports;
use super::crew::{Crew, Died};
use crate::clock;
use crate::config::{Config, CredentialSource};
use crate::edge::EdgeClient;
use crate::entitlement::EpochMs;
use crate::log::FaultLog;
use crate::ops::metrics::Metrics;
use crate::shutdown::Stop;
use crate::sqs::Queue;
use crate::sqs::client::{SqsClient, SqsSettings};
use crate::sqs::credentials::{
    CredentialsProvider, EdgeCredentials, Renewal, RenewingCredentials, StaticCredentials,
};

/// What a receive may take beyond its long poll.
pub(super) const RECEIVE_SLACK: Duration = Duration::from_secs(5);
/// What a source of credentials may take for one fetch: a `credential_process` is the slowest.
pub(super) const LONGEST_FETCH: Duration = Duration::from_secs(30);

/// The client, and the thread that renews its credentials if they are temporary. `callers` is the number of
/// threads that call at the same time.
pub(super) fn start(
    config: &Config,
    edge: Arc<EdgeClient>,
    callers: usize,
    reports: &Reports,
    stop: Stop,
    died: &Died,
) -> anyhow::Result<(Arc<dyn Queue>, Option<Crew>)> {
    let mut renewal = None;
    let credentials: Arc<dyn CredentialsProvider> = match &config.credentials {
        CredentialSource::Static {
            access_key_id,
            secret_access_key,
            session_token,
        } => Arc::new(StaticCredentials::new(
            access_key_id.clone(),
            secret_access_key.clone(),
            session_token.clone(),
        )),
        CredentialSource::EdgeApi => {
            let source = EdgeCredentials::new(edge, config.queue_url.clone());
            let renewing = Arc::new(RenewingCredentials::new(Box::new(source)));
            let renew = {
                let credentials = Arc::clone(&renewing);
                let (metrics, faults) = (Arc::clone(&reports.metrics), Arc::clone(&reports.faults));
                move || renew(&credentials, &metrics, &faults, &stop)
            };
            renewal = Some(Crew::start("credentials", died, vec![renew])?);
            renewing
        }
    };
    log::info!(credentials = credentials.describe().as_str(); "calls to the queue are signed");
    let settings = SqsSettings {
        endpoint: config.sqs_endpoint.clone(),
        queue_url: config.queue_url.clone(),
        region: config.region.clone(),
        pool_size: callers,
        receive_slack: RECEIVE_SLACK,
    };
    Ok((Arc::new(SqsClient::new(settings, credentials)), renewal))
}

/// Renews ahead of expiry until the stop.
fn renew(credentials: &RenewingCredentials, metrics: &Metrics, faults: &FaultLog, stop: &Stop) {
    const KIND: &str = "credentials";
    loop {
        match credentials.renew_if_due(clock::now()) {
            Renewal::NotDue => {}
            Renewal::Renewed { .. } => {
                log::info!(credentials = credentials.describe().as_str(); "renewed the credentials of the queue");
                if let Some(outage) = faults.recovered(KIND, Duration::ZERO, Instant::now()) {
                    let lasted_secs = outage.lasted.as_secs_f64();
                    log::info!(lasted_secs; "credentials can be had again");
                }
            }
            Renewal::Failed(error) => faults.fault(
                KIND,
                log::Level::Error,
                if credentials.expiry().is_some_and(|expiry| expiry > clock::now()) {
                    "cannot renew the credentials of the queue: those at hand are used until they expire"
                } else {
                    "there are no credentials for the queue: asking again; AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY would be used instead"
                },
                &error.message,
                Instant::now(),
            ),
        }
        if let Some(expiry) = credentials.expiry() {
            metrics
                .credentials_expiry
                .with_label_values::<&str>(&[])
                .set(expiry_secs(expiry));
        }
        if stop.wait(
            credentials
                .next_renewal_in(clock::now())
                .max(Duration::from_millis(100)),
        ) {
            return;
        }
    }
}

#[allow(clippy::cast_precision_loss)] // milliseconds since 1970 have 41 bits
fn expiry_secs(expiry: EpochMs) -> f64 {
    expiry.0 as f64 / 1_000.0
}
