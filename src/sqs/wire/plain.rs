//! What SQS itself answers, read straight into what is wanted of it.
//!
//! An answer with ten messages may be of megabytes, nearly all of it bodies, and a body has a backslash every ten
//! bytes. Here these are looked for in 64 bytes at a time, what stands between is copied by sixteen, and nothing that is
//! not wanted takes memory. Whatever is not exactly of the form that SQS documents is left to the tolerant reading in the
//! room above, which looks at a whole tree and tells what is wrong.

use crate::json::marks::{BLOCK, is_mark, marks};

/// One message of an answer to a receive.
#[derive(Debug, Default)]
pub(super) struct Message<'a> {
    pub(super) id: Option<String>,
    pub(super) receipt_handle: Option<String>,
    pub(super) body: Option<String>,
    /// Attributes: numbers as text.
    pub(super) sent_timestamp: Option<&'a str>,
    pub(super) receive_count: Option<&'a str>,
}

/// As many messages as SQS ever hands out at a time, and as many entries as a batch has.
const BATCH_MAX: usize = 10;

/// The messages of an answer to a receive.
pub(super) fn messages(answer: &[u8]) -> Option<Vec<Message<'_>>> {
    let mut reader = Reader::new(answer);
    let mut messages = Vec::new();
    reader.object(|reader, name| match name {
        "Messages" => {
            // Of a name that is there twice the last one counts, here and below.
            messages.clear();
            reader.list(|reader| {
                // More than were asked for: of thousands of empty ones, the list alone would be a hundred times the text.
                if messages.len() == BATCH_MAX {
                    return None;
                }
                messages.push(message(reader)?);
                Some(())
            })
        }
        _ => None,
    })?;
    reader.is_at_end().then_some(messages)
}

/// The ids of the entries that succeeded, if an answer to a batch tells of no other.
pub(super) fn all_successful(answer: &[u8]) -> Option<Vec<&str>> {
    let mut reader = Reader::new(answer);
    let mut ids = Vec::new();
    reader.object(|reader, name| match name {
        "Successful" => {
            ids.clear();
            reader.list(|reader| {
                if ids.len() == BATCH_MAX {
                    return None;
                }
                ids.push(id_of(reader)?);
                Some(())
            })
        }
        // An entry of it is more than this reader takes.
        "Failed" => reader.list(|_| None),
        _ => None,
    })?;
    reader.is_at_end().then_some(ids)
}

/// The id of an entry that has nothing else.
fn id_of<'a>(reader: &mut Reader<'a>) -> Option<&'a str> {
    let mut id = None;
    reader.object(|reader, name| match name {
        "Id" => {
            id = Some(reader.bare_text()?);
            Some(())
        }
        _ => None,
    })?;
    id
}

fn message<'a>(reader: &mut Reader<'a>) -> Option<Message<'a>> {
    let mut message = Message::default();
    reader.object(|reader, name| {
        match name {
            "MessageId" => message.id = Some(reader.text()?),
            "ReceiptHandle" => message.receipt_handle = Some(reader.text()?),
            "Body" => message.body = Some(reader.text()?),
            "MD5OfBody" | "MD5OfMessageAttributes" => {
                reader.bare_text()?;
            }
            "Attributes" => {
                (message.sent_timestamp, message.receive_count) = (None, None);
                return reader.object(|reader, name| {
                    let value = reader.bare_text()?;
                    match name {
                        "SentTimestamp" => message.sent_timestamp = Some(value),
                        "ApproximateReceiveCount" => message.receive_count = Some(value),
                        _ => {}
                    }
                    Some(())
                });
            }
            _ => return None,
        }
        Some(())
    })?;
    Some(message)
}

/// Reads JSON text from its start; `None` for whatever is not as wanted.
struct Reader<'a> {
    rest: &'a [u8],
    /// Where texts are put together before their length is known.
    scratch: Vec<u8>,
}

/// The size of the scratch at first: most messages fit.
const SCRATCH_BYTES: usize = 2 * 1024;

/// So many bytes are copied together, as more would often be too many.
const PIECE: usize = 16;
/// What is read together: a block, and room behind it for a piece that starts in it.
const WINDOW: usize = BLOCK + PIECE;

