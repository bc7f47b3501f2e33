//! `warm` fills a cache from the Edge API, and never with something older than what is there or on its way.

use std::sync::Arc;
use std::time::Duration;

use crate::support::command::{Ended, run, run_with_input};
use crate::support::edge::{EdgeStub, RETRY_AFTER_SECS};
use crate::support::messages::{Shape, entitlements_updated};
use crate::support::redis::TestRedis;
use crate::support::sdk::{Owner, Sdk};
use crate::support::service::{SERVER_API_KEY, Service, Settings};
use crate::support::stage::{PREFIX, Stage};
use crate::support::state::{State, every_kind, hours_ago};

pub fn settings(redis: &TestRedis, edge: &EdgeStub) -> Settings {
    Settings::default()
        .set("REDIS_HOST", "127.0.0.1")
        .set("REDIS_PORT", redis.port.to_string())
        .set("EDGE_API_URL", &edge.url)
        .set("SERVER_API_KEY", SERVER_API_KEY)
}

fn warm(redis: &TestRedis, edge: &EdgeStub, input: &str, flags: &[&str]) -> Ended {
    let arguments: Vec<&str> = ["warm", "-", "--rate", "500"].iter().chain(flags).copied().collect();
    run_with_input(&settings(redis, edge), &arguments, input)
}

fn state(owner: Owner, hours: i64) -> State {
    State::new(owner, hours_ago(hours), &every_kind(0))
}

const ONE: Owner = Owner { customer: "one", resource: None };
const SITE: Owner = Owner { customer: "one", resource: Some("site") };

fn timestamp(redis: &TestRedis, owner: Owner) -> Option<i64> {
    let key = format!("{}#timestamp", owner.key(PREFIX));
    redis.get(&key).map(|text| text.parse().expect("a number"))
}

#[test]
fn readers_find_what_was_filled_and_ask_nobody() {
    let (redis, edge) = (TestRedis::start(), EdgeStub::start());
    let states = [state(ONE, 5), state(SITE, 4), state(Owner::customer("a/b c"), 3)];
    edge.give_entitlements(&states[0], &[]);
    edge.give_entitlements(&states[1], &[]);
    let spelled = State { customer: "a%2Fb%20c".to_owned(), ..states[2].clone() };
    edge.give_entitlements(&spelled, &[]);
    let ended = warm(&redis, &edge, "one\none\tsite\n\na/b c\n", &["--parallel", "1"]);
    assert_eq!(ended.status, 0, "{ended:?}");
    assert_eq!(ended.stdout, "3 filled\n");
    assert!(edge.calls().iter().all(|call| call.authorised && call.version.as_deref() == Some("1")));

    let sdk = Sdk::open(&redis, PREFIX);
    for state in &states {
        let answer = sdk.entitlements(state.owner());
        assert_eq!(answer.as_array().map(Vec::len), Some(state.entitlements.len()), "{answer}");
    }
    assert_eq!(sdk.calls(), Vec::<String>::new());
    let locks = redis.keys().into_iter().filter(|key| key.contains("refetch")).collect::<Vec<_>>();
    assert_eq!(locks, Vec::<String>::new(), "no lock is left");
}

#[test]
fn something_newer_stays() {
    let (redis, edge) = (TestRedis::start(), EdgeStub::start());
    edge.give_entitlements(&state(ONE, 2), &[]);
    assert_eq!(warm(&redis, &edge, "one", &[]).status, 0);
    let before = redis.contents();
    edge.give_entitlements(&state(ONE, 9), &[]);
    let ended = warm(&redis, &edge, "one", &[]);
    assert_eq!(ended.stdout, "0 filled\n1 left, as newer entries are stored\n", "{ended:?}");
    assert_eq!(redis.contents(), before);

    // A list without entries and without a time, but with a reason, replaces nothing either.
    let gone =
        State { access_denied_reason: Some("NoActiveSubscription".to_owned()), ..State::new(ONE, 0, &[]) };
    edge.give_entitlements(&gone, &[]);
    assert_eq!(warm(&redis, &edge, "one", &[]).status, 0);
    assert_eq!(redis.contents(), before);
    redis.command::<String>(&["FLUSHALL"]);
    assert_eq!(warm(&redis, &edge, "one", &[]).stdout, "1 filled\n");
    let metadata = redis.json(&format!("{}:metadata", ONE.key(PREFIX))).expect("metadata");
    assert_eq!(metadata["accessDeniedReason"], "NoActiveSubscription");
}

