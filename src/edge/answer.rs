//! Reads the Edge API's answers. Pure: status and body in, result out. No error repeats the body, which may hold secrets.

use serde_json::{Value, json};

use super::EdgeErrorKind;
use crate::aws::Credentials;
use crate::aws::answers::temporary;
use crate::entitlement::{ResourceId, Subject};
use crate::json;
use crate::log::peer_code;

/// What `parse` finds in an answer. An error is its kind, and the cause with the remedy.
pub fn read<T>(
    status: u16,
    body: &[u8],
    parse: impl Fn(&Value) -> Result<T, String>,
) -> Result<T, (EdgeErrorKind, String)> {
    let remedy = match status {
        200 => {
            let parsed = document(body).and_then(|answer| parse(&answer));
            return parsed.map_err(|fault| {
                let cause = format!("the answer is not as documented: {fault}");
                let remedy = "check EDGE_API_URL and SERVER_API_KEY";
                (EdgeErrorKind::UnexpectedAnswer, format!("{cause}; {remedy}"))
            });
        }
        401 | 403 => "check SERVER_API_KEY: a full-access server key of this environment",
        429 => "too many calls: lower their rate if it lasts",
        500.. => "the Edge API has a fault of its own: ask Stigg if it lasts",
        _ => "check EDGE_API_URL: is this Stigg's Edge API?",
    };
    Err((EdgeErrorKind::Status(status), format!("HTTP status {status}; {remedy}")))
}

/// The JSON of an answer that lists no `errors`.
fn document(body: &[u8]) -> Result<Value, String> {
    if !json::is_plausible(body) {
        return Err("it holds more values than its length allows".to_owned());
    }
    let document: Value = serde_json::from_slice(body).map_err(|_| "it is not JSON")?;
    let errors = &document["errors"];
    if errors.is_null() || errors.as_array().is_some_and(Vec::is_empty) {
        return Ok(document);
    }
    let code = errors[0]["extensions"]["code"].as_str().and_then(peer_code);
    Err(format!("it lists errors ({})", code.unwrap_or("no code")))
}

/// `GET /v1/credentials/event-queue.json`.
pub fn credentials(answer: &Value) -> Result<Credentials, String> {
    let names = ["accessKeyId", "secretAccessKey", "sessionToken", "expiration"];
    temporary(names, |name| answer.get(name)?.as_str())
}

/// `GET /v1/config/server-sdk-configuration.json`: the DSN in it, if there is one.
pub fn sentry_dsn(answer: &Value) -> Result<Option<String>, String> {
    let configuration = &answer["data"]["sdkConfiguration"];
    if !configuration.is_object() {
        return Err("it has no data.sdkConfiguration".to_owned());
    }
    let dsn = configuration["sentryDsn"].as_str().filter(|dsn| !dsn.is_empty());
    Ok(dsn.map(str::to_owned))
}

/// `GET /v1/c/{customerId}/entitlements-state.json`, as the body of the message that would say the same, so that one
/// decoder reads both.
pub fn entitlements_state(answer: &Value, subject: &Subject) -> Result<String, String> {
    let state = &answer["data"]["entitlementsState"];
    let lists = [&state["entitlementsV2"], &state["entitlements"]];
    let list = lists.into_iter().find(|list| list.is_array());
    let message = json!({
        "__typename": "EntitlementsUpdatedV2",
        "customerId": subject.customer.as_str(),
        "resourceId": subject.resource.as_ref().map(ResourceId::as_str),
        "entitlementsV2": list.ok_or("it has no data.entitlementsState.entitlementsV2")?,
        "accessDeniedReason": state.get("accessDeniedReason"),
    });
    Ok(message.to_string())
}
