//! `check` reports for everything that the service needs whether it is there, and leaves no trace.

use serde_json::{Value, json};

use crate::support::command::{Ended, run};
use crate::support::edge::EdgeStub;
use crate::support::moto::{AccessKey, Counts, Queue};
use crate::support::redis::{RedisOptions, TestRedis};
use crate::support::service::Settings;
use crate::support::stage::Stage;

/// A stage on which all is well, for a user who may ask for attributes too.
struct Scene {
    stage: Stage,
    edge: EdgeStub,
    settings: Settings,
}

impl Scene {
    fn new() -> Self {
        let stage = Stage::new();
        let edge = EdgeStub::start();
        edge.give_sentry_dsn("");
        let moto = stage.queue.moto;
        let settings = stage
            .settings()
            .access_key(&moto.user(&["sqs:*", "sts:*"]))
            .set("AWS_ENDPOINT_URL_STS", &moto.endpoint)
            .set("EDGE_API_URL", &edge.url);
        Self { stage, edge, settings }
    }
}

fn check(settings: &Settings, flags: &[&str]) -> Ended {
    let arguments: Vec<&str> = ["check"].iter().chain(flags).copied().collect();
    run(settings, &arguments)
}

/// Status and text of each line of an area.
fn of_area(report: &Value, area: &str) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let checks = report["checks"].as_array().expect("a list").iter();
    checks
        .filter(|check| check["area"] == area)
        .map(|check| (text(&check["status"]), text(&check["text"])))
        .collect()
}

fn statuses(report: &Value, area: &str) -> Vec<String> {
    of_area(report, area).into_iter().map(|(status, _)| status).collect()
}

#[test]
fn where_all_is_well_each_line_says_so_and_nothing_is_changed() {
    let scene = Scene::new();
    let queue = &scene.stage.queue;
    queue.send("a message that stays");
    scene.stage.redis.command::<String>(&["SET", "production:c_one", "{}"]);
    let before = scene.stage.redis.snapshot();

    let ended = check(&scene.settings, &[]);
    println!("{}", ended.stdout);
    assert_eq!(ended.status, 0, "{ended:?}");
    assert!(ended.stdout.lines().all(|line| line.starts_with("ok  ")), "{ended:?}");
    for part in [
        "static credentials with key id AKIA",
        "the caller is arn:aws:iam::123456789012:user/",
        "messages waiting: about 1, in flight: about 0",
        "allows this service to delete messages",
        "one was received, and stays visible to others (its receive count is now 1)",
        "Redis 7.",
        "role primary",
        "a key below the prefix was written, read and deleted",
        "customers of environment 'production' are cached",
        "accepts SERVER_API_KEY",
        "within 10 s of the queue",
    ] {
        assert!(ended.stdout.contains(part), "{part} in\n{}", ended.stdout);
    }
    assert!(!ended.stdout.contains('\u{1b}'), "no colour in a pipe");
    assert_eq!(scene.stage.redis.snapshot(), before);
    let counts = Counts { visible: 1, in_flight: 0 };
    assert_eq!(queue.counts(), counts, "nothing is hidden or gone");

    let json = check(&scene.settings, &["--json"]);
    assert_eq!((json.status, &json.json()["status"]), (0, &json!("ok")), "{json:?}");
}

#[test]
fn a_message_that_a_close_dead_letter_rule_counts_is_not_received_unless_it_is_asked_for() {
    let scene = Scene::new();
    let moto = scene.stage.queue.moto;
    let dead: Queue = moto.queue();
    let rule = json!({"deadLetterTargetArn": dead.arn(), "maxReceiveCount": 1}).to_string();
    let queue = moto.queue_with(&json!({"RedrivePolicy": rule, "VisibilityTimeout": "0"}));
    queue.send("one try only");
    let settings = scene.settings.set("QUEUE_URL", &queue.url);
    for _ in 0..3 {
        let ended = check(&settings, &["--json"]);
        assert_eq!(ended.status, 3, "{ended:?}");
        let findings = of_area(&ended.json(), "queue");
        assert!(
            findings.iter().any(|(status, text)| status == "warning"
                && text.contains("moves it away after 1")
                && text.contains("--receive")),
            "{findings:?}"
        );
    }
    let one = Counts { visible: 1, in_flight: 0 };
    assert_eq!(queue.counts(), one);
    let forced = check(&settings, &["--receive"]);
    assert_eq!(forced.status, 0, "{forced:?}");
    assert!(forced.stdout.contains("its receive count is now 1"), "{forced:?}");
}

#[test]
fn what_may_not_be_asked_is_a_warning_where_the_service_does_without() {
    let scene = Scene::new();
    let moto = scene.stage.queue.moto;
    let settings =
        scene.settings.access_key(&moto.service_user).set("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:9");
    let ended = check(&settings, &["--json"]);
    assert_eq!(ended.status, 3, "{ended:?}");
    let report = ended.json();
    assert_eq!(statuses(&report, "credentials"), ["ok", "warning"], "{report:#}");
    assert_eq!(statuses(&report, "queue"), ["warning", "ok", "warning"], "{report:#}");
    let received = check(&settings, &["--json", "--receive"]).json();
    assert_eq!(statuses(&received, "queue"), ["warning", "ok", "ok"], "{received:#}");
}

