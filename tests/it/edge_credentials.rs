//! Temporary credentials from the Edge API: fetched at start, renewed before they expire, without a gap.

use persistent_cache_service::clock;

use crate::support::edge::EdgeStub;
use crate::support::messages::{Shape, entitlements_updated};
use crate::support::sdk::Owner;
use crate::support::service::{Service, Settings};
use crate::support::stage::{PREFIX, Stage};
use crate::support::state::{State, every_kind, hours_ago};

fn settings(stage: &Stage, edge: &EdgeStub) -> Settings {
    stage
        .settings()
        .unset("AWS_ACCESS_KEY_ID")
        .unset("AWS_SECRET_ACCESS_KEY")
        .set("EDGE_API_URL", &edge.url)
        .set("CACHE_UPDATE_POLICY", "UPSERT")
}

fn in_seconds(seconds: i64) -> i64 {
    clock::now().0 + seconds * 1000
}

fn credential_calls(edge: &EdgeStub) -> usize {
    let of_credentials = |url: &str| url.starts_with("/v1/credentials/event-queue.json?");
    edge.calls().iter().filter(|call| of_credentials(&call.url) && call.status == 200).count()
}

#[test]
fn are_asked_for_with_the_server_key_and_the_queues_url() {
    let stage = Stage::new();
    let edge = EdgeStub::start();
    let expiry = in_seconds(3600);
    edge.give_credentials(&stage.queue.moto.temporary_credentials(), expiry);
    let service = Service::start(&settings(&stage, &edge));
    let state = State::new(Owner::customer("customer-1"), hours_ago(1), &every_kind(0));
    stage.deliver(&service, &[entitlements_updated(&state, Shape::GraphqlV2).raw()]);
    assert!(stage.redis.get(&state.owner().key(PREFIX)).is_some());

    let calls = edge.calls();
    assert_eq!(credential_calls(&edge), 1, "one answer is enough for an hour: {calls:?}");
    let queue_url: String = url::form_urlencoded::byte_serialize(stage.queue.url.as_bytes()).collect();
    for call in &calls {
        assert!(call.authorised, "{call:?}");
        assert_eq!(call.version.as_deref(), Some("1"), "{call:?}");
        assert_eq!(call.url, format!("/v1/credentials/event-queue.json?queueUrl={queue_url}"));
    }
    let metrics = service.metrics();
    let series = "persistent_cache_credentials_expiry_timestamp_seconds";
    let told = metrics.series.iter().find(|(name, _)| name.starts_with(series)).map(|(_, value)| *value);
    let told = told.expect("the expiry is a metric");
    assert!((told - expiry as f64 / 1000.0).abs() < 1.0, "{told}");
    service.stop();
}

#[test]
fn are_renewed_before_they_expire() {
    let stage = Stage::new();
    let edge = EdgeStub::start();
    let first = stage.queue.moto.temporary_credentials();
    edge.give_credentials(&first, in_seconds(15));
    let service = Service::start(&settings(&stage, &edge));
    let second = stage.queue.moto.temporary_credentials();
    edge.give_credentials(&second, in_seconds(3600));
    let calls = credential_calls(&edge);
    service.wait_until("a second call for credentials", || credential_calls(&edge) > calls);
    service.wait_until("the new expiry to be told", || {
        let metrics = service.metrics();
        let limit = in_seconds(1800) as f64 / 1000.0;
        let name = "persistent_cache_credentials_expiry_timestamp_seconds";
        metrics.series.iter().any(|(series, value)| series.starts_with(name) && *value > limit)
    });

    stage.queue.moto.revoke(&first);
    let state = State::new(Owner::customer("customer-1"), hours_ago(1), &every_kind(0));
    stage.deliver(&service, &[entitlements_updated(&state, Shape::GraphqlV2).raw()]);
    assert!(stage.redis.get(&state.owner().key(PREFIX)).is_some());
    let errors = service.metrics().value("persistent_cache_queue_errors_total{operation=\"receive\"}");
    assert!(errors.abs() < f64::EPSILON, "there was no gap: {errors} failed calls");
    service.stop();
}

#[test]
fn that_cannot_be_had_leave_the_service_alive_and_it_heals() {
    let stage = Stage::new();
    let edge = EdgeStub::start();
    let service = Service::spawn(&settings(&stage, &edge));
    service.wait_for_complaint(&["credentials", &edge.url, "500"]);
    assert_eq!(service.get("/livez").status, 200);
    assert_eq!(service.get("/readyz").status, 503);
    edge.give_credentials(&stage.queue.moto.temporary_credentials(), in_seconds(3600));
    service.wait_until_ready();
    service.stop();
}

#[test]
fn are_refused_to_a_wrong_server_key_and_the_log_says_so() {
    let stage = Stage::new();
    let edge = EdgeStub::start();
    edge.give_credentials(&stage.queue.moto.temporary_credentials(), in_seconds(3600));
    let service = Service::spawn(&settings(&stage, &edge).set("SERVER_API_KEY", "a-key-that-is-wrong"));
    let complaint = service.wait_for_complaint(&["401", "SERVER_API_KEY"]);
    assert!(!complaint.contains("a-key-that-is-wrong"), "{complaint}");
    assert_eq!(service.get("/readyz").status, 503);
    service.stop();
}

#[test]
fn and_sentrys_address_are_no_condition_for_the_main_job() {
    let stage = Stage::new();
    let edge = EdgeStub::start();
    // Static credentials, and nobody listens where Sentry would be.
    edge.give_sentry_dsn("http://key@127.0.0.1:9/1");
    let settings = stage
        .settings()
        .set("EDGE_API_URL", &edge.url)
        .set("DISABLE_SENTRY", "0")
        .set("CACHE_UPDATE_POLICY", "UPSERT");
    let service = Service::start(&settings);
    service.wait_until("the remote configuration to be asked for", || {
        edge.calls().iter().any(|call| call.url.starts_with("/v1/config/server-sdk-configuration.json"))
    });
    let state = State::new(Owner::customer("customer-1"), hours_ago(1), &every_kind(0));
    stage.deliver(&service, &[entitlements_updated(&state, Shape::GraphqlV2).raw()]);
    assert!(stage.redis.get(&state.owner().key(PREFIX)).is_some());
    assert!(edge.calls().iter().all(|call| call.authorised));
    service.stop();
}

#[test]
fn are_not_asked_for_where_there_are_keys_and_sentry_is_off() {
    let stage = Stage::new();
    let edge = EdgeStub::start();
    let service = Service::start(&stage.settings().set("EDGE_API_URL", &edge.url));
    service.stop();
    assert!(edge.calls().is_empty(), "{:?}", edge.calls());
}
