//! What is written, as text. The `v3` texts were made by `CacheMapper` of SDK 3.95.0 from the same payloads.

use serde_json::{Map, Value};

use super::*;
use crate::clock::EpochMs;
use crate::message::{Event, Message, decode};

const SENT_AT: EpochMs = EpochMs(1_795_200_000_000);

fn entitlements(body: &str) -> Vec<Entitlement> {
    match decode(body, SENT_AT) {
        Ok(Message { event: Event::EntitlementsUpdated(updated), .. }) => updated.entitlements,
        other => panic!("not a list: {other:?}"),
    }
}

/// The written JSON with line breaks, its fields in the order in which they are written.
fn pretty(json: &str) -> String {
    let value: Value = serde_json::from_str(json).unwrap();
    serde_json::to_string_pretty(&value).unwrap()
}

const SAMPLE: &str = include_str!("../../../tests/samples/graphql-entitlements-updated-v2.json");

/// Everything that an entry can say, and as little as one can.
const EVERYTHING: &str = include_str!("../../../tests/samples/extra/graphql-entitlements-every-field.json");

#[test]
fn v3_is_what_the_sdk_writes_of_the_sample() {
    let written = entitlements_json(&entitlements(SAMPLE), CacheFormat::V3);
    let expected = include_str!("../../../tests/samples/extra/stored-v3-of-sample.json");
    assert_eq!(pretty(&written), expected.trim_end());
}

#[test]
fn v3_is_what_the_sdk_writes_of_every_field_there_is() {
    let written = entitlements_json(&entitlements(EVERYTHING), CacheFormat::V3);
    let expected = include_str!("../../../tests/samples/extra/stored-v3-of-every-field.json");
    assert_eq!(pretty(&written), expected.trim_end());
}

/// A metered feature with all that is known of it, a plain one, and a currency.
const THREE: &str = r#"{"data": {"entitlementsUpdatedV2": {"customerId": "c", "entitlements": [
    {"feature": {"refId": "seats", "featureType": "NUMBER", "meterType": "Fluctuating", "featureUnits": "seat",
        "featureUnitsPlural": "seats", "displayName": "Seats"},
     "usageLimit": 100, "hasUnlimitedUsage": false, "hasSoftLimit": true, "enumValues": null,
     "resourceId": "site-1", "accessDeniedReason": "Revoked", "validUntil": 1893456000000,
     "creditRate": {"amount": 2, "currencyId": "gold"}, "resetPeriod": "MONTH",
     "resetPeriodConfiguration": {"__typename": "MonthlyResetPeriodConfig", "monthlyAccordingTo": "SubscriptionStart"},
     "currentUsage": 42.5, "usageUpdatedAt": 1795161700000, "usagePeriodAnchor": 1767225600000,
     "usagePeriodStart": 1793491200000, "usagePeriodEnd": 1796083200000},
    {"feature": {"refId": "sso", "featureType": "BOOLEAN", "meterType": null}, "usageLimit": null,
     "resetPeriod": null},
    {"__typename": "CreditEntitlement", "currency": {"__typename": "Currency", "currencyId": "gold",
        "displayName": "Gold"}, "usageLimit": 1000, "currentUsage": 250, "usageUpdatedAt": 1795161700000,
     "usagePeriodEnd": 1796083200000, "accessDeniedReason": null, "validUntil": null}
]}}}"#;

