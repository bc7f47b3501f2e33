//! What STS answers, read strictly. Pure.
//!
//! Nothing of a wrong answer is repeated: it may hold credentials. XML is read by a parser that does not recurse, with
//! a limit to the number of nodes and without document types, so that no answer costs more than its own length.

use roxmltree::{Document, Node, ParsingOptions};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Credentials;
use crate::aws::quotable;
use crate::entitlement::EpochMs;
use crate::log::{peer_code, peer_text};

/// A good answer has about twenty nodes.
const NODES_MAX: u32 = 1_000;
/// A good answer has one attribute, and at most two of these at the end of each value.
const EQUALS_MAX: usize = 100;

/// What STS says when it refuses.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// STS's code, or `Http<status>` where the answer names none.
    pub code: String,
    /// STS's words, in one line; may be empty.
    pub words: String,
}

/// The credentials in the answer to `action`, or what is wrong with it.
pub fn credentials(action: &str, body: &[u8]) -> Result<Credentials, String> {
    let text = std::str::from_utf8(body).map_err(|_| "it is not UTF-8")?;
    let document = parse(text).ok_or("it is not XML")?;
    let root = document.root_element();
    if root.tag_name().name() != format!("{action}Response") {
        return Err(format!("it is not an {action}Response"));
    }
    let found = child(root, &format!("{action}Result")).and_then(|result| child(result, "Credentials"));
    let Some(found) = found else {
        return Err("it has no Credentials".to_owned());
    };
    let field = |name: &str| match child(found, name).and_then(|node| node.text()).map(str::trim) {
        Some(value) if !value.is_empty() => Ok(value.to_owned()),
        _ => Err(format!("it has no {name}")),
    };
    let expires_at = OffsetDateTime::parse(&field("Expiration")?, &Rfc3339)
        .ok()
        .and_then(|at| i64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok())
        .ok_or("its Expiration is not a date")?;
    let access_key_id = field("AccessKeyId")?;
    if !access_key_id.chars().all(|letter| letter.is_ascii_graphic()) || access_key_id.len() > 128 {
        return Err("its AccessKeyId is not one".to_owned());
    }
    Ok(Credentials {
        access_key_id,
        secret_access_key: field("SecretAccessKey")?,
        session_token: Some(field("SessionToken")?),
        expires_at: Some(EpochMs(expires_at)),
    })
}

/// The ARN in the answer to `GetCallerIdentity`, or what is wrong with it.
pub fn caller(body: &str) -> Result<String, &'static str> {
    let document = parse(body).ok_or("the answer is not XML")?;
    let root = document.root_element();
    let arn = (root.tag_name().name() == "GetCallerIdentityResponse")
        .then(|| child(root, "GetCallerIdentityResult"))
        .flatten()
        .and_then(|result| child(result, "Arn"))
        .and_then(|arn| arn.text())
        .map(str::trim)
        .ok_or("the answer names no caller; is this STS?")?;
    let is_fit =
        arn.starts_with("arn:") && arn.len() <= 2_048 && arn.chars().all(|letter| letter.is_ascii_graphic());
    if is_fit {
        Ok(arn.to_owned())
    } else {
        Err("the caller in the answer has no ARN")
    }
}

/// The code and the words of an answer with another status than 200. Secrets were cut before.
pub fn refusal(status: u16, body: &str) -> Refusal {
    let named = error_in(body).and_then(|(code, words)| {
        let code = peer_code(code.trim()).unwrap_or_default().to_owned();
        let words = peer_text(quotable(&words));
        (!code.is_empty()).then_some(Refusal { code, words })
    });
    named.unwrap_or_else(|| Refusal {
        code: format!("Http{status}"),
        words: String::new(),
    })
}

/// Code and message of an `Error` element, as AWS's query protocol has it; either may be empty.
pub(crate) fn error_in(body: &str) -> Option<(String, String)> {
    let document = parse(body)?;
    let error = document
        .root_element()
        .descendants()
        .find(|node| node.tag_name().name() == "Error")?;
    let text = |name| {
        child(error, name)
            .and_then(|node| node.text())
            .unwrap_or_default()
            .to_owned()
    };
    Some((text("Code"), text("Message")))
}

fn parse(text: &str) -> Option<Document<'_>> {
    // The parser makes room for as many elements and attributes as these could begin, and compares each attribute
    // and namespace with all others: counted first, they cost no more than reading them.
    let count = |mark: u8| text.bytes().filter(|byte| *byte == mark).count();
    if count(b'<') > 2 * NODES_MAX as usize || count(b'=') > EQUALS_MAX {
        return None;
    }
    let options = ParsingOptions {
        nodes_limit: NODES_MAX,
        allow_dtd: false,
        ..ParsingOptions::default()
    };
    Document::parse_with_options(text, options).ok()
}

