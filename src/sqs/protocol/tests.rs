use serde_json::{Value, json};

use super::*;

const QUEUE: &str = "https://sqs.eu-central-1.amazonaws.com/123456789012/events";
/// Stands for an unknown time of sending.
const NOW: EpochMs = EpochMs(1_793_620_800_000);

fn parsed(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap()
}

fn handle(text: &str) -> ReceiptHandle {
    ReceiptHandle(text.to_owned())
}

fn received(answer: &[u8]) -> Result<Vec<Delivery>, String> {
    parse_receive(answer, Instant::now(), NOW)
}

/// The messages of an answer, as what can be compared.
fn messages(answer: &Value) -> Vec<(String, String, String, i64, u32)> {
    let deliveries = received(answer.to_string().as_bytes()).unwrap();
    let fields = |delivery: Delivery| {
        let Delivery { message_id, receipt_handle, body, sent_at, receive_count, .. } = delivery;
        (message_id, receipt_handle.0, body, sent_at.0, receive_count)
    };
    deliveries.into_iter().map(fields).collect()
}

#[test]
fn a_receive_asks_for_every_attribute_under_both_names() {
    let mut expected = json!({
        "QueueUrl": QUEUE, "MaxNumberOfMessages": 10, "WaitTimeSeconds": 20,
        "MessageSystemAttributeNames": ["All"], "AttributeNames": ["All"],
    });
    let wait = Duration::from_secs(20);
    assert_eq!(parsed(&receive(QUEUE, 10, wait, None)), expected);
    expected["VisibilityTimeout"] = 30.into();
    assert_eq!(parsed(&receive(QUEUE, 10, wait, Some(Duration::from_secs(30)))), expected);
}

#[test]
fn one_message_received_twice_goes_into_a_delete_under_two_ids() {
    let handles = [handle("a"), handle("a")];
    assert_eq!(
        parsed(&batch(QUEUE, handles.iter().map(|handle| (handle, None)))),
        json!({"QueueUrl": QUEUE, "Entries": [
            {"Id": "0", "ReceiptHandle": "a"}, {"Id": "1", "ReceiptHandle": "a"}]})
    );
}

#[test]
fn visibility_is_sent_in_whole_seconds_entry_by_entry() {
    let (a, b) = (handle("a"), handle("b"));
    let entries = [(&a, Some(Duration::ZERO)), (&b, Some(Duration::from_millis(90_500)))];
    assert_eq!(
        parsed(&batch(QUEUE, entries.into_iter()))["Entries"],
        json!([{"Id": "0", "ReceiptHandle": "a", "VisibilityTimeout": 0},
               {"Id": "1", "ReceiptHandle": "b", "VisibilityTimeout": 90}])
    );
}

