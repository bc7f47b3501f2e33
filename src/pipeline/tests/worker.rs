use std::sync::Mutex;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, unbounded};

use super::{AT_ONCE, FakeQueue, FakeStore, Rig, deleted, delivery, is_retry, received_at, secs, usage_of};
use crate::config::PoisonPolicy;
use crate::pipeline::ending::Ending;
use crate::pipeline::gate::Access;
use crate::pipeline::in_flight::InFlightDelivery;
use crate::pipeline::worker::{LOCKED_RETRY_MIN, Worker};
use crate::sqs::Delivery;

/// A worker, and what it is given.
struct Bench {
    rig: Rig,
    worker: Worker,
    deliveries: Sender<Vec<InFlightDelivery>>,
}

impl Bench {
    fn on(rig: Rig) -> Self {
        let (deliveries, receiver) = unbounded();
        let worker = Worker::new(rig.context.clone(), receiver);
        Self { rig, worker, deliveries }
    }

    fn new() -> Self {
        Self::on(Rig::new())
    }

    fn deliver(&self, id: &str, body: &str) {
        self.send(delivery(id, body));
    }

    fn send(&self, delivery: Delivery) {
        self.deliveries.send(vec![self.rig.track(delivery)]).unwrap();
    }

    /// Steps until so many deliveries have ended, and gives their endings sorted by id.
    fn step_until(&mut self, ended: usize) -> Vec<(String, Ending)> {
        let mut endings = self.rig.endings();
        for _ in 0..1_000 {
            if endings.len() >= ended {
                break;
            }
            assert!(self.worker.step());
            endings.extend(self.rig.endings());
        }
        endings.sort_by(|a, b| a.0.cmp(&b.0));
        endings
    }
}

