//! With `REFRESH_AFTER_PURGE`, a customer who was cached and got purged is fetched again, so that no reader has to.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::fakes::proxy::{FaultProxy, Mode};
use crate::fakes::queue::QueueOptions;
use crate::support::child::Signal;
use crate::support::edge::{EdgeStub, RETRY_AFTER_SECS};
use crate::support::fake_stage::FakeStage;
use crate::support::messages::{
    Shape, entitlements_updated, package_published, purge, subscriptions_migrated,
};
use crate::support::sdk::{Owner, Sdk};
use crate::support::service::{SERVER_API_KEY, Service, Settings};
use crate::support::stage::PREFIX;
use crate::support::state::{State, hours_ago, metered, number};
use crate::support::wait::PATIENCE;

const QUEUED: &str = "persistent_cache_refreshes_queued";
const PROCESSED: &str = "persistent_cache_messages_processed_total";
const RATE_MAX: &str = "1000";

fn result(name: &str) -> String {
    format!("persistent_cache_refreshes_total{{result=\"{name}\"}}")
}

/// What Stigg answers: newer than anything that is cached.
fn newer(customer: &str) -> State {
    State::new(Owner::customer(customer), hours_ago(1), &[number("seats", 2), metered("calls", 100, 2)])
}

struct Scene {
    stage: FakeStage,
    edge: EdgeStub,
}

impl Scene {
    fn new() -> Self {
        Self { stage: FakeStage::new(QueueOptions::default()), edge: EdgeStub::start() }
    }

    fn settings(&self, rate: &str) -> Settings {
        self.stage
            .settings()
            .set("CACHE_UPDATE_POLICY", "UPDATE_IF_EXISTS")
            .set("EDGE_API_URL", &self.edge.url)
            .set("REFRESH_AFTER_PURGE", "1")
            .set("REFRESH_RATE", rate)
    }

    /// Caches an old list for each of these, and lets the Edge API answer with a newer one.
    fn fill(&self, owners: &[Owner]) {
        let mut pipe = redis::pipe();
        for owner in owners {
            let key = owner.key(PREFIX);
            for key in [key.clone(), format!("{key}:metadata")] {
                pipe.set(&key, "{}").ignore();
                pipe.set(format!("{key}#timestamp"), hours_ago(9)).ignore();
            }
            let newer = State { resource: owner.resource.map(str::to_owned), ..newer(owner.customer) };
            self.edge.give_entitlements(&newer, &[]);
        }
        pipe.exec(&mut self.stage.redis.connection()).expect("redis answers");
    }

    /// Each is cached with the newer list.
    fn are_refreshed<'a>(&self, owners: impl IntoIterator<Item = Owner<'a>>) -> bool {
        let keys: Vec<String> = owners.into_iter().map(|owner| owner.key(PREFIX)).collect();
        let mut connection = self.stage.redis.connection();
        let lists: Vec<Option<String>> =
            redis::cmd("MGET").arg(keys).query(&mut connection).expect("redis answers");
        lists.iter().all(|list| list.as_ref().is_some_and(|list| list.contains("\"usageLimit\":2,")))
    }

    fn is_refreshed(&self, customer: &str) -> bool {
        self.are_refreshed([Owner::customer(customer)])
    }

    fn limit(&self, customer: &str) -> Option<i64> {
        let list = self.stage.redis.json(&Owner::customer(customer).key(PREFIX))?;
        list["seats"]["calculatedEntitlement"]["usageLimit"].as_i64()
    }

    /// How often the Edge API was asked for each.
    fn asked(&self) -> HashMap<String, usize> {
        let mut asked = HashMap::new();
        for call in self.edge.calls() {
            *asked.entry(call.url).or_default() += 1;
        }
        asked
    }

    fn locks(&self) -> Vec<String> {
        self.stage.redis.keys().into_iter().filter(|key| key.contains("refetchEntity")).collect()
    }

    fn purge(&self, customer: &str) {
        self.stage.queue.send(purge(Owner::customer(customer), hours_ago(0)).raw());
    }
}

