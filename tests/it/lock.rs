//! The readers' write lock. An SDK that holds it has read the timestamps and is about to write what it refetched: a
//! newer state written in between would be overwritten by an older one, so the service waits. (The lock that it holds
//! while it asks Stigg is another: see `refetch`.)

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::messages::{Shape, entitlements_updated, usage_updated};
use crate::support::redis::{Monitor, TestRedis};
use crate::support::sdk::{CUSTOMER, Owner, RESOURCE, Sdk};
use crate::support::service::Service;
use crate::support::stage::{PREFIX, Stage};
use crate::support::state::{State, hours_ago, metered, number};

/// What the SDKs take it for.
const LOCK_MS: &str = "5000";

/// A customer and one resource, cached by the SDK, and a service that is running.
struct Scene {
    stage: Stage,
    service: Service,
    monitor: Monitor,
}

impl Scene {
    fn new() -> Self {
        let stage = Stage::new();
        let sdk = Sdk::open(&stage.redis, PREFIX);
        let [customer, resource] = [CUSTOMER, RESOURCE].map(|owner| state(owner, 9, 1));
        sdk.cache(&[&customer, &resource]);
        let service = Service::start(&stage.settings());
        let monitor = stage.redis.monitor();
        Self { stage, service, monitor }
    }

    /// Sends a state newer than the cached one.
    fn send_newer(&self, owner: Owner) {
        let message = entitlements_updated(&state(owner, 5, 2), Shape::GraphqlV2);
        self.stage.queue.send(&message.raw());
    }

    fn wait_for_newer(&self, owner: Owner) {
        self.service.wait_until("the newer state", || self.limit(owner) == json!(2));
    }

    fn take(&self, lock: &str) -> usize {
        self.stage.redis.command::<()>(&["SET", lock, "a-reader", "NX", "PX", LOCK_MS]);
        self.mentions_once_seen(lock)
    }

    /// How often the lock has been named so far, the test's own commands included.
    fn mentions_once_seen(&self, lock: &str) -> usize {
        self.service.wait_for("the monitor to see the lock taken", || {
            let mentions = self.monitor.mentions(lock);
            (mentions > 0).then_some(mentions)
        })
    }

    /// Waits until the service has looked at the lock, and keeps it held meanwhile.
    fn wait_until_the_service_looks_at(&self, lock: &str, mentions_before: usize) {
        let mut ours = 0;
        self.service.wait_until("the service to look at the readers' lock", || {
            self.stage.redis.command::<()>(&["PEXPIRE", lock, LOCK_MS]);
            ours += 1;
            self.monitor.mentions(lock) > mentions_before + ours
        });
    }

    fn release(&self, lock: &str) {
        let deleted: u32 = self.stage.redis.command(&["DEL", lock]);
        assert_eq!(deleted, 1, "the lock was held to the end");
    }

    fn limit(&self, owner: Owner) -> serde_json::Value {
        limit_in(&self.stage.redis, owner)
    }

    fn finish(self) {
        self.service.wait_until("an empty queue", || self.stage.queue.is_empty());
        self.service.stop();
    }
}

fn state(owner: Owner, hours: i64, limit: i64) -> State {
    State::new(owner, hours_ago(hours), &[number("feature-seats", limit), metered("feature-calls", limit, 0)])
}

fn limit_in(redis: &TestRedis, owner: Owner) -> serde_json::Value {
    let entry = redis.json(&owner.key(PREFIX)).expect("a cached entry");
    entry["feature-seats"]["calculatedEntitlement"]["usageLimit"].clone()
}

#[test]
fn a_newer_state_waits_for_the_lock_and_then_wins() {
    let scene = Scene::new();
    let lock = CUSTOMER.lock_key(PREFIX);
    let before = scene.take(&lock);
    scene.send_newer(CUSTOMER);
    scene.wait_until_the_service_looks_at(&lock, before);
    assert_eq!(scene.limit(CUSTOMER), json!(1), "nothing is written while a reader holds the lock");
    scene.release(&lock);
    scene.wait_for_newer(CUSTOMER);
    scene.finish();
}

