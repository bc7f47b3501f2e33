use std::sync::atomic::AtomicU32;

use serde_json::{Value, json};

use super::*;
use crate::aws::tests::provider_of;
use crate::aws::{Credentials, own_provider};
use crate::config::{CredentialSource, Secret, StaticKeys};
use crate::http_client::stub::{Reply, Stub, dead_url};

const QUEUE_URL: &str = "https://sqs.eu-central-1.amazonaws.com/123456789012/events";

fn settings(endpoint: &Url) -> SqsSettings {
    SqsSettings {
        endpoint: endpoint.clone(),
        queue_url: QUEUE_URL.to_owned(),
        region: "eu-central-1".to_owned(),
        pool_size: 2,
        long_poll_deadline: Duration::from_secs(25),
        proxy: None,
    }
}

fn fixed(secret_access_key: Secret) -> Arc<CredentialsProvider> {
    let access_key_id = "AKIA1".to_owned();
    let keys = StaticKeys { access_key_id, secret_access_key, session_token: None };
    own_provider(&CredentialSource::Static(keys), None).unwrap()
}

fn client(stub: &Stub) -> SqsClient {
    SqsClient::new(settings(&stub.url), fixed(Secret::inline("wJalrXUtnFEMI-of-the-test")))
}

fn handle(text: &str) -> ReceiptHandle {
    ReceiptHandle(text.to_owned())
}

/// Temporary credentials, and others each time that they are fetched again.
fn temporary() -> Arc<CredentialsProvider> {
    let fetched = AtomicU32::new(1);
    provider_of("temporary credentials", move || {
        let number = fetched.fetch_add(1, Ordering::SeqCst) + 1;
        Ok(Credentials {
            access_key_id: format!("ASIA{number}"),
            secret_access_key: "verysecret".to_owned(),
            session_token: Some("FwoGtoken".to_owned()),
            expires_at: Some(EpochMs(i64::MAX)),
        })
    })
}

#[test]
fn a_connection_that_the_server_has_closed_without_a_word_costs_no_call() {
    let and_closes = || Reply::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}".to_vec());
    let stub = Stub::start([and_closes(), and_closes(), and_closes()]);
    let client = client(&stub);
    for connection in 0..3 {
        assert_eq!(client.receive(1, Duration::ZERO).unwrap().len(), 0);
        assert_eq!(stub.asked().connection, connection);
    }
}

#[test]
fn a_receive_is_one_signed_post_to_the_root_and_brings_deliveries() {
    let stub = Stub::start([Stub::ok(
        json!({"Messages": [
            {"MessageId": "m1", "ReceiptHandle": "r1", "Body": "{}",
             "Attributes": {"SentTimestamp": "1793491200123", "ApproximateReceiveCount": "2"}},
            {"MessageId": "m2", "ReceiptHandle": "r2", "Body": "x"}]})
        .to_string(),
    )]);
    let before = clock::now();
    let deliveries = client(&stub).receive(10, Duration::from_secs(20)).unwrap();
    assert_eq!(deliveries.len(), 2);
    assert_eq!(deliveries[0].message_id, "m1");
    assert_eq!(deliveries[0].sent_at, EpochMs(1_793_491_200_123));
    assert_eq!(deliveries[0].receive_count, 2);
    assert!(deliveries[1].sent_at >= before, "the time of receipt stands in for an unknown one");

    let asked = stub.asked();
    assert_eq!(asked.line, "POST /");
    assert_eq!(asked.header("content-type"), "application/x-amz-json-1.0");
    assert_eq!(asked.header("x-amz-target"), "AmazonSQS.ReceiveMessage");
    assert_eq!(asked.header("host"), stub.url.authority());
    let signed = asked.header("authorization");
    assert!(signed.starts_with("AWS4-HMAC-SHA256 Credential=AKIA1/"), "{signed}");
    assert!(signed.contains(
        "/eu-central-1/sqs/aws4_request, SignedHeaders=content-type;host;x-amz-date;x-amz-target,"
    ));
    let body: Value = serde_json::from_str(&asked.body).unwrap();
    assert_eq!(body["QueueUrl"], QUEUE_URL, "the queue's own URL, whatever the endpoint");
}

