//! Entitlement lists: the odd cases of both forms.

use serde_json::{Value, json};

use super::super::{Event, Message, decode};
use super::{SENT_AT, described};
use crate::entitlement::stored::{CacheFormat, entitlements_json};

fn list(entitlements: &Value) -> Value {
    json!({"type": "ENTITLEMENTS_UPDATED", "customerId": "c", "timestamp": "2026-11-20T08:00:00Z",
        "entitlements": entitlements})
}

/// The `calculatedEntitlement` that is written of a list with this entry alone.
fn written(entry: &Value) -> Value {
    let entitlements = match decode(&list(&json!([entry])).to_string(), SENT_AT) {
        Ok(Message { event: Event::EntitlementsUpdated(updated), .. }) => updated.entitlements,
        other => panic!("not a list: {other:?}"),
    };
    let mut written: Value =
        serde_json::from_str(&entitlements_json(&entitlements, CacheFormat::Compatible)).unwrap();
    let entry = written.as_object_mut().unwrap().values_mut().next().unwrap();
    entry["calculatedEntitlement"].take()
}

#[test]
fn every_name_of_the_event_is_known() {
    for name in [
        "entitlements.updated",
        "ENTITLEMENTS_UPDATED",
        "EntitlementsUpdated",
        "EntitlementsUpdatedV2",
        "entitlementsUpdated",
        "entitlementsUpdatedV2",
    ] {
        let mut body = list(&json!([{"feature": {"id": "f"}}]));
        body["type"] = name.into();
        assert_eq!(described(&body), "c at 1795161600000 has [f]", "{name}");
    }
}

#[test]
fn both_spellings_of_a_feature_become_the_readers() {
    let webhook = written(&json!({"feature": {
        "entityId": "uuid", "id": "f", "name": "Seats", "featureType": "NUMBER", "meterType": "FLUCTUATING",
        "unit": "seat", "units": "seats"}}));
    let graphql = written(&json!({"feature": {
        "id": "uuid", "refId": "f", "displayName": "Seats", "featureType": "NUMBER", "meterType": "Fluctuating",
        "featureUnits": "seat", "featureUnitsPlural": "seats"}}));
    assert_eq!(webhook, graphql);
    assert_eq!(
        webhook["feature"],
        json!({"id": "f", "featureType": "NUMBER", "meterType": "Fluctuating", "units": "seat",
            "unitsPlural": "seats", "displayName": "Seats"})
    );
}

#[test]
fn a_feature_without_a_ref_id_goes_by_its_id() {
    for ref_id in [json!(null), json!("")] {
        assert_eq!(written(&json!({"feature": {"refId": ref_id, "id": "f"}}))["feature"]["id"], "f");
    }
}

#[test]
fn every_meter_type_gets_the_graphql_spelling() {
    for (given, spelled) in [
        (json!("INCREMENTAL"), Some("Incremental")),
        (json!("Incremental"), Some("Incremental")),
        (json!("FLUCTUATING"), Some("Fluctuating")),
        (json!("NONE"), Some("None")),
        (json!("None"), Some("None")),
        (json!("Sideways"), Some("Sideways")),
        (json!(""), None),
        (json!(null), None),
    ] {
        let written = written(&json!({"feature": {"id": "f", "meterType": given}}));
        assert_eq!(written["feature"]["meterType"].as_str(), spelled, "{given}");
    }
}

#[test]
fn a_webhooks_reset_configuration_becomes_that_of_its_period() {
    for (period, typename, key) in [
        ("MONTH", "MonthlyResetPeriodConfig", "monthlyAccordingTo"),
        ("WEEK", "WeeklyResetPeriodConfig", "weeklyAccordingTo"),
        ("YEAR", "YearlyResetPeriodConfig", "yearlyAccordingTo"),
    ] {
        let written = written(&json!({"feature": {"id": "f"}, "resetPeriod": period,
            "resetPeriodConfiguration": {"accordingTo": "SubscriptionStart"}}));
        let configuration = json!({"__typename": typename, key: "SubscriptionStart"});
        assert_eq!(written["resetPeriodConfiguration"], configuration, "{period}");
    }
}

