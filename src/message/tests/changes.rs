//! Usages, credit balances, purges, migrations and publications: the odd cases.

use serde_json::{Value, json};

use super::described;

#[test]
fn every_name_of_a_usage_is_known() {
    for name in [
        "measurement.reported",
        "MEASUREMENT_REPORTED",
        "UsageUpdated",
        "UsageMeasurementUpdated",
        "UsageUpdatedV2",
        "usageUpdated",
        "usageMeasurementUpdated",
        "usageUpdatedV2",
    ] {
        let body =
            json!({"type": name, "customer": {"id": "c"}, "feature": {"id": "f"}, "currentUsage": 1.0});
        assert_eq!(described(&body), "c used 1 of f at 1795200000000", "{name}");
    }
}

#[test]
fn the_first_version_of_a_usage_takes_its_time_from_the_entitlement_beside_it() {
    let mut body = json!({"data": {"usageUpdated": {
        "__typename": "UsageUpdated",
        "usage": {"__typename": "UsageMeasurementUpdated", "customerId": "c", "resourceId": "r", "featureId": "f",
            "currentUsage": 9, "usagePeriodStart": null, "nextResetDate": 1_796_083_200_000_i64},
        "entitlement": {"currentUsage": 8, "usageUpdatedAt": "2026-11-20T08:00:00Z", "feature": {"refId": "f"}},
    }}});
    assert_eq!(described(&body), "c/r used 9 in ..1796083200000 of f at 1795161600000");
    body["data"]["usageUpdated"]["usage"]["featureId"] = Value::Null;
    assert_eq!(described(&body), "c/r used 9 in ..1796083200000 of f at 1795161600000");
    body["data"]["usageUpdated"]["entitlement"] = Value::Null;
    assert_eq!(described(&body), "malformed: data.usageUpdated.usage.feature.id: missing");
}

#[test]
fn a_usage_of_a_currency_is_a_credit_usage_and_one_of_an_unknown_kind_is_ignored() {
    let of = |kind: Value| {
        described(&json!({"data": {"usageUpdatedV2": {"__typename": "UsageUpdatedV2", "customerId": "c",
            "entitlementReference": {"type": kind, "id": "x"}, "usage": {"currentUsage": 2}}}}))
    };
    assert_eq!(of(json!("FEATURE")), "c used 2 of x at 1795200000000");
    assert_eq!(of(json!(null)), "c used 2 of x at 1795200000000");
    assert_eq!(of(json!("CREDIT")), "c used 2 of credit x at 1795200000000");
    assert_eq!(of(json!("SEAT")), "ignored usageUpdatedV2");
}

#[test]
fn a_usage_without_a_number_is_malformed() {
    let with = |usage: Value| {
        described(&json!({"data": {"usageUpdatedV2": {"customerId": "c", "entitlementReference": {"id": "f"},
            "usage": usage}}}))
    };
    assert_eq!(with(json!({})), "malformed: data.usageUpdatedV2.usage.currentUsage: missing");
    assert_eq!(
        with(json!({"currentUsage": null})),
        "malformed: data.usageUpdatedV2.usage.currentUsage: missing"
    );
    assert_eq!(with(json!(null)), "malformed: data.usageUpdatedV2.currentUsage: missing");
    assert_eq!(
        with(json!({"currentUsage": "5"})),
        "malformed: data.usageUpdatedV2.usage.currentUsage: expected a number, found text"
    );
}

#[test]
fn a_usage_without_a_customer_or_a_feature_is_malformed() {
    assert_eq!(
        described(&json!({"type": "MEASUREMENT_REPORTED", "payload": {"featureId": "f", "currentUsage": 1}})),
        "malformed: payload.customerId: missing"
    );
    assert_eq!(
        described(
            &json!({"type": "MEASUREMENT_REPORTED", "payload": {"customerId": "c", "currentUsage": 1}})
        ),
        "malformed: payload.feature.id: missing"
    );
    assert_eq!(
        described(
            &json!({"type": "UsageUpdatedV2", "customerId": "c", "entitlementReference": {"type": "FEATURE"},
            "usage": {"currentUsage": 1}})
        ),
        "malformed: usage.entitlementReference.id: missing"
    );
}

