//! The JSON that the SDKs read from Redis.
//!
//! Source: the published packages `@stigg/node-server-sdk` 2.49.0, 3.95.0 (what it writes itself) and
//! `@stigg/cache-redis-store` 1.29.0 (what it migrates older entries to).
//!
//! Fields stand in the order in which SDK 3.x writes them, so that an entry of ours and one of its own can be
//! compared by eye; those that only other readers know follow. Each `Option` that is `None` here is a field that is
//! left out: a reader of its format does not know it, or the message did not have it.

use std::borrow::Cow;
use std::collections::HashSet;

use serde::{Serialize, Serializer};
use serde_json::Number;

use super::{
    CreditEntitlement, CreditRate, Entitlement, EpochMs, Feature, FeatureEntitlement, Given, RawJson, Usage,
};

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
    to_json(
        &Entries { entitlements, format },
        entitlements.len() * ENTRY_BYTES,
    )
}

/// About how long an entry is, and a usage: the buffer's capacity.
const ENTRY_BYTES: usize = 768;
const USAGE_BYTES: usize = 160;

/// The value of a usage key.
pub fn usage_json(usage: &Usage, format: CacheFormat) -> String {
    let json = UsageJson {
        current_usage: &usage.current_usage,
        usage_period_start: usage.period_start,
        usage_period_end: usage.period_end,
        next_reset_date: usage.period_end.filter(|_| format.has_next_reset_date()),
    };
    to_json(&json, USAGE_BYTES)
}

/// The value of the metadata key.
pub fn metadata_json(access_denied_reason: Option<&str>) -> String {
    to_json(&MetadataJson { access_denied_reason }, 0)
}

/// Nothing that is written here can fail to be JSON (every key is text, every number finite). Should it ever, the
/// empty text is what every reader takes for a cache miss.
///
/// By serde_json: on a list of 50 features it takes 25 µs, sonic-rs 21, simd-json 29. With what is passed on as text, which
/// the others cannot write, it takes 22.
fn to_json(value: &impl Serialize, capacity: usize) -> String {
    let mut json = Vec::with_capacity(capacity);
    let written = serde_json::to_writer(&mut json, value);
    written
        .ok()
        .and_then(|()| String::from_utf8(json).ok())
        .unwrap_or_default()
}

struct Entries<'a> {
    entitlements: &'a [Entitlement],
    format: CacheFormat,
}

impl Serialize for Entries<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let features = self
            .entitlements
            .iter()
            .filter_map(|entitlement| match entitlement {
                Entitlement::Feature(feature) => Some((feature.feature.id.as_str(), feature)),
                Entitlement::Credit(_) => None,
            });
        let credits = self
            .entitlements
            .iter()
            .filter_map(|entitlement| match entitlement {
                Entitlement::Credit(credit) if self.format.has_usage_data() => Some(credit),
                Entitlement::Credit(_) | Entitlement::Feature(_) => None,
            });
        let mut taken: HashSet<Cow<'_, str>> = HashSet::new();
        if credits.clone().next().is_some() {
            taken.extend(features.clone().map(|(id, _)| Cow::Borrowed(id)));
        }
        let features =
            features.map(|(id, feature)| (Cow::Borrowed(id), Entry::feature(feature, self.format)));
        let credits = credits.map(|credit| {
            let mut key = Cow::Borrowed(credit.currency_id.as_str());
            while !taken.insert(key.clone()) {
                key.to_mut().insert_str(0, "credit_");
            }
            (key, Entry::credit(credit))
        });
        serializer.collect_map(features.chain(credits))
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    calculated_entitlement: CalculatedEntitlement<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    feature_usage: Option<FeatureUsageJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage_data: Option<UsageDataJson<'a>>,
}

impl<'a> Entry<'a> {
    fn feature(entitlement: &'a FeatureEntitlement, format: CacheFormat) -> Self {
        let usage = &entitlement.usage;
        Self {
            calculated_entitlement: CalculatedEntitlement::Feature(FeatureJson::new(entitlement, format)),
            feature_usage: format.has_feature_usage().then(|| FeatureUsageJson {
                reset_period: &entitlement.reset_period,
                reset_period_configuration: &entitlement.reset_period_configuration,
                current_usage: &usage.current_usage,
                usage_period_anchor: entitlement.usage_period_anchor,
                usage_period_start: usage.period_start,
                usage_period_end: usage.period_end,
                next_reset_date: usage.period_end.filter(|_| format.has_next_reset_date()),
            }),
            usage_data: entitlement
                .usage_updated_at
                .filter(|_| format.has_usage_data())
                .map(|updated_at| UsageDataJson::new(usage, updated_at)),
        }
    }

