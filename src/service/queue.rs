//! The queue's client, with its credentials.

use std::sync::Arc;
use std::time::Duration;

use super::Reports;
use super::credentials::{self, Purpose, Surroundings};
use super::crew::{Crew, Died};
use crate::aws::EdgeCredentials;
use crate::config::Config;
use crate::edge::EdgeClient;
use crate::shutdown::Stop;
use crate::sqs::Queue;
use crate::sqs::client::{SqsClient, SqsSettings};

const QUEUE: Purpose = Purpose {
    thread: "credentials",
    what: "the queue",
    tells_expiry: true,
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
    let (credentials, renewal) = credentials::start(
        &config.credentials,
        &QUEUE,
        Surroundings {
            proxy: config.proxy.clone(),
            edge: EdgeCredentials::new(edge, config.queue_url.clone()),
            reports,
            stop,
            died,
        },
    )?;
    let settings = SqsSettings {
        endpoint: config.sqs_endpoint.clone(),
        queue_url: config.queue_url.clone(),
        region: config.region.clone(),
        pool_size: callers,
        receive_slack: RECEIVE_SLACK,
        proxy: config.proxy.clone(),
    };
    Ok((Arc::new(SqsClient::new(settings, credentials)), renewal))
}
