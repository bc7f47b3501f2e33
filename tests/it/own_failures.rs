//! What is wrong with one message or at one key is that message's own affair: others are written, the service is ready,
//! and the log stays short.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::fakes::queue::QueueOptions;
use crate::fakes::refusing_redis::{How, Refusal, RefusingRedis};
use crate::support::at_once::run_at_once;
use crate::support::fake_stage::FakeStage;
use crate::support::messages::{
    Shape, credit_balance, entitlements_updated, package_published, purge, subscriptions_migrated,
    usage_updated,
};
use crate::support::sdk::Owner;
use crate::support::service::Service;
use crate::support::stage::PREFIX;
use crate::support::state::{State, hours_ago, metered, with};
use crate::support::wait::wait_for_every;

/// Others are written within this, on a busy machine too.
const SECONDS: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Warnings and errors about the foreign key and the messages that meet it.
const COMPLAINTS_MAX: usize = 5;

fn state(customer: &str) -> State {
    let feature = metered("feature-calls", 1_000, 1);
    State::new(Owner::customer(customer), hours_ago(0), &[feature])
}

fn list(customer: &str) -> String {
    entitlements_updated(&state(customer), Shape::GraphqlV2).raw()
}

fn usage(customer: &str, usage: i64) -> String {
    usage_updated(&state(customer), "feature-calls", usage, hours_ago(0), Shape::GraphqlV2).raw()
}

fn key_of(customer: &str) -> String {
    Owner::customer(customer).key(PREFIX)
}

fn has_all(stage: &FakeStage, customers: &[String]) -> bool {
    customers.iter().all(|customer| stage.redis.get(&key_of(customer)).is_some())
}

fn customers(name: &str) -> Vec<String> {
    (0..5).map(|number| format!("customer-{name}-{number}")).collect()
}

/// Sends lists of these customers; they are soon in Redis, and the service is ready.
fn are_written(stage: &FakeStage, service: &Service, customers: &[String]) {
    for customer in customers {
        stage.queue.send(list(customer));
    }
    happens(service, "other customers are written, and /readyz is 200", || {
        has_all(stage, customers) && service.get("/readyz").status == 200
    });
}

fn happens(service: &Service, what: &str, mut condition: impl FnMut() -> bool) {
    let look = || {
        assert!(service.exit_status().is_none(), "the service ended");
        condition().then_some(())
    };
    let otherwise = || format!("{:#?}", service.log_lines());
    wait_for_every(LOOK_EVERY, SECONDS, what, look, otherwise);
}

/// Messages that are not deleted.
fn unsettled(stage: &FakeStage) -> u64 {
    let counts = stage.queue.counts();
    counts.visible + counts.in_flight + counts.dead
}

fn complaints(service: &Service) -> Vec<String> {
    let log = service.log();
    let complaints = log.iter().filter(|line| line["level"] != "info");
    complaints.map(ToString::to_string).collect()
}

/// The command that puts something foreign at a key of customer-bad.
const FOREIGN: [&[&str]; 10] = [
    &["HSET", "production:c_bad#timestamp", "a", "b"],
    &["RPUSH", "production:c_bad", "a"],
    &["XADD", "production:c_bad", "*", "a", "b"],
    &["SADD", "production:c_bad:metadata", "a"],
    &["HSET", "production:c_bad:metadata#timestamp", "a", "b"],
    &["ZADD", "production:c_bad:f_feature-calls", "1", "a"],
    &["RPUSH", "production:c_bad:f_feature-calls#timestamp", "a"],
    &["HSET", "production:c_bad:credit_credit-ai", "a", "b"],
    &["SADD", "production:c_bad:r_site-1#timestamp", "a"],
    &["SET", "production:c_bad#timestamp", "yesterday"],
];

