//! Signature Version 4, checked as AWS checks it: recomputed from what was received, with code of our own, so
//! that it and the signing library cannot be wrong together.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use time::PrimitiveDateTime;
use time::macros::format_description;

use super::http::Request;

/// How far a signer's clock may be off.
const SKEW_MS_MAX: i64 = 5 * 60 * 1_000;

/// An access key that the queue knows.
#[derive(Debug, Clone)]
pub struct KnownKey {
    pub secret: String,
    /// A temporary key is refused without its token.
    pub session_token: Option<String>,
    /// Epoch milliseconds.
    pub expires_at_ms: Option<i64>,
}

/// Why a call is refused: AWS's code and message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub code: &'static str,
    pub message: String,
}

fn refused<T>(code: &'static str, message: impl Into<String>) -> Result<T, Refused> {
    Err(Refused { code, message: message.into() })
}

/// What `Authorization` says.
struct Authorization<'a> {
    key_id: &'a str,
    date: &'a str,
    region: &'a str,
    service: &'a str,
    signed_headers: &'a str,
    signature: &'a str,
}

fn parse(header: &str) -> Option<Authorization<'_>> {
    let fields = header.strip_prefix("AWS4-HMAC-SHA256 ")?;
    let (mut credential, mut signed_headers, mut signature) = (None, None, None);
    for field in fields.split(',') {
        match field.trim().split_once('=')? {
            ("Credential", value) => credential = Some(value),
            ("SignedHeaders", value) => signed_headers = Some(value),
            ("Signature", value) => signature = Some(value),
            _ => return None,
        }
    }
    let mut scope = credential?.split('/');
    let authorization = Authorization {
        key_id: scope.next()?,
        date: scope.next()?,
        region: scope.next()?,
        service: scope.next()?,
        signed_headers: signed_headers?,
        signature: signature?,
    };
    (scope.next() == Some("aws4_request") && scope.next().is_none()).then_some(authorization)
}

/// The keys that may call, and the signing keys derived from them.
#[derive(Debug)]
pub struct Signatures {
    region: String,
    keys: Mutex<HashMap<String, Arc<KnownKey>>>,
    /// (secret, date) -> signing key
    derived: Mutex<HashMap<(String, String), [u8; 32]>>,
}

impl Signatures {
    pub fn new(region: &str) -> Self {
        Self { region: region.to_owned(), keys: Mutex::default(), derived: Mutex::default() }
    }

    /// From now on this key is known, in place of one with the same id.
    pub fn allow(&self, key_id: &str, key: KnownKey) {
        self.keys.lock().unwrap().insert(key_id.to_owned(), Arc::new(key));
    }

    /// From now on this key is unknown.
    pub fn forget(&self, key_id: &str) {
        self.keys.lock().unwrap().remove(key_id);
    }

    /// Takes a request as AWS would. `now_ms` is the wall clock.
    pub fn check(&self, request: &Request<'_>, now_ms: i64) -> Result<(), Refused> {
        let Some(header) = request.header("authorization") else {
            return refused("MissingAuthenticationToken", "Request is missing Authentication Token");
        };
        let Some(authorization) = parse(header) else {
            return refused(
                "IncompleteSignature",
                "Authorization header requires 'Credential', 'Signature' and 'SignedHeaders' parameters.",
            );
        };
        let Some(date) = request.header("x-amz-date") else {
            return refused(
                "IncompleteSignature",
                "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.",
            );
        };
        let Some(known) = self.keys.lock().unwrap().get(authorization.key_id).cloned() else {
            return refused("InvalidClientTokenId", "The security token included in the request is invalid.");
        };
        check_token(request, &known, now_ms)?;
        self.check_scope(&authorization, date)?;
        check_date(date, now_ms)?;

        let string_to_sign = string_to_sign(request, &authorization, date)?;
        let key = self.signing_key(&known.secret, authorization.date);
        if hex(&hmac(&key, string_to_sign.as_bytes())) != authorization.signature {
            return refused(
                "SignatureDoesNotMatch",
                "The request signature we calculated does not match the signature you provided. Check your AWS \
                 Secret Access Key and signing method. Consult the service documentation for details.",
            );
        }
        Ok(())
    }