#[test]
fn compatible_carries_the_form_of_every_reader_in_one_entry() {
    assert_eq!(
        pretty(&entitlements_json(&entitlements(THREE), CacheFormat::Compatible)),
        r#"{
  "seats": {
    "calculatedEntitlement": {
      "type": "FEATURE",
      "feature": {
        "id": "seats",
        "featureType": "NUMBER",
        "meterType": "Fluctuating",
        "units": "seat",
        "unitsPlural": "seats",
        "displayName": "Seats"
      },
      "resourceId": "site-1",
      "usageLimit": 100,
      "hasUnlimitedUsage": false,
      "hasSoftLimit": true,
      "accessDeniedReason": "Revoked",
      "enumValues": [],
      "validUntil": 1893456000000,
      "creditRate": {
        "amount": 2,
        "currencyId": "gold"
      },
      "usagePeriodAnchor": 1767225600000,
      "resetPeriod": "MONTH",
      "resetPeriodConfiguration": {
        "__typename": "MonthlyResetPeriodConfig",
        "monthlyAccordingTo": "SubscriptionStart"
      }
    },
    "featureUsage": {
      "resetPeriod": "MONTH",
      "resetPeriodConfiguration": {
        "__typename": "MonthlyResetPeriodConfig",
        "monthlyAccordingTo": "SubscriptionStart"
      },
      "currentUsage": 42.5,
      "usagePeriodAnchor": 1767225600000,
      "usagePeriodStart": 1793491200000,
      "usagePeriodEnd": 1796083200000,
      "nextResetDate": 1796083200000
    },
    "usageData": {
      "currentUsage": 42.5,
      "usagePeriodStart": 1793491200000,
      "usagePeriodEnd": 1796083200000,
      "updatedAt": 1795161700000
    }
  },
  "sso": {
    "calculatedEntitlement": {
      "type": "FEATURE",
      "feature": {
        "id": "sso",
        "featureType": "BOOLEAN",
        "units": "",
        "unitsPlural": "",
        "displayName": "sso"
      },
      "usageLimit": null,
      "hasSoftLimit": false,
      "enumValues": [],
      "resetPeriod": null
    },
    "featureUsage": {
      "resetPeriod": null,
      "currentUsage": 0
    }
  },
  "gold": {
    "calculatedEntitlement": {
      "type": "CREDIT",
      "currency": {
        "currencyId": "gold",
        "displayName": "Gold"
      },
      "usageLimit": 1000,
      "hasSoftLimit": false
    },
    "usageData": {
      "currentUsage": 250,
      "usagePeriodEnd": 1796083200000,
      "updatedAt": 1795161700000
    }
  }
}"#
    );
}

#[test]
fn v4_carries_its_own_form_alone() {
    assert_eq!(
        pretty(&entitlements_json(&entitlements(THREE), CacheFormat::V4)),
        r#"{
  "seats": {
    "calculatedEntitlement": {
      "type": "FEATURE",
      "feature": {
        "id": "seats",
        "featureType": "NUMBER",
        "meterType": "Fluctuating",
        "units": "seat",
        "unitsPlural": "seats",
        "displayName": "Seats"
      },
      "resourceId": "site-1",
      "usageLimit": 100,
      "hasUnlimitedUsage": false,
      "hasSoftLimit": true,
      "accessDeniedReason": "Revoked",
      "enumValues": [],
      "validUntil": 1893456000000,
      "creditRate": {
        "amount": 2,
        "currencyId": "gold"
      },
      "usagePeriodAnchor": 1767225600000,
      "resetPeriod": "MONTH",
      "resetPeriodConfiguration": {
        "__typename": "MonthlyResetPeriodConfig",
        "monthlyAccordingTo": "SubscriptionStart"
      }
    },
    "usageData": {
      "currentUsage": 42.5,
      "usagePeriodStart": 1793491200000,
      "usagePeriodEnd": 1796083200000,
      "updatedAt": 1795161700000
    }
  },
  "sso": {
    "calculatedEntitlement": {
      "type": "FEATURE",
      "feature": {
        "id": "sso",
        "featureType": "BOOLEAN",
        "units": "",
        "unitsPlural": "",
        "displayName": "sso"
      },
      "usageLimit": null,
      "hasSoftLimit": false,
      "enumValues": [],
      "resetPeriod": null
    }
  },
  "gold": {
    "calculatedEntitlement": {
      "type": "CREDIT",
      "currency": {
        "currencyId": "gold",
        "displayName": "Gold"
      },
      "usageLimit": 1000,
      "hasSoftLimit": false
    },
    "usageData": {
      "currentUsage": 250,
      "usagePeriodEnd": 1796083200000,
      "updatedAt": 1795161700000
    }
  }
}"#
    );
}

