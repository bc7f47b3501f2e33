//! Credit balances, as the published SDK 3.95.0 reads them from Redis: it looks at the list alone, so a balance changes
//! the entries that are paid for with its currency, as the SDK's own cache in memory does. (4.x readers compute this
//! themselves.)

use persistent_cache_service::clock;
use serde_json::{Value, json};

use crate::fakes::queue::QueueOptions;
use crate::support::fake_stage::FakeStage;
use crate::support::messages::{CreditBalance, Message, Shape, entitlements_updated};
use crate::support::sdk::{CUSTOMER, Kind, Owner, RESOURCE, Sdk, under_balance};
use crate::support::service::Service;
use crate::support::stage::PREFIX;
use crate::support::state::{State, credit, enumeration, every_kind, hours_ago, metered, with};

const CURRENCY: &str = "cred-type-ai";
const OTHER_CURRENCY: &str = "cred-type-video";
/// The forms whose readers rely on the list.
const FORMATS: [&str; 2] = ["compatible", "v3"];
const DAY_MS: i64 = 86_400_000;

const AI: &str = "feature-ai";
const SOFT: &str = "feature-ai-soft";
const DENIED: &str = "feature-ai-denied";
const VIDEO: &str = "feature-video";
const FREE: &str = "feature-sso";

fn rated(feature: Value, currency: &str) -> Value {
    with(feature, &json!({"creditRate": {"amount": 2.5, "currencyId": currency}}))
}

/// A feature of each kind that a balance has to distinguish, among all others.
fn entitlements() -> Vec<Value> {
    let denied = json!({"isGranted": false, "accessDeniedReason": "FeatureNotFound"});
    let mut entitlements = every_kind(0);
    entitlements.extend([
        rated(metered(AI, 1000, 1), CURRENCY),
        rated(with(metered(SOFT, 10, 1), &json!({"hasSoftLimit": true})), CURRENCY),
        rated(with(metered(DENIED, 10, 1), &denied), CURRENCY),
        rated(metered(VIDEO, 10, 1), OTHER_CURRENCY),
        rated(enumeration("feature-models", &["a", "b"]), CURRENCY),
    ]);
    entitlements
}

fn state(owner: Owner, at: i64) -> State {
    State::new(owner, at, &entitlements())
}

/// A list of that time that the API has made at an exhausted balance.
fn denied_state(owner: Owner, at: i64) -> State {
    let mut entitlements = entitlements();
    for entitlement in &mut entitlements {
        let is_of_currency = entitlement["creditRate"]["currencyId"] == CURRENCY;
        if is_of_currency
            && entitlement["accessDeniedReason"].is_null()
            && entitlement["hasSoftLimit"] != true
        {
            entitlement["accessDeniedReason"] = json!("InsufficientCredits");
            entitlement["isGranted"] = json!(false);
        }
    }
    State::new(owner, at, &entitlements)
}

fn balance(left: i64) -> CreditBalance<'static> {
    CreditBalance { currency: CURRENCY, left, consumed: 1000 - left, valid_until: None, period: None }
}

/// A customer and a resource whom the SDK has cached, and a service.
struct Scene {
    stage: FakeStage,
    service: Service,
    sdk: Sdk,
}

impl Scene {
    fn new(format: &str) -> Self {
        Self::with(format, &[state(CUSTOMER, hours_ago(9)), state(RESOURCE, hours_ago(8))])
    }

    fn with(format: &str, cached: &[State]) -> Self {
        let stage = FakeStage::new(QueueOptions::default());
        let sdk = Sdk::open(&stage.redis, PREFIX);
        sdk.cache(&cached.iter().collect::<Vec<_>>());
        let settings = stage.settings();
        let settings = settings.set("CACHE_UPDATE_POLICY", "UPDATE_IF_EXISTS").set("CACHE_FORMAT", format);
        let service = Service::start(&settings);
        Self { stage, service, sdk }
    }

    fn deliver_both(&self, balance: &Message, list: &Message, balance_first: bool) {
        let (first, second) = if balance_first { (balance, list) } else { (list, balance) };
        self.deliver(first);
        self.deliver(second);
    }

    fn deliver(&self, message: &Message) {
        self.stage.deliver(&self.service, &[message.raw()]);
    }

    fn list(&self, owner: Owner) -> Value {
        self.stage.redis.json(&owner.key(PREFIX)).expect("a cached list")
    }

    fn timestamp(&self, owner: Owner) -> Value {
        let key = format!("{}#timestamp", owner.key(PREFIX));
        self.stage.redis.json(&key).expect("a timestamp")
    }

