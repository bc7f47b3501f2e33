//! Named threads that end together.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::Builder;
use std::time::Instant;

use anyhow::Context as _;
use crossbeam_channel::{Receiver, Sender, bounded};

/// More than TLS handshakes and JSON nested to serde_json's limit need; the default is 2 MiB.
const STACK_BYTES: usize = 512 * 1024;

/// Threads that are waited for together. They are not joined but waited for until a deadline: none may delay the end of the
/// process.
#[derive(Debug)]
pub(super) struct Threads {
    alive: Sender<()>,
    /// Disconnected when all have ended.
    running: Receiver<()>,
    /// Receives the name of a thread that panicked.
    died: Sender<String>,
}

impl Threads {
    pub(super) fn new(died: &Sender<String>) -> Self {
        let (alive, running) = bounded(0);
        Self { alive, running, died: died.clone() }
    }

    /// Starts one.
    pub(super) fn spawn(
        &self,
        name: impl Into<String>,
        run: impl FnOnce() + Send + 'static,
    ) -> anyhow::Result<()> {
        let name = name.into();
        let (alive, died, thread) = (self.alive.clone(), self.died.clone(), name.clone());
        let run = move || {
            if catch_unwind(AssertUnwindSafe(run)).is_err() {
                // The channel is full only if others died before: one is enough to end the process.
                let _ = died.try_send(thread);
            }
            drop(alive);
        };
        let started = Builder::new().name(name.clone()).stack_size(STACK_BYTES).spawn(run);
        started.map(drop).with_context(|| format!("cannot start thread {name}"))
    }

    /// Waits until all have ended. Those that have not by the deadline are left behind.
    pub(super) fn wait(self, deadline: Instant) {
        drop(self.alive);
        let _ = self.running.recv_deadline(deadline);
    }
}
