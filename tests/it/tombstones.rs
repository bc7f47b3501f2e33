//! A message that was sent before a purge and arrives after it brings nothing back: SQS keeps no order. (The queue is
//! one of our own, which takes any `SentTimestamp`.)

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::fakes::queue::QueueOptions;
use crate::support::child::thread;
use crate::support::fake_stage::FakeStage;
use crate::support::messages::{Message, Shape, entitlements_updated, package_published, purge};
use crate::support::sdk::{CUSTOMER, Owner, RESOURCE};
use crate::support::service::Service;
use crate::support::stage::PREFIX;
use crate::support::state::{State, hours_ago, metered, number};

/// A service that gets one message after the other, and a moment from which seconds are counted.
struct Scene {
    stage: FakeStage,
    service: Service,
    start: i64,
}

impl Scene {
    fn new(policy: &str) -> Self {
        let stage = FakeStage::new(QueueOptions::default());
        let service = Service::start(&stage.settings().set("CACHE_UPDATE_POLICY", policy));
        Self { stage, service, start: hours_ago(2) }
    }

    fn at(&self, seconds: i64) -> i64 {
        self.start + seconds * 1_000
    }

    /// Applies a message that was sent at that second.
    fn apply(&self, message: &Message, sent: i64) {
        self.stage.deliver_at(&self.service, &message.raw(), self.at(sent));
    }

    /// Applies a list that was true at that second, with that limit, and was sent a second later.
    fn list(&self, owner: Owner, at: i64, limit: i64) {
        self.features(owner, at, &[number("feature-seats", limit)]);
    }

    /// The same with a metered feature, which has a usage key.
    fn list_with_usage(&self, owner: Owner, at: i64, limit: i64) {
        let features = [number("feature-seats", limit), metered("feature-calls", 9, limit)];
        self.features(owner, at, &features);
    }

    fn features(&self, owner: Owner, at: i64, features: &[Value]) {
        let state = State::new(owner, self.at(at), features);
        self.apply(&entitlements_updated(&state, Shape::GraphqlV2), at + 1);
    }

    /// Applies an empty list with its reason.
    fn denial(&self, owner: Owner, at: i64) {
        let mut state = State::new(owner, self.at(at), &[]);
        state.access_denied_reason = Some("CustomerIsArchived".to_owned());
        self.apply(&entitlements_updated(&state, Shape::EventLog), at + 1);
    }

    fn purge(&self, owner: Owner, at: i64) {
        self.apply(&purge(owner, self.at(at)), at);
    }

    fn invalidate(&self, at: i64) {
        self.apply(&package_published("ALL_CUSTOMERS"), at);
    }

    /// A reader writes a list that was true then; `None` is an empty one, with the far-past marker.
    fn cache(&self, owner: Owner, at: Option<i64>) {
        let key = owner.key(PREFIX);
        let stamp = at.map_or(0, |at| self.at(at)).to_string();
        let stamp_key = format!("{key}#timestamp");
        self.stage.redis.command::<()>(&["MSET", &key, "{}", &stamp_key, &stamp]);
    }

    fn stored(&self, owner: Owner) -> Option<Value> {
        self.stage.redis.json(&owner.key(PREFIX))
    }

    /// The limit in what is stored.
    fn limit(&self, owner: Owner) -> Option<i64> {
        self.stored(owner)?["feature-seats"]["calculatedEntitlement"]["usageLimit"].as_i64()
    }

    fn tombstones(&self) -> Vec<String> {
        let mut keys = self.stage.redis.keys();
        keys.retain(|key| key.starts_with(&format!("{PREFIX}:purged")));
        keys
    }

    fn end(self) {
        self.service.stop();
    }
}

#[test]
fn an_older_list_does_not_bring_a_purged_customer_back() {
    let scene = Scene::new("UPSERT");
    scene.list(CUSTOMER, 10, 1);
    assert_eq!(scene.limit(CUSTOMER), Some(1));
    scene.purge(CUSTOMER, 20);
    scene.list(CUSTOMER, 15, 2);
    assert_eq!(scene.stored(CUSTOMER), None);
    scene.list(CUSTOMER, 21, 3);
    assert_eq!(scene.limit(CUSTOMER), Some(3), "sent after the purge");
    scene.end();
}

#[test]
fn an_older_list_of_a_resource_does_not_come_back_after_its_customer_was_purged() {
    let scene = Scene::new("UPSERT");
    scene.purge(CUSTOMER, 20);
    scene.list(RESOURCE, 15, 1);
    assert_eq!(scene.stored(RESOURCE), None);
    scene.list(RESOURCE, 21, 2);
    assert_eq!(scene.limit(RESOURCE), Some(2));
    scene.end();
}

