//! The ways into a Redis: password, ACL user, database, TLS, unix socket; and out of a fault while running.

use crate::support::messages::{Shape, entitlements_updated, package_published, purge};
use crate::support::moto::Moto;
use crate::support::redis::{RedisOptions, TestRedis};
use crate::support::sdk::Owner;
use crate::support::service::{Service, Settings};
use crate::support::stage::{PREFIX, Stage};
use crate::support::state::{State, boolean, hours_ago};
use crate::support::tls_front::TlsFront;

fn stage_with(options: RedisOptions) -> Stage {
    Stage { redis: TestRedis::start_with(options), queue: Moto::shared().queue() }
}

fn message(customer: &str) -> String {
    let state = State::new(Owner::customer(customer), hours_ago(0), &[boolean("feature-sso")]);
    entitlements_updated(&state, Shape::GraphqlV2).raw()
}

fn key_of(customer: &str) -> String {
    Owner::customer(customer).key(PREFIX)
}

/// Starts the service with these settings; a message reaches Redis.
fn works_with(stage: &Stage, settings: &Settings) -> Service {
    let service = Service::start(&settings.clone().set("CACHE_UPDATE_POLICY", "UPSERT"));
    stage.deliver(&service, &[message("customer-1")]);
    service
}

#[test]
fn a_password_lets_the_service_in() {
    let stage = stage_with(RedisOptions { password: Some("p@ss w:rd".into()), ..RedisOptions::default() });
    works_with(&stage, &stage.settings().set("REDIS_PASSWORD", "p@ss w:rd")).stop();
    assert!(stage.redis.get(&key_of("customer-1")).is_some());
}

#[test]
fn an_acl_user_lets_the_service_in() {
    let user = Some(("stigg".to_owned(), "of-the-user".to_owned()));
    let stage = stage_with(RedisOptions { user, ..RedisOptions::default() });
    let settings = stage.settings().set("REDIS_USERNAME", "stigg").set("REDIS_PASSWORD", "of-the-user");
    works_with(&stage, &settings).stop();
    assert!(stage.redis.get(&key_of("customer-1")).is_some());
}

#[test]
fn a_database_number_is_kept_to() {
    let stage = Stage::new();
    works_with(&stage, &stage.settings().set("REDIS_DB", "5")).stop();
    assert_eq!(stage.redis.keys(), Vec::<String>::new(), "database 0 is untouched");
    let keyspace: String = stage.redis.command(&["INFO", "keyspace"]);
    assert!(keyspace.contains("db5:keys="), "{keyspace}");
}

fn tls_settings(stage: &Stage) -> Settings {
    let port = stage.redis.tls_port.expect("a TLS port").to_string();
    let authority = stage.redis.authority_file().display().to_string();
    stage.settings().set("REDIS_PORT", port).set("REDIS_TLS", "1").set("REDIS_TLS_CA_FILE", authority)
}

#[test]
fn tls_is_spoken_to_a_server_whose_authority_is_trusted() {
    let stage = stage_with(RedisOptions { tls: true, ..RedisOptions::default() });
    let settings = tls_settings(&stage);
    works_with(&stage, &settings).stop();
    assert!(stage.redis.get(&key_of("customer-1")).is_some());
}

#[test]
fn a_new_connection_goes_on_with_the_tls_session_of_an_earlier_one() {
    let stage = Stage::new();
    let redis = format!("127.0.0.1:{}", stage.redis.port);
    let front = TlsFront::start_raw(stage.redis.directory(), &redis);
    let settings = stage
        .settings()
        .set("REDIS_PORT", front.port.to_string())
        .set("REDIS_TLS", "1")
        .set("REDIS_TLS_CA_FILE", front.authority.display().to_string());
    let service = works_with(&stage, &settings);
    let resumed = front.resumed();
    stage.redis.command::<()>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    stage.deliver(&service, &[message("customer-2")]);
    service.wait_until("a resumed session", || front.resumed() > resumed);
    service.stop();
}

