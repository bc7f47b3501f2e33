//! Error reports: where they go, what they hold, and that nothing waits for them.

use crate::support::edge::EdgeStub;
use crate::support::messages::{Shape, entitlements_updated};
use crate::support::sdk::Owner;
use crate::support::sentry::SentryStub;
use crate::support::service::Service;
use crate::support::stage::{PREFIX, Stage};
use crate::support::state::{State, every_kind, hours_ago};

const UNREADABLE: &str = r#"{"type":"measurement.reported","customer":{"id":"customer-of-the-test"}}"#;

#[test]
fn of_an_unreadable_message_reach_sentry_without_its_content() {
    let stage = Stage::new();
    let sentry = SentryStub::start();
    let settings = stage.settings().unset("DISABLE_SENTRY").set("SENTRY_DSN", &sentry.dsn);
    let service = Service::start(&settings);
    stage.queue.send_all(&[UNREADABLE.to_owned()]);
    service.wait_until("a report", || sentry.reports().contains("cannot read a message"));
    assert!(!sentry.reports().contains("customer-of-the-test"), "{}", sentry.reports());
    service.stop();
}

#[test]
fn go_where_the_remote_configuration_says() {
    let stage = Stage::new();
    let (sentry, edge) = (SentryStub::start(), EdgeStub::start());
    edge.give_sentry_dsn(&sentry.dsn);
    let settings = stage.settings().unset("DISABLE_SENTRY").set("EDGE_API_URL", &edge.url);
    let service = Service::start(&settings);
    service.wait_until("reports are on", || {
        service.log_lines().iter().any(|line| line.contains("errors of this service are reported to Sentry"))
    });
    stage.queue.send_all(&[UNREADABLE.to_owned()]);
    service.wait_until("a report", || sentry.reports().contains("cannot read a message"));
    let asked = edge.calls();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(asked[0].url, "/v1/config/server-sdk-configuration.json");
    service.stop();
}

#[test]
fn are_not_asked_for_when_sentry_is_disabled() {
    let stage = Stage::new();
    let edge = EdgeStub::start();
    let settings = stage.settings().set("DISABLE_SENTRY", "1").set("EDGE_API_URL", &edge.url);
    let service = Service::start(&settings);
    let state = State::new(Owner::customer("customer-1"), hours_ago(1), &every_kind(0));
    stage.deliver(&service, &[entitlements_updated(&state, Shape::GraphqlV2).raw()]);
    assert_eq!(edge.calls().len(), 0, "{:?}", edge.calls());
    service.stop();
}

#[test]
fn that_cannot_be_delivered_hold_up_nothing() {
    let stage = Stage::new();
    // A port that refuses, for both.
    let gone = { SentryStub::start().dsn.clone() };
    let settings = stage
        .settings()
        .unset("DISABLE_SENTRY")
        .set("SENTRY_DSN", &gone)
        .set("EDGE_API_URL", "http://127.0.0.1:9")
        .set("CACHE_UPDATE_POLICY", "UPSERT");
    let service = Service::start(&settings);
    stage.queue.send_all(&[UNREADABLE.to_owned()]);
    let state = State::new(Owner::customer("customer-1"), hours_ago(1), &every_kind(0));
    stage.queue.send_all(&[entitlements_updated(&state, Shape::GraphqlV2).raw()]);
    service.wait_until("the customer is written", || stage.redis.get(&state.owner().key(PREFIX)).is_some());
    service.stop();
}