    /// (hasAccess, accessDeniedReason) as the SDK answers, without a call of its API.
    fn access(&self, owner: Owner, feature: &str) -> (Value, Value) {
        let kind = if feature == FREE { Kind::Boolean } else { Kind::Metered };
        let answer = self.sdk.entitlement(kind, owner, feature);
        assert_eq!(answer["isFallback"], json!(false), "{feature}: {answer}");
        assert_eq!(self.sdk.calls(), Vec::<String>::new(), "{feature}");
        (answer["hasAccess"].clone(), answer["accessDeniedReason"].clone())
    }

    fn end(self) {
        self.service.stop();
    }
}

fn granted() -> (Value, Value) {
    (json!(true), Value::Null)
}

fn denied_for(reason: &str) -> (Value, Value) {
    (json!(false), json!(reason))
}

/// Null fields and absent ones are the same to every reader.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name.clone(), without_nulls(value)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

/// Compares entry by entry, so that a difference can be read.
fn assert_same_list(found: &Value, expected: &Value, what: &str) {
    for (name, entry) in expected.as_object().expect("a list") {
        assert_eq!(without_nulls(&found[name]), without_nulls(entry), "{what}: {name} (left: in Redis)");
    }
    assert_eq!(without_nulls(found), without_nulls(expected), "{what}");
}

#[test]
fn a_feature_is_denied_when_its_credits_are_gone_and_granted_when_there_are_some_again() {
    for format in FORMATS {
        let scene = Scene::new(format);
        let before = [CUSTOMER, RESOURCE].map(|owner| scene.list(owner));
        let at = scene.timestamp(CUSTOMER);
        assert_eq!(scene.access(CUSTOMER, AI), granted(), "{format}");

        scene.deliver(&balance(0).event_log(CUSTOMER, hours_ago(3)));
        assert_eq!(scene.access(CUSTOMER, AI), denied_for("InsufficientCredits"), "{format}");
        assert_eq!(scene.access(CUSTOMER, SOFT), granted(), "{format}: a soft limit");
        assert_eq!(scene.access(CUSTOMER, DENIED), denied_for("FeatureNotFound"));
        assert_eq!(scene.access(CUSTOMER, VIDEO), granted(), "{format}: another currency");
        assert_eq!(scene.access(CUSTOMER, FREE), granted(), "{format}: no credits");
        assert_eq!(scene.timestamp(CUSTOMER), at, "the list is as old as it was");
        assert_eq!(scene.list(RESOURCE), before[1], "a resource has its own balance");

        scene.deliver(&balance(10).event_log(CUSTOMER, hours_ago(2)));
        assert_eq!(scene.access(CUSTOMER, AI), granted(), "{format}");
        assert_eq!(scene.access(CUSTOMER, DENIED), denied_for("FeatureNotFound"));
        assert_same_list(&scene.list(CUSTOMER), &before[0], "all is as it was");
        assert_eq!(scene.timestamp(CUSTOMER), at);
        scene.end();
    }
}

#[test]
fn a_balance_below_zero_and_one_that_only_its_sums_tell_deny_as_well() {
    let scene = Scene::new("compatible");
    scene.deliver(&balance(-3).event_log(CUSTOMER, hours_ago(5)));
    assert_eq!(scene.access(CUSTOMER, AI), denied_for("InsufficientCredits"));
    scene.deliver(&balance(1).event_log(CUSTOMER, hours_ago(4)));
    assert_eq!(scene.access(CUSTOMER, AI), granted());
    // Granted and consumed alone show that nothing is left.
    let mut message = balance(0).event_log(CUSTOMER, hours_ago(3));
    let payload = message.body["payload"].as_object_mut().expect("a payload");
    payload.remove("currentBalance");
    scene.deliver(&message);
    assert_eq!(scene.access(CUSTOMER, AI), denied_for("InsufficientCredits"));
    scene.end();
}

#[test]
fn a_currency_id_that_json_has_to_escape_is_found_in_the_list() {
    const QUOTED: &str = "the \"gold\" \\ coins";
    let scene =
        Scene::with("compatible", &[State::new(CUSTOMER, hours_ago(9), &[rated(metered(AI, 9, 1), QUOTED)])]);
    let exhausted = CreditBalance { currency: QUOTED, ..balance(0) };
    scene.deliver(&exhausted.event_log(CUSTOMER, hours_ago(1)));
    let list = scene.list(CUSTOMER);
    assert_eq!(list[AI]["calculatedEntitlement"]["accessDeniedReason"], "InsufficientCredits", "{list}");
    scene.end();
}

