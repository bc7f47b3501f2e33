//! Secrets are cut out of what peers say before anybody reads it: refusals quote what they refuse.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

const INSTEAD: &str = "[redacted]";

/// A shorter text is no secret of AWS's, and cutting it out would only garble what the peer says.
const SECRET_LEN_MIN: usize = 8;

/// What URLs and forms leave as it is.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The text without these secrets, in every spelling in which a peer quotes what it was sent: as it is, as in a form or a
/// URL (in either case of hexadecimal digits), and as in JSON that escapes its slashes.
pub fn redact<'a>(text: &str, secrets: impl IntoIterator<Item = &'a str>) -> String {
    let mut text = text.to_owned();
    for secret in secrets
        .into_iter()
        .filter(|secret| secret.len() >= SECRET_LEN_MIN)
    {
        let encoded = utf8_percent_encode(secret, ENCODED).to_string();
        let of_a_form: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        let spellings = [
            secret.to_owned(),
            lower(&encoded),
            encoded,
            lower(&of_a_form),
            of_a_form,
            secret.replace('/', "\\/"),
        ];
        for spelling in spellings {
            text = text.replace(&spelling, INSTEAD);
        }
    }
    text
}

/// AWS's words up to where it quotes the signed request, which holds the session token.
pub fn quotable(words: &str) -> &str {
    let quotation = [
        "The Canonical String",
        "The String-to-Sign",
        "Canonical String for this request",
    ]
    .iter()
    .filter_map(|start| words.find(start))
    .min();
    quotation.map_or(words, |at| &words[..at]).trim_end()
}

/// With lower hexadecimal digits.
fn lower(encoded: &str) -> String {
    let mut letters = encoded.chars();
    let mut lower = String::with_capacity(encoded.len());
    while let Some(letter) = letters.next() {
        lower.push(letter);
        if letter == '%' {
            lower.extend(letters.by_ref().take(2).map(|digit| digit.to_ascii_lowercase()));
        }
    }
    lower
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_cut_out_in_every_spelling() {
        let secret = "a/B+c=~ é";
        for quoted in [
            "a/B+c=~ é",
            "a%2FB%2Bc%3D~%20%C3%A9",
            "a%2fB%2bc%3d~%20%c3%a9",
            "a%2FB%2Bc%3D%7E+%C3%A9",
            "a\\/B+c=~ é",
        ] {
            let told = format!("Token={quoted}&x=1");
            assert_eq!(redact(&told, [secret]), "Token=[redacted]&x=1", "{quoted}");
        }
    }

    #[test]
    fn what_is_too_short_for_a_secret_garbles_nothing() {
        let told = "AccessDenied: access to the resource is denied";
        assert_eq!(redact(told, ["", "c", "Access", "denied"]), told);
    }
}
