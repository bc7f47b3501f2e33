//! Parses what credential sources answer: XML from STS, JSON from the container and instance metadata endpoints. Pure.
//!
//! An error never quotes an answer, which may hold secrets. Values and nodes are counted before they are parsed.

use roxmltree::{Document, Node};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Credentials;
use super::redaction::{quotable, redact};
use crate::clock::EpochMs;
use crate::json::holds_at_most;
use crate::log::{peer_code, peer_text};

/// A JSON document has about ten values, an answer of STS about twenty nodes and one attribute.
const VALUES_MAX: usize = 1_000;
const EQUALS_MAX: usize = 100;
/// The names of key id, secret, session token and expiration.
type FieldNames = [&'static str; 4];
const OF_STS: FieldNames = ["AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration"];
const OF_METADATA: FieldNames = ["AccessKeyId", "SecretAccessKey", "Token", "Expiration"];

/// Temporary credentials from an answer whose fields `get` looks up. All four are required.
pub fn temporary<'a>(
    names: FieldNames,
    get: impl Fn(&str) -> Option<&'a str>,
) -> Result<Credentials, String> {
    let field = |name: &str| match get(name).map(str::trim) {
        Some(value) if !value.is_empty() => Ok(value.to_owned()),
        _ => Err(format!("it has no {name}")),
    };
    let [id, secret, token, expiration] = names;
    let expires_at = OffsetDateTime::parse(&field(expiration)?, &Rfc3339)
        .ok()
        .and_then(|at| i64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok())
        .ok_or_else(|| format!("its {expiration} is not a date"))?;
    let access_key_id = field(id)?;
    // It appears in the log.
    if access_key_id.len() > 128 || !access_key_id.chars().all(|letter| letter.is_ascii_graphic()) {
        return Err(format!("its {id} is not a key id"));
    }
    Ok(Credentials {
        access_key_id,
        secret_access_key: field(secret)?,
        session_token: Some(field(token)?),
        expires_at: Some(EpochMs(expires_at)),
    })
}

/// The credentials in the JSON document of an endpoint of containers or instances.
pub fn document_credentials(body: &[u8]) -> Result<Credentials, String> {
    let document = document(body).ok_or("it is not JSON")?;
    temporary(OF_METADATA, |name| document.get(name)?.as_str())
}

/// The credentials in STS's answer to an `AssumeRole…` action.
pub fn sts_credentials(body: &[u8]) -> Result<Credentials, String> {
    let text = String::from_utf8_lossy(body);
    let document = xml(&text).ok_or("it is not XML")?;
    let found = element(&document, "Credentials").ok_or("it has no Credentials")?;
    temporary(OF_STS, |name| child_text(found, name))
}

/// The ARN in STS's answer to `GetCallerIdentity`.
pub fn caller_arn(body: &[u8]) -> Result<String, String> {
    let text = String::from_utf8_lossy(body);
    let document = xml(&text).ok_or("it is not XML")?;
    let arn = element(&document, "Arn").and_then(|arn| arn.text()?.trim().strip_prefix("arn:"));
    match arn {
        Some(arn) if arn.chars().all(|letter| letter.is_ascii_graphic()) => Ok(format!("arn:{arn}")),
        _ => Err("it has no ARN".to_owned()),
    }
}

/// Code and message of an error: a JSON document in any of AWS's spellings, or the `Error` element of its query protocol.
/// Either may be empty.
pub fn error(body: &[u8]) -> Option<(String, String)> {
    if let Some(document) = document(body) {
        let text = |names: &[&str]| {
            let found = names.iter().find_map(|name| document.get(*name)?.as_str());
            found.unwrap_or_default().to_owned()
        };
        return Some((text(&["__type", "code", "Code"]), text(&["message", "Message"])));
    }
    let text = String::from_utf8_lossy(body);
    let document = xml(&text)?;
    let error = element(&document, "Error")?;
    let text = |name| child_text(error, name).unwrap_or_default().to_owned();
    Some((text("Code"), text("Message")))
}

