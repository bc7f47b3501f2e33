//! Removes secrets from what a peer says: refusals quote what they refuse.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// No secret of AWS is shorter. Removing shorter text would only garble the message.
const SECRET_LEN_MIN: usize = 8;
/// What RFC 3986 never encodes stays as it is.
pub(super) const UNRESERVED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The text without these secrets: as they are, as in a URL or a form, and as in JSON with escaped slashes. Upper and lower
/// case count as the same, as they are in percent-encoding.
pub(super) fn redact(text: &str, secrets: &[&str]) -> String {
    let mut text = text.to_owned();
    for secret in secrets.iter().filter(|secret| secret.len() >= SECRET_LEN_MIN) {
        for spelling in [
            (*secret).to_owned(),
            utf8_percent_encode(secret, UNRESERVED).to_string(),
            url::form_urlencoded::byte_serialize(secret.as_bytes()).collect(),
            secret.replace('/', "\\/"),
        ] {
            let (lower, spelling) = (text.to_ascii_lowercase(), spelling.to_ascii_lowercase());
            for (at, found) in lower.rmatch_indices(&spelling) {
                text.replace_range(at..at + found.len(), "[redacted]");
            }
        }
    }
    text
}

/// AWS's message up to where it quotes the signed request, which holds the session token.
pub(super) fn quotable(message: &str) -> &str {
    let quotation = ["The Canonical String", "The String-to-Sign", "Canonical String for this request"]
        .iter()
        .filter_map(|start| message.find(start))
        .min();
    quotation.map_or(message, |at| &message[..at]).trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_removed_in_every_spelling() {
        let secret = "a/B+c=~ é";
        for quoted in [
            "a/B+c=~ é",
            "a%2FB%2Bc%3D~%20%C3%A9",
            "a%2fB%2bc%3d~%20%c3%a9",
            "a%2FB%2Bc%3D%7E+%C3%A9",
            "a\\/B+c=~ é",
        ] {
            let told = format!("É Token={quoted}&x=1 {quoted}");
            assert_eq!(redact(&told, &[secret]), "É Token=[redacted]&x=1 [redacted]", "{quoted}");
        }
    }

    #[test]
    fn what_is_too_short_for_a_secret_garbles_nothing() {
        let told = "AccessDenied: access to the resource is denied";
        assert_eq!(redact(told, &["", "c", "Access", "denied"]), told);
    }
}
