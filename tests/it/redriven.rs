//! A message that comes back from a dead-letter queue: the same body, a new `SentTimestamp`, a receive count of 1. It is
//! as old as it was.

use serde_json::{Value, json};

use crate::fakes::queue::QueueOptions;
use crate::support::fake_stage::FakeStage;
use crate::support::messages::{
    Envelope, Shape, customer_deleted, entitlements_updated, purge, usage_updated,
};
use crate::support::sdk::{CUSTOMER, Sdk};
use crate::support::service::Service;
use crate::support::stage::PREFIX;
use crate::support::state::{State, hours_ago, metered, number};

fn seconds_ago(seconds: i64) -> i64 {
    hours_ago(0) - seconds * 1_000
}

fn state(at: i64, limit: i64) -> State {
    State::new(CUSTOMER, at, &[number("feature-seats", limit), metered("feature-calls", 100, limit)])
}

/// A customer whom the SDK has cached two minutes ago, with a usage.
struct Scene {
    stage: FakeStage,
    service: Service,
}

impl Scene {
    fn new(policy: &str) -> Self {
        let stage = FakeStage::new(QueueOptions::default());
        let sdk = Sdk::open(&stage.redis, PREFIX);
        sdk.cache(&[&state(seconds_ago(120), 1)]);
        let service = Service::start(&stage.settings().set("CACHE_UPDATE_POLICY", policy));
        let scene = Self { stage, service };
        assert_eq!(scene.limit(), Some(1));
        scene
    }

    fn deliver(&self, body: &str, sent_at: i64) {
        self.stage.deliver_at(&self.service, body, sent_at);
    }

    fn limit(&self) -> Option<i64> {
        let list = self.stage.redis.json(&CUSTOMER.key(PREFIX))?;
        list["feature-seats"]["calculatedEntitlement"]["usageLimit"].as_i64()
    }

    fn usage(&self) -> Value {
        let key = format!("{}:f_feature-calls", CUSTOMER.key(PREFIX));
        self.stage.redis.json(&key).expect("a usage")["currentUsage"].clone()
    }
}

fn a_list_does_not_bring_back_what_was_purged_since(shape: Shape, envelope: Envelope) {
    for policy in ["UPSERT", "UPDATE_IF_EXISTS"] {
        let what = format!("{shape:?} in {envelope:?}, {policy}");
        let scene = Scene::new(policy);
        scene.deliver(&purge(CUSTOMER, seconds_ago(30)).raw(), seconds_ago(30));
        assert_eq!(scene.limit(), None, "{what}");
        let older = entitlements_updated(&state(seconds_ago(60), 2), shape).wrapped(envelope);
        scene.deliver(&older, hours_ago(0));
        assert_eq!(scene.limit(), None, "{what}: true before the purge was sent");

        // Nor into what a reader has fetched since.
        let key = CUSTOMER.key(PREFIX);
        let stamp = format!("{key}#timestamp");
        scene.stage.redis.command::<()>(&["MSET", &key, "{}", &stamp, "0"]);
        scene.deliver(&older, hours_ago(0));
        assert_eq!(scene.stage.redis.json(&key), Some(json!({})), "{what}");

        let newer = entitlements_updated(&state(seconds_ago(10), 3), shape).wrapped(envelope);
        scene.deliver(&newer, hours_ago(0));
        assert_eq!(scene.limit(), Some(3), "{what}: true after the purge was sent");
        scene.service.stop();
    }
}

#[test]
fn a_webhook_list_does_not_bring_back_what_was_purged_since() {
    a_list_does_not_bring_back_what_was_purged_since(Shape::Webhook, Envelope::Raw);
}

#[test]
fn a_list_of_the_event_log_does_not_bring_back_what_was_purged_since() {
    a_list_does_not_bring_back_what_was_purged_since(Shape::EventLog, Envelope::Sns);
}

#[test]
fn a_list_in_graphql_form_does_not_bring_back_what_was_purged_since() {
    // Only the entries' own times show how old it is.
    a_list_does_not_bring_back_what_was_purged_since(Shape::GraphqlV1, Envelope::Raw);
    a_list_does_not_bring_back_what_was_purged_since(Shape::GraphqlV2, Envelope::EventBridge);
}

#[test]
fn a_purge_holds_back_nothing_that_was_sent_after_it_was_sent_first() {
    let requested = purge(CUSTOMER, seconds_ago(60));
    let deleted = customer_deleted(CUSTOMER.customer, seconds_ago(60));
    for message in [requested, deleted] {
        let what = &message.type_name;
        let scene = Scene::new("UPSERT");
        scene.deliver(&message.raw(), seconds_ago(60));
        scene.deliver(&message.raw(), hours_ago(0));
        let list = entitlements_updated(&state(seconds_ago(40), 2), Shape::GraphqlV2);
        scene.deliver(&list.raw(), seconds_ago(39));
        assert_eq!(scene.limit(), Some(2), "{what}");

        // Redriven again, it costs a reader one refetch at most, and no answer is stale.
        scene.deliver(&message.raw(), hours_ago(0));
        let older = entitlements_updated(&state(seconds_ago(50), 3), Shape::GraphqlV2);
        scene.deliver(&older.raw(), seconds_ago(49));
        assert_ne!(scene.limit(), Some(3), "{what}: older than what was stored");
        let newer = entitlements_updated(&state(seconds_ago(20), 4), Shape::GraphqlV2);
        scene.deliver(&newer.raw(), seconds_ago(19));
        assert_eq!(scene.limit(), Some(4), "{what}");
        scene.service.stop();
    }
}

#[test]
fn a_list_or_a_usage_that_something_newer_has_followed_changes_nothing() {
    for shape in Shape::ALL {
        let scene = Scene::new("UPDATE_IF_EXISTS");
        let older = state(seconds_ago(60), 2);
        let bodies = [
            entitlements_updated(&older, shape).raw(),
            usage_updated(&older, "feature-calls", 50, seconds_ago(50), shape).raw(),
        ];
        let newer = entitlements_updated(&state(seconds_ago(10), 3), shape).raw();
        for body in bodies.iter().chain([&newer]).chain(&bodies) {
            scene.deliver(body, hours_ago(0));
        }
        assert_eq!((scene.limit(), scene.usage()), (Some(3), json!(3)), "{shape:?}");
        scene.service.stop();
    }
}
