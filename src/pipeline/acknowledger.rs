//! Tells the queue how deliveries ended, gathered into batches across pollers and workers.
//!
//! What fails waits for its next try and holds up nothing else; it is tried for as long as the queue hides the message.
//! After that the message comes again, and then changes nothing. What waits is bounded: when all places are taken
//! nothing more is taken on, until the workers wait, too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::backoff::Backoff;
use super::settle::{Settled, Settlement, TOGETHER};
use super::waits::receive_by;
use crate::log::FaultLog;
use crate::ops::metrics::Metrics;
use crate::shutdown::Stop;
use crate::sqs::{BatchOutcome, Operation, Queue, QueueError, ReceiptHandle};

/// SQS takes so many entries a call.
const BATCH: usize = TOGETHER;
/// How long the first settled delivery waits for company, once more if it is too much for that call: far below a call's
/// round trip.
const GATHER: Duration = Duration::from_millis(5);
/// Places for what waits for a call: a failing queue is seldom worth more memory, and back-pressure is right then.
const WAITING_AT_MOST: usize = 200;
/// Between two tries of an entry, and after a call that failed as a whole.
const AGAIN_FIRST: Duration = Duration::from_millis(200);
const AGAIN_LONGEST: Duration = Duration::from_secs(5);
/// How long to wait for the end of an extension that is under way.
const EXTENDED_AGAIN: Duration = Duration::from_millis(20);
/// A fault is over when a call succeeds and none has failed for so long: else ten acknowledgers would say so in turn.
const QUIET: Duration = Duration::from_secs(5);
/// Nothing waits: how long to wait for something, as long as the channel is open.
const IDLE: Duration = Duration::from_hours(1);

/// Who holds it gathers. Gathered by all at the same time, what the workers settle would go round: each would get one
/// message, be woken for it, and wait in vain for company. It carries what was too much for the last one's call.
#[derive(Clone)]
pub struct Baton {
    lay_down: Sender<Vec<Settled>>,
    take_up: Receiver<Vec<Settled>>,
}

/// The baton in a hand. It is laid down when this is dropped.
struct Taken<'a> {
    lay_down: &'a Sender<Vec<Settled>>,
    too_much: Vec<Settled>,
}

impl Default for Baton {
    fn default() -> Self {
        let (lay_down, take_up) = bounded(1);
        // It has room for the one baton that there is.
        let _ = lay_down.try_send(Vec::new());
        Self { lay_down, take_up }
    }
}

impl Baton {
    /// Takes it up, if that is possible by then and before a stop that is still to come.
    fn take(&self, deadline: Instant, until: Option<&Stop>) -> Option<Taken<'_>> {
        let too_much = receive_by(&self.take_up, deadline, until).ok()?;
        Some(Taken {
            lay_down: &self.lay_down,
            too_much,
        })
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let _ = self.lay_down.try_send(std::mem::take(&mut self.too_much));
    }
}

/// One acknowledger.
#[derive(Clone)]
pub struct Acknowledger {
    /// The queue.
    pub queue: Arc<dyn Queue>,
    /// What workers settled. Its end, and that of what waits, ends the loop.
    pub settled: Receiver<Vec<Settled>>,
    /// Shared by all of them.
    pub baton: Baton,
    /// Counted in.
    pub metrics: Arc<Metrics>,
    /// Where failures are logged.
    pub faults: Arc<FaultLog>,
    /// The stop's budget is over: what is left, and what workers still give back, gets one try.
    pub out_of_time: Stop,
}

/// A settled delivery that waits for a call.
struct Waiting {
    settled: Settled,
    /// Not before.
    due: Instant,
    backoff: Backoff,
}

impl Waiting {
    fn receipt_handle(&self) -> &ReceiptHandle {
        self.settled.lease.receipt_handle()
    }
}

/// What waits for one kind of call.
struct Lane {
    operation: Operation,
    waiting: Vec<Waiting>,
    /// The last call failed as a whole: no call before.
    closed_until: Option<Instant>,
    backoff: Backoff,
}

impl Lane {
    fn new(operation: Operation) -> Self {
        Self {
            operation,
            waiting: Vec::new(),
            closed_until: None,
            backoff: backoff(),
        }
    }

    /// When something can be done; `None` if nothing waits.
    fn next_due(&self) -> Option<Instant> {
        let first = self.waiting.iter().map(|waiting| waiting.due).min()?;
        Some(self.closed_until.map_or(first, |until| until.max(first)))
    }

