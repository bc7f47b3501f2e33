//! Stops while a peer hangs: from SIGTERM to the exit within the budget and a second, and nothing lost.

use std::io::Read;
use std::time::{Duration, Instant};

use crate::fakes::proxy::{FaultProxy, Mode};
use crate::fakes::queue::QueueOptions;
use crate::support::child::Signal;
use crate::support::edge::EdgeStub;
use crate::support::fake_stage::FakeStage;
use crate::support::messages::{Shape, entitlements_updated};
use crate::support::sdk::Owner;
use crate::support::service::{Service, Settings};
use crate::support::stage::{PREFIX, Stage};
use crate::support::state::{State, boolean, hours_ago};
use crate::support::wait::PATIENCE;

const MESSAGES: usize = 200;
const BUDGET: Duration = Duration::from_secs(3);

fn message(number: usize) -> String {
    let customer = format!("customer-{number}");
    let state = State::new(
        Owner::customer(&customer),
        hours_ago(1),
        &[boolean("feature-sso")],
    );
    entitlements_updated(&state, Shape::GraphqlV2).raw()
}

fn stage() -> FakeStage {
    FakeStage::new(QueueOptions {
        visibility_timeout: Duration::from_secs(5),
        ..QueueOptions::default()
    })
}

fn with_budget(settings: &Settings) -> Settings {
    settings
        .clone()
        .set("SHUTDOWN_TIMEOUT_SECS", BUDGET.as_secs().to_string())
}

fn ends_in_time(service: &Service) {
    let asked = Instant::now();
    service.signal(Signal::Terminate);
    let status = service.wait_for_exit(PATIENCE);
    let took = asked.elapsed();
    assert_eq!(status.code(), Some(0), "{:?}", service.stderr());
    assert!(took < BUDGET + Duration::from_secs(1), "took {took:?}");
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

#[test]
fn under_load() {
    let stage = stage();
    send_all(&stage);
    let service = Service::spawn(&with_budget(&stage.settings()));
    service.wait_for_metric("persistent_cache_messages_received_total", 20.0);
    ends_in_time(&service);
    nothing_is_lost(&stage);
}

#[test]
fn while_redis_hangs() {
    let stage = stage();
    let service = Service::start(&with_budget(&stage.settings()));
    stage.redis.pause();
    send_all(&stage);
    service.wait_for_metric("persistent_cache_messages_received_total", 10.0);
    ends_in_time(&service);
    stage.redis.resume();
    nothing_is_lost(&stage);
}

#[test]
fn while_the_queue_hangs() {
    let stage = stage();
    let proxy = FaultProxy::start(stage.queue_address());
    let endpoint = format!("http://127.0.0.1:{}", proxy.port());
    let service = Service::start(&with_budget(
        &stage.settings().set("AWS_ENDPOINT_URL_SQS", endpoint),
    ));
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
fn while_credentials_are_renewed_and_their_source_hangs() {
    let stage = Stage::new();
    let edge = EdgeStub::start();
    let address = edge
        .url
        .trim_start_matches("http://")
        .parse()
        .expect("an address");
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
    assert!(
        lines > 0 && lines < 10 * MESSAGES,
        "{lines} lines: none were lost"
    );
    nothing_is_lost(&stage);
}
