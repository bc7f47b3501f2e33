//! Temporary credentials of a container (ECS, EKS Pod Identity): fetched with the token of the moment, renewed without
//! a gap, and never told to anybody.

use std::path::PathBuf;

use persistent_cache_service::clock;

use crate::support::container::{ContainerStub, PATH};
use crate::support::messages::{Shape, entitlements_updated};
use crate::support::moto::AccessKey;
use crate::support::sdk::Owner;
use crate::support::service::{Service, Settings};
use crate::support::stage::{PREFIX, Stage};
use crate::support::state::{State, every_kind, hours_ago};

const TOKEN: &str = "Bearer token-of-the-pod";
const SECOND_TOKEN: &str = "Bearer second-token-of-the-pod";
const STALE: &str = "Bearer stale-token-of-the-pod";

/// A container: its endpoint, and the file that its token is in.
struct Container {
    stage: Stage,
    endpoint: ContainerStub,
    token_file: PathBuf,
}

impl Container {
    fn new() -> Self {
        let stage = Stage::new();
        let token_file = stage.redis.directory().join("eks-pod-identity-token");
        let container = Self {
            endpoint: ContainerStub::start(TOKEN),
            token_file,
            stage,
        };
        container.write_token(TOKEN);
        container
    }

    fn write_token(&self, token: &str) {
        std::fs::write(&self.token_file, format!("{token}\n")).expect("a token file");
    }

    fn settings(&self) -> Settings {
        self.stage
            .settings()
            .unset("AWS_ACCESS_KEY_ID")
            .unset("AWS_SECRET_ACCESS_KEY")
            .set("AWS_CONTAINER_CREDENTIALS_FULL_URI", self.endpoint.uri())
            .set(
                "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
                self.token_file.display().to_string(),
            )
            .set("CACHE_UPDATE_POLICY", "UPSERT")
            .set("LOG_LEVEL", "debug")
            // Nobody is there: whoever asked it would fail.
            .set("HTTPS_PROXY", "http://proxy-user:proxy-password@127.0.0.1:9")
    }

    fn give(&self, seconds: i64) -> AccessKey {
        let key = self.stage.queue.moto.temporary_credentials();
        self.endpoint.give_credentials(&key, in_seconds(seconds));
        key
    }

    /// Sends a customer's state and waits until it is applied.
    fn deliver(&self, service: &Service, customer: &str) {
        let state = State::new(Owner::customer(customer), hours_ago(1), &every_kind(0));
        self.stage
            .deliver(service, &[entitlements_updated(&state, Shape::GraphqlV2).raw()]);
        assert!(self.stage.redis.get(&state.owner().key(PREFIX)).is_some());
    }
}

/// Nothing of what was secret is in the log or in the metrics.
fn told_no_secret(service: &Service, keys: &[&AccessKey], tokens: &[&str]) {
    let told = format!(
        "{}\n{}",
        service.log_lines().join("\n"),
        service.get("/metrics").body
    );
    let path = PATH.rsplit('/').next().expect("a path");
    let mut secrets = vec![path, "proxy-password", "proxy-user"];
    secrets.extend(tokens);
    for key in keys {
        secrets.push(&key.secret);
        secrets.push(key.session_token.as_deref().expect("temporary ones"));
    }
    for secret in secrets {
        assert!(!told.contains(secret), "{secret} in\n{told}");
    }
}

fn in_seconds(seconds: i64) -> i64 {
    clock::now().0 + seconds * 1000
}

fn failed_receives(service: &Service) -> f64 {
    service
        .metrics()
        .value("persistent_cache_queue_errors_total{operation=\"receive\"}")
}

#[test]
fn are_fetched_with_the_token_and_sign_the_calls() {
    let container = Container::new();
    let key = container.give(3600);
    let service = Service::start(&container.settings());
    container.deliver(&service, "customer-1");

    let calls = container.endpoint.calls();
    assert_eq!(calls.len(), 1, "one answer is enough for an hour: {calls:?}");
    assert_eq!((calls[0].method.as_str(), calls[0].url.as_str()), ("GET", PATH));
    assert_eq!(calls[0].authorization.as_deref(), Some(TOKEN));
    let line = "the container's temporary credentials from";
    assert!(
        service
            .log_lines()
            .iter()
            .any(|told| told.contains(line) && told.contains(&container.endpoint.address)),
        "the source is named at start"
    );
    told_no_secret(&service, &[&key], &[TOKEN]);
    service.stop();
}

#[test]
fn are_renewed_with_the_token_that_its_file_holds_by_then_and_without_a_gap() {
    let container = Container::new();
    let first = container.give(15);
    let service = Service::start(&container.settings());
    container.deliver(&service, "customer-1");

    container.endpoint.accept_token(SECOND_TOKEN);
    container.write_token(SECOND_TOKEN);
    let second = container.give(3600);
    service.wait_until("a fetch with the second token", || {
        container
            .endpoint
            .calls()
            .iter()
            .any(|call| call.authorization.as_deref() == Some(SECOND_TOKEN) && call.status == 200)
    });
    service.wait_until("the renewed credentials to be told", || {
        let told = format!("with key id {}", second.id);
        service.log_lines().iter().any(|line| line.contains(&told))
    });
    container.stage.queue.moto.revoke(&first);
    container.deliver(&service, "customer-2");
    assert!(
        failed_receives(&service).abs() < f64::EPSILON,
        "there was no gap: {}",
        service.log_lines().join("\n")
    );
    told_no_secret(&service, &[&first, &second], &[TOKEN, SECOND_TOKEN]);
    service.stop();
}

#[test]
fn that_cannot_be_had_leave_the_service_alive_and_it_heals() {
    let container = Container::new();
    let service = Service::spawn(&container.settings());
    let complaint = service.wait_for_complaint(&[
        "container's credentials",
        &container.endpoint.address,
        "500",
        "InternalError",
        "tried again",
    ]);
    assert!(!complaint.contains(PATH), "{complaint}");
    assert_eq!(service.get("/livez").status, 200);
    assert_eq!(service.get("/readyz").status, 503);
    let key = container.give(3600);
    service.wait_until_ready();
    container.deliver(&service, "customer-1");
    told_no_secret(&service, &[&key], &[TOKEN]);
    service.stop();
}

#[test]
fn that_cannot_be_renewed_are_used_on_and_the_log_says_so() {
    let container = Container::new();
    let first = container.give(20);
    let service = Service::start(&container.settings());
    container.endpoint.fail();
    service.wait_for_complaint(&["cannot renew", "500"]);
    container.deliver(&service, "customer-1");
    assert!(failed_receives(&service).abs() < f64::EPSILON);
    let second = container.give(3600);
    service.wait_until("the renewed credentials to be told", || {
        let told = format!("with key id {}", second.id);
        service.log_lines().iter().any(|line| line.contains(&told))
    });
    container.deliver(&service, "customer-2");
    told_no_secret(&service, &[&first, &second], &[TOKEN]);
    service.stop();
}

#[test]
fn are_refused_to_a_stale_token_until_the_file_holds_the_right_one() {
    let container = Container::new();
    container.write_token(STALE);
    let key = container.give(3600);
    let service = Service::spawn(&container.settings());
    service.wait_for_complaint(&["401", "InvalidToken", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"]);
    assert_eq!(container.endpoint.answered(200), 0);
    container.write_token(TOKEN);
    service.wait_until_ready();
    container.deliver(&service, "customer-1");
    told_no_secret(&service, &[&key], &[TOKEN, STALE]);
    service.stop();
}
