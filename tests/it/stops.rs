//! Stops while a peer hangs: from SIGTERM to the exit within the budget and a second, and nothing lost.

use std::io::Read;
use std::time::{Duration, Instant};

use crate::fakes::proxy::{FaultProxy, Mode};
use crate::fakes::queue::{Faults, QueueOptions};
use crate::support::child::Signal;
use crate::support::edge::EdgeStub;
use crate::support::fake_stage::FakeStage;
use crate::support::messages::{Shape, entitlements_updated};
use crate::support::sdk::Owner;
use crate::support::service::{Service, Settings};
use crate::support::stage::{PREFIX, Stage};
use crate::support::state::{State, boolean, hours_ago};
use crate::support::wait::{PATIENCE, wait_for, wait_until};

const MESSAGES: usize = 200;
const BUDGET: Duration = Duration::from_secs(3);

fn message(number: usize) -> String {
    let customer = format!("customer-{number}");
    let state = State::new(Owner::customer(&customer), hours_ago(1), &[boolean("feature-sso")]);
    entitlements_updated(&state, Shape::GraphqlV2).raw()
}

fn stage() -> FakeStage {
    FakeStage::new(QueueOptions { visibility_timeout: Duration::from_secs(5), ..QueueOptions::default() })
}

fn with_budget(settings: &Settings) -> Settings {
    settings.clone().set("SHUTDOWN_TIMEOUT_SECS", BUDGET.as_secs().to_string())
}

fn ends_in_time(service: &Service) {
    let asked = Instant::now();
    service.signal(Signal::Terminate);
    let status = service.wait_for_exit(PATIENCE);
    let took = asked.elapsed();
    assert_eq!(status.code(), Some(0), "{:?}", service.stderr());
    assert!(took < BUDGET + Duration::from_secs(1), "took {took:?}");
}

/// Messages are hidden for so long that none comes back by itself during a story.
fn hiding_stage() -> FakeStage {
    FakeStage::new(QueueOptions { visibility_timeout: Duration::from_hours(1), ..QueueOptions::default() })
}

/// Whatever the service had received is applied, or has been released and can be received by others soon.
fn hides_nothing(stage: &FakeStage) {
    wait_for(
        PATIENCE,
        "no message to be hidden",
        || (stage.queue.counts().in_flight == 0).then_some(()),
        || format!("{:?}", stage.queue.counts()),
    );
}

/// Another service finds the rest of the messages in the queue, and writes them.
fn nothing_is_lost(stage: &FakeStage) {
    let next = Service::start(&stage.settings());
    next.wait_until("every message in Redis", || {
        (0..MESSAGES).all(|number| {
            let customer = format!("customer-{number}");
            stage.redis.get(&Owner::customer(&customer).key(PREFIX)).is_some()
        })
    });
    next.wait_until("an empty queue", || stage.queue.is_empty());
    next.stop();
}

fn send_all(stage: &FakeStage) {
    (0..MESSAGES).for_each(|number| {
        stage.queue.send(message(number));
    });
}

fn under_load_hides_nothing(consumers: &str, batch_size: &str) {
    let stage = hiding_stage();
    // Messages are on their way for a while, as everywhere.
    stage.queue.set_faults(Faults { answers_late: Some(Duration::from_millis(50)), ..Faults::default() });
    send_all(&stage);
    let settings = stage.settings().set("CONSUMERS", consumers).set("BATCH_SIZE", batch_size);
    let service = Service::spawn(&with_budget(&settings));
    service.wait_for_metric("persistent_cache_messages_received_total", 10.0);
    ends_in_time(&service);
    let counts = stage.queue.counts();
    assert_eq!(counts.in_flight, 0, "each is applied and deleted, or was never received: {counts:?}");
    assert_eq!(counts.redelivered, 0, "{counts:?}");
    let applied = (0..MESSAGES).filter(|number| {
        let customer = format!("customer-{number}");
        stage.redis.get(&Owner::customer(&customer).key(PREFIX)).is_some()
    });
    assert_eq!(applied.count() as u64, counts.deleted, "{counts:?}");
    nothing_is_lost(&stage);
}