    fn check_scope(&self, authorization: &Authorization<'_>, date: &str) -> Result<(), Refused> {
        let wrong = |message: &str| refused("SignatureDoesNotMatch", message);
        if authorization.region != self.region {
            return wrong("Credential should be scoped to a valid region.");
        }
        if authorization.service != "sqs" {
            return wrong("Credential should be scoped to correct service: 'sqs'.");
        }
        if !date.starts_with(authorization.date) || authorization.date.len() != 8 {
            return wrong(
                "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP.",
            );
        }
        Ok(())
    }

    fn signing_key(&self, secret: &str, date: &str) -> [u8; 32] {
        let name = (secret.to_owned(), date.to_owned());
        *self.derived.lock().unwrap().entry(name).or_insert_with(|| {
            let key = hmac(format!("AWS4{secret}").as_bytes(), date.as_bytes());
            let key = hmac(&key, self.region.as_bytes());
            let key = hmac(&key, b"sqs");
            hmac(&key, b"aws4_request")
        })
    }
}

fn check_token(request: &Request<'_>, known: &KnownKey, now_ms: i64) -> Result<(), Refused> {
    if request.header("x-amz-security-token") != known.session_token.as_deref() {
        return refused("InvalidClientTokenId", "The security token included in the request is invalid.");
    }
    if known.expires_at_ms.is_some_and(|expires| expires <= now_ms) {
        return refused("ExpiredToken", "The security token included in the request is expired");
    }
    Ok(())
}

fn check_date(date: &str, now_ms: i64) -> Result<(), Refused> {
    let format = format_description!("[year][month][day]T[hour][minute][second]Z");
    let Ok(signed_at) = PrimitiveDateTime::parse(date, &format) else {
        return refused(
            "IncompleteSignature",
            format!("Date must be in ISO-8601 'basic format'. Got '{date}'."),
        );
    };
    let signed_at_ms = signed_at.assume_utc().unix_timestamp() * 1_000;
    if signed_at_ms < now_ms - SKEW_MS_MAX {
        let message = format!("Signature expired: {date} is now earlier than the server's time - 5 min.");
        return refused("SignatureDoesNotMatch", message);
    }
    if signed_at_ms > now_ms + SKEW_MS_MAX {
        let message =
            format!("Signature not yet current: {date} is still later than the server's time + 5 min.");
        return refused("SignatureDoesNotMatch", message);
    }
    Ok(())
}

fn string_to_sign(
    request: &Request<'_>,
    authorization: &Authorization<'_>,
    date: &str,
) -> Result<String, Refused> {
    let signed: Vec<&str> = authorization.signed_headers.split(';').collect();
    for (name, _) in &request.headers {
        let is_amz = name.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("x-amz-"));
        let is_signed = |signed: &&str| signed.bytes().eq(name.bytes().map(|byte| byte.to_ascii_lowercase()));
        if (is_amz || name.eq_ignore_ascii_case("host")) && !signed.iter().any(is_signed) {
            let message = format!("'{name}' must be a 'SignedHeader' in the AWS Authorization.");
            return refused("SignatureDoesNotMatch", message);
        }
    }
    let body_hash = hex(&Sha256::digest(request.body).into());
    if let Some(claimed) = request.header("x-amz-content-sha256")
        && claimed != body_hash
    {
        return refused(
            "SignatureDoesNotMatch",
            "The provided 'x-amz-content-sha256' header does not match what was computed.",
        );
    }
    // A path is encoded once more.
    let mut canonical = format!("{}\n{}\n\n", request.method, request.path.replace('%', "%25"));
    for name in &signed {
        canonical.push_str(name);
        canonical.push(':');
        let mut separator = "";
        for word in request.header(name).unwrap_or_default().split_ascii_whitespace() {
            canonical.push_str(separator);
            canonical.push_str(word);
            separator = " ";
        }
        canonical.push('\n');
    }
    let _ = write!(canonical, "\n{}\n{body_hash}", authorization.signed_headers);
    let hash = hex(&Sha256::digest(canonical.as_bytes()).into());
    let Authorization { date: day, region, service, .. } = authorization;
    Ok(format!("AWS4-HMAC-SHA256\n{date}\n{day}/{region}/{service}/aws4_request\n{hash}"))
}

fn hmac(key: &[u8], data: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length is a key");
    mac.update(data);
    mac.finalize().into_bytes().into()
}

fn hex(bytes: &[u8; 32]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(64);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}
