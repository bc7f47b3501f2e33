use std::sync::Mutex;
use std::time::Instant;

use super::{FakeStore, Rig, delivery, secs, store_error};
use crate::pipeline::gate::Access;
use crate::pipeline::sampler::Sampler;
use crate::pipeline::visibility::Visibility;
use crate::store::Cause;

#[test]
fn after_a_failed_write_a_probe_opens_the_gate_but_not_while_a_worker_is_about_to_retry() {
    let rig = Rig::new();
    let gate = rig.context.gate.clone();
    let mut sampler = Sampler::new(rig.context.clone(), None);
    let retry = gate.retry_write();
    gate.failed(Access::Write, &store_error(Cause::Io), Instant::now());
    sampler.step(Instant::now());
    assert!(!gate.is_open(), "Redis answers, but that proves nothing");
    drop(retry);
    sampler.step(Instant::now());
    assert!(gate.is_open());
}

#[test]
fn a_failed_read_is_ended_by_the_next_one_that_succeeds() {
    let rig = Rig::with_store(FakeStore { failures: Mutex::new(0), ..FakeStore::default() });
    let gate = rig.context.gate.clone();
    gate.failed(Access::Read, &store_error(Cause::Timeout), Instant::now());
    assert!(!gate.is_open());
    let mut sampler = Sampler::new(rig.context.clone(), None);
    sampler.step(Instant::now() + secs(1));
    assert!(gate.is_open());
}

#[test]
fn a_fault_of_the_side_is_over_when_what_it_hindered_works() {
    let rig = Rig::new();
    let a_while_ago = Instant::now().checked_sub(secs(10)).unwrap();
    let kinds = ["info", "sentinel", "get_attributes Http500", "change_visibility Http500"];
    for kind in kinds {
        let faults = &rig.context.faults;
        faults.note(kind, log::Level::Warn, "it failed", "why", a_while_ago);
    }
    let _held = rig.track(delivery("1", "{}"));
    Sampler::new(rig.context.clone(), None).step(Instant::now());
    Visibility::new(rig.context.clone(), Instant::now()).step(Instant::now() + secs(16));
    let faults = rig.context.faults.recent_faults();
    assert_eq!(faults.len(), kinds.len());
    assert!(faults.iter().all(|fault| fault.is_over), "{faults:?}");
}
