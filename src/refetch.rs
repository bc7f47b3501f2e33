//! Refetches a customer as an SDK does after a miss: asks Stigg and writes the answer, with the readers' refetch lock held
//! meanwhile.
//!
//! Without the lock a message could come between answer and write, be skipped because its customer is not cached yet
//! (`UPDATE_IF_EXISTS`), and leave the older answer in place. The service waits for the lock for as long as an SDK may
//! hold it, so an answer that took longer is discarded. An SDK that misses meanwhile waits to be notified, and is.

use std::time::{Duration, Instant};

use crate::cache::keyspace::timestamp_key;
use crate::cache::{CacheChange, Layout, changes};
use crate::clock;
use crate::clock::EpochMs;
use crate::edge::{EdgeClient, EdgeError, EdgeErrorKind};
use crate::entitlement::Subject;
use crate::http_client::HttpErrorKind;
use crate::message::{self, Event, Message};
use crate::pipeline::worker::LOCKED_RETRY_MIN;
use crate::shutdown::Stop;
use crate::store::{CacheStore, LockPatience, Outcome, RedisStore, StoreError, WRITE_LOCK_MAX};

/// An answer that came later than this after the lock was taken is discarded.
const WRITE_WITHIN: Duration = Duration::from_secs(4);
/// The time of a state that has none: 1 ms after the far-past marker that readers write for an empty list. Anything newer
/// stays, and any message replaces it; the marker itself would overwrite whatever is stored.
pub const NO_TIME: EpochMs = EpochMs(1);

/// Asks, and writes.
pub struct Refetcher<'a> {
    pub store: &'a RedisStore,
    pub layout: &'a Layout,
    pub edge: &'a EdgeClient,
}

/// Why a customer was not refetched: the cause with its remedy.
#[derive(Debug)]
pub enum RefetchError {
    /// It may pass. The Edge API asked for this pause.
    Retryable(String, Option<Duration>),
    /// The fault is this customer's own.
    Customer(String),
    /// The other customers would fail for the same reason.
    Everyone(String),
}

impl From<StoreError> for RefetchError {
    fn from(error: StoreError) -> Self {
        Self::Everyone(error.message)
    }
}

impl From<EdgeError> for RefetchError {
    fn from(error: EdgeError) -> Self {
        use EdgeErrorKind::{ApiKeyUnusable, NoUrl, Status, Unanswered, UnexpectedAnswer};
        use HttpErrorKind::{AnswerTooLarge, Protocol};
        match error.kind {
            Status(401 | 403) | ApiKeyUnusable => Self::Everyone(error.message),
            Unanswered(AnswerTooLarge | Protocol) => Self::Customer(error.message),
            // A TLS handshake fails, and a proxy is not there or refuses, while either is being restarted.
            Status(408 | 425 | 429 | 500..) | Unanswered(_) => {
                Self::Retryable(error.message, error.retry_after)
            }
            Status(_) | UnexpectedAnswer | NoUrl => Self::Customer(error.message),
        }
    }
}

