//! SIGUSR1: the log says everything for a while, and then by itself what it said before. The same signal again ends
//! that while.
//!
//! Not SIGHUP, which also comes when a terminal goes away, and which service managers send to have settings read
//! anew. A level that was raised by mistake, or forgotten, costs ten minutes of lines and not a full disk.

use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use log::LevelFilter;
use signal_hook::consts::SIGUSR1;

use super::crew::{Crew, Died};
use crate::log::LogHandle;

/// Long enough to meet a fault that comes every few minutes.
const RAISED_FOR: Duration = Duration::from_mins(10);
const RAISED_TO: LevelFilter = LevelFilter::Debug;

/// Listens from now on, in a thread of its own.
pub(super) fn listen(log: LogHandle, died: &Died) -> anyhow::Result<()> {
    // The signal becomes a byte that can be waited for with a deadline.
    let (signals, handler) = UnixStream::pair().context("cannot listen to signals")?;
    signal_hook::low_level::pipe::register(SIGUSR1, handler).context("cannot listen to signals")?;
    let level = log.level();
    let set = move |level| log.set_level(level);
    Crew::start(
        "log-level",
        died,
        vec![move || {
            Verbosity::new(level, RAISED_FOR).follow(signals, &set);
        }],
    )?;
    Ok(())
}

/// What the level is.
#[derive(Debug)]
struct Verbosity {
    configured: LevelFilter,
    raised_for: Duration,
    raised_until: Option<Instant>,
}

impl Verbosity {
    fn new(configured: LevelFilter, raised_for: Duration) -> Self {
        Self {
            configured,
            raised_for,
            raised_until: None,
        }
    }

    /// Follows the signals, each a byte, until the pipe is closed.
    fn follow(mut self, mut signals: UnixStream, set: &dyn Fn(LevelFilter)) {
        loop {
            let left = self.raised_until.map(|until| {
                let left = until.saturating_duration_since(Instant::now());
                // A timeout of nothing would be one of for ever.
                left.max(Duration::from_millis(1))
            });
            if signals.set_read_timeout(left).is_err() {
                return;
            }
            // One byte at a time: two signals undo each other.
            match signals.read(&mut [0]) {
                Ok(0) => return,
                Ok(_) => self.signalled(Instant::now(), set),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    self.time_passed(Instant::now(), set);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    fn signalled(&mut self, now: Instant, set: &dyn Fn(LevelFilter)) {
        if self.raised_until.is_some() {
            self.lower("SIGUSR1", set);
        } else if self.configured >= RAISED_TO {
            log::info!("SIGUSR1: the log says everything already, by LOG_LEVEL");
        } else {
            self.raised_until = Some(now + self.raised_for);
            set(RAISED_TO);
            // After it is raised, and below before it is lowered: LOG_LEVEL=error would hide it.
            log::info!(
                log_level = name(RAISED_TO), secs = self.raised_for.as_secs();
                "SIGUSR1: the log says everything (customers' keys, too; no secrets) for {} minutes or until the next SIGUSR1",
                self.raised_for.as_secs() / 60
            );
        }
    }

    fn time_passed(&mut self, now: Instant, set: &dyn Fn(LevelFilter)) {
        if self.raised_until.is_some_and(|until| now >= until) {
            self.lower("the time is over", set);
        }
    }

    fn lower(&mut self, why: &str, set: &dyn Fn(LevelFilter)) {
        self.raised_until = None;
        let log_level = name(self.configured);
        log::info!(log_level; "{why}: the log says again what LOG_LEVEL={log_level} says");
        set(self.configured);
    }
}

fn name(level: LevelFilter) -> &'static str {
    match level {
        LevelFilter::Off => "off",
        LevelFilter::Error => "error",
        LevelFilter::Warn => "warn",
        LevelFilter::Info => "info",
        LevelFilter::Debug => "debug",
        LevelFilter::Trace => "trace",
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io::Write;
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_signal_raises_the_level_and_the_next_one_lowers_it() {
        let set = RefCell::new(Vec::new());
        let note = |level| set.borrow_mut().push(level);
        let mut verbosity = Verbosity::new(LevelFilter::Warn, RAISED_FOR);
        let now = Instant::now();
        for _ in 0..3 {
            verbosity.signalled(now, &note);
        }
        let (debug, warn) = (LevelFilter::Debug, LevelFilter::Warn);
        assert_eq!(*set.borrow(), [debug, warn, debug]);
    }

    #[test]
    fn the_level_comes_back_when_the_time_is_over_and_not_before() {
        let set = RefCell::new(Vec::new());
        let note = |level| set.borrow_mut().push(level);
        let mut verbosity = Verbosity::new(LevelFilter::Error, RAISED_FOR);
        let now = Instant::now();
        verbosity.time_passed(now, &note);
        verbosity.signalled(now, &note);
        verbosity.time_passed(now + Duration::from_mins(9), &note);
        assert_eq!(*set.borrow(), [LevelFilter::Debug]);
        verbosity.time_passed(now + RAISED_FOR, &note);
        verbosity.time_passed(now + RAISED_FOR * 2, &note);
        assert_eq!(*set.borrow(), [LevelFilter::Debug, LevelFilter::Error]);
    }

    #[test]
    fn a_level_that_is_no_lower_is_left_alone() {
        for level in [LevelFilter::Debug, LevelFilter::Trace] {
            let mut verbosity = Verbosity::new(level, RAISED_FOR);
            verbosity.signalled(Instant::now(), &|set| panic!("{level} became {set}"));
        }
    }

    #[test]
    fn without_a_second_signal_the_loop_lowers_the_level_by_itself() {
        let (signals, mut handler) = UnixStream::pair().unwrap();
        let (set, levels) = channel();
        let note = |level| set.send(level).unwrap();
        std::thread::scope(|scope| {
            let verbosity = Verbosity::new(LevelFilter::Info, Duration::from_millis(20));
            scope.spawn(move || verbosity.follow(signals, &note));
            handler.write_all(&[0]).unwrap();
            let next = || levels.recv_timeout(Duration::from_secs(10)).unwrap();
            assert_eq!((next(), next()), (LevelFilter::Debug, LevelFilter::Info));
            drop(handler);
        });
    }
}
