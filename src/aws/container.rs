//! Temporary credentials of an ECS task or an EKS pod, from the endpoint that the platform provides.
//!
//! The endpoint is near, so no proxy is used. On ECS the path of the URI is as good as a password and therefore never shown.
//! The authorization token is read for each fetch, since EKS rotates its file.

use std::time::Duration;

use http::Request;

use super::endpoint::{Endpoint, EndpointDescription};
use super::{Credentials, CredentialsError, Fetch, answers};
use crate::config::{ContainerSource, Secret};

const DESCRIPTION: EndpointDescription = EndpointDescription {
    // The agent may have to fetch them itself.
    deadline: Duration::from_secs(5),
    kind: "container",
    expected: "the endpoint of ECS or EKS Pod Identity",
    settings: "AWS_CONTAINER_CREDENTIALS_FULL_URI and _RELATIVE_URI",
    unreachable: "on ECS check that the task has a task role, on EKS that the add-on eks-pod-identity-agent runs on this \
                  node; elsewhere unset AWS_CONTAINER_CREDENTIALS_FULL_URI and _RELATIVE_URI",
};

/// Fetches from the container's endpoint.
#[derive(Debug)]
pub struct ContainerCredentials {
    endpoint: Endpoint,
    authorization: Option<Secret>,
}

impl ContainerCredentials {
    /// Makes no call.
    pub fn new(source: ContainerSource) -> Self {
        let purpose = "get the container's credentials";
        Self {
            endpoint: Endpoint::new(source.uri, None, purpose, DESCRIPTION),
            authorization: source.authorization,
        }
    }
}

impl Fetch for ContainerCredentials {
    fn fetch(&self) -> Result<Credentials, CredentialsError> {
        let read = |secret| self.endpoint.token(secret, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
        let token = self.authorization.as_ref().map(read).transpose()?;
        let mut request = Request::get(self.endpoint.url.as_str()).header("accept", "application/json");
        if let Some(token) = &token {
            request = request.header("authorization", token);
        }
        let answer = self.endpoint.send(request.body(Vec::new()))?;
        if answer.status == 200 {
            return answers::document(&answer.body)
                .and_then(|document| answers::document_credentials(&document))
                .map_err(|what| self.endpoint.unexpected(&what));
        }
        let secrets: Vec<&str> = token.iter().map(String::as_str).collect();
        let error = answers::document_error(&answer.body);
        Err(self.endpoint.refused(answer.status, error, &secrets, |_| {
            if matches!(answer.status, 401 | 403) {
                "check AWS_CONTAINER_AUTHORIZATION_TOKEN or the file of AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE and, on EKS, \
                 the role of the pod identity association and its trust policy"
            } else {
                "check that the ECS task has a task role or that the pod's service account has a pod identity \
                 association, and AWS_CONTAINER_CREDENTIALS_FULL_URI and _RELATIVE_URI"
            }
        }))
    }

    fn source(&self) -> String {
        let address = self.endpoint.address();
        format!("the container's temporary credentials from {address}")
    }
}

#[cfg(test)]
mod tests;
