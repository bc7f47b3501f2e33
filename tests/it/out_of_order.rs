//! A message that was sent before a purge and comes after it: SQS promises no order, and a real queue cannot be
//! made to deliver out of order on purpose, so the store is driven directly, on a real Redis.

use persistent_cache_service::cache::keyspace::Keyspace;
use persistent_cache_service::cache::{CacheChange, Invalidation, Layout, changes};
use persistent_cache_service::config::{CacheUpdatePolicy, Expiry, RedisAddress, RedisConfig};
use persistent_cache_service::entitlement::EpochMs;
use persistent_cache_service::entitlement::stored::CacheFormat;
use persistent_cache_service::message;
use persistent_cache_service::store::{CacheStore, LockPatience, Outcome, RedisStore, StoreRules};

use crate::support::messages::{Message, Shape, entitlements_updated, package_published, purge};
use crate::support::redis::TestRedis;
use crate::support::sdk::Owner;
use crate::support::stage::PREFIX;
use crate::support::state::{State, every_kind, metered, number};

struct Direct {
    redis: TestRedis,
    store: RedisStore,
    policy: CacheUpdatePolicy,
}

impl Direct {
    fn new(policy: CacheUpdatePolicy) -> Self {
        let redis = TestRedis::start();
        let config = RedisConfig {
            address: RedisAddress::Unix(redis.socket()),
            db: 0,
            username: None,
            password: None,
            iam: None,
            tls: None,
        };
        let rules = StoreRules {
            keyspace: Keyspace::new(PREFIX),
            policy,
            expiry: Expiry::Seconds(600),
        };
        Self {
            redis,
            store: RedisStore::new(config, rules, 1, None),
            policy,
        }
    }

    /// Applies a message that was sent at this time; the outcome of its change.
    fn apply(&self, message: &Message, sent_at: i64) -> Outcome {
        let layout = Layout {
            keyspace: Keyspace::new(PREFIX),
            format: CacheFormat::Compatible,
            policy: self.policy,
        };
        let message = message::decode(&message.raw(), EpochMs(sent_at)).expect("a message that can be read");
        let changes: Vec<CacheChange> = changes(message, &layout).collect();
        let [change] = changes.as_slice() else {
            panic!("one change, not {changes:?}")
        };
        if let CacheChange::InvalidateEnvironment(invalidation) = change {
            let written = self
                .store
                .invalidate(invalidation, &|| true)
                .expect("Redis answers");
            return Outcome::Applied { written, stale: 0 };
        }
        let mut outcomes = self
            .store
            .apply(&[(change, LockPatience::RESPECT)], &|| true)
            .expect("Redis answers");
        outcomes.remove(0).expect("the change is not refused")
    }

    /// Applies a list that was true, and sent, at this time.
    fn entitlements(&self, owner: Owner, at: i64) -> Outcome {
        let state = State::new(owner, at, &every_kind(0));
        self.apply(&entitlements_updated(&state, Shape::GraphqlV2), at)
    }

    fn purge(&self, owner: Owner, at: i64) -> Outcome {
        self.apply(&purge(owner, at), at)
    }

    /// What a reader has written: an empty list of this time.
    fn read_by_sdk(&self, key: &str, timestamp: &str) {
        self.redis
            .command::<()>(&["MSET", key, "{}", &format!("{key}#timestamp"), timestamp]);
    }
}

/// Times count from here, in milliseconds.
const T: i64 = 1_790_000_000_000;

/// A list that was true at `at`.
fn list(owner: Owner, at: i64, features: &[serde_json::Value]) -> Message {
    entitlements_updated(&State::new(owner, at, features), Shape::GraphqlV2)
}

/// An empty list with its reason.
fn denial(owner: Owner, at: i64) -> Message {
    let mut state = State::new(owner, at, &[]);
    state.access_denied_reason = Some("CustomerIsArchived".to_owned());
    entitlements_updated(&state, Shape::EventLog)
}

fn is_written(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Applied { written, .. } if written > 0)
}

#[test]
fn of_a_purged_customer_does_not_come_back() {
    let customer = Owner::customer("customer-1");
    let direct = Direct::new(CacheUpdatePolicy::Upsert);
    assert!(is_written(direct.entitlements(customer, T + 1_000)));
    direct.purge(customer, T + 2_000);
    // The usage keys stay, so under either policy nothing else would hold this back.
    assert_eq!(direct.entitlements(customer, T + 1_500), Outcome::PurgedLater);
    assert_eq!(direct.redis.get(&customer.key(PREFIX)), None);
    assert!(
        is_written(direct.entitlements(customer, T + 2_001)),
        "what was sent after the purge is news"
    );
}

