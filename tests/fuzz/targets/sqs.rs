//! What SQS answers, or what a proxy on the way makes of it.

use std::sync::LazyLock;
use std::time::Instant;

use fastrand::Rng;
use persistent_cache_service::clock::EpochMs;
use persistent_cache_service::sqs::protocol::{parse_attributes, parse_batch, parse_error, parse_receive};
use serde_json::{Value, json};

use super::message::MESSAGES;
use super::{Memory, Target, hold, is_a_line};
use crate::judge::Probe;
use crate::mutate::json::Samples;
use crate::mutate::{bytes, json_input};

pub const RECEIVE: Target = Target {
    name: "sqs-receive",
    about: "SQS's answer to a receive",
    weight: 12,
    memory: MEMORY,
    input: |rng| json_input(rng, &RECEIVES),
    check: receive,
};

pub const BATCH: Target = Target {
    name: "sqs-batch",
    about: "SQS's answer to a batch of deletes or changes of visibility",
    weight: 6,
    memory: MEMORY,
    input: |rng| json_input(rng, &BATCHES),
    check: batch,
};

pub const ATTRIBUTES: Target = Target {
    name: "sqs-attributes",
    about: "SQS's answer about the queue's attributes",
    weight: 2,
    memory: MEMORY,
    input: |rng| json_input(rng, &QUEUES),
    check: attributes,
};

pub const ERROR: Target = Target {
    name: "sqs-error",
    about: "a refusal: JSON, XML or a proxy's page, with a header",
    weight: 6,
    memory: MEMORY,
    input: error_input,
    check: error,
};

const MEMORY: Memory = Memory {
    // A message of three empty texts has 46 bytes, and a dozen times as many when the list of them grows.
    per_byte: 24,
    // What as many values as an answer may hold take.
    constant: 1024 * 1024,
};

/// Quoted text is cut at 300 characters and an ellipsis (`log::peer_text`).
const QUOTED_CHARS_MAX: usize = 301;

static RECEIVES: LazyLock<Samples> = LazyLock::new(|| {
    let message = |body: &&str| {
        json!({
            "MessageId": "19b2e8a5-0000-4000-8000-000000000001", "ReceiptHandle": "AQEB…handle==",
            "MD5OfBody": "9bb58f26192e4ba00f01e2e7b136bbd8", "Body": body,
            "Attributes": {"SentTimestamp": "1793491200123", "ApproximateReceiveCount": "3",
                "ApproximateFirstReceiveTimestamp": "1793491200200", "SenderId": "AIDA"},
        })
    };
    let all: Vec<Value> = MESSAGES.iter().map(message).collect();
    let answers = [
        json!({"Messages": all[..2]}),
        json!({"Messages": all[3..4]}),
        json!({"Messages": all[4..5]}),
        json!({}),
        json!({"Messages": []}),
    ];
    let keys = ["Messages", "MessageAttributes", "MessageGroupId", "MD5OfMessageAttributes"];
    Samples::new(answers, &keys, &["-1", "4294967296", "1e3"])
});

static BATCHES: LazyLock<Samples> = LazyLock::new(|| {
    let failed = |id: &str| json!({"Id": id, "SenderFault": true, "Code": "ReceiptHandleIsInvalid", "Message": "The input receipt handle is invalid."});
    let answers = [
        json!({"Successful": [{"Id": "0"}, {"Id": "1"}], "Failed": [failed("2")]}),
        json!({"Successful": [{"Id": "0"}, {"Id": "1"}, {"Id": "9"}]}),
        json!({"Failed": [failed("0"), failed("7")]}),
        json!({"Failed": [failed("18446744073709551615")], "Successful": null}),
    ];
    Samples::new(answers, &["Successful", "Failed", "Id"], &["0", "1", "9", "10", "-1", "+1"])
});

static QUEUES: LazyLock<Samples> = LazyLock::new(|| {
    let answers = [
        json!({"Attributes": {"VisibilityTimeout": "30"}}),
        json!({"Attributes": {"VisibilityTimeout": "43200", "RedrivePolicy": "{}", "QueueArn": "arn:aws:sqs:us-east-1:1:q"}}),
    ];
    Samples::new(answers, &["Attributes", "VisibilityTimeout"], &["0", "43201", "-1", "+5", " 5"])
});

static ERRORS: LazyLock<Samples> = LazyLock::new(|| {
    let answers = [
        json!({"__type": "com.amazonaws.sqs#QueueDoesNotExist", "message": "The specified queue does not exist."}),
        json!({"__type": "com.amazon.coral.service#ExpiredTokenException", "Message": "The security token is expired"}),
        json!({"code": "RequestThrottled", "message": "a\nb\u{1b}[31m"}),
    ];
    Samples::new(answers, &["__type", "code", "message", "Message"], &["#", ";", "a#b;c", "\u{202e}"])
});

