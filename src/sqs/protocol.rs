//! SQS's JSON protocol: requests and typed answers. Pure: no connection, no clock, no signature.
//!
//! Unknown fields are ignored. A message without its receipt handle could never be deleted, so it is an error.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::bodies::taken_out;
use super::errors::Fault;
use super::{BatchOutcome, Delivery, EntryFailure, ReceiptHandle};
use crate::aws::answers::xml_error;
use crate::clock::EpochMs;
use crate::json::replace_lone_surrogates;
use crate::log::{peer_code, peer_text};

/// The content type of every call.
pub const CONTENT_TYPE: &str = "application/x-amz-json-1.0";

/// The longest answer to anything but a receive. SQS's have a tenth of that; typed lists take more memory than text.
const SHORT_ANSWER_BYTES_MAX: usize = 256 * 1024;
/// How much of a refusal is read: the beginning of a proxy's page is enough to recognize it.
const REFUSAL_BYTES_MAX: usize = 16 * 1024;
/// Where a JavaScript date ends: no message was sent later.
const SENT_MS_MAX: i64 = 8_640_000_000_000_000;

/// What a call was refused with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueRefusal {
    /// The HTTP status.
    pub status: u16,
    /// SQS's code without its namespace (`QueueDoesNotExist`), or `Http<status>` if there was none. One short line.
    pub code: String,
    /// SQS's message, or the text that came instead. As it came: it may hold secrets and line breaks.
    pub message: String,
}

