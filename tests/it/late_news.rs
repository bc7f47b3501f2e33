//! A message that was sent before a purge and comes after it: SQS promises no order, and a real queue cannot be
//! made to deliver out of order on purpose, so the store is driven directly, on a real Redis.

use persistent_cache_service::cache::keyspace::Keyspace;
use persistent_cache_service::cache::{CacheChange, Invalidation, Layout, changes_for};
use persistent_cache_service::config::{CacheUpdatePolicy, Expiry, RedisAddress, RedisConfig};
use persistent_cache_service::entitlement::EpochMs;
use persistent_cache_service::entitlement::stored::CacheFormat;
use persistent_cache_service::message;
use persistent_cache_service::store::{CacheStore, Locks, Outcome, RedisStore, StoreRules};

use crate::support::messages::{Message, Shape, entitlements_updated, package_published, purge};
use crate::support::redis::TestRedis;
use crate::support::sdk::Owner;
use crate::support::stage::PREFIX;
use crate::support::state::{State, every_kind, hours_ago, metered, number};

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
    fn apply(&self, message: &Message, sent_at_ms: i64) -> Outcome {
        let layout = Layout {
            keyspace: Keyspace::new(PREFIX),
            format: CacheFormat::Compatible,
            policy: self.policy,
        };
        let sent_at = EpochMs(sent_at_ms);
        let decoded = message::decode(&message.raw(), sent_at).expect("a message that can be read");
        let changes = changes_for(&decoded.event, sent_at, &layout);
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
            .apply(&[(change, Locks::Respect)], &|| true)
            .expect("Redis answers");
        outcomes.remove(0).expect("the change is not refused")
    }

    fn entitlements(&self, owner: Owner, sent_at_ms: i64) -> Outcome {
        let state = State::new(owner, hours_ago(5), &every_kind(0));
        self.apply(&entitlements_updated(&state, Shape::GraphqlV2), sent_at_ms)
    }
}

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
    assert!(is_written(direct.entitlements(customer, 1_000)));
    direct.apply(&purge(customer, hours_ago(1)), 2_000);
    // The usage keys stay, so under either policy nothing else would hold this back.
    assert_eq!(direct.entitlements(customer, 1_500), Outcome::PurgedLater);
    assert_eq!(direct.redis.get(&customer.key(PREFIX)), None);
    assert!(
        is_written(direct.entitlements(customer, 2_001)),
        "what was sent after the purge is news"
    );
}

#[test]
fn of_a_resource_does_not_come_back_after_its_customer_was_purged() {
    let resource = Owner::resource("customer-1", "site-1");
    let direct = Direct::new(CacheUpdatePolicy::Upsert);
    direct.apply(&purge(Owner::customer("customer-1"), hours_ago(1)), 2_000);
    assert_eq!(direct.entitlements(resource, 1_500), Outcome::PurgedLater);
    assert!(is_written(direct.entitlements(resource, 2_001)));
}

#[test]
fn does_not_come_back_after_the_environment_was_invalidated() {
    let customer = Owner::customer("customer-1");
    let direct = Direct::new(CacheUpdatePolicy::Upsert);
    assert!(is_written(direct.entitlements(customer, 1_000)));
    assert!(is_written(
        direct.apply(&package_published("ALL_CUSTOMERS"), 2_000)
    ));
    assert_eq!(direct.entitlements(customer, 1_500), Outcome::PurgedLater);
    assert!(is_written(direct.entitlements(customer, 2_001)));
}

#[test]
fn does_not_overwrite_what_a_reader_has_refetched_after_the_purge() {
    let customer = Owner::customer("customer-1");
    let direct = Direct::new(CacheUpdatePolicy::UpdateIfExists);
    direct.apply(&purge(customer, hours_ago(1)), 2_000);
    // An SDK that is told of no entitlements writes an empty object with the far-past mark.
    let key = customer.key(PREFIX);
    direct
        .redis
        .command::<()>(&["MSET", &key, "{}", &format!("{key}#timestamp"), "0"]);
    assert_eq!(direct.entitlements(customer, 1_500), Outcome::PurgedLater);
    assert_eq!(direct.redis.get(&key).as_deref(), Some("{}"));
    assert!(
        is_written(direct.entitlements(customer, 2_001)),
        "what was sent after the purge is news"
    );
}