/// Refusals that are no JSON.
const PAGES: [&str; 4] = [
    "<?xml version=\"1.0\"?><ErrorResponse xmlns=\"http://queue.amazonaws.com/doc/2012-11-05/\"><Error><Type>Sender</Type><Code>InvalidClientTokenId</Code><Message>The security token included in the request is invalid.</Message><Detail/></Error><RequestId>b2e3</RequestId></ErrorResponse>",
    "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body><center><h1>502 Bad Gateway</h1></center></body></html>",
    "upstream connect error or disconnect/reset before headers",
    "<Code>",
];

/// The header goes before the body, up to the first line's end.
fn error_input(rng: &mut Rng) -> Vec<u8> {
    let mut input = match rng.u32(..4) {
        0 => b"AWS.SimpleQueueService.NonExistentQueue;Sender".to_vec(),
        1 => b"com.amazonaws#X:http://internal.amazon.com/".to_vec(),
        2 => bytes::arbitrary(rng).into_iter().filter(|byte| *byte != b'\n').collect(),
        _ => Vec::new(),
    };
    input.push(b'\n');
    if rng.bool() {
        input.extend(json_input(rng, &ERRORS));
    } else {
        let mut page = PAGES[rng.usize(..PAGES.len())].as_bytes().to_vec();
        if rng.u32(..20) == 0 {
            page = page.repeat(rng.usize(..100));
        }
        bytes::mutate(rng, &mut page);
        input.extend(page);
    }
    input
}

/// Stands for an unknown time of sending.
const NOW: EpochMs = EpochMs(1_793_620_800_000);

// What is ignored may nest as deep as it likes: it is skipped without recursion, for a byte of memory a level.
fn receive(input: &[u8], probe: &mut Probe) -> Result<bool, String> {
    match probe.measure(|| parse_receive(input, Instant::now(), NOW)) {
        Ok(messages) => {
            // A byte that is no UTF-8 becomes U+FFFD, which has three.
            let text = messages.iter().map(|message| message.body.len()).sum::<usize>();
            hold(text <= 3 * input.len(), || "bodies are about as long as the answer".to_owned())?;
            let counted = messages.iter().all(|message| message.receive_count > 0);
            hold(counted, || "what is received was received once at least".to_owned())?;
            let is_a_date = |ms: i64| (1..=8_640_000_000_000_000).contains(&ms);
            let dated = messages.iter().all(|message| is_a_date(message.sent_at.0));
            hold(dated, || "the time of sending is a date".to_owned())?;
            Ok(true)
        }
        Err(fault) => {
            tells_nothing(&fault)?;
            Ok(false)
        }
    }
}

/// An error is a line that holds nothing of the answer.
fn tells_nothing(fault: &str) -> Result<(), String> {
    is_a_line(fault, 200)?;
    let content = ["handle==", "demo", "19b2e8a5", "feature-"];
    let quoted = content.iter().find(|content| fault.contains(**content));
    hold(quoted.is_none(), || format!("an error quotes nothing of the answer: {fault}"))
}

fn batch(input: &[u8], probe: &mut Probe) -> Result<bool, String> {
    let entries = input.len() % 11;
    let outcome = match probe.measure(|| parse_batch(input, entries)) {
        Ok(outcome) => outcome,
        Err(fault) => return tells_nothing(&fault).map(|()| false),
    };
    hold(outcome.len() == entries, || "each entry has its outcome".to_owned())?;
    for failure in outcome.iter().flatten() {
        is_a_line(&failure.message, QUOTED_CHARS_MAX)?;
        is_a_line(&failure.code, QUOTED_CHARS_MAX)?;
    }
    // Nothing that the answer does not say is done: without the list of successes nothing succeeded.
    let text = String::from_utf8_lossy(input);
    let may_succeed = text.contains("Successful") || text.contains("\\u");
    hold(may_succeed || outcome.iter().all(Option::is_some), || {
        "what is not confirmed did not happen".to_owned()
    })?;
    Ok(true)
}

fn attributes(input: &[u8], probe: &mut Probe) -> Result<bool, String> {
    match probe.measure(|| parse_attributes(input)) {
        Ok(_) => Ok(true),
        Err(fault) => {
            tells_nothing(&fault)?;
            Ok(false)
        }
    }
}

fn error(input: &[u8], probe: &mut Probe) -> Result<bool, String> {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let header = String::from_utf8_lossy(&input[..end]).into_owned();
    let body = input.get(end + 1..).unwrap_or_default();
    let header = (!header.is_empty()).then_some(header.as_str());
    let answer = probe.measure(|| parse_error(403, header, body));
    is_a_line(&answer.code, QUOTED_CHARS_MAX)?;
    hold(answer.message.len() <= 3 * input.len(), || "a message is about as long as the answer".to_owned())?;
    hold(!answer.code.is_empty(), || "a refusal has a code".to_owned())?;
    Ok(answer.code != "Http403")
}
