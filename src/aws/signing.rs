//! Signature version 4 for the headers of a request. Pure: the time of the signature is an argument.

use std::time::{Duration, UNIX_EPOCH};

use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use http::{HeaderName, HeaderValue, Request};

use super::Credentials;
use crate::entitlement::EpochMs;

/// A request that could not be signed. Never holds a header's value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SignError(pub(crate) String);

pub(crate) fn since_epoch(at: EpochMs) -> Duration {
    Duration::from_millis(u64::try_from(at.0).unwrap_or_default())
}

/// `authorization`, `x-amz-date` and, for temporary credentials, `x-amz-security-token`.
pub fn signature_headers(
    service: &str,
    request: &Request<Vec<u8>>,
    region: &str,
    credentials: &Credentials,
    at: EpochMs,
) -> Result<Vec<(HeaderName, HeaderValue)>, SignError> {
    let identity = aws_credential_types::Credentials::new(
        credentials.access_key_id.as_str(),
        credentials.secret_access_key.as_str(),
        credentials.session_token.clone(),
        None,
        "persistent-cache-service",
    )
    .into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name(service)
        .time(UNIX_EPOCH + since_epoch(at))
        .settings(SigningSettings::default())
        .build()
        .map_err(|error| SignError(format!("cannot sign the request: {error}")))?
        .into();
    let headers = request
        .headers()
        .iter()
        .filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
    let signable = SignableRequest::new(
        request.method().as_str(),
        request.uri().to_string(),
        headers,
        SignableBody::Bytes(request.body()),
    )
    .map_err(|error| SignError(format!("cannot sign the request: {error}")))?;
    let (instructions, _) = sign(signable, &params)
        .map_err(|error| SignError(format!("cannot sign the request: {error}")))?
        .into_parts();
    let (headers, _) = instructions.into_parts();
    headers
        .into_iter()
        .map(|header| {
            let mut value = HeaderValue::from_str(header.value()).map_err(|_| {
                SignError(format!(
                    "cannot sign the request: {} holds characters no header may",
                    header.name()
                ))
            })?;
            value.set_sensitive(header.sensitive());
            Ok((HeaderName::from_static(header.name()), value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials() -> Credentials {
        Credentials {
            access_key_id: "AKIDEXAMPLE".to_owned(),
            secret_access_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
            session_token: None,
            expires_at: None,
        }
    }

    #[test]
    fn the_published_test_suite_vector_comes_out() {
        // `post-vanilla` of AWS's Signature Version 4 test suite.
        let request = Request::post("https://example.amazonaws.com/")
            .body(Vec::new())
            .unwrap();
        let at = EpochMs(1_440_938_160_000);
        let headers = signature_headers("service", &request, "us-east-1", &credentials(), at).unwrap();
        let authorization = headers
            .iter()
            .find(|(name, _)| *name == http::header::AUTHORIZATION)
            .unwrap();
        assert_eq!(
            authorization.1,
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders=host;x-amz-date, \
             Signature=5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"
        );
    }
}
