//! Secrets in files: a new one is taken up while the service runs, and neither is ever told.

use persistent_cache_service::clock;

use crate::support::aws::{Directory, apply_one, assert_hidden, without_keys};
use crate::support::edge::EdgeStub;
use crate::support::service::{SERVER_API_KEY, Service};
use crate::support::stage::Stage;

#[test]
fn of_the_secret_access_key_signs_the_next_calls() {
    const WRONG: &str = "not-yet-the-secret-of-this-key";
    let (stage, files) = (Stage::new(), Directory::new());
    let key = &stage.queue.moto.service_user;
    let path = files.write("secret-access-key", WRONG);
    let settings = stage
        .settings()
        .unset("AWS_SECRET_ACCESS_KEY")
        .set("AWS_SECRET_ACCESS_KEY_FILE", path)
        .set("CACHE_UPDATE_POLICY", "UPSERT")
        .set("LOG_LEVEL", "debug");
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

#[test]
fn of_the_server_api_key_is_used_for_the_next_credentials() {
    const SECOND: &str = "second-server-api-key-of-the-tests";
    let (stage, files) = (Stage::new(), Directory::new());
    let edge = EdgeStub::start();
    let in_seconds = |seconds: i64| clock::now().0 + seconds * 1000;
    let first_credentials = stage.queue.moto.temporary_credentials();
    edge.give_credentials(&first_credentials, in_seconds(15));
    let path = files.write("server-api-key", SERVER_API_KEY);
    let settings = without_keys(&stage)
        .unset("SERVER_API_KEY")
        .set("SERVER_API_KEY_FILE", path)
        .set("EDGE_API_URL", &edge.url)
        .set("LOG_LEVEL", "debug");
    let service = Service::start(&settings);

    edge.accept_key(SECOND);
    files.write("server-api-key", SECOND);
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
    assert_hidden(&service, &[SERVER_API_KEY, SECOND, &second_credentials.secret]);
    service.stop();
}
