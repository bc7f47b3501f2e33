use std::sync::Mutex;
use std::time::Instant;

use super::{FakeStore, Rig, secs, store_error};
use crate::pipeline::sampler::Sampler;
use crate::store::Cause;

#[test]
fn after_a_failed_write_a_probe_opens_the_gate_but_not_while_a_worker_is_about_to_retry() {
    let rig = Rig::new();
    let gate = rig.context.gate.clone();
    let mut sampler = Sampler::new(rig.context.clone(), None);
    let retry = gate.retry_write();
    gate.write_failed(&store_error(Cause::Io), Instant::now());
    sampler.step(Instant::now());
    assert!(!gate.is_open(), "Redis answers, but that proves nothing");
    drop(retry);
    sampler.step(Instant::now());
    assert!(gate.is_open());
}

#[test]
fn a_failed_read_is_ended_by_the_next_one_that_succeeds() {
    let rig = Rig::with_store(FakeStore {
        failures: Mutex::new(0),
        ..FakeStore::default()
    });
    let gate = rig.context.gate.clone();
    gate.read_failed(&store_error(Cause::Timeout), Instant::now());
    assert!(!gate.is_open());
    let mut sampler = Sampler::new(rig.context.clone(), None);
    sampler.step(Instant::now() + secs(1));
    assert!(gate.is_open());
}
