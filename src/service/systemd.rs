//! Notifications to systemd, where it started the service with `Type=notify`. Elsewhere (no `NOTIFY_SOCKET`) nothing
//! happens.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use super::Setup;
use crate::log::FaultLog;
use crate::ops::health::HealthBoard;

/// What a shutdown may take beyond its budget, until systemd kills the process.
const SHUTDOWN_SLACK: Duration = Duration::from_secs(5);

/// The endpoints are served, and every loop is started. A Redis or a queue that is unavailable does not delay this:
/// systemd would kill the service again and again, and they recover by themselves.
pub(super) fn notify_ready(faults: &FaultLog) {
    notify(faults, &[NotifyState::Ready, NotifyState::Status("started")]);
}

/// A shutdown has begun, and may take this long, whatever the unit says.
pub(super) fn notify_stopping(budget: Duration, faults: &FaultLog) {
    let extended = u32::try_from((budget + SHUTDOWN_SLACK).as_micros()).unwrap_or(u32::MAX);
    let status = NotifyState::Status("stopping: what was received is applied or released");
    let extended = NotifyState::ExtendTimeoutUsec(extended);
    notify(faults, &[NotifyState::Stopping, extended, status]);
}

impl Setup<'_> {
    /// Starts the thread that feeds the watchdog while the loops are alive, if the unit has `WatchdogSec`. Once they are
    /// dead systemd restarts the service.
    pub(super) fn start_watchdog(&self, health: &Arc<HealthBoard>) -> anyhow::Result<()> {
        let Some(timeout) = sd_notify::watchdog_enabled() else {
            return Ok(());
        };
        let (health, faults, exit) = (Arc::clone(health), Arc::clone(&self.faults), self.exit.clone());
        self.threads.spawn("watchdog", move || {
            loop {
                let now = Instant::now();
                let status = status(&health, now);
                let status = NotifyState::Status(&status);
                if health.is_live(now) {
                    notify(&faults, &[NotifyState::Watchdog, status]);
                } else {
                    notify(&faults, &[status]);
                }
                // Half of the timeout, as systemd recommends: one that is late does no harm.
                if exit.wait(timeout / 2) {
                    return;
                }
            }
        })
    }
}

/// A line for `systemctl status`.
fn status(health: &HealthBoard, now: Instant) -> String {
    if !health.is_live(now) {
        return "dead: no poller makes progress, waiting for the restart".to_owned();
    }
    let readiness = health.readiness(now);
    let state = if readiness.up { "ready" } else { "not ready" };
    let redis = if readiness.redis_connected { "connected" } else { "unavailable" };
    format!("{state}: {} pollers, Redis {redis}", readiness.consumers)
}

/// If systemd cannot be notified, it acts by its own timeouts, and the log says why.
fn notify(faults: &FaultLog, states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        let message = "cannot notify systemd at NOTIFY_SOCKET: it will consider the service dead";
        let error = error.to_string();
        faults.fault("systemd", log::Level::Warn, message, &error, Instant::now());
    }
}
