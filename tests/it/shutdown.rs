//! Stopping: what was received is applied and deleted, or given back; nothing is lost.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::support::child::Signal;
use crate::support::messages::{Shape, entitlements_updated};
use crate::support::sdk::Owner;
use crate::support::service::Service;
use crate::support::stage::{PREFIX, Stage};
use crate::support::state::{State, boolean, hours_ago, metered};
use crate::support::wait::PATIENCE;

const MESSAGES: usize = 150;
const PROCESSED: &str = "persistent_cache_messages_processed_total";

fn customer(number: usize) -> String {
    format!("customer-{number:03}")
}

fn messages() -> Vec<String> {
    let entitlements = [boolean("feature-sso"), metered("feature-api-calls", 100, 1)];
    let states = (0..MESSAGES)
        .map(|number| State::new(Owner::customer(&customer(number)), hours_ago(1), &entitlements));
    states
        .map(|state| entitlements_updated(&state, Shape::GraphqlV2).raw())
        .collect()
}

/// The customers whose state is in Redis.
fn applied(stage: &Stage) -> HashSet<String> {
    let key = |number: usize| format!("{}#timestamp", Owner::customer(&customer(number)).key(PREFIX));
    (0..MESSAGES)
        .filter(|number| stage.redis.get(&key(*number)).is_some())
        .map(customer)
        .collect()
}

fn ends_well_under_load(signal: Signal, consumers: &str, batch_size: &str) {
    let stage = Stage::new();
    // The emulator may take seconds for a call when it is busy, and the stop waits for calls that bring messages
    // for a part of its budget.
    let settings = stage
        .settings()
        .set("CACHE_UPDATE_POLICY", "UPSERT")
        .set("SHUTDOWN_TIMEOUT_SECS", "30")
        .set("CONSUMERS", consumers)
        .set("BATCH_SIZE", batch_size);
    stage.queue.send_all(&messages());
    let service = Service::start(&settings);
    service.wait_for_metric(PROCESSED, 20.0);
    service.signal(signal);
    let status = service.wait_for_exit(PATIENCE);
    assert_eq!(status.code(), Some(0), "{:?}", service.stderr());

    let counts = stage.queue.counts();
    let applied_by_the_first = applied(&stage);
    // What is in flight is not looked at here: when two deletes meet, the emulator brings back what one of them deleted,
    // and hides it (`Queue.delete_message` of moto rewrites its list without a lock). `stops` counts it exactly, with a
    // queue of our own.
    // Fewer than were processed, if the emulator gave one message to two pollers, as SQS may.
    assert!(!applied_by_the_first.is_empty());
    assert_eq!(
        applied_by_the_first.len() + counts.visible,
        MESSAGES,
        "each message is either applied and deleted or back in the queue"
    );

    let service = Service::start(&settings);
    service.wait_until("the rest to be applied", || applied(&stage).len() == MESSAGES);
    service.wait_until("an empty queue", || stage.queue.is_empty());
    service.stop();
}

#[test]
fn sigterm_under_load_loses_no_message() {
    ends_well_under_load(Signal::Terminate, "4", "1");
}

#[test]
fn sigterm_loses_and_hides_no_message_when_ten_pollers_hold_full_batches() {
    ends_well_under_load(Signal::Terminate, "10", "10");
}

#[test]
fn sigint_under_load_loses_no_message() {
    ends_well_under_load(Signal::Interrupt, "4", "1");
}

#[test]
fn an_idle_service_ends_within_its_budget_though_its_pollers_wait_for_longer() {
    let stage = Stage::new();
    let service = Service::start(
        &stage
            .settings()
            .set("WAIT_TIME_SECS", "20")
            .set("SHUTDOWN_TIMEOUT_SECS", "10"),
    );
    let asked = Instant::now();
    service.signal(Signal::Terminate);
    let status = service.wait_for_exit(PATIENCE);
    assert_eq!(status.code(), Some(0), "{:?}", service.stderr());
    assert!(asked.elapsed() < Duration::from_secs(12), "{:?}", asked.elapsed());
}

#[test]
fn a_redis_that_hangs_does_not_hold_the_stop_beyond_its_budget() {
    let stage = Stage::new();
    let settings = stage
        .settings()
        .set("CACHE_UPDATE_POLICY", "UPSERT")
        .set("SHUTDOWN_TIMEOUT_SECS", "2");
    let service = Service::start(&settings);
    stage.redis.pause();
    stage.queue.send_all(&messages()[..10]);
    service.wait_for_metric("persistent_cache_messages_received_total", 1.0);
    let asked = Instant::now();
    service.signal(Signal::Terminate);
    service.wait_for_exit(PATIENCE);
    assert!(asked.elapsed() < Duration::from_secs(6), "{:?}", asked.elapsed());
    stage.redis.resume();
    let applied = applied(&stage).len();
    let counts = stage.queue.counts();
    assert!(
        counts.visible + counts.in_flight + applied >= 10,
        "{counts:?} and {applied} applied"
    );
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let stage = Stage::new();
    let settings = stage
        .settings()
        .set("CACHE_UPDATE_POLICY", "UPSERT")
        .set("SHUTDOWN_TIMEOUT_SECS", "50");
    let service = Service::start(&settings);
    stage.redis.pause();
    stage.queue.send_all(&messages()[..10]);
    service.wait_for_metric("persistent_cache_messages_received_total", 1.0);
    service.signal(Signal::Terminate);
    service.wait_until("the stop to have begun", || {
        service
            .try_get("/readyz")
            .is_none_or(|answer| answer.status == 503)
    });
    assert_eq!(
        service.exit_status(),
        None,
        "it drains, since Redis may come back"
    );
    let asked = Instant::now();
    service.signal(Signal::Terminate);
    let status = service.wait_for_exit(PATIENCE);
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    assert!(!status.success(), "a drain that was cut short is not a success");
    stage.redis.resume();
}

#[test]
fn readiness_is_lost_from_the_first_moment_of_a_stop() {
    let stage = Stage::new();
    let settings = stage
        .settings()
        .set("CACHE_UPDATE_POLICY", "UPSERT")
        .set("SHUTDOWN_TIMEOUT_SECS", "5");
    let service = Service::start(&settings);
    stage.redis.pause();
    stage.queue.send_all(&messages()[..5]);
    service.wait_for_metric("persistent_cache_messages_received_total", 1.0);
    service.signal(Signal::Terminate);
    let answer = service.wait_for("/readyz to say 503 during the drain", || {
        service.try_get("/readyz").filter(|answer| answer.status == 503)
    });
    assert!(answer.body.contains(r#""status":"DOWN""#), "{}", answer.body);
    service.wait_for_exit(PATIENCE);
    stage.redis.resume();
}
