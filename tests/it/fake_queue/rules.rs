//! What the queue delivers, and what it does with receipts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use persistent_cache_service::aws::own_provider;
use persistent_cache_service::config::{CredentialSource, Secret, StaticKeys};
use persistent_cache_service::sqs::Queue;
use persistent_cache_service::sqs::client::{SqsClient, SqsSettings};
use url::Url;

use super::caller::{Caller, text};
use crate::fakes::queue::{Counts, FakeQueue, QueueOptions};
use crate::support::child::thread;
use crate::support::wait::{PATIENCE, wait_until};

/// A queue, and one who may call it.
pub fn stage(options: &QueueOptions) -> (FakeQueue, Caller) {
    let queue = FakeQueue::start(options.clone());
    let caller = Caller::new(&queue, options);
    (queue, caller)
}

fn plain() -> (FakeQueue, Caller) {
    stage(&QueueOptions::default())
}

/// Longer than the visibility timeout of these queues.
const VISIBLE_AGAIN: Duration = Duration::from_secs(31);

#[test]
fn a_message_comes_with_its_attributes_and_stays_hidden_until_its_timeout() {
    let (queue, caller) = plain();
    let id = queue.send_at("{\"text\":\"ä \\\" \\\\ \u{1F600}\"}", 1_700_000_000_123);
    let [message] = &caller.receive(0)[..] else { panic!("one message") };
    assert_eq!(text(message, "MessageId"), id);
    assert_eq!(text(message, "Body"), "{\"text\":\"ä \\\" \\\\ \u{1F600}\"}");
    assert_eq!(text(message, "MD5OfBody"), "613bdbccb0aed2ea03308d43304c5e92");
    assert_eq!(text(&message["Attributes"], "SentTimestamp"), "1700000000123");
    assert_eq!(text(&message["Attributes"], "ApproximateReceiveCount"), "1");

    assert!(caller.receive(0).is_empty(), "it is hidden");
    queue.advance(VISIBLE_AGAIN);
    let again = &caller.receive(0)[0];
    assert_eq!(text(&again["Attributes"], "ApproximateReceiveCount"), "2");
    assert_ne!(again["ReceiptHandle"], message["ReceiptHandle"], "a handle a receive");
    assert_eq!(
        again["Attributes"]["ApproximateFirstReceiveTimestamp"],
        message["Attributes"]["ApproximateFirstReceiveTimestamp"]
    );
    let counts = queue.counts();
    assert_eq!((counts.received, counts.redelivered, counts.in_flight), (2, 1, 1));
}

#[test]
fn attributes_come_only_when_asked_for() {
    let (queue, caller) = plain();
    queue.send("x");
    let answer = caller.call("ReceiveMessage", serde_json::json!({}));
    let messages = answer.body["Messages"].as_array().unwrap();
    assert_eq!(messages.len(), 1, "one, where no number is given");
    assert!(messages[0].get("Attributes").is_none());
}

#[test]
fn a_deleted_message_is_gone_and_deleting_it_again_is_no_error() {
    let (queue, caller) = plain();
    queue.send("x");
    let received = caller.receive(0);
    assert!(caller.delete(&received).is_empty());
    assert!(caller.delete(&received).is_empty());
    queue.advance(VISIBLE_AGAIN);
    assert!(caller.receive(0).is_empty());
    assert!(queue.is_empty());
    assert_eq!(queue.counts(), Counts { sent: 1, received: 1, deleted: 1, ..Counts::default() });
}

#[test]
fn a_handle_whose_timeout_is_over_deletes_as_long_as_nobody_received_the_message_again() {
    let (queue, caller) = plain();
    queue.send("x");
    let received = caller.receive(0);
    queue.advance(VISIBLE_AGAIN);
    assert_eq!(queue.counts().visible, 1);
    assert!(caller.delete(&received).is_empty());
    assert!(queue.is_empty());
    assert!(caller.receive(0).is_empty());
}

#[test]
fn a_stale_handle_is_accepted_and_deletes_nothing() {
    let (queue, caller) = plain();
    queue.send("x");
    let first = caller.receive(0);
    queue.advance(VISIBLE_AGAIN);
    let second = caller.receive(0);
    assert!(caller.delete(&first).is_empty(), "SQS says that it succeeded");
    assert_eq!(queue.counts().in_flight, 1, "and the message is still there");
    assert!(caller.delete(&second).is_empty());
    assert!(queue.is_empty());
}

