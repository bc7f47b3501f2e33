//! Redis by Sentinel: the primary is found, and followed when another one is promoted.

use std::time::Duration;

use crate::support::command::run;
use crate::support::messages::{Shape, entitlements_updated};
use crate::support::moto::Moto;
use crate::support::redis::{RedisOptions, TestRedis};
use crate::support::sdk::Owner;
use crate::support::sentinel::{MASTER, PASSWORD, TestSentinel, USER};
use crate::support::service::{Service, Settings};
use crate::support::stage::{PREFIX, Stage};
use crate::support::state::{State, boolean, hours_ago};
use crate::support::tools::free_port;
use crate::support::wait::{PATIENCE, wait_until};

/// The sentinel takes a second to notice and a few to act; the service looks every second.
const SECONDS: Duration = Duration::from_secs(30);

fn message(customer: &str) -> String {
    let state = State::new(Owner::customer(customer), hours_ago(1), &[boolean("feature-sso")]);
    entitlements_updated(&state, Shape::GraphqlV2).raw()
}

fn has(redis: &TestRedis, customer: &str) -> bool {
    redis.get(&Owner::customer(customer).key(PREFIX)).is_some()
}

fn settings(stage: &Stage, sentinel: &TestSentinel) -> Settings {
    stage
        .settings()
        .unset("REDIS_HOST")
        .unset("REDIS_PORT")
        // The first of the two is not there: the second is asked.
        .set("REDIS_SENTINELS", format!("127.0.0.1:{},127.0.0.1:{}", free_port(), sentinel.port))
        .set("REDIS_SENTINEL_MASTER", MASTER)
        .set("REDIS_SENTINEL_USERNAME", USER)
        .set("REDIS_SENTINEL_PASSWORD", PASSWORD)
        .set("CACHE_UPDATE_POLICY", "UPSERT")
}

/// A primary, a replica in step with it, and their sentinel.
fn replicated() -> (Stage, TestRedis, TestSentinel) {
    let stage = Stage {
        redis: TestRedis::start_with(RedisOptions {
            arguments: vec!["--repl-diskless-sync-delay", "0"],
            ..RedisOptions::default()
        }),
        queue: Moto::shared().queue(),
    };
    let replica = TestRedis::start();
    replica.command::<()>(&["REPLICAOF", "127.0.0.1", &stage.redis.port.to_string()]);
    let sentinel = TestSentinel::of(&stage.redis);
    // It learns of replicas from the primary's INFO, every ten seconds.
    wait_until(PATIENCE, "the sentinel knows a replica that is in step", || sentinel.good_replicas() == 1);
    (stage, replica, sentinel)
}

#[test]
fn a_promotion_is_followed_though_the_old_primary_still_answers() {
    let (stage, replica, sentinel) = replicated();
    let service = Service::start(&settings(&stage, &sentinel));
    stage.deliver(&service, &[message("customer-before")]);
    assert!(has(&stage.redis, "customer-before"));

    sentinel.command::<()>(&["SENTINEL", "FAILOVER", MASTER]);
    // What was written to the old primary after the promotion would be lost: Redis replicates late.
    let named = format!("127.0.0.1:{}", replica.port);
    wait_until(SECONDS, "the service follows", || {
        let log = service.log_lines();
        log.iter().any(|line| line.contains("Sentinel names") && line.contains(&named))
    });
    stage.queue.send_all(&[message("customer-after")]);
    wait_until(SECONDS, "the message at the new primary", || has(&replica, "customer-after"));
    service.wait_until_ready();
    service.wait_until("an empty queue", || stage.queue.is_empty());
    service.stop();
}

#[test]
fn a_primary_that_dies_is_replaced_by_the_one_that_sentinel_promotes() {
    let (stage, replica, sentinel) = replicated();
    let service = Service::start(&settings(&stage, &sentinel));
    stage.deliver(&service, &[message("customer-before")]);

    stage.redis.stop();
    stage.queue.send_all(&[message("customer-meanwhile")]);
    wait_until(SECONDS, "the message at the new primary", || {
        sentinel.primary_port() == replica.port && has(&replica, "customer-meanwhile")
    });
    service.wait_until_ready();
    service.wait_until("an empty queue", || stage.queue.is_empty());
    service.stop();
}

#[test]
fn sentinel_and_redis_may_both_speak_tls() {
    let stage = Stage {
        redis: TestRedis::start_with(RedisOptions { tls: true, ..RedisOptions::default() }),
        queue: Moto::shared().queue(),
    };
    let sentinel = TestSentinel::of(&stage.redis);
    let untrusting = settings(&stage, &sentinel).set("REDIS_TLS", "1");
    let ended = run(&untrusting, &["inspect", "customer-1"]);
    let why =
        format!("127.0.0.1:{}: its certificate is signed by an authority that is not trusted", sentinel.port);
    assert!(ended.stderr.contains(&why) && ended.stderr.contains("set REDIS_TLS_CA_FILE"), "{ended:?}");

    let authority = stage.redis.authority_file().display().to_string();
    let service = Service::start(&untrusting.set("REDIS_TLS_CA_FILE", authority));
    stage.deliver(&service, &[message("customer-1")]);
    assert!(has(&stage.redis, "customer-1"));
    service.stop();
}

#[test]
fn what_is_wrong_with_the_sentinels_is_reported_and_recovers() {
    let stage = Stage::new();
    let sentinel = TestSentinel::of(&stage.redis);
    let wrong = settings(&stage, &sentinel).set("REDIS_SENTINEL_PASSWORD", "another");
    let service = Service::spawn(&wrong);
    let complaint = service.wait_for_complaint(&["through sentinel", "connection refused", "wrongpass"]);
    assert!(complaint.contains("REDIS_SENTINEL_PASSWORD") && !complaint.contains("another"), "{complaint}");
    service.stop();

    let with_tls = settings(&stage, &sentinel).set("REDIS_SENTINEL_TLS", "1");
    let ended = run(&with_tls, &["inspect", "customer-1"]);
    assert!(ended.stderr.contains("no answer in time"), "{ended:?}");
    assert!(ended.stderr.contains("speak TLS (REDIS_SENTINEL_TLS)"), "{ended:?}");

    let unknown = settings(&stage, &sentinel).set("REDIS_SENTINEL_MASTER", "nobody");
    let service = Service::spawn(&unknown);
    service.wait_for_complaint(&["cannot find the primary 'nobody'", "does not know it"]);
    sentinel.command::<()>(&[
        "SENTINEL",
        "MONITOR",
        "nobody",
        "127.0.0.1",
        &stage.redis.port.to_string(),
        "1",
    ]);
    service.wait_until_ready();
    service.stop();
}
