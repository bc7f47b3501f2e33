//! What operators see: health, metrics, and the HTTP endpoints that serve them.

pub mod health;
pub mod metrics;
pub mod server;

mod series;
