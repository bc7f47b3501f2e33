//! Making changes so in Redis.
//!
//! A change is one script call, and so one atomic step on the server: the check against stored timestamps and
//! the write cannot be torn apart by another writer. All changes that a worker has in hand go out in one
//! pipelined round trip. No lock is taken here: the readers' locks are respected inside the scripts.

mod connection;
mod errors;
mod iam_token;
pub mod look;
mod numbers;
pub mod probe;
mod redis_store;
mod refetch;
mod request;
mod scripts;
mod sentinel;
mod survey;
mod tls;
mod wire;

use std::collections::BTreeSet;
use std::time::Duration;

use crate::cache::keyspace::Keyspace;
use crate::cache::{CacheChange, Invalidation};

pub use errors::server_name;
pub use numbers::numbers;
pub use redis_store::{RedisStore, StoreRules};
pub use scripts::outcome;
pub use sentinel::parse_primary;

/// What became of one change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Done; so many keys were written (or purged), so many skipped because something newer is stored.
    Applied {
        /// Keys written.
        written: u64,
        /// Keys skipped as stale.
        stale: u64,
    },
    /// Nothing was done: an SDK holds its lock on the customer. Try again soon.
    Locked,
    /// Nothing was done, as UPDATE_IF_EXISTS asks: no key of the customer is in the cache.
    SkippedByPolicy,
    /// Nothing was done: the usage's customer is not in the cache.
    NoCustomer,
    /// Nothing was done: the customer was purged after the message was sent.
    PurgedLater,
}

impl Outcome {
    /// The outcome in a word or two, as the log names it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Applied { written: 0, .. } => "nothing to write: something newer, or nothing, is stored",
            Self::Applied { stale: 0, .. } => "written",
            Self::Applied { .. } => "written in part: of the rest something newer is stored",
            Self::Locked => "locked",
            Self::SkippedByPolicy => "skipped: the customer is not in the cache (UPDATE_IF_EXISTS)",
            Self::NoCustomer => "skipped: the usage's customer is not in the cache",
            Self::PurgedLater => "skipped: purged after the message was sent",
        }
    }
}

/// Whether the readers' locks are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locks {
    /// A held lock makes the change [`Outcome::Locked`].
    Respect,
    /// The lock was held for longer than an SDK may hold it: go ahead.
    Outlasted,
}

/// How far a fault reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Redis as a whole is out of reach or refuses to write: whatever was sent may or may not have been done,
    /// and can be sent again without harm.
    Redis,
    /// This change alone.
    Change,
}

/// A fault of Redis.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StoreError {
    /// What, for what, why, and the remedy: one line that tells a stranger what to do. No secret.
    pub message: String,
    /// A short stable name of the fault (`WRONGPASS`, `timeout` …).
    pub kind: String,
    /// How far it reaches.
    pub reach: Reach,
}

impl StoreError {
    /// Trying the same change again cannot help, until somebody removes what stands in its way: something foreign
    /// stands at the key. Any other refusal is no property of the message: a missing permission may be granted, and
    /// `ERR` is what a Redis says that lacks a command or runs scripts in another way. With POISON_POLICY=delete every
    /// message would go for such a fault of the server.
    pub fn is_permanent(&self) -> bool {
        self.reach == Reach::Change && self.kind == "WRONGTYPE"
    }
}

/// Whose customers are in Redis, as far as was looked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// Customers of the environment itself are there.
    pub has_own: bool,
    /// The prefixes of others, a bounded number.
    pub others: BTreeSet<String>,
    /// Everything was looked at; else only a first part.
    pub is_whole: bool,
}

/// The cache, as the loops need it. Every call ends within its own deadline, whatever the peer does.
pub trait CacheStore: Send + Sync {
    /// Applies the changes in one round trip; outcomes are in the order given. An error is one that reaches
    /// all of Redis: nothing is known of any of the changes then, and all may be sent again. A long row goes out
    /// in several round trips; `go_on` is asked between them, and `false` ends it with an error of [`STOPPED`].
    fn apply(
        &self,
        changes: &[(&CacheChange, Locks)],
        go_on: &dyn Fn() -> bool,
    ) -> Result<Vec<Result<Outcome, StoreError>>, StoreError>;

    /// Walks all keys that match the pattern and unlinks them in bounded batches, each with its timestamp.
    /// Takes long on a large Redis: `go_on` is asked between batches, and `false` ends the walk with an error of
    /// [`STOPPED`]. Returns the number of keys unlinked.
    fn invalidate(&self, invalidation: &Invalidation, go_on: &dyn Fn() -> bool) -> Result<u64, StoreError>;

    /// Asks whether the primary is still the same, where somebody else knows: what comes after goes to the new one.
    fn follow_primary(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Looks whose customers are in Redis, until it finds one of the environment itself, or in so many small steps.
    /// `go_on` is asked between them, and `false` ends the look with an error of [`STOPPED`].
    fn survey(&self, _own: &Keyspace, _go_on: &dyn Fn() -> bool) -> Result<Survey, StoreError> {
        Ok(Survey::default())
    }

    /// Asks whether Redis answers and is ready for commands.
    fn ping(&self) -> Result<(), StoreError>;

    /// Redis's `INFO stats` and `INFO memory`, as text. An error of kind [`READONLY`] if it is a read-only replica.
    fn info(&self) -> Result<String, StoreError>;
}

/// The kind of error that a read-only replica answers to writes.
pub const READONLY: &str = "READONLY";

/// The kind of error of a call that the ACL forbids.
pub const NOPERM: &str = "NOPERM";

/// The kind of error that ends a walk which was told not to go on.
pub const STOPPED: &str = "stopped";

/// How long an SDK may hold its lock (`LOCK_DURATION` of the published packages).
pub const READERS_LOCK: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_in_the_way_of_one_change_is_permanent() {
        let is_permanent = |kind: &str, reach: Reach, message: &str| {
            let error = StoreError {
                message: message.to_owned(),
                kind: kind.to_owned(),
                reach,
            };
            error.is_permanent()
        };
        assert!(is_permanent("WRONGTYPE", Reach::Change, "a list"));
        assert!(!is_permanent("NOPERM", Reach::Change, "no SCAN"));
        assert!(!is_permanent("ERR", Reach::Change, "unknown command 'UNLINK'"));
        assert!(!is_permanent(
            "ERR",
            Reach::Change,
            "attempt to call a nil value (global 'unpack')"
        ));
        assert!(!is_permanent("OOM", Reach::Redis, "full"));
    }
}
