//! The log: one JSON object a line, keys as asked for, and nothing in it that is nobody's business.

use serde_json::Value;

use crate::support::messages::{Shape, entitlements_updated, purge, usage_updated};
use crate::support::sdk::Owner;
use crate::support::service::{SERVER_API_KEY, Service};
use crate::support::stage::Stage;
use crate::support::state::{State, every_kind, hours_ago};

const CUSTOMER: &str = "customer-who-is-nobodys-business";

/// Every kind of message that names the customer, and one that cannot be read.
fn telling_messages() -> Vec<String> {
    let owner = Owner::customer(CUSTOMER);
    let state = State::new(owner, hours_ago(2), &every_kind(0));
    vec![
        entitlements_updated(&state, Shape::Webhook).raw(),
        usage_updated(&state, "feature-api-calls", 43, hours_ago(1), Shape::Webhook).raw(),
        purge(owner, hours_ago(1)).raw(),
        format!("{{\"type\":\"entitlements.updated\",\"customer\":{{\"id\":\"{CUSTOMER}\""),
    ]
}

#[test]
fn every_line_is_a_json_object_with_time_level_and_message_under_the_keys_asked_for() {
    let stage = Stage::new();
    let settings = stage
        .settings()
        .set("LOG_LEVEL", "debug")
        .set("LOG_MESSAGE_KEY", "message")
        .set("LOG_ERROR_KEY", "error")
        .set("POISON_POLICY", "delete");
    let service = Service::start(&settings);
    stage.deliver(&service, &telling_messages());
    let log = service.log();
    assert!(log.len() > 3, "{log:?}");
    for record in &log {
        for key in ["time", "level", "target", "message"] {
            assert!(record[key].is_string(), "{key} in {record}");
        }
        assert!(
            record.get("msg").is_none() && record.get("err").is_none(),
            "{record}"
        );
    }
    service.stop();
}

#[test]
fn an_error_stands_under_its_own_key() {
    let stage = Stage::new();
    let settings = stage
        .settings()
        .set("AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:9")
        .set("LOG_ERROR_KEY", "cause");
    let service = Service::spawn(&settings);
    service.wait_for_complaint(&["127.0.0.1:9"]);
    let with_error = service
        .log()
        .into_iter()
        .find(|record| record["cause"].is_string());
    assert!(with_error.is_some(), "{:?}", service.log_lines());
    service.stop();
}

#[test]
fn no_secret_and_no_customer_is_in_it_at_level_info() {
    let stage = Stage::new();
    let settings = stage
        .settings()
        .set("LOG_LEVEL", "info")
        .set("CACHE_UPDATE_POLICY", "UPSERT")
        .set("POISON_POLICY", "delete")
        .set("REDIS_USERNAME", "default");
    let service = Service::start(&settings);
    stage.deliver(&service, &telling_messages());
    let secret = stage.queue.moto.service_user.secret.clone();
    let (lines, stderr) = (service.log_lines(), service.stderr());
    service.stop();
    assert!(!lines.is_empty(), "a start is worth a line");
    for line in lines.iter().chain(&stderr) {
        for hidden in [
            CUSTOMER,
            "feature-api-calls",
            "demo@example.com",
            secret.as_str(),
            SERVER_API_KEY,
        ] {
            assert!(!line.contains(hidden), "{hidden} in {line}");
        }
    }
}

#[test]
fn no_secret_is_in_it_at_level_debug_either() {
    let stage = Stage::new();
    let service = Service::start(
        &stage
            .settings()
            .set("LOG_LEVEL", "debug")
            .set("POISON_POLICY", "delete"),
    );
    stage.deliver(&service, &telling_messages());
    let secret = stage.queue.moto.service_user.secret.clone();
    for line in service.log_lines().iter().chain(&service.stderr()) {
        for hidden in [secret.as_str(), SERVER_API_KEY] {
            assert!(!line.contains(hidden), "{line}");
        }
    }
    service.stop();
}

#[test]
fn a_level_holds_back_what_is_below_it() {
    let stage = Stage::new();
    let service = Service::start(&stage.settings().set("LOG_LEVEL", "error"));
    stage.deliver(&service, &telling_messages()[..3]);
    assert_eq!(service.log_lines(), Vec::<String>::new());
    service.stop();
}

#[test]
fn a_body_that_cannot_be_read_is_logged_once_with_its_id_its_size_and_the_place_of_the_fault() {
    let stage = Stage::new();
    let service = Service::start(&stage.settings().set("POISON_POLICY", "delete"));
    let body = "{\"type\": \"entitlements.updated\", \"customer\": nonsense-of-nobodys-business}";
    let id = stage.queue.send(body);
    service.wait_until("an empty queue", || stage.queue.is_empty());
    let about_it: Vec<Value> = service
        .log()
        .into_iter()
        .filter(|record| record.to_string().contains(&id))
        .collect();
    assert_eq!(about_it.len(), 1, "{about_it:?}");
    let line = about_it[0].to_string();
    assert!(
        line.contains(&body.len().to_string()),
        "its size, {} bytes: {line}",
        body.len()
    );
    assert!(line.contains("column"), "the place: {line}");
    assert!(!line.contains("nonsense-of-nobodys-business"), "{line}");
    service.wait_for_metric("persistent_cache_messages_malformed_total", 1.0);
    service.stop();
}

#[test]
fn a_burst_of_the_same_fault_is_not_a_line_each() {
    let stage = Stage::new();
    let settings = stage
        .settings()
        .set("CONSUMERS", "10")
        .set("AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:9");
    let service = Service::spawn(&settings);
    let failed = "persistent_cache_queue_errors_total{operation=\"receive\"}";
    service.wait_for_metric(failed, 20.0);
    let complaints = service
        .log_lines()
        .iter()
        .filter(|line| line.contains("127.0.0.1:9"))
        .count();
    assert!(
        (1..=5).contains(&complaints),
        "{complaints} lines for 20 failures: {:?}",
        service.log_lines()
    );
    service.stop();
}