fn names(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| format!("customer-{number}")).collect()
}

fn owners(names: &[String]) -> Vec<Owner<'_>> {
    names.iter().map(|name| Owner::customer(name)).collect()
}

#[test]
fn after_an_invalidation_of_10_000_customers_all_are_cached_again_and_messages_are_applied_meanwhile() {
    let scene = Scene::new();
    let names = names(0..10_000);
    let mut owners = owners(&names);
    owners.push(Owner::resource("customer-7", "site-1"));
    scene.fill(&owners);
    // So that new customers are written.
    let service = Service::start(&scene.settings(RATE_MAX).set("CACHE_UPDATE_POLICY", "UPSERT"));
    scene.stage.queue.send(package_published("ALL_CUSTOMERS").raw());
    service.wait_for_metric(&result("refreshed"), 100.0);
    let mut applied_meanwhile = 0;
    while service.metrics().value(QUEUED) > 0.0 {
        let name = format!("other-{applied_meanwhile}");
        let state = State::new(Owner::customer(&name), hours_ago(0), &[number("seats", 2)]);
        scene.stage.queue.send(entitlements_updated(&state, Shape::GraphqlV2).raw());
        service.wait_until("a message to be applied", || scene.is_refreshed(&name));
        applied_meanwhile += 1;
    }
    assert!(applied_meanwhile > 10, "{applied_meanwhile}");
    let all = owners.len() as f64;
    service.wait_for_metric(&result("refreshed"), all);
    for owners in owners.chunks(1_000) {
        assert!(scene.are_refreshed(owners.iter().copied()));
    }
    assert_eq!(scene.asked().len(), owners.len());
    let calls = scene.edge.calls().len();
    assert!(calls <= owners.len() * 102 / 100, "{calls} calls");

    let sdk = Sdk::open(&scene.stage.redis, PREFIX);
    for owner in owners.iter().step_by(50).chain(owners.last()) {
        assert_eq!(sdk.entitlements(*owner).as_array().map(Vec::len), Some(2), "{owner:?}");
    }
    assert_eq!(sdk.calls(), Vec::<String>::new());
    let metrics = service.metrics();
    for other in ["skipped", "failed", "dropped"] {
        assert!(metrics.value(&result(other)) < 0.5, "{other}");
    }
    assert_eq!(scene.locks(), [""; 0]);
    service.stop();
}

#[test]
fn three_instances_fetch_each_customer_once() {
    let scene = Scene::new();
    let (purged, others) = (names(0..300), names(300..1_000));
    scene.fill(&owners(&purged));
    scene.fill(&owners(&others));
    let services = [(); 3].map(|()| Service::start(&scene.settings("500")));
    let refreshed =
        || services.iter().map(|service| service.metrics().value(&result("refreshed"))).sum::<f64>();
    for name in &purged {
        scene.purge(name);
    }
    services[0].wait_until("the purged", || refreshed() > 299.5);
    let of_each = services.each_ref().map(|service| service.metrics().value(&result("refreshed")));
    assert!(of_each.iter().filter(|refreshed| **refreshed > 0.5).count() > 1, "they share: {of_each:?}");
    scene.stage.queue.send(package_published("ALL_CUSTOMERS").raw());
    services[0].wait_until("all", || refreshed() > 1_299.5);
    let calls = scene.edge.calls().len();
    assert!(calls <= 1_300 * 102 / 100, "{calls} calls");
    assert!(scene.are_refreshed(owners(&purged)) && scene.are_refreshed(owners(&others)));
    for service in services {
        service.stop();
    }
}

#[test]
fn a_migration_refreshes_exactly_those_that_were_cached() {
    let scene = Scene::new();
    let (cached, absent) = (names(0..100), names(100..1_000));
    scene.fill(&owners(&cached));
    scene.fill(&[Owner::resource("customer-1", "site-1")]);
    let service = Service::start(&scene.settings(RATE_MAX));
    let migrated: Vec<&str> = cached.iter().chain(&absent).map(String::as_str).collect();
    scene.stage.deliver(&service, &[subscriptions_migrated(&migrated, hours_ago(0)).raw()]);
    service.wait_for_metric(&result("refreshed"), 100.0);
    assert!(scene.are_refreshed(owners(&cached)));
    let asked: HashSet<String> = scene.asked().into_keys().collect();
    let expected = cached.iter().map(|name| format!("/v1/c/{name}/entitlements-state.json")).collect();
    assert_eq!(asked, expected);
    service.stop();
}

