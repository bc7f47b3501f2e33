//! Entitlement lists: each entry, from either form, to the readers' spellings.

use std::borrow::Cow;
use std::collections::hash_map::Entry as Slot;
use std::collections::{HashMap, HashSet};

use super::MalformedBody;
use super::convert::currency_id;
use super::envelope::flat_or_nested;
use super::timestamp::StateTimes;
use super::tree::{Field, Object, fields};
use crate::clock::EpochMs;
use crate::entitlement::{
    CreditEntitlement, CreditRate, CurrencyId, Entitlement, Feature, FeatureEntitlement, FeatureId, Given,
    RawJson, ResourceId, Usage,
};

fields! {
    /// An entry of an entitlement list.
    ListEntry {
        // In the order of a webhook: the first are found soonest.
        feature = "feature", usage_limit = "usageLimit", has_unlimited_usage = "hasUnlimitedUsage",
        has_soft_limit = "hasSoftLimit", current_usage = "currentUsage", usage_period_anchor = "usagePeriodAnchor",
        usage_period_start = "usagePeriodStart", usage_period_end = "usagePeriodEnd", reset_period = "resetPeriod",
        reset_period_configuration = "resetPeriodConfiguration", enum_values = "enumValues",
        // Of a GraphQL list, or only in some entries.
        entitlement_updated_at = "entitlementUpdatedAt", usage_updated_at = "usageUpdatedAt", typename = "__typename",
        access_denied_reason = "accessDeniedReason", valid_until = "validUntil", credit_rate = "creditRate",
        kind = "type", currency = "currency", currency_id = "currencyId", resource_id = "resourceId",
        resource = "resource", next_reset_date = "nextResetDate",
    }
}

fields! {
    /// The feature of an entry. A webhook's `unit` is one of them and its `units` are several, unlike what the words suggest
    /// beside GraphQL's.
    FeatureFields {
        ref_id = "refId", id = "id", feature_type = "featureType", meter_type = "meterType",
        feature_units = "featureUnits", feature_units_plural = "featureUnitsPlural", unit = "unit", units = "units",
        display_name = "displayName", name = "name",
    }
}

/// The entries of a list, without those of unknown kinds, and the first possible time of one.
pub(super) type Entries = (Vec<Entitlement>, Option<EpochMs>);

/// Converts a list. A null entry says nothing.
pub(super) fn entitlements(list: Field<'_>, times: &StateTimes) -> Result<Option<Entries>, MalformedBody> {
    let Some(entries) = list.list()? else {
        return Ok(None);
    };
    let (mut converted, mut updated_at, mut rejected) = (Vec::new(), None, None);
    for (index, entry) in entries.enumerate() {
        let within = |fault: MalformedBody| fault.within(&format!("[{index}]")).within(list.key);
        let Some(object) = entry.object().map_err(within)? else {
            continue;
        };
        let entry = ListEntry::of(object);
        if updated_at.is_none() {
            // One impossible time is usually that of every entry: it counts once.
            let at = entry.entitlement_updated_at.date();
            updated_at = times.possible(at.filter(|_| at != rejected));
            rejected = at;
        }
        converted.extend(entitlement(&entry, times).map_err(within)?);
    }
    Ok(Some((converted, updated_at)))
}

/// Converts an entry; `None` for one of a kind that is neither a feature nor a credit currency.
fn entitlement(entry: &ListEntry<'_>, times: &StateTimes) -> Result<Option<Entitlement>, MalformedBody> {
    let is_credit = entry.typename.text_if_any() == Some("CreditEntitlement")
        || entry.kind.text_if_any() == Some("CREDIT")
        || (!entry.feature.is_present() && (entry.currency.is_present() || entry.currency_id.is_present()));
    let feature = if is_credit { None } else { entry.feature.object()? };
    if !is_credit && feature.is_none() {
        return Ok(None);
    }
    let current_usage = entry.current_usage.number()?;
    let fallback = current_usage.as_ref().map(|_| times.fallback);
    let usage_updated_at = times.possible(entry.usage_updated_at.date()).or(fallback);
    let usage = Usage {
        current_usage: current_usage.unwrap_or_else(|| 0.into()),
        period_start: entry.usage_period_start.date(),
        period_end: entry.usage_period_end.date().or_else(|| entry.next_reset_date.date()),
    };
    let usage_limit = entry.usage_limit.given(Field::number)?;
    let has_soft_limit = entry.has_soft_limit.flag()?.unwrap_or_default();
    let access_denied_reason = entry.access_denied_reason.text()?.map(str::to_owned);
    let valid_until = entry.valid_until.date();
    let Some(feature) = feature else {
        let id = currency_id(entry.currency_id, entry.currency);
        let id = id.ok_or_else(|| MalformedBody::at("currency.currencyId", "missing"))?;
        return Ok(Some(Entitlement::Credit(Box::new(CreditEntitlement {
            currency: currency(id, entry.currency.object()?.unwrap_or_default()),
            currency_id: CurrencyId(id.to_owned()),
            usage_limit,
            has_soft_limit,
            access_denied_reason,
            valid_until,
            usage,
            usage_updated_at,
        }))));
    };
    let reset_period = entry.reset_period.given(|period| {
        let period = period.text()?;
        Ok(period.map(|period| known(period, &["MONTH", "YEAR", "WEEK", "DAY", "HOUR"])))
    })?;
    Ok(Some(Entitlement::Feature(Box::new(FeatureEntitlement {
        feature: particulars(feature).map_err(|fault| fault.within("feature"))?,
        resource_id: flat_or_nested(entry.resource_id, entry.resource)?.map(|id| ResourceId(id.to_owned())),
        usage_limit,
        has_unlimited_usage: entry.has_unlimited_usage.given(Field::flag)?,
        has_soft_limit,
        access_denied_reason,
        enum_values: entry.enum_values.list()?.map(|_| entry.enum_values.json()),
        valid_until,
        credit_rate: entry.credit_rate.object()?.and_then(credit_rate),
        reset_period_configuration: reset_configuration(entry.reset_period_configuration, &reset_period)?,
        reset_period,
        usage_period_anchor: entry.usage_period_anchor.date(),
        usage,
        usage_updated_at,
    }))))
}