impl QueueRefusal {
    pub(super) fn fault(&self) -> Fault {
        Fault::of(self.status, &self.code, &self.message)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct BatchRequest<'a> {
    queue_url: &'a str,
    entries: Vec<EntryRequest<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct EntryRequest<'a> {
    id: String,
    receipt_handle: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    visibility_timeout: Option<u64>,
}

/// Receives up to `max_messages`, waiting up to `wait` (whole seconds) for the first. They stay invisible for as long as
/// the queue says, or for `visibility` (whole seconds).
pub fn receive(queue_url: &str, max_messages: u8, wait: Duration, visibility: Option<Duration>) -> Vec<u8> {
    let mut request = json!({
        "QueueUrl": queue_url,
        "MaxNumberOfMessages": max_messages,
        "WaitTimeSeconds": wait.as_secs(),
        "MessageSystemAttributeNames": ["All"],
        // The older name of the same: some emulators know only this one.
        "AttributeNames": ["All"],
    });
    if let Some(visibility) = visibility {
        request["VisibilityTimeout"] = visibility.as_secs().into();
    }
    json(&request)
}

/// Deletes up to 10 messages, or makes them visible again after the given times (whole seconds). The entries' ids are
/// their indices: a message that was received twice may be in one batch twice, and SQS refuses a batch with equal ids.
pub fn batch<'a>(
    queue_url: &str,
    entries: impl Iterator<Item = (&'a ReceiptHandle, Option<Duration>)>,
) -> Vec<u8> {
    let entry =
        |(index, (handle, visibility)): (usize, (&'a ReceiptHandle, Option<Duration>))| EntryRequest {
            id: index.to_string(),
            receipt_handle: &handle.0,
            visibility_timeout: visibility.as_ref().map(Duration::as_secs),
        };
    let entries = entries.enumerate().map(entry).collect();
    json(&BatchRequest { queue_url, entries })
}

fn json(request: &impl Serialize) -> Vec<u8> {
    // A struct of texts and numbers is JSON in any case.
    serde_json::to_vec(request).unwrap_or_default()
}

/// Asks for this attribute of the queue, or for `All`.
pub fn get_attributes(queue_url: &str, name: &str) -> Vec<u8> {
    json(&json!({"QueueUrl": queue_url, "AttributeNames": [name]}))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ReceiveAnswer {
    messages: Option<Vec<Received>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Received {
    message_id: String,
    receipt_handle: String,
    body: Body,
    #[serde(default)]
    attributes: ReceivedAttributes,
}

/// See [`taken_out`].
#[derive(Deserialize)]
#[serde(untagged)]
enum Body {
    TakenOut(usize),
    InPlace(String),
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct ReceivedAttributes {
    sent_timestamp: Option<Box<RawValue>>,
    approximate_receive_count: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct BatchAnswer {
    successful: Option<Vec<BatchEntry>>,
    failed: Option<Vec<BatchEntry>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct BatchEntry {
    id: String,
    code: Option<String>,
    message: Option<String>,
    #[serde(default)]
    sender_fault: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AttributesAnswer {
    attributes: Option<HashMap<String, String>>,
}

/// The messages of an answer to [`receive`]; SQS leaves the list out when there are none. `now` stands for an unknown
/// `SentTimestamp`.
pub fn parse_receive(answer: &[u8], received_at: Instant, now: EpochMs) -> Result<Vec<Delivery>, String> {
    let (remaining, mut bodies) = taken_out(&text(answer));
    let answer: ReceiveAnswer = read(&remaining)?;
    // SQS writes numbers as text, some emulators as numbers.
    let number = |value: Option<Box<RawValue>>| value?.get().trim_matches('"').parse::<i64>().ok();
    let mut delivery = |message: Received| {
        let body = match message.body {
            Body::TakenOut(index) => bodies.get_mut(index).and_then(Option::take),
            Body::InPlace(body) => Some(body),
        };
        let count = number(message.attributes.approximate_receive_count).unwrap_or(1);
        Ok(Delivery {
            message_id: message.message_id,
            receipt_handle: ReceiptHandle(message.receipt_handle),
            body: body.ok_or("the answer has a Body that is no text")?,
            sent_at: sent_at(number(message.attributes.sent_timestamp)).unwrap_or(now),
            receive_count: u32::try_from(count.max(1)).unwrap_or(u32::MAX),
            received_at,
        })
    };
    answer.messages.into_iter().flatten().map(&mut delivery).collect()
}

/// A time outside JavaScript's dates would be taken for the far-past marker, or for later than every other.
pub fn sent_at(ms: Option<i64>) -> Option<EpochMs> {
    ms.filter(|ms| (1..=SENT_MS_MAX).contains(ms)).map(EpochMs)
}

/// The outcome of each of the `entries` that were sent, in their order. One that the answer does not mention counts as
/// failed: a deletion that is not confirmed did not happen.
pub fn parse_batch(answer: &[u8], entries: usize) -> Result<BatchOutcome, String> {
    let answer: BatchAnswer = read_short(answer)?;
    let unmentioned = EntryFailure {
        code: "Missing".to_owned(),
        message: "the answer does not mention this entry".to_owned(),
        sender_fault: false,
    };
    let mut outcome: BatchOutcome = vec![Some(unmentioned); entries];
    let mut set = |id: &str, result: Option<EntryFailure>| {
        if let Some(slot) = id.parse::<usize>().ok().and_then(|index| outcome.get_mut(index)) {
            *slot = result;
        }
    };
    for entry in answer.successful.unwrap_or_default() {
        set(&entry.id, None);
    }
    // Failures last: if an entry is in both lists, it is safer to try again.
    for entry in answer.failed.unwrap_or_default() {
        let failure = EntryFailure {
            code: entry.code.as_deref().and_then(peer_code).unwrap_or("Unknown").to_owned(),
            message: peer_text(entry.message.as_deref().unwrap_or_default()),
            sender_fault: entry.sender_fault,
        };
        set(&entry.id, Some(failure));
    }
    Ok(outcome)
}

/// The attributes in an answer to [`get_attributes`], by name.
pub fn parse_attributes(answer: &[u8]) -> Result<HashMap<String, String>, String> {
    let answer: AttributesAnswer = read_short(answer)?;
    Ok(answer.attributes.unwrap_or_default())
}

/// Code and message of a refusal: SQS's JSON, the XML of its query protocol, or whatever a proxy made of it.
/// `error_header` is `x-amzn-query-error` (`AWS.SimpleQueueService.NonExistentQueue;Sender`) or `x-amzn-errortype`.
pub fn parse_error(status: u16, error_header: Option<&str>, body: &[u8]) -> QueueRefusal {
    let body = String::from_utf8_lossy(&body[..body.len().min(REFUSAL_BYTES_MAX)]);
    let (code, message) = if let Ok(error) = serde_json::from_str::<Map<String, Value>>(&body) {
        let field = |name| error.get(name).and_then(Value::as_str).map(str::to_owned);
        let message = field("message").or(field("Message"));
        (field("__type").or(field("code")), message.unwrap_or_default())
    } else if let Some((code, message)) = xml_error(&body) {
        (Some(code), message)
    } else {
        (None, without_tags(&body))
    };
    let codes = [code.as_deref(), error_header];
    let code = codes.into_iter().flatten().find_map(bare_code);
    QueueRefusal { status, code: code.map_or_else(|| format!("Http{status}"), str::to_owned), message }
}

/// `com.amazonaws.sqs#QueueDoesNotExist` -> `QueueDoesNotExist`; headers append `;Sender` or `:http://…`.
fn bare_code(code: &str) -> Option<&str> {
    let code = code.rsplit_once('#').map_or(code, |(_, bare)| bare);
    peer_code(code.split([';', ':']).next().unwrap_or_default().trim())
}

fn without_tags(html: &str) -> String {
    let pieces = html.split('<');
    // The first piece has no tag before it, and then no `>` either.
    let texts = pieces.map(|piece| piece.split_once('>').map_or(piece, |(_, text)| text));
    texts.collect::<Vec<_>>().join(" ")
}

fn read_short<T: DeserializeOwned>(answer: &[u8]) -> Result<T, String> {
    if answer.len() > SHORT_ANSWER_BYTES_MAX {
        return Err(format!("the answer is longer than {SHORT_ANSWER_BYTES_MAX} bytes"));
    }
    read(&text(answer))
}

/// Invalid UTF-8 becomes U+FFFD, so that one odd body does not lose the batch.
fn text(answer: &[u8]) -> Cow<'_, str> {
    // Checked as a whole first, which is faster.
    str::from_utf8(answer).map_or_else(|_| String::from_utf8_lossy(answer), Cow::Borrowed)
}

/// So do lone surrogates. An error tells nothing of the answer's content.
fn read<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let read = serde_json::from_str(text).or_else(|error| match replace_lone_surrogates(text) {
        Some(repaired) => serde_json::from_str(&repaired),
        None => Err(error),
    });
    read.map_err(|error| describe(&error))
}

/// What is wrong, without anything of the answer: serde quotes values of a wrong type.
fn describe(error: &serde_json::Error) -> String {
    let (cause, line, column) = (error.to_string(), error.line(), error.column());
    let field = cause.strip_prefix("missing field `");
    let what = match field.and_then(|rest| rest.split_once('`')) {
        Some((field, _)) => format!("has no {field}"),
        None if error.is_data() => "is JSON, but not SQS's".to_owned(),
        None => "is not JSON".to_owned(),
    };
    format!("the answer {what} (line {line} column {column})")
}

#[cfg(test)]
mod tests;
