//! One customer's fill: ask, and write what was answered, with the refetch lock held all the while.
//!
//! Without the lock a message could come between answer and write, be skipped, as its customer is not yet cached
//! (`UPDATE_IF_EXISTS`), and leave the older answer standing. The service waits for the lock for as long as an SDK may
//! hold it: an answer that took longer is thrown away. An SDK that misses meanwhile waits to be told, and is.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::cache::{CacheChange, Layout, changes};
use crate::clock;
use crate::edge::{EdgeClient, EdgeError};
use crate::entitlement::{EpochMs, Subject};
use crate::message::{self, Event};
use crate::pipeline::backoff::Backoff;
use crate::shutdown::Stop;
use crate::store::{CacheStore, LockPatience, Outcome, RedisStore, StoreError, WRITE_LOCK_MAX};

/// What the Edge API may take for an answer: with it there has to be time to write, before the lock runs out.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// An answer that came later than this after the lock was taken is thrown away.
const WRITE_WITHIN: Duration = Duration::from_secs(4);
/// How often a lock that somebody else holds is tried again.
const LOCKED_AGAIN: Duration = Duration::from_millis(50);
/// Most that is waited because the Edge API asks for it: what asks for more fails, and a later run goes on with it.
const LEFT_ALONE_MAX: Duration = Duration::from_mins(2);
/// The time of what has none: 1 ms after the far past that readers write for an empty list. Anything newer stays,
/// and any message replaces it; the far past itself would overwrite whatever is stored.
const UNTOLD: EpochMs = EpochMs(1);

/// What became of a customer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filled {
    /// What Stigg said is stored.
    Written,
    /// Something newer was stored.
    NewerIsStored,
    /// Stigg knows of no entitlements, and of no reason why: the next reader shall ask.
    NothingKnown,
    /// A purge came while it was asked for.
    PurgedMeanwhile,
}

/// Why a customer was not filled.
#[derive(Debug)]
pub(super) enum NotFilled {
    /// It is this one's fault, or bad luck.
    This(String),
    /// The others would fare no better.
    Any(String),
}

/// So many calls a second, evenly.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    next: Mutex<Instant>,
}

impl Pace {
    pub fn new(a_second: u32) -> Self {
        Self {
            interval: Duration::from_secs(1) / a_second.max(1),
            next: Mutex::new(Instant::now()),
        }
    }

    fn wait(&self) {
        let turn = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = (*next).max(Instant::now());
            *next = turn + self.interval;
            turn
        };
        Stop::never().wait(turn.saturating_duration_since(Instant::now()));
    }

    /// Nobody calls for so long: the limit is one of all callers together.
    fn pause(&self, pause: Duration) {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        *next = (*next).max(Instant::now() + pause);
    }
}

pub(super) struct Filler<'a> {
    pub store: &'a RedisStore,
    pub edge: &'a EdgeClient,
    pub layout: Layout,
    pub retries: u32,
    pub pace: Pace,
}

/// Why a try came to nothing.
enum Failure {
    MayPass {
        why: String,
        /// For how long the Edge API asked to be left alone.
        after: Option<Duration>,
    },
    WillNot(NotFilled),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::WillNot(NotFilled::Any(error.message))
    }
}

impl From<EdgeError> for Failure {
    fn from(error: EdgeError) -> Self {
        let kind = error.kind.as_str();
        let may_pass = kind.starts_with("http_5")
            || matches!(
                kind,
                "http_429" | "timeout" | "host_not_found" | "connection_refused" | "connection_failed"
            );
        match kind {
            // The key is wrong for all of them.
            "http_401" | "http_403" | "api_key_unreadable" | "api_key_invalid" => {
                Self::WillNot(NotFilled::Any(error.message))
            }
            _ if may_pass => Self::MayPass {
                why: error.message,
                after: error.retry_after,
            },
            _ => Self::WillNot(NotFilled::This(error.message)),
        }
    }
}

impl Filler<'_> {
    pub fn fill(&self, subject: &Subject) -> Result<Filled, NotFilled> {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        let mut tries = 0;
        loop {
            match self.try_once(subject) {
                Ok(filled) => return Ok(filled),
                Err(Failure::WillNot(failure)) => return Err(failure),
                Err(Failure::MayPass { why, .. }) if tries == self.retries => {
                    return Err(NotFilled::This(format!("{why} (tried {} times)", tries + 1)));
                }
                Err(Failure::MayPass { after, .. }) => {
                    tries += 1;
                    if let Some(after) = after {
                        self.pace.pause(after.min(LEFT_ALONE_MAX));
                    }
                    Stop::never().wait(backoff.next_wait(fastrand::f64()));
                }
            }
        }
    }

    fn try_once(&self, subject: &Subject) -> Result<Filled, Failure> {
        self.pace.wait();
        let lock = self.layout.keyspace.refetch_lock(subject);
        let token = format!("warm-{:x}", fastrand::u128(..));
        let taken_at = self.take(&lock, &token)?;
        let filled = self.ask_and_write(subject, taken_at);
        // A lock that cannot be released expires.
        if let Err(error) = self.store.release_lock(&lock, &token) {
            log::debug!(err:% = error; "a refetch lock was not released");
        }
        if matches!(filled, Ok(Filled::Written | Filled::NewerIsStored)) {
            self.store
                .publish_refetched(&self.layout.keyspace.refetch_channel(subject));
        }
        filled
    }

    /// Takes the lock; waits for a reader that holds it, which is filling this very customer.
    fn take(&self, lock: &str, token: &str) -> Result<Instant, Failure> {
        let started = Instant::now();
        loop {
            let taken_at = Instant::now();
            if self.store.take_lock(lock, token, WRITE_LOCK_MAX)? {
                return Ok(taken_at);
            }
            if started.elapsed() > WRITE_LOCK_MAX {
                return Err(Failure::MayPass {
                    why: "an SDK holds the lock of a refetch all the time".to_owned(),
                    after: None,
                });
            }
            Stop::never().wait(LOCKED_AGAIN);
        }
    }

    fn ask_and_write(&self, subject: &Subject, taken_at: Instant) -> Result<Filled, Failure> {
        // A purge that is sent from now on makes the answer out of date.
        let asked_at = clock::now();
        let body = self.edge.entitlements_state(subject)?;
        let message = message::decode_answer(&body, asked_at, UNTOLD).map_err(|fault| {
            Failure::WillNot(NotFilled::This(format!(
                "the Edge API's answer cannot be read: {fault}; report it"
            )))
        })?;
        if !matches!(message.event, Event::EntitlementsUpdated(_)) {
            return Ok(Filled::NothingKnown);
        }
        for mut change in changes(message, &self.layout) {
            if let CacheChange::WriteEntitlements(write) = &mut change {
                (write.sent_at, write.is_from_edge_api) = (asked_at, true);
            }
            match self.write(&change, taken_at)? {
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

    fn write(&self, change: &CacheChange, taken_at: Instant) -> Result<Outcome, Failure> {
        loop {
            if taken_at.elapsed() > WRITE_WITHIN {
                let why = "the answer came too late to be written while the lock was held";
                return Err(Failure::MayPass {
                    why: why.to_owned(),
                    after: None,
                });
            }
            let outcome = self
                .store
                .apply(&[(change, LockPatience::OWN_REFETCH)], &|| true)?
                .pop();
            match outcome {
                Some(Ok(Outcome::Locked)) | None => {
                    Stop::never().wait(LOCKED_AGAIN);
                }
                Some(outcome) => {
                    return outcome.map_err(|error| Failure::WillNot(NotFilled::This(error.message)));
                }
            }
        }
    }
}