#[test]
fn an_older_list_does_not_come_back_after_the_environment_was_invalidated() {
    let scene = Scene::new("UPSERT");
    scene.list(CUSTOMER, 10, 1);
    scene.invalidate(20);
    assert_eq!(scene.stored(CUSTOMER), None);
    scene.list(CUSTOMER, 15, 2);
    assert_eq!(scene.stored(CUSTOMER), None);
    scene.list(CUSTOMER, 21, 3);
    assert_eq!(scene.limit(CUSTOMER), Some(3));
    scene.end();
}

#[test]
fn an_older_list_does_not_replace_what_a_reader_has_refetched_after_the_purge() {
    for policy in ["UPSERT", "UPDATE_IF_EXISTS"] {
        let scene = Scene::new(policy);
        scene.cache(CUSTOMER, Some(5));
        scene.purge(CUSTOMER, 20);
        // An SDK that gets no entitlements from Stigg writes an empty object with the far-past marker.
        scene.cache(CUSTOMER, None);
        scene.list(CUSTOMER, 15, 1);
        assert_eq!(scene.stored(CUSTOMER), Some(json!({})), "{policy}");
        scene.list(CUSTOMER, 21, 2);
        assert_eq!(scene.limit(CUSTOMER), Some(2), "{policy}: sent after the purge");
        scene.end();
    }
}

#[test]
fn an_older_list_does_not_replace_what_a_reader_has_refetched_after_an_invalidation() {
    let scene = Scene::new("UPSERT");
    scene.invalidate(20);
    scene.cache(CUSTOMER, None);
    scene.list(CUSTOMER, 15, 1);
    assert_eq!(scene.stored(CUSTOMER), Some(json!({})));
    scene.end();
}

#[test]
fn a_resources_entry_that_its_customers_purge_left_in_place_is_updated_as_ever() {
    let scene = Scene::new("UPDATE_IF_EXISTS");
    scene.cache(CUSTOMER, Some(5));
    scene.cache(RESOURCE, Some(6));
    scene.purge(CUSTOMER, 20);
    scene.list(RESOURCE, 15, 1);
    assert_eq!(
        scene.limit(RESOURCE),
        Some(1),
        "else the older state would be served once the customer is cached again"
    );
    scene.end();
}

#[test]
fn a_list_of_a_resource_that_is_being_refetched_is_written_though_its_customer_was_purged() {
    let scene = Scene::new("UPDATE_IF_EXISTS");
    scene.cache(CUSTOMER, Some(5));
    scene.purge(CUSTOMER, 20);
    // The reader received an older list, and has not written it yet.
    let lock = RESOURCE.refetch_lock_key(PREFIX);
    scene.stage.redis.command::<()>(&["SET", &lock, "a-reader", "PX", "30000"]);
    let state = State::new(RESOURCE, scene.at(15), &[number("feature-seats", 1)]);
    let body = entitlements_updated(&state, Shape::GraphqlV2).raw();
    scene.stage.queue.send_at(body, scene.at(16));
    scene.service.wait_until("the resource's list", || scene.limit(RESOURCE) == Some(1));
    scene.stage.redis.command::<()>(&["DEL", &lock]);
    scene.service.wait_until("an empty queue", || scene.stage.queue.is_empty());
    assert_eq!(scene.limit(RESOURCE), Some(1));
    scene.end();
}

#[test]
fn a_list_of_the_same_millisecond_as_the_purge_does_not_come_back() {
    let scene = Scene::new("UPSERT");
    scene.list(CUSTOMER, 10, 1);
    scene.purge(CUSTOMER, 20);
    let state = State::new(CUSTOMER, scene.at(19), &[number("feature-seats", 2)]);
    scene.apply(&entitlements_updated(&state, Shape::GraphqlV2), 20);
    assert_eq!(scene.stored(CUSTOMER), None);
    scene.end();
}

#[test]
fn an_older_list_is_held_back_while_an_invalidation_is_under_way_and_after_one_that_was_broken_off() {
    let scene = Scene::new("UPDATE_IF_EXISTS");
    // As an instance leaves it that was killed.
    let tombstone = format!("{PREFIX}:purged");
    let sent_at = scene.at(20).to_string();
    scene.stage.redis.command::<()>(&["SET", &tombstone, &sent_at, "EX", "600"]);
    scene.cache(CUSTOMER, Some(5));
    scene.list(CUSTOMER, 15, 1);
    assert_eq!(scene.limit(CUSTOMER), None);
    scene.invalidate(20);
    assert_eq!(scene.stage.redis.keys(), [tombstone], "no customer is left");
    scene.end();
}

