//! SIGTERM and SIGINT: the first asks for a stop, the second ends the process at once. (`verbosity` has SIGUSR1.)

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context as _;
use crossbeam_channel::{Receiver, bounded};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::crew::{Crew, Died};

/// Tells the name of the first signal.
pub(super) fn stop_signals(died: &Died) -> anyhow::Result<Receiver<&'static str>> {
    let asked = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        // In this order: the first signal finds the flag unset and sets it, the second finds it set.
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&asked))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&asked)))
            .context("cannot listen to signals")?;
    }
    let mut signals = Signals::new([SIGTERM, SIGINT]).context("cannot listen to signals")?;
    let (sender, receiver) = bounded(1);
    let listen = move || {
        for signal in signals.forever() {
            let _ = sender.try_send(if signal == SIGTERM { "SIGTERM" } else { "SIGINT" });
        }
    };
    Crew::start("signals", died, vec![listen])?;
    Ok(receiver)
}
