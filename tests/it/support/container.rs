//! Stands in for the credentials endpoint of ECS and of EKS Pod Identity. It refuses what they refuse: another method,
//! another path, no token, a token that is not the one that holds now.

use serde_json::{Value, json};
use tiny_http::{Method, Request};

use super::http_stub::{HttpStub, Reply, header};
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
    stub: HttpStub<State>,
}

impl State {
    fn answer(&self, request: &Request, authorization: Option<&str>) -> (u16, Value) {
        let refusal = |code: &str, message: &str| json!({"code": code, "message": message});
        if request.url() != PATH {
            return (404, refusal("InvalidIdInRequest", "no credentials with this id"));
        }
        if *request.method() != Method::Get {
            return (405, refusal("MethodNotAllowed", "only GET"));
        }
        let Some(token) = authorization else {
            return (401, refusal("MissingToken", "no Authorization"));
        };
        if token != self.token {
            // As badly as it could: with the token in its message.
            return (401, refusal("InvalidToken", &format!("the token {token} is not valid")));
        }
        match &self.credentials {
            Some(credentials) => (200, credentials.clone()),
            None => (500, refusal("InternalError", "the agent has no credentials yet")),
        }
    }
}

impl ContainerStub {
    /// Listens; this token is asked for.
    pub fn start(token: &str) -> Self {
        let state = State { token: token.to_owned(), credentials: None, calls: Vec::new() };
        let stub = HttpStub::start("container-stub", state, |state, request| {
            let mut state = state.lock().unwrap();
            let authorization = header(request, "Authorization");
            let (status, body) = state.answer(request, authorization.as_deref());
            state.calls.push(ContainerCall {
                method: request.method().to_string(),
                url: request.url().to_owned(),
                authorization,
                status,
            });
            Reply::json(status, &body)
        });
        Self { address: stub.url.clone(), stub }
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
        self.stub.state().credentials = Some(answer);
    }

    /// From now on takes this token, and no other.
    pub fn accept_token(&self, token: &str) {
        token.clone_into(&mut self.stub.state().token);
    }

    /// Every call so far.
    pub fn calls(&self) -> Vec<ContainerCall> {
        self.stub.state().calls.clone()
    }

    /// How many calls were answered with this status.
    pub fn answered(&self, status: u16) -> usize {
        self.calls().iter().filter(|call| call.status == status).count()
    }
}
