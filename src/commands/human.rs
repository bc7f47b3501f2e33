//! Times and durations as people read them.

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::entitlement::EpochMs;

pub(super) use crate::log::printable;

/// `2026-11-24T12:00:00Z`; the number itself if it is no date.
pub(super) fn date(at: EpochMs) -> String {
    OffsetDateTime::from_unix_timestamp(at.0.div_euclid(1_000))
        .ok()
        .and_then(|at| at.format(&Rfc3339).ok())
        .unwrap_or_else(|| at.0.to_string())
}

/// The two largest units: `6 d 23 h`, `4 min 3 s`, `12 s`.
pub(super) fn span(span: Duration) -> String {
    const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)];
    let mut left = span.as_secs();
    let mut parts = Vec::new();
    for (unit, secs) in UNITS {
        if left >= secs && parts.len() < 2 {
            parts.push(format!("{} {unit}", left / secs));
            left %= secs;
        } else if !parts.is_empty() {
            break;
        }
    }
    if parts.is_empty() {
        return "0 s".to_owned();
    }
    parts.join(" ")
}

/// How long ago that was; what is yet to come is told as such.
pub(super) fn age(at: EpochMs, now: EpochMs) -> String {
    let ms = now.0.saturating_sub(at.0);
    let length = span(Duration::from_millis(ms.unsigned_abs()));
    if ms < 0 { format!("{length} ahead") } else { length }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most() {
        for (secs, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (61, "1 min 1 s"),
            (3_600, "1 h"),
            (7_199, "1 h 59 min"),
            (604_790, "6 d 23 h"),
            (86_401, "1 d"),
        ] {
            assert_eq!(span(Duration::from_secs(secs)), text);
        }
    }

    #[test]
    fn dates_are_utc_and_the_future_is_told() {
        assert_eq!(date(EpochMs(1_795_521_600_123)), "2026-11-24T12:00:00Z");
        assert_eq!(date(EpochMs(i64::MAX)), i64::MAX.to_string());
        assert_eq!(age(EpochMs(0), EpochMs(5_000)), "5 s");
        assert_eq!(age(EpochMs(5_000), EpochMs(0)), "5 s ahead");
    }
}
