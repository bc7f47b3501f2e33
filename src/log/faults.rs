//! Faults that come again and again, as few lines.
//!
//! The first fault of a kind is logged at once. Those that follow within a window are counted, and come as one
//! line with their number and the last error when the window ends; as long as they go on, a line a window. A
//! fault may also end: [`FaultLog::recovered`] says how long it lasted, so that the return can be logged.
//!
//! The time is an argument, and the number of kinds is bounded: a kind must not be made of a customer's data, and
//! if it is, nothing grows.

use std::collections::BTreeMap;
use std::panic::Location;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use log::Level;

use super::recent::{RecentFault, RecentFaults};

/// How long repetitions are only counted.
const WINDOW: Duration = Duration::from_secs(30);
/// More kinds than the service has; the rest share one.
const KINDS_MAX: usize = 64;
const OTHER: &str = "other";

/// Summarises repeated faults. Shared by all threads.
#[derive(Debug, Default)]
pub struct FaultLog {
    kinds: Mutex<Kinds>,
    recent: Mutex<RecentFaults>,
}

/// A fault that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outage {
    /// From the first fault to the recovery.
    pub lasted: Duration,
    /// Faults in that time.
    pub faults: u64,
}

impl FaultLog {
    /// Without faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// A fault of this kind happened now: logs it, or counts it. The kind is a constant of the code, such as
    /// `redis` or `sqs.receive`; two faults that need different remedies are of different kinds.
    #[track_caller]
    pub fn fault(&self, kind: &str, level: Level, message: &str, error: &str, now: Instant) {
        let target = module_of(Location::caller().file());
        let lines = self.with_kinds(|kinds| kinds.fault(kind, level, message, error, now, &target));
        lines.iter().for_each(Line::log);
        self.note(kind, level, message, error, now);
    }

    /// The same, without logging it: the caller does.
    pub fn note(&self, kind: &str, level: Level, message: &str, error: &str, now: Instant) {
        self.recent(|recent| recent.note(kind, level, message, error, now));
    }

    /// The last faults, each kind once, the newest first; for the status page.
    pub fn recent_faults(&self) -> Vec<RecentFault> {
        self.recent(|recent| recent.all())
    }

    /// Logs the summary of each window that has ended. To be called about every second.
    pub fn tick(&self, now: Instant) {
        let lines = self.with_kinds(|kinds| kinds.tick(now));
        lines.iter().for_each(Line::log);
    }

    /// Logs the summary of every window, ended or not: for the end of the process.
    pub fn flush(&self, now: Instant) {
        let lines = self.with_kinds(|kinds| kinds.flush(now));
        lines.iter().for_each(Line::log);
    }

    /// What these kinds of fault hindered (all kinds that begin so) is done again. Some if there was such a
    /// fault, and none for `quiet_for`: the caller logs the return. None, cheaply, if all was well before.
    pub fn recovered(&self, kinds: &str, quiet_for: Duration, now: Instant) -> Option<Outage> {
        let outage = self.with_kinds(|known| known.recovered(kinds, quiet_for, now));
        if outage.is_some() {
            self.recent(|recent| recent.over(kinds));
        }
        outage
    }

