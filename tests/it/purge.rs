//! What is no longer true is forgotten: of a customer, of a resource, of an environment.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::messages::{
    Message, Shape, customer_deleted, entitlements_updated, package_published, purge, subscriptions_migrated,
};
use crate::support::redis::TestRedis;
use crate::support::sdk::{Owner, Sdk};
use crate::support::service::Service;
use crate::support::stage::{PREFIX, Stage};
use crate::support::state::{State, every_kind, hours_ago};

const CUSTOMERS: [&str; 3] = ["customer-1", "customer-10", "customer-2"];

/// Three customers with one resource each, written by the service so that every kind of key is there.
fn a_full_cache() -> (Stage, Service) {
    let stage = Stage::new();
    let service = Service::start(&stage.settings().set("CACHE_UPDATE_POLICY", "UPSERT"));
    let owners = CUSTOMERS
        .iter()
        .flat_map(|customer| [Owner::customer(customer), Owner::resource(customer, "site-1")]);
    let messages: Vec<String> = owners
        .map(|owner| {
            entitlements_updated(&State::new(owner, hours_ago(5), &every_kind(0)), Shape::GraphqlV2).raw()
        })
        .collect();
    stage.deliver(&service, &messages);
    (stage, service)
}

/// The keys that a purge of this owner deletes.
fn purged_keys(owner: Owner) -> [String; 4] {
    let key = owner.key(PREFIX);
    [key.clone(), format!("{key}#timestamp"), format!("{key}:metadata"), format!("{key}:metadata#timestamp")]
}

/// Delivers one message; only these owners' entries are gone, and everything else is as it was.
fn forgets_exactly(message: &Message, owners: &[Owner]) {
    let (stage, service) = a_full_cache();
    let mut expected = stage.redis.contents();
    for key in owners.iter().copied().flat_map(purged_keys) {
        assert!(expected.remove(&key).is_some(), "{key} was there before");
    }
    stage.deliver(&service, &[message.raw()]);
    let mut left = stage.redis.contents();
    // The service remembers when a purge was sent, so that an out-of-order message does not bring the old state back. No reader
    // looks there.
    left.retain(|key, _| !key.starts_with(&format!("{PREFIX}:purged")));
    let names = |contents: &BTreeMap<String, String>| contents.keys().cloned().collect::<BTreeSet<_>>();
    let (are, should_be) = (names(&left), names(&expected));
    let (kept, lost) = (are.difference(&should_be), should_be.difference(&are));
    assert_eq!(
        (kept.collect::<Vec<_>>(), lost.collect::<Vec<_>>()),
        (vec![], vec![]),
        "after {}: keys that should be gone, keys that should be there",
        message.type_name
    );
    assert_eq!(left, expected, "after {}", message.type_name);
    service.stop();
}

#[test]
fn of_a_customer_forgets_that_customer_and_keeps_usages_resources_and_others() {
    let customer = Owner::customer("customer-1");
    forgets_exactly(&purge(customer, hours_ago(1)), &[customer]);
}

#[test]
fn of_a_resource_forgets_that_resource() {
    let resource = Owner::resource("customer-1", "site-1");
    forgets_exactly(&purge(resource, hours_ago(1)), &[resource]);
}

#[test]
fn follows_the_deletion_of_a_customer() {
    forgets_exactly(&customer_deleted("customer-2", hours_ago(1)), &[Owner::customer("customer-2")]);
}

#[test]
fn follows_a_migration_of_the_customers_that_it_names() {
    let migrated = subscriptions_migrated(&["customer-1", "customer-2"], hours_ago(1));
    forgets_exactly(&migrated, &[Owner::customer("customer-1"), Owner::customer("customer-2")]);
}

#[test]
fn follows_an_empty_entitlement_list_that_gives_no_reason() {
    let nothing = State::new(Owner::customer("customer-10"), hours_ago(1), &[]);
    forgets_exactly(&entitlements_updated(&nothing, Shape::GraphqlV1), &[Owner::customer("customer-10")]);
}

#[test]
fn does_not_follow_a_package_for_new_customers() {
    forgets_exactly(&package_published("NEW_CUSTOMERS"), &[]);
}

