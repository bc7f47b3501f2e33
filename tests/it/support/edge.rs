//! Stands in for the Edge API towards the service: temporary credentials, remote configuration, entitlements.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::{Value, json};
use tiny_http::{Header, Response, Server};

use super::child::thread;
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
    state: Arc<Mutex<State>>,
    server: Arc<Server>,
}

impl EdgeStub {
    /// Listens.
    pub fn start() -> Self {
        let server = Arc::new(Server::http("127.0.0.1:0").expect("a port"));
        let url = format!("http://{}", server.server_addr());
        let state = Arc::new(Mutex::new(State {
            key: SERVER_API_KEY.to_owned(),
            credentials: None,
            configuration: None,
            entitlements: HashMap::new(),
            before_entitlements: None,
            calls: Vec::new(),
        }));
        let (shared_server, shared_state) = (Arc::clone(&server), Arc::clone(&state));
        thread("edge-stub", move || {
            for request in shared_server.incoming_requests() {
                let header = |name: &'static str| {
                    let found = request.headers().iter().find(|header| header.field.equiv(name));
                    found.map(|header| header.value.as_str().to_owned())
                };
                let version = header("X-API-VERSION");
                let url = request.url().to_owned();
                if url.starts_with("/v1/c/") {
                    let before = shared_state.lock().unwrap().before_entitlements.take();
                    if let Some(before) = before {
                        before();
                    }
                }
                let mut state = shared_state.lock().unwrap();
                let authorised = header("X-API-KEY").as_ref() == Some(&state.key);
                let answer = match url.split('?').next().unwrap_or_default() {
                    "/v1/credentials/event-queue.json" => state.credentials.clone(),
                    "/v1/config/server-sdk-configuration.json" => state.configuration.clone(),
                    _ => None,
                };
                let of_customer = state.entitlements.get_mut(&url).map(|answers| match answers.len() {
                    1 => answers[0].clone(),
                    _ => answers.pop_front().expect("an answer"),
                });
                let (status, body) = match answer {
                    _ if !authorised => (401, json!({"message": "unauthorized"})),
                    None if of_customer.is_some() => of_customer.expect("an answer"),
                    Some(answer) => (200, answer),
                    None => (500, json!({"message": "the edge stub has no answer"})),
                };
                state.calls.push(EdgeCall { url, authorised, version, status, at: Instant::now() });
                drop(state);
                let json_type = Header::from_bytes("content-type", "application/json").expect("a header");
                let response = Response::from_string(body.to_string()).with_status_code(status);
                let mut response = response.with_header(json_type);
                if status == 429 {
                    let seconds = RETRY_AFTER_SECS.to_string();
                    response.add_header(Header::from_bytes("retry-after", seconds).expect("a header"));
                }
                let _ = request.respond(response);
            }
        });
        Self { url, state, server }
    }

    /// From now on gives these credentials, said to expire at this time (epoch milliseconds).
    pub fn give_credentials(&self, key: &AccessKey, expires_at_ms: i64) {
        let answer = json!({
            "accessKeyId": key.id,
            "secretAccessKey": key.secret,
            "sessionToken": key.session_token,
            "expiration": super::state::iso(expires_at_ms),
        });
        self.state.lock().unwrap().credentials = Some(answer);
    }

    /// From now on gives this DSN as remote configuration.
    pub fn give_sentry_dsn(&self, dsn: &str) {
        let answer = json!({"data": {"sdkConfiguration": {"sentryDsn": dsn}}});
        self.state.lock().unwrap().configuration = Some(answer);
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
        self.state.lock().unwrap().entitlements.insert(url, answers);
    }

    /// Does this once, when entitlements are asked for and before they are answered.
    pub fn before_entitlements(&self, act: impl FnOnce() + Send + 'static) {
        self.state.lock().unwrap().before_entitlements = Some(Box::new(act));
    }

    /// From now on takes this server key, and no other.
    pub fn accept_key(&self, key: &str) {
        key.clone_into(&mut self.state.lock().unwrap().key);
    }

    /// Every call so far.
    pub fn calls(&self) -> Vec<EdgeCall> {
        self.state.lock().unwrap().calls.clone()
    }
}

impl Drop for EdgeStub {
    fn drop(&mut self) {
        self.server.unblock();
    }
}