    fn recent<T>(&self, act: impl FnOnce(&mut RecentFaults) -> T) -> T {
        // Bounded and short work; what a panic left behind can still be shown.
        act(&mut self.recent.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lines are logged after the lock is released: writing to stdout may block.
    fn with_kinds<T>(&self, act: impl FnOnce(&mut Kinds) -> T) -> T {
        // A panic in between leaves counts, nothing that could be half done.
        act(&mut self.kinds.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A line to be logged.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    kind: String,
    level: Level,
    message: String,
    error: String,
    target: String,
    /// For a summary: how often, in how many seconds.
    repeated: Option<(u64, u64)>,
}

impl Line {
    fn log(&self) {
        let (kind, error, target) = (self.kind.as_str(), self.error.as_str(), self.target.as_str());
        match self.repeated {
            None => log::log!(target: target, self.level, err = error, fault = kind; "{}", self.message),
            Some((repeated, window_secs)) => {
                log::log!(target: target, self.level, err = error, fault = kind, repeated, window_secs; "{}", self.message);
            }
        }
    }
}

/// `src/pipeline/gate.rs` as `persistent_cache_service::pipeline::gate`.
fn module_of(file: &str) -> String {
    let path = file.strip_prefix("src/").unwrap_or(file);
    let path = path.strip_suffix(".rs").unwrap_or(path);
    let path = path.strip_suffix("/mod").unwrap_or(path);
    format!("{}::{}", env!("CARGO_CRATE_NAME"), path.replace('/', "::"))
}

#[derive(Debug, Default)]
struct Kinds(BTreeMap<String, Kind>);

/// What is known of one kind of fault.
#[derive(Debug)]
struct Kind {
    since: Instant,
    last: Instant,
    total: u64,
    /// Since when repetitions are counted; none if it is quiet.
    window: Option<Instant>,
    repeated: u64,
    level: Level,
    message: String,
    error: String,
    /// The module that it came from.
    target: String,
}

impl Kinds {
    fn fault(
        &mut self,
        kind: &str,
        level: Level,
        message: &str,
        error: &str,
        now: Instant,
        target: &str,
    ) -> Vec<Line> {
        let name = self.place_for(kind).to_owned();
        let kind = self.0.entry(name.clone()).or_insert_with(|| Kind {
            since: now,
            last: now,
            total: 0,
            window: None,
            repeated: 0,
            level,
            message: String::new(),
            error: String::new(),
            target: String::new(),
        });
        let mut lines: Vec<Line> = kind.end_window(&name, now).into_iter().collect();
        kind.last = now;
        kind.total += 1;
        kind.level = level;
        message.clone_into(&mut kind.message);
        error.clone_into(&mut kind.error);
        target.clone_into(&mut kind.target);
        if kind.window.is_some() {
            kind.repeated += 1;
        } else {
            kind.window = Some(now);
            lines.push(kind.line(&name, None));
        }
        lines
    }

    fn tick(&mut self, now: Instant) -> Vec<Line> {
        self.0
            .iter_mut()
            .filter_map(|(name, kind)| kind.end_window(name, now))
            .collect()
    }

    fn flush(&mut self, now: Instant) -> Vec<Line> {
        self.0
            .iter_mut()
            .filter_map(|(name, kind)| kind.summarise(name, now))
            .collect()
    }

    fn recovered(&mut self, kinds: &str, quiet_for: Duration, now: Instant) -> Option<Outage> {
        let is_one_of_them = |(name, _): &(&String, &Kind)| name.starts_with(kinds);
        let is_noisy = |(_, kind): (&String, &Kind)| now.saturating_duration_since(kind.last) < quiet_for;
        if self.0.iter().filter(is_one_of_them).any(is_noisy) {
            return None;
        }
        let mut outage: Option<Outage> = None;
        self.0.retain(|name, kind| {
            if !name.starts_with(kinds) {
                return true;
            }
            let lasted = now.saturating_duration_since(kind.since);
            let before = outage.take().unwrap_or(Outage { lasted, faults: 0 });
            outage = Some(Outage {
                lasted: before.lasted.max(lasted),
                faults: before.faults + kind.total,
            });
            false
        });
        outage
    }

    /// The name to count a kind under: its own if it is known or there is room, the shared one if all are in use.
    fn place_for<'a>(&mut self, kind: &'a str) -> &'a str {
        if self.0.contains_key(kind) || self.0.len() < KINDS_MAX {
            return kind;
        }
        let longest_quiet = self
            .0
            .iter()
            .filter(|(_, kind)| kind.window.is_none())
            .min_by_key(|(_, kind)| kind.last)
            .map(|(name, _)| name.clone());
        match longest_quiet {
            Some(name) => {
                self.0.remove(&name);
                kind
            }
            None => OTHER,
        }
    }
}

impl Kind {
    /// If the window has ended: the summary of what was counted in it, and a new window; or quiet, if nothing was.
    fn end_window(&mut self, name: &str, now: Instant) -> Option<Line> {
        let began = self.window?;
        if now.saturating_duration_since(began) < WINDOW {
            return None;
        }
        let line = self.summarise(name, now);
        if line.is_none() {
            self.window = None;
        }
        line
    }

    /// What was counted, if anything; counting begins anew.
    fn summarise(&mut self, name: &str, now: Instant) -> Option<Line> {
        let began = self.window?;
        if self.repeated == 0 {
            return None;
        }
        let window_secs = now.saturating_duration_since(began).as_secs();
        let line = self.line(name, Some((self.repeated, window_secs)));
        self.window = Some(now);
        self.repeated = 0;
        Some(line)
    }

    fn line(&self, name: &str, repeated: Option<(u64, u64)>) -> Line {
        Line {
            kind: name.to_owned(),
            level: self.level,
            message: self.message.clone(),
            error: self.error.clone(),
            target: self.target.clone(),
            repeated,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Story {
        kinds: Kinds,
        start: Instant,
    }

    impl Story {
        fn new() -> Self {
            Self {
                kinds: Kinds::default(),
                start: Instant::now(),
            }
        }

        fn at(&self, secs: u64) -> Instant {
            self.start + Duration::from_secs(secs)
        }

        fn fault(&mut self, kind: &str, error: &str, secs: u64) -> Vec<String> {
            let now = self.at(secs);
            text(
                &self
                    .kinds
                    .fault(kind, Level::Warn, &format!("{kind} failed"), error, now, "here"),
            )
        }

        fn tick(&mut self, secs: u64) -> Vec<String> {
            let now = self.at(secs);
            text(&self.kinds.tick(now))
        }
    }

    fn text(lines: &[Line]) -> Vec<String> {
        lines
            .iter()
            .map(|line| match line.repeated {
                None => format!("{}: {}", line.message, line.error),
                Some((times, secs)) => format!("{}: {}, {times} times in {secs} s", line.message, line.error),
            })
            .collect()
    }

    #[test]
    fn the_first_fault_is_logged_at_once_and_a_burst_becomes_one_line_with_its_count() {
        let mut story = Story::new();
        assert_eq!(story.fault("redis", "refused", 0), ["redis failed: refused"]);
        for _ in 0..57 {
            assert!(story.fault("redis", "timed out", 10).is_empty());
        }
        assert!(story.tick(29).is_empty());
        assert_eq!(story.tick(30), ["redis failed: timed out, 57 times in 30 s"]);
        assert!(story.tick(31).is_empty());
    }

    #[test]
    fn a_fault_that_goes_on_is_one_line_a_window() {
        let mut story = Story::new();
        let mut lines = Vec::new();
        for second in 0..=90 {
            lines.extend(story.fault("redis", "refused", second));
            lines.extend(story.tick(second));
        }
        assert_eq!(
            lines,
            [
                "redis failed: refused",
                "redis failed: refused, 29 times in 30 s",
                "redis failed: refused, 30 times in 30 s",
                "redis failed: refused, 30 times in 30 s",
            ]
        );
    }

    #[test]
    fn after_a_quiet_window_a_fault_is_logged_at_once_again() {
        let mut story = Story::new();
        story.fault("redis", "refused", 0);
        assert!(story.tick(30).is_empty());
        assert_eq!(story.fault("redis", "refused", 31), ["redis failed: refused"]);
    }

    #[test]
    fn kinds_are_counted_apart() {
        let mut story = Story::new();
        story.fault("redis", "refused", 0);
        assert_eq!(story.fault("sqs.receive", "403", 1), ["sqs.receive failed: 403"]);
    }

    #[test]
    fn without_ticks_nothing_is_lost() {
        let mut story = Story::new();
        story.fault("redis", "refused", 0);
        story.fault("redis", "refused", 5);
        assert_eq!(
            story.fault("redis", "timed out", 40),
            ["redis failed: refused, 1 times in 40 s"]
        );
        let now = story.at(45);
        assert_eq!(
            text(&story.kinds.flush(now)),
            ["redis failed: timed out, 1 times in 5 s"]
        );
        assert!(story.kinds.flush(now).is_empty());
    }

    #[test]
    fn a_recovery_tells_how_long_it_lasted_once_and_the_next_fault_is_logged_at_once() {
        let mut story = Story::new();
        let log = FaultLog::new();
        assert_eq!(log.recovered("redis", Duration::ZERO, story.at(0)), None);
        story.fault("redis", "refused", 0);
        story.fault("redis", "refused", 45);
        story.tick(80);
        let now = story.at(100);
        let outage = Outage {
            lasted: Duration::from_secs(100),
            faults: 2,
        };
        assert_eq!(story.kinds.recovered("redis", Duration::ZERO, now), Some(outage));
        assert_eq!(story.kinds.recovered("redis", Duration::ZERO, now), None);
        assert_eq!(story.fault("redis", "refused", 101), ["redis failed: refused"]);
    }

    #[test]
    fn the_number_of_kinds_is_bounded_and_quiet_ones_make_room() {
        let mut story = Story::new();
        for number in 0..1000 {
            story.fault(&format!("kind-{number}"), "x", 0);
        }
        assert_eq!(story.kinds.0.len(), KINDS_MAX + 1);
        assert!(story.fault("one more", "x", 1).is_empty());
        story.tick(60);
        story.tick(120);
        assert_eq!(story.fault("one more", "x", 121), ["one more failed: x"]);
        assert!(story.kinds.0.len() <= KINDS_MAX + 1);
        assert!(story.kinds.0.contains_key("one more"));
    }

    #[test]
    fn a_clock_that_seems_to_go_back_does_no_harm() {
        let mut story = Story::new();
        story.fault("redis", "refused", 50);
        assert!(story.fault("redis", "refused", 10).is_empty());
        assert!(story.tick(20).is_empty());
    }
}
