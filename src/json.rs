//! Bounds the memory that a peer's JSON may take. Pure.
//!
//! A parsed value has a size of its own: a list with one number in it takes four bytes as text and some five hundred
//! as a value. Text of such a shape would take more than a hundred times its length in memory, where a message of
//! Stigg's takes ten. So whoever parses a peer's text says how many values it may hold, and they are counted first.
//! (How deep they may nest is bounded by serde_json: 127 levels.)

/// For a text of any shape: true up to one value for each eight bytes, and some thousands more. Documented messages have
/// one for more than twenty.
pub fn is_plausible(text: &[u8]) -> bool {
    holds_at_most(text, 4_096 + text.len() / 8)
}

/// True if the text, as JSON, holds at most about so many values (lists and objects count twice). Text that is no
/// JSON may give either answer.
pub fn holds_at_most(text: &[u8], values_max: usize) -> bool {
    // Each value takes at least one byte of its own.
    if text.len() <= values_max {
        return true;
    }
    let mut values = 0_usize;
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b',' | b'[' | b'{' => values += 1,
            b'"' => {
                // A text counts by what stands around it. Within it, a backslash hides the byte behind it.
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'"' => break,
                        b'\\' => {
                            bytes.next();
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    values <= values_max
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_and_what_stands_in_texts_is_not() {
        for (text, values) in [("[1,2,3]", 3), (r#"{"a":[1,{}],"b":0}"#, 5), (r#"["[,{",",\",,","\\",4]"#, 4)]
        {
            assert!(holds_at_most(text.as_bytes(), values), "{text}");
            assert!(!holds_at_most(text.as_bytes(), values - 1), "{text}");
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
}
