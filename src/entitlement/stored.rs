//! The JSON that the SDKs read from Redis.
//!
//! Source: the published packages `@stigg/node-server-sdk` 2.49.0, 3.95.0 (what it writes itself) and
//! `@stigg/cache-redis-store` 1.29.0 (what it migrates older entries to).
//!
//! Fields stand in the order in which SDK 3.x writes them, so that an entry of ours and one of its own can be
//! compared by eye; those that only other readers know follow. A field is left out if a reader of its format does not know
//! it, or if the message did not have it.
//!
//! The names of fields stand here and in `message::entries` as they are written: with serde's derive, a list of 50 features and
//! its usages took more than twice the instructions (November 2026).

use std::borrow::Cow;
use std::collections::HashSet;

use super::{Entitlement, Usage, UsageOf};
use crate::clock::EpochMs;
use crate::json::JsonText;

#[cfg(test)]
mod tests;

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
///
/// A currency with the id of a feature (or the key of another currency) is kept under `credit_<id>`: readers take
/// the id from inside the entry.
pub fn entitlements_json(entitlements: &[Entitlement], format: CacheFormat) -> String {
    const ENTRY_BYTES: usize = 768;
    let mut json = JsonText(String::with_capacity(2 + entitlements.len() * ENTRY_BYTES));
    let is_feature = |entitlement: &&Entitlement| matches!(entitlement.of, UsageOf::Feature(_));
    let features = entitlements.iter().filter(is_feature);
    let mut credits = entitlements
        .iter()
        .filter(|entitlement| format != CacheFormat::V3 && !is_feature(entitlement))
        .peekable();
    let has_credits = credits.peek().is_some();
    let mut taken: HashSet<Cow<'_, str>> = HashSet::new();
    json.raw("{");
    for entitlement in features.chain(credits) {
        let mut key = Cow::Borrowed(entitlement.of.id());
        while has_credits && !taken.insert(key.clone()) {
            key.to_mut().insert_str(0, "credit_");
        }
        json.name(&key);
        put_entry(&mut json, entitlement, format);
    }
    json.raw("}");
    json.0
}

/// The value of a usage key.
pub fn usage_json(usage: &Usage, format: CacheFormat) -> String {
    const USAGE_BYTES: usize = 160;
    let mut json = JsonText(String::with_capacity(USAGE_BYTES));
    json.raw("{");
    put_usage(&mut json, usage, None, format);
    json.raw("}");
    json.0
}

/// The value of the metadata key.
pub fn metadata_json(access_denied_reason: Option<&str>) -> String {
    serde_json::json!({"accessDeniedReason": access_denied_reason}).to_string()
}

/// 4.x readers look for `type` and `usageData`; 2.x and 3.x readers look for `featureUsage`, and know no credits.
fn put_entry(json: &mut JsonText, entitlement: &Entitlement, format: CacheFormat) {
    let is_read_by_4 = format != CacheFormat::V3;
    let (kind, name) = match entitlement.of {
        UsageOf::Feature(_) => ("FEATURE", r#""feature":{"#),
        UsageOf::Credit(_) => ("CREDIT", r#""currency":{"#),
    };
    json.raw(r#"{"calculatedEntitlement":{"#);
    json.field(r#","type":"#, is_read_by_4.then_some(kind));
    json.separate();
    json.raw(name);
    json.raw(&entitlement.particulars);
    if is_read_by_4 {
        json.raw(&entitlement.display_name);
    }
    json.raw("}");
    json.raw(&entitlement.access);
    if is_read_by_4 {
        json.field(r#","usagePeriodAnchor":"#, entitlement.usage_period_anchor);
        json.raw(&entitlement.reset);
    }
    json.raw("}");
    if kind == "FEATURE" && format != CacheFormat::V4 {
        json.raw(r#","featureUsage":{"#);
        json.raw(entitlement.reset.strip_prefix(',').unwrap_or_default());
        put_usage(json, &entitlement.usage, entitlement.usage_period_anchor, format);
        json.raw("}");
    }
    if let Some(updated_at) = entitlement.usage_updated_at.filter(|_| is_read_by_4) {
        json.raw(r#","usageData":{"#);
        put_usage(json, &entitlement.usage, None, CacheFormat::V4);
        json.field(r#","updatedAt":"#, Some(updated_at));
        json.raw("}");
    }
    json.raw("}");
}

/// 2.x readers look for `nextResetDate` instead of `usagePeriodEnd`.
fn put_usage(json: &mut JsonText, usage: &Usage, anchor: Option<EpochMs>, format: CacheFormat) {
    json.field(r#","currentUsage":"#, Some(&usage.current_usage));
    json.field(r#","usagePeriodAnchor":"#, anchor);
    json.field(r#","usagePeriodStart":"#, usage.period_start);
    json.field(r#","usagePeriodEnd":"#, usage.period_end);
    json.field(r#","nextResetDate":"#, usage.period_end.filter(|_| format == CacheFormat::Compatible));
}
