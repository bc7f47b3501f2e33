//! Faults: keeps the last of each kind, for the status page and for reports of a recovery, and limits repeated records. Time is
//! an argument, and memory is bounded whatever a peer sends.

use std::collections::HashMap;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use log::Level;

use super::OUTPUT;
use super::text::{printable, without_addresses};

/// After this time, repeated records are summarized.
pub const WINDOW: Duration = Duration::from_secs(30);
const SOURCES_MAX: usize = 100;
/// More kinds than fail at a time.
const KINDS_MAX: usize = 32;
const RECENT_CHARS_MAX: usize = 600;

/// The last fault of each kind, the newest last, and the number of all. Shared by all threads.
#[derive(Debug, Default)]
pub struct FaultLog(Mutex<Vec<RecentFault>>, AtomicU64);

/// A fault that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outage {
    /// From the first fault to the recovery.
    pub lasted: Duration,
    /// Faults in that time.
    pub faults: u64,
}

/// The last fault of a kind. Its texts are printable and of bounded length.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // as in FaultLog::fault
pub struct RecentFault {
    pub kind: String,
    pub level: Level,
    pub message: String,
    pub error: String,
    /// How often since `first_at`.
    pub times: u64,
    /// The first since the service started, or since the last recovery.
    pub first_at: Instant,
    pub last_at: Instant,
    /// What it prevented has worked since.
    pub is_over: bool,
}

impl FaultLog {
    /// A fault of this kind happened now: logs it. The kind is a constant of the code, such as `redis` or `sqs.receive`;
    /// faults that need different remedies are of different kinds.
    pub fn fault(&self, kind: &str, level: Level, message: &str, error: &str, now: Instant) {
        self.note(kind, level, message, error, now);
        log::log!(level, err = error, fault = kind; "{message}");
    }

    /// The same, without logging it: the caller does, with the key `fault`.
    pub fn note(&self, kind: &str, level: Level, message: &str, error: &str, now: Instant) {
        let shown = |text: &str| {
            printable(&without_addresses(text).chars().take(RECENT_CHARS_MAX).collect::<String>())
        };
        self.1.fetch_add(1, Ordering::Relaxed);
        let mut faults = self.lock();
        let known = faults.iter().position(|fault| fault.kind == kind).map(|index| faults.remove(index));
        let outage = known.filter(|fault| !fault.is_over).map(|fault| (fault.times, fault.first_at));
        let (times, first_at) = outage.unwrap_or((0, now));
        if faults.len() >= KINDS_MAX {
            faults.remove(0);
        }
        faults.push(RecentFault {
            kind: kind.to_owned(),
            level,
            message: shown(message),
            error: shown(error),
            times: times + 1,
            first_at,
            last_at: now,
            is_over: false,
        });
    }

    /// The last faults, each kind once, the newest first.
    pub fn recent_faults(&self) -> Vec<RecentFault> {
        self.lock().iter().rev().cloned().collect()
    }

    /// The number of all faults. Unlike the counts of the kinds that are kept, it never falls.
    pub fn total(&self) -> u64 {
        self.1.load(Ordering::Relaxed)
    }

    /// What these kinds of fault (all that begin with `kinds`) prevented works again. Some if there was such a fault, and none
    /// for `quiet_for`; then the next one is logged at once.
    pub fn recovered(&self, kinds: &str, quiet_for: Duration, now: Instant) -> Option<Outage> {
        let mut faults = self.lock();
        let is_one = |fault: &&mut RecentFault| !fault.is_over && fault.kind.starts_with(kinds);
        let mut ended: Vec<&mut RecentFault> = faults.iter_mut().filter(is_one).collect();
        let since = ended.iter().map(|fault| fault.first_at).min()?;
        let last_at = ended.iter().map(|fault| fault.last_at).max()?;
        if now.saturating_duration_since(last_at) < quiet_for {
            return None;
        }
        for fault in &mut ended {
            fault.is_over = true;
        }
        OUTPUT.get().inspect(|out| out.limiter().forget(kinds));
        let lasted = now.saturating_duration_since(since);
        Some(Outage { lasted, faults: ended.iter().map(|fault| fault.times).sum() })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<RecentFault>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner) // nothing can be half done
    }
}

/// Limits repeated records. The first records of each source (a kind of fault, or a place in the code: `record::source`) pass
/// in a window. The rest are counted. When the window ends, the last of them is written with their number, and counts as the
/// first record of the next window. Until windows are ended regularly, as at start and in commands, all pass.
#[derive(Default)]
pub(super) struct Limiter {
    windows: HashMap<String, Window>,
    is_driven: bool,
}

