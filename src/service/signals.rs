//! Signals: the first SIGTERM or SIGINT asks for a shutdown, the second ends the process at once. SIGUSR1 is for
//! `log_level`.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context as _;
use crossbeam_channel::{Receiver, bounded};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use super::threads::{Died, Threads};

/// The signals as they come. SIGUSR1 only if it is asked for: otherwise it is left to the program.
pub(super) fn listen(with_usr1: bool, died: &Died) -> anyhow::Result<Receiver<i32>> {
    const FAILED: &str = "cannot listen to signals";
    let is_stopping = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        // In this order: the first signal finds the flag unset and sets it, the second finds it set.
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&is_stopping))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&is_stopping)))
            .context(FAILED)?;
    }
    let mut signals = Signals::new([SIGTERM, SIGINT]).context(FAILED)?;
    if with_usr1 {
        signals.add_signal(SIGUSR1).context(FAILED)?;
    }
    let (sender, receiver) = bounded(16);
    let listen = move || {
        for signal in signals.forever() {
            let _ = sender.try_send(signal); // nobody listens during a shutdown
        }
    };
    Threads::start("signals", died, vec![listen])?;
    Ok(receiver)
}
