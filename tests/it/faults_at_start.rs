//! Faults that are there when the service starts: each is explained in one log line with its remedy,
//! the process stays up, says that it is alive and not ready, and recovers without a restart.

use serde_json::{Value, json};

use crate::support::messages::{Shape, entitlements_updated};
use crate::support::moto::Moto;
use crate::support::redis::{RedisOptions, TestRedis};
use crate::support::sdk::Owner;
use crate::support::service::{Service, Settings};
use crate::support::stage::{PREFIX, Stage};
use crate::support::state::{State, every_kind, hours_ago};

/// Alive, not ready, and it has said why.
fn is_alive_and_not_ready(service: &Service) -> Value {
    let live = service.get("/livez");
    assert_eq!((live.status, live.body.as_str()), (200, r#"{"status":"UP"}"#));
    let ready = service.get("/readyz");
    assert_eq!(ready.status, 503, "{}", ready.body);
    let body: Value = serde_json::from_str(&ready.body).expect("JSON");
    assert_eq!(body["status"], "DOWN", "{body}");
    assert_eq!(service.exit_status(), None);
    body
}

/// It works again: ready, and a message reaches Redis.
fn recovers(service: &Service, stage: &Stage) {
    service.wait_until_ready();
    let state = State::new(Owner::customer("customer-1"), hours_ago(1), &every_kind(0));
    stage.queue.send(&entitlements_updated(&state, Shape::GraphqlV2).raw());
    service.wait_until("the message to be applied", || {
        stage.redis.get(&format!("{}#timestamp", state.owner().key(PREFIX))).is_some()
    });
    service.wait_until("an empty queue", || stage.queue.is_empty());
}

fn upserting(stage: &Stage) -> Settings {
    stage.settings().set("CACHE_UPDATE_POLICY", "UPSERT")
}

#[test]
fn a_wrong_aws_secret_names_the_key_id_and_the_region_and_recovers_when_the_file_is_mended() {
    let stage = Stage::new();
    let user = &stage.queue.moto.service_user;
    let file = stage.redis.directory().join("aws-secret");
    std::fs::write(&file, "a-secret-that-is-wrong\n").expect("a file");
    let settings = upserting(&stage)
        .unset("AWS_SECRET_ACCESS_KEY")
        .set("AWS_SECRET_ACCESS_KEY_FILE", file.display().to_string());
    let service = Service::spawn(&settings);

    let complaint = service.wait_for_complaint(&[
        "HTTP 403 SignatureDoesNotMatch",
        "clock",
        &user.id,
        "us-east-2",
        "AWS_SECRET_ACCESS_KEY",
    ]);
    assert!(!complaint.contains("a-secret-that-is-wrong"), "{complaint}");
    let readiness = is_alive_and_not_ready(&service);
    assert_eq!(readiness["consumers"], 0, "{readiness}");

    std::fs::write(&file, format!("{}\n", user.secret)).expect("a file");
    recovers(&service, &stage);
    service.stop();
}

#[test]
fn a_wrong_region_names_the_region_and_the_queue_and_recovers_when_the_queue_is_there() {
    let mut stage = Stage::new();
    let settings = upserting(&stage).set("AWS_REGION", "eu-north-1");
    let service = Service::spawn(&settings);
    service.wait_for_complaint(&["eu-north-1", &stage.queue.name, "QUEUE_URL", "AWS_REGION"]);
    is_alive_and_not_ready(&service);

    stage.queue.region = "eu-north-1".to_owned();
    stage.queue.create(&json!({}));
    recovers(&service, &stage);
    service.stop();
}

#[test]
fn an_absent_queue_is_named_and_recovers_when_it_is_created() {
    let stage = Stage { redis: TestRedis::start(), queue: Moto::shared().absent_queue() };
    let service = Service::spawn(&upserting(&stage));
    service.wait_for_complaint(&[&stage.queue.name, "QUEUE_URL"]);
    is_alive_and_not_ready(&service);

    stage.queue.create(&json!({}));
    recovers(&service, &stage);
    service.stop();
}

#[test]
fn a_queue_that_nobody_listens_for_is_named_with_its_address() {
    let stage = Stage::new();
    let settings = upserting(&stage).set("AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:9");
    let service = Service::spawn(&settings);
    service.wait_for_complaint(&["127.0.0.1:9"]);
    is_alive_and_not_ready(&service);
    service.stop();
}

#[test]
fn a_redis_that_is_down_is_named_with_its_address_and_recovers_when_it_comes_up() {
    let stage = Stage { redis: TestRedis::prepare(RedisOptions::default()), queue: Moto::shared().queue() };
    let service = Service::spawn(&upserting(&stage));
    let address = format!("127.0.0.1:{}", stage.redis.port);
    service.wait_for_complaint(&[&address, "REDIS_HOST"]);
    let readiness = is_alive_and_not_ready(&service);
    assert_eq!(readiness["redis"], "DISCONNECTED", "{readiness}");

    stage.redis.run();
    recovers(&service, &stage);
    service.stop();
}

/// A stage whose Redis asks for `the-right-one`.
fn stage_with_a_password() -> Stage {
    let options = RedisOptions { password: Some("the-right-one".into()), ..RedisOptions::default() };
    Stage { redis: TestRedis::start_with(options), queue: Moto::shared().queue() }
}

#[test]
fn a_wrong_redis_password_is_reported_without_the_password_and_recovers_when_it_becomes_right() {
    let stage = stage_with_a_password();
    let file = stage.redis.directory().join("redis-password");
    std::fs::write(&file, "the-wrong-one").expect("a file");
    let settings = upserting(&stage).set("REDIS_PASSWORD_FILE", file.display().to_string());
    let service = Service::spawn(&settings);
    let address = format!("127.0.0.1:{}", stage.redis.port);
    let complaint = service.wait_for_complaint(&[&address, "WRONGPASS", "REDIS_USERNAME", "REDIS_PASSWORD"]);
    assert!(!complaint.contains("the-wrong-one"), "{complaint}");
    let readiness = is_alive_and_not_ready(&service);
    assert_eq!(readiness["redis"], "DISCONNECTED", "{readiness}");

    std::fs::write(&file, "the-right-one").expect("a file");
    recovers(&service, &stage);
    service.stop();
}

#[test]
fn a_missing_redis_password_is_reported() {
    let stage = stage_with_a_password();
    let service = Service::spawn(&upserting(&stage));
    service.wait_for_complaint(&[&format!("127.0.0.1:{}", stage.redis.port), "REDIS_PASSWORD"]);
    is_alive_and_not_ready(&service);
    service.stop();
}