fn a_foreign_key_blocks_nothing(foreign: &[&str]) {
    let stage = FakeStage::new(QueueOptions {
        visibility_timeout: Duration::from_secs(2),
        max_receive_count: Some(3),
        ..QueueOptions::default()
    });
    let service = Service::start(&stage.settings());
    are_written(&stage, &service, &customers("before"));
    let put_foreign =
        || redis::cmd(foreign[0]).arg(&foreign[1..]).query::<redis::Value>(&mut stage.redis.connection());
    let are_forgotten = |customers: &[String]| {
        let is_there = |customer: &String| stage.redis.get(&key_of(customer)).is_some();
        !customers.iter().any(is_there)
    };
    put_foreign().expect("it is put there");
    are_written(&stage, &service, &customers("beside"));
    stage.queue.send(package_published("ALL_CUSTOMERS").raw());
    happens(&service, "the environment is forgotten, and that is all", || {
        are_forgotten(&customers("before")) && are_forgotten(&customers("beside")) && unsettled(&stage) == 0
    });

    // The customer's own messages may fail, those in the same batch must not. It may be there still.
    let _ = put_foreign();
    stage.queue.send(list("bad"));
    stage.queue.send(usage("bad", 7));
    are_written(&stage, &service, &customers("after"));

    // What a message has written may be there by now.
    let _ = put_foreign();
    let migrated = ["bad".to_owned()].into_iter().chain(customers("after"));
    let migrated: Vec<String> = migrated.collect();
    let migrated: Vec<&str> = migrated.iter().map(String::as_str).collect();
    stage.queue.send(subscriptions_migrated(&migrated, hours_ago(0)).raw());
    stage.queue.send(purge(Owner::customer("bad"), hours_ago(0)).raw());
    happens(&service, "the migration forgets the other customers", || are_forgotten(&customers("after")));
    are_written(&stage, &service, &customers("later"));
    happens(&service, "only messages about this customer are left", || unsettled(&stage) <= 4);

    let dead = stage.queue.dead_letters();
    let of_others: Vec<&String> = dead.iter().filter(|body| !body.contains("\"bad\"")).collect();
    assert!(of_others.is_empty(), "{of_others:#?}");
    let complaints = complaints(&service);
    assert!(complaints.len() <= COMPLAINTS_MAX, "{}: {complaints:#?}", complaints.len());
    service.stop();
}

#[test]
fn a_foreign_key_of_a_customer_blocks_neither_others_nor_an_invalidation() {
    run_at_once(&FOREIGN, |words| words.join(" "), |words| a_foreign_key_blocks_nothing(words));
}

/// Whether the unlucky message comes together with others, and what the server says to it.
const UNLUCKY: [(bool, &str); 4] = [
    (true, "ERR value is not an integer or out of range"),
    (true, "QUOTA of this key exceeded: an invented text"),
    (false, "ERR value is not an integer or out of range"),
    (false, "QUOTA of this key exceeded: an invented text"),
];

/// A text that is not known, but only for one message: others show that it is not the server's.
fn a_refusal_of_one_message_is_its_own(beside_others: bool, text: &'static str) {
    let stage = FakeStage::new(QueueOptions {
        visibility_timeout: Duration::from_secs(2),
        ..QueueOptions::default()
    });
    let proxy = RefusingRedis::start(stage.redis_address());
    let settings = stage
        .settings()
        .set("REDIS_PORT", proxy.port().to_string())
        // An error that is not known to be this message's own for ever is no reason to delete it.
        .set("POISON_POLICY", "delete");
    let service = Service::start(&settings);
    are_written(&stage, &service, &customers("before"));
    let lines_before = service.log_lines().len();
    proxy.refuse(&[Refusal {
        only_with: Some("c_unlucky"),
        ..Refusal::of(&["EVALSHA", "EVAL", "FCALL", "SET"], How::Error(text))
    }]);

    stage.queue.send(list("unlucky"));
    if beside_others {
        are_written(&stage, &service, &customers("beside"));
    } else {
        happens(&service, "the message is refused", || proxy.refused() > 0);
    }
    let began = Instant::now();
    let mut round = 0;
    while began.elapsed() < Duration::from_secs(6) {
        are_written(&stage, &service, &customers(&format!("round-{round}")));
        round += 1;
    }
    assert_eq!(stage.redis.get(&key_of("unlucky")), None);
    let lines = service.log_lines().split_off(lines_before);
    assert!(lines.len() <= COMPLAINTS_MAX, "{}: {lines:#?}", lines.len());

    proxy.pass();
    service.wait_until("the message is applied after all", || {
        stage.redis.get(&key_of("unlucky")).is_some() && stage.queue.is_empty()
    });
    service.stop();
}

