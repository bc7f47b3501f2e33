//! What operators see: health, metrics and the status page, and the HTTP endpoints that serve them.

mod endpoints;
pub mod health;
pub mod metrics;
pub mod server;
pub mod status;
