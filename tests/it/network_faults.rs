//! The network fails between the service and its peers, by a proxy in between: no poller goes silent, no message is
//! lost, and a peer that recovers is used again within seconds.

use std::time::{Duration, Instant};

use crate::fakes::proxy::{FaultProxy, Mode};
use crate::fakes::queue::{Faults, QueueOptions};
use crate::support::fake_stage::FakeStage;
use crate::support::messages::{Shape, entitlements_updated};
use crate::support::sdk::Owner;
use crate::support::service::Service;
use crate::support::stage::PREFIX;
use crate::support::state::{State, boolean, hours_ago};
use crate::support::wait::wait_until;

/// A receive of the stories may take its wait of 1 s and 5 s of slack, the wait after a failure is at most 10 s.
const SECONDS: Duration = Duration::from_secs(30);

const EVERY_WAY: [Mode; 7] = [
    Mode::Refuse,
    Mode::Stall,
    Mode::Drip { bytes_per_sec: 1 },
    Mode::HalfOpen,
    Mode::ResetAfter { bytes: 3 },
    Mode::CutAfter { bytes: 3 },
    Mode::Garbage,
];

fn message(customer: &str) -> String {
    let state = State::new(Owner::customer(customer), hours_ago(1), &[boolean("feature-sso")]);
    entitlements_updated(&state, Shape::GraphqlV2).raw()
}

fn has(stage: &FakeStage, customer: &str) -> bool {
    stage.redis.get(&Owner::customer(customer).key(PREFIX)).is_some()
}

#[test]
fn of_every_kind_towards_the_queue_end_by_a_deadline_and_recover() {
    let stage = FakeStage::new(QueueOptions {
        visibility_timeout: Duration::from_secs(5),
        ..QueueOptions::default()
    });
    let proxy = FaultProxy::start(stage.queue_address());
    let endpoint = format!("http://127.0.0.1:{}", proxy.port());
    let service = Service::start(&stage.settings().set("AWS_ENDPOINT_URL_SQS", endpoint));
    let failed = r#"persistent_cache_queue_errors_total{operation="receive"}"#;
    for mode in EVERY_WAY {
        // Of a half-open connection only the calls on it are lost; new ones pass.
        let before = service.metrics().value(failed);
        proxy.set(mode);
        wait_until(SECONDS, format!("a failed receive while {mode:?}"), || {
            service.metrics().value(failed) > before
        });
        assert_eq!(service.get("/livez").status, 200, "{mode:?}: a restart would not help");
        let customer = format!("customer-{mode:?}");
        stage.queue.send(message(&customer));
        proxy.set(Mode::Pass);
        wait_until(SECONDS, format!("the message after {mode:?}"), || {
            has(&stage, &customer) && stage.queue.is_empty()
        });
        service.wait_until_ready();
    }
    // A fault of the same kind within half a minute is counted in one line.
    for words in [
        "timed out: no complete answer within the deadline",
        "the connection was closed before the answer was complete",
        "is this an SQS endpoint?",
    ] {
        service.wait_for_complaint(&["cannot receive messages", &stage.queue.url(), words]);
    }
    service.stop();
    // A call that was cut off in its middle is what the queue complains of.
    stage.queue.complaints();
}

#[test]
fn long_polls_that_are_cut_at_the_same_age_suggest_a_lower_wait() {
    const CUT_AFTER: Duration = Duration::from_millis(3_300);
    let stage = FakeStage::new(QueueOptions::default());
    let proxy = FaultProxy::start(stage.queue_address());
    let endpoint = format!("http://127.0.0.1:{}", proxy.port());
    let settings = stage
        .settings()
        .set("AWS_ENDPOINT_URL_SQS", endpoint)
        .set("CONSUMERS", "1")
        .set("WAIT_TIME_SECS", "20");
    let service = Service::start(&settings);
    let mut connections = 1;
    for round in 0..3 {
        // After a cut there is one connection for a short poll, then one for the next long poll.
        wait_until(SECONDS, format!("a long poll in round {round}"), || {
            proxy.accepted() > connections && stage.queue.open_polls() > 0
        });
        let since = Instant::now();
        wait_until(SECONDS, format!("the age of round {round}"), || since.elapsed() >= CUT_AFTER);
        connections = proxy.accepted() + 1;
        proxy.cut();
    }
    service.wait_for_complaint(&["cut after about 3 s", "set WAIT_TIME_SECS=2"]);
    service.stop();
}