#[test]
fn does_not_overwrite_what_a_reader_has_refetched_after_an_invalidation() {
    let customer = Owner::customer("customer-1");
    let direct = Direct::new(CacheUpdatePolicy::Upsert);
    direct.apply(&package_published("ALL_CUSTOMERS"), 2_000);
    let key = customer.key(PREFIX);
    direct
        .redis
        .command::<()>(&["MSET", &key, "{}", &format!("{key}#timestamp"), "0"]);
    assert_eq!(direct.entitlements(customer, 1_500), Outcome::PurgedLater);
}

#[test]
fn of_a_resource_that_its_customers_purge_left_in_place_is_news() {
    let resource = Owner::resource("customer-1", "site-1");
    let direct = Direct::new(CacheUpdatePolicy::UpdateIfExists);
    let key = resource.key(PREFIX);
    direct
        .redis
        .command::<()>(&["MSET", &key, "{}", &format!("{key}#timestamp"), "1"]);
    direct.apply(&purge(Owner::customer("customer-1"), hours_ago(1)), 2_000);
    assert!(
        is_written(direct.entitlements(resource, 1_500)),
        "else the older state would be served once the customer is cached again"
    );
}

#[test]
fn of_the_same_millisecond_as_the_purge_does_not_come_back() {
    let customer = Owner::customer("customer-1");
    let direct = Direct::new(CacheUpdatePolicy::Upsert);
    direct.apply(&purge(customer, hours_ago(1)), 2_000);
    assert_eq!(direct.entitlements(customer, 2_000), Outcome::PurgedLater);
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
    direct
        .redis
        .command::<()>(&["MSET", &key, "{}", &format!("{key}#timestamp"), "1"]);
    let sent_at = EpochMs(2_000);
    let keyspace = Keyspace::new(PREFIX);
    let invalidation = Invalidation {
        pattern: keyspace.customer_keys_pattern(),
        mark: keyspace.environment_purge_mark(),
        keeps_mark: false,
        sent_at,
    };
    direct
        .store
        .invalidate(&invalidation, &|| false)
        .expect_err("the walk is told not to go on");
    direct
        .redis
        .command::<()>(&["MSET", &key, "{}", &format!("{key}#timestamp"), "1"]);
    assert_eq!(direct.entitlements(customer, 1_500), Outcome::PurgedLater);
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
    direct.apply(&purge(customer, hours_ago(1)), 3_000);
    direct.apply(&purge(customer, hours_ago(2)), 2_000);
    assert_eq!(direct.entitlements(customer, 2_500), Outcome::PurgedLater);
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
        pattern: Keyspace::new(PREFIX).customer_keys_pattern(),
        mark: Keyspace::new(PREFIX).environment_purge_mark(),
        keeps_mark: false,
        sent_at: EpochMs(2_000),
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
        list(customer, 1_700_000_000_010, &[number("feature-seats", 1)]),
        list(customer, 1_700_000_000_020, &[number("feature-seats", 2)]),
    );
    let direct = Direct::new(CacheUpdatePolicy::Upsert);
    assert!(is_written(direct.apply(&newer, 3_001)));
    direct.apply(&purge(customer, hours_ago(1)), 2_000);
    assert_eq!(direct.redis.get(&customer.key(PREFIX)), None);
    // Both were sent after the purge.
    assert_eq!(direct.apply(&older, 3_000), Outcome::PurgedLater);
    assert_eq!(direct.redis.get(&customer.key(PREFIX)), None);
    assert!(
        is_written(direct.apply(&newer, 3_001)),
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
        let newer = list(customer, 1_700_000_000_020, &[metered("feature-calls", 9, 2)]);
        assert!(is_written(direct.apply(&newer, 1_700_000_000_021)));
    }
    direct.apply(&package_published("ALL_CUSTOMERS"), 1_700_000_000_005);
    for customer in customers {
        assert_eq!(direct.redis.get(&customer.key(PREFIX)), None);
        let older = list(customer, 1_700_000_000_010, &[metered("feature-calls", 9, 1)]);
        assert_eq!(direct.apply(&older, 1_700_000_000_022), Outcome::PurgedLater);
        let newest = list(customer, 1_700_000_000_030, &[metered("feature-calls", 9, 3)]);
        assert!(is_written(direct.apply(&newest, 1_700_000_000_031)));
    }
}

