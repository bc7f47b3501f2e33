//! Envelopes: where the name, the payload and the time of a message are found.

use serde_json::{Value, json};

use super::{described, described_text};

fn usage() -> Value {
    json!({"customerId": "c", "featureId": "f", "currentUsage": 5})
}

fn named(mut payload: Value, key: &str, name: &str) -> Value {
    payload[key] = name.into();
    payload
}

fn sns(message: &Value) -> Value {
    json!({
        "Type": "Notification", "MessageId": "m", "TopicArn": "arn:aws:sns:us-east-2:000000000000:events",
        "Message": message.to_string(), "Timestamp": "2026-11-20T08:03:21.000Z",
    })
}

fn eventbridge(name: &str, detail: &Value) -> Value {
    json!({"version": "0", "id": "bus-id", "detail-type": name, "time": "2026-11-20T08:03:21Z", "detail": detail})
}

const USED_5: &str = "c used 5 of f at 1795200000000";

#[test]
fn the_name_is_found_under_each_of_its_keys() {
    for key in ["type", "eventType", "detail-type", "__typename"] {
        assert_eq!(described(&named(usage(), key, "UsageMeasurementUpdated")), USED_5, "{key}");
    }
}

#[test]
fn the_payload_is_found_under_each_of_its_keys() {
    for key in ["payload", "data", "detail"] {
        assert_eq!(described(&json!({"type": "MEASUREMENT_REPORTED", key: usage()})), USED_5, "{key}");
    }
}

#[test]
fn a_graphql_answer_is_named_by_its_field_alone_however_it_is_wrapped() {
    let answer = json!({"data": {"usageMeasurementUpdated": usage()}});
    assert_eq!(described(&answer), USED_5);
    assert_eq!(described(&json!({"payload": answer})), USED_5);
    assert_eq!(described(&json!({"type": "next", "id": "1", "payload": answer})), USED_5);
    assert_eq!(described(&json!({"type": "data", "id": "1", "payload": answer})), USED_5);
    assert_eq!(described(&json!({"usageMeasurementUpdated": usage()})), USED_5);
}

#[test]
fn envelopes_are_opened_inside_one_another() {
    let event = json!({"type": "MEASUREMENT_REPORTED", "payload": usage()});
    assert_eq!(described(&sns(&event)), USED_5);
    assert_eq!(described(&sns(&eventbridge("MEASUREMENT_REPORTED", &usage()))), USED_5);
    assert_eq!(described(&eventbridge("stigg event", &event)), USED_5);
    assert_eq!(
        described(&sns(&eventbridge("stigg event", &json!({"data": {"usageUpdated": usage()}})))),
        USED_5
    );
    assert_eq!(described(&sns(&sns(&event))), USED_5);
}

#[test]
fn as_many_envelopes_are_opened_as_json_can_hold_and_eight_notifications() {
    let mut body = named(usage(), "type", "UsageUpdated");
    for _ in 0..120 {
        body = json!({"payload": body});
    }
    assert_eq!(described(&body), USED_5);
    let mut body = named(usage(), "type", "UsageUpdated");
    for _ in 0..8 {
        body = sns(&body);
    }
    assert_eq!(described(&body), USED_5);
}

#[test]
fn an_envelopes_own_time_is_not_the_messages() {
    let at = |body: &Value| described(body).rsplit(' ').next().map(str::to_owned);
    let mut event = named(usage(), "type", "UsageUpdated");
    assert_eq!(at(&sns(&event)).as_deref(), Some("1795200000000"));
    assert_eq!(at(&eventbridge("UsageUpdated", &event)).as_deref(), Some("1795200000000"));
    event["timestamp"] = "2026-11-20T08:00:00Z".into();
    assert_eq!(at(&sns(&event)).as_deref(), Some("1795161600000"));
    assert_eq!(at(&eventbridge("UsageUpdated", &event)).as_deref(), Some("1795161600000"));
}

#[test]
fn a_time_beside_the_payload_counts_as_one_inside_it_and_the_inner_one_wins() {
    let mut event =
        json!({"type": "MEASUREMENT_REPORTED", "timestamp": "2026-11-20T08:00:00Z", "payload": usage()});
    assert_eq!(described(&event), "c used 5 of f at 1795161600000");
    event["payload"]["timestamp"] = "2026-11-20T08:00:01Z".into();
    assert_eq!(described(&event), "c used 5 of f at 1795161601000");
    event["payload"]["timestamp"] = "yesterday".into();
    assert_eq!(described(&event), "c used 5 of f at 1795161600000");
}

