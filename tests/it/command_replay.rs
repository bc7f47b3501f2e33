//! `replay` does with a line what the service does with a message.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::fakes::refusing_redis::{How, Refusal, RefusingRedis};
use crate::support::command::{Ended, run, run_with_input};
use crate::support::messages::{
    Envelope, Shape, customer_deleted, entitlements_updated, package_published, purge,
    subscriptions_migrated, usage_updated,
};
use crate::support::redis::TestRedis;
use crate::support::sdk::Owner;
use crate::support::service::{Service, Settings};
use crate::support::stage::{PREFIX, Stage};
use crate::support::state::{State, every_kind, hours_ago};

const FEATURE: &str = "feature-api-calls";

fn settings(redis: &TestRedis, policy: &str) -> Settings {
    Settings::default()
        .set("REDIS_HOST", "127.0.0.1")
        .set("REDIS_PORT", redis.port.to_string())
        .set("CACHE_UPDATE_POLICY", policy)
}

fn replay(redis: &TestRedis, policy: &str, lines: &[String]) -> Ended {
    run_with_input(&settings(redis, policy), &["replay", "-"], &(lines.join("\n") + "\n"))
}

fn state(customer: &str, hours: i64) -> State {
    State::new(Owner::customer(customer), hours_ago(hours), &every_kind(0))
}

fn of_entitlements(customer: &str, hours: i64) -> String {
    entitlements_updated(&state(customer, hours), Shape::GraphqlV2).raw()
}

fn of_usage(customer: &str, usage: i64, hours: i64) -> String {
    usage_updated(&state(customer, hours), FEATURE, usage, hours_ago(hours), Shape::Webhook).raw()
}

/// Without tombstones, which hold the time at which a purge was sent.
fn contents(redis: &TestRedis) -> Vec<(String, String)> {
    let tombstone = format!("{PREFIX}:purged");
    let contents = redis.contents().into_iter();
    contents.filter(|(key, _)| !key.starts_with(&tombstone)).collect()
}

#[test]
fn a_replay_leaves_the_redis_that_the_queue_leaves() {
    let stage = Stage::new();
    let service = Service::start(&stage.settings().set("CACHE_UPDATE_POLICY", "UPSERT"));
    let (mut messages, mut usages) = (Vec::new(), Vec::new());
    for (number, shape) in Shape::ALL.into_iter().enumerate() {
        for envelope in Envelope::ALL {
            let customer = format!("customer-{number}-{envelope:?}");
            let state = state(&customer, 5);
            messages.push(entitlements_updated(&state, shape).wrapped(envelope));
            usages.push(usage_updated(&state, FEATURE, 77, hours_ago(1), shape).wrapped(envelope));
        }
    }
    // A queue keeps no order, and a usage counts only behind its list.
    stage.deliver(&service, &messages);
    stage.deliver(&service, &usages);
    messages.extend(usages);
    let forgotten = [
        customer_deleted("customer-1-Raw", hours_ago(1)).raw(),
        subscriptions_migrated(&["customer-2-Raw"], hours_ago(1)).raw(),
    ];
    stage.deliver(&service, &forgotten);
    service.stop();

    let redis = TestRedis::start();
    messages.extend(forgotten);
    let ended = replay(&redis, "UPSERT", &messages);
    assert_eq!(ended.status, 0, "{ended:?}");
    assert!(
        ended.stdout.contains("26 messages read") && ended.stdout.contains("2 customers or resources purged"),
        "{ended:?}"
    );
    assert_eq!(contents(&redis), contents(&stage.redis));

    let once = contents(&redis);
    let again = replay(&redis, "UPSERT", &messages);
    assert_eq!(again.status, 0, "{again:?}");
    let lives = redis.snapshot().into_values().filter(|entry| entry.ttl > 600_000).count();
    assert!(lives > 100, "entries expire as the service's do");
    assert_eq!(contents(&redis), once, "a second replay changes nothing");
}

