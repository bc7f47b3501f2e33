//! Temporary credentials without a gap: renewed well ahead of their expiry, used to their last second if renewing
//! fails, fetched by one caller at a time.
//!
//! The clock and the chance are arguments, so that hours of renewals are tested in no time. A service thread drives
//! it: `renew_if_due(now)`, wait `next_renewal_in(now)`, again. Callers alone do as well; they then wait for the
//! fetch when the old ones have expired.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use super::{Credentials, CredentialsError, CredentialsProvider};
use crate::entitlement::EpochMs;

/// Time to notice and mend a failing source before the old ones expire.
const LEAD_MIN_MS: i64 = 5 * 60 * 1000;
/// Long-lived ones are renewed earlier still: after five sixths of their life.
const LEAD_SHARE: i64 = 6;
/// A refused key is fetched anew at most this often, however many callers are refused at once. Where fresh ones are
/// refused too (a permission is missing), the wait doubles up to that of failed fetches: a fetch may start a program.
const REFETCH_AFTER_MS: i64 = 5_000;
/// Refusals that come this long after the last fetch begin anew.
const REFUSALS_FORGOTTEN_MS: i64 = 10 * 60 * 1000;
/// The first wait after a failed fetch; it doubles with each further one …
const BACKOFF_FIRST_MS: i64 = 1_000;
/// … up to this, so that a mended source is noticed soon.
const BACKOFF_MAX_MS: i64 = 30_000;
/// The loop looks again at least this often: a refusal, or a step of the clock, may have made a renewal due.
const LOOK_AGAIN: Duration = Duration::from_mins(1);

/// Where temporary credentials are fetched from.
pub trait Fetch: Send + Sync {
    /// Fetches fresh ones, within a deadline of its own.
    fn fetch(&self) -> Result<Credentials, CredentialsError>;
    /// The source, for logs.
    fn source(&self) -> String;
    /// What was fetched from has changed since the last fetch, so that another one is due.
    fn is_stale(&self) -> bool {
        false
    }
}

/// What [`RenewingCredentials::renew_if_due`] came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Renewal {
    /// Nothing was to be done yet.
    NotDue,
    /// There are fresh ones.
    Renewed {
        /// When these stop working.
        expires_at: Option<EpochMs>,
    },
    /// The fetch failed; it is tried again after a growing wait, for ever.
    Failed(CredentialsError),
}

/// Keeps what a [`Fetch`] brings, and renews it.
pub struct RenewingCredentials {
    source: Box<dyn Fetch>,
    decided_by: String,
    /// A number from 0 to 1 at each call.
    chance: Box<dyn Fn() -> f64 + Send + Sync>,
    /// Held while fetching; the state itself is never locked for long.
    fetching: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: Option<Held>,
    /// AWS refused what is held.
    refused: bool,
    /// Fetches in a row that a refusal asked for.
    refetches: u32,
    /// When the last fetch was.
    fetched_at_ms: i64,
    /// No fetch before this.
    not_before_ms: i64,
    /// Failures since the last success.
    failures: u32,
    last_error: Option<CredentialsError>,
    /// Fetches so far: one who waited for another's fetch sees by it that there is an outcome.
    fetches: u64,
}

struct Held {
    credentials: Arc<Credentials>,
    renew_at_ms: i64,
}

impl RenewingCredentials {
    /// Renews from this source, with real chance. Nothing is fetched yet.
    pub fn new(source: Box<dyn Fetch>) -> Self {
        Self::with_chance(source, Box::new(random_fraction))
    }

    /// The same with the chance given: each call returns a number from 0 to 1.
    pub fn with_chance(source: Box<dyn Fetch>, chance: Box<dyn Fn() -> f64 + Send + Sync>) -> Self {
        Self {
            source,
            decided_by: "the settings of that source".to_owned(),
            chance,
            fetching: Mutex::new(()),
            state: Mutex::new(State::default()),
        }
    }

