//! The loops: pollers receive, workers apply, deleters delete or release; the visibility thread keeps messages in flight
//! hidden from other consumers, and the sampler checks Redis.
//!
//! A message is deleted only after Redis confirmed its effect, or when it has none. Otherwise it stays in the queue and is
//! received again; applying it twice does no harm.

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
