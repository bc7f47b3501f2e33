//! How every wait is woken at once: dropping the one [`StopTrigger`] closes a channel that each [`Stop`] watches.

use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, never};

/// Held by main alone; dropping it stops everything that watches the [`Stop`].
#[derive(Debug)]
pub struct StopTrigger {
    _closes: Sender<()>,
}

/// Watches for the stop. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Stop {
    closed: Receiver<()>,
}

/// A trigger and what watches it.
pub fn stop_pair() -> (StopTrigger, Stop) {
    let (sender, receiver) = bounded(0);
    (StopTrigger { _closes: sender }, Stop { closed: receiver })
}

impl Stop {
    /// A stop that never comes, for tests and one-off commands.
    pub fn never() -> Self {
        Self { closed: never() }
    }

    /// True once the trigger has been dropped.
    pub fn is_stopped(&self) -> bool {
        self.wait(Duration::ZERO)
    }

    /// Waits for the stop, at most this long. True if it came.
    pub fn wait(&self, at_most: Duration) -> bool {
        matches!(
            self.closed.recv_timeout(at_most),
            Err(RecvTimeoutError::Disconnected)
        )
    }

    /// Becomes ready (disconnected) at the stop: for `crossbeam_channel::select!`.
    pub fn channel(&self) -> &Receiver<()> {
        &self.closed
    }
}
