//! Shutdown: what was received is applied and deleted, or released; nothing is lost.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::support::child::Signal;
use crate::support::messages::{Shape, entitlements_updated};
use crate::support::sdk::Owner;
use crate::support::service::Service;
use crate::support::stage::{PREFIX, Stage};
use crate::support::state::{State, boolean, hours_ago, metered};
use crate::support::wait::{PATIENCE, wait_until};

const MESSAGES: usize = 150;
const PROCESSED: &str = "persistent_cache_messages_processed_total";

fn customer(number: usize) -> String {
    format!("customer-{number:03}")
}

fn messages() -> Vec<String> {
    let entitlements = [boolean("feature-sso"), metered("feature-api-calls", 100, 1)];
    let states = (0..MESSAGES)
        .map(|number| State::new(Owner::customer(&customer(number)), hours_ago(1), &entitlements));
    states.map(|state| entitlements_updated(&state, Shape::GraphqlV2).raw()).collect()
}

/// The customers whose state is in Redis.
fn applied(stage: &Stage) -> HashSet<String> {
    let key = |number: usize| format!("{}#timestamp", Owner::customer(&customer(number)).key(PREFIX));
    (0..MESSAGES).filter(|number| stage.redis.get(&key(*number)).is_some()).map(customer).collect()
}

/// How many receives ended without an answer, by the log of a service that has ended.
fn unanswered_receives(service: &Service) -> usize {
    wait_until(PATIENCE, "the last line of the log", || {
        service.log_lines().iter().any(|line| line.contains("\"stopped\""))
    });
    let (mut all, mut since_the_last_answer) = (0, 0);
    for record in service.log() {
        let msg = record["msg"].as_str().unwrap_or_default();
        if msg == "cannot receive messages" {
            // A line stands for one, or for as many as it says.
            since_the_last_answer += record["repeated"].as_u64().unwrap_or(1);
        } else if let Some(tries) = record["failed_tries"].as_u64()
            && msg.starts_with("messages can be received again")
        {
            all += tries.max(std::mem::take(&mut since_the_last_answer));
        }
    }
    usize::try_from(all + since_the_last_answer).expect("a number of calls")
}

/// Ten pollers with full batches are in `stops`, with a queue that counts exactly.
fn ends_well_under_load(signal: Signal) {
    let stage = Stage::new();
    // The emulator may take seconds for a call when it is busy, and the stop waits for calls that bring messages
    // for a part of its budget.
    let settings = stage
        .settings()
        .set("CACHE_UPDATE_POLICY", "UPSERT")
        .set("SHUTDOWN_TIMEOUT_SECS", "30")
        .set("CONSUMERS", "4")
        .set("BATCH_SIZE", "1");
    stage.queue.send_all(&messages());
    let service = Service::start(&settings);
    service.wait_for_metric(PROCESSED, 20.0);
    service.signal(signal);
    let status = service.wait_for_exit(PATIENCE);
    assert_eq!(status.code(), Some(0), "{:?}", service.stderr());

    let counts = stage.queue.counts();
    // Counted exactly in `stops`, with a queue of our own. What the emulator says is in flight is not looked at here: when
    // two deletes meet, it brings back what one of them deleted, and hides it (`Queue.delete_message` of moto rewrites its
    // list without a lock). And when it is busy, it hands messages to calls that have passed their deadline.
    let applied_by_the_first = applied(&stage);
    // Fewer than were processed, if the emulator gave one message to two pollers, as SQS may.
    assert!(!applied_by_the_first.is_empty());
    let hidden = MESSAGES - applied_by_the_first.len() - counts.visible;
    let unanswered = unanswered_receives(&service);
    assert!(
        hidden <= unanswered,
        "{hidden} messages are neither applied nor back in the queue ({counts:?}), and {unanswered} receives had no answer"
    );

    let service = Service::start(&settings);
    service.wait_until("the rest to be applied", || applied(&stage).len() == MESSAGES);
    service.wait_until("an empty queue", || stage.queue.is_empty());
    service.stop();
}

#[test]
fn sigterm_under_load_loses_no_message() {
    ends_well_under_load(Signal::Terminate);
}

#[test]
fn sigint_under_load_loses_no_message() {
    ends_well_under_load(Signal::Interrupt);
}

#[test]
fn an_idle_service_ends_within_its_budget_though_its_pollers_wait_for_longer() {
    let stage = Stage::new();
    let service =
        Service::start(&stage.settings().set("WAIT_TIME_SECS", "20").set("SHUTDOWN_TIMEOUT_SECS", "10"));
    let asked = Instant::now();
    service.signal(Signal::Terminate);
    let status = service.wait_for_exit(PATIENCE);
    assert_eq!(status.code(), Some(0), "{:?}", service.stderr());
    assert!(asked.elapsed() < Duration::from_secs(12), "{:?}", asked.elapsed());
}

#[test]
fn a_redis_that_hangs_does_not_hold_the_stop_beyond_its_budget() {
    let stage = Stage::new();
    let settings = stage.settings().set("CACHE_UPDATE_POLICY", "UPSERT").set("SHUTDOWN_TIMEOUT_SECS", "2");
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
    assert!(counts.visible + counts.in_flight + applied >= 10, "{counts:?} and {applied} applied");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let stage = Stage::new();
    let settings = stage.settings().set("CACHE_UPDATE_POLICY", "UPSERT").set("SHUTDOWN_TIMEOUT_SECS", "50");
    let service = Service::start(&settings);
    stage.redis.pause();
    stage.queue.send_all(&messages()[..10]);
    service.wait_for_metric("persistent_cache_messages_received_total", 1.0);
    service.signal(Signal::Terminate);
    service.wait_until("the stop to have begun", || {
        service.try_get("/readyz").is_none_or(|answer| answer.status == 503)
    });
    assert_eq!(service.exit_status(), None, "it drains, since Redis may come back");
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
    let settings = stage.settings().set("CACHE_UPDATE_POLICY", "UPSERT").set("SHUTDOWN_TIMEOUT_SECS", "5");
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
