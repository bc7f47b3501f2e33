//! Temporary credentials of an EC2 instance's role, from the instance metadata service, version 2.
//!
//! Version 1, which hands credentials to whoever can make the machine send a GET, is never used. The service is one
//! hop away: no proxy is ever asked, redirects are not followed, and each of the three calls has two seconds, so that
//! a machine without it says so soon.
//!
//! While the service cannot renew a role's credentials it hands out the expired ones, and AWS goes on taking them.
//! They are kept in use, as the AWS SDKs do: taken to hold for a while longer, then asked for again.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{Method, Request};
use serde_json::Value;
use url::Url;

use super::{Credentials, CredentialsError, Fetch, document};
use crate::clock;
use crate::config::InstanceMetadataSource;
use crate::entitlement::EpochMs;
use crate::http_client::{HttpClient, HttpErrorKind, HttpOptions, HttpResponse};

/// Each call. The service answers in milliseconds.
const DEADLINE: Duration = Duration::from_secs(2);
/// Credentials are a few kilobytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// How long a token is to hold: the longest that the service allows.
const TOKEN_LIFE: Duration = Duration::from_hours(6);
/// A token is not used for its last moments, in which it could expire on the way.
const TOKEN_SPARE: Duration = Duration::from_mins(1);
/// Expired credentials are taken to hold for this long; they are asked for again at about half of it.
const EXTENSION_MS: i64 = 10 * 60 * 1000;

const TOKEN: &str = "latest/api/token";
const ROLE: &str = "latest/meta-data/iam/security-credentials/";

const ATTACH_A_ROLE: &str =
    "the instance has no role; attach an instance profile to it, or unset CREDENTIAL_SOURCE";

/// Fetches from the instance metadata service; [`RenewingCredentials`](super::RenewingCredentials) keeps what comes.
#[derive(Debug)]
pub struct InstanceMetadataCredentials {
    http: HttpClient,
    endpoint: Url,
    now: fn() -> EpochMs,
    token: Mutex<Option<Token>>,
}

struct Token {
    value: String,
    until: Instant,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("[redacted]")
    }
}

impl InstanceMetadataCredentials {
    /// Calls nobody yet.
    pub fn new(source: InstanceMetadataSource) -> Self {
        Self::with_clock(source, clock::now)
    }

    /// The same with the clock given.
    fn with_clock(source: InstanceMetadataSource, now: fn() -> EpochMs) -> Self {
        let options = HttpOptions {
            pool_size: 1,
            answer_bytes_max: ANSWER_BYTES_MAX,
            deadline: DEADLINE,
            proxy: None,
        };
        Self {
            http: HttpClient::new(&source.endpoint, options),
            endpoint: source.endpoint,
            now,
            token: Mutex::new(None),
        }
    }

    fn fault(&self, kind: &str, cause_and_remedy: &str) -> CredentialsError {
        CredentialsError {
            message: format!(
                "cannot get the instance's credentials from {}: {cause_and_remedy}",
                self.endpoint.origin().ascii_serialization()
            ),
            kind: format!("imds_{kind}"),
        }
    }

    fn send(
        &self,
        method: Method,
        path: &str,
        header: (&str, &str),
    ) -> Result<HttpResponse, CredentialsError> {
        let base = self.endpoint.as_str().trim_end_matches('/');
        let is_put = method == Method::PUT;
        let request = Request::builder()
            .method(method)
            .uri(format!("{base}/{path}"))
            .header(header.0, header.1)
            .body(Vec::new())
            .map_err(|_| {
                let cause = "the answer is not as documented: what it gave cannot be sent back; check \
                             AWS_EC2_METADATA_SERVICE_ENDPOINT";
                self.fault("unexpected_answer", cause)
            })?;
        self.http.send(request, None).map_err(|error| {
            let remedy = match error.kind {
                // The answer to the PUT, and only that, has a hop limit.
                HttpErrorKind::Timeout if is_put => {
                    "is this an EC2 instance? in a container on one, its answers need a hop limit of 2 (aws ec2 \
                     modify-instance-metadata-options --http-put-response-hop-limit 2); else unset CREDENTIAL_SOURCE"
                }
                HttpErrorKind::Timeout
                | HttpErrorKind::HostNotFound
                | HttpErrorKind::ConnectionRefused
                | HttpErrorKind::Connection => {
                    "is this an EC2 instance, with the way to its metadata open? check CREDENTIAL_SOURCE and \
                     AWS_EC2_METADATA_SERVICE_ENDPOINT"
                }
                HttpErrorKind::Tls | HttpErrorKind::AnswerTooLarge | HttpErrorKind::Protocol => {
                    "is this the instance metadata service? check AWS_EC2_METADATA_SERVICE_ENDPOINT"
                }
                HttpErrorKind::Proxy(fault) => fault.remedy(),
            };
            self.fault(error.kind.label(), &format!("{error}; {remedy}"))
        })
    }