#[test]
fn of_a_resource_does_not_come_back_after_its_customer_was_purged() {
    let resource = Owner::resource("customer-1", "site-1");
    let direct = Direct::new(CacheUpdatePolicy::Upsert);
    direct.purge(Owner::customer("customer-1"), T + 2_000);
    assert_eq!(direct.entitlements(resource, T + 1_500), Outcome::PurgedLater);
    assert!(is_written(direct.entitlements(resource, T + 2_001)));
}

#[test]
fn does_not_come_back_after_the_environment_was_invalidated() {
    let customer = Owner::customer("customer-1");
    let direct = Direct::new(CacheUpdatePolicy::Upsert);
    assert!(is_written(direct.entitlements(customer, T + 1_000)));
    assert!(is_written(
        direct.apply(&package_published("ALL_CUSTOMERS"), T + 2_000)
    ));
    assert_eq!(direct.entitlements(customer, T + 1_500), Outcome::PurgedLater);
    assert!(is_written(direct.entitlements(customer, T + 2_001)));
}

#[test]
fn does_not_overwrite_what_a_reader_has_refetched_after_the_purge() {
    let customer = Owner::customer("customer-1");
    let direct = Direct::new(CacheUpdatePolicy::UpdateIfExists);
    let key = customer.key(PREFIX);
    direct.read_by_sdk(&key, "1");
    direct.purge(customer, T + 2_000);
    // An SDK that is told of no entitlements writes an empty object with the far-past mark.
    direct.read_by_sdk(&key, "0");
    assert_eq!(direct.entitlements(customer, T + 1_500), Outcome::PurgedLater);
    assert_eq!(direct.redis.get(&key).as_deref(), Some("{}"));
    assert!(
        is_written(direct.entitlements(customer, T + 2_001)),
        "what was sent after the purge is news"
    );
}

#[test]
fn of_a_customer_with_nothing_stored_leaves_no_tombstone_unless_upsert_would_write() {
    let customer = Owner::customer("customer-1");
    let direct = Direct::new(CacheUpdatePolicy::UpdateIfExists);
    direct.purge(customer, T + 2_000);
    assert_eq!(direct.redis.keys(), [""; 0]);
    let direct = Direct::new(CacheUpdatePolicy::Upsert);
    direct.purge(customer, T + 2_000);
    assert_eq!(direct.redis.keys(), [format!("{PREFIX}:purged:c_customer-1")]);
}

#[test]
fn that_a_redrive_sent_again_is_as_old_as_its_list() {
    let customer = Owner::customer("customer-1");
    for policy in [CacheUpdatePolicy::Upsert, CacheUpdatePolicy::UpdateIfExists] {
        let direct = Direct::new(policy);
        direct.read_by_sdk(&customer.key(PREFIX), "1");
        let list = list(customer, T + 10, &[metered("feature-calls", 9, 1)]);
        assert!(is_written(direct.apply(&list, T + 10)));
        direct.purge(customer, T + 20);
        assert_eq!(direct.apply(&list, T + 30), Outcome::PurgedLater, "{policy:?}");
    }
}

#[test]
fn from_the_future_does_not_keep_newer_lists_away_once_it_is_purged() {
    let customer = Owner::customer("customer-1");
    let direct = Direct::new(CacheUpdatePolicy::Upsert);
    direct.read_by_sdk(&customer.key(PREFIX), "32503680000000");
    let now = persistent_cache_service::clock::now().0;
    direct.purge(customer, now);
    assert!(is_written(direct.entitlements(customer, now + 2_000)));
}

#[test]
fn does_not_overwrite_what_a_reader_has_refetched_after_an_invalidation() {
    let customer = Owner::customer("customer-1");
    let direct = Direct::new(CacheUpdatePolicy::Upsert);
    direct.apply(&package_published("ALL_CUSTOMERS"), T + 2_000);
    let key = customer.key(PREFIX);
    direct.read_by_sdk(&key, "0");
    assert_eq!(direct.entitlements(customer, T + 1_500), Outcome::PurgedLater);
}

#[test]
fn of_a_resource_that_its_customers_purge_left_in_place_is_news() {
    let resource = Owner::resource("customer-1", "site-1");
    let direct = Direct::new(CacheUpdatePolicy::UpdateIfExists);
    let key = resource.key(PREFIX);
    direct.read_by_sdk(&key, "1");
    direct.purge(Owner::customer("customer-1"), T + 2_000);
    assert!(
        is_written(direct.entitlements(resource, T + 1_500)),
        "else the older state would be served once the customer is cached again"
    );
}

