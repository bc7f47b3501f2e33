//! Pollers and acknowledgers against a queue that fails on purpose.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, unbounded};

use super::{delivery, wait_until};
use crate::log::FaultLog;
use crate::ops::health::HealthBoard;
use crate::ops::metrics::Metrics;
use crate::pipeline::acknowledger::Acknowledger;
use crate::pipeline::gate::{Evidence, RedisGate};
use crate::pipeline::poller::{Poller, Polling};
use crate::pipeline::settle::{Settled, Settlement};
use crate::shutdown::{Stop, stop_pair};
use crate::sqs::{BatchOutcome, Delivery, EntryFailure, Queue, QueueError, ReceiptHandle};

/// Answers of a queue, in order; after the last, an empty receive.
#[derive(Default)]
struct FakeQueue {
    receives: Mutex<VecDeque<Result<Vec<Delivery>, QueueError>>>,
    waits: Mutex<Vec<Duration>>,
    deletes: Mutex<VecDeque<Result<BatchOutcome, QueueError>>>,
    deleted: Mutex<Vec<Vec<String>>>,
    visibility: Mutex<Vec<(String, Duration)>>,
}

fn queue_error() -> QueueError {
    QueueError {
        message: "on purpose".to_owned(),
        kind: "purpose".to_owned(),
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
        Ok(vec![None; entries.len()])
    }
}

fn acknowledge(queue: &Arc<FakeQueue>, settled: Vec<Settled>) {
    let (sender, receiver) = unbounded();
    for settled in settled {
        sender.send(settled).unwrap();
    }
    drop(sender);
    let acknowledger = Acknowledger {
        queue: Arc::clone(queue) as Arc<dyn Queue>,
        settled: receiver,
        metrics: Arc::new(Metrics::new().unwrap()),
        faults: Arc::new(FaultLog::new()),
        out_of_time: Stop::never(),
    };
    acknowledger.run();
}

fn settled(id: &str, settlement: Settlement) -> Settled {
    Settled {
        receipt_handle: ReceiptHandle(id.to_owned()),
        settlement,
    }
}

#[test]
fn deletes_go_out_in_batches_of_ten() {
    let queue = Arc::new(FakeQueue::default());
    acknowledge(
        &queue,
        (0..23)
            .map(|number| settled(&format!("{number}"), Settlement::Delete))
            .collect(),
    );
    let sizes: Vec<usize> = queue.deleted.lock().unwrap().iter().map(Vec::len).collect();
    assert_eq!(sizes, [10, 10, 3]);
}

#[test]
fn of_a_half_failed_delete_only_what_can_still_succeed_is_tried_again() {
    let failure = |sender_fault| {
        Some(EntryFailure {
            code: "Code".to_owned(),
            message: String::new(),
            sender_fault,
        })
    };
    let queue = Arc::new(FakeQueue {
        deletes: Mutex::new(VecDeque::from([Ok(vec![None, failure(true), failure(false)])])),
        ..FakeQueue::default()
    });
    let ids = ["done", "expired", "again"];
    acknowledge(
        &queue,
        ids.iter().map(|id| settled(id, Settlement::Delete)).collect(),
    );
    assert_eq!(
        *queue.deleted.lock().unwrap(),
        [vec!["done", "expired", "again"], vec!["again"]]
    );
}

#[test]
fn a_delete_call_that_failed_is_made_again() {
    let queue = Arc::new(FakeQueue {
        deletes: Mutex::new(VecDeque::from([Err(queue_error())])),
        ..FakeQueue::default()
    });
    acknowledge(&queue, vec![settled("1", Settlement::Delete)]);
    assert_eq!(*queue.deleted.lock().unwrap(), [vec!["1"], vec!["1"]]);
}

#[test]
fn what_is_given_back_becomes_visible_at_once() {
    let queue = Arc::new(FakeQueue::default());
    acknowledge(
        &queue,
        vec![settled(
            "1",
            Settlement::Retry {
                visible_in: Duration::ZERO,
            },
        )],
    );
    assert_eq!(
        *queue.visibility.lock().unwrap(),
        [("1".to_owned(), Duration::ZERO)]
    );
    assert!(queue.deleted.lock().unwrap().is_empty());
}

#[allow(clippy::disallowed_methods)] // a test's own thread, joined by it
fn poll(
    queue: &Arc<FakeQueue>,
    until: impl Fn(&HealthBoard, &Receiver<Delivery>) -> bool,
) -> Receiver<Delivery> {
    let metrics = Arc::new(Metrics::new().unwrap());
    let health = Arc::new(HealthBoard::new(1));
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
        polling: Polling {
            batch_size: 10,
            wait_time: Duration::from_secs(20),
        },
        gate,
        health: Arc::clone(&health),
        metrics,
        faults,
        expecting: Arc::default(),
        stop,
    };
    let thread = thread::spawn(move || poller.run());
    wait_until("the poller has got so far", || until(&health, &receiver));
    drop(trigger);
    thread.join().unwrap();
    assert_eq!(
        health.readiness().consumers,
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
        health.readiness().consumers == 1 && !deliveries.is_empty()
    });
    assert_eq!(deliveries.recv().unwrap().message_id, "1");
}
