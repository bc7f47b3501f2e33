//! The tree of a text as Stigg writes it, in half the time that `serde_json` takes.
//!
//! What is out of the ordinary (a name with an escape in it, a number that is no small integer, more values than are
//! plausible, whatever is no JSON) is left to the reading in the room above, or to `serde_json` for that one value. So
//! this one never has to tell what is wrong, and only what `serde_json` would read alike may come out of it.

use bumpalo::Bump;
use serde_json::Number;

use super::{Field, Fields, Json, above};
use crate::json::marks::{BLOCK, all_marks};

/// Values in one another. `serde_json` reads some more.
const DEPTH_MAX: usize = 100;
/// A message of one usage has some thirty fields under way at a time.
const FIELDS_AT_FIRST: usize = 32;
/// An integer of so many digits is far from where its type ends.
const DIGITS_MAX: usize = 15;

/// The tree of a text that holds at most so many values.
pub(super) fn read<'a>(text: &'a str, values_max: usize, room: &'a Bump) -> Option<Json<'a>> {
    let mut reader = Reader {
        text,
        room,
        marks: all_marks(text.as_bytes()),
        at: 0,
        left: values_max,
        elements: Vec::new(),
        fields: Vec::with_capacity(FIELDS_AT_FIRST),
    };
    let mut tree = Json::Null;
    reader.value(DEPTH_MAX, |_, whole| tree = whole)?;
    reader.skip_space();
    (reader.at == text.len()).then_some(tree)
}

