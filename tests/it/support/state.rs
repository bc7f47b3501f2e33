//! A customer's (or resource's) state at one moment, in the form Stigg's API gives it to the SDK (GraphQL v1).
//! Every message shape is built from the same state, so that what the service makes of a message can be
//! compared with what the SDK makes of the API's answer.

use persistent_cache_service::clock;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::macros::format_description;

use super::sdk::{Kind, Owner};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// A time as Stigg spells it.
pub fn iso(epoch_ms: i64) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(epoch_ms) * 1_000_000).expect("a time");
    time.format(&format).expect("a text")
}

/// A moment some hours ago, in epoch milliseconds: older moments are larger numbers of hours.
pub fn hours_ago(hours: i64) -> i64 {
    clock::now().0 - hours * HOUR_MS
}

/// A state. Its entitlements carry their times.
#[derive(Debug, Clone)]
pub struct State {
    pub customer: String,
    pub resource: Option<String>,
    pub updated_at_ms: i64,
    /// Why the customer as a whole has no access.
    pub access_denied_reason: Option<String>,
    /// `Entitlement` objects of GraphQL v1.
    pub entitlements: Vec<Value>,
}

impl State {
    /// A state whose entitlements and usages were all true at one moment.
    pub fn new(owner: Owner, updated_at_ms: i64, entitlements: &[Value]) -> Self {
        Self::with_usage_times(owner, updated_at_ms, updated_at_ms, entitlements)
    }

    /// A state whose usages were measured at another moment.
    pub fn with_usage_times(
        owner: Owner,
        updated_at_ms: i64,
        usage_at_ms: i64,
        entitlements: &[Value],
    ) -> Self {
        let stamped = entitlements.iter().cloned().map(|mut entitlement| {
            entitlement["customerId"] = json!(owner.customer);
            entitlement["resourceId"] = json!(owner.resource);
            entitlement["entitlementUpdatedAt"] = json!(iso(updated_at_ms));
            let measured = !entitlement["currentUsage"].is_null();
            entitlement["usageUpdatedAt"] = if measured { json!(iso(usage_at_ms)) } else { Value::Null };
            entitlement
        });
        Self {
            customer: owner.customer.to_owned(),
            resource: owner.resource.map(str::to_owned),
            updated_at_ms,
            access_denied_reason: None,
            entitlements: stamped.collect(),
        }
    }

    /// Whose state it is.
    pub fn owner(&self) -> Owner<'_> {
        Owner { customer: &self.customer, resource: self.resource.as_deref() }
    }

    /// Every feature of it, with the question that fits its type.
    pub fn questions(&self) -> Vec<(Kind, String)> {
        self.entitlements
            .iter()
            .map(|entitlement| {
                let feature = &entitlement["feature"];
                let kind = match (feature["featureType"].as_str(), feature["meterType"].as_str()) {
                    (Some("BOOLEAN"), _) => Kind::Boolean,
                    (Some("ENUM"), _) => Kind::Enum,
                    (Some("NUMBER"), Some("Incremental" | "Fluctuating")) => Kind::Metered,
                    (Some("NUMBER"), None | Some("None")) => Kind::Numeric,
                    other => panic!("a feature of an unknown type: {other:?}"),
                };
                (kind, feature["refId"].as_str().expect("an id").to_owned())
            })
            .collect()
    }
}

impl<'a> Owner<'a> {
    /// A customer.
    pub fn customer(customer: &'a str) -> Self {
        Self { customer, resource: None }
    }

    /// A resource of a customer.
    pub fn resource(customer: &'a str, resource: &'a str) -> Self {
        Self { customer, resource: Some(resource) }
    }

    /// The customer key, as the readers spell it.
    pub fn key(&self, prefix: &str) -> String {
        match self.resource {
            None => format!("{prefix}:c_{}", self.customer),
            Some(resource) => format!("{prefix}:c_{}:r_{resource}", self.customer),
        }
    }

    /// The readers' lock of a refetch, held from before Stigg is asked until the answer is written (SDK 3.x and later).
    pub fn refetch_lock_key(&self, prefix: &str) -> String {
        let customer = format!("{prefix}:refetchEntityEntitlementsAfterCacheMiss-{}", self.customer);
        match self.resource {
            None => customer,
            Some(resource) => format!("{customer}:{resource}"),
        }
    }

    /// The readers' lock of a write.
    pub fn lock_key(&self, prefix: &str) -> String {
        match self.resource {
            None => format!("{prefix}-{}", self.customer),
            Some(resource) => format!("{prefix}-{}:{resource}", self.customer),
        }
    }
}

/// An entitlement with every field that the API gives, most of them null.
fn entitlement(feature_id: &str, feature_type: &str, meter_type: Option<&str>) -> Value {
    json!({
        "__typename": "Entitlement",
        "isGranted": true,
        "accessDeniedReason": null,
        "customerId": null,
        "resourceId": null,
        "usageLimit": null,
        "hasUnlimitedUsage": false,
        "hasSoftLimit": false,
        "currentUsage": null,
        "requestedUsage": null,
        "requestedValues": null,
        "enumValues": null,
        "entitlementUpdatedAt": null,
        "usageUpdatedAt": null,
        "usagePeriodAnchor": null,
        "usagePeriodStart": null,
        "usagePeriodEnd": null,
        "nextResetDate": null,
        "resetPeriod": null,
        "resetPeriodConfiguration": null,
        "feature": {
            "__typename": "EntitlementFeature",
            "featureType": feature_type,
            "meterType": meter_type,
            "featureUnits": null,
            "featureUnitsPlural": null,
            "description": null,
            "displayName": format!("Name of {feature_id}"),
            "refId": feature_id,
            "unitTransformation": null,
        },
        "creditRate": null,
        "validUntil": null,
    })
}

