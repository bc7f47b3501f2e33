//! The published SDK 3.95.0 refetches a customer after a cache miss, and Stigg takes its time to answer. The SDK holds
//! and extends its refetch lock meanwhile. What the queue delivers in that time must not be lost, though nothing is stored
//! yet and though the SDK then writes an older answer.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fakes::queue::QueueOptions;
use crate::support::child::thread;
use crate::support::fake_stage::FakeStage;
use crate::support::messages::{CreditBalance, Shape, entitlements_updated, purge, usage_updated};
use crate::support::sdk::{CUSTOMER, Kind, Owner, Sdk};
use crate::support::service::Service;
use crate::support::stage::PREFIX;
use crate::support::state::{State, hours_ago, metered, number, with};
use crate::support::wait::wait_until;

const CALLS: &str = "feature-calls";
const CURRENCY: &str = "cred-type-ai";
/// Longer than a write lock is waited for. (With a few retries, the SDK takes as long.)
const REFETCH: Duration = Duration::from_millis(8_500);
/// A write lock is waited for for 5 seconds: what is there sooner did not wait.
const AT_ONCE: Duration = Duration::from_secs(4);

fn state(hours: i64, limit: i64) -> State {
    let rate = json!({"creditRate": {"amount": 2, "currencyId": CURRENCY}});
    State::new(
        CUSTOMER,
        hours_ago(hours),
        &[number("feature-seats", limit), metered(CALLS, 100, limit), with(number("feature-ai", 10), &rate)],
    )
}

/// An SDK that has missed and asked Stigg, and a service with UPDATE_IF_EXISTS.
struct Scene {
    stage: FakeStage,
    service: Service,
    sdk: Arc<Sdk>,
    refetch: JoinHandle<Value>,
    began: Instant,
}

impl Scene {
    /// Stigg will answer with this state.
    fn new(answer: &State) -> Self {
        let stage = FakeStage::new(QueueOptions {
            visibility_timeout: Duration::from_secs(10),
            max_receive_count: Some(3),
            ..QueueOptions::default()
        });
        let settings = stage.settings().set("CACHE_UPDATE_POLICY", "UPDATE_IF_EXISTS");
        let service = Service::start(&settings);
        let sdk = Arc::new(Sdk::open_with(&stage.redis, PREFIX, Duration::from_secs(50)));
        sdk.serve(answer);
        sdk.hold();
        let asking = Arc::clone(&sdk);
        let refetch = thread("sdk-refetch", move || asking.entitlements(CUSTOMER));
        let began = Instant::now();
        service.wait_until("the SDK to ask Stigg", || !sdk.calls().is_empty());
        let scene = Self { stage, service, sdk, refetch, began };
        assert!(scene.lock_lives_ms() > 0, "the SDK holds its refetch lock");
        scene
    }

    fn lock_lives_ms(&self) -> i64 {
        let lock = CUSTOMER.refetch_lock_key(PREFIX);
        self.stage.redis.command(&["PTTL", &lock])
    }

    fn send(&self, body: &str) {
        self.stage.queue.send(body);
    }

    /// Lets the refetch take its time.
    fn take_time(&self) {
        let what = "the refetch to have taken 8.5 s";
        self.service.wait_until(what, || self.began.elapsed() > REFETCH);
        assert!(self.lock_lives_ms() > 0, "the SDK has extended its lock");
    }

    /// Answers, and waits until the SDK has written and the queue is empty.
    fn answer(self) -> (FakeStage, Service, Arc<Sdk>) {
        self.sdk.release();
        self.refetch.join().expect("the SDK answers");
        let counts = || self.stage.queue.counts();
        self.service.wait_until("an empty queue", || self.stage.queue.is_empty());
        assert_eq!(
            (counts().dead, counts().redelivered),
            (0, 0),
            "each message was received once: {:?}",
            counts()
        );
        self.sdk.refuse();
        (self.stage, self.service, self.sdk)
    }
}

fn limit(stage: &FakeStage) -> Option<i64> {
    let list = stage.redis.json(&CUSTOMER.key(PREFIX))?;
    list["feature-seats"]["calculatedEntitlement"]["usageLimit"].as_i64()
}

