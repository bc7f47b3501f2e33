//! What is known of the service's health. Pure state: others report, the endpoints ask.
//!
//! Each fact is one atomic, so that no loop ever waits for a probe. A readiness that is put together while facts
//! change may mix the old and the new; the next probe sees it right.

use std::sync::atomic::{AtomicBool, Ordering};

/// Reports come in from the loops, questions from the endpoints. Shared by all threads.
#[derive(Debug)]
pub struct HealthBoard {
    pollers_alive: Vec<AtomicBool>,
    redis_connected: AtomicBool,
    stop_begun: AtomicBool,
}

/// What `/readyz` answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// Ready: Redis answers, at least one poller gets answers from the queue, and no stop has begun.
    pub up: bool,
    /// Pollers whose last call to the queue succeeded.
    pub consumers: usize,
    /// Redis answered last time.
    pub redis_connected: bool,
}

impl HealthBoard {
    /// A board for this many pollers; Redis is not connected and no poller has succeeded yet.
    pub fn new(pollers: usize) -> Self {
        Self {
            pollers_alive: (0..pollers).map(|_| AtomicBool::new(false)).collect(),
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

    /// This poller's last call to the queue succeeded, or failed; or the poller has ended (`false`). A number
    /// that the board was not made for is ignored: health reporting stops no loop.
    pub fn set_poller_alive(&self, poller: usize, alive: bool) {
        if let Some(flag) = self.pollers_alive.get(poller) {
            flag.store(alive, Ordering::Release);
        }
    }

    /// A stop has begun: not ready from now on, for good.
    pub fn begin_stop(&self) {
        self.stop_begun.store(true, Ordering::Release);
    }

    /// What `/readyz` answers now.
    pub fn readiness(&self) -> Readiness {
        let consumers = self
            .pollers_alive
            .iter()
            .filter(|flag| flag.load(Ordering::Acquire))
            .count();
        let redis_connected = self.is_redis_connected();
        let stop_begun = self.stop_begun.load(Ordering::Acquire);
        Readiness {
            up: redis_connected && consumers >= 1 && !stop_begun,
            consumers,
            redis_connected,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready_board() -> HealthBoard {
        let board = HealthBoard::new(2);
        board.set_redis_connected(true);
        board.set_poller_alive(1, true);
        board
    }

    #[test]
    fn a_fresh_board_is_not_ready() {
        assert_eq!(
            HealthBoard::new(10).readiness(),
            Readiness {
                up: false,
                consumers: 0,
                redis_connected: false
            }
        );
    }

    #[test]
    fn redis_and_one_poller_of_two_make_it_ready() {
        assert_eq!(
            ready_board().readiness(),
            Readiness {
                up: true,
                consumers: 1,
                redis_connected: true
            }
        );
    }

    #[test]
    fn it_is_not_ready_without_redis_and_ready_again_when_redis_is_back() {
        let board = ready_board();
        board.set_redis_connected(false);
        assert_eq!(
            board.readiness(),
            Readiness {
                up: false,
                consumers: 1,
                redis_connected: false
            }
        );
        board.set_redis_connected(true);
        assert!(board.readiness().up);
    }

    #[test]
    fn it_is_not_ready_once_the_last_poller_fails_and_a_second_report_does_not_count_twice() {
        let board = ready_board();
        board.set_poller_alive(1, true);
        assert_eq!(board.readiness().consumers, 1);
        board.set_poller_alive(1, false);
        board.set_poller_alive(1, false);
        assert_eq!(
            board.readiness(),
            Readiness {
                up: false,
                consumers: 0,
                redis_connected: true
            }
        );
    }

    #[test]
    fn a_stop_is_for_good() {
        let board = ready_board();
        board.begin_stop();
        board.set_redis_connected(true);
        board.set_poller_alive(0, true);
        assert_eq!(
            board.readiness(),
            Readiness {
                up: false,
                consumers: 2,
                redis_connected: true
            }
        );
    }

    #[test]
    fn a_poller_that_the_board_does_not_know_is_ignored() {
        let board = ready_board();
        board.set_poller_alive(2, true);
        assert_eq!(board.readiness().consumers, 1);
    }
}
