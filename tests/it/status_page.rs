//! The status page and `/status`: what they show, and what they never do. tests/browser checks how the page looks and
//! behaves in a browser.

use serde_json::Value;

use crate::fakes::queue::QueueOptions;
use crate::support::fake_stage::FakeStage;
use crate::support::messages::{Shape, entitlements_updated};
use crate::support::sdk::Owner;
use crate::support::service::{SERVER_API_KEY, Service};
use crate::support::stage::Stage;
use crate::support::state::{State, every_kind, hours_ago};

const CUSTOMER: &str = "customer-who-is-nobodys-business";
const PROXY_PASSWORD: &str = "password-of-the-proxy";

fn message() -> String {
    let owner = Owner::customer(CUSTOMER);
    entitlements_updated(&State::new(owner, hours_ago(1), &every_kind(0)), Shape::GraphqlV2).raw()
}

fn status(service: &Service) -> Value {
    let answer = service.get("/status");
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.content_type.starts_with("application/json"), "{}", answer.content_type);
    serde_json::from_str(&answer.body).expect("JSON")
}

fn setting<'a>(status: &'a Value, name: &str) -> &'a Value {
    let settings = status["settings"].as_array().expect("settings");
    let found = settings.iter().find(|setting| setting["name"] == name);
    found.unwrap_or_else(|| panic!("{name} in {settings:?}"))
}

#[test]
fn they_tell_what_runs_and_what_was_done_and_show_no_secret_and_no_customer() {
    let stage = Stage::new();
    let settings = stage
        .settings()
        .set("CACHE_UPDATE_POLICY", "UPSERT")
        // Only for https, and nothing here speaks it.
        .set("HTTPS_PROXY", format!("http://user:{PROXY_PASSWORD}@127.0.0.1:9"))
        .set("SENTRY_DSN", "https://key-of-sentry@sentry.example/1");
    let service = Service::start(&settings);
    stage.deliver(&service, &[message()]);
    service.wait_until("the message to be shown", || status(&service)["messages"]["processed"] == 1);

    let status_now = status(&service);
    assert_eq!(status_now["state"], "ready");
    assert_eq!(status_now["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status_now["queue"]["pollers"]["alive"], 2);
    assert_eq!(status_now["redis"]["connected"], true);
    assert!(status_now["redis"]["last_write_at"].is_string(), "{status_now}");
    assert_eq!(status_now["credentials"]["source"], "static");
    assert!(status_now["credentials"]["expire_at"].is_null());
    assert_eq!(setting(&status_now, "BATCH_SIZE")["value"], "10");
    assert_eq!(setting(&status_now, "HTTPS_PROXY")["value"], "http://127.0.0.1:9/");
    for secret in ["SERVER_API_KEY", "AWS_SECRET_ACCESS_KEY", "SENTRY_DSN"] {
        let shown = setting(&status_now, secret);
        assert_eq!((&shown["is_set"], &shown["value"]), (&true.into(), &Value::Null));
    }

    let page = service.get("/");
    assert_eq!((page.status, page.content_type.as_str()), (200, "text/html; charset=utf-8"));
    assert!(page.body.contains("<a href=\"status\">status as JSON</a>"), "{}", page.body);
    let secret = stage.queue.moto.service_user.secret.clone();
    for text in [&page.body, &status_now.to_string()] {
        let hidden =
            [CUSTOMER, "feature-api-calls", &secret, SERVER_API_KEY, PROXY_PASSWORD, "key-of-sentry"];
        for hidden in hidden {
            assert!(!text.contains(hidden), "{hidden} in {text}");
        }
    }
    service.stop();
}

#[test]
fn what_fails_is_reported_with_its_cause_and_that_it_is_over() {
    let stage = Stage::new();
    let service = Service::start(&stage.settings());
    stage.redis.stop();
    service.wait_until("the state to change", || status(&service)["state"] == "not_ready");
    let status_now = status(&service);
    assert_eq!(status_now["redis"]["connected"], false);
    assert!(status_now["reasons"][0].as_str().is_some_and(|why| why.starts_with("Redis cannot be used")));
    assert!(
        status_now["errors"][0]["why"].as_str().is_some_and(|why| why.contains("127.0.0.1")),
        "{status_now}"
    );
    assert_eq!(status_now["errors"][0]["is_over"], false);
    stage.redis.restart();
    service.wait_until_ready();
    let status_now = status(&service);
    assert_eq!(status_now["state"], "ready");
    assert!(status_now["state_since"].as_str() > status_now["started_at"].as_str(), "{status_now}");
    assert_eq!(status_now["errors"][0]["is_over"], true, "{status_now}");
    service.stop();
}

/// In `errors`, by what they say.
fn times(status_now: &Value, what: &str) -> u64 {
    let errors = status_now["errors"].as_array().expect("errors").iter();
    let matching = errors.filter(|error| error["what"].as_str().is_some_and(|text| text.contains(what)));
    matching.filter_map(|error| error["times"].as_u64()).sum()
}

#[test]
fn malformed_messages_are_among_the_errors_and_counted_as_often_as_everywhere_else() {
    for policy in ["delete", "redrive"] {
        let stage = FakeStage::new(QueueOptions::default());
        let service = Service::start(&stage.settings().set("POISON_POLICY", policy));
        for body in ["no JSON", r#"{"type":"EntitlementsUpdated"}"#, "[]"] {
            stage.queue.send(body);
        }
        service.wait_for_metric("persistent_cache_messages_malformed_total", 3.0);
        let status_now = status(&service);
        let malformed = status_now["messages"]["malformed"].as_u64().expect("a count");
        assert!(malformed >= 3, "{status_now}");
        assert_eq!(times(&status_now, "cannot read a message"), malformed, "{policy}: {status_now}");
        service.wait_until("the errors to be in the rates", || {
            status(&service)["rates"][0]["errors_per_min"].as_f64().is_some_and(|rate| rate > 0.0)
        });
        service.stop();
    }
}

#[test]
fn they_answer_head_and_refuse_other_methods() {
    let stage = Stage::new();
    let settings = stage.settings();
    let service = Service::start(&settings);
    for path in ["/", "/status"] {
        let head = service.ask("HEAD", path);
        assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
        let page_only = head.contains("\r\nContent-Security-Policy: default-src 'none';");
        assert_eq!(page_only, path == "/", "{head}");
        let refused = service.ask("POST", path);
        assert!(
            refused.starts_with("HTTP/1.1 405 ") && refused.contains("\r\nAllow: GET, HEAD\r\n"),
            "{refused}"
        );
    }
    // The others have the headers that all have.
    let live = service.ask("GET", "/livez");
    let names: Vec<&str> = live.lines().skip(1).map_while(|line| Some(line.split_once(": ")?.0)).collect();
    let expected = [
        "Connection",
        "Date",
        "Content-Type",
        "Server",
        "Cache-Control",
        "X-Content-Type-Options",
        "Content-Length",
    ];
    assert_eq!(names, expected, "{live}");
    service.stop();
}

#[test]
fn switched_off_they_are_a_json_404_and_the_rest_is_as_it_was() {
    let stage = Stage::new();
    let service = Service::start(&stage.settings().set("STATUS_PAGE", "0"));
    for path in ["/", "/status"] {
        let answer = service.get(path);
        assert_eq!(
            (answer.status, answer.body),
            (404, r#"{"error":"not found: /livez, /readyz and /metrics are served"}"#.to_owned())
        );
    }
    assert_eq!(service.get("/readyz").status, 200);
    service.stop();
}