    /// How long no call may be made; `None` if one may.
    fn closed_for(&self, now: Instant) -> Option<Duration> {
        let left = self.closed_until?.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// Nothing is waited for any more: all is due now.
    fn hurry(&mut self, now: Instant) {
        self.closed_until = None;
        for waiting in &mut self.waiting {
            waiting.due = waiting.due.min(now);
        }
    }

    /// Up to a batch of what is due, no receipt handle twice.
    fn batch(&mut self, now: Instant) -> Vec<Waiting> {
        if self.closed_for(now).is_some() {
            return Vec::new();
        }
        let changes_visibility = self.operation == Operation::ChangeVisibility;
        let mut handles: Vec<ReceiptHandle> = Vec::new();
        let takes = |waiting: &mut Waiting| {
            let id = waiting.receipt_handle();
            if handles.len() >= BATCH || waiting.due > now || handles.contains(id) {
                return false;
            }
            // An extension that is under way would undo what is told here.
            if changes_visibility && waiting.settled.lease.is_being_extended() {
                waiting.due = now + EXTENDED_AGAIN;
                return false;
            }
            handles.push(id.clone());
            true
        };
        self.waiting.extract_if(.., takes).collect()
    }
}

/// What one acknowledger has on its desk.
struct Desk {
    deletes: Lane,
    visibility: Lane,
}

impl Desk {
    fn new() -> Self {
        Self {
            deletes: Lane::new(Operation::Delete),
            visibility: Lane::new(Operation::ChangeVisibility),
        }
    }

    fn add(&mut self, settled: Settled, now: Instant) {
        let lane = match settled.settlement {
            Settlement::Delete => &mut self.deletes,
            Settlement::Retry { .. } => &mut self.visibility,
        };
        lane.waiting.push(Waiting {
            settled,
            due: now,
            backoff: backoff(),
        });
    }

    fn len(&self) -> usize {
        self.deletes.waiting.len() + self.visibility.waiting.len()
    }

    /// How long nothing can be done but to take on more.
    fn idle_for(&self, now: Instant) -> Duration {
        let next = [&self.deletes, &self.visibility]
            .into_iter()
            .filter_map(Lane::next_due)
            .min();
        next.map_or(IDLE, |due| due.saturating_duration_since(now))
    }
}

fn backoff() -> Backoff {
    Backoff::new(AGAIN_FIRST, AGAIN_LONGEST)
}

impl Acknowledger {
    /// Settles until no worker is left and nothing waits.
    pub fn run(&self) {
        let mut desk = Desk::new();
        let mut is_open = true;
        while is_open || desk.len() > 0 {
            is_open = self.gather(&mut desk, is_open);
            self.settle(&mut desk, Instant::now());
        }
    }

    /// Waits until something can be done, taking on what comes. False if nothing will come any more.
    fn gather(&self, desk: &mut Desk, is_open: bool) -> bool {
        let now = Instant::now();
        let idle_for = desk.idle_for(now);
        if !is_open || desk.len() >= WAITING_AT_MOST {
            self.pause(idle_for);
            return is_open;
        }
        // What it took on would wait behind the call that failed, while others could tell the queue.
        if let Some(closed_for) = desk.deletes.closed_for(now) {
            self.pause(idle_for.min(closed_for));
            return is_open;
        }
        let idle_until = now + idle_for;
        // With something on the desk, the end of the budget is not to be slept through.
        let until = (desk.len() > 0).then_some(&self.out_of_time);
        let Some(mut baton) = self.baton.take(idle_until, until) else {
            return true;
        };
        let mut together = std::mem::take(&mut baton.too_much);
        let mut deadline = if together.is_empty() {
            idle_until
        } else {
            Instant::now() + GATHER
        };
        let is_open = loop {
            if together.len() >= BATCH {
                baton.too_much = together.split_off(BATCH);
                break true;
            }
            match receive_by(&self.settled, deadline, until) {
                Ok(more) => {
                    if together.is_empty() {
                        deadline = Instant::now() + GATHER;
                    }
                    together.extend(more);
                }
                Err(RecvTimeoutError::Timeout) => break true,
                Err(RecvTimeoutError::Disconnected) => break false,
            }
        };
        drop(baton);
        let now = Instant::now();
        for settled in together {
            desk.add(settled, now);
        }
        is_open
    }

    /// Waits; less if the stop's budget ends meanwhile.
    fn pause(&self, at_most: Duration) {
        if self.out_of_time.is_stopped() {
            // Only for an extension that is under way, and so not for long.
            Stop::never().wait(at_most.min(EXTENDED_AGAIN));
        } else {
            self.out_of_time.wait(at_most);
        }
    }

    /// One look at the desk: makes the calls that are due.
    fn settle(&self, desk: &mut Desk, now: Instant) {
        for lane in [&mut desk.deletes, &mut desk.visibility] {
            if self.out_of_time.is_stopped() {
                lane.hurry(now);
            }
            self.drop_expired(lane, now);
            loop {
                let batch = lane.batch(now);
                if batch.is_empty() {
                    break;
                }
                self.tell(lane, batch);
                if self.out_of_time.is_stopped() {
                    lane.closed_until = None;
                }
            }
        }
    }

