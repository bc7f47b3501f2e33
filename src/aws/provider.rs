//! Keeps credentials fresh: renews temporary ones well before they expire, reads keys in files again, uses the old ones
//! until they expire if that fails, and makes one fetch at a time. A thread calls `renew_if_due`, waits for `next_renewal_in` and
//! repeats. Without it, callers fetch when the old credentials have expired.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Credentials, CredentialsError, Fetcher};
use crate::backoff::Backoff;
use crate::clock::EpochMs;

/// Time to notice and repair a failing source before the old credentials expire.
const LEAD_MS_MIN: i64 = 5 * 60 * 1000;
/// Long-lived credentials are renewed earlier still, when this share of their lifetime is left.
const LEAD_SHARE: i64 = 6;
/// Credentials without an expiry come from files, which are read again this often.
const REREAD_MS: i64 = 10 * 1000;
/// The wait after a fetch that succeeded, …
const REFETCH_MIN: Duration = Duration::from_secs(5);
/// … and after one that failed, or whose credentials AWS refuses, too.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Credentials that have already expired when they arrive are used for this long.
const EXTENSION_MS: i64 = 10 * 60 * 1000;
/// The loop looks again at least this often: a refusal, or a step of the clock, may have made a renewal due.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Provides the credentials of one source for each call.
pub struct CredentialsProvider {
    fetcher: Fetcher,
    decided_by: &'static str,
    /// A number from 0 to 1 at each call.
    chance: fn() -> f64,
    /// Locked during a fetch, unlike what is held.
    fetching: Mutex<Fetching>,
    held: Mutex<HeldCredentials>,
}

struct Fetching {
    /// No fetch before this.
    not_before_ms: i64,
    /// Grows with each fetch that did not help.
    backoff: Backoff,
    /// What the last fetch returned.
    last: Option<Result<Arc<Credentials>, CredentialsError>>,
}

#[derive(Default)]
struct HeldCredentials {
    credentials: Option<Arc<Credentials>>,
    renew_at_ms: i64,
    /// AWS refused them.
    is_refused: bool,
}

impl CredentialsProvider {
    /// Fetches nothing yet. `decided_by` are the settings that decide about these credentials.
    pub(super) fn new(fetcher: Fetcher, decided_by: &'static str) -> Self {
        let backoff = Backoff::new(BACKOFF_MIN, BACKOFF_MAX);
        Self {
            fetcher,
            decided_by,
            chance: fastrand::f64,
            fetching: Mutex::new(Fetching { not_before_ms: 0, backoff, last: None }),
            held: Mutex::default(),
        }
    }

    /// The credentials to sign with at `now`. Fetches, within the source's own deadline, only if it holds none.
    pub fn current(&self, now: EpochMs) -> Result<Arc<Credentials>, CredentialsError> {
        self.usable(now).map_or_else(|| self.renew_if_due(now), Ok)
    }

    /// The credentials that it holds, unless they have expired.
    pub fn usable(&self, now: EpochMs) -> Option<Arc<Credentials>> {
        let held = lock(&self.held);
        let is_valid = |held: &&Arc<Credentials>| held.expires_at.is_none_or(|expires_at| now < expires_at);
        held.credentials.as_ref().filter(is_valid).cloned()
    }

    /// One step of the renewal loop: fetches if nothing is held or a renewal is due. The outcome of the last fetch, whoever
    /// made it. A failed one is retried for ever, after a growing wait.
    pub fn renew_if_due(&self, now: EpochMs) -> Result<Arc<Credentials>, CredentialsError> {
        let mut fetching = lock(&self.fetching);
        match &fetching.last {
            Some(last) if self.due_in_ms(&fetching, now) > 0 => last.clone(),
            _ => self.fetch(&mut fetching, now),
        }
    }

    /// How long the renewal loop may wait before its next step. After a fetch that failed until the next one, so that each is
    /// reported once.
    pub fn next_renewal_in(&self, now: EpochMs) -> Duration {
        let fetching = lock(&self.fetching);
        let at_most = if matches!(fetching.last, Some(Err(_))) { BACKOFF_MAX } else { LOOK_AGAIN };
        Duration::from_millis(self.due_in_ms(&fetching, now).unsigned_abs()).min(at_most)
    }

