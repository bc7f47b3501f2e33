//! The endpoints: alive, ready, metrics, and a JSON 404 for anything else.

use serde_json::{Value, json};

use crate::support::messages::{Shape, entitlements_updated};
use crate::support::sdk::Owner;
use crate::support::service::Service;
use crate::support::stage::Stage;
use crate::support::state::{State, every_kind, hours_ago};

/// Names and types as documented by Stigg, kept exactly, and ours beyond them.
const METRICS: [(&str, &str); 23] = [
    ("persistent_cache_write_duration_seconds", "histogram"),
    ("persistent_cache_write_errors_total", "counter"),
    ("persistent_cache_hit_ratio", "gauge"),
    ("persistent_cache_memory_usage_bytes", "gauge"),
    ("persistent_cache_hits_total", "gauge"),
    ("persistent_cache_misses_total", "gauge"),
    ("persistent_cache_message_handling_duration_seconds", "histogram"),
    ("persistent_cache_messages_processed_total", "counter"),
    ("persistent_cache_messages_received_total", "counter"),
    ("persistent_cache_messages_ignored_total", "counter"),
    ("persistent_cache_messages_malformed_total", "counter"),
    ("persistent_cache_messages_failed_total", "counter"),
    ("persistent_cache_writes_skipped_total", "counter"),
    ("persistent_cache_message_age_seconds", "histogram"),
    ("persistent_cache_queue_errors_total", "counter"),
    ("persistent_cache_in_flight_messages", "gauge"),
    ("persistent_cache_last_poll_timestamp_seconds", "gauge"),
    ("persistent_cache_last_write_timestamp_seconds", "gauge"),
    ("persistent_cache_consumers", "gauge"),
    ("persistent_cache_redis_up", "gauge"),
    ("persistent_cache_build_info", "gauge"),
    ("process_resident_memory_bytes", "gauge"),
    ("process_cpu_seconds_total", "counter"),
];

#[test]
fn livez_and_readyz_say_what_is_documented() {
    let stage = Stage::new();
    let service = Service::start(&stage.settings().set("CONSUMERS", "3"));
    let live = service.get("/livez");
    assert_eq!((live.status, live.body.as_str()), (200, r#"{"status":"UP"}"#));
    assert!(live.content_type.starts_with("application/json"), "{}", live.content_type);
    service.wait_until("all pollers to be alive", || {
        let ready = service.get("/readyz");
        ready.status == 200 && ready.body == r#"{"status":"UP","consumers":3,"redis":"CONNECTED"}"#
    });
    assert!(service.get("/readyz").content_type.starts_with("application/json"));
    service.stop();
}

#[test]
fn anything_else_is_a_json_404() {
    let stage = Stage::new();
    let service = Service::start(&stage.settings());
    for path in ["//", "/health", "/livez/more", "/metricsx", "/..%2f", "/%00"] {
        let answer = service.get(path);
        assert_eq!(answer.status, 404, "{path}: {}", answer.body);
        assert!(answer.content_type.starts_with("application/json"), "{path}: {}", answer.content_type);
        let body: Value =
            serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(body.is_object(), "{path}: {body}");
    }
    service.stop();
}

#[test]
fn every_metric_is_there_from_the_start_with_its_type_and_a_help_text() {
    let stage = Stage::new();
    let service = Service::start(&stage.settings());
    let page = service.get("/metrics");
    assert!(page.content_type.starts_with("text/plain"), "{}", page.content_type);
    let metrics = service.metrics();
    for (name, kind) in METRICS {
        assert_eq!(metrics.types.get(name).map(String::as_str), Some(kind), "{name}");
        assert!(metrics.helped.iter().any(|helped| helped == name), "{name} has no help text");
    }
    assert!(
        !page.body.contains("persistent_cache_credentials_expiry_timestamp_seconds"),
        "static credentials do not expire"
    );
    let build = metrics.series.keys().find(|series| series.starts_with("persistent_cache_build_info{"));
    let build = build.expect("a build info");
    assert!(build.contains(&format!("version=\"{}\"", env!("CARGO_PKG_VERSION"))), "{build}");
    assert!(build.contains("commit=\""), "{build}");
    service.stop();
}

#[test]
fn metrics_count_what_happened() {
    let stage = Stage::new();
    let service = Service::start(&stage.settings().set("CACHE_UPDATE_POLICY", "UPSERT"));
    let owner = Owner::customer("customer-1");
    let newer =
        entitlements_updated(&State::new(owner, hours_ago(1), &every_kind(0)), Shape::GraphqlV2).raw();
    let older =
        entitlements_updated(&State::new(owner, hours_ago(5), &every_kind(0)), Shape::GraphqlV2).raw();
    let unknown = json!({"type": "COUPON_CREATED", "payload": {}}).to_string();
    stage.deliver(&service, &[newer]);
    stage.deliver(&service, &[older, unknown]);
    service.wait_for_metric("persistent_cache_message_handling_duration_seconds_count", 3.0);

    let metrics = service.metrics();
    let value = |series: &str| metrics.value(series);
    let equal = |series: &str, expected: f64| {
        assert!(
            (value(series) - expected).abs() < f64::EPSILON,
            "{series} is {}, not {expected}",
            value(series)
        );
    };
    equal("persistent_cache_messages_received_total", 3.0);
    equal("persistent_cache_messages_malformed_total", 0.0);
    equal("persistent_cache_write_errors_total", 0.0);
    equal("persistent_cache_in_flight_messages", 0.0);
    equal("persistent_cache_redis_up", 1.0);
    equal("persistent_cache_consumers", 2.0);
    assert!(value("persistent_cache_writes_skipped_total{reason=\"stale\"}") >= 1.0);
    let ignored = metrics.sum("persistent_cache_messages_ignored_total");
    assert!((ignored - 1.0).abs() < f64::EPSILON, "ignored: {ignored}");
    assert!(value("persistent_cache_write_duration_seconds_count") >= 1.0);
    assert!(value("persistent_cache_message_age_seconds_count") >= 1.0);
    assert!(value("persistent_cache_message_age_seconds_sum") < 60.0, "seconds, not milliseconds");
    let now = persistent_cache_service::clock::now().0 as f64 / 1000.0;
    for series in
        ["persistent_cache_last_poll_timestamp_seconds", "persistent_cache_last_write_timestamp_seconds"]
    {
        assert!((now - value(series)).abs() < 120.0, "{series} is {}", value(series));
    }
    // Redis's own figures are sampled now and then.
    service.wait_for_metric("persistent_cache_memory_usage_bytes", 100_000.0);
    let ratio = service.metrics().value("persistent_cache_hit_ratio");
    assert!((0.0..=100.0).contains(&ratio), "{ratio}");
    service.stop();
}
