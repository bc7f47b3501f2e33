//! Converts the entries of entitlement lists, of either form, to the readers' spellings.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;

use super::convert::currency_id;
use super::envelope::flat_or_nested;
use super::timestamp::StateTimes;
use super::tree::{Field, Object, fields};
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
    let (mut converted, mut places) = (Vec::new(), HashMap::with_capacity(100));
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
        let Some(entitlement) = entitlement(&entry, times, &mut json).map_err(within)? else {
            continue;
        };
        match places.entry(entitlement.of.clone()) {
            Slot::Occupied(place) => converted[*place.get()] = entitlement,
            Slot::Vacant(place) => {
                place.insert(converted.len());
                converted.push(entitlement);
            }
        }
    }
    Ok(Some((converted, updated_at)))
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
    if is_credit {
        return credit(entry, times, json).map(Some);
    }
    let feature_fields = entry.feature.object()?.map(FeatureFields::of);
    feature_fields.map(|fields| feature(entry, &fields, times, json)).transpose()
}

/// What an entry says of the usage, and when that was true.
fn usage(entry: &ListEntry<'_>, times: &StateTimes) -> Decoded<(Usage, Option<EpochMs>)> {
    let current_usage = entry.current_usage.number()?;
    let fallback = current_usage.as_ref().map(|_| times.fallback);
    let updated_at = times.possible(entry.usage_updated_at.date()).or(fallback);
    let usage = Usage {
        current_usage: current_usage.unwrap_or_else(|| 0.into()),
        period_start: entry.usage_period_start.date(),
        period_end: entry.usage_period_end.date().or_else(|| entry.next_reset_date.date()),
    };
    Ok((usage, updated_at))
}

fn feature<'t>(
    entry: &ListEntry<'_>,
    fields: &FeatureFields<'t>,
    times: &StateTimes,
    json: &mut JsonText,
) -> Decoded<Entitlement> {
    let within = |fault: MalformedBody| fault.within("feature");
    let id = match fields.ref_id.text().map_err(within)? {
        None => fields.id.text().map_err(within)?.ok_or_else(|| within(fields.id.missing()))?,
        Some(id) => id,
    };
    let feature_type = fields.feature_type.text().map_err(within)?;
    let meter_type = fields.meter_type.text().map_err(within)?.map(meter_type);
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

    let display_name = json.take();
    json.field(r#","resourceId":"#, flat_or_nested(entry.resource_id, entry.resource)?);
    json.field(r#","usageLimit":"#, entry.usage_limit.given(Field::number)?);
    json.field(r#","hasUnlimitedUsage":"#, entry.has_unlimited_usage.given(Field::flag)?);
    json.field(r#","hasSoftLimit":"#, Some(entry.has_soft_limit.flag()?.unwrap_or_default()));
    json.field(r#","accessDeniedReason":"#, entry.access_denied_reason.text()?);
    match entry.enum_values.list()? {
        Some(_) => json.field(r#","enumValues":"#, Some(entry.enum_values)),
        None => json.raw(r#","enumValues":[]"#),
    }
    json.field(r#","validUntil":"#, entry.valid_until.date());
    // A rate without an amount or a currency does not count.
    let rate = entry.credit_rate.object()?;
    let rate = rate.and_then(|rate| {
        let currency = currency_id(rate.get("currencyId"), rate.get("currency"));
        rate.get("amount").number().ok()?.zip(currency.ok()?)
    });
    if let Some((amount, currency)) = &rate {
        json.field(r#","creditRate":{"amount":"#, Some(amount));
        json.field(r#","currencyId":"#, Some(*currency));
        json.raw("}");
    }
    let access = json.take();
    let (usage, usage_updated_at) = usage(entry, times)?;
    Ok(Entitlement {
        of: UsageOf::Feature(FeatureId(id.to_owned())),
        is_metered: feature_type == Some("NUMBER")
            && matches!(meter_type, Some("Incremental" | "Fluctuating")),
        rate_currency: rate.map(|(_, currency)| CurrencyId(currency.to_owned())),
        particulars,
        display_name,
        access,
        reset: reset(entry, json)?,
        usage_period_anchor: entry.usage_period_anchor.date(),
        usage,
        usage_updated_at,
    })
}

fn credit(entry: &ListEntry<'_>, times: &StateTimes, json: &mut JsonText) -> Decoded<Entitlement> {
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
    let particulars = json.take();
    json.field(r#","usageLimit":"#, entry.usage_limit.given(Field::number)?);
    json.field(r#","hasSoftLimit":"#, Some(entry.has_soft_limit.flag()?.unwrap_or_default()));
    json.field(r#","accessDeniedReason":"#, entry.access_denied_reason.text()?);
    json.field(r#","validUntil":"#, entry.valid_until.date());
    let access = json.take();
    let (usage, usage_updated_at) = usage(entry, times)?;
    Ok(Entitlement {
        of: UsageOf::Credit(CurrencyId(id.to_owned())),
        particulars,
        access,
        is_metered: false,
        rate_currency: None,
        display_name: String::new(),
        reset: String::new(),
        usage_period_anchor: None,
        usage,
        usage_updated_at,
    })
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
