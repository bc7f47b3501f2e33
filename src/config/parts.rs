//! Parts of a configuration, for commands that need no more: what they do not need is not judged.

use super::settings::Settings;
use super::values::{Faults, Findings, raw};

impl Settings {
    /// The port of a service that runs on this machine.
    pub fn port_to_probe(&self) -> Result<u16, Faults> {
        part(|findings| {
            let raw = raw!(self, http.port);
            if raw.value == Some("0") {
                findings.fault(
                    raw,
                    "is 0, which lets the service take a free port that nobody knows; set the port that its log tells",
                );
            }
            Some(findings.number(raw, &(0..=u16::MAX)))
        })
    }
}

/// Judges a part: its value, or all faults in it.
fn part<T>(read: impl FnOnce(&mut Findings) -> Option<T>) -> Result<T, Faults> {
    let mut findings = Findings::default();
    let part = read(&mut findings);
    match part {
        Some(part) if findings.faults.is_empty() => Ok(part),
        _ => Err(Faults(findings.faults)),
    }
}
