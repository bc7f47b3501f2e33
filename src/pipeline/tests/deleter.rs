use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, unbounded};

use super::{AT_ONCE, FakeQueue, Rig, delivery, entry_failure, queue_error, secs, wait_until};
use crate::pipeline::context::Sent;
use crate::pipeline::deleter::Deleter;
use crate::pipeline::ending::Ending;
use crate::pipeline::in_flight::Recorded;
use crate::sqs::{BatchOutcome, QueueError};

fn failing(times: usize) -> VecDeque<Result<BatchOutcome, QueueError>> {
    (0..times).map(|_| Err(queue_error())).collect()
}

fn with_deletes(deletes: VecDeque<Result<BatchOutcome, QueueError>>) -> Rig {
    Rig::with_queue(FakeQueue { deletes: Mutex::new(deletes), ..FakeQueue::default() })
}

fn recorded(rig: &Rig, id: &str, ending: Ending) -> Recorded {
    let delivery = rig.track(delivery(id, "{}"));
    rig.in_flight().record(vec![(delivery, ending)]).remove(0)
}

fn deletes(rig: &Rig, ids: impl IntoIterator<Item = usize>) -> Vec<Recorded> {
    let ids = ids.into_iter();
    ids.map(|id| recorded(rig, &id.to_string(), Ending::Delete)).collect()
}

type Shared = Arc<Mutex<Receiver<Recorded>>>;

fn shared(receiver: Receiver<Recorded>) -> Shared {
    Arc::new(Mutex::new(receiver))
}

fn deleter(rig: &Rig, recorded: &Shared) -> Deleter {
    Deleter { context: rig.context.clone(), recorded: Arc::clone(recorded) }
}

/// Steps until all of these are completed.
fn complete(rig: &Rig, recorded: Vec<Recorded>) {
    let (sender, receiver) = unbounded();
    let deleter = deleter(rig, &shared(receiver));
    for recorded in recorded {
        sender.send(recorded).unwrap();
    }
    while rig.context.metrics.in_flight.get() > 0 {
        assert!(deleter.step());
    }
}

fn calls(rig: &Rig) -> Vec<Vec<String>> {
    rig.queue.deleted.lock().unwrap().clone()
}

fn sizes(rig: &Rig) -> Vec<usize> {
    calls(rig).iter().map(Vec::len).collect()
}

#[test]
fn deletes_go_out_in_batches_of_ten() {
    let rig = Rig::new();
    complete(&rig, deletes(&rig, 0..31));
    assert_eq!(sizes(&rig), [10, 10, 10, 1]);
    let distinct: HashSet<String> = calls(&rig).concat().into_iter().collect();
    assert_eq!(distinct.len(), 31);
}

#[test]
fn many_are_shared_by_the_deleters() {
    let rig = Rig::new();
    let (sender, receiver) = unbounded();
    let shared = shared(receiver);
    for recorded in deletes(&rig, 0..25) {
        sender.send(recorded).unwrap();
    }
    for expected in [vec![10], vec![10, 10], vec![10, 10, 5]] {
        assert!(deleter(&rig, &shared).step());
        assert_eq!(sizes(&rig), expected);
    }
}

#[test]
fn of_a_half_failed_delete_only_what_can_still_succeed_is_tried_again() {
    let failures = vec![None, Some(entry_failure("Code", true)), Some(entry_failure("Code", false))];
    let rig = with_deletes(VecDeque::from([Ok(failures)]));
    complete(&rig, deletes(&rig, 0..3));
    assert_eq!(calls(&rig), [vec!["0", "1", "2"], vec!["2"]]);
}

#[test]
fn a_delete_call_that_failed_is_made_again() {
    let rig = with_deletes(failing(1));
    complete(&rig, deletes(&rig, 0..1));
    assert_eq!(calls(&rig), [["0"], ["0"]]);
}

#[test]
fn what_is_released_becomes_visible_at_once_beside_deletes() {
    let rig = Rig::new();
    complete(&rig, vec![recorded(&rig, "release", AT_ONCE), recorded(&rig, "delete", Ending::Delete)]);
    assert_eq!(*rig.queue.visibility.lock().unwrap(), [("release".to_owned(), secs(0))]);
    assert_eq!(calls(&rig), [["delete"]]);
}

#[test]
fn a_delete_that_goes_on_failing_is_given_up_when_its_receipt_handle_expires() {
    let rig = with_deletes(failing(100));
    rig.in_flight().set_timeout(secs(2));
    let began = Instant::now();
    complete(&rig, deletes(&rig, 0..1));
    let tries = calls(&rig).len();
    assert!((3..10).contains(&tries), "tried with growing waits: {tries}");
    assert!(began.elapsed() < secs(3));
}