/// The code of a refusal and its text for an error, `HTTP 403 AccessDenied (not allowed)`: one short line without these
/// secrets. The code is empty if the answer has none.
pub fn refusal(status: u16, code: &str, message: &str, secrets: &[&str]) -> (String, String) {
    let code = redact(bare_code(code).unwrap_or_default(), secrets);
    // Redacted before it is shortened: half a secret would not be found.
    let message = peer_text(&redact(quotable(message), secrets));
    let text = format!("HTTP {status} {code} ({message})").replace(" ()", "").replace("  ", " ");
    (code, text.trim_end().to_owned())
}

/// `com.amazonaws.sqs#QueueDoesNotExist` -> `QueueDoesNotExist`; headers append `;Sender` or `:http://…`.
pub fn bare_code(code: &str) -> Option<&str> {
    let code = code.rsplit_once('#').map_or(code, |(_, bare)| bare);
    peer_code(code.split([';', ':']).next().unwrap_or_default().trim())
}

fn document(body: &[u8]) -> Option<Value> {
    holds_at_most(body, VALUES_MAX).then(|| serde_json::from_slice(body).ok())?
}

fn xml(text: &str) -> Option<Document<'_>> {
    // The parser allocates all elements and attributes that these could begin, and compares each attribute and
    // namespace with all others.
    let count = |mark: u8| text.bytes().filter(|byte| *byte == mark).count();
    let is_small = count(b'<') <= VALUES_MAX && count(b'=') <= EQUALS_MAX;
    is_small.then(|| Document::parse(text).ok())?
}

fn element<'a, 'input>(document: &'a Document<'input>, name: &str) -> Option<Node<'a, 'input>> {
    document.descendants().find(|node| node.tag_name().name() == name)
}

