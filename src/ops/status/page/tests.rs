//! The page as text: what a person reads, and that nothing from outside is more than read.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::super::report::{Credentials, Messages, Pollers, Queue, Rates, Redis};
use super::*;
use crate::entitlement::EpochMs;

const NOW: i64 = 1_793_491_200_000;

fn ago(secs: i64) -> Moment {
    Moment(EpochMs(NOW - secs * 1_000))
}

fn report() -> Report {
    Report {
        service: "the-service",
        version: "1.2.3",
        commit: "abc1234",
        now: ago(0),
        started_at: ago(7_200),
        uptime_secs: 7_200,
        state: State::Ready,
        reasons: Vec::new(),
        state_since: ago(7_190),
        messages: Messages {
            received: 12_345,
            processed: 12_340,
            failed_tries: 3,
            malformed: 2,
            writes_skipped: 17,
            in_flight: 5,
        },
        rates: vec![Rates {
            window_secs: 60,
            measured_secs: 62.4,
            received_per_sec: 41.5,
            processed_per_sec: 41.25,
            errors_per_min: 0.0,
            age: Some(Typical {
                mean_secs: 0.25,
                p95_at_most_secs: Some(1.0),
            }),
            handling: None,
        }],
        queue: Queue {
            url: "https://sqs.us-east-1.amazonaws.com/1/changes".to_owned(),
            region: "us-east-1".to_owned(),
            last_poll_at: Some(ago(2)),
            pollers: Pollers {
                alive: 9,
                failing: 1,
                silent: 0,
                total: 10,
            },
            errors: BTreeMap::from([("receive", 0), ("change_visibility", 4)]),
        },
        redis: Redis {
            at: "redis.internal:6379".to_owned(),
            connected: true,
            last_write_at: None,
            write_errors: 0,
            hit_ratio_percent: 97.5,
            used_memory_bytes: 1_048_576.0,
        },
        credentials: Credentials {
            source: "web-identity",
            expire_at: Some(ago(-1_800)),
        },
        errors: Vec::new(),
        settings: Vec::new(),
        history: Vec::new(),
    }
}

fn setting(name: &str, value: Option<&str>, is_set: bool, is_given: bool) -> Setting {
    Setting {
        name: name.to_owned(),
        group: "Queue".to_owned(),
        is_secret: is_set && value.is_none(),
        is_set,
        is_given,
        value: value.map(str::to_owned),
    }
}

