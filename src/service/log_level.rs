//! SIGUSR1 raises the log level for ten minutes, or until the next SIGUSR1.
//!
//! Not SIGHUP, which also comes when a terminal goes away. A level that was raised by mistake, or forgotten, costs
//! ten minutes of lines and not a full disk.

use std::time::{Duration, Instant};

use log::LevelFilter;

/// Long enough to meet a fault that returns every few minutes.
const RAISED_FOR: Duration = Duration::from_mins(10);
const RAISED_TO: LevelFilter = LevelFilter::Debug;

/// The log level.
pub(super) struct LogLevel {
    configured: LevelFilter,
    set: Box<dyn Fn(LevelFilter)>,
    raised_until: Option<Instant>,
}

impl LogLevel {
    /// The configured level, and what changes the log's.
    pub(super) fn new(configured: LevelFilter, set: impl Fn(LevelFilter) + 'static) -> Self {
        Self {
            configured,
            set: Box::new(set),
            raised_until: None,
        }
    }

    /// How long until [`Self::time_passed`] has something to do.
    pub(super) fn raised_for(&self, now: Instant) -> Duration {
        let left = self
            .raised_until
            .map(|until| until.saturating_duration_since(now));
        left.unwrap_or(Duration::from_hours(1))
    }

    /// SIGUSR1 came.
    pub(super) fn signalled(&mut self, now: Instant) {
        if self.raised_until.is_some() {
            self.lower("SIGUSR1");
        } else if self.configured >= RAISED_TO {
            log::info!("SIGUSR1: the log says everything already, by LOG_LEVEL");
        } else {
            self.raised_until = Some(now + RAISED_FOR);
            (self.set)(RAISED_TO);
            // After the level is raised, and below before it is lowered: LOG_LEVEL=error would hide it.
            log::info!(
                log_level = name(RAISED_TO).as_str(), secs = RAISED_FOR.as_secs();
                "SIGUSR1: the log says everything (customers' keys, too; no secrets) for 10 minutes or until the next SIGUSR1"
            );
        }
    }

    /// Lowers the level when its time is over.
    pub(super) fn time_passed(&mut self, now: Instant) {
        if self.raised_until.is_some_and(|until| now >= until) {
            self.lower("the time is over");
        }
    }

    fn lower(&mut self, why: &str) {
        self.raised_until = None;
        let level = name(self.configured);
        log::info!(log_level = level.as_str(); "{why}: the log says again what LOG_LEVEL={level} says");
        (self.set)(self.configured);
    }
}

fn name(level: LevelFilter) -> String {
    level.as_str().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    fn log_level(configured: LevelFilter) -> (LogLevel, Rc<RefCell<Vec<LevelFilter>>>) {
        let levels = Rc::new(RefCell::new(Vec::new()));
        let set = Rc::clone(&levels);
        let log_level = LogLevel::new(configured, move |level| set.borrow_mut().push(level));
        (log_level, levels)
    }

    #[test]
    fn a_signal_raises_the_level_and_the_next_one_lowers_it() {
        let (mut log_level, levels) = log_level(LevelFilter::Warn);
        let now = Instant::now();
        (0..3).for_each(|_| log_level.signalled(now));
        let (debug, warn) = (LevelFilter::Debug, LevelFilter::Warn);
        assert_eq!(*levels.borrow(), [debug, warn, debug]);
    }

    #[test]
    fn the_level_is_lowered_when_the_time_is_over_and_not_before() {
        let (mut log_level, levels) = log_level(LevelFilter::Error);
        let now = Instant::now();
        log_level.time_passed(now);
        log_level.signalled(now);
        assert_eq!(log_level.raised_for(now), RAISED_FOR);
        log_level.time_passed(now + Duration::from_mins(9));
        assert_eq!(*levels.borrow(), [LevelFilter::Debug]);
        log_level.time_passed(now + RAISED_FOR);
        log_level.time_passed(now + RAISED_FOR * 2);
        assert_eq!(*levels.borrow(), [LevelFilter::Debug, LevelFilter::Error]);
    }

    #[test]
    fn a_level_that_is_no_lower_is_left_alone() {
        for level in [LevelFilter::Debug, LevelFilter::Trace] {
            let (mut log_level, levels) = log_level(level);
            log_level.signalled(Instant::now());
            assert!(levels.borrow().is_empty(), "{level}");
        }
    }
}
