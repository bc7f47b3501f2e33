//! What becomes of each message: applied and deleted, counted and deleted, or left to the queue's own rules.

use serde_json::json;

use crate::support::messages::{Envelope, Shape, entitlements_updated, event};
use crate::support::moto::Moto;
use crate::support::sdk::Owner;
use crate::support::service::Service;
use crate::support::stage::{PREFIX, Stage};
use crate::support::state::{State, every_kind, hours_ago};
use crate::support::tools::repository_file;

#[test]
fn an_unknown_type_is_acknowledged_and_changes_nothing() {
    let stage = Stage::new();
    let service = Service::start(&stage.settings().set("CACHE_UPDATE_POLICY", "UPSERT"));
    let unknown = ["COUPON_CREATED", "coupon.created", "SomethingThatDoesNotExistYet"]
        .map(|name| event(name, hours_ago(1), &json!({"customerId": "customer-1"})));
    let bodies: Vec<String> =
        unknown.iter().flat_map(|message| Envelope::ALL.map(|envelope| message.wrapped(envelope))).collect();
    stage.deliver(&service, &bodies);
    assert_eq!(stage.redis.keys(), Vec::<String>::new());
    let metrics = service.metrics();
    let ignored = metrics.sum("persistent_cache_messages_ignored_total");
    assert!((ignored - 9.0).abs() < f64::EPSILON, "{ignored}");
    assert!(
        !metrics.series.keys().any(|series| series.contains("SomethingThatDoesNotExistYet")),
        "a type that anybody can make up is no label"
    );
    service.stop();
}

#[test]
fn a_body_that_cannot_be_read_is_left_to_the_queue_and_does_not_hold_up_the_others() {
    let stage = Stage::new();
    let service = Service::start(&stage.settings().set("CACHE_UPDATE_POLICY", "UPSERT"));
    let unreadable = ["", "null", "[]", "\"text\"", "not json", "{\"type\":\"entitlements.updated\"}"];
    let unreadable = unreadable.into_iter().filter(|body| !body.is_empty()).map(str::to_owned);
    let mut bodies: Vec<String> = unreadable.collect();
    let count = bodies.len();
    let state = State::new(Owner::customer("customer-1"), hours_ago(1), &every_kind(0));
    bodies.push(entitlements_updated(&state, Shape::GraphqlV2).raw());
    stage.queue.send_all(&bodies);
    service.wait_until("the readable message to be applied", || {
        stage.redis.get(&state.owner().key(PREFIX)).is_some()
    });
    let malformed = f64::from(u32::try_from(count).expect("a small number"));
    service.wait_for_metric("persistent_cache_messages_malformed_total", malformed);
    service.wait_until("the readable message alone to be deleted", || {
        let counts = stage.queue.counts();
        counts.visible + counts.in_flight == count
    });
    service.stop();
}

#[test]
fn a_body_that_cannot_be_read_reaches_the_dead_letter_queue() {
    let dead_letters = Moto::shared().queue();
    let redrive = json!({"deadLetterTargetArn": dead_letters.arn(), "maxReceiveCount": 1}).to_string();
    let queue = Moto::shared().queue_with(&json!({"RedrivePolicy": redrive, "VisibilityTimeout": "1"}));
    let stage = Stage { queue, ..Stage::new() };
    let service = Service::start(&stage.settings());
    stage.queue.send("not json");
    service.wait_until("the message to be a dead letter", || dead_letters.counts().visible == 1);
    assert!(stage.queue.is_empty());
    service.stop();
}

#[test]
fn a_fifo_queue_works_too() {
    let stage = Stage { queue: Moto::shared().fifo_queue(), ..Stage::new() };
    let service = Service::start(&stage.settings().set("CACHE_UPDATE_POLICY", "UPSERT"));
    let owner = Owner::customer("customer-1");
    for hours in [3, 2, 1] {
        let state = State::new(owner, hours_ago(hours), &every_kind(hours));
        stage.queue.send(&entitlements_updated(&state, Shape::GraphqlV2).raw());
    }
    service.wait_until("an empty queue", || stage.queue.is_empty());
    let entry = stage.redis.json(&owner.key(PREFIX)).expect("an entry");
    assert_eq!(entry["feature-seats"]["calculatedEntitlement"]["usageLimit"], json!(26));
    service.stop();
}

#[test]
fn the_sample_messages_are_all_understood() {
    let stage = Stage::new();
    let service = Service::start(&stage.settings().set("CACHE_UPDATE_POLICY", "UPSERT"));
    let mut files: Vec<_> = std::fs::read_dir(repository_file("tests/samples"))
        .expect("samples")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    assert!(files.len() >= 12, "{files:?}");
    let bodies: Vec<String> =
        files.iter().map(|file| std::fs::read_to_string(file).expect("a sample")).collect();
    stage.deliver(&service, &bodies);
    let malformed = service.metrics().value("persistent_cache_messages_malformed_total");
    assert!(malformed.abs() < f64::EPSILON, "{malformed}");
    service.stop();
}
