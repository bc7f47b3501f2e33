//! Temporary credentials from Stigg's Edge API, by the server API key: no AWS account of one's own is needed.

use std::sync::Arc;

use super::{Credentials, CredentialsError, Fetch};
use crate::edge::EdgeClient;

/// Fetches credentials for the queue from the Edge API.
#[derive(Debug)]
pub struct EdgeCredentials {
    edge: Arc<EdgeClient>,
    queue_url: String,
}

impl EdgeCredentials {
    /// Credentials for this queue.
    pub fn new(edge: Arc<EdgeClient>, queue_url: String) -> Self {
        Self { edge, queue_url }
    }
}

impl Fetch for EdgeCredentials {
    fn fetch(&self) -> Result<Credentials, CredentialsError> {
        self.edge.event_queue_credentials(&self.queue_url).map_err(|error| CredentialsError {
            message: error.message,
            kind: format!("edge_{}", error.kind),
        })
    }

    fn source(&self) -> String {
        format!("temporary credentials from the Edge API at {}", self.edge.address())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::{CredentialsProvider, RenewingCredentials};
    use crate::clock::EpochMs;
    use crate::config::Secret;
    use crate::http_client::stub::{Reply, Stub};

    #[test]
    fn a_refusal_names_the_remedy_and_the_next_answer_is_used() {
        let stub = Stub::start([
            Reply::Answer(401, "", String::new()),
            Stub::ok(
                r#"{"accessKeyId":"ASIA1","secretAccessKey":"s","sessionToken":"t","expiration":"2030-01-01T00:00:00Z"}"#,
            ),
        ]);
        let edge = Arc::new(EdgeClient::new(stub.url.clone(), Secret::inline("key"), None));
        let source = EdgeCredentials::new(edge, "https://sqs.us-east-1.amazonaws.com/1/q".to_owned());
        let provider = RenewingCredentials::new(Box::new(source), "SERVER_API_KEY");

        let refused = provider.current(EpochMs(0)).unwrap_err();
        assert_eq!(refused.kind, "edge_http_401");
        assert!(refused.message.contains("check SERVER_API_KEY"), "{refused}");

        assert_eq!(provider.current(EpochMs(1_000)).unwrap().access_key_id, "ASIA1");
        assert_eq!(provider.expiry(), Some(EpochMs(1_893_456_000_000)));
        let address = stub.url.as_str().trim_end_matches('/');
        let described = format!("temporary credentials from the Edge API at {address}, with key id ASIA1");
        assert_eq!(provider.describe(), described);
    }
}
