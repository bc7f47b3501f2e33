//! Which customers are written, and for how long.

use serde_json::json;

use crate::support::messages::{Shape, credit_balance, entitlements_updated, usage_updated};
use crate::support::sdk::{Owner, Sdk};
use crate::support::service::Service;
use crate::support::stage::{PREFIX, Stage};
use crate::support::state::{State, every_kind, hours_ago};

const OWNER: Owner = Owner { customer: "customer-1", resource: None };

fn state(hours: i64) -> State {
    State::new(OWNER, hours_ago(hours), &every_kind(0))
}

#[test]
fn update_if_exists_leaves_an_unknown_customer_out_of_redis() {
    let stage = Stage::new();
    let service = Service::start(&stage.settings());
    stage.deliver(&service, &[entitlements_updated(&state(1), Shape::GraphqlV2).raw()]);
    assert_eq!(stage.redis.keys(), Vec::<String>::new());
    service.wait_for_metric("persistent_cache_writes_skipped_total{reason=\"policy\"}", 1.0);
    service.stop();
}

#[test]
fn upsert_writes_an_unknown_customer() {
    let stage = Stage::new();
    let service = Service::start(&stage.settings().set("CACHE_UPDATE_POLICY", "UPSERT"));
    stage.deliver(&service, &[entitlements_updated(&state(1), Shape::GraphqlV2).raw()]);
    let sdk = Sdk::open(&stage.redis, PREFIX);
    let answers = sdk.entitlements(OWNER);
    assert_eq!(answers.as_array().map(Vec::len), Some(every_kind(0).len()), "{answers}");
    assert_eq!(sdk.calls(), Vec::<String>::new());
    service.stop();
}

#[test]
fn a_usage_without_its_customer_writes_nothing_under_either_policy() {
    for policy in ["UPDATE_IF_EXISTS", "UPSERT"] {
        let stage = Stage::new();
        let service = Service::start(&stage.settings().set("CACHE_UPDATE_POLICY", policy));
        let usage = usage_updated(&state(2), "feature-api-calls", 43, hours_ago(1), Shape::Webhook).raw();
        let balance = credit_balance(OWNER, "cred-type-ai", 10, hours_ago(1)).raw();
        stage.deliver(&service, &[usage, balance]);
        assert_eq!(stage.redis.keys(), Vec::<String>::new(), "{policy}");
        service.wait_for_metric("persistent_cache_writes_skipped_total{reason=\"no_customer\"}", 2.0);
        service.stop();
    }
}

#[test]
fn an_older_state_is_skipped_and_counted() {
    let stage = Stage::new();
    let sdk = Sdk::open(&stage.redis, PREFIX);
    sdk.cache(&[&state(1)]);
    let cached = stage.redis.contents();
    let service = Service::start(&stage.settings());
    stage.deliver(&service, &[entitlements_updated(&state(5), Shape::GraphqlV2).raw()]);
    let after = stage.redis.contents();
    let key = OWNER.key(PREFIX);
    for name in [key.clone(), format!("{key}#timestamp"), format!("{key}:f_feature-api-calls")] {
        assert_eq!(after.get(&name), cached.get(&name), "{name}");
    }
    service.wait_for_metric("persistent_cache_writes_skipped_total{reason=\"stale\"}", 1.0);
    service.stop();
}

#[test]
fn keys_live_as_long_as_was_asked_for() {
    for (setting, expected) in [("100", 90..=100), ("-1", -1..=-1)] {
        let stage = Stage::new();
        let settings = stage.settings().set("CACHE_UPDATE_POLICY", "UPSERT").set("KEYS_TTL_IN_SECS", setting);
        let service = Service::start(&settings);
        stage.deliver(&service, &[entitlements_updated(&state(1), Shape::GraphqlV2).raw()]);
        let snapshot = stage.redis.snapshot();
        assert!(snapshot.contains_key(&OWNER.key(PREFIX)), "{snapshot:?}");
        for (key, entry) in snapshot {
            assert!(expected.contains(&entry.ttl), "KEYS_TTL_IN_SECS={setting}, {key}: {} s", entry.ttl);
        }
        service.stop();
    }
}

#[test]
fn the_environment_prefix_is_the_first_part_of_every_key() {
    let stage = Stage::new();
    let settings =
        stage.settings().set("CACHE_UPDATE_POLICY", "UPSERT").set("ENVIRONMENT_PREFIX", "dev-ünit:7");
    let service = Service::start(&settings);
    stage.deliver(&service, &[entitlements_updated(&state(1), Shape::GraphqlV2).raw()]);
    let keys = stage.redis.keys();
    assert!(!keys.is_empty());
    assert!(keys.iter().all(|key| key.starts_with("dev-ünit:7:c_customer-1")), "{keys:?}");
    let metadata = stage.redis.json("dev-ünit:7:c_customer-1:metadata");
    assert_eq!(metadata, Some(json!({"accessDeniedReason": null})));
    service.stop();
}
