//! The prefix check: one warning if the prefix is probably not that of the SDKs, and nothing else.

use crate::support::messages::{Shape, entitlements_updated};
use crate::support::redis::TestRedis;
use crate::support::sdk::{Owner, Sdk};
use crate::support::service::{Service, Settings};
use crate::support::stage::{PREFIX, Stage};
use crate::support::state::{State, boolean, hours_ago};

/// What every warning of the check says.
const WARNING: &str = "check that ENVIRONMENT_PREFIX is the environmentPrefix";

fn state(customer: &str) -> State {
    State::new(Owner::customer(customer), hours_ago(1), &[boolean("feature-sso")])
}

fn settings(stage: &Stage) -> Settings {
    stage.settings().set("CACHE_UPDATE_POLICY", "UPSERT").set("LOG_LEVEL", "debug")
}

fn warnings(service: &Service) -> usize {
    let lines = service.log_lines();
    lines.iter().filter(|line| line.contains(WARNING)).count()
}

/// Waits until the prefix has been checked.
fn wait_for_the_check(service: &Service) {
    service.wait_until("the prefix to be checked", || {
        let lines = service.log_lines();
        lines.iter().any(|line| line.contains("checked whose customers"))
    });
}

fn set(redis: &TestRedis, key: &str) {
    redis.command::<()>(&["SET", key, "{}"]);
}

#[test]
fn a_prefix_that_is_not_the_sdks_is_reported_once_and_nothing_is_touched() {
    let stage = Stage::new();
    // Whatever a prefix holds: these were written by the SDK itself.
    for prefix in ["staging", "eu:prod*[1]"] {
        Sdk::open(&stage.redis, prefix).cache(&[&state("customer-1")]);
    }
    set(&stage.redis, "sessions:1");
    let before = stage.redis.contents();

    let service = Service::start(&settings(&stage));
    let line = service.wait_for_complaint(&[WARNING, "'production'", "'staging'", "'eu:prod*[1]'"]);
    assert!(!line.contains("sessions") && !line.contains("customer-1"), "{line}");
    assert_eq!(stage.redis.contents(), before, "nothing is wiped");

    // Nothing is refused, either.
    stage.deliver(&service, &[entitlements_updated(&state("customer-2"), Shape::GraphqlV2).raw()]);
    assert!(stage.redis.get(&Owner::customer("customer-2").key(PREFIX)).is_some());
    assert_eq!(service.get("/readyz").status, 200);
    assert_eq!(warnings(&service), 1, "it is reported once");
    service.stop();
}

#[test]
fn own_customers_among_many_others_are_no_reason_to_warn() {
    let stage = Stage::new();
    // More than one step of the look.
    let mut connection = stage.redis.connection();
    let mut filling = redis::pipe();
    for number in 0..5_000 {
        filling.set(format!("staging:c_customer-{number}"), "{}").ignore();
    }
    filling.exec(&mut connection).expect("redis answers");
    set(&stage.redis, &Owner::customer("customer-1").key(PREFIX));
    let service = Service::start(&settings(&stage));
    wait_for_the_check(&service);
    assert_eq!(warnings(&service), 0, "{:#?}", service.log_lines());
    service.stop();
}

#[test]
fn an_empty_redis_and_what_others_purged_are_no_reason_to_warn() {
    let stage = Stage::new();
    set(&stage.redis, "staging:purged:c_customer-1");
    set(&stage.redis, "sessions:1");
    let service = Service::start(&settings(&stage));
    wait_for_the_check(&service);
    assert_eq!(warnings(&service), 0, "{:#?}", service.log_lines());
    service.stop();
}

#[test]
fn the_check_waits_for_a_redis_that_is_unavailable_at_start() {
    let stage = Stage::new();
    stage.redis.stop();
    let service = Service::spawn(&settings(&stage));
    service.wait_for_complaint(&["connect", "REDIS_HOST"]);
    stage.redis.run();
    set(&stage.redis, "staging:c_customer-1");
    service.wait_until_ready();
    wait_for_the_check(&service);
    service.stop();
}

#[test]
fn a_user_who_may_not_scan_is_no_fault() {
    let stage = Stage::new();
    set(&stage.redis, "staging:c_customer-1");
    stage.redis.command::<()>(&["ACL", "SETUSER", "stigg", "on", ">of-the-user", "~*", "+@all", "-scan"]);
    let service =
        Service::start(&settings(&stage).set("REDIS_USERNAME", "stigg").set("REDIS_PASSWORD", "of-the-user"));
    service.wait_until("the check has given up", || {
        let lines = service.log_lines();
        lines.iter().any(|line| line.contains("is not checked"))
    });
    let complaints: Vec<String> = service
        .log()
        .iter()
        .filter(|line| line["level"] == "warn" || line["level"] == "error")
        .map(ToString::to_string)
        .filter(|line| line.contains("Redis") || line.contains("ENVIRONMENT_PREFIX"))
        .collect();
    assert_eq!(complaints, [""; 0]);
    assert_eq!(service.get("/readyz").status, 200);
    service.stop();
}
