//! A time that cannot be true (far ahead of the message's `SentTimestamp`, or seconds in place of milliseconds) is
//! ignored: otherwise one message from a wrong clock would stand in the way of all that come after it.

use serde_json::{Value, json};

use crate::fakes::queue::QueueOptions;
use crate::support::fake_stage::FakeStage;
use crate::support::messages::{
    CreditBalance, Envelope, Message, Shape, entitlements_updated, purge, usage_updated,
};
use crate::support::sdk::{Kind, Owner, Sdk};
use crate::support::service::Service;
use crate::support::stage::PREFIX;
use crate::support::state::{State, hours_ago, iso, metered, number};

const CUSTOMER: Owner = Owner { customer: "customer-whom-nobody-logs", resource: None };
const CALLS: &str = "feature-calls";
const METRIC: &str = "persistent_cache_implausible_timestamps_total";
const YEAR_3000_MS: i64 = 32_503_680_000_000;
const MINUTE_MS: i64 = 60_000;

/// Times that cannot be true, of a message that was sent then.
fn impossible_times(sent_at: i64) -> Vec<Value> {
    vec![
        json!(iso(YEAR_3000_MS)),
        json!(YEAR_3000_MS),
        json!(sent_at / 1_000),
        json!(sent_at + 61 * MINUTE_MS),
        json!("2014-12-31T00:00:00.000Z"),
        json!(iso(sent_at / 1_000)),
    ]
}

struct Scene {
    stage: FakeStage,
    service: Service,
    /// When the first message was sent.
    start: i64,
}

impl Scene {
    fn new() -> Self {
        let stage = FakeStage::new(QueueOptions::default());
        let service = Service::start(&stage.settings());
        Self { stage, service, start: hours_ago(3) }
    }

    /// Minutes after the first message.
    fn at(&self, minutes: i64) -> i64 {
        self.start + minutes * MINUTE_MS
    }

    fn state(&self, minutes: i64, limit: i64) -> State {
        let features =
            [number("feature-seats", limit), metered(CALLS, 100, limit), number("feature-zones", 5)];
        State::new(CUSTOMER, self.at(minutes), &features)
    }

    /// Applies a message that is sent so many minutes after the first one.
    fn apply(&self, message: &Message, minutes: i64) {
        self.stage.deliver_at(&self.service, &message.raw(), self.at(minutes));
    }

    fn apply_list(&self, minutes: i64, limit: i64) {
        self.apply(&entitlements_updated(&self.state(minutes, limit), Shape::GraphqlV2), minutes);
    }

    fn limit(&self) -> Option<i64> {
        let list = self.stage.redis.json(&CUSTOMER.key(PREFIX))?;
        list["feature-seats"]["calculatedEntitlement"]["usageLimit"].as_i64()
    }

    fn timestamp(&self, part: &str) -> Option<i64> {
        let key = format!("{}{part}#timestamp", CUSTOMER.key(PREFIX));
        self.stage.redis.json(&key)?.as_i64()
    }

    fn ignored(&self) -> f64 {
        self.service.metrics().value(METRIC)
    }

    /// What came after a wrong time has its effect: a newer list, a purge, and a list after that.
    fn goes_on(&self, what: &str) {
        self.apply_list(10, 2);
        assert_eq!(self.limit(), Some(2), "{what}: a newer list");
        assert_eq!(self.timestamp(""), Some(self.at(10)), "{what}");
        self.apply(&purge(CUSTOMER, self.at(20)), 20);
        assert_eq!(self.limit(), None, "{what}: a purge");
        self.apply_list(15, 3);
        assert_eq!(self.limit(), None, "{what}: a list from before the purge");
        self.apply_list(30, 4);
        assert_eq!(self.limit(), Some(4), "{what}: a list after the purge");
    }
}

/// All of a list's entries.
fn entries(message: &mut Message, shape: Shape) -> &mut Vec<Value> {
    let body = &mut message.body;
    let entries = match shape {
        Shape::Webhook | Shape::EventLog => &mut body["entitlements"],
        Shape::GraphqlV1 => &mut body["data"]["entitlementsUpdated"]["entitlements"],
        Shape::GraphqlV2 => &mut body["data"]["entitlementsUpdatedV2"]["entitlements"],
    };
    entries.as_array_mut().expect("entitlements")
}

