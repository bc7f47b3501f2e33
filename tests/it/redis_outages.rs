//! Redis becomes unavailable in every way that it can: the log names each, no message is lost, and the service recovers
//! by itself.
//!
//! Stalls and broken connections are in `network_faults`, where a proxy stands in between.

use std::cell::RefCell;
use std::time::Duration;

use serde_json::Value;

use crate::support::messages::{Shape, entitlements_updated};
use crate::support::moto::Moto;
use crate::support::redis::{RedisOptions, TestRedis};
use crate::support::sdk::Owner;
use crate::support::service::{Service, Settings};
use crate::support::stage::{PREFIX, Stage};
use crate::support::state::{State, boolean, hours_ago};
use crate::support::tools::free_port;
use crate::support::wait::wait_until;

/// Redis is asked every half second whether it is back, a refusing one is written to every second: a
/// recovery is noticed well within this, on a busy machine too.
const SECONDS: Duration = Duration::from_secs(15);

fn message(customer: &str) -> String {
    let state = State::new(Owner::customer(customer), hours_ago(1), &[boolean("feature-sso")]);
    entitlements_updated(&state, Shape::GraphqlV2).raw()
}

fn key(customer: &str) -> String {
    Owner::customer(customer).key(PREFIX)
}

fn upserting(stage: &Stage) -> Settings {
    stage.settings().set("CACHE_UPDATE_POLICY", "UPSERT")
}

fn lines_that_say<'a>(log: &'a [Value], words: &str) -> Vec<&'a str> {
    log.iter().filter_map(|line| line["msg"].as_str()).filter(|text| text.contains(words)).collect()
}

/// One fault from its beginning to its end. A message that is sent meanwhile is in Redis soon after the end; the
/// log has one error that says `named`, and one line that says how long it lasted.
fn is_named_and_recovers(stage: &Stage, named: &[&str], break_it: impl FnOnce(), mend_it: impl FnOnce()) {
    let service = Service::start(&upserting(stage));
    stage.deliver(&service, &[message("customer-before")]);

    break_it();
    stage.queue.send_all(&[message("customer-meanwhile")]);
    service.wait_for_complaint(named);
    service.wait_until("/readyz to say 503", || service.get("/readyz").status == 503);
    assert_eq!(service.get("/livez").status, 200, "a restart would not help");
    assert!(service.metrics().value("persistent_cache_redis_up") < 0.5);

    mend_it();
    wait_until(SECONDS, "the message of meanwhile in Redis", || {
        stage.redis.get(&key("customer-meanwhile")).is_some()
    });
    service.wait_until_ready();
    service.wait_until("an empty queue", || stage.queue.is_empty());
    stage.deliver(&service, &[message("customer-after")]);
    assert!(stage.redis.get(&key("customer-after")).is_some());

    let log = service.log();
    let gone = lines_that_say(&log, "Redis cannot be used");
    assert!((1..=3).contains(&gone.len()), "one line a fault, no flood: {gone:#?}");
    assert_eq!(lines_that_say(&log, "Redis recovered after").len(), 1, "{log:#?}");
    service.stop();
}

fn command(redis: &TestRedis, words: &[&str]) {
    say(&mut redis.connection(), words);
}

fn say(connection: &mut redis::Connection, words: &[&str]) {
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]).exec(connection).expect("an answer");
}

#[test]
fn a_primary_that_becomes_a_replica_is_named_and_recovers_when_it_is_one_again() {
    let stage = Stage::new();
    let nobody = free_port().to_string();
    is_named_and_recovers(
        &stage,
        &["read-only replica", "after a failover this ends"],
        || command(&stage.redis, &["REPLICAOF", "127.0.0.1", &nobody]),
        || command(&stage.redis, &["REPLICAOF", "NO", "ONE"]),
    );
}

#[test]
fn a_replica_that_lost_its_primary_is_named_and_recovers() {
    let stage = Stage::new();
    let nobody = free_port().to_string();
    // In this state it refuses even the PING that a new connection of the test begins with.
    let connection = RefCell::new(stage.redis.connection());
    is_named_and_recovers(
        &stage,
        &["lost its primary"],
        || {
            let mut connection = connection.borrow_mut();
            say(&mut connection, &["CONFIG", "SET", "replica-serve-stale-data", "no"]);
            say(&mut connection, &["REPLICAOF", "127.0.0.1", &nobody]);
        },
        || say(&mut connection.borrow_mut(), &["REPLICAOF", "NO", "ONE"]),
    );
}

