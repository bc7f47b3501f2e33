//! The loops, step by step, on a queue and a store in memory that fail on purpose. What needs a real Redis or a real
//! queue is in `tests/it`.

mod deleter;
mod in_flight;
mod poller;
mod sampler;
mod visibility;
mod worker;

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, unbounded};

use super::context::Context;
use super::ending::Ending;
use super::gate::{Access, RedisGate};
use super::in_flight::{InFlight, InFlightDelivery, Recorded};
use crate::cache::keyspace::Keyspace;
use crate::cache::{CacheChange, Invalidation, Layout};
use crate::clock::EpochMs;
use crate::config::PoisonPolicy;
use crate::entitlement::stored::CacheFormat;
use crate::log::FaultLog;
use crate::ops::health::HealthBoard;
use crate::ops::metrics::Metrics;
use crate::sentry_reports::Reporter;
use crate::shutdown::{Phases, Stop, StopTrigger, shutdown_phases};
use crate::sqs::{BatchOutcome, Delivery, EntryFailure, Queue, QueueError, ReceiptHandle};
use crate::store::{CacheStore, Cause, LockPatience, Outcome, StoreError};

const DEADLINE: Duration = Duration::from_secs(10);
const AT_ONCE: Ending = Ending::Retry { visible_in: Duration::ZERO };

fn usage_of(customer: &str) -> String {
    format!(
        r#"{{"type":"measurement.reported","timestamp":"2026-11-20T08:03:20.000Z","currentUsage":43,
            "feature":{{"id":"api"}},"customer":{{"id":"{customer}"}}}}"#
    )
}

/// Its receipt handle is its id.
fn delivery(id: &str, body: &str) -> Delivery {
    received_at(id, body, Instant::now())
}

fn received_at(id: &str, body: &str, received_at: Instant) -> Delivery {
    Delivery {
        message_id: id.to_owned(),
        receipt_handle: ReceiptHandle(id.to_owned()),
        body: body.to_owned(),
        sent_at: EpochMs(1_795_161_600_000),
        receive_count: 1,
        received_at,
    }
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn queue_error() -> QueueError {
    QueueError { message: "on purpose".to_owned(), kind: "purpose".to_owned(), refused: false }
}

fn entry_failure(code: &str, sender_fault: bool) -> EntryFailure {
    EntryFailure { code: code.to_owned(), message: String::new(), sender_fault }
}

/// Gives prepared answers in order; after the last, an empty receive and calls that succeed. Panics at what SQS refuses.
#[derive(Default)]
struct FakeQueue {
    receives: Mutex<VecDeque<Result<Vec<Delivery>, QueueError>>>,
    waits: Mutex<Vec<Duration>>,
    deletes: Mutex<VecDeque<Result<BatchOutcome, QueueError>>>,
    deleted: Mutex<Vec<Vec<String>>>,
    visibility_answers: Mutex<VecDeque<Result<BatchOutcome, QueueError>>>,
    visibility: Mutex<Vec<(String, Duration)>>,
}

fn accepts<'a>(handles: impl Iterator<Item = &'a ReceiptHandle>) {
    let handles: Vec<&String> = handles.map(|handle| &handle.0).collect();
    assert!((1..=10).contains(&handles.len()), "a batch of {}", handles.len());
    let distinct: HashSet<&&String> = handles.iter().collect();
    assert_eq!(distinct.len(), handles.len(), "a handle twice: {handles:?}");
}

impl Queue for FakeQueue {
    fn receive(&self, max_messages: u8, wait: Duration) -> Result<Vec<Delivery>, QueueError> {
        assert!((1..=10).contains(&max_messages) && wait <= secs(20));
        self.waits.lock().unwrap().push(wait);
        let answer = self.receives.lock().unwrap().pop_front();
        answer.unwrap_or_else(|| Ok(Vec::new()))
    }

    fn delete_batch(&self, receipt_handles: &[ReceiptHandle]) -> Result<BatchOutcome, QueueError> {
        accepts(receipt_handles.iter());
        let ids = receipt_handles.iter().map(|handle| handle.0.clone());
        self.deleted.lock().unwrap().push(ids.collect());
        let answer = self.deletes.lock().unwrap().pop_front();
        answer.unwrap_or_else(|| Ok(vec![None; receipt_handles.len()]))
    }

    fn change_visibility_batch(
        &self,
        entries: &[(ReceiptHandle, Duration)],
    ) -> Result<BatchOutcome, QueueError> {
        accepts(entries.iter().map(|(handle, _)| handle));
        for (handle, visible_in) in entries {
            assert!(visible_in.subsec_nanos() == 0 && *visible_in <= secs(12 * 3_600));
            self.visibility.lock().unwrap().push((handle.0.clone(), *visible_in));
        }
        let answer = self.visibility_answers.lock().unwrap().pop_front();
        answer.unwrap_or_else(|| Ok(vec![None; entries.len()]))
    }

    fn visibility_timeout(&self) -> Result<Duration, QueueError> {
        Ok(secs(30))
    }
}

/// What the store does with a change, by the customer it is for.
#[derive(Default)]
struct FakeStore {
    /// Calls that fail as a whole before one succeeds.
    failures: Mutex<u32>,
    /// Keys that contain this are locked, and for how many tries.
    locked: Mutex<Option<(String, u32)>>,
    panics_for: Option<String>,
    refuses: Option<String>,
    /// The keys of each call.
    applied: Mutex<Vec<Vec<String>>>,
    calls: Mutex<Vec<usize>>,
}

fn store_error(cause: Cause) -> StoreError {
    StoreError { message: format!("{} on purpose", cause.label()), cause }
}

