//! Golden writes: what the service makes of a message is what the published SDK 3.95.0 itself writes when it
//! fetches the same state: every key, value, timestamp and expiry.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::messages::{Envelope, Shape, entitlements_updated};
use crate::support::redis::{Entry, TTL_TOLERANCE};
use crate::support::sdk::{Owner, Sdk};
use crate::support::service::Service;
use crate::support::stage::{PREFIX, Stage};
use crate::support::state::{State, boolean, every_kind, hours_ago, metered, with};

const CUSTOMER: &str = "customer-gölden: 1";
const RESOURCE: &str = "site/1";

/// Lets the SDK write these states, then the service; compares.
fn the_service_writes_what_the_sdk_writes(states: &[State], shape: Shape, envelope: Envelope) {
    let stage = Stage::new();
    let sdk = Sdk::open(&stage.redis, PREFIX);
    sdk.cache(&states.iter().collect::<Vec<_>>());
    let by_the_sdk = stage.redis.snapshot();
    assert!(by_the_sdk.contains_key(&states[0].owner().key(PREFIX)), "the SDK wrote {by_the_sdk:?}");
    drop(sdk);
    stage.redis.command::<()>(&["FLUSHALL"]);

    let settings = stage.settings().set("CACHE_FORMAT", "v3").set("CACHE_UPDATE_POLICY", "UPSERT");
    let service = Service::start(&settings);
    let messages: Vec<String> =
        states.iter().map(|state| entitlements_updated(state, shape).wrapped(envelope)).collect();
    stage.deliver(&service, &messages);
    assert_same_writes(&stage.redis.snapshot(), &by_the_sdk);
    service.stop();
}

fn assert_same_writes(by_the_service: &BTreeMap<String, Entry>, by_the_sdk: &BTreeMap<String, Entry>) {
    let names = |entries: &BTreeMap<String, Entry>| entries.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(by_the_service), names(by_the_sdk), "the keys (left: the service's, right: the SDK's)");
    for (key, sdk) in by_the_sdk {
        let service = &by_the_service[key];
        let json =
            |text: &str| serde_json::from_str::<Value>(text).unwrap_or_else(|_| panic!("{key}: {text}"));
        if key.ends_with("#timestamp") {
            assert_eq!(service.value, sdk.value, "{key} (left: the service's, right: the SDK's)");
        } else {
            let (by_service, by_sdk) = (json(&service.value), json(&sdk.value));
            // Feature by feature, so that a difference can be read.
            if let (Some(ours), Some(theirs)) = (by_service.as_object(), by_sdk.as_object()) {
                for (name, value) in theirs {
                    let ours = ours.get(name);
                    assert_eq!(ours, Some(value), "{key}, {name} (left: the service's, right: the SDK's)");
                }
            }
            assert_eq!(by_service, by_sdk, "{key} (left: the service's, right: the SDK's)");
        }
        let apart = service.ttl.abs_diff(sdk.ttl);
        assert!(apart <= TTL_TOLERANCE.as_secs(), "the life of {key}: {} s and {} s", service.ttl, sdk.ttl);
    }
}

/// States of a customer and of one of its resources, as a message of this shape can express them.
fn customer_and_resource(entitlements_at: i64, usages_at: i64, shape: Shape) -> Vec<State> {
    let customer = Owner::customer(CUSTOMER);
    let resource = Owner::resource(CUSTOMER, RESOURCE);
    let mut states = vec![
        State::with_usage_times(customer, entitlements_at, usages_at, &every_kind(0)),
        State::with_usage_times(resource, entitlements_at + 1000, usages_at + 1000, &every_kind(1)),
    ];
    // In these shapes the message names the resource, and its entitlements do not: what an entry says of itself
    // is left out where nothing is said, by the SDK as by the service.
    if matches!(shape, Shape::Webhook | Shape::GraphqlV2) {
        for entitlement in states.iter_mut().flat_map(|state| &mut state.entitlements) {
            entitlement["resourceId"] = Value::Null;
        }
    }
    states
}

#[test]
fn of_a_webhook_message_of_every_kind_of_entitlement() {
    // A webhook message has one time for all that is in it.
    let states = customer_and_resource(hours_ago(2), hours_ago(2), Shape::Webhook);
    the_service_writes_what_the_sdk_writes(&states, Shape::Webhook, Envelope::Raw);
}

#[test]
fn of_a_graphql_v1_message_of_every_kind_of_entitlement() {
    let states = customer_and_resource(hours_ago(3), hours_ago(2), Shape::GraphqlV1);
    the_service_writes_what_the_sdk_writes(&states, Shape::GraphqlV1, Envelope::Sns);
}

#[test]
fn of_a_graphql_v2_message_of_every_kind_of_entitlement() {
    let states = customer_and_resource(hours_ago(3), hours_ago(2), Shape::GraphqlV2);
    the_service_writes_what_the_sdk_writes(&states, Shape::GraphqlV2, Envelope::EventBridge);
}

#[test]
fn of_an_event_log_message_of_every_kind_of_entitlement() {
    let states = customer_and_resource(hours_ago(2), hours_ago(3), Shape::EventLog);
    the_service_writes_what_the_sdk_writes(&states, Shape::EventLog, Envelope::Raw);
}

#[test]
fn of_entitlements_with_absent_fields_and_of_a_meter_without_a_measurement() {
    let sparse = json!({
        "__typename": "Entitlement",
        "feature": {"__typename": "EntitlementFeature", "featureType": "BOOLEAN", "refId": "feature-sparse"},
    });
    let unmeasured = with(metered("feature-unmeasured", 10, 0), &json!({"currentUsage": null}));
    let state = State::new(
        Owner::customer(CUSTOMER),
        hours_ago(2),
        &[sparse, unmeasured, boolean("feature-sso"), metered("feature-api-calls", 100, 0)],
    );
    the_service_writes_what_the_sdk_writes(&[state], Shape::GraphqlV1, Envelope::Raw);
}
