//! Applies changes as the workers do.

use std::time::{Duration, Instant};

use crate::cache::CacheChange;
use crate::entitlement::EpochMs;
use crate::pipeline::worker::{LOCKED_RETRY_MIN, apply_once};
use crate::shutdown::Stop;
use crate::store::{CacheStore, Outcome, StoreError};

pub(super) struct Applier<'a> {
    store: &'a dyn CacheStore,
    /// When the last invalidation that was applied here was sent: lists that were sent before it are out of date.
    invalidated_at: EpochMs,
}

impl<'a> Applier<'a> {
    pub fn new(store: &'a dyn CacheStore) -> Self {
        Self {
            store,
            invalidated_at: EpochMs(i64::MIN),
        }
    }

    /// An outcome for each change, in order, none of them [`Outcome::Locked`]: readers' locks are waited for. The error is the
    /// server's: what was applied by then can be applied again without harm.
    pub fn apply(&mut self, changes: &[CacheChange]) -> Result<Vec<Result<Outcome, StoreError>>, StoreError> {
        let is_invalidation = |change: &CacheChange| matches!(change, CacheChange::InvalidateEnvironment(_));
        let mut outcomes = Vec::with_capacity(changes.len());
        for together in changes.chunk_by(|one, next| !is_invalidation(one) && !is_invalidation(next)) {
            if let [CacheChange::InvalidateEnvironment(invalidation)] = together {
                self.invalidated_at = self.invalidated_at.max(invalidation.sent_at);
            }
            outcomes.extend(self.apply_together(together)?);
        }
        Ok(outcomes)
    }

    fn apply_together(
        &self,
        changes: &[CacheChange],
    ) -> Result<Vec<Result<Outcome, StoreError>>, StoreError> {
        let began = Instant::now();
        let first = |change: &CacheChange| {
            let is_outdated = change.is_outdated_by(self.invalidated_at);
            Ok(if is_outdated {
                Outcome::PurgedLater
            } else {
                Outcome::Locked
            })
        };
        let mut outcomes: Vec<_> = changes.iter().map(first).collect();
        let mut waited = Duration::ZERO;
        loop {
            let locked = |index: &usize| outcomes[*index] == Ok(Outcome::Locked);
            let indexes: Vec<usize> = (0..changes.len()).filter(locked).collect();
            if indexes.is_empty() {
                return Ok(outcomes);
            }
            if !waited.is_zero() {
                Stop::never().wait(LOCKED_RETRY_MIN);
            }
            let attempts: Vec<_> = indexes.iter().map(|index| (&changes[*index], waited)).collect();
            for (index, outcome) in indexes.iter().zip(apply_once(self.store, &attempts, &|| true)?) {
                outcomes[*index] = outcome;
            }
            waited = began.elapsed();
        }
    }
}