#[test]
fn each_area_that_fails_has_an_exit_status_of_its_own_and_a_remedy() {
    let scene = Scene::new();
    let key = AccessKey { secret: "not-the-secret".into(), ..scene.stage.queue.moto.service_user.clone() };
    let ended = check(&scene.settings.clone().access_key(&key), &[]);
    assert_eq!(ended.status, 11, "{ended:?}");
    assert!(
        ended.stdout.contains("SignatureDoesNotMatch") && !ended.stdout.contains("not-the-secret"),
        "{ended:?}"
    );

    let locked =
        TestRedis::start_with(RedisOptions { password: Some("right".into()), ..RedisOptions::default() });
    let settings = scene.settings.clone().set("REDIS_PORT", locked.port.to_string());
    let ended = check(&settings.set("REDIS_PASSWORD", "wrong-one"), &[]);
    assert_eq!(ended.status, 12, "{ended:?}");
    assert!(
        ended.stdout.contains("check REDIS_USERNAME and REDIS_PASSWORD")
            && !ended.stdout.contains("wrong-one"),
        "{ended:?}"
    );

    scene.edge.accept_key("another");
    let of_edge = scene.settings.clone().unset("AWS_ACCESS_KEY_ID").unset("AWS_SECRET_ACCESS_KEY");
    let ended = check(&of_edge, &["--json"]);
    assert_eq!(ended.status, 1, "credentials and Edge API fail together: {ended:?}");
    let report = ended.json();
    assert_eq!(statuses(&report, "credentials"), ["failure"]);
    assert_eq!(statuses(&report, "edge"), ["failure"]);
    assert_eq!(
        statuses(&report, "redis").first().map(String::as_str),
        Some("ok"),
        "the rest is checked all the same"
    );
    // With credentials of one's own the queue is read without it.
    assert_eq!(check(&scene.settings, &[]).status, 3);
}

#[test]
fn a_user_who_may_write_keys_but_not_as_the_service_does_is_a_failure() {
    let scene = Scene::new();
    let redis = &scene.stage.redis;
    let keys = "~production:* ~production-*";
    let scriptless =
        format!("{keys} +get +set +del +scan +ping +info +role +time +select +mget +exists +unlink +mset");
    for (user, rights, missing) in
        [("scriptless", scriptless.as_str(), "evalsha"), ("keyless", "~production:* +@all", "key")]
    {
        let rights: Vec<&str> = rights.split(' ').collect();
        let command = [&["ACL", "SETUSER", user, "on", ">secret"], rights.as_slice()].concat();
        redis.command::<String>(&command);
        let settings = scene.settings.clone();
        let settings = settings.set("REDIS_USERNAME", user).set("REDIS_PASSWORD", "secret");
        let ended = check(&settings, &["--json"]);
        assert_eq!(ended.status, 12, "{user}: {ended:?}");
        let findings = of_area(&ended.json(), "redis");
        let failures: Vec<&String> =
            findings.iter().filter(|(status, _)| status == "failure").map(|(_, text)| text).collect();
        assert!(
            failures.len() == 1 && failures[0].contains(missing) && failures[0].contains(user),
            "{findings:?}"
        );
    }
    assert!(redis.contents().is_empty(), "nothing is left behind");
}

#[test]
fn a_replica_and_a_prefix_that_nobody_uses_are_reported() {
    let scene = Scene::new();
    let port = scene.stage.redis.port.to_string();
    scene.stage.redis.command::<String>(&["SET", "staging:c_one", "{}"]);
    let report = check(&scene.settings, &["--json"]).json();
    let findings = of_area(&report, "redis");
    assert!(
        findings.iter().any(|(status, text)| status == "warning" && text.contains("'staging'")),
        "{findings:?}"
    );

    let replica = TestRedis::start();
    replica.command::<String>(&["REPLICAOF", "127.0.0.1", &port]);
    let ended = check(&scene.settings.set("REDIS_PORT", replica.port.to_string()), &[]);
    assert_eq!(ended.status, 12, "{ended:?}");
    assert!(ended.stdout.contains("is a replica"), "{ended:?}");
}

#[test]
fn faults_of_the_configuration_are_lines_too() {
    let ended = check(&Settings::default().set("PORT", "many"), &["--json"]);
    assert_eq!(ended.status, 78, "{ended:?}");
    let findings = of_area(&ended.json(), "configuration");
    for name in ["PORT", "QUEUE_URL", "REDIS_HOST", "SERVER_API_KEY"] {
        assert!(
            findings.iter().any(|(status, text)| status == "failure" && text.starts_with(name)),
            "{name}: {findings:?}"
        );
    }
}