#[test]
fn of_the_same_millisecond_as_the_purge_does_not_come_back() {
    let customer = Owner::customer("customer-1");
    let direct = Direct::new(CacheUpdatePolicy::Upsert);
    direct.purge(customer, T + 2_000);
    assert_eq!(direct.entitlements(customer, T + 2_000), Outcome::PurgedLater);
}

#[test]
fn is_held_back_while_an_invalidation_is_under_way_and_after_one_that_was_broken_off() {
    let customer = Owner::customer("customer-1");
    let direct = Direct::new(CacheUpdatePolicy::UpdateIfExists);
    let key = customer.key(PREFIX);
    for number in 0..5_000 {
        direct
            .redis
            .command::<()>(&["SET", &format!("{PREFIX}:c_other-{number}"), "{}"]);
    }
    direct.read_by_sdk(&key, "1");
    let invalidation = Invalidation {
        keyspace: Keyspace::new(PREFIX),
        keeps_tombstone: false,
        resets_tombstone: false,
        sent_at: EpochMs(T + 2_000),
    };
    direct
        .store
        .invalidate(&invalidation, &|| false)
        .expect_err("the walk is told not to go on");
    direct.read_by_sdk(&key, "1");
    assert_eq!(direct.entitlements(customer, T + 1_500), Outcome::PurgedLater);
    direct
        .store
        .invalidate(&invalidation, &|| true)
        .expect("the walk ends");
    assert_eq!(
        direct.redis.keys(),
        [""; 0],
        "neither a customer nor the mark is left"
    );
}

#[test]
fn of_an_earlier_purge_does_not_hide_a_later_one() {
    let customer = Owner::customer("customer-1");
    let direct = Direct::new(CacheUpdatePolicy::Upsert);
    direct.purge(customer, T + 3_000);
    direct.purge(customer, T + 2_000);
    assert_eq!(direct.entitlements(customer, T + 2_500), Outcome::PurgedLater);
}

#[test]
fn and_a_walk_never_leaves_half_of_a_pair_though_readers_write_meanwhile() {
    let direct = Direct::new(CacheUpdatePolicy::UpdateIfExists);
    let customers: Vec<String> = (0..200)
        .map(|number| format!("{PREFIX}:c_hot-{number}"))
        .collect();
    for number in 0..20_000 {
        direct
            .redis
            .command::<()>(&["SET", &format!("{PREFIX}:c_other-{number}"), "{}"]);
    }
    let write_all = |connection: &mut redis::Connection| {
        for key in &customers {
            let mut both = redis::pipe();
            both.atomic()
                .set(key, "{}")
                .ignore()
                .set(format!("{key}#timestamp"), 1)
                .ignore();
            both.exec(connection).expect("Redis answers");
        }
    };
    let mut reader = direct.redis.connection();
    write_all(&mut reader);
    let invalidation = Invalidation {
        keyspace: Keyspace::new(PREFIX),
        keeps_tombstone: false,
        resets_tombstone: false,
        sent_at: EpochMs(T + 2_000),
    };
    // Between any two steps of the walk a reader writes every customer anew, as after a miss.
    let reader = std::cell::RefCell::new(reader);
    let go_on = || {
        write_all(&mut reader.borrow_mut());
        true
    };
    direct
        .store
        .invalidate(&invalidation, &go_on)
        .expect("the walk ends");
    for key in &customers {
        let value = direct.redis.get(key).is_some();
        let timestamp = direct.redis.get(&format!("{key}#timestamp")).is_some();
        assert_eq!(value, timestamp, "{key} and its timestamp");
    }
}

#[test]
fn that_is_older_than_the_list_a_late_purge_deleted_does_not_take_its_place() {
    let customer = Owner::customer("customer-1");
    let (older, newer) = (
        list(customer, T + 10, &[number("feature-seats", 1)]),
        list(customer, T + 20, &[number("feature-seats", 2)]),
    );
    let direct = Direct::new(CacheUpdatePolicy::Upsert);
    assert!(is_written(direct.apply(&newer, T + 21)));
    direct.purge(customer, T + 5);
    assert_eq!(direct.redis.get(&customer.key(PREFIX)), None);
    // Both were sent after the purge.
    assert_eq!(direct.apply(&older, T + 11), Outcome::PurgedLater);
    assert_eq!(direct.redis.get(&customer.key(PREFIX)), None);
    assert!(
        is_written(direct.apply(&newer, T + 21)),
        "the same again is welcome"
    );
}

