//! How fast commands call the Edge API, and how often again.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, tick};

use crate::backoff::Backoff;
use crate::refetch::RefetchError;
use crate::shutdown::Stop;

/// How long calls pause at most because the Edge API asks for it. A customer who would need more fails.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(2);

/// So many calls a second, of whichever thread, and none while the Edge API asks for a pause.
pub(super) struct Pace {
    retries: u32,
    turns: Receiver<Instant>,
    paused_until: Mutex<Instant>,
}

impl Pace {
    /// `rate` is the calls per second, retries included.
    pub fn new(rate: u32, retries: u32) -> Self {
        let turns = tick(Duration::from_secs(1) / rate);
        Self { retries, turns, paused_until: Mutex::new(Instant::now()) }
    }

    /// Makes a call, again after failures that may pass, with growing waits.
    pub fn call<T>(&self, call: impl Fn() -> Result<T, RefetchError>) -> Result<T, RefetchError> {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        let mut tries = 1;
        loop {
            let paused_until = *self.paused_until();
            Stop::never().wait(paused_until.saturating_duration_since(Instant::now()));
            let _ = self.turns.recv(); // they never end
            let (why, retry_after) = match call() {
                Err(RefetchError::Retryable(why, retry_after)) => (why, retry_after),
                ended => return ended,
            };
            if tries > self.retries {
                return Err(RefetchError::Customer(format!("{why} (tried {tries} times)")));
            }
            let pause = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
            let mut paused_until = self.paused_until();
            *paused_until = (*paused_until).max(Instant::now() + pause);
            drop(paused_until);
            Stop::never().wait(backoff.next_wait(fastrand::f64()));
            tries += 1;
        }
    }

    fn paused_until(&self) -> MutexGuard<'_, Instant> {
        self.paused_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
