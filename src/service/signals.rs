//! Signals. The first SIGTERM or SIGINT asks for a shutdown, the second ends the process at once. SIGUSR1 raises the log level
//! until the next SIGUSR1, for ten minutes at most: one that is forgotten fills no disk.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use crossbeam_channel::{Receiver, bounded};
use log::LevelFilter;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use super::threads::Threads;

/// The signals as they come. SIGUSR1 only if it is asked for: otherwise it is left to the program.
pub(super) fn listen(with_usr1: bool, threads: &Threads) -> anyhow::Result<Receiver<i32>> {
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
    threads.spawn("signals", move || {
        for signal in signals.forever() {
            let _ = sender.try_send(signal); // nobody listens during a shutdown
        }
    })?;
    Ok(receiver)
}

const RAISED_FOR: Duration = Duration::from_mins(10);

pub(super) struct LogLevel {
    configured: LevelFilter,
    /// Sets the level of the log.
    set: Box<dyn Fn(LevelFilter)>,
    raised_until: Option<Instant>,
}

impl LogLevel {
    pub(super) fn new(configured: LevelFilter, set: impl Fn(LevelFilter) + 'static) -> Self {
        Self { configured, set: Box::new(set), raised_until: None }
    }

    pub(super) fn signalled(&mut self, now: Instant) {
        if self.raised_until.is_some() {
            self.lower("SIGUSR1");
        } else if self.configured >= LevelFilter::Debug {
            log::info!("SIGUSR1 has no effect: LOG_LEVEL is debug or trace already");
        } else {
            self.raised_until = Some(now + RAISED_FOR);
            (self.set)(LevelFilter::Debug); // before the line, and below after it: LOG_LEVEL=error would hide it
            log::info!(
                "SIGUSR1: the log level is now debug (it shows customers' keys, no secrets) for 10 minutes or until the next SIGUSR1"
            );
        }
    }

    /// To be called every few seconds.
    pub(super) fn tick(&mut self, now: Instant) {
        if self.raised_until.is_some_and(|until| now >= until) {
            self.lower("the time is over");
        }
    }

    fn lower(&mut self, why: &str) {
        self.raised_until = None;
        let level = self.configured.as_str().to_ascii_lowercase();
        log::info!("{why}: the log level is now {level} again, as LOG_LEVEL says");
        (self.set)(self.configured);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    #[test]
    fn a_signal_raises_the_level_until_the_next_one_or_until_its_time_is_over() {
        let levels = Rc::new(RefCell::new(Vec::new()));
        let (set, now) = (Rc::clone(&levels), Instant::now());
        let mut log_level = LogLevel::new(LevelFilter::Warn, move |level| set.borrow_mut().push(level));
        (0..3).for_each(|_| log_level.signalled(now));
        let (debug, warn) = (LevelFilter::Debug, LevelFilter::Warn);
        log_level.tick(now + RAISED_FOR / 2);
        assert_eq!(*levels.borrow(), [debug, warn, debug]);
        (1..3).for_each(|times| log_level.tick(now + RAISED_FOR * times));
        assert_eq!(*levels.borrow(), [debug, warn, debug, warn]);
    }

    #[test]
    fn a_level_that_is_no_lower_is_left_alone() {
        let mut log_level = LogLevel::new(LevelFilter::Debug, |level| panic!("set to {level}"));
        log_level.signalled(Instant::now());
    }
}
