//! SQS's JSON protocol as text: requests out, answers in. Pure: it knows no connection, no clock and no signature.
//!
//! It takes answers as strictly as the caller has to act on them (a message without its receipt handle cannot be
//! settled, so it is an error that names the field) and no stricter: unknown fields and unknown entries are ignored.

mod plain;
mod refusal;
mod requests;

use std::time::Duration;

use serde_json::{Map, Value};

use super::{BatchOutcome, EntryFailure, ReceiptHandle};
use crate::entitlement::EpochMs;
use crate::json::holds_at_most;
use refusal::one_line;
pub use refusal::{ErrorAnswer, parse_error};
pub use requests::{change_visibility_request, delete_request, receive_request, visibility_timeout_request};

/// What the protocol calls the content of its requests.
pub const CONTENT_TYPE: &str = "application/x-amz-json-1.0";

/// Ten messages with every attribute have some three hundred values: more would be memory for nothing.
const VALUES_MAX: usize = 4_096;

/// Where a JavaScript date ends: no message was sent later.
const SENT_MS_MAX: i64 = 8_640_000_000_000_000;

/// One call, before it is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireRequest {
    /// The `X-Amz-Target` header.
    pub target: &'static str,
    /// The JSON body.
    pub body: Vec<u8>,
}

/// One message as it came: a [`Delivery`](super::Delivery) but for the times, which the wire does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedMessage {
    /// The message's id.
    pub message_id: String,
    /// Settles this receipt.
    pub receipt_handle: ReceiptHandle,
    /// The body, as text.
    pub body: String,
    /// `SentTimestamp`, if the queue told one.
    pub sent_at: Option<EpochMs>,
    /// `ApproximateReceiveCount`, at least 1.
    pub receive_count: u32,
}

/// An answer that is not what SQS would send. Never holds a message's body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WireError(pub String);

/// The timeout in an answer to [`visibility_timeout_request`]: whole seconds as text, 0 s to 12 h.
pub fn parse_visibility_timeout(answer: &[u8]) -> Result<Duration, WireError> {
    const SECS_MAX: u64 = 12 * 60 * 60;
    let answer = object(answer)?;
    answer
        .get("Attributes")
        .and_then(|attributes| attributes.get("VisibilityTimeout"))
        .and_then(Value::as_str)
        .and_then(|secs| secs.parse().ok())
        .filter(|secs| *secs <= SECS_MAX)
        .map(Duration::from_secs)
        .ok_or_else(|| {
            WireError("the answer to GetQueueAttributes has no VisibilityTimeout of 0 to 43200 s".to_owned())
        })
}

/// The messages of an answer to [`receive_request`]; SQS leaves the list out when there are none.
pub fn parse_receive(answer: &[u8]) -> Result<Vec<ReceivedMessage>, WireError> {
    let plain = plain::messages(answer).and_then(|plain| plain.into_iter().map(plain_message).collect());
    match plain {
        Some(messages) => Ok(messages),
        None => parse_odd_receive(answer),
    }
}

/// The same for what is not exactly what SQS sends: slower, and it tells what is wrong.
pub fn parse_odd_receive(answer: &[u8]) -> Result<Vec<ReceivedMessage>, WireError> {
    let answer = object(answer)?;
    list(&answer, "Messages")?
        .iter()
        .enumerate()
        .map(|(index, message)| parse_message(index, message))
        .collect()
}

