//! Secrets in files: a new one is taken up while the service runs, and neither is ever told.

use std::path::{Path, PathBuf};

use persistent_cache_service::clock;

use crate::support::edge::EdgeStub;
use crate::support::messages::{Shape, entitlements_updated};
use crate::support::sdk::Owner;
use crate::support::sentry::SentryStub;
use crate::support::service::{SERVER_API_KEY, Service};
use crate::support::stage::{PREFIX, Stage};
use crate::support::state::{State, every_kind, hours_ago};

/// Replaces the file in one step, as secret stores do it.
fn write(directory: &Path, name: &str, secret: &str) -> PathBuf {
    let (new, path) = (directory.join(format!("{name}.new")), directory.join(name));
    std::fs::write(&new, format!("{secret}\n")).expect("a file");
    std::fs::rename(&new, &path).expect("the file is replaced");
    path
}

fn told_none_of(service: &Service, secrets: &[&str]) {
    let told = format!(
        "{}\n{}",
        service.log_lines().join("\n"),
        service.get("/metrics").body
    );
    for secret in secrets {
        assert!(!told.contains(secret), "{secret} in\n{told}");
    }
}

#[test]
fn of_the_secret_access_key_signs_the_next_calls() {
    const WRONG: &str = "not-yet-the-secret-of-this-key";
    let stage = Stage::new();
    let key = &stage.queue.moto.service_user;
    let path = write(stage.redis.directory(), "secret-access-key", WRONG);
    let settings = stage
        .settings()
        .unset("AWS_SECRET_ACCESS_KEY")
        .set("AWS_SECRET_ACCESS_KEY_FILE", path.display().to_string())
        .set("CACHE_UPDATE_POLICY", "UPSERT")
        .set("LOG_LEVEL", "debug");
    let service = Service::spawn(&settings);
    service.wait_for_complaint(&["SignatureDoesNotMatch", &key.id]);

    write(stage.redis.directory(), "secret-access-key", &key.secret);
    service.wait_until_ready();
    let state = State::new(Owner::customer("customer-1"), hours_ago(1), &every_kind(0));
    stage.deliver(&service, &[entitlements_updated(&state, Shape::GraphqlV2).raw()]);
    assert!(stage.redis.get(&state.owner().key(PREFIX)).is_some());

    // The other way round, so that it is the file that counts and not what worked once.
    write(stage.redis.directory(), "secret-access-key", WRONG);
    service.wait_until("calls to be refused again", || {
        service.get("/readyz").status == 503
    });
    told_none_of(&service, &[WRONG, &key.secret]);
    service.stop();
}

#[test]
fn of_the_server_api_key_is_used_for_the_next_credentials() {
    const SECOND: &str = "second-server-api-key-of-the-tests";
    let stage = Stage::new();
    let edge = EdgeStub::start();
    let in_seconds = |seconds: i64| clock::now().0 + seconds * 1000;
    let first_credentials = stage.queue.moto.temporary_credentials();
    edge.give_credentials(&first_credentials, in_seconds(15));
    let path = write(stage.redis.directory(), "server-api-key", SERVER_API_KEY);
    let settings = stage
        .settings()
        .unset("AWS_ACCESS_KEY_ID")
        .unset("AWS_SECRET_ACCESS_KEY")
        .unset("SERVER_API_KEY")
        .set("SERVER_API_KEY_FILE", path.display().to_string())
        .set("EDGE_API_URL", &edge.url)
        .set("LOG_LEVEL", "debug");
    let service = Service::start(&settings);

    edge.accept_key(SECOND);
    write(stage.redis.directory(), "server-api-key", SECOND);
    let calls = edge.calls().len();
    let second_credentials = stage.queue.moto.temporary_credentials();
    edge.give_credentials(&second_credentials, in_seconds(3600));
    service.wait_until("credentials for the second key", || {
        edge.calls()[calls..].iter().any(|call| call.authorised)
    });
    stage.queue.moto.revoke(&first_credentials);
    service.wait_until("the renewed credentials to be told", || {
        let told = format!("with key id {}", second_credentials.id);
        service.log_lines().iter().any(|line| line.contains(&told))
    });
    assert_eq!(service.get("/readyz").status, 200);
    told_none_of(&service, &[SERVER_API_KEY, SECOND, &second_credentials.secret]);
    service.stop();
}

#[test]
fn of_the_sentry_dsn_is_where_the_next_reports_go() {
    let stage = Stage::new();
    let (first, second) = (SentryStub::start(), SentryStub::start());
    let path = write(stage.redis.directory(), "sentry-dsn", &first.dsn);
    let settings = stage
        .settings()
        .unset("DISABLE_SENTRY")
        .set("SENTRY_DSN_FILE", path.display().to_string())
        .set("LOG_LEVEL", "debug");
    let service = Service::start(&settings);
    service.wait_until("reports are on", || {
        service
            .log_lines()
            .iter()
            .any(|line| line.contains("errors of this service are reported to Sentry"))
    });

    write(stage.redis.directory(), "sentry-dsn", "https://n0-dsn");
    service.wait_for_complaint(&[
        "SENTRY_DSN_FILE has changed, but cannot be used",
        "the DSN before",
    ]);
    stage
        .queue
        .send(r#"{"type":"measurement.reported","customer":{}}"#);
    service.wait_until("a report", || first.reports().contains("cannot read a message"));

    write(stage.redis.directory(), "sentry-dsn", &second.dsn);
    service.wait_until("the new DSN to be taken up", || {
        service
            .log_lines()
            .iter()
            .any(|line| line.contains("errors are reported to the new DSN"))
    });
    let before = first.reports();
    stage
        .queue
        .send(r#"{"type":"entitlements.updated","customer":7}"#);
    service.wait_until("a report to the new one", || {
        second.reports().contains("cannot read a message")
    });
    assert_eq!(first.reports(), before);
    told_none_of(&service, &["publickey", "n0-dsn"]);
    service.stop();
}
