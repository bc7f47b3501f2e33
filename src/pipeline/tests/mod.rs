//! The loops against a queue and a store that fail on purpose: here the workers, the others in rooms of their own. What needs a
//! real Redis or a real queue is in `tests/it`.

mod acknowledger;
mod queue;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::gate::{Evidence, RedisGate};
use super::lease::{Held, Leases};
use super::poison::PoisonLog;
use super::polls::Polls;
use super::settle::{Outbox, Settled, Settlement};
use super::worker::Worker;
use crate::cache::keyspace::Keyspace;
use crate::cache::{CacheChange, Invalidation, Layout};
use crate::config::{CacheUpdatePolicy, PoisonPolicy};
use crate::entitlement::EpochMs;
use crate::entitlement::stored::CacheFormat;
use crate::log::FaultLog;
use crate::ops::health::{HealthBoard, Patience};
use crate::ops::metrics::Metrics;
use crate::sentry_reports::Reporter;
use crate::shutdown::{Stop, StopTrigger, stop_pair};
use crate::sqs::{Delivery, ReceiptHandle};
use crate::store::{CacheStore, Cause, LockPatience, Outcome, StoreError};

const DEADLINE: Duration = Duration::from_secs(10);

fn usage_of(customer: &str) -> String {
    format!(
        r#"{{"type":"measurement.reported","timestamp":"2026-11-20T08:03:20.000Z","currentUsage":43,
            "feature":{{"id":"api"}},"customer":{{"id":"{customer}"}}}}"#
    )
}

fn delivery(id: &str, body: &str) -> Delivery {
    Delivery {
        message_id: id.to_owned(),
        receipt_handle: ReceiptHandle(format!("receipt-{id}")),
        body: body.to_owned(),
        sent_at: EpochMs(1),
        receive_count: 1,
        received_at: Instant::now(),
    }
}

/// What the store does with a change, by the customer it is for.
#[derive(Default)]
struct FakeStore {
    /// Calls that find Redis away before it answers again.
    away_for: Mutex<u32>,
    /// Customers that are locked, and for how many tries.
    locked: Mutex<Vec<(String, u32)>>,
    /// A customer whose change panics.
    panics_for: Option<String>,
    /// A customer whose change is refused.
    refuses: Option<String>,
    /// Keys in the order they were applied.
    applied: Mutex<Vec<String>>,
}

fn store_error(cause: Cause) -> StoreError {
    StoreError {
        message: format!("{} on purpose", cause.label()),
        cause,
    }
}

impl CacheStore for FakeStore {
    fn apply(
        &self,
        changes: &[(&CacheChange, LockPatience)],
        _: &dyn Fn() -> bool,
    ) -> Result<Vec<Result<Outcome, StoreError>>, StoreError> {
        let mut away_for = self.away_for.lock().unwrap();
        if *away_for > 0 {
            *away_for -= 1;
            return Err(store_error(Cause::Io));
        }
        drop(away_for);
        let key = |change: &CacheChange| {
            let CacheChange::WriteUsage(usage) = change else {
                panic!("unexpected {change:?}")
            };
            usage.write.key.clone()
        };
        let is_of = |key: &str, customer: &str| key.contains(&format!("c_{customer}:"));
        if let Some(customer) = &self.panics_for {
            assert!(
                !changes.iter().any(|(change, _)| is_of(&key(change), customer)),
                "a defect on purpose"
            );
        }
        let mut outcomes = Vec::new();
        for (change, _) in changes {
            let key = key(change);
            if self
                .refuses
                .as_deref()
                .is_some_and(|customer| is_of(&key, customer))
            {
                outcomes.push(Err(store_error(Cause::WrongType)));
                continue;
            }
            let mut locked = self.locked.lock().unwrap();
            if let Some((_, tries)) = locked
                .iter_mut()
                .find(|(customer, tries)| *tries > 0 && is_of(&key, customer))
            {
                *tries -= 1;
                outcomes.push(Ok(Outcome::Locked));
                continue;
            }
            self.applied.lock().unwrap().push(key);
            outcomes.push(Ok(Outcome::Applied { written: 1, stale: 0 }));
        }
        Ok(outcomes)
    }

    fn invalidate(&self, _: &Invalidation, _: &dyn Fn() -> bool) -> Result<u64, StoreError> {
        Ok(0)
    }

