//! Notices that something on the way cuts long polls: a proxy with an idle timeout below the wait.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::QueueError;
use crate::http_client::HttpErrorKind;

/// So many in a row make a pattern.
const PATTERN: usize = 3;
/// What is cut sooner has other causes: a connection that was closed while it was idle, a restart.
const AGE_MIN: Duration = Duration::from_secs(3);
/// Cut at the same age, give or take this.
const SPREAD: Duration = Duration::from_secs(1);

/// The last long polls that were cut, of all pollers together.
#[derive(Debug, Default)]
pub(super) struct LongPolls {
    cuts: Mutex<VecDeque<Cut>>,
}

#[derive(Debug)]
struct Cut {
    age: Duration,
    at: Instant,
}

impl LongPolls {
    /// A poll with this wait, which began at `asked_at`, ended so at `now`. An error that completes the pattern says so.
    pub(super) fn ended<T>(
        &self,
        wait: Duration,
        asked_at: Instant,
        now: Instant,
        end: Result<T, QueueError>,
    ) -> Result<T, QueueError> {
        let age = now.saturating_duration_since(asked_at);
        let mut cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        let error = match end {
            Err(error) if is_cut(&error) && (AGE_MIN..wait).contains(&age) => error,
            // Messages that came sooner prove nothing.
            Ok(_) if cuts.back().is_some_and(|cut| age > cut.age + SPREAD) => {
                cuts.clear();
                return end;
            }
            Ok(_) | Err(_) => return end,
        };
        cuts.retain(|cut| cut.age.abs_diff(age) <= SPREAD);
        // One restart of a proxy cuts the polls of all pollers, which often began together.
        if cuts.back().is_none_or(|last| asked_at >= last.at) {
            cuts.push_back(Cut { age, at: now });
        }
        if cuts.len() < PATTERN {
            return Err(error);
        }
        if cuts.len() > PATTERN {
            cuts.pop_front();
        }
        let secs = cuts.iter().map(|cut| cut.age).min().unwrap_or(age).as_secs();
        let lower = secs.saturating_sub(1);
        Err(QueueError {
            message: format!(
                "{error}; several long polls in a row were cut after about {secs} s: raise the idle timeout of the proxy \
                 or load balancer on the way, or set WAIT_TIME_SECS={lower}"
            ),
            kind: "long_polls_cut".to_owned(),
            refused: false,
        })
    }
}

/// The connection was closed or reset, or a gateway answered 504.
fn is_cut(error: &QueueError) -> bool {
    error.kind == HttpErrorKind::Connection.to_string() || error.kind == "Http504"
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(20);

    fn error(kind: &str) -> Result<(), QueueError> {
        Err(QueueError {
            message: "cannot receive messages".to_owned(),
            kind: kind.to_owned(),
            refused: false,
        })
    }

    /// The kinds reported for polls one after the other that ended so after these tenths of a second.
    fn kinds(polls: &[(u64, &str)]) -> Vec<String> {
        let (long_polls, mut now) = (LongPolls::default(), Instant::now());
        let end = |(tenths, kind): &(u64, &str)| {
            let asked_at = now;
            now += Duration::from_millis(tenths * 100);
            let end = if kind.is_empty() { Ok(()) } else { error(kind) };
            let ended = long_polls.ended(WAIT, asked_at, now, end);
            ended.map_or_else(|error| error.kind, |()| String::new())
        };
        polls.iter().map(end).collect()
    }

    #[test]
    fn three_long_polls_cut_at_the_same_age_suggest_a_lower_wait() {
        let (long_polls, mut now) = (LongPolls::default(), Instant::now());
        let mut cut = |secs: f32, kind| {
            let asked_at = now;
            now += Duration::from_secs_f32(secs);
            long_polls.ended(WAIT, asked_at, now, error(kind)).unwrap_err()
        };
        assert_eq!(cut(10.2, "Http504").kind, "Http504");
        assert_eq!(cut(10.0, "connection_failed").kind, "connection_failed");
        let third = cut(10.9, "connection_failed");
        assert_eq!(third.kind, "long_polls_cut");
        assert!(third.message.starts_with("cannot receive messages; "), "{third}");
        assert!(third.message.ends_with("or set WAIT_TIME_SECS=9"), "{third}");
        assert_eq!(cut(10.1, "Http504").kind, "long_polls_cut", "and so does every later one");
    }

    #[test]
    fn polls_that_are_cut_together_are_one_event() {
        let (long_polls, began) = (LongPolls::default(), Instant::now());
        for _ in 0..10 {
            let now = began + Duration::from_secs(10);
            let ended = long_polls.ended(WAIT, began, now, error("connection_failed"));
            assert_eq!(ended.unwrap_err().kind, "connection_failed");
        }
    }

    #[test]
    fn other_faults_ages_and_ends_are_no_pattern() {
        let cut = (100, "connection_failed");
        for polls in [
            vec![cut, cut, (100, "timeout"), (100, "Http503")],
            vec![cut, cut, (122, "connection_failed")],
            vec![cut, cut, (200, "connection_failed")],
            vec![(10, "connection_failed"); 4],
            vec![cut, cut, (200, ""), cut],
        ] {
            let kinds = kinds(&polls);
            assert!(!kinds.iter().any(|kind| kind == "long_polls_cut"), "{polls:?}: {kinds:?}");
        }
    }

    #[test]
    fn short_polls_and_messages_that_come_sooner_do_not_hide_the_pattern() {
        let cut = (100, "connection_failed");
        let kinds = kinds(&[cut, (0, ""), cut, (60, ""), (5, "connection_failed"), cut]);
        assert_eq!(kinds.last().unwrap(), "long_polls_cut");
    }
}