/// What is left without tags, style and script; a space for each tag.
fn text(html: &str) -> String {
    let (_, body) = html.split_once("<body>").unwrap();
    let (body, _) = body.split_once("<script>").unwrap();
    let mut text = String::new();
    for part in body.split('<') {
        text.push_str(part.split_once('>').map_or(part, |(_, text)| text));
        text.push(' ');
    }
    let text = text.replace("_ ", "_");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn a_person_reads_state_rates_queue_redis_and_credentials() {
    let text = text(&render(&report()));
    for part in [
        "the-service Version 1.2.3, commit abc1234",
        "State Ready Since 1 h 59 min ago Started 2 h ago As of 2026-11-01T00:00:00.000Z",
        "Messages processed – 15 min ago highest – now",
        "failed writes. 1 min 2 s Received 41.5/s Processed 41.2/s Errors 0/min Age when written, mean 250 ms",
        "Age when written, 95 of 100 at most 1 s Handling, mean –",
        "Since the start Received 12 345 Processed 12 340 In hand now 5 Failed tries 3 Unreadable 2",
        "Pollers 9 of 10 alive, 1 failing Last poll 2 s ago Failed calls 4 change visibility",
        "Credentials web-identity They expire in 30 min",
        "At redis.internal:6379 State connected Last write never Failed writes 0 Readers' hits 97.5 % Memory used 1 MiB",
        "Last errors None since the start.",
    ] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
}

#[test]
fn a_state_that_is_not_ready_comes_with_its_reasons() {
    let html = render(&Report {
        state: State::NotReady,
        reasons: vec!["Redis cannot be used."],
        ..report()
    });
    assert!(html.contains("<title>Not ready · the-service</title>"));
    assert!(text(&html).contains("State Not ready Redis cannot be used. Since"));
}

#[test]
fn errors_say_what_why_when_and_how_often() {
    let fault = |times, is_over| Fault {
        level: "error",
        what: "cannot receive messages".to_owned(),
        why: "connection refused".to_owned(),
        times,
        first_at: ago(600),
        last_at: ago(5),
        is_over,
    };
    let text = text(&render(&Report {
        errors: vec![fault(1, false), fault(40, true)],
        ..report()
    }));
    let both = "error cannot receive messages connection refused 5 s ago , once \
                error cannot receive messages connection refused 5 s ago , 40 times since 10 min ago ; it is over";
    assert!(text.contains(both), "{text}");
}

#[test]
fn settings_that_are_given_come_first_and_secrets_are_only_said_to_be_set() {
    let settings = vec![
        setting("BATCH_SIZE", Some("1"), true, false),
        setting("QUEUE_URL", Some("https://sqs"), true, true),
        setting("SERVER_API_KEY", None, true, true),
        setting("WORKERS", None, false, false),
    ];
    let text = text(&render(&Report { settings, ..report() }));
    let all = "Given, secrets not shown Setting Value QUEUE_URL https://sqs SERVER_API_KEY set All others, as they are \
               by default Left to their default Setting Value BATCH_SIZE 1 WORKERS not set";
    assert!(text.contains(all), "{text}");
}

#[test]
fn nothing_from_outside_becomes_a_tag_or_leaves_an_attribute() {
    const NASTY: &str = "\"'></td><img src=x onerror=alert(1)><script>alert(2)</script>&";
    let mut report = report();
    report.queue.url = NASTY.to_owned();
    report.queue.region = NASTY.to_owned();
    report.redis.at = NASTY.to_owned();
    report.settings = vec![setting(NASTY, Some(NASTY), true, true)];
    report.errors = vec![Fault {
        level: "warn",
        what: NASTY.to_owned(),
        why: NASTY.to_owned(),
        times: 1,
        first_at: ago(0),
        last_at: ago(0),
        is_over: false,
    }];
    let html = render(&report);
    assert_eq!(html.matches("<script>").count(), 1, "our own");
    assert!(!html.contains("<img") && !html.contains("\"'>"), "{html}");
    let read = "&quot;&#39;&gt;&lt;/td&gt;&lt;img src=x onerror=alert(1)&gt;&lt;script&gt;alert(2)&lt;/script&gt;&amp;";
    assert_eq!(html.matches(read).count(), 7);
}

#[test]
fn style_and_script_are_the_ones_that_the_policy_allows() {
    let hash = |text: &str| format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)));
    let (_, policy) = HEADERS[0];
    for text in [STYLE, SCRIPT] {
        let hash = hash(text);
        assert!(policy.contains(&hash), "put {hash} for {}", &text[..20]);
        // Either would end its element early.
        assert!(!text.contains("</") && !text.contains("<!--"));
    }
    let html = render(&report());
    assert!(
        !html.contains(" style=") && !html.contains(" onclick="),
        "no policy would let these through"
    );
    assert!(!policy.contains("unsafe") && policy.starts_with("default-src 'none'"));
}

#[test]
fn it_refers_to_nothing_but_its_neighbours() {
    let html = render(&report());
    let references = html
        .split(" href=\"")
        .skip(1)
        .chain(html.split(" src=\"").skip(1));
    let references: Vec<&str> = references.map(|rest| rest.split('"').next().unwrap()).collect();
    assert_eq!(references, ["data:,", "status", "metrics", "readyz", "livez"]);
    assert!(!STYLE.contains("url(") && !STYLE.contains("@import"));
}