/// Reads from `at` on.
struct Reader<'a> {
    text: &'a str,
    room: &'a Bump,
    /// Where there are quotes, backslashes and control characters in it.
    marks: Vec<u64>,
    at: usize,
    /// So many values more may come.
    left: usize,
    /// Where lists and objects are put together until they are whole, those inside upon those outside: so each takes as
    /// much of the room as it needs.
    elements: Vec<Json<'a>>,
    fields: Vec<Field<'a>>,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        // Nearly always there is none.
        if self.peek().is_some_and(|byte| byte <= b' ') {
            self.skip_some_space();
        }
    }

    #[cold]
    fn skip_some_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    /// Reads this mark, and the space before it. False, and nothing but space read, if another stands there.
    fn takes(&mut self, mark: u8) -> bool {
        self.skip_space();
        let is_there = self.peek() == Some(mark);
        self.at += usize::from(is_there);
        is_there
    }

    /// Reads a value and puts it where it stays. In line, and each sort by itself: moved about, whatever sort it is of, a
    /// value costs as much as its text.
    #[expect(clippy::inline_always, reason = "measured: a fifth of all the reading")]
    #[inline(always)]
    fn value(&mut self, depth: usize, put: impl FnOnce(&mut Self, Json<'a>)) -> Option<()> {
        self.left = self.left.checked_sub(1)?;
        self.skip_space();
        match self.peek()? {
            b'"' => {
                let (text, is_escaped) = self.string()?;
                let text = if is_escaped { self.unescaped(text)? } else { text };
                put(self, Json::Text(text));
            }
            b'{' => {
                let fields = self.object(depth.checked_sub(1)?)?;
                put(self, Json::Object(fields));
            }
            b'[' => {
                let list = self.list(depth.checked_sub(1)?)?;
                put(self, Json::List(list));
            }
            b'n' => {
                self.word("null")?;
                put(self, Json::Null);
            }
            b't' => {
                self.word("true")?;
                put(self, Json::Bool(true));
            }
            b'f' => {
                self.word("false")?;
                put(self, Json::Bool(false));
            }
            _ => {
                let number = self.number()?;
                let number = self.room.alloc(number);
                put(self, Json::Number(number));
            }
        }
        Some(())
    }

    fn word(&mut self, word: &str) -> Option<()> {
        let rest = self.text.as_bytes().get(self.at..)?;
        self.at += word.len();
        rest.starts_with(word.as_bytes()).then_some(())
    }

    #[inline(never)]
    fn list(&mut self, depth: usize) -> Option<&'a [Json<'a>]> {
        self.at += 1;
        let height = self.elements.len();
        if !self.takes(b']') {
            loop {
                self.value(depth, |reader, element| reader.elements.push(element))?;
                if !self.takes(b',') {
                    break;
                }
            }
            self.takes(b']').then_some(())?;
        }
        Some(above(height, &mut self.elements, self.room))
    }

    #[inline(never)]
    fn object(&mut self, depth: usize) -> Option<Fields<'a>> {
        self.at += 1;
        let height = self.fields.len();
        if !self.takes(b'}') {
            loop {
                self.skip_space();
                let (name, is_escaped) = self.string()?;
                self.takes(b':').then_some(())?;
                if is_escaped {
                    return None;
                }
                self.value(depth, |reader, value| {
                    reader.fields.push((name, value));
                })?;
                if !self.takes(b',') {
                    break;
                }
            }
            self.takes(b'}').then_some(())?;
        }
        Some(Fields::above(height, &mut self.fields, self.room))
    }

    /// Reads a text: what stands between its quotes, and whether there are escapes in it.
    fn string(&mut self) -> Option<(&'a str, bool)> {
        (self.peek()? == b'"').then_some(())?;
        let start = self.at + 1;
        let mut at = self.mark_from(start)?;
        let is_escaped = match self.text.as_bytes().get(at)? {
            b'"' => false,
            b'\\' => true,
            _ => return None,
        };
        if is_escaped {
            // To the quote that no backslash stands before.
            loop {
                match self.text.as_bytes().get(at)? {
                    b'"' => break,
                    b'\\' => at += 2,
                    _ => at += 1,
                }
            }
        }
        self.at = at + 1;
        Some((self.text.get(start..at)?, is_escaped))
    }

    /// What the text between two quotes says.
    #[cold]
    fn unescaped(&self, text: &str) -> Option<&'a str> {
        let text: String = serde_json::from_str(&["\"", text, "\""].concat()).ok()?;
        Some(self.room.alloc_str(&text))
    }

    /// The first mark from here on.
    fn mark_from(&self, at: usize) -> Option<usize> {
        let mut block = at / BLOCK;
        let mut marks = self.marks.get(block)? >> (at % BLOCK) << (at % BLOCK);
        while marks == 0 {
            block += 1;
            marks = *self.marks.get(block)?;
        }
        Some(block * BLOCK + marks.trailing_zeros() as usize)
    }

    fn number(&mut self) -> Option<Number> {
        let rest = self.text.get(self.at..)?;
        let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
        let length = rest.bytes().take_while(|byte| is_part(byte)).count();
        let number = rest.get(..length)?;
        self.at += length;
        let is_small = length <= DIGITS_MAX
            && number.bytes().all(|byte| byte.is_ascii_digit())
            && (length == 1 || !number.starts_with('0'));
        if !is_small {
            return serde_json::from_str(number).ok();
        }
        let digits = number.bytes().map(|digit| u64::from(digit - b'0'));
        (length > 0).then(|| digits.fold(0, |number, digit| number * 10 + digit).into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const USUAL: &str = r#"{"type":"entitlements.updated","entitlements":[{"feature":{"id":"feature-1","meterType":null},
        "usageLimit":1000000000,"hasSoftLimit":false,"currentUsage":7.25,"name":"Grüße \"漢字\" \u00fc\n","enumValues":[],
        "negative":-12,"large":18446744073709551615,"nested":{"a":[true,{"b":{}}]}}],"timestamp":"2026-11-24T08:00:00.000Z"}"#;

    fn read_value(text: &str, values_max: usize) -> Option<Value> {
        read(text, values_max, &Bump::new()).map(Json::to_value)
    }

    #[test]
    fn what_is_read_is_what_serde_json_reads() {
        let whole: Value = serde_json::from_str(USUAL).unwrap();
        assert_eq!(read_value(USUAL, 1_000), Some(whole));
        for plain in [
            "0",
            " [ ] ",
            "-0",
            "1e5",
            "\"\"",
            "123456789012345678",
            "{\"a\" : 1 , \"b\":[2]}",
            "null\n",
        ] {
            let expected: Value = serde_json::from_str(plain).unwrap();
            assert_eq!(read_value(plain, 10), Some(expected), "{plain}");
        }
    }

    #[test]
    fn whatever_becomes_of_a_text_nothing_is_read_that_serde_json_reads_otherwise() {
        const PIECES: &[u8] = b"\"\\{}[]:,-+.0123456789eEntfu \n\t\x01ab\x7f";
        let mut random = fastrand::Rng::with_seed(7);
        let (mut read_alike, mut left_to_others) = (0, 0);
        for _ in 0..20_000 {
            let mut bytes = USUAL.as_bytes().to_vec();
            for _ in 0..random.usize(1..4) {
                let (at, piece) = (
                    random.usize(0..bytes.len()),
                    PIECES[random.usize(0..PIECES.len())],
                );
                match random.u8(0..4) {
                    0 => bytes[at] = piece,
                    1 => bytes.insert(at, piece),
                    2 => drop(bytes.remove(at)),
                    _ => bytes.truncate(bytes.len() - random.usize(0..40)),
                }
            }
            let Ok(text) = String::from_utf8(bytes) else {
                continue;
            };
            if let Some(tree) = read_value(&text, 1_000) {
                let expected: Value = serde_json::from_str(&text).expect(&text);
                assert_eq!(tree, expected, "{text}");
                read_alike += 1;
            } else if serde_json::from_str::<Value>(&text).is_ok() {
                left_to_others += 1;
            }
        }
        assert!(
            read_alike > 2_000 && left_to_others < 100,
            "{read_alike}, {left_to_others}"
        );
    }

    #[test]
    fn what_is_too_deep_or_too_much_is_left_to_others() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(read_value(&nested(DEPTH_MAX), 1_000).is_some());
        assert!(read_value(&nested(DEPTH_MAX + 1), 1_000).is_none());
        assert!(read_value("[1,2,3]", 4).is_some());
        assert!(read_value("[1,2,3]", 3).is_none());
    }
}
