//! What the queue refuses, and that it complains of it.

use serde_json::{Value, json};

use super::caller::{Answer, Caller};
use super::rules::stage;
use crate::fakes::queue::{FakeQueue, KnownKey, QueueOptions};

/// Refused with this status and code, and complained of.
fn assert_refused(queue: &FakeQueue, answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.code()), (status, code), "{}", answer.body);
    let complaints = queue.complaints();
    let last = complaints.last().expect("a complaint");
    assert!(last.starts_with(code), "{complaints:?}");
}

fn refused_call(action: &str, body: Value, code: &str) {
    let (queue, caller) = stage(&QueueOptions::default());
    queue.send("x");
    assert_refused(&queue, &caller.call(action, body), 400, code);
}

fn refused_signature(code: &str, change: impl FnOnce(&mut Caller)) -> String {
    let (queue, mut caller) = stage(&QueueOptions::default());
    change(&mut caller);
    let answer = caller.call("ReceiveMessage", json!({}));
    assert_refused(&queue, &answer, 403, code);
    answer.body["message"].as_str().unwrap().to_owned()
}

#[test]
fn a_batch_has_1_to_10_entries_with_distinct_ids_of_plain_letters() {
    let entry = |id: &str| json!({"Id": id, "ReceiptHandle": "x"});
    let batch = |entries: Vec<Value>| json!({"Entries": entries});
    let eleven = (0..11).map(|id| entry(&id.to_string())).collect();
    for action in ["DeleteMessageBatch", "ChangeMessageVisibilityBatch"] {
        refused_call(action, batch(vec![]), "EmptyBatchRequest");
        refused_call(action, batch(vec![entry("a"), entry("a")]), "BatchEntryIdsNotDistinct");
        refused_call(action, batch(vec![entry("a b")]), "InvalidBatchEntryId");
    }
    refused_call("DeleteMessageBatch", batch(eleven), "TooManyEntriesInBatchRequest");
}

#[test]
fn numbers_out_of_bounds_and_unknown_names_are_refused() {
    refused_call("ReceiveMessage", json!({"MaxNumberOfMessages": 11}), "InvalidParameterValue");
    refused_call("ReceiveMessage", json!({"MaxNumberOfMessages": 0}), "InvalidParameterValue");
    refused_call("ReceiveMessage", json!({"WaitTimeSeconds": 21}), "InvalidParameterValue");
    refused_call("ReceiveMessage", json!({"AttributeNames": ["Color"]}), "InvalidAttributeName");
    refused_call("ReceiveMessage", json!({"WaitTimeSecs": 1}), "SerializationException");
    refused_call("ReceiveMessage", json!({"QueueUrl": "http://h/000000000000/other"}), "QueueDoesNotExist");
    refused_call("PurgeQueue", json!({}), "UnknownOperationException");
    refused_call("GetQueueAttributes", json!({"AttributeNames": ["Color"]}), "InvalidAttributeName");
}

#[test]
fn a_handle_that_was_never_issued_fails_its_entry_alone() {
    let (queue, caller) = stage(&QueueOptions::default());
    queue.send("x");
    let mut received = caller.receive(0);
    received.push(json!({"ReceiptHandle": "AQEB1.1.0000000000000000"}));
    let failed = caller.delete(&received);
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0]["Id"], "1");
    assert_eq!(failed[0]["Code"], "ReceiptHandleIsInvalid");
    assert_eq!(failed[0]["SenderFault"], true);
    assert!(queue.is_empty(), "the other one is deleted");
    assert_eq!(queue.complaints().len(), 1);
}

#[test]
fn an_unknown_key_and_a_wrong_secret_are_different_errors() {
    refused_signature("InvalidClientTokenId", |caller| {
        caller.key_id = "AKIANOBODY".into();
    });
    refused_signature("SignatureDoesNotMatch", |caller| caller.secret.push('x'));
    refused_signature("InvalidClientTokenId", |caller| {
        caller.session_token = Some("made-up".into());
    });
}

