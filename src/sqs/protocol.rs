//! SQS's JSON protocol: requests and typed answers. Pure: no connection, no clock, no signature.
//!
//! Unknown fields are ignored. A message without its receipt handle could never be deleted, so it is an error.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use super::bodies::taken_out;
use super::{BatchOutcome, Delivery, EntryFailure, ReceiptHandle};
use crate::aws::answers;
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

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ReceiveRequest<'a> {
    queue_url: &'a str,
    max_number_of_messages: u8,
    wait_time_seconds: u64,
    message_system_attribute_names: [&'static str; 1],
    /// The older name of the same: some emulators know only this one.
    attribute_names: [&'static str; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    visibility_timeout: Option<u64>,
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
    json(&ReceiveRequest {
        queue_url,
        max_number_of_messages: max_messages,
        wait_time_seconds: wait.as_secs(),
        message_system_attribute_names: ["All"],
        attribute_names: ["All"],
        visibility_timeout: visibility.map(|visibility| visibility.as_secs()),
    })
}

/// Deletes up to 10 messages, or makes them visible again after the given times (whole seconds). The entries' ids are
/// their indices: a message that was received twice may be in one batch twice, and SQS refuses a batch with equal ids.
pub fn batch<'a>(
    queue_url: &str,
    entries: impl Iterator<Item = (&'a ReceiptHandle, Option<Duration>)>,
) -> Vec<u8> {
    let entries = entries.enumerate().map(|(index, (handle, visibility))| EntryRequest {
        id: index.to_string(),
        receipt_handle: &handle.0,
        visibility_timeout: visibility.map(|visibility| visibility.as_secs()),
    });
    json(&BatchRequest { queue_url, entries: entries.collect() })
}

/// Asks for this attribute of the queue, or for `All`.
pub fn get_attributes(queue_url: &str, name: &str) -> Vec<u8> {
    json(&json!({"QueueUrl": queue_url, "AttributeNames": [name]}))
}

fn json(request: &impl Serialize) -> Vec<u8> {
    // A struct of texts and numbers is JSON in any case.
    serde_json::to_vec(request).unwrap_or_default()
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
    body: Option<String>,
    /// See [`taken_out`].
    taken_out: Option<usize>,
    attributes: Option<ReceivedAttributes>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct ReceivedAttributes {
    #[serde(deserialize_with = "number")]
    sent_timestamp: Option<i64>,
    #[serde(deserialize_with = "number")]
    approximate_receive_count: Option<i64>,
}

/// SQS writes numbers as text, some emulators as numbers. Anything else counts as absent.
fn number<'de, D: Deserializer<'de>>(value: D) -> Result<Option<i64>, D::Error> {
    let value = <&RawValue>::deserialize(value)?;
    Ok(value.get().trim_matches('"').parse().ok())
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
    let mut delivery = |message: Received| {
        let taken_out = message.taken_out.and_then(|index| bodies.get_mut(index)?.take());
        let attributes = message.attributes.unwrap_or_default();
        let count = attributes.approximate_receive_count.unwrap_or(1);
        Ok(Delivery {
            message_id: message.message_id,
            receipt_handle: ReceiptHandle(message.receipt_handle),
            body: taken_out.or(message.body).ok_or("the answer has a message without Body")?,
            sent_at: sent_at(attributes.sent_timestamp).unwrap_or(now),
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
    let successful = answer.successful.into_iter().flatten().map(|entry| (entry.id, None));
    let failed = answer.failed.into_iter().flatten().map(|entry| {
        let failure = EntryFailure {
            code: entry.code.as_deref().and_then(peer_code).unwrap_or("Unknown").to_owned(),
            message: peer_text(entry.message.as_deref().unwrap_or_default()),
            sender_fault: entry.sender_fault,
        };
        (entry.id, Some(failure))
    });
    let mut outcome = vec![Some(unmentioned); entries];
    // Failures last: if an entry is in both lists, it is safer to try again.
    for (id, result) in successful.chain(failed) {
        if let Some(slot) = id.parse::<usize>().ok().and_then(|index| outcome.get_mut(index)) {
            *slot = result;
        }
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
    let body = &body[..body.len().min(REFUSAL_BYTES_MAX)];
    let page = || (String::new(), without_tags(&String::from_utf8_lossy(body)));
    let (code, message) = answers::error(body).unwrap_or_else(page);
    let code = [&*code, error_header.unwrap_or_default()].into_iter().find_map(answers::bare_code);
    QueueRefusal { status, code: code.map_or_else(|| format!("Http{status}"), str::to_owned), message }
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

/// So do lone surrogates. An error holds nothing of the answer, unlike serde's, which quotes values of a wrong type.
fn read<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let read = serde_json::from_str(text).or_else(|error| match replace_lone_surrogates(text) {
        Some(repaired) => serde_json::from_str(&repaired),
        None => Err(error),
    });
    read.map_err(|error| {
        let what = if error.is_data() { "JSON, but not SQS's" } else { "not JSON" };
        format!("the answer is {what} (line {} column {})", error.line(), error.column())
    })
}

#[cfg(test)]
mod tests;