#[test]
fn an_instance_that_is_killed_leaves_gaps_and_nothing_else() {
    let scene = Scene::new();
    let names = names(0..500);
    scene.fill(&owners(&names));
    let service = Service::start(&scene.settings("100"));
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    scene.stage.deliver(&service, &[subscriptions_migrated(&all, hours_ago(0)).raw()]);
    service.wait_for_metric(&result("refreshed"), 50.0);
    drop(service); // SIGKILL
    let (cached, gaps): (Vec<_>, Vec<_>) = all.iter().partition(|name| scene.limit(name).is_some());
    assert!(cached.len() >= 50 && gaps.len() > 100, "{} and {}", cached.len(), gaps.len());
    assert!(scene.are_refreshed(cached.into_iter().map(Owner::customer)));

    let service = Service::start(&scene.settings(RATE_MAX));
    service.wait_until("the locks to expire", || scene.locks().is_empty());
    // As without the setting: the next reader asks.
    let (sdk, gap) = (Sdk::open(&scene.stage.redis, PREFIX), newer(gaps[0]));
    sdk.serve(&gap);
    sdk.entitlements(gap.owner());
    assert_eq!((sdk.calls().len(), scene.limit(gaps[0])), (1, Some(2)));
    scene.stage.deliver(&service, &[subscriptions_migrated(&all, hours_ago(0)).raw()]);
    service.wait_until("those that were cached", || service.metrics().value(QUEUED) < 0.5);
    service.stop();
}

#[test]
fn while_the_edge_api_is_down_gaps_remain_and_they_are_filled_afterwards() {
    let scene = Scene::new();
    let names = names(0..200);
    scene.fill(&owners(&names));
    let address = scene.edge.url.strip_prefix("http://").expect("an http URL").parse().expect("an address");
    let proxy = FaultProxy::start(address);
    proxy.set(Mode::Refuse);
    let url = format!("http://127.0.0.1:{}", proxy.port());
    let service = Service::start(&scene.settings(RATE_MAX).set("EDGE_API_URL", url));
    scene.stage.queue.send(package_published("ALL_CUSTOMERS").raw());
    let line = service.wait_for_complaint(&["cannot refresh purged customers", "Edge API"]);
    assert!(!line.contains("customer-"), "{line}");
    // Messages are applied all the same.
    let (one, state) = (Owner::customer("customer-0"), newer("customer-0"));
    let lock = one.refetch_lock_key(PREFIX);
    service.wait_until("the lock to be free", || scene.stage.redis.get(&lock).is_none());
    scene.stage.deliver(&service, &[entitlements_updated(&state, Shape::GraphqlV2).raw()]);
    // It is asked seldom: not once for each customer.
    service.wait_until("a few tries", || proxy.accepted() > 3);
    assert!(proxy.accepted() < 190, "{}", proxy.accepted());
    assert!(service.metrics().value(QUEUED) > 100.0);

    // The fault of a key that is refused is everybody's, too.
    scene.edge.accept_key("another");
    proxy.set(Mode::Pass);
    service.wait_until("a refusal", || scene.edge.calls().iter().any(|call| call.status == 401));
    scene.edge.accept_key(SERVER_API_KEY);
    service.wait_until("all to be cached", || scene.are_refreshed(owners(&names)));
    assert!(service.metrics().value(&result("failed")) < 0.5);
    service.stop();
}