#[test]
fn batches_report_entry_by_entry_and_an_empty_one_calls_nobody() {
    let stub = Stub::start([
        Stub::ok(
            r#"{"Successful":[{"Id":"0"}],"Failed":[{"Id":"1","Code":"ReceiptHandleIsInvalid","SenderFault":true}]}"#,
        ),
        Stub::ok(r#"{"Successful":[{"Id":"0"}]}"#),
    ]);
    let client = client(&stub);
    let deleted = client.delete_batch(&[handle("a"), handle("b")]).unwrap();
    assert_eq!(deleted[0], None);
    assert_eq!(deleted[1].as_ref().unwrap().code, "ReceiptHandleIsInvalid");
    let changed = client.change_visibility_batch(&[(handle("a"), Duration::from_secs(30))]).unwrap();
    assert_eq!(changed, [None]);
    assert_eq!(client.delete_batch(&[]).unwrap(), []);
    assert_eq!(client.change_visibility_batch(&[]).unwrap(), []);

    assert_eq!(stub.asked().header("x-amz-target"), "AmazonSQS.DeleteMessageBatch");
    assert_eq!(stub.asked().header("x-amz-target"), "AmazonSQS.ChangeMessageVisibilityBatch");
    assert!(stub.was_left_alone());
}

#[test]
fn calls_go_to_the_endpoints_path_and_name_the_queue_as_it_is_given() {
    for (path, line) in [("/", "POST /"), ("/sqs", "POST /sqs/"), ("/a/b%20c/", "POST /a/b%20c/")] {
        let stub = Stub::start([Stub::ok("{}")]);
        let settings = settings(&stub.url.join(path).unwrap());
        SqsClient::new(settings, temporary()).receive(1, Duration::ZERO).unwrap();
        let asked = stub.asked();
        assert_eq!(asked.line, line);
        let body: Value = serde_json::from_str(&asked.body).unwrap();
        assert_eq!(body["QueueUrl"], QUEUE_URL);
    }
}

const EXPIRED: &str =
    r#"{"__type":"com.amazon.coral.service#InvalidSignatureException","message":"Signature expired: x"}"#;

#[test]
fn a_clock_that_is_off_is_corrected_by_the_servers_and_the_call_is_sent_again() {
    let date = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    let stub = Stub::start([
        Reply::Answer(403, date, EXPIRED.to_owned()),
        Reply::Answer(200, date, "{}".to_owned()),
        Reply::Answer(200, "", "{}".to_owned()),
    ]);
    let client = client(&stub);
    client.receive(1, Duration::ZERO).unwrap();
    client.receive(1, Duration::ZERO).unwrap();
    assert!(!stub.asked().header("x-amz-date").starts_with("1994"));
    for _ in 0..2 {
        let signed_at = stub.asked().header("x-amz-date").to_owned();
        assert!(signed_at.starts_with("19941106T08"), "{signed_at}");
    }
}

#[test]
fn a_call_that_is_refused_with_the_corrected_time_too_is_not_sent_again() {
    let refusal = || {
        let date = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
        Reply::Answer(403, date, EXPIRED.to_owned())
    };
    let stub = Stub::start([refusal(), refusal()]);
    let error = client(&stub).delete_batch(&[handle("a")]).unwrap_err();
    assert_eq!(error.kind, "InvalidSignatureException");
    assert!(
        error
            .message
            .starts_with(&format!("cannot delete messages from queue {QUEUE_URL} in region eu-central-1"))
    );
    assert!(error.message.contains("set this machine's clock by NTP"), "{error}");
    assert!(!error.message.contains("wJalrXUtnFEMI"));
}

#[test]
fn a_refusal_that_the_clock_does_not_explain_is_not_sent_again() {
    let stub = Stub::start([Reply::Answer(403, "", EXPIRED.replace("Signature expired: x", "no"))]);
    let error = client(&stub).delete_batch(&[handle("a")]).unwrap_err();
    assert!(error.message.contains("the secret does not belong to this key"), "{error}");
    stub.asked();
    assert!(stub.was_left_alone());
}

#[test]
fn half_a_surrogate_pair_in_one_body_of_a_batch_costs_no_message() {
    let answer = r#"{"Messages":[
        {"MessageId":"m1","ReceiptHandle":"r1","Body":"{\"name\":\"\ud83d\"}"},
        {"MessageId":"m2","ReceiptHandle":"r2","Body":"{\"name\":\"\ud83d\ude00\"}"}]}"#;
    let stub = Stub::start([Stub::ok(answer)]);
    let deliveries = client(&stub).receive(10, Duration::ZERO).unwrap();
    let bodies: Vec<&str> = deliveries.iter().map(|delivery| delivery.body.as_str()).collect();
    assert_eq!(bodies, ["{\"name\":\"\u{fffd}\"}", "{\"name\":\"😀\"}"]);
}

