//! The JSON that the SDKs read from Redis.
//!
//! Source: the published packages `@stigg/node-server-sdk` 2.49.0, 3.95.0 (what it writes itself) and
//! `@stigg/cache-redis-store` 1.29.0 (what it migrates older entries to).
//!
//! Fields stand in the order in which SDK 3.x writes them, so that an entry of ours and one of its own can be
//! compared by eye; those that only other readers know follow. A field is left out if a reader of its format does not know
//! it, or if the message did not have it.
//!
//! The names of fields stand here as they are written: a list of 50 features and its usages take 180,000 instructions, by
//! serde's derive 377,000 (November 2026).

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::Write as _;

use serde_json::Number;

use super::{CreditEntitlement, Entitlement, FeatureEntitlement, Given, RawJson, ResourceId, Usage};
use crate::clock::EpochMs;

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

impl CacheFormat {
    /// 2.x and 3.x readers look for `featureUsage` and know no credit entitlement.
    fn has_feature_usage(self) -> bool {
        matches!(self, Self::Compatible | Self::V3)
    }

    /// 4.x readers look for `type` and `usageData`.
    fn has_usage_data(self) -> bool {
        matches!(self, Self::Compatible | Self::V4)
    }

    /// 2.x readers look for `nextResetDate` instead of `usagePeriodEnd`.
    fn has_next_reset_date(self) -> bool {
        matches!(self, Self::Compatible)
    }
}

/// The value of the customer key: a JSON object keyed by feature id (and currency id).
///
/// A currency that is called as a feature (or as another currency's key) is kept under `credit_<id>`: readers take
/// the id from inside the entry.
pub fn entitlements_json(entitlements: &[Entitlement], format: CacheFormat) -> String {
    const ENTRY_BYTES: usize = 768;
    let mut json = Json(String::with_capacity(2 + entitlements.len() * ENTRY_BYTES));
    let mut taken: HashSet<Cow<'_, str>> = HashSet::new();
    let has_credits = entitlements.iter().any(|entitlement| matches!(entitlement, Entitlement::Credit(_)));
    json.raw("{");
    for entitlement in entitlements {
        if let Entitlement::Feature(feature) = entitlement {
            let id = feature.feature.id.as_str();
            if has_credits {
                taken.insert(Cow::Borrowed(id));
            }
            json.entry(id);
            json.feature(feature, format);
        }
    }
    for entitlement in entitlements {
        if let Entitlement::Credit(credit) = entitlement
            && format.has_usage_data()
        {
            let mut key = Cow::Borrowed(credit.currency_id.as_str());
            while !taken.insert(key.clone()) {
                key.to_mut().insert_str(0, "credit_");
            }
            json.entry(&key);
            json.credit(credit);
        }
    }
    json.raw("}");
    json.0
}

