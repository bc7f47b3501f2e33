//! The calls that are made, as text.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::WireRequest;
use crate::json::writer;
use crate::sqs::ReceiptHandle;

/// Asks for up to `max_messages` messages, waiting up to `wait` (whole seconds) for the first. They are hidden for as
/// long as the queue says, or for `hidden` (whole seconds).
pub fn receive_request(
    queue_url: &str,
    max_messages: u8,
    wait: Duration,
    hidden: Option<Duration>,
) -> WireRequest {
    let receive = Receive {
        queue_url,
        max_number_of_messages: max_messages,
        wait_time_seconds: wait.as_secs(),
        visibility_timeout: hidden.map(|hidden| hidden.as_secs()),
        message_system_attribute_names: &["All"],
        attribute_names: &["All"],
    };
    WireRequest {
        target: "AmazonSQS.ReceiveMessage",
        body: written(&receive, RECEIVE_BYTES),
    }
}

/// A receive, as it is sent.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Receive<'a> {
    queue_url: &'a str,
    max_number_of_messages: u8,
    wait_time_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    visibility_timeout: Option<u64>,
    message_system_attribute_names: &'a [&'a str],
    /// The older name of the same: some stand-ins for SQS know only this one.
    attribute_names: &'a [&'a str],
}

/// Room for a receive.
const RECEIVE_BYTES: usize = 256;

/// Deletes up to 10 messages. The entries' ids are their indices: a redelivered message may be in one batch
/// twice, and equal ids would have the whole batch refused.
pub fn delete_request(queue_url: &str, receipt_handles: &[ReceiptHandle]) -> WireRequest {
    let entries = receipt_handles.iter().enumerate();
    let entries = entries.map(|(index, handle)| Entry::new(index, handle, None));
    batch_request("AmazonSQS.DeleteMessageBatch", queue_url, entries.collect())
}

/// Makes up to 10 messages visible again after the given times (whole seconds). Ids as in [`delete_request`].
pub fn change_visibility_request(queue_url: &str, entries: &[(ReceiptHandle, Duration)]) -> WireRequest {
    let entries = entries.iter().enumerate();
    let entries =
        entries.map(|(index, (handle, timeout))| Entry::new(index, handle, Some(timeout.as_secs())));
    batch_request(
        "AmazonSQS.ChangeMessageVisibilityBatch",
        queue_url,
        entries.collect(),
    )
}

/// Asks for the queue's visibility timeout.
pub fn visibility_timeout_request(queue_url: &str) -> WireRequest {
    let body = json!({"QueueUrl": queue_url, "AttributeNames": ["VisibilityTimeout"]});
    WireRequest {
        target: "AmazonSQS.GetQueueAttributes",
        body: body.to_string().into_bytes(),
    }
}

/// Room for a batch of ten handles of the length that SQS's have.
const BATCH_BYTES: usize = 6 * 1024;

/// A batch, as it is sent.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Batch<'a> {
    queue_url: &'a str,
    entries: Vec<Entry<'a>>,
}

/// One entry of a batch, as it is sent.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Entry<'a> {
    id: String,
    receipt_handle: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    visibility_timeout: Option<u64>,
}

impl<'a> Entry<'a> {
    fn new(index: usize, handle: &'a ReceiptHandle, visibility_timeout: Option<u64>) -> Self {
        Self {
            id: index.to_string(),
            receipt_handle: &handle.0,
            visibility_timeout,
        }
    }
}

fn batch_request(target: &'static str, queue_url: &str, entries: Vec<Entry<'_>>) -> WireRequest {
    let batch = Batch { queue_url, entries };
    WireRequest {
        target,
        body: written(&batch, BATCH_BYTES),
    }
}

/// Text and numbers: nothing that is sent can fail to be JSON.
fn written(body: &impl Serialize, room: usize) -> Vec<u8> {
    writer::to_text(body, room).unwrap_or_default().into_bytes()
}
