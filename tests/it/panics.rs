//! A panic: inside one message it costs that message one try; in a loop it ends the process, so that it is restarted.

use crate::faulty::{self, Defect, UNLUCKY};
use crate::support::messages::{Shape, entitlements_updated};
use crate::support::sdk::Owner;
use crate::support::sentry::SentryStub;
use crate::support::stage::{PREFIX, Stage};
use crate::support::state::{State, boolean, hours_ago};
use crate::support::wait::PATIENCE;

fn message(customer: &str) -> String {
    let state = State::new(Owner::customer(customer), hours_ago(1), &[boolean("feature-sso")]);
    entitlements_updated(&state, Shape::GraphqlV2).raw()
}

#[test]
fn inside_one_message_costs_that_message_one_try_and_no_other_message_anything() {
    let stage = Stage::new();
    let sentry = SentryStub::start();
    let settings = stage
        .settings()
        .set("CACHE_UPDATE_POLICY", "UPSERT")
        // The emulator may give one message to two pollers.
        .set("CONSUMERS", "1")
        .unset("DISABLE_SENTRY")
        .set("SENTRY_DSN", &sentry.dsn);
    // Waiting before the service starts, so that they are received together.
    let customers = ["customer-1", UNLUCKY, "customer-2"];
    stage.queue.send_all(&customers.map(message));
    let service = faulty::spawn(Defect::WritePanics, &settings);
    let is_cached = |customer: &str| stage.redis.get(&Owner::customer(customer).key(PREFIX)).is_some();

    service.wait_until("the others to be applied", || is_cached("customer-1") && is_cached("customer-2"));
    service.wait_for_metric("persistent_cache_messages_failed_total{reason=\"panic\"}", 1.0);
    service.wait_until("the message to come again and be applied", || is_cached(UNLUCKY));
    service.wait_until("an empty queue", || stage.queue.is_empty());

    let metrics = service.metrics();
    let is = |series: &str, expected: f64| (metrics.value(series) - expected).abs() < f64::EPSILON;
    assert!(is("persistent_cache_messages_failed_total{reason=\"panic\"}", 1.0));
    assert!(is("persistent_cache_messages_received_total", 4.0), "one came twice");
    assert!(is("persistent_cache_messages_processed_total", 3.0));
    assert!(is("persistent_cache_in_flight_messages", 0.0));
    service.wait_for_complaint(&["a thread panicked", "a defect that was put there"]);
    service
        .wait_until("the panic to be reported", || sentry.reports().contains("a defect that was put there"));
    assert!(!sentry.reports().contains(UNLUCKY), "no customer is named");
    service.stop();
}

#[test]
fn in_a_loop_ends_the_process_with_a_status_of_its_own_and_is_reported() {
    let stage = Stage::new();
    let sentry = SentryStub::start();
    let settings = stage
        .settings()
        .unset("DISABLE_SENTRY")
        .set("SENTRY_DSN", &sentry.dsn)
        .set("SHUTDOWN_TIMEOUT_SECS", "3");
    let begins = stage.redis.directory().join("the-defect-begins");
    let service = faulty::spawn_until(Defect::ReceivePanics, &begins, &settings);
    service.wait_until_ready();
    service.wait_until("reports are on", || {
        let lines = service.log_lines();
        lines.iter().any(|line| line.contains("reported to Sentry"))
    });
    std::fs::write(&begins, "").expect("a file");
    let status = service.wait_for_exit(PATIENCE);
    assert_eq!(status.code(), Some(70), "{:?}", service.stderr());
    let lines = service.log_lines().join("\n");
    assert!(lines.contains("a loop of this service died"), "{lines}");
    assert!(!lines.contains(&sentry.dsn) && !lines.contains(&sentry.address), "the DSN is a secret: {lines}");
    let reports = sentry.reports();
    assert!(reports.contains("a loop of this service died"), "{reports}");
}
