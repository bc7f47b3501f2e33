//! Stigg's Edge API, as far as this service asks it: credentials for the event queue, the remote
//! configuration, and a customer's entitlements.
//!
//! Every call has a deadline and a bounded answer, which is read in `answer`.

pub mod answer;

use std::fmt;
use std::time::Duration;

use http::Request;
use url::Url;

use self::answer::AnswerFault;
use crate::aws::Credentials;
use crate::config::{Proxy, Secret};
use crate::entitlement::Subject;
use crate::http_client::{HttpClient, HttpErrorKind, HttpOptions};

/// How this service names itself to the Edge API. Inferred from how Stigg's SDKs name themselves.
const SOURCE: &str = "PERSISTENT_CACHE_SERVICE";
const API_VERSION: &str = "1";

const DEADLINE: Duration = Duration::from_secs(10);
/// Credentials and configuration are a few kilobytes; an entitlement list, later, stays below this too.
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;

/// Asks the Edge API, with the server API key read anew for each request.
#[derive(Debug)]
pub struct EdgeClient {
    http: HttpClient,
    base: Url,
    api_key: Secret,
}

/// A question to the Edge API that got no usable answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct EdgeError {
    /// What, of whom, why, and the remedy. No secret.
    pub message: String,
    /// What kind of fault it is.
    pub kind: EdgeErrorKind,
    /// For how long the API asked to be left alone (`Retry-After` in seconds; dates are not read).
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
    /// A client of the API at `base` (`EDGE_API_URL`), by this proxy if it is for that. Calls nobody yet.
    pub fn new(base: Url, api_key: Secret, proxy: Option<Proxy>) -> Self {
        Self::for_many(base, api_key, proxy, 1, DEADLINE)
    }

    /// The same for so many callers at a time, each of which has that long to wait for an answer.
    pub fn for_many(
        base: Url,
        api_key: Secret,
        proxy: Option<Proxy>,
        callers: usize,
        deadline: Duration,
    ) -> Self {
        let options = HttpOptions {
            pool_size: callers,
            answer_bytes_max: ANSWER_BYTES_MAX,
            deadline,
            proxy,
        };
        Self {
            http: HttpClient::new(&base, options),
            base,
            api_key,
        }
    }

    /// Temporary AWS credentials that may consume this queue.
    pub fn event_queue_credentials(&self, queue_url: &str) -> Result<Credentials, EdgeError> {
        let mut url = self.url("v1/credentials/event-queue.json");
        url.query_pairs_mut().append_pair("queueUrl", queue_url);
        self.get("get queue credentials", &url, answer::credentials)
    }

    /// The DSN that error reports should go to, if the remote configuration names one.
    pub fn sentry_dsn(&self) -> Result<Option<String>, EdgeError> {
        let url = self.url("v1/config/server-sdk-configuration.json");
        self.get("get the remote configuration", &url, answer::sentry_dsn)
    }

    /// What is true of a customer or a resource now: the body of the message that would tell it.
    pub fn entitlements_state(&self, subject: &Subject) -> Result<String, EdgeError> {
        const WHAT: &str = "get the entitlements";
        let customer = subject.customer.as_str();
        let mut url = self.url("v1/c/");
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push(customer).push("entitlements-state.json");
        }
        if matches!(customer, "." | "..") {
            // As part of a path they lead elsewhere.
            return Err(EdgeError {
                message: format!(
                    "cannot {WHAT} of a customer that is called '{customer}': no URL can name it"
                ),
                kind: EdgeErrorKind::NoUrl,
                retry_after: None,
            });
        }
        if let Some(resource) = &subject.resource {
            url.query_pairs_mut().append_pair("resourceId", resource.as_str());
        }
        self.get(WHAT, &url, |status, body| {
            answer::entitlements_state(status, body, subject)
        })
    }

    /// Where the API is, for logs: scheme, host and port, never user or password.
    pub fn address(&self) -> String {
        self.base.origin().ascii_serialization()
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/{path}", self.base.path().trim_end_matches('/')));
        url.set_query(None);
        url.set_fragment(None);
        url
    }

    fn get<T>(
        &self,
        what: &str,
        url: &Url,
        read: impl Fn(u16, &[u8]) -> Result<T, AnswerFault>,
    ) -> Result<T, EdgeError> {
        let fault = |kind, cause_and_remedy: String| EdgeError {
            message: format!(
                "cannot {what} from the Edge API at {}: {cause_and_remedy}",
                self.address()
            ),
            kind,
            retry_after: None,
        };
        let api_key = self.api_key.read().map_err(|error| {
            let cause = format!("{error}; check SERVER_API_KEY_FILE");
            fault(EdgeErrorKind::ApiKeyUnreadable, cause)
        })?;
        let request = Request::get(url.as_str())
            .header("X-API-KEY", api_key.trim())
            .header("X-API-VERSION", API_VERSION)
            .header("source", SOURCE)
            .header("accept", "application/json")
            .body(Vec::new())
            .map_err(|_| {
                let cause = "the API key holds characters no header may; check SERVER_API_KEY";
                fault(EdgeErrorKind::ApiKeyInvalid, cause.to_owned())
            })?;
        let answer = self.http.send(request, None).map_err(|error| {
            let remedy = match error.kind {
                HttpErrorKind::AnswerTooLarge | HttpErrorKind::Protocol => {
                    "check EDGE_API_URL: is this Stigg's Edge API?"
                }
                HttpErrorKind::Tls => "check EDGE_API_URL and the trusted certificates of this machine",
                HttpErrorKind::Timeout
                | HttpErrorKind::HostNotFound
                | HttpErrorKind::ConnectionRefused
                | HttpErrorKind::Connection => "check EDGE_API_URL and the way there (DNS, firewall)",
                HttpErrorKind::Proxy(fault) => fault.remedy(),
            };
            fault(
                EdgeErrorKind::Unanswered(error.kind),
                format!("{error}; {remedy}"),
            )
        })?;
        read(answer.status, &answer.body).map_err(|error| EdgeError {
            retry_after: retry_after(&answer.headers),
            ..fault(error.kind, error.cause_and_remedy)
        })
    }
}

fn retry_after(headers: &http::HeaderMap) -> Option<Duration> {
    let seconds = headers.get("retry-after")?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests;
