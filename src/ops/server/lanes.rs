//! One handler for one connection at a time.
//!
//! `tiny_http` hands over the pipelined requests of one connection as separate requests, and makes each answer
//! wait for the one before it. Several handlers would then all wait for the one client that does not read. Here
//! a request of a connection that is being answered is left to the handler that answers it, so that a client
//! costs at most one handler.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Which connections (`K`) are being answered, and the requests (`T`) that wait behind.
#[derive(Debug)]
pub(super) struct Lanes<K, T> {
    waiting: Mutex<HashMap<K, VecDeque<T>>>,
}

impl<K: Eq + Hash, T> Lanes<K, T> {
    pub(super) fn new() -> Self {
        Self {
            waiting: Mutex::new(HashMap::new()),
        }
    }

    /// Gives the request back if its connection is free: the caller answers it, then asks [`Self::next`] until
    /// that says `None`. Else keeps it for the handler that answers this connection.
    pub(super) fn enter(&self, connection: K, request: T) -> Option<T> {
        let mut waiting = self.lock();
        if let Some(behind) = waiting.get_mut(&connection) {
            behind.push_back(request);
            return None;
        }
        waiting.insert(connection, VecDeque::new());
        Some(request)
    }

    /// The next request that came in for this connection meanwhile; `None` frees the connection.
    pub(super) fn next(&self, connection: &K) -> Option<T> {
        let mut waiting = self.lock();
        let request = waiting.get_mut(connection).and_then(VecDeque::pop_front);
        if request.is_none() {
            waiting.remove(connection);
        }
        request
    }

    /// Frees the connection and gives back what waits, not to be answered.
    pub(super) fn abandon(&self, connection: &K) -> VecDeque<T> {
        self.lock().remove(connection).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, VecDeque<T>>> {
        // The map is whole at every moment that could panic, so a poisoned lock is as good as any.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_a_busy_connection_wait_in_order_for_its_handler() {
        let lanes = Lanes::new();
        assert_eq!(lanes.enter("client", 1), Some(1));
        assert_eq!(lanes.enter("client", 2), None);
        assert_eq!(lanes.enter("client", 3), None);
        assert_eq!(lanes.next(&"client"), Some(2));
        assert_eq!(lanes.next(&"client"), Some(3));
        assert_eq!(lanes.next(&"client"), None);
        assert_eq!(lanes.enter("client", 4), Some(4), "the connection is free again");
    }

    #[test]
    fn another_connection_does_not_wait() {
        let lanes = Lanes::new();
        assert_eq!(lanes.enter("slow", 1), Some(1));
        assert_eq!(lanes.enter("good", 2), Some(2));
        assert_eq!(lanes.next(&"good"), None);
    }

    #[test]
    fn an_abandoned_connection_gives_up_what_waits_and_is_free() {
        let lanes = Lanes::new();
        assert_eq!(lanes.enter("client", 1), Some(1));
        assert_eq!(lanes.enter("client", 2), None);
        assert_eq!(lanes.abandon(&"client"), [2]);
        assert_eq!(lanes.enter("client", 3), Some(3));
    }
}
