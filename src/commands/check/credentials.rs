//! Where credentials come from, and whom AWS takes them for.

use std::sync::Arc;

use super::{Area, Finding};
use crate::aws::provider;
use crate::aws::sts::StsClient;
use crate::aws::{CredentialsProvider, EdgeCredentials};
use crate::clock;
use crate::commands::human;
use crate::config::{Config, StsEndpoint};
use crate::edge::EdgeClient;

/// None if there are no credentials: then nothing can be asked with them.
pub(super) fn check(
    config: &Config,
    endpoint: &StsEndpoint,
    edge: &Arc<EdgeClient>,
    findings: &mut Vec<Finding>,
) -> Option<Arc<dyn CredentialsProvider>> {
    let of_edge = EdgeCredentials::new(Arc::clone(edge), config.queue_url.clone());
    let (provider, _) = provider(&config.credentials, config.proxy.clone(), of_edge);
    let credentials = match provider.current(clock::now()) {
        Ok(credentials) => credentials,
        Err(error) => {
            findings.push(Area::Credentials.failure(error.message));
            return None;
        }
    };
    let until = credentials
        .expires_at
        .map(|at| format!(", until {}", human::date(at)))
        .unwrap_or_default();
    findings.push(Area::Credentials.ok(format!("{}{until}", provider.describe())));

    let caller = StsClient::new(endpoint, config.proxy.clone(), "identify the caller")
        .and_then(|sts| sts.caller(&credentials));
    findings.push(match caller {
        Ok(arn) => Area::Credentials.ok(format!("the caller is {arn}")),
        Err(why) => Area::Credentials.warning(format!(
            "{}: the service itself does not need this",
            why.message.trim_end_matches('.')
        )),
    });
    Some(provider)
}
