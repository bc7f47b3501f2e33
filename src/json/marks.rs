//! Where a text in JSON ends, or something in it has to be undone: looked for among 64 bytes at a time. Pure.
//!
//! A body has such a mark every six bytes. Looked for one after the other, each waits for the one before; looked for
//! beforehand, the next one is the lowest bit that is left.

use wide::u8x16;

/// So many bytes are looked at together.
pub const BLOCK: usize = 64;
const LANES: usize = 16;
const HALF: usize = LANES / 2;

/// Ends a text, begins an escape, or must not stand in a text: a quote, a backslash, a control character.
pub fn is_mark(byte: u8) -> bool {
    matches!(byte, 0..b' ' | b'"' | b'\\')
}

/// A bit for each byte that is such a mark. The lowest bit is the first byte's.
pub fn marks(bytes: &[u8; BLOCK]) -> u64 {
    let (parts, _) = bytes.as_chunks::<LANES>();
    let bits_of = |part: &[u8; LANES]| u64::from(are_marks(u8x16::new(*part)).to_bitmask());
    parts
        .iter()
        .rev()
        .fold(0, |bits, part| bits << LANES | bits_of(part))
}

/// The same of a whole text, a number for each 64 bytes, and at the end for what is left.
pub fn all_marks(text: &[u8]) -> Vec<u64> {
    let (blocks, rest) = text.as_chunks::<BLOCK>();
    let mut found = Vec::with_capacity(blocks.len() + 1);
    found.extend(blocks.iter().map(marks));
    let mut last = [b' '; BLOCK];
    last[..rest.len()].copy_from_slice(rest);
    found.push(marks(&last));
    found
}

/// Whether a text in JSON may hold these bytes as they are.
pub fn is_plain(text: &[u8]) -> bool {
    let is_odd = |part: &[u8; LANES]| are_marks(u8x16::new(*part)).any();
    if let Some(last) = text.last_chunk() {
        // The last ones once more, with some of those before them.
        return !text.as_chunks::<LANES>().0.iter().any(is_odd) && !is_odd(last);
    }
    match (text.first_chunk::<HALF>(), text.last_chunk::<HALF>()) {
        (Some(first), Some(last)) => {
            let mut both = [0; LANES];
            both[..HALF].copy_from_slice(first);
            both[HALF..].copy_from_slice(last);
            !is_odd(&both)
        }
        _ => !text.iter().any(|byte| is_mark(*byte)),
    }
}

fn are_marks(bytes: u8x16) -> u8x16 {
    let is_control = bytes.min(u8x16::splat(b' ' - 1)).simd_eq(bytes);
    bytes.simd_eq(u8x16::splat(b'"')) | bytes.simd_eq(u8x16::splat(b'\\')) | is_control
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_found_wherever_it_stands() {
        for at in 0..BLOCK {
            for mark in [b'"', b'\\', b'\n', 0, 0x1f] {
                let mut bytes = [b' '; BLOCK];
                for (place, other) in b"\xa2\xdc!#[]x\x80\xff\x7f".iter().enumerate() {
                    bytes[place * 5] = *other;
                }
                assert_eq!(marks(&bytes), 0);
                assert!(is_plain(&bytes));
                bytes[at] = mark;
                let expected = 1 << at;
                assert_eq!(marks(&bytes), expected);
                assert_eq!(all_marks(&bytes), [expected, 0]);
                for end in 0..=BLOCK {
                    let part = &bytes[..end];
                    assert_eq!(is_plain(part), end <= at);
                    let found = if end > at { expected } else { 0 };
                    assert_eq!(all_marks(part)[0], found);
                }
            }
        }
    }
}