#[test]
fn bad_lines_are_reported_by_number_and_stop_no_other() {
    let redis = TestRedis::start();
    let lines = [
        of_entitlements("customer-1", 2),
        "{not json".to_owned(),
        String::new(),
        r#"{"type":"entitlements.updated","customer":{"id":"secret-customer"}}"#.to_owned(),
        r#"{"type":"coupon.created"}"#.to_owned(),
        of_usage("customer-1", 55, 1),
    ];
    let ended = replay(&redis, "UPSERT", &lines);
    assert_eq!(ended.status, 1, "{ended:?}");
    assert!(ended.stderr.contains("line 2: ") && ended.stderr.contains("line 4: "), "{ended:?}");
    assert!(!ended.stderr.contains("line 3") && !ended.stderr.contains("secret-customer"), "{ended:?}");
    assert!(
        ended.stdout.contains("2 bad lines") && ended.stdout.contains("1 messages that change nothing"),
        "{ended:?}"
    );
    let usage = redis.json(&format!("{PREFIX}:c_customer-1:f_{FEATURE}")).expect("a usage");
    assert_eq!(usage["currentUsage"], 55);
}

#[test]
fn a_dry_run_changes_nothing_and_foretells_what_the_replay_then_does() {
    for policy in ["UPSERT", "UPDATE_IF_EXISTS"] {
        let redis = TestRedis::start();
        let cached = ["older", "newer", "purged", "usage"].map(|customer| of_entitlements(customer, 5));
        assert_eq!(replay(&redis, "UPSERT", &cached).status, 0);
        let mut purged = vec![purge(Owner::customer("purged"), hours_ago(3)).raw()];
        purged.push(of_usage("newer", 99, 1));
        assert_eq!(replay(&redis, "UPSERT", &purged).status, 0);

        // No two of the same customer: a dry run sees what is stored now.
        let lines = [
            of_entitlements("older", 9),
            of_entitlements("newer", 2),
            of_entitlements("purged", 4),
            of_entitlements("nobody", 2),
            of_usage("usage", 55, 1),
            of_usage("nobody-2", 55, 1),
        ];
        let before = redis.contents();
        let file = redis.directory().join("messages");
        std::fs::write(&file, lines.join("\n")).expect("a file");
        let file = file.display().to_string();
        let dry = run(&settings(&redis, policy), &["replay", &file, "--dry-run"]);
        assert_eq!(dry.status, 0, "{dry:?}");
        assert_eq!(redis.contents(), before, "a dry run changes nothing");
        assert!(dry.stdout.contains("line 1: ") && dry.stdout.contains("line 6: "), "{dry:?}");

        let foretold: BTreeSet<&str> = dry
            .stdout
            .lines()
            .filter(|line| !line.contains("would write nothing"))
            .flat_map(|line| line.split(';').next().unwrap_or_default().split(' '))
            .filter(|word| word.starts_with(PREFIX))
            .collect();
        // So that a value that is written again shows: a written one has its whole life before it.
        for key in redis.keys() {
            redis.command::<u64>(&["EXPIRE", &key, "1000"]);
        }
        let ended = run(&settings(&redis, policy), &["replay", &file]);
        assert_eq!(ended.status, 0, "{ended:?}");
        let snapshot = redis.snapshot();
        let written: BTreeSet<&str> = snapshot
            .iter()
            .filter(|(key, entry)| {
                entry.ttl > 1_000 && !key.ends_with("#timestamp") && !key.contains(":purged")
            })
            .map(|(key, _)| key.as_str())
            .collect();
        assert_eq!(foretold, written, "{policy}: {}", dry.stdout);
        assert!(
            written.iter().any(|key| key.contains("c_newer"))
                && !written.iter().any(|key| key.contains("c_older"))
        );
        assert_eq!(written.iter().any(|key| key.contains("c_nobody:")), policy == "UPSERT");
    }
}

