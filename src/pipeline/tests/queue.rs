//! Pollers and extensions against a queue that fails on purpose.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, unbounded};

use super::{board, delivery, wait_until};
use crate::log::FaultLog;
use crate::ops::health::HealthBoard;
use crate::ops::metrics::Metrics;
use crate::pipeline::gate::{Evidence, RedisGate};
use crate::pipeline::heartbeat::Heartbeat;
use crate::pipeline::lease::{Held, Leases};
use crate::pipeline::poller::{Poller, Polling};
use crate::pipeline::polls::Polls;
use crate::shutdown::{Stop, stop_pair};
use crate::sqs::{BatchOutcome, Delivery, EntryFailure, Queue, QueueError, ReceiptHandle};

/// Answers of a queue, in order; after the last, an empty receive.
#[derive(Default)]
pub(super) struct FakeQueue {
    pub(super) receives: Mutex<VecDeque<Result<Vec<Delivery>, QueueError>>>,
    pub(super) waits: Mutex<Vec<Duration>>,
    pub(super) deletes: Mutex<VecDeque<Result<BatchOutcome, QueueError>>>,
    pub(super) deleted: Mutex<Vec<Vec<String>>>,
    pub(super) visibility: Mutex<Vec<(String, Duration)>>,
    pub(super) visibility_answers: Mutex<VecDeque<Result<BatchOutcome, QueueError>>>,
}

pub(super) fn queue_error() -> QueueError {
    QueueError {
        message: "on purpose".to_owned(),
        kind: "purpose".to_owned(),
        refused: false,
    }
}

impl Queue for FakeQueue {
    fn receive(&self, _: u8, wait: Duration) -> Result<Vec<Delivery>, QueueError> {
        self.waits.lock().unwrap().push(wait);
        self.receives
            .lock()
            .unwrap()
            .pop_front()
            .unwrap_or_else(|| Ok(Vec::new()))
    }

    fn delete_batch(&self, receipt_handles: &[ReceiptHandle]) -> Result<BatchOutcome, QueueError> {
        self.deleted
            .lock()
            .unwrap()
            .push(receipt_handles.iter().map(|handle| handle.0.clone()).collect());
        let answer = self.deletes.lock().unwrap().pop_front();
        answer.unwrap_or_else(|| Ok(vec![None; receipt_handles.len()]))
    }

    fn change_visibility_batch(
        &self,
        entries: &[(ReceiptHandle, Duration)],
    ) -> Result<BatchOutcome, QueueError> {
        let mut visibility = self.visibility.lock().unwrap();
        visibility.extend(
            entries
                .iter()
                .map(|(handle, visible_in)| (handle.0.clone(), *visible_in)),
        );
        let answer = self.visibility_answers.lock().unwrap().pop_front();
        answer.unwrap_or_else(|| Ok(vec![None; entries.len()]))
    }

    fn visibility_timeout(&self) -> Result<Duration, QueueError> {
        Ok(Duration::from_secs(30))
    }
}

pub(super) fn leases() -> Arc<Leases> {
    Leases::new(1, Arc::new(Metrics::new().unwrap()))
}

#[allow(clippy::disallowed_methods)] // a test's own thread, joined by it
fn poll(
    queue: &Arc<FakeQueue>,
    until: impl Fn(&HealthBoard, &Receiver<Vec<Held>>) -> bool,
) -> Receiver<Vec<Held>> {
    let metrics = Arc::new(Metrics::new().unwrap());
    let health = board();
    let faults = Arc::new(FaultLog::new());
    let gate = Arc::new(RedisGate::new(
        Arc::clone(&health),
        Arc::clone(&metrics),
        Arc::clone(&faults),
    ));
    gate.found(Evidence::Answered);
    let (sender, receiver) = unbounded();
    let (trigger, stop) = stop_pair();
    let poller = Poller {
        index: 0,
        queue: Arc::clone(queue) as Arc<dyn Queue>,
        deliveries: sender,
        leases: leases(),
        polling: Polling {
            batch_size: 10,
            wait_time: Duration::from_secs(20),
        },
        gate,
        health: Arc::clone(&health),
        metrics,
        faults,
        polls: Polls::new(1),
        stop,
        last_hand_over: Stop::never(),
    };
    let thread = thread::spawn(move || poller.run());
    wait_until("the poller has got so far", || until(&health, &receiver));
    drop(trigger);
    thread.join().unwrap();
    assert_eq!(
        health.readiness(Instant::now()).consumers,
        0,
        "a poller that has ended is not alive"
    );
    receiver
}