#[test]
fn an_unknown_refusal_of_one_message_is_its_own() {
    let name = |(beside_others, text): &(bool, &str)| {
        let with = if *beside_others { "beside others" } else { "alone" };
        format!("{text}, {with}")
    };
    run_at_once(&UNLUCKY, name, |(beside_others, text)| {
        a_refusal_of_one_message_is_its_own(*beside_others, text);
    });
}

/// Short ids, so that 90,000 of them fit into one message.
fn ids(message: usize) -> Vec<String> {
    (0..90_000).map(|number| format!("{message:x}{number:x}")).collect()
}

#[test]
fn migrations_of_90_000_customers_take_little_memory_and_all_finish() {
    const MIGRATIONS: usize = 20;
    const PEAK_KIB_MAX: u64 = 150 * 1024;
    let stage = FakeStage::new(QueueOptions {
        visibility_timeout: Duration::from_secs(10),
        ..QueueOptions::default()
    });
    let settings = stage.settings().set("CONSUMERS", "10").set("CACHE_UPDATE_POLICY", "UPDATE_IF_EXISTS");
    let service = Service::start(&settings);
    let cached = (0..MIGRATIONS).map(|message| key_of(&format!("{message:x}{:x}", 45_000)));
    let cached: Vec<String> = cached.collect();
    for key in &cached {
        let at = hours_ago(2).to_string();
        stage.redis.command::<()>(&["MSET", key, "{}", &format!("{key}#timestamp"), &at]);
    }
    for message in 0..MIGRATIONS {
        let ids = ids(message);
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        stage.queue.send(subscriptions_migrated(&ids, hours_ago(0)).raw());
    }
    let look = || {
        let peak = service.peak_kib();
        assert!(peak <= PEAK_KIB_MAX, "{} MiB at peak, {:?}", peak / 1024, stage.queue.counts());
        stage.queue.is_empty().then_some(())
    };
    let otherwise = || format!("{:?}\n{:#?}", stage.queue.counts(), service.log_lines());
    wait_for_every(LOOK_EVERY, Duration::from_mins(3), "all migrations are finished", look, otherwise);
    for key in &cached {
        assert_eq!(stage.redis.get(key), None, "{key}");
    }
    // Nobody who was not cached takes memory of Redis for twelve hours.
    let keys: usize = stage.redis.command(&["DBSIZE"]);
    assert!(keys < 200, "{keys} keys");
    assert_eq!(service.get("/readyz").status, 200);
    service.stop();
}

const CURRENCY: &str = "credit-ai";

/// A balance of 0, which changes the cached list.
fn exhausted(customer: &str) -> String {
    credit_balance(Owner::customer(customer), CURRENCY, 1_000, hours_ago(0)).raw()
}

/// A service that reaches Redis through a proxy.
fn behind_a_proxy() -> (FakeStage, RefusingRedis, Service) {
    let stage = FakeStage::new(QueueOptions {
        visibility_timeout: Duration::from_secs(2),
        ..QueueOptions::default()
    });
    let proxy = RefusingRedis::start(stage.redis_address());
    let settings = stage.settings().set("REDIS_PORT", proxy.port().to_string());
    let service = Service::start(&settings);
    (stage, proxy, service)
}

/// Long enough for every poll that was open at the first refusal to have ended.
fn refused_for_a_while(service: &Service, proxy: &RefusingRedis) {
    let is_long_ago = |at: Instant| at.elapsed() > Duration::from_secs(3);
    let what = "3 s since the first refusal";
    service.wait_until(what, || proxy.first_refused_at().is_some_and(is_long_ago));
}