#[test]
fn what_a_reader_wrote_newer_meanwhile_stays() {
    let scene = Scene::new();
    let lock = CUSTOMER.lock_key(PREFIX);
    let before = scene.take(&lock);
    scene.send_newer(CUSTOMER);
    scene.wait_until_the_service_looks_at(&lock, before);
    // What the reader writes before it lets go: one multi of all its keys, as SDK 3.95.0 does.
    let elsewhere = TestRedis::start();
    let reader = Sdk::open(&elsewhere, PREFIX);
    reader.cache(&[&state(CUSTOMER, 3, 3)]);
    let written = elsewhere.contents();
    let mut multi = redis::pipe();
    multi.atomic();
    for (key, value) in &written {
        multi.set_ex(key, value, 604_800).ignore();
    }
    multi.exec(&mut scene.stage.redis.connection()).expect("redis answers");
    scene.release(&lock);
    let redis = &scene.stage.redis;
    scene.service.wait_until("an empty queue", || scene.stage.queue.is_empty());
    for (key, value) in &written {
        assert_eq!(redis.get(key).as_ref(), Some(value), "{key}");
    }
    scene.finish();
}

fn a_state_of_a_resource_waits_for(lock: &str) {
    let scene = Scene::new();
    let before = scene.take(lock);
    scene.send_newer(RESOURCE);
    scene.wait_until_the_service_looks_at(lock, before);
    assert_eq!(scene.limit(RESOURCE), json!(1));
    scene.release(lock);
    scene.wait_for_newer(RESOURCE);
    scene.finish();
}

#[test]
fn a_state_of_a_resource_waits_for_its_own_lock() {
    a_state_of_a_resource_waits_for(&RESOURCE.lock_key(PREFIX));
}

#[test]
fn a_state_of_a_resource_waits_for_the_customers_lock_too_since_two_x_takes_that_one() {
    a_state_of_a_resource_waits_for(&CUSTOMER.lock_key(PREFIX));
}

#[test]
fn a_lock_whose_holder_died_delays_a_write_until_it_expires_and_no_longer() {
    let scene = Scene::new();
    let lock = CUSTOMER.lock_key(PREFIX);
    scene.take(&lock);
    scene.send_newer(CUSTOMER);
    scene.wait_for_newer(CUSTOMER);
    let held: bool = scene.stage.redis.command(&["EXISTS", &lock]);
    assert!(!held, "the write came after the lock");
    scene.finish();
}

#[test]
fn a_lock_that_is_never_released_delays_each_write_by_5_seconds_and_no_longer() {
    let scene = Scene::new();
    let lock = CUSTOMER.lock_key(PREFIX);
    scene.stage.redis.command::<()>(&["SET", &lock, "a-reader"]);
    let cached = state(CUSTOMER, 9, 1);
    let usage = usage_updated(&cached, "feature-calls", 7, hours_ago(4), Shape::GraphqlV2);
    let sent = Instant::now();
    scene
        .stage
        .queue
        .send_all(&[entitlements_updated(&state(CUSTOMER, 5, 2), Shape::GraphqlV2).raw(), usage.raw()]);
    scene.wait_for_newer(CUSTOMER);
    let waited = sent.elapsed();
    let expected = Duration::from_millis(4_900)..Duration::from_secs(10);
    assert!(expected.contains(&waited), "it waited for {waited:?}");
    let key = format!("{}:f_feature-calls", CUSTOMER.key(PREFIX));
    scene.service.wait_until("the newer usage", || {
        let usage = scene.stage.redis.json(&key).expect("a usage");
        usage["currentUsage"] == json!(7)
    });
    let waited = sent.elapsed();
    assert!(expected.contains(&waited), "the usage waited for {waited:?}");
    scene.finish();
}

#[test]
fn another_customer_does_not_wait() {
    let scene = Scene::new();
    let lock = CUSTOMER.lock_key(PREFIX);
    let before = scene.take(&lock);
    let other = Owner::customer("customer-2");
    let sdk = Sdk::open(&scene.stage.redis, PREFIX);
    sdk.cache(&[&state(other, 9, 1)]);
    scene.send_newer(CUSTOMER);
    scene.wait_until_the_service_looks_at(&lock, before);
    scene.send_newer(other);
    let mut ours = 0;
    scene.service.wait_until("the other customer's newer state", || {
        scene.stage.redis.command::<()>(&["PEXPIRE", &lock, LOCK_MS]);
        ours += 1;
        scene.limit(other) == json!(2)
    });
    assert!(ours > 0);
    assert_eq!(scene.limit(CUSTOMER), json!(1), "still waiting");
    scene.release(&lock);
    scene.wait_for_newer(CUSTOMER);
    scene.finish();
}
