//! Neighbours of our own making, for tests and benchmarks: what the real ones cannot be made to do on purpose.
//!
//! No package of its own: a test target takes it in with `#[path = "../fakes/mod.rs"] mod fakes;`.

// Each target uses a part of it.
#![allow(dead_code)]

pub mod proxy;
pub mod queue;
pub mod refusing_redis;
