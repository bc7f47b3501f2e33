//! A message that was sent before a purge and comes after it: SQS promises no order, and a real queue cannot be
//! made to deliver out of order on purpose, so the store is driven directly, on a real Redis.

use persistent_cache_service::cache::keyspace::Keyspace;
use persistent_cache_service::cache::{CacheChange, Invalidation, Layout, changes_for};
use persistent_cache_service::config::{CacheUpdatePolicy, Expiry, RedisAddress, RedisConfig};
use persistent_cache_service::entitlement::EpochMs;
use persistent_cache_service::entitlement::stored::CacheFormat;
use persistent_cache_service::event;
use persistent_cache_service::store::{CacheStore, Locks, Outcome, RedisStore, StoreRules};

use crate::support::messages::{Message, Shape, entitlements_updated, package_published, purge};
use crate::support::redis::TestRedis;
use crate::support::sdk::Owner;
use crate::support::stage::PREFIX;
use crate::support::state::{State, every_kind, hours_ago};

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
        let event = event::decode(&message.raw(), sent_at).expect("a message that can be read");
        let changes = changes_for(&event, sent_at, &layout);
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
