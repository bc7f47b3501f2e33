//! Signature version 4 for calls to SQS. Pure: the time of the signature is an argument.
//!
//! Everything that says what is asked, and of whom, is signed: host, content type, target, date, session token and
//! body. The arithmetic is `aws-sigv4`'s.

use std::time::{Duration, UNIX_EPOCH};

use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Method, Request};
use url::Url;

use super::credentials::Credentials;
use super::wire::{self, WireRequest};
use crate::entitlement::EpochMs;

/// A request that could not be signed. Never holds a header's value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SignError(String);

const SERVICE: &str = "sqs";

const AMZ_TARGET: HeaderName = HeaderName::from_static("x-amz-target");

/// The signed POST of `call` to `endpoint`, valid for some minutes around `at`.
///
/// Fails if the credentials cannot be put into headers (line breaks or other control characters in them), or the
/// endpoint is not a URI.
pub fn signed_request(
    endpoint: &Url,
    region: &str,
    call: WireRequest,
    credentials: &Credentials,
    at: EpochMs,
) -> Result<Request<Vec<u8>>, SignError> {
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(endpoint.as_str())
        .header(CONTENT_TYPE, wire::CONTENT_TYPE)
        .header(AMZ_TARGET, call.target)
        .body(call.body)
        .map_err(|error| SignError(format!("cannot build the request: {error}")))?;
    let signature = signature_headers(SERVICE, &request, region, credentials, at)?;
    request.headers_mut().extend(signature);
    Ok(request)
}

/// `authorization`, `x-amz-date` and, for temporary credentials, `x-amz-security-token`.
pub(super) fn signature_headers(
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
    let since_epoch = Duration::from_millis(u64::try_from(at.0).unwrap_or_default());
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name(service)
        .time(UNIX_EPOCH + since_epoch)
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

    /// 2026-11-02T12:00:00Z.
    const NOON: EpochMs = EpochMs(1_793_620_800_000);

    fn credentials(session_token: Option<&str>) -> Credentials {
        Credentials {
            access_key_id: "AKIDEXAMPLE".to_owned(),
            secret_access_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
            session_token: session_token.map(str::to_owned),
            expires_at: None,
        }
    }

    fn header<'a>(headers: &'a http::HeaderMap, name: &str) -> Option<&'a str> {
        headers.get(name)?.to_str().ok()
    }

    fn delete_call() -> WireRequest {
        WireRequest {
            target: "AmazonSQS.DeleteMessageBatch",
            body: br#"{"QueueUrl":"q","Entries":[]}"#.to_vec(),
        }
    }

    fn authorization(endpoint: &str, session_token: Option<&str>) -> String {
        let endpoint = Url::parse(endpoint).unwrap();
        let signed = signed_request(
            &endpoint,
            "eu-central-1",
            delete_call(),
            &credentials(session_token),
            NOON,
        )
        .unwrap();
        assert_eq!(header(signed.headers(), "x-amz-date"), Some("20261102T120000Z"));
        assert_eq!(header(signed.headers(), "x-amz-security-token"), session_token);
        header(signed.headers(), "authorization").unwrap().to_owned()
    }

    #[test]
    fn the_published_test_suite_vector_comes_out() {
        // `post-vanilla` of AWS's Signature Version 4 test suite.
        let request = Request::post("https://example.amazonaws.com/")
            .body(Vec::new())
            .unwrap();
        let at = EpochMs(1_440_938_160_000);
        let headers = signature_headers("service", &request, "us-east-1", &credentials(None), at).unwrap();
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

    #[test]
    fn a_call_is_signed_as_awss_own_python_sdk_signs_it() {
        // Both signatures were made with botocore's SigV4Auth from the same request.
        assert_eq!(
            authorization("https://sqs.eu-central-1.amazonaws.com/", None),
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261102/eu-central-1/sqs/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date;x-amz-target, \
             Signature=4c6ed04889a4548e967c1d1ed87a2390481e17eb8ed410164b162b6ec490f7d4"
        );
    }

    #[test]
    fn an_unusual_port_and_a_session_token_are_signed_too() {
        assert_eq!(
            authorization("http://127.0.0.1:4566/", Some("FwoGZXIvYXdzEXAMPLE//TOKEN=")),
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261102/eu-central-1/sqs/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;x-amz-target, \
             Signature=fdb2ddd9a54f7fa31ad0395bb94f146b52a46c82634db019b656d22867e362ec"
        );
    }

    #[test]
    fn credentials_that_fit_no_header_are_an_error_without_them() {
        let endpoint = Url::parse("https://sqs.eu-central-1.amazonaws.com/").unwrap();
        let broken = credentials(Some("line\nbreak"));
        let error = signed_request(&endpoint, "eu-central-1", delete_call(), &broken, NOON).unwrap_err();
        assert!(
            error.to_string().starts_with("cannot sign the request"),
            "{error}"
        );
        assert!(!error.to_string().contains("break"), "{error}");
    }
}