#[test]
fn a_customer_beside_the_payload_is_found() {
    let body = json!({
        "type": "measurement.reported", "customer": {"id": "c"}, "resource": {"id": "r"},
        "payload": {"feature": {"id": "f"}, "currentUsage": 5},
    });
    assert_eq!(described(&body), "c/r used 5 of f at 1795200000000");
}

#[test]
fn the_type_of_something_inside_is_not_the_type_of_the_event() {
    let body = json!({"data": {"usageUpdatedV2": {
        "customerId": "c", "type": "FEATURE", "entitlementReference": {"type": "FEATURE", "id": "f"},
        "usage": {"currentUsage": 5},
    }}});
    assert_eq!(described(&body), USED_5);
    let body = json!({"type": "COUPON_CREATED", "payload": {"type": "customer.deleted", "id": "c"}});
    assert_eq!(described(&body), "ignored COUPON_CREATED");
    // A documented webhook that happens to carry a customer and entitlements.
    let body = json!({
        "type": "subscription.billing_month.ends_soon", "customer": {"id": "c"}, "entitlements": [],
    });
    assert_eq!(described(&body), "ignored subscription.billing_month.ends_soon");
}

#[test]
fn a_type_that_is_not_documented_has_one_label_whatever_it_is_called() {
    for name in ["SOMETHING_NEW", "entitlements.updated2", "next"] {
        assert_eq!(described(&json!({"type": name, "payload": {"a": 1}})), "ignored other");
    }
}

#[test]
fn sns_telling_of_its_subscription_is_ignored() {
    for kind in ["SubscriptionConfirmation", "UnsubscribeConfirmation"] {
        let notice =
            json!({"Type": kind, "Message": "You have chosen to …", "Token": "t", "TopicArn": "arn"});
        assert_eq!(described(&notice), format!("ignored {kind}"));
    }
}

#[test]
fn a_body_that_names_no_event_is_malformed() {
    for body in
        [json!({}), json!({"payload": {"customerId": "c"}}), json!({"type": 5}), json!({"data": null})]
    {
        assert!(described(&body).contains("type: missing"), "{body}: {}", described(&body));
    }
}

#[test]
fn what_is_not_json_is_malformed_at_its_position() {
    assert_eq!(described_text(""), "malformed: body: not JSON: EOF while parsing a value at line 1 column 0");
    assert_eq!(
        described_text("{\"type\": \"x\",\n \"a\" 1}"),
        "malformed: body: not JSON: expected `:` at line 2 column 6"
    );
    assert_eq!(described_text("[1]"), "malformed: body: expected an object, found a list");
    assert_eq!(
        described(&json!({"Type": "Notification", "Message": "{\"type\": secret}"})),
        "malformed: Message: not JSON: expected value at line 1 column 10"
    );
    assert_eq!(
        described(&json!({"Type": "Notification", "Message": "5"})),
        "malformed: Message: expected an object, found a number"
    );
    assert_eq!(described(&json!({"Type": "Notification"})), "malformed: Message: missing");
}

#[test]
fn the_path_into_many_envelopes_is_cut_at_its_beginning() {
    let body = ["{\"payload\":".repeat(100), "{}".to_owned(), "}".repeat(100)].concat();
    let fault = described_text(&body);
    assert!(fault.starts_with("malformed: …") && fault.contains(".payload.type: missing"), "{fault}");
    assert!(fault.chars().count() < 330, "{fault}");
}

#[test]
fn nesting_without_end_is_refused_and_not_followed() {
    let deep = "{\"type\":".to_owned() + &"[".repeat(4_000);
    assert_eq!(
        described_text(&deep),
        "malformed: body: not JSON: recursion limit exceeded at line 1 column 135"
    );
    let nested = ["[".repeat(100_000), "]".repeat(100_000)].concat();
    for body in [
        format!(
            r#"{{"type":"ENTITLEMENTS_UPDATED","customerId":"c","entitlements":[{{"feature":{{"id":"f"}},"enumValues":{nested}}}]}}"#
        ),
        format!(r#"{{"type":"next","x":{nested}}}"#),
    ] {
        assert!(described_text(&body).contains("not JSON: recursion limit exceeded"));
    }
}
