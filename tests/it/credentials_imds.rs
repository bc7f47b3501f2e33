//! Temporary credentials of an EC2 instance, by version 2 of its metadata service alone.

use persistent_cache_service::clock;

use crate::support::imds::{ImdsStub, ROLE};
use crate::support::messages::{Shape, entitlements_updated};
use crate::support::moto::AccessKey;
use crate::support::sdk::Owner;
use crate::support::service::{Service, Settings};
use crate::support::stage::{PREFIX, Stage};
use crate::support::state::{State, every_kind, hours_ago};

/// An instance with its metadata service.
struct Instance {
    stage: Stage,
    imds: ImdsStub,
}

impl Instance {
    fn new() -> Self {
        Self {
            stage: Stage::new(),
            imds: ImdsStub::start(),
        }
    }

    fn settings(&self) -> Settings {
        self.stage
            .settings()
            .unset("AWS_ACCESS_KEY_ID")
            .unset("AWS_SECRET_ACCESS_KEY")
            .set("CREDENTIAL_SOURCE", "instance-metadata")
            .set("AWS_EC2_METADATA_SERVICE_ENDPOINT", &self.imds.url)
            .set("CACHE_UPDATE_POLICY", "UPSERT")
            .set("LOG_LEVEL", "debug")
            // Nobody is there: whoever asked it would fail.
            .set("HTTPS_PROXY", "http://127.0.0.1:9")
    }

    fn give(&self, seconds: i64) -> AccessKey {
        let key = self.stage.queue.moto.temporary_credentials();
        self.imds.give_credentials(&key, in_seconds(seconds));
        key
    }

    /// Sends a customer's state and waits until it is applied.
    fn deliver(&self, service: &Service, customer: &str) {
        let state = State::new(Owner::customer(customer), hours_ago(1), &every_kind(0));
        self.stage
            .deliver(service, &[entitlements_updated(&state, Shape::GraphqlV2).raw()]);
        assert!(self.stage.redis.get(&state.owner().key(PREFIX)).is_some());
    }

    /// Nothing of what was secret is in the log or in the metrics.
    fn told_no_secret(&self, service: &Service, keys: &[&AccessKey]) {
        let told = format!(
            "{}\n{}",
            service.log_lines().join("\n"),
            service.get("/metrics").body
        );
        let mut secrets = self.imds.tokens();
        for key in keys {
            secrets.push(key.secret.clone());
            secrets.extend(key.session_token.clone());
        }
        assert!(secrets.len() > keys.len() * 2, "a token was given out, too");
        for secret in secrets {
            assert!(!told.contains(&secret), "{secret} in\n{told}");
        }
    }
}

fn in_seconds(seconds: i64) -> i64 {
    clock::now().0 + seconds * 1000
}

fn told(service: &Service, what: &str) -> bool {
    service.log_lines().iter().any(|line| line.contains(what))
}

fn failed_receives(service: &Service) -> f64 {
    service
        .metrics()
        .value("persistent_cache_queue_errors_total{operation=\"receive\"}")
}

#[test]
fn are_asked_for_by_token_role_and_document_and_sign_the_calls() {
    let instance = Instance::new();
    let key = instance.give(6 * 3600);
    let service = Service::start(&instance.settings());
    instance.deliver(&service, "customer-1");
    let calls: Vec<(String, u16)> = instance
        .imds
        .calls()
        .into_iter()
        .map(|call| (call.line, call.status))
        .collect();
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
    assert!(
        told(&service, "the instance's temporary credentials from"),
        "the source is named at start"
    );
    instance.told_no_secret(&service, &[&key]);
    service.stop();
}

#[test]
fn are_renewed_without_a_gap_and_with_a_new_token_where_the_old_one_is_refused() {
    let instance = Instance::new();
    let first = instance.give(15);
    let service = Service::start(&instance.settings());
    instance.imds.forget_tokens();
    let second = instance.give(6 * 3600);
    service.wait_until("the renewed credentials to be told", || {
        told(&service, &format!("with key id {}", second.id))
    });
    assert!(
        instance.imds.calls().iter().any(|call| call.status == 401),
        "the token that it held was stale"
    );
    instance.stage.queue.moto.revoke(&first);
    instance.deliver(&service, "customer-1");
    assert!(
        failed_receives(&service).abs() < f64::EPSILON,
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
    service.wait_for_complaint(&[
        "instance's credentials",
        &instance.imds.url,
        "attach an instance profile",
    ]);
    assert_eq!(service.get("/livez").status, 200);
    assert_eq!(service.get("/readyz").status, 503);
    instance.imds.set_has_role(true);
    service.wait_for_complaint(&["AssumeRoleUnauthorizedAccess", ROLE, "trust policy"]);
    let key = instance.give(6 * 3600);
    service.wait_until_ready();
    instance.deliver(&service, "customer-1");
    instance.told_no_secret(&service, &[&key]);
    service.stop();
}

#[test]
fn that_are_handed_out_expired_are_used_on() {
    let instance = Instance::new();
    let key = instance.give(-60);
    let service = Service::start(&instance.settings());
    service.wait_for_complaint(&["hands out expired credentials", "used on", ROLE]);
    instance.deliver(&service, "customer-1");
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
    service.wait_for_complaint(&[
        &url,
        "timed out",
        "hop limit of 2",
        "--http-put-response-hop-limit 2",
    ]);
    assert!(began.elapsed().as_secs() < 15, "took {:?}", began.elapsed());
    service.stop();
}
