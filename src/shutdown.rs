//! The stop signal, and the three phases of a shutdown.

use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded, never};

/// Dropping it stops everything that watches the [`Stop`].
#[derive(Debug)]
pub struct StopTrigger {
    _closes: Sender<()>,
}

/// Watches for a stop. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Stop(Receiver<()>);

/// A trigger and what watches it.
pub fn stop_pair() -> (StopTrigger, Stop) {
    let (sender, closed) = bounded(1); // a channel with room is checked without a lock
    (StopTrigger { _closes: sender }, Stop(closed))
}

impl Stop {
    /// A stop that never comes, for tests and one-off commands.
    pub fn never() -> Self {
        Self(never())
    }

    /// True once the trigger has been dropped.
    pub fn is_stopped(&self) -> bool {
        self.0.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// Waits for the stop, at most this long. True if it came.
    pub fn wait(&self, at_most: Duration) -> bool {
        self.0.recv_timeout(at_most) == Err(RecvTimeoutError::Disconnected)
    }

    /// Becomes ready (disconnected) at the stop: for `crossbeam_channel::select!`.
    pub fn channel(&self) -> &Receiver<()> {
        &self.0
    }
}

/// The phases of a shutdown. A phase begins with its stop, when its trigger is dropped, and lasts until the next phase begins.
#[derive(Debug, Clone)]
pub(crate) struct Phases<T> {
    /// Nothing more is received from the queue. What is in flight is finished.
    pub drain: T,
    /// What is still in flight is released to the queue. Everything gets one last try.
    pub release: T,
    /// All threads end.
    pub exit: T,
}

pub(crate) fn shutdown_phases() -> (Phases<StopTrigger>, Phases<Stop>) {
    let ((drain, on_drain), (release, on_release), (exit, on_exit)) = (stop_pair(), stop_pair(), stop_pair());
    let triggers = Phases { drain, release, exit };
    (triggers, Phases { drain: on_drain, release: on_release, exit: on_exit })
}