#[test]
fn the_first_receive_and_the_first_after_a_failure_do_not_wait_for_messages() {
    let queue = Arc::new(FakeQueue {
        receives: Mutex::new(VecDeque::from([Ok(Vec::new()), Err(queue_error())])),
        ..FakeQueue::default()
    });
    poll(&queue, |_, _| queue.waits.lock().unwrap().len() >= 4);
    let waits: Vec<u64> = queue
        .waits
        .lock()
        .unwrap()
        .iter()
        .take(4)
        .map(Duration::as_secs)
        .collect();
    assert_eq!(waits, [0, 20, 0, 20]);
}

#[test]
fn a_poller_that_gets_answers_is_alive_and_hands_over_what_it_receives() {
    let queue = Arc::new(FakeQueue {
        receives: Mutex::new(VecDeque::from([Ok(vec![delivery("1", "{}")])])),
        ..FakeQueue::default()
    });
    let deliveries = poll(&queue, |health, deliveries| {
        health.readiness(Instant::now()).consumers == 1 && !deliveries.is_empty()
    });
    assert_eq!(deliveries.recv().unwrap()[0].delivery.message_id, "1");
}

fn heartbeat(queue: &Arc<FakeQueue>, leases: &Arc<Leases>) -> Heartbeat {
    Heartbeat {
        queue: Arc::clone(queue) as Arc<dyn Queue>,
        leases: Arc::clone(leases),
        metrics: Arc::new(Metrics::new().unwrap()),
        faults: Arc::new(FaultLog::new()),
        stop: Stop::never(),
    }
}

#[test]
fn what_is_in_hand_is_extended_in_batches_of_ten_and_not_before_half_of_its_time() {
    let queue = Arc::new(FakeQueue::default());
    let leases = leases();
    let now = Instant::now();
    let _held: Vec<Held> = (0..12)
        .map(|number| leases.hold(0, delivery(&number.to_string(), "{}")))
        .collect();
    let heartbeat = heartbeat(&queue, &leases);
    assert!(heartbeat.beat(now + Duration::from_secs(10)));
    assert!(queue.visibility.lock().unwrap().is_empty());
    assert!(heartbeat.beat(now + Duration::from_secs(16)));
    let extended = queue.visibility.lock().unwrap().clone();
    assert_eq!(extended.len(), 12);
    assert!(extended.iter().all(|(_, by)| *by == Duration::from_secs(30)));
    assert!(heartbeat.beat(now + Duration::from_secs(17)), "and not twice");
    assert_eq!(queue.visibility.lock().unwrap().len(), 12);
}

#[test]
fn a_handle_that_the_queue_does_not_know_is_lost_and_a_call_that_failed_is_made_again() {
    let refused = EntryFailure {
        code: "ReceiptHandleIsInvalid".to_owned(),
        message: String::new(),
        sender_fault: true,
    };
    let queue = Arc::new(FakeQueue {
        visibility_answers: Mutex::new(VecDeque::from([
            Err(queue_error()),
            Ok(vec![Some(refused), None]),
        ])),
        ..FakeQueue::default()
    });
    let leases = leases();
    let now = Instant::now();
    let forgotten = leases.hold(0, delivery("forgotten", "{}"));
    let kept = leases.hold(0, delivery("kept", "{}"));
    let heartbeat = heartbeat(&queue, &leases);
    let at_half = now + Duration::from_secs(16);
    assert!(!heartbeat.beat(at_half));
    assert!(!forgotten.lease.is_lost(at_half), "a failed call says nothing");
    assert!(heartbeat.beat(at_half));
    assert!(forgotten.lease.is_lost(at_half));
    assert!(!kept.lease.is_lost(now + Duration::from_secs(40)));
}

#[test]
fn an_extension_that_was_throttled_or_denied_is_no_loss() {
    for code in ["RequestThrottled", "AccessDenied"] {
        let failure = EntryFailure {
            code: code.to_owned(),
            message: String::new(),
            sender_fault: true,
        };
        let queue = Arc::new(FakeQueue {
            visibility_answers: Mutex::new(VecDeque::from([Ok(vec![Some(failure)])])),
            ..FakeQueue::default()
        });
        let leases = leases();
        let at_half = Instant::now() + Duration::from_secs(16);
        let held = leases.hold(0, delivery("1", "{}"));
        let heartbeat = heartbeat(&queue, &leases);
        heartbeat.beat(at_half);
        assert!(!held.lease.is_lost(at_half), "{code}");
        heartbeat.beat(at_half);
        assert_eq!(queue.visibility.lock().unwrap().len(), 2, "{code}: asked again");
    }
}
