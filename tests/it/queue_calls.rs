//! How the queue is called: at which address, with which time, and what its refusals are taken for.

use crate::fakes::queue::QueueOptions;
use crate::support::fake_stage::FakeStage;
use crate::support::messages::{Shape, entitlements_updated};
use crate::support::sdk::Owner;
use crate::support::service::Service;
use crate::support::stage::PREFIX;
use crate::support::state::{State, boolean, hours_ago};

const MINUTE_MS: i64 = 60_000;

fn send(stage: &FakeStage, customer: &str) {
    let state = State::new(Owner::customer(customer), hours_ago(1), &[boolean("feature-sso")]);
    stage.queue.send(entitlements_updated(&state, Shape::GraphqlV2).raw());
}

fn wait_until_applied(service: &Service, stage: &FakeStage, customer: &str) {
    service.wait_until(&format!("{customer} in Redis and an empty queue"), || {
        stage.redis.get(&Owner::customer(customer).key(PREFIX)).is_some() && stage.queue.is_empty()
    });
}

#[test]
fn a_path_of_the_endpoint_is_kept_and_the_queues_url_goes_out_as_it_is_given() {
    let stage =
        FakeStage::new(QueueOptions { endpoint_path: "/behind/a%20proxy/", ..QueueOptions::default() });
    // Signed with the path, and with or without a slash at its end.
    for (customer, path) in [("customer-1", "/behind/a%20proxy/"), ("customer-2", "/behind/a%20proxy")] {
        let endpoint = format!("http://{}{path}", stage.queue_address());
        let service = Service::start(&stage.settings().set("AWS_ENDPOINT_URL_SQS", endpoint));
        send(&stage, customer);
        wait_until_applied(&service, &stage, customer);
        service.stop();
    }
}

#[test]
fn a_clock_that_is_off_is_reported_once_and_calls_are_signed_with_the_servers_time() {
    for (ahead_ms, words) in [
        (20 * MINUTE_MS, "clock is 20 minutes behind SQS's"),
        (-90 * MINUTE_MS, "clock is 90 minutes ahead of SQS's"),
    ] {
        let stage = FakeStage::new(QueueOptions { clock_ahead_ms: ahead_ms, ..QueueOptions::default() });
        let service = Service::start(&stage.settings());
        send(&stage, "customer-1");
        wait_until_applied(&service, &stage, "customer-1");
        let warnings = service.log_lines().iter().filter(|line| line.contains(words)).count();
        assert_eq!(warnings, 1, "{:#?}", service.log_lines());
        let failed = r#"persistent_cache_queue_errors_total{operation="receive"}"#;
        assert!(service.metrics().value(failed) < 0.5, "no call fails for it");
        service.stop();
        // The first calls of each thread were signed with this machine's time.
        stage.queue.complaints();
    }
}

#[test]
fn a_clock_that_is_a_little_off_is_left_alone() {
    let stage = FakeStage::new(QueueOptions { clock_ahead_ms: 2 * MINUTE_MS, ..QueueOptions::default() });
    let service = Service::start(&stage.settings());
    send(&stage, "customer-1");
    wait_until_applied(&service, &stage, "customer-1");
    assert!(!service.log_lines().iter().any(|line| line.contains("clock")));
    service.stop();
}

#[test]
fn too_many_messages_in_flight_are_explained_and_pass_when_some_are_deleted() {
    let stage = FakeStage::new(QueueOptions { in_flight_max: 1, ..QueueOptions::default() });
    let lock = Owner::customer("customer-1").lock_key(PREFIX);
    stage.redis.command::<()>(&["SET", &lock, "a-reader", "NX", "PX", "60000"]);
    send(&stage, "customer-1");
    let service = Service::start(&stage.settings());
    let complaint = service.wait_for_complaint(&["HTTP 403 OverLimit", "120,000 messages are in flight"]);
    assert!(!complaint.contains("IAM") && !complaint.contains("AWS_ACCESS_KEY_ID"), "{complaint}");
    stage.redis.command::<()>(&["DEL", &lock]);
    send(&stage, "customer-2");
    wait_until_applied(&service, &stage, "customer-2");
    service.wait_until_ready();
    service.stop();
}
