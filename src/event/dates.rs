//! Dates as the messages spell them: ISO 8601 or epoch milliseconds.
//!
//! What is no date, or lies outside what a JavaScript `Date` can hold, is `None`: to the SDKs an invalid date is a
//! missing one. So is the number 0, which they test for truth before they read it; that also keeps a careless
//! zero from being taken for the far-past mark, which overwrites anything. Text that spells the epoch is a date to them
//! as any other: an entitlement valid until 1970 has ended, and as the time of a change it is the far-past mark.

use time::{Date, Month};

use super::tree::Json;
use crate::entitlement::EpochMs;

/// A JavaScript `Date` ends 100,000,000 days either side of 1970.
const MS_MAX: i64 = 8_640_000_000_000_000;
/// The Julian day of 1970-01-01.
const EPOCH_JULIAN_DAY: i32 = 2_440_588;

/// Reads a date from a JSON value: ISO 8601 text, a number of epoch milliseconds, or such a number as text.
pub(super) fn of(value: &Json<'_>) -> Option<EpochMs> {
    let ms = match value {
        Json::Number(number) => number.as_i64().or_else(|| number.as_f64().and_then(truncated))?,
        Json::Text(text) if text.len() >= 12 && text.bytes().all(|byte| byte.is_ascii_digit()) => {
            text.parse().ok()?
        }
        Json::Text(text) => return iso(text),
        Json::Null | Json::Bool(_) | Json::List(_) | Json::Object(_) => return None,
    };
    (ms != 0 && (-MS_MAX..=MS_MAX).contains(&ms)).then_some(EpochMs(ms))
}

/// A fraction of a millisecond is cut off, as `new Date(1.9)` does.
fn truncated(float: f64) -> Option<i64> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the fraction is meant to go; the range is checked"
    )]
    (float.abs() <= 9e15).then_some(float as i64)
}

/// `2026-11-20`, `2026-11-20T08:00Z`, `2026-11-20T08:00:00.000+02:00` …; a date alone is midnight UTC. A time
/// without a zone is read as UTC, which is what it is to an SDK on a host set to UTC.
fn iso(text: &str) -> Option<EpochMs> {
    let mut rest = Cursor(text.as_bytes());
    let year = rest.digits(4)?;
    rest.expect(b"-")?;
    let month = rest.digits(2)?;
    rest.expect(b"-")?;
    let day = rest.digits(2)?;
    let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
    let date = Date::from_calendar_date(i32::try_from(year).ok()?, month, u8::try_from(day).ok()?).ok()?;
    let days = i64::from(date.to_julian_day() - EPOCH_JULIAN_DAY);
    if rest.is_at_end() {
        return Some(EpochMs(days * 86_400_000));
    }

    rest.expect(b"Tt ")?;
    let hour = rest.digits(2).filter(|hour| *hour < 24)?;
    rest.expect(b":")?;
    let minute = rest.digits(2).filter(|minute| *minute < 60)?;
    let mut second = 0;
    let mut ms = 0;
    if rest.expect(b":").is_some() {
        second = rest.digits(2).filter(|second| *second < 60)?;
        if rest.expect(b".,").is_some() {
            ms = rest.fraction_ms()?;
        }
    }
    let offset_minutes = rest.offset_minutes()?;
    if !rest.is_at_end() {
        return None;
    }
    let minutes = (days * 24 + i64::from(hour)) * 60 + i64::from(minute) - offset_minutes;
    Some(EpochMs(
        minutes * 60_000 + i64::from(second) * 1_000 + i64::from(ms),
    ))
}