fn child_text<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    node.children().find(|child| child.tag_name().name() == name)?.text()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const WHOLE: &str = r#"<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
        <AssumeRoleWithWebIdentityResult><AssumedRoleUser><Arn>arn:aws:sts::1:assumed-role/r/s</Arn></AssumedRoleUser>
        <Credentials><AccessKeyId>ASIA1</AccessKeyId><SecretAccessKey>hunter2</SecretAccessKey>
        <SessionToken>tok3n</SessionToken><Expiration>2030-01-01T00:00:00Z</Expiration></Credentials>
        </AssumeRoleWithWebIdentityResult><ResponseMetadata><RequestId>1</RequestId></ResponseMetadata>
        </AssumeRoleWithWebIdentityResponse>"#;

    #[test]
    fn a_complete_answer_of_sts_gives_credentials() {
        let credentials = sts_credentials(WHOLE.as_bytes()).unwrap();
        assert_eq!(credentials.access_key_id, "ASIA1");
        assert_eq!(credentials.secret_access_key, "hunter2");
        assert_eq!(credentials.session_token.as_deref(), Some("tok3n"));
        assert_eq!(credentials.expires_at, Some(EpochMs(1_893_456_000_000)));
    }

    #[test]
    fn a_caller_is_known_by_its_arn() {
        let of = |arn: &str| {
            let answer = format!(
                "<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>{arn}</Arn></GetCallerIdentityResult>\
                 </GetCallerIdentityResponse>"
            );
            caller_arn(answer.as_bytes())
        };
        assert_eq!(of("arn:aws:iam::1:user/u").unwrap(), "arn:aws:iam::1:user/u");
        assert!(of("two words").is_err());
        assert!(caller_arn(b"<html/>").is_err() && caller_arn(b"").is_err());
    }

    #[test]
    fn an_incomplete_answer_of_sts_says_what_is_missing_and_repeats_nothing() {
        for (from, to, what) in [
            ("<AccessKeyId>ASIA1", "<AccessKeyId>", "it has no AccessKeyId"),
            (">hunter2<", "><", "it has no SecretAccessKey"),
            ("SessionToken>", "Token>", "it has no SessionToken"),
            ("2030-01-01T00:00:00Z", "hunter2", "its Expiration is not a date"),
            ("ASIA1", "hun ter2", "its AccessKeyId is not a key id"),
            ("<Credentials>", "<Others>", "it is not XML"),
            ("Credentials>", "Others>", "it has no Credentials"),
            ("<Ass", "<!DOCTYPE a [<!ENTITY x \"y\">]><Ass", "it is not XML"),
        ] {
            assert_eq!(sts_credentials(WHOLE.replace(from, to).as_bytes()).unwrap_err(), what, "{to}");
        }
    }

    #[test]
    fn a_document_needs_all_four_fields() {
        let whole = json!({
            "AccessKeyId": "ASIA1",
            "SecretAccessKey": "s3cret",
            "Token": "t0ken",
            "Expiration": "2030-01-01T00:00:00Z",
            "RoleArn": "arn:aws:iam::123456789012:role/r",
        });
        let read = |document: &Value| document_credentials(document.to_string().as_bytes());
        let credentials = read(&whole).unwrap();
        assert_eq!(credentials.access_key_id, "ASIA1");
        assert_eq!(credentials.session_token.as_deref(), Some("t0ken"));
        assert_eq!(credentials.expires_at, Some(EpochMs(1_893_456_000_000)));
        for name in OF_METADATA {
            for bad in [json!(null), json!(""), json!(7)] {
                let mut document = whole.clone();
                document[name] = bad;
                assert_eq!(read(&document).unwrap_err(), format!("it has no {name}"));
            }
        }
        assert_eq!(read(&json!([])).unwrap_err(), "it has no Expiration");
    }

    #[test]
    fn deep_and_wide_xml_is_refused() {
        let number = |count: usize, of: fn(usize) -> String| (0..count).map(of).collect::<Vec<_>>().concat();
        for costly in [
            "<a>".repeat(2_000) + &"</a>".repeat(2_000),
            "<a>".repeat(60_000) + &"</a>".repeat(60_000),
            format!("<a>{}</a>", "<b/>".repeat(20_000)),
            format!("<a{}/>", number(50_000, |number| format!(" a{number}=''"))),
            number(900, |number| format!("<a xmlns:n{number}='{number}'>")) + &"</a>".repeat(900),
            "=".repeat(500_000),
            "<".repeat(500_000),
        ] {
            assert_eq!(sts_credentials(costly.as_bytes()).unwrap_err(), "it is not XML");
        }
    }

    #[test]
    fn a_refusal_is_quoted_in_one_short_line_without_the_secret() {
        let quoted = |status: u16, body: &str| {
            let (code, message) = error(body.as_bytes()).unwrap_or_default();
            refusal(status, &code, &message, &["t0ken-of-a-pod"]).1
        };
        assert_eq!(
            quoted(
                403,
                "<ErrorResponse xmlns=\"x\"><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>Not authorized\n \
                 to t0ken-of-a-pod</Message></Error><RequestId>1</RequestId></ErrorResponse>"
            ),
            "HTTP 403 AccessDenied (Not authorized to [redacted])"
        );
        for foreign in ["", "<html><body>Bad Gateway</body></html>"] {
            assert_eq!(quoted(403, foreign), "HTTP 403");
        }

        for (body, expected) in [
            (
                r#"{"code":"NoIdInRequest","message":"no id\nin t0ken-of-a-pod"}"#,
                "HTTP 400 NoIdInRequest (no id in [redacted])",
            ),
            (r#"{"Code":"Denied"}"#, "HTTP 400 Denied"),
            (r#"{"message":"no"}"#, "HTTP 400 (no)"),
            (r#"{"code":7}"#, "HTTP 400"),
            ("<html>t0ken-of-a-pod</html>", "HTTP 400"),
        ] {
            assert_eq!(quoted(400, body), expected);
        }
        let long = quoted(400, &format!(r#"{{"message":"{}"}}"#, "ä".repeat(1000)));
        assert!(long.chars().count() < 400, "{long}");
    }
}