#[test]
fn a_graphql_reset_configuration_and_one_without_a_known_period_stay_as_they_are() {
    for (period, configuration) in [
        (
            json!("MONTH"),
            json!({"__typename": "MonthlyResetPeriodConfig", "monthlyAccordingTo": "StartOfTheMonth"}),
        ),
        (json!("DAY"), json!({"accordingTo": "SubscriptionStart"})),
        (json!(null), json!({"accordingTo": "SubscriptionStart"})),
        (json!("MONTH"), json!({})),
    ] {
        let written = written(&json!({"feature": {"id": "f"}, "resetPeriod": period,
            "resetPeriodConfiguration": configuration}));
        assert_eq!(written["resetPeriodConfiguration"], configuration, "{period}");
    }
}

#[test]
fn what_was_absent_stays_apart_from_what_was_null() {
    let kept = ["usageLimit", "hasUnlimitedUsage", "resetPeriod", "resetPeriodConfiguration"];
    let absent = written(&json!({"feature": {"id": "f"}}));
    let null = written(&json!({"feature": {"id": "f"}, "usageLimit": null, "hasUnlimitedUsage": null,
        "resetPeriod": null, "resetPeriodConfiguration": null, "hasSoftLimit": null}));
    for field in kept {
        assert_eq!(absent.get(field), None, "{field}");
        assert_eq!(null.get(field), Some(&Value::Null), "{field}");
    }
    assert_eq!(null["hasSoftLimit"], false);
}

#[test]
fn the_lists_time_is_the_first_valid_one_of_its_entries() {
    let body = list(&json!([
        {"feature": {"id": "a"}, "entitlementUpdatedAt": null},
        {"feature": {"id": "b"}, "entitlementUpdatedAt": "never"},
        {"feature": {"id": "c"}, "entitlementUpdatedAt": 0},
        {"feature": {"id": "d"}, "entitlementUpdatedAt": 1_600_000_000_000_i64},
        {"feature": {"id": "e"}, "entitlementUpdatedAt": "2026-11-20T09:00:00Z"},
    ]));
    assert_eq!(described(&body), "c at 1600000000000 has [a, b, c, d, e]");
}

#[test]
fn a_list_without_times_was_true_when_the_message_says_or_when_it_was_sent() {
    let mut body = list(&json!([{"feature": {"id": "f"}}]));
    assert_eq!(described(&body), "c at 1795161600000 has [f]");
    body["entitlementsUpdatedAt"] = "2026-11-20T07:00:00Z".into();
    assert_eq!(described(&body), "c at 1795161600000 has [f]");
    body["timestamp"] = Value::Null;
    assert_eq!(described(&body), "c at 1795158000000 has [f]");
    body["entitlementsUpdatedAt"] = "8640000000000001".into();
    assert_eq!(described(&body), "c at 1795200000000 has [f]");
}

#[test]
fn a_usage_has_a_time_only_if_the_entry_says_something_of_it() {
    let body = list(&json!([
        {"feature": {"id": "neither"}},
        {"feature": {"id": "nulls"}, "currentUsage": null, "usageUpdatedAt": null},
        {"feature": {"id": "usage"}, "currentUsage": 3},
        {"feature": {"id": "time"}, "usageUpdatedAt": 1_600_000_000_000_i64},
        {"feature": {"id": "both"}, "currentUsage": 4, "usageUpdatedAt": 1_600_000_000_001_i64},
        {"feature": {"id": "bad"}, "currentUsage": 5, "usageUpdatedAt": "soon"},
        {"currencyId": "neither"},
        {"currencyId": "time", "usageUpdatedAt": 1_600_000_000_000_i64},
    ]));
    assert_eq!(
        described(&body),
        "c at 1795161600000 has [neither, nulls, usage used 3 at 1795161600000, time used 0 at 1600000000000, \
         both used 4 at 1600000000001, bad used 5 at 1795161600000, credit neither, \
         credit time used 0 at 1600000000000]"
    );
}

