//! Moving over from another service and back: both work on one queue and one Redis for a while.
//!
//! Stigg's own service is not published, so a stand-in takes its part, by the rules that are known: it takes the
//! SDKs' lock of the customer, compares timestamps, writes what is not older in the form of SDK 3.x, releases
//! the lock and deletes the message. It knows nothing of this service's tombstones and script. The published SDK reads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use persistent_cache_service::cache::keyspace::{Keyspace, timestamp_key};
use persistent_cache_service::cache::{CacheChange, EntitlementsWrite, KeyWrite, Layout, changes};
use persistent_cache_service::clock;
use persistent_cache_service::entitlement::stored::CacheFormat;
use persistent_cache_service::message;

use crate::fake_queue::caller::{Caller, text};
use crate::fakes::queue::QueueOptions;
use crate::support::child::thread;
use crate::support::fake_stage::FakeStage;
use crate::support::messages::{Shape, entitlements_updated};
use crate::support::sdk::{Kind, Owner, Sdk};
use crate::support::service::Service;
use crate::support::stage::PREFIX;
use crate::support::state::{State, hours_ago, metered};
use crate::support::wait::{PATIENCE, wait_until};

const FEATURE: &str = "feature-api-calls";

/// Stigg's service, as far as it is known.
struct StandIn {
    stopped: Arc<AtomicBool>,
    handled: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl StandIn {
    fn start(stage: &FakeStage) -> Self {
        let caller = Caller::new(&stage.queue, &QueueOptions::default());
        let mut redis = stage.redis.connection();
        let (stopped, handled) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let thread = {
            let (stopped, handled) = (Arc::clone(&stopped), Arc::clone(&handled));
            thread("stand-in", move || {
                while !stopped.load(Ordering::SeqCst) {
                    for message in caller.receive(1) {
                        handle(&mut redis, &text(&message, "Body"));
                        assert_eq!(
                            caller.delete(std::slice::from_ref(&message)),
                            Vec::<serde_json::Value>::new()
                        );
                        handled.fetch_add(1, Ordering::SeqCst);
                    }
                }
            })
        };
        Self { stopped, handled, thread: Some(thread) }
    }

    fn handled(&self) -> usize {
        self.handled.load(Ordering::SeqCst)
    }

    /// Waits until it has handled so many: it counts after the delete that empties the queue.
    fn wait_for(&self, count: usize) {
        wait_until(PATIENCE, format!("{count} messages of the stand-in"), || self.handled() == count);
    }

    /// Lets it finish what is in flight, and end.
    fn stop(mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let thread = self.thread.take().expect("it runs");
        thread.join().expect("the stand-in did its work");
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
    }
}

/// One message: lock, compare, write, unlock.
fn handle(redis: &mut redis::Connection, body: &str) {
    let layout = Layout { keyspace: Keyspace::new(PREFIX), format: CacheFormat::V3 };
    let message = message::decode(body, clock::now()).expect("a message");
    for change in changes(message, &layout) {
        let CacheChange::WriteEntitlements(write) = change else {
            panic!("only lists are sent here");
        };
        let EntitlementsWrite { locks, list, usages, .. } = *write;
        let lock = &locks.write[0];
        wait_until(PATIENCE, "the lock of the customer", || {
            let taken: Option<String> = redis::cmd("SET")
                .arg(&[lock, "stand-in", "NX", "PX", "5000"])
                .query(redis)
                .expect("redis answers");
            taken.is_some()
        });
        for KeyWrite { key, value, timestamp } in std::iter::once(list).chain(usages) {
            let stored: Option<i64> =
                redis::cmd("GET").arg(timestamp_key(&key)).query(redis).expect("redis answers");
            if stored.is_none_or(|stored| stored <= timestamp.0) {
                redis::pipe()
                    .atomic()
                    .cmd("SET")
                    .arg(&[&key, &value, "EX", "604800"])
                    .cmd("SET")
                    .arg(&[&timestamp_key(&key), &timestamp.0.to_string(), "EX", "604800"])
                    .exec(redis)
                    .expect("redis takes it");
            }
        }
        redis::cmd("DEL").arg(lock).exec(redis).expect("redis answers");
    }
}

/// Customers whose state changes from version to version: the usage shows which one is seen.
struct Customers {
    names: Vec<String>,
    begin_ms: i64,
    version: i64,
    /// The newest timestamp that was seen of each.
    seen: BTreeMap<String, i64>,
}

impl Customers {
    fn new() -> Self {
        Self {
            names: (0..8).map(|number| format!("customer-{number}")).collect(),
            begin_ms: hours_ago(5),
            version: 0,
            seen: BTreeMap::new(),
        }
    }

