//! What was done to the service and when, and when nothing went on.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// An outage may begin so long after the fault that causes it, because calls in flight continue.
const AFTERMATH: Duration = Duration::from_secs(1);

/// Faults and outages, as they happen.
#[derive(Default)]
pub struct Journal {
    faults: Mutex<Vec<Fault>>,
    outages: Mutex<Vec<(Instant, Instant)>>,
    failures: Mutex<Vec<String>>,
}

struct Fault {
    kind: &'static str,
    began: Instant,
    ended: Option<Instant>,
}

/// All faults of one kind.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    pub times: u64,
    /// The longest outage while one of them lasted, or just after.
    pub longest_outage: Duration,
}

impl Journal {
    /// The latest fault of this kind turned out to be one of another kind.
    pub fn rename_latest(&self, kind: &'static str, other: &'static str) {
        let mut faults = self.faults.lock().expect("no holder panics");
        if let Some(fault) = faults.iter_mut().rfind(|fault| fault.kind == kind) {
            fault.kind = other;
        }
    }

    /// A fault that lasts while `act` runs.
    pub fn during<T>(&self, kind: &'static str, act: impl FnOnce() -> T) -> T {
        let index = {
            let mut faults = self.faults.lock().expect("no holder panics");
            faults.push(Fault { kind, began: Instant::now(), ended: None });
            faults.len() - 1
        };
        let result = act();
        self.faults.lock().expect("no holder panics")[index].ended = Some(Instant::now());
        result
    }

    /// Nothing went on, though there was something to do.
    pub fn outage(&self, from: Instant, until: Instant) {
        self.outages.lock().expect("no holder panics").push((from, until));
    }

    /// The run has failed.
    pub fn fail(&self, what: String) {
        self.failures.lock().expect("no holder panics").push(what);
    }

    /// Why the run has failed; empty if it has not.
    pub fn failures(&self) -> Vec<String> {
        self.failures.lock().expect("no holder panics").clone()
    }

    /// Whether it has.
    pub fn has_failed(&self) -> bool {
        !self.failures.lock().expect("no holder panics").is_empty()
    }

    /// The fault that began last.
    pub fn latest(&self) -> &'static str {
        let faults = self.faults.lock().expect("no holder panics");
        faults.last().map_or("no fault yet", |fault| fault.kind)
    }

    /// The longest outage of all.
    pub fn longest_outage(&self) -> Duration {
        let outages = self.outages.lock().expect("no holder panics");
        outages.iter().map(length).max().unwrap_or_default()
    }

    /// By kind. An outage counts for every kind that may have caused it.
    pub fn tallies(&self) -> BTreeMap<&'static str, Tally> {
        let outages = self.outages.lock().expect("no holder panics");
        let mut tallies: BTreeMap<&'static str, Tally> = BTreeMap::new();
        for fault in self.faults.lock().expect("no holder panics").iter() {
            let tally = tallies.entry(fault.kind).or_default();
            tally.times += 1;
            let ended = fault.ended.unwrap_or_else(Instant::now) + AFTERMATH;
            let of_it = outages.iter().filter(|(from, until)| *from <= ended && *until >= fault.began);
            let longest = of_it.map(length).max().unwrap_or_default();
            tally.longest_outage = tally.longest_outage.max(longest);
        }
        tallies
    }
}

fn length((from, until): &(Instant, Instant)) -> Duration {
    *until - *from
}
