//! What the counters said in the last minutes: a ring of samples of fixed size, and what follows from two of them.
//! Pure: the counts and the time are told.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How far the history reaches back.
pub(super) const SPAN: Duration = Duration::from_mins(15);
/// Between two samples. Shorter ones would be noise: a poller waits for up to 20 s.
pub(super) const EVERY: Duration = Duration::from_secs(5);
/// The samples of the span, and the one before it. Each holds two histograms of 16 buckets: 100 KB in all.
const SAMPLES_MAX: usize = 181;

/// A histogram at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Times {
    pub(super) count: u64,
    pub(super) sum_secs: f64,
    /// Upper bounds of the buckets, in seconds, with the number of times up to each.
    pub(super) up_to: Vec<(f64, u64)>,
}

/// What has been counted since the start.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Counts {
    pub(super) received: u64,
    pub(super) processed: u64,
    /// Tries without effect, failed calls to the queue, failed writes.
    pub(super) errors: u64,
    pub(super) age: Times,
    pub(super) handling: Times,
}

/// How long something took, or how old it was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Typical {
    pub(super) mean_secs: f64,
    /// 95 of 100 took at most this, as exactly as the buckets are; none if more than the largest of them.
    pub(super) most_within_secs: Option<f64>,
}

/// What happened between two moments.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rates {
    /// The time between them.
    pub(super) secs: f64,
    /// From the later one to now.
    pub(super) ago_secs: f64,
    pub(super) received_per_sec: f64,
    pub(super) processed_per_sec: f64,
    pub(super) errors_per_min: f64,
    /// None if nothing was written.
    pub(super) age: Option<Typical>,
    /// None if nothing was handled.
    pub(super) handling: Option<Typical>,
}

/// The samples, the oldest first.
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<(Instant, Counts)>);

impl History {
    /// It is time for another sample.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.0
            .back()
            .is_none_or(|(at, _)| now.saturating_duration_since(*at) >= EVERY)
    }

    pub(super) fn record(&mut self, now: Instant, counts: Counts) {
        while self.0.len() >= SAMPLES_MAX {
            self.0.pop_front();
        }
        self.0.push_back((now, counts));
    }

    /// What happened in the last `window`, up to `counts`; in less, while there is no older sample. None if no time
    /// has passed.
    pub(super) fn last(&self, window: Duration, now: Instant, counts: &Counts) -> Option<Rates> {
        let is_old_enough = |(at, _): &&(Instant, Counts)| now.saturating_duration_since(*at) >= window;
        let (at, before) = self.0.iter().rev().find(is_old_enough).or(self.0.front())?;
        rates((*at, before), (now, counts), now)
    }

    /// What happened between each sample and the next, the oldest first, as far as the span reaches.
    pub(super) fn steps(&self, now: Instant) -> Vec<Rates> {
        let pairs = self.0.iter().zip(self.0.iter().skip(1));
        pairs
            .filter(|(_, (at, _))| now.saturating_duration_since(*at) <= SPAN)
            .filter_map(|((from, before), (to, after))| rates((*from, before), (*to, after), now))
            .collect()
    }
}

fn rates((from, before): (Instant, &Counts), (to, after): (Instant, &Counts), now: Instant) -> Option<Rates> {
    let secs = to.saturating_duration_since(from).as_secs_f64();
    if secs <= 0.0 {
        return None;
    }
    let per_sec = |before: u64, after: u64| as_f64(after.saturating_sub(before)) / secs;
    Some(Rates {
        secs,
        ago_secs: now.saturating_duration_since(to).as_secs_f64(),
        received_per_sec: per_sec(before.received, after.received),
        processed_per_sec: per_sec(before.processed, after.processed),
        errors_per_min: 60.0 * per_sec(before.errors, after.errors),
        age: typical(&before.age, &after.age),
        handling: typical(&before.handling, &after.handling),
    })
}