#[test]
fn an_answer_without_messages_is_an_empty_one() {
    assert!(received(b"{}").unwrap().is_empty());
    assert!(received(br#"{"Messages":null}"#).unwrap().is_empty());
}

#[test]
fn a_message_comes_with_its_times_and_count_whatever_else_there_is() {
    let mut message = json!({
        "MessageId": "m-1", "ReceiptHandle": "r-1", "MD5OfBody": "x", "Body": "{\"a\":\"ü\n\"}",
        "MessageAttributes": {"a": {"b": [1]}}, "New": [{}],
        "Attributes": {"SentTimestamp": "1793491200123", "ApproximateReceiveCount": "3", "SenderId": "AIDA"},
    });
    let expected = ("m-1".to_owned(), "r-1".to_owned(), "{\"a\":\"ü\n\"}".to_owned(), 1_793_491_200_123, 3);
    assert_eq!(messages(&json!({"Messages": [message]})), std::slice::from_ref(&expected));
    message["Attributes"]["SentTimestamp"] = 1_793_491_200_123_i64.into();
    assert_eq!(messages(&json!({"Messages": [message]})), [expected]);
}

#[test]
fn a_message_without_attributes_was_received_once_and_sent_now() {
    for attributes in [json!(null), json!({}), json!({"SentTimestamp": null, "ApproximateReceiveCount": []})]
    {
        let message = json!({"MessageId": "m", "ReceiptHandle": "r", "Body": "", "Attributes": attributes});
        let messages = messages(&json!({"Messages": [message]}));
        assert_eq!((messages[0].3, messages[0].4), (NOW.0, 1));
    }
    let answer = br#"{"Messages":[{"MessageId":"m","ReceiptHandle":"r","Body":""}]}"#;
    assert_eq!(received(answer).unwrap()[0].sent_at, NOW);
}

#[test]
fn an_impossible_time_of_sending_is_unknown() {
    for odd in ["0", "-1", "9223372036854775807", "soon"] {
        let message =
            json!({"MessageId": "m", "ReceiptHandle": "r", "Body": "", "Attributes": {"SentTimestamp": odd}});
        assert_eq!(messages(&json!({"Messages": [message]}))[0].3, NOW.0, "{odd}");
    }
}

#[test]
fn a_message_that_could_not_be_deleted_or_read_is_an_error() {
    for (field, error) in [
        ("MessageId", "the answer is JSON, but not SQS's (line 1 column "),
        ("ReceiptHandle", "the answer is JSON, but not SQS's (line 1 column "),
        ("Body", "the answer has a message without Body"),
    ] {
        let mut message = json!({"MessageId": "m", "ReceiptHandle": "r", "Body": "customer data"});
        message.as_object_mut().unwrap().remove(field);
        let found = received(json!({"Messages": [message]}).to_string().as_bytes()).unwrap_err();
        assert!(found.starts_with(error), "{found}");
    }
}

#[test]
fn a_body_that_is_no_text_is_an_error_even_beside_one_that_is() {
    for body in ["0", "1", "null", "{}"] {
        let answer = format!(
            r#"{{"Messages":[{{"MessageId":"a","ReceiptHandle":"r","Body":"text"}},{{"MessageId":"b","ReceiptHandle":"r","Body":{body}}}]}}"#
        );
        assert!(received(answer.as_bytes()).is_err(), "{body}");
    }
}

#[test]
fn an_answer_that_is_not_sqss_is_an_error_without_its_content() {
    for (answer, error) in [
        (&b"<html>login</html>"[..], "the answer is not JSON (line 1 column 1)"),
        (b"[1]", "the answer is JSON, but not SQS's (line 1 column 2)"),
        (br#"{"Messages":"customer"}"#, "the answer is JSON, but not SQS's (line 1 column 22)"),
        (br#"{"Messages":[{"MessageId":true}]}"#, "the answer is JSON, but not SQS's (line 1 column 30)"),
    ] {
        assert_eq!(received(answer).unwrap_err(), error);
    }
}

#[test]
fn half_a_surrogate_pair_or_invalid_utf8_costs_one_character_of_one_body() {
    let answer = |body: &[u8]| {
        let other = br#"{"MessageId":"m1","ReceiptHandle":"r1","Body":"\ud83d\ude00 \\ud83d"},"#;
        [
            &br#"{"Messages":["#[..],
            other,
            br#"{"MessageId":"m2","ReceiptHandle":"r2","Body":""#,
            body,
            br#""}]}"#,
        ]
        .concat()
    };
    for (body, expected) in [
        (&br"a\ud83d"[..], "a\u{fffd}"),
        (br"\ude00b", "\u{fffd}b"),
        (br"\ud83d\ud83d\ude00", "\u{fffd}😀"),
        (br"\\\ud83dx", "\\\u{fffd}x"),
        (br#"\ud83d\"x"#, "\u{fffd}\"x"),
        (b"\xff\\ud83d", "\u{fffd}\u{fffd}"),
        (b"\xf0\x9f\x98", "\u{fffd}"),
    ] {
        let deliveries = received(&answer(body)).unwrap();
        assert_eq!(deliveries[0].body, "😀 \\ud83d", "others stay as they are");
        assert_eq!(deliveries[1].body, expected);
    }
    for broken in [&br"\ud83"[..], br"\u", br"\x", b"\"", br"\"] {
        assert!(received(&answer(broken)).is_err());
    }
}

#[test]
fn each_entry_of_a_batch_gets_its_own_outcome() {
    let answer = json!({
        "Successful": [{"Id": "2"}, {"Id": "77"}, {"Id": "not-ours"}],
        "Failed": [{"Id": "0", "Code": "ReceiptHandleIsInvalid", "Message": "gone", "SenderFault": true}],
    });
    let outcome = parse_batch(answer.to_string().as_bytes(), 3).unwrap();
    let invalid = EntryFailure {
        code: "ReceiptHandleIsInvalid".to_owned(),
        message: "gone".to_owned(),
        sender_fault: true,
    };
    assert_eq!(outcome[0], Some(invalid));
    let unmentioned = outcome[1].as_ref().unwrap();
    assert_eq!(unmentioned.code, "Missing");
    assert!(!unmentioned.sender_fault, "unmentioned entries may be retried");
    assert_eq!(outcome[2], None);
}

#[test]
fn a_failures_code_and_message_are_one_short_line_each() {
    let failed = json!({"Id": "0", "Code": "a\nb\u{1b}".repeat(200), "Message": "c\rd".repeat(200)});
    let answer = json!({"Failed": [failed]}).to_string();
    let outcome = parse_batch(answer.as_bytes(), 1).unwrap();
    let failure = outcome[0].as_ref().unwrap();
    for line in [&failure.code, &failure.message] {
        assert!(line.chars().count() <= 301, "{line}");
        assert!(!line.contains(char::is_control), "{line:?}");
    }
}

#[test]
fn control_characters_are_taken_in_a_body_without_other_escapes_and_refused_elsewhere() {
    let read = |id: &str, body: &str| {
        let answer =
            format!(r#"{{"Messages":[{{"MessageId":"{id}","ReceiptHandle":"r","Body":"{body}"}}]}}"#);
        parse_receive(answer.as_bytes(), Instant::now(), EpochMs(1))
            .map(|mut messages| messages.remove(0).body)
    };
    assert_eq!(read("m", "{\n}").unwrap(), "{\n}");
    for (id, body) in [("m\n", "{}"), ("m", "{\n\\n}")] {
        let fault = read(id, body).unwrap_err();
        assert!(fault.starts_with("the answer is not JSON"), "{fault}");
    }
}

#[test]
fn an_entry_that_both_succeeded_and_failed_counts_as_failed() {
    let answer = br#"{"Successful":[{"Id":"0"}],"Failed":[{"Id":"0","Code":"InternalError"}]}"#;
    let outcome = parse_batch(answer, 1).unwrap();
    assert_eq!(outcome[0].as_ref().unwrap().code, "InternalError");
}

#[test]
fn an_answer_to_a_batch_of_more_than_sqs_sends_is_refused_before_it_takes_memory() {
    let answer = format!(r#"{{"Failed":[{}]}}"#, vec![r#"{"Id":"0"}"#; 30_000].join(","));
    assert_eq!(parse_batch(answer.as_bytes(), 1).unwrap_err(), "the answer is longer than 262144 bytes");
}

#[test]
fn a_refusal_is_read_in_every_form_it_comes_in() {
    let read = |header: Option<&str>, body: &str| {
        let refusal = parse_error(403, header, body.as_bytes());
        format!("{}: {}", refusal.code, peer_text(&refusal.message))
    };
    let json =
        r#"{"__type":"com.amazonaws.sqs#QueueDoesNotExist","message":"The specified queue does not exist."}"#;
    let header = Some("AWS.SimpleQueueService.NonExistentQueue;Sender");
    assert_eq!(read(header, json), "QueueDoesNotExist: The specified queue does not exist.");
    let coral = r#"{"__type":"com.amazon.coral.service#UnrecognizedClientException","Message":"no"}"#;
    assert_eq!(read(None, coral), "UnrecognizedClientException: no");
    assert_eq!(read(header, "{}"), "AWS.SimpleQueueService.NonExistentQueue: ");
    assert_eq!(read(None, r#"{"code":502,"message":"Bad gateway"}"#), "Http403: Bad gateway");
    let xml = "<?xml version=\"1.0\"?><ErrorResponse><Error><Type>Sender</Type><Code>InvalidClientTokenId</Code>\
               <Message>The security token\n is &quot;invalid&quot;.</Message></Error></ErrorResponse>";
    assert_eq!(read(None, xml), "InvalidClientTokenId: The security token is…");
    let nameless = "<Error><Code></Code><Message>who knows</Message></Error>";
    assert_eq!(read(None, nameless), "Http403: who knows");
    assert_eq!(read(header, nameless), "AWS.SimpleQueueService.NonExistentQueue: who knows");
    assert_eq!(read(None, "<html><h1>Blocked</h1> by <b>proxy</b></html>"), "Http403: Blocked by proxy");
    assert_eq!(read(None, ""), "Http403: ");
}
