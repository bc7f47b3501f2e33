use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Instant;

use crossbeam_channel::{Receiver, bounded};

use super::{FakeQueue, Rig, delivery, queue_error, secs};
use crate::pipeline::gate::Access;
use crate::pipeline::in_flight::InFlightDelivery;
use crate::pipeline::poller::Poller;
use crate::sqs::{Delivery, QueueError};

fn rig_with(
    answers: Vec<Result<Vec<Delivery>, QueueError>>,
) -> (Rig, Poller, Receiver<Vec<InFlightDelivery>>) {
    let rig =
        Rig::with_queue(FakeQueue { receives: Mutex::new(VecDeque::from(answers)), ..FakeQueue::default() });
    let (sender, receiver) = bounded(1);
    let poller = Poller::new(rig.context.clone(), 0, sender);
    (rig, poller, receiver)
}

#[test]
fn the_first_receive_and_the_first_after_a_failure_do_not_wait_for_messages() {
    let (rig, mut poller, _deliveries) = rig_with(vec![Ok(Vec::new()), Err(queue_error())]);
    (0..4).for_each(|_| poller.step());
    assert_eq!(*rig.queue.waits.lock().unwrap(), [secs(0), secs(20), secs(0), secs(20)]);
}

#[test]
fn a_poller_that_gets_answers_is_alive_and_sends_what_it_receives_to_the_workers() {
    let (mut rig, mut poller, deliveries) =
        rig_with(vec![Ok(vec![delivery("1", "{}"), delivery("2", "{}")])]);
    poller.step();
    assert_eq!(rig.context.health.readiness(Instant::now()).consumers, 1);
    assert_eq!(deliveries.recv().unwrap().len(), 2);
    assert_eq!(rig.context.metrics.messages_received.get(), 2);
    drop(rig.triggers.take());
    poller.run();
    assert_eq!(rig.context.health.readiness(Instant::now()).consumers, 0, "it has ended");
}

#[test]
fn nothing_is_received_while_redis_cannot_be_used() {
    let (mut rig, mut poller, _deliveries) = rig_with(Vec::new());
    rig.context.gate.failed(
        Access::Write,
        &super::store_error(crate::store::Cause::Io),
        std::time::Instant::now(),
    );
    drop(rig.triggers.take()); // the wait ends at once
    poller.step();
    assert!(rig.queue.waits.lock().unwrap().is_empty());
}

#[test]
fn what_is_received_in_the_release_phase_is_left_to_be_released() {
    let (mut rig, mut poller, deliveries) = rig_with(vec![Ok(vec![delivery("1", "{}")])]);
    assert!(rig.in_flight().take_over(Instant::now()).is_empty());
    let triggers = rig.triggers.take().unwrap();
    drop(triggers.release);
    poller.step();
    assert!(deliveries.is_empty());
    assert_eq!(rig.in_flight().take_over(Instant::now()).len(), 1);
}
