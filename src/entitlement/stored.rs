//! The JSON that the SDKs read from Redis.
//!
//! Source: the published packages `@stigg/node-server-sdk` 2.49.0, 3.95.0 (what it writes itself) and
//! `@stigg/cache-redis-store` 1.29.0 (what it migrates older entries to).

use super::{Entitlement, Usage};

/// Which readers the written entries are for (`CACHE_FORMAT`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheFormat {
    /// One entry that carries every form: a fleet of 2.x, 3.x and 4.x readers works from one Redis.
    #[default]
    Compatible,
    /// Exactly what SDK 3.x writes: no metadata key, credit entitlements left out.
    V3,
    /// The 4.x form.
    V4,
}

/// The value of the customer key: a JSON object keyed by feature id (and currency id).
pub fn entitlements_json(_entitlements: &[Entitlement], _format: CacheFormat) -> String {
    todo!()
}

/// The value of a usage key.
pub fn usage_json(_usage: &Usage, _format: CacheFormat) -> String {
    todo!()
}

/// The value of the metadata key.
pub fn metadata_json(_access_denied_reason: Option<&str>) -> String {
    todo!()
}
