//! The loops: pollers receive, workers apply, deleters tell the queue; the visibility thread keeps what is in flight
//! hidden from others, and the sampler checks Redis.
//!
//! A message is deleted only after Redis confirmed its effect (or that it has none). Whatever else ends a message
//! leaves it in the queue: it comes again, and applying it twice does no harm.

pub mod backoff;
pub mod context;
pub mod deleter;
pub mod ending;
pub mod gate;
pub mod in_flight;
pub mod poller;
pub mod prefix_check;
pub mod sampler;
pub mod visibility;
pub mod worker;

#[cfg(test)]
mod tests;