#[test]
fn while_redis_is_down_nothing_is_given_up() {
    let scene = Scene::new();
    let names = names(0..50);
    scene.fill(&owners(&names));
    let service = Service::start(&scene.settings("10"));
    scene.stage.queue.send(package_published("ALL_CUSTOMERS").raw());
    service.wait_for_metric(&result("refreshed"), 2.0);
    scene.stage.redis.pause();
    service.wait_for_complaint(&["cannot refresh purged customers", "Redis"]);
    scene.stage.redis.resume();
    service.wait_until("all to be cached", || scene.are_refreshed(owners(&names)));
    assert!(service.metrics().value(&result("failed")) < 0.5);
    service.stop();
}

#[test]
fn a_message_that_is_newer_than_the_answer_wins() {
    let scene = Arc::new(Scene::new());
    scene.fill(&[Owner::customer("one")]);
    let service = Arc::new(Service::start(&scene.settings(RATE_MAX)));
    let (sender, watched) = (Arc::clone(&scene), Arc::clone(&service));
    scene.edge.before_entitlements(move || {
        // If the refetch did not hold the lock, UPDATE_IF_EXISTS would skip this customer.
        let entitlements = [number("seats", 3), metered("calls", 100, 3)];
        let newest = State::new(Owner::customer("one"), hours_ago(0), &entitlements);
        sender.stage.queue.send(entitlements_updated(&newest, Shape::GraphqlV2).raw());
        watched.wait_until("the newest list", || sender.limit("one") == Some(3));
    });
    scene.purge("one");
    service.wait_for_metric(&result("skipped"), 1.0);
    service.wait_until("an empty queue", || scene.stage.queue.is_empty());
    assert_eq!(scene.limit("one"), Some(3));
}

#[test]
fn a_usage_that_is_newer_than_the_answer_keeps_no_other_from_being_written() {
    let scene = Scene::new();
    let one = Owner::customer("one");
    scene.fill(&[one]);
    // More than are written in one step with their list.
    let features: Vec<String> = (0..1_000).map(|number| format!("calls-{number}")).collect();
    let entitlements: Vec<_> = features.iter().map(|feature| metered(feature, 100, 2)).collect();
    scene.edge.give_entitlements(&State::new(one, hours_ago(1), &entitlements), &[]);
    let usage = |feature: &str| format!("{}:f_{feature}", one.key(PREFIX));
    let newer = usage("calls-950");
    scene.stage.redis.command::<()>(&[
        "MSET",
        &newer,
        "{}",
        &format!("{newer}#timestamp"),
        &hours_ago(0).to_string(),
    ]);
    let service = Service::start(&scene.settings(RATE_MAX));
    scene.purge("one");
    service.wait_for_metric(&result("refreshed"), 1.0);
    for feature in ["calls-0", "calls-949", "calls-951", "calls-999"] {
        assert!(scene.stage.redis.get(&usage(feature)).is_some(), "{feature}");
    }
    assert_eq!(scene.stage.redis.get(&newer).as_deref(), Some("{}"));
    service.stop();
}

#[test]
fn the_edge_api_is_left_alone_for_as_long_as_it_asks() {
    let scene = Scene::new();
    let names = names(0..5);
    scene.fill(&owners(&names));
    for name in &names {
        scene.edge.give_entitlements(&newer(name), &[429]);
    }
    let service = Service::start(&scene.settings("5")); // one thread
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    scene.stage.deliver(&service, &[subscriptions_migrated(&all, hours_ago(0)).raw()]);
    service.wait_until("all to be cached", || scene.are_refreshed(owners(&names)));
    let calls = scene.edge.calls();
    for pair in calls.windows(2).filter(|pair| pair[0].status == 429) {
        let left_alone = pair[1].at - pair[0].at;
        // The answer arrives a moment after it was noted.
        assert!(left_alone >= Duration::from_secs(RETRY_AFTER_SECS), "called again after {left_alone:?}");
    }
    assert_eq!(calls.iter().filter(|call| call.status == 429).count(), 5);
    service.stop();
}

#[test]
fn the_rate_is_kept() {
    let scene = Scene::new();
    let names = names(0..40);
    scene.fill(&owners(&names));
    let service = Service::start(&scene.settings("20"));
    scene.stage.queue.send(package_published("ALL_CUSTOMERS").raw());
    service.wait_for_metric(&result("refreshed"), 40.0);
    let calls = scene.edge.calls();
    let took = calls[39].at - calls[0].at;
    assert!(took > Duration::from_millis(1_800), "{took:?}");
    service.stop();
}

