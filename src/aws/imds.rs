//! Temporary credentials of an EC2 instance's role, from version 2 of the instance metadata service (IMDS). It is one hop
//! away: no proxy is used, and each of the three calls has two seconds. Version 1, which gives credentials to anyone who can
//! make the machine send a GET, is never used.

use std::time::Duration;

use http::Request;

use super::answers::document_credentials;
use super::endpoint::{Endpoint, EndpointDescription};
use super::{Credentials, CredentialsError, Fetcher};
use crate::config::InstanceMetadataSource;

const ROLE_PATH: &str = "latest/meta-data/iam/security-credentials/";

const DESCRIPTION: EndpointDescription = EndpointDescription {
    deadline: Duration::from_secs(2),
    kind: "imds",
    expected: "the instance metadata service",
    settings: "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    unreachable: "is this an EC2 instance? in a container on one, the answers need a hop limit of 2 (aws ec2 \
                  modify-instance-metadata-options --http-put-response-hop-limit 2); elsewhere unset CREDENTIAL_SOURCE",
};

/// Fetches from the instance metadata service.
pub(super) fn fetcher(source: InstanceMetadataSource) -> Fetcher {
    let endpoint = Endpoint::new(source.endpoint, None, "get the instance's credentials", DESCRIPTION);
    Fetcher {
        source: format!("the instance's temporary credentials from {}", endpoint.address()),
        fetch: Box::new(move || fetch(&endpoint)),
    }
}

fn fetch(endpoint: &Endpoint) -> Result<Credentials, CredentialsError> {
    let base = endpoint.url.as_str().trim_end_matches('/');
    let put = Request::put(format!("{base}/latest/api/token"))
        .header("x-aws-ec2-metadata-token-ttl-seconds", "60")
        .body(Vec::new());
    let token = &endpoint.call(put, &[], first_line, remedy_without_token)?;
    let get = |role: &str| {
        let request = Request::get(format!("{base}/{ROLE_PATH}{role}"));
        request.header("x-aws-ec2-metadata-token", token).body(Vec::new())
    };
    let role = endpoint.call(get(""), &[token], first_line, remedy)?;
    endpoint.call(get(&role), &[token], document_credentials, remedy)
}

fn first_line(body: &[u8]) -> Result<String, String> {
    let text = String::from_utf8_lossy(body);
    let line = text.lines().next().map(str::trim).filter(|line| !line.is_empty());
    line.map(str::to_owned).ok_or_else(|| "it is empty".to_owned())
}

fn remedy_without_token(status: u16, _: &str) -> &'static str {
    match status {
        403 => {
            "the metadata service is turned off for this instance: turn it on (aws ec2 modify-instance-metadata-options \
             --http-endpoint enabled), or unset CREDENTIAL_SOURCE"
        }
        404 | 405 => {
            "this endpoint offers version 1 only, which is not used because it gives credentials to anyone; check \
             AWS_EC2_METADATA_SERVICE_ENDPOINT"
        }
        _ => "is this the instance metadata service? check AWS_EC2_METADATA_SERVICE_ENDPOINT",
    }
}

fn remedy(status: u16, _: &str) -> &'static str {
    match status {
        200 => {
            "check the role of the instance profile, and that its trust policy lets ec2.amazonaws.com assume it"
        }
        404 => "the instance has no role: attach an instance profile to it, or unset CREDENTIAL_SOURCE",
        _ => "is this the instance metadata service? check AWS_EC2_METADATA_SERVICE_ENDPOINT",
    }
}

#[cfg(test)]
mod tests;
