//! A password that a server does not ask for is no reason not to work: the readers' client warns and goes on.

use crate::fakes::queue::QueueOptions;
use crate::fakes::refusing_redis::{How, Refusal, RefusingRedis};
use crate::support::fake_stage::FakeStage;
use crate::support::messages::{Shape, entitlements_updated};
use crate::support::sdk::Owner;
use crate::support::sentinel::{MASTER, TestSentinel};
use crate::support::service::{Service, Settings};
use crate::support::stage::PREFIX;
use crate::support::state::{State, boolean, hours_ago};

const SECRET: &str = "password-that-nobody-asked-for";

/// Works, over several connections too; gives the warnings and errors of the log.
fn complaints_of_a_working_service(stage: &FakeStage, settings: &Settings) -> Vec<String> {
    let service = Service::spawn(settings);
    service.wait_until_ready();
    for round in 0..5 {
        let customer = format!("customer-{round}");
        let state = State::new(Owner::customer(&customer), hours_ago(1), &[boolean("feature-sso")]);
        stage.queue.send(entitlements_updated(&state, Shape::GraphqlV2).raw());
        service.wait_until("an empty queue", || stage.queue.is_empty());
        assert!(stage.redis.get(&state.owner().key(PREFIX)).is_some());
        // Connections that are opened later sign in as well.
        stage.redis.command::<i64>(&["CLIENT", "KILL", "TYPE", "normal"]);
    }
    service.wait_until_ready();
    let log = service.log();
    let complaints = log.iter().filter(|line| line["level"] != "info");
    let complaints: Vec<String> = complaints.map(ToString::to_string).collect();
    let text = service.log_lines().join("\n") + &service.stderr().join("\n");
    assert!(!text.contains(SECRET), "{text}");
    service.stop();
    complaints
}

fn works_with_one_warning(stage: &FakeStage, settings: &Settings, names: &str) {
    let complaints = complaints_of_a_working_service(stage, settings);
    let of_it: Vec<&String> = complaints.iter().filter(|line| line.contains(names)).collect();
    assert_eq!(of_it.len(), 1, "one warning that names {names}: {complaints:#?}");
    assert!(of_it[0].contains("\"warn\""), "{of_it:?}");
}

fn stage() -> FakeStage {
    FakeStage::new(QueueOptions::default())
}

#[test]
fn of_redis_cost_one_warning() {
    let stage = stage();
    works_with_one_warning(&stage, &stage.settings().set("REDIS_PASSWORD", SECRET), "REDIS_PASSWORD");
}

#[test]
fn in_a_url_cost_one_warning() {
    let stage = stage();
    let settings = stage
        .settings()
        .unset("REDIS_HOST")
        .unset("REDIS_PORT")
        .set("REDIS_URL", format!("redis://:{SECRET}@127.0.0.1:{}/0", stage.redis.port));
    works_with_one_warning(&stage, &settings, "password");
}

#[test]
fn of_the_default_user_are_taken_as_they_are() {
    // Redis itself takes any password for a user without one.
    let stage = stage();
    let settings = stage.settings().set("REDIS_USERNAME", "default").set("REDIS_PASSWORD", SECRET);
    let complaints = complaints_of_a_working_service(&stage, &settings);
    let of_it = complaints.iter().filter(|line| line.contains("REDIS_PASSWORD"));
    assert!(of_it.count() <= 1, "{complaints:#?}");
}

#[test]
fn of_older_servers_are_reported_in_other_words() {
    for (text, username) in [
        ("ERR Client sent AUTH, but no password is set", None),
        ("ERR wrong number of arguments for 'auth' command", Some("stigg")),
    ] {
        let stage = stage();
        let proxy = RefusingRedis::start(stage.redis_address());
        proxy.refuse(&[Refusal::of(&["AUTH"], How::Error(text))]);
        let mut settings =
            stage.settings().set("REDIS_PORT", proxy.port().to_string()).set("REDIS_PASSWORD", SECRET);
        if let Some(username) = username {
            settings = settings.set("REDIS_USERNAME", username);
        }
        works_with_one_warning(&stage, &settings, "REDIS_PASSWORD");
    }
}

#[test]
fn of_sentinels_cost_one_warning() {
    let stage = stage();
    let sentinel = TestSentinel::open_to_all(&stage.redis);
    let settings = stage
        .settings()
        .unset("REDIS_HOST")
        .unset("REDIS_PORT")
        .set("REDIS_SENTINELS", format!("127.0.0.1:{}", sentinel.port))
        .set("REDIS_SENTINEL_MASTER", MASTER)
        .set("REDIS_SENTINEL_PASSWORD", SECRET);
    works_with_one_warning(&stage, &settings, "REDIS_SENTINEL_PASSWORD");
}
