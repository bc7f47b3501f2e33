//! Dates as the messages spell them: ISO 8601 or epoch milliseconds; and which of them can be the time of a state.
//!
//! What is no date, or lies outside what a JavaScript `Date` can hold, is missing, as it is for the SDKs. So is the number
//! 0, which they test for truth before they read it. Text that spells the epoch is a date as any other: an entitlement
//! valid until 1970 has ended, and as the time of a state it is the far-past marker, which overwrites anything.

use std::cell::Cell;

use serde_json::Number;
use time::OffsetDateTime;
use time::format_description::well_known::{Iso8601, Rfc3339};

use crate::clock::EpochMs;

/// A JavaScript `Date` ends 100,000,000 days either side of 1970.
const MS_MAX: i64 = 8_640_000_000_000_000;
/// 2015-01-01: before Stigg existed. Seconds that are taken for milliseconds are in 1970.
const FIRST_STATE: EpochMs = EpochMs(1_420_070_400_000);
/// How far the clock of a producer may be ahead.
const AHEAD_MS_MAX: i64 = 3_600_000;
/// The far-past marker that readers write for an empty list: anything overwrites it.
const FAR_PAST: EpochMs = EpochMs(0);

/// Decides which times a state in a message can have, and counts the impossible ones.
#[derive(Debug)]
pub(super) struct StateTimes {
    latest: EpochMs,
    pub(super) impossible: Cell<u32>,
    /// The time of a state that has none of its own.
    pub(super) fallback: EpochMs,
}

impl StateTimes {
    /// For a message that was sent at this time.
    pub(super) fn new(sent_at: EpochMs, fallback: EpochMs) -> Self {
        Self { latest: EpochMs(sent_at.0.saturating_add(AHEAD_MS_MAX)), impossible: Cell::new(0), fallback }
    }

    /// The time, unless it is more than an hour after the message was sent, or before 2015.
    pub(super) fn possible(&self, at: Option<EpochMs>) -> Option<EpochMs> {
        let at = at?;
        let is_possible = at == FAR_PAST || (FIRST_STATE..=self.latest).contains(&at);
        self.impossible.set(self.impossible.get() + u32::from(!is_possible));
        is_possible.then_some(at)
    }
}

/// A number of epoch milliseconds. A fraction of one is cut off, as `new Date(1.9)` does.
pub(super) fn of_number(number: &Number) -> Option<EpochMs> {
    #[expect(clippy::cast_possible_truncation, reason = "saturates beyond every date")]
    let ms = number.as_i64().or_else(|| number.as_f64().map(|float| float as i64))?;
    (ms != 0 && (-MS_MAX..=MS_MAX).contains(&ms)).then_some(EpochMs(ms))
}

/// ISO 8601, or a number of epoch milliseconds. A date alone is midnight; a time without a zone is read as UTC, which is what
/// it is to an SDK on a host set to UTC.
pub(super) fn of_text(text: &str) -> Option<EpochMs> {
    if text.len() >= 12 && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return of_number(&text.parse::<u64>().ok()?.into());
    }
    let at = OffsetDateTime::parse(text, &Rfc3339).ok().or_else(|| {
        let (date, time) = text.split_at_checked(10)?;
        let time = if time.is_empty() { "T00:00" } else { time };
        let zone = if time.contains(['Z', 'z', '+', '-']) { "" } else { "Z" };
        let text = [date, &time.replacen(' ', "T", 1), zone].concat().to_ascii_uppercase();
        OffsetDateTime::parse(&text, &Iso8601::PARSING).ok()
    })?;
    Some(EpochMs(at.unix_timestamp() * 1_000 + i64::from(at.millisecond())))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tree::Tree;
    use super::*;

    fn of_json(value: &Value) -> Option<EpochMs> {
        Tree::parse(&value.to_string()).unwrap().root().date()
    }

    #[test]
    fn a_state_is_neither_from_before_2015_nor_from_an_hour_ahead() {
        let times = StateTimes::new(EpochMs(1_795_161_600_000), FAR_PAST);
        for possible in [0, 1_420_070_400_000, 1_795_161_600_000, 1_795_165_200_000] {
            let possible = Some(EpochMs(possible));
            assert_eq!(times.possible(possible), possible);
        }
        assert_eq!(times.impossible.get(), 0);
        for impossible in [-1, 1, 1_420_070_399_999, 1_795_161_600, 1_795_165_200_001, MS_MAX] {
            assert_eq!(times.possible(Some(EpochMs(impossible))), None, "{impossible}");
        }
        assert_eq!(times.impossible.get(), 6);
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
            json!("2026-324"),
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
