//! The server's clock, as far as it differs from this machine's: AWS refuses signatures that are 5 minutes off.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::clock::EpochMs;

/// From here on this machine's clock is reported.
const SKEW_MS_MIN: i64 = 4 * 60 * 1000;
/// A correction ends only here, so that a clock at the threshold is not reported again and again.
const CORRECTED_MS_MIN: i64 = SKEW_MS_MIN - 60_000;

/// Compares clocks with every answer, and corrects the time that calls are signed with.
#[derive(Debug, Default)]
pub(super) struct ServerClock {
    /// Added to this machine's time; 0 while the clocks agree well enough.
    correction_ms: AtomicI64,
}

impl ServerClock {
    /// The time to sign with.
    pub(super) fn corrected(&self, now: EpochMs) -> EpochMs {
        EpochMs(now.0.saturating_add(self.correction_ms.load(Ordering::Relaxed)))
    }

    /// An answer with this `Date` came at `now`. True if what was signed with `signed_at` may be accepted when it is
    /// signed again.
    pub(super) fn observe(&self, server: EpochMs, now: EpochMs, signed_at: EpochMs) -> bool {
        let behind_ms = server.0.saturating_sub(now.0);
        let is_corrected = self.correction_ms.load(Ordering::Relaxed) != 0;
        let off_from = if is_corrected { CORRECTED_MS_MIN } else { SKEW_MS_MIN };
        let new = if behind_ms.saturating_abs() >= off_from { behind_ms } else { 0 };
        // Of several threads that see it at once, one reports it.
        let old = self.correction_ms.swap(new, Ordering::Relaxed);
        let is_news = new.abs_diff(old) >= CORRECTED_MS_MIN.unsigned_abs();
        if is_news && new != 0 {
            let minutes = new.unsigned_abs().saturating_add(30_000) / 60_000;
            let side = if new < 0 { "ahead of" } else { "behind" };
            log::warn!(
                offset_secs = -(new / 1_000);
                "this machine's clock is {minutes} minutes {side} SQS's: calls to the queue are signed with the corrected \
                 time; set the clock by NTP"
            );
        } else if is_news {
            log::info!("this machine's clock agrees with SQS's again");
        }
        server.0.abs_diff(signed_at.0) >= SKEW_MS_MIN.unsigned_abs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_MS: i64 = 60_000;
    const NOW: EpochMs = EpochMs(1_793_620_800_000);

    fn after_minutes(minutes: i64) -> EpochMs {
        EpochMs(NOW.0 + minutes * MINUTE_MS)
    }

    #[test]
    fn the_time_is_corrected_while_the_clocks_disagree_by_minutes_and_no_longer() {
        let clock = ServerClock::default();
        for (server_minutes, correction_minutes) in
            [(0, 0), (3, 0), (-3, 0), (10, 10), (-60, -60), (4, 4), (3, 3), (2, 0), (3, 0)]
        {
            clock.observe(after_minutes(server_minutes), NOW, NOW);
            let corrected = clock.corrected(NOW);
            assert_eq!(corrected, after_minutes(correction_minutes), "{server_minutes}");
        }
    }

    #[test]
    fn a_call_is_worth_signing_again_only_if_its_time_was_far_off() {
        let clock = ServerClock::default();
        assert!(clock.observe(after_minutes(10), NOW, NOW));
        assert!(!clock.observe(after_minutes(10), NOW, clock.corrected(NOW)));
        assert!(clock.observe(after_minutes(-10), NOW, clock.corrected(NOW)));
        assert!(!clock.observe(NOW, NOW, NOW));
    }

    #[test]
    fn an_absurd_date_is_survived() {
        let clock = ServerClock::default();
        clock.observe(EpochMs(i64::MAX), EpochMs(-1), NOW);
        clock.corrected(EpochMs(i64::MAX));
    }
}