#[test]
fn that_is_older_than_the_list_a_late_invalidation_deleted_does_not_take_its_place() {
    let customers = [
        Owner::customer("customer:1"),
        Owner::resource("customer-2", "site-1"),
    ];
    let direct = Direct::new(CacheUpdatePolicy::Upsert);
    for customer in customers {
        let newer = list(customer, T + 20, &[metered("feature-calls", 9, 2)]);
        assert!(is_written(direct.apply(&newer, T + 21)));
    }
    direct.apply(&package_published("ALL_CUSTOMERS"), T + 5);
    for customer in customers {
        assert_eq!(direct.redis.get(&customer.key(PREFIX)), None);
        let older = list(customer, T + 10, &[metered("feature-calls", 9, 1)]);
        assert_eq!(direct.apply(&older, T + 22), Outcome::PurgedLater);
        let newest = list(customer, T + 30, &[metered("feature-calls", 9, 3)]);
        assert!(is_written(direct.apply(&newest, T + 31)));
    }
}

#[test]
fn that_is_older_than_a_list_the_policy_skipped_is_not_let_in_by_a_usage_that_a_purge_left() {
    let customer = Owner::customer("customer-1");
    let direct = Direct::new(CacheUpdatePolicy::UpdateIfExists);
    let key = customer.key(PREFIX);
    direct.read_by_sdk(&key, "1");
    let with_usage = |at| list(customer, at, &[metered("feature-calls", 9, 1)]);
    assert!(is_written(direct.apply(&with_usage(T + 10), T + 10)));
    direct.purge(customer, T + 12);

    assert_eq!(
        direct.apply(&denial(customer, T + 30), T + 30),
        Outcome::SkippedByPolicy
    );
    assert_eq!(
        direct.apply(&with_usage(T + 20), T + 20),
        Outcome::PurgedLater,
        "else an archived customer would have access"
    );
    assert!(is_written(direct.apply(&with_usage(T + 40), T + 40)));
}

#[test]
fn of_a_list_is_taken_whole_or_not_at_all() {
    let customer = Owner::customer("customer-1");
    let direct = Direct::new(CacheUpdatePolicy::Upsert);
    let (key, at) = (customer.key(PREFIX), (T + 20).to_string());
    // SDK 3.x writes no metadata.
    let stamp = format!("{key}#timestamp");
    direct.redis.command::<()>(&["MSET", &key, "{}", &stamp, &at]);
    direct.apply(&denial(customer, T + 10), T + 10);
    let metadata = format!("{key}:metadata");
    assert_eq!(direct.redis.get(&metadata), None, "the reason of an older list");

    // And where a reader wrote an empty list with the far-past mark, the metadata tell since when it is empty.
    direct.apply(&denial(customer, T + 30), T + 30);
    direct.redis.command::<()>(&["MSET", &key, "{}", &stamp, "0"]);
    let older = list(customer, T + 25, &[number("feature-seats", 1)]);
    direct.apply(&older, T + 25);
    assert_eq!(direct.redis.get(&key).as_deref(), Some("{}"));
    let newer = list(customer, T + 35, &[number("feature-seats", 1)]);
    assert!(is_written(direct.apply(&newer, T + 35)));
}

#[test]
fn of_a_resource_whose_empty_entry_may_be_older_than_its_customers_purge_leaves_the_question_to_the_next_reader()
 {
    let resource = Owner::resource("customer-1", "site-1");
    let direct = Direct::new(CacheUpdatePolicy::UpdateIfExists);
    let key = resource.key(PREFIX);
    direct.read_by_sdk(&Owner::customer("customer-1").key(PREFIX), "1");
    direct.read_by_sdk(&key, "0");
    direct.purge(Owner::customer("customer-1"), T + 2_000);
    assert_eq!(direct.entitlements(resource, T + 1_500), Outcome::PurgedLater);
    assert_eq!(direct.redis.get(&key), None);
}

#[test]
fn and_a_purge_waits_for_a_reader_that_is_refetching_but_what_is_newer_is_written_at_once() {
    for owner in [
        Owner::customer("customer-1"),
        Owner::resource("customer-1", "site-1"),
    ] {
        let direct = Direct::new(CacheUpdatePolicy::UpdateIfExists);
        let whose = owner
            .resource
            .map_or(String::new(), |resource| format!(":{resource}"));
        let lock = format!("{PREFIX}:refetchEntityEntitlementsAfterCacheMiss-customer-1{whose}");
        direct
            .redis
            .command::<()>(&["SET", &lock, "a-reader", "PX", "60000"]);
        assert!(is_written(direct.entitlements(owner, T + 1_000)));
        assert_eq!(direct.purge(owner, T + 1_001), Outcome::Locked);
        direct.redis.command::<()>(&["DEL", &lock]);
        assert!(is_written(direct.purge(owner, T + 1_001)));
    }
}
