//! Where the credentials of the queue come from. Each source of temporary credentials is asked as AWS and Stigg
//! document it, is renewed without a gap, and recovers from a refusal; no secret shows.

mod sources;

use std::net::TcpListener;
use std::time::Instant;

use persistent_cache_service::clock;

use crate::support::at_once::run_at_once;
use crate::support::aws::{
    Directory, apply_one, assert_hidden, receive_errors, wait_for_source, without_keys,
};
use crate::support::child::Signal;
use crate::support::edge::EdgeStub;
use crate::support::moto::AccessKey;
use crate::support::service::Service;
use crate::support::stage::Stage;
use crate::support::wait::PATIENCE;
use sources::{ROWS, Row, Source};

const EXPIRY: &str = "persistent_cache_credentials_expiry_timestamp_seconds";

/// A queue and a source of credentials for it.
struct Scene {
    stage: Stage,
    source: Source,
}

impl Scene {
    fn new(row: &Row) -> Self {
        Self { stage: Stage::new(), source: (row.source)() }
    }

    /// The source gives new credentials from now on, which expire in so many seconds.
    fn give(&self, seconds: i64) -> AccessKey {
        let key = self.stage.queue.moto.temporary_credentials();
        self.source.give(&key, clock::now().0 + seconds * 1000);
        key
    }

    fn assert_hidden(&self, service: &Service, keys: &[&AccessKey]) {
        let of_source = self.source.secrets();
        let mut secrets: Vec<&str> = of_source.iter().map(String::as_str).collect();
        for key in keys {
            secrets.extend([key.secret.as_str(), key.session_token.as_deref().expect("temporary ones")]);
        }
        assert_hidden(service, &secrets);
    }
}

fn assert_no_gap(service: &Service) {
    assert!(receive_errors(service).abs() < f64::EPSILON, "{}", service.log_lines().join("\n"));
}

/// What the source signs in with (a token in a file, a token of the metadata service, the server key) changes as well.
#[test]
fn temporary_ones_sign_the_calls_and_are_renewed_without_a_gap() {
    run_at_once(
        &ROWS,
        |row| row.name.to_owned(),
        |row| {
            let scene = Scene::new(row);
            let first = scene.give(15);
            let service = Service::start(&scene.source.settings(without_keys(&scene.stage)));
            wait_for_source(&service, &scene.source.name_in_log());
            apply_one(&scene.stage, &service, "customer-1");
            scene.source.assert_asked_as_documented(&scene.stage.queue.url);

            scene.source.rotate();
            let second = scene.give(6 * 3600);
            wait_for_source(&service, &format!("with key id {}", second.id));
            let in_an_hour = (clock::now().0 + 3_600_000) as f64 / 1000.0;
            service.wait_for_metric(EXPIRY, in_an_hour);
            scene.stage.queue.moto.revoke(&first);
            apply_one(&scene.stage, &service, "customer-2");
            assert_no_gap(&service);
            scene.source.assert_no_token_is_reused();
            scene.assert_hidden(&service, &[&first, &second]);
            service.stop();
        },
    );
}

#[test]
fn that_are_refused_leave_the_service_alive_and_it_recovers() {
    run_at_once(
        &ROWS,
        |row| row.name.to_owned(),
        |row| {
            let scene = Scene::new(row);
            let settings = scene.source.settings(without_keys(&scene.stage));
            scene.source.refuse();
            let service = Service::spawn(&settings);
            service.wait_for_complaint(row.complaint);
            assert_eq!(service.get("/livez").status, 200);
            assert_eq!(service.get("/readyz").status, 503);

            let key = scene.give(6 * 3600);
            scene.source.mend();
            service.wait_until_ready();
            apply_one(&scene.stage, &service, "customer-1");
            assert_eq!(scene.source.fetches(), 1, "one answer is enough for hours");
            scene.assert_hidden(&service, &[&key]);
            service.stop();
        },
    );
}

#[test]
fn that_cannot_be_renewed_work_to_the_last_second_and_then_the_service_recovers() {
    let scene = Scene::new(&sources::WEB_IDENTITY);
    let first = scene.give(16);
    let service = Service::start(&scene.source.settings(without_keys(&scene.stage)));
    scene.source.go_down();
    service.wait_for_complaint(&[
        "cannot renew the credentials of the queue: the current ones are used",
        "HTTP 503 ServiceUnavailable",
    ]);
    apply_one(&scene.stage, &service, "customer-1");
    assert_no_gap(&service);

    service.wait_for_complaint(&["cannot sign calls to queue", "HTTP 503 ServiceUnavailable"]);
    service.wait_for_complaint(&["there are no credentials for the queue", "credentials absence"]);
    assert_eq!(service.get("/livez").status, 200);
    let second = scene.give(3600);
    service.wait_until("calls after the outage", || {
        service.log_lines().iter().any(|line| line.contains("credentials are available again"))
    });
    apply_one(&scene.stage, &service, "customer-2");
    scene.assert_hidden(&service, &[&first, &second]);
    service.stop();
}

