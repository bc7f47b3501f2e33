//! Applies changes to Redis.
//!
//! The changes of a worker's round are one call of one script, `apply.lua`, and so one atomic step on the server: no other
//! writer comes between the check of stored timestamps and the write. No lock is taken here; the script respects the
//! readers' locks.

pub mod admin;
mod connection;
mod errors;
mod iam_token;
mod redis_store;
mod script;
mod sentinel;
mod tls;
mod tls_errors;
mod transport;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use crate::cache::keyspace::Keyspace;
use crate::cache::{CacheChange, Invalidation};

pub use errors::{Cause, StoreError, server_name};
pub use redis_store::RedisStore;
pub use script::{StepResult, StoreRules, results};
pub use sentinel::parse_primary;

/// What became of one change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Applied {
        /// Keys written or deleted.
        written: u64,
        /// Keys left as they are, because something newer is stored.
        stale: u64,
    },
    /// An SDK holds its lock on the customer. Try again soon: nothing was done, or it has to be done again.
    Locked,
    /// Nothing was done, as UPDATE_IF_EXISTS asks: no key of the customer is in the cache.
    SkippedByPolicy,
    /// Nothing was done: the usage's customer is not in the cache.
    NoCustomer,
    /// Nothing was done: the customer was purged after the message was sent.
    PurgedLater,
}

impl Outcome {
    /// The outcome in words, for the log.
    pub fn label(self) -> &'static str {
        match self {
            Self::Applied { written: 0, .. } => "something newer, or nothing, is stored",
            Self::Applied { stale: 0, .. } => "written",
            Self::Applied { .. } => "partly written: of the rest, something newer is stored",
            Self::Locked => "locked",
            Self::SkippedByPolicy => "the customer is not in the cache (UPDATE_IF_EXISTS)",
            Self::NoCustomer => "the usage's customer is not in the cache",
            Self::PurgedLater => "the customer was purged after the message was sent",
        }
    }
}

/// How long an SDK may hold its write lock (`LOCK_DURATION` of the published packages).
pub const WRITE_LOCK_MAX: Duration = Duration::from_secs(5);
/// How long a purge waits for an SDK's refetch, which extends its lock.
const REFETCH_LOCK_MAX: Duration = Duration::from_mins(1);

/// Which of the readers' locks a change still waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockPatience {
    pub(crate) respects_write_lock: bool,
    /// A purge waits for it. A list or a balance is written at once, and again when the refetch has ended: an SDK that
    /// gets no entitlements from Stigg replaces whatever is stored.
    pub(crate) respects_refetch_lock: bool,
    /// It was tried before.
    pub(crate) has_waited: bool,
}

impl LockPatience {
    /// A held lock makes the change [`Outcome::Locked`].
    pub const RESPECT: Self =
        Self { respects_write_lock: true, respects_refetch_lock: true, has_waited: false };
    /// The same for a caller that holds the refetch lock itself.
    pub const OWN_REFETCH: Self = Self { respects_refetch_lock: false, ..Self::RESPECT };
    /// Locks are ignored.
    pub const NONE: Self = Self { respects_write_lock: false, ..Self::OWN_REFETCH };

    /// What is left after a change has waited this long.
    pub fn after(waited: Duration) -> Self {
        Self {
            respects_write_lock: waited < WRITE_LOCK_MAX,
            respects_refetch_lock: waited < REFETCH_LOCK_MAX,
            has_waited: !waited.is_zero(),
        }
    }
}

/// Whose customers are in Redis, as far as was scanned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrefixScan {
    /// Customers of the environment itself are there.
    pub has_own: bool,
    /// The prefixes of others, a bounded number.
    pub others: BTreeSet<String>,
    /// Everything was scanned; else only a first part.
    pub is_complete: bool,
}

/// The cache, as the loops need it. Every call ends within its deadline, whatever the peer does.
pub trait CacheStore: Send + Sync {
    /// Applies the changes, in one script call or in several if they are too large for one; results are in the order given.
    /// An inner error is that change's own. An outer error is the server's: nothing is known of any of the changes
    /// then, and all may be sent again. `keep_going` is asked between calls, and `false` ends it with an error of
    /// [`Cause::Stopped`].
    fn apply(
        &self,
        changes: &[(&CacheChange, LockPatience)],
        keep_going: &dyn Fn() -> bool,
    ) -> Result<Vec<Result<Outcome, StoreError>>, StoreError>;

    /// Scans all customers' keys and deletes them in bounded batches, each with its timestamp. Takes long on a large Redis:
    /// `keep_going` is asked between batches, and `false` ends it with an error of [`Cause::Stopped`]. Returns the number
    /// of keys deleted; `each` gets every value's key.
    fn invalidate(
        &self,
        invalidation: &Invalidation,
        each: &dyn Fn(&[u8]),
        keep_going: &dyn Fn() -> bool,
    ) -> Result<u64, StoreError>;

    /// Writes a key of our own that expires soon, through the script that makes every change: shows that writes work.
    fn probe_write(&self) -> Result<(), StoreError>;

    /// Asks Sentinel, if there is one, whether the primary is still the same; later calls go to the new one.
    fn follow_primary(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Scans for customers until it finds one of the environment itself, or has scanned its share. `keep_going` is asked
    /// between them, and `false` ends it with an error of [`Cause::Stopped`].
    fn scan_prefixes(
        &self,
        _own: &Keyspace,
        _keep_going: &dyn Fn() -> bool,
    ) -> Result<PrefixScan, StoreError> {
        Ok(PrefixScan::default())
    }

    /// Asks whether Redis answers and is ready for commands.
    fn ping(&self) -> Result<(), StoreError>;

    /// Redis's `INFO stats` and `INFO memory`, as text. An error of [`Cause::ReadOnly`] if it is a read-only replica.
    fn info(&self) -> Result<String, StoreError>;
}