#[test]
fn sends_the_next_reader_to_the_api() {
    let (stage, service) = a_full_cache();
    let owner = Owner::customer("customer-1");
    let sdk = Sdk::open(&stage.redis, PREFIX);
    assert_eq!(sdk.entitlements(owner).as_array().map(Vec::len), Some(every_kind(0).len()));
    assert_eq!(sdk.calls(), Vec::<String>::new());
    stage.deliver(&service, &[purge(owner, hours_ago(1)).raw()]);
    let newer = State::new(owner, hours_ago(1), &every_kind(1));
    sdk.serve(&newer);
    assert_eq!(sdk.entitlements(owner).as_array().map(Vec::len), Some(newer.entitlements.len()));
    assert_eq!(sdk.calls().len(), 1, "{:?}", sdk.calls());
    service.stop();
}

/// An environment whose prefix is a glob pattern; unescaped, it matches the neighbour's keys.
const GLOB_PREFIX: &str = r"pr*d?[a-z]\x";
const NEIGHBOUR_PREFIX: &str = "prod1bx";

/// Fills two environments: 100,000 keys in the first (four a customer), one hundred customers in the second.
fn fill_two_environments(redis: &TestRedis) -> BTreeMap<String, String> {
    let mut connection = redis.connection();
    let mut neighbour = BTreeMap::new();
    let customer_keys = |prefix: &str, number: u32| {
        let key = Owner::customer(&format!("customer-{number}")).key(prefix);
        let names = [
            key.clone(),
            format!("{key}#timestamp"),
            format!("{key}:metadata"),
            format!("{key}:metadata#timestamp"),
        ];
        names.map(|name| {
            let value = if name.ends_with("#timestamp") { "1795161600000" } else { "{}" };
            (name, value.to_owned())
        })
    };
    for chunk in (0..25_000).collect::<Vec<u32>>().chunks(1000) {
        let mut pipe = redis::pipe();
        for number in chunk {
            for (key, value) in customer_keys(GLOB_PREFIX, *number) {
                pipe.set(key, value).ignore();
            }
        }
        pipe.exec(&mut connection).expect("redis answers");
    }
    let mut pipe = redis::pipe();
    for number in 0..100 {
        for (key, value) in customer_keys(NEIGHBOUR_PREFIX, number) {
            pipe.set(&key, &value).ignore();
            neighbour.insert(key, value);
        }
    }
    // A reader's lock of the environment that is invalidated: a reader is writing, and it is not ours to free.
    let lock = Owner::customer("customer-1").lock_key(GLOB_PREFIX);
    pipe.set(&lock, "a-reader").ignore();
    neighbour.insert(lock, "a-reader".to_owned());
    pipe.exec(&mut connection).expect("redis answers");
    let size: usize = redis.command(&["DBSIZE"]);
    assert_eq!(size, 100_000 + neighbour.len());
    neighbour
}

fn empties_its_environment_and_no_other(message: &Message) {
    let stage = Stage::new();
    let kept = fill_two_environments(&stage.redis);
    let service = Service::start(&stage.settings().set("ENVIRONMENT_PREFIX", GLOB_PREFIX));
    let received_total = "persistent_cache_messages_received_total";
    let received = service.metrics().value(received_total);
    stage.queue.send(&message.raw());
    service.wait_for_metric(received_total, received + 1.0);
    service.wait_until("only the second environment to be left", || {
        let size: usize = stage.redis.command(&["DBSIZE"]);
        size <= kept.len() + 1 // and the tombstone
    });
    service.wait_until("an empty queue", || stage.queue.is_empty());
    let mut left = stage.redis.contents();
    assert!(left.remove(&format!("{GLOB_PREFIX}:purged")).is_some());
    assert_eq!(left, kept);
    for command in ["flushdb", "flushall"] {
        assert_eq!(stage.redis.calls_of(command), 0, "{command}");
    }
    // `contents` above asks KEYS once; the service must not.
    assert_eq!(stage.redis.calls_of("keys"), 1, "KEYS blocks the server for everybody");
    assert!(stage.redis.calls_of("scan") > 50, "many small steps");
    service.stop();
}

#[test]
fn of_an_environment_of_100_000_keys_follows_a_package_published_to_all_customers() {
    empties_its_environment_and_no_other(&package_published("ALL_CUSTOMERS"));
}

#[test]
fn of_an_environment_of_100_000_keys_follows_a_migration_that_names_no_customers() {
    empties_its_environment_and_no_other(&subscriptions_migrated(&[], hours_ago(1)));
}