#[test]
fn an_earlier_purge_does_not_hide_a_later_one() {
    let scene = Scene::new("UPSERT");
    scene.list(CUSTOMER, 5, 1);
    scene.purge(CUSTOMER, 30);
    scene.purge(CUSTOMER, 20);
    scene.list(CUSTOMER, 25, 2);
    assert_eq!(scene.stored(CUSTOMER), None);
    scene.end();
}

#[test]
fn a_list_that_is_older_than_the_one_an_out_of_order_purge_deleted_does_not_take_its_place() {
    let scene = Scene::new("UPSERT");
    scene.list(CUSTOMER, 40, 2);
    scene.purge(CUSTOMER, 20);
    // Sent after the purge, as the deleted one was.
    scene.list(CUSTOMER, 30, 1);
    assert_ne!(scene.limit(CUSTOMER), Some(1), "a stale answer");
    scene.list(CUSTOMER, 50, 3);
    assert_eq!(scene.limit(CUSTOMER), Some(3));
    scene.end();
}

#[test]
fn a_list_that_is_older_than_the_one_an_out_of_order_invalidation_deleted_does_not_take_its_place() {
    let customers = [Owner::customer("customer:1"), Owner::resource("customer-2", "site-1")];
    let scene = Scene::new("UPSERT");
    for customer in customers {
        scene.list_with_usage(customer, 40, 2);
    }
    scene.invalidate(20);
    for customer in customers {
        scene.list_with_usage(customer, 30, 1);
        assert_ne!(scene.limit(customer), Some(1), "a stale answer");
        scene.list_with_usage(customer, 50, 3);
        assert_eq!(scene.limit(customer), Some(3));
    }
    scene.end();
}

#[test]
fn a_list_that_is_older_than_one_the_policy_skipped_is_not_let_in_by_a_usage_that_a_purge_left() {
    let scene = Scene::new("UPDATE_IF_EXISTS");
    scene.cache(CUSTOMER, Some(5));
    scene.list_with_usage(CUSTOMER, 10, 1);
    assert_eq!(scene.limit(CUSTOMER), Some(1));
    scene.purge(CUSTOMER, 20);
    scene.denial(CUSTOMER, 40);
    assert_eq!(scene.stored(CUSTOMER), None, "skipped by policy");
    scene.list_with_usage(CUSTOMER, 30, 2);
    assert_eq!(scene.stored(CUSTOMER), None, "else an archived customer would have access");
    scene.list_with_usage(CUSTOMER, 50, 3);
    assert_eq!(scene.limit(CUSTOMER), Some(3));
    scene.end();
}

#[test]
fn a_list_is_written_whole_or_not_at_all() {
    let scene = Scene::new("UPSERT");
    // SDK 3.x writes no metadata.
    scene.cache(CUSTOMER, Some(20));
    scene.denial(CUSTOMER, 10);
    let metadata = format!("{}:metadata", CUSTOMER.key(PREFIX));
    assert_eq!(scene.stage.redis.get(&metadata), None, "the reason of an older list");
    // And where a reader wrote an empty list with the far-past marker, the metadata show since when it is empty.
    scene.denial(CUSTOMER, 30);
    scene.cache(CUSTOMER, None);
    scene.list(CUSTOMER, 25, 1);
    assert_eq!(scene.stored(CUSTOMER), Some(json!({})));
    scene.list(CUSTOMER, 35, 2);
    assert_eq!(scene.limit(CUSTOMER), Some(2));
    scene.end();
}

#[test]
fn a_resources_empty_entry_that_may_be_older_than_its_customers_purge_leaves_the_question_to_the_next_reader()
{
    let scene = Scene::new("UPDATE_IF_EXISTS");
    scene.cache(CUSTOMER, Some(5));
    scene.cache(RESOURCE, None);
    scene.purge(CUSTOMER, 20);
    scene.list(RESOURCE, 15, 1);
    assert_eq!(scene.stored(RESOURCE), None);
    scene.end();
}

#[test]
fn a_customer_of_whom_nothing_is_stored_has_no_tombstone_under_update_if_exists() {
    let scene = Scene::new("UPDATE_IF_EXISTS");
    for number in 0..50 {
        let customer = format!("customer-{number}");
        scene.stage.queue.send_at(purge(Owner::customer(&customer), scene.at(20)).raw(), scene.at(20));
    }
    scene.purge(RESOURCE, 20);
    assert_eq!(scene.stage.redis.keys(), [""; 0]);
    // One who is cached has one: for half a day, and it names the purge and the list.
    scene.cache(CUSTOMER, Some(5));
    scene.purge(CUSTOMER, 20);
    let tombstone = format!("{PREFIX}:purged:c_customer-1");
    assert_eq!(scene.tombstones(), std::slice::from_ref(&tombstone));
    assert_eq!(scene.stage.redis.get(&tombstone), Some(format!("{}:{}", scene.at(20), scene.at(5))));
    let lives: i64 = scene.stage.redis.command(&["TTL", &tombstone]);
    assert!((43_000..=43_200).contains(&lives), "{lives} s");
    scene.end();
}

