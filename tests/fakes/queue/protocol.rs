//! SQS's JSON protocol, the side of the queue: what callers receive for, and what they get.

use std::borrow::Cow;
use std::fmt::Write;

use serde::Deserialize;

use super::Supply;
use super::http::Answer;
use super::store::{Body, Delivery, Receipt};

/// The operations that the queue supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Receive,
    DeleteBatch,
    ChangeVisibilityBatch,
    GetAttributes,
}

impl Operation {
    pub const COUNT: usize = 4;

    /// The `X-Amz-Target` that asks for it.
    pub fn from_target(target: &str) -> Option<Self> {
        match target {
            "AmazonSQS.ReceiveMessage" => Some(Self::Receive),
            "AmazonSQS.DeleteMessageBatch" => Some(Self::DeleteBatch),
            "AmazonSQS.ChangeMessageVisibilityBatch" => Some(Self::ChangeVisibilityBatch),
            "AmazonSQS.GetQueueAttributes" => Some(Self::GetAttributes),
            _ => None,
        }
    }
}

/// A call that is refused as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    pub namespace: &'static str,
    pub code: &'static str,
    pub message: String,
}

/// Where SQS's own faults are named, and where those of every AWS service are.
pub const SQS: &str = "com.amazonaws.sqs";
pub const COMMON: &str = "com.amazon.coral.service";

impl Refusal {
    /// By SQS's own rules.
    pub fn of_sqs(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status: if code == "OverLimit" { 403 } else { 400 },
            namespace: SQS,
            code,
            message: message.into(),
        }
    }

    /// By the rules of every AWS service.
    pub fn common(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, namespace: COMMON, code, message: message.into() }
    }

    pub fn answer(&self) -> Answer {
        let body = serde_json::json!({
            "__type": format!("{}#{}", self.namespace, self.code),
            "message": self.message,
        });
        let side = if self.status < 500 { "Sender" } else { "Receiver" };
        Answer {
            status: self.status,
            content_type: "application/x-amz-json-1.0",
            query_error: Some(format!("{};{side}", self.code)),
            body: body.to_string().into_bytes(),
        }
    }
}

/// The answer to a call that was served.
pub fn served(body: String) -> Answer {
    Answer {
        status: 200,
        content_type: "application/x-amz-json-1.0",
        query_error: None,
        body: body.into_bytes(),
    }
}

/// `ReceiveMessage`. A field that is not here is refused: the queue would not know what to do about it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub struct ReceiveCall<'a> {
    #[serde(borrow)]
    pub queue_url: Cow<'a, str>,
    pub max_number_of_messages: Option<i64>,
    pub wait_time_seconds: Option<i64>,
    pub visibility_timeout: Option<i64>,
    #[serde(default, borrow)]
    pub attribute_names: Vec<Cow<'a, str>>,
    #[serde(default, borrow)]
    pub message_system_attribute_names: Vec<Cow<'a, str>>,
    #[serde(default, borrow)]
    pub message_attribute_names: Vec<Cow<'a, str>>,
}

/// `DeleteMessageBatch`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub struct DeleteCall<'a> {
    #[serde(borrow)]
    pub queue_url: Cow<'a, str>,
    #[serde(borrow)]
    pub entries: Vec<DeleteEntry<'a>>,
}

/// One entry of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub struct DeleteEntry<'a> {
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    #[serde(borrow)]
    pub receipt_handle: Cow<'a, str>,
}

/// `ChangeMessageVisibilityBatch`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub struct ChangeCall<'a> {
    #[serde(borrow)]
    pub queue_url: Cow<'a, str>,
    #[serde(borrow)]
    pub entries: Vec<ChangeEntry<'a>>,
}

/// One entry of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub struct ChangeEntry<'a> {
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    #[serde(borrow)]
    pub receipt_handle: Cow<'a, str>,
    pub visibility_timeout: Option<i64>,
}

/// `GetQueueAttributes`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub struct AttributesCall<'a> {
    #[serde(borrow)]
    pub queue_url: Cow<'a, str>,
    #[serde(default, borrow)]
    pub attribute_names: Vec<Cow<'a, str>>,
}

