//! Stands in for the instance metadata service, version 2 only. It refuses what the real one refuses: a token asked
//! for without its life or through a forwarder, any GET without a token or with one that it does not know.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tiny_http::{Header, Method, Request, Response, Server};

use super::child::thread;
use super::moto::AccessKey;
use super::state::iso;

/// The role of the instance.
pub const ROLE: &str = "queue-reader-of-the-instance";

const TOKEN_PATH: &str = "/latest/api/token";
const ROLE_PATH: &str = "/latest/meta-data/iam/security-credentials/";

/// One call that came in.
#[derive(Debug, Clone)]
pub struct ImdsCall {
    /// `PUT /latest/api/token`
    pub line: String,
    /// The status that was answered.
    pub status: u16,
}

#[derive(Default)]
struct State {
    /// Tokens handed out and still known.
    tokens: Vec<String>,
    all_tokens: Vec<String>,
    has_no_role: bool,
    credentials: Option<Value>,
    calls: Vec<ImdsCall>,
}

/// The stub. The role's document is a failure as long as it was given no credentials.
pub struct ImdsStub {
    pub url: String,
    state: Arc<Mutex<State>>,
    server: Arc<Server>,
}

impl ImdsStub {
    /// Listens.
    pub fn start() -> Self {
        let server = Arc::new(Server::http("127.0.0.1:0").expect("a port"));
        let url = format!("http://{}", server.server_addr());
        let state = Arc::new(Mutex::new(State::default()));
        let (shared_server, shared_state) = (Arc::clone(&server), Arc::clone(&state));
        thread("imds-stub", move || {
            for request in shared_server.incoming_requests() {
                let mut state = shared_state.lock().unwrap();
                let (status, body) = state.answer(&request);
                let line = format!("{} {}", request.method(), request.url());
                state.calls.push(ImdsCall { line, status });
                drop(state);
                let mut response = Response::from_string(body).with_status_code(status);
                if status == 200 && request.url() == TOKEN_PATH {
                    let life = header(&request, "X-aws-ec2-metadata-token-ttl-seconds").unwrap_or_default();
                    let told = Header::from_bytes("X-aws-ec2-metadata-token-ttl-seconds", life);
                    response.add_header(told.expect("a header"));
                }
                let _ = request.respond(response);
            }
        });
        Self { url, state, server }
    }

    /// From now on gives these credentials, said to expire at this time (epoch milliseconds).
    pub fn give_credentials(&self, key: &AccessKey, expires_at_ms: i64) {
        let answer = json!({
            "Code": "Success",
            "LastUpdated": iso(expires_at_ms - 6 * 3600 * 1000),
            "Type": "AWS-HMAC",
            "AccessKeyId": key.id,
            "SecretAccessKey": key.secret,
            "Token": key.session_token,
            "Expiration": iso(expires_at_ms),
        });
        self.state.lock().unwrap().credentials = Some(answer);
    }

    /// Whether the instance has a role.
    pub fn set_has_role(&self, has_role: bool) {
        self.state.lock().unwrap().has_no_role = !has_role;
    }

    /// Knows none of its tokens any more, as after a restart.
    pub fn forget_tokens(&self) {
        self.state.lock().unwrap().tokens.clear();
    }

    /// Every token that it ever gave.
    pub fn tokens(&self) -> Vec<String> {
        self.state.lock().unwrap().all_tokens.clone()
    }

    /// Every call so far.
    pub fn calls(&self) -> Vec<ImdsCall> {
        self.state.lock().unwrap().calls.clone()
    }

    /// How often credentials were handed out.
    pub fn fetches(&self) -> usize {
        let line = format!("GET {ROLE_PATH}{ROLE}");
        self.calls().iter().filter(|call| call.line == line && call.status == 200).count()
    }
}

impl State {
    fn answer(&mut self, request: &Request) -> (u16, String) {
        if *request.method() == Method::Put && request.url() == TOKEN_PATH {
            if header(request, "X-Forwarded-For").is_some() {
                return (403, String::new());
            }
            let life = header(request, "X-aws-ec2-metadata-token-ttl-seconds");
            let is_life =
                life.is_some_and(|life| life.parse().is_ok_and(|secs| (1..=21_600).contains(&secs)));
            if !is_life {
                return (400, String::new());
            }
            let token = format!("imds-token-{}==", self.all_tokens.len());
            self.tokens.push(token.clone());
            self.all_tokens.push(token.clone());
            return (200, token);
        }
        if *request.method() != Method::Get {
            return (405, String::new());
        }
        let token = header(request, "X-aws-ec2-metadata-token");
        if !token.is_some_and(|token| self.tokens.contains(&token)) {
            return (401, String::new());
        }
        match request.url().strip_prefix(ROLE_PATH) {
            Some(_) if self.has_no_role => (404, String::new()),
            Some("") => (200, ROLE.to_owned()),
            Some(ROLE) => (200, self.credentials.clone().unwrap_or_else(no_trust).to_string()),
            Some(_) | None => (404, String::new()),
        }
    }
}

/// The document of a role that does not trust EC2.
fn no_trust() -> Value {
    let words = format!("EC2 cannot assume the role {ROLE}");
    json!({"Code": "AssumeRoleUnauthorizedAccess", "Message": words})
}

fn header(request: &Request, name: &'static str) -> Option<String> {
    let found = request.headers().iter().find(|header| header.field.equiv(name));
    found.map(|header| header.value.as_str().to_owned())
}

impl Drop for ImdsStub {
    fn drop(&mut self) {
        self.server.unblock();
    }
}