#[test]
fn tls_is_refused_to_a_server_whose_authority_is_unknown_unless_told_otherwise() {
    let stage = stage_with(RedisOptions { tls: true, ..RedisOptions::default() });
    let tls_port = stage.redis.tls_port.expect("a TLS port").to_string();
    let settings = stage.settings().set("REDIS_PORT", &tls_port).set("REDIS_TLS", "1");
    let service = Service::spawn(&settings);
    service.wait_for_complaint(&[&format!("127.0.0.1:{tls_port}"), "certificate", "REDIS_TLS_CA_FILE"]);
    assert_eq!(service.get("/readyz").status, 503);
    service.stop();

    works_with(&stage, &settings.set("REDIS_TLS_INSECURE", "1")).stop();
    assert!(stage.redis.get(&key_of("customer-1")).is_some());
}

#[test]
fn a_client_certificate_is_shown_to_a_server_that_asks_for_one() {
    let stage =
        stage_with(RedisOptions { tls: true, asks_for_certificates: true, ..RedisOptions::default() });
    let (certificate, key) = stage.redis.certificate_files();
    let without = tls_settings(&stage);
    let service = Service::spawn(&without);
    service.wait_for_complaint(&["REDIS_TLS_CERT_FILE", "REDIS_TLS_KEY_FILE"]);
    service.stop();

    let with = without
        .set("REDIS_TLS_CERT_FILE", certificate.display().to_string())
        .set("REDIS_TLS_KEY_FILE", key.display().to_string());
    works_with(&stage, &with).stop();
    assert!(stage.redis.get(&key_of("customer-1")).is_some());
}

#[test]
fn the_servers_certificate_may_carry_another_name_than_the_host() {
    let stage = stage_with(RedisOptions { tls: true, ..RedisOptions::default() });
    let settings = tls_settings(&stage);
    works_with(&stage, &settings.clone().set("REDIS_TLS_SERVER_NAME", "redis.test")).stop();

    let service = Service::spawn(&settings.set("REDIS_TLS_SERVER_NAME", "another.test"));
    service.wait_for_complaint(&["certificate", "another.test", "REDIS_TLS_SERVER_NAME"]);
    service.stop();
}

#[test]
fn a_url_says_it_all_at_once() {
    let stage = stage_with(RedisOptions { password: Some("secret".into()), ..RedisOptions::default() });
    let bare = stage.settings().unset("REDIS_HOST").unset("REDIS_PORT");
    let url = format!("redis://:secret@127.0.0.1:{}/3", stage.redis.port);
    works_with(&stage, &bare.set("REDIS_URL", url)).stop();
    let keyspace: String = stage.redis.command(&["INFO", "keyspace"]);
    assert!(keyspace.contains("db3:keys="), "{keyspace}");
}

#[test]
fn a_unix_socket_will_do() {
    let stage = Stage::new();
    let bare = stage.settings().unset("REDIS_HOST").unset("REDIS_PORT");
    let url = format!("unix://{}", stage.redis.socket().display());
    works_with(&stage, &bare.set("REDIS_URL", url)).stop();
    assert!(stage.redis.get(&key_of("customer-1")).is_some());
}

#[test]
fn scripts_that_redis_has_forgotten_are_loaded_again() {
    let stage = Stage::new();
    let service = works_with(&stage, &stage.settings());
    stage.redis.command::<()>(&["SCRIPT", "FLUSH"]);
    stage.deliver(&service, &[message("customer-2")]);
    assert!(stage.redis.get(&key_of("customer-2")).is_some());
    stage.redis.restart();
    stage.deliver(&service, &[message("customer-3")]);
    assert!(stage.redis.get(&key_of("customer-3")).is_some());
    service.stop();
}

