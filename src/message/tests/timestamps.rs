//! The time of a state, the age of a message, and what is left of a credit.

use serde_json::{Value, json};

use super::super::{CreditBalance, Event};
use super::{decoded, described};
use crate::clock::EpochMs;

/// An hour and a millisecond after the message was sent.
const AHEAD: i64 = 1_795_203_600_001;
const YEAR_3000: &str = "3000-01-01T00:00:00Z";

/// What a body says, and how many of its times are impossible.
fn with_count(body: &Value) -> (String, u32) {
    (described(body), decoded(body).unwrap().implausible_timestamps)
}

#[test]
fn an_impossible_time_of_an_entitlement_is_ignored_and_the_next_one_is_used() {
    let list = |first: Value, second: Value| {
        json!({"type": "ENTITLEMENTS_UPDATED", "customerId": "c", "timestamp": "2026-11-20T08:00:00Z",
            "entitlements": [{"feature": {"id": "f"}, "entitlementUpdatedAt": first},
                {"feature": {"id": "g"}, "entitlementUpdatedAt": second}]})
    };
    for impossible in
        [json!(YEAR_3000), json!(AHEAD), json!(1_795_161_600), json!("2014-12-31T23:59:59.999Z")]
    {
        let next = list(impossible.clone(), json!(1_600_000_000_000_i64));
        assert_eq!(with_count(&next), ("c at 1600000000000 has [f, g]".to_owned(), 1), "{impossible}");
        let both = list(impossible.clone(), json!(-1));
        assert_eq!(with_count(&both), ("c at 1795161600000 has [f, g]".to_owned(), 2), "{impossible}");
    }
    let within_the_hour = list(json!(AHEAD - 1), json!(null));
    assert_eq!(with_count(&within_the_hour), ("c at 1795203600000 has [f, g]".to_owned(), 0));
}

#[test]
fn an_impossible_time_of_a_usage_is_ignored_and_the_next_one_is_used() {
    let usage = |at: &str| {
        json!({"type": "UsageUpdated", "customerId": "c", "timestamp": "2026-11-20T08:00:00Z",
            "usage": {"featureId": "f", "currentUsage": 1, "usageUpdatedAt": at}})
    };
    assert_eq!(with_count(&usage(YEAR_3000)), ("c used 1 of f at 1795161600000".to_owned(), 1));
    let mut beside = usage(YEAR_3000);
    beside["entitlement"] = json!({"usageUpdatedAt": "2026-11-20T07:00:00Z"});
    assert_eq!(with_count(&beside), ("c used 1 of f at 1795158000000".to_owned(), 1));
    let balance = json!({"type": "CREDIT_BALANCE_UPDATED", "customerId": "c", "currencyId": "x", "totalConsumed": 1,
        "usageUpdatedAt": YEAR_3000});
    assert_eq!(with_count(&balance), ("c used 1 of credit x at 1795200000000".to_owned(), 1));
    let listed = json!({"type": "ENTITLEMENTS_UPDATED", "customerId": "c", "entitlements": [
        {"feature": {"id": "f"}, "currentUsage": 1, "usageUpdatedAt": YEAR_3000},
        {"feature": {"id": "g"}, "usageUpdatedAt": YEAR_3000}]});
    assert_eq!(with_count(&listed), ("c at 1795200000000 has [f used 1 at 1795200000000, g]".to_owned(), 2));
}

#[test]
fn an_impossible_time_of_a_message_is_ignored_further_out_too() {
    let body = json!({"type": "UsageUpdated", "timestamp": "2026-11-20T08:00:00Z", "payload": {
        "customerId": "c", "featureId": "f", "currentUsage": 1, "timestamp": YEAR_3000}});
    assert_eq!(with_count(&body), ("c used 1 of f at 1795161600000".to_owned(), 1));
}

#[test]
fn the_far_past_mark_and_the_end_of_a_period_are_never_impossible() {
    let body = json!({"type": "ENTITLEMENTS_UPDATED", "customerId": "c", "entitlements": [{"feature": {"id": "f"},
        "entitlementUpdatedAt": "1970-01-01T00:00:00Z", "currentUsage": 1, "usagePeriodEnd": YEAR_3000}]});
    assert_eq!(
        with_count(&body),
        ("c at 0 has [f used 1 in ..32503680000000 at 1795200000000]".to_owned(), 0)
    );
}

#[test]
fn a_message_is_as_old_as_its_own_timestamp_or_its_sent_timestamp_if_that_is_earlier() {
    let sent_at = |timestamp: Value| {
        let body = json!({"type": "customer.deleted", "customer": {"id": "c"}, "timestamp": timestamp});
        decoded(&body).unwrap().sent_at
    };
    assert_eq!(sent_at(json!("2026-11-20T08:00:00Z")), EpochMs(1_795_161_600_000));
    for no_earlier in [
        json!(null),
        json!("soon"),
        json!(1_795_200_000_001_i64),
        json!(YEAR_3000),
        json!("1970-01-01T00:00:00Z"),
    ] {
        assert_eq!(sent_at(no_earlier.clone()), EpochMs(1_795_200_000_000), "{no_earlier}");
    }
}

fn balance(body: &Value) -> Option<CreditBalance> {
    let Event::UsageUpdated(updated) = decoded(body).unwrap().event else {
        panic!("not a usage: {body}");
    };
    updated.balance
}

#[test]
fn what_is_left_of_a_credit_is_given_or_follows() {
    let with = |more: Value| {
        let mut body = json!({"type": "CREDIT_BALANCE_UPDATED", "customerId": "c", "currencyId": "x"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        balance(&body)
    };
    let left = |is_exhausted| Some(CreditBalance { is_exhausted, valid_until: None });
    assert_eq!(with(json!({"totalConsumed": 1, "currentBalance": 0})), left(true));
    assert_eq!(with(json!({"totalConsumed": 1, "currentBalance": -0.5})), left(true));
    assert_eq!(with(json!({"totalConsumed": 1, "currentBalance": 0.5, "totalGranted": 1})), left(false));
    assert_eq!(with(json!({"totalConsumed": 1, "totalGranted": 1})), left(true));
    assert_eq!(with(json!({"totalConsumed": 1, "totalGranted": 2})), left(false));
    assert_eq!(with(json!({"totalConsumed": 1, "currentBalance": "0"})), None);
    assert_eq!(with(json!({"totalConsumed": 1})), None);
    assert_eq!(
        with(json!({"totalConsumed": 1, "currentBalance": 3, "validUntil": "2030-01-01"})),
        Some(CreditBalance { is_exhausted: false, valid_until: Some(EpochMs(1_893_456_000_000)) })
    );
}

#[test]
fn only_a_credit_has_a_balance() {
    let usage = |kind: &str| {
        json!({"data": {"usageUpdatedV2": {"customerId": "c", "entitlementReference": {"type": kind, "id": "x"},
            "usage": {"currentUsage": 2, "currentBalance": 0}}}})
    };
    assert_eq!(balance(&usage("FEATURE")), None);
    assert_eq!(balance(&usage("CREDIT")).map(|balance| balance.is_exhausted), Some(true));
}