#[test]
fn a_balance_in_graphql_form_counts_from_when_it_was_sent() {
    let scene = Scene::new("v3");
    scene.stage.deliver_at(&scene.service, &balance(0).graphql(CUSTOMER).raw(), hours_ago(2));
    assert_eq!(scene.access(CUSTOMER, AI), denied_for("InsufficientCredits"));
    // An older one that comes later changes nothing.
    scene.stage.deliver_at(&scene.service, &balance(10).graphql(CUSTOMER).raw(), hours_ago(3));
    assert_eq!(scene.access(CUSTOMER, AI), denied_for("InsufficientCredits"));
    scene.end();
}

/// Of each entry the SDK's cache keeps the parts that 3.x knows; the others stay in Redis. It denies a soft limit as well,
/// which by the contract keeps access.
fn adjust_as_the_sdk_does(list: &mut Value, left: i64, valid_until: Option<i64>) {
    let adjusted = under_balance(list, CURRENCY, left, valid_until);
    for (name, entry) in list.as_object_mut().expect("a list") {
        let mut calculated = adjusted[name]["calculatedEntitlement"].clone();
        if name == SOFT {
            calculated["accessDeniedReason"] = Value::Null;
        }
        entry["calculatedEntitlement"] = calculated;
    }
}

#[test]
fn the_list_becomes_what_the_sdks_own_cache_in_memory_makes_of_it() {
    for format in FORMATS {
        // As the service writes it, and as the SDK does.
        for is_ours in [true, false] {
            let scene = Scene::new(format);
            if is_ours {
                let state = state(CUSTOMER, hours_ago(7));
                scene.deliver(&entitlements_updated(&state, Shape::GraphqlV2));
            }
            let mut expected = scene.list(CUSTOMER);
            let until = clock::now().0 + 5 * DAY_MS;
            let balances = [(0, Some(until)), (0, None), (10, Some(until + 1)), (-1, None), (7, None)];
            for ((left, valid_until), hours) in balances.into_iter().zip((1..=5).rev()) {
                let expiring = CreditBalance { valid_until, ..balance(left) };
                scene.deliver(&expiring.event_log(CUSTOMER, hours_ago(hours)));
                adjust_as_the_sdk_does(&mut expected, left, valid_until);
                let what = format!("{format}, ours: {is_ours}, {left} left, valid until {valid_until:?}");
                assert_same_list(&scene.list(CUSTOMER), &expected, &what);
            }
            scene.end();
        }
    }
}

#[test]
fn a_balance_that_has_ended_sends_the_reader_to_the_api() {
    let scene = Scene::new("compatible");
    let ended = CreditBalance { valid_until: Some(hours_ago(1)), ..balance(10) };
    scene.deliver(&ended.event_log(CUSTOMER, hours_ago(2)));
    scene.sdk.serve(&state(CUSTOMER, hours_ago(1)));
    let answer = scene.sdk.entitlement(Kind::Metered, CUSTOMER, AI);
    assert_eq!(answer["hasAccess"], json!(true), "{answer}");
    assert_eq!(scene.sdk.calls().len(), 1, "{:?}", scene.sdk.calls());
    scene.end();
}

#[test]
fn a_resources_balance_changes_the_resources_list_alone() {
    for format in FORMATS {
        let scene = Scene::new(format);
        let before = scene.list(CUSTOMER);
        scene.deliver(&balance(0).event_log(RESOURCE, hours_ago(3)));
        assert_eq!(scene.access(RESOURCE, AI), denied_for("InsufficientCredits"), "{format}");
        assert_eq!(scene.access(CUSTOMER, AI), granted(), "{format}");
        assert_eq!(scene.list(CUSTOMER), before, "{format}");
        scene.end();
    }
}

#[test]
fn a_list_that_is_newer_than_the_balance_stands_as_it_came_in_either_order() {
    for format in FORMATS {
        for balance_first in [true, false] {
            let scene = Scene::new(format);
            let list = entitlements_updated(&state(CUSTOMER, hours_ago(3)), Shape::GraphqlV2);
            let balance_message = balance(0).event_log(CUSTOMER, hours_ago(5));
            scene.deliver_both(&balance_message, &list, balance_first);
            let what = format!("{format}, balance first: {balance_first}");
            assert_eq!(scene.access(CUSTOMER, AI), granted(), "{what}");
            // And what the list itself denies stays denied.
            let list = entitlements_updated(&denied_state(CUSTOMER, hours_ago(1)), Shape::GraphqlV2);
            let balance_message = balance(10).event_log(CUSTOMER, hours_ago(2));
            scene.deliver_both(&balance_message, &list, balance_first);
            assert_eq!(scene.access(CUSTOMER, AI), denied_for("InsufficientCredits"), "{what}");
            scene.end();
        }
    }
}

