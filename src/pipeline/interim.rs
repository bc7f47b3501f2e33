//! Interim: what the branches `message` and `store` will provide.
use crate::cache::{CacheChange, Layout, changes_for};
use crate::entitlement::EpochMs;
use crate::message::Message;
use crate::store::{CacheStore, Locks, READERS_LOCK, StoreError};
use std::time::Duration;

pub type Changes = std::vec::IntoIter<CacheChange>;

#[allow(clippy::needless_pass_by_value)]
pub fn changes(message: Message, layout: &Layout) -> Changes {
    changes_for(&message.event, message.sent_at, layout).into_iter()
}

pub type LockPatience = Locks;
pub trait After {
    fn after(waited: Duration) -> Locks;
}
impl After for Locks {
    fn after(waited: Duration) -> Locks {
        if waited >= READERS_LOCK {
            Locks::Outlasted
        } else {
            Locks::Respect
        }
    }
}

pub trait Outdated {
    fn is_outdated_by(&self, at: EpochMs) -> bool;
}
impl Outdated for CacheChange {
    fn is_outdated_by(&self, at: EpochMs) -> bool {
        matches!(self, CacheChange::WriteEntitlements { sent_at, .. } if *sent_at <= at)
    }
}
pub trait Described {
    fn describe(&self) -> (&'static str, &str);
}
impl Described for CacheChange {
    fn describe(&self) -> (&'static str, &str) {
        self.what_and_where()
    }
}
pub trait Stopped {
    fn is_stopped(&self) -> bool;
}
impl Stopped for StoreError {
    fn is_stopped(&self) -> bool {
        self.kind == crate::store::STOPPED
    }
}
pub trait Probe {
    fn probe_write(&self) -> Result<(), StoreError>;
}
impl Probe for dyn CacheStore {
    fn probe_write(&self) -> Result<(), StoreError> {
        self.ping()
    }
}
pub trait Label {
    fn label(&self) -> &str;
}
impl Label for StoreError {
    fn label(&self) -> &str {
        &self.kind
    }
}