#[test]
fn a_message_that_comes_between_answer_and_write_is_not_lost() {
    let stage = Arc::new(Stage::new());
    let edge = EdgeStub::start();
    // Whom UPDATE_IF_EXISTS would skip, were the lock of the refetch not held.
    let service = Arc::new(Service::start(&stage.settings()));
    let (older, newer) = (state(ONE, 5), state(ONE, 1));
    edge.give_entitlements(&older, &[]);
    let message = entitlements_updated(&newer, Shape::GraphqlV2).raw();
    let (sender, watched) = (Arc::clone(&stage), Arc::clone(&service));
    edge.before_entitlements(move || {
        sender.queue.send(&message);
        watched.wait_for_metric("persistent_cache_messages_received_total", 1.0);
    });
    let ended = warm(&stage.redis, &edge, "one", &[]);
    assert_eq!(ended.status, 0, "{ended:?}");
    service.wait_until("the newer list", || timestamp(&stage.redis, ONE) == Some(newer.updated_at_ms));
    service.wait_until("an empty queue", || stage.queue.is_empty());
}

#[test]
fn a_reader_that_refetches_is_waited_for() {
    let (redis, edge) = (TestRedis::start(), EdgeStub::start());
    edge.give_entitlements(&state(ONE, 5), &[]);
    let lock = format!("{PREFIX}:refetchEntityEntitlementsAfterCacheMiss-one");
    redis.command::<String>(&["SET", &lock, "a-reader", "PX", "1500"]);
    edge.before_entitlements({
        let redis_port = redis.port;
        move || {
            let client = redis::Client::open(format!("redis://127.0.0.1:{redis_port}/")).expect("an address");
            let mut connection = client.get_connection().expect("redis answers");
            let held: Option<String> = redis::cmd("GET").arg(&lock).query(&mut connection).expect("a value");
            assert!(held.is_some_and(|held| held.starts_with("warm-")), "it asks with the lock held");
        }
    });
    let ended = warm(&redis, &edge, "one", &[]);
    assert_eq!((ended.status, ended.stdout.as_str()), (0, "1 filled\n"), "{ended:?}");
}

