//! Faults on purpose.

use std::time::{Duration, Instant};

use serde_json::json;

use super::caller::{Caller, text};
use super::rules::stage;
use crate::fakes::queue::{FakeQueue, Faults, QueueOptions};

fn stage_with(faults: Faults) -> (FakeQueue, Caller) {
    let (queue, caller) = stage(&QueueOptions::default());
    queue.set_faults(faults);
    (queue, caller)
}

fn receive_status(caller: &Caller) -> (u16, String) {
    let answer = caller.call("ReceiveMessage", json!({}));
    (answer.status, answer.code().to_owned())
}

#[test]
fn errors_come_as_sqs_and_what_is_before_it_say_them() {
    let always = |faults: Faults| receive_status(&stage_with(faults).1);
    let (status, code) = always(Faults { error_500: 1.0, ..Faults::default() });
    assert_eq!((status, code.as_str()), (500, "InternalFailure"));
    let (status, code) = always(Faults { unavailable_503: 1.0, ..Faults::default() });
    assert_eq!((status, code.as_str()), (503, ""), "no JSON");
    let (status, code) = always(Faults { throttled: 1.0, ..Faults::default() });
    assert_eq!((status, code.as_str()), (400, "RequestThrottled"));
}

#[test]
fn a_reset_call_did_nothing_and_one_whose_answer_is_lost_did_all() {
    let (queue, caller) = stage(&QueueOptions::default());
    queue.send("x");
    let received = caller.receive(0);
    let entries = json!({"Entries": [{"Id": "a", "ReceiptHandle": received[0]["ReceiptHandle"]}]});

    queue.set_faults(Faults { reset: 1.0, ..Faults::default() });
    let error = caller.try_call("DeleteMessageBatch", entries.clone()).expect_err("no answer");
    assert!(error.to_string().contains("reset"), "{error}");
    assert_eq!(queue.counts().in_flight, 1);

    queue.set_faults(Faults { answer_lost: 1.0, ..Faults::default() });
    caller.try_call("DeleteMessageBatch", entries).expect_err("no answer");
    assert!(queue.is_empty());
    assert_eq!(queue.counts().deleted, 1);
}

#[test]
fn a_hanging_call_is_taken_and_never_answered_and_holds_up_nobodys_end() {
    let (queue, caller) = stage_with(Faults { hang: 1.0, ..Faults::default() });
    let silent =
        crate::support::child::thread("caller", move || caller.try_call("ReceiveMessage", json!({})));
    crate::support::wait::wait_until(Duration::from_secs(20), "a call", || queue.counts().faults == 1);
    assert!(!silent.is_finished());
    drop(queue);
    silent.join().unwrap().expect_err("no answer, and an end");
}

#[test]
fn a_slow_answer_comes_late_and_whole() {
    let (queue, caller) =
        stage_with(Faults { slow: Some((1.0, Duration::from_millis(300))), ..Faults::default() });
    queue.send("x");
    let started = Instant::now();
    assert_eq!(caller.receive_bodies(), ["x"]);
    assert!(started.elapsed() >= Duration::from_millis(300));
}

#[test]
fn a_duplicate_is_delivered_while_the_message_is_in_flight() {
    let (queue, caller) = stage_with(Faults { duplicate: 1.0, ..Faults::default() });
    let id = queue.send("x");
    let first = caller.receive(0);
    let second = caller.receive(0);
    assert_eq!(text(&second[0], "MessageId"), id);
    assert_eq!(text(&second[0]["Attributes"], "ApproximateReceiveCount"), "2");
    assert!(caller.delete(&first).is_empty());
    assert_eq!(queue.counts().in_flight, 1, "the older handle is stale");
    assert!(caller.delete(&second).is_empty());
    assert!(queue.is_empty());
}

#[test]
fn entries_fail_with_and_without_the_senders_fault_and_nothing_is_done_for_them() {
    let (queue, caller) = stage(&QueueOptions::default());
    for number in 0..10 {
        queue.send(number.to_string());
    }
    let received = caller.receive(0);
    queue.set_faults(Faults { entry_fails: 0.4, entry_fails_sender: 0.3, ..Faults::default() });
    let failed = caller.delete(&received);
    let of = |sender: bool| failed.iter().filter(|entry| entry["SenderFault"] == sender).count();
    assert!(of(true) > 0 && of(false) > 0 && failed.len() < 10, "{failed:?}");
    let counts = queue.counts();
    assert_eq!(counts.in_flight, failed.len() as u64);
    assert_eq!(counts.deleted, 10 - failed.len() as u64);
    assert_eq!(counts.faults, failed.len() as u64);
}

/// What a row of calls meets.
fn history(seed: u64) -> Vec<String> {
    let (queue, caller) = stage(&QueueOptions { seed, ..QueueOptions::default() });
    for number in 0..40 {
        queue.send(number.to_string());
    }
    queue.set_faults(Faults {
        error_500: 0.1,
        unavailable_503: 0.1,
        throttled: 0.1,
        reset: 0.1,
        answer_lost: 0.1,
        duplicate: 0.3,
        disorder: true,
        entry_fails: 0.2,
        entry_fails_sender: 0.2,
        ..Faults::default()
    });
    let mut met = Vec::new();
    for _ in 0..30 {
        let answer = caller.try_call("ReceiveMessage", json!({"MaxNumberOfMessages": 3}));
        let Ok(answer) = answer else {
            met.push("no answer".to_owned());
            continue;
        };
        let messages = answer.body["Messages"].as_array().cloned().unwrap_or_default();
        let bodies: Vec<String> = messages.iter().map(|message| text(message, "Body")).collect();
        met.push(format!("{} {bodies:?}", answer.status));
        let entries: Vec<_> = messages
            .iter()
            .enumerate()
            .map(|(index, message)| json!({"Id": index.to_string(), "ReceiptHandle": message["ReceiptHandle"]}))
            .collect();
        if !entries.is_empty() {
            let deleted = caller.try_call("DeleteMessageBatch", json!({"Entries": entries}));
            met.push(deleted.map_or("no answer".to_owned(), |answer| answer.body.to_string()));
        }
    }
    met
}

#[test]
fn the_same_seed_meets_the_same_calls_with_the_same_faults() {
    let first = history(7);
    assert_eq!(history(7), first);
    assert_ne!(history(8), first);
    for kind in ["no answer", "500", "503", "SenderFault\":true", "SenderFault\":false"] {
        assert!(first.iter().any(|met| met.contains(kind)), "{kind} never came: {first:#?}");
    }
}
