use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Instant;

use super::{FakeQueue, Rig, delivery, entry_failure, queue_error, secs};
use crate::pipeline::in_flight::InFlightDelivery;
use crate::pipeline::visibility::Visibility;
use crate::sqs::{BatchOutcome, QueueError};

fn visibility(answers: Vec<Result<BatchOutcome, QueueError>>) -> (Rig, Visibility, Instant) {
    let rig = Rig::with_queue(FakeQueue {
        visibility_answers: Mutex::new(VecDeque::from(answers)),
        ..FakeQueue::default()
    });
    let now = Instant::now();
    let visibility = Visibility::new(rig.context.clone(), now);
    (rig, visibility, now)
}

fn is_lost(rig: &Rig, delivery: &InFlightDelivery, now: Instant) -> bool {
    rig.in_flight().are_held([delivery.id], now) == [false]
}

#[test]
fn what_is_in_flight_is_extended_in_batches_of_ten_and_not_before_half_of_its_time() {
    let (rig, mut visibility, now) = visibility(Vec::new());
    let _held: Vec<InFlightDelivery> =
        (0..12).map(|number| rig.track(delivery(&number.to_string(), "{}"))).collect();
    let extended = || rig.queue.visibility.lock().unwrap().clone();
    visibility.step(now + secs(10));
    assert!(extended().is_empty());
    visibility.step(now + secs(16));
    assert_eq!(extended().len(), 12);
    assert!(extended().iter().all(|(_, hidden_for)| *hidden_for == secs(30)));
    visibility.step(now + secs(17));
    assert_eq!(extended().len(), 12, "and not twice");
}

#[test]
fn a_handle_that_the_queue_does_not_know_is_lost_and_a_call_that_failed_is_made_again() {
    let refused = Ok(vec![Some(entry_failure("ReceiptHandleIsInvalid", true)), None]);
    let (rig, mut visibility, now) = visibility(vec![Err(queue_error()), refused]);
    let forgotten = rig.track(delivery("forgotten", "{}"));
    let kept = rig.track(delivery("kept", "{}"));
    let at_half = now + secs(16);
    visibility.step(at_half);
    assert!(!is_lost(&rig, &forgotten, at_half), "a failed call says nothing");
    visibility.step(at_half + secs(4));
    let ids: Vec<String> = rig.queue.visibility.lock().unwrap().iter().map(|(id, _)| id.clone()).collect();
    assert_eq!(ids, ["forgotten", "kept", "forgotten", "kept"]);
    assert!(is_lost(&rig, &forgotten, at_half + secs(4)));
    assert!(!is_lost(&rig, &kept, now + secs(40)));
}

#[test]
fn an_extension_that_was_throttled_or_denied_is_no_loss() {
    for code in ["RequestThrottled", "AccessDenied"] {
        let (rig, mut visibility, now) = visibility(vec![Ok(vec![Some(entry_failure(code, true))])]);
        let held = rig.track(delivery("1", "{}"));
        visibility.step(now + secs(16));
        assert!(!is_lost(&rig, &held, now + secs(16)), "{code}");
        visibility.step(now + secs(20));
        assert_eq!(rig.queue.visibility.lock().unwrap().len(), 2, "{code}: asked again");
    }
}
