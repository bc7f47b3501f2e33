//! Converts the entries of entitlement lists, of either form, to the readers' spellings.

use std::hash::RandomState;

use indexmap::IndexMap;

use super::convert::currency_id;
use super::envelope::flat_or_nested;
use super::timestamp::StateTimes;
use super::tree::{Field, Object, fields, first_text};
use super::{Decoded, MalformedBody};
use crate::clock::EpochMs;
use crate::entitlement::{CurrencyId, Entitlement, FeatureId, Usage, UsageOf};
use crate::json::{JsonText, Put as _};

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
    /// The feature of an entry. In a webhook `unit` is the singular and `units` the plural; in GraphQL they are `featureUnits` and
    /// `featureUnitsPlural`.
    FeatureFields {
        ref_id = "refId", id = "id", feature_type = "featureType", meter_type = "meterType",
        feature_units = "featureUnits", feature_units_plural = "featureUnitsPlural", unit = "unit", units = "units",
        display_name = "displayName", name = "name",
    }
}

/// The entries of a list, without those of unknown kinds, and the first possible time of one. Of a feature or currency that is
/// repeated, the last entry is kept, in the place of the first, as a JavaScript `Map` does.
pub(super) type Entries = (Vec<Entitlement>, Option<EpochMs>);

/// Converts a list. Null entries are skipped.
pub(super) fn entitlements(list: Field<'_>, times: &StateTimes) -> Decoded<Option<Entries>> {
    let Some(entries) = list.list()? else {
        return Ok(None);
    };
    let mut converted = IndexMap::with_capacity_and_hasher(100, RandomState::new());
    let mut json = JsonText::default();
    let (mut updated_at, mut rejected) = (None, None);
    for (index, entry) in entries.enumerate() {
        let within = |fault: MalformedBody| fault.within(&format!("[{index}]")).within(list.key);
        let Some(entry) = entry.object().map_err(within)?.map(ListEntry::of) else {
            continue;
        };
        if updated_at.is_none() {
            // One impossible time is usually that of every entry: it counts once.
            let at = entry.entitlement_updated_at.date();
            updated_at = times.possible(at.filter(|_| at != rejected));
            rejected = at;
        }
        let entitlement = entitlement(&entry, times, &mut json).map_err(within)?;
        converted.extend(entitlement.map(|entitlement| (entitlement.of.clone(), entitlement)));
    }
    Ok(Some((converted.into_values().collect(), updated_at)))
}

/// Converts an entry; `None` for one of a kind that is neither a feature nor a credit currency.
fn entitlement(
    entry: &ListEntry<'_>,
    times: &StateTimes,
    json: &mut JsonText,
) -> Decoded<Option<Entitlement>> {
    let is_credit = entry.typename.text_if_any() == Some("CreditEntitlement")
        || entry.kind.text_if_any() == Some("CREDIT")
        || (!entry.feature.is_present() && (entry.currency.is_present() || entry.currency_id.is_present()));
    let (of, is_metered, particulars, display_name) = if is_credit {
        currency(entry, json)?
    } else if let Some(fields) = entry.feature.object()? {
        feature(&FeatureFields::of(fields), json).map_err(|fault| fault.within("feature"))?
    } else {
        return Ok(None);
    };
    let (access, rate_currency) = access(entry, is_credit, json)?;
    let current_usage = entry.current_usage.number()?;
    let fallback = current_usage.as_ref().map(|_| times.fallback);
    Ok(Some(Entitlement {
        of,
        is_metered,
        rate_currency,
        particulars,
        display_name,
        access,
        reset: if is_credit { String::new() } else { reset(entry, json)? },
        usage_period_anchor: entry.usage_period_anchor.date().filter(|_| !is_credit),
        usage_updated_at: times.possible(entry.usage_updated_at.date()).or(fallback),
        usage: Usage {
            current_usage: current_usage.unwrap_or_else(|| 0.into()),
            period_start: entry.usage_period_start.date(),
            period_end: entry.usage_period_end.date().or_else(|| entry.next_reset_date.date()),
        },
    }))
}

/// What it is of, whether that is metered, its particulars and its display name.
type Particulars = (UsageOf, bool, String, String);

