//! Inputs as bytes: for every kind of text, and for what is none.

use fastrand::Rng;

/// Pieces that end a text early, open another one, or are read as something else than they look.
const PIECES: [&[u8]; 44] = [
    b"null",
    b"true",
    b"0",
    b"-0",
    b"-1e308",
    b"1e999",
    b"-1e-999",
    b"18446744073709551616",
    b"-9223372036854775808",
    b"9223372036854775807",
    b"4294967296",
    b"0.1e1",
    b"1E+",
    b"\"\"",
    b"\"",
    b"\\",
    b"\\\"",
    b"\\u0000",
    b"\\ud800",
    b"\\udc00\\ud800",
    b"\\u12",
    b"[",
    b"]",
    b"{",
    b"}",
    b"[[[[[[[[",
    b"{\"\":",
    b",",
    b":",
    b"\xEF\xBB\xBF",
    b"\xFF",
    b"\xC0\x80",
    b"\xED\xA0\x80",
    b"\xF4\x90\x80\x80",
    b"\xE2\x80\xA8",
    b"\0",
    b"\r\n",
    b"<",
    b">",
    b"</",
    b"<![CDATA[",
    b"]]>",
    b"&#x0;",
    b"&lt;",
];

/// A length that is mostly small, sometimes large.
pub fn length(rng: &mut Rng) -> usize {
    match rng.u32(..200) {
        0 => rng.usize(..65_536),
        1..10 => rng.usize(..4_096),
        _ => rng.usize(..200),
    }
}

/// Bytes without any sense.
pub fn arbitrary(rng: &mut Rng) -> Vec<u8> {
    let length = length(rng);
    let printable = rng.bool();
    (0..length).map(|_| if printable { rng.u8(0x20..0x7F) } else { rng.u8(..) }).collect()
}

/// Changes a few places.
pub fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>) {
    for _ in 0..=rng.u32(..4) {
        let start = rng.usize(..=bytes.len());
        let end = (start + rng.usize(..16)).min(bytes.len());
        match rng.u32(..8) {
            0 => drop(bytes.drain(start..end)),
            1 | 2 => drop(bytes.splice(start..end, PIECES[rng.usize(..PIECES.len())].iter().copied())),
            3 => {
                let copy = bytes[start..end].to_vec();
                let at = rng.usize(..=bytes.len());
                bytes.splice(at..at, copy);
            }
            4 => {
                if let Some(byte) = bytes.get_mut(start) {
                    *byte ^= 1 << rng.u32(..8);
                }
            }
            5 => {
                if let Some(byte) = bytes.get_mut(start) {
                    *byte = rng.u8(..);
                }
            }
            6 => bytes.truncate(start),
            _ => number(rng, bytes, start),
        }
    }
}

/// Changes the first number behind a place: lengths and counts are claims.
fn number(rng: &mut Rng, bytes: &mut Vec<u8>, from: usize) {
    let is_digit = |byte: &u8| byte.is_ascii_digit();
    let Some(start) = bytes[from..].iter().position(is_digit).map(|at| from + at) else {
        return;
    };
    let digits = bytes[start..].iter().take_while(|byte| is_digit(byte)).count();
    let other = match rng.u32(..6) {
        0 => "0".to_owned(),
        1 => "-1".to_owned(),
        2 => rng.u64(..).to_string(),
        3 => (1_u128 << rng.u32(..70)).to_string(),
        4 => ((1_u128 << rng.u32(..70)) - 1).to_string(),
        _ => rng.u32(..100).to_string(),
    };
    bytes.splice(start..start + digits, other.into_bytes());
}
