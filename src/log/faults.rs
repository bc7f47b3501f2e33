//! Faults: keeps the last of each kind, for the status page and for reports of a recovery, and limits repeated records. Time is
//! an argument, and memory is bounded whatever a peer sends.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use log::Level;

use super::OUTPUT;
use super::record::RecordParts;
use super::text::{printable, without_addresses};

/// After so long, repeated records are summarized.
pub(super) const WINDOW: Duration = Duration::from_secs(30);
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
    /// Without faults.
    pub fn new() -> Self {
        Self::default()
    }

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

    /// How many faults there were, of whatever kind: unlike those of the kinds that are kept, it never falls.
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

/// Limits repeated records. The first records of each source (a kind of fault, or a place in the code) pass in a window: see
/// [`RecordParts::source`]. The rest are counted. When the window ends, the last of them is written with their number, and
/// counts as the first record of the next window. Until windows are ended regularly, as at start and in commands, all pass.
#[derive(Default)]
pub(super) struct Limiter {
    windows: HashMap<String, Window>,
    is_driven: bool,
}

struct Window {
    began: Instant,
    passed: u32,
    repeated: u64,
    last: Option<RecordParts>,
}

impl Limiter {
    /// Gives the record back if it passes.
    pub(super) fn pass(&mut self, record: RecordParts, now: Instant) -> Option<RecordParts> {
        if !self.is_driven {
            return Some(record);
        }
        let (mut source, at_most) = record.source();
        if self.windows.len() >= SOURCES_MAX && !self.windows.contains_key(&source) {
            source = String::new();
        }
        let fresh = Window { began: now, passed: 0, repeated: 0, last: None };
        let window = self.windows.entry(source).or_insert(fresh);
        if window.passed < at_most {
            window.passed += 1;
            return Some(record);
        }
        window.repeated += 1;
        window.last = Some(record);
        None
    }

    /// The summaries of the windows that have lasted so long.
    pub(super) fn end(&mut self, at_least: Duration, now: Instant) -> Vec<RecordParts> {
        self.is_driven = true;
        let mut summaries = Vec::new();
        self.windows.retain(|_, window| {
            let lasted = now.saturating_duration_since(window.began);
            if lasted < at_least {
                return true;
            }
            let Some(last) = window.last.take() else { return false };
            summaries.push(last.repeated(window.repeated, lasted));
            *window = Window { began: now, passed: 1, repeated: 0, last: None };
            true
        });
        summaries
    }

    /// These kinds of fault (all that begin with `kinds`) are over.
    pub(super) fn forget(&mut self, kinds: &str) {
        self.windows.retain(|source, _| !source.starts_with(kinds));
    }
}

#[cfg(test)]
mod tests {
    use log::Record;
    use log::kv::Value;

    use super::*;
    use crate::clock::EpochMs;

    fn at(start: Instant, secs: u64) -> Instant {
        start + Duration::from_secs(secs)
    }

    /// A record with these fields of text.
    fn record(message: &str, fields: &[(&str, &str)]) -> RecordParts {
        let fields: Vec<(&str, Value<'_>)> =
            fields.iter().map(|(name, value)| (*name, (*value).into())).collect();
        let args = format_args!("{message}");
        let mut record = Record::builder();
        RecordParts::new(&record.target("t").args(args).key_values(&fields).build(), None)
    }

    fn json(records: impl IntoIterator<Item = RecordParts>) -> Vec<String> {
        let json = |record: RecordParts| record.to_json(EpochMs(0), "msg", "err");
        let known = "{\"time\":\"1970-01-01T00:00:00.000Z\",\"level\":\"info\",\"target\":\"t\",\"thread\":\"unnamed\",\"msg\":";
        records.into_iter().map(|record| json(record).replace(known, "")).collect()
    }

    /// A limiter whose windows are ended.
    fn driven() -> Limiter {
        Limiter { is_driven: true, ..Limiter::default() }
    }

    /// How many of so many records pass.
    fn passed(limiter: &mut Limiter, of: u32, now: Instant, record: impl Fn(u32) -> RecordParts) -> usize {
        (0..of).filter(|number| limiter.pass(record(*number), now).is_some()).count()
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
        let summaries = json(limiter.end(Duration::ZERO, at(now, 7))).join("");
        for (field, count) in
            [("message_id\":\"19999", 19_990), ("redis", 999), ("queue", 999), ("999\"", 970)]
        {
            let rest = format!(",\"repeated\":{count},\"window_secs\":7}}");
            assert!(summaries.contains(&rest) && summaries.contains(field), "{field}: {summaries}");
        }
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
        for secs in 0..=90 {
            logged.extend(limiter.end(WINDOW, at(start, secs)));
            let record = record(&secs.to_string(), &[("fault", "redis")]);
            logged.extend(limiter.pass(record, at(start, secs)));
        }
        let summary = |last: u32, repeated: u32| {
            format!("\"{last}\",\"fault\":\"redis\",\"repeated\":{repeated},\"window_secs\":30}}")
        };
        let expected =
            ["\"0\",\"fault\":\"redis\"}".to_owned(), summary(29, 29), summary(59, 30), summary(89, 30)];
        assert_eq!(json(logged), expected);
        assert_eq!(json(limiter.end(WINDOW, at(start, 120))), [summary(90, 1)]);
        assert!(limiter.end(WINDOW, at(start, 150)).is_empty());
        assert!(limiter.pass(record("m", &[("fault", "redis")]), at(start, 151)).is_some());
        assert!(
            limiter.pass(record("m", &[("fault", "redis")]), at(start, 100)).is_none(),
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
        assert!(limiter.pass(fault(1), now).is_some());
    }

    fn fault(faults: &FaultLog, kind: &str, error: &str, now: Instant) {
        faults.fault(kind, Level::Warn, "it failed", error, now);
    }

    #[test]
    fn a_recovery_tells_how_long_it_lasted_once() {
        let (faults, start) = (FaultLog::new(), Instant::now());
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
        let (faults, now) = (FaultLog::new(), Instant::now());
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
        let (faults, now) = (FaultLog::new(), Instant::now());
        for kind in 0..1_000 {
            fault(&faults, &format!("kind {kind}"), &"\u{202e}é".repeat(10_000), now);
        }
        let recent = faults.recent_faults();
        assert_eq!((recent.len(), recent[0].kind.as_str()), (KINDS_MAX, "kind 999"));
        assert!(recent[0].error.len() < RECENT_CHARS_MAX * 10 && !recent[0].error.contains('\u{202e}'));
    }
}
