//! Keeps the Redis cache that Stigg's SDKs read fresh.
//!
//! The sentence the tree says: event -> entitlement -> cache (pure: what has to change) -> store (making it
//! so in Redis) · sqs (where changes come from) · edge (Stigg's API) · pipeline (the loops) · ops (what
//! operators see). `service` builds the real parts and owns every thread.

pub mod cache;
pub mod clock;
pub mod config;
pub mod edge;
pub mod entitlement;
pub mod event;
pub mod http_client;
pub mod log;
pub mod ops;
pub mod pipeline;
pub mod sentry_reports;
pub mod service;
pub mod shutdown;
pub mod sqs;
pub mod store;
