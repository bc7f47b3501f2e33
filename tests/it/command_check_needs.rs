//! `check` asks for no more than the service needs: wherever the service writes, `check` fails nothing.

use serde_json::Value;

use crate::fakes::queue::QueueOptions;
use crate::fakes::refusing_redis::{How, Refusal, RefusingRedis};
use crate::redis_access::COMMANDS;
use crate::support::command::{Ended, run};
use crate::support::edge::EdgeStub;
use crate::support::fake_stage::FakeStage;
use crate::support::messages::{Shape, entitlements_updated};
use crate::support::redis::{RedisOptions, TestRedis};
use crate::support::sdk::Owner;
use crate::support::service::{Service, Settings};
use crate::support::stage::{PREFIX, Stage};
use crate::support::state::{State, boolean, hours_ago};

/// The service writes with these settings, and `check` ends with this status and no failure.
fn both_work(stage: &FakeStage, settings: &Settings, status: i32) -> Value {
    let service = Service::start(settings);
    let owner = Owner::customer("customer-1");
    let state = State::new(owner, hours_ago(0), &[boolean("feature-sso")]);
    stage.deliver(&service, &[entitlements_updated(&state, Shape::GraphqlV2).raw()]);
    assert!(stage.redis.get(&owner.key(PREFIX)).is_some(), "the service writes");
    service.stop();
    let report = checked(&run(settings, &["check", "--json"]), status);
    // It deletes what never was, and asks for the time without a key.
    stage.queue.complaints();
    report
}

fn checked(ended: &Ended, status: i32) -> Value {
    assert_eq!(ended.status, status, "{ended:?}");
    let report = ended.json();
    let checks = report["checks"].as_array().expect("a list").iter();
    let failures: Vec<&Value> = checks.filter(|check| check["status"] == "failure").collect();
    assert!(failures.is_empty(), "{failures:?}");
    report
}

fn has(report: &Value, area: &str, status: &str, part: &str) -> bool {
    let checks = report["checks"].as_array().expect("a list").iter();
    let text = |check: &Value| check["text"].as_str().expect("a text").to_owned();
    checks
        .filter(|check| check["area"] == area && check["status"] == status)
        .any(|check| text(check).contains(part))
}

/// Settings in which nothing is a warning but what a story makes one.
fn well(stage: &FakeStage, edge: &EdgeStub) -> Settings {
    edge.give_sentry_dsn("");
    let moto = crate::support::moto::Moto::shared();
    stage.settings().set("EDGE_API_URL", &edge.url).set("AWS_ENDPOINT_URL_STS", &moto.endpoint)
}

/// The keys of the fake queue are unknown to STS.
const UNKNOWN_TO_STS: i32 = 3;

#[test]
fn commands_that_redis_does_not_know_are_notes() {
    for renamed in [
        &["INFO"][..],
        &["ROLE"],
        &["TIME"],
        &["INFO", "ROLE", "TIME", "CONFIG", "CLIENT", "COMMAND", "DBSIZE", "KEYS", "FLUSHALL"],
    ] {
        let arguments = renamed.iter().flat_map(|name| ["--rename-command", name, ""]);
        let redis =
            TestRedis::start_with(RedisOptions { arguments: arguments.collect(), ..RedisOptions::default() });
        let stage = FakeStage::with_redis(redis, QueueOptions::default());
        let edge = EdgeStub::start();
        let report = both_work(&stage, &well(&stage, &edge), UNKNOWN_TO_STS);
        let is_noted = has(&report, "redis", "note", "INFO is not available");
        assert_eq!(is_noted, renamed.contains(&"INFO"), "{renamed:?}: {report:#}");
    }
}

#[test]
fn an_acl_of_just_what_readme_names_is_enough() {
    let stage = FakeStage::new(QueueOptions::default());
    let edge = EdgeStub::start();
    let fixed = ["ACL", "SETUSER", "stigg", "reset", "on", ">secret", "~production:*", "~production-*"];
    let words: Vec<&str> = fixed.into_iter().chain(COMMANDS.split(' ')).collect();
    for (forbidden, allowed, role) in
        [("+info", None, "unknown"), ("+ping +info", None, "unknown"), ("+info", Some("+role"), "primary")]
    {
        let rules = words.iter().filter(|word| !forbidden.split(' ').any(|other| other == **word));
        let rules = rules.chain(&allowed);
        stage.redis.command::<()>(&rules.copied().collect::<Vec<_>>());
        let settings = well(&stage, &edge).set("REDIS_USERNAME", "stigg").set("REDIS_PASSWORD", "secret");
        let report = both_work(&stage, &settings, UNKNOWN_TO_STS);
        assert!(has(&report, "redis", "note", "INFO"), "{report:#}");
        assert!(has(&report, "redis", "ok", &format!("role {role}")), "{report:#}");
    }
}