    fn probe_write(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn info(&self) -> Result<String, StoreError> {
        Ok(String::new())
    }
}

fn board() -> Arc<HealthBoard> {
    Arc::new(HealthBoard::new(1, Patience::default(), Instant::now()))
}

struct Bench {
    leases: Arc<Leases>,
    store: Arc<FakeStore>,
    gate: Arc<RedisGate>,
    metrics: Arc<Metrics>,
    deliveries: Sender<Vec<Held>>,
    settled: Receiver<Vec<Settled>>,
    unread: RefCell<VecDeque<Settled>>,
    last_delivery: StopTrigger,
    out_of_time: StopTrigger,
    worker: thread::JoinHandle<()>,
}

#[allow(clippy::disallowed_methods)] // a test's own thread, joined by it
fn worker_with(store: FakeStore, poison_policy: PoisonPolicy) -> Bench {
    let store = Arc::new(store);
    let metrics = Arc::new(Metrics::new().unwrap());
    let faults = Arc::new(FaultLog::new());
    let gate = Arc::new(RedisGate::new(board(), Arc::clone(&metrics), Arc::clone(&faults)));
    gate.found(Evidence::Answered);
    let (delivery_sender, deliveries) = unbounded();
    let (settled_sender, settled) = unbounded();
    let (last_delivery, last_delivery_stop) = stop_pair();
    let (out_of_time, out_of_time_stop) = stop_pair();
    let worker = Worker {
        deliveries,
        settled: Outbox::new(settled_sender),
        store: Arc::clone(&store) as Arc<dyn CacheStore>,
        layout: Layout {
            keyspace: Keyspace::new("p"),
            format: CacheFormat::Compatible,
            policy: CacheUpdatePolicy::Upsert,
        },
        poison_policy,
        poison_log: Arc::new(PoisonLog::default()),
        invalidated_at: Arc::new(AtomicI64::new(i64::MIN)),
        polls: Polls::new(1),
        gate: Arc::clone(&gate),
        metrics: Arc::clone(&metrics),
        faults,
        reporter: Reporter::default(),
        last_delivery: last_delivery_stop,
        out_of_time: out_of_time_stop,
    };
    let worker = thread::spawn(move || worker.run());
    Bench {
        leases: Leases::new(1, Arc::clone(&metrics)),
        store,
        gate,
        metrics,
        deliveries: delivery_sender,
        settled,
        unread: RefCell::default(),
        last_delivery,
        out_of_time,
        worker,
    }
}

/// The receipt handle of a settled delivery.
fn receipt(settled: &Settled) -> String {
    settled.lease.receipt_handle().0.clone()
}

/// A wait of so many seconds, less the jitter.
fn is_retry(settlement: Settlement, secs: std::ops::RangeInclusive<u64>) -> bool {
    matches!(settlement, Settlement::Retry { visible_in } if secs.contains(&visible_in.as_secs()))
}

impl Bench {
    fn deliver(&self, id: &str, body: &str) {
        self.send(delivery(id, body));
    }

    fn send(&self, delivery: Delivery) {
        self.deliveries.send(vec![self.leases.hold(0, delivery)]).unwrap();
    }

    fn next_settled(&self) -> (String, Settlement) {
        let mut unread = self.unread.borrow_mut();
        while unread.is_empty() {
            unread.extend(
                self.settled
                    .recv_timeout(DEADLINE)
                    .expect("a delivery is settled"),
            );
        }
        let settled = unread.pop_front().unwrap();
        (receipt(&settled), settled.settlement)
    }