#[test]
fn the_next_reset_ends_the_period_where_nothing_else_does() {
    let body = list(&json!([
        {"feature": {"id": "reset"}, "currentUsage": 1, "nextResetDate": "2026-12-01T00:00:00Z"},
        {"feature": {"id": "both"}, "currentUsage": 1, "usagePeriodEnd": 1_700_000_000_000_i64,
         "nextResetDate": "2026-12-01T00:00:00Z"},
        {"feature": {"id": "bad"}, "currentUsage": 1, "usagePeriodEnd": "?", "nextResetDate": 1_700_000_000_001_i64},
    ]));
    assert_eq!(
        described(&body),
        "c at 1795161600000 has [reset used 1 in ..1796083200000 at 1795161600000, \
         both used 1 in ..1700000000000 at 1795161600000, bad used 1 in ..1700000000001 at 1795161600000]"
    );
}

#[test]
fn the_end_of_an_entitlement_is_read_from_either_form() {
    for valid_until in [json!(1_893_456_000_000_i64), json!("2030-01-01T00:00:00.000Z"), json!("2030-01-01")]
    {
        let written = written(&json!({"feature": {"id": "f"}, "validUntil": valid_until}));
        assert_eq!(written["validUntil"], 1_893_456_000_000_i64, "{valid_until}");
    }
    for never in [json!(null), json!(0), json!("whenever"), json!(1e300)] {
        let written = written(&json!({"feature": {"id": "f"}, "validUntil": never}));
        assert_eq!(written.get("validUntil"), None, "{never}");
    }
}

#[test]
fn an_empty_list_without_a_reason_purges_and_an_absent_one_is_malformed() {
    assert_eq!(described(&list(&json!([]))), "purge c");
    assert_eq!(described(&list(&json!(null))), "malformed: entitlements: missing");
    assert_eq!(
        described(&json!({"type": "ENTITLEMENTS_UPDATED", "payload": {"customerId": "c"}})),
        "malformed: payload.entitlements: missing"
    );
    assert_eq!(described(&list(&json!({}))), "malformed: entitlements: expected a list, found an object");
}

#[test]
fn a_list_of_unknown_kinds_alone_is_as_an_empty_one() {
    let mut body = list(&json!([{"__typename": "SeatEntitlement", "seats": 5}, null, {"feature": null}]));
    assert_eq!(described(&body), "purge c");
    body["accessDeniedReason"] = "CustomerIsArchived".into();
    assert_eq!(described(&body), "c at 1795161600000 denied CustomerIsArchived has []");
}

#[test]
fn the_second_list_is_read_where_there_is_one() {
    let mut body = list(&json!([{"feature": {"id": "old"}}]));
    body["entitlementsV2"] = json!([{"feature": {"refId": "new"}}]);
    assert_eq!(described(&body), "c at 1795161600000 has [new]");
    body["entitlementsV2"] = Value::Null;
    assert_eq!(described(&body), "c at 1795161600000 has [old]");
}

#[test]
fn of_a_repeated_feature_the_last_counts_in_the_place_of_the_first() {
    let body = list(&json!([
        {"feature": {"id": "a"}, "currentUsage": 1}, {"feature": {"id": "b"}, "currentUsage": 2},
        {"feature": {"id": "a"}, "currentUsage": 3}, {"currencyId": "a", "currentUsage": 4},
        {"feature": {"id": "b"}, "currentUsage": 5}, {"feature": {"id": "a"}, "currentUsage": 6},
        {"feature": {"id": "d"}, "currentUsage": 7}, {"currencyId": "a", "currentUsage": 8},
    ]));
    assert_eq!(
        described(&body).replace(" at 1795161600000", ""),
        "c has [a used 6, b used 5, credit a used 8, d used 7]"
    );
}

#[test]
fn a_credit_is_reported_by_its_typename_its_type_or_its_currency() {
    for entry in [
        json!({"__typename": "CreditEntitlement", "currency": {"currencyId": "gold"}}),
        json!({"type": "CREDIT", "currencyId": "gold", "feature": null}),
        json!({"currency": {"id": "gold"}}),
        json!({"currencyId": "gold"}),
    ] {
        let written = written(&entry);
        assert_eq!(
            (&written["type"], &written["currency"]["currencyId"]),
            (&json!("CREDIT"), &json!("gold"))
        );
    }
}