#[test]
fn whatever_redis_answers_to_questions_about_itself_fails_nothing() {
    let stage = FakeStage::new(QueueOptions::default());
    let edge = EdgeStub::start();
    let proxy = RefusingRedis::start(stage.redis_address());
    let settings = well(&stage, &edge).set("REDIS_PORT", proxy.port().to_string());
    for how in [
        How::Error("ERR unknown command 'INFO', with args beginning with: 'server'"),
        How::Error("DISABLED by the operator"),
        How::Answer(b":1\r\n".to_vec()),
        How::Answer(b"*0\r\n".to_vec()),
        How::Hang,
        How::Close,
    ] {
        proxy.refuse(&[Refusal::of(&["INFO", "ROLE", "TIME"], how.clone())]);
        let ended = run(&settings, &["check", "--json"]);
        let report = checked(&ended, UNKNOWN_TO_STS);
        let written = "a key below the prefix was written, read and deleted";
        assert!(has(&report, "redis", "ok", written), "{how:?}: {report:#}");
    }
    stage.queue.complaints();
}

#[test]
fn a_scan_that_is_refused_is_a_warning_and_a_ping_that_is_nothing() {
    for (command, error, status, part) in [
        (&["SCAN"], "ERR unknown command 'SCAN', with args beginning with: '0'", "warning", "needs SCAN"),
        (&["PING"], "ERR unknown command 'PING', with args beginning with: ", "ok", "role primary"),
    ] {
        let stage = FakeStage::new(QueueOptions::default());
        let edge = EdgeStub::start();
        let proxy = RefusingRedis::start(stage.redis_address());
        let settings = well(&stage, &edge).set("REDIS_PORT", proxy.port().to_string());
        proxy.refuse(&[Refusal::of(command, How::Error(error))]);
        let report = both_work(&stage, &settings, 3);
        assert!(has(&report, "redis", status, part), "{report:#}");
    }
}

#[test]
fn a_replica_that_takes_writes_is_a_warning() {
    let primary = TestRedis::start();
    let stage = FakeStage::new(QueueOptions::default());
    let edge = EdgeStub::start();
    let redis = &stage.redis;
    redis.command::<()>(&["CONFIG", "SET", "replica-read-only", "no"]);
    redis.command::<()>(&["REPLICAOF", "127.0.0.1", &primary.port.to_string()]);
    crate::support::wait::wait_until(
        crate::support::wait::PATIENCE,
        "the end of the synchronization",
        || redis.command::<String>(&["INFO", "replication"]).contains("master_link_status:up"),
    );
    let report = both_work(&stage, &well(&stage, &edge), 3);
    assert!(has(&report, "redis", "warning", "is a replica"), "{report:#}");
}

#[test]
fn a_queue_and_an_sts_that_allow_no_more_than_the_service_does_are_warnings() {
    let stage = Stage::new();
    let edge = EdgeStub::start();
    edge.give_sentry_dsn("");
    let moto = stage.queue.moto;
    let settings = stage.settings().access_key(&moto.service_user).set("EDGE_API_URL", &edge.url);
    // Forbidden; and of a kind of its own.
    for sts in [moto.endpoint.as_str(), "http://127.0.0.1:9", edge.url.as_str()] {
        let settings = settings.clone().set("AWS_ENDPOINT_URL_STS", sts);
        let report = checked(&run(&settings, &["check", "--json", "--receive"]), 3);
        assert!(has(&report, "queue", "warning", "GetQueueAttributes"), "{report:#}");
        assert!(has(&report, "queue", "ok", "allows this service to receive messages"), "{report:#}");
    }
}

#[test]
fn an_edge_api_that_gives_credentials_and_nothing_else_is_enough() {
    let stage = Stage::new();
    let edge = EdgeStub::start();
    let moto = stage.queue.moto;
    edge.give_credentials(&moto.temporary_credentials(), hours_ago(-1));
    let settings = stage
        .settings()
        .unset("AWS_ACCESS_KEY_ID")
        .unset("AWS_SECRET_ACCESS_KEY")
        .set("AWS_ENDPOINT_URL_STS", &moto.endpoint)
        .set("EDGE_API_URL", &edge.url);
    let service = Service::start(&settings);
    service.stop();
    let report = checked(&run(&settings, &["check", "--json"]), 3);
    assert!(has(&report, "edge", "warning", "error reports"), "{report:#}");
    assert!(has(&report, "queue", "note", "attributes"), "{report:#}");
}

#[test]
fn a_clock_that_the_service_corrects_is_a_warning() {
    let stage = FakeStage::new(QueueOptions { clock_ahead_ms: 20 * 60_000, ..QueueOptions::default() });
    let edge = EdgeStub::start();
    let report = both_work(&stage, &well(&stage, &edge), 3);
    assert!(has(&report, "clock", "warning", "signed with the queue's time"), "{report:#}");
}
