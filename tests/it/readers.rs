//! The published SDK as reader: for each message shape in each envelope it answers what it would have answered
//! had it fetched the new state itself, and it does not call its API once.

use serde_json::{Value, json};

use crate::support::messages::{Envelope, Shape, entitlements_updated, usage_updated};
use crate::support::redis::TestRedis;
use crate::support::sdk::{Kind, Owner, Sdk};
use crate::support::service::Service;
use crate::support::stage::{PREFIX, Stage};
use crate::support::state::{State, credit, every_kind, hours_ago};

const FEATURE: &str = "feature-api-calls";

/// One customer with one resource, before and after.
struct Case {
    before: [State; 2],
    after: [State; 2],
    messages: Vec<String>,
    name: String,
}

fn case(shape: Shape, envelope: Envelope) -> Case {
    let name = format!("{shape:?} in {envelope:?}");
    let customer = format!("customer-{shape:?}-{envelope:?}");
    let (global, resource) = (Owner::customer(&customer), Owner::resource(&customer, "site-1"));
    let before = [
        State::new(global, hours_ago(9), &every_kind(0)),
        State::new(resource, hours_ago(8), &every_kind(1)),
    ];
    // A resource's state that is older than its customer's is no answer: readers refetch it.
    let mut after = [
        State::new(global, hours_ago(4), &every_kind(2)),
        State::new(resource, hours_ago(3), &every_kind(3)),
    ];
    let mut messages: Vec<String> =
        after.iter().map(|state| entitlements_updated(state, shape).wrapped(envelope)).collect();
    for (state, usage) in after.iter_mut().zip([77, 88]) {
        messages.push(usage_updated(state, FEATURE, usage, hours_ago(1), shape).wrapped(envelope));
        let measured =
            state.entitlements.iter_mut().find(|entitlement| entitlement["feature"]["refId"] == FEATURE);
        measured.expect("the measured feature")["currentUsage"] = json!(usage);
    }
    Case { before, after, messages, name }
}

/// Every answer of an SDK about one owner, with what the question was.
pub fn answers(sdk: &Sdk, state: &State) -> Vec<(String, Value)> {
    let owner = state.owner();
    let mut all = sdk.entitlements(owner);
    let list = all.as_array_mut().expect("a list");
    list.sort_by_key(|entitlement| entitlement["feature"]["id"].to_string());
    let mut answers = vec![("getEntitlements".to_owned(), all)];
    for (kind, feature) in state.questions() {
        answers.push((format!("{kind:?} {feature}"), sdk.entitlement(kind, owner, &feature)));
        let options = match kind {
            Kind::Metered => json!({"requestedUsage": 25}),
            Kind::Enum => json!({"requestedValues": ["eu", "ap"]}),
            Kind::Boolean | Kind::Numeric => continue,
        };
        let answer = sdk.entitlement_for(kind, owner, &feature, &options);
        answers.push((format!("{kind:?} {feature} with {options}"), answer));
    }
    for (_, answer) in &mut answers {
        forget_display_names(answer);
    }
    answers
}

/// Entries that serve 4.x readers too carry a feature's display name, and 3.x hands it through.
fn forget_display_names(answer: &mut Value) {
    if let Some(list) = answer.as_array_mut() {
        list.iter_mut().for_each(forget_display_names);
    } else if let Some(feature) = answer.get_mut("feature").and_then(Value::as_object_mut) {
        feature.remove("displayName");
    }
}

