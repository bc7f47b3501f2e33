//! Temporary credentials of an ECS task or an EKS pod, from the endpoint that the platform provides.
//!
//! The endpoint is on this node, so no proxy is used. On ECS the path of the URI is in effect a password, so it is never shown.
//! The authorization token is read for each fetch, since EKS rotates its file.

use std::time::Duration;

use http::Request;

use super::Fetcher;
use super::answers::document_credentials;
use super::endpoint::{Endpoint, EndpointDescription};
use super::keys::read_secret;
use crate::config::ContainerSource;

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
pub(super) fn fetcher(source: ContainerSource) -> Fetcher {
    let endpoint = Endpoint::new(source.uri, None, "get the container's credentials", DESCRIPTION);
    Fetcher {
        source: format!("the container's temporary credentials from {}", endpoint.address()),
        fetch: Box::new(move || {
            let read = |token| read_secret(token, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
            let token = source.authorization.as_ref().map(read).transpose()?;
            let mut request = Request::get(endpoint.url.as_str()).header("accept", "application/json");
            if let Some(token) = &token {
                request = request.header("authorization", token);
            }
            let secrets = token.as_deref().unwrap_or_default();
            endpoint.call(request.body(Vec::new()), &[secrets], document_credentials, remedy)
        }),
    }
}

fn remedy(status: u16, _: &str) -> &'static str {
    if matches!(status, 401 | 403) {
        "check AWS_CONTAINER_AUTHORIZATION_TOKEN or the file of AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE and, on EKS, the role \
         of the pod identity association and its trust policy"
    } else {
        "check that the ECS task has a task role or that the pod's service account has a pod identity association, and \
         AWS_CONTAINER_CREDENTIALS_FULL_URI and _RELATIVE_URI"
    }
}

#[cfg(test)]
mod tests;
