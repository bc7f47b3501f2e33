//! AWS credentials: the provider of a source, and the thread that renews what it fetched.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Reports;
use super::crew::{Crew, Died};
use crate::aws::sts::StsAccess;
use crate::aws::{
    ContainerCredentials, CredentialsProvider, EdgeCredentials, Fetch, InstanceMetadataCredentials,
    NamedSources, ProfileCredentials, Renewal, RenewingCredentials, StaticCredentials,
    WebIdentityCredentials,
};
use crate::clock;
use crate::config::{CredentialSource, ProfileSource, Proxy, StaticKeys};
use crate::entitlement::EpochMs;
use crate::log::FaultLog;
use crate::ops::metrics::Metrics;
use crate::shutdown::Stop;

/// What credentials are for.
#[derive(Debug)]
pub(super) struct Purpose {
    /// The name of the thread that renews them, and of their faults.
    pub thread: &'static str,
    /// Whose calls they sign, in log lines.
    pub what: &'static str,
    /// Their expiry is the one that the metrics tell.
    pub tells_expiry: bool,
}

/// What the sources need beside their own settings.
pub(super) struct Surroundings<'a> {
    /// The way to https endpoints.
    pub proxy: Option<Proxy>,
    /// What `CredentialSource::EdgeApi` asks.
    pub edge: EdgeCredentials,
    /// Where failures and the expiry are told.
    pub reports: &'a Reports,
    /// Ends the thread, and a program that prints credentials.
    pub stop: Stop,
    /// Told if the thread panics.
    pub died: &'a Died,
}

/// The provider of this source, and the thread that renews its credentials, unless they are static. The source is
/// named in the log.
pub(super) fn start(
    source: &CredentialSource,
    purpose: &'static Purpose,
    surroundings: Surroundings<'_>,
) -> anyhow::Result<(Arc<dyn CredentialsProvider>, Option<Crew>)> {
    let Surroundings {
        proxy,
        edge,
        reports,
        stop,
        died,
    } = surroundings;
    let (provider, renewing) = provider(source, proxy, edge, stop.clone());
    tell(purpose, provider.as_ref());
    let Some(renewing) = renewing else {
        return Ok((provider, None));
    };
    let renew = {
        let credentials = Arc::clone(&renewing);
        let (metrics, faults) = (Arc::clone(&reports.metrics), Arc::clone(&reports.faults));
        move || renew(&credentials, purpose, &metrics, &faults, &stop)
    };
    let crew = Crew::start(purpose.thread, died, vec![renew])?;
    Ok((provider, Some(crew)))
}

/// A provider, and that part of it which is to be renewed ahead of expiry: none for keys as the operator gave them.
/// Without a renewal a caller waits for the fetch.
pub(crate) type Provider = (Arc<dyn CredentialsProvider>, Option<Arc<RenewingCredentials>>);

/// The provider of a source. `stop` ends a program that prints credentials.
pub(crate) fn provider(
    source: &CredentialSource,
    proxy: Option<Proxy>,
    edge: EdgeCredentials,
    stop: Stop,
) -> Provider {
    own_provider(source, proxy, stop).unwrap_or_else(|| renewing(source, Box::new(edge)))
}

/// The provider of AWS credentials of the operator's own. None for those of the Edge API.
pub(crate) fn own_provider(source: &CredentialSource, proxy: Option<Proxy>, stop: Stop) -> Option<Provider> {
    let fetch: Box<dyn Fetch> = match source {
        CredentialSource::Static(keys) => return Some((Arc::new(static_credentials(keys)), None)),
        CredentialSource::WebIdentity(source) => Box::new(WebIdentityCredentials::new(source.clone(), proxy)),
        CredentialSource::Container(source) => Box::new(ContainerCredentials::new(source.clone())),
        CredentialSource::Profile(source) => Box::new(profile(source, proxy, stop)),
        CredentialSource::InstanceMetadata(source) => {
            Box::new(InstanceMetadataCredentials::new(source.clone()))
        }
        CredentialSource::EdgeApi => return None,
    };
    Some(renewing(source, fetch))
}

fn renewing(source: &CredentialSource, fetch: Box<dyn Fetch>) -> Provider {
    let renewing = Arc::new(RenewingCredentials::new(fetch).decided_by(source.variables()));
    (
        Arc::clone(&renewing) as Arc<dyn CredentialsProvider>,
        Some(renewing),
    )
}

fn static_credentials(keys: &StaticKeys) -> StaticCredentials {
    StaticCredentials::new(
        keys.access_key_id.clone(),
        keys.secret_access_key.clone(),
        keys.session_token.clone(),
    )
}

fn profile(source: &ProfileSource, proxy: Option<Proxy>, stop: Stop) -> ProfileCredentials {
    let container = source.container.clone();
    let named = NamedSources {
        environment: source.environment.as_ref().map(static_credentials),
        container: container.map(|source| Box::new(ContainerCredentials::new(source)) as Box<dyn Fetch>),
        instance_metadata: Box::new(InstanceMetadataCredentials::new(source.instance_metadata.clone())),
    };
    let sts = StsAccess {
        endpoint: source.sts.clone(),
        proxy,
    };
    ProfileCredentials::new(source.name.clone(), source.files.clone(), sts, named, stop)
}

fn tell(purpose: &Purpose, provider: &dyn CredentialsProvider) {
    log::info!(credentials = provider.describe().as_str(); "calls to {} are signed", purpose.what);
}

/// Renews ahead of expiry until the stop.
fn renew(
    credentials: &RenewingCredentials,
    purpose: &'static Purpose,
    metrics: &Metrics,
    faults: &FaultLog,
    stop: &Stop,
) {
    let (kind, what) = (purpose.thread, purpose.what);
    let mut told = None;
    loop {
        match credentials.renew_if_due(clock::now()) {
            Renewal::NotDue => {}
            Renewal::Renewed { .. } => {
                if let Some(outage) = faults.recovered(kind, Duration::ZERO, Instant::now()) {
                    let lasted_secs = outage.lasted.as_secs_f64();
                    log::info!(lasted_secs; "credentials can be had again");
                }
            }
            Renewal::Failed(error) => {
                let message = if credentials.holds_any(clock::now()) {
                    format!(
                        "cannot renew the credentials of {what}: those at hand are used as long as they last"
                    )
                } else {
                    format!("there are no credentials for {what}: asking again")
                };
                faults.fault(kind, log::Level::Error, &message, &error.message, Instant::now());
            }
        }
        // Whoever fetched them: a caller whose call was refused may have been quicker than this loop.
        let held = Some((credentials.describe(), credentials.expiry()));
        if credentials.holds_any(clock::now()) && held != told {
            log::info!(credentials = credentials.describe().as_str(); "renewed the credentials of {what}");
            told = held;
        }
        if let Some(expiry) = credentials.expiry().filter(|_| purpose.tells_expiry) {
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