    fn end(self) -> Arc<FakeStore> {
        drop(self.last_delivery);
        self.worker.join().unwrap();
        self.store
    }
}

#[test]
fn a_message_is_deleted_once_its_change_is_applied() {
    let bench = worker_with(FakeStore::default(), PoisonPolicy::Redrive);
    bench.deliver("1", &usage_of("ann"));
    assert_eq!(bench.next_settled(), ("receipt-1".to_owned(), Settlement::Delete));
    assert_eq!(*bench.end().applied.lock().unwrap(), ["p:c_ann:f_api"]);
}

#[test]
fn an_unreadable_body_is_left_to_the_dead_letter_rule_or_deleted_as_the_policy_says() {
    let bench = worker_with(FakeStore::default(), PoisonPolicy::Redrive);
    bench.deliver("1", "{not json");
    let (receipt, settlement) = bench.next_settled();
    assert!(
        receipt == "receipt-1" && is_retry(settlement, 15..=30),
        "{settlement:?}"
    );
    assert_eq!(bench.metrics.messages_malformed.get(), 1);
    bench.end();

    let bench = worker_with(FakeStore::default(), PoisonPolicy::Delete);
    bench.deliver("1", "{not json");
    assert_eq!(bench.next_settled(), ("receipt-1".to_owned(), Settlement::Delete));
    bench.end();
}

#[test]
fn a_message_that_meets_an_absent_redis_is_kept_and_applied_when_redis_is_back() {
    let store = FakeStore {
        away_for: Mutex::new(1),
        ..FakeStore::default()
    };
    let bench = worker_with(store, PoisonPolicy::Redrive);
    bench.deliver("1", &usage_of("ann"));
    wait_until("the gate is closed", || !bench.gate.is_open());
    assert!(bench.settled.is_empty(), "nothing is deleted while Redis is away");
    bench.gate.found(Evidence::Answered);
    assert_eq!(bench.next_settled(), ("receipt-1".to_owned(), Settlement::Delete));
    bench.end();
}

#[test]
fn a_message_that_cannot_be_applied_before_the_time_is_over_is_given_back() {
    let store = FakeStore {
        away_for: Mutex::new(u32::MAX),
        ..FakeStore::default()
    };
    let bench = worker_with(store, PoisonPolicy::Redrive);
    bench.deliver("1", &usage_of("ann"));
    wait_until("the gate is closed", || !bench.gate.is_open());
    bench.deliver("2", &usage_of("bob"));
    drop(bench.last_delivery);
    drop(bench.out_of_time);
    bench.worker.join().unwrap();
    let mut given_back: Vec<Settled> = bench.settled.try_iter().flatten().collect();
    given_back.sort_by_key(receipt);
    let at_once = Settlement::Retry {
        visible_in: Duration::ZERO,
    };
    assert_eq!(
        given_back
            .iter()
            .map(|settled| (receipt(settled), settled.settlement))
            .collect::<Vec<_>>(),
        [
            ("receipt-1".to_owned(), at_once),
            ("receipt-2".to_owned(), at_once)
        ]
    );
}

#[test]
fn entitlements_sent_before_an_invalidation_are_no_news_after_it() {
    let bench = worker_with(FakeStore::default(), PoisonPolicy::Redrive);
    let sent = |id: &str, sent_at: i64, body: &str| {
        let delivery = Delivery {
            sent_at: EpochMs(sent_at),
            ..delivery(id, body)
        };
        bench.send(delivery);
        assert_eq!(
            bench.next_settled(),
            (format!("receipt-{id}"), Settlement::Delete)
        );
    };
    sent(
        "1",
        2_000,
        r#"{"type":"PACKAGE_PUBLISHED","payload":{"migrationType":"ALL_CUSTOMERS"}}"#,
    );
    // A change that reached this store would be an entitlement write, which it does not expect.
    let entitlements = r#"{"type":"entitlements.updated","customer":{"id":"ann"},
        "entitlements":[{"feature":{"id":"sso","featureType":"BOOLEAN"}}]}"#;
    sent("2", 1_500, entitlements);
    assert_eq!(
        bench.metrics.writes_skipped.with_label_values(&["stale"]).get(),
        1
    );
    bench.end();
}

#[test]
fn a_locked_customer_waits_while_others_go_on() {
    let store = FakeStore {
        locked: Mutex::new(vec![("ann".to_owned(), 3)]),
        ..FakeStore::default()
    };
    let bench = worker_with(store, PoisonPolicy::Redrive);
    bench.deliver("1", &usage_of("ann"));
    bench.deliver("2", &usage_of("bob"));
    assert_eq!(bench.next_settled().0, "receipt-2");
    assert_eq!(bench.next_settled().0, "receipt-1");
    assert_eq!(
        *bench.end().applied.lock().unwrap(),
        ["p:c_bob:f_api", "p:c_ann:f_api"]
    );
}