    /// The queue does not hide these messages any more, so they come again by themselves. While calls succeed, a first
    /// try is made in any case: unless somebody else has received the message by then, SQS takes a late delete as well.
    fn drop_expired(&self, lane: &mut Lane, now: Instant) {
        let is_failing = lane.backoff.is_failing();
        let has_expired = |waiting: &mut Waiting| {
            (is_failing || waiting.backoff.is_failing()) && waiting.settled.lease.time_left(now).is_zero()
        };
        let expired = lane.waiting.extract_if(.., has_expired).count();
        if expired > 0 {
            self.gave_up(lane.operation, "its visibility timeout has ended");
        }
    }

    /// One call. What failed and may succeed later goes back to the lane.
    fn tell(&self, lane: &mut Lane, batch: Vec<Waiting>) {
        match self.call(lane.operation, &batch) {
            Ok(outcome) => {
                lane.backoff.reset();
                lane.closed_until = None;
                if outcome.iter().all(Option::is_none) {
                    self.recovered(lane.operation);
                }
                for (waiting, failure) in batch.into_iter().zip(outcome) {
                    let Some(failure) = failure else { continue };
                    self.count(lane.operation);
                    if failure.is_final() {
                        self.gave_up(lane.operation, &format!("{}: {}", failure.code, failure.message));
                    } else {
                        self.failed(lane.operation, &failure.code, &failure.message);
                        lane.waiting
                            .extend(self.again(lane.operation, waiting, &failure.message));
                    }
                }
            }
            Err(error) => {
                self.count(lane.operation);
                self.failed(lane.operation, &error.kind, &error.message);
                lane.closed_until = Some(Instant::now() + lane.backoff.next_wait(fastrand::f64()));
                let again = batch
                    .into_iter()
                    .filter_map(|waiting| self.again(lane.operation, waiting, &error.message));
                lane.waiting.extend(again);
            }
        }
    }

    /// The entry with the time of its next try; none if its handle does not live until then, or if the stop's budget
    /// is over.
    fn again(&self, operation: Operation, mut waiting: Waiting, error: &str) -> Option<Waiting> {
        let now = Instant::now();
        let wait = waiting.backoff.next_wait(fastrand::f64());
        if self.out_of_time.is_stopped() || waiting.settled.lease.time_left(now) <= wait {
            self.gave_up(operation, error);
            return None;
        }
        waiting.due = now + wait;
        Some(waiting)
    }

    fn call(&self, operation: Operation, batch: &[Waiting]) -> Result<BatchOutcome, QueueError> {
        let handles = batch.iter().map(|waiting| waiting.receipt_handle().clone());
        if operation == Operation::Delete {
            return self.queue.delete_batch(&handles.collect::<Vec<_>>());
        }
        let visible_in = batch.iter().map(|waiting| match waiting.settled.settlement {
            Settlement::Retry { visible_in } => visible_in,
            Settlement::Delete => Duration::ZERO,
        });
        self.queue
            .change_visibility_batch(&handles.zip(visible_in).collect::<Vec<_>>())
    }

    fn count(&self, operation: Operation) {
        self.metrics
            .queue_errors
            .with_label_values(&[operation.label()])
            .inc();
    }

    fn failed(&self, operation: Operation, kind: &str, error: &str) {
        let message = if operation == Operation::Delete {
            "cannot delete a message: trying again"
        } else {
            "cannot change a message's visibility: trying again"
        };
        self.log(&format!("{} {kind}", operation.label()), message, error);
    }

    /// The first call that does all it was asked to, after some that did not.
    fn recovered(&self, operation: Operation) {
        let (kinds, what) = match operation {
            Operation::Delete => ("delete ", "messages can be deleted again"),
            Operation::Receive | Operation::ChangeVisibility | Operation::GetAttributes => {
                ("change_visibility ", "messages' visibility can be changed again")
            }
        };
        if let Some(outage) = self.faults.recovered(kinds, QUIET, Instant::now()) {
            let lasted_secs = outage.lasted.as_secs_f64();
            log::info!(lasted_secs, failed_tries = outage.faults; "{what} after {lasted_secs:.1} s");
        }
    }

    fn gave_up(&self, operation: Operation, error: &str) {
        let message = if operation == Operation::Delete {
            "cannot delete a message: it comes again, and then changes nothing"
        } else {
            "cannot change a message's visibility: it comes again when its visibility timeout ends"
        };
        self.log(&format!("{} given up", operation.label()), message, error);
    }

    fn log(&self, kind: &str, message: &str, error: &str) {
        self.faults
            .fault(kind, log::Level::Warn, message, error, Instant::now());
    }
}
