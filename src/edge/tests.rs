use serde_json::{Value, json};

use super::*;
use crate::clock::EpochMs;
use crate::entitlement::CustomerId;
use crate::http_client::stub::{Reply, Stub, dead_url};

const QUEUE_URL: &str = "https://sqs.us-east-1.amazonaws.com/1/a queue&more";

fn edge(stub: &Stub) -> EdgeClient {
    EdgeClient::new(stub.url.clone(), Secret::inline("server-key-1"), None)
}

fn credentials_answer() -> Value {
    json!({"accessKeyId": "ASIA1", "secretAccessKey": "s3cret", "sessionToken": "t0ken",
           "expiration": "2025-08-03T09:58:08.468Z", "somethingNew": 1})
}

fn refusal(status: u16, body: &str) -> EdgeError {
    let stub = Stub::start([Reply::Answer(status, "", body.to_owned())]);
    edge(&stub).event_queue_credentials(QUEUE_URL).unwrap_err()
}

#[test]
fn queue_credentials_are_asked_for_with_the_key_and_the_encoded_queue_url() {
    let stub = Stub::start([Stub::ok(credentials_answer().to_string())]);
    let mut base = stub.url.clone();
    base.set_path("/base/");
    let credentials = EdgeClient::new(base, Secret::inline("server-key-1"), None)
        .event_queue_credentials(QUEUE_URL)
        .unwrap();
    assert_eq!(credentials.access_key_id, "ASIA1");
    assert_eq!(credentials.secret_access_key, "s3cret");
    assert_eq!(credentials.session_token.as_deref(), Some("t0ken"));
    assert_eq!(credentials.expires_at, Some(EpochMs(1_754_215_088_468)));

    let asked = stub.asked();
    let (path, query) = asked.line.split_once('?').unwrap();
    assert_eq!(path, "GET /base/v1/credentials/event-queue.json");
    let pairs: Vec<_> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    assert_eq!(pairs, [("queueUrl".to_owned(), QUEUE_URL.to_owned())]);
    assert_eq!(asked.header("x-api-key"), "server-key-1");
    assert_eq!(asked.header("x-api-version"), "1");
    assert_eq!(asked.header("source"), "PERSISTENT_CACHE_SERVICE");
}

#[test]
fn an_answer_that_lacks_a_field_is_an_error_that_names_it_and_shows_nothing() {
    for name in ["accessKeyId", "secretAccessKey", "sessionToken", "expiration"] {
        let mut answer = credentials_answer();
        answer[name] = json!("");
        let error = refusal(200, &answer.to_string());
        assert!(error.message.contains(&format!("it has no {name}")), "{error}");
        assert!(!error.message.contains("s3cret") && !error.message.contains("t0ken"), "{error}");
    }
    let mut answer = credentials_answer();
    answer["expiration"] = json!("s3cret tomorrow");
    let error = refusal(200, &answer.to_string());
    assert!(
        error.message.contains("its expiration is not a date") && !error.message.contains("s3cret"),
        "{error}"
    );
}

#[test]
fn each_refusal_says_what_to_check() {
    let unauthorized = refusal(401, "");
    assert_eq!(unauthorized.kind.to_string(), "http_401");
    assert!(unauthorized.message.contains("HTTP status 401; check SERVER_API_KEY"), "{unauthorized}");
    assert!(!unauthorized.message.contains("server-key-1"));
    assert!(refusal(403, "<html>").message.contains("check SERVER_API_KEY"));
    assert!(refusal(404, "").message.contains("check EDGE_API_URL"));
    // Not everyone who asks tries again.
    assert!(
        refusal(502, "").message.contains("HTTP status 502; the Edge API has a fault of its own: ask Stigg")
    );
    assert!(refusal(429, "").message.contains("HTTP status 429; too many calls: lower their rate"));
    assert!(refusal(200, "<html>").message.contains("it is not JSON"));
    let listed = r#"{"data":null,"errors":[{"message":"no customer data here","extensions":{"code":"UNAUTHENTICATED"}}]}"#;
    let listed = refusal(200, listed);
    assert!(listed.message.contains("it lists errors (UNAUTHENTICATED)"), "{listed}");

    let dead = EdgeClient::new(dead_url(), Secret::inline("k"), None);
    let error = dead.sentry_dsn().unwrap_err();
    assert_eq!(error.kind.to_string(), "connection_refused");
    assert!(error.message.contains("connection refused; check EDGE_API_URL"), "{error}");

    let absent = EdgeClient::new(dead_url(), Secret::file("/nonexistent/key"), None);
    let error = absent.sentry_dsn().unwrap_err();
    assert!(
        error.message.contains("/nonexistent/key") && error.message.contains("SERVER_API_KEY_FILE"),
        "{error}"
    );
}

#[test]
fn the_sentry_dsn_is_what_the_remote_configuration_says_if_anything() {
    let configured = |value: Value| json!({"data": {"sdkConfiguration": {"sentryDsn": value}}}).to_string();
    let stub = Stub::start([
        Stub::ok(configured(json!("https://key@sentry.example/1"))),
        Stub::ok(configured(Value::Null)),
        Stub::ok(r#"{"data":{"sdkConfiguration":{}},"errors":[]}"#),
        Stub::ok(r#"{"data":{}}"#),
    ]);
    let edge = edge(&stub);
    assert_eq!(edge.sentry_dsn().unwrap().as_deref(), Some("https://key@sentry.example/1"));
    assert_eq!(stub.asked().line, "GET /v1/config/server-sdk-configuration.json");
    assert_eq!(edge.sentry_dsn().unwrap(), None);
    assert_eq!(edge.sentry_dsn().unwrap(), None);
    assert!(edge.sentry_dsn().unwrap_err().message.contains("it has no data.sdkConfiguration"));
}

#[test]
fn a_rotated_api_key_is_used_at_the_next_request() {
    let path = std::env::temp_dir().join(format!("pcs-edge-key-{}", std::process::id()));
    std::fs::write(&path, "old\n").unwrap();
    let answer = || Stub::ok(r#"{"data":{"sdkConfiguration":{}}}"#);
    let stub = Stub::start([answer(), answer()]);
    let edge = EdgeClient::new(stub.url.clone(), Secret::file(&path), None);
    edge.sentry_dsn().unwrap();
    std::fs::write(&path, "new\n").unwrap();
    edge.sentry_dsn().unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!((stub.asked().header("x-api-key"), stub.asked().header("x-api-key")), ("old", "new"));
}

#[test]
fn a_customer_is_asked_for_by_the_id_as_it_is_whatever_characters_it_has() {
    for (id, path) in [
        ("a/b?c#d%2e é", "a%2Fb%3Fc%23d%252e%20%C3%A9"),
        ("a\tb\r\n", "a%09b%0D%0A"),
        (".\t.", ".%09."),
        ("%2e%2e", "%252e%252e"),
        (r"..\..", "..%5C.."),
    ] {
        let stub = Stub::start([Stub::ok(r#"{"data":{"entitlementsState":{"entitlementsV2":[]}}}"#)]);
        let mut base = stub.url.clone();
        base.set_path("/base/");
        let edge = EdgeClient::new(base, Secret::inline("k"), None);
        let subject = Subject { customer: CustomerId(id.to_owned()), resource: None };
        edge.entitlements_state(&subject).unwrap();
        assert_eq!(stub.asked().line, format!("GET /base/v1/c/{path}/entitlements-state.json"));
    }
}
