//! Messages in flight stay hidden from others for as long as it takes: the visibility of a message that waits is extended,
//! so that it is received once, however short the queue's timeout is.
//!
//! The queue is one of our own: a call that extends has half of the timeout to arrive, and the emulator that all stories
//! share takes longer than that when they are many.

use std::time::{Duration, Instant};

use crate::fakes::queue::QueueOptions;
use crate::support::fake_stage::FakeStage;
use crate::support::messages::{Shape, entitlements_updated};
use crate::support::redis::TestRedis;
use crate::support::sdk::Owner;
use crate::support::service::Service;
use crate::support::stage::{PREFIX, Stage};
use crate::support::state::{State, boolean, hours_ago};

/// The queue's own visibility timeout.
const TIMEOUT: Duration = Duration::from_secs(3);
const CUSTOMERS: [&str; 3] = ["customer-1", "customer-2", "customer-3"];

fn message(customer: &str) -> String {
    let state = State::new(Owner::customer(customer), hours_ago(1), &[boolean("feature-sso")]);
    entitlements_updated(&state, Shape::GraphqlV2).raw()
}

fn is_cached(redis: &TestRedis, customer: &str) -> bool {
    redis.get(&Owner::customer(customer).key(PREFIX)).is_some()
}

/// A service that has received a message for each customer, none of which it can apply: readers hold their locks.
struct Scene {
    stage: FakeStage,
    service: Service,
    /// The messages had been received by then.
    since: Instant,
}

impl Scene {
    fn new() -> Self {
        let stage = FakeStage::new(QueueOptions { visibility_timeout: TIMEOUT, ..QueueOptions::default() });
        let service = Service::start(&stage.settings().set("LOG_LEVEL", "debug"));
        service.wait_until("the queue to report its timeout", || {
            let lines = service.log_lines();
            lines.iter().any(|line| line.contains("visibility timeout is 3 s"))
        });
        for customer in CUSTOMERS {
            let lock = Owner::customer(customer).lock_key(PREFIX);
            stage.redis.command::<()>(&["SET", &lock, "a-reader", "NX", "PX", "60000"]);
        }
        for customer in CUSTOMERS {
            stage.queue.send(message(customer));
        }
        service.wait_for_metric("persistent_cache_messages_received_total", 3.0);
        let since = Instant::now();
        Self { stage, service, since }
    }

    /// Waits until the messages have been in flight for so many times the queue's timeout.
    fn wait_for_timeouts(&self, count: u32) {
        let what = "the queue's timeout to pass several times";
        self.service.wait_until(what, || self.since.elapsed() > TIMEOUT * count);
    }

    /// Each message is applied and deleted, none of them before the queue's timeout was over, and none was received a
    /// second time.
    fn each_was_received_once(self) {
        let Self { stage, service, since } = self;
        for customer in CUSTOMERS {
            service.wait_until(&format!("{customer} to be cached"), || is_cached(&stage.redis, customer));
            let waited = since.elapsed();
            assert!(waited > TIMEOUT, "{customer} was in flight for {waited:?}");
        }
        service.wait_until("an empty queue", || stage.queue.is_empty());
        let counts = stage.queue.counts();
        assert_eq!((counts.received, counts.redelivered, counts.deleted), (3, 0, 3), "{counts:?}");
        let metrics = service.metrics();
        for (series, expected) in [
            ("persistent_cache_messages_received_total", 3.0),
            ("persistent_cache_messages_processed_total", 3.0),
            ("persistent_cache_messages_failed_total{reason=\"expired\"}", 0.0),
            ("persistent_cache_queue_errors_total{operation=\"change_visibility\"}", 0.0),
        ] {
            let value = metrics.value(series);
            assert!((value - expected).abs() < f64::EPSILON, "{series} is {value}");
        }
        service.wait_until("nothing to be in flight", || {
            service.metrics().value("persistent_cache_in_flight_messages") < 1.0
        });
        service.stop();
    }
}

#[test]
fn a_message_behind_a_readers_lock_is_received_once() {
    // The readers' locks are waited for, for 5 s at most.
    Scene::new().each_was_received_once();
}

#[test]
fn a_message_that_meets_a_redis_that_hangs_is_received_once() {
    let scene = Scene::new();
    scene.stage.redis.pause();
    scene.wait_for_timeouts(4);
    assert_eq!(scene.stage.queue.counts().visible, 0, "it stays hidden");
    scene.stage.redis.resume();
    scene.each_was_received_once();
}

#[test]
fn a_message_that_meets_an_absent_redis_is_received_once() {
    let scene = Scene::new();
    scene.stage.redis.stop();
    scene.wait_for_timeouts(4);
    assert_eq!(scene.stage.queue.counts().visible, 0, "it stays hidden");
    scene.stage.redis.run();
    scene.each_was_received_once();
}

#[test]
fn a_queue_that_may_not_be_asked_for_its_timeout_is_taken_to_hide_for_30_seconds_and_the_log_says_so() {
    let stage = Stage::new();
    let service = Service::start(&stage.settings().set("CACHE_UPDATE_POLICY", "UPSERT"));
    service.wait_for_complaint(&["sqs:GetQueueAttributes", "30 s are assumed", &stage.queue.name]);
    stage.deliver(&service, &[message("customer-1")]);
    assert!(is_cached(&stage.redis, "customer-1"));
    service.stop();
}

#[test]
fn a_message_of_a_queue_without_visibility_timeout_is_not_delivered_again_while_it_is_in_flight() {
    let stage =
        FakeStage::new(QueueOptions { visibility_timeout: Duration::ZERO, ..QueueOptions::default() });
    let service = Service::start(&stage.settings());
    service.wait_for_complaint(&["visibility timeout is 0 s", "requests 30 s"]);
    // A poll that was open before does not know it yet.
    stage.queue.send(message("customer-1"));
    service.wait_until("the first message to be written", || {
        is_cached(&stage.redis, "customer-1") && stage.queue.is_empty()
    });
    let before = stage.queue.counts().received;
    stage.redis.pause();
    stage.queue.send(message("customer-2"));
    service.wait_until("Redis to be missed", || service.metrics().value("persistent_cache_redis_up") < 1.0);
    stage.redis.resume();
    service.wait_until("the second message to be written", || {
        is_cached(&stage.redis, "customer-2") && stage.queue.is_empty()
    });
    let received = stage.queue.counts().received - before;
    // Each of the two polls may have been open since before.
    assert!(received <= 3, "one message was received {received} times");
    service.stop();
}
