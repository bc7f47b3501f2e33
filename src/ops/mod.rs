//! What operators see: health, metrics, and the HTTP endpoints that serve them.

pub mod health;
pub mod metrics;
mod series;
pub mod server;

