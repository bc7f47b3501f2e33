//! What came of it, as a table.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use crate::fakes::queue::Counts;
use crate::faults::{FAILOVER, KILL, RESTART};
use crate::journal::Tally;

/// Printed before the run, because it is a condition of its result.
pub const FAIRNESS: &str = "Redis runs with appendfsync always, and fails over by FAILOVER TO …, which waits for the replica: \
     an asynchronous replica that is promoted while it lags loses confirmed writes by Redis's own design.";
/// How many of many are shown.
const SHOWN: usize = 10;

/// The run's result.
pub struct Report {
    pub seed: u64,
    pub counts: Counts,
    pub dead_letters: usize,
    /// What the queue found that no client of SQS may do.
    pub complaints: Vec<String>,
    pub keys: usize,
    pub took: Duration,
    pub tallies: BTreeMap<&'static str, Tally>,
    pub longest_outage: Duration,
    pub failures: Vec<String>,
    pub lost: Vec<String>,
    pub stale: Vec<String>,
}

impl Report {
    /// Nothing lost, nothing stale, nothing stuck, no instance ended.
    pub fn is_good(&self) -> bool {
        self.lost.is_empty()
            && self.stale.is_empty()
            && self.failures.is_empty()
            && self.complaints.is_empty()
            && self.dead_letters == 0
    }

    /// The main table: name and value.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let seconds = self.took.as_secs_f64();
        vec![
            ("messages sent", self.counts.sent.to_string()),
            ("applied (deleted)", self.counts.deleted.to_string()),
            ("redelivered", self.counts.redelivered.to_string()),
            ("instances killed (-9)", self.times(KILL).to_string()),
            ("Redis restarts (-9)", self.times(RESTART).to_string()),
            ("Redis failovers", self.times(FAILOVER).to_string()),
            ("queue faults", self.counts.faults.to_string()),
            ("keys compared", self.keys.to_string()),
            ("lost", self.lost.len().to_string()),
            ("stale", self.stale.len().to_string()),
            ("longest outage", format!("{:.1} s", self.longest_outage.as_secs_f64())),
            ("took", format!("{seconds:.0} s")),
            ("messages/s", format!("{:.0}", self.counts.deleted as f64 / seconds)),
            ("seed", self.seed.to_string()),
        ]
    }

    fn times(&self, kind: &str) -> u64 {
        self.tallies.get(kind).map_or(0, |tally| tally.times)
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        writeln!(f)?;
        for (name, value) in self.rows() {
            writeln!(f, "{name:<24}{value:>12}")?;
        }
        writeln!(f)?;
        writeln!(f, "{:<46}{:>6}{:>16}", "fault", "times", "longest outage")?;
        for (kind, tally) in &self.tallies {
            let longest = format!("{:.1} s", tally.longest_outage.as_secs_f64());
            writeln!(f, "{kind:<46}{:>6}{longest:>16}", tally.times)?;
        }
        writeln!(
            f,
            "An outage: no write and no delete while messages were visible. It counts for each fault that it may come of."
        )?;
        if self.dead_letters > 0 {
            writeln!(f, "\ndead letters: {}", self.dead_letters)?;
        }
        for (name, all) in [
            ("lost", &self.lost),
            ("stale", &self.stale),
            ("what no client of SQS may do", &self.complaints),
            ("failed", &self.failures),
        ] {
            if !all.is_empty() {
                writeln!(f, "\n{name}, {} of {}:", all.len().min(SHOWN), all.len())?;
                all.iter().take(SHOWN).try_for_each(|one| writeln!(f, "  {one}"))?;
            }
        }
        writeln!(f)?;
        if self.is_good() {
            write!(f, "nothing lost, nothing stale")
        } else {
            write!(f, "FAILED, seed {}", self.seed)
        }
    }
}
