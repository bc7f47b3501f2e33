//! SIGUSR1 raises the log level until the next SIGUSR1, for ten minutes at most: one that is forgotten fills no disk.

use std::time::{Duration, Instant};

use log::LevelFilter;

const RAISED_FOR: Duration = Duration::from_mins(10);

pub(super) struct LogLevel {
    configured: LevelFilter,
    set: Box<dyn Fn(LevelFilter)>,
    raised_until: Option<Instant>,
}

impl LogLevel {
    /// The configured level, and what changes the log's.
    pub(super) fn new(configured: LevelFilter, set: impl Fn(LevelFilter) + 'static) -> Self {
        let set = Box::new(set);
        Self { configured, set, raised_until: None }
    }

    /// How long until [`Self::time_passed`] has something to do.
    pub(super) fn raised_for(&self, now: Instant) -> Duration {
        let until = self.raised_until.unwrap_or(now + Duration::from_hours(1));
        until.saturating_duration_since(now)
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

    pub(super) fn time_passed(&mut self, now: Instant) {
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
        assert_eq!(log_level.raised_for(now), RAISED_FOR);
        let (debug, warn) = (LevelFilter::Debug, LevelFilter::Warn);
        log_level.time_passed(now + RAISED_FOR / 2);
        assert_eq!(*levels.borrow(), [debug, warn, debug]);
        (1..3).for_each(|times| log_level.time_passed(now + RAISED_FOR * times));
        assert_eq!(*levels.borrow(), [debug, warn, debug, warn]);
    }

    #[test]
    fn a_level_that_is_no_lower_is_left_alone() {
        let mut log_level = LogLevel::new(LevelFilter::Debug, |level| panic!("set to {level}"));
        log_level.signalled(Instant::now());
    }
}