#[test]
fn soon_after_the_last_message_a_stop_does_not_wait_for_the_long_polls() {
    let stage = hiding_stage();
    let service =
        Service::start(&stage.settings().set("SHUTDOWN_TIMEOUT_SECS", "20").set("WAIT_TIME_SECS", "20"));
    send_all(&stage);
    service.wait_until("an empty queue", || stage.queue.is_empty());
    service.wait_until("long polls", || stage.queue.open_polls() > 0);
    let asked = Instant::now();
    service.signal(Signal::Terminate);
    assert_eq!(service.wait_for_exit(PATIENCE).code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(10), "took {:?}", asked.elapsed());
    assert!(!service.log_lines().concat().contains("could not be completed"));
}

#[test]
fn under_load() {
    under_load_hides_nothing("4", "1");
}

#[test]
fn under_load_of_ten_pollers_with_full_batches() {
    under_load_hides_nothing("10", "10");
}

#[test]
fn what_is_handed_to_a_poll_of_a_service_that_has_ended_is_the_queues_to_bring_back() {
    let stage = stage();
    let settings = stage.settings().set("CONSUMERS", "1").set("WAIT_TIME_SECS", "20");
    let service = Service::start(&with_budget(&settings));
    service.wait_until("the poller to wait", || stage.queue.open_polls() == 1);
    ends_in_time(&service);
    stage.queue.send(message(0));
    // Nobody can call a long poll back, and the queue does not look whether anybody still listens.
    wait_until(PATIENCE, "it is delivered all the same", || stage.queue.counts().received == 1);
    assert_eq!(stage.queue.counts().in_flight, 1);
    stage.queue.advance(Duration::from_secs(5));
    assert_eq!(stage.queue.counts().visible, 1, "its visibility timeout is over");
}

#[test]
fn while_redis_hangs() {
    let stage = stage();
    let service = Service::start(&with_budget(&stage.settings()));
    stage.redis.pause();
    send_all(&stage);
    // Two pollers, two workers, and what waits between them: each has at least one in flight.
    service.wait_for_metric("persistent_cache_messages_received_total", 5.0);
    ends_in_time(&service);
    stage.redis.resume();
    nothing_is_lost(&stage);
}

#[test]
fn while_redis_hangs_released_messages_are_not_received_by_polls_of_the_stopping_service() {
    let stage = hiding_stage();
    let settings = stage.settings().set("CONSUMERS", "6").set("WORKERS", "1").set("WAIT_TIME_SECS", "8");
    let service = Service::start(&with_budget(&settings));
    service.wait_until("all pollers to wait", || stage.queue.open_polls() == 6);
    stage.redis.pause();
    (0..10).for_each(|number| {
        stage.queue.send(message(number));
    });
    service.wait_for_metric("persistent_cache_messages_received_total", 10.0);
    ends_in_time(&service);
    stage.redis.resume();
    hides_nothing(&stage);
}

#[test]
fn messages_that_long_polls_receive_during_a_stop_are_applied_and_not_released_to_the_next_poll() {
    let stage = hiding_stage();
    let settings = stage
        .settings()
        .set("CONSUMERS", "30")
        .set("WAIT_TIME_SECS", "20")
        .set("SHUTDOWN_TIMEOUT_SECS", "50");
    let service = Service::start(&settings);
    service.wait_until("all pollers to wait", || stage.queue.open_polls() == 30);
    // A message that cannot be applied yet keeps the stop from its end.
    stage.redis.pause();
    stage.queue.send(message(0));
    service.wait_for_metric("persistent_cache_messages_received_total", 1.0);
    service.signal(Signal::Terminate);
    service.wait_until("the stop to have begun", || {
        service.try_get("/readyz").is_none_or(|answer| answer.status == 503)
    });
    // Each delivery takes a while: if its receiver ends meanwhile, the message stays hidden.
    stage.queue.set_faults(Faults { answers_late: Some(Duration::from_millis(300)), ..Faults::default() });
    (1..4).for_each(|number| {
        stage.queue.send(message(number));
    });
    service.wait_for_metric("persistent_cache_messages_received_total", 4.0);
    stage.redis.resume();
    let status = service.wait_for_exit(PATIENCE);
    assert_eq!(status.code(), Some(0), "{:?}", service.stderr());
    let counts = stage.queue.counts();
    assert_eq!((counts.in_flight, counts.deleted), (0, 4), "{counts:?}");
}

