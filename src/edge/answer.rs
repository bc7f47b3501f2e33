//! Reads the Edge API's answers. Pure: status and body in, result out. No error repeats the body, which may hold secrets.

use serde_json::{Value, json};

use super::EdgeErrorKind;
use crate::aws::Credentials;
use crate::aws::answers::temporary;
use crate::entitlement::{ResourceId, Subject};
use crate::json;
use crate::log::peer_code;

/// An answer that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{cause_and_remedy}")]
pub struct AnswerFault {
    /// Why, and what to do about it.
    pub cause_and_remedy: String,
    /// What kind of fault it is.
    pub kind: EdgeErrorKind,
}

/// `GET /v1/credentials/event-queue.json`.
pub fn credentials(status: u16, body: &[u8]) -> Result<Credentials, AnswerFault> {
    let answer = object(status, body)?;
    let names = ["accessKeyId", "secretAccessKey", "sessionToken", "expiration"];
    temporary(names, |name| answer.get(name)?.as_str()).map_err(|what| unexpected(&what))
}

/// `GET /v1/config/server-sdk-configuration.json`: the DSN in it, if there is one.
pub fn sentry_dsn(status: u16, body: &[u8]) -> Result<Option<String>, AnswerFault> {
    let answer = object(status, body)?;
    let configuration = answer.pointer("/data/sdkConfiguration").filter(|value| value.is_object());
    let configuration = configuration.ok_or_else(|| unexpected("it has no data.sdkConfiguration"))?;
    let dsn = configuration["sentryDsn"].as_str().filter(|dsn| !dsn.is_empty());
    Ok(dsn.map(str::to_owned))
}

/// `GET /v1/c/{customerId}/entitlements-state.json`, as the body of the message that would say the same, so that one
/// decoder reads both.
pub fn entitlements_state(status: u16, body: &[u8], subject: &Subject) -> Result<String, AnswerFault> {
    let answer = object(status, body)?;
    let Some(state) = answer.pointer("/data/entitlementsState") else {
        return Err(unexpected("it has no data.entitlementsState"));
    };
    let list = ["entitlementsV2", "entitlements"]
        .iter()
        .find_map(|name| state.get(name).filter(|list| list.is_array()));
    let list = list.ok_or_else(|| unexpected("it has no data.entitlementsState.entitlementsV2"))?;
    let message = json!({
        "__typename": "EntitlementsUpdatedV2",
        "customerId": subject.customer.as_str(),
        "resourceId": subject.resource.as_ref().map(ResourceId::as_str),
        "entitlementsV2": list,
        "accessDeniedReason": state.get("accessDeniedReason"),
    });
    Ok(message.to_string())
}

/// The JSON of an answer that is not a refusal, by its status or its `errors`.
fn object(status: u16, body: &[u8]) -> Result<Value, AnswerFault> {
    let remedy = match status {
        200 => "",
        401 | 403 => "check SERVER_API_KEY: a full-access server key of this environment",
        429 => "too many requests: it is tried again later",
        500.. => "the Edge API has a fault of its own: it is tried again later",
        _ => "check EDGE_API_URL: is this Stigg's Edge API?",
    };
    if status != 200 {
        return Err(AnswerFault {
            cause_and_remedy: format!("HTTP status {status}; {remedy}"),
            kind: EdgeErrorKind::Status(status),
        });
    }
    if !json::is_plausible(body) {
        return Err(unexpected("it holds more values than its length allows"));
    }
    let body: Value = serde_json::from_slice(body).map_err(|_| unexpected("it is not JSON"))?;
    let errors = &body["errors"];
    if errors.is_null() || errors.as_array().is_some_and(Vec::is_empty) {
        return Ok(body);
    }
    let code = errors.pointer("/0/extensions/code").and_then(Value::as_str);
    let code = code.and_then(peer_code).unwrap_or("no code");
    Err(unexpected(&format!("it lists errors ({code})")))
}

fn unexpected(fault: &str) -> AnswerFault {
    AnswerFault {
        cause_and_remedy: format!(
            "the answer is not as documented: {fault}; check EDGE_API_URL and SERVER_API_KEY"
        ),
        kind: EdgeErrorKind::UnexpectedAnswer,
    }
}