/// Reads a call.
pub fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body)
        .map_err(|error| Refusal::common(400, "SerializationException", error.to_string()))
}

/// What SQS demands of every batch.
pub fn check_batch(ids: &[&str]) -> Result<(), Refusal> {
    if ids.is_empty() {
        return Err(Refusal::of_sqs(
            "EmptyBatchRequest",
            "There should be at least one entry in the request.",
        ));
    }
    if ids.len() > 10 {
        let message = format!("Maximum number of entries per request are 10. You have sent {}.", ids.len());
        return Err(Refusal::of_sqs("TooManyEntriesInBatchRequest", message));
    }
    for (index, id) in ids.iter().enumerate() {
        let is_letter = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if id.is_empty() || id.len() > 80 || !id.chars().all(is_letter) {
            let message = "A batch entry id can only contain alphanumeric characters, hyphens and underscores. \
                         It can be at most 80 letters long.";
            return Err(Refusal::of_sqs("InvalidBatchEntryId", message));
        }
        if ids[..index].contains(id) {
            return Err(Refusal::of_sqs("BatchEntryIdsNotDistinct", format!("Id {id} repeated.")));
        }
    }
    Ok(())
}

/// A whole number within bounds, or the default.
pub fn within(name: &str, given: Option<i64>, bounds: (i64, i64), default: i64) -> Result<u64, Refusal> {
    let value = given.unwrap_or(default);
    if (bounds.0..=bounds.1).contains(&value) {
        return Ok(value.unsigned_abs());
    }
    Err(Refusal::of_sqs(
        "InvalidParameterValue",
        format!(
            "Value {value} for parameter {name} is invalid. Reason: Must be between {} and {}, if provided.",
            bounds.0, bounds.1
        ),
    ))
}

/// The system attributes that SQS knows.
const SYSTEM_ATTRIBUTES: [&str; 10] = [
    "All",
    "SenderId",
    "SentTimestamp",
    "ApproximateReceiveCount",
    "ApproximateFirstReceiveTimestamp",
    "SequenceNumber",
    "MessageDeduplicationId",
    "MessageGroupId",
    "AWSTraceHeader",
    "DeadLetterQueueSourceArn",
];

impl ReceiveCall<'_> {
    /// The requested attributes.
    pub fn wanted(&self) -> Result<Wanted, Refusal> {
        let names = || self.attribute_names.iter().chain(&self.message_system_attribute_names);
        if let Some(unknown) = names().find(|name| !SYSTEM_ATTRIBUTES.contains(&name.as_ref())) {
            return Err(Refusal::of_sqs("InvalidAttributeName", format!("Unknown Attribute {unknown}.")));
        }
        let asks_for = |name: &str| names().any(|given| given == "All" || given == name);
        Ok(Wanted {
            sent_timestamp: asks_for("SentTimestamp"),
            receive_count: asks_for("ApproximateReceiveCount"),
            first_received: asks_for("ApproximateFirstReceiveTimestamp"),
            group: asks_for("MessageGroupId"),
        })
    }
}

/// Which attributes go with a message.
#[derive(Debug, Clone, Copy)]
#[allow(clippy::struct_excessive_bools)] // each is wanted or not, whatever the others are
pub struct Wanted {
    sent_timestamp: bool,
    receive_count: bool,
    first_received: bool,
    group: bool,
}

