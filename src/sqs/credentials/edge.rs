//! Temporary credentials from Stigg's Edge API, by the server API key: no AWS account of one's own is needed.

use std::sync::Arc;

use super::{Credentials, CredentialsError, Fetch};
use crate::edge::EdgeClient;

/// Fetches from the Edge API; [`RenewingCredentials`](super::RenewingCredentials) keeps what comes.
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
        self.edge
            .event_queue_credentials(&self.queue_url)
            .map_err(|error| CredentialsError {
                message: error.message,
                kind: format!("edge_{}", error.kind),
            })
    }

    fn source(&self) -> String {
        format!(
            "temporary credentials from the Edge API at {}",
            self.edge.address()
        )
    }
}
