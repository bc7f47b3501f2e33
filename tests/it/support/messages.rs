//! Messages as Stigg publishes them, each shape in each envelope, built from the same state.

use persistent_cache_service::clock;
use serde_json::{Value, json};

use super::sdk::Owner;
use super::state::{State, iso};

/// How a state change is spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `entitlements.updated`, `measurement.reported`: the webhook names.
    Webhook,
    /// `EntitlementsUpdated`, `UsageUpdated`: what the SDKs of 2.x and 3.x subscribe to.
    GraphqlV1,
    /// `EntitlementsUpdatedV2`, `UsageUpdatedV2`.
    GraphqlV2,
    /// `ENTITLEMENTS_UPDATED`, `MEASUREMENT_REPORTED`: the event log's names.
    EventLog,
}

impl Shape {
    pub const ALL: [Self; 4] = [Self::Webhook, Self::GraphqlV1, Self::GraphqlV2, Self::EventLog];
}

/// What a message is wrapped in on its way to the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Envelope {
    Raw,
    Sns,
    EventBridge,
}

impl Envelope {
    pub const ALL: [Self; 3] = [Self::Raw, Self::Sns, Self::EventBridge];
}

/// A message without its envelope: the name of its type, and its body.
#[derive(Debug, Clone)]
pub struct Message {
    pub type_name: String,
    pub body: Value,
}

impl Message {
    fn new(type_name: &str, body: Value) -> Self {
        Self { type_name: type_name.to_owned(), body }
    }

    /// The text that goes to the queue.
    pub fn wrapped(&self, envelope: Envelope) -> String {
        let body = self.body.to_string();
        let wrapped = match envelope {
            Envelope::Raw => return body,
            Envelope::Sns => json!({
                "Type": "Notification",
                "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
                "TopicArn": "arn:aws:sns:us-east-2:000000000000:events",
                "Message": body,
                "Timestamp": iso(clock::now().0),
                "SignatureVersion": "1",
                "Signature": "x",
            }),
            Envelope::EventBridge => json!({
                "version": "0",
                "id": "6a7e8feb-b491-4cf7-a9f1-bf3703467718",
                "detail-type": self.type_name,
                "source": "stigg",
                "account": "000000000000",
                "time": iso(clock::now().0),
                "region": "us-east-2",
                "resources": [],
                "detail": self.body,
            }),
        };
        wrapped.to_string()
    }

    /// The text of the body as it is.
    pub fn raw(&self) -> String {
        self.wrapped(Envelope::Raw)
    }
}

/// A whole entitlement list.
pub fn entitlements_updated(state: &State, shape: Shape) -> Message {
    let (customer, resource) = (&state.customer, &state.resource);
    match shape {
        Shape::Webhook => Message::new(
            "entitlements.updated",
            json!({
                "messageId": "ce2605be-8eed-41cf-912c-def052682dbe",
                "traceId": "49146c12-8af0-44ff-a666-1f46255aecd8",
                "timestamp": iso(state.updated_at_ms),
                "type": "entitlements.updated",
                "trigger": "subscription_updated",
                "customer": webhook_customer(customer),
                "resource": webhook_resource(resource.as_deref()),
                "entitlements": state.entitlements.iter().map(webhook_entitlement).collect::<Vec<_>>(),
            }),
        ),
        Shape::GraphqlV1 => Message::new(
            "EntitlementsUpdated",
            json!({"data": {"entitlementsUpdated": {
                "__typename": "EntitlementsUpdated",
                "customerId": customer,
                "resourceId": resource,
                "entitlements": state.entitlements,
            }}}),
        ),
        Shape::GraphqlV2 => Message::new(
            "EntitlementsUpdatedV2",
            json!({"data": {"entitlementsUpdatedV2": {
                "__typename": "EntitlementsUpdatedV2",
                "customerId": customer,
                "resourceId": resource,
                "accessDeniedReason": state.access_denied_reason,
                "entitlements": state.entitlements.iter().map(v2_entitlement).collect::<Vec<_>>(),
            }}}),
        ),
        Shape::EventLog => Message::new(
            "ENTITLEMENTS_UPDATED",
            json!({
                "type": "ENTITLEMENTS_UPDATED",
                "timestamp": iso(state.updated_at_ms),
                "traceId": "5d0c",
                "customerId": customer,
                "resourceId": resource,
                "accessDeniedReason": state.access_denied_reason,
                "entitlements": state.entitlements,
            }),
        ),
    }
}