#[test]
fn a_signature_for_another_region_service_or_hour_is_refused() {
    let words = refused_signature("SignatureDoesNotMatch", |caller| {
        caller.region = "eu-central-1".into();
    });
    assert!(words.contains("valid region"), "{words}");
    refused_signature("SignatureDoesNotMatch", |caller| caller.service = "sns".into());
    let words = refused_signature("SignatureDoesNotMatch", |caller| caller.ahead_secs = -302);
    assert!(words.starts_with("Signature expired"), "{words}");
    let words = refused_signature("SignatureDoesNotMatch", |caller| caller.ahead_secs = 302);
    assert!(words.starts_with("Signature not yet current"), "{words}");
}

#[test]
fn a_clock_that_is_four_minutes_off_is_accepted() {
    for ahead_secs in [-240, 240] {
        let (_queue, mut caller) = stage(&QueueOptions::default());
        caller.ahead_secs = ahead_secs;
        assert_eq!(caller.call("ReceiveMessage", json!({})).status, 200);
    }
}

#[test]
fn what_was_changed_after_signing_or_left_unsigned_is_refused() {
    let (queue, caller) = stage(&QueueOptions::default());
    let body = json!({"QueueUrl": caller.queue_url}).to_string();
    let signed = caller.signed("AmazonSQS.ReceiveMessage", &body);
    assert_eq!(caller.post(&signed, &body).unwrap().status, 200);

    let other_body = json!({"QueueUrl": caller.queue_url, "WaitTimeSeconds": 0}).to_string();
    let answer = caller.post(&signed, &other_body).unwrap();
    assert_refused(&queue, &answer, 403, "SignatureDoesNotMatch");

    let mut other_target = signed.clone();
    let target = other_target.iter_mut().find(|(name, _)| name == "x-amz-target");
    target.unwrap().1 = "AmazonSQS.DeleteMessageBatch".into();
    assert_refused(&queue, &caller.post(&other_target, &body).unwrap(), 403, "SignatureDoesNotMatch");

    let mut one_more = signed.clone();
    one_more.push(("x-amz-unsigned".into(), "1".into()));
    assert_refused(&queue, &caller.post(&one_more, &body).unwrap(), 403, "SignatureDoesNotMatch");

    let without: Vec<_> = signed.iter().filter(|(name, _)| name != "authorization").cloned().collect();
    assert_refused(&queue, &caller.post(&without, &body).unwrap(), 403, "MissingAuthenticationToken");

    let mut half = without;
    half.push(("authorization".into(), "AWS4-HMAC-SHA256 Credential=x".into()));
    assert_refused(&queue, &caller.post(&half, &body).unwrap(), 403, "IncompleteSignature");
}

#[test]
fn a_temporary_key_needs_its_token_and_ends_with_it() {
    let (queue, mut caller) = stage(&QueueOptions::default());
    let key = KnownKey {
        secret: "temporary".into(),
        session_token: Some("FwoGtoken//x=".into()),
        expires_at_ms: None,
    };
    queue.allow_key("ASIA1", key.clone());
    caller.key_id = "ASIA1".into();
    caller.secret = "temporary".into();
    let answer = caller.call("ReceiveMessage", json!({}));
    assert_refused(&queue, &answer, 403, "InvalidClientTokenId");
    caller.session_token = key.session_token.clone();
    assert_eq!(caller.call("ReceiveMessage", json!({})).status, 200);
    queue.allow_key("ASIA1", KnownKey { expires_at_ms: Some(1), ..key });
    let answer = caller.call("ReceiveMessage", json!({}));
    assert_refused(&queue, &answer, 403, "ExpiredToken");
    queue.forget_key("ASIA1");
    let answer = caller.call("ReceiveMessage", json!({}));
    assert_refused(&queue, &answer, 403, "InvalidClientTokenId");
}

#[test]
#[should_panic(expected = "broke SQS's rules")]
fn complaints_that_nobody_looked_at_fail_the_test() {
    let (_queue, caller) = stage(&QueueOptions::default());
    caller.call("PurgeQueue", json!({}));
}
