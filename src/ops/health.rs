//! The service's health. The loops report and the endpoints ask; the time is an argument.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A queue that fails for less than this does not make the service unready.
const FAILING_GRACE: Duration = Duration::from_secs(15);

/// What is known of the service's health. Shared by all threads; its lock is held for moments only.
#[derive(Debug)]
pub struct HealthBoard {
    silent_after: Duration,
    pollers: Mutex<Vec<PollerHealth>>,
    redis_connected: AtomicBool,
    is_stopping: AtomicBool,
}

#[derive(Debug, Clone)]
struct PollerHealth {
    progress_at: Instant,
    /// It has succeeded, and its loop has not ended.
    can_receive: bool,
    /// The first failure after the last success.
    failing_since: Option<Instant>,
}

/// The health at one moment.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Readiness {
    /// Redis can be used, at least one poller is alive, and the service is not stopping.
    pub(crate) up: bool,
    pub(crate) redis_connected: bool,
    pub(crate) is_stopping: bool,
    /// Pollers that are alive: they can receive, or have failed for less than the grace.
    pub(crate) consumers: usize,
    pub(crate) failing: usize,
    pub(crate) silent: usize,
    pub(crate) pollers: usize,
}

impl Readiness {
    /// False if no poller has made progress for longer than any of its calls may take: the loops are dead, and only a
    /// restart helps. Neither an unavailable queue nor an unavailable Redis causes this, nor does a shutdown.
    pub(super) fn is_live(&self) -> bool {
        self.is_stopping || self.pollers == 0 || self.silent < self.pollers
    }
}

impl HealthBoard {
    /// A board for this many pollers; Redis is not connected and no poller has succeeded yet. `silent_after` is longer than
    /// any call with its deadline and the wait after a failed one: a poller without progress for so long is dead.
    pub fn new(pollers: usize, silent_after: Duration, now: Instant) -> Self {
        let unknown = PollerHealth { progress_at: now, can_receive: false, failing_since: None };
        Self {
            silent_after,
            pollers: Mutex::new(vec![unknown; pollers]),
            redis_connected: AtomicBool::new(false),
            is_stopping: AtomicBool::new(false),
        }
    }

    /// Redis can be used, or cannot.
    pub fn set_redis_connected(&self, connected: bool) {
        self.redis_connected.store(connected, Ordering::Release);
    }

    /// This poller's call to the queue succeeded.
    pub fn call_succeeded(&self, poller: usize, now: Instant) {
        self.update(poller, |poller| {
            poller.progress_at = now;
            poller.can_receive = true;
            poller.failing_since = None;
        });
    }

    /// This poller's call to the queue failed.
    pub fn call_failed(&self, poller: usize, now: Instant) {
        self.update(poller, |poller| {
            poller.progress_at = now;
            poller.failing_since.get_or_insert(now);
        });
    }

    /// This poller waits on purpose: for Redis, or for the workers.
    pub fn waits(&self, poller: usize, now: Instant) {
        self.update(poller, |poller| poller.progress_at = now);
    }

    /// This poller's loop has ended.
    pub fn ended(&self, poller: usize) {
        self.update(poller, |poller| poller.can_receive = false);
    }

