//! Keeps what is in flight hidden from others: extends each message's visibility at half of its time.
//!
//! Otherwise a message that waits for a lock or for Redis would be received again, its receive count would grow, and the
//! dead-letter rule could take it without reason.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::context::Context;
use super::deleter::BATCH_MAX;
use super::in_flight::ASSUMED_TIMEOUT;
use crate::sqs::Operation;

const ASK_AGAIN_AFTER: Duration = Duration::from_secs(10);

pub struct Visibility {
    context: Arc<Context>,
    /// When to ask for the queue's visibility timeout; none once it is known or denied.
    ask_at: Option<Instant>,
}

impl Visibility {
    pub fn new(context: Arc<Context>, now: Instant) -> Self {
        Self { context, ask_at: Some(now) }
    }

    /// Works until the exit phase.
    pub fn run(mut self) {
        loop {
            self.step(Instant::now());
            let pause = self.context.in_flight.timeout() / 8;
            let pause = pause.clamp(Duration::from_millis(100), Duration::from_secs(1));
            if self.context.shutdown.exit.wait(pause) {
                return;
            }
        }
    }

    /// Does what is due.
    pub fn step(&mut self, now: Instant) {
        if self.ask_at.is_some_and(|at| at <= now) {
            self.ask_at = (!self.learn_timeout()).then_some(now + ASK_AGAIN_AFTER);
        }
        self.extend_due(now);
    }

    /// Asks for the queue's own visibility timeout. True when it is known or denied.
    fn learn_timeout(&self) -> bool {
        let assumed_secs = ASSUMED_TIMEOUT.as_secs();
        match self.context.queue.visibility_timeout() {
            Ok(timeout) if timeout.is_zero() => log::warn!(
                "the queue's visibility timeout is 0 s, so that other consumers receive each message while it is still \
                 being processed: this service requests {assumed_secs} s with each receive; set 30 s on the queue"
            ),
            Ok(timeout) => {
                self.context.in_flight.set_timeout(timeout);
                self.context
                    .works_again(Operation::GetAttributes.label(), "the queue's attributes can be read");
                log::debug!("the queue's visibility timeout is {} s", timeout.as_secs());
            }
            Err(error) if error.refused => log::warn!(
                err:% = error;
                "the queue's visibility timeout is unknown (sqs:GetQueueAttributes is not allowed): \
                 {assumed_secs} s are assumed; if the queue's is shorter, allow this call"
            ),
            Err(error) => {
                let message =
                    "cannot ask for the queue's visibility timeout: 30 s are assumed until it answers";
                let operation = Operation::GetAttributes;
                self.context.queue_failed(operation, &error.kind, message, &error.message);
                return false;
            }
        }
        true
    }

    /// Extends what is due. If a call fails, the rest waits for the next step.
    fn extend_due(&self, now: Instant) {
        let in_flight = &self.context.in_flight;
        loop {
            let called_at = Instant::now().max(now);
            let extensions = in_flight.begin_extensions(BATCH_MAX, called_at);
            if extensions.is_empty() {
                return;
            }
            let hidden_for = in_flight.timeout();
            let (ids, handles): (Vec<_>, Vec<_>) = extensions.into_iter().unzip();
            let entries: Vec<_> = handles.into_iter().map(|handle| (handle, hidden_for)).collect();
            let result = self.context.queue.change_visibility_batch(&entries);
            let has_failed = result.is_err();
            let sent = self.context.sent(Operation::ChangeVisibility, ids, result);
            for (id, sent) in sent {
                in_flight.end_extension(id, called_at + hidden_for, &sent);
            }
            if has_failed {
                return;
            }
        }
    }
}
