//! Web identity: a token in a file is exchanged for credentials of a role, ahead of their expiry, with the token as it
//! is then.

use std::net::TcpListener;
use std::time::Instant;

use crate::support::aws::{
    Directory, ROLE, StsStub, apply_one, assert_hidden, receive_errors, wait_for_source, without_keys,
};
use crate::support::child::Signal;
use crate::support::moto::AccessKey;
use crate::support::service::{Service, Settings};
use crate::support::stage::Stage;
use crate::support::wait::PATIENCE;

const FIRST_TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.first-identity-token";
const SECOND_TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.second-identity-token";

struct Pod {
    stage: Stage,
    sts: StsStub,
    files: Directory,
}

impl Pod {
    fn new() -> Self {
        let pod = Self { stage: Stage::new(), sts: StsStub::start(), files: Directory::new() };
        pod.sts.take_token(FIRST_TOKEN);
        pod
    }

    fn settings(&self) -> Settings {
        let token = self.files.write("token", &format!("{FIRST_TOKEN}\n"));
        without_keys(&self.stage)
            .set("AWS_WEB_IDENTITY_TOKEN_FILE", token)
            .set("AWS_ROLE_ARN", ROLE)
            .set("AWS_ENDPOINT_URL_STS", &self.sts.url)
    }

    fn fresh(&self) -> AccessKey {
        self.stage.queue.moto.temporary_credentials()
    }
}

fn secrets(key: &AccessKey) -> Vec<&str> {
    [Some(key.secret.as_str()), key.session_token.as_deref()]
        .into_iter()
        .flatten()
        .chain([FIRST_TOKEN, SECOND_TOKEN])
        .collect()
}

#[test]
fn is_exchanged_for_credentials_of_the_role_and_the_log_names_it() {
    let pod = Pod::new();
    let key = pod.fresh();
    pod.sts.give(&key, 3600);
    let service = Service::start(&pod.settings().set("AWS_ROLE_SESSION_NAME", "pod-4711"));
    wait_for_source(
        &service,
        &format!("temporary credentials of role {ROLE} by web identity, from STS at {}", pod.sts.url),
    );
    apply_one(&pod.stage, &service, "customer-1");
    let calls = pod.sts.calls();
    assert_eq!(calls.len(), 1, "one answer is enough for an hour: {calls:?}");
    let form = &calls[0].form;
    assert_eq!((form["RoleArn"].as_str(), form["RoleSessionName"].as_str()), (ROLE, "pod-4711"));
    assert_hidden(&service, &secrets(&key));
    service.stop();
}

#[test]
fn is_renewed_with_the_rotated_token_without_a_gap() {
    let pod = Pod::new();
    let first = pod.fresh();
    pod.sts.give(&first, 15);
    let service = Service::start(&pod.settings());
    apply_one(&pod.stage, &service, "customer-1");
    let session = pod.sts.calls()[0].form["RoleSessionName"].clone();
    assert!(session.starts_with("persistent-cache-service-"), "{session}");

    // The old token is no good any more, and so are the old credentials once there are new ones.
    let second = pod.fresh();
    pod.files.write("token", SECOND_TOKEN);
    pod.sts.take_token(SECOND_TOKEN);
    pod.sts.give(&second, 3600);
    wait_for_source(&service, &second.id);
    pod.stage.queue.moto.revoke(&first);
    apply_one(&pod.stage, &service, "customer-2");
    assert!(receive_errors(&service).abs() < f64::EPSILON, "there was no gap");
    assert_hidden(&service, &[secrets(&first), secrets(&second)].concat());
    service.stop();
}

#[test]
fn that_cannot_be_exchanged_any_more_works_to_the_last_second_and_then_heals() {
    let pod = Pod::new();
    let first = pod.fresh();
    pod.sts.give(&first, 20);
    let service = Service::start(&pod.settings());
    pod.sts.go_down();
    service.wait_for_complaint(&[
        "cannot renew the credentials of the queue: those at hand are used",
        ROLE,
        "HTTP 503 ServiceUnavailable",
    ]);
    apply_one(&pod.stage, &service, "customer-1");
    assert!(receive_errors(&service).abs() < f64::EPSILON);

    service.wait_for_complaint(&["cannot sign calls to queue", "HTTP 503 ServiceUnavailable"]);
    service.wait_for_complaint(&["there are no credentials for the queue", "credentials absence"]);
    assert_eq!(service.get("/livez").status, 200);
    let second = pod.fresh();
    pod.sts.give(&second, 3600);
    service.wait_until("calls after the outage", || {
        service.log_lines().iter().any(|line| line.contains("credentials are available again"))
    });
    apply_one(&pod.stage, &service, "customer-2");
    assert_hidden(&service, &[secrets(&first), secrets(&second)].concat());
    service.stop();
}

#[test]
fn that_is_refused_is_told_with_its_remedy_and_without_the_token() {
    let pod = Pod::new();
    pod.sts.take_token(SECOND_TOKEN);
    let service = Service::spawn(&pod.settings());
    service.wait_for_complaint(&[
        "there are no credentials for the queue",
        "HTTP 400 InvalidIdentityToken (refused by the stub [redacted])",
        "trust policy",
    ]);
    assert_eq!(service.get("/readyz").status, 503);
    assert_hidden(&service, &[FIRST_TOKEN]);

    // The operator mends it; nothing has to be started again.
    let key = pod.fresh();
    pod.sts.give(&key, 3600);
    pod.files.write("token", SECOND_TOKEN);
    service.wait_until_ready();
    service.stop();
}

#[test]
fn a_stop_does_not_wait_for_an_sts_that_says_nothing() {
    let pod = Pod::new();
    // Connections are taken by the system, and nobody ever answers on them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", silent.local_addr().unwrap());
    let service = Service::spawn(
        &pod.settings().set("AWS_ENDPOINT_URL_STS", address).set("SHUTDOWN_TIMEOUT_SECS", "2"),
    );
    assert_eq!(service.get("/readyz").status, 503);
    let _waiting = silent.accept().expect("the renewal asks");
    let began = Instant::now();
    service.signal(Signal::Terminate);
    let status = service.wait_for_exit(PATIENCE);
    assert!(status.success(), "{status}");
    assert!(began.elapsed().as_secs_f64() < 3.0, "{:?}", began.elapsed());
}

#[test]
fn gives_way_to_the_edge_api_where_that_is_asked_for() {
    let pod = Pod::new();
    let service = Service::spawn(&pod.settings().set("CREDENTIAL_SOURCE", "edge"));
    wait_for_source(&service, "temporary credentials from the Edge API at http://127.0.0.1:9");
    service.wait_for_complaint(&["Edge API", "connection refused"]);
    assert!(pod.sts.calls().is_empty());
    service.stop();
}
