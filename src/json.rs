//! What `serde_json` lacks: a bound on the memory that a peer's text may take, JavaScript's lone surrogates, and a writer.
//! Pure.

use std::fmt::Write as _;

use serde_json::Number;

use crate::clock::EpochMs;

/// True if the text has at most one value for each eight bytes, and some thousands more. Documented messages have one for
/// more than twenty.
///
/// A parsed value has a size of its own: a list with one number in it takes four bytes as text and some five hundred
/// as a value. Text of such a shape would take more than a hundred times its length in memory, where a message
/// from Stigg takes ten. So whoever parses a peer's text into values counts first what begins one.
/// (How deep they may nest is bounded by serde_json: 127 levels.)
pub fn is_plausible(text: &[u8]) -> bool {
    holds_at_most(text, 4_096 + text.len() / 8)
}

/// True if the text, as JSON, holds at most about this many values: what begins one is counted (lists and objects count twice).
pub fn holds_at_most(text: &[u8], values_max: usize) -> bool {
    let (mut is_in_string, mut is_escaped) = (false, false);
    let begins_value = |byte: &&u8| {
        is_in_string ^= **byte == b'"' && !is_escaped;
        is_escaped = **byte == b'\\' && !is_escaped;
        !is_in_string && matches!(byte, b',' | b'[' | b'{')
    };
    text.iter().filter(begins_value).count() <= values_max
}

/// Replaces every escape of half a surrogate pair (`\ud83d` alone), which JavaScript writes and Rust's JSON readers refuse, by
/// that of U+FFFD, as ioredis does. `None` if the text has none.
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

/// JSON text that is being written, field by field: quicker than serde's derive, see `entitlement::stored`.
#[derive(Debug, Default)]
pub struct JsonText(pub String);

/// A value that can be written.
pub trait Put {
    /// Appends its JSON.
    fn put(self, json: &mut JsonText);
}

impl JsonText {
    /// What was written since the last time.
    pub fn take(&mut self) -> String {
        let text = self.0.clone();
        self.0.clear();
        text
    }

    /// Appends JSON as it is.
    pub fn raw(&mut self, json: &str) {
        self.0.push_str(json);
    }

    /// The comma before a value or a name, unless it is the first.
    pub fn separate(&mut self) {
        if !self.0.ends_with(['{', '[']) {
            self.raw(",");
        }
    }

    /// The name of a field.
    pub fn name(&mut self, name: &str) {
        self.separate();
        name.put(self);
        self.raw(":");
    }

    /// A field, unless it has no value. Its name is given as it is written: `,"name":`. The first of an object loses the comma.
    #[inline]
    pub fn field(&mut self, name: &'static str, value: Option<impl Put>) {
        if let Some(value) = value {
            self.raw(if self.0.ends_with('{') { &name[1..] } else { name });
            value.put(self);
        }
    }
}

impl Put for &str {
    fn put(self, json: &mut JsonText) {
        // Without an early end, which is quicker for most texts.
        let has_escape = self.bytes().fold(false, |has, byte| has | matches!(byte, ..b' ' | b'"' | b'\\'));
        if has_escape {
            return json.raw(&serde_json::Value::from(self).to_string());
        }
        json.raw("\"");
        json.raw(self);
        json.raw("\"");
    }
}

impl Put for &Number {
    fn put(self, json: &mut JsonText) {
        match self.as_i64() {
            Some(number) => json.raw(itoa::Buffer::new().format(number)),
            None => _ = write!(json.0, "{self}"),
        }
    }
}

impl Put for bool {
    fn put(self, json: &mut JsonText) {
        json.raw(if self { "true" } else { "false" });
    }
}

impl Put for EpochMs {
    fn put(self, json: &mut JsonText) {
        json.raw(itoa::Buffer::new().format(self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_a_value_is_counted_and_what_stands_in_texts_is_not() {
        let in_texts = r#"["[,{",",\",,","\\",4]"#;
        for (text, values) in [("[1,2,3]", 3), (r#"{"a":[1,{}],"b":0}"#, 5), ("7", 0), (in_texts, 4)] {
            assert!(holds_at_most(text.as_bytes(), values), "{text}");
            assert!(values == 0 || !holds_at_most(text.as_bytes(), values - 1), "{text}");
        }
    }

    #[test]
    fn a_short_text_is_plausible_whatever_it_holds() {
        assert!(is_plausible(b""));
        assert!(is_plausible("[0,".repeat(1_000).as_bytes()));
    }

    #[test]
    fn a_long_text_is_plausible_if_its_values_have_the_size_of_short_ids() {
        let listed = |entry: &str, count: usize| format!("[{}0]", entry.repeat(count));
        assert!(is_plausible(listed(r#""id-01","#, 100_000).as_bytes()));
        assert!(!is_plausible(listed("0,", 100_000).as_bytes()));
        assert!(!is_plausible(listed("[0],", 100_000).as_bytes()));
    }

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