fn feature<'t>(fields: &FeatureFields<'t>, json: &mut JsonText) -> Decoded<Particulars> {
    let id = first_text([fields.ref_id, fields.id])?.ok_or_else(|| fields.id.missing())?;
    let feature_type = fields.feature_type.text()?;
    let meter_type = fields.meter_type.text()?.map(meter_type);
    let either = |graphql: Field<'t>, webhook: Field<'t>| graphql.text_if_any().or(webhook.text_if_any());
    json.raw(r#""id":"#);
    id.put(json);
    json.field(r#","featureType":"#, feature_type);
    json.field(r#","meterType":"#, meter_type);
    let units = either(fields.feature_units, fields.unit);
    json.field(r#","units":"#, Some(units.unwrap_or_default()));
    let units_plural = either(fields.feature_units_plural, fields.units);
    json.field(r#","unitsPlural":"#, Some(units_plural.unwrap_or_default()));
    let particulars = json.take();
    json.field(r#","displayName":"#, either(fields.display_name, fields.name).or(Some(id)));
    let is_metered =
        feature_type == Some("NUMBER") && matches!(meter_type, Some("Incremental" | "Fluctuating"));
    Ok((UsageOf::Feature(FeatureId(id.to_owned())), is_metered, particulars, json.take()))
}

fn currency(entry: &ListEntry<'_>, json: &mut JsonText) -> Decoded<Particulars> {
    let id = currency_id(entry.currency_id, entry.currency)?
        .ok_or_else(|| MalformedBody::at("currency.currencyId", "missing"))?;
    json.raw(r#""currencyId":"#);
    id.put(json);
    // The other fields as given.
    let given = entry.currency.object()?.unwrap_or_default();
    for (name, value) in given.fields().filter(|(name, _)| !["currencyId", "__typename"].contains(name)) {
        json.name(name);
        value.put(json);
    }
    Ok((UsageOf::Credit(CurrencyId(id.to_owned())), false, json.take(), String::new()))
}

/// What access it gives, and the currency that a feature's usage is paid in.
fn access(
    entry: &ListEntry<'_>,
    is_credit: bool,
    json: &mut JsonText,
) -> Decoded<(String, Option<CurrencyId>)> {
    if !is_credit {
        json.field(r#","resourceId":"#, flat_or_nested(entry.resource_id, entry.resource)?);
    }
    json.field(r#","usageLimit":"#, entry.usage_limit.given(Field::number)?);
    if !is_credit {
        json.field(r#","hasUnlimitedUsage":"#, entry.has_unlimited_usage.given(Field::flag)?);
    }
    json.field(r#","hasSoftLimit":"#, Some(entry.has_soft_limit.flag()?.unwrap_or_default()));
    json.field(r#","accessDeniedReason":"#, entry.access_denied_reason.text()?);
    if !is_credit && entry.enum_values.list()?.is_some() {
        json.field(r#","enumValues":"#, Some(entry.enum_values));
    } else if !is_credit {
        json.raw(r#","enumValues":[]"#);
    }
    json.field(r#","validUntil":"#, entry.valid_until.date());
    // A rate without an amount or a currency does not count.
    let rate = if is_credit { None } else { entry.credit_rate.object()? };
    let rate = rate.and_then(|rate| {
        let currency = currency_id(rate.get("currencyId"), rate.get("currency"));
        rate.get("amount").number().ok()?.zip(currency.ok()?)
    });
    if let Some((amount, currency)) = &rate {
        json.field(r#","creditRate":{"amount":"#, Some(amount));
        json.field(r#","currencyId":"#, Some(*currency));
        json.raw("}");
    }
    Ok((json.take(), rate.map(|(_, currency)| CurrencyId(currency.to_owned()))))
}

/// In GraphQL's spelling. A meter type that is not known is passed on as it is: readers treat it as no meter.
fn meter_type(given: &str) -> &str {
    let mut graphql = ["Incremental", "Fluctuating", "None"].into_iter();
    graphql.find(|name| name.eq_ignore_ascii_case(given)).unwrap_or(given)
}

/// A webhook's `{"accordingTo": X}` becomes the GraphQL object of its period. GraphQL's own form is passed on as it is, and
/// so is that of a period without a configuration in GraphQL (a day, an hour).
fn reset(entry: &ListEntry<'_>, json: &mut JsonText) -> Decoded<String> {
    json.field(r#","resetPeriod":"#, entry.reset_period.given(Field::text)?);
    let configuration = entry.reset_period_configuration;
    let according_to = configuration.object()?.unwrap_or_default().get("accordingTo");
    let webhook = match entry.reset_period.text()? {
        _ if according_to.is_absent() => None,
        Some("MONTH") => Some(r#"{"__typename":"MonthlyResetPeriodConfig","monthlyAccordingTo":"#),
        Some("WEEK") => Some(r#"{"__typename":"WeeklyResetPeriodConfig","weeklyAccordingTo":"#),
        Some("YEAR") => Some(r#"{"__typename":"YearlyResetPeriodConfig","yearlyAccordingTo":"#),
        Some(_) | None => None,
    };
    if let Some(start) = webhook {
        json.raw(r#","resetPeriodConfiguration":"#);
        json.raw(start);
        according_to.put(json);
        json.raw("}");
    } else {
        json.field(r#","resetPeriodConfiguration":"#, configuration.given(Field::object)?);
    }
    Ok(json.take())
}
