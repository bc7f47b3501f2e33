//! What the status page shows of the settings.

use super::*;

/// What is shown of a setting that has a value.
#[derive(Debug, PartialEq, Eq)]
enum Shown {
    NotSet,
    Secret,
    Text(String),
}

fn shown(flags: &[&str], environment: &[(&str, &str)], name: &str) -> (Shown, bool) {
    let settings = settings(flags, environment);
    let found = settings.shown().into_iter().find(|setting| setting.name == name).unwrap();
    let value = match (found.is_set, found.value) {
        (true, Some(text)) => Shown::Text(text),
        (true, None) => Shown::Secret,
        (false, None) => Shown::NotSet,
        (false, Some(text)) => panic!("{name} is not set and shows {text}"),
    };
    (value, found.is_given)
}

fn text(text: &str) -> Shown {
    Shown::Text(text.to_owned())
}

#[test]
fn a_value_is_shown_with_whether_it_was_given() {
    assert_eq!(shown(&["--batch-size", "7"], &[], "BATCH_SIZE"), (text("7"), true));
    assert_eq!(shown(&[], &[], "BATCH_SIZE"), (text("1"), false));
    assert_eq!(shown(&[], &[], "REDIS_HOST"), (Shown::NotSet, false));
}

#[test]
fn of_a_secret_it_is_shown_whether_it_is_set() {
    let secrets = [
        "SERVER_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "REDIS_PASSWORD",
        "REDIS_SENTINEL_PASSWORD",
        "SENTRY_DSN",
    ];
    for name in secrets {
        assert_eq!(shown(&[], &[(name, "/s3cret")], name), (Shown::Secret, true), "{name}");
        assert_eq!(shown(&[], &[], name), (Shown::NotSet, false), "{name}");
    }
}

#[test]
fn of_an_address_neither_user_nor_password_nor_query_is_shown() {
    for (name, value, expected) in [
        ("REDIS_URL", "rediss://u:p4ss@h:1/2?x=s3cret#y", text("rediss://h:1/2")),
        ("REDIS_URL", "redis://:p4ss@h", text("redis://h")),
        ("REDIS_URL", "unix:///run/redis.sock?pass=s3cret", text("unix:///run/redis.sock")),
        ("REDIS_URL", "unix:/run/redis.sock?pass=s3cret", text("unix:/run/redis.sock")),
        ("HTTPS_PROXY", "http://u:p4ss@proxy:3128", text("http://proxy:3128/")),
        ("HTTPS_PROXY", "u:p4ss@proxy:3128", Shown::Secret),
        ("REDIS_SENTINELS", "h:1,u:p4ss@h:2", Shown::Secret),
        ("QUEUE_URL", "://not an address", Shown::Secret),
    ] {
        assert_eq!(shown(&[], &[(name, value)], name), (expected, true), "{value}");
    }
}

#[test]
fn no_value_of_any_setting_brings_a_password_to_light() {
    let every: Vec<&str> = settings(&[], &[]).shown().iter().map(|setting| setting.name).collect();
    assert!(every.len() > 50, "{every:?}");
    for name in every {
        let (value, _) = shown(&[], &[(name, "redis://u:p4ss@h/?k=p4ss")], name);
        assert!(!format!("{value:?}").contains("p4ss"), "{name}: {value:?}");
    }
}

#[test]
fn older_names_are_shown_where_they_are_given() {
    let names = |environment: &[(&str, &str)]| -> Vec<&str> {
        settings(&[], environment).shown().iter().map(|setting| setting.name).collect()
    };
    let older = "REDIS_USER";
    assert!(names(&[("REDIS_USER", "x")]).contains(&older) && !names(&[]).contains(&older));
}
