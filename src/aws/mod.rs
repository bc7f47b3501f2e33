//! AWS credentials: where they come from, how they are renewed, and how requests are signed with them.
//!
//! [`provider()`] makes the [`CredentialsProvider`] of a configured source. `endpoint` is the HTTP client of a source, and
//! `answers` parses its answers. Secrets appear in no `Debug`, log line or error.

pub mod answers;
mod container;
mod endpoint;
mod imds;
mod keys;
mod provider;
mod redaction;
pub mod signing;
pub mod sts;

use std::fmt;
use std::sync::Arc;

use crate::clock::EpochMs;
use crate::config::{CredentialSource, Proxy};
use crate::edge::EdgeClient;

pub use self::provider::CredentialsProvider;

/// What a request is signed with.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Not a secret.
    pub access_key_id: String,
    /// The secret.
    pub secret_access_key: String,
    /// For temporary credentials. Also a secret.
    pub session_token: Option<String>,
    /// None for static keys.
    pub expires_at: Option<EpochMs>,
}

/// No credentials are available.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CredentialsError {
    /// What, from where, why, and the remedy. No secret.
    pub message: String,
    /// A short stable name of the fault.
    pub kind: String,
}

/// Fetches the credentials of one source.
struct Fetcher {
    /// The source, for logs. No secret.
    source: String,
    /// Fetches fresh credentials, within a deadline of its own.
    fetch: Box<dyn Fn() -> Result<Credentials, CredentialsError> + Send + Sync>,
}

/// The provider of a source. If that is the Edge API, it gives credentials for this queue.
pub fn provider(
    source: &CredentialSource,
    proxy: Option<Proxy>,
    edge: &Arc<EdgeClient>,
    queue_url: &str,
) -> Arc<CredentialsProvider> {
    own_provider(source, proxy).unwrap_or_else(|| {
        let fetcher = of_edge(Arc::clone(edge), queue_url.to_owned());
        Arc::new(CredentialsProvider::new(fetcher, source.variables()))
    })
}

/// The provider of the operator's own AWS credentials. None if the source is the Edge API.
pub fn own_provider(source: &CredentialSource, proxy: Option<Proxy>) -> Option<Arc<CredentialsProvider>> {
    let fetcher = match source.clone() {
        CredentialSource::Static(keys) => keys::fixed(keys),
        CredentialSource::WebIdentity(web) => sts::web_identity(web, proxy),
        CredentialSource::Container(container) => container::fetcher(container),
        CredentialSource::Profile(profile) => keys::of_profile(profile),
        CredentialSource::InstanceMetadata(metadata) => imds::fetcher(metadata),
        CredentialSource::EdgeApi => return None,
    };
    Some(Arc::new(CredentialsProvider::new(fetcher, source.variables())))
}

/// Temporary credentials for the queue, obtained with the server API key. No AWS account is needed.
fn of_edge(edge: Arc<EdgeClient>, queue_url: String) -> Fetcher {
    Fetcher {
        source: format!("temporary credentials from the Edge API at {}", edge.address()),
        fetch: Box::new(move || {
            edge.event_queue_credentials(&queue_url).map_err(|error| CredentialsError {
                message: error.message,
                kind: format!("edge_{}", error.kind),
            })
        }),
    }
}

impl Credentials {
    /// What must never be shown. AWS quotes the session token in some refusals.
    pub(crate) fn secrets(&self) -> Vec<&str> {
        let secrets = [Some(&self.secret_access_key), self.session_token.as_ref()];
        secrets.into_iter().flatten().map(String::as_str).collect()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Credentials")
            .field("access_key_id", &self.access_key_id)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::Secret;
    use crate::http_client::stub::{Reply, Stub};

    /// A provider of what this function returns.
    pub(crate) fn provider_of(
        source: &str,
        fetch: impl Fn() -> Result<Credentials, CredentialsError> + Send + Sync + 'static,
    ) -> Arc<CredentialsProvider> {
        let fetcher = Fetcher { source: source.to_owned(), fetch: Box::new(fetch) };
        Arc::new(CredentialsProvider::new(fetcher, "THE_SETTING"))
    }

    #[test]
    fn secrets_do_not_appear_in_debug() {
        let credentials = Credentials {
            access_key_id: "AKIA1".to_owned(),
            secret_access_key: "hunter2-hunter2".to_owned(),
            session_token: Some("tok3n-of-the-session".to_owned()),
            expires_at: Some(EpochMs(5)),
        };
        let shown = format!("{credentials:?}");
        assert!(shown.contains("AKIA1") && !shown.contains("hunter2") && !shown.contains("tok3n"), "{shown}");
        assert_eq!(credentials.secrets(), ["hunter2-hunter2", "tok3n-of-the-session"]);
    }

    #[test]
    fn a_refusal_names_the_remedy_and_the_next_answer_is_used() {
        let stub = Stub::start([
            Reply::Answer(401, "", String::new()),
            Stub::ok(
                r#"{"accessKeyId":"ASIA1","secretAccessKey":"s","sessionToken":"t","expiration":"2030-01-01T00:00:00Z"}"#,
            ),
        ]);
        let edge = Arc::new(EdgeClient::new(stub.url.clone(), Secret::inline("key"), None));
        let queue_url = "https://sqs.us-east-1.amazonaws.com/1/q";
        let provider = provider(&CredentialSource::EdgeApi, None, &edge, queue_url);

        let refused = provider.current(EpochMs(0)).unwrap_err();
        assert_eq!(refused.kind, "edge_http_401");
        assert!(refused.message.contains("check SERVER_API_KEY"), "{refused}");

        assert_eq!(provider.current(EpochMs(1_000)).unwrap().access_key_id, "ASIA1");
        assert_eq!(provider.expiry(), Some(EpochMs(1_893_456_000_000)));
        let address = stub.url.as_str().trim_end_matches('/');
        let described = format!("temporary credentials from the Edge API at {address} with key id ASIA1");
        assert_eq!(provider.describe(), described);
    }
}
