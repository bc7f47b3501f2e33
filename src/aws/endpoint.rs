//! The HTTP client of a source of credentials: bounded answers, a deadline, no redirects, and errors that say what failed,
//! where, why, and the remedy.

use std::time::Duration;

use http::Request;
use http::header::InvalidHeaderValue;
use url::Url;

use super::{CredentialsError, answers};
use crate::config::Proxy;
use crate::http_client::{HttpClient, HttpOptions};

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
    /// For one call. `service` relies on no source taking longer than 10 s.
    pub deadline: Duration,
    /// Begins the kind of each error.
    pub kind: &'static str,
    pub expected: &'static str,
    /// The settings that name the endpoint.
    pub settings: &'static str,
    /// The remedy if it does not answer.
    pub unreachable: &'static str,
}

/// The remedy for a refusal with this status and code. The code is empty if the answer has none.
pub type RefusalRemedy = fn(status: u16, code: &str) -> &'static str;

impl Endpoint {
    pub fn new(url: Url, proxy: Option<Proxy>, purpose: &str, description: EndpointDescription) -> Self {
        let options = HttpOptions {
            // Calls are rare, and those of one fetch must not meet a connection that was closed after the one before.
            pool_size: 0,
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

    /// What `parse` reads in the answer to a request. The request may hold these secrets, and a refusal may quote them.
    pub fn call<T>(
        &self,
        request: http::Result<Request<Vec<u8>>>,
        secrets: &[&str],
        parse: fn(&[u8]) -> Result<T, String>,
        remedy: RefusalRemedy,
    ) -> Result<T, CredentialsError> {
        let EndpointDescription { expected, settings, unreachable, .. } = self.description;
        let is_this_it = format!("is this {expected}? check {settings}");
        let request = request.map_err(|error| {
            // The only header that can be one is that with the token: the remedy is that of a refused one.
            let is_token = error.is::<InvalidHeaderValue>();
            let (what, remedy) = if is_token { ("token", remedy(401, "")) } else { ("path", &*is_this_it) };
            let cause = format!("the {what} holds characters that no request may have");
            self.fault("request_invalid", &format!("{cause}; {remedy}"))
        })?;
        let answer = self.http.send(request, None).map_err(|error| {
            let remedy = error.kind.remedy(unreachable, &is_this_it);
            self.fault(&error.kind.to_string(), &format!("{error}; {remedy}"))
        })?;
        let status = answer.status().as_u16();
        let (code, message) = answers::error(answer.body()).unwrap_or_default();
        // The instance metadata service refuses with status 200, too.
        if status == 200 && matches!(code.as_str(), "" | "Success") {
            return parse(answer.body()).map_err(|what| {
                let cause = format!("the answer is not as documented: {what}; {is_this_it}");
                self.fault("unexpected_answer", &cause)
            });
        }
        let (code, text) = answers::refusal(status, &code, &message, secrets);
        let remedy = match status {
            300..=399 => "redirects are not followed; is this the right URL?",
            429 => "too many requests: it is retried later",
            500.. => "the fault is on the other side: it is retried later",
            _ => remedy(status, &code),
        };
        Err(self.fault(&format!("http_{status}"), &format!("{text}; {remedy}")))
    }

    pub fn fault(&self, kind: &str, cause_and_remedy: &str) -> CredentialsError {
        let (purpose, address) = (&self.purpose, self.address());
        CredentialsError {
            message: format!("cannot {purpose} from {address}: {cause_and_remedy}"),
            kind: format!("{}_{kind}", self.description.kind),
        }
    }
}