    fn state(&self, name: &str, version: i64) -> State {
        State::new(Owner::customer(name), self.begin_ms + version, &[metered(FEATURE, 1_000_000, version)])
    }

    /// Sends the next versions of all customers, in disorder.
    fn send(&mut self, stage: &FakeStage, versions: i64) {
        let mut bodies: Vec<String> = Vec::new();
        for version in self.version + 1..=self.version + versions {
            for name in &self.names {
                bodies.push(entitlements_updated(&self.state(name, version), Shape::GraphqlV1).raw());
            }
        }
        fastrand::Rng::with_seed(self.version.unsigned_abs()).shuffle(&mut bodies);
        for body in bodies {
            stage.queue.send(body);
        }
        self.version += versions;
    }

    /// No customer's state goes back.
    fn watch(&mut self, stage: &FakeStage) {
        for name in &self.names {
            let key = timestamp_key(&Owner::customer(name).key(PREFIX));
            let stored = stage.redis.get(&key).expect("it is cached all the time");
            let stored: i64 = stored.parse().expect("a timestamp");
            let before = self.seen.insert(name.clone(), stored);
            assert!(before.is_none_or(|before| before <= stored), "{name} went back");
        }
    }

    /// Waits for the end of the queue, watching; then the SDK answers with the newest, from the cache alone.
    fn assert_newest(&mut self, stage: &FakeStage, sdk: &Sdk) {
        wait_until(PATIENCE, "an empty queue", || {
            self.watch(stage);
            stage.queue.is_empty()
        });
        for name in &self.names {
            let answer = sdk.entitlement(Kind::Metered, Owner::customer(name), FEATURE);
            assert_eq!(answer["currentUsage"], self.version, "{name}: {answer}");
            assert_eq!(answer["isFallback"], false, "{name}: {answer}");
        }
        assert_eq!(sdk.calls(), Vec::<String>::new());
    }
}

#[test]
fn another_service_and_this_one_side_by_side_then_this_one_alone_then_back() {
    let stage = FakeStage::new(QueueOptions::default());
    let mut customers = Customers::new();
    let sdk = Sdk::open(&stage.redis, PREFIX);
    let states: Vec<State> = customers.names.iter().map(|name| customers.state(name, 0)).collect();
    sdk.cache(&states.iter().collect::<Vec<_>>());

    // The other alone, as it was before.
    let other = StandIn::start(&stage);
    customers.send(&stage, 3);
    customers.assert_newest(&stage, &sdk);
    other.wait_for(24);

    // Both at once: as long as it takes until each has done a good share.
    let settings = stage.settings().set("CACHE_UPDATE_POLICY", "UPDATE_IF_EXISTS");
    let service = Service::start(&settings);
    let processed = "persistent_cache_messages_processed_total";
    service.wait_until("both to have done 100 messages", || {
        customers.send(&stage, 5);
        customers.watch(&stage);
        other.handled() >= 124 && service.metrics().value(processed) >= 100.0
    });
    customers.assert_newest(&stage, &sdk);

    // This one alone.
    other.stop();
    let before = service.metrics().value(processed);
    customers.send(&stage, 10);
    customers.assert_newest(&stage, &sdk);
    service.wait_for_metric(processed, before + 80.0);
    service.stop();

    // And back: what this one wrote is nothing that the other one minds.
    let other = StandIn::start(&stage);
    customers.send(&stage, 3);
    customers.assert_newest(&stage, &sdk);
    other.wait_for(24);
    other.stop();
}
