//! What most stories begin with: a Redis, a queue, and the settings of a service between them.

use super::moto::{Moto, Queue};
use super::redis::TestRedis;
use super::service::{Service, Settings};

/// `ENVIRONMENT_PREFIX` as documented, since no story sets another without saying so.
pub const PREFIX: &str = "production";

/// A Redis and a queue of one test's own.
pub struct Stage {
    pub redis: TestRedis,
    pub queue: Queue,
}

impl Stage {
    /// An empty Redis and an empty queue.
    pub fn new() -> Self {
        Self { redis: TestRedis::start(), queue: Moto::shared().queue() }
    }

    /// Settings that work.
    pub fn settings(&self) -> Settings {
        Settings::new(&self.redis, &self.queue)
    }

    /// Sends messages and waits until each is completed: applied and deleted.
    pub fn deliver(&self, service: &Service, bodies: &[String]) {
        let received = "persistent_cache_messages_received_total";
        let before = service.metrics().value(received);
        self.queue.send_all(bodies);
        let count = u32::try_from(bodies.len()).expect("a small number");
        // The metric first: asking moto all the time would slow every other story down.
        service.wait_for_metric(received, before + f64::from(count));
        service.wait_until("an empty queue", || self.queue.is_empty());
    }
}
