//! Producers run JavaScript, whose strings may hold half of an emoji (a lone surrogate): `JSON.stringify` writes it, and
//! `JSON.parse` reads it. To Redis it goes as U+FFFD, as ioredis writes it.

use serde_json::{Value, json};

use crate::fakes::queue::QueueOptions;
use crate::support::fake_stage::FakeStage;
use crate::support::messages::{Shape, entitlements_updated, usage_updated};
use crate::support::sdk::{CUSTOMER, Kind, Owner, Sdk};
use crate::support::service::Service;
use crate::support::stage::PREFIX;
use crate::support::state::{State, boolean, hours_ago, metered, number};

/// Stands for it while the message is put together.
const PLACE: &str = "HALF";
/// Half of an emoji, and what makes no whole one of it.
const HALVES: [(&str, &str); 6] = [
    (r"\ud83d", "\u{FFFD}"),
    (r"\uDE00", "\u{FFFD}"),
    (r"\ude00\ud83d", "\u{FFFD}\u{FFFD}"),
    (r"\ud83dx", "\u{FFFD}x"),
    (r"\ud83d\u0041", "\u{FFFD}A"),
    (r"\ud83d\ud83d\ude00", "\u{FFFD}\u{1F600}"),
];

fn start(options: QueueOptions) -> (FakeStage, Service) {
    let stage = FakeStage::new(options);
    let service = Service::start(&stage.settings());
    (stage, service)
}

fn list(stage: &FakeStage, owner: Owner) -> Value {
    stage
        .redis
        .json(&owner.key(PREFIX))
        .unwrap_or_else(|| panic!("{owner:?} is cached: {:?}", stage.redis.keys()))
}

fn state(owner: Owner) -> State {
    State::new(owner, hours_ago(1), &[number("feature-seats", 3)])
}

/// Text that is the string of another JSON text.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a text")
}

#[test]
fn in_a_field_that_is_ignored_change_nothing() {
    let (stage, service) = start(QueueOptions::default());
    for (index, (half, _)) in HALVES.iter().enumerate() {
        for shape in Shape::ALL {
            let customer = format!("customer-{index}-{shape:?}");
            let mut message = entitlements_updated(&state(Owner::customer(&customer)), shape);
            message.body["remark"] = json!({"from": [PLACE]});
            message.body[PLACE] = json!(PLACE);
            let body = message.raw().replace(PLACE, half);
            stage.deliver(&service, &[body]);
            let stored = list(&stage, Owner::customer(&customer));
            assert_eq!(stored["feature-seats"]["calculatedEntitlement"]["usageLimit"], json!(3));
        }
    }
    service.stop();
}

#[test]
fn in_a_display_name_become_the_replacement_character() {
    let (stage, service) = start(QueueOptions::default());
    for (index, (half, expected)) in HALVES.iter().enumerate() {
        let customer = format!("customer-{index}");
        let owner = Owner::customer(&customer);
        let mut state = state(owner);
        state.entitlements[0]["feature"]["displayName"] = json!(format!("a {PLACE} seat"));
        let body = entitlements_updated(&state, Shape::GraphqlV2).raw().replace(PLACE, half);
        stage.deliver(&service, &[body]);
        let stored = list(&stage, owner);
        assert_eq!(
            stored["feature-seats"]["calculatedEntitlement"]["feature"]["displayName"],
            json!(format!("a {expected} seat")),
            "{half}"
        );
    }
    service.stop();
}

#[test]
fn in_an_id_become_the_replacement_character_and_the_sdk_finds_it() {
    let (stage, service) = start(QueueOptions::default());
    let owner = Owner { customer: "customer-HALF", resource: Some("site-HALF") };
    let global = Owner::customer(owner.customer);
    let features = [metered("feature-HALF", 100, 5), boolean("feature-sso"), number("feature-seats", 3)];
    let states = [State::new(global, hours_ago(3), &features), State::new(owner, hours_ago(2), &features)];
    let mut bodies: Vec<String> =
        states.iter().map(|state| entitlements_updated(state, Shape::EventLog).raw()).collect();
    bodies.push(usage_updated(&states[1], "feature-HALF", 7, hours_ago(1), Shape::GraphqlV2).raw());
    for body in &bodies {
        stage.deliver(&service, &[body.replace(PLACE, r"\ud83d")]);
    }
    let owner = Owner { customer: "customer-\u{FFFD}", resource: Some("site-\u{FFFD}") };
    let feature = "feature-\u{FFFD}";
    let stored = list(&stage, owner);
    assert_eq!(stored[feature]["calculatedEntitlement"]["feature"]["id"], json!(feature));
    let sdk = Sdk::open(&stage.redis, PREFIX);
    let answer = sdk.entitlement(Kind::Metered, owner, feature);
    assert_eq!((&answer["currentUsage"], &answer["isFallback"]), (&json!(7), &json!(false)), "{answer}");
    assert_eq!(sdk.calls(), Vec::<String>::new());
    service.stop();
}

