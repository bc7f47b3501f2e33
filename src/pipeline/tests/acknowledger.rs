//! Acknowledgers against a queue that fails on purpose.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, unbounded};

use super::queue::{FakeQueue, leases, queue_error};
use super::{delivery, wait_until};
use crate::log::FaultLog;
use crate::ops::metrics::Metrics;
use crate::pipeline::acknowledger::{Acknowledger, Baton};
use crate::pipeline::lease::{Held, Leases};
use crate::pipeline::settle::{Settled, Settlement};
use crate::shutdown::{Stop, stop_pair};
use crate::sqs::{Delivery, EntryFailure, Queue, ReceiptHandle};

fn acknowledger(queue: &Arc<FakeQueue>, settled: Receiver<Vec<Settled>>, out_of_time: Stop) -> Acknowledger {
    Acknowledger {
        queue: Arc::clone(queue) as Arc<dyn Queue>,
        settled,
        baton: Baton::default(),
        metrics: Arc::new(Metrics::new().unwrap()),
        faults: Arc::new(FaultLog::new()),
        out_of_time,
    }
}

fn acknowledge(queue: &Arc<FakeQueue>, settled: Vec<Settled>) {
    acknowledge_until(queue, settled, Stop::never());
}

fn acknowledge_until(queue: &Arc<FakeQueue>, settled: Vec<Settled>, out_of_time: Stop) {
    let (sender, receiver) = unbounded();
    for settled in settled {
        sender.send(vec![settled]).unwrap();
    }
    drop(sender);
    acknowledger(queue, receiver, out_of_time).run();
}

fn settled(id: &str, settlement: Settlement) -> Settled {
    settled_of(&leases(), id, settlement)
}

/// The receipt handle is the id itself.
fn settled_of(leases: &Arc<Leases>, id: &str, settlement: Settlement) -> Settled {
    let delivery = Delivery {
        receipt_handle: ReceiptHandle(id.to_owned()),
        ..delivery(id, "{}")
    };
    let Held { lease, .. } = leases.hold(0, delivery);
    lease.settle();
    Settled { lease, settlement }
}

