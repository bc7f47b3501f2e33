//! A stage with our own queue, which fails on purpose, instead of moto; and a proxy before whichever side is asked for.

use super::redis::TestRedis;
use super::service::{Service, Settings};
use crate::fakes::queue::{FakeQueue, QueueOptions};

/// A Redis and a queue of one test's own.
pub struct FakeStage {
    pub redis: TestRedis,
    pub queue: FakeQueue,
    options: QueueOptions,
}

impl FakeStage {
    /// An empty Redis and an empty queue.
    pub fn new(options: QueueOptions) -> Self {
        Self::with_redis(TestRedis::start(), options)
    }

    /// This Redis and an empty queue.
    pub fn with_redis(redis: TestRedis, options: QueueOptions) -> Self {
        Self { redis, queue: FakeQueue::start(options.clone()), options }
    }

    /// Where the queue listens.
    pub fn queue_address(&self) -> std::net::SocketAddr {
        let url = self.queue.url();
        let host = url.split('/').nth(2).expect("a host");
        host.parse().expect("an address")
    }

    /// Where Redis listens.
    pub fn redis_address(&self) -> std::net::SocketAddr {
        ([127, 0, 0, 1], self.redis.port).into()
    }

    /// Sends messages and waits until each is applied and deleted.
    pub fn deliver(&self, service: &Service, bodies: &[String]) {
        for body in bodies {
            self.queue.send(body);
        }
        service.wait_until("an empty queue", || self.queue.is_empty());
    }

    /// Sends a message whose `SentTimestamp` is this, in epoch milliseconds, and waits until it is applied and deleted.
    pub fn deliver_at(&self, service: &Service, body: &str, sent_at_ms: i64) {
        self.queue.send_at(body, sent_at_ms);
        service.wait_until("an empty queue", || self.queue.is_empty());
    }

    /// Settings that work: everything is written, receives wait for a second.
    pub fn settings(&self) -> Settings {
        settings(&self.redis, &self.queue, &self.options)
    }
}

/// Settings that work with this Redis and this queue.
pub fn settings(redis: &TestRedis, queue: &FakeQueue, options: &QueueOptions) -> Settings {
    Settings::of_redis(redis)
        .set("AWS_REGION", &options.region)
        .set("QUEUE_URL", queue.url())
        .set("AWS_ACCESS_KEY_ID", &options.access_key_id)
        .set("AWS_SECRET_ACCESS_KEY", &options.secret_access_key)
        .set("CACHE_UPDATE_POLICY", "UPSERT")
}
