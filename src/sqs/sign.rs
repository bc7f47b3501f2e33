//! Signature version 4 for calls to SQS. Pure: the time of the signature is an argument.
//!
//! Everything that says what is asked, and of whom, is signed: host, content type, target, date, session token and
//! body. The arithmetic is `aws-sigv4`'s.
//!
//! A call to SQS is always the same POST, so a [`Signer`] writes its canonical form by hand and keeps the key, which
//! holds for a day: `aws-sigv4`'s own reading of any request takes ten times as long. Whatever is out of the ordinary
//! goes that way.

use std::sync::{Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use aws_sigv4::sign::v4;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use url::Url;

use super::wire::{self, WireRequest};
use crate::aws::Credentials;
use crate::aws::signing::{SignError, signature_headers, since_epoch};
use crate::entitlement::EpochMs;

const SERVICE: &str = "sqs";

const AMZ_TARGET: HeaderName = HeaderName::from_static("x-amz-target");
const AMZ_DATE: HeaderName = HeaderName::from_static("x-amz-date");
const AMZ_SECURITY_TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");

/// Signs calls to one endpoint in one region.
pub struct Signer {
    endpoint: Uri,
    /// The `host` header that goes with it.
    host: String,
    region: String,
    key: Mutex<Option<Key>>,
}

/// A signing key, and what it was made of.
struct Key {
    secret: String,
    date: String,
    bytes: Vec<u8>,
}

impl Signer {
    /// A signer for this endpoint. Fails if the endpoint is no URI.
    pub fn new(endpoint: &Url, region: String) -> Result<Self, SignError> {
        let host = endpoint.host_str().unwrap_or_default();
        Ok(Self {
            host: match endpoint.port() {
                Some(port) => format!("{host}:{port}"),
                None => host.to_owned(),
            },
            endpoint: endpoint
                .as_str()
                .parse()
                .map_err(|error| SignError(format!("cannot build the request: {error}")))?,
            region,
            key: Mutex::new(None),
        })
    }

    /// The signed POST of `call`, valid for some minutes around `at`.
    ///
    /// Fails if the credentials cannot be put into headers (line breaks or other control characters in them).
    pub fn signed_request(
        &self,
        call: WireRequest,
        credentials: &Credentials,
        at: EpochMs,
    ) -> Result<Request<Vec<u8>>, SignError> {
        let mut request = Request::new(call.body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.clone();
        let headers = request.headers_mut();
        headers.reserve(HEADERS_MAX);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(wire::CONTENT_TYPE));
        headers.insert(AMZ_TARGET, HeaderValue::from_static(call.target));
        let session_token = credentials.session_token.as_deref();
        // What would have to be trimmed, folded or refused.
        if session_token.is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            let signature = signature_headers(SERVICE, &request, &self.region, credentials, at)?;
            request.headers_mut().extend(signature);
            return Ok(request);
        }
        let body_sha256 = sha256_hex(request.body());
        self.add_signature(request.headers_mut(), call.target, &body_sha256, credentials, at)?;
        Ok(request)
    }

    fn add_signature(
        &self,
        headers: &mut HeaderMap,
        target: &str,
        body_sha256: &str,
        credentials: &Credentials,
        at: EpochMs,
    ) -> Result<(), SignError> {
        let date_time = date_time(at);
        let date = &date_time[..DATE_LEN];
        let region = self.region.as_str();
        let (token_line, token_name) = match &credentials.session_token {
            Some(token) => (
                ["x-amz-security-token:", token, "\n"].concat(),
                "x-amz-security-token;",
            ),
            None => (String::new(), ""),
        };
        // Put together of parts: formatting takes longer than all the hashing.
        let signed_headers = ["content-type;host;x-amz-date;", token_name, "x-amz-target"].concat();
        let canonical = [
            "POST\n/\n\ncontent-type:",
            wire::CONTENT_TYPE,
            "\nhost:",
            &self.host,
            "\nx-amz-date:",
            &date_time,
            "\n",
            &token_line,
            "x-amz-target:",
            target,
            "\n\n",
            &signed_headers,
            "\n",
            body_sha256,
        ]
        .concat();
        let scope = [date, "/", region, "/", SERVICE, "/aws4_request"].concat();
        let canonical_sha256 = sha256_hex(canonical.as_bytes());
        let to_sign = [
            "AWS4-HMAC-SHA256\n",
            &date_time,
            "\n",
            &scope,
            "\n",
            &canonical_sha256,
        ]
        .concat();
        let signature = self.signature(&to_sign, date, credentials, at);
        let authorization = [
            "AWS4-HMAC-SHA256 Credential=",
            &credentials.access_key_id,
            "/",
            &scope,
            ", SignedHeaders=",
            &signed_headers,
            ", Signature=",
            &signature,
        ]
        .concat();
        let mut add = |name: HeaderName, value: &str, is_secret: bool| {
            let mut header = HeaderValue::from_str(value).map_err(|_| {
                SignError(format!(
                    "cannot sign the request: {name} holds characters no header may"
                ))
            })?;
            header.set_sensitive(is_secret);
            headers.insert(name, header);
            Ok(())
        };
        add(AMZ_DATE, &date_time, false)?;
        add(AUTHORIZATION, &authorization, true)?;
        if let Some(token) = &credentials.session_token {
            add(AMZ_SECURITY_TOKEN, token, true)?;
        }
        Ok(())
    }

    fn signature(&self, to_sign: &str, date: &str, credentials: &Credentials, at: EpochMs) -> String {
        let secret = &credentials.secret_access_key;
        let mut kept = self.key.lock().unwrap_or_else(PoisonError::into_inner);
        // Other credentials, or another day.
        kept.take_if(|key| key.secret != *secret || key.date != date);
        let key = kept.get_or_insert_with(|| {
            let time = UNIX_EPOCH + since_epoch(at);
            Key {
                secret: secret.clone(),
                date: date.to_owned(),
                bytes: v4::generate_signing_key(secret, time, &self.region, SERVICE)
                    .as_ref()
                    .to_vec(),
            }
        });
        v4::calculate_signature(&key.bytes, to_sign.as_bytes())
    }
}

