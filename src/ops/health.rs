//! The service's health. The loops report and the endpoints ask; the time is an argument.
//!
//! Each fact is one atomic, so that no loop ever waits for a probe. A probe may see some facts before a change and some
//! after it; the next one sees all of it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long silence and failures are tolerated.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Longer than any call with its deadline and the wait after a failed one: a poller that has made no progress for so
    /// long never will.
    pub silent_after: Duration,
    /// A queue that fails for less than this does not make the service unready.
    pub failing_grace: Duration,
}

impl Default for Patience {
    /// Fits long polls of 20 s.
    fn default() -> Self {
        Self {
            silent_after: Duration::from_secs(65),
            failing_grace: Duration::from_secs(15),
        }
    }
}

/// For a poller that is not failing.
const NEVER: u64 = u64::MAX;

/// What is known of the service's health. Shared by all threads.
#[derive(Debug)]
pub struct HealthBoard {
    began: Instant,
    patience: Patience,
    pollers: Vec<PollerHealth>,
    redis_connected: AtomicBool,
    is_stopping: AtomicBool,
}

/// Times are milliseconds since the board was made.
#[derive(Debug)]
struct PollerHealth {
    progress_at_ms: AtomicU64,
    has_succeeded: AtomicBool,
    /// The first failure after the last success, or [`NEVER`].
    failing_since_ms: AtomicU64,
    has_ended: AtomicBool,
}

/// What `/readyz` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// Redis can be used, at least one poller is alive, and the service is not stopping.
    pub up: bool,
    /// Pollers that are alive: they can receive, or have failed for less than the grace.
    pub consumers: usize,
    /// Redis can be used.
    pub redis_connected: bool,
}

/// The pollers, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PollerCounts {
    /// As in [`Readiness::consumers`].
    pub alive: usize,
    /// Their last call to the queue failed.
    pub failing: usize,
    /// They have made no progress for longer than any call may take.
    pub silent: usize,
    /// All of them.
    pub total: usize,
}

impl HealthBoard {
    /// A board for this many pollers; Redis is not connected and no poller has succeeded yet.
    pub fn new(pollers: usize, patience: Patience, now: Instant) -> Self {
        let unknown = || PollerHealth {
            progress_at_ms: AtomicU64::new(0),
            has_succeeded: AtomicBool::new(false),
            failing_since_ms: AtomicU64::new(NEVER),
            has_ended: AtomicBool::new(false),
        };
        Self {
            began: now,
            patience,
            pollers: (0..pollers).map(|_| unknown()).collect(),
            redis_connected: AtomicBool::new(false),
            is_stopping: AtomicBool::new(false),
        }
    }

    /// Redis can be used, or cannot.
    pub fn set_redis_connected(&self, connected: bool) {
        self.redis_connected.store(connected, Ordering::Release);
    }

    /// Redis can be used.
    pub fn is_redis_connected(&self) -> bool {
        self.redis_connected.load(Ordering::Acquire)
    }

    /// This poller's call to the queue succeeded.
    pub fn call_succeeded(&self, poller: usize, now: Instant) {
        if let Some(poller) = self.made_progress(poller, now) {
            poller.failing_since_ms.store(NEVER, Ordering::Release);
            poller.has_succeeded.store(true, Ordering::Release);
        }
    }

    /// This poller's call to the queue failed.
    pub fn call_failed(&self, poller: usize, now: Instant) {
        let now_ms = self.ms(now);
        if let Some(poller) = self.made_progress(poller, now)
            && !poller.is_failing()
        {
            poller.failing_since_ms.store(now_ms, Ordering::Release);
        }
    }

    /// This poller waits on purpose: for Redis, or for the workers.
    pub fn waits(&self, poller: usize, now: Instant) {
        self.made_progress(poller, now);
    }

    /// This poller's loop has ended.
    pub fn ended(&self, poller: usize) {
        if let Some(poller) = self.pollers.get(poller) {
            poller.has_ended.store(true, Ordering::Release);
        }
    }

    /// The service is stopping: not ready from now on.
    pub fn begin_stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
    }

    /// The service is stopping.
    pub fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Acquire)
    }

    /// The pollers, counted.
    pub fn pollers(&self, now: Instant) -> PollerCounts {
        let count = |is_so: &dyn Fn(&PollerHealth) -> bool| {
            self.pollers.iter().filter(|poller| is_so(poller)).count()
        };
        PollerCounts {
            alive: count(&|poller| self.is_alive(poller, now)),
            failing: count(&PollerHealth::is_failing),
            silent: count(&|poller| self.is_silent(poller, now)),
            total: self.pollers.len(),
        }
    }

    /// False if no poller has made progress for longer than any of its calls may take: the loops are dead, and only a
    /// restart helps. Neither an unavailable queue nor an unavailable Redis causes this, nor does a shutdown.
    pub fn is_live(&self, now: Instant) -> bool {
        self.is_stopping()
            || self.pollers.is_empty()
            || self.pollers.iter().any(|poller| !self.is_silent(poller, now))
    }

    /// What `/readyz` says.
    pub fn readiness(&self, now: Instant) -> Readiness {
        let consumers = self.pollers(now).alive;
        let redis_connected = self.is_redis_connected();
        Readiness {
            up: redis_connected && consumers >= 1 && !self.is_stopping(),
            consumers,
            redis_connected,
        }
    }

    /// A number that the board was not made for is ignored: health reporting stops no loop.
    fn made_progress(&self, poller: usize, now: Instant) -> Option<&PollerHealth> {
        let poller = self.pollers.get(poller)?;
        poller.progress_at_ms.store(self.ms(now), Ordering::Release);
        Some(poller)
    }

    fn is_alive(&self, poller: &PollerHealth, now: Instant) -> bool {
        poller.has_succeeded.load(Ordering::Acquire)
            && !poller.has_ended.load(Ordering::Acquire)
            && !self.is_silent(poller, now)
            && (!poller.is_failing()
                || self.ms_since(&poller.failing_since_ms, now) < ms(self.patience.failing_grace))
    }

    fn is_silent(&self, poller: &PollerHealth, now: Instant) -> bool {
        self.ms_since(&poller.progress_at_ms, now) > ms(self.patience.silent_after)
    }

    fn ms_since(&self, then_ms: &AtomicU64, now: Instant) -> u64 {
        self.ms(now).saturating_sub(then_ms.load(Ordering::Acquire))
    }

    fn ms(&self, now: Instant) -> u64 {
        ms(now.saturating_duration_since(self.began))
    }
}

