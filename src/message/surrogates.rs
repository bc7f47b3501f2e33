//! Half a surrogate pair: JavaScript writes it into JSON, as the escape of one half, and Rust's JSON readers refuse it.

/// Replaces every escape of half a surrogate pair (`\ud83d` alone) by that of U+FFFD, as ioredis does. `None` if the
/// text has none.
pub fn replace_lone_surrogates(json: &str) -> Option<String> {
    let mut repaired = String::new();
    let mut copied = 0;
    let mut at = 0;
    // In valid JSON, a backslash is always the start of an escape.
    while let Some(found) = json.get(at..).and_then(|rest| rest.find('\\')) {
        at += found;
        match (unit(json, at), unit(json, at + 6)) {
            (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => at += 12,
            (Some(0xD800..=0xDFFF), _) => {
                repaired.push_str(&json[copied..at]);
                repaired.push_str("\\ufffd");
                at += 6;
                copied = at;
            }
            (Some(_), _) => at += 6,
            // The escaped character may have several bytes in invalid JSON.
            (None, _) => at += 1 + json[at + 1..].chars().next().map_or(0, char::len_utf8),
        }
    }
    (copied > 0).then(|| repaired + &json[copied..])
}

/// The UTF-16 code unit whose `\uXXXX` begins there.
fn unit(json: &str, at: usize) -> Option<u16> {
    let digits = json.get(at..at + 6)?.strip_prefix("\\u")?;
    let is_hexadecimal = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_hexadecimal.then(|| u16::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_pair_becomes_the_replacement_character() {
        for (json, repaired) in [
            (r#""\ud83d""#, r#""\ufffd""#),
            (r#""\uDE00x""#, r#""\ufffdx""#),
            (r#""\ud83d\ud83d\ude00\ude00""#, r#""\ufffd\ud83d\ude00\ufffd""#),
            (r#"{"\ud83d":"é\\\ud83d"}"#, r#"{"\ufffd":"é\\\ufffd"}"#),
            (r#""\ud83d\n\ude00""#, r#""\ufffd\n\ufffd""#),
        ] {
            assert_eq!(replace_lone_surrogates(json).as_deref(), Some(repaired), "{json}");
        }
    }

    #[test]
    fn text_without_half_a_pair_is_left_alone() {
        for json in [
            "",
            r#"{"a":"\ud83d\ude00"}"#,
            r#""\\ud83d""#,
            r#""\u00e9\\""#,
            "\\",
            "\\é",
            "\\u",
            "\\ud83",
            "\\ud83x",
            "\\uééé",
        ] {
            assert_eq!(replace_lone_surrogates(json), None, "{json}");
        }
    }
}