    fn due_in_ms(&self, fetching: &Fetching, now: EpochMs) -> i64 {
        let held = lock(&self.held);
        let is_current = held.credentials.is_some() && !held.is_refused;
        let due_at_ms = if is_current { held.renew_at_ms } else { now.0 };
        // A wait beyond the maximum means that the clock was set back.
        let held_back_ms = fetching.not_before_ms.saturating_sub(now.0);
        let is_plausible = u128::from(held_back_ms.unsigned_abs()) <= BACKOFF_MAX.as_millis();
        let held_back_ms = if is_plausible { held_back_ms } else { 0 };
        due_at_ms.saturating_sub(now.0).max(held_back_ms).max(0)
    }

    fn fetch(&self, fetching: &mut Fetching, now: EpochMs) -> Result<Arc<Credentials>, CredentialsError> {
        let fetched = (self.fetcher.fetch)();
        let chance = (self.chance)();
        let mut held = lock(&self.held);
        let wait = match &fetched {
            Ok(_) if !held.is_refused => {
                fetching.backoff.reset();
                REFETCH_MIN
            }
            Ok(_) => REFETCH_MIN.max(fetching.backoff.next_wait(chance)),
            Err(_) => fetching.backoff.next_wait(chance),
        };
        fetching.not_before_ms = now.0 + i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
        let fetched = fetched.map(|mut credentials| {
            // This machine's clock may be ahead. And the instance metadata service gives out expired credentials while it
            // cannot renew them, which AWS accepts.
            if credentials.expires_at.is_some_and(|at| at <= now) {
                credentials.expires_at = Some(EpochMs(now.0 + EXTENSION_MS));
                log::warn!(
                    "{}: the source returned expired credentials; they are used and fetched again in a few minutes; \
                     check this machine's clock",
                    self.fetcher.source
                );
            }
            let renew_at_ms = renewal_time_ms(now, credentials.expires_at, chance);
            let credentials = Arc::new(credentials);
            let now_held = Some(Arc::clone(&credentials));
            *held = HeldCredentials { credentials: now_held, renew_at_ms, is_refused: false };
            credentials
        });
        fetching.last.insert(fetched).clone()
    }

    /// AWS refused this key: new ones are fetched soon. Has no effect if it is not the current key.
    pub fn invalidate(&self, access_key_id: &str) {
        let mut held = lock(&self.held);
        // A late refusal of the previous key says nothing about this one.
        let is_held = |held: &Arc<Credentials>| held.access_key_id == access_key_id;
        held.is_refused |= held.credentials.as_ref().is_some_and(is_held);
    }

    /// The source, and the key id if it is known, for logs. No secret.
    pub fn describe(&self) -> String {
        let source = &self.fetcher.source;
        match &lock(&self.held).credentials {
            Some(held) => format!("{source} with key id {}", held.access_key_id),
            None => source.clone(),
        }
    }

    /// When the current credentials expire, if they do.
    pub fn expiry(&self) -> Option<EpochMs> {
        lock(&self.held).credentials.as_ref()?.expires_at
    }

    /// The settings that decide about these credentials, for the remedy of a refusal.
    pub fn decided_by(&self) -> &str {
        self.decided_by
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// When to renew what was fetched at `now`: at least 5 minutes before it expires, and somewhat earlier by chance, so that
/// a fleet does not call at once; short-lived credentials at half of their life at the latest.
fn renewal_time_ms(now: EpochMs, expires_at: Option<EpochMs>, chance: f64) -> i64 {
    let Some(EpochMs(expires_at_ms)) = expires_at else {
        return now.0 + REREAD_MS;
    };
    let life_ms = expires_at_ms.saturating_sub(now.0);
    let lead_ms = (life_ms / LEAD_SHARE).max(LEAD_MS_MIN).min(life_ms / 2);
    let jitter = Duration::from_millis(lead_ms.unsigned_abs() / 5).mul_f64(chance);
    expires_at_ms - lead_ms - i64::try_from(jitter.as_millis()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
