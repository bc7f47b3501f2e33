//! The stop, in its order and inside its budget.
//!
//! 1. Pollers ask for nothing more. What their last calls bring is applied like everything before it.
//! 2. At 60 % of the budget nothing more is handed to the workers: what comes later is given back.
//! 3. At 75 % the workers give back what they have not applied, when their calls to Redis end.
//! 4. At 85 % everything still in hand is given back, whether its holder's call has ended or not.
//! 5. The queue is told all this until the budget is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Reports;
use super::crew::{Crew, Died};
use crate::pipeline::give_back::GiveBack;
use crate::pipeline::lease::Leases;
use crate::pipeline::polls::Polls;
use crate::shutdown::{Stop, StopTrigger};
use crate::sqs::Queue;

/// Threads that give back what is in hand at the end: the queue's answers are what they wait for.
const GIVING_BACK_AT_ONCE: usize = 8;

/// What ends the loops, in the order of the stop.
pub(super) struct Triggers {
    pub(super) polling: StopTrigger,
    pub(super) hand_over: StopTrigger,
    pub(super) deliveries: StopTrigger,
    pub(super) time: StopTrigger,
    pub(super) background: StopTrigger,
}

/// What the loops watch for.
pub(super) struct Stops {
    pub(super) polling: Stop,
    pub(super) last_hand_over: Stop,
    pub(super) last_delivery: Stop,
    pub(super) out_of_time: Stop,
}

/// The threads, in the order of the stop.
pub(super) struct Crews {
    pub(super) pollers: Crew,
    pub(super) workers: Crew,
    pub(super) acknowledgers: Crew,
    pub(super) background: Vec<Crew>,
}

/// What is in hand, and how it can be given back.
pub(super) struct InHand {
    pub(super) queue: Arc<dyn Queue>,
    pub(super) leases: Arc<Leases>,
    pub(super) polls: Arc<Polls>,
    pub(super) died: Died,
}

impl Crews {
    /// Waits until this is no longer so of any poller, or until the deadline.
    fn wait_while(&self, still: impl Fn() -> bool, deadline: Instant) {
        while still() && Instant::now() < deadline {
            if self.pollers.wait(Instant::now() + Duration::from_millis(10)) {
                return;
            }
        }
    }
}

impl InHand {
    /// Takes everything out of the hands that hold it, and begins to give it back.
    fn give_back(&self, reports: &Reports) -> Option<Crew> {
        let give_back = GiveBack::of_all_in_hand(
            Arc::clone(&self.queue),
            &self.leases,
            Arc::clone(&self.polls),
            Arc::clone(&reports.metrics),
            Arc::clone(&reports.faults),
        )?;
        let loops = (0..give_back.calls().min(GIVING_BACK_AT_ONCE)).map(|_| {
            let give_back = give_back.clone();
            move || give_back.run()
        });
        Crew::start("give-back", &self.died, loops.collect())
            .inspect_err(|error| log::warn!(err:% = error; "cannot give back what is in hand"))
            .ok()
    }
}

/// Ends the loops in order, inside the budget. What was received is applied and deleted, or given back.
pub(super) fn stop(
    budget: Duration,
    began: Instant,
    reports: &Reports,
    triggers: Triggers,
    crews: &Crews,
    in_hand: &InHand,
) {
    let polls = &in_hand.polls;
    let at = |share: f64| began + budget.mul_f64(share);
    reports.health.begin_stop();
    drop(triggers.polling);
    // A poller whose call is likely to bring messages is waited for, since what it brings would stay hidden from
    // others for a visibility timeout. One that waits in a long poll of a quiet queue cannot be woken.
    let ended = crews
        .pollers
        .wait(began + (budget / 10).min(Duration::from_secs(1)));
    if !ended {
        crews.wait_while(|| polls.are_expecting(), at(0.6));
    }
    drop(triggers.hand_over);
    // Nobody may be in the middle of handing over when the workers leave: what nobody takes would be forgotten.
    crews.wait_while(|| polls.are_handing_over(), at(0.65));
    drop(triggers.deliveries);
    let drained = crews.workers.wait(at(0.75));
    if drained {
        // What failed at first is tried again while there is time.
        crews.acknowledgers.wait(at(0.85));
    }
    drop(triggers.time);
    let mut giving_back = None;
    if !drained {
        log::warn!("out of time: what is not yet applied is given back to the queue");
        if !crews.workers.wait(at(0.85)) {
            giving_back = in_hand.give_back(reports);
        }
    }
    // The acknowledgers end when the workers do.
    let mut settled = crews.acknowledgers.wait(at(1.0));
    if let Some(giving_back) = giving_back {
        settled = giving_back.wait(at(1.0));
    }
    if !settled {
        log::warn!(
            "some messages could not be settled in time: they come again when their visibility timeout ends"
        );
    }
    // A poller may have received messages in the meantime, and be giving them back.
    crews.wait_while(|| polls.are_expecting(), at(0.9));
    drop(triggers.background);
    // A program that prints credentials is killed by the thread that asked for it, which may be a poller: there has to
    // be time left for that, or the program outlives the service.
    crews
        .pollers
        .wait(at(1.0).min(Instant::now() + Duration::from_millis(200)));
    for crew in &crews.background {
        crew.wait(at(1.0));
    }
}
