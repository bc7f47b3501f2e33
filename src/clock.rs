//! The one place that reads the wall clock. Everything else is told the time.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::entitlement::EpochMs;

/// Milliseconds since 1970-01-01T00:00:00Z, as this machine's clock has it.
#[allow(clippy::disallowed_methods)] // this is the one place
pub fn now() -> EpochMs {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    EpochMs(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}
