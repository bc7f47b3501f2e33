//! Fills one customer: asks Stigg and writes the answer, with the readers' refetch lock held meanwhile.
//!
//! Without the lock a message could come between answer and write, be skipped because its customer is not cached yet
//! (`UPDATE_IF_EXISTS`), and leave the older answer in place. The service waits for the lock for as long as an SDK may
//! hold it, so an answer that took longer is discarded. An SDK that misses meanwhile waits to be notified, and is.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::cache::{CacheChange, Layout, changes};
use crate::clock;
use crate::edge::{EdgeClient, EdgeError, EdgeErrorKind};
use crate::entitlement::{EpochMs, Subject};
use crate::http_client::HttpErrorKind;
use crate::message::{self, Event};
use crate::pipeline::backoff::Backoff;
use crate::pipeline::worker::LOCKED_RETRY_MIN;
use crate::shutdown::Stop;
use crate::store::{CacheStore, LockPatience, Outcome, RedisStore, StoreError, WRITE_LOCK_MAX};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filled {
    Written,
    NewerIsStored,
    /// Stigg knows neither entitlements nor a reason why there are none: the next reader has to ask.
    NothingKnown,
    /// A purge came while Stigg was asked.
    PurgedMeanwhile,
}

/// Why a customer was not filled.
#[derive(Debug, thiserror::Error)]
pub(super) enum FillError {
    #[error("{why}")]
    Retryable {
        why: String,
        /// For how long the Edge API asked not to be called.
        retry_after: Option<Duration>,
    },
    #[error("{0}")]
    Customer(String),
    /// The other customers would fail for the same reason.
    #[error("{0}")]
    Everyone(String),
}

impl FillError {
    fn retryable(why: &str) -> Self {
        Self::Retryable {
            why: why.to_owned(),
            retry_after: None,
        }
    }
}

impl From<StoreError> for FillError {
    fn from(error: StoreError) -> Self {
        Self::Everyone(error.message)
    }
}

impl From<EdgeError> for FillError {
    fn from(error: EdgeError) -> Self {
        match error.kind {
            EdgeErrorKind::Status(401 | 403)
            | EdgeErrorKind::ApiKeyUnreadable
            | EdgeErrorKind::ApiKeyInvalid => Self::Everyone(error.message),
            EdgeErrorKind::Status(429 | 500..)
            | EdgeErrorKind::Unanswered(
                HttpErrorKind::Timeout
                | HttpErrorKind::HostNotFound
                | HttpErrorKind::ConnectionRefused
                | HttpErrorKind::Connection,
            ) => Self::Retryable {
                why: error.message,
                retry_after: error.retry_after,
            },
            EdgeErrorKind::Status(_)
            | EdgeErrorKind::UnexpectedAnswer
            | EdgeErrorKind::NoUrl
            | EdgeErrorKind::Unanswered(_) => Self::Customer(error.message),
        }
    }
}

/// Spaces the calls of all threads evenly.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    next: Mutex<Instant>,
}

impl Pace {
    pub fn new(calls_per_second: u32) -> Self {
        Self {
            interval: Duration::from_secs(1) / calls_per_second,
            next: Mutex::new(Instant::now()),
        }
    }

    fn wait(&self) {
        let turn = self.reserve(Duration::ZERO, self.interval);
        Stop::never().wait(turn.saturating_duration_since(Instant::now()));
    }

    /// The next turn, at the earliest after `pause`; the one after it comes `interval` later.
    fn reserve(&self, pause: Duration, interval: Duration) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = (*next).max(Instant::now() + pause);
        *next = turn + interval;
        turn
    }
}

pub(super) struct Filler<'a> {
    pub store: &'a RedisStore,
    pub edge: &'a EdgeClient,
    pub layout: &'a Layout,
    pub retries: u32,
    pub pace: Pace,
}

impl Filler<'_> {
    pub fn fill(&self, subject: &Subject) -> Result<Filled, FillError> {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        for _ in 0..self.retries {
            match self.try_once(subject) {
                Err(FillError::Retryable { retry_after, .. }) => {
                    let pause = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
                    self.pace.reserve(pause, Duration::ZERO); // for the calls of all threads
                    Stop::never().wait(backoff.next_wait(fastrand::f64()));
                }
                ended => return ended,
            }
        }
        self.try_once(subject).map_err(|error| match error {
            FillError::Retryable { why, .. } => {
                FillError::Customer(format!("{why} (tried {} times)", self.retries + 1))
            }
            FillError::Customer(_) | FillError::Everyone(_) => error,
        })
    }

    fn try_once(&self, subject: &Subject) -> Result<Filled, FillError> {
        self.pace.wait();
        let keyspace = &self.layout.keyspace;
        let lock = keyspace.refetch_lock(subject);
        let token = format!("warm-{:x}", fastrand::u128(..));
        let locked_at = self.take(&lock, &token)?;
        let filled = self.ask_and_write(subject, locked_at);
        if let Err(error) = self.store.release_lock(&lock, &token) {
            log::debug!(err:% = error; "a refetch lock was not released: it expires");
        }
        if matches!(filled, Ok(Filled::Written | Filled::NewerIsStored)) {
            self.store.publish_refetched(&keyspace.refetch_channel(subject));
        }
        filled
    }

    /// Takes the lock; waits for a reader that holds it, which is filling this very customer. Returns when it was taken.
    fn take(&self, lock: &str, token: &str) -> Result<Instant, FillError> {
        let began = Instant::now();
        loop {
            let locked_at = Instant::now();
            if self.store.take_lock(lock, token, WRITE_LOCK_MAX)? {
                return Ok(locked_at);
            }
            if began.elapsed() > WRITE_LOCK_MAX {
                return Err(FillError::retryable(
                    "an SDK holds the lock of a refetch all the time",
                ));
            }
            Stop::never().wait(LOCKED_RETRY_MIN);
        }
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
        for mut change in changes(message, self.layout) {
            if let CacheChange::WriteEntitlements(write) = &mut change {
                (write.sent_at, write.is_answer) = (asked_at, true);
            }
            match self.write(&change, locked_at)? {
                Outcome::Applied { written: 0, .. } => return Ok(Filled::NewerIsStored),
                Outcome::PurgedLater => return Ok(Filled::PurgedMeanwhile),
                Outcome::Applied { .. }
                | Outcome::SkippedByPolicy
                | Outcome::NoCustomer
                | Outcome::Locked => {}
            }
        }
        Ok(Filled::Written)
    }

    fn write(&self, change: &CacheChange, locked_at: Instant) -> Result<Outcome, FillError> {
        while locked_at.elapsed() <= WRITE_WITHIN {
            let mut outcomes = self
                .store
                .apply(&[(change, LockPatience::OWN_REFETCH)], &|| true)?;
            match outcomes.remove(0) {
                Ok(Outcome::Locked) => _ = Stop::never().wait(LOCKED_RETRY_MIN),
                Ok(outcome) => return Ok(outcome),
                Err(error) => return Err(FillError::Customer(error.message)),
            }
        }
        Err(FillError::retryable(
            "the answer came too late to be written while the lock was held",
        ))
    }
}
