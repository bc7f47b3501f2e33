//! Keeps the Redis cache that Stigg's SDKs read up to date.
//!
//! # Modules
//! `message` (decodes a queue message) -> `entitlement` (domain types and their JSON) -> `cache` (what has to change;
//! pure) -> `store` (changes it in Redis; its r2d2 pool holds slots that connect when first used). `sqs` is where messages come
//! from, `aws` has credentials and signatures, `edge` is Stigg's API, `pipeline` has the loops, `ops` is what operators see, and
//! `commands` are the subcommands. `service` starts every thread; its `connections` makes the clients of the queue and Redis.
//! `config` reads the settings, `refetch` fills a customer from Stigg's API for `warm` and for `refresh`, which refills what is
//! purged, `http_client` makes every HTTP call, `lookup` resolves host names within a deadline, `log` and `sentry_reports`
//! report, and `backoff`, `clock`, `json` and `shutdown` are shared by the others.
//!
//! A body is read into a flat tree, not into structs, which takes less code and is faster (`message::tree`). Two kinds of
//! text do not go through a JSON library: the lists that are written (`message::entries` and `entitlement::stored`, with the
//! writer of `json`), and the bodies in an answer of SQS (`sqs::bodies`). Each file says what that saves. `aws::signing` writes the
//! canonical request itself, and `ops::server` is our own HTTP front: their headers say why.
//!
//! # Threads
//! ```text
//! poller-0..P --Vec<InFlightDelivery>--> bounded --> worker-0..W --Vec<Recorded>--> bounded --> deleter-0..P
//! visibility (extends what is in flight)   sampler (Redis health and statistics; whether the pollers make progress)
//! prefix-check (once: whose customers are in Redis)   credentials, redis-credentials (renewal)   reports (Sentry's DSN, once)
//! refresh, refresh-0..R (REFRESH_AFTER_PURGE: whom the workers purged is refetched)
//! ops-http (every connection)   signals   watchdog (tells systemd that the loops are alive)   lookup (one per host lookup)
//! SIGTERM/SIGINT: drain -> release -> exit (`shutdown`, `service::shut_down`)
//! ```
//! The loops are not scoped threads: a poller in a long poll cannot be woken, and must not delay the end of the
//! process. Each is named and counted (`service::threads`). A panic in a loop ends the process with status 70.
//!
//! # Invariants
//! - A message is deleted only after Redis confirmed its effect, or when it has none (`pipeline::worker`).
//! - Check and write are one atomic step on the server: one script, `store/apply.lua`, makes every change. The service
//!   takes no lock. Only `refetch`, which asks Stigg as an SDK does, takes the readers' refetch lock.
//! - A change can be applied twice, or late, without harm, so whatever fails is retried.
//! - Every call to a peer has its own deadline.
//! - Pure modules do no I/O and read no clock. Keys are spelled, the clock is read and the environment is read in one
//!   place each. `tests/it/house.rs` checks this.
//!
//! # Reading order
//! `message`, `entitlement::stored`, `cache`, `store/apply.lua`, `store::redis_store`, `pipeline::worker`, `service`.
//!
//! # Where a rule is applied
//! - Newer wins, tombstones, the readers' locks, periods of credits: `store/apply.lua`.
//! - Impossible timestamps: `message::timestamp`.
//! - What a credit balance changes in a list: `cache::credit`; `store::redis_store` replaces the list.
//! - Which errors pause the service and which are one change's own: `store::redis_store`, by `store::errors`.

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

pub mod config;

pub mod http_client;

pub mod log;

mod backoff;
pub mod build_info;
pub mod clock;
mod json;
mod lookup;
mod refetch;
mod refresh;
mod sentry_reports;
pub mod shutdown;
