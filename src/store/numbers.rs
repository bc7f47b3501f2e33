//! What the scripts answer, read at a glance: a few whole numbers. Pure.
//!
//! The library's parser is made for whatever a Redis may answer, and takes two microseconds for such an answer, a
//! tenth of all that a usage costs. Here is taken what is exactly of that form and has come whole; all else is the
//! library's affair.

use redis::Value;

/// Digits of a number, at most: as many as always fit.
const DIGITS_MAX: usize = 18;

/// The list of whole numbers that the bytes begin with, and how many bytes it takes. `None` if they begin with
/// something else, or do not hold all of it.
pub fn numbers(bytes: &[u8]) -> Option<(Value, usize)> {
    let [b'*', count @ b'0'..=b'9', b'\r', b'\n', rest @ ..] = bytes else {
        return None;
    };
    let count = usize::from(count - b'0');
    let mut rest = rest;
    let mut numbers = Vec::with_capacity(count);
    for _ in 0..count {
        let (number, behind) = number(rest)?;
        numbers.push(Value::Int(number));
        rest = behind;
    }
    Some((Value::Array(numbers), bytes.len() - rest.len()))
}

fn number(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let digits = bytes.strip_prefix(b":")?;
    let (is_negative, digits) = match digits.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, digits),
    };
    let length = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    if length == 0 || length > DIGITS_MAX {
        return None;
    }
    let (digits, rest) = digits.split_at(length);
    let number = digits
        .iter()
        .fold(0, |number, digit| number * 10 + i64::from(digit - b'0'));
    Some((
        if is_negative { -number } else { number },
        rest.strip_prefix(b"\r\n")?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_numbers_is_read_as_the_library_reads_it() {
        for answer in [
            "*3\r\n:0\r\n:2\r\n:1\r\n",
            "*0\r\n",
            "*2\r\n:-7\r\n:999999999999999999\r\n",
        ] {
            let behind = format!("{answer}+OK\r\n");
            let of_library = redis::parse_redis_value(answer.as_bytes()).unwrap();
            assert_eq!(
                numbers(behind.as_bytes()),
                Some((of_library, answer.len())),
                "{answer}"
            );
        }
    }

    #[test]
    fn whatever_else_is_left_to_the_library() {
        let whole = "*3\r\n:0\r\n:12\r\n:1\r\n";
        for length in 0..whole.len() {
            assert_eq!(numbers(&whole.as_bytes()[..length]), None, "{length}");
        }
        for other in [
            "+OK\r\n",
            "-NOSCRIPT No matching script\r\n",
            ":1\r\n",
            "*-1\r\n",
            "*12\r\n",
            "*1\r\n$1\r\n1\r\n",
            "*1\r\n:\r\n",
            "*1\r\n:--1\r\n",
            "*1\r\n:+1\r\n",
            "*1\r\n:1000000000000000000\r\n",
            "*1\r\n:1\n",
        ] {
            assert_eq!(numbers(other.as_bytes()), None, "{other}");
        }
    }
}
