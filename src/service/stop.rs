//! The stop, in its order and inside its budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::Reports;
use super::crew::Crew;
use crate::shutdown::{Stop, StopTrigger};

/// What ends the loops, in the order of the stop.
pub(super) struct Triggers {
    pub(super) polling: StopTrigger,
    pub(super) deliveries: StopTrigger,
    pub(super) time: StopTrigger,
    pub(super) background: StopTrigger,
}

/// What the loops watch for.
pub(super) struct Stops {
    pub(super) polling: Stop,
    pub(super) last_delivery: Stop,
    pub(super) out_of_time: Stop,
    /// Counts pollers, see [`Poller::expecting`].
    pub(super) expecting: Arc<AtomicUsize>,
}

/// The threads, in the order of the stop.
pub(super) struct Crews {
    pub(super) pollers: Crew,
    pub(super) workers: Crew,
    pub(super) acknowledgers: Crew,
    pub(super) background: Vec<Crew>,
    /// Pollers whose call is likely to bring messages soon.
    pub(super) expecting: Arc<AtomicUsize>,
}

impl Crews {
    /// Waits until no poller holds messages or is likely to receive some, or until the deadline.
    fn wait_for_expecting_pollers(&self, deadline: Instant) {
        while self.expecting.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
            if self.pollers.wait(Instant::now() + Duration::from_millis(10)) {
                return;
            }
        }
    }
}

/// Ends the loops in order, inside the budget. What was received is applied and deleted, or given back.
pub(super) fn stop(budget: Duration, began: Instant, reports: &Reports, triggers: Triggers, crews: &Crews) {
    reports.health.begin_stop();
    drop(triggers.polling);
    // A poller whose call is likely to bring messages is waited for, since what it brings would stay hidden from
    // others for a visibility timeout. One that waits in a long poll of a quiet queue cannot be woken: what it still
    // receives before the end it gives back.
    let ended = crews
        .pollers
        .wait(began + (budget / 10).min(Duration::from_secs(1)));
    if !ended {
        crews.wait_for_expecting_pollers(began + budget.mul_f64(0.6));
    }
    drop(triggers.deliveries);
    let drained = crews.workers.wait(began + budget.mul_f64(0.75));
    drop(triggers.time);
    if !drained {
        log::warn!("out of time: what is not yet applied is given back to the queue");
        crews.workers.wait(began + budget.mul_f64(0.85));
    }
    if !crews.acknowledgers.wait(began + budget) {
        log::warn!(
            "some messages could not be settled in time: they come again when their visibility timeout ends"
        );
    }
    // A poller may have received messages in the meantime, and be giving them back.
    crews.wait_for_expecting_pollers(began + budget);
    drop(triggers.background);
    // A program that prints credentials is killed by the thread that asked for it, which may be a poller.
    crews
        .pollers
        .wait((began + budget).min(Instant::now() + Duration::from_millis(200)));
    for crew in &crews.background {
        crew.wait(began + budget);
    }
}