#[test]
fn visibility_is_changed_from_now_on_and_only_by_the_handle_of_a_message_in_flight() {
    let (queue, caller) = plain();
    queue.send("x");
    let first = &caller.receive(0)[0];
    assert_eq!(caller.hide(first, 60), None);
    queue.advance(VISIBLE_AGAIN);
    assert!(caller.receive(0).is_empty(), "hidden for longer");
    assert_eq!(caller.hide(first, 0), None);
    let second = &caller.receive(0)[0];
    assert_eq!(caller.hide(first, 10).as_deref(), Some("InvalidParameterValue"));
    queue.advance(VISIBLE_AGAIN);
    assert_eq!(caller.hide(second, 10).as_deref(), Some("MessageNotInflight"));
    assert!(caller.delete(std::slice::from_ref(second)).is_empty());
    assert_eq!(caller.hide(second, 10).as_deref(), Some("InvalidParameterValue"));
}

#[test]
fn nobody_hides_a_message_for_more_than_12_hours_from_its_receive() {
    let (queue, caller) = plain();
    queue.send("x");
    let message = &caller.receive(0)[0];
    assert_eq!(caller.hide(message, 43_201).as_deref(), Some("InvalidParameterValue"));
    queue.advance(Duration::from_secs(10));
    assert_eq!(caller.hide(message, 43_200).as_deref(), Some("InvalidParameterValue"));
    assert_eq!(caller.hide(message, 43_180), None);
}

#[test]
fn a_message_that_was_received_too_often_goes_to_the_dead_letters() {
    let (queue, caller) = stage(&QueueOptions { max_receive_count: Some(2), ..QueueOptions::default() });
    queue.send("poison");
    for _ in 0..2 {
        assert_eq!(caller.receive_bodies(), ["poison"]);
        assert!(queue.dead_letters().is_empty());
        queue.advance(VISIBLE_AGAIN);
    }
    assert!(caller.receive(0).is_empty());
    assert_eq!(queue.dead_letters(), ["poison"]);
    assert_eq!(queue.counts().dead, 1);
    assert!(queue.is_empty());
}