/// The answer to a receive; as with SQS, there is no list where there is no message.
pub fn messages(deliveries: &[Delivery], wanted: Wanted, stamp: u64, supply: Option<&dyn Supply>) -> String {
    if deliveries.is_empty() {
        return "{}".to_owned();
    }
    let mut json = String::with_capacity(16 * 1024);
    json.push_str("{\"Messages\":[");
    for (index, delivery) in deliveries.iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        let message = &delivery.message;
        let receipt_handle = handle(delivery.receipt, stamp);
        let _ = write!(json, r#"{{"MessageId":"{}","ReceiptHandle":"{receipt_handle}","Body":"#, message.id);
        let supplied;
        let md5 = match &message.body {
            Body::Sent { json: body, md5 } => {
                json.push_str(body);
                md5
            }
            Body::Supplied(number) => {
                let supply = supply.expect("the supply that it came from");
                supplied = supply.push_body(*number, &mut json);
                &supplied
            }
        };
        let _ = write!(json, r#","MD5OfBody":"{md5}""#);
        let mut attributes = Vec::new();
        if wanted.sent_timestamp {
            attributes.push(format!(r#""SentTimestamp":"{}""#, message.sent_at_ms));
        }
        if wanted.receive_count {
            attributes.push(format!(r#""ApproximateReceiveCount":"{}""#, delivery.receive_count));
        }
        if wanted.first_received {
            let first = delivery.first_received_at_ms;
            attributes.push(format!(r#""ApproximateFirstReceiveTimestamp":"{first}""#));
        }
        if wanted.group
            && let Some(group) = &message.group
        {
            attributes.push(format!(r#""MessageGroupId":{}"#, serde_json::json!(group)));
        }
        if !attributes.is_empty() {
            let _ = write!(json, r#","Attributes":{{{}}}"#, attributes.join(","));
        }
        json.push('}');
    }
    json.push_str("]}");
    json
}

/// SQS's receipt handles are some four hundred characters long, so these are as well.
const HANDLE_FILLER: &str = concat!(
    "AQEBwJnKyrHigUMZj6reyNurjfIHhFCkq5O3Lb2nY8kdv1m0XxU4cAaTqZsWbEoGtP9hVfRy7SlKiuNeDpQj6MgCAQEBzbzSBhQ2wLd8XqG1",
    "mYfVtRr5uE0kJvPn4sHcTiW3oZaUlK7eMy6pFgCxDjAbN9QIOuBtLwSh2rV8kXqYfGm0PzEd5nHsJcRi4TaWo7lUvKeZM3yFpg1CbxQD6jAN",
    "9uBOItwShL2r8VkXqYGfm5PEz0dnHsJ4cRiTaWoU7lvKeZM3yFp1gCbxQDj6ANu9BOItwSLh2rV8XkqYfGm0P5zEdnHsJc4RiTaWolU7vKeZ",
    "3MyFpgC1bxQDjA6Nu9BOItSwhL2rV8kXqYGm0PEz5dnH",
);

/// A receipt as callers see it: opaque, and not to be guessed.
pub fn handle(receipt: Receipt, stamp: u64) -> String {
    let Receipt { message, number } = receipt;
    format!("AQEB{message:x}.{number:x}.{:016x}.{HANDLE_FILLER}", seal(receipt, stamp))
}

/// The receipt that a handle names; `None` if this queue never issued it.
pub fn receipt(handle: &str, stamp: u64) -> Option<Receipt> {
    let mut parts = handle.strip_prefix("AQEB")?.split('.');
    let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
    let receipt = Receipt { message: number()?, number: number()? };
    let is_sealed = number()? == seal(receipt, stamp);
    (is_sealed && parts.next() == Some(HANDLE_FILLER) && parts.next().is_none()).then_some(receipt)
}

fn seal(receipt: Receipt, stamp: u64) -> u64 {
    let mixed = receipt.message.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ receipt.number.rotate_left(32) ^ stamp;
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed ^ (mixed >> 27)
}

/// One entry's end.
#[derive(Debug)]
pub struct EntryEnd<'a> {
    pub id: &'a str,
    /// Code, message, and whether the sender is at fault; `None` is success.
    pub failure: Option<(&'a str, &'a str, bool)>,
}

/// The answer to a batch; entries' ids are plain letters (see [`check_batch`]), so are codes and messages.
pub fn batch(ends: &[EntryEnd<'_>]) -> String {
    let (mut successful, mut failed) = (String::new(), String::new());
    for EntryEnd { id, failure } in ends {
        let _ = match failure {
            None => write!(successful, r#"{{"Id":"{id}"}},"#),
            Some((code, message, sender)) => write!(
                failed,
                r#"{{"Id":"{id}","Code":"{code}","Message":"{message}","SenderFault":{sender}}},"#
            ),
        };
    }
    let (successful, failed) = (successful.trim_end_matches(','), failed.trim_end_matches(','));
    format!(r#"{{"Successful":[{successful}],"Failed":[{failed}]}}"#)
}