    /// The same with what decides about these credentials, for the remedy of a refusal: names of settings, as in
    /// "check …".
    #[must_use]
    pub fn decided_by(mut self, settings: &str) -> Self {
        settings.clone_into(&mut self.decided_by);
        self
    }

    /// One step of the renewal loop: fetches if none are held or a renewal is due.
    pub fn renew_if_due(&self, now: EpochMs) -> Renewal {
        let seen = {
            let is_stale = self.source.is_stale();
            let state = self.state();
            let due_in_ms = if is_stale {
                state.held_back_ms(now)
            } else {
                state.due_in_ms(now)
            };
            if due_in_ms > 0 {
                return Renewal::NotDue;
            }
            state.fetches
        };
        let turn = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        match self.fetch_unless_done(&turn, seen, now) {
            Ok(credentials) => Renewal::Renewed {
                expires_at: credentials.expires_at,
            },
            Err(error) => Renewal::Failed(error),
        }
    }

    /// True if there are credentials that have not expired.
    pub fn holds_any(&self, now: EpochMs) -> bool {
        self.state().usable(now).is_some()
    }

    /// How long the renewal loop may wait before its next step.
    pub fn next_renewal_in(&self, now: EpochMs) -> Duration {
        let due_in_ms = self.state().due_in_ms(now);
        Duration::from_millis(u64::try_from(due_in_ms).unwrap_or_default()).min(LOOK_AGAIN)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is whole before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches, unless someone did while the caller waited for its `turn`: then that outcome is the caller's too.
    fn fetch_unless_done(
        &self,
        _turn: &MutexGuard<'_, ()>,
        seen: u64,
        now: EpochMs,
    ) -> Result<Arc<Credentials>, CredentialsError> {
        {
            let state = self.state();
            if state.fetches != seen {
                return match (&state.held, &state.last_error) {
                    (_, Some(error)) => Err(error.clone()),
                    (Some(held), None) => Ok(Arc::clone(&held.credentials)),
                    (None, None) => Err(nothing_yet()),
                };
            }
        }
        let fetched = self
            .source
            .fetch()
            .and_then(|credentials| match credentials.expires_at {
                Some(expires_at) if expires_at <= now => Err(CredentialsError {
                    message: format!(
                        "{} had already expired when they came; check this machine's clock",
                        self.source.source()
                    ),
                    kind: "credentials_expired".to_owned(),
                }),
                _ => Ok(Arc::new(credentials)),
            });
        let mut state = self.state();
        state.fetches += 1;
        match fetched {
            Ok(credentials) => {
                let renew_at_ms = renewal_time_ms(now, credentials.expires_at, (self.chance)());
                state.held = Some(Held {
                    credentials: Arc::clone(&credentials),
                    renew_at_ms,
                });
                let goes_on =
                    state.refused && now.0.saturating_sub(state.fetched_at_ms) < REFUSALS_FORGOTTEN_MS;
                state.refetches = if goes_on { state.refetches + 1 } else { 0 };
                state.refused = false;
                state.failures = 0;
                state.last_error = None;
                state.fetched_at_ms = now.0;
                state.not_before_ms = now.0 + refetch_wait_ms(state.refetches);
                Ok(credentials)
            }
            Err(error) => {
                state.not_before_ms = now.0 + backoff_ms(state.failures, (self.chance)());
                state.failures = state.failures.saturating_add(1);
                state.last_error = Some(error.clone());
                Err(error)
            }
        }
    }
}

impl State {
    fn usable(&self, now: EpochMs) -> Option<Arc<Credentials>> {
        let credentials = &self.held.as_ref()?.credentials;
        let alive = credentials.expires_at.is_none_or(|expires_at| now < expires_at);
        alive.then(|| Arc::clone(credentials))
    }

    /// Milliseconds until a fetch may be made, if one is wanted. A wait that is longer than any that is ever set
    /// means that the clock was turned back: then there is none.
    fn held_back_ms(&self, now: EpochMs) -> i64 {
        let wait_ms = self.not_before_ms.saturating_sub(now.0).max(0);
        if wait_ms > BACKOFF_MAX_MS { 0 } else { wait_ms }
    }

