//! Fills one customer: asks Stigg and writes the answer, with the readers' refetch lock held meanwhile.
//!
//! Without the lock a message could come between answer and write, be skipped because its customer is not cached yet
//! (`UPDATE_IF_EXISTS`), and leave the older answer in place. The service waits for the lock for as long as an SDK may
//! hold it, so an answer that took longer is discarded. An SDK that misses meanwhile waits to be notified, and is.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use crate::cache::{CacheChange, changes};
use crate::clock;
use crate::commands::session::Session;
use crate::edge::{EdgeClient, EdgeError, EdgeErrorKind};
use crate::entitlement::{EpochMs, Subject};
use crate::http_client::HttpErrorKind;
use crate::message::{self, Event};
use crate::pipeline::backoff::Backoff;
use crate::pipeline::worker::LOCKED_RETRY_MIN;
use crate::shutdown::Stop;
use crate::store::{CacheStore, LockPatience, Outcome, StoreError, WRITE_LOCK_MAX};

/// How long the Edge API may take: what it answers has to be written before the lock expires.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// An answer that came later than this after the lock was taken is discarded.
const WRITE_WITHIN: Duration = Duration::from_secs(4);
/// How long calls pause at most because the Edge API asks for it. A customer who would need more fails.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(2);
/// The time of a state that has none: 1 ms after the far-past marker that readers write for an empty list. Anything newer
/// stays, and any message replaces it; the marker itself would overwrite whatever is stored.
const NO_TIME: EpochMs = EpochMs(1);

/// What became of a customer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Filled {
    Written,
    NewerIsStored,
    /// Stigg knows neither entitlements nor a reason why there are none: the next reader has to ask.
    NothingKnown,
    /// A purge came while Stigg was asked.
    PurgedMeanwhile,
    /// An earlier run filled it.
    Before,
}

/// Why a customer was not filled.
#[derive(Debug)]
pub(super) enum FillError {
    /// It may pass. For so long the Edge API asked not to be called.
    Retryable(String, Option<Duration>),
    /// It is this customer's own.
    Customer(String),
    /// The other customers would fail for the same reason.
    Everyone(String),
}

impl From<StoreError> for FillError {
    fn from(error: StoreError) -> Self {
        Self::Everyone(error.message)
    }
}

impl From<EdgeError> for FillError {
    fn from(error: EdgeError) -> Self {
        use EdgeErrorKind::{ApiKeyInvalid, ApiKeyUnreadable, NoUrl, Status, Unanswered, UnexpectedAnswer};
        use HttpErrorKind::{Connection, ConnectionRefused, HostNotFound, Timeout};
        match error.kind {
            Status(401 | 403) | ApiKeyUnreadable | ApiKeyInvalid => Self::Everyone(error.message),
            Status(429 | 500..) | Unanswered(Timeout | HostNotFound | ConnectionRefused | Connection) => {
                Self::Retryable(error.message, error.retry_after)
            }
            Status(_) | UnexpectedAnswer | NoUrl | Unanswered(_) => Self::Customer(error.message),
        }
    }
}

pub(super) struct Filler<'a> {
    pub session: &'a Session,
    pub edge: &'a EdgeClient,
    pub retries: u32,
    /// One call of any thread for each.
    pub turns: Receiver<Instant>,
    /// Nobody calls before.
    pub paused_until: Mutex<Instant>,
}

impl Filler<'_> {
    pub fn fill(&self, subject: &Subject) -> Result<Filled, FillError> {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        let mut tries = 1;
        loop {
            match self.try_once(subject) {
                Err(FillError::Retryable(why, _)) if tries > self.retries => {
                    return Err(FillError::Customer(format!("{why} (tried {tries} times)")));
                }
                Err(FillError::Retryable(_, retry_after)) => {
                    let pause = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
                    let mut paused_until = self.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
                    *paused_until = (*paused_until).max(Instant::now() + pause);
                    drop(paused_until);
                    Stop::never().wait(backoff.next_wait(fastrand::f64()));
                    tries += 1;
                }
                ended => return ended,
            }
        }
    }

    fn wait_for_turn(&self) {
        let paused_until = *self.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
        Stop::never().wait(paused_until.saturating_duration_since(Instant::now()));
        let _ = self.turns.recv(); // they never end
    }

    fn try_once(&self, subject: &Subject) -> Result<Filled, FillError> {
        self.wait_for_turn();
        let Session { store, layout, .. } = self.session;
        let keyspace = &layout.keyspace;
        let lock = keyspace.refetch_lock(subject);
        let token = format!("warm-{:x}", fastrand::u128(..));
        let locked_at = self.take(&lock, &token)?;
        let filled = self.ask_and_write(subject, locked_at);
        if let Err(error) = store.release_lock(&lock, &token) {
            log::debug!(err:% = error; "a refetch lock was not released: it expires");
        }
        if matches!(filled, Ok(Filled::Written | Filled::NewerIsStored)) {
            store.publish_refetched(&keyspace.refetch_channel(subject));
        }
        filled
    }

    /// Takes the lock, and returns when that was; waits for a reader that holds it, which is filling this very customer.
    fn take(&self, lock: &str, token: &str) -> Result<Instant, FillError> {
        let began = Instant::now();
        while began.elapsed() <= WRITE_LOCK_MAX {
            let locked_at = Instant::now();
            if self.session.store.take_lock(lock, token, WRITE_LOCK_MAX)? {
                return Ok(locked_at);
            }
            Stop::never().wait(LOCKED_RETRY_MIN);
        }
        let why = "an SDK holds the lock of a refetch all the time";
        Err(FillError::Retryable(why.to_owned(), None))
    }

    fn ask_and_write(&self, subject: &Subject, locked_at: Instant) -> Result<Filled, FillError> {
        // A purge that is sent from now on makes the answer out of date.
        let asked_at = clock::now();
        let body = self.edge.entitlements_state(subject)?;
        let message = message::decode_answer(&body, asked_at, NO_TIME).map_err(|fault| {
            FillError::Customer(format!("cannot read the Edge API's answer: {fault}; report it"))
        })?;
        if !matches!(message.event, Event::EntitlementsUpdated(_)) {
            return Ok(Filled::NothingKnown);
        }
        for mut change in changes(message, &self.session.layout) {
            if let CacheChange::WriteEntitlements(write) = &mut change {
                (write.sent_at, write.is_answer) = (asked_at, true);
            }
            let outcome = self.write(&change, locked_at)?;
            if outcome == Outcome::PurgedLater {
                return Ok(Filled::PurgedMeanwhile);
            } else if let Outcome::Applied { written: 0, .. } = outcome {
                return Ok(Filled::NewerIsStored);
            }
        }
        Ok(Filled::Written)
    }

    fn write(&self, change: &CacheChange, locked_at: Instant) -> Result<Outcome, FillError> {
        let attempt = [(change, LockPatience::OWN_REFETCH)];
        while locked_at.elapsed() <= WRITE_WITHIN {
            match self.session.store.apply(&attempt, &|| true)?.remove(0) {
                Ok(Outcome::Locked) => _ = Stop::never().wait(LOCKED_RETRY_MIN),
                outcome => return outcome.map_err(|error| FillError::Customer(error.message)),
            }
        }
        let why = "the answer came too late to be written while the lock was held";
        Err(FillError::Retryable(why.to_owned(), None))
    }
}