#[test]
fn a_balance_finds_something_that_is_not_text_in_place_of_a_list() {
    let (stage, _proxy, service) = behind_a_proxy();
    let at = hours_ago(1).to_string();
    stage.redis.command::<()>(&["SET", "production:c_bad#timestamp", &at]);
    redis::cmd("SET")
        .arg("production:c_bad")
        .arg(b"\xff\"currencyId\":\"credit-ai\"")
        .exec(&mut stage.redis.connection())
        .expect("it is put there");
    stage.queue.send(exhausted("bad"));
    let usage = "production:c_bad:credit_credit-ai";
    happens(&service, "the balance", || stage.redis.get(usage).is_some());
    are_written(&stage, &service, &customers("beside"));
    happens(&service, "everything is applied", || unsettled(&stage) == 0);
    service.stop();
}

#[test]
fn a_refusal_to_replace_one_list_is_its_messages_own() {
    let (stage, proxy, service) = behind_a_proxy();
    let rate = json!({"creditRate": {"amount": 2, "currencyId": CURRENCY}});
    let rated = with(metered("feature-calls", 1_000, 1), &rate);
    let rated = State::new(Owner::customer("unlucky"), hours_ago(1), &[rated]);
    stage.queue.send(entitlements_updated(&rated, Shape::GraphqlV2).raw());
    happens(&service, "the list", || stage.redis.get(&key_of("unlucky")).is_some());
    proxy.refuse(&[Refusal {
        only_with: Some("replace"),
        ..Refusal::of(&["EVALSHA", "EVAL"], How::Error("ERR max request size exceeded"))
    }]);
    stage.queue.send(exhausted("unlucky"));
    refused_for_a_while(&service, &proxy);
    are_written(&stage, &service, &customers("beside"));
    proxy.pass();
    happens(&service, "the list is changed after all", || {
        let list = stage.redis.get(&key_of("unlucky")).unwrap_or_default();
        list.contains("InsufficientCredits") && unsettled(&stage) == 0
    });
    service.stop();
}

#[test]
fn an_invalidation_needs_commands_that_the_server_refuses() {
    let (stage, proxy, service) = behind_a_proxy();
    are_written(&stage, &service, &customers("before"));
    proxy.refuse(&[Refusal::of(&["SCAN"], How::Error("ERR unknown command 'SCAN'"))]);
    stage.queue.send(package_published("ALL_CUSTOMERS").raw());
    refused_for_a_while(&service, &proxy);
    are_written(&stage, &service, &customers("beside"));
    proxy.pass();
    happens(&service, "the environment is forgotten after all", || {
        !has_all(&stage, &customers("before")) && unsettled(&stage) == 0
    });
    service.stop();
}

#[test]
fn an_invalidation_waits_while_the_server_permits_nothing() {
    let (stage, proxy, service) = behind_a_proxy();
    are_written(&stage, &service, &customers("before"));
    proxy.refuse(&[Refusal::of(
        &["EVALSHA", "EVAL", "SCAN"],
        How::Error("NOPERM this user has no permissions"),
    )]);
    stage.queue.send(package_published("ALL_CUSTOMERS").raw());
    happens(&service, "/readyz is 503", || service.get("/readyz").status == 503);
    proxy.pass();
    happens(&service, "the environment is forgotten", || {
        !has_all(&stage, &customers("before")) && stage.queue.is_empty()
    });
    let counts = stage.queue.counts();
    assert_eq!((counts.dead, counts.redelivered), (0, 0), "{counts:?}");
    service.stop();
}

#[test]
fn a_server_that_refuses_everything_is_not_asked_for_each_change_of_a_message() {
    let (stage, proxy, service) = behind_a_proxy();
    are_written(&stage, &service, &customers("before"));
    proxy.refuse(&[Refusal::of(&["EVALSHA", "EVAL"], How::Error("ERR max requests limit exceeded"))]);
    let ids: Vec<String> = (0..400).map(|number| format!("customer-{number}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    stage.queue.send(subscriptions_migrated(&ids, hours_ago(0)).raw());
    happens(&service, "/readyz is 503", || service.get("/readyz").status == 503);
    let began = Instant::now();
    service.wait_until("a few tries", || began.elapsed() > Duration::from_secs(4));
    assert!(proxy.refused() < 100, "{} calls", proxy.refused());
    proxy.pass();
    happens(&service, "the migration is applied", || unsettled(&stage) == 0);
    service.stop();
}
