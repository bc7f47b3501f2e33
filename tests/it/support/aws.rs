//! Stands in for AWS's Security Token Service: refuses what it refuses, and gives credentials of moto's, so that
//! the queue accepts them. It does not check signatures: stories in which those matter ask moto's own STS.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use tiny_http::{Method, Request};

use super::http_stub::{HttpStub, Reply, body, header};
use super::messages::{Shape, entitlements_updated};
use super::moto::AccessKey;
use super::sdk::Owner;
use super::service::{Service, Settings};
use super::stage::{PREFIX, Stage};
use super::state::{State as CustomerState, every_kind, hours_ago, iso};

/// A role of nobody's, for stories in which it is not moto that gives it.
pub const ROLE: &str = "arn:aws:iam::123456789012:role/reader";

/// One call that came in.
#[derive(Debug, Clone)]
pub struct StsCall {
    /// The form.
    pub form: BTreeMap<String, String>,
    /// The status that was answered.
    pub status: u16,
}

#[derive(Default)]
struct State {
    /// What is given, and until when.
    grant: Option<(AccessKey, i64)>,
    /// The identity token that is accepted.
    token: Option<String>,
    is_down: bool,
    calls: Vec<StsCall>,
}

/// The stub. Fails until it is given credentials to give.
pub struct StsStub {
    pub url: String,
    stub: HttpStub<State>,
}

impl StsStub {
    /// Listens.
    pub fn start() -> Self {
        let stub = HttpStub::start("sts-stub", State::default(), |state, request| {
            let text = body(request);
            let form: BTreeMap<String, String> =
                url::form_urlencoded::parse(text.as_bytes()).into_owned().collect();
            let mut state = state.lock().unwrap();
            let (status, body) = match state.answer(request, &form) {
                Ok(body) => (200, body),
                Err((status, code)) => (status, refusal(code, &form)),
            };
            state.calls.push(StsCall { form, status });
            Reply::new(status, "text/xml", body)
        });
        Self { url: stub.url.clone(), stub }
    }

    /// From now on gives these credentials, said to expire at this time (epoch milliseconds).
    pub fn give(&self, key: &AccessKey, expires_at_ms: i64) {
        let mut state = self.stub.state();
        state.grant = Some((key.clone(), expires_at_ms));
        state.is_down = false;
    }

    /// From now on takes this identity token and no other.
    pub fn take_token(&self, token: &str) {
        self.stub.state().token = Some(token.to_owned());
    }

    /// From now on fails, until it is given credentials again.
    pub fn go_down(&self) {
        self.stub.state().is_down = true;
    }

    /// Every call so far.
    pub fn calls(&self) -> Vec<StsCall> {
        self.stub.state().calls.clone()
    }

    /// How many calls were answered with this status.
    pub fn answered(&self, status: u16) -> usize {
        self.calls().iter().filter(|call| call.status == status).count()
    }
}

