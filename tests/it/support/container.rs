//! Stands in for the credentials endpoint of ECS and of EKS Pod Identity. It refuses what they refuse: another method,
//! another path, no token, a token that is not the one that holds now.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tiny_http::{Header, Method, Response, Server};

use super::child::thread;
use super::moto::AccessKey;
use super::state::iso;

/// The path that the credentials of one task are at; on ECS it is as good as a password.
pub const PATH: &str = "/v2/credentials/b1e5-path-of-the-task";

/// One call that came in.
#[derive(Debug, Clone)]
pub struct ContainerCall {
    pub method: String,
    pub url: String,
    pub authorization: Option<String>,
    /// The status that was answered.
    pub status: u16,
}

struct State {
    token: String,
    credentials: Option<Value>,
    calls: Vec<ContainerCall>,
}

/// The stub. Answers 500 as long as it was given no credentials.
pub struct ContainerStub {
    /// Scheme, host, port.
    pub address: String,
    state: Arc<Mutex<State>>,
    server: Arc<Server>,
}

impl ContainerStub {
    /// Listens; this token is asked for.
    pub fn start(token: &str) -> Self {
        let server = Arc::new(Server::http("127.0.0.1:0").expect("a port"));
        let state =
            Arc::new(Mutex::new(State { token: token.to_owned(), credentials: None, calls: Vec::new() }));
        let (shared_server, shared_state) = (Arc::clone(&server), Arc::clone(&state));
        thread("container-stub", move || {
            for request in shared_server.incoming_requests() {
                let authorization =
                    request.headers().iter().find(|header| header.field.equiv("Authorization"));
                let authorization = authorization.map(|header| header.value.as_str().to_owned());
                let mut state = shared_state.lock().unwrap();
                let refusal = |code: &str, message: &str| json!({"code": code, "message": message});
                let (status, body) = if request.url() != PATH {
                    (404, refusal("InvalidIdInRequest", "no credentials with this id"))
                } else if *request.method() != Method::Get {
                    (405, refusal("MethodNotAllowed", "only GET"))
                } else if authorization.is_none() {
                    (401, refusal("MissingToken", "no Authorization"))
                } else if authorization.as_ref() != Some(&state.token) {
                    // As badly as it could: with the token in its words.
                    let told = authorization.clone().unwrap_or_default();
                    (401, refusal("InvalidToken", &format!("the token {told} is not valid")))
                } else if let Some(credentials) = state.credentials.clone() {
                    (200, credentials)
                } else {
                    (500, refusal("InternalError", "the agent has no credentials yet"))
                };
                state.calls.push(ContainerCall {
                    method: request.method().to_string(),
                    url: request.url().to_owned(),
                    authorization,
                    status,
                });
                drop(state);
                let json_type = Header::from_bytes("content-type", "application/json").expect("a header");
                let response = Response::from_string(body.to_string()).with_status_code(status);
                let _ = request.respond(response.with_header(json_type));
            }
        });
        let address = format!("http://{}", server.server_addr());
        Self { address, state, server }
    }

    /// What `AWS_CONTAINER_CREDENTIALS_FULL_URI` is set to.
    pub fn uri(&self) -> String {
        format!("{}{PATH}", self.address)
    }

    /// From now on gives these credentials, said to expire at this time (epoch milliseconds).
    pub fn give_credentials(&self, key: &AccessKey, expires_at_ms: i64) {
        let answer = json!({
            "RoleArn": "arn:aws:iam::123456789012:role/task",
            "AccessKeyId": key.id,
            "SecretAccessKey": key.secret,
            "Token": key.session_token,
            "Expiration": iso(expires_at_ms),
        });
        self.state.lock().unwrap().credentials = Some(answer);
    }

    /// From now on has none.
    pub fn fail(&self) {
        self.state.lock().unwrap().credentials = None;
    }

    /// From now on takes this token, and no other.
    pub fn accept_token(&self, token: &str) {
        token.clone_into(&mut self.state.lock().unwrap().token);
    }

    /// Every call so far.
    pub fn calls(&self) -> Vec<ContainerCall> {
        self.state.lock().unwrap().calls.clone()
    }

    /// How many calls were answered with this status.
    pub fn answered(&self, status: u16) -> usize {
        self.calls().iter().filter(|call| call.status == status).count()
    }
}

impl Drop for ContainerStub {
    fn drop(&mut self) {
        self.server.unblock();
    }
}
