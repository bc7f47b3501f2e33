//! The loops: pollers receive, workers write, acknowledgers settle. On traits only; no library is named here.
//!
//! ```text
//! poller-0..P --Delivery--> bounded --> worker-0..W --Settled--> bounded --> acknowledger-0..A
//! heartbeat (extends what is in hand)   sampler (Redis, and whether the pollers come round)
//! ```
//! A message is deleted only after Redis confirmed its effect (or that it has none). Whatever ends a message
//! otherwise leaves it in the queue: it comes again, and applying it twice does no harm.

pub mod acknowledger;
pub mod backoff;
pub mod gate;
pub mod give_back;
pub mod guard;
pub mod heartbeat;
pub mod lease;
pub mod poison;
pub mod poller;
pub mod polls;
pub mod sampler;
pub mod settle;
mod waits;
pub mod worker;

#[cfg(test)]
mod tests;