#[test]
fn under_upsert_a_customer_of_whom_nothing_is_stored_has_one() {
    let scene = Scene::new("UPSERT");
    scene.purge(CUSTOMER, 20);
    let tombstone = format!("{PREFIX}:purged:c_customer-1");
    assert_eq!(scene.tombstones(), std::slice::from_ref(&tombstone));
    assert_eq!(scene.stage.redis.get(&tombstone), Some(scene.at(20).to_string()));
    scene.end();
}

#[test]
fn a_later_purge_counts_though_nothing_but_usages_and_a_tombstone_is_left() {
    let scene = Scene::new("UPDATE_IF_EXISTS");
    scene.cache(CUSTOMER, Some(5));
    scene.list_with_usage(CUSTOMER, 10, 1);
    scene.purge(CUSTOMER, 20);
    scene.purge(CUSTOMER, 40);
    scene.list_with_usage(CUSTOMER, 30, 2);
    assert_eq!(scene.stored(CUSTOMER), None, "sent before the later purge");
    scene.list_with_usage(CUSTOMER, 50, 3);
    assert_eq!(scene.limit(CUSTOMER), Some(3));
    scene.end();
}

#[test]
fn a_tombstone_is_not_of_the_future_whatever_was_deleted() {
    let scene = Scene::new("UPDATE_IF_EXISTS");
    // A reader writes the time that Stigg gives, or an older version of the service did.
    let key = CUSTOMER.key(PREFIX);
    let stamp = format!("{key}#timestamp");
    scene.stage.redis.command::<()>(&["MSET", &key, "{}", &stamp, "32503680000000"]);
    scene.purge(CUSTOMER, 20);
    assert_eq!(scene.stored(CUSTOMER), None);
    let tombstone = scene.stage.redis.get(&format!("{PREFIX}:purged:c_customer-1")).expect("a tombstone");
    for part in tombstone.split(':') {
        let at: i64 = part.parse().expect("a number");
        assert!(at <= hours_ago(0), "{tombstone}");
    }
    scene.cache(CUSTOMER, None);
    let state = State::new(CUSTOMER, hours_ago(0), &[number("feature-seats", 1)]);
    scene.stage.deliver(&scene.service, &[entitlements_updated(&state, Shape::GraphqlV2).raw()]);
    assert_eq!(scene.limit(CUSTOMER), Some(1));
    scene.end();
}

#[test]
fn a_scan_never_leaves_half_of_a_pair_though_readers_write_meanwhile() {
    let scene = Scene::new("UPDATE_IF_EXISTS");
    let customers: Vec<String> = (0..200).map(|number| format!("{PREFIX}:c_hot-{number}")).collect();
    let mut connection = scene.stage.redis.connection();
    for chunk in (0..20_000).collect::<Vec<u32>>().chunks(1_000) {
        let mut pipe = redis::pipe();
        for number in chunk {
            pipe.set(format!("{PREFIX}:c_other-{number}"), "{}").ignore();
        }
        pipe.exec(&mut connection).expect("Redis answers");
    }
    // A reader writes every customer again and again, as after a miss.
    let is_over = Arc::new(AtomicBool::new(false));
    let reader = {
        let (customers, is_over) = (customers.clone(), Arc::clone(&is_over));
        thread("hot-reader", move || {
            while !is_over.load(Ordering::Relaxed) {
                for key in &customers {
                    let mut both = redis::pipe();
                    both.atomic().set(key, "{}").ignore().set(format!("{key}#timestamp"), 1).ignore();
                    both.exec(&mut connection).expect("Redis answers");
                }
            }
        })
    };
    scene.invalidate(20);
    is_over.store(true, Ordering::Relaxed);
    reader.join().expect("the reader writes");
    assert!(scene.stage.redis.calls_of("unlink") > 10, "{}", scene.stage.redis.calls_of("unlink"));
    for key in &customers {
        let value = scene.stage.redis.get(key).is_some();
        let timestamp = scene.stage.redis.get(&format!("{key}#timestamp")).is_some();
        assert_eq!(value, timestamp, "{key} and its timestamp");
    }
    scene.end();
}