#[test]
fn a_queue_that_takes_no_deletes_is_not_called_in_a_hot_loop() {
    let rig = with_deletes(failing(10_000));
    rig.in_flight().set_timeout(secs(2));
    complete(&rig, deletes(&rig, 0..150));
    assert!(calls(&rig).len() < 40, "{} calls in 2 s", calls(&rig).len());
}

#[test]
fn a_delete_that_goes_on_failing_holds_up_no_other_deleter() {
    let rig = with_deletes(VecDeque::from([Ok(vec![Some(entry_failure("InternalError", false))])]));
    let (sender, receiver) = unbounded();
    let shared = shared(receiver);
    thread::scope(|scope| {
        for _ in 0..2 {
            let deleter = deleter(&rig, &shared);
            scope.spawn(move || deleter.step());
        }
        sender.send(recorded(&rig, "failing", Ending::Delete)).unwrap();
        wait_until("the first call", || calls(&rig).len() == 1);
        sender.send(recorded(&rig, "other", Ending::Delete)).unwrap();
        drop(sender); // either of the two may take it
    });
    assert_eq!(calls(&rig), [["failing"], ["other"], ["failing"]]);
}

#[test]
fn a_delete_that_goes_on_failing_holds_up_no_other_of_the_only_deleter() {
    const FAILING: usize = 4;
    let failure = || Ok(vec![Some(entry_failure("InternalError", false))]);
    let rig = with_deletes((0..FAILING).map(|_| failure()).collect());
    let (sender, receiver) = unbounded();
    let deleter = deleter(&rig, &shared(receiver));
    thread::scope(|scope| {
        scope.spawn(|| deleter.step());
        sender.send(recorded(&rig, "failing", Ending::Delete)).unwrap();
        wait_until("calls that failed", || calls(&rig).len() == FAILING);
        // The next one is due in 0.8 s at the earliest.
        for (number, id) in ["one", "two"].iter().enumerate() {
            sender.send(recorded(&rig, id, Ending::Delete)).unwrap();
            wait_until("its call", || calls(&rig).len() > FAILING + number);
        }
    });
    assert_eq!(calls(&rig)[FAILING - 1..], [["failing"], ["one"], ["two"], ["failing"]]);
}

#[test]
fn in_the_release_phase_everything_gets_one_more_try() {
    let mut rig = with_deletes(failing(100));
    let batches = deletes(&rig, 0..12);
    let triggers = rig.triggers.take().unwrap();
    drop(triggers.release);
    complete(&rig, batches);
    assert_eq!(sizes(&rig), [10, 2]);
}

#[test]
fn a_deleter_that_waits_for_its_next_try_notices_the_release_phase() {
    const FAILING: usize = 4;
    let mut rig = with_deletes(failing(100));
    let batch = deletes(&rig, 0..1);
    let triggers = rig.triggers.take().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| complete(&rig, batch));
        wait_until("calls that failed", || calls(&rig).len() == FAILING);
        // The next one is due in 0.8 s at the earliest.
        let began = Instant::now();
        drop(triggers.release);
        wait_until("a last try", || calls(&rig).len() == FAILING + 1);
        assert!(began.elapsed() < Duration::from_millis(700));
    });
    assert_eq!(calls(&rig).len(), FAILING + 1);
}

#[test]
fn what_is_released_is_not_hidden_again_by_an_extension_that_was_under_way() {
    let rig = Rig::new();
    let held = rig.track(delivery("1", "{}"));
    let under_way = rig.in_flight().begin_extensions(10, Instant::now() + secs(20));
    let released = rig.in_flight().record(vec![(held, AT_ONCE)]).remove(0);
    let other = recorded(&rig, "other", AT_ONCE);
    let changed = || rig.queue.visibility.lock().unwrap().clone();
    thread::scope(|scope| {
        scope.spawn(|| complete(&rig, vec![released, other]));
        wait_until("the other is released", || changed() == [("other".to_owned(), secs(0))]);
        rig.in_flight().end_extension(under_way[0].0, Instant::now(), &Sent::Failed);
        wait_until("the first is released, too", || changed().len() == 2);
    });
}

#[test]
fn deleters_end_in_the_exit_phase() {
    let mut rig = Rig::new();
    let (_sender, receiver) = unbounded();
    let shared = shared(receiver);
    thread::scope(|scope| {
        for _ in 0..3 {
            let deleter = deleter(&rig, &shared);
            scope.spawn(move || deleter.run());
        }
        drop(rig.triggers.take());
    });
}