    fn credit(entitlement: &'a CreditEntitlement) -> Self {
        Self {
            calculated_entitlement: CalculatedEntitlement::Credit(CreditJson {
                kind: "CREDIT",
                currency: &entitlement.currency,
                usage_limit: &entitlement.usage_limit,
                has_soft_limit: entitlement.has_soft_limit,
                access_denied_reason: entitlement.access_denied_reason.as_deref(),
                valid_until: entitlement.valid_until,
            }),
            feature_usage: None,
            usage_data: entitlement
                .usage_updated_at
                .map(|updated_at| UsageDataJson::new(&entitlement.usage, updated_at)),
        }
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum CalculatedEntitlement<'a> {
    Feature(FeatureJson<'a>),
    Credit(CreditJson<'a>),
}

/// `enumValues`: a list in any case.
#[derive(Serialize)]
#[serde(untagged)]
enum EnumValuesJson<'a> {
    Given(&'a RawJson),
    Empty([(); 0]),
}

/// `calculatedEntitlement` of a feature.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FeatureJson<'a> {
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    feature: FeatureParticularsJson<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Given::is_absent")]
    usage_limit: &'a Given<Number>,
    #[serde(skip_serializing_if = "Given::is_absent")]
    has_unlimited_usage: &'a Given<bool>,
    has_soft_limit: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    access_denied_reason: Option<&'a str>,
    enum_values: EnumValuesJson<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    valid_until: Option<EpochMs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credit_rate: Option<CreditRateJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage_period_anchor: Option<EpochMs>,
    #[serde(skip_serializing_if = "Given::is_absent")]
    reset_period: &'a Given<Cow<'static, str>>,
    #[serde(skip_serializing_if = "Given::is_absent")]
    reset_period_configuration: &'a Given<RawJson>,
}

impl<'a> FeatureJson<'a> {
    fn new(entitlement: &'a FeatureEntitlement, format: CacheFormat) -> Self {
        let is_v4 = format.has_usage_data();
        Self {
            kind: is_v4.then_some("FEATURE"),
            feature: FeatureParticularsJson::new(&entitlement.feature, format),
            resource_id: entitlement.resource_id.as_ref().map(super::ResourceId::as_str),
            usage_limit: &entitlement.usage_limit,
            has_unlimited_usage: &entitlement.has_unlimited_usage,
            has_soft_limit: entitlement.has_soft_limit,
            access_denied_reason: entitlement.access_denied_reason.as_deref(),
            enum_values: match &entitlement.enum_values {
                Some(given) => EnumValuesJson::Given(given),
                None => EnumValuesJson::Empty([]),
            },
            valid_until: entitlement.valid_until,
            credit_rate: entitlement.credit_rate.as_ref().map(CreditRateJson::new),
            usage_period_anchor: entitlement.usage_period_anchor.filter(|_| is_v4),
            reset_period: if is_v4 {
                &entitlement.reset_period
            } else {
                &Given::Absent
            },
            reset_period_configuration: if is_v4 {
                &entitlement.reset_period_configuration
            } else {
                &Given::Absent
            },
        }
    }
}

/// `calculatedEntitlement.feature`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FeatureParticularsJson<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    feature_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meter_type: Option<&'a str>,
    units: &'a str,
    units_plural: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    display_name: Option<&'a str>,
}

impl<'a> FeatureParticularsJson<'a> {
    fn new(feature: &'a Feature, format: CacheFormat) -> Self {
        let id = feature.id.as_str();
        let display_name = feature.display_name.as_deref().unwrap_or(id);
        Self {
            id,
            feature_type: feature.feature_type.as_deref(),
            meter_type: feature.meter_type.as_deref(),
            units: &feature.units,
            units_plural: &feature.units_plural,
            display_name: format.has_usage_data().then_some(display_name),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CreditRateJson<'a> {
    amount: &'a Number,
    currency_id: &'a str,
}

impl<'a> CreditRateJson<'a> {
    fn new(rate: &'a CreditRate) -> Self {
        Self {
            amount: &rate.amount,
            currency_id: &rate.currency_id,
        }
    }
}

/// `calculatedEntitlement` of a credit currency.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CreditJson<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    currency: &'a RawJson,
    #[serde(skip_serializing_if = "Given::is_absent")]
    usage_limit: &'a Given<Number>,
    has_soft_limit: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    access_denied_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    valid_until: Option<EpochMs>,
}

/// `featureUsage`: the usage as 2.x and 3.x readers know it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FeatureUsageJson<'a> {
    #[serde(skip_serializing_if = "Given::is_absent")]
    reset_period: &'a Given<Cow<'static, str>>,
    #[serde(skip_serializing_if = "Given::is_absent")]
    reset_period_configuration: &'a Given<RawJson>,
    current_usage: &'a Number,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage_period_anchor: Option<EpochMs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage_period_start: Option<EpochMs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage_period_end: Option<EpochMs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_reset_date: Option<EpochMs>,
}

/// `usageData`: the usage as 4.x readers know it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct UsageDataJson<'a> {
    current_usage: &'a Number,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage_period_start: Option<EpochMs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage_period_end: Option<EpochMs>,
    updated_at: EpochMs,
}

impl<'a> UsageDataJson<'a> {
    fn new(usage: &'a Usage, updated_at: EpochMs) -> Self {
        Self {
            current_usage: &usage.current_usage,
            usage_period_start: usage.period_start,
            usage_period_end: usage.period_end,
            updated_at,
        }
    }
}

/// The value of a usage key.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct UsageJson<'a> {
    current_usage: &'a Number,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage_period_start: Option<EpochMs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage_period_end: Option<EpochMs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_reset_date: Option<EpochMs>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MetadataJson<'a> {
    access_denied_reason: Option<&'a str>,
}