pub fn v2_entitlement(entitlement: &Value) -> Value {
    let mut v2 = entitlement.clone();
    if v2["__typename"] == "Entitlement" {
        v2["__typename"] = json!("FeatureEntitlement");
    }
    let fields = v2.as_object_mut().expect("an object");
    for only_v1 in ["customerId", "resourceId", "requestedUsage", "requestedValues", "nextResetDate"] {
        fields.remove(only_v1);
    }
    v2
}

fn webhook_customer(customer: &str) -> Value {
    json!({
        "entityId": "9b8f7a54-0000-4000-8000-000000000001",
        "id": customer,
        "name": "Demo",
        "email": "demo@example.com",
        "billingId": null,
    })
}

fn webhook_resource(resource: Option<&str>) -> Value {
    resource.map_or(Value::Null, |id| json!({"id": id, "entityId": "9b8f7a54-0000-4000-8000-000000000002"}))
}

fn webhook_entitlement(entitlement: &Value) -> Value {
    let mut webhook = entitlement.clone();
    let fields = webhook.as_object_mut().expect("an object");
    for only_graphql in
        ["__typename", "isGranted", "customerId", "resourceId", "requestedUsage", "requestedValues"]
    {
        fields.remove(only_graphql);
    }
    // The time is the message's own.
    fields.remove("entitlementUpdatedAt");
    fields.remove("usageUpdatedAt");
    fields.remove("nextResetDate");
    webhook["feature"] = webhook_feature(&entitlement["feature"]);
    webhook["resetPeriodConfiguration"] =
        webhook_reset_configuration(&entitlement["resetPeriodConfiguration"]);
    webhook["creditBalance"] = Value::Null;
    webhook
}

fn webhook_feature(feature: &Value) -> Value {
    let meter_type = feature["meterType"].as_str().map(str::to_uppercase);
    json!({
        "entityId": "4ff99f8c-0000-4000-8000-000000000003",
        "id": feature["refId"],
        "name": feature["displayName"],
        "description": "",
        "featureType": feature["featureType"],
        "meterType": meter_type,
        "unit": feature["featureUnits"],
        "units": feature["featureUnitsPlural"],
        "status": "ACTIVE",
        "enumConfiguration": null,
    })
}

fn webhook_reset_configuration(configuration: &Value) -> Value {
    let according_to = ["monthlyAccordingTo", "weeklyAccordingTo", "yearlyAccordingTo"]
        .iter()
        .find_map(|name| configuration.get(name));
    according_to.map_or(Value::Null, |value| json!({"accordingTo": value}))
}

/// One measurement of one feature of a state: that feature's entitlement with another usage.
pub fn usage_updated(state: &State, feature_id: &str, usage: i64, at_ms: i64, shape: Shape) -> Message {
    let of_feature = |entitlement: &&Value| entitlement["feature"]["refId"] == feature_id;
    let mut entitlement = state.entitlements.iter().find(of_feature).expect("a feature of the state").clone();
    entitlement["currentUsage"] = json!(usage);
    entitlement["usageUpdatedAt"] = json!(iso(at_ms));
    let (customer, resource) = (&state.customer, &state.resource);
    let measured = json!({
        "customerId": customer,
        "resourceId": resource,
        "featureId": feature_id,
        "currentUsage": usage,
        "usagePeriodStart": entitlement["usagePeriodStart"],
        "usagePeriodEnd": entitlement["usagePeriodEnd"],
        "nextResetDate": entitlement["nextResetDate"],
    });
    match shape {
        Shape::Webhook => {
            let mut body = webhook_entitlement(&entitlement);
            body["type"] = json!("measurement.reported");
            body["messageId"] = json!("a6ce24ad-0000-4000-8000-000000000004");
            body["timestamp"] = json!(iso(at_ms));
            body["currentChange"] = json!(1);
            body["customer"] = webhook_customer(customer);
            body["resource"] = webhook_resource(resource.as_deref());
            body["activeSubscriptions"] = json!([]);
            Message::new("measurement.reported", body)
        }
        Shape::GraphqlV1 => {
            let mut usage = measured;
            usage["__typename"] = json!("UsageMeasurementUpdated");
            let body = json!({"__typename": "UsageUpdated", "usage": usage, "entitlement": entitlement});
            Message::new("UsageUpdated", json!({"data": {"usageUpdated": body}}))
        }
        Shape::GraphqlV2 => Message::new(
            "UsageUpdatedV2",
            json!({"data": {"usageUpdatedV2": {
                "__typename": "UsageUpdatedV2",
                "customerId": customer,
                "resourceId": resource,
                "entitlementReference": {"type": "FEATURE", "id": feature_id},
                "usage": {
                    "currentUsage": usage,
                    "usageUpdatedAt": at_ms,
                    "usagePeriodStart": entitlement["usagePeriodStart"],
                    "usagePeriodEnd": entitlement["usagePeriodEnd"],
                },
            }}}),
        ),
        Shape::EventLog => Message::new(
            "MEASUREMENT_REPORTED",
            json!({"type": "MEASUREMENT_REPORTED", "timestamp": iso(at_ms), "traceId": "5d0d", "payload": measured}),
        ),
    }
}

