//! The HTTP client of a source of credentials: bounded answers, a deadline, no redirects, and errors that say what failed,
//! where, why, and the remedy.

use std::time::Duration;

use http::Request;
use url::Url;

use super::{CredentialsError, answers};
use crate::config::{Proxy, Secret};
use crate::http_client::{HttpClient, HttpOptions, HttpResponse};

const ANSWER_BYTES_MAX: u64 = 64 * 1024;

#[derive(Debug)]
pub struct Endpoint {
    http: HttpClient,
    pub url: Url,
    /// What a failure prevents: "get the container's credentials".
    purpose: String,
    description: EndpointDescription,
}

/// How an endpoint is called, and what errors say about it.
#[derive(Debug, Clone, Copy)]
pub struct EndpointDescription {
    pub deadline: Duration,
    /// Begins the kind of each error.
    pub kind: &'static str,
    pub expected: &'static str,
    /// The settings that name the endpoint.
    pub settings: &'static str,
    /// The remedy if it does not answer.
    pub unreachable: &'static str,
}

impl Endpoint {
    pub fn new(url: Url, proxy: Option<Proxy>, purpose: &str, description: EndpointDescription) -> Self {
        let options = HttpOptions {
            pool_size: 1,
            answer_bytes_max: ANSWER_BYTES_MAX,
            deadline: description.deadline,
            proxy,
        };
        Self { http: HttpClient::new(&url, options), url, purpose: purpose.to_owned(), description }
    }

    /// Scheme, host and port. The path may be a secret.
    pub fn address(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    /// A token that the request carries, as it is now. While its file is replaced it may be empty.
    pub fn token(&self, secret: &Secret, setting: &str) -> Result<String, CredentialsError> {
        let cause = match secret.read() {
            Ok(token) if !token.trim().is_empty() => return Ok(token.trim().to_owned()),
            Ok(_) => "the token is empty".to_owned(),
            Err(error) => format!("cannot read the token: {error}"),
        };
        Err(self.fault("token_unreadable", &format!("{cause}; check {setting}")))
    }

    /// The answer to a request, whatever its status.
    pub fn send(&self, request: http::Result<Request<Vec<u8>>>) -> Result<HttpResponse, CredentialsError> {
        let settings = self.description.settings;
        let request = request.map_err(|_| {
            let cause = "a token holds characters that no HTTP header may hold";
            self.fault("request_invalid", &format!("{cause}; check it, and {settings}"))
        })?;
        self.http.send(request, None).map_err(|error| {
            let wrong_peer = self.is_this_it();
            let remedy = error.kind.remedy(self.description.unreachable, &wrong_peer);
            self.fault(&error.kind.to_string(), &format!("{error}; {remedy}"))
        })
    }

    pub fn fault(&self, kind: &str, cause_and_remedy: &str) -> CredentialsError {
        let (purpose, address) = (&self.purpose, self.address());
        CredentialsError {
            message: format!("cannot {purpose} from {address}: {cause_and_remedy}"),
            kind: format!("{}_{kind}", self.description.kind),
        }
    }

    /// An answer with status 200 that is not as documented.
    pub fn unexpected(&self, what: &str) -> CredentialsError {
        let cause = format!("the answer is not as documented: {what}; {}", self.is_this_it());
        self.fault("unexpected_answer", &cause)
    }

    fn is_this_it(&self) -> String {
        format!("is this {}? check {}", self.description.expected, self.description.settings)
    }

    /// A refusal with the code and message of its body, and the remedy for the code.
    pub fn refused(
        &self,
        status: u16,
        body: Option<(String, String)>,
        secrets: &[&str],
        remedy: impl Fn(&str) -> &'static str,
    ) -> CredentialsError {
        let (code, text) = answers::refusal(status, body, secrets);
        let remedy = match status {
            300..=399 => "redirects are not followed; is this the right URL?",
            429 => "too many requests: it is tried again later",
            500.. => "the fault is on the other side: it is tried again later",
            _ => remedy(&code),
        };
        self.fault(&format!("http_{status}"), &format!("{text}; {remedy}"))
    }
}
