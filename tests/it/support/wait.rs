//! The one place that pauses: everything else waits for a condition, with a deadline, through here.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// How often a condition is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Long enough for anything that is going to happen on two busy cores; a test that needs it has failed.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Checks `condition` every few milliseconds until it gives a value. Panics after `deadline` with what was
/// waited for and, if `otherwise` knows, why it did not come.
pub fn wait_for<T>(
    deadline: Duration,
    what: impl Display,
    condition: impl FnMut() -> Option<T>,
    otherwise: impl FnOnce() -> String,
) -> T {
    wait_for_every(POLL_INTERVAL, deadline, what, condition, otherwise)
}

/// The same with another interval, for a condition that costs something or is waited for by many threads at once.
#[allow(clippy::disallowed_methods)] // the one place that pauses
pub fn wait_for_every<T>(
    interval: Duration,
    deadline: Duration,
    what: impl Display,
    mut condition: impl FnMut() -> Option<T>,
    otherwise: impl FnOnce() -> String,
) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(started.elapsed() < deadline, "waited {deadline:?} in vain for: {what}\n{}", otherwise());
        std::thread::sleep(interval);
    }
}

/// Waits until `condition` holds.
pub fn wait_until(deadline: Duration, what: impl Display, mut condition: impl FnMut() -> bool) {
    wait_for(deadline, what, || condition().then_some(()), String::new);
}