impl PollerHealth {
    fn is_failing(&self) -> bool {
        self.failing_since_ms.load(Ordering::Acquire) != NEVER
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        silent_after: Duration::from_mins(1),
        failing_grace: Duration::from_secs(15),
    };

    fn after(began: Instant, secs: u64) -> Instant {
        began + Duration::from_secs(secs)
    }

    /// Two pollers, of which one has succeeded; Redis is there.
    fn ready_board() -> (HealthBoard, Instant) {
        let began = Instant::now();
        let board = HealthBoard::new(2, PATIENCE, began);
        board.set_redis_connected(true);
        board.call_succeeded(1, began);
        (board, began)
    }

    fn readiness(up: bool, consumers: usize, redis_connected: bool) -> Readiness {
        Readiness {
            up,
            consumers,
            redis_connected,
        }
    }

    #[test]
    fn a_fresh_board_is_live_and_not_ready() {
        let began = Instant::now();
        let board = HealthBoard::new(10, PATIENCE, began);
        assert!(board.is_live(began));
        assert_eq!(board.readiness(began), readiness(false, 0, false));
    }

    #[test]
    fn redis_and_one_poller_of_two_make_it_ready() {
        let (board, began) = ready_board();
        assert_eq!(board.readiness(began), readiness(true, 1, true));
    }

    #[test]
    fn it_is_not_ready_without_redis_and_ready_again_when_redis_is_back() {
        let (board, began) = ready_board();
        board.set_redis_connected(false);
        assert_eq!(board.readiness(began), readiness(false, 1, false));
        board.set_redis_connected(true);
        assert!(board.readiness(began).up);
    }

    #[test]
    fn a_failing_queue_takes_readiness_after_a_grace_and_a_success_gives_it_back() {
        let (board, began) = ready_board();
        board.call_failed(1, after(began, 1));
        board.call_failed(1, after(began, 14));
        assert!(
            board.readiness(after(began, 15)).up,
            "14 s of failures are tolerated"
        );
        board.call_failed(1, after(began, 16));
        assert_eq!(board.readiness(after(began, 16)), readiness(false, 0, true));
        assert!(board.is_live(after(began, 16)), "a restart would not help");
        board.call_succeeded(1, after(began, 17));
        assert!(board.readiness(after(began, 17)).up);
    }

    #[test]
    fn a_poller_that_never_succeeded_has_no_grace() {
        let began = Instant::now();
        let board = HealthBoard::new(1, PATIENCE, began);
        board.set_redis_connected(true);
        board.call_failed(0, began);
        assert_eq!(board.readiness(began), readiness(false, 0, true));
    }

    #[test]
    fn pollers_that_make_no_progress_are_dead_and_one_that_fails_or_waits_is_not() {
        let (board, began) = ready_board();
        board.call_failed(0, after(began, 30));
        assert!(board.is_live(after(began, 90)), "it failed 60 s ago");
        assert!(!board.is_live(after(began, 91)));
        assert_eq!(board.readiness(after(began, 91)).consumers, 0);
        board.waits(1, after(began, 3_000));
        assert!(board.is_live(after(began, 3_010)), "it waits for Redis");
    }

    #[test]
    fn a_stop_is_for_good_and_does_not_make_it_dead() {
        let (board, began) = ready_board();
        board.begin_stop();
        board.call_succeeded(0, began);
        assert_eq!(board.readiness(began), readiness(false, 2, true));
        board.ended(0);
        board.ended(1);
        assert_eq!(board.readiness(began).consumers, 0);
        assert!(board.is_live(after(began, 1_000)));
    }

    #[test]
    fn pollers_are_counted() {
        let (board, began) = ready_board();
        board.call_failed(0, after(began, 1));
        let counted = |alive, failing, silent| PollerCounts {
            alive,
            failing,
            silent,
            total: 2,
        };
        assert_eq!(board.pollers(after(began, 2)), counted(1, 1, 0));
        assert_eq!(board.pollers(after(began, 61)), counted(0, 1, 1));
        assert!(!board.is_stopping());
    }

    #[test]
    fn a_poller_that_the_board_does_not_know_is_ignored() {
        let (board, began) = ready_board();
        board.call_succeeded(2, began);
        assert_eq!(board.readiness(began).consumers, 1);
    }
}