#[test]
fn a_dry_run_of_an_invalidation_names_the_keys_and_deletes_none() {
    let redis = TestRedis::start();
    assert_eq!(replay(&redis, "UPSERT", &[of_entitlements("customer-1", 2)]).status, 0);
    let before = redis.contents();
    let lines = [of_entitlements("customer-1", 1), package_published("ALL_CUSTOMERS").raw()];
    let arguments = ["replay", "-", "--dry-run"];
    let ended = run_with_input(&settings(&redis, "UPSERT"), &arguments, &lines.join("\n"));
    assert_eq!(ended.status, 0, "{ended:?}");
    let pattern = format!("line 2: would delete every key of a customer in the environment: {PREFIX}:c_*");
    assert!(ended.stdout.contains(&pattern), "{ended:?}");
    assert_eq!(redis.contents(), before);
}

#[test]
fn what_an_id_holds_cannot_forge_a_line_or_move_the_cursor() {
    let redis = TestRedis::start();
    let body = of_entitlements("a\nline 9: would write\u{1b}[2J", 2);
    let arguments = ["replay", "-", "--dry-run"];
    let ended = run_with_input(&settings(&redis, "UPSERT"), &arguments, &body);
    assert_eq!(ended.status, 0, "{ended:?}");
    assert!(!ended.stdout.contains("\nline 9: would write") && !ended.stdout.contains('\u{1b}'), "{ended:?}");
    assert!(ended.stdout.contains("\\u000aline 9: would write"), "{ended:?}");
}

#[test]
fn a_readers_lock_is_waited_for() {
    let redis = TestRedis::start();
    let lock = Owner::customer("customer-1").lock_key(PREFIX);
    let started = Instant::now();
    redis.command::<String>(&["SET", &lock, "a-reader", "PX", "1500"]);
    let ended = replay(&redis, "UPSERT", &[of_entitlements("customer-1", 2)]);
    assert_eq!(ended.status, 0, "{ended:?}");
    assert!(started.elapsed() >= Duration::from_millis(1_400), "it waited");
    assert!(redis.get(&format!("{PREFIX}:c_customer-1")).is_some());
}

#[test]
fn a_refusal_that_quotes_keys_names_no_customer() {
    let redis = TestRedis::start();
    let proxy = RefusingRedis::start(([127, 0, 0, 1], redis.port).into());
    proxy.refuse(&[Refusal::of(
        &["EVALSHA", "EVAL"],
        How::Error(
            "ERR unknown command 'EVALSHA', with args beginning with: 'production-alice@example.com' ",
        ),
    )]);
    let settings =
        settings(&redis, "UPSERT").set("REDIS_PORT", proxy.port().to_string()).set("LOG_LEVEL", "info");
    let line = of_entitlements("alice@example.com", 2);
    let replayed = run_with_input(&settings, &["replay", "-"], &line);
    let purged = run(&settings, &["purge", "alice@example.com", "--yes"]);
    for ended in [replayed, purged] {
        assert_eq!(ended.status, 1, "{ended:?}");
        assert!(ended.stderr.contains("EVALSHA") && !ended.stderr.contains("alice"), "{ended:?}");
    }
}

#[test]
fn a_missing_file_and_an_unavailable_redis_are_reported() {
    let redis = TestRedis::start();
    let ended = run(&settings(&redis, "UPSERT"), &["replay", "/no/such/file"]);
    assert_eq!(ended.status, 1, "{ended:?}");
    assert!(ended.stderr.contains("/no/such/file"), "{ended:?}");
    let directory = redis.directory().display().to_string();
    let ended = run(&settings(&redis, "UPSERT"), &["replay", &directory]);
    assert_eq!(ended.status, 1, "{ended:?}");
    assert!(ended.stderr.contains("line 1: cannot be read"), "{ended:?}");
    redis.stop();
    let ended = replay(&redis, "UPSERT", &[of_entitlements("customer-1", 2)]);
    assert_eq!(ended.status, 1, "{ended:?}");
    assert!(ended.stderr.contains("from 1 on") && ended.stderr.contains("Redis"), "{ended:?}");
}