#[test]
fn of_every_kind_towards_redis_are_named_cost_no_message_and_recover() {
    let stage = FakeStage::new(QueueOptions::default());
    let proxy = FaultProxy::start(stage.redis_address());
    let service = Service::start(&stage.settings().set("REDIS_PORT", proxy.port().to_string()));
    for mode in EVERY_WAY {
        proxy.set(mode);
        let customer = format!("customer-{mode:?}");
        stage.queue.send(message(&customer));
        if mode != Mode::HalfOpen {
            wait_until(SECONDS, format!("Redis is missed while {mode:?}"), || {
                service.metrics().value("persistent_cache_redis_up") < 0.5
            });
            proxy.set(Mode::Pass);
        }
        wait_until(SECONDS, format!("the message after {mode:?}"), || {
            has(&stage, &customer) && stage.queue.is_empty()
        });
        proxy.set(Mode::Pass);
        service.wait_until_ready();
    }
    assert_eq!(stage.queue.counts().redelivered, 0, "what was in flight was kept");
    let address = format!("127.0.0.1:{}", proxy.port());
    for words in ["no answer in time", "unexpected end of file", "reset by peer", "is not Redis's protocol"] {
        service.wait_for_complaint(&["Redis cannot be used", &address, words]);
    }
    let gone = service.log_lines().iter().filter(|line| line.contains("Redis cannot be used")).count();
    assert!((3..=4 * EVERY_WAY.len()).contains(&gone), "each is reported, without a flood: {gone}");
    service.stop();
}

#[test]
fn and_a_queue_that_fails_half_of_its_calls_lose_no_message() {
    const MESSAGES: usize = 300;
    let stage = FakeStage::new(QueueOptions {
        seed: 7,
        visibility_timeout: Duration::from_secs(3),
        ..QueueOptions::default()
    });
    let service = Service::start(&stage.settings().set("CONSUMERS", "4"));
    stage.queue.set_faults(Faults {
        error_500: 0.1,
        unavailable_503: 0.1,
        throttled: 0.1,
        reset: 0.1,
        answer_lost: 0.1,
        duplicate: 0.1,
        disorder: true,
        entry_fails: 0.2,
        entry_fails_sender: 0.05,
        ..Faults::default()
    });
    for number in 0..MESSAGES {
        stage.queue.send(message(&format!("customer-{number}")));
    }
    service.wait_until("every message in Redis", || {
        (0..MESSAGES).all(|number| has(&stage, &format!("customer-{number}")))
    });
    stage.queue.set_faults(Faults::default());
    service.wait_until("an empty queue", || stage.queue.is_empty());
    service.wait_until_ready();
    service.stop();
}

#[test]
fn a_message_that_comes_again_after_its_delete_was_lost_changes_nothing() {
    let stage = FakeStage::new(QueueOptions {
        visibility_timeout: Duration::from_secs(2),
        ..QueueOptions::default()
    });
    let service = Service::start(&stage.settings());
    stage.queue.set_faults(Faults { entry_fails_sender: 1.0, ..Faults::default() });
    stage.queue.send(message("customer-1"));
    service.wait_until("the message in Redis", || has(&stage, "customer-1"));
    let applied_once = stage.redis.contents();
    service.wait_until("the message once more", || stage.queue.counts().redelivered > 0);
    stage.queue.set_faults(Faults::default());
    service.wait_until("an empty queue", || stage.queue.is_empty());
    assert_eq!(stage.redis.contents(), applied_once);
    service.stop();
}

#[test]
fn a_delete_that_fails_for_a_while_is_made_again_and_the_message_does_not_come_again() {
    let stage = FakeStage::new(QueueOptions::default());
    let service = Service::start(&stage.settings());
    stage.queue.set_faults(Faults { entry_fails: 1.0, ..Faults::default() });
    stage.queue.send(message("customer-1"));
    service.wait_for_metric(r#"persistent_cache_queue_errors_total{operation="delete"}"#, 3.0);
    stage.queue.set_faults(Faults::default());
    service.wait_until("an empty queue", || stage.queue.is_empty());
    assert_eq!(stage.queue.counts().received, 1);
    service.stop();
}
