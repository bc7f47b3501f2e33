//! Receives deliveries and hands them to the workers, one poller a thread.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{SendTimeoutError, Sender};

use super::backoff::Backoff;
use super::gate::RedisGate;
use super::give_back::give_back;
use super::lease::{Held, Leases};
use super::polls::Polls;
use super::waits::send_by;
use crate::clock;
use crate::log::FaultLog;
use crate::ops::health::HealthBoard;
use crate::ops::metrics::Metrics;
use crate::shutdown::Stop;
use crate::sqs::{Delivery, Operation, Queue};

/// What the log calls all faults of receiving.
const FAULT: &str = "receive ";
/// Receiving is well again when nothing has failed for this long: a queue that fails now and then must not make a
/// line of each time.
const QUIET: Duration = Duration::from_secs(5);
/// An empty answer that comes sooner (WAIT_TIME_SECS=0, or something that does not wait) is followed by a pause of
/// this length: asked without a pause, the queue would cost a call a millisecond.
const HASTY: Duration = Duration::from_millis(100);

/// How often a poller that waits, for Redis or for the workers, tells that it does.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// How soon a poller that waits for the workers notices the stop.
const STOP_NOTICED: Duration = Duration::from_millis(100);
/// The longest wait after failed calls.
pub const LONGEST_BACKOFF: Duration = Duration::from_secs(10);

/// How much is asked of the queue at once, and how patiently.
#[derive(Debug, Clone, Copy)]
pub struct Polling {
    /// Messages a receive, 1 to 10.
    pub batch_size: u8,
    /// The long poll's wait.
    pub wait_time: Duration,
}

/// One poller.
#[derive(Clone)]
pub struct Poller {
    /// Its number, from 0.
    pub index: usize,
    /// The queue.
    pub queue: Arc<dyn Queue>,
    /// Where deliveries go, those of a receive together: each handing over may wake a worker. Bounded: a full channel is what slows the polling down.
    pub deliveries: Sender<Vec<Held>>,
    /// Where what is in hand is booked.
    pub leases: Arc<Leases>,
    /// How to ask.
    pub polling: Polling,
    /// Closed while Redis is away.
    pub gate: Arc<RedisGate>,
    /// Told of each call's end.
    pub health: Arc<HealthBoard>,
    /// Counted in.
    pub metrics: Arc<Metrics>,
    /// Where failures are logged.
    pub faults: Arc<FaultLog>,
    /// Told what this one is at.
    pub polls: Arc<Polls>,
    /// Ends the loop. What is received all the same is still handed over.
    pub stop: Stop,
    /// Nothing is handed over any more: what is still received is given back.
    pub last_hand_over: Stop,
}

impl Poller {
    /// Polls until the stop.
    pub fn run(&self) {
        let mut backoff = Backoff::new(Duration::from_millis(250), LONGEST_BACKOFF);
        // The first call, and the first after a failure, does not wait for messages: it tells at once whether
        // the queue can be used.
        let mut proven = false;
        let mut was_busy = false;
        while !self.stop.is_stopped() {
            if !self.gate.wait_open(&self.stop, TELL_EVERY) {
                self.health.came_round(self.index, Instant::now());
                continue;
            }
            let wait = if proven {
                self.polling.wait_time
            } else {
                Duration::ZERO
            };
            // A short poll answers at once, and where there were messages there are more.
            let is_likely = was_busy || wait.is_zero();
            let asked_at = Instant::now();
            let call = self.polls.call(self.index, asked_at + wait, is_likely);
            match self.queue.receive(self.polling.batch_size, wait) {
                Ok(deliveries) => {
                    // Before the call is over, so that at no moment a stop finds nothing to wait for.
                    let handing_over = (!deliveries.is_empty()).then(|| self.polls.hand_over());
                    drop(call);
                    was_busy = !deliveries.is_empty();
                    let is_hasty = proven && !was_busy && asked_at.elapsed() < HASTY;
                    proven = true;
                    backoff.reset();
                    self.health.call_succeeded(self.index, Instant::now());
                    self.metrics.last_poll.set(seconds_now());
                    self.recovered();
                    if was_busy {
                        self.hand_over(deliveries);
                    }
                    drop(handing_over);
                    if is_hasty {
                        self.stop.wait(HASTY);
                    }
                }
                Err(error) => {
                    drop(call);
                    was_busy = false;
                    proven = false;
                    self.health.call_failed(self.index, Instant::now());
                    self.metrics
                        .queue_errors
                        .with_label_values(&[Operation::Receive.label()])
                        .inc();
                    let kind = format!("{FAULT}{}", error.kind);
                    self.faults.fault(
                        &kind,
                        log::Level::Error,
                        "cannot receive messages",
                        &error.message,
                        Instant::now(),
                    );
                    self.stop.wait(backoff.next_wait(fastrand::f64()));
                }
            }
        }
        self.health.ended(self.index);
    }

    /// The first poller that gets an answer again tells so, for all.
    fn recovered(&self) {
        if let Some(outage) = self.faults.recovered(FAULT, QUIET, Instant::now()) {
            let lasted_secs = outage.lasted.as_secs_f64();
            log::info!(lasted_secs, failed_tries = outage.faults; "messages can be received again after {lasted_secs:.1} s");
        }
    }

    fn hand_over(&self, deliveries: Vec<Delivery>) {
        let received = deliveries.len();
        self.metrics.messages_received.inc_by(received as u64);
        // All are booked at once: the last of them may wait for its turn for long.
        let in_hand: Vec<Held> = deliveries
            .into_iter()
            .map(|delivery| self.leases.hold(self.index, delivery))
            .collect();
        if let Some(late) = self.send(in_hand) {
            let late = late.into_iter().map(|held| {
                held.lease.settle();
                held.delivery.receipt_handle
            });
            give_back(
                &*self.queue,
                &self.polls,
                &self.metrics,
                &self.faults,
                late.collect(),
            );
        }
    }

    /// Hands over what one receive brought. What comes back came too late in a stop to be handled. During most of a stop
    /// it is not too late: what was given back would be taken by whichever poll of this process is still open.
    fn send(&self, held: Vec<Held>) -> Option<Vec<Held>> {
        let mut held = held;
        while !self.last_hand_over.is_stopped() {
            match send_by(&self.deliveries, held, Some(Instant::now() + STOP_NOTICED)) {
                Ok(()) => return None,
                Err(SendTimeoutError::Disconnected(back)) => return Some(back),
                Err(SendTimeoutError::Timeout(back)) => {
                    // Waiting for the workers is no silence.
                    self.health.came_round(self.index, Instant::now());
                    held = back;
                }
            }
        }
        Some(held)
    }
}

/// Now, as Prometheus wants timestamps: seconds since the epoch.
#[allow(clippy::cast_precision_loss)] // milliseconds since 1970 have 41 bits
pub(super) fn seconds_now() -> f64 {
    clock::now().0 as f64 / 1_000.0
}