/// What is left to read of a date.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads one of these bytes.
    fn expect(&mut self, any_of: &[u8]) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        any_of.contains(first).then(|| self.0 = rest)?;
        Some(*first)
    }

    fn digit(&mut self) -> Option<u32> {
        let (first, rest) = self.0.split_first()?;
        first.is_ascii_digit().then(|| self.0 = rest)?;
        Some(u32::from(first - b'0'))
    }

    /// Reads a number of exactly so many digits.
    fn digits(&mut self, count: usize) -> Option<u32> {
        let mut number = 0;
        for _ in 0..count {
            number = number * 10 + self.digit()?;
        }
        Some(number)
    }

    /// Reads at least one digit after the decimal mark; what is finer than a millisecond is cut off.
    fn fraction_ms(&mut self) -> Option<u32> {
        let mut ms = self.digit()? * 100;
        for unit in [10, 1] {
            match self.digit() {
                Some(digit) => ms += digit * unit,
                None => return Some(ms),
            }
        }
        while self.digit().is_some() {}
        Some(ms)
    }

    /// Reads `Z`, `+02:00`, `+0200`, `+02` or nothing: minutes east of UTC.
    fn offset_minutes(&mut self) -> Option<i64> {
        let Some(mark) = self.expect(b"Zz+-") else {
            return Some(0);
        };
        if mark.eq_ignore_ascii_case(&b'z') {
            return Some(0);
        }
        let hours = self.digits(2).filter(|hours| *hours < 24)?;
        let minutes = if self.expect(b":").is_some() || !self.is_at_end() {
            self.digits(2).filter(|minutes| *minutes < 60)?
        } else {
            0
        };
        let east = i64::from(hours) * 60 + i64::from(minutes);
        Some(if mark == b'-' { -east } else { east })
    }
}

#[cfg(test)]
mod tests {
    use bumpalo::Bump;
    use serde_json::{Value, json};

    use super::super::tree::Reading;
    use super::*;

    fn of_json(value: &Value) -> Option<EpochMs> {
        of(&Json::parse(&value.to_string(), &Bump::new(), Reading::Any).unwrap())
    }

    #[test]
    fn every_spelling_of_one_moment_is_that_moment() {
        for spelling in [
            json!("2026-11-20T08:00:00.000Z"),
            json!("2026-11-20T08:00:00Z"),
            json!("2026-11-20T08:00Z"),
            json!("2026-11-20t08:00:00z"),
            json!("2026-11-20T08:00:00"),
            json!("2026-11-20 08:00:00+00"),
            json!("2026-11-20T10:30:00.0009+02:30"),
            json!("2026-11-20T10:00:00+0200"),
            json!("2026-11-19T22:00:00.000-10:00"),
            json!(1_795_161_600_000_i64),
            json!(1_795_161_600_000.75),
            json!("1795161600000"),
        ] {
            assert_eq!(of_json(&spelling), Some(EpochMs(1_795_161_600_000)), "{spelling}");
        }
    }

    #[test]
    fn a_date_alone_is_midnight_utc() {
        assert_eq!(of_json(&json!("1970-01-02")), Some(EpochMs(86_400_000)));
        assert_eq!(of_json(&json!("2024-02-29")), Some(EpochMs(1_709_164_800_000)));
    }

    #[test]
    fn fractions_are_read_to_the_millisecond() {
        assert_eq!(of_json(&json!("1970-01-01T00:00:00.1Z")), Some(EpochMs(100)));
        assert_eq!(of_json(&json!("1970-01-01T00:00:00.12Z")), Some(EpochMs(120)));
        assert_eq!(of_json(&json!("1970-01-01T00:00:00.123999Z")), Some(EpochMs(123)));
        assert_eq!(of_json(&json!("1969-12-31T23:59:59.999Z")), Some(EpochMs(-1)));
    }

    #[test]
    fn what_is_no_date_is_missing() {
        for not_a_date in [
            json!(""),
            json!("soon"),
            json!("2026-13-01T00:00:00Z"),
            json!("2026-02-29"),
            json!("2026-11-20T24:00:00Z"),
            json!("2026-11-20T08:60:00Z"),
            json!("2026-11-20T08:00:00."),
            json!("2026-11-20T08:00:00Zulu"),
            json!("2026-11-20T08:00:00+2"),
            json!("2026-11-20T"),
            json!("20261120"),
            json!("99999999999999999999999999"),
            json!("２０２６-11-20"),
            json!(0),
            json!(0.4),
            json!(9.1e15),
            json!(u64::MAX),
            json!(f64::MAX),
            json!(true),
            json!({"seconds": 1}),
        ] {
            assert_eq!(of_json(&not_a_date), None, "{not_a_date}");
        }
    }
}