#[test]
fn while_the_queue_hangs() {
    let stage = stage();
    let proxy = FaultProxy::start(stage.queue_address());
    let endpoint = format!("http://127.0.0.1:{}", proxy.port());
    let service = Service::start(&with_budget(&stage.settings().set("AWS_ENDPOINT_URL_SQS", endpoint)));
    send_all(&stage);
    service.wait_for_metric("persistent_cache_messages_received_total", 10.0);
    proxy.set(Mode::Stall);
    ends_in_time(&service);
    drop(proxy);
    nothing_is_lost(&stage);
    // Calls that were cut off in their middle are what the queue complains of.
    stage.queue.complaints();
}

#[test]
fn while_deletes_fail_they_are_made_again_for_as_long_as_there_is_time() {
    let stage = hiding_stage();
    stage.queue.set_faults(Faults { entry_fails: 1.0, ..Faults::default() });
    send_all(&stage);
    let service = Service::start(&stage.settings().set("SHUTDOWN_TIMEOUT_SECS", "10"));
    service.wait_for_metric("persistent_cache_messages_received_total", 10.0);
    wait_until(PATIENCE, "deletes that failed", || stage.queue.counts().faults > 0);
    service.signal(Signal::Terminate);
    service.wait_until("the stop has begun", || {
        service.log_lines().iter().any(|line| line.contains("stopping"))
    });
    stage.queue.set_faults(Faults::default());
    let status = service.wait_for_exit(PATIENCE);
    assert_eq!(status.code(), Some(0), "{:?}", service.stderr());
    let counts = stage.queue.counts();
    assert_eq!((counts.in_flight, counts.redelivered), (0, 0), "{counts:?}");
    assert!(counts.deleted >= 10, "{counts:?}");
    nothing_is_lost(&stage);
}

#[test]
fn while_credentials_are_renewed_and_their_source_hangs() {
    let stage = Stage::new();
    let edge = EdgeStub::start();
    let address = edge.url.trim_start_matches("http://").parse().expect("an address");
    let proxy = FaultProxy::start(address);
    let key = stage.queue.moto.temporary_credentials();
    let soon = persistent_cache_service::clock::now().0 + 4_000;
    edge.give_credentials(&key, soon);
    let settings = stage
        .settings()
        .unset("AWS_ACCESS_KEY_ID")
        .unset("AWS_SECRET_ACCESS_KEY")
        .set("EDGE_API_URL", format!("http://127.0.0.1:{}", proxy.port()));
    let service = Service::start(&with_budget(&settings));
    proxy.set(Mode::Stall);
    // Every call of the queue needs credentials by now, and waits for them.
    let expiry = "persistent_cache_credentials_expiry_timestamp_seconds";
    service.wait_until("the credentials have expired", || {
        let now = persistent_cache_service::clock::now().0 as f64 / 1_000.0;
        service.metrics().value(expiry) < now
    });
    ends_in_time(&service);
}

/// A pipe that nobody reads takes 64 KiB; at debug each message is worth some lines.
#[test]
fn while_nobody_reads_the_log() {
    let stage = stage();
    send_all(&stage);
    let settings = with_budget(&stage.settings()).set("LOG_LEVEL", "debug");
    let (service, mut log) = Service::spawn_unread(&settings);
    (0..10).for_each(|_| send_all(&stage));
    service.wait_until("an empty queue", || stage.queue.is_empty());
    ends_in_time(&service);
    let mut text = String::new();
    log.read_to_string(&mut text).unwrap();
    let lines = text.matches("applied a message").count();
    assert!(lines > 0 && lines < 10 * MESSAGES, "{lines} lines: none were lost");
    nothing_is_lost(&stage);
}