impl Refetcher<'_> {
    /// The same as [`Self::try_refetch`], whatever is cached. Waits for a reader that holds the lock; takes up to 10 s.
    pub fn refetch(&self, subject: &Subject) -> Result<Option<Outcome>, RefetchError> {
        let why = "SDKs keep holding the refetch lock";
        until(Instant::now() + WRITE_LOCK_MAX, why, || {
            let outcome = self.try_refetch(subject, false)?;
            Ok((outcome != Some(Outcome::Locked)).then_some(outcome))
        })
    }

    /// What became of the list; `None` if Stigg knows neither entitlements nor a reason why there are none: the next reader
    /// has to ask. [`Outcome::Locked`] if a reader, or another instance, is filling this very customer.
    pub fn try_refetch(&self, subject: &Subject, if_absent: bool) -> Result<Option<Outcome>, RefetchError> {
        let keyspace = &self.layout.keyspace;
        let (lock, token) = (keyspace.refetch_lock(subject), format!("warm-{:x}", fastrand::u128(..)));
        let locked_at = Instant::now();
        if !self.store.take_lock(&lock, &token, WRITE_LOCK_MAX)? {
            return Ok(Some(Outcome::Locked));
        }
        let is_filled = if_absent && self.is_cached(subject)?; // after an error of Redis, the lock expires
        let nothing = Outcome::Applied { written: 0, stale: 0 };
        let outcome = if is_filled { Ok(Some(nothing)) } else { self.ask_and_write(subject, locked_at) };
        if let Err(error) = self.store.release_lock(&lock, &token) {
            log::debug!(err:% = error; "a refetch lock was not released: it expires");
        }
        if matches!(outcome, Ok(Some(Outcome::Applied { .. }))) {
            self.store.publish_refetched(&keyspace.refetch_channel(subject));
        }
        outcome
    }

    fn is_cached(&self, subject: &Subject) -> Result<bool, StoreError> {
        let key = self.layout.keyspace.customer_key(subject);
        Ok(self.store.texts(&[timestamp_key(&key), key])?.iter().all(Option::is_some))
    }

    fn ask_and_write(&self, subject: &Subject, locked_at: Instant) -> Result<Option<Outcome>, RefetchError> {
        let message = ask(self.edge, subject)?;
        // A purge that is sent from now on makes the answer out of date.
        let asked_at = message.sent_at;
        if !matches!(message.event, Event::EntitlementsUpdated(_)) {
            return Ok(None);
        }
        let mut of_list = None;
        for mut change in changes(message, self.layout) {
            if let CacheChange::WriteEntitlements(write) = &mut change {
                (write.sent_at, write.is_from_edge_api) = (asked_at, true);
            }
            let attempt = [(&change, LockPatience::OWN_REFETCH)];
            let why = "the answer came too late to be written while the lock was held";
            let outcome = until(locked_at + WRITE_WITHIN, why, || {
                match self.store.apply(&attempt, &|| true)?.remove(0) {
                    Ok(Outcome::Locked) => Ok(None),
                    outcome => outcome.map(Some).map_err(|error| RefetchError::Customer(error.message)),
                }
            })?;
            // The list comes first. A usage that is not written with it says nothing about the next one.
            if !matches!(of_list.get_or_insert(outcome), Outcome::Applied { written: 1.., .. }) {
                break;
            }
        }
        Ok(of_list)
    }
}

/// What Stigg says now, as a message sent when it was asked. A list without a time has [`NO_TIME`].
pub fn ask(edge: &EdgeClient, subject: &Subject) -> Result<Message, RefetchError> {
    let asked_at = clock::now();
    let body = edge.entitlements_state(subject)?;
    message::decode_answer(&body, asked_at, NO_TIME).map_err(|fault| {
        RefetchError::Customer(format!("cannot read the Edge API's answer: {fault}; report it"))
    })
}

/// Tries until it succeeds or the time is up.
fn until<T>(
    deadline: Instant,
    why_not: &str,
    attempt: impl Fn() -> Result<Option<T>, RefetchError>,
) -> Result<T, RefetchError> {
    while Instant::now() <= deadline {
        if let Some(done) = attempt()? {
            return Ok(done);
        }
        Stop::never().wait(LOCKED_RETRY_MIN);
    }
    Err(RefetchError::Retryable(why_not.to_owned(), None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_tried_again_and_what_is_one_customers_is_not() {
        let kind =
            |kind| match RefetchError::from(EdgeError { message: String::new(), kind, retry_after: None }) {
                RefetchError::Retryable(..) => "retryable",
                RefetchError::Customer(_) => "customer's",
                RefetchError::Everyone(_) => "everyone's",
            };
        for status in [408, 425, 429, 500, 503, 599] {
            assert_eq!(kind(EdgeErrorKind::Status(status)), "retryable", "{status}");
        }
        for unanswered in [
            HttpErrorKind::Timeout,
            HttpErrorKind::ConnectionRefused,
            HttpErrorKind::Tls,
            HttpErrorKind::ProxyUnreachable,
            HttpErrorKind::ProxyRefused,
        ] {
            assert_eq!(kind(EdgeErrorKind::Unanswered(unanswered)), "retryable", "{unanswered}");
        }
        assert_eq!(kind(EdgeErrorKind::Unanswered(HttpErrorKind::AnswerTooLarge)), "customer's");
        assert_eq!(
            (kind(EdgeErrorKind::Status(404)), kind(EdgeErrorKind::NoUrl)),
            ("customer's", "customer's")
        );
        assert_eq!(kind(EdgeErrorKind::Status(401)), "everyone's");
    }
}