fn balance(more: &Value) -> String {
    let mut body = json!({"type": "CREDIT_BALANCE_UPDATED", "customerId": "c", "currencyId": "gold"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    described(&body)
}

#[test]
fn what_was_consumed_of_a_credit_is_given_or_follows() {
    let used_7 = "c used 7 of credit gold at 1795200000000";
    assert_eq!(balance(&json!({"totalConsumed": 7, "currentUsage": 1, "totalGranted": 2})), used_7);
    assert_eq!(balance(&json!({"currentUsage": 7.0, "totalGranted": 2, "currentBalance": 1})), used_7);
    assert_eq!(balance(&json!({"totalConsumed": null, "totalGranted": 10, "currentBalance": 3})), used_7);
    assert_eq!(
        balance(&json!({"totalGranted": 10, "currentBalance": 2.5})),
        "c used 7.5 of credit gold at 1795200000000"
    );
    assert_eq!(
        balance(&json!({"totalGranted": i64::MAX, "currentBalance": i64::MIN})),
        "c used 1.8446744073709552e+19 of credit gold at 1795200000000"
    );
    assert_eq!(balance(&json!({"totalGranted": 10})), "malformed: totalConsumed: missing");
}

#[test]
fn every_name_of_a_balance_and_of_its_currency_is_known() {
    for name in ["CREDIT_BALANCE_UPDATED", "CreditBalanceUpdated", "creditBalanceUpdated"] {
        for currency in [json!({"currencyId": "gold"}), json!({"id": "gold"})] {
            let body = json!({"type": name, "payload": {"customerId": "c", "resourceId": "r", "currency": currency,
                "totalConsumed": 7}});
            assert_eq!(described(&body), "c/r used 7 of credit gold at 1795200000000");
        }
    }
    assert_eq!(
        described(
            &json!({"type": "CREDIT_BALANCE_UPDATED", "payload": {"customerId": "c", "totalConsumed": 7}})
        ),
        "malformed: payload.currencyId: missing"
    );
}

#[test]
fn a_balance_has_the_time_and_the_period_that_it_is_given() {
    assert_eq!(
        balance(&json!({"totalConsumed": 7, "usagePeriodEnd": 1_796_083_200_000_i64,
            "timestamp": "2026-11-20T08:00:00Z", "usageUpdatedAt": "2026-11-20T08:00:01Z",
            "validUntil": "2030-01-01"})),
        "c used 7 in ..1796083200000 of credit gold at 1795161601000"
    );
    assert_eq!(
        balance(&json!({"totalConsumed": 7, "timestamp": "2026-11-20T08:00:00Z"})),
        "c used 7 of credit gold at 1795161600000"
    );
}

#[test]
fn a_purge_is_of_a_customer_or_of_its_resource() {
    let purge = |payload: Value| {
        described(&json!({"type": "PURGE_CUSTOMER_PERSISTENT_CACHE_REQUESTED", "payload": payload}))
    };
    assert_eq!(purge(json!({"customerId": "c", "resourceId": null})), "purge c");
    assert_eq!(purge(json!({"customerId": "c", "resourceId": "r"})), "purge c/r");
    assert_eq!(purge(json!({"customers": [{"customerId": "c", "resourceId": "r"}, "d"]})), "purge c/r, d");
    assert_eq!(purge(json!({"id": "event-id"})), "malformed: payload.customerId: missing");
}

#[test]
fn a_deleted_customer_is_purged_by_the_id_the_company_gave_it() {
    for name in ["customer.deleted", "CUSTOMER_DELETED"] {
        assert_eq!(
            described(&json!({"type": name, "entityId": "uuid", "id": "c", "name": "Demo"})),
            "purge c"
        );
        assert_eq!(
            described(&json!({"type": name, "payload": {"customer": {"entityId": "uuid", "id": "c"}}})),
            "purge c"
        );
        assert_eq!(
            described(&json!({"type": name, "id": "event-id", "payload": {"customerId": "c"}})),
            "purge c"
        );
    }
    assert_eq!(
        described(
            &json!({"detail-type": "customer.deleted", "id": "bus-id", "detail": {"entityId": "uuid", "id": "c"}})
        ),
        "purge c"
    );
    assert_eq!(
        described(&json!({"detail-type": "customer.deleted", "id": "bus-id", "detail": null})),
        "malformed: customerId: missing"
    );
    assert_eq!(
        described(&json!({"type": "customer.deleted", "payload": {"id": 5}})),
        "malformed: payload.id: expected text, found a number"
    );
}

#[test]
fn a_migration_purges_whom_it_lists_and_everyone_if_it_lists_none() {
    let migrated = |payload: Value| described(&json!({"type": "SUBSCRIPTIONS_MIGRATED", "payload": payload}));
    assert_eq!(migrated(json!({"customerIds": ["a", "b", null]})), "purge a, b");
    assert_eq!(
        migrated(
            json!({"customers": ["a", {"id": "b"}, {"customerId": "c", "resourceId": "r"}, {"refId": "d"}]})
        ),
        "purge a, b, c/r, d"
    );
    assert_eq!(migrated(json!({"customerId": "a"})), "purge a");
    for none in [json!({}), json!({"customerIds": []}), json!({"customerIds": null, "customers": [null]})] {
        assert_eq!(migrated(none), "purge everything");
    }
    assert_eq!(described(&json!({"type": "SUBSCRIPTIONS_MIGRATED"})), "purge everything");
    assert_eq!(
        migrated(json!({"customerIds": ["a", 5]})),
        "malformed: payload.customerIds[1]: expected an object, found a number"
    );
    assert_eq!(
        migrated(json!({"customers": [{"name": "secret"}]})),
        "malformed: payload.customers[0].customerId: missing"
    );
}

#[test]
fn a_publication_purges_everything_unless_it_is_for_new_customers_only() {
    let published = |migration: Value| described(&json!({"type": "PACKAGE_PUBLISHED", "payload": migration}));
    assert_eq!(published(json!({"migrationType": "ALL_CUSTOMERS"})), "purge everything");
    assert_eq!(published(json!({"migrationType": "NEW_CUSTOMERS"})), "ignored PACKAGE_PUBLISHED");
    assert_eq!(published(json!({"migrationType": "SOME_CUSTOMERS"})), "purge everything");
    assert_eq!(published(json!({})), "purge everything");
    assert_eq!(
        described(&json!({"data": {"packagePublished": {"migrationType": "NEW_CUSTOMERS"}}})),
        "ignored packagePublished"
    );
}
