//! Temporary credentials of an EC2 instance, by version 2 of its metadata service alone.

use persistent_cache_service::clock;

use crate::support::aws::{apply_one, assert_hidden, receive_errors, wait_for_source, without_keys};
use crate::support::imds::{ImdsStub, ROLE};
use crate::support::moto::AccessKey;
use crate::support::service::{Service, Settings};
use crate::support::stage::Stage;

/// An instance with its metadata service.
struct Instance {
    stage: Stage,
    imds: ImdsStub,
}

impl Instance {
    fn new() -> Self {
        Self { stage: Stage::new(), imds: ImdsStub::start() }
    }

    fn settings(&self) -> Settings {
        without_keys(&self.stage)
            .set("CREDENTIAL_SOURCE", "instance-metadata")
            .set("AWS_EC2_METADATA_SERVICE_ENDPOINT", &self.imds.url)
            // Nobody is there: whoever asked it would fail.
            .set("HTTPS_PROXY", "http://127.0.0.1:9")
    }

    fn give(&self, seconds: i64) -> AccessKey {
        let key = self.stage.queue.moto.temporary_credentials();
        self.imds.give_credentials(&key, in_seconds(seconds));
        key
    }

    /// Nothing of what was secret is in the log or in the metrics.
    fn told_no_secret(&self, service: &Service, keys: &[&AccessKey]) {
        let tokens = self.imds.tokens();
        assert!(!tokens.is_empty());
        let mut secrets: Vec<&str> = tokens.iter().map(String::as_str).collect();
        for key in keys {
            secrets.extend([key.secret.as_str(), key.session_token.as_deref().expect("temporary ones")]);
        }
        assert_hidden(service, &secrets);
    }
}

fn in_seconds(seconds: i64) -> i64 {
    clock::now().0 + seconds * 1000
}

fn told(service: &Service, what: &str) -> bool {
    service.log_lines().iter().any(|line| line.contains(what))
}

#[test]
fn are_asked_for_by_token_role_and_document_and_sign_the_calls() {
    let instance = Instance::new();
    let key = instance.give(6 * 3600);
    let service = Service::start(&instance.settings());
    apply_one(&instance.stage, &service, "customer-1");
    let calls: Vec<(String, u16)> =
        instance.imds.calls().into_iter().map(|call| (call.line, call.status)).collect();
    let role_path = "GET /latest/meta-data/iam/security-credentials/";
    assert_eq!(
        calls,
        [
            ("PUT /latest/api/token".to_owned(), 200),
            (role_path.to_owned(), 200),
            (format!("{role_path}{ROLE}"), 200),
        ],
        "version 1 is not used, and once is enough for hours"
    );
    wait_for_source(&service, "the instance's temporary credentials from");
    instance.told_no_secret(&service, &[&key]);
    service.stop();
}

#[test]
fn are_renewed_without_a_gap_and_with_a_new_token() {
    let instance = Instance::new();
    let first = instance.give(15);
    let service = Service::start(&instance.settings());
    instance.imds.forget_tokens();
    let second = instance.give(6 * 3600);
    service.wait_until("the renewed credentials to be told", || {
        told(&service, &format!("with key id {}", second.id))
    });
    assert!(
        !instance.imds.calls().iter().any(|call| call.status == 401),
        "each fetch has a token of its own"
    );
    instance.stage.queue.moto.revoke(&first);
    apply_one(&instance.stage, &service, "customer-1");
    assert!(
        receive_errors(&service).abs() < f64::EPSILON,
        "there was no gap: {}",
        service.log_lines().join("\n")
    );
    instance.told_no_secret(&service, &[&first, &second]);
    service.stop();
}

#[test]
fn that_cannot_be_had_leave_the_service_alive_and_it_heals() {
    let instance = Instance::new();
    instance.imds.set_has_role(false);
    let service = Service::spawn(&instance.settings());
    service.wait_for_complaint(&["instance's credentials", &instance.imds.url, "attach an instance profile"]);
    assert_eq!(service.get("/livez").status, 200);
    assert_eq!(service.get("/readyz").status, 503);
    instance.imds.set_has_role(true);
    service.wait_for_complaint(&["AssumeRoleUnauthorizedAccess", ROLE, "trust policy"]);
    let key = instance.give(6 * 3600);
    service.wait_until_ready();
    apply_one(&instance.stage, &service, "customer-1");
    instance.told_no_secret(&service, &[&key]);
    service.stop();
}

#[test]
fn that_are_handed_out_expired_are_used_on() {
    let instance = Instance::new();
    let key = instance.give(-60);
    let service = Service::start(&instance.settings());
    service.wait_for_complaint(&["instance's", "hands out expired credentials", "used on", "clock"]);
    apply_one(&instance.stage, &service, "customer-1");
    assert_eq!(instance.imds.fetches(), 1, "they are not asked for at each call");
    instance.told_no_secret(&service, &[&key]);
    service.stop();
}

#[test]
fn from_a_machine_without_the_service_are_a_complaint_within_seconds() {
    let instance = Instance::new();
    // Accepts connections and never answers, as an address that drops packets.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", silent.local_addr().expect("an address"));
    let began = std::time::Instant::now();
    let service = Service::spawn(&instance.settings().set("AWS_EC2_METADATA_SERVICE_ENDPOINT", &url));
    service.wait_for_complaint(&[&url, "timed out", "hop limit of 2", "--http-put-response-hop-limit 2"]);
    assert!(began.elapsed().as_secs() < 15, "took {:?}", began.elapsed());
    service.stop();
}
