//! The calls of SQS's JSON protocol, as far as workers use them.

use std::io::Write;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Deserialize;

use super::Simulator;
use super::shelf::{Receipt, VISIBILITY};

/// SQS's receipt handles are some four hundred characters long, so these are as well.
const HANDLE_FILLER: &str = "AQEBwJnKyrHigUMZj6reyNurjfIHhFCkq5O3Lb2nY8kdv1m0XxU4cAaTqZsWbEoGtP9hVfRy7SlKiuNeDpQj6MgC\
    AQEBzbzSBhQ2wLd8XqG1mYfVtRr5uE0kJvPn4sHcTiW3oZaUlK7eMy6pFgCxDjAbN9QIOuBtLwSh2rV8kXqYfGm0PzEd5nHsJcRi4TaWo\
    7lUvKeZM3yFpg1CbxQD6jAN9uBOItwShL2r8VkXqYGfm5PEz0dnHsJ4cRiTaWoU7lvKeZM3yFp1gCbxQDj6ANu9BOItwSLh2rV8XkqYfGm\
    0P5zEdnHsJc4RiTaWolU7vKeZ3MyFpgC1bxQDjA6Nu9BOItSwhL2rV8kXqYGfm0PEz5dnH";

/// What the buffers of a connection are kept for.
#[derive(Default)]
pub struct Buffers {
    receipts: Vec<Receipt>,
    text: String,
}

#[derive(Deserialize)]
struct Receive {
    #[serde(rename = "MaxNumberOfMessages", default = "one")]
    max: u64,
    #[serde(rename = "WaitTimeSeconds", default)]
    wait_secs: u64,
}

#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(rename = "Entries", borrow)]
    entries: Vec<Entry<'a>>,
}

/// An entry of a batch, or a call about a single message.
#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(rename = "Id", default)]
    id: &'a str,
    #[serde(rename = "ReceiptHandle")]
    handle: &'a str,
    #[serde(rename = "VisibilityTimeout", default)]
    hidden_secs: u64,
}

fn one() -> u64 {
    1
}

impl Simulator {
    /// Appends the answer to a call, and returns its status.
    pub fn answer(&self, target: &str, body: &[u8], out: &mut Vec<u8>, buffers: &mut Buffers) -> u16 {
        let counts = &self.shelf.counts;
        let known = match target.rsplit('.').next().unwrap_or_default() {
            "ReceiveMessage" => self.receive(body, out, buffers),
            "DeleteMessageBatch" => {
                counts.deletes.fetch_add(1, Ordering::Relaxed);
                batch(body, out, |entry| entry.receipt().map(|receipt| self.shelf.delete(receipt)))
            }
            "DeleteMessage" => {
                counts.deletes.fetch_add(1, Ordering::Relaxed);
                single(body, out, |entry| entry.receipt().map(|receipt| self.shelf.delete(receipt)))
            }
            "ChangeMessageVisibilityBatch" => {
                counts.others.fetch_add(1, Ordering::Relaxed);
                batch(body, out, |entry| self.change_visibility(entry))
            }
            "ChangeMessageVisibility" => {
                counts.others.fetch_add(1, Ordering::Relaxed);
                single(body, out, |entry| self.change_visibility(entry))
            }
            "GetQueueAttributes" => {
                counts.others.fetch_add(1, Ordering::Relaxed);
                let secs = VISIBILITY.as_secs();
                let _ = write!(out, r#"{{"Attributes":{{"VisibilityTimeout":"{secs}"}}}}"#);
                Some(())
            }
            _ => None,
        };
        if known.is_some() {
            return 200;
        }
        out.extend_from_slice(
            br#"{"__type":"com.amazonaws.sqs#InvalidAction","message":"The simulator does not understand this call."}"#,
        );
        400
    }

    fn receive(&self, body: &[u8], out: &mut Vec<u8>, buffers: &mut Buffers) -> Option<()> {
        let call: Receive = serde_json::from_slice(body).ok()?;
        let wait = Duration::from_secs(call.wait_secs.min(20));
        buffers.receipts.clear();
        self.shelf.receive(call.max.clamp(1, 10), wait, &mut buffers.receipts);
        if buffers.receipts.is_empty() {
            out.extend_from_slice(b"{}");
            return Some(());
        }
        let now_ms = persistent_cache_service::clock::now().0;
        let mut before = r#"{"Messages":["#;
        for Receipt { number, attempt } in &buffers.receipts {
            let _ = write!(
                out,
                r#"{before}{{"MessageId":"00000000-0000-4000-8000-{number:012x}","ReceiptHandle":"{number}.{attempt}.{HANDLE_FILLER}","Body":""#
            );
            before = ",";
            let md5 = self.bodies.push_escaped(*number, out, &mut buffers.text);
            out.extend_from_slice(b"\",\"MD5OfBody\":\"");
            for byte in md5 {
                const DIGITS: &[u8; 16] = b"0123456789abcdef";
                out.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
            }
            let _ = write!(
                out,
                r#"","Attributes":{{"SenderId":"AIDAEXAMPLEEXAMPLE00","SentTimestamp":"{now_ms}","ApproximateReceiveCount":"{attempt}","ApproximateFirstReceiveTimestamp":"{now_ms}"}}}}"#
            );
        }
        out.extend_from_slice(b"]}");
        Some(())
    }

    fn change_visibility(&self, entry: &Entry<'_>) -> Option<()> {
        let hidden = Duration::from_secs(entry.hidden_secs);
        self.shelf.change_visibility(entry.receipt()?, hidden).then_some(())
    }
}

impl Entry<'_> {
    fn receipt(&self) -> Option<Receipt> {
        let mut parts = self.handle.split('.');
        Some(Receipt { number: parts.next()?.parse().ok()?, attempt: parts.next()?.parse().ok()? })
    }
}

fn single(body: &[u8], out: &mut Vec<u8>, act: impl Fn(&Entry<'_>) -> Option<()>) -> Option<()> {
    act(&serde_json::from_slice(body).ok()?)?;
    out.extend_from_slice(b"{}");
    Some(())
}

fn batch(body: &[u8], out: &mut Vec<u8>, act: impl Fn(&Entry<'_>) -> Option<()>) -> Option<()> {
    let batch: Batch<'_> = serde_json::from_slice(body).ok()?;
    let mut failed = Vec::new();
    let mut before = r#"{"Successful":["#;
    for entry in &batch.entries {
        if act(entry).is_some() {
            let _ = write!(out, r#"{before}{{"Id":"{}"}}"#, entry.id);
            before = ",";
        } else {
            failed.push(entry.id);
        }
    }
    if failed.len() == batch.entries.len() {
        out.extend_from_slice(before.as_bytes());
    }
    out.extend_from_slice(b"],\"Failed\":");
    let failed: Vec<_> = failed
        .into_iter()
        .map(|id| serde_json::json!({"Id": id, "Code": "ReceiptHandleIsInvalid", "SenderFault": true}))
        .collect();
    serde_json::to_writer(&mut *out, &failed).ok()?;
    out.push(b'}');
    Some(())
}