impl<'a> Reader<'a> {
    fn new(answer: &'a [u8]) -> Self {
        Self {
            rest: answer,
            scratch: Vec::new(),
        }
    }

    fn skip_space(&mut self) {
        while let [b' ' | b'\n' | b'\r' | b'\t', rest @ ..] = self.rest {
            self.rest = rest;
        }
    }

    fn is_at_end(&mut self) -> bool {
        self.skip_space();
        self.rest.is_empty()
    }

    /// Reads this mark, and the space before it. False, and nothing read, if another stands there.
    fn takes(&mut self, mark: u8) -> bool {
        self.skip_space();
        match self.rest.split_first() {
            Some((first, rest)) if *first == mark => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    fn expect(&mut self, mark: u8) -> Option<()> {
        self.takes(mark).then_some(())
    }

    /// Reads an object; `field` reads the value of each field.
    fn object(&mut self, mut field: impl FnMut(&mut Self, &'a str) -> Option<()>) -> Option<()> {
        self.expect(b'{')?;
        if self.takes(b'}') {
            return Some(());
        }
        loop {
            let name = self.bare_text()?;
            self.expect(b':')?;
            field(self, name)?;
            if !self.takes(b',') {
                return self.expect(b'}');
            }
        }
    }

    /// Reads a list; `element` reads each of its elements.
    fn list(&mut self, mut element: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.expect(b'[')?;
        if self.takes(b']') {
            return Some(());
        }
        loop {
            element(self)?;
            if !self.takes(b',') {
                return self.expect(b']');
            }
        }
    }

    /// A text without an escape in it.
    fn bare_text(&mut self) -> Option<&'a str> {
        self.expect(b'"')?;
        let end = self.rest.iter().position(|byte| is_mark(*byte))?;
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest.strip_prefix(b"\"")?;
        std::str::from_utf8(text).ok()
    }

    /// A text, its escapes undone.
    fn text(&mut self) -> Option<String> {
        self.expect(b'"')?;
        let mut length = 0;
        loop {
            // No block becomes longer by being read.
            if self.scratch.len() < length + WINDOW {
                self.scratch.resize((2 * (length + WINDOW)).max(SCRATCH_BYTES), 0);
            }
            let end;
            let window = if let Some(window) = self.rest.first_chunk() {
                window
            } else {
                end = padded(self.rest);
                &end
            };
            let (read, is_whole) = self.block(window, &mut length)?;
            self.rest = self.rest.get(read..)?;
            if is_whole {
                return String::from_utf8(self.scratch[..length].to_vec()).ok();
            }
        }
    }

    /// Reads the first block of a window into the scratch, from `length` on: tells how many bytes of the window that was,
    /// and whether the quote at the text's end is among them.
    fn block(&mut self, window: &[u8; WINDOW], length: &mut usize) -> Option<(usize, bool)> {
        let out = self.scratch.get_mut(*length..)?.first_chunk_mut::<WINDOW>()?;
        let mut marks = marks(window.first_chunk()?);
        let (mut from, mut to) = (0, 0);
        loop {
            let mark = marks.trailing_zeros() as usize;
            // As a whole piece: what stands behind the mark is overwritten by what follows. Nearly always there is one.
            let mut copied = 0;
            loop {
                let piece = &window[from + copied..from + copied + PIECE];
                out[to + copied..to + copied + PIECE].copy_from_slice(piece);
                copied += PIECE;
                if from + copied >= mark {
                    break;
                }
            }
            to += mark - from;
            if mark == BLOCK {
                // The byte that an escape at the block's end left to be copied.
                let is_left = from == BLOCK;
                out[to] = window[BLOCK];
                *length += to + usize::from(is_left);
                return Some((BLOCK + usize::from(is_left), false));
            }
            match (window[mark], window[mark + 1]) {
                // These stand for themselves: each is copied with what is behind it, and is no mark any more.
                (b'\\', b'"' | b'\\' | b'/') => {
                    from = mark + 1;
                    marks &= !(0b11 << mark);
                }
                (b'\\', escape) => {
                    let (read, character) = rarer(escape, &window[mark + 2..])?;
                    to += character.encode_utf8(&mut out[to..]).len();
                    from = mark + 2 + read;
                    if from >= BLOCK {
                        *length += to;
                        return Some((from, false));
                    }
                    marks &= u64::MAX << from;
                }
                (b'"', _) => {
                    *length += to;
                    return Some((mark + 1, true));
                }
                _ => return None,
            }
        }
    }
}

/// What a rarer escape stands for, and how many of the bytes behind it belong to it. Two escapes that make one character
/// are rare enough for the other reading.
fn rarer(escape: u8, behind: &[u8]) -> Option<(usize, char)> {
    let character = match escape {
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'u' => {
            let digits = std::str::from_utf8(behind.first_chunk::<4>()?)
                .ok()
                .filter(|digits| !digits.starts_with('+'))?;
            return Some((4, char::from_u32(u32::from_str_radix(digits, 16).ok()?)?));
        }
        _ => return None,
    };
    Some((0, character))
}

/// The last bytes of an answer, and nothing behind them.
fn padded(bytes: &[u8]) -> [u8; WINDOW] {
    let mut window = [0; WINDOW];
    window[..bytes.len()].copy_from_slice(bytes);
    window
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body_of(escaped: &str) -> Option<String> {
        let answer = format!(r#"{{"Messages":[{{"Body":"{escaped}"}}]}}"#);
        messages(answer.as_bytes())?.pop()?.body
    }

    #[test]
    fn a_body_is_read_as_serde_json_reads_it_or_not_at_all() {
        for escaped in [
            "",
            "plain äöü 😀",
            r#"{\"a\":\"b\\\"c\"}"#,
            r"\n\r\t\b\f\/\\",
            r"\u0041\u00fc\u6f22x",
        ] {
            let expected: String = serde_json::from_str(&format!("\"{escaped}\"")).unwrap();
            assert_eq!(body_of(escaped), Some(expected), "{escaped}");
        }
        for odd in [
            r"\ud83d\ude00",
            r"\ud83d",
            r"\u+041",
            r"\u00",
            r"\x",
            r"\",
            "\" \"",
            "a\nb",
            "\0",
        ] {
            assert_eq!(body_of(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_mark_is_found_wherever_it_stands() {
        for length in 0..110 {
            for place in 0..length {
                for escape in [
                    r#"\""#,
                    r"\\",
                    r"\n",
                    r"\u00fc",
                    r#"\"\n\""#,
                    r#"\n\"\u00fc\\"#,
                    "ü",
                    "漢",
                ] {
                    let mut escaped = "x".repeat(length);
                    escaped.replace_range(place..=place, escape);
                    let expected: String = serde_json::from_str(&format!("\"{escaped}\"")).unwrap();
                    assert_eq!(body_of(&escaped), Some(expected), "{escaped}");
                }
            }
        }
    }

    #[test]
    fn what_sqs_does_not_send_is_left_to_others() {
        for other in [
            "",
            "{",
            "[]",
            "{} x",
            r#"{"Messages":null}"#,
            r#"{"Messages":[{}],}"#,
            r#"{"Messages":[{"Body":1}]}"#,
            r#"{"Messages":[{"New":"1"}]}"#,
            r#"{"Messages":[{"Attributes":{"SentTimestamp":1}}]}"#,
        ] {
            assert!(messages(other.as_bytes()).is_none(), "{other}");
        }
        assert!(messages(b"{\"Messages\":[{\"Body\":\"\xff\"}]}").is_none());
        assert!(messages(b" { } ").unwrap().is_empty());
        assert_eq!(messages(br#"{ "Messages" : [ { } , { } ] }"#).unwrap().len(), 2);
    }

    #[test]
    fn a_batch_is_plain_when_nothing_failed() {
        let successful = br#"{"Successful":[{"Id":"0"},{"Id":"1"}],"Failed":[]}"#;
        assert_eq!(all_successful(successful), Some(vec!["0", "1"]));
        assert_eq!(all_successful(b"{}"), Some(vec![]));
        let eleven = format!(r#"{{"Successful":[{}]}}"#, [r#"{"Id":"0"}"#; 11].join(","));
        assert_eq!(all_successful(eleven.as_bytes()), None);
        assert_eq!(all_successful(br#"{"Failed":[{"Id":"0","Code":"x"}]}"#), None);
    }
}
