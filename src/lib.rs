//! Keeps the Redis cache that Stigg's SDKs read fresh.
//!
//! # The sentence the tree says
//! message -> entitlement -> cache (pure: what has to change) -> store (making it so in Redis) · sqs (where changes
//! come from) · aws (credentials and signatures) · edge (Stigg's API) · pipeline (the loops) · ops (what operators
//! see) · service (every thread) · commands (what an operator asks beside it).
//!
//! # Threads
//! ```text
//! poller-0..P --Vec<InFlightDelivery>--> bounded --> worker-0..W --Vec<Recorded>--> bounded --> deleter-0..P
//! visibility (of what is in flight)   sampler (Redis health, statistics; whether the pollers make progress)
//! prefix-check (once: whose customers are in Redis)   credentials (renewal)   reports (Sentry)   ops-http   signals
//! watchdog (tells systemd that the loops are alive)
//! SIGTERM/SIGINT: drain -> release -> exit (`shutdown`, `service::shut_down`)
//! ```
//! The loops are no scoped threads: a poller in a long poll cannot be woken, and must not hold up the end of the
//! process. Each is named and counted (`service::threads`); a panic of a loop ends the process with status 70.
//!
//! # Invariants
//! - A message is deleted only after Redis confirmed its effect, or that it has none (`pipeline::worker`).
//! - Check and write are one atomic step on the server: the scripts in `store`. The service takes no lock; only
//!   `warm`, which asks Stigg as an SDK does, takes the readers'.
//! - Applying a change twice, or late, does no harm; so anything that fails is simply done again.
//! - Every call to a peer has a deadline of its own.
//! - Pure rooms do no I/O and read no clock; a key is spelled in one place, the environment and the clock read in
//!   one place. `tests/it/house.rs` holds these.
//!
//! # Reading order
//! `message`, `entitlement::stored`, `cache`, the three scripts in `store`, `pipeline::worker`, `service`.

pub mod message;

pub mod entitlement;

pub mod cache;

pub mod store;

pub mod sqs;

pub mod aws;

pub mod edge;

mod pipeline;

pub mod ops;

pub mod service;

pub mod commands;

pub mod build_info;
pub mod clock;
pub mod config;
pub mod http_client;
pub mod json;
pub mod log;
pub mod lookup;
pub mod sentry_reports;
pub mod shutdown;