/// The same entitlement with other values for some of its fields.
pub fn with(mut entitlement: Value, fields: &Value) -> Value {
    for (name, value) in fields.as_object().expect("fields") {
        entitlement[name] = value.clone();
    }
    entitlement
}

/// A boolean feature.
pub fn boolean(feature_id: &str) -> Value {
    entitlement(feature_id, "BOOLEAN", Some("None"))
}

/// A number without a meter.
pub fn number(feature_id: &str, limit: i64) -> Value {
    with(entitlement(feature_id, "NUMBER", Some("None")), &json!({"usageLimit": limit}))
}

/// An enum.
pub fn enumeration(feature_id: &str, values: &[&str]) -> Value {
    with(entitlement(feature_id, "ENUM", None), &json!({"enumValues": values}))
}

/// A metered feature, counted by the month. The month goes on: a reader takes an ended period for no usage.
pub fn metered(feature_id: &str, limit: i64, usage: i64) -> Value {
    let now = clock::now().0;
    let mut metered = with(
        entitlement(feature_id, "NUMBER", Some("Incremental")),
        &json!({
            "usageLimit": limit,
            "currentUsage": usage,
            "usagePeriodAnchor": iso(now - 40 * DAY_MS),
            "usagePeriodStart": iso(now - 10 * DAY_MS),
            "usagePeriodEnd": iso(now + 20 * DAY_MS),
            "resetPeriod": "MONTH",
            "resetPeriodConfiguration":
                {"__typename": "MonthlyResetPeriodConfig", "monthlyAccordingTo": "SubscriptionStart"},
        }),
    );
    metered["feature"]["featureUnits"] = json!("call");
    metered["feature"]["featureUnitsPlural"] = json!("calls");
    metered
}

/// A metered feature that is never reset.
pub fn fluctuating(feature_id: &str, limit: i64, usage: f64) -> Value {
    let mut fluctuating = with(
        entitlement(feature_id, "NUMBER", Some("Fluctuating")),
        &json!({"usageLimit": limit, "currentUsage": usage}),
    );
    fluctuating["feature"]["featureUnits"] = json!("GB");
    fluctuating["feature"]["featureUnitsPlural"] = json!("GBs");
    fluctuating
}

/// Every kind of entitlement that readers distinguish. `salt` makes two states differ in limits and usages.
pub fn every_kind(salt: i64) -> Vec<Value> {
    let now = clock::now().0;
    let yearly = json!({
        "resetPeriod": "YEAR",
        "resetPeriodConfiguration": {"__typename": "YearlyResetPeriodConfig", "yearlyAccordingTo": "SubscriptionStart"},
    });
    let weekly = json!({
        "resetPeriod": "WEEK",
        "resetPeriodConfiguration": {"__typename": "WeeklyResetPeriodConfig", "weeklyAccordingTo": "EveryMonday"},
    });
    let mut no_units = metered("feature-no-units", 70 + salt, 7 + salt);
    no_units["feature"]["featureUnits"] = Value::Null;
    no_units["feature"]["featureUnitsPlural"] = Value::Null;
    vec![
        metered("feature-api-calls", 100 + salt, 42 + salt),
        boolean("feature-sso"),
        with(
            boolean("feature-audit-log"),
            &json!({"isGranted": false, "accessDeniedReason": "FeatureNotFound"}),
        ),
        number("feature-seats", 25 + salt),
        with(number("feature-projects", 0), &json!({"usageLimit": null, "hasUnlimitedUsage": true})),
        enumeration("feature-regions", &["eu", "us"]),
        with(
            metered("feature-ai-tokens", 5000 + salt, 250 + salt),
            &json!({"creditRate": {"amount": 2.5, "currencyId": "cred-type-ai"}}),
        ),
        with(
            metered("feature-events", 0, 900 + salt),
            &json!({"usageLimit": null, "hasUnlimitedUsage": true}),
        ),
        with(fluctuating("feature-storage", 10 + salt, 17.5), &json!({"hasSoftLimit": true})),
        with(
            metered("feature-exports", 5, 5 + salt),
            &json!({"isGranted": false, "accessDeniedReason": "RequestedUsageExceedingLimit"}),
        ),
        with(
            metered("feature-trial-minutes", 60 + salt, 3 + salt),
            &json!({"validUntil": now + 30 * DAY_MS}),
        ),
        no_units,
        with(metered("feature-reports", 12 + salt, 1 + salt), &yearly),
        with(metered("feature-invites", 8 + salt, 2 + salt), &weekly),
    ]
}

/// A credit entitlement (GraphQL v2 only): readers before 4.x do not know them.
pub fn credit(currency_id: &str, granted: i64, consumed: i64) -> Value {
    json!({
        "__typename": "CreditEntitlement",
        "isGranted": true,
        "accessDeniedReason": null,
        "currency": {
            "currencyId": currency_id,
            "displayName": "AI credits",
            "description": null,
            "unitSingular": "credit",
            "unitPlural": "credits",
        },
        "usageLimit": granted,
        "currentUsage": consumed,
        "hasSoftLimit": false,
        "usageUpdatedAt": null,
        "entitlementUpdatedAt": null,
        "usagePeriodEnd": iso(clock::now().0 + 20 * DAY_MS),
        "validUntil": null,
    })
}