/// The currency of an entry: its id, and the other fields as given.
fn currency(id: &str, given: Object<'_>) -> RawJson {
    let mut json = format!("{{\"currencyId\":{}", RawJson::of(id).get());
    for (key, value) in given.fields().filter(|(key, _)| !["currencyId", "__typename"].contains(key)) {
        json.extend([",", RawJson::of(key).get(), ":", RawJson::of(&value).get()]);
    }
    RawJson(json + "}")
}

fn particulars(feature: Object<'_>) -> Result<Feature, MalformedBody> {
    let fields = FeatureFields::of(feature);
    let id = match fields.ref_id.text()? {
        Some(id) => Some(id),
        None => fields.id.text()?,
    };
    let id = id.ok_or_else(|| MalformedBody::at("id", "missing"))?;
    let either = |graphql: Field<'_>, webhook: Field<'_>| {
        graphql.text_if_any().or_else(|| webhook.text_if_any()).map(str::to_owned)
    };
    let feature_type = fields.feature_type.text()?;
    Ok(Feature {
        id: FeatureId(id.to_owned()),
        feature_type: feature_type.map(|text| known(text, &["NUMBER", "BOOLEAN", "ENUM"])),
        meter_type: fields.meter_type.text()?.map(meter_type),
        units: either(fields.feature_units, fields.unit).unwrap_or_default(),
        units_plural: either(fields.feature_units_plural, fields.units).unwrap_or_default(),
        display_name: either(fields.display_name, fields.name),
    })
}

/// A text of a small set, without memory of its own; any other one as it is.
fn known(text: &str, set: &[&'static str]) -> Cow<'static, str> {
    let known = set.iter().copied().find(|known| *known == text);
    known.map_or_else(|| Cow::Owned(text.to_owned()), Cow::Borrowed)
}

/// In GraphQL's spelling. A meter type that is not known is passed on as it is: readers treat it as no meter.
fn meter_type(given: &str) -> Cow<'static, str> {
    let mut graphql = ["Incremental", "Fluctuating", "None"].into_iter();
    let graphql = graphql.find(|name| name.eq_ignore_ascii_case(given));
    graphql.map_or_else(|| Cow::Owned(given.to_owned()), Cow::Borrowed)
}

/// A rate without an amount or a currency is none.
fn credit_rate(rate: Object<'_>) -> Option<CreditRate> {
    Some(CreditRate {
        amount: rate.get("amount").number().ok()??,
        currency_id: currency_id(rate.get("currencyId"), rate.get("currency"))?.to_owned(),
    })
}

/// A webhook's `{"accordingTo": X}` becomes the GraphQL object of its period. GraphQL's own form is passed on as it is, and
/// so is that of a period without a configuration in GraphQL (a day, an hour).
fn reset_configuration(
    given: Field<'_>,
    period: &Given<Cow<'static, str>>,
) -> Result<Given<RawJson>, MalformedBody> {
    given.given(|field| {
        let Some(object) = field.object()? else {
            return Ok(None);
        };
        let according_to = object.get("accordingTo");
        let period = if let Given::Value(period) = period { &**period } else { "" };
        let (typename, key) = match period {
            _ if according_to.is_absent() => return Ok(Some(field.json())),
            "MONTH" => ("MonthlyResetPeriodConfig", "monthlyAccordingTo"),
            "WEEK" => ("WeeklyResetPeriodConfig", "weeklyAccordingTo"),
            "YEAR" => ("YearlyResetPeriodConfig", "yearlyAccordingTo"),
            _ => return Ok(Some(field.json())),
        };
        let according_to = according_to.json();
        let json = ["{\"__typename\":\"", typename, "\",\"", key, "\":", according_to.get(), "}"];
        Ok(Some(RawJson(json.concat())))
    })
}

/// Keeps one entry of each feature and currency: the last, in the place of the first, as a JavaScript `Map` does.
pub(super) fn without_duplicates(entries: Vec<Entitlement>) -> Vec<Entitlement> {
    fn key(entitlement: &Entitlement) -> (bool, &str) {
        match entitlement {
            Entitlement::Feature(feature) => (true, feature.feature.id.as_str()),
            Entitlement::Credit(credit) => (false, credit.currency_id.as_str()),
        }
    }
    let mut seen = HashSet::with_capacity(entries.len());
    if entries.iter().all(|entitlement| seen.insert(key(entitlement))) {
        return entries;
    }
    let mut places = HashMap::new();
    let mut kept = Vec::new();
    for entitlement in entries {
        let (is_feature, id) = key(&entitlement);
        match places.entry((is_feature, id.to_owned())) {
            Slot::Occupied(place) => kept[*place.get()] = entitlement,
            Slot::Vacant(place) => {
                place.insert(kept.len());
                kept.push(entitlement);
            }
        }
    }
    kept
}