/// What became of each of the `entries` that were sent, in their order. One that the answer does not mention
/// counts as failed: a deletion that is not confirmed did not happen.
pub fn parse_batch(answer: &[u8], entries: usize) -> Result<BatchOutcome, WireError> {
    if let Some(successful) = plain::all_successful(answer) {
        let mut is_done = vec![false; entries];
        for index in successful.iter().filter_map(|id| id.parse::<usize>().ok()) {
            if let Some(slot) = is_done.get_mut(index) {
                *slot = true;
            }
        }
        let outcome = is_done.into_iter().map(|is_done| (!is_done).then(unmentioned));
        return Ok(outcome.collect());
    }
    let answer = object(answer)?;
    let mut outcome: BatchOutcome = vec![Some(unmentioned()); entries];
    for succeeded in list(&answer, "Successful")? {
        if let Some(slot) = entry_index(succeeded).and_then(|index| outcome.get_mut(index)) {
            *slot = None;
        }
    }
    // Failures last: should an entry be in both lists, it is safer to try it again.
    for failed in list(&answer, "Failed")? {
        if let Some(slot) = entry_index(failed).and_then(|index| outcome.get_mut(index)) {
            *slot = Some(EntryFailure {
                code: one_line(text(failed, "Code").unwrap_or("Unknown")),
                message: one_line(text(failed, "Message").unwrap_or_default()),
                sender_fault: failed
                    .get("SenderFault")
                    .and_then(Value::as_bool)
                    .unwrap_or(false),
            });
        }
    }
    Ok(outcome)
}

fn unmentioned() -> EntryFailure {
    EntryFailure {
        code: "Missing".to_owned(),
        message: "the answer does not mention this entry".to_owned(),
        sender_fault: false,
    }
}

fn parse_message(index: usize, message: &Value) -> Result<ReceivedMessage, WireError> {
    let required = |name: &str| {
        text(message, name)
            .map(str::to_owned)
            .ok_or_else(|| WireError(format!("message {index} of the answer has no {name}")))
    };
    let attribute = |name: &str| -> Option<i64> {
        match message.get("Attributes")?.get(name)? {
            Value::String(digits) => digits.parse().ok(),
            Value::Number(number) => number.as_i64(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        }
    };
    Ok(ReceivedMessage {
        message_id: required("MessageId")?,
        receipt_handle: ReceiptHandle(required("ReceiptHandle")?),
        body: required("Body")?,
        sent_at: sent_at(attribute("SentTimestamp")),
        receive_count: receive_count(attribute("ApproximateReceiveCount")),
    })
}

/// None if a field that is needed is missing.
fn plain_message(message: plain::Message<'_>) -> Option<ReceivedMessage> {
    let number = |digits: Option<&str>| digits.and_then(|digits| digits.parse().ok());
    Some(ReceivedMessage {
        message_id: message.id?,
        receipt_handle: ReceiptHandle(message.receipt_handle?),
        body: message.body?,
        sent_at: sent_at(number(message.sent_timestamp)),
        receive_count: receive_count(number(message.receive_count)),
    })
}

/// A time that is none would be taken for the far-past mark, or for later than every other.
pub fn sent_at(ms: Option<i64>) -> Option<EpochMs> {
    ms.filter(|ms| (1..=SENT_MS_MAX).contains(ms)).map(EpochMs)
}

fn receive_count(count: Option<i64>) -> u32 {
    u32::try_from(count.unwrap_or(1).max(1)).unwrap_or(u32::MAX)
}

fn object(answer: &[u8]) -> Result<Map<String, Value>, WireError> {
    if !holds_at_most(answer, VALUES_MAX) {
        return Err(WireError(format!(
            "the answer holds more than {VALUES_MAX} values"
        )));
    }
    match serde_json::from_slice(answer) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(WireError("the answer is JSON but not an object".to_owned())),
        // serde's words carry the place and never the text around it.
        Err(error) => Err(WireError(format!("the answer is not JSON ({error})"))),
    }
}

fn list<'a>(answer: &'a Map<String, Value>, name: &str) -> Result<&'a [Value], WireError> {
    match answer.get(name) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(_) => Err(WireError(format!("{name} in the answer is not a list"))),
    }
}

fn text<'a>(fields: &'a Value, name: &str) -> Option<&'a str> {
    fields.get(name)?.as_str()
}

