//! What systemd is told, where it started the service with `Type=notify`: that it runs, that its loops live, that it
//! stops. Elsewhere (no `NOTIFY_SOCKET`) nothing happens.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use super::crew::{Crew, Died};
use crate::log::FaultLog;
use crate::ops::health::HealthBoard;
use crate::shutdown::Stop;

/// What a stop may take beyond its budget, until systemd kills.
const STOP_SLACK: Duration = Duration::from_secs(5);

/// The service runs: the endpoints are served, and every loop is started. A Redis or a queue that is away does not hold
/// this up, as it does not make the service useless: it comes back, and systemd would kill for it again and again.
pub(super) fn tell_ready(faults: &FaultLog) {
    tell(faults, &[NotifyState::Ready, NotifyState::Status("started")]);
}

/// A stop has begun, and may take this long, whatever the unit says of stops.
pub(super) fn tell_stopping(budget: Duration, faults: &FaultLog) {
    let extended = u32::try_from((budget + STOP_SLACK).as_micros()).unwrap_or(u32::MAX);
    let status = NotifyState::Status("stopping: what was received is applied or given back");
    tell(
        faults,
        &[
            NotifyState::Stopping,
            NotifyState::ExtendTimeoutUsec(extended),
            status,
        ],
    );
}

/// Starts the thread that feeds the watchdog, if systemd has one for this process (`WatchdogSec`).
pub(super) fn start_watchdog(
    health: &Arc<HealthBoard>,
    faults: &Arc<FaultLog>,
    stop: Stop,
    died: &Died,
) -> anyhow::Result<Option<Crew>> {
    let Some(patience) = sd_notify::watchdog_enabled() else {
        return Ok(None);
    };
    let watchdog = Watchdog {
        health: Arc::clone(health),
        faults: Arc::clone(faults),
        // Half of it, as systemd recommends: one that is late does no harm.
        every: patience / 2,
        stop,
    };
    Crew::start("watchdog", died, vec![move || watchdog.run()]).map(Some)
}

struct Watchdog {
    health: Arc<HealthBoard>,
    faults: Arc<FaultLog>,
    every: Duration,
    stop: Stop,
}

impl Watchdog {
    /// Feeds while the loops live. Once they are dead it does not: systemd waits for `WatchdogSec`, and restarts.
    fn run(&self) {
        loop {
            let now = Instant::now();
            let status = self.status(now);
            let status = NotifyState::Status(&status);
            if self.health.is_live(now) {
                tell(&self.faults, &[NotifyState::Watchdog, status]);
            } else {
                tell(&self.faults, &[status]);
            }
            if self.stop.wait(self.every) {
                return;
            }
        }
    }

    /// A line for `systemctl status`.
    fn status(&self, now: Instant) -> String {
        if !self.health.is_live(now) {
            return "dead: no poller comes round, waiting for the restart".to_owned();
        }
        let readiness = self.health.readiness(now);
        let state = if readiness.up { "ready" } else { "not ready" };
        let redis = if readiness.redis_connected {
            "connected"
        } else {
            "away"
        };
        format!("{state}: {} pollers, Redis {redis}", readiness.consumers)
    }
}

/// A systemd that cannot be told is no reason to stop: it acts by its own timeouts, and the log says why.
fn tell(faults: &FaultLog, states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        faults.fault(
            "systemd",
            log::Level::Warn,
            "cannot notify systemd at NOTIFY_SOCKET: it will take the service for dead",
            &error.to_string(),
            Instant::now(),
        );
    }
}