#[test]
fn a_list_whose_times_are_all_impossible_is_as_old_as_its_message() {
    for (index, time) in impossible_times(hours_ago(3)).into_iter().enumerate() {
        let shape = Shape::ALL[index % 4];
        let what = format!("{time} by {shape:?}");
        let scene = Scene::new();
        let mut message = entitlements_updated(&scene.state(0, 1), shape);
        if matches!(shape, Shape::Webhook | Shape::EventLog) {
            message.body["timestamp"] = time.clone();
        }
        if shape != Shape::Webhook {
            for entry in entries(&mut message, shape) {
                entry["entitlementUpdatedAt"] = time.clone();
                if entry["currentUsage"].is_number() {
                    entry["usageUpdatedAt"] = time.clone();
                }
            }
        }
        scene.apply(&message, 0);
        assert_eq!((scene.limit(), scene.timestamp("")), (Some(1), Some(scene.at(0))), "{what}");
        assert_eq!(scene.timestamp(&format!(":f_{CALLS}")), Some(scene.at(0)), "{what}");
        assert!(scene.ignored() >= 1.0, "{what}: {}", scene.ignored());
        scene.goes_on(&what);
        scene.service.stop();
    }
}

#[test]
fn another_time_in_the_message_counts_where_one_is_impossible() {
    let scene = Scene::new();
    // The next entry's.
    let mut message = entitlements_updated(&scene.state(1, 1), Shape::GraphqlV2);
    entries(&mut message, Shape::GraphqlV2)[0]["entitlementUpdatedAt"] = json!(YEAR_3000_MS);
    scene.apply(&message, 5);
    assert_eq!((scene.limit(), scene.timestamp("")), (Some(1), Some(scene.at(1))));
    // The message's own.
    let mut message = entitlements_updated(&scene.state(2, 2), Shape::EventLog);
    for entry in entries(&mut message, Shape::EventLog) {
        entry["entitlementUpdatedAt"] = json!(scene.at(2) / 1_000);
    }
    scene.apply(&message, 6);
    assert_eq!((scene.limit(), scene.timestamp("")), (Some(2), Some(scene.at(2))));
    // The entries', where the message's own is wrong.
    let mut message = entitlements_updated(&scene.state(3, 3), Shape::EventLog);
    message.body["timestamp"] = json!(iso(YEAR_3000_MS));
    scene.apply(&message, 7);
    assert_eq!((scene.limit(), scene.timestamp("")), (Some(3), Some(scene.at(3))));
    scene.service.stop();
}

#[test]
fn a_clock_that_is_off_by_less_than_an_hour_is_believed() {
    let scene = Scene::new();
    let ahead = scene.state(59, 1);
    scene.apply(&entitlements_updated(&ahead, Shape::GraphqlV2), 0);
    assert_eq!(scene.timestamp(""), Some(scene.at(59)));
    assert!(scene.ignored() < 1.0);
    scene.service.stop();
    // Nor is an old list an impossible one.
    let scene = Scene::new();
    let features = [number("feature-seats", 1)];
    let old = State::new(CUSTOMER, 1_451_606_400_000, &features);
    scene.apply(&entitlements_updated(&old, Shape::GraphqlV2), 0);
    assert_eq!(scene.timestamp(""), Some(1_451_606_400_000));
    assert!(scene.ignored() < 1.0);
    scene.service.stop();
}

#[test]
fn the_timestamp_0_keeps_its_meaning() {
    let scene = Scene::new();
    scene.apply_list(0, 1);
    let state = State::new(CUSTOMER, 0, &[number("feature-seats", 2)]);
    scene.apply(&entitlements_updated(&state, Shape::GraphqlV2), 1);
    assert_eq!((scene.limit(), scene.timestamp("")), (Some(2), Some(0)));
    assert!(scene.ignored() < 1.0);
    scene.apply_list(2, 3);
    assert_eq!(scene.limit(), Some(3));
    scene.service.stop();
}

#[test]
fn a_usage_of_an_impossible_time_is_as_old_as_its_message() {
    for (index, time) in impossible_times(hours_ago(3)).into_iter().enumerate() {
        let shape = Shape::ALL[index % 4];
        let what = format!("{time} by {shape:?}");
        let scene = Scene::new();
        scene.apply_list(-10, 1);
        let usage =
            |value, minutes| usage_updated(&scene.state(-10, 1), CALLS, value, scene.at(minutes), shape);
        let mut message = usage(50, 0);
        match shape {
            Shape::Webhook | Shape::EventLog => message.body["timestamp"] = time.clone(),
            Shape::GraphqlV1 => {
                message.body["data"]["usageUpdated"]["entitlement"]["usageUpdatedAt"] = time.clone();
            }
            Shape::GraphqlV2 => {
                message.body["data"]["usageUpdatedV2"]["usage"]["usageUpdatedAt"] = time.clone();
            }
        }
        scene.apply(&message, 0);
        let part = format!(":f_{CALLS}");
        assert_eq!(scene.timestamp(&part), Some(scene.at(0)), "{what}");
        assert!(scene.ignored() >= 1.0, "{what}");
        scene.apply(&usage(60, 1), 1);
        let value = scene.stage.redis.json(&format!("{}{part}", CUSTOMER.key(PREFIX)));
        assert_eq!(value.expect("a usage")["currentUsage"], json!(60), "{what}");
        scene.service.stop();
    }
}