    /// The service is stopping: not ready from now on.
    pub fn begin_stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
    }

    /// As [`Readiness::is_live`].
    pub fn is_live(&self, now: Instant) -> bool {
        self.readiness(now).is_live()
    }

    pub(crate) fn readiness(&self, now: Instant) -> Readiness {
        let redis_connected = self.redis_connected.load(Ordering::Acquire);
        let is_stopping = self.is_stopping.load(Ordering::Acquire);
        let pollers = self.pollers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut health =
            Readiness { redis_connected, is_stopping, pollers: pollers.len(), ..Readiness::default() };
        for poller in pollers.iter() {
            let is_silent = now - poller.progress_at > self.silent_after;
            let is_tolerated = poller.failing_since.is_none_or(|since| now - since < FAILING_GRACE);
            let is_alive = poller.can_receive && !is_silent && is_tolerated;
            health.consumers += usize::from(is_alive);
            health.failing += usize::from(poller.failing_since.is_some());
            health.silent += usize::from(is_silent);
        }
        health.up = redis_connected && health.consumers >= 1 && !is_stopping;
        health
    }

    /// A number that the board was not made for is ignored: health reporting stops no loop.
    fn update(&self, poller: usize, change: impl FnOnce(&mut PollerHealth)) {
        let mut pollers = self.pollers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(poller) = pollers.get_mut(poller) {
            change(poller);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENT_AFTER: Duration = Duration::from_mins(1);

    fn after(began: Instant, secs: u64) -> Instant {
        began + Duration::from_secs(secs)
    }

    /// Two pollers, of which one has succeeded; Redis is there.
    fn ready_board() -> (HealthBoard, Instant) {
        let began = Instant::now();
        let board = HealthBoard::new(2, SILENT_AFTER, began);
        board.set_redis_connected(true);
        board.call_succeeded(1, began);
        (board, began)
    }

    /// Whether it is up, the consumers, and whether Redis can be used.
    fn readiness(board: &HealthBoard, now: Instant) -> (bool, usize, bool) {
        let health = board.readiness(now);
        (health.up, health.consumers, health.redis_connected)
    }

    #[test]
    fn a_fresh_board_is_live_and_not_ready() {
        let began = Instant::now();
        let board = HealthBoard::new(10, SILENT_AFTER, began);
        assert!(board.is_live(began));
        assert_eq!(readiness(&board, began), (false, 0, false));
    }

    #[test]
    fn redis_and_one_poller_of_two_make_it_ready() {
        let (board, began) = ready_board();
        assert_eq!(readiness(&board, began), (true, 1, true));
    }

    #[test]
    fn it_is_not_ready_without_redis_and_ready_again_when_redis_is_back() {
        let (board, began) = ready_board();
        board.set_redis_connected(false);
        assert_eq!(readiness(&board, began), (false, 1, false));
        board.set_redis_connected(true);
        assert!(board.readiness(began).up);
    }

    #[test]
    fn a_failing_queue_takes_readiness_after_a_grace_and_a_success_gives_it_back() {
        let (board, began) = ready_board();
        board.call_failed(1, after(began, 1));
        board.call_failed(1, after(began, 14));
        assert!(board.readiness(after(began, 15)).up, "14 s of failures are tolerated");
        board.call_failed(1, after(began, 16));
        assert_eq!(readiness(&board, after(began, 16)), (false, 0, true));
        assert!(board.is_live(after(began, 16)), "a restart would not help");
        board.call_succeeded(1, after(began, 17));
        assert!(board.readiness(after(began, 17)).up);
    }

    #[test]
    fn a_poller_that_never_succeeded_has_no_grace() {
        let began = Instant::now();
        let board = HealthBoard::new(1, SILENT_AFTER, began);
        board.set_redis_connected(true);
        board.call_failed(0, began);
        assert_eq!(readiness(&board, began), (false, 0, true));
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
        assert_eq!(readiness(&board, began), (false, 2, true));
        board.ended(0);
        board.ended(1);
        assert_eq!(board.readiness(began).consumers, 0);
        assert!(board.is_live(after(began, 1_000)));
    }

    #[test]
    fn pollers_are_counted() {
        let (board, began) = ready_board();
        board.call_failed(0, after(began, 1));
        let counted = |secs| {
            let Readiness { consumers, failing, silent, pollers, .. } = board.readiness(after(began, secs));
            (consumers, failing, silent, pollers)
        };
        assert_eq!(counted(2), (1, 1, 0, 2));
        assert_eq!(counted(61), (0, 1, 1, 2));
    }

    #[test]
    fn a_poller_that_the_board_does_not_know_is_ignored() {
        let (board, began) = ready_board();
        board.call_succeeded(2, began);
        assert_eq!(board.readiness(began).consumers, 1);
    }
}
