//! Numbers, times and sizes as people read them, and text that is safe in HTML. Pure.

use std::fmt::{Display, Formatter};

/// What stands where there is nothing to show.
pub(super) const NOTHING: &str = "–";

/// Text as HTML, in content and in quoted attributes alike: whatever it holds, it is only read.
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        let mut plain = self.0;
        while let Some(at) = plain.find(['&', '<', '>', '"', '\'']) {
            formatter.write_str(&plain[..at])?;
            formatter.write_str(match plain.as_bytes()[at] {
                b'&' => "&amp;",
                b'<' => "&lt;",
                b'>' => "&gt;",
                b'"' => "&quot;",
                _ => "&#39;",
            })?;
            plain = &plain[at + 1..];
        }
        formatter.write_str(plain)
    }
}

/// The same for who listens: a dash is no word.
pub(super) struct Spoken<'a>(pub(super) &'a str);

impl Display for Spoken<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        Escaped(if self.0 == NOTHING { "none" } else { self.0 }).fmt(formatter)
    }
}

/// With as many digits as say something.
pub(super) fn number(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let decimals = match value {
        ..0.1 => 3,
        ..10.0 => 2,
        ..100.0 => 1,
        _ => return grouped(value),
    };
    let text = format!("{value:.decimals$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A whole number, with thin gaps between the thousands.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::with_capacity(digits.len() + digits.len() / 3 * 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// A count.
#[allow(clippy::cast_precision_loss)] // what is shown is rounded anyway
pub(super) fn count(count: u64) -> String {
    grouped(count as f64)
}

pub(super) fn per_second(value: f64) -> String {
    format!("{}/s", number(value))
}

pub(super) fn per_minute(value: f64) -> String {
    format!("{}/min", number(value))
}

/// A time in its two largest units.
pub(super) fn duration(secs: f64) -> String {
    if secs < 1.0 {
        return format!("{} ms", number(secs * 1_000.0));
    }
    if secs < 60.0 {
        return format!("{} s", number(secs));
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    // at least 60, and no age of this world
    let secs = secs.round() as u64;
    let (large, large_unit, small, small_unit) = if secs < 3_600 {
        (secs / 60, "min", secs % 60, "s")
    } else if secs < 86_400 {
        (secs / 3_600, "h", secs % 3_600 / 60, "min")
    } else {
        (secs / 86_400, "d", secs % 86_400 / 3_600, "h")
    };
    if small == 0 {
        format!("{large} {large_unit}")
    } else {
        format!("{large} {large_unit} {small} {small_unit}")
    }
}

/// A size of memory.
pub(super) fn bytes(bytes: f64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes, "bytes");
    for larger in UNITS {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, larger);
    }
    format!("{} {unit}", number(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_comes_from_outside_is_only_read() {
        let nasty = "</td><script>alert('x')</script>\" onload=\"y&z é";
        assert_eq!(
            Escaped(nasty).to_string(),
            "&lt;/td&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&quot; onload=&quot;y&amp;z é"
        );
        assert_eq!(Spoken("<1>").to_string(), "&lt;1&gt;");
        assert_eq!(Spoken(NOTHING).to_string(), "none");
    }

    #[test]
    fn numbers_have_as_many_digits_as_say_something() {
        let shown = [0.0, 0.05, 0.25, 2.0, 9.876, 42.42, 100.0, 1_234_567.8].map(number);
        assert_eq!(
            shown,
            [
                "0",
                "0.05",
                "0.25",
                "2",
                "9.88",
                "42.4",
                "100",
                "1\u{202f}234\u{202f}568"
            ]
        );
    }

    #[test]
    fn times_come_in_their_two_largest_units() {
        let shown = [
            0.0004, 0.25, 1.5, 59.0, 60.0, 3_599.0, 3_600.0, 90_000.0, 172_800.0,
        ]
        .map(duration);
        assert_eq!(
            shown,
            [
                "0.4 ms",
                "250 ms",
                "1.5 s",
                "59 s",
                "1 min",
                "59 min 59 s",
                "1 h",
                "1 d 1 h",
                "2 d"
            ]
        );
    }

    #[test]
    fn sizes_come_in_their_largest_unit() {
        let shown = [0.0, 1023.0, 1_048_576.0, 1.5e15].map(bytes);
        assert_eq!(
            shown,
            ["0 bytes", "1\u{202f}023 bytes", "1 MiB", "1\u{202f}364 TiB"]
        );
    }
}
