//! Makes changes so as the workers do: the readers' locks are waited for, an invalidation is a walk by itself.

use std::time::{Duration, Instant};

use crate::cache::{CacheChange, Invalidation};
use crate::shutdown::Stop;
use crate::store::{CacheStore, Locks, Outcome, READERS_LOCK, StoreError};

/// How often a locked customer is tried again, as in the workers.
const LOCKED_AGAIN: Duration = Duration::from_millis(20);

/// Applies changes, some at a time.
pub(super) struct Applier<'a> {
    pub store: &'a dyn CacheStore,
    /// When the last invalidation that went through here was sent: what was sent before it is late news.
    invalidated_at: Option<i64>,
}

impl<'a> Applier<'a> {
    pub fn new(store: &'a dyn CacheStore) -> Self {
        Self {
            store,
            invalidated_at: None,
        }
    }

    /// An outcome for each change, in order, none of them [`Outcome::Locked`]. The error is one of Redis as a whole:
    /// what was applied by then may be applied again without harm.
    pub fn apply(&mut self, changes: &[CacheChange]) -> Result<Vec<Result<Outcome, StoreError>>, StoreError> {
        let mut outcomes = Vec::with_capacity(changes.len());
        let mut rest = changes;
        while let Some(first) = rest.first() {
            if let CacheChange::InvalidateEnvironment(invalidation) = first {
                let sent_at = invalidation.sent_at.0;
                self.invalidated_at = self.invalidated_at.max(Some(sent_at));
                // The workers remember an invalidation that they did. Of this one they know by the mark alone.
                let remembered = Invalidation {
                    keeps_mark: true,
                    ..invalidation.clone()
                };
                let unlinked = self.store.invalidate(&remembered, &|| true)?;
                outcomes.push(Ok(Outcome::Applied {
                    written: unlinked,
                    stale: 0,
                }));
                rest = &rest[1..];
                continue;
            }
            let end = rest
                .iter()
                .position(|change| matches!(change, CacheChange::InvalidateEnvironment(_)))
                .unwrap_or(rest.len());
            let (atomic, behind) = rest.split_at(end);
            outcomes.extend(self.atomic(atomic)?);
            rest = behind;
        }
        Ok(outcomes)
    }

    fn atomic(&self, changes: &[CacheChange]) -> Result<Vec<Result<Outcome, StoreError>>, StoreError> {
        let started = Instant::now();
        let mut outcomes: Vec<Result<Outcome, StoreError>> = changes
            .iter()
            .map(|change| {
                let late = self.is_late_news(change);
                Ok(if late {
                    Outcome::PurgedLater
                } else {
                    Outcome::Locked
                })
            })
            .collect();
        loop {
            let locks = if started.elapsed() >= READERS_LOCK {
                Locks::Outlasted
            } else {
                Locks::Respect
            };
            let waiting: Vec<usize> = outcomes
                .iter()
                .enumerate()
                .filter(|(_, outcome)| **outcome == Ok(Outcome::Locked))
                .map(|(index, _)| index)
                .collect();
            if waiting.is_empty() {
                return Ok(outcomes);
            }
            let row: Vec<(&CacheChange, Locks)> =
                waiting.iter().map(|index| (&changes[*index], locks)).collect();
            for (index, outcome) in waiting.iter().zip(self.store.apply(&row, &|| true)?) {
                outcomes[*index] = outcome;
            }
            if outcomes.contains(&Ok(Outcome::Locked)) {
                Stop::never().wait(LOCKED_AGAIN);
            }
        }
    }

    fn is_late_news(&self, change: &CacheChange) -> bool {
        match change {
            CacheChange::WriteEntitlements { sent_at, .. } => Some(sent_at.0) <= self.invalidated_at,
            CacheChange::WriteUsage { .. }
            | CacheChange::Purge { .. }
            | CacheChange::InvalidateEnvironment(_) => false,
        }
    }
}