#[test]
fn a_balance_of_an_impossible_time_is_as_old_as_its_message() {
    let scene = Scene::new();
    scene.apply_list(-10, 1);
    let balance = |left| CreditBalance {
        currency: "cred-ai",
        left,
        consumed: 1000 - left,
        valid_until: None,
        period: None,
    };
    let mut message = balance(600).event_log(CUSTOMER, scene.at(0));
    message.body["timestamp"] = json!(YEAR_3000_MS);
    scene.apply(&message, 0);
    assert_eq!(scene.timestamp(":credit_cred-ai"), Some(scene.at(0)));
    scene.apply(&balance(500).event_log(CUSTOMER, scene.at(1)), 1);
    let value = scene.stage.redis.json(&format!("{}:credit_cred-ai", CUSTOMER.key(PREFIX)));
    assert_eq!(value.expect("a usage")["currentUsage"], json!(500));
    // The end of a balance lies in the future by its nature.
    let endless = CreditBalance { valid_until: Some(YEAR_3000_MS), ..balance(400) };
    let before = scene.ignored();
    scene.apply(&endless.event_log(CUSTOMER, scene.at(2)), 2);
    assert!((scene.ignored() - before).abs() < f64::EPSILON);
    scene.service.stop();
}

#[test]
fn a_purge_of_an_impossible_time_is_as_old_as_its_message() {
    for time in impossible_times(hours_ago(3)) {
        let scene = Scene::new();
        scene.apply_list(-20, 1);
        let mut message = purge(CUSTOMER, scene.at(0));
        message.body["timestamp"] = time.clone();
        scene.apply(&message, 0);
        assert_eq!(scene.limit(), None, "{time}");
        scene.apply_list(-5, 2);
        assert_eq!(scene.limit(), None, "{time}: a list from before the purge");
        scene.apply_list(1, 3);
        assert_eq!(scene.limit(), Some(3), "{time}: a list after the purge");
        assert!(scene.ignored() >= 1.0, "{time}");
        scene.service.stop();
    }
}

#[test]
fn one_warning_tells_of_it_by_the_messages_id_and_not_by_the_customers() {
    let scene = Scene::new();
    let mut message = entitlements_updated(&scene.state(0, 1), Shape::EventLog);
    message.body["timestamp"] = json!(iso(YEAR_3000_MS));
    for entry in entries(&mut message, Shape::EventLog) {
        entry["entitlementUpdatedAt"] = json!(scene.at(0) / 1_000);
    }
    let id = scene.stage.queue.send_at(message.wrapped(Envelope::Sns), scene.at(0));
    let line = scene.service.wait_for_complaint(&[&id]);
    scene.service.wait_until("an empty queue", || scene.stage.queue.is_empty());
    assert!(line.contains("\"warn\""), "{line}");
    let lines = scene.service.log_lines();
    let of_the_message = lines.iter().filter(|line| line.contains(&id)).count();
    assert_eq!(of_the_message, 1, "{lines:#?}");
    let of_the_customer: Vec<&String> =
        lines.iter().filter(|line| line.contains(CUSTOMER.customer)).collect();
    assert!(of_the_customer.is_empty(), "{of_the_customer:#?}");
    assert!(scene.ignored() >= 1.0);
    // What is plausible is no reason to warn.
    let before = scene.ignored();
    scene.apply_list(5, 2);
    assert!((scene.ignored() - before).abs() < f64::EPSILON);
    let metrics = scene.service.metrics();
    assert_eq!(metrics.types.get(METRIC).map(String::as_str), Some("counter"));
    scene.service.stop();
}

#[test]
fn the_sdk_reads_the_newer_list_after_one_from_the_year_3000() {
    let scene = Scene::new();
    let sdk = Sdk::open(&scene.stage.redis, PREFIX);
    sdk.cache(&[&scene.state(-30, 9)]);
    let mut message = entitlements_updated(&scene.state(0, 1), Shape::GraphqlV1);
    for entry in entries(&mut message, Shape::GraphqlV1) {
        entry["entitlementUpdatedAt"] = json!(iso(YEAR_3000_MS));
    }
    scene.apply(&message, 0);
    scene.apply_list(1, 2);
    let answer = sdk.entitlement(Kind::Numeric, CUSTOMER, "feature-seats");
    assert_eq!(answer["value"], json!(2), "{answer}");
    // And what it refetches itself is not stale.
    scene.apply(&purge(CUSTOMER, scene.at(2)), 2);
    sdk.cache(&[&scene.state(3, 3)]);
    assert_eq!(scene.limit(), Some(3));
    assert_eq!(scene.timestamp(""), Some(scene.at(3)));
    scene.service.stop();
}