#[test]
fn a_list_that_is_older_than_the_balance_and_comes_after_it_is_adjusted() {
    for format in FORMATS {
        let scene = Scene::new(format);
        let until = clock::now().0 + DAY_MS;
        let gone = CreditBalance { valid_until: Some(until), ..balance(0) };
        scene.deliver(&gone.event_log(CUSTOMER, hours_ago(5)));
        let list = entitlements_updated(&state(CUSTOMER, hours_ago(6)), Shape::GraphqlV2);
        scene.deliver(&list);
        assert_eq!(scene.timestamp(CUSTOMER).as_i64().map(|at| at < hours_ago(5)), Some(true));
        assert_eq!(scene.access(CUSTOMER, AI), denied_for("InsufficientCredits"), "{format}");
        assert_eq!(scene.access(CUSTOMER, SOFT), granted(), "{format}");
        assert_eq!(scene.access(CUSTOMER, VIDEO), granted(), "{format}");
        let entry = &scene.list(CUSTOMER)[AI]["calculatedEntitlement"];
        assert_eq!(entry["validUntil"], json!(until), "{format}: {entry}");

        // So is one that the API denied before there were credits again.
        scene.deliver(&balance(10).event_log(CUSTOMER, hours_ago(3)));
        let denied = denied_state(CUSTOMER, hours_ago(4));
        scene.deliver(&entitlements_updated(&denied, Shape::EventLog));
        assert_eq!(scene.access(CUSTOMER, AI), granted(), "{format}");
        assert_eq!(scene.access(CUSTOMER, DENIED), denied_for("FeatureNotFound"));
        scene.end();
    }
}

#[test]
fn the_same_balance_again_and_an_older_one_change_nothing() {
    let scene = Scene::new("compatible");
    let [older, newest] =
        [balance(0).event_log(CUSTOMER, hours_ago(4)), balance(10).event_log(CUSTOMER, hours_ago(3))];
    scene.deliver(&newest);
    let after = scene.stage.redis.contents();
    for message in [&older, &newest, &older] {
        scene.deliver(message);
        assert_eq!(scene.stage.redis.contents(), after);
    }
    assert_eq!(scene.access(CUSTOMER, AI), granted());
    scene.end();
}

#[test]
fn a_usage_of_a_currency_that_tells_no_balance_changes_no_entry() {
    let scene = Scene::new("compatible");
    let before = scene.list(CUSTOMER);
    let body = json!({"data": {"usageUpdatedV2": {
        "__typename": "UsageUpdatedV2",
        "customerId": CUSTOMER.customer,
        "resourceId": null,
        "entitlementReference": {"type": "CREDIT", "id": CURRENCY},
        "usage": {"currentUsage": 1000, "usageUpdatedAt": hours_ago(2)},
    }}});
    scene.stage.deliver(&scene.service, &[body.to_string()]);
    let key = format!("{}:credit_{CURRENCY}", CUSTOMER.key(PREFIX));
    let usage = scene.stage.redis.json(&key).expect("a usage");
    assert_eq!(usage["currentUsage"], json!(1000));
    assert_eq!(scene.list(CUSTOMER), before);
    scene.end();
}

#[test]
fn entries_in_the_form_of_4_are_not_adjusted() {
    let scene = Scene::with("v4", &[state(CUSTOMER, hours_ago(9))]);
    let with_credit = [entitlements(), vec![credit(CURRENCY, 1000, 250)]].concat();
    let list = State::new(CUSTOMER, hours_ago(5), &with_credit);
    scene.deliver(&entitlements_updated(&list, Shape::GraphqlV2));
    let key = CUSTOMER.key(PREFIX);
    let before = scene.stage.redis.get(&key);
    let until = CreditBalance { valid_until: Some(clock::now().0 + DAY_MS), ..balance(0) };
    scene.deliver(&until.event_log(CUSTOMER, hours_ago(2)));
    assert_eq!(scene.stage.redis.get(&key), before);
    let usage = scene.stage.redis.json(&format!("{key}:credit_{CURRENCY}"));
    assert_eq!(usage.expect("a usage")["currentUsage"], json!(1000));
    // Nor a list that comes after a newer balance.
    let list = State::new(CUSTOMER, hours_ago(4), &with_credit);
    scene.deliver(&entitlements_updated(&list, Shape::GraphqlV2));
    let entry = &scene.list(CUSTOMER)[AI]["calculatedEntitlement"];
    assert_eq!(entry["accessDeniedReason"], Value::Null, "{entry}");
    scene.end();
}

