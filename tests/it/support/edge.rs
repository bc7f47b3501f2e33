//! Stands in for the Edge API towards the service: temporary credentials, remote configuration, entitlements.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::time::Instant;

use serde_json::{Value, json};
use tiny_http::Request;

use super::http_stub::{HttpStub, Reply, header};
use super::moto::AccessKey;
use super::service::SERVER_API_KEY;

/// One call that came in.
#[derive(Debug, Clone)]
pub struct EdgeCall {
    /// Path and query, as they came.
    pub url: String,
    /// `X-API-KEY` was the server key that holds.
    pub authorised: bool,
    /// `X-API-VERSION`.
    pub version: Option<String>,
    /// The status that was answered.
    pub status: u16,
    /// When.
    pub at: Instant,
}

/// What a refusal for too many calls asks for.
pub const RETRY_AFTER_SECS: u64 = 2;

struct State {
    key: String,
    credentials: Option<Value>,
    configuration: Option<Value>,
    /// By path and query; the last answer is given again and again.
    entitlements: HashMap<String, VecDeque<(u16, Value)>>,
    before_entitlements: Option<Box<dyn FnOnce() + Send>>,
    calls: Vec<EdgeCall>,
}

/// The stub. Answers 500 to what it was given no answer for, and 401 to a wrong key.
pub struct EdgeStub {
    pub url: String,
    stub: HttpStub<State>,
}

fn answer(state: &Mutex<State>, request: &Request) -> Reply {
    let url = request.url().to_owned();
    if url.starts_with("/v1/c/") {
        let before = state.lock().unwrap().before_entitlements.take();
        if let Some(before) = before {
            before();
        }
    }
    let mut state = state.lock().unwrap();
    let authorised = header(request, "X-API-KEY").as_ref() == Some(&state.key);
    let found = match url.split('?').next().unwrap_or_default() {
        "/v1/credentials/event-queue.json" => state.credentials.clone().map(|answer| (200, answer)),
        "/v1/config/server-sdk-configuration.json" => state.configuration.clone().map(|answer| (200, answer)),
        _ => state.entitlements.get_mut(&url).map(|answers| match answers.len() {
            1 => answers[0].clone(),
            _ => answers.pop_front().expect("an answer"),
        }),
    };
    let (status, body) = if authorised {
        found.unwrap_or_else(|| (500, json!({"message": "the edge stub has no answer"})))
    } else {
        (401, json!({"message": "unauthorized"}))
    };
    let version = header(request, "X-API-VERSION");
    state.calls.push(EdgeCall { url, authorised, version, status, at: Instant::now() });
    let reply = Reply::json(status, &body);
    if status == 429 { reply.with("retry-after", RETRY_AFTER_SECS.to_string()) } else { reply }
}

impl EdgeStub {
    /// Listens.
    pub fn start() -> Self {
        let state = State {
            key: SERVER_API_KEY.to_owned(),
            credentials: None,
            configuration: None,
            entitlements: HashMap::new(),
            before_entitlements: None,
            calls: Vec::new(),
        };
        let stub = HttpStub::start("edge-stub", state, |state, request| answer(state, request));
        Self { url: stub.url.clone(), stub }
    }

    /// From now on gives these credentials, said to expire at this time (epoch milliseconds).
    pub fn give_credentials(&self, key: &AccessKey, expires_at_ms: i64) {
        let answer = json!({
            "accessKeyId": key.id,
            "secretAccessKey": key.secret,
            "sessionToken": key.session_token,
            "expiration": super::state::iso(expires_at_ms),
        });
        self.stub.state().credentials = Some(answer);
    }

    /// From now on gives this DSN as remote configuration.
    pub fn give_sentry_dsn(&self, dsn: &str) {
        let answer = json!({"data": {"sdkConfiguration": {"sentryDsn": dsn}}});
        self.stub.state().configuration = Some(answer);
    }

    /// From now on answers with this state when its owner is asked for, after failing with these statuses.
    pub fn give_entitlements(&self, state: &super::state::State, failures: &[u16]) {
        let mut answers: VecDeque<(u16, Value)> =
            failures.iter().map(|status| (*status, json!({"message": "not now"}))).collect();
        answers.push_back((
            200,
            json!({"data": {"entitlementsState": {
                "__typename": "EntitlementsState",
                "entitlementsV2": state.entitlements.iter().map(super::messages::v2_entitlement).collect::<Vec<_>>(),
                "accessDeniedReason": state.access_denied_reason,
            }}}),
        ));
        let query = state.resource.as_ref().map_or(String::new(), |id| format!("?resourceId={id}"));
        let url = format!("/v1/c/{}/entitlements-state.json{query}", state.customer);
        self.stub.state().entitlements.insert(url, answers);
    }

    /// Does this once, when entitlements are asked for and before they are answered.
    pub fn before_entitlements(&self, act: impl FnOnce() + Send + 'static) {
        self.stub.state().before_entitlements = Some(Box::new(act));
    }

    /// From now on takes this server key, and no other.
    pub fn accept_key(&self, key: &str) {
        key.clone_into(&mut self.stub.state().key);
    }

    /// Every call so far.
    pub fn calls(&self) -> Vec<EdgeCall> {
        self.stub.state().calls.clone()
    }
}