#[test]
fn what_is_handed_over_in_other_portions_is_deleted_in_tens_all_the_same() {
    let queue = Arc::new(FakeQueue::default());
    let (sender, receiver) = unbounded();
    for portion in 0..3 {
        let ids = (0..7).map(|number| format!("{portion}-{number}"));
        sender
            .send(ids.map(|id| settled(&id, Settlement::Delete)).collect())
            .unwrap();
    }
    drop(sender);
    acknowledger(&queue, receiver, Stop::never()).run();
    let deleted = queue.deleted.lock().unwrap();
    let sizes: Vec<usize> = deleted.iter().map(Vec::len).collect();
    assert_eq!(sizes, [10, 10, 1]);
    let distinct: HashSet<&String> = deleted.iter().flatten().collect();
    assert_eq!(distinct.len(), 21);
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

#[test]
fn a_delete_that_goes_on_failing_is_given_up_when_its_receipt_handle_expires() {
    let queue = Arc::new(FakeQueue {
        deletes: Mutex::new((0..100).map(|_| Err(queue_error())).collect()),
        ..FakeQueue::default()
    });
    let leases = leases();
    leases.set_timeout(Duration::from_secs(2));
    let began = Instant::now();
    acknowledge(&queue, vec![settled_of(&leases, "1", Settlement::Delete)]);
    let tries = queue.deleted.lock().unwrap().len();
    assert!((3..10).contains(&tries), "tried with growing waits: {tries}");
    assert!(began.elapsed() < Duration::from_secs(3));
}

#[test]
fn an_entry_that_goes_on_failing_holds_up_no_other() {
    let again = || {
        Ok(vec![Some(EntryFailure {
            code: "InternalError".to_owned(),
            message: String::new(),
            sender_fault: false,
        })])
    };
    let queue = Arc::new(FakeQueue {
        deletes: Mutex::new(VecDeque::from([again(), Ok(vec![None])])),
        ..FakeQueue::default()
    });
    let (sender, receiver) = unbounded();
    let acknowledger = acknowledger(&queue, receiver, Stop::never());
    let leases = leases();
    thread::scope(|scope| {
        scope.spawn(|| acknowledger.run());
        sender
            .send(vec![settled_of(&leases, "failing", Settlement::Delete)])
            .unwrap();
        wait_until("the first call", || queue.deleted.lock().unwrap().len() == 1);
        sender
            .send(vec![settled_of(&leases, "other", Settlement::Delete)])
            .unwrap();
        drop(sender);
    });
    assert_eq!(
        *queue.deleted.lock().unwrap(),
        [vec!["failing"], vec!["other"], vec!["failing"]]
    );
}

#[test]
fn when_the_time_of_a_stop_is_over_everything_gets_one_more_try() {
    let queue = Arc::new(FakeQueue {
        deletes: Mutex::new((0..100).map(|_| Err(queue_error())).collect()),
        ..FakeQueue::default()
    });
    let (trigger, out_of_time) = stop_pair();
    drop(trigger);
    let all = (0..12).map(|number| settled(&number.to_string(), Settlement::Delete));
    acknowledge_until(&queue, all.collect(), out_of_time);
    let sizes: Vec<usize> = queue.deleted.lock().unwrap().iter().map(Vec::len).collect();
    assert_eq!(sizes, [10, 2]);
}

#[test]
fn what_workers_give_back_after_the_time_of_a_stop_is_over_is_still_told() {
    let queue = Arc::new(FakeQueue::default());
    let (sender, receiver) = unbounded();
    let (trigger, out_of_time) = stop_pair();
    let acknowledger = acknowledger(&queue, receiver, out_of_time);
    let at_once = Settlement::Retry {
        visible_in: Duration::ZERO,
    };
    drop(trigger);
    thread::scope(|scope| {
        scope.spawn(|| acknowledger.run());
        for id in ["soon", "later"] {
            // Each worker gives back when its last call to Redis ends, and that takes seconds.
            sender.send(vec![settled(id, at_once)]).unwrap();
            wait_until("it is given back", || {
                let visibility = queue.visibility.lock().unwrap();
                visibility.last() == Some(&(id.to_owned(), Duration::ZERO))
            });
        }
        drop(sender);
    });
}

#[test]
fn what_is_given_back_is_not_hidden_again_by_an_extension_that_was_under_way() {
    let queue = Arc::new(FakeQueue::default());
    let leases = leases();
    let at_once = Settlement::Retry {
        visible_in: Duration::ZERO,
    };
    let Held { lease, .. } = leases.hold(0, delivery("1", "{}"));
    let due = leases.due(Instant::now() + Duration::from_secs(20));
    let under_way = due[0].begin_extension().unwrap();
    lease.settle();
    let (sender, receiver) = unbounded();
    let acknowledger = acknowledger(&queue, receiver, Stop::never());
    thread::scope(|scope| {
        scope.spawn(|| acknowledger.run());
        let given_back = Settled {
            lease,
            settlement: at_once,
        };
        sender.send(vec![given_back]).unwrap();
        let other = settled_of(&leases, "other", at_once);
        sender.send(vec![other]).unwrap();
        let told = || queue.visibility.lock().unwrap().len();
        wait_until("the other is told", || told() == 1);
        assert_eq!(queue.visibility.lock().unwrap()[0].0, "other");
        drop(under_way);
        wait_until("the first is told, too", || told() == 2);
        drop(sender);
    });
}

#[test]
fn a_queue_that_takes_no_deletes_is_not_called_in_a_hot_loop() {
    let queue = Arc::new(FakeQueue {
        deletes: Mutex::new((0..10_000).map(|_| Err(queue_error())).collect()),
        ..FakeQueue::default()
    });
    let leases = leases();
    leases.set_timeout(Duration::from_secs(2));
    let all = (0..150).map(|number| settled_of(&leases, &number.to_string(), Settlement::Delete));
    acknowledge(&queue, all.collect());
    let calls = queue.deleted.lock().unwrap().len();
    assert!(calls < 40, "{calls} calls in 2 s");
    assert!(leases.due(Instant::now()).is_empty());
}

#[test]
fn while_no_call_may_be_made_nothing_is_taken_on_and_the_end_of_the_budget_is_noticed() {
    const FAILING: usize = 5;
    let queue = Arc::new(FakeQueue {
        deletes: Mutex::new((0..FAILING).map(|_| Err(queue_error())).collect()),
        ..FakeQueue::default()
    });
    let (sender, receiver) = unbounded();
    let (trigger, out_of_time) = stop_pair();
    let acknowledger = acknowledger(&queue, receiver.clone(), out_of_time);
    let leases = leases();
    let delete = |id| vec![settled_of(&leases, id, Settlement::Delete)];
    let tries = || queue.deleted.lock().unwrap().len();
    thread::scope(|scope| {
        scope.spawn(|| acknowledger.run());
        sender.send(delete("failing")).unwrap();
        wait_until("calls that failed", || tries() == FAILING);
        // The next call is made in 1.6 s at the earliest: until then others could take this.
        sender.send(delete("other")).unwrap();
        Stop::never().wait(Duration::from_millis(100));
        assert_eq!(receiver.len(), 1);
        let over = Instant::now();
        drop(trigger);
        wait_until("a last try", || tries() > FAILING);
        assert!(over.elapsed() < Duration::from_secs(1));
        drop(sender);
    });
    let deleted = queue.deleted.lock().unwrap();
    assert_eq!(deleted[FAILING..], [vec!["failing"], vec!["other"]]);
}
