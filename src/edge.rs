//! Stigg's Edge API: credentials for the event queue, the remote configuration, and a customer's entitlements.

pub mod answer;

use std::fmt;
use std::time::Duration;

use http::Request;
use url::Url;

use self::answer::AnswerFault;
use crate::aws::Credentials;
use crate::config::{Proxy, Secret};
use crate::entitlement::Subject;
use crate::http_client::{HttpClient, HttpErrorKind, HttpOptions, Remedies};

/// How this service names itself. Inferred from how Stigg's SDKs name themselves.
const SOURCE: &str = "PERSISTENT_CACHE_SERVICE";
const DEADLINE: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;

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
    /// What, of whom, why, and the remedy. No secret.
    pub message: String,
    /// What kind of fault it is.
    pub kind: EdgeErrorKind,
    /// `Retry-After` in seconds; dates are not read.
    pub retry_after: Option<Duration>,
}

/// What went wrong. Displayed, it is a short stable name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EdgeErrorKind {
    /// The API refused with this HTTP status.
    Status(u16),
    /// The answer is not as documented.
    UnexpectedAnswer,
    /// The API key cannot be read from its file.
    ApiKeyUnreadable,
    /// The API key cannot be sent in a header.
    ApiKeyInvalid,
    /// No URL can name the customer.
    NoUrl,
    /// There was no answer.
    Unanswered(HttpErrorKind),
}

impl fmt::Display for EdgeErrorKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(formatter, "http_{status}"),
            Self::UnexpectedAnswer => formatter.write_str("unexpected_answer"),
            Self::ApiKeyUnreadable => formatter.write_str("api_key_unreadable"),
            Self::ApiKeyInvalid => formatter.write_str("api_key_invalid"),
            Self::NoUrl => formatter.write_str("no_url"),
            Self::Unanswered(kind) => formatter.write_str(kind.label()),
        }
    }
}

impl EdgeClient {
    /// A client of the API at `base` (`EDGE_API_URL`).
    pub fn new(base: Url, api_key: Secret, proxy: Option<Proxy>) -> Self {
        Self::for_many(base, api_key, proxy, 1, DEADLINE)
    }

    /// The same for this many callers at a time, with this deadline for each call.
    pub fn for_many(
        base: Url,
        api_key: Secret,
        proxy: Option<Proxy>,
        callers: usize,
        deadline: Duration,
    ) -> Self {
        let options = HttpOptions { pool_size: callers, answer_bytes_max: ANSWER_BYTES_MAX, deadline, proxy };
        let http = HttpClient::new(&base, options);
        Self { http, base, api_key }
    }

    /// Temporary AWS credentials that may consume this queue.
    pub fn event_queue_credentials(&self, queue_url: &str) -> Result<Credentials, EdgeError> {
        let mut url = self.url("v1/credentials/event-queue.json");
        url.query_pairs_mut().append_pair("queueUrl", queue_url);
        self.get("get queue credentials", &url, answer::credentials)
    }

    /// The DSN for error reports, if the remote configuration has one.
    pub fn sentry_dsn(&self) -> Result<Option<String>, EdgeError> {
        let url = self.url("v1/config/server-sdk-configuration.json");
        self.get("get the remote configuration", &url, answer::sentry_dsn)
    }

    /// A customer's or a resource's state now, as the body of the message that would say it.
    pub fn entitlements_state(&self, subject: &Subject) -> Result<String, EdgeError> {
        const WHAT: &str = "get the entitlements";
        let customer = subject.customer.as_str();
        if matches!(customer, "." | "..") {
            let why = format!("a customer that is called '{customer}' cannot be part of a URL");
            return Err(self.error(WHAT, EdgeErrorKind::NoUrl, &why));
        }
        let mut url = self.url("v1/c/");
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push(customer).push("entitlements-state.json");
        }
        if let Some(resource) = &subject.resource {
            url.query_pairs_mut().append_pair("resourceId", resource.as_str());
        }
        self.get(WHAT, &url, |status, body| answer::entitlements_state(status, body, subject))
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
        let at = self.address();
        EdgeError {
            message: format!("cannot {what} from the Edge API at {at}: {cause_and_remedy}"),
            kind,
            retry_after: None,
        }
    }

    fn get<T>(
        &self,
        what: &str,
        url: &Url,
        read: impl Fn(u16, &[u8]) -> Result<T, AnswerFault>,
    ) -> Result<T, EdgeError> {
        let api_key = self.api_key.read().map_err(|error| {
            self.error(what, EdgeErrorKind::ApiKeyUnreadable, &format!("{error}; check SERVER_API_KEY_FILE"))
        })?;
        let request = Request::get(url.as_str())
            .header("X-API-KEY", api_key.trim())
            .header("X-API-VERSION", "1")
            .header("source", SOURCE)
            .header("accept", "application/json")
            .body(Vec::new());
        let request = request.map_err(|_| {
            let why = "the API key has characters that no header may have; check SERVER_API_KEY";
            self.error(what, EdgeErrorKind::ApiKeyInvalid, why)
        })?;
        let response = self.http.send(request, None).map_err(|error| {
            let remedy = error.kind.remedy(Remedies {
                unreachable: "check EDGE_API_URL and the way there (DNS, firewall)",
                tls: "check EDGE_API_URL and the trusted certificates of this machine",
                wrong_peer: "check EDGE_API_URL: is this Stigg's Edge API?",
            });
            self.error(what, EdgeErrorKind::Unanswered(error.kind), &format!("{error}; {remedy}"))
        })?;
        read(response.status, &response.body).map_err(|fault| {
            let seconds = response
                .headers
                .get("retry-after")
                .and_then(|value| value.to_str().ok()?.trim().parse().ok());
            EdgeError {
                retry_after: seconds.map(Duration::from_secs),
                ..self.error(what, fault.kind, &fault.cause_and_remedy)
            }
        })
    }
}

#[cfg(test)]
mod tests;
