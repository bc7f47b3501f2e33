//! Stigg's Edge API: credentials for the event queue, the remote configuration, and a customer's entitlements.

pub mod answer;

use std::time::Duration;

use http::Request;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::Value;
use url::Url;

use crate::aws::Credentials;
use crate::config::{Proxy, Secret};
use crate::entitlement::Subject;
use crate::http_client::{HttpClient, HttpErrorKind, HttpOptions};

/// What a customer's id needs encoded before it is part of a path; `Url::set_path` encodes the rest.
const IN_PATH: &AsciiSet = &CONTROLS.add(b'%').add(b'/').add(b'\\').add(b'?').add(b'#');
/// How this service names itself. Inferred from how Stigg's SDKs name themselves.
const SOURCE: &str = "PERSISTENT_CACHE_SERVICE";
const DEADLINE: Duration = Duration::from_secs(10);
/// For a customer's state: the caller holds a lock of the SDKs, and has to write before it expires.
const STATE_DEADLINE: Duration = Duration::from_secs(3);
/// As many threads may ask for customers at once.
const CONNECTIONS_MAX: usize = 64;

/// A client of the Edge API. The server API key is read again for each request.
#[derive(Debug)]
pub struct EdgeClient {
    http: HttpClient,
    base: Url,
    api_key: Secret,
}

/// A call without a usable answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct EdgeError {
    /// What failed, where, why, and the remedy. No secret.
    pub message: String,
    /// What kind of fault it is.
    pub kind: EdgeErrorKind,
    /// `Retry-After` in seconds; dates are not read.
    pub retry_after: Option<Duration>,
}

/// What went wrong. Displayed, it is a short stable name.
#[allow(missing_docs)] // each has a text
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EdgeErrorKind {
    #[error("http_{0}")]
    Status(u16),
    /// The answer is not as documented.
    #[error("unexpected_answer")]
    UnexpectedAnswer,
    /// The API key cannot be read from its file, or cannot be sent in a header.
    #[error("api_key_unusable")]
    ApiKeyUnusable,
    /// No URL can name the customer.
    #[error("no_url")]
    NoUrl,
    #[error("{0}")]
    Unanswered(HttpErrorKind),
}

impl EdgeClient {
    /// A client of the API at `base` (`EDGE_API_URL`).
    pub fn new(base: Url, api_key: Secret, proxy: Option<Proxy>) -> Self {
        let answer_bytes_max = 1024 * 1024;
        let options = HttpOptions { pool_size: CONNECTIONS_MAX, answer_bytes_max, deadline: DEADLINE, proxy };
        Self { http: HttpClient::new(&base, options), base, api_key }
    }

    /// Temporary AWS credentials that may consume this queue.
    pub fn event_queue_credentials(&self, queue_url: &str) -> Result<Credentials, EdgeError> {
        let mut url = self.url("v1/credentials/event-queue.json");
        url.query_pairs_mut().append_pair("queueUrl", queue_url);
        self.get("get queue credentials", &url, None, answer::credentials)
    }

    /// The DSN for error reports, if the remote configuration has one.
    pub fn sentry_dsn(&self) -> Result<Option<String>, EdgeError> {
        let url = self.url("v1/config/server-sdk-configuration.json");
        self.get("get the remote configuration", &url, None, answer::sentry_dsn)
    }

    /// A customer's or a resource's state now, in the form of a message body. Within 3 s.
    pub fn entitlements_state(&self, subject: &Subject) -> Result<String, EdgeError> {
        const WHAT: &str = "get the entitlements";
        let customer = subject.customer.as_str();
        if matches!(customer, "." | "..") {
            let why = format!("the customer id '{customer}' cannot be part of a URL");
            return Err(self.error(WHAT, EdgeErrorKind::NoUrl, &why));
        }
        // Not `path_segments_mut`, which drops tabs and line breaks: the answer would be another customer's.
        let customer = utf8_percent_encode(customer, IN_PATH);
        let mut url = self.url(&format!("v1/c/{customer}/entitlements-state.json"));
        if let Some(resource) = &subject.resource {
            url.query_pairs_mut().append_pair("resourceId", resource.as_str());
        }
        let read = |answer: &Value| answer::entitlements_state(answer, subject);
        self.get(WHAT, &url, Some(STATE_DEADLINE), read)
    }

    /// Scheme, host and port, for logs.
    pub fn address(&self) -> String {
        self.base.origin().ascii_serialization()
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/{path}", self.base.path().trim_end_matches('/')));
        url
    }

    fn error(&self, what: &str, kind: EdgeErrorKind, cause_and_remedy: &str) -> EdgeError {
        let message = format!("cannot {what} from the Edge API at {}: {cause_and_remedy}", self.address());
        EdgeError { message, kind, retry_after: None }
    }

    fn get<T>(
        &self,
        what: &str,
        url: &Url,
        deadline: Option<Duration>,
        parse: impl Fn(&Value) -> Result<T, String>,
    ) -> Result<T, EdgeError> {
        let unusable = |why: &str| self.error(what, EdgeErrorKind::ApiKeyUnusable, why);
        let api_key = self.api_key.read();
        let api_key = api_key.map_err(|error| unusable(&format!("{error}; check SERVER_API_KEY_FILE")))?;
        let request = Request::get(url.as_str())
            .header("X-API-KEY", api_key.trim())
            .header("X-API-VERSION", "1")
            .header("source", SOURCE)
            .header("accept", "application/json")
            .body(Vec::new());
        let why = "the API key has characters that no header may have; check SERVER_API_KEY";
        let answer = self.http.send(request.map_err(|_| unusable(why))?, deadline);
        let answer = answer.map_err(|error| {
            let unreachable = "check EDGE_API_URL and the network path (DNS, firewall)";
            let wrong_peer = "check EDGE_API_URL: is this Stigg's Edge API?";
            let remedy = error.kind.remedy(unreachable, wrong_peer);
            self.error(what, EdgeErrorKind::Unanswered(error.kind), &format!("{error}; {remedy}"))
        })?;
        answer::read(answer.status().as_u16(), answer.body(), parse).map_err(|(kind, cause_and_remedy)| {
            let wait = answer.headers().get("retry-after").and_then(|wait| wait.to_str().ok());
            let retry_after = wait.and_then(|secs| secs.trim().parse().ok()).map(Duration::from_secs);
            EdgeError { retry_after, ..self.error(what, kind, &cause_and_remedy) }
        })
    }
}

#[cfg(test)]
mod tests;
