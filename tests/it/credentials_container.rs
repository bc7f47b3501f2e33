//! Temporary credentials of a container (ECS, EKS Pod Identity): fetched with the token of the moment, renewed without
//! a gap, and never told to anybody.

use std::path::PathBuf;

use persistent_cache_service::clock;

use crate::support::aws::{apply_one, assert_hidden, receive_errors, wait_for_source, without_keys};
use crate::support::container::{ContainerStub, PATH};
use crate::support::moto::AccessKey;
use crate::support::service::{Service, Settings};
use crate::support::stage::Stage;

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
        let container = Self { endpoint: ContainerStub::start(TOKEN), token_file, stage };
        container.write_token(TOKEN);
        container
    }

    fn write_token(&self, token: &str) {
        std::fs::write(&self.token_file, format!("{token}\n")).expect("a token file");
    }

    fn settings(&self) -> Settings {
        without_keys(&self.stage)
            .set("AWS_CONTAINER_CREDENTIALS_FULL_URI", self.endpoint.uri())
            .set(
                "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
                self.token_file.display().to_string(),
            )
            // Nobody is there: whoever asked it would fail.
            .set("HTTPS_PROXY", "http://proxy-user:proxy-password@127.0.0.1:9")
    }

    fn give(&self, seconds: i64) -> AccessKey {
        let key = self.stage.queue.moto.temporary_credentials();
        self.endpoint.give_credentials(&key, in_seconds(seconds));
        key
    }
}

/// Nothing of what was secret is in the log or in the metrics.
fn told_no_secret(service: &Service, keys: &[&AccessKey], tokens: &[&str]) {
    let path = PATH.rsplit('/').next().expect("a path");
    let mut secrets = [&[path, "proxy-password", "proxy-user"], tokens].concat();
    for key in keys {
        secrets.extend([key.secret.as_str(), key.session_token.as_deref().expect("temporary ones")]);
    }
    assert_hidden(service, &secrets);
}

fn in_seconds(seconds: i64) -> i64 {
    clock::now().0 + seconds * 1000
}

#[test]
fn are_fetched_with_the_token_and_sign_the_calls() {
    let container = Container::new();
    let key = container.give(3600);
    let service = Service::start(&container.settings());
    apply_one(&container.stage, &service, "customer-1");

    let calls = container.endpoint.calls();
    assert_eq!(calls.len(), 1, "one answer is enough for an hour: {calls:?}");
    assert_eq!((calls[0].method.as_str(), calls[0].url.as_str()), ("GET", PATH));
    assert_eq!(calls[0].authorization.as_deref(), Some(TOKEN));
    let source = format!("the container's temporary credentials from {}", container.endpoint.address);
    wait_for_source(&service, &source);
    told_no_secret(&service, &[&key], &[TOKEN]);
    service.stop();
}

#[test]
fn are_renewed_with_the_token_that_its_file_holds_by_then_and_without_a_gap() {
    let container = Container::new();
    let first = container.give(15);
    let service = Service::start(&container.settings());
    apply_one(&container.stage, &service, "customer-1");

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
    apply_one(&container.stage, &service, "customer-2");
    assert!(
        receive_errors(&service).abs() < f64::EPSILON,
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
    apply_one(&container.stage, &service, "customer-1");
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
    apply_one(&container.stage, &service, "customer-1");
    assert!(receive_errors(&service).abs() < f64::EPSILON);
    let second = container.give(3600);
    service.wait_until("the renewed credentials to be told", || {
        let told = format!("with key id {}", second.id);
        service.log_lines().iter().any(|line| line.contains(&told))
    });
    apply_one(&container.stage, &service, "customer-2");
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
    apply_one(&container.stage, &service, "customer-1");
    told_no_secret(&service, &[&key], &[TOKEN, STALE]);
    service.stop();
}