#[test]
fn a_refused_temporary_key_is_reported_to_its_source_and_its_token_is_not_repeated() {
    let body =
        r#"{"__type":"x#ExpiredToken","message":"token FwoGtoken of key verysecret is over"}"#.to_owned();
    let stub = Stub::start([
        Reply::Answer(400, "", body),
        Reply::Answer(403, "", "<html>blocked: FwoGtoken</html>".to_owned()),
        Reply::Answer(400, "", r#"{"__type":"x#QueueDoesNotExist"}"#.to_owned()),
        Reply::Answer(403, "", r#"{"__type":"com.amazonaws.sqs#OverLimit"}"#.to_owned()),
    ]);
    let provider = temporary();
    let client = SqsClient::new(settings(&stub.url), Arc::clone(&provider));
    let mut is_due = Vec::new();
    for _ in 0..4 {
        let error = client.receive(1, Duration::ZERO).unwrap_err();
        assert!(!error.message.contains("FwoGtoken") && !error.message.contains("verysecret"), "{error}");
        let later = EpochMs(clock::now().0 + 60_000 * (1 + i64::try_from(is_due.len()).unwrap()));
        let held = provider.usable(later).unwrap().access_key_id.clone();
        is_due.push(provider.renew_if_due(later).unwrap().access_key_id != held);
    }
    assert_eq!(stub.asked().header("x-amz-security-token"), "FwoGtoken");
    assert_eq!(
        is_due,
        [true, true, false, false],
        "neither an absent queue nor too many messages in flight are the key's fault"
    );
}

#[test]
fn a_peer_that_hangs_or_drips_costs_a_long_poll_its_deadline() {
    for reply in [Reply::Silence, Reply::Drip] {
        let stub = Stub::start([reply]);
        let long_poll_deadline = Duration::from_millis(300);
        let settings = SqsSettings { long_poll_deadline, ..settings(&stub.url) };
        let client = SqsClient::new(settings, temporary());
        let started = Instant::now();
        let error = client.receive(1, Duration::from_secs(1)).unwrap_err();
        assert_eq!(error.kind, "timeout", "{error}");
        assert!(
            error.message.contains(&format!("no answer from {}", stub.url.as_str().trim_end_matches('/')))
        );
        assert!(started.elapsed() < Duration::from_secs(5), "took {:?}", started.elapsed());
    }
}

#[test]
fn answers_that_are_not_sqs_ask_whether_the_endpoint_is() {
    let stub = Stub::start([
        Stub::ok("<html>sign in to the wifi</html>"),
        Reply::Bytes(b"garbage\r\n\r\n".to_vec()),
    ]);
    let client = client(&stub);
    let page = client.receive(1, Duration::ZERO).unwrap_err();
    assert_eq!(page.kind, "unreadable_answer");
    assert!(page.message.contains("an SQS endpoint") && !page.message.contains("wifi"), "{page}");
    assert_eq!(client.receive(1, Duration::ZERO).unwrap_err().kind, "not_http");
}

#[test]
fn a_dead_endpoint_and_unreadable_credentials_are_told_apart() {
    let dead = dead_url();
    let client = SqsClient::new(settings(&dead), temporary());
    let error = client.receive(1, Duration::ZERO).unwrap_err();
    assert_eq!(error.kind, "connection_refused");

    let absent = Secret::file("/nonexistent/secret");
    let error = SqsClient::new(settings(&dead), fixed(absent)).receive(1, Duration::ZERO).unwrap_err();
    assert_eq!(error.kind, "credentials_unreadable");
    assert!(error.message.contains("/nonexistent/secret"), "{error}");
}