#[test]
fn large_messages_behind_a_lock_stay_in_the_queue_but_for_a_few_megabytes() {
    const MESSAGES: usize = 40;
    let store = FakeStore {
        locked: Mutex::new(vec![("ann".to_owned(), u32::MAX)]),
        ..FakeStore::default()
    };
    let bench = worker_with(store, PoisonPolicy::Redrive);
    let body = format!("{}{}", " ".repeat(300_000), usage_of("ann"));
    for number in 0..MESSAGES {
        bench.deliver(&number.to_string(), &body);
    }
    let tries_left = || bench.store.locked.lock().unwrap()[0].1;
    wait_until("the parked ones have been tried for some time", || {
        tries_left() < u32::MAX - 400
    });
    let not_taken = bench.deliveries.len();
    assert!(not_taken > MESSAGES / 2, "{not_taken} are not taken");
    bench.store.locked.lock().unwrap().clear();
    for _ in 0..MESSAGES {
        assert_eq!(bench.next_settled().1, Settlement::Delete);
    }
    bench.end();
}

/// Of two messages handled together, the one of `ann` fails.
fn ann_comes_again_and_bob_is_done(store: FakeStore, after: std::ops::RangeInclusive<u64>) -> Bench {
    let bench = worker_with(store, PoisonPolicy::Redrive);
    bench.deliver("1", &usage_of("ann"));
    bench.deliver("2", &usage_of("bob"));
    let mut ends = [bench.next_settled(), bench.next_settled()];
    ends.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(is_retry(ends[0].1, after), "{ends:?}");
    assert_eq!(ends[1].1, Settlement::Delete);
    bench
}

#[test]
fn a_panic_costs_its_own_message_one_try_and_no_other() {
    let store = FakeStore {
        panics_for: Some("ann".to_owned()),
        ..FakeStore::default()
    };
    let bench = ann_comes_again_and_bob_is_done(store, 1..=2);
    assert_eq!(
        bench.metrics.messages_failed.with_label_values(&["panic"]).get(),
        1
    );
    bench.end();
}

#[test]
fn a_change_that_redis_refuses_comes_again_and_holds_up_no_other() {
    let store = FakeStore {
        refuses: Some("ann".to_owned()),
        ..FakeStore::default()
    };
    let bench = ann_comes_again_and_bob_is_done(store, 15..=30);
    bench.end();
}

#[test]
fn a_change_that_redis_will_always_refuse_is_deleted_if_the_policy_says_so() {
    let store = FakeStore {
        refuses: Some("ann".to_owned()),
        ..FakeStore::default()
    };
    let bench = worker_with(store, PoisonPolicy::Delete);
    bench.deliver("1", &usage_of("ann"));
    assert_eq!(bench.next_settled(), ("receipt-1".to_owned(), Settlement::Delete));
    bench.end();
}

#[test]
fn a_message_whose_receipt_handle_has_expired_is_dropped_and_not_settled() {
    let bench = worker_with(FakeStore::default(), PoisonPolicy::Redrive);
    bench.leases.set_timeout(Duration::from_secs(30));
    let long_ago = Instant::now()
        .checked_sub(Duration::from_secs(31))
        .expect("an up-time of minutes");
    bench.send(Delivery {
        received_at: long_ago,
        ..delivery("1", &usage_of("ann"))
    });
    bench.deliver("2", &usage_of("bob"));
    assert_eq!(bench.next_settled().0, "receipt-2");
    assert_eq!(
        bench
            .metrics
            .messages_failed
            .with_label_values(&["expired"])
            .get(),
        1
    );
    assert_eq!(*bench.end().applied.lock().unwrap(), ["p:c_bob:f_api"]);
}

#[test]
fn a_message_that_expires_while_redis_is_away_is_dropped_and_the_worker_goes_on() {
    let store = FakeStore {
        away_for: Mutex::new(1),
        ..FakeStore::default()
    };
    let bench = worker_with(store, PoisonPolicy::Redrive);
    bench.leases.set_timeout(Duration::from_millis(300));
    bench.deliver("1", &usage_of("ann"));
    wait_until("the message is forgotten", || {
        bench
            .metrics
            .messages_failed
            .with_label_values(&["expired"])
            .get()
            == 1
    });
    assert_eq!(bench.metrics.in_flight.get(), 0);
    bench.gate.found(Evidence::Answered);
    bench.leases.set_timeout(Duration::from_secs(30));
    bench.deliver("2", &usage_of("bob"));
    assert_eq!(bench.next_settled().0, "receipt-2");
    bench.end();
}

/// Looks every few milliseconds, gives up after the deadline.
fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    let pause = Stop::never();
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        pause.wait(Duration::from_millis(5));
    }
}