fn typical(before: &Times, after: &Times) -> Option<Typical> {
    let count = after.count.saturating_sub(before.count);
    if count == 0 {
        return None;
    }
    let counted_before = |index: usize| before.up_to.get(index).map_or(0, |(_, count)| *count);
    // In whole numbers: of 20 times the 19th, of 21 the 20th.
    let most = (count * 95).div_ceil(100);
    let most_within_secs = after
        .up_to
        .iter()
        .enumerate()
        .find(|(index, (_, count))| count.saturating_sub(counted_before(*index)) >= most)
        .map(|(_, (bound_secs, _))| *bound_secs);
    Some(Typical {
        mean_secs: (after.sum_secs - before.sum_secs).max(0.0) / as_f64(count),
        most_within_secs,
    })
}

#[allow(clippy::cast_precision_loss)] // counts of one process stay below 2^53
fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(processed: u64) -> Counts {
        Counts {
            received: 2 * processed,
            processed,
            errors: processed / 10,
            ..Counts::default()
        }
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn rates_are_per_second_of_the_time_that_really_passed() {
        let start = Instant::now();
        let mut history = History::default();
        history.record(start, counts(0));
        history.record(start + secs(5), counts(50));
        // Late, since Redis hung.
        history.record(start + secs(25), counts(90));
        let steps = history.steps(start + secs(26));
        let processed: Vec<f64> = steps.iter().map(|step| step.processed_per_sec).collect();
        assert_eq!(processed, [10.0, 2.0]);
        assert_eq!((steps[0].received_per_sec, steps[0].errors_per_min), (20.0, 60.0));
        assert_eq!((steps[1].secs, steps[1].ago_secs), (20.0, 1.0));
    }

    #[test]
    fn a_window_begins_at_the_sample_that_is_just_old_enough_or_at_the_oldest_there_is() {
        let start = Instant::now();
        let mut history = History::default();
        assert_eq!(history.last(secs(60), start, &counts(1)), None);
        for step in 0..20 {
            history.record(start + secs(5 * step), counts(step * step));
        }
        let now = start + secs(97);
        let last = |window| history.last(secs(window), now, &counts(400)).unwrap();
        assert_eq!((last(60).secs, last(900).secs), (62.0, 97.0));
        assert_eq!(
            last(60).processed_per_sec.to_string(),
            ((400.0 - 49.0) / 62.0_f64).to_string()
        );
    }

    #[test]
    fn the_ring_keeps_a_quarter_of_an_hour_and_no_more() {
        let start = Instant::now();
        let mut history = History::default();
        for step in 0..10_000 {
            let now = start + secs(5 * step);
            assert!(history.is_due(now) && !history.is_due(start) || step == 0);
            history.record(now, counts(step));
        }
        assert_eq!(history.0.len(), SAMPLES_MAX);
        let now = start + secs(5 * 9_999);
        assert_eq!(history.steps(now).len(), SAMPLES_MAX - 1);
        let whole = history.last(SPAN, now, &counts(9_999)).unwrap();
        assert_eq!(Duration::from_secs_f64(whole.secs), SPAN);
        assert_eq!(history.steps(now + SPAN).len(), 1, "what is older is not shown");
    }

    #[test]
    fn a_mean_and_what_most_took_are_of_the_window_alone() {
        let times = |count, sum_secs, up_to: [u64; 3]| Times {
            count,
            sum_secs,
            up_to: vec![(0.1, up_to[0]), (1.0, up_to[1]), (10.0, up_to[2])],
        };
        let before = times(1000, 5_000.0, [0, 0, 1000]);
        assert_eq!(typical(&before, &before), None);
        let quick = typical(&before, &times(1020, 5_002.0, [19, 20, 1020])).unwrap();
        assert_eq!((quick.mean_secs, quick.most_within_secs), (0.1, Some(0.1)));
        let mixed = typical(&before, &times(1020, 5_010.0, [18, 20, 1020])).unwrap();
        assert_eq!((mixed.mean_secs, mixed.most_within_secs), (0.5, Some(1.0)));
        let slow = typical(&before, &times(1020, 6_000.0, [0, 0, 1000])).unwrap();
        assert_eq!((slow.mean_secs, slow.most_within_secs), (50.0, None));
    }
}