fn entry_index(entry: &Value) -> Option<usize> {
    text(entry, "Id")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::refusal::QUOTED_CHARS_MAX;
    use super::*;

    const QUEUE: &str = "https://sqs.eu-central-1.amazonaws.com/123456789012/events";

    fn body(request: &WireRequest) -> Value {
        serde_json::from_slice(&request.body).unwrap()
    }

    fn handle(text: &str) -> ReceiptHandle {
        ReceiptHandle(text.to_owned())
    }

    #[test]
    fn a_receive_asks_for_every_attribute_under_both_names() {
        let request = receive_request(QUEUE, 10, Duration::from_secs(20), None);
        assert_eq!(request.target, "AmazonSQS.ReceiveMessage");
        let mut expected = json!({
            "QueueUrl": QUEUE, "MaxNumberOfMessages": 10, "WaitTimeSeconds": 20,
            "MessageSystemAttributeNames": ["All"], "AttributeNames": ["All"],
        });
        assert_eq!(body(&request), expected);
        let hidden = Some(Duration::from_secs(30));
        expected["VisibilityTimeout"] = 30.into();
        assert_eq!(
            body(&receive_request(QUEUE, 10, Duration::from_secs(20), hidden)),
            expected
        );
    }

    #[test]
    fn one_message_received_twice_goes_into_a_delete_under_two_ids() {
        let request = delete_request(QUEUE, &[handle("a"), handle("a")]);
        assert_eq!(request.target, "AmazonSQS.DeleteMessageBatch");
        assert_eq!(
            body(&request),
            json!({"QueueUrl": QUEUE, "Entries": [
                {"Id": "0", "ReceiptHandle": "a"}, {"Id": "1", "ReceiptHandle": "a"}]})
        );
    }

    #[test]
    fn visibility_is_sent_in_whole_seconds_entry_by_entry() {
        let entries = [
            (handle("a"), Duration::ZERO),
            (handle("b"), Duration::from_millis(90_500)),
        ];
        let request = change_visibility_request(QUEUE, &entries);
        assert_eq!(request.target, "AmazonSQS.ChangeMessageVisibilityBatch");
        assert_eq!(
            body(&request)["Entries"],
            json!([{"Id": "0", "ReceiptHandle": "a", "VisibilityTimeout": 0},
                   {"Id": "1", "ReceiptHandle": "b", "VisibilityTimeout": 90}])
        );
    }

    #[test]
    fn an_answer_without_messages_is_an_empty_one() {
        assert_eq!(parse_receive(b"{}"), Ok(vec![]));
        assert_eq!(parse_receive(br#"{"Messages":null}"#), Ok(vec![]));
    }

    #[test]
    fn a_message_comes_with_its_times_and_count() {
        let answer = json!({"Messages": [{
            "MessageId": "m-1", "ReceiptHandle": "r-1", "MD5OfBody": "x", "Body": "{\"a\":\"ü\"}",
            "Attributes": {"SentTimestamp": "1793491200123", "ApproximateReceiveCount": "3", "SenderId": "AIDA"},
        }]});
        assert_eq!(
            parse_receive(answer.to_string().as_bytes()),
            Ok(vec![ReceivedMessage {
                message_id: "m-1".to_owned(),
                receipt_handle: handle("r-1"),
                body: "{\"a\":\"ü\"}".to_owned(),
                sent_at: Some(EpochMs(1_793_491_200_123)),
                receive_count: 3,
            }])
        );
    }

    #[test]
    fn what_has_more_fields_than_sqs_documents_is_read_alike() {
        let of = |message: &Value| json!({"Messages": [message]}).to_string();
        let mut message = json!({
            "MessageId": "m", "ReceiptHandle": "r", "Body": "b\n", "MD5OfBody": "x", "MessageAttributes": {"a": {"b": [1]}},
            "Attributes": {"SentTimestamp": "17", "ApproximateReceiveCount": "2", "AWSTraceHeader": "Root=1"},
        });
        let plain = parse_receive(of(&message).as_bytes()).unwrap();
        message["Attributes"]["SentTimestamp"] = 17.into();
        message["New"] = json!([{}]);
        assert_eq!(parse_receive(of(&message).as_bytes()).unwrap(), plain);
        assert_eq!((plain[0].sent_at, plain[0].receive_count), (Some(EpochMs(17)), 2));
    }

    #[test]
    fn a_message_without_attributes_was_received_once_at_an_unknown_time() {
        let answer = br#"{"Messages":[{"MessageId":"m","ReceiptHandle":"r","Body":""}]}"#;
        let messages = parse_receive(answer).unwrap();
        assert_eq!((messages[0].sent_at, messages[0].receive_count), (None, 1));
    }

    #[test]
    fn a_time_of_sending_that_is_none_is_unknown() {
        for odd in ["0", "-1", "9223372036854775807", "soon"] {
            let message = json!({"MessageId": "m", "ReceiptHandle": "r", "Body": "", "Attributes": {"SentTimestamp": odd}});
            let answer = json!({"Messages": [message]}).to_string();
            assert_eq!(
                parse_receive(answer.as_bytes()).unwrap()[0].sent_at,
                None,
                "{odd}"
            );
        }
    }

    #[test]
    fn a_message_that_could_not_be_settled_is_an_error_that_names_the_field() {
        for field in ["MessageId", "ReceiptHandle", "Body"] {
            let mut message = json!({"MessageId": "m", "ReceiptHandle": "r", "Body": "customer data"});
            message.as_object_mut().unwrap().remove(field);
            let error = parse_receive(json!({"Messages": [message]}).to_string().as_bytes()).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("message 0 of the answer has no {field}")
            );
        }
    }

    #[test]
    fn an_answer_that_is_not_sqs_is_an_error_without_its_content() {
        assert_eq!(
            parse_receive(b"<html>login</html>").unwrap_err().to_string(),
            "the answer is not JSON (expected value at line 1 column 1)"
        );
        assert_eq!(
            parse_receive(b"[1]").unwrap_err().to_string(),
            "the answer is JSON but not an object"
        );
        let wrong = parse_receive(br#"{"Messages":"m"}"#).unwrap_err().to_string();
        assert_eq!(wrong, "Messages in the answer is not a list");
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
        assert_eq!(outcome[1].as_ref().unwrap().code, "Missing");
        assert!(
            !outcome[1].as_ref().unwrap().sender_fault,
            "unmentioned entries may be tried again"
        );
        assert_eq!(outcome[2], None);
    }

    #[test]
    fn a_failures_code_and_words_are_one_short_line_each() {
        let failed = json!({"Id": "0", "Code": "a\nb\u{1b}".repeat(200), "Message": "c\rd".repeat(200)});
        let answer = json!({"Failed": [failed]}).to_string();
        let outcome = parse_batch(answer.as_bytes(), 1).unwrap();
        let failure = outcome[0].as_ref().unwrap();
        for line in [&failure.code, &failure.message] {
            assert!(line.chars().count() <= QUOTED_CHARS_MAX + 1, "{line}");
            assert!(!line.contains(char::is_control), "{line:?}");
        }
    }

    #[test]
    fn an_answer_of_more_values_than_sqs_sends_is_refused_before_it_takes_memory() {
        let answer = format!(r#"{{"Messages":[{}0]}}"#, "0,".repeat(100_000));
        assert_eq!(
            parse_receive(answer.as_bytes()).unwrap_err().to_string(),
            "the answer holds more than 4096 values"
        );
    }

    #[test]
    fn an_entry_that_both_succeeded_and_failed_counts_as_failed() {
        let answer = br#"{"Successful":[{"Id":"0"}],"Failed":[{"Id":"0","Code":"InternalError"}]}"#;
        assert_eq!(
            parse_batch(answer, 1).unwrap()[0].as_ref().unwrap().code,
            "InternalError"
        );
    }
}