/// The lines of one source in one window.
#[derive(Debug)]
pub(super) struct Window {
    pub(super) began: Instant,
    passed: u32,
    /// How many did not pass.
    pub(super) repeated: u64,
    /// The last of those.
    pub(super) last: String,
}

impl Window {
    fn new(began: Instant, passed: u32) -> Self {
        Self { began, passed, repeated: 0, last: String::new() }
    }
}

impl Limiter {
    /// Returns the line if it passes. At most `at_most` lines of its source pass in a window.
    pub(super) fn pass(
        &mut self,
        (mut source, at_most): (String, u32),
        line: String,
        now: Instant,
    ) -> Option<String> {
        if !self.is_driven {
            return Some(line);
        }
        if self.windows.len() >= SOURCES_MAX && !self.windows.contains_key(&source) {
            source = String::new();
        }
        let window = self.windows.entry(source).or_insert_with(|| Window::new(now, 0));
        if window.passed < at_most {
            window.passed += 1;
            return Some(line);
        }
        window.repeated += 1;
        window.last = line;
        None
    }

    /// Ends the windows that have lasted this long, and returns those in which not everything passed.
    pub(super) fn end(&mut self, at_least: Duration, now: Instant) -> Vec<Window> {
        self.is_driven = true;
        let mut ended = Vec::new();
        self.windows.retain(|_, window| {
            let is_over = now.saturating_duration_since(window.began) >= at_least;
            let is_quiet = window.repeated == 0;
            if is_over && !is_quiet {
                ended.push(mem::replace(window, Window::new(now, 1)));
            }
            !is_over || !is_quiet
        });
        ended
    }

    /// These kinds of fault (all that begin with `kinds`) are over.
    pub(super) fn forget(&mut self, kinds: &str) {
        self.windows.retain(|source, _| !source.starts_with(kinds));
    }
}

#[cfg(test)]
mod tests {
    use log::Record;

    use super::*;
    use crate::log::record::source;

    fn at(start: Instant, secs: u64) -> Instant {
        start + Duration::from_secs(secs)
    }

    /// A record's source, and the record as a line.
    type Line = ((String, u32), String);

    /// A record with these fields of text.
    fn record(message: &str, fields: &[(&str, &str)]) -> Line {
        let mut record = Record::builder();
        let source = source(&record.target("t").key_values(&fields).build());
        (source, format!("{message} {fields:?}"))
    }

    fn pass(limiter: &mut Limiter, (source, line): Line, now: Instant) -> Option<String> {
        limiter.pass(source, line, now)
    }

    /// A limiter whose windows are ended.
    fn driven() -> Limiter {
        Limiter { is_driven: true, ..Limiter::default() }
    }

    /// How many of so many records pass.
    fn passed(limiter: &mut Limiter, of: u32, now: Instant, record: impl Fn(u32) -> Line) -> usize {
        (0..of).filter(|number| pass(limiter, record(*number), now).is_some()).count()
    }

    #[test]
    fn of_a_kind_of_fault_one_record_passes_ten_if_they_name_messages_and_of_a_place_thirty() {
        let (mut limiter, now) = (driven(), Instant::now());
        assert_eq!(passed(&mut limiter, 1_000, now, |_| record("m", &[("fault", "redis")])), 1);
        assert_eq!(
            passed(&mut limiter, 1_000, now, |_| record("m", &[("fault", "queue")])),
            1,
            "counted apart"
        );
        let malformed =
            |number: u32| record("m", &[("fault", "malformed"), ("message_id", &number.to_string())]);
        assert_eq!(passed(&mut limiter, 20_000, now, malformed), 10);
        assert_eq!(passed(&mut limiter, 1_000, now, |number| record(&number.to_string(), &[])), 30);
        let summaries = limiter.end(Duration::ZERO, at(now, 7));
        for (last, repeated) in [("19999", 19_990), ("redis", 999), ("queue", 999), ("999 []", 970)] {
            let is_it = |summary: &Window| summary.repeated == repeated && summary.last.contains(last);
            assert!(summaries.iter().any(is_it), "{last}: {summaries:?}");
        }
        assert_eq!(summaries.len(), 4);
    }

    #[test]
    fn all_records_pass_until_windows_are_ended_regularly() {
        let (mut limiter, now) = (Limiter::default(), Instant::now());
        assert_eq!(passed(&mut limiter, 1_000, now, |_| record("a notice", &[])), 1_000);
        assert!(limiter.end(WINDOW, now).is_empty());
        assert_eq!(passed(&mut limiter, 1_000, now, |_| record("a notice", &[])), 30);
    }