fn migration_of(customers: usize) -> String {
    let ids: Vec<String> = (0..customers).map(|number| format!(r#""customer-{number}""#)).collect();
    format!(r#"{{"type":"SUBSCRIPTIONS_MIGRATED","payload":{{"customerIds":[{}]}}}}"#, ids.join(","))
}

#[test]
fn a_message_is_deleted_once_its_change_is_applied() {
    let mut bench = Bench::new();
    bench.deliver("1", &usage_of("ann"));
    assert_eq!(bench.step_until(1), [deleted("1")]);
    assert_eq!(bench.rig.store.all_applied(), ["p:c_ann:f_api"]);
}

#[test]
fn what_is_waiting_is_applied_in_one_call() {
    let mut bench = Bench::new();
    let customers = ["ann", "bob", "cid"];
    for customer in customers {
        bench.deliver(customer, &usage_of(customer));
    }
    assert_eq!(bench.step_until(3), customers.map(deleted));
    assert_eq!(*bench.rig.store.calls.lock().unwrap(), [3]);
}

#[test]
fn an_unreadable_body_is_left_to_the_dead_letter_rule_or_deleted_as_the_policy_says() {
    let mut bench = Bench::new();
    bench.deliver("1", "{not json");
    let endings = bench.step_until(1);
    assert!(is_retry(endings[0].1, 15..=30), "{endings:?}");
    assert_eq!(bench.rig.context.metrics.messages_malformed.get(), 1);

    let rig = Rig::with(FakeQueue::default(), FakeStore::default(), PoisonPolicy::Delete);
    let mut bench = Bench::on(rig);
    bench.deliver("1", "{not json");
    assert_eq!(bench.step_until(1), [deleted("1")]);
}

#[test]
fn timestamps_that_cannot_be_true_are_counted_and_cost_the_message_nothing() {
    let mut bench = Bench::new();
    let body = usage_of("ann").replace("2026-11-20", "3000-01-01");
    bench.deliver("1", &body);
    assert_eq!(bench.step_until(1), [deleted("1")]);
    assert_eq!(bench.rig.context.metrics.implausible_timestamps.get(), 1);
    assert_eq!(bench.rig.store.all_applied(), ["p:c_ann:f_api"]);
}

#[test]
fn messages_that_meet_a_redis_that_fails_are_kept_and_applied_when_a_retry_succeeds() {
    let mut bench = Bench::on(Rig::with_store(FakeStore { failures: Mutex::new(2), ..FakeStore::default() }));
    let gate = bench.rig.context.gate.clone();
    bench.deliver("1", &usage_of("ann"));
    for _ in 0..2 {
        assert!(bench.worker.step());
        assert!(!gate.is_open());
        gate.succeeded(Access::Read);
        assert!(!gate.is_open(), "only a write proves that writes work");
        assert!(!gate.needs_probe(), "this worker's retry decides");
        assert!(bench.rig.endings().is_empty());
    }
    // What comes meanwhile waits for the retry.
    bench.deliver("2", &usage_of("bob"));
    assert!(bench.worker.step());
    assert_eq!(bench.rig.endings(), [deleted("1")]);
    assert!(gate.is_open());
    assert_eq!(bench.step_until(1), [deleted("2")]);
}

#[test]
fn a_purge_does_not_prove_that_writes_work_again_since_a_redis_that_is_full_still_deletes() {
    let mut bench = Bench::on(Rig::with_store(FakeStore { failures: Mutex::new(1), ..FakeStore::default() }));
    bench.deliver("1", &migration_of(1));
    assert_eq!(bench.step_until(1), [deleted("1")]);
    let gate = &bench.rig.context.gate;
    assert!(bench.worker.step());
    assert!(!gate.is_open() && gate.needs_probe());
}

#[test]
fn what_a_worker_holds_at_the_release_phase_is_released_and_the_worker_ends() {
    let mut bench =
        Bench::on(Rig::with_store(FakeStore { failures: Mutex::new(u32::MAX), ..FakeStore::default() }));
    bench.deliver("1", &usage_of("ann"));
    assert!(bench.worker.step());
    bench.deliver("2", &usage_of("bob"));
    let released = bench.rig.in_flight().take_over(Instant::now());
    drop(bench.rig.triggers.take());
    assert!(!bench.worker.step());
    drop(bench.worker);
    let mut endings: Vec<(String, Ending)> =
        released.iter().map(|recorded| (recorded.receipt_handle.0.clone(), recorded.ending)).collect();
    endings.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(endings, [("1".to_owned(), AT_ONCE), ("2".to_owned(), AT_ONCE)]);
    assert_eq!(bench.rig.context.metrics.in_flight.get(), 2, "until they are completed");
}

#[test]
fn a_worker_ends_when_all_pollers_have_ended_and_nothing_waits() {
    let mut bench = Bench::new();
    bench.deliver("1", &usage_of("ann"));
    drop(bench.deliveries);
    assert!(bench.worker.step());
    assert_eq!(bench.rig.endings(), [deleted("1")]);
    assert!(!bench.worker.step());
}

#[test]
fn a_locked_customer_waits_while_others_go_on() {
    let mut bench = Bench::on(Rig::with_store(FakeStore {
        locked: Mutex::new(Some(("ann".to_owned(), 3))),
        ..FakeStore::default()
    }));
    bench.deliver("1", &usage_of("ann"));
    bench.deliver("2", &usage_of("bob"));
    assert!(bench.worker.step());
    assert_eq!(bench.rig.endings(), [deleted("2")]);
    assert_eq!(bench.step_until(1), [deleted("1")]);
    assert_eq!(bench.rig.store.all_applied(), ["p:c_bob:f_api", "p:c_ann:f_api"]);
}

#[test]
fn of_a_message_with_many_changes_only_those_that_are_locked_are_retried() {
    let mut bench = Bench::on(Rig::with_store(FakeStore {
        locked: Mutex::new(Some(("customer-1".to_owned(), 2))),
        ..FakeStore::default()
    }));
    bench.deliver("1", &migration_of(3));
    assert_eq!(bench.step_until(1), [deleted("1")]);
    assert_eq!(*bench.rig.store.calls.lock().unwrap(), [3, 1, 1]);
    assert_eq!(bench.rig.store.all_applied(), ["p:c_customer-0", "p:c_customer-2", "p:c_customer-1"]);
}

#[test]
fn a_message_whose_customers_are_mostly_locked_is_retried_with_a_pause() {
    let locked = Mutex::new(Some(("customer-".to_owned(), u32::MAX)));
    let mut bench = Bench::on(Rig::with_store(FakeStore { locked, ..FakeStore::default() }));
    bench.deliver("1", &migration_of(2_000));
    let began = Instant::now();
    (0..6).for_each(|_| assert!(bench.worker.step()));
    assert!(began.elapsed() >= 5 * LOCKED_RETRY_MIN, "{:?}", began.elapsed());
    *bench.rig.store.locked.lock().unwrap() = None;
    assert_eq!(bench.step_until(1), [deleted("1")]);
}

#[test]
fn a_message_of_very_many_changes_is_applied_in_bounded_calls_and_ends_once() {
    let mut bench = Bench::new();
    bench.deliver("1", &migration_of(1_200));
    bench.deliver("2", &usage_of("ann"));
    assert_eq!(bench.step_until(2), [deleted("1"), deleted("2")]);
    assert_eq!(*bench.rig.store.calls.lock().unwrap(), [500, 500, 201]);
    assert_eq!(bench.rig.context.metrics.messages_processed.get(), 2);
}

#[test]
fn large_messages_behind_a_lock_stay_in_the_queue_but_for_a_few_megabytes() {
    const MESSAGES: usize = 40;
    let mut bench = Bench::on(Rig::with_store(FakeStore {
        locked: Mutex::new(Some(("ann".to_owned(), u32::MAX))),
        ..FakeStore::default()
    }));
    let body = format!("{}{}", " ".repeat(300_000), usage_of("ann"));
    for number in 0..MESSAGES {
        bench.deliver(&number.to_string(), &body);
    }
    (0..30).for_each(|_| assert!(bench.worker.step()));
    let not_taken = bench.deliveries.len();
    assert!((MESSAGES / 2..MESSAGES).contains(&not_taken), "{not_taken} are not taken");
    *bench.rig.store.locked.lock().unwrap() = None;
    assert_eq!(bench.step_until(MESSAGES).len(), MESSAGES);
}

#[test]
fn of_large_messages_that_came_together_only_a_few_are_decoded_at_a_time() {
    let mut bench = Bench::new();
    let body = format!("{}{}", " ".repeat(300_000), usage_of("ann"));
    let batch = (0..5).map(|number| bench.rig.track(delivery(&number.to_string(), &body))).collect();
    bench.deliveries.send(batch).unwrap();
    bench.deliver("5", &usage_of("bob"));
    assert_eq!(bench.step_until(6), ["0", "1", "2", "3", "4", "5"].map(deleted));
    assert_eq!(*bench.rig.store.calls.lock().unwrap(), [1, 1, 1, 1, 1, 1]);
}

/// Of two messages handled together, the one of `ann` fails.
fn ann_comes_again_and_bob_is_done(store: FakeStore, after: std::ops::RangeInclusive<u64>) -> Bench {
    let mut bench = Bench::on(Rig::with_store(store));
    bench.deliver("1", &usage_of("ann"));
    bench.deliver("2", &usage_of("bob"));
    let endings = bench.step_until(2);
    assert!(is_retry(endings[0].1, after), "{endings:?}");
    assert_eq!(endings[1], deleted("2"));
    bench
}

#[test]
fn a_panic_costs_its_own_message_one_try_and_no_other() {
    let store = FakeStore { panics_for: Some("ann".to_owned()), ..FakeStore::default() };
    let bench = ann_comes_again_and_bob_is_done(store, 1..=2);
    assert_eq!(bench.rig.failed("panic"), 1);
}

#[test]
fn a_change_that_redis_refuses_comes_again_and_holds_up_no_other() {
    let store = FakeStore { refuses: Some("ann".to_owned()), ..FakeStore::default() };
    let bench = ann_comes_again_and_bob_is_done(store, 15..=30);
    assert_eq!(bench.rig.failed("other"), 1);
    assert!(bench.rig.context.gate.is_open(), "Redis as a whole is well");
}

#[test]
fn a_refused_change_does_not_keep_the_others_of_its_message_from_being_made() {
    let mut bench = Bench::on(Rig::with_store(FakeStore {
        refuses: Some("customer-1".to_owned()),
        ..FakeStore::default()
    }));
    bench.deliver("1", &migration_of(600));
    let endings = bench.step_until(1);
    assert!(is_retry(endings[0].1, 15..=30), "{endings:?}");
    assert_eq!(bench.rig.store.all_applied().len(), 599);
}

#[test]
fn a_change_that_redis_will_always_refuse_is_deleted_if_the_policy_says_so() {
    let store = FakeStore { refuses: Some("ann".to_owned()), ..FakeStore::default() };
    let mut bench = Bench::on(Rig::with(FakeQueue::default(), store, PoisonPolicy::Delete));
    bench.deliver("1", &usage_of("ann"));
    assert_eq!(bench.step_until(1), [deleted("1")]);
}

#[test]
fn a_message_whose_receipt_handle_has_expired_is_dropped_and_not_completed() {
    let mut bench = Bench::new();
    bench.rig.in_flight().set_timeout(secs(30));
    let long_ago = Instant::now().checked_sub(secs(31)).expect("an up-time of minutes");
    bench.send(received_at("1", &usage_of("ann"), long_ago));
    bench.deliver("2", &usage_of("bob"));
    assert_eq!(bench.step_until(1), [deleted("2")]);
    assert_eq!(bench.rig.failed("expired"), 1);
    assert_eq!(bench.rig.store.all_applied(), ["p:c_bob:f_api"]);
}

#[test]
fn a_message_that_expires_while_redis_fails_is_dropped_and_a_probe_may_open_the_gate() {
    let mut bench = Bench::on(Rig::with_store(FakeStore { failures: Mutex::new(1), ..FakeStore::default() }));
    bench.rig.in_flight().set_timeout(Duration::from_millis(50));
    bench.deliver("1", &usage_of("ann"));
    assert!(bench.worker.step());
    assert!(bench.worker.step());
    assert_eq!(bench.rig.failed("expired"), 1);
    assert_eq!(bench.rig.context.metrics.in_flight.get(), 0);
    assert!(!bench.rig.context.gate.is_open() && bench.rig.context.gate.needs_probe());
}
