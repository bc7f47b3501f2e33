//! Temporary credentials of an EC2 instance's role, from version 2 of the instance metadata service (IMDS). It is one hop
//! away: no proxy is used, and each of the three calls has two seconds. Version 1, which gives credentials to anyone who can
//! make the machine send a GET, is never used.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::{Method, Request};

use super::endpoint::{Endpoint, EndpointDescription};
use super::{Credentials, CredentialsError, Fetch, answers};
use crate::config::InstanceMetadataSource;
use crate::http_client::HttpResponse;

const TOKEN_PATH: &str = "latest/api/token";
const ROLE_PATH: &str = "latest/meta-data/iam/security-credentials/";
const TOKEN_HEADER: &str = "x-aws-ec2-metadata-token";
/// The longest life that the service allows for a session token.
const TTL: (&str, &str) = ("x-aws-ec2-metadata-token-ttl-seconds", "21600");

const DESCRIPTION: EndpointDescription = EndpointDescription {
    deadline: Duration::from_secs(2),
    kind: "imds",
    expected: "the instance metadata service",
    settings: "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    unreachable: "is this an EC2 instance? in a container on one, the answers need a hop limit of 2 (aws ec2 \
                  modify-instance-metadata-options --http-put-response-hop-limit 2); elsewhere unset CREDENTIAL_SOURCE",
};
const NO_ROLE: &str =
    "the instance has no role: attach an instance profile to it, or unset CREDENTIAL_SOURCE";

/// Fetches from the instance metadata service.
pub struct InstanceMetadataCredentials {
    endpoint: Endpoint,
    /// The session token, used until it is refused.
    token: Mutex<Option<String>>,
}

impl InstanceMetadataCredentials {
    /// Makes no call.
    pub fn new(source: &InstanceMetadataSource) -> Self {
        let purpose = "get the instance's credentials";
        Self {
            endpoint: Endpoint::new(source.endpoint.clone(), None, purpose, DESCRIPTION),
            token: Mutex::new(None),
        }
    }

    fn send(
        &self,
        method: Method,
        path: &str,
        header: (&str, &str),
    ) -> Result<HttpResponse, CredentialsError> {
        let base = self.endpoint.url.as_str().trim_end_matches('/');
        let request = Request::builder().method(method).uri(format!("{base}/{path}"));
        self.endpoint.send(request.header(header.0, header.1).body(Vec::new()))
    }

    /// The answer, if its status is 200.
    fn accepted(&self, answer: HttpResponse, is_put: bool) -> Result<HttpResponse, CredentialsError> {
        let remedy = match (answer.status, is_put) {
            (200, _) => return Ok(answer),
            (403, true) => {
                "the metadata service is turned off for this instance: turn it on (aws ec2 \
                 modify-instance-metadata-options --http-endpoint enabled), or unset CREDENTIAL_SOURCE"
            }
            (404 | 405, true) => {
                "this endpoint offers version 1 only, which is not used because it gives credentials to anyone; check \
                 AWS_EC2_METADATA_SERVICE_ENDPOINT"
            }
            (401, false) => "it refuses the token that it has just given",
            (404, false) => NO_ROLE,
            _ => "is this the instance metadata service? check AWS_EC2_METADATA_SERVICE_ENDPOINT",
        };
        Err(self.endpoint.refused(answer.status, None, &[], |_| remedy))
    }

    /// The session token, or a new one.
    fn token(&self, is_refused: bool) -> Result<String, CredentialsError> {
        let mut held = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = held.as_ref().filter(|_| !is_refused) {
            return Ok(token.clone());
        }
        let answer = self.accepted(self.send(Method::PUT, TOKEN_PATH, TTL)?, true)?;
        let token = String::from_utf8_lossy(&answer.body).trim().to_owned();
        if token.is_empty() {
            return Err(self.endpoint.unexpected("the token is empty"));
        }
        // One that cannot be sent would never be refused, and so be kept for ever.
        if !token.chars().all(|letter| letter.is_ascii_graphic()) {
            return Err(self.endpoint.unexpected("what it gives is no token"));
        }
        *held = Some(token.clone());
        Ok(token)
    }

    /// One path of the metadata. A token is refused when it has expired or the instance was restarted.
    fn get(&self, path: &str) -> Result<HttpResponse, CredentialsError> {
        let ask = |token: &str| self.send(Method::GET, path, (TOKEN_HEADER, token));
        let mut answer = ask(&self.token(false)?)?;
        if answer.status == 401 {
            answer = ask(&self.token(true)?)?;
        }
        self.accepted(answer, false)
    }

    fn role(&self) -> Result<String, CredentialsError> {
        let answer = self.get(ROLE_PATH)?;
        let text = String::from_utf8_lossy(&answer.body);
        let role = text.lines().next().unwrap_or_default().trim();
        if role.is_empty() {
            return Err(self.endpoint.fault("no_role", NO_ROLE));
        }
        // What IAM allows in the name of a role. It becomes part of a path.
        let is_allowed = |letter: char| letter.is_ascii_alphanumeric() || "_+=,.@-".contains(letter);
        if role.len() > 64 || !role.chars().all(is_allowed) {
            return Err(self.endpoint.unexpected("it names no role"));
        }
        Ok(role.to_owned())
    }
}

impl Fetch for InstanceMetadataCredentials {
    fn fetch(&self) -> Result<Credentials, CredentialsError> {
        let role = self.role()?;
        let answer = self.get(&format!("{ROLE_PATH}{role}"))?;
        let unexpected = |what: String| self.endpoint.unexpected(&what);
        let document = answers::document(&answer.body).map_err(unexpected)?;
        let code = document.get("Code").map(|code| code.as_str().unwrap_or_default());
        if !matches!(code, None | Some("Success")) {
            let body = answers::document_error(&answer.body);
            return Err(self.endpoint.refused(200, body, &[], |_| {
                "check the role of the instance profile, and that its trust policy lets ec2.amazonaws.com assume it"
            }));
        }
        answers::document_credentials(&document).map_err(unexpected)
    }

    fn source(&self) -> String {
        let address = self.endpoint.address();
        format!("the instance's temporary credentials from {address}")
    }
}

#[cfg(test)]
mod tests;