#[test]
fn a_newer_list_that_comes_while_the_sdk_refetches_is_written_at_once_and_remains() {
    let scene = Scene::new(&state(9, 1));
    let newer = state(1, 2);
    scene.send(&entitlements_updated(&newer, Shape::GraphqlV2).raw());
    let sent = Instant::now();
    scene.service.wait_until("the newer list", || limit(&scene.stage) == Some(2));
    assert!(sent.elapsed() < AT_ONCE, "it waited for {:?}", sent.elapsed());
    scene.take_time();
    let (stage, service, sdk) = scene.answer();
    let stamp = format!("{}#timestamp", CUSTOMER.key(PREFIX));
    assert_eq!((limit(&stage), stage.redis.json(&stamp)), (Some(2), Some(json!(newer.updated_at_ms))));
    let answer = sdk.entitlement(Kind::Numeric, CUSTOMER, "feature-seats");
    assert_eq!(answer["value"], json!(2), "{answer}");
    let answer = sdk.entitlement(Kind::Metered, CUSTOMER, CALLS);
    assert_eq!(answer["currentUsage"], json!(2), "{answer}");
    assert_eq!(sdk.calls(), Vec::<String>::new());
    service.stop();
}

#[test]
fn a_list_that_had_to_wait_for_a_write_lock_does_not_wait_for_the_refetch_as_well() {
    let scene = Scene::new(&state(9, 1));
    let write_lock = format!("{PREFIX}-{}", CUSTOMER.customer);
    let of_another_sdk = ["SET", &write_lock, "another", "PX", "500"];
    scene.stage.redis.command::<()>(&of_another_sdk);
    scene.send(&entitlements_updated(&state(1, 2), Shape::GraphqlV2).raw());
    let sent = Instant::now();
    scene.service.wait_until("the newer list", || limit(&scene.stage) == Some(2));
    assert!(sent.elapsed() < AT_ONCE, "it waited for {:?}", sent.elapsed());
    let (stage, service, _sdk) = scene.answer();
    assert_eq!(limit(&stage), Some(2));
    service.stop();
}

#[test]
fn a_list_that_is_older_than_the_answer_to_the_sdk_gives_way_to_it() {
    let scene = Scene::new(&state(1, 2));
    scene.send(&entitlements_updated(&state(9, 1), Shape::GraphqlV2).raw());
    scene.service.wait_until("the older list", || limit(&scene.stage) == Some(1));
    let (stage, service, sdk) = scene.answer();
    assert_eq!(limit(&stage), Some(2));
    let answer = sdk.entitlement(Kind::Metered, CUSTOMER, CALLS);
    assert_eq!(answer["currentUsage"], json!(2), "{answer}");
    service.stop();
}

#[test]
fn a_newer_usage_that_comes_while_the_sdk_refetches_is_written_at_once_and_remains() {
    let answered = state(9, 1);
    let scene = Scene::new(&answered);
    scene.send(&usage_updated(&answered, CALLS, 77, hours_ago(1), Shape::GraphqlV2).raw());
    let sent = Instant::now();
    let key = format!("{}:f_{CALLS}", CUSTOMER.key(PREFIX));
    let usage = |stage: &FakeStage| stage.redis.json(&key).map(|usage| usage["currentUsage"].clone());
    scene.service.wait_until("the newer usage", || usage(&scene.stage) == Some(json!(77)));
    assert!(sent.elapsed() < AT_ONCE, "it waited for {:?}", sent.elapsed());
    scene.take_time();
    let (stage, service, sdk) = scene.answer();
    assert_eq!(usage(&stage), Some(json!(77)));
    let answer = sdk.entitlement(Kind::Metered, CUSTOMER, CALLS);
    assert_eq!(answer["currentUsage"], json!(77), "{answer}");
    assert_eq!(sdk.calls(), Vec::<String>::new());
    service.stop();
}

#[test]
fn a_list_that_comes_while_the_answer_to_the_sdk_is_empty_remains() {
    // The SDK writes an empty list with the far-past marker, whatever is stored.
    let nothing = State::new(CUSTOMER, hours_ago(9), &[]);
    let scene = Scene::new(&nothing);
    scene.send(&entitlements_updated(&state(1, 2), Shape::GraphqlV2).raw());
    scene.service.wait_until("the list", || limit(&scene.stage) == Some(2));
    let (stage, service, sdk) = scene.answer();
    assert_eq!(limit(&stage), Some(2), "a customer who has just subscribed has access");
    let answer = sdk.entitlement(Kind::Numeric, CUSTOMER, "feature-seats");
    assert_eq!(answer["value"], json!(2), "{answer}");
    service.stop();
}