#[test]
fn of_an_instance_that_are_issued_expired_are_used_on() {
    let scene = Scene::new(&sources::INSTANCE);
    let key = scene.give(-60);
    let service = Service::start(&scene.source.settings(without_keys(&scene.stage)));
    service.wait_for_complaint(&["instance's", "returned expired credentials", "they are used", "clock"]);
    apply_one(&scene.stage, &service, "customer-1");
    assert_eq!(scene.source.fetches(), 1, "they are not asked for at each call");
    scene.assert_hidden(&service, &[&key]);
    service.stop();
}

/// Connections are taken by the system, and nobody ever answers on them.
fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    (listener, url)
}

#[test]
fn from_a_machine_without_the_metadata_service_are_a_complaint_within_seconds() {
    let stage = Stage::new();
    let (_silent, url) = silent();
    let began = Instant::now();
    let service = Service::spawn(
        &without_keys(&stage)
            .set("CREDENTIAL_SOURCE", "instance-metadata")
            .set("AWS_EC2_METADATA_SERVICE_ENDPOINT", &url),
    );
    service.wait_for_complaint(&[&url, "timed out", "hop limit of 2", "--http-put-response-hop-limit 2"]);
    assert!(began.elapsed().as_secs() < 15, "took {:?}", began.elapsed());
    service.stop();
}

#[test]
fn from_an_sts_that_says_nothing_do_not_delay_a_stop() {
    let scene = Scene::new(&sources::WEB_IDENTITY);
    let (silent, url) = silent();
    let settings = scene.source.settings(without_keys(&scene.stage));
    let service =
        Service::spawn(&settings.set("AWS_ENDPOINT_URL_STS", url).set("SHUTDOWN_TIMEOUT_SECS", "2"));
    assert_eq!(service.get("/readyz").status, 503);
    let _waiting = silent.accept().expect("the renewal asks");
    let began = Instant::now();
    service.signal(Signal::Terminate);
    let status = service.wait_for_exit(PATIENCE);
    assert!(status.success(), "{status}");
    assert!(began.elapsed().as_secs_f64() < 3.0, "{:?}", began.elapsed());
}

#[test]
fn come_from_the_edge_api_where_that_is_asked_for() {
    let scene = Scene::new(&sources::WEB_IDENTITY);
    let settings = scene.source.settings(without_keys(&scene.stage));
    let service = Service::spawn(&settings.set("CREDENTIAL_SOURCE", "edge"));
    wait_for_source(&service, "temporary credentials from the Edge API at http://127.0.0.1:9");
    service.wait_for_complaint(&["Edge API", "connection refused"]);
    assert_eq!(scene.source.calls(), 0);
    service.stop();
}

#[test]
fn of_the_edge_api_are_not_asked_for_where_there_are_keys_and_sentry_is_off() {
    let stage = Stage::new();
    let edge = EdgeStub::start();
    let service = Service::start(&stage.settings().set("EDGE_API_URL", &edge.url));
    service.stop();
    assert!(edge.calls().is_empty(), "{:?}", edge.calls());
}

#[test]
fn of_ones_own_work_though_sentrys_address_leads_nowhere() {
    let stage = Stage::new();
    let edge = EdgeStub::start();
    edge.give_sentry_dsn("http://key@127.0.0.1:9/1");
    let settings = stage
        .settings()
        .set("EDGE_API_URL", &edge.url)
        .set("DISABLE_SENTRY", "0")
        .set("CACHE_UPDATE_POLICY", "UPSERT");
    let service = Service::start(&settings);
    service.wait_until("the remote configuration to be asked for", || {
        edge.calls().iter().any(|call| call.url.starts_with("/v1/config/server-sdk-configuration.json"))
    });
    apply_one(&stage, &service, "customer-1");
    assert!(edge.calls().iter().all(|call| call.authorised));
    service.stop();
}

#[test]
fn of_a_secret_in_a_file_are_read_again_when_it_changes() {
    const WRONG: &str = "not-yet-the-secret-of-this-key";
    let (stage, files) = (Stage::new(), Directory::new());
    let key = &stage.queue.moto.service_user;
    let path = files.write("secret-access-key", WRONG);
    let settings =
        without_keys(&stage).set("AWS_ACCESS_KEY_ID", &key.id).set("AWS_SECRET_ACCESS_KEY_FILE", path);
    let service = Service::spawn(&settings);
    service.wait_for_complaint(&["SignatureDoesNotMatch", &key.id]);

    files.write("secret-access-key", &key.secret);
    service.wait_until_ready();
    apply_one(&stage, &service, "customer-1");

    // The other way round, so that it is the file that counts and not what worked once.
    files.write("secret-access-key", WRONG);
    service.wait_until("calls to be refused again", || service.get("/readyz").status == 503);
    assert_hidden(&service, &[WRONG, &key.secret]);
    service.stop();
}