#[test]
fn a_currency_is_kept_as_given_without_its_typename() {
    let written = written(&json!({"currency": {"__typename": "SlimCustomCurrency", "currencyId": "gold",
        "displayName": "Gold", "units": {"singular": ["coin"], "plural": null}}, "usageLimit": 10.0}));
    assert_eq!(
        written["currency"].to_string(),
        r#"{"currencyId":"gold","displayName":"Gold","units":{"singular":["coin"],"plural":null}}"#
    );
    assert_eq!(written["usageLimit"].to_string(), "10");
}

#[test]
fn a_feature_that_is_paid_in_credits_is_a_feature() {
    let paid = written(&json!({"feature": {"refId": "f"}, "creditBalance": {"totalGranted": 5},
        "creditRate": {"__typename": "CreditRate", "amount": 2.0, "currencyId": "gold"}}));
    assert_eq!(paid["creditRate"].to_string(), r#"{"amount":2,"currencyId":"gold"}"#);
    for no_rate in [
        json!(null),
        json!({"amount": 2}),
        json!({"currencyId": "gold"}),
        json!({"amount": "2", "currencyId": "gold"}),
        json!({"amount": 2, "currencyId": 5}),
    ] {
        let unpaid = written(&json!({"feature": {"refId": "f"}, "creditRate": no_rate}));
        assert_eq!(unpaid.get("creditRate"), None, "{no_rate}");
    }
}

#[test]
fn the_customer_is_never_the_internal_entity() {
    let with = |customer: Value| {
        let mut body = list(&json!([{"feature": {"id": "f"}}]));
        body["customerId"] = Value::Null;
        body["customer"] = customer;
        described(&body)
    };
    assert_eq!(with(json!({"entityId": "uuid", "id": "c"})), "c at 1795161600000 has [f]");
    assert_eq!(with(json!({"id": "uuid", "refId": "c"})), "c at 1795161600000 has [f]");
    assert_eq!(with(json!({"entityId": "uuid"})), "malformed: customerId: missing");
    assert_eq!(with(json!({"entityId": "uuid", "id": ""})), "malformed: customerId: missing");
    assert_eq!(with(json!({"id": 5})), "malformed: customer.id: expected text, found a number");
    assert_eq!(with(json!("c")), "malformed: customer: expected an object, found text");
}

#[test]
fn an_empty_or_null_resource_is_none() {
    for resource in
        [json!({"resourceId": ""}), json!({"resourceId": null, "resource": null}), json!({"resource": {}})]
    {
        let mut body = list(&json!([]));
        body.as_object_mut().unwrap().extend(resource.as_object().unwrap().clone());
        assert_eq!(described(&body), "purge c");
    }
}

#[test]
fn a_fault_in_an_entry_is_named_by_its_path() {
    let body = json!({"data": {"entitlementsUpdatedV2": {"customerId": "c", "entitlements": [
        {"feature": {"refId": "f"}}, {"feature": {"refId": "g"}, "usageLimit": "secret"}]}}});
    assert_eq!(
        described(&body),
        "malformed: data.entitlementsUpdatedV2.entitlements[1].usageLimit: expected a number, found text"
    );
    for (entry, fault) in [
        (json!("secret"), "entitlements[0]: expected an object, found text"),
        (json!({"feature": {}}), "entitlements[0].feature.id: missing"),
        (json!({"feature": "secret"}), "entitlements[0].feature: expected an object, found text"),
        (
            json!({"feature": {"id": "f"}, "enumValues": "eu"}),
            "entitlements[0].enumValues: expected a list, found text",
        ),
        (json!({"__typename": "CreditEntitlement"}), "entitlements[0].currency.currencyId: missing"),
    ] {
        assert_eq!(described(&list(&json!([entry]))), format!("malformed: {fault}"));
    }
}