fn child<'a, 'input>(node: Node<'a, 'input>, name: &str) -> Option<Node<'a, 'input>> {
    node.children().find(|child| child.tag_name().name() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>
        <AssumedRoleUser><Arn>arn:aws:sts::1:assumed-role/r/s</Arn></AssumedRoleUser>
        <Credentials><AccessKeyId>ASIA1</AccessKeyId><SecretAccessKey>hunter2</SecretAccessKey>
        <SessionToken>tok3n</SessionToken><Expiration>2030-01-01T00:00:00Z</Expiration></Credentials>
        </AssumeRoleResult><ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></AssumeRoleResponse>"#;

    #[test]
    fn a_whole_answer_gives_credentials() {
        let credentials = credentials("AssumeRole", WHOLE.as_bytes()).unwrap();
        assert_eq!(credentials.access_key_id, "ASIA1");
        assert_eq!(credentials.secret_access_key, "hunter2");
        assert_eq!(credentials.session_token.as_deref(), Some("tok3n"));
        assert_eq!(credentials.expires_at, Some(EpochMs(1_893_456_000_000)));
    }

    #[test]
    fn a_caller_is_told_by_its_arn() {
        let of = |arn: &str| {
            caller(&format!(
                "<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>{arn}</Arn></GetCallerIdentityResult>\
                 </GetCallerIdentityResponse>"
            ))
        };
        assert_eq!(of("arn:aws:iam::1:user/u").unwrap(), "arn:aws:iam::1:user/u");
        assert!(of("two words").is_err());
        assert!(caller("<html/>").is_err() && caller("").is_err());
    }

    #[test]
    fn a_wrong_answer_says_what_is_wrong_and_repeats_nothing() {
        for (from, to, what) in [
            ("<AccessKeyId>ASIA1", "<AccessKeyId>", "it has no AccessKeyId"),
            (">hunter2<", "><", "it has no SecretAccessKey"),
            ("SessionToken>", "Token>", "it has no SessionToken"),
            ("2030-01-01T00:00:00Z", "hunter2", "its Expiration is not a date"),
            ("ASIA1", "hun ter2", "its AccessKeyId is not one"),
            ("<Credentials>", "<Others>", "it is not XML"),
            ("AssumeRoleResponse", "Other", "it is not an AssumeRoleResponse"),
            ("AssumeRoleResult", "Other", "it has no Credentials"),
            ("<Ass", "<!DOCTYPE a [<!ENTITY x \"y\">]><Ass", "it is not XML"),
        ] {
            let broken = WHOLE.replace(from, to);
            assert_eq!(
                credentials("AssumeRole", broken.as_bytes()).unwrap_err(),
                what,
                "{to}"
            );
        }
        assert_eq!(
            credentials("AssumeRoleWithWebIdentity", WHOLE.as_bytes()).unwrap_err(),
            "it is not an AssumeRoleWithWebIdentityResponse"
        );
        assert_eq!(credentials("AssumeRole", b"\xff").unwrap_err(), "it is not UTF-8");
    }

    #[test]
    fn deep_and_wide_answers_are_refused_without_harm() {
        for depth in [2_000, 60_000] {
            let deep = "<a>".repeat(depth) + &"</a>".repeat(depth);
            assert_eq!(
                credentials("AssumeRole", deep.as_bytes()).unwrap_err(),
                "it is not XML"
            );
        }
        let wide = format!("<a>{}</a>", "<b/>".repeat(20_000));
        assert_eq!(refusal(500, &wide).code, "Http500");
    }

    #[test]
    fn attributes_and_namespaces_without_end_are_refused_before_they_are_compared() {
        let number = |count: usize, of: fn(usize) -> String| (0..count).map(of).collect::<Vec<_>>().concat();
        let attributes = format!("<a{}/>", number(50_000, |number| format!(" a{number}=''")));
        let namespaces =
            number(900, |number| format!("<a xmlns:n{number}='{number}'>")) + &"</a>".repeat(900);
        for costly in [attributes, namespaces, "=".repeat(500_000), "<".repeat(500_000)] {
            assert_eq!(
                credentials("AssumeRole", costly.as_bytes()).unwrap_err(),
                "it is not XML"
            );
        }
    }

    #[test]
    fn a_refusal_is_read_where_it_is_sts_s_own() {
        let own = "<ErrorResponse xmlns=\"x\"><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>Not \
                   authorized\n to perform</Message></Error><RequestId>1</RequestId></ErrorResponse>";
        assert_eq!(
            refusal(403, own),
            Refusal {
                code: "AccessDenied".to_owned(),
                words: "Not authorized to perform".to_owned()
            }
        );
        for foreign in [
            "",
            "<html><body>Bad Gateway</body></html>",
            "{\"message\": \"no\"}",
        ] {
            assert_eq!(
                refusal(502, foreign),
                Refusal {
                    code: "Http502".to_owned(),
                    words: String::new()
                }
            );
        }
    }
}
