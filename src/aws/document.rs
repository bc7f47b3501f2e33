//! The JSON document in which the endpoints of containers and of instances hand out credentials. Pure.
//!
//! It is taken strictly: a missing field is an error that names it. What may be quoted of a refusal is cut down to
//! one short line, without the secrets that the caller knows.

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Credentials;
use super::redaction::redact;
use crate::entitlement::EpochMs;
use crate::json::holds_at_most;
use crate::log::{peer_code, peer_text};

/// Documents have about ten.
const VALUES_MAX: usize = 1_000;

/// The body as JSON, if it is one of a document's size.
pub fn read(body: &[u8]) -> Result<Value, String> {
    if !holds_at_most(body, VALUES_MAX) {
        return Err(format!("it holds more than {VALUES_MAX} values"));
    }
    serde_json::from_slice(body).map_err(|_| "it is not JSON".to_owned())
}

/// `AccessKeyId`, `SecretAccessKey`, `Token` and `Expiration`, all of them texts. The error says which is not there.
pub fn credentials(document: &Value) -> Result<Credentials, String> {
    let field = |name: &str| match document.get(name).and_then(Value::as_str) {
        Some(value) if !value.is_empty() => Ok(value.to_owned()),
        _ => Err(format!("it has no {name}")),
    };
    let expires_at = OffsetDateTime::parse(&field("Expiration")?, &Rfc3339)
        .ok()
        .and_then(|at| i64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok())
        .ok_or("its Expiration is not a date")?;
    Ok(Credentials {
        access_key_id: field("AccessKeyId")?,
        secret_access_key: field("SecretAccessKey")?,
        session_token: Some(field("Token")?),
        expires_at: Some(EpochMs(expires_at)),
    })
}

/// The code and the words of a refusal, `{"code","message"}` in either case, as an error quotes them. None if the
/// body is something else. `secret` is cut out, should it be repeated.
pub fn refusal(body: &[u8], secret: Option<&str>) -> Option<String> {
    let document = read(body).ok()?;
    let text = |names: [&str; 2]| {
        let found = names.iter().find_map(|name| document.get(*name)?.as_str());
        let found = found.unwrap_or_default();
        redact(found, secret)
    };
    let code = text(["code", "Code"]);
    let code = peer_code(&code).unwrap_or_default().to_owned();
    let words = peer_text(&text(["message", "Message"]));
    match (code.is_empty(), words.is_empty()) {
        (true, true) => None,
        (false, true) => Some(code),
        (true, false) => Some(words),
        (false, false) => Some(format!("{code}: {words}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_whole_document_is_credentials_and_a_missing_field_is_named() {
        let whole = json!({
            "AccessKeyId": "ASIA1",
            "SecretAccessKey": "s3cret",
            "Token": "t0ken",
            "Expiration": "2030-01-01T00:00:00Z",
            "RoleArn": "arn:aws:iam::123456789012:role/r",
        });
        let taken = credentials(&whole).unwrap();
        assert_eq!(taken.access_key_id, "ASIA1");
        assert_eq!(taken.secret_access_key, "s3cret");
        assert_eq!(taken.session_token.as_deref(), Some("t0ken"));
        assert_eq!(taken.expires_at, Some(EpochMs(1_893_456_000_000)));
        for name in ["AccessKeyId", "SecretAccessKey", "Token", "Expiration"] {
            for bad in [json!(null), json!(""), json!(7)] {
                let mut document = whole.clone();
                document[name] = bad;
                assert_eq!(credentials(&document).unwrap_err(), format!("it has no {name}"));
            }
        }
        let mut document = whole.clone();
        document["Expiration"] = json!("s3cret");
        assert_eq!(
            credentials(&document).unwrap_err(),
            "its Expiration is not a date"
        );
        assert_eq!(credentials(&json!([])).unwrap_err(), "it has no Expiration");
    }

    #[test]
    fn a_refusal_is_quoted_in_one_short_line_without_the_secret() {
        let quoted = |body: &str| refusal(body.as_bytes(), Some("t0ken-of-a-pod"));
        assert_eq!(
            quoted(r#"{"code":"NoIdInRequest","message":"no id\nin t0ken-of-a-pod"}"#).as_deref(),
            Some("NoIdInRequest: no id in [redacted]")
        );
        assert_eq!(quoted(r#"{"Code":"Denied"}"#).as_deref(), Some("Denied"));
        assert_eq!(quoted(r#"{"message":"no"}"#).as_deref(), Some("no"));
        assert_eq!(quoted(r#"{"code":7}"#), None);
        assert_eq!(quoted("<html>t0ken-of-a-pod</html>"), None);
        let long = quoted(&format!(r#"{{"message":"{}"}}"#, "ä".repeat(1000))).unwrap();
        assert!(long.chars().count() < 400);
    }
}
