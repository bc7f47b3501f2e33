//! Fakes of the peers, for tests and benchmarks: for what the real ones cannot be made to do on purpose.
//!
//! No package of its own: a test target takes it in with `#[path = "../fakes/mod.rs"] mod fakes;`.

// Each target uses a part of it.
#![allow(dead_code)]

pub mod acceptor;
pub mod proxy;
pub mod queue;
pub mod refusing_redis;