    #[test]
    fn a_fault_that_goes_on_is_one_summary_a_window_and_after_a_quiet_one_it_passes_at_once() {
        let (mut limiter, start) = (driven(), Instant::now());
        let mut logged = Vec::new();
        let mut summaries = Vec::new();
        for secs in 0..=90 {
            summaries.extend(limiter.end(WINDOW, at(start, secs)));
            let record = record(&secs.to_string(), &[("fault", "redis")]);
            logged.extend(pass(&mut limiter, record, at(start, secs)));
        }
        summaries.extend(limiter.end(WINDOW, at(start, 120)));
        let line = |secs: u64| record(&secs.to_string(), &[("fault", "redis")]).1;
        assert_eq!(logged, [line(0)]);
        let summaries: Vec<_> =
            summaries.into_iter().map(|window| (window.began, window.last, window.repeated)).collect();
        let expected = [(0, 29, 29), (30, 59, 30), (60, 89, 30), (90, 90, 1)];
        assert_eq!(
            summaries,
            expected.map(|(began, last, repeated)| (at(start, began), line(last), repeated))
        );
        assert!(limiter.end(WINDOW, at(start, 150)).is_empty());
        assert!(pass(&mut limiter, record("m", &[("fault", "redis")]), at(start, 151)).is_some());
        assert!(
            pass(&mut limiter, record("m", &[("fault", "redis")]), at(start, 100)).is_none(),
            "a clock that goes back"
        );
    }

    #[test]
    fn sources_are_bounded_in_number_and_a_fault_that_is_over_passes_at_once() {
        let (mut limiter, now) = (driven(), Instant::now());
        let fault = |number: u32| record("m", &[("fault", &format!("redis {number}"))]);
        assert_eq!(passed(&mut limiter, 10_000, now, fault), SOURCES_MAX + 1);
        assert_eq!(limiter.windows.len(), SOURCES_MAX + 1);
        limiter.forget("redis ");
        assert!(pass(&mut limiter, fault(1), now).is_some());
    }

    fn fault(faults: &FaultLog, kind: &str, error: &str, now: Instant) {
        faults.fault(kind, Level::Warn, "it failed", error, now);
    }

    #[test]
    fn a_recovery_tells_how_long_it_lasted_once() {
        let (faults, start) = (FaultLog::default(), Instant::now());
        let recovered = |secs| faults.recovered("redis", Duration::from_secs(5), at(start, secs));
        let outage = |secs, faults| {
            let lasted = Duration::from_secs(secs);
            Some(Outage { lasted, faults })
        };
        assert_eq!(recovered(0), None);
        fault(&faults, "redis io", "refused", start);
        fault(&faults, "redis timeout", "hangs", at(start, 45));
        fault(&faults, "queue", "403", at(start, 99));
        assert_eq!(recovered(49), None, "too soon");
        assert_eq!(recovered(100), outage(100, 2));
        assert_eq!(recovered(101), None);
        fault(&faults, "redis io", "refused", at(start, 101));
        assert_eq!(recovered(111), outage(10, 1));
    }

    #[test]
    fn of_the_last_faults_each_kind_is_there_once_the_newest_first_and_says_whether_it_is_over() {
        let (faults, now) = (FaultLog::default(), Instant::now());
        for (kind, error) in [("redis io", "a"), ("queue", "b"), ("redis io", "c")] {
            fault(&faults, kind, error, now);
        }
        let recent = || -> Vec<(String, String, u64, bool)> {
            let recent = faults.recent_faults().into_iter();
            recent.map(|fault| (fault.kind, fault.error, fault.times, fault.is_over)).collect()
        };
        let expected = |redis_times, redis_is_over| {
            [("redis io", "c", redis_times, redis_is_over), ("queue", "b", 1, false)]
                .map(|(kind, error, times, is_over)| (kind.to_owned(), error.to_owned(), times, is_over))
        };
        assert_eq!(recent(), expected(2, false));
        faults.recovered("redis", Duration::ZERO, now);
        assert_eq!(recent(), expected(2, true));
        fault(&faults, "redis io", "c", now);
        assert_eq!(recent(), expected(1, false), "counted since the recovery");
    }

    #[test]
    fn kinds_are_bounded_in_number_and_texts_in_length_and_what_is_shown_is_printable() {
        let (faults, now) = (FaultLog::default(), Instant::now());
        for kind in 0..1_000 {
            fault(&faults, &format!("kind {kind}"), &"\u{202e}é".repeat(10_000), now);
        }
        let recent = faults.recent_faults();
        assert_eq!((recent.len(), recent[0].kind.as_str()), (KINDS_MAX, "kind 999"));
        assert!(recent[0].error.len() < RECENT_CHARS_MAX * 10 && !recent[0].error.contains('\u{202e}'));
    }
}