#[test]
fn a_full_redis_is_named_and_recovers_when_there_is_room() {
    let stage = Stage::new();
    is_named_and_recovers(
        &stage,
        &["memory is full", "maxmemory"],
        || command(&stage.redis, &["CONFIG", "SET", "maxmemory", "1"]),
        || command(&stage.redis, &["CONFIG", "SET", "maxmemory", "0"]),
    );
}

#[test]
fn a_redis_that_cannot_save_to_disk_is_named_and_recovers_when_it_can() {
    let stage = Stage::new();
    let connection = RefCell::new(stage.redis.connection());
    // A directory stands where its file would go.
    let in_the_way = stage.redis.directory().join("dump.rdb");
    std::fs::create_dir(&in_the_way).expect("a directory");
    is_named_and_recovers(
        &stage,
        &["cannot save to disk"],
        || {
            let mut connection = connection.borrow_mut();
            say(&mut connection, &["CONFIG", "SET", "save", "3600 1000000"]);
            say(&mut connection, &["BGSAVE"]);
        },
        || {
            std::fs::remove_dir(&in_the_way).expect("an empty directory");
            say(&mut connection.borrow_mut(), &["BGSAVE"]);
            wait_until(SECONDS, "the data to be saved", || stage.redis.answers());
        },
    );
}

#[test]
fn a_redis_that_loads_its_data_is_named_and_recovers_when_it_has() {
    const KEYS: usize = 300;
    let slow = ["--key-load-delay", "10000", "--loading-process-events-interval-bytes", "1024"];
    let stage = Stage {
        redis: TestRedis::start_with(RedisOptions { arguments: slow.to_vec(), ..RedisOptions::default() }),
        queue: Moto::shared().queue(),
    };
    let filler = "x".repeat(500);
    for number in 0..KEYS {
        command(&stage.redis, &["SET", &format!("other:{number}"), &filler]);
    }
    is_named_and_recovers(
        &stage,
        &["loading its data"],
        || {
            command(&stage.redis, &["SAVE"]);
            stage.redis.stop();
            // It answers LOADING for seconds.
            stage.redis.begin();
        },
        || wait_until(SECONDS, "the data to be loaded", || stage.redis.answers()),
    );
}

#[test]
fn a_redis_that_is_killed_and_comes_back_empty_recovers() {
    let stage = Stage::new();
    is_named_and_recovers(
        &stage,
        &["check redis_host and redis_port"],
        || stage.redis.stop(),
        || stage.redis.run(),
    );
}

#[test]
fn a_redis_that_hangs_with_its_connections_open_is_named_and_recovers() {
    let stage = Stage::new();
    is_named_and_recovers(&stage, &["no answer in time"], || stage.redis.pause(), || stage.redis.resume());
}

#[test]
fn connections_that_redis_kills_again_and_again_cost_no_message() {
    const ROUNDS: usize = 20;
    let stage = Stage::new();
    let service = Service::start(&upserting(&stage));
    for round in 0..ROUNDS {
        stage.queue.send_all(&[message(&format!("customer-{round}"))]);
        command(&stage.redis, &["CLIENT", "KILL", "TYPE", "normal"]);
    }
    service.wait_until("every message in Redis", || {
        (0..ROUNDS).all(|round| stage.redis.get(&key(&format!("customer-{round}"))).is_some())
    });
    service.wait_until("an empty queue", || stage.queue.is_empty());
    service.wait_until_ready();
    service.stop();
}

#[test]
fn a_changed_address_behind_the_same_name_is_followed_when_the_old_one_becomes_a_replica() {
    let stage = Stage::new();
    let port = stage.redis.port;
    let promoted =
        TestRedis::start_with(RedisOptions { address: Some(("127.0.0.2", port)), ..RedisOptions::default() });
    let hosts = stage.redis.directory().join("hosts");
    let name_leads_to = |address: &str| {
        std::fs::write(&hosts, format!("127.0.0.1 localhost\n{address} redis.test\n")).expect("a file");
    };
    name_leads_to("127.0.0.1");
    let service = Service::spawn_with_hosts(&upserting(&stage).set("REDIS_HOST", "redis.test"), &hosts);
    service.wait_until_ready();
    stage.deliver(&service, &[message("customer-before")]);
    assert!(stage.redis.get(&key("customer-before")).is_some());

    name_leads_to("127.0.0.2");
    command(&stage.redis, &["REPLICAOF", "127.0.0.2", &port.to_string()]);
    stage.queue.send_all(&[message("customer-after")]);
    wait_until(SECONDS, "the message at the promoted Redis", || {
        promoted.get(&key("customer-after")).is_some()
    });
    service.wait_until_ready();
    service.wait_until("an empty queue", || stage.queue.is_empty());
    service.stop();
}