#[test]
fn what_fails_is_tried_again_told_noted_and_can_be_gone_on_with() {
    let (redis, edge) = (TestRedis::start(), EdgeStub::start());
    edge.give_entitlements(&state(ONE, 5), &[429, 503]);
    edge.give_entitlements(&state(Owner::customer("two"), 5), &[500, 500]);
    let path = |name: &str| redis.directory().join(name).display().to_string();
    let (done, failed) = (path("done"), path("failed"));
    let flags = ["--retries", "2", "--state", &done, "--failed", &failed];
    let ended = warm(&redis, &edge, "one\ntwo\nthree\nfour\t\n", &flags);
    assert_eq!(ended.status, 1, "{ended:?}");
    assert!(ended.stdout.contains("2 filled") && ended.stdout.contains("2 failed"), "{ended:?}");
    assert!(
        ended.stderr.contains("three: ")
            && ended.stderr.contains("500")
            && ended.stderr.contains("(tries: 3)"),
        "{ended:?}"
    );
    let noted = |path: &str| {
        let mut lines: Vec<String> =
            std::fs::read_to_string(path).expect("a file").lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(noted(&done), ["one", "two"]);
    assert_eq!(noted(&failed), ["four\t", "three"]);

    edge.give_entitlements(&state(Owner::customer("three"), 5), &[]);
    let calls = edge.calls().len();
    let ended = warm(&redis, &edge, "one\ntwo\nthree\n", &flags);
    assert_eq!(
        (ended.status, ended.stdout.as_str()),
        (0, "1 filled\n2 skipped, as an earlier run did them\n"),
        "{ended:?}"
    );
    assert_eq!(edge.calls().len(), calls + 1);
    assert_eq!(noted(&done), ["one", "three", "two"]);
}

#[test]
fn the_edge_api_is_left_alone_for_as_long_as_it_asks() {
    let (redis, edge) = (TestRedis::start(), EdgeStub::start());
    edge.give_entitlements(&state(ONE, 5), &[429]);
    edge.give_entitlements(&state(Owner::customer("two"), 5), &[]);
    let ended = warm(&redis, &edge, "one\ntwo\n", &["--parallel", "1"]);
    assert_eq!((ended.status, ended.stdout.as_str()), (0, "2 filled\n"), "{ended:?}");
    let calls = edge.calls();
    let refused = calls.iter().position(|call| call.status == 429).expect("a refusal");
    let left_alone = calls[refused + 1].at - calls[refused].at;
    assert!(left_alone >= Duration::from_secs(RETRY_AFTER_SECS), "called again after {left_alone:?}");
}

#[test]
fn a_list_that_would_be_overwritten_is_refused_and_stays() {
    let (redis, edge) = (TestRedis::start(), EdgeStub::start());
    let list = redis.directory().join("list");
    std::fs::write(&list, "one\ntwo\n").expect("a list");
    let list = list.to_str().expect("a path");
    for flags in [["--failed", list], ["--state", list]] {
        let ended = run(&settings(&redis, &edge), &[&["warm", list], flags.as_slice()].concat());
        assert_eq!(ended.status, 1, "{ended:?}");
        assert!(ended.stderr.contains(list), "{ended:?}");
        assert_eq!(std::fs::read_to_string(list).expect("a list"), "one\ntwo\n");
    }
    assert_eq!(edge.calls().len(), 0, "nobody was asked");
}

#[test]
fn a_list_that_cannot_be_read_and_files_that_are_one_end_it() {
    let (redis, edge) = (TestRedis::start(), EdgeStub::start());
    let directory = redis.directory().display().to_string();
    let ended = run(&settings(&redis, &edge), &["warm", &directory]);
    assert_eq!(ended.status, 1, "{ended:?}");
    assert!(ended.stderr.contains(&directory) && ended.stderr.contains("gave up"), "{ended:?}");
    let both = redis.directory().join("both").display().to_string();
    let ended = warm(&redis, &edge, "one\n", &["--state", &both, "--failed", &both]);
    assert_eq!(ended.status, 1, "{ended:?}");
    assert!(ended.stderr.contains("must be different files"), "{ended:?}");
    assert_eq!(edge.calls().len(), 0, "nobody was asked");
}

#[test]
fn a_byte_order_mark_is_no_part_of_an_id() {
    let (redis, edge) = (TestRedis::start(), EdgeStub::start());
    edge.give_entitlements(&state(ONE, 5), &[]);
    let ended = warm(&redis, &edge, "\u{feff}one\r\n", &[]);
    assert_eq!((ended.status, ended.stdout.as_str()), (0, "1 filled\n"), "{ended:?}");
}

#[test]
fn a_key_that_is_refused_ends_it_at_once() {
    let (redis, edge) = (TestRedis::start(), EdgeStub::start());
    edge.accept_key("another-key");
    let ended = warm(&redis, &edge, &"one\n".repeat(50), &["--parallel", "2"]);
    assert_eq!(ended.status, 1, "{ended:?}");
    assert!(ended.stderr.contains("gave up") && ended.stderr.contains("SERVER_API_KEY"), "{ended:?}");
    assert!(edge.calls().len() <= 4, "{:?}", edge.calls());
    assert!(!ended.stderr.contains(SERVER_API_KEY));
}

#[test]
fn faults_of_both_redis_and_the_edge_api_are_reported_at_once() {
    let ended = run(&Settings::default(), &["warm", "-"]);
    assert_eq!(ended.status, 78, "{ended:?}");
    for name in ["REDIS_HOST", "SERVER_API_KEY"] {
        assert!(ended.stderr.contains(name), "{name}: {ended:?}");
    }
    assert!(!ended.stderr.contains("QUEUE_URL"), "{ended:?}");
}