#[test]
fn a_balance_without_a_period_keeps_the_stored_one() {
    let start = hours_ago(240);
    let period = [start, start + 30 * DAY_MS];
    for format in ["compatible", "v3", "v4"] {
        let scene = Scene::new(format);
        let key = format!("{}:credit_{CURRENCY}", CUSTOMER.key(PREFIX));
        let usage = || scene.stage.redis.json(&key).expect("a usage");
        let with_period = CreditBalance { period: Some(period), ..balance(700) };
        scene.deliver(&with_period.event_log(CUSTOMER, hours_ago(4)));
        scene.deliver(&balance(600).event_log(CUSTOMER, hours_ago(3)));
        let mut expected =
            json!({"currentUsage": 400, "usagePeriodStart": period[0], "usagePeriodEnd": period[1]});
        if format == "compatible" {
            expected["nextResetDate"] = json!(period[1]);
        }
        assert_eq!(usage(), expected, "{format}");
        scene.stage.deliver_at(&scene.service, &balance(500).graphql(CUSTOMER).raw(), hours_ago(2));
        expected["currentUsage"] = json!(500);
        assert_eq!(usage(), expected, "{format}, in GraphQL form");

        // A new period takes the old one's place.
        let next = [period[1], period[1] + 30 * DAY_MS];
        let with_period = CreditBalance { period: Some(next), ..balance(1000) };
        scene.deliver(&with_period.event_log(CUSTOMER, hours_ago(1)));
        assert_eq!(usage()["usagePeriodStart"], json!(next[0]), "{format}");
        assert_eq!(usage()["usagePeriodEnd"], json!(next[1]), "{format}");
        scene.end();
    }
}

#[test]
fn a_balance_without_a_period_keeps_the_one_that_came_with_a_list() {
    let with_credit = [entitlements(), vec![credit(CURRENCY, 1000, 250)]].concat();
    let scene = Scene::new("compatible");
    let list = State::new(CUSTOMER, hours_ago(5), &with_credit);
    scene.deliver(&entitlements_updated(&list, Shape::GraphqlV2));
    let key = format!("{}:credit_{CURRENCY}", CUSTOMER.key(PREFIX));
    let before = scene.stage.redis.json(&key).expect("a usage");
    assert!(before["usagePeriodEnd"].is_i64(), "{before}");
    scene.deliver(&balance(600).event_log(CUSTOMER, hours_ago(3)));
    let after = scene.stage.redis.json(&key).expect("a usage");
    assert_eq!(after["currentUsage"], json!(400));
    for name in ["usagePeriodEnd", "nextResetDate"] {
        assert_eq!(after[name], before[name], "{name}: {after}");
    }
    scene.end();
}

#[test]
fn a_balance_of_a_customer_who_is_not_in_the_cache_writes_nothing() {
    let scene = Scene::with("compatible", &[]);
    scene.deliver(&balance(0).event_log(CUSTOMER, hours_ago(3)));
    assert_eq!(scene.stage.redis.keys(), Vec::<String>::new());
    scene.end();
}

#[test]
fn the_last_balance_lives_as_long_as_the_usage_beside_it() {
    for (seconds, lives) in [("100", 90..=100), ("-1", -1..=-1)] {
        let stage = FakeStage::new(QueueOptions::default());
        let sdk = Sdk::open(&stage.redis, PREFIX);
        sdk.cache(&[&state(CUSTOMER, hours_ago(9))]);
        let service = Service::start(&stage.settings().set("KEYS_TTL_IN_SECS", seconds));
        stage.deliver(&service, &[balance(0).event_log(CUSTOMER, hours_ago(3)).raw()]);
        for (key, entry) in stage.redis.snapshot() {
            if key.contains(":credit_") {
                assert!(lives.contains(&entry.ttl), "{key}: {} s", entry.ttl);
            }
        }
        // The list and its timestamp expire together, when they would have or later.
        let key = CUSTOMER.key(PREFIX);
        let [list, stamp] =
            [key.clone(), format!("{key}#timestamp")].map(|key| stage.redis.command::<i64>(&["TTL", &key]));
        assert!((list - stamp).abs() <= 2, "{list} s and {stamp} s");
        service.stop();
    }
}