/// The value of a usage key.
pub fn usage_json(usage: &Usage, format: CacheFormat) -> String {
    const USAGE_BYTES: usize = 160;
    let mut json = Json(String::with_capacity(USAGE_BYTES));
    json.raw("{");
    json.usage(usage, None);
    json.field(r#","nextResetDate":"#, usage.period_end.filter(|_| format.has_next_reset_date()));
    json.raw("}");
    json.0
}

/// The value of the metadata key.
pub fn metadata_json(access_denied_reason: Option<&str>) -> String {
    let mut json = Json(String::new());
    json.raw(r#"{"accessDeniedReason":"#);
    match access_denied_reason {
        Some(reason) => reason.put(&mut json),
        None => json.raw("null"),
    }
    json.raw("}");
    json.0
}

/// JSON text that is being written.
struct Json(String);

impl Json {
    fn raw(&mut self, json: &str) {
        self.0.push_str(json);
    }

    /// The name of a field, written `,"name":`. The first of an object loses the comma.
    #[inline]
    fn name(&mut self, name: &'static str) {
        let is_first = self.0.ends_with('{');
        self.raw(if is_first { &name[1..] } else { name });
    }

    /// A field, unless it has no value.
    #[inline]
    fn field(&mut self, name: &'static str, value: Option<impl Put>) {
        if let Some(value) = value {
            self.name(name);
            value.put(self);
        }
    }

    fn given<T>(&mut self, name: &'static str, value: &Given<T>)
    where
        for<'v> &'v T: Put,
    {
        match value {
            Given::Absent => {}
            Given::Null => {
                self.name(name);
                self.raw("null");
            }
            Given::Value(value) => self.field(name, Some(value)),
        }
    }

    fn entry(&mut self, key: &str) {
        if !self.0.ends_with('{') {
            self.raw(",");
        }
        key.put(self);
        self.raw(":");
    }

    fn feature(&mut self, entitlement: &FeatureEntitlement, format: CacheFormat) {
        let (feature, is_v4) = (&entitlement.feature, format.has_usage_data());
        let id = feature.id.as_str();
        self.raw(r#"{"calculatedEntitlement":{"#);
        self.field(r#","type":"#, is_v4.then_some("FEATURE"));
        self.name(r#","feature":"#);
        self.raw("{");
        self.field(r#","id":"#, Some(id));
        self.field(r#","featureType":"#, feature.feature_type.as_deref());
        self.field(r#","meterType":"#, feature.meter_type.as_deref());
        self.field(r#","units":"#, Some(feature.units.as_str()));
        self.field(r#","unitsPlural":"#, Some(feature.units_plural.as_str()));
        let display_name = feature.display_name.as_deref().unwrap_or(id);
        self.field(r#","displayName":"#, is_v4.then_some(display_name));
        self.raw("}");
        self.field(r#","resourceId":"#, entitlement.resource_id.as_ref().map(ResourceId::as_str));
        self.given(r#","usageLimit":"#, &entitlement.usage_limit);
        self.given(r#","hasUnlimitedUsage":"#, &entitlement.has_unlimited_usage);
        self.field(r#","hasSoftLimit":"#, Some(&entitlement.has_soft_limit));
        self.field(r#","accessDeniedReason":"#, entitlement.access_denied_reason.as_deref());
        self.name(r#","enumValues":"#);
        self.raw(entitlement.enum_values.as_ref().map_or("[]", RawJson::get));
        self.field(r#","validUntil":"#, entitlement.valid_until);
        if let Some(rate) = &entitlement.credit_rate {
            self.field(r#","creditRate":{"amount":"#, Some(&rate.amount));
            self.field(r#","currencyId":"#, Some(rate.currency_id.as_str()));
            self.raw("}");
        }
        let reset = |json: &mut Self| {
            json.given(r#","resetPeriod":"#, &entitlement.reset_period);
            json.given(r#","resetPeriodConfiguration":"#, &entitlement.reset_period_configuration);
        };
        if is_v4 {
            self.field(r#","usagePeriodAnchor":"#, entitlement.usage_period_anchor);
            reset(self);
        }
        self.raw("}");
        if format.has_feature_usage() {
            self.raw(r#","featureUsage":{"#);
            reset(self);
            self.usage(&entitlement.usage, entitlement.usage_period_anchor);
            let next_reset = entitlement.usage.period_end.filter(|_| format.has_next_reset_date());
            self.field(r#","nextResetDate":"#, next_reset);
            self.raw("}");
        }
        self.usage_data(&entitlement.usage, entitlement.usage_updated_at.filter(|_| is_v4));
        self.raw("}");
    }

    fn credit(&mut self, entitlement: &CreditEntitlement) {
        self.raw(r#"{"calculatedEntitlement":{"type":"CREDIT","currency":"#);
        self.raw(entitlement.currency.get());
        self.given(r#","usageLimit":"#, &entitlement.usage_limit);
        self.field(r#","hasSoftLimit":"#, Some(&entitlement.has_soft_limit));
        self.field(r#","accessDeniedReason":"#, entitlement.access_denied_reason.as_deref());
        self.field(r#","validUntil":"#, entitlement.valid_until);
        self.raw("}");
        self.usage_data(&entitlement.usage, entitlement.usage_updated_at);
        self.raw("}");
    }

    /// The usage as 4.x readers know it.
    fn usage_data(&mut self, usage: &Usage, updated_at: Option<EpochMs>) {
        if updated_at.is_some() {
            self.raw(r#","usageData":{"#);
            self.usage(usage, None);
            self.field(r#","updatedAt":"#, updated_at);
            self.raw("}");
        }
    }

    fn usage(&mut self, usage: &Usage, anchor: Option<EpochMs>) {
        self.field(r#","currentUsage":"#, Some(&usage.current_usage));
        self.field(r#","usagePeriodAnchor":"#, anchor);
        self.field(r#","usagePeriodStart":"#, usage.period_start);
        self.field(r#","usagePeriodEnd":"#, usage.period_end);
    }
}

/// A value that can be written.
trait Put {
    fn put(self, json: &mut Json);
}

impl Put for &str {
    fn put(self, json: &mut Json) {
        if self.bytes().any(|byte| matches!(byte, ..b' ' | b'"' | b'\\')) {
            return json.raw(RawJson::of(self).get());
        }
        json.raw("\"");
        json.raw(self);
        json.raw("\"");
    }
}

impl Put for &Cow<'_, str> {
    fn put(self, json: &mut Json) {
        (&**self).put(json);
    }
}

impl Put for &Number {
    fn put(self, json: &mut Json) {
        match self.as_i64() {
            Some(number) => json.raw(itoa::Buffer::new().format(number)),
            None => _ = write!(json.0, "{self}"),
        }
    }
}

impl Put for &bool {
    fn put(self, json: &mut Json) {
        json.raw(if *self { "true" } else { "false" });
    }
}

impl Put for &RawJson {
    fn put(self, json: &mut Json) {
        json.raw(self.get());
    }
}

impl Put for EpochMs {
    fn put(self, json: &mut Json) {
        json.raw(itoa::Buffer::new().format(self.0));
    }
}
