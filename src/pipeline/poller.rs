//! A poller receives deliveries and sends them to the workers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{SendTimeoutError, Sender};

use super::context::{Context, seconds_now};
use super::in_flight::InFlightDelivery;
use crate::backoff::Backoff;
use crate::sqs::Operation;

/// An empty answer that comes sooner (`WAIT_TIME_SECS=0`, or something that does not wait) is followed by a pause of
/// this length: without it, an empty queue would cost a call each millisecond.
const SHORT_POLL_PAUSE: Duration = Duration::from_millis(100);
/// How often a poller that waits for Redis or the workers reports that it is alive.
const REPORT_EVERY: Duration = Duration::from_secs(1);
pub const BACKOFF_MAX: Duration = Duration::from_secs(10);

pub struct Poller {
    context: Arc<Context>,
    index: usize,
    /// What one receive brought. Bounded, which is what slows polling down.
    deliveries: Sender<Vec<InFlightDelivery>>,
    backoff: Backoff,
    /// The last call succeeded. A call after a failure, and the first, does not wait for messages: it shows at once
    /// whether the queue can be used.
    is_proven: bool,
}

impl Poller {
    pub fn new(context: Arc<Context>, index: usize, deliveries: Sender<Vec<InFlightDelivery>>) -> Self {
        let backoff = Backoff::new(Duration::from_millis(250), BACKOFF_MAX);
        Self { context, index, deliveries, backoff, is_proven: false }
    }

    /// Polls until the drain phase.
    pub fn run(mut self) {
        while !self.context.shutdown.drain.is_stopped() {
            self.step();
        }
        self.context.health.ended(self.index);
    }

    /// One receive, when Redis can be used.
    pub fn step(&mut self) {
        let context = &*self.context;
        let drain = &context.shutdown.drain;
        if !context.gate.wait_open(drain, REPORT_EVERY) {
            return context.health.waits(self.index, Instant::now());
        }
        let wait = if self.is_proven { context.wait_time } else { Duration::ZERO };
        let asked_at = Instant::now();
        context.in_flight.open_poll(self.index, asked_at + wait);
        match context.queue.receive(context.batch_size, wait) {
            Ok(deliveries) => {
                context.metrics.messages_received.inc_by(deliveries.len() as u64);
                let received = context.in_flight.close_poll(self.index, deliveries);
                context.health.call_succeeded(self.index, Instant::now());
                context.metrics.last_poll.set(seconds_now());
                context.works_again(Operation::Receive.label(), "messages can be received");
                self.backoff.reset();
                if !received.is_empty() {
                    self.send(received);
                } else if self.is_proven && asked_at.elapsed() < SHORT_POLL_PAUSE {
                    drain.wait(SHORT_POLL_PAUSE);
                }
                self.is_proven = true;
            }
            Err(error) => {
                context.in_flight.close_poll(self.index, Vec::new());
                self.is_proven = false;
                context.health.call_failed(self.index, Instant::now());
                let message = "cannot receive messages";
                context.queue_failed(Operation::Receive, &error.kind, message, &error.message);
                drain.wait(self.backoff.next_wait(fastrand::f64()));
            }
        }
    }

    /// Sends to the workers. In the release phase the shutdown takes the deliveries over.
    fn send(&self, mut deliveries: Vec<InFlightDelivery>) {
        while !self.context.shutdown.release.is_stopped() {
            // Not `select!`, which takes one more lock that all pollers contend for.
            match self.deliveries.send_timeout(deliveries, REPORT_EVERY) {
                Err(SendTimeoutError::Timeout(unsent)) => deliveries = unsent,
                Ok(()) | Err(SendTimeoutError::Disconnected(_)) => return,
            }
            self.context.health.waits(self.index, Instant::now());
        }
    }
}