#[test]
fn a_balance_that_comes_while_the_sdk_refetches_takes_effect() {
    let scene = Scene::new(&state(9, 1));
    let gone = CreditBalance { currency: CURRENCY, left: 0, consumed: 1000, valid_until: None, period: None };
    scene.send(&gone.event_log(CUSTOMER, hours_ago(1)).raw());
    let key = format!("{}:credit_{CURRENCY}", CUSTOMER.key(PREFIX));
    scene.service.wait_until("the balance", || scene.stage.redis.get(&key).is_some());
    let (stage, service, sdk) = scene.answer();
    let answer = sdk.entitlement(Kind::Numeric, CUSTOMER, "feature-ai");
    assert_eq!(
        (&answer["hasAccess"], &answer["accessDeniedReason"]),
        (&json!(false), &json!("InsufficientCredits")),
        "{answer}"
    );
    assert_eq!(sdk.calls(), Vec::<String>::new());
    assert_eq!(limit(&stage), Some(1));
    service.stop();
}

#[test]
fn a_purge_that_comes_while_the_sdk_refetches_waits_and_then_purges() {
    let scene = Scene::new(&state(9, 1));
    scene.send(&purge(CUSTOMER, hours_ago(0)).raw());
    // Another customer's message is not held up.
    let other = Owner::customer("customer-2");
    let key = other.key(PREFIX);
    let stamp = format!("{key}#timestamp");
    scene.stage.redis.command::<()>(&["MSET", &key, "{}", &stamp, "1"]);
    scene.send(&purge(other, hours_ago(0)).raw());
    let sent = Instant::now();
    scene.service.wait_until("the other purge", || scene.stage.redis.get(&key).is_none());
    assert!(sent.elapsed() < AT_ONCE, "it waited for {:?}", sent.elapsed());
    let what = "longer than a write lock is waited for";
    scene.service.wait_until(what, || sent.elapsed() > Duration::from_secs(6));
    assert_eq!(scene.stage.queue.counts().deleted, 1, "the purge waits");

    scene.take_time();
    let (stage, service, sdk) = scene.answer();
    assert_eq!(stage.redis.get(&CUSTOMER.key(PREFIX)), None, "the answer was older");
    sdk.serve(&state(0, 3));
    sdk.entitlements(CUSTOMER);
    assert_eq!(limit(&stage), Some(3), "the next reader asks");
    service.stop();
}

#[test]
fn a_refetch_lock_that_is_never_released_delays_a_purge_for_a_minute_and_no_longer() {
    let stage = FakeStage::new(QueueOptions {
        visibility_timeout: Duration::from_secs(10),
        max_receive_count: Some(3),
        ..QueueOptions::default()
    });
    let service = Service::start(&stage.settings());
    stage.deliver(&service, &[entitlements_updated(&state(2, 1), Shape::GraphqlV2).raw()]);
    let lock = CUSTOMER.refetch_lock_key(PREFIX);
    stage.redis.command::<()>(&["SET", &lock, "a-reader"]);
    let sent = Instant::now();
    stage.queue.send(purge(CUSTOMER, hours_ago(1)).raw());
    wait_until(Duration::from_secs(75), "the purge", || {
        assert!(service.exit_status().is_none(), "{:?}", service.log_lines());
        limit(&stage).is_none()
    });
    let waited = sent.elapsed();
    assert!((Duration::from_secs(50)..Duration::from_secs(70)).contains(&waited), "it waited for {waited:?}");
    service.wait_until("an empty queue", || stage.queue.is_empty());
    let counts = stage.queue.counts();
    assert_eq!((counts.dead, counts.redelivered), (0, 0), "it was received once: {counts:?}");
    service.stop();
}

#[test]
fn a_resources_refetch_lock_stands_for_the_resource() {
    let resource = Owner::resource("customer-1", "site-1");
    let stage = FakeStage::new(QueueOptions::default());
    let settings = stage.settings().set("CACHE_UPDATE_POLICY", "UPDATE_IF_EXISTS");
    let service = Service::start(&settings);
    let lock = resource.refetch_lock_key(PREFIX);
    let of_a_reader = ["SET", &lock, "a-reader", "PX", "5000"];
    stage.redis.command::<()>(&of_a_reader);
    let entitlements = [number("feature-seats", 2), metered(CALLS, 100, 1)];
    let list = |owner| {
        let state = State::new(owner, hours_ago(2), &entitlements);
        entitlements_updated(&state, Shape::GraphqlV2).raw()
    };
    stage.queue.send(list(CUSTOMER));
    stage.queue.send(list(resource));
    service.wait_until("the resource's list", || stage.redis.get(&resource.key(PREFIX)).is_some());
    stage.redis.command::<()>(&["DEL", &lock]);
    service.wait_until("an empty queue", || stage.queue.is_empty());
    assert_eq!(stage.redis.get(&CUSTOMER.key(PREFIX)), None, "nobody refetches the customer");
    service.stop();
}