#[test]
fn a_customer_whom_a_reader_refetches_is_left_to_it() {
    let scene = Scene::new();
    let (one, two) = (Owner::customer("one"), Owner::customer("two"));
    scene.fill(&[one, two]);
    let service = Service::start(&scene.settings(RATE_MAX));
    scene.stage.deliver(&service, &[purge(two, hours_ago(0)).raw()]);
    service.wait_for_metric(&result("refreshed"), 1.0);
    // An invalidation minds no lock; the refresh does.
    let lock = one.refetch_lock_key(PREFIX);
    scene.stage.redis.command::<()>(&["SET", &lock, "a-reader", "PX", "60000"]);
    scene.stage.deliver(&service, &[package_published("ALL_CUSTOMERS").raw()]);
    service.wait_for_metric(&result("refreshed"), 2.0);
    service.wait_until("the one to wait", || service.metrics().value(QUEUED) > 0.5);
    let key = one.key(PREFIX);
    let stamp = format!("{key}#timestamp");
    scene.stage.redis.command::<()>(&["MSET", &key, "{}", &stamp, "1"]);
    scene.stage.redis.command::<()>(&["DEL", &lock]);
    service.wait_for_metric(&result("skipped"), 1.0);
    assert_eq!(scene.asked().get("/v1/c/one/entitlements-state.json"), None);
    service.stop();
}

#[test]
fn a_customer_whom_stigg_does_not_know_costs_one_call_and_no_name_in_the_log() {
    let scene = Scene::new();
    let gone = Owner::customer("alice@example.com");
    scene.fill(&[gone]);
    scene.edge.give_entitlements(&newer(gone.customer), &[404, 404]);
    let service = Service::start(&scene.settings(RATE_MAX));
    scene.stage.deliver(&service, &[purge(gone, hours_ago(0)).raw()]);
    service.wait_for_metric(&result("failed"), 1.0);
    service.wait_for_complaint(&["a purged customer is not refreshed", "404"]);
    assert_eq!(scene.edge.calls().len(), 1);
    assert!(!service.log_lines().join("\n").contains("alice"));
    service.stop();
}

#[test]
fn a_stop_keeps_to_its_budget_and_releases_the_lock() {
    let scene = Scene::new();
    let names = names(0..100);
    scene.fill(&owners(&names));
    let service = Service::start(&scene.settings("10"));
    let (asked, is_asked) = channel();
    let (answer, is_to_answer) = channel::<()>();
    scene.edge.before_entitlements(move || {
        asked.send(()).expect("the test waits");
        let _ = is_to_answer.recv_timeout(Duration::from_millis(500));
    });
    scene.stage.queue.send(package_published("ALL_CUSTOMERS").raw());
    is_asked.recv_timeout(PATIENCE).expect("the Edge API is asked");
    assert_ne!(scene.locks(), [""; 0]);
    let began = Instant::now();
    service.signal(Signal::Terminate);
    let status = service.wait_for_exit(PATIENCE);
    assert!(status.success() && began.elapsed() < Duration::from_secs(10), "{status} {:?}", began.elapsed());
    assert_eq!(scene.locks(), [""; 0]);
    let log = service.log_lines().join("\n");
    assert!(log.contains("purged customers are not refreshed"), "{log}");
    drop(answer);
}

#[test]
fn without_the_setting_nobody_is_asked() {
    let scene = Scene::new();
    scene.fill(&[Owner::customer("one")]);
    let service = Service::start(&scene.settings(RATE_MAX).unset("REFRESH_AFTER_PURGE"));
    let processed = service.metrics().value(PROCESSED);
    scene.purge("one");
    service.wait_for_metric(PROCESSED, processed + 1.0);
    service.wait_until("an empty queue", || scene.stage.queue.is_empty());
    assert_eq!((scene.limit("one"), scene.edge.calls().len()), (None, 0));
    service.stop();
}
