//! Temporary credentials of an ECS task or an EKS pod, from the endpoint that the platform puts beside it.
//!
//! The endpoint is on this machine or its own network: no proxy is ever asked, redirects are not followed, and it
//! has to answer within seconds. The path of the URI is as good as a password on ECS, so only scheme, host and port
//! are shown. The authorization token is read again for each fetch, since EKS rotates its file.

use std::time::Duration;

use http::Request;

use super::{Credentials, CredentialsError, Fetch, document};
use crate::config::ContainerSource;
use crate::http_client::{HttpClient, HttpErrorKind, HttpOptions, HttpResponse};

/// The agent may have to fetch, too; but whoever waits for credentials waits for this.
const DEADLINE: Duration = Duration::from_secs(5);
/// Credentials are a few kilobytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

const NOT_THERE: &str = "on ECS check that the task has a task role, on EKS that the add-on eks-pod-identity-agent runs on \
                         this node; elsewhere unset AWS_CONTAINER_CREDENTIALS_FULL_URI and _RELATIVE_URI";

/// Fetches from the container's endpoint; [`RenewingCredentials`](super::RenewingCredentials) keeps what comes.
#[derive(Debug)]
pub struct ContainerCredentials {
    http: HttpClient,
    source: ContainerSource,
}

impl ContainerCredentials {
    /// Calls nobody yet.
    pub fn new(source: ContainerSource) -> Self {
        let options = HttpOptions {
            pool_size: 1,
            answer_bytes_max: ANSWER_BYTES_MAX,
            deadline: DEADLINE,
            proxy: None,
        };
        Self {
            http: HttpClient::new(&source.uri, options),
            source,
        }
    }

    fn fault(&self, kind: &str, cause_and_remedy: &str) -> CredentialsError {
        CredentialsError {
            message: format!(
                "cannot get the container's credentials from {}: {cause_and_remedy}",
                self.source.uri.origin().ascii_serialization()
            ),
            kind: format!("container_{kind}"),
        }
    }

    fn authorization(&self) -> Result<Option<String>, CredentialsError> {
        let Some(authorization) = &self.source.authorization else {
            return Ok(None);
        };
        let token = authorization.read().map_err(|error| {
            let cause = format!(
                "the authorization token cannot be read ({error}); check AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"
            );
            self.fault("token_unreadable", &cause)
        })?;
        let token = token.trim().to_owned();
        if token.is_empty() {
            // Between two tokens the file may be empty for a moment; a call without one would be refused.
            let cause = "the authorization token is empty; check AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE";
            return Err(self.fault("token_unreadable", cause));
        }
        Ok(Some(token))
    }

    fn parse(&self, answer: &HttpResponse, token: Option<&str>) -> Result<Credentials, CredentialsError> {
        if answer.status == 200 {
            let parsed = document::read(&answer.body).and_then(|document| document::credentials(&document));
            return parsed.map_err(|what| {
                let told = document::refusal(&answer.body, token).map(|told| format!(" ({told})"));
                let cause = format!(
                    "the answer is not as documented: {what}{}; is this the endpoint of ECS or of EKS Pod Identity? \
                     check AWS_CONTAINER_CREDENTIALS_FULL_URI and _RELATIVE_URI",
                    told.unwrap_or_default()
                );
                self.fault("unexpected_answer", &cause)
            });
        }
        let remedy = match answer.status {
            401 | 403 => {
                "check AWS_CONTAINER_AUTHORIZATION_TOKEN or the file of AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE and, on EKS, \
                 the role of the pod identity association and its trust policy"
            }
            300..=399 => {
                "redirects are not followed; check AWS_CONTAINER_CREDENTIALS_FULL_URI and _RELATIVE_URI"
            }
            429 => "too many requests: it is tried again later",
            400..=499 => {
                "check that the ECS task has a task role or that the pod's service account has a pod identity \
                 association, and AWS_CONTAINER_CREDENTIALS_FULL_URI and _RELATIVE_URI"
            }
            _ => "the endpoint has a fault of its own: it is tried again later",
        };
        let told = document::refusal(&answer.body, token).map(|told| format!(" ({told})"));
        let cause = format!(
            "HTTP status {}{}; {remedy}",
            answer.status,
            told.unwrap_or_default()
        );
        Err(self.fault(&format!("http_{}", answer.status), &cause))
    }
}

impl Fetch for ContainerCredentials {
    fn fetch(&self) -> Result<Credentials, CredentialsError> {
        let token = self.authorization()?;
        let mut request = Request::get(self.source.uri.as_str()).header("accept", "application/json");
        if let Some(token) = &token {
            request = request.header("authorization", token);
        }
        let request = request.body(Vec::new()).map_err(|_| {
            let cause = "the authorization token holds characters that no header may hold; check \
                         AWS_CONTAINER_AUTHORIZATION_TOKEN and AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE";
            self.fault("token_invalid", cause)
        })?;
        let answer = self.http.send(request, None).map_err(|error| {
            let remedy = match error.kind {
                HttpErrorKind::Timeout
                | HttpErrorKind::HostNotFound
                | HttpErrorKind::ConnectionRefused
                | HttpErrorKind::Connection => NOT_THERE,
                HttpErrorKind::Tls => {
                    "check AWS_CONTAINER_CREDENTIALS_FULL_URI and the trusted certificates of this machine"
                }
                HttpErrorKind::AnswerTooLarge | HttpErrorKind::Protocol => {
                    "is this the endpoint of ECS or of EKS Pod Identity? check AWS_CONTAINER_CREDENTIALS_FULL_URI"
                }
                HttpErrorKind::Proxy(fault) => fault.remedy(),
            };
            self.fault(error.kind.label(), &format!("{error}; {remedy}"))
        })?;
        self.parse(&answer, token.as_deref())
    }

    fn source(&self) -> String {
        format!(
            "the container's temporary credentials from {}",
            self.source.uri.origin().ascii_serialization()
        )
    }
}

#[cfg(test)]
mod tests;
