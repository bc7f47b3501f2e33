use std::time::Instant;

use super::*;
use crate::aws::{CredentialsError, CredentialsProvider};
use crate::clock::EpochMs;
use crate::config::Secret;
use crate::http_client::stub::{Reply, Stub, dead_url};

const DOCUMENT: &str = r#"{"AccessKeyId":"ASIA1","SecretAccessKey":"s3cret","Token":"t0ken","Expiration":"2030-01-01T00:00:00Z","RoleArn":"TASK"}"#;

fn source(base: &url::Url, authorization: Option<Secret>) -> Fetcher {
    fetcher(ContainerSource { uri: base.join("/v2/credentials/h1dden?x=1").unwrap(), authorization })
}

fn fault(reply: Reply) -> CredentialsError {
    let stub = Stub::start([reply]);
    let error = (source(&stub.url, Some(Secret::inline("Bearer t0ken"))).fetch)().unwrap_err();
    assert!(!error.message.contains("h1dden"), "{error}");
    assert!(!error.message.contains("t0ken"), "{error}");
    let address = stub.url.as_str().trim_end_matches('/');
    CredentialsError {
        message: error
            .message
            .replace(address, "ADDRESS")
            .replace("cannot get the container's credentials from ADDRESS: ", ""),
        ..error
    }
}

#[test]
fn they_are_asked_for_with_the_token_as_it_is_now() {
    let path = std::env::temp_dir().join(format!("pcs-container-{}", std::process::id()));
    std::fs::write(&path, "first token\n").unwrap();
    let stub = Stub::start([Stub::ok(DOCUMENT), Stub::ok(DOCUMENT)]);
    let source = source(&stub.url, Some(Secret::file(&path)));
    let credentials = (source.fetch)().unwrap();
    assert_eq!(credentials.access_key_id, "ASIA1");
    assert_eq!(credentials.expires_at, Some(EpochMs(1_893_456_000_000)));
    let asked = stub.asked();
    assert_eq!(asked.line, "GET /v2/credentials/h1dden?x=1");
    assert_eq!(asked.header("authorization"), "first token");

    std::fs::write(&path, "second token\n").unwrap();
    (source.fetch)().unwrap();
    assert_eq!(stub.asked().header("authorization"), "second token");

    std::fs::write(&path, "\n").unwrap();
    let empty = (source.fetch)().unwrap_err();
    assert_eq!(empty.kind, "credentials_unreadable");
    std::fs::write(&path, "two\nlines\n").unwrap();
    let lines = (source.fetch)().unwrap_err();
    assert_eq!(lines.kind, "container_request_invalid");
    assert!(!lines.message.contains("lines") && !lines.message.contains("CREDENTIALS_FULL_URI"), "{lines}");
    assert!(lines.message.contains("; check AWS_CONTAINER_AUTHORIZATION_TOKEN or the file of"), "{lines}");
    std::fs::remove_file(&path).unwrap();
    let absent = (source.fetch)().unwrap_err();
    assert!(absent.message.contains(&path.display().to_string()), "{absent}");
    assert!(stub.was_left_alone(), "nothing is asked for without the token");
}

#[test]
fn without_a_token_there_is_no_header() {
    let stub = Stub::start([Stub::ok(DOCUMENT)]);
    let provider = CredentialsProvider::new(source(&stub.url, None), "THE_SETTING");
    assert_eq!(provider.current(EpochMs(0)).unwrap().access_key_id, "ASIA1");
    let asked = stub.asked();
    assert!(!asked.headers.iter().any(|(name, _)| name == "authorization"));
    let address = stub.url.as_str().trim_end_matches('/');
    assert_eq!(
        provider.describe(),
        format!("the container's temporary credentials from {address} with key id ASIA1")
    );
}

#[test]
fn a_refusal_is_reported_with_code_and_remedy() {
    let refused = fault(Reply::Answer(
        403,
        "",
        r#"{"code":"AccessDenied","message":"token Bearer t0ken is\nnot known"}"#.to_owned(),
    ));
    assert_eq!(refused.kind, "container_http_403");
    assert_eq!(
        refused.message,
        "HTTP 403 AccessDenied (token [redacted] is not known); check AWS_CONTAINER_AUTHORIZATION_TOKEN or the \
         file of AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE and, on EKS, the role of the pod identity association and its \
         trust policy"
    );
    for (status, remedy) in [
        (302, "redirects are not followed"),
        (400, "has a task role"),
        (404, "has a task role"),
        (429, "too many requests"),
        (500, "retried later"),
    ] {
        let headers = "Location: http://127.0.0.1:9/\r\n";
        let error = fault(Reply::Answer(status, headers, "<html>".to_owned()));
        assert_eq!(error.kind, format!("container_http_{status}"));
        assert!(
            error.message.starts_with(&format!("HTTP {status}; ")) && error.message.contains(remedy),
            "{error}"
        );
    }
}

#[test]
fn an_answer_that_is_not_as_documented_is_reported_and_not_repeated() {
    for (body, what) in [
        ("t0ken", "it is not JSON"),
        (r#"{"AccessKeyId":"ASIA1","SecretAccessKey":"s3cret","Token":"t0ken"}"#, "it has no Expiration"),
        ("{}", "it has no Expiration"),
    ] {
        let error = fault(Stub::ok(body));
        assert_eq!(error.kind, "container_unexpected_answer");
        let start = format!("the answer is not as documented: {what}; ");
        assert!(error.message.starts_with(&start), "{error}");
        assert!(!error.message.contains("s3cret"), "{error}");
    }
    let refused = fault(Stub::ok(r#"{"code":"NotYet","message":"wait"}"#));
    assert!(refused.message.starts_with("HTTP 200 NotYet (wait); check that the ECS task"), "{refused}");
    let error = fault(Stub::ok("x".repeat(70_000)));
    assert_eq!(error.kind, "container_answer_too_large");
}

#[test]
fn an_endpoint_that_is_not_there_says_what_to_look_for() {
    let error = (source(&dead_url(), None).fetch)().unwrap_err();
    assert_eq!(error.kind, "container_connection_refused");
    assert!(
        error.message.contains("connection refused; on ECS check that the task has a task role, on EKS"),
        "{error}"
    );

    let stub = Stub::start([Reply::Drip]);
    let began = Instant::now();
    let error = (source(&stub.url, None).fetch)().unwrap_err();
    assert_eq!(error.kind, "container_timeout");
    assert!(began.elapsed() < DESCRIPTION.deadline * 2, "took {:?}", began.elapsed());
}
