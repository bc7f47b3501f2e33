//! The same messages into an emulator of SQS that others wrote.

use std::fmt::Write;

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};
use url::Url;

use crate::http::{Caller, request};
use crate::mix::{Bodies, Mix};

/// SQS's limit of a batch.
const BATCH: u64 = 10;
/// SQS's limit of all bodies of one call, with room for what is around them.
const BATCH_BYTES_MAX: usize = 900 * 1024;

/// Where, and how many.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    mix: Mix,
    /// Where the emulator listens.
    #[arg(long)]
    endpoint: Url,
    #[arg(long)]
    messages: u64,
}

/// Sends the first messages of the mix. Returns the queue's URL.
pub fn run(options: Options) -> anyhow::Result<Value> {
    let create = request("CreateQueue", r#"{"QueueName":"bench"}"#);
    let created: Value = serde_json::from_str(Caller::connect(&options.endpoint)?.call(&create)?)?;
    let queue_url = created["QueueUrl"].as_str().context("a queue URL")?;
    let bodies = Bodies::new(options.mix);
    // One after the other: a message that is out of order is stale, and is not written.
    send(&bodies, &options.endpoint, queue_url, options.messages)?;
    Ok(json!({"queue_url": queue_url}))
}

fn send(bodies: &Bodies, endpoint: &Url, queue_url: &str, messages: u64) -> anyhow::Result<()> {
    let mut caller = Caller::connect(endpoint)?;
    let (mut entries, mut count) = (String::new(), 0);
    for number in 0..messages {
        if count > 0 {
            entries.push(',');
        }
        write!(entries, r#"{{"Id":"{count}","MessageBody":"#)?;
        bodies.push_json(number, &mut entries);
        entries.push('}');
        count += 1;
        let next_may_not_fit = entries.len() / count * (count + 1) > BATCH_BYTES_MAX;
        if count as u64 == BATCH || next_may_not_fit || number + 1 == messages {
            let entries = std::mem::take(&mut entries);
            let body = format!(r#"{{"QueueUrl":"{queue_url}","Entries":[{entries}]}}"#);
            let answer: Value = serde_json::from_str(caller.call(&request("SendMessageBatch", &body))?)?;
            let failed = answer["Failed"].as_array().map_or(0, Vec::len);
            anyhow::ensure!(failed == 0, "a message was refused: {}", answer["Failed"][0]);
            count = 0;
        }
    }
    Ok(())
}
