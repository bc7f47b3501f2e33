//! Stigg's Edge API, as far as this service asks it: credentials for the event queue, and the remote configuration.
//!
//! Every call has a deadline and a bounded answer. An answer is taken strictly: a missing field is an error that
//! names it, and no error repeats what the answer held, since it may hold secrets.

use std::time::Duration;

use http::Request;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use url::Url;

use crate::config::{Proxy, Secret};
use crate::entitlement::EpochMs;
use crate::http_client::{Answer, HttpClient, HttpErrorKind, HttpOptions};
use crate::sqs::credentials::Credentials;

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
    /// A short stable name of the fault.
    pub kind: String,
}

impl EdgeClient {
    /// A client of the API at `base` (`EDGE_API_URL`), by this proxy if it is for that. Calls nobody yet.
    pub fn new(base: Url, api_key: Secret, proxy: Option<Proxy>) -> Self {
        let options = HttpOptions {
            pool_size: 1,
            answer_bytes_max: ANSWER_BYTES_MAX,
            deadline: DEADLINE,
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
        let what = "get queue credentials";
        let mut url = self.url("v1/credentials/event-queue.json");
        url.query_pairs_mut().append_pair("queueUrl", queue_url);
        let answer = self.get(what, &url)?;
        let field = |name: &str| match answer.get(name).and_then(Value::as_str) {
            Some(value) if !value.is_empty() => Ok(value.to_owned()),
            _ => Err(self.unexpected(what, &format!("it has no {name}"))),
        };
        let expires_at = OffsetDateTime::parse(&field("expiration")?, &Rfc3339)
            .ok()
            .and_then(|at| i64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok())
            .ok_or_else(|| self.unexpected(what, "its expiration is not a date"))?;
        Ok(Credentials {
            access_key_id: field("accessKeyId")?,
            secret_access_key: field("secretAccessKey")?,
            session_token: Some(field("sessionToken")?),
            expires_at: Some(EpochMs(expires_at)),
        })
    }

    /// The DSN that error reports should go to, if the remote configuration names one.
    pub fn sentry_dsn(&self) -> Result<Option<String>, EdgeError> {
        let what = "get the remote configuration";
        let answer = self.get(what, &self.url("v1/config/server-sdk-configuration.json"))?;
        match answer.pointer("/data/sdkConfiguration") {
            Some(Value::Object(configuration)) => Ok(configuration
                .get("sentryDsn")
                .and_then(Value::as_str)
                .filter(|dsn| !dsn.is_empty())
                .map(str::to_owned)),
            _ => Err(self.unexpected(what, "it has no data.sdkConfiguration")),
        }
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

    fn get(&self, what: &str, url: &Url) -> Result<Value, EdgeError> {
        let fault = |kind: &str, cause_and_remedy: String| EdgeError {
            message: format!(
                "cannot {what} from the Edge API at {}: {cause_and_remedy}",
                self.address()
            ),
            kind: kind.to_owned(),
        };
        let api_key = self.api_key.read().map_err(|error| {
            fault(
                "api_key_unreadable",
                format!("{error}; check SERVER_API_KEY_FILE"),
            )
        })?;
        let request = Request::get(url.as_str())
            .header("X-API-KEY", api_key.trim())
            .header("X-API-VERSION", API_VERSION)
            .header("source", SOURCE)
            .header("accept", "application/json")
            .body(Vec::new())
            .map_err(|_| {
                let cause = "the API key holds characters no header may; check SERVER_API_KEY";
                fault("api_key_invalid", cause.to_owned())
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
            fault(error.kind.label(), format!("{error}; {remedy}"))
        })?;
        self.parse(what, &answer)
    }

    fn parse(&self, what: &str, answer: &Answer) -> Result<Value, EdgeError> {
        let status = answer.status;
        let refused = |remedy: &str| EdgeError {
            message: format!(
                "cannot {what} from the Edge API at {}: HTTP status {status}; {remedy}",
                self.address()
            ),
            kind: format!("http_{status}"),
        };
        match status {
            200 => {}
            401 | 403 => {
                return Err(refused(
                    "check SERVER_API_KEY: a full-access server key of this environment",
                ));
            }
            429 => return Err(refused("too many requests: it is tried again later")),
            500.. => {
                return Err(refused(
                    "the Edge API has a fault of its own: it is tried again later",
                ));
            }
            _ => return Err(refused("check EDGE_API_URL: is this Stigg's Edge API?")),
        }
        let body: Value =
            serde_json::from_slice(&answer.body).map_err(|_| self.unexpected(what, "it is not JSON"))?;
        match body.get("errors") {
            None | Some(Value::Null) => Ok(body),
            Some(Value::Array(errors)) if errors.is_empty() => Ok(body),
            Some(errors) => {
                let code = errors
                    .pointer("/0/extensions/code")
                    .and_then(Value::as_str)
                    .unwrap_or("no code");
                // Only something that looks like a code: words could repeat what was asked.
                let code: String = code
                    .chars()
                    .filter(|c| c.is_ascii_alphanumeric() || " _-".contains(*c))
                    .take(60)
                    .collect();
                Err(self.unexpected(what, &format!("it lists errors ({code})")))
            }
        }
    }

    fn unexpected(&self, what: &str, fault: &str) -> EdgeError {
        EdgeError {
            message: format!(
                "cannot {what} from the Edge API at {}: the answer is not as documented: {fault}; check EDGE_API_URL \
                 and SERVER_API_KEY",
                self.address()
            ),
            kind: "unexpected_answer".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
