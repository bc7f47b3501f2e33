//! Stands in for the instance metadata service, version 2 only. It refuses what the real one refuses: a token asked
//! for without its life or through a forwarder, any GET without a token or with one that it does not know.

use serde_json::{Value, json};
use tiny_http::{Method, Request};

use super::http_stub::{HttpStub, Reply, header};
use super::moto::AccessKey;
use super::state::iso;

/// The role of the instance.
pub const ROLE: &str = "queue-reader-of-the-instance";

const TOKEN_PATH: &str = "/latest/api/token";
const TOKEN_LIFE: &str = "X-aws-ec2-metadata-token-ttl-seconds";
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
    /// Tokens that were given and are still valid.
    tokens: Vec<String>,
    all_tokens: Vec<String>,
    has_no_role: bool,
    credentials: Option<Value>,
    calls: Vec<ImdsCall>,
}

/// The stub. The role's document is a failure as long as it was given no credentials.
pub struct ImdsStub {
    pub url: String,
    stub: HttpStub<State>,
}

impl ImdsStub {
    /// Listens.
    pub fn start() -> Self {
        let stub = HttpStub::start("imds-stub", State::default(), |state, request| {
            let mut state = state.lock().unwrap();
            let (status, body) = state.answer(request);
            let line = format!("{} {}", request.method(), request.url());
            state.calls.push(ImdsCall { line, status });
            let reply = Reply::new(status, "text/plain", body);
            if status == 200 && request.url() == TOKEN_PATH {
                return reply.with(TOKEN_LIFE, header(request, TOKEN_LIFE).unwrap_or_default());
            }
            reply
        });
        Self { url: stub.url.clone(), stub }
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
        self.stub.state().credentials = Some(answer);
    }

    /// Whether the instance has a role.
    pub fn set_has_role(&self, has_role: bool) {
        self.stub.state().has_no_role = !has_role;
    }

    /// Knows none of its tokens any more, as after a restart.
    pub fn forget_tokens(&self) {
        self.stub.state().tokens.clear();
    }

    /// Every token that it ever gave.
    pub fn tokens(&self) -> Vec<String> {
        self.stub.state().all_tokens.clone()
    }

    /// Every call so far.
    pub fn calls(&self) -> Vec<ImdsCall> {
        self.stub.state().calls.clone()
    }

    /// How often credentials were given.
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
            let life = header(request, TOKEN_LIFE);
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