    /// The token at hand, else a new one.
    fn token(&self) -> Result<String, CredentialsError> {
        let mut held = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = held.as_ref().filter(|token| Instant::now() < token.until) {
            return Ok(token.value.clone());
        }
        let asked_at = Instant::now();
        let life = TOKEN_LIFE.as_secs().to_string();
        let answer = self.send(
            Method::PUT,
            TOKEN,
            ("x-aws-ec2-metadata-token-ttl-seconds", &life),
        )?;
        let refused = |remedy: &str| {
            let cause = format!("HTTP status {} when asked for a token; {remedy}", answer.status);
            self.fault(&format!("http_{}", answer.status), &cause)
        };
        match answer.status {
            200 => {}
            403 => {
                return Err(refused(
                    "the metadata service is turned off for this instance: turn it on (aws ec2 \
                     modify-instance-metadata-options --http-endpoint enabled), or unset CREDENTIAL_SOURCE",
                ));
            }
            404 | 405 => {
                return Err(refused(
                    "what answers there knows version 1 only, which is not used: it would hand credentials to anybody; \
                     check AWS_EC2_METADATA_SERVICE_ENDPOINT",
                ));
            }
            429 | 500.. => return Err(refused("the metadata service is busy: it is tried again later")),
            _ => {
                return Err(refused(
                    "is this the instance metadata service? check AWS_EC2_METADATA_SERVICE_ENDPOINT",
                ));
            }
        }
        let value = String::from_utf8(answer.body)
            .map(|text| text.trim().to_owned())
            .unwrap_or_default();
        if value.is_empty() {
            return Err(self.unexpected("the token is empty"));
        }
        let told = answer
            .headers
            .get("x-aws-ec2-metadata-token-ttl-seconds")
            .and_then(|life| life.to_str().ok()?.trim().parse().ok())
            .map_or(TOKEN_LIFE, Duration::from_secs)
            .min(TOKEN_LIFE);
        *held = Some(Token {
            value: value.clone(),
            until: asked_at + told.saturating_sub(TOKEN_SPARE),
        });
        Ok(value)
    }

    /// One path of the metadata. A token that is refused is replaced, once: the instance may have been restarted.
    fn get(&self, path: &str) -> Result<HttpResponse, CredentialsError> {
        let ask = |token: &str| self.send(Method::GET, path, ("x-aws-ec2-metadata-token", token));
        let answer = ask(&self.token()?)?;
        if answer.status != 401 {
            return Ok(answer);
        }
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = None;
        ask(&self.token()?)
    }

    fn role(&self) -> Result<String, CredentialsError> {
        let answer = self.get(ROLE)?;
        match answer.status {
            200 => {}
            404 => return Err(self.fault("no_role", ATTACH_A_ROLE)),
            _ => return Err(self.refused(&answer)),
        }
        let text = String::from_utf8_lossy(&answer.body);
        let role = text.lines().next().unwrap_or_default().trim();
        if role.is_empty() {
            return Err(self.fault("no_role", ATTACH_A_ROLE));
        }
        // What IAM allows in a role's name. Anything else is no name, and must not become a path.
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || "_+=,.@-".contains(letter);
        if role.len() > 64 || !role.chars().all(is_name) {
            return Err(self.unexpected("it names no role"));
        }
        Ok(role.to_owned())
    }

    fn refused(&self, answer: &HttpResponse) -> CredentialsError {
        let remedy = match answer.status {
            401 => "it refuses the token that it has just given",
            404 => ATTACH_A_ROLE,
            429 | 500.. => "the metadata service is busy: it is tried again later",
            _ => "is this the instance metadata service? check AWS_EC2_METADATA_SERVICE_ENDPOINT",
        };
        let cause = format!("HTTP status {}; {remedy}", answer.status);
        self.fault(&format!("http_{}", answer.status), &cause)
    }

    fn unexpected(&self, what: &str) -> CredentialsError {
        let cause =
            format!("the answer is not as documented: {what}; check AWS_EC2_METADATA_SERVICE_ENDPOINT");
        self.fault("unexpected_answer", &cause)
    }

    fn parse(&self, role: &str, answer: &HttpResponse) -> Result<Credentials, CredentialsError> {
        if answer.status != 200 {
            return Err(self.refused(answer));
        }
        let document = document::read(&answer.body).map_err(|what| self.unexpected(&what))?;
        match document.get("Code").and_then(Value::as_str) {
            Some("Success") => {}
            Some(_) => {
                let told = document::refusal(&answer.body, None).unwrap_or_default();
                let cause = format!(
                    "it has none for role {role} ({told}); check the role of the instance profile, and that its trust \
                     policy lets ec2.amazonaws.com assume it"
                );
                return Err(self.fault("refused", &cause));
            }
            None => return Err(self.unexpected("it has no Code")),
        }
        document::credentials(&document).map_err(|what| self.unexpected(&what))
    }
}

impl Fetch for InstanceMetadataCredentials {
    fn fetch(&self) -> Result<Credentials, CredentialsError> {
        let role = self.role()?;
        let answer = self.get(&format!("{ROLE}{role}"))?;
        let mut credentials = self.parse(&role, &answer)?;
        let now = (self.now)();
        if credentials.expires_at.is_some_and(|expires_at| expires_at <= now) {
            log::warn!(
                role = role.as_str();
                "the instance metadata service hands out expired credentials, as it does while it cannot renew them: \
                 they are used on, and asked for again in a few minutes"
            );
            credentials.expires_at = Some(EpochMs(now.0.saturating_add(EXTENSION_MS)));
        }
        Ok(credentials)
    }

    fn source(&self) -> String {
        format!(
            "the instance's temporary credentials from {}",
            self.endpoint.origin().ascii_serialization()
        )
    }
}

#[cfg(test)]
mod tests;
