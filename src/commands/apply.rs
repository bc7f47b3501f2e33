//! Applies changes as the workers do: the readers' locks are waited for, an invalidation goes by itself.

use std::time::{Duration, Instant};

use crate::cache::{CacheChange, Invalidation};
use crate::entitlement::EpochMs;
use crate::shutdown::Stop;
use crate::store::{CacheStore, LockPatience, Outcome, StoreError};

/// How often a locked customer is tried again, as in the workers.
const LOCKED_AGAIN: Duration = Duration::from_millis(20);

/// Applies changes, some at a time.
pub(super) struct Applier<'a> {
    pub store: &'a dyn CacheStore,
    /// When the last invalidation that went through here was sent: it makes lists that were sent before it out of date.
    invalidated_at: Option<EpochMs>,
}

impl<'a> Applier<'a> {
    pub fn new(store: &'a dyn CacheStore) -> Self {
        Self {
            store,
            invalidated_at: None,
        }
    }

    /// An outcome for each change, in order, none of them [`Outcome::Locked`]. The error is the server's: what was applied
    /// by then may be applied again without harm.
    pub fn apply(&mut self, changes: &[CacheChange]) -> Result<Vec<Result<Outcome, StoreError>>, StoreError> {
        let is_atomic = |change: &CacheChange| !matches!(change, CacheChange::InvalidateEnvironment(_));
        let mut outcomes = Vec::with_capacity(changes.len());
        for together in changes.chunk_by(|one, next| is_atomic(one) && is_atomic(next)) {
            if let [CacheChange::InvalidateEnvironment(invalidation)] = together {
                self.invalidated_at = self.invalidated_at.max(Some(invalidation.sent_at));
                // The workers remember an invalidation that they did. Of this one they know by the tombstone alone.
                let remembered = Invalidation {
                    keeps_tombstone: true,
                    ..invalidation.clone()
                };
                let written = self.store.invalidate(&remembered, &|| true)?;
                outcomes.push(Ok(Outcome::Applied { written, stale: 0 }));
            } else {
                outcomes.extend(self.atomic(together)?);
            }
        }
        Ok(outcomes)
    }

    fn atomic(&self, changes: &[CacheChange]) -> Result<Vec<Result<Outcome, StoreError>>, StoreError> {
        let started = Instant::now();
        let at_first = |change: &CacheChange| {
            let is_outdated = self.invalidated_at.is_some_and(|at| change.is_outdated_by(at));
            Ok(if is_outdated {
                Outcome::PurgedLater
            } else {
                Outcome::Locked
            })
        };
        let mut outcomes: Vec<Result<Outcome, StoreError>> = changes.iter().map(at_first).collect();
        let mut waited = Duration::ZERO;
        loop {
            let patience = LockPatience::after(waited);
            let (indexes, locked): (Vec<usize>, Vec<_>) = changes
                .iter()
                .enumerate()
                .filter(|(index, _)| outcomes.get(*index) == Some(&Ok(Outcome::Locked)))
                .map(|(index, change)| (index, (change, patience)))
                .unzip();
            if locked.is_empty() {
                return Ok(outcomes);
            }
            for (index, outcome) in indexes.into_iter().zip(self.store.apply(&locked, &|| true)?) {
                outcomes[index] = outcome;
            }
            if outcomes.contains(&Ok(Outcome::Locked)) {
                Stop::never().wait(LOCKED_AGAIN);
            }
            waited = started.elapsed();
        }
    }
}