fn readers_answer_rightly_from(format: &str) {
    let stage = Stage::new();
    let service = Service::start(&stage.settings().set("CACHE_FORMAT", format));
    let sdk = Sdk::open(&stage.redis, PREFIX);
    let elsewhere = TestRedis::start();
    let reference = Sdk::open(&elsewhere, PREFIX);

    let cases: Vec<Case> = Shape::ALL
        .into_iter()
        .flat_map(|shape| Envelope::ALL.into_iter().map(move |envelope| case(shape, envelope)))
        .collect();
    for case in &cases {
        sdk.cache(&[&case.before[0], &case.before[1]]);
        reference.cache(&[&case.after[0], &case.after[1]]);
    }
    let messages: Vec<String> = cases.iter().flat_map(|case| case.messages.clone()).collect();
    stage.deliver(&service, &messages);

    for case in &cases {
        for state in &case.after {
            let of = format!("{}, {:?}", case.name, state.owner());
            for (ours, right) in answers(&sdk, state).into_iter().zip(answers(&reference, state)) {
                assert_eq!(ours, right, "{of} (left: from the service's cache, right: as fetched)");
            }
            assert_eq!(sdk.calls(), Vec::<String>::new(), "{of}: calls of the API");
        }
        let usage = sdk.entitlement(Kind::Metered, case.after[0].owner(), FEATURE);
        assert_eq!(
            (&usage["currentUsage"], &usage["usageLimit"]),
            (&json!(77), &json!(102)),
            "{}",
            case.name
        );
        let usage = sdk.entitlement(Kind::Metered, case.after[1].owner(), FEATURE);
        assert_eq!(
            (&usage["currentUsage"], &usage["usageLimit"]),
            (&json!(88), &json!(103)),
            "{}",
            case.name
        );
    }
    assert_eq!(reference.calls(), Vec::<String>::new(), "the reference was right by itself");
    service.stop();
}

#[test]
fn answer_rightly_from_v3_entries_without_a_call_of_the_api() {
    readers_answer_rightly_from("v3");
}

#[test]
fn answer_rightly_from_compatible_entries_without_a_call_of_the_api() {
    readers_answer_rightly_from("compatible");
}

#[test]
fn learn_of_a_lost_subscription_without_a_call_of_the_api() {
    let stage = Stage::new();
    let service = Service::start(&stage.settings());
    let sdk = Sdk::open(&stage.redis, PREFIX);
    let owner = Owner::customer("customer-1");
    sdk.cache(&[&State::new(owner, hours_ago(5), &every_kind(0))]);
    let mut without_access = State::new(owner, hours_ago(1), &[]);
    without_access.access_denied_reason = Some("NoActiveSubscription".to_owned());
    stage.deliver(&service, &[entitlements_updated(&without_access, Shape::EventLog).raw()]);

    assert_eq!(sdk.entitlements(owner), json!([]));
    let answer = sdk.entitlement(Kind::Boolean, owner, "feature-sso");
    assert_eq!((&answer["hasAccess"], &answer["isFallback"]), (&json!(false), &json!(false)), "{answer}");
    assert_eq!(sdk.calls(), Vec::<String>::new());
    assert_eq!(
        stage.redis.json(&format!("{}:metadata", owner.key(PREFIX))),
        Some(json!({"accessDeniedReason": "NoActiveSubscription"}))
    );
    service.stop();
}

#[test]
fn of_three_x_are_not_disturbed_by_credit_entitlements() {
    let stage = Stage::new();
    let owner = Owner::customer("customer-1");
    let sdk = Sdk::open(&stage.redis, PREFIX);
    sdk.cache(&[&State::new(owner, hours_ago(5), &every_kind(0))]);
    let with_credit = [every_kind(0), vec![credit("cred-type-ai", 1000, 250)]].concat();
    let state = State::new(owner, hours_ago(1), &with_credit);
    let service = Service::start(&stage.settings());
    stage.deliver(&service, &[entitlements_updated(&state, Shape::GraphqlV2).raw()]);

    let answers = sdk.entitlements(owner);
    let answers = answers.as_array().expect("a list");
    assert_eq!(answers.len(), every_kind(0).len() + 1, "the credit is listed as an entry without feature");
    let without_feature = answers.iter().filter(|answer| answer.get("feature").is_none()).count();
    assert_eq!(without_feature, 1);
    let usage = sdk.entitlement(Kind::Metered, owner, FEATURE);
    assert_eq!((&usage["currentUsage"], &usage["isFallback"]), (&json!(42), &json!(false)), "{usage}");
    assert_eq!(sdk.calls(), Vec::<String>::new());
    service.stop();
}
