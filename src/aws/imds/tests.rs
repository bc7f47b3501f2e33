use std::time::Instant;

use super::*;
use crate::clock::EpochMs;
use crate::http_client::stub::{Asked, Reply, Stub, dead_url};

const ROLE_PATH: &str = "GET /latest/meta-data/iam/security-credentials/";

fn document(expiration: &str) -> Reply {
    Stub::ok(format!(
        r#"{{"Code":"Success","LastUpdated":"2029-12-31T22:00:00Z","Type":"AWS-HMAC","AccessKeyId":"ASIA1","SecretAccessKey":"s3cret","Token":"s3ssion","Expiration":"{expiration}"}}"#
    ))
}

fn token(value: &str) -> Reply {
    Reply::Answer(200, "X-aws-ec2-metadata-token-ttl-seconds: 21600\r\n", value.to_owned())
}

fn source(endpoint: &url::Url) -> Fetcher {
    fetcher(InstanceMetadataSource { endpoint: endpoint.clone() })
}

fn token_of(asked: &Asked) -> (String, String) {
    let token = asked.header("x-aws-ec2-metadata-token").to_owned();
    (asked.line.clone(), token)
}

/// The fault after these replies, without where it was.
fn fault(replies: impl IntoIterator<Item = Reply>) -> (String, String) {
    let stub = Stub::start(replies);
    let error = (source(&stub.url).fetch)().unwrap_err();
    for secret in ["t0ken", "s3cret", "s3ssion"] {
        assert!(!error.message.contains(secret), "{error}");
    }
    let address = stub.url.as_str().trim_end_matches('/');
    let start = format!("cannot get the instance's credentials from {address}: ");
    let what = error.message.strip_prefix(&start).unwrap().to_owned();
    (error.kind, what)
}

#[test]
fn a_service_that_closes_each_connection_without_a_word_gives_credentials() {
    let and_closes = |body: &str| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        Reply::Bytes((head + body).into_bytes())
    };
    let stub = Stub::start([and_closes("t0ken"), and_closes("role"), document("2030-01-01T00:00:00Z")]);
    assert_eq!((source(&stub.url).fetch)().unwrap().access_key_id, "ASIA1");
}

#[test]
fn a_token_is_put_then_the_role_then_its_credentials_are_asked_for_each_time() {
    let stub = Stub::start([
        token("t0ken-1"),
        Stub::ok("queue-reader\n"),
        document("2030-01-01T00:00:00Z"),
        token("t0ken-2"),
        Stub::ok("queue-reader"),
        document("2030-01-01T06:00:00Z"),
    ]);
    let source = source(&stub.url);
    let credentials = (source.fetch)().unwrap();
    assert_eq!(credentials.access_key_id, "ASIA1");
    assert_eq!(credentials.session_token.as_deref(), Some("s3ssion"));
    assert_eq!(credentials.expires_at, Some(EpochMs(1_893_456_000_000)));
    assert!((source.fetch)().is_ok());

    for token in ["t0ken-1", "t0ken-2"] {
        let put = stub.asked();
        assert_eq!(put.line, "PUT /latest/api/token");
        assert_eq!(put.header("x-aws-ec2-metadata-token-ttl-seconds"), "60");
        for line in [ROLE_PATH.to_owned(), format!("{ROLE_PATH}queue-reader")] {
            assert_eq!(token_of(&stub.asked()), (line, token.to_owned()));
        }
    }
    assert!(stub.was_left_alone());
}

#[test]
fn version_1_is_never_used() {
    for status in [404, 405] {
        let stub = Stub::start([Reply::Answer(status, "", String::new()), Stub::ok("queue-reader")]);
        let error = (source(&stub.url).fetch)().unwrap_err();
        assert_eq!(error.kind, format!("imds_http_{status}"));
        assert!(error.message.contains("version 1 only, which is not used"), "{error}");
        assert_eq!(stub.asked().line, "PUT /latest/api/token");
        assert!(stub.was_left_alone());
    }
}

#[test]
fn each_refusal_has_its_remedy() {
    let answer = |status: u16| Reply::Answer(status, "", String::new());
    let (kind, what) = fault([answer(403)]);
    assert_eq!(kind, "imds_http_403");
    assert!(what.contains("turned off for this instance"), "{what}");
    let (kind, what) = fault([answer(503)]);
    assert_eq!(kind, "imds_http_503");
    assert!(what.contains("retried later"), "{what}");
    let (kind, what) = fault([Stub::ok("")]);
    assert_eq!(kind, "imds_unexpected_answer");
    assert!(what.contains("it is empty"), "{what}");

    let (_, what) = fault([token("t0ken"), answer(404)]);
    assert!(what.contains("the instance has no role: attach an instance profile"), "{what}");
    assert!(fault([token("t0ken"), Stub::ok("\n")]).1.contains("it is empty"));
    let (kind, what) = fault([token("t0ken"), answer(401)]);
    assert_eq!(kind, "imds_http_401");
    assert!(what.contains("is this the instance metadata service?"), "{what}");
    let (kind, what) = fault([token("t0ken"), Stub::ok("<html> please wait")]);
    assert_eq!(kind, "imds_request_invalid");
    assert!(
        what.contains("the path holds characters that no request may have; is this the instance"),
        "{what}"
    );
    let redirected = Reply::Answer(302, "Location: /elsewhere\r\n", String::new());
    assert_eq!(fault([token("t0ken"), redirected]).0, "imds_http_302");
}

#[test]
fn a_document_that_is_no_success_or_not_whole_is_reported() {
    let after = |body: &str| fault([token("t0ken"), Stub::ok("queue-reader"), Stub::ok(body)]);
    let (kind, what) = after(
        r#"{"Code":"AssumeRoleUnauthorizedAccess","Message":"EC2 cannot assume the role queue-reader."}"#,
    );
    assert_eq!(kind, "imds_http_200");
    assert_eq!(
        what,
        "HTTP 200 AssumeRoleUnauthorizedAccess (EC2 cannot assume the role queue-reader.); \
         check the role of the instance profile, and that its trust policy lets ec2.amazonaws.com assume it"
    );
    for (body, fault) in [
        ("<html>", "it is not JSON"),
        (r#"{"Code":"Success","AccessKeyId":"ASIA1"}"#, "it has no Expiration"),
    ] {
        let (kind, what) = after(body);
        assert_eq!(kind, "imds_unexpected_answer");
        assert!(what.contains(fault), "{what}");
    }
}

#[test]
fn a_machine_without_it_says_so_within_seconds() {
    let stub = Stub::start([Reply::Silence]);
    let began = Instant::now();
    let error = (source(&stub.url).fetch)().unwrap_err();
    assert!(began.elapsed() < DESCRIPTION.deadline * 2, "took {:?}", began.elapsed());
    assert_eq!(error.kind, "imds_timeout");
    assert!(error.message.contains("--http-put-response-hop-limit 2"), "{error}");

    let error = (source(&dead_url()).fetch)().unwrap_err();
    assert_eq!(error.kind, "imds_connection_refused");
    assert!(error.message.contains("is this an EC2 instance"), "{error}");
}

#[test]
fn the_endpoint_may_have_an_ipv6_address_and_a_path() {
    let distant = source(&url::Url::parse("http://[fd00:ec2::254]/").unwrap());
    assert_eq!(distant.source, "the instance's temporary credentials from http://[fd00:ec2::254]");
    let stub = Stub::start([Reply::Answer(500, "", String::new())]);
    let below = source(&stub.url.join("/imds/").unwrap());
    assert!((below.fetch)().is_err());
    assert_eq!(stub.asked().line, "PUT /imds/latest/api/token");
}