#[test]
fn v3_leaves_credits_out() {
    let credit_alone =
        r#"{"type": "ENTITLEMENTS_UPDATED", "customerId": "c", "entitlements": [{"currencyId": "gold"}]}"#;
    assert_eq!(entitlements_json(&entitlements(credit_alone), CacheFormat::V3), "{}");
}

#[test]
fn a_currency_that_is_called_as_a_feature_does_not_hide_it() {
    let body = r#"{"type": "ENTITLEMENTS_UPDATED", "customerId": "c", "entitlements": [
        {"currencyId": "x"}, {"currencyId": "credit_x"}, {"currencyId": "y"}, {"feature": {"id": "x"}}]}"#;
    let written = entitlements_json(&entitlements(body), CacheFormat::Compatible);
    let written: Map<String, Value> = serde_json::from_str(&written).unwrap();
    let kinds: Vec<_> = written
        .iter()
        .map(|(key, entry)| {
            let calculated = &entry["calculatedEntitlement"];
            let id = calculated["feature"]["id"].as_str().or(calculated["currency"]["currencyId"].as_str());
            format!("{key}: {} {}", calculated["type"].as_str().unwrap(), id.unwrap())
        })
        .collect();
    assert_eq!(
        kinds,
        ["x: FEATURE x", "credit_x: CREDIT x", "credit_credit_x: CREDIT credit_x", "y: CREDIT y"]
    );
}

#[test]
fn no_entitlements_are_an_empty_object() {
    for format in [CacheFormat::Compatible, CacheFormat::V3, CacheFormat::V4] {
        assert_eq!(entitlements_json(&[], format), "{}");
    }
}

#[test]
fn a_usage_has_the_period_as_far_as_it_is_known() {
    let usage = |period_start: Option<i64>, period_end: Option<i64>| Usage {
        current_usage: 43.into(),
        period_start: period_start.map(EpochMs),
        period_end: period_end.map(EpochMs),
    };
    let known = usage(Some(1), Some(2));
    let unknown = usage(None, None);
    let whole = r#"{"currentUsage":43,"usagePeriodStart":1,"usagePeriodEnd":2}"#;
    assert_eq!(usage_json(&known, CacheFormat::V3), whole);
    assert_eq!(usage_json(&known, CacheFormat::V4), whole);
    assert_eq!(
        usage_json(&known, CacheFormat::Compatible),
        r#"{"currentUsage":43,"usagePeriodStart":1,"usagePeriodEnd":2,"nextResetDate":2}"#
    );
    assert_eq!(
        usage_json(&usage(Some(1), None), CacheFormat::Compatible),
        r#"{"currentUsage":43,"usagePeriodStart":1}"#
    );
    assert_eq!(usage_json(&unknown, CacheFormat::Compatible), r#"{"currentUsage":43}"#);
}

#[test]
fn metadata_is_the_reason_or_null() {
    assert_eq!(metadata_json(None), r#"{"accessDeniedReason":null}"#);
    assert_eq!(
        metadata_json(Some("NoActiveSubscription")),
        r#"{"accessDeniedReason":"NoActiveSubscription"}"#
    );
}

#[test]
fn the_usage_of_a_credit_balance_is_written_as_any_usage() {
    let body = include_str!("../../../tests/samples/graphql-credit-balance-updated.json");
    let Ok(Message { event: Event::UsageUpdated(updated), .. }) = decode(body, SENT_AT) else {
        panic!("not a usage")
    };
    assert!(matches!(updated.of, UsageOf::Credit(_)));
    assert_eq!(usage_json(&updated.usage, CacheFormat::Compatible), r#"{"currentUsage":1000}"#);
}

#[test]
fn text_of_any_kind_survives() {
    let body = r#"{"type": "ENTITLEMENTS_UPDATED", "customerId": "c", "entitlements": [
        {"feature": {"id": "a\"\\\n\u0000é\u2028😀", "unit": "</script>"}}]}"#;
    let written = entitlements_json(&entitlements(body), CacheFormat::V3);
    let written: Map<String, Value> = serde_json::from_str(&written).unwrap();
    assert_eq!(written.keys().next().unwrap(), "a\"\\\n\0é\u{2028}😀");
}