/// Ours, those of the signature, and those that the HTTP client adds.
const HEADERS_MAX: usize = 12;

/// `20261102`
const DATE_LEN: usize = 8;

/// `20261102T120000Z`
fn date_time(at: EpochMs) -> String {
    let secs = i64::try_from(since_epoch(at).as_secs()).unwrap_or_default();
    let at = OffsetDateTime::from_unix_timestamp(secs).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    format!(
        "{:04}{:02}{:02}T{:02}{:02}{:02}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    )
}

fn sha256_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        for half in [byte >> 4, byte & 15] {
            hex.push(char::from(DIGITS[usize::from(half)]));
        }
    }
    hex
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

    const AWS: &str = "https://sqs.eu-central-1.amazonaws.com/";

    fn signer(endpoint: &str) -> Signer {
        Signer::new(&Url::parse(endpoint).unwrap(), "eu-central-1".to_owned()).unwrap()
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
        let signed = signer(endpoint)
            .signed_request(delete_call(), &credentials(session_token), NOON)
            .unwrap();
        assert_eq!(header(signed.headers(), "x-amz-date"), Some("20261102T120000Z"));
        assert_eq!(header(signed.headers(), "x-amz-security-token"), session_token);
        header(signed.headers(), "authorization").unwrap().to_owned()
    }

    #[test]
    fn a_call_is_signed_as_awss_own_python_sdk_signs_it() {
        // Both signatures were made with botocore's SigV4Auth from the same request.
        assert_eq!(
            authorization(AWS, None),
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
        let broken = credentials(Some("line\nbreak"));
        let error = signer(AWS)
            .signed_request(delete_call(), &broken, NOON)
            .unwrap_err();
        assert!(
            error.to_string().starts_with("cannot sign the request"),
            "{error}"
        );
        assert!(!error.to_string().contains("break"), "{error}");
    }

    #[test]
    fn by_hand_it_is_what_the_library_makes_of_it_whatever_the_day_and_the_secret() {
        let signer = signer("https://127.0.0.1:4566/");
        let mut renewed = credentials(Some("token"));
        renewed.secret_access_key = "another".to_owned();
        let tomorrow = EpochMs(NOON.0 + 86_400_000);
        for (credentials, at) in [
            (credentials(None), NOON),
            (credentials(Some("token")), NOON),
            (credentials(None), tomorrow),
            (renewed.clone(), tomorrow),
            (renewed, NOON),
        ] {
            let by_hand = signer.signed_request(delete_call(), &credentials, at).unwrap();
            let mut bare = Request::post("https://127.0.0.1:4566/")
                .header(CONTENT_TYPE, wire::CONTENT_TYPE)
                .header(AMZ_TARGET, delete_call().target)
                .body(delete_call().body)
                .unwrap();
            let signature = signature_headers(SERVICE, &bare, "eu-central-1", &credentials, at).unwrap();
            bare.headers_mut().extend(signature);
            assert_eq!(by_hand.headers(), bare.headers());
        }
    }
}
