//! What is known of the service's health. Pure state: others report, the endpoints ask, the time is an argument.
//!
//! Each fact is one atomic, so that no loop ever waits for a probe. A readiness that is put together while facts
//! change may mix the old and the new; the next probe sees it right.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long silence and failure are borne.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Longer than any call with its deadline, the wait after a failed one and some room: a poller that has not come
    /// round for so long never will.
    pub silent_after: Duration,
    /// A queue that fails for less than this is no reason to be taken out of service.
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

/// Reports come in from the loops, questions from the endpoints. Shared by all threads.
#[derive(Debug)]
pub struct HealthBoard {
    began: Instant,
    patience: Patience,
    pollers: Vec<PollerFacts>,
    redis_connected: AtomicBool,
    stop_begun: AtomicBool,
}

/// Times are milliseconds since the board was made.
#[derive(Debug)]
struct PollerFacts {
    /// A call ended, whatever its end, or the poller waits on purpose.
    came_round_at: AtomicU64,
    has_succeeded: AtomicBool,
    /// The first failure after the last success, or [`NEVER`].
    failing_since: AtomicU64,
    has_ended: AtomicBool,
}

/// What `/readyz` answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// Ready: Redis answers, at least one poller is alive, and no stop has begun.
    pub up: bool,
    /// Pollers that are alive: they get answers from the queue, or have failed for less than the grace.
    pub consumers: usize,
    /// Redis answered last time.
    pub redis_connected: bool,
}

/// How the pollers fare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pollers {
    /// As `/readyz` counts them.
    pub alive: usize,
    /// Their last call to the queue failed.
    pub failing: usize,
    /// They have not come round for longer than any call may take.
    pub silent: usize,
    /// All there are.
    pub total: usize,
}

impl HealthBoard {
    /// A board for this many pollers; Redis is not connected and no poller has succeeded yet.
    pub fn new(pollers: usize, patience: Patience, now: Instant) -> Self {
        let unknown = || PollerFacts {
            came_round_at: AtomicU64::new(0),
            has_succeeded: AtomicBool::new(false),
            failing_since: AtomicU64::new(NEVER),
            has_ended: AtomicBool::new(false),
        };
        Self {
            began: now,
            patience,
            pollers: (0..pollers).map(|_| unknown()).collect(),
            redis_connected: AtomicBool::new(false),
            stop_begun: AtomicBool::new(false),
        }
    }

    /// Redis answered, or did not.
    pub fn set_redis_connected(&self, connected: bool) {
        self.redis_connected.store(connected, Ordering::Release);
    }

    /// Redis answered last time.
    pub fn is_redis_connected(&self) -> bool {
        self.redis_connected.load(Ordering::Acquire)
    }

    /// This poller's call to the queue succeeded. A number that the board was not made for is ignored, here and
    /// below: health reporting stops no loop.
    pub fn call_succeeded(&self, poller: usize, now: Instant) {
        self.came_round(poller, now);
        if let Some(facts) = self.pollers.get(poller) {
            facts.failing_since.store(NEVER, Ordering::Release);
            facts.has_succeeded.store(true, Ordering::Release);
        }
    }

    /// This poller's call to the queue failed.
    pub fn call_failed(&self, poller: usize, now: Instant) {
        self.came_round(poller, now);
        if let Some(facts) = self.pollers.get(poller)
            && facts.failing_since.load(Ordering::Acquire) == NEVER
        {
            facts.failing_since.store(self.ms(now), Ordering::Release);
        }
    }

    /// This poller waits on purpose: for Redis, or for the workers.
    pub fn came_round(&self, poller: usize, now: Instant) {
        if let Some(facts) = self.pollers.get(poller) {
            facts.came_round_at.store(self.ms(now), Ordering::Release);
        }
    }

    /// This poller's loop has ended.
    pub fn ended(&self, poller: usize) {
        if let Some(facts) = self.pollers.get(poller) {
            facts.has_ended.store(true, Ordering::Release);
        }
    }

    /// A stop has begun: not ready from now on, for good.
    pub fn begin_stop(&self) {
        self.stop_begun.store(true, Ordering::Release);
    }

    /// A stop has begun.
    pub fn is_stopping(&self) -> bool {
        self.stop_begun.load(Ordering::Acquire)
    }

    /// How the pollers fare now.
    pub fn pollers(&self, now: Instant) -> Pollers {
        let now_ms = self.ms(now);
        let count =
            |is_so: &dyn Fn(&PollerFacts) -> bool| self.pollers.iter().filter(|facts| is_so(facts)).count();
        Pollers {
            alive: self.readiness(now).consumers,
            failing: count(&|facts| facts.failing_since.load(Ordering::Acquire) != NEVER),
            silent: count(&|facts| !self.comes_round(facts, now_ms)),
            total: self.pollers.len(),
        }
    }

    /// False if no poller has come round for longer than any of its calls may take: the loops are dead, and only a
    /// restart helps. A queue or a Redis that is away is no such thing. During a stop the pollers end on purpose.
    pub fn is_live(&self, now: Instant) -> bool {
        let now_ms = self.ms(now);
        self.stop_begun.load(Ordering::Acquire)
            || self.pollers.is_empty()
            || self.pollers.iter().any(|facts| self.comes_round(facts, now_ms))
    }

    /// What `/readyz` answers now.
    pub fn readiness(&self, now: Instant) -> Readiness {
        let now_ms = self.ms(now);
        let is_alive = |facts: &&PollerFacts| {
            let failing_since = facts.failing_since.load(Ordering::Acquire);
            facts.has_succeeded.load(Ordering::Acquire)
                && !facts.has_ended.load(Ordering::Acquire)
                && self.comes_round(facts, now_ms)
                && (failing_since == NEVER
                    || now_ms.saturating_sub(failing_since) < millis(self.patience.failing_grace))
        };
        let consumers = self.pollers.iter().filter(is_alive).count();
        let redis_connected = self.is_redis_connected();
        let stop_begun = self.stop_begun.load(Ordering::Acquire);
        Readiness {
            up: redis_connected && consumers >= 1 && !stop_begun,
            consumers,
            redis_connected,
        }
    }

    fn comes_round(&self, facts: &PollerFacts, now_ms: u64) -> bool {
        let silent_ms = now_ms.saturating_sub(facts.came_round_at.load(Ordering::Acquire));
        silent_ms <= millis(self.patience.silent_after)
    }

    fn ms(&self, now: Instant) -> u64 {
        millis(now.saturating_duration_since(self.began))
    }
}

fn millis(duration: Duration) -> u64 {
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
        assert!(board.readiness(after(began, 15)).up, "14 s of failures are borne");
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
    fn pollers_that_do_not_come_round_are_dead_and_one_that_fails_or_waits_is_not() {
        let (board, began) = ready_board();
        board.call_failed(0, after(began, 30));
        assert!(board.is_live(after(began, 90)), "it failed 60 s ago");
        assert!(!board.is_live(after(began, 91)));
        assert_eq!(board.readiness(after(began, 91)).consumers, 0);
        board.came_round(1, after(began, 3_000));
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
    fn pollers_are_counted_by_how_they_fare() {
        let (board, began) = ready_board();
        board.call_failed(0, after(began, 1));
        let counted = |alive, failing, silent| Pollers {
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
