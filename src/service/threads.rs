//! Named threads that end together.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::Builder;
use std::time::Instant;

use anyhow::Context as _;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::log::FaultLog;
use crate::ops::metrics::Metrics;
use crate::shutdown::Stop;

/// More than TLS handshakes and JSON nested to serde_json's limit need; the default is 2 MiB.
const STACK_BYTES: usize = 512 * 1024;

/// Threads of one kind. A poller in a long poll cannot be woken and must not delay the end of the process, so they
/// are not joined but waited for until a deadline.
#[derive(Debug)]
pub(super) struct Threads {
    /// Disconnected when all have ended.
    running: Receiver<()>,
}

/// Receives the name of a thread that panicked.
pub(super) type Died = Sender<String>;

impl Threads {
    /// Starts a thread per loop: `name` if it is the only one, else `name-0`, `name-1` …
    pub(super) fn start<L>(name: &str, died: &Died, loops: Vec<L>) -> anyhow::Result<Self>
    where
        L: FnOnce() + Send + 'static,
    {
        let (alive, running) = bounded::<()>(0);
        let is_only = loops.len() == 1;
        for (index, run) in loops.into_iter().enumerate() {
            let name = if is_only { name.to_owned() } else { format!("{name}-{index}") };
            let (alive, died, thread) = (alive.clone(), died.clone(), name.clone());
            Builder::new()
                .name(name.clone())
                .stack_size(STACK_BYTES)
                .spawn(move || {
                    if catch_unwind(AssertUnwindSafe(run)).is_err() {
                        // The channel is full only if others died before: one is enough to end the process.
                        let _ = died.try_send(thread);
                    }
                    drop(alive);
                })
                .with_context(|| format!("cannot start thread {name}"))?;
        }
        Ok(Self { running })
    }

    /// Waits until all have ended. False if some had not by the deadline: they are left behind.
    pub(super) fn wait(&self, deadline: Instant) -> bool {
        matches!(self.running.recv_deadline(deadline), Err(RecvTimeoutError::Disconnected))
    }
}

/// Single threads that end in the exit phase, and what they report to.
pub(super) struct Background {
    pub(super) metrics: Arc<Metrics>,
    pub(super) faults: Arc<FaultLog>,
    /// Ends them.
    pub(super) exit: Stop,
    pub(super) died: Died,
    pub(super) threads: Vec<Threads>,
}

impl Background {
    /// Starts one more.
    pub(super) fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
        self.threads.push(Threads::start(name, &self.died, vec![run])?);
        Ok(())
    }
}
