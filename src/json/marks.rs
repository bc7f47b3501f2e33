//! Where a text in JSON ends, or something in it has to be undone: looked for among eight bytes at a time. Pure.

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// Where among eight bytes the first quote or backslash stands.
pub fn first_mark(bytes: [u8; 8]) -> Option<usize> {
    place(marks(u64::from_le_bytes(bytes)))
}

/// The same, or the first control character.
pub fn first_mark_or_control(bytes: [u8; 8]) -> Option<usize> {
    let word = u64::from_le_bytes(bytes);
    place(marks(word) | below(word, b' '))
}

fn marks(word: u64) -> u64 {
    below(word ^ (ONES * u64::from(b'"')), 1) | below(word ^ (ONES * u64::from(b'\\')), 1)
}

/// The highest bit of each byte below `limit`; perhaps that of one behind it, too: the first counts.
fn below(word: u64, limit: u8) -> u64 {
    word.wrapping_sub(ONES * u64::from(limit)) & !word & HIGHS
}

fn place(marks: u64) -> Option<usize> {
    (marks != 0).then(|| marks.trailing_zeros() as usize / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_found_wherever_it_stands() {
        for at in 0..8 {
            let mut bytes = *b"\xa2\xdc!#[]x\x80";
            assert_eq!(first_mark(bytes), None);
            bytes[at] = b'"';
            assert_eq!(first_mark(bytes), Some(at));
            for mark in [b'"', b'\\', b'\n', 0, 0x1f] {
                let mut bytes = *b"x !\x80\xff#[\x7f";
                assert_eq!(first_mark_or_control(bytes), None);
                bytes[at] = mark;
                assert_eq!(first_mark_or_control(bytes), Some(at));
                assert_eq!(first_mark(bytes), (mark > b' ').then_some(at));
            }
        }
    }
}
