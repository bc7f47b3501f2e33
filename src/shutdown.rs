//! How every wait is woken at once: dropping the one [`StopTrigger`] closes a channel that each [`Stop`] watches.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, never};

/// Held by main alone; dropping it stops everything that watches the [`Stop`].
#[derive(Debug)]
pub struct StopTrigger {
    was_pulled: Arc<AtomicBool>,
    _closes: Sender<()>,
}

/// Watches for the stop. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Stop {
    /// Told before the channel closes: looked at so often that the channel's own lock would be felt.
    was_pulled: Arc<AtomicBool>,
    closed: Receiver<()>,
}

/// A trigger and what watches it.
pub fn stop_pair() -> (StopTrigger, Stop) {
    let (sender, closed) = bounded(0);
    let was_pulled = Arc::new(AtomicBool::new(false));
    let trigger = StopTrigger {
        was_pulled: Arc::clone(&was_pulled),
        _closes: sender,
    };
    (trigger, Stop { was_pulled, closed })
}

impl Drop for StopTrigger {
    fn drop(&mut self) {
        self.was_pulled.store(true, Ordering::SeqCst);
    }
}

impl Stop {
    /// A stop that never comes, for tests and one-off commands.
    pub fn never() -> Self {
        Self {
            was_pulled: Arc::default(),
            closed: never(),
        }
    }

    /// True once the trigger has been dropped.
    pub fn is_stopped(&self) -> bool {
        self.was_pulled.load(Ordering::SeqCst)
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