impl FakeStore {
    fn fail(&self) -> Result<(), StoreError> {
        let mut failures = self.failures.lock().unwrap();
        if *failures > 0 {
            *failures -= 1;
            return Err(store_error(Cause::Io));
        }
        Ok(())
    }

    fn apply_one(&self, key: &str) -> Result<Outcome, StoreError> {
        let is_of = |customer: &str| key.split(':').nth(1) == Some(&format!("c_{customer}"));
        if self.refuses.as_deref().is_some_and(is_of) {
            return Err(store_error(Cause::WrongType));
        }
        if let Some((part_of_key, tries)) = self.locked.lock().unwrap().as_mut()
            && *tries > 0
            && key.contains(part_of_key.as_str())
        {
            *tries -= 1;
            return Ok(Outcome::Locked);
        }
        self.applied.lock().unwrap().last_mut().unwrap().push(key.to_owned());
        Ok(Outcome::Applied { written: 1, stale: 0 })
    }

    fn all_applied(&self) -> Vec<String> {
        self.applied.lock().unwrap().concat()
    }
}

impl CacheStore for FakeStore {
    fn apply(
        &self,
        changes: &[(&CacheChange, LockPatience)],
        _: &dyn Fn() -> bool,
    ) -> Result<Vec<Result<Outcome, StoreError>>, StoreError> {
        assert!(!changes.is_empty(), "a call for nothing");
        self.calls.lock().unwrap().push(changes.len());
        self.fail()?;
        let keys: Vec<&str> = changes.iter().map(|(change, _)| change.describe().1).collect();
        if let Some(customer) = &self.panics_for {
            assert!(!keys.iter().any(|key| key.contains(customer)), "a defect on purpose");
        }
        self.applied.lock().unwrap().push(Vec::new());
        Ok(keys.into_iter().map(|key| self.apply_one(key)).collect())
    }

    fn invalidate(
        &self,
        _: &Invalidation,
        _: &dyn Fn(&[u8]),
        _: &dyn Fn() -> bool,
    ) -> Result<u64, StoreError> {
        self.fail()?;
        Ok(0)
    }

    fn probe_write(&self) -> Result<(), StoreError> {
        self.fail()
    }

    fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn info(&self) -> Result<String, StoreError> {
        Ok(String::new())
    }
}

/// A context on fakes, with an open gate.
struct Rig {
    context: Arc<Context>,
    queue: Arc<FakeQueue>,
    store: Arc<FakeStore>,
    recorded: Receiver<Recorded>,
    triggers: Option<Phases<StopTrigger>>,
}

impl Rig {
    fn new() -> Self {
        Self::with(FakeQueue::default(), FakeStore::default(), PoisonPolicy::Redrive)
    }

    fn with_store(store: FakeStore) -> Self {
        Self::with(FakeQueue::default(), store, PoisonPolicy::Redrive)
    }

    fn with_queue(queue: FakeQueue) -> Self {
        Self::with(queue, FakeStore::default(), PoisonPolicy::Redrive)
    }

    fn with(queue: FakeQueue, store: FakeStore, poison_policy: PoisonPolicy) -> Self {
        let (queue, store) = (Arc::new(queue), Arc::new(store));
        let metrics = Arc::new(Metrics::new().unwrap());
        let faults = Arc::new(FaultLog::default());
        let health = Arc::new(HealthBoard::new(2, Duration::from_mins(1), Instant::now()));
        let gate = RedisGate::new(Arc::clone(&health), Arc::clone(&metrics), Arc::clone(&faults));
        gate.succeeded(Access::Read);
        let (triggers, shutdown) = shutdown_phases();
        let (recorded_sender, recorded) = unbounded();
        let context = Context {
            batch_size: 10,
            wait_time: secs(20),
            poison_policy,
            layout: Layout { keyspace: Keyspace::new("p"), format: CacheFormat::Compatible },
            queue: Arc::clone(&queue) as Arc<dyn Queue>,
            store: Arc::clone(&store) as Arc<dyn CacheStore>,
            in_flight: InFlight::new(2, Arc::clone(&metrics)),
            gate,
            health,
            metrics,
            faults,
            reporter: Reporter::default(),
            recorded: recorded_sender,
            refreshes: None,
            shutdown,
        };
        Self { context: Arc::new(context), queue, store, recorded, triggers: Some(triggers) }
    }

    fn in_flight(&self) -> &InFlight {
        &self.context.in_flight
    }

    /// Tracks a delivery, as a poller would.
    fn track(&self, delivery: Delivery) -> InFlightDelivery {
        track(self.in_flight(), delivery)
    }

    /// What was recorded so far: receipt handle and ending.
    fn endings(&self) -> Vec<(String, Ending)> {
        let ending = |recorded: Recorded| (recorded.receipt_handle.0, recorded.ending);
        self.recorded.try_iter().map(ending).collect()
    }

    fn failed(&self, reason: &str) -> u64 {
        self.context.metrics.messages_failed.with_label_values(&[reason]).get()
    }
}

fn track(in_flight: &InFlight, delivery: Delivery) -> InFlightDelivery {
    in_flight.open_poll(0, Instant::now());
    in_flight.close_poll(0, vec![delivery]).pop().unwrap()
}

fn deleted(id: &str) -> (String, Ending) {
    (id.to_owned(), Ending::Delete)
}

/// A wait of so many seconds, less the jitter.
fn is_retry(ending: Ending, secs: std::ops::RangeInclusive<u64>) -> bool {
    matches!(ending, Ending::Retry { visible_in } if secs.contains(&visible_in.as_secs()))
}

/// Checks every few milliseconds, and gives up at a deadline.
fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    let pause = Stop::never();
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        pause.wait(Duration::from_millis(5));
    }
}