impl State {
    fn answer(
        &self,
        request: &Request,
        form: &BTreeMap<String, String>,
    ) -> Result<String, (u16, &'static str)> {
        let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
        let is_form = header(request, "content-type")
            .is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
        if *request.method() != Method::Post || request.url() != "/" || !is_form {
            return Err((400, "InvalidAction"));
        }
        if self.is_down {
            return Err((503, "ServiceUnavailable"));
        }
        if field("Version") != "2011-06-15" {
            return Err((400, "InvalidAction"));
        }
        let action = field("Action");
        let session = field("RoleSessionName");
        let session_is_fit = (2..=64).contains(&session.len())
            && session.chars().all(|letter| letter.is_ascii_alphanumeric() || "_=,.@+-".contains(letter));
        let duration_is_fit = form
            .get("DurationSeconds")
            .is_none_or(|secs| secs.parse().is_ok_and(|secs: u32| (900..=43_200).contains(&secs)));
        if !session_is_fit || !duration_is_fit || !field("RoleArn").starts_with("arn:aws:iam::") {
            return Err((400, "ValidationError"));
        }
        match action {
            "AssumeRoleWithWebIdentity" => {
                // It is called by those who have no credentials yet.
                if header(request, "authorization").is_some() {
                    return Err((403, "AccessDenied"));
                }
                if self.token.as_deref() != Some(field("WebIdentityToken")) {
                    return Err((400, "InvalidIdentityToken"));
                }
            }
            _ => return Err((400, "InvalidAction")),
        }
        let Some((key, expires_at_ms)) = &self.grant else {
            return Err((503, "ServiceUnavailable"));
        };
        let token = key.session_token.as_deref().unwrap_or_default();
        Ok(format!(
            "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result>\
             <AssumedRoleUser><AssumedRoleId>AROA1:{session}</AssumedRoleId><Arn>arn:aws:sts::1:assumed-role/r/{session}\
             </Arn></AssumedRoleUser><Credentials><AccessKeyId>{}</AccessKeyId><SecretAccessKey>{}</SecretAccessKey>\
             <SessionToken>{token}</SessionToken><Expiration>{}</Expiration></Credentials></{action}Result>\
             <ResponseMetadata><RequestId>c6104cbe</RequestId></ResponseMetadata></{action}Response>",
            key.id,
            key.secret,
            iso(*expires_at_ms)
        ))
    }
}

/// A refusal that quotes what it was sent, as those of AWS sometimes do.
fn refusal(code: &str, form: &BTreeMap<String, String>) -> String {
    let quoted = form.get("WebIdentityToken").map(String::as_str).unwrap_or_default();
    format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type><Code>{code}</Code>\
         <Message>refused by the stub {quoted}</Message></Error><RequestId>c6104cbe</RequestId></ErrorResponse>"
    )
}

/// A directory of one test, gone at its end.
pub struct Directory(PathBuf);

impl Directory {
    /// An empty one.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("aws-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    /// Writes a file at once, as those who rotate secrets do; gives its path.
    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        let fresh = self.0.join(format!("{name}.new"));
        std::fs::write(&fresh, text).expect("a file");
        std::fs::rename(&fresh, &path).expect("a file in its place");
        path.to_str().expect("UTF-8").to_owned()
    }

    /// Its path.
    pub fn path(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Settings of a service without keys of its own: it has to have them from somewhere. At debug level, where secrets
/// would show if any did.
pub fn without_keys(stage: &Stage) -> Settings {
    stage
        .settings()
        .unset("AWS_ACCESS_KEY_ID")
        .unset("AWS_SECRET_ACCESS_KEY")
        .set("CACHE_UPDATE_POLICY", "UPSERT")
        .set("LOG_LEVEL", "debug")
}

/// Sends a message about this customer and waits until it is applied.
pub fn apply_one(stage: &Stage, service: &Service, customer: &'static str) {
    let state = CustomerState::new(Owner::customer(customer), hours_ago(1), &every_kind(0));
    stage.deliver(service, &[entitlements_updated(&state, Shape::GraphqlV2).raw()]);
    assert!(stage.redis.get(&state.owner().key(PREFIX)).is_some(), "{customer}");
}

/// Waits for the line that names the source of credentials.
pub fn wait_for_source(service: &Service, words: &str) {
    service.wait_until(&format!("a line that names the source: {words}"), || {
        service
            .log()
            .iter()
            .any(|record| record["credentials"].as_str().is_some_and(|source| source.contains(words)))
    });
}

/// Failed calls to the queue so far.
pub fn receive_errors(service: &Service) -> f64 {
    service.metrics().value("persistent_cache_queue_errors_total{operation=\"receive\"}")
}

/// None of these shows in the log, on standard error or in the metrics.
pub fn assert_hidden(service: &Service, secrets: &[&str]) {
    let page = service.get("/metrics").body;
    let written = [service.log_lines(), service.stderr(), vec![page]].concat();
    assert!(!written.is_empty());
    for secret in secrets {
        assert!(secret.len() > 5, "too short to be looked for: {secret}");
        let shows = written.iter().find(|line| line.contains(secret));
        assert!(shows.is_none(), "{secret} shows in {shows:?}");
    }
}