#[test]
fn inside_a_message_wrapped_by_sns_are_read_whichever_of_the_two_texts_escapes_them() {
    let (stage, service) = start(QueueOptions::default());
    for (index, (half, expected)) in HALVES.iter().enumerate() {
        for is_escaped_twice in [true, false] {
            let customer = format!("customer-{index}-{is_escaped_twice}");
            let owner = Owner::customer(&customer);
            let mut state = state(owner);
            state.entitlements[0]["feature"]["displayName"] = json!(format!("a {PLACE} seat"));
            let inner = entitlements_updated(&state, Shape::Webhook).raw();
            let message = if is_escaped_twice {
                quoted(&inner.replace(PLACE, half))
            } else {
                // The inner text holds the half itself, and the outer one escapes it.
                quoted(&inner).replace(PLACE, half)
            };
            let body = format!(
                r#"{{"Type":"Notification","MessageId":"m","Subject":"{half}","Message":{message},"Timestamp":"2026-11-20T08:00:00.000Z"}}"#
            );
            stage.deliver(&service, &[body]);
            let stored = list(&stage, owner);
            let name = &stored["feature-seats"]["calculatedEntitlement"]["feature"]["displayName"];
            assert_eq!(
                name,
                &json!(format!("a {expected} seat")),
                "{half}, escaped twice: {is_escaped_twice}"
            );
        }
    }
    service.stop();
}

#[test]
fn a_whole_emoji_stays_one() {
    let (stage, service) = start(QueueOptions::default());
    let mut state = state(CUSTOMER);
    state.entitlements[0]["feature"]["displayName"] = json!(PLACE);
    let body = entitlements_updated(&state, Shape::GraphqlV2).raw();
    stage.deliver(&service, &[body.replace(PLACE, r"\ud83d\ude00 \u2713 \uFFFD")]);
    let stored = list(&stage, CUSTOMER);
    assert_eq!(
        stored["feature-seats"]["calculatedEntitlement"]["feature"]["displayName"],
        json!("\u{1F600} \u{2713} \u{FFFD}")
    );
    service.stop();
}

#[test]
fn other_faults_beside_them_are_still_faults() {
    let (stage, service) = start(QueueOptions {
        max_receive_count: Some(2),
        visibility_timeout: std::time::Duration::from_secs(1),
        ..QueueOptions::default()
    });
    let mut message = entitlements_updated(&state(CUSTOMER), Shape::EventLog);
    message.body["remark"] = json!(PLACE);
    let good = message.raw();
    let bodies = [
        good.replace(PLACE, r"\ud83"),
        good.replace(PLACE, r"\ud83g"),
        good.replace(PLACE, r"\ud83d\u"),
        good.replace(PLACE, r"\ud83d\x"),
        good.replace(PLACE, "\\ud83d\u{1}"),
        good.replace(PLACE, r"\ud83d") + "}",
        good.replace(PLACE, r"\ud83d").trim_end_matches('}').to_owned(),
    ];
    for body in &bodies {
        stage.queue.send(body);
    }
    let count = bodies.len();
    service.wait_until("every one of them to be dead", || {
        // Nobody waits for the growing visibility.
        stage.queue.advance(std::time::Duration::from_mins(16));
        stage.queue.counts().dead == u64::try_from(count).expect("few")
    });
    // The queue's clock runs ahead: the service may still hold what has died there.
    service.wait_for_metric("persistent_cache_messages_malformed_total", count as f64);
    assert_eq!(stage.redis.keys(), [""; 0]);
    service.stop();
}
