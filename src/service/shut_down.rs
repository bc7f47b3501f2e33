//! The shutdown, in three phases within one time budget.
//!
//! 1. Drain: pollers receive nothing more; what their last calls bring is applied like everything before it.
//! 2. Release, at 75 % of the budget at the latest: everything not applied is released to the queue.
//! 3. Exit: the threads end.

use std::time::{Duration, Instant};

use crate::pipeline::context::Context;
use crate::shutdown::{Phases, StopTrigger};

/// The share of the budget that draining may take.
const DRAIN: f64 = 0.75;
/// How often to check whether everything is completed.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Ends all loops. Nothing that was received is lost or stays hidden: it is applied and deleted, or released.
pub(super) fn shut_down(budget: Duration, began: Instant, context: &Context, triggers: Phases<StopTrigger>) {
    let deadline = began + budget;
    let release_at = began + budget.mul_f64(DRAIN);
    // Long polls cannot be woken. Wait a moment for them anyway: a message may be on its way to one of them.
    let polls_until = began + (budget / 5).min(Duration::from_secs(1));
    let mut release = Some(triggers.release);
    context.health.begin_stop();
    drop(triggers.drain);
    loop {
        let now = Instant::now();
        if context.in_flight.is_drained(now < polls_until) {
            break;
        }
        if now >= deadline {
            log::warn!(
                "some messages could not be completed in time: they are delivered again when their visibility timeout ends"
            );
            break;
        }
        if now >= release_at {
            // Again and again: a poll may have brought something meanwhile.
            let released = context.in_flight.take_over(now);
            if let Some(release) = release.take() {
                log::warn!("out of time: what is not yet applied is released to the queue");
                drop(release); // after the take-over: its holders end
            }
            for released in released {
                let _ = context.recorded.send_deadline(released, deadline);
            }
        }
        context.shutdown.exit.wait(LOOK_EVERY);
    }
    drop(release);
    drop(triggers.exit);
}