#[test]
fn a_long_poll_ends_when_a_message_comes_or_becomes_visible_or_its_time_is_over() {
    let (queue, caller) =
        stage(&QueueOptions { visibility_timeout: Duration::from_secs(1), ..QueueOptions::default() });
    let started = Instant::now();
    assert!(caller.receive(1).is_empty());
    assert!(started.elapsed() >= Duration::from_secs(1));

    let queue = Arc::new(queue);
    let sender = Arc::clone(&queue);
    let started = Instant::now();
    let sent = thread("sender", move || {
        wait_until(PATIENCE, "an open poll", || sender.open_polls() == 1);
        sender.send("x")
    });
    assert_eq!(caller.receive(20).len(), 1);
    sent.join().unwrap();
    assert_eq!(caller.receive(20).len(), 1, "visible again after a second");
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_group_comes_in_order_and_is_blocked_while_one_of_it_is_in_flight() {
    let (queue, caller) = stage(&QueueOptions { fifo: true, ..QueueOptions::default() });
    for (body, group) in [("a1", "a"), ("b1", "b"), ("a2", "a"), ("b2", "b")] {
        queue.send_to_group(body, group);
    }
    let ask = |most: u64| {
        let answer = caller.call(
            "ReceiveMessage",
            serde_json::json!({"MaxNumberOfMessages": most, "AttributeNames": ["MessageGroupId"]}),
        );
        answer.body["Messages"].as_array().cloned().unwrap_or_default()
    };
    let first = ask(1);
    assert_eq!(text(&first[0], "Body"), "a1");
    assert_eq!(text(&first[0]["Attributes"], "MessageGroupId"), "a");
    let second = ask(10);
    let bodies: Vec<String> = second.iter().map(|message| text(message, "Body")).collect();
    assert_eq!(bodies, ["b1", "b2"], "a is blocked");
    assert!(ask(10).is_empty());

    assert_eq!(caller.hide(&first[0], 0), None);
    let again = ask(10);
    let bodies: Vec<String> = again.iter().map(|message| text(message, "Body")).collect();
    assert_eq!(bodies, ["a1", "a2"], "what comes again comes in its place");
    let failed = caller.delete(&first);
    assert_eq!(text(&failed[0], "Code"), "InvalidParameterValue", "an expired handle");
    assert!(caller.delete(&again).is_empty());
    assert!(caller.delete(&second[..1]).is_empty());
    assert!(ask(10).is_empty(), "b2 is still in flight");
    queue.send_to_group("a3", "a");
    assert_eq!(caller.receive_bodies(), ["a3"]);
    queue.advance(VISIBLE_AGAIN);
    assert_eq!(caller.receive_bodies().len(), 2);
}

#[test]
fn dead_letters_free_their_group() {
    let (queue, caller) =
        stage(&QueueOptions { fifo: true, max_receive_count: Some(1), ..QueueOptions::default() });
    queue.send_to_group("poison", "a");
    assert_eq!(caller.receive_bodies(), ["poison"]);
    queue.send_to_group("next", "a");
    assert!(caller.receive_bodies().is_empty());
    queue.advance(VISIBLE_AGAIN);
    assert_eq!(caller.receive_bodies(), ["next"]);
    assert_eq!(queue.dead_letters(), ["poison"]);
}

#[test]
fn attributes_are_reported_unless_the_policy_forbids_it() {
    let options = QueueOptions {
        visibility_timeout: Duration::from_secs(45),
        max_receive_count: Some(3),
        ..QueueOptions::default()
    };
    let (_queue, caller) = stage(&options);
    let asked = serde_json::json!({"AttributeNames": ["VisibilityTimeout"]});
    let answer = caller.call("GetQueueAttributes", asked.clone());
    assert_eq!(answer.body, serde_json::json!({"Attributes": {"VisibilityTimeout": "45"}}));

    let (queue, caller) = stage(&QueueOptions { deny_attributes: true, ..options });
    let answer = caller.call("GetQueueAttributes", asked);
    assert_eq!((answer.status, answer.code()), (403, "AccessDeniedException"));
    assert!(queue.complaints().is_empty());
}

#[test]
fn the_services_own_client_understands_the_queue_and_breaks_none_of_its_rules() {
    let options = QueueOptions::default();
    let (queue, _) = stage(&options);
    let keys = CredentialSource::Static(StaticKeys {
        access_key_id: options.access_key_id,
        secret_access_key: Secret::inline(options.secret_access_key),
        session_token: None,
    });
    let client = SqsClient::new(
        SqsSettings {
            endpoint: queue.url().parse::<Url>().unwrap().join("/").unwrap(),
            queue_url: queue.url(),
            region: options.region,
            pool_size: 1,
            long_poll_deadline: Duration::from_secs(25),
            proxy: None,
        },
        own_provider(&keys, None).expect("keys are a source"),
    );
    for number in 0..12 {
        queue.send(format!("{{\"number\":{number}}}"));
    }
    let first = client.receive(10, Duration::from_secs(1)).unwrap();
    assert_eq!(first.len(), 10);
    assert_eq!(first[3].body, "{\"number\":3}");
    assert_eq!(first[3].receive_count, 1);
    let handles: Vec<_> = first.into_iter().map(|delivery| delivery.receipt_handle).collect();
    assert!(client.delete_batch(&handles).unwrap().iter().all(Option::is_none));

    let second = client.receive(10, Duration::from_secs(1)).unwrap();
    let released: Vec<_> =
        second.into_iter().map(|delivery| (delivery.receipt_handle, Duration::ZERO)).collect();
    let outcome = client.change_visibility_batch(&released).unwrap();
    assert_eq!(outcome, [None, None]);
    let outcome = client.change_visibility_batch(&released[..1]).unwrap();
    let failure = outcome[0].as_ref().unwrap();
    assert_eq!((failure.code.as_str(), failure.sender_fault), ("MessageNotInflight", true));
    assert_eq!(client.receive(10, Duration::ZERO).unwrap().len(), 2);
    assert_eq!(queue.counts().deleted, 10);
    assert!(queue.complaints().is_empty());
}