#[test]
fn a_redis_that_goes_away_costs_readiness_and_no_message() {
    let stage = Stage::new();
    let service = works_with(&stage, &stage.settings());
    stage.redis.stop();
    service.wait_until("/readyz to say 503", || {
        service.try_get("/readyz").is_some_and(|answer| answer.status == 503)
    });
    assert_eq!(service.get("/livez").status, 200);
    for number in 0..5 {
        stage.queue.send(&message(&format!("customer-{number}")));
    }
    stage.redis.run();
    service.wait_until_ready();
    // A message that met the outage comes again after the queue's visibility timeout, 30 s here.
    service.wait_until("every message to be applied", || {
        (0..5).all(|number| stage.redis.get(&key_of(&format!("customer-{number}"))).is_some())
    });
    service.wait_until("an empty queue", || stage.queue.is_empty());
    service.stop();
}

/// What src/config/README.md says the service's user needs.
pub const COMMANDS: &str = "+evalsha +eval +mget +get +set +exists +del +scan +unlink +ping +info +select";

fn set_user(redis: &TestRedis, rules: &str) {
    let fixed = ["ACL", "SETUSER", "stigg", "reset", "on", ">of-the-user", "~production:*", "~production-*"];
    let words: Vec<&str> = fixed.into_iter().chain(rules.split(' ')).collect();
    redis.command::<()>(&words);
}

fn settings_of_user(stage: &Stage) -> Settings {
    stage
        .settings()
        .set("REDIS_USERNAME", "stigg")
        .set("REDIS_PASSWORD", "of-the-user")
        .set("CACHE_UPDATE_POLICY", "UPSERT")
}

#[test]
fn the_permissions_named_in_the_documentation_are_enough_for_every_kind_of_change() {
    let page = include_str!("../../src/config/README.md");
    for command in COMMANDS.split(' ') {
        let name = command.trim_start_matches('+').to_uppercase();
        assert!(page.contains(&format!("`{name}`")), "the page names {name}");
    }
    let stage = Stage::new();
    set_user(&stage.redis, COMMANDS);
    let service = Service::start(&settings_of_user(&stage).set("REDIS_DB", "3"));
    let customer = Owner::customer("customer-1");
    let messages = [
        message("customer-1"),
        purge(customer, hours_ago(1)).raw(),
        package_published("ALL_CUSTOMERS").raw(),
    ];
    for message in messages {
        stage.deliver(&service, &[message]);
    }
    assert!(service.metrics().value("persistent_cache_write_errors_total") < 1.0);
    service.stop();
}

#[test]
fn a_missing_permission_pauses_everything_and_recovers_when_it_is_granted() {
    let stage = Stage::new();
    set_user(&stage.redis, &COMMANDS.replace(" +set", ""));
    let service = Service::start(&settings_of_user(&stage));
    stage.queue.send_all(&[message("customer-1")]);
    service.wait_for_complaint(&["'stigg' lacks a permission", "ACL"]);
    service.wait_until("/readyz is 503", || service.get("/readyz").status == 503);
    set_user(&stage.redis, COMMANDS);
    service.wait_until("the message is applied", || stage.redis.get(&key_of("customer-1")).is_some());
    service.wait_until_ready();
    service.stop();
}

#[test]
fn a_connection_that_was_closed_while_idle_is_no_outage() {
    let stage = Stage::new();
    let service = works_with(&stage, &stage.settings());
    stage.redis.command::<()>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    stage.deliver(&service, &[message("customer-2")]);
    assert!(stage.redis.get(&key_of("customer-2")).is_some());
    assert!(service.metrics().value("persistent_cache_write_errors_total") < 1.0);
    let lines = service.log_lines();
    assert!(!lines.iter().any(|line| line.contains("cannot be used")), "{lines:#?}");
    service.stop();
}

