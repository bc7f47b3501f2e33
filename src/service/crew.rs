//! Named threads that end together.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::Builder;
use std::time::Instant;

use anyhow::Context as _;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

/// Enough for TLS handshakes and JSON nested to serde_json's limit, with room; the default is 2 MiB.
const STACK_BYTES: usize = 512 * 1024;

/// Threads of one kind. They are not joined by a scope: a poller in a long poll cannot be woken, and must not
/// hold up the end of the process.
#[derive(Debug)]
pub(super) struct Crew {
    at_work: Receiver<()>,
}

/// Told the name of a thread that panicked.
pub(super) type Died = Sender<String>;

impl Crew {
    /// Starts a thread for each loop: `name` if it is the only one, else `name-0`, `name-1` …
    pub(super) fn start<L>(name: &'static str, died: &Died, loops: Vec<L>) -> anyhow::Result<Self>
    where
        L: FnOnce() + Send + 'static,
    {
        let (working, at_work) = bounded::<()>(0);
        let is_alone = loops.len() == 1;
        for (index, run) in loops.into_iter().enumerate() {
            let thread = if is_alone {
                name.to_owned()
            } else {
                format!("{name}-{index}")
            };
            let (working, died, thread_name) = (working.clone(), died.clone(), thread.clone());
            Builder::new()
                .name(thread.clone())
                .stack_size(STACK_BYTES)
                .spawn(move || {
                    if catch_unwind(AssertUnwindSafe(run)).is_err() {
                        // The channel is full only if others died before: one is enough to end the process.
                        let _ = died.try_send(thread_name);
                    }
                    drop(working);
                })
                .with_context(|| format!("cannot start thread {thread}"))?;
        }
        Ok(Self { at_work })
    }

    /// Waits until all have ended. False if some had not by the deadline: they are left behind.
    pub(super) fn wait(&self, deadline: Instant) -> bool {
        matches!(
            self.at_work.recv_deadline(deadline),
            Err(RecvTimeoutError::Disconnected)
        )
    }
}
