//! What is known of the service's health. Pure state: others report, the endpoints ask.

/// Reports come in from the loops, questions from the endpoints. Shared by all threads.
#[derive(Debug)]
pub struct HealthBoard {}

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
    pub fn new(_pollers: usize) -> Self {
        todo!()
    }

    /// Redis answered, or did not.
    pub fn set_redis_connected(&self, _connected: bool) {
        todo!()
    }

    /// Redis answered last time.
    pub fn is_redis_connected(&self) -> bool {
        todo!()
    }

    /// This poller's last call to the queue succeeded, or failed; or the poller has ended (`false`).
    pub fn set_poller_alive(&self, _poller: usize, _alive: bool) {
        todo!()
    }

    /// A stop has begun: not ready from now on, for good.
    pub fn begin_stop(&self) {
        todo!()
    }

    /// What `/readyz` answers now.
    pub fn readiness(&self) -> Readiness {
        todo!()
    }
}