/// What is left of a credit currency, as a message reports it.
#[derive(Debug, Clone, Copy)]
pub struct CreditBalance<'a> {
    pub currency: &'a str,
    pub left: i64,
    pub consumed: i64,
    /// Epoch milliseconds.
    pub valid_until: Option<i64>,
    /// Start and end of the usage period, in epoch milliseconds. `None` leaves both out.
    pub period: Option<[i64; 2]>,
}

impl CreditBalance<'_> {
    /// `CREDIT_BALANCE_UPDATED`, which has its time.
    pub fn event_log(&self, owner: Owner, at_ms: i64) -> Message {
        let mut payload = self.fields(owner);
        payload["validUntil"] = json!(self.valid_until.map(iso));
        event("CREDIT_BALANCE_UPDATED", at_ms, &payload)
    }

    /// `CreditBalanceUpdated`, which has no time but the queue's.
    pub fn graphql(&self, owner: Owner) -> Message {
        let mut balance = self.fields(owner);
        balance["__typename"] = json!("CreditBalanceUpdated");
        balance["validUntil"] = json!(self.valid_until);
        Message::new("CreditBalanceUpdated", json!({"data": {"creditBalanceUpdated": balance}}))
    }

    fn fields(&self, owner: Owner) -> Value {
        let mut fields = json!({
            "customerId": owner.customer,
            "resourceId": owner.resource,
            "currencyId": self.currency,
            "currency": {"currencyId": self.currency},
            "currentBalance": self.left,
            "totalGranted": self.left + self.consumed,
            "totalConsumed": self.consumed,
        });
        if let Some([start, end]) = self.period {
            fields["usagePeriodStart"] = json!(iso(start));
            fields["usagePeriodEnd"] = json!(iso(end));
        }
        fields
    }
}

/// A credit balance with its time: so much is gone of 1000 credits.
pub fn credit_balance(owner: Owner, currency_id: &str, consumed: i64, at_ms: i64) -> Message {
    CreditBalance { currency: currency_id, left: 1000 - consumed, consumed, valid_until: None, period: None }
        .event_log(owner, at_ms)
}

/// A customer (or a resource) is to be forgotten.
pub fn purge(owner: Owner, at_ms: i64) -> Message {
    let payload = json!({"customerId": owner.customer, "resourceId": owner.resource});
    event("PURGE_CUSTOMER_PERSISTENT_CACHE_REQUESTED", at_ms, &payload)
}

/// `customer.deleted`, in webhook form.
pub fn customer_deleted(customer: &str, at_ms: i64) -> Message {
    let body = json!({
        "type": "customer.deleted",
        "messageId": "a6ce24ad-0000-4000-8000-000000000005",
        "timestamp": iso(at_ms),
        "customer": webhook_customer(customer),
    });
    Message::new("customer.deleted", body)
}

/// Subscriptions of these customers were migrated; of all, if there are none.
pub fn subscriptions_migrated(customers: &[&str], at_ms: i64) -> Message {
    let payload = if customers.is_empty() { json!({}) } else { json!({"customerIds": customers}) };
    event("SUBSCRIPTIONS_MIGRATED", at_ms, &payload)
}

/// A package was published, for `ALL_CUSTOMERS` or `NEW_CUSTOMERS`.
pub fn package_published(migration_type: &str) -> Message {
    Message::new(
        "PackagePublished",
        json!({"data": {"packagePublished": {
            "__typename": "PackagePublished",
            "packageType": "Plan",
            "packageRefId": "plan-pro",
            "packageVersion": 4,
            "migrationType": migration_type,
        }}}),
    )
}

/// Any event-log message.
pub fn event(type_name: &str, at_ms: i64, payload: &Value) -> Message {
    let body = json!({"type": type_name, "timestamp": iso(at_ms), "traceId": "77aa", "payload": payload});
    Message::new(type_name, body)
}
