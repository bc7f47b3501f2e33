//! Order does not matter: whatever order newer messages come in, and however often, Redis ends the same.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::messages::{Shape, credit_balance, entitlements_updated, usage_updated};
use crate::support::redis::TestRedis;
use crate::support::sdk::{Owner, Sdk};
use crate::support::service::Service;
use crate::support::stage::{PREFIX, Stage};
use crate::support::state::{State, credit, every_kind, hours_ago, iso};

const FEATURE: &str = "feature-api-calls";
const CURRENCY: &str = "cred-type-ai";

/// Times are taken once: every customer gets the same ones, to the millisecond.
struct Times {
    cached: i64,
    first_state: i64,
    first_usage: i64,
    balance: i64,
    second_state: i64,
    second_usage: i64,
}

impl Times {
    fn new() -> Self {
        let [cached, first_state, first_usage, balance, second_state, second_usage] =
            [9, 8, 7, 6, 5, 4].map(hours_ago);
        Self { cached, first_state, first_usage, balance, second_state, second_usage }
    }
}

/// What the two newer states grant. Made once: the periods in it are counted from the time of the call.
fn newer_entitlements() -> [Vec<Value>; 2] {
    [1, 2].map(|salt| [every_kind(salt), vec![credit(CURRENCY, 1000, 100 * salt)]].concat())
}

/// Two states, two usages of one feature and one credit balance of one customer, oldest first.
fn five_messages(customer: &str, times: &Times, newer: &[Vec<Value>; 2], shape: Shape) -> [String; 5] {
    let owner = Owner::customer(customer);
    let first = State::with_usage_times(owner, times.first_state, times.first_state - 1, &newer[0]);
    let mut second = State::with_usage_times(owner, times.second_state, times.second_state - 1, &newer[1]);
    // The second state came later, but what it says of the credit was measured before the balance.
    let credit = second.entitlements.last_mut().expect("the credit");
    credit["usageUpdatedAt"] = json!(iso(times.balance - 1));
    let usage = |state: &State, usage: i64, at: i64| usage_updated(state, FEATURE, usage, at, shape).raw();
    [
        entitlements_updated(&first, Shape::GraphqlV2).raw(),
        usage(&first, 61, times.first_usage),
        credit_balance(owner, CURRENCY, 300, times.balance).raw(),
        entitlements_updated(&second, Shape::GraphqlV2).raw(),
        usage(&second, 62, times.second_usage),
    ]
}

/// Every order of five things.
fn orders() -> Vec<[usize; 5]> {
    let mut orders = Vec::new();
    for number in 0..120 {
        let mut left = vec![0, 1, 2, 3, 4];
        let mut rest = number;
        orders.push([5, 4, 3, 2, 1].map(|choices| {
            let chosen = left.remove(rest % choices);
            rest /= choices;
            chosen
        }));
    }
    orders
}

/// What Redis holds for one customer, with the customer left out of the keys.
fn contents_of(contents: &BTreeMap<String, String>, customer: &str) -> BTreeMap<String, String> {
    let key = Owner::customer(customer).key(PREFIX);
    let of_customer = contents.iter().filter_map(|(name, value)| {
        let rest = name.strip_prefix(&key)?;
        (rest.is_empty() || rest.starts_with([':', '#'])).then(|| (rest.to_owned(), value.clone()))
    });
    of_customer.collect()
}

/// Delivers the five messages in every order, each order to a customer of its own whom the SDK has cached.
///
/// One poller, one worker: the queue gives messages in the order they were sent in, and they are applied in it.
fn every_order_ends_the_same(deliveries: usize) {
    let stage = Stage::new();
    let times = Times::new();
    let cached = every_kind(0);
    let newer = newer_entitlements();
    let customers: Vec<String> = orders().iter().map(|order| format!("customer-{order:?}")).collect();
    let sdk = Sdk::open(&stage.redis, PREFIX);
    for customer in &customers {
        sdk.cache(&[&State::new(Owner::customer(customer), times.cached, &cached)]);
    }
    drop(sdk);
    let settings = stage.settings().set("CONSUMERS", "1").set("WORKERS", "1");
    let service = Service::start(&settings);
    // The deeper the queue the slower moto: twenty orders at a time.
    for some in orders().iter().zip(&customers).collect::<Vec<_>>().chunks(20) {
        let mut messages = Vec::new();
        for (order, customer) in some {
            let five = five_messages(customer, &times, &newer, Shape::Webhook);
            for _ in 0..deliveries {
                messages.extend(order.iter().map(|index| five[*index].clone()));
            }
        }
        stage.deliver(&service, &messages);
    }
    assert_all_the_same(&stage.redis, &customers, &times);
    service.stop();
}

fn assert_all_the_same(redis: &TestRedis, customers: &[String], times: &Times) {
    let contents = redis.contents();
    let in_order = contents_of(&contents, &customers[0]);
    let json = |name: &str| serde_json::from_str::<Value>(&in_order[name]).expect("JSON");
    assert_eq!(json("")[FEATURE]["calculatedEntitlement"]["usageLimit"], json!(102), "the second state");
    assert_eq!(in_order["#timestamp"], times.second_state.to_string());
    assert_eq!(json(&format!(":f_{FEATURE}"))["currentUsage"], json!(62), "the second usage");
    assert_eq!(in_order[&format!(":f_{FEATURE}#timestamp")], times.second_usage.to_string());
    assert_eq!(json(&format!(":credit_{CURRENCY}"))["currentUsage"], json!(300), "the credit balance");
    for customer in customers {
        assert_eq!(contents_of(&contents, customer), in_order, "{customer} (right: in order)");
    }
}

#[test]
fn of_five_newer_messages_leaves_the_same_redis_in_all_120_orders() {
    every_order_ends_the_same(1);
}

#[test]
fn of_five_newer_messages_leaves_the_same_redis_when_each_order_is_delivered_twice() {
    every_order_ends_the_same(2);
}

#[test]
fn is_harmless_with_many_workers_at_once() {
    let stage = Stage::new();
    let times = Times::new();
    let newer = newer_entitlements();
    let customers: Vec<String> = (0..24).map(|number| format!("customer-{number}")).collect();
    let sdk = Sdk::open(&stage.redis, PREFIX);
    for customer in &customers {
        sdk.cache(&[&State::new(Owner::customer(customer), times.cached, &every_kind(0))]);
    }
    let all_five: Vec<[String; 5]> =
        customers.iter().map(|customer| five_messages(customer, &times, &newer, Shape::EventLog)).collect();
    // Newest first, and all customers' messages mixed.
    let messages: Vec<String> =
        [4, 3, 2, 1, 0].iter().flat_map(|index| all_five.iter().map(|five| five[*index].clone())).collect();
    let service = Service::start(&stage.settings().set("CONSUMERS", "4").set("WORKERS", "8"));
    stage.deliver(&service, &messages);
    assert_all_the_same(&stage.redis, &customers, &times);
    service.stop();
}
