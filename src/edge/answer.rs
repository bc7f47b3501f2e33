//! The Edge API's answers, read. Pure: status and body in, what they say out.
//!
//! An answer is taken strictly: a missing field is a fault that names it. No fault repeats what the answer held,
//! since it may hold secrets.

use serde_json::{Value, json};

use crate::aws::Credentials;
use crate::aws::answers::temporary;
use crate::entitlement::{ResourceId, Subject};
use crate::json;
use crate::log::peer_code;

/// An answer that is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{cause_and_remedy}")]
pub struct AnswerFault {
    /// Why, and what to do about it. Nothing of the answer but its status and an error code.
    pub cause_and_remedy: String,
    /// A short stable name of the fault: `http_<status>` or `unexpected_answer`.
    pub kind: String,
}

/// Reads the answer to `GET /v1/credentials/event-queue.json`.
///
/// # Errors
/// It is a refusal, or lacks one of its four fields, or its expiration is no date.
pub fn credentials(status: u16, body: &[u8]) -> Result<Credentials, AnswerFault> {
    let answer = object(status, body)?;
    let names = ["accessKeyId", "secretAccessKey", "sessionToken", "expiration"];
    temporary(names, |name| answer.get(name)?.as_str()).map_err(|what| unexpected(&what))
}

/// Reads the answer to `GET /v1/config/server-sdk-configuration.json`: the DSN in it, if there is one.
///
/// # Errors
/// It is a refusal, or no remote configuration.
pub fn sentry_dsn(status: u16, body: &[u8]) -> Result<Option<String>, AnswerFault> {
    match object(status, body)?.pointer("/data/sdkConfiguration") {
        Some(Value::Object(configuration)) => Ok(configuration
            .get("sentryDsn")
            .and_then(Value::as_str)
            .filter(|dsn| !dsn.is_empty())
            .map(str::to_owned)),
        _ => Err(unexpected("it has no data.sdkConfiguration")),
    }
}

/// Reads the answer to `GET /v1/c/{customerId}/entitlements-state.json`: as the body of the message that would tell the
/// same, so that there is one decoder for both.
///
/// # Errors
/// It is a refusal, or has no list of entitlements.
pub fn entitlements_state(status: u16, body: &[u8], subject: &Subject) -> Result<String, AnswerFault> {
    let mut answer = object(status, body)?;
    let Some(Value::Object(state)) = answer.pointer_mut("/data/entitlementsState") else {
        return Err(unexpected("it has no data.entitlementsState"));
    };
    let list = state
        .remove("entitlementsV2")
        .filter(Value::is_array)
        .or_else(|| state.remove("entitlements"))
        .filter(Value::is_array)
        .ok_or_else(|| unexpected("it has no data.entitlementsState.entitlementsV2"))?;
    let message = json!({
        "__typename": "EntitlementsUpdatedV2",
        "customerId": subject.customer.as_str(),
        "resourceId": subject.resource.as_ref().map(ResourceId::as_str),
        "entitlementsV2": list,
        "accessDeniedReason": state.remove("accessDeniedReason"),
    });
    Ok(message.to_string())
}

/// The JSON of an answer that is no refusal, neither by its status nor by its `errors`.
fn object(status: u16, body: &[u8]) -> Result<Value, AnswerFault> {
    let refused = |remedy: &str| AnswerFault {
        cause_and_remedy: format!("HTTP status {status}; {remedy}"),
        kind: format!("http_{status}"),
    };
    match status {
        200 => {}
        401 | 403 => {
            return Err(refused(
                "check SERVER_API_KEY: a full-access server key of this environment",
            ));
        }
        429 => return Err(refused("too many requests: it is tried again later")),
        500.. => {
            return Err(refused(
                "the Edge API has a fault of its own: it is tried again later",
            ));
        }
        _ => return Err(refused("check EDGE_API_URL: is this Stigg's Edge API?")),
    }
    if !json::is_plausible(body) {
        return Err(unexpected("it holds more values than its length allows"));
    }
    let body: Value = serde_json::from_slice(body).map_err(|_| unexpected("it is not JSON"))?;
    match body.get("errors") {
        None | Some(Value::Null) => Ok(body),
        Some(Value::Array(errors)) if errors.is_empty() => Ok(body),
        Some(errors) => {
            let code = errors
                .pointer("/0/extensions/code")
                .and_then(Value::as_str)
                .and_then(peer_code)
                .unwrap_or("no code");
            Err(unexpected(&format!("it lists errors ({code})")))
        }
    }
}

fn unexpected(fault: &str) -> AnswerFault {
    AnswerFault {
        cause_and_remedy: format!(
            "the answer is not as documented: {fault}; check EDGE_API_URL and SERVER_API_KEY"
        ),
        kind: "unexpected_answer".to_owned(),
    }
}