#[test]
fn a_replica_is_reported_before_a_message_meets_it() {
    let stage = Stage::new();
    stage.redis.command::<()>(&["REPLICAOF", "127.0.0.1", "9"]);
    let service = Service::spawn(&stage.settings());
    service.wait_for_complaint(&["read-only replica", "primary"]);
    assert_eq!(service.get("/readyz").status, 503);
    stage.redis.command::<()>(&["REPLICAOF", "NO", "ONE"]);
    service.wait_until_ready();
    service.stop();
}

#[test]
fn a_rotated_password_is_taken_up_from_its_file() {
    let stage = Stage::new();
    set_user(&stage.redis, COMMANDS);
    let file = stage.redis.directory().join("redis-password");
    let rotate_file = |password: &str| std::fs::write(&file, format!("{password}\n")).expect("a file");
    let rotate_redis = |password: &str| {
        let password = format!(">{password}");
        stage.redis.command::<()>(&["ACL", "SETUSER", "stigg", "resetpass", &password]);
        stage.redis.command::<()>(&["CLIENT", "KILL", "USER", "stigg"]);
    };
    rotate_file("of-the-user");
    let settings = settings_of_user(&stage)
        .unset("REDIS_PASSWORD")
        .set("REDIS_PASSWORD_FILE", file.display().to_string());
    let service = works_with(&stage, &settings);

    // The file first: nobody notices anything.
    rotate_file("the-second");
    rotate_redis("the-second");
    stage.deliver(&service, &[message("customer-2")]);
    assert!(stage.redis.get(&key_of("customer-2")).is_some());
    let complaints: Vec<String> =
        service.log_lines().into_iter().filter(|line| line.contains("cannot be used")).collect();
    assert_eq!(complaints, [""; 0]);

    // Redis first: it is reported, without a password, and recovers when the file follows.
    rotate_redis("the-third");
    let complaint = service.wait_for_complaint(&["'stigg'", "WRONGPASS", "REDIS_PASSWORD"]);
    assert!(!complaint.contains("the-second"), "{complaint}");
    stage.queue.send_all(&[message("customer-3")]);
    rotate_file("the-third");
    service.wait_until_ready();
    service.wait_until("the message is applied", || stage.redis.get(&key_of("customer-3")).is_some());
    let log = service.log_lines().join("\n");
    for password in ["of-the-user", "the-second", "the-third"] {
        assert!(!log.contains(password), "{log}");
    }
    service.stop();
}

#[test]
fn a_server_that_takes_no_more_clients_is_not_taken_for_a_wrong_password_and_recovers() {
    let stage = stage_with(RedisOptions { password: Some("secret".into()), ..RedisOptions::default() });
    // This one stays; no other has room beside it.
    let mut only = stage.redis.connection();
    let mut room_for = |clients: &str| {
        redis::cmd("CONFIG").arg(&["SET", "maxclients", clients]).exec(&mut only).expect("redis answers");
    };
    room_for("1");
    let service = Service::spawn(
        &stage.settings().set("REDIS_PASSWORD", "secret").set("CACHE_UPDATE_POLICY", "UPSERT"),
    );
    let complaint = service.wait_for_complaint(&["maxclients", "CLIENT LIST"]);
    assert!(!complaint.contains("WRONGPASS"), "{complaint}");
    room_for("100");
    service.wait_until_ready();
    stage.deliver(&service, &[message("customer-1")]);
    assert!(stage.redis.get(&key_of("customer-1")).is_some());
    service.stop();
}

#[test]
fn a_forbidden_scan_delays_no_other_message() {
    let stage = Stage::new();
    set_user(&stage.redis, &COMMANDS.replace(" +scan", ""));
    let service = Service::start(&settings_of_user(&stage));
    stage.queue.send_all(&[package_published("ALL_CUSTOMERS").raw()]);
    service.wait_for_complaint(&["'stigg' lacks a permission", "ACL"]);
    stage.queue.send_all(&[message("customer-1")]);
    service.wait_until("the other message is applied", || stage.redis.get(&key_of("customer-1")).is_some());
    assert_eq!(service.get("/readyz").status, 200);
    service.stop();
}