    fn due_in_ms(&self, now: EpochMs) -> i64 {
        let wanted_in_ms = match &self.held {
            Some(held) if !self.refused => held.renew_at_ms.saturating_sub(now.0),
            Some(_) | None => 0,
        };
        wanted_in_ms.max(self.held_back_ms(now))
    }
}

impl CredentialsProvider for RenewingCredentials {
    fn current(&self, now: EpochMs) -> Result<Arc<Credentials>, CredentialsError> {
        let (usable, seen) = {
            let state = self.state();
            let usable = state.usable(now);
            let may_fetch = state.held_back_ms(now) == 0;
            match (&usable, &state.last_error) {
                (Some(credentials), _) if !state.refused || !may_fetch => return Ok(Arc::clone(credentials)),
                (None, Some(error)) if !may_fetch => return Err(error.clone()),
                _ => {}
            }
            (usable, state.fetches)
        };
        let Some(old) = usable else {
            let turn = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
            return self.fetch_unless_done(&turn, seen, now);
        };
        // Refused, but perhaps still good: one caller fetches, the others go on with what there is.
        let turn = match self.fetching.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(old),
        };
        Ok(self.fetch_unless_done(&turn, seen, now).unwrap_or(old))
    }

    fn invalidate(&self, access_key_id: &str, _now: EpochMs) {
        let mut state = self.state();
        // A late refusal of the key before this one says nothing about this one.
        if state
            .held
            .as_ref()
            .is_some_and(|held| held.credentials.access_key_id == access_key_id)
        {
            state.refused = true;
        }
    }

    fn describe(&self) -> String {
        let source = self.source.source();
        match &self.state().held {
            Some(held) => format!("{source}, with key id {}", held.credentials.access_key_id),
            None => source,
        }
    }

    fn expiry(&self) -> Option<EpochMs> {
        self.state().held.as_ref()?.credentials.expires_at
    }

    fn decided_by(&self) -> Option<&str> {
        Some(&self.decided_by)
    }
}

/// When to renew what was fetched at `now`. Ahead of the expiry by at least 5 minutes, and somewhat more by chance
/// so that a fleet does not ask at once; short-lived ones after two to three fifths of their life at the latest.
fn renewal_time_ms(now: EpochMs, expires_at: Option<EpochMs>, chance: f64) -> i64 {
    let Some(EpochMs(expires_at_ms)) = expires_at else {
        return i64::MAX;
    };
    let life_ms = expires_at_ms.saturating_sub(now.0);
    let lead_ms = (life_ms / LEAD_SHARE).max(LEAD_MIN_MS).min(life_ms / 2);
    expires_at_ms - lead_ms - share_ms(lead_ms / 5, chance)
}

/// 5 s, and after the second fetch in a row that did not help 10 s, 20 s, 30 s.
fn refetch_wait_ms(refetches: u32) -> i64 {
    REFETCH_AFTER_MS
        .saturating_mul(1 << refetches.saturating_sub(1).min(10))
        .min(BACKOFF_MAX_MS)
}

/// Doubling from 1 s to 30 s; the later half of each wait is left to chance.
fn backoff_ms(failures: u32, chance: f64) -> i64 {
    let full_ms = BACKOFF_FIRST_MS
        .saturating_mul(1 << failures.min(10))
        .min(BACKOFF_MAX_MS);
    full_ms / 2 + share_ms(full_ms / 2, chance)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)] // minutes in ms: far within both types
fn share_ms(whole_ms: i64, share: f64) -> i64 {
    (whole_ms as f64 * share.clamp(0.0, 1.0)) as i64
}

fn nothing_yet() -> CredentialsError {
    CredentialsError {
        message: "no credentials were fetched yet".to_owned(),
        kind: "credentials_none".to_owned(),
    }
}

/// Good enough for jitter, and nothing else: the standard library seeds each hasher anew.
#[allow(clippy::cast_precision_loss)] // 53 bits are plenty
fn random_fraction() -> f64 {
    (RandomState::new().build_hasher().finish() >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests;