#[test]
fn that_is_older_than_a_list_the_policy_skipped_is_not_let_in_by_a_usage_that_a_purge_left() {
    let customer = Owner::customer("customer-1");
    let direct = Direct::new(CacheUpdatePolicy::UpdateIfExists);
    let key = customer.key(PREFIX);
    direct
        .redis
        .command::<()>(&["MSET", &key, "{}", &format!("{key}#timestamp"), "1"]);
    let with_usage = |at| list(customer, at, &[metered("feature-calls", 9, 1)]);
    assert!(is_written(direct.apply(&with_usage(1_700_000_000_010), 1_000)));
    direct.apply(&purge(customer, hours_ago(1)), 2_000);

    assert_eq!(
        direct.apply(&denial(customer, 1_700_000_000_030), 3_001),
        Outcome::SkippedByPolicy
    );
    assert_eq!(
        direct.apply(&with_usage(1_700_000_000_020), 3_000),
        Outcome::PurgedLater,
        "else an archived customer would have access"
    );
    assert!(is_written(direct.apply(&with_usage(1_700_000_000_040), 3_002)));
}

#[test]
fn of_a_list_is_taken_whole_or_not_at_all() {
    let customer = Owner::customer("customer-1");
    let direct = Direct::new(CacheUpdatePolicy::Upsert);
    let (key, at) = (customer.key(PREFIX), "1700000000020");
    // SDK 3.x writes no metadata.
    let stamp = format!("{key}#timestamp");
    direct.redis.command::<()>(&["MSET", &key, "{}", &stamp, at]);
    direct.apply(&denial(customer, 1_700_000_000_010), 1_000);
    let metadata = format!("{key}:metadata");
    assert_eq!(direct.redis.get(&metadata), None, "the reason of an older list");

    // And where a reader wrote an empty list with the far-past mark, the metadata tell since when it is empty.
    direct.apply(&denial(customer, 1_700_000_000_030), 2_000);
    direct.redis.command::<()>(&["MSET", &key, "{}", &stamp, "0"]);
    let older = list(customer, 1_700_000_000_025, &[number("feature-seats", 1)]);
    direct.apply(&older, 2_001);
    assert_eq!(direct.redis.get(&key).as_deref(), Some("{}"));
    let newer = list(customer, 1_700_000_000_035, &[number("feature-seats", 1)]);
    assert!(is_written(direct.apply(&newer, 2_002)));
}

#[test]
fn of_a_resource_whose_empty_entry_may_be_older_than_its_customers_purge_leaves_the_question_to_the_next_reader()
 {
    let resource = Owner::resource("customer-1", "site-1");
    let direct = Direct::new(CacheUpdatePolicy::UpdateIfExists);
    let key = resource.key(PREFIX);
    direct
        .redis
        .command::<()>(&["MSET", &key, "{}", &format!("{key}#timestamp"), "0"]);
    direct.apply(&purge(Owner::customer("customer-1"), hours_ago(1)), 2_000);
    assert_eq!(direct.entitlements(resource, 1_500), Outcome::PurgedLater);
    assert_eq!(direct.redis.get(&key), None);
}

#[test]
fn and_all_other_news_wait_for_a_reader_that_is_asking_stigg_since_its_answer_may_be_older() {
    for owner in [
        Owner::customer("customer-1"),
        Owner::resource("customer-1", "site-1"),
    ] {
        let direct = Direct::new(CacheUpdatePolicy::Upsert);
        let whose = owner
            .resource
            .map_or(String::new(), |resource| format!(":{resource}"));
        let lock = format!("{PREFIX}:refetchEntityEntitlementsAfterCacheMiss-customer-1{whose}");
        direct
            .redis
            .command::<()>(&["SET", &lock, "a-reader", "PX", "5000"]);
        assert_eq!(direct.entitlements(owner, 1_000), Outcome::Locked);
        assert_eq!(direct.apply(&purge(owner, hours_ago(1)), 1_001), Outcome::Locked);
        direct.redis.command::<()>(&["DEL", &lock]);
        assert!(is_written(direct.entitlements(owner, 1_000)));
    }
}
