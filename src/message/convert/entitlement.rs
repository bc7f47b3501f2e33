//! One entry of an entitlement list, from either form to the readers' spellings.

use std::borrow::Cow;
use std::collections::hash_map::Entry as Slot;
use std::collections::{HashMap, HashSet};
use std::mem;

use serde::Deserialize;

use super::super::MalformedBody;
use super::super::field::{Field, RawObject};
use super::super::list::ListedEntitlement;
use super::super::wire::{Entry, EntryCreditRate, EntryFeature};
use super::{currency_id, date, flat_or_nested, own_id};
use crate::entitlement::{
    CreditEntitlement, CreditRate, CurrencyId, Entitlement, Feature, FeatureEntitlement, FeatureId, Given,
    RawJson, ResourceId, Usage,
};

/// Converts an entry; `None` for one of a kind that is neither a feature nor a credit currency.
pub(crate) fn entitlement(entry: Box<Entry<'_>>) -> Result<Option<ListedEntitlement>, MalformedBody> {
    let entitlement = if is_credit(&entry) {
        credit(entry)
    } else {
        match entry.feature.get()? {
            Some(_) => feature(entry),
            None => return Ok(None),
        }
    };
    entitlement.map(Some)
}

fn is_credit(entry: &Entry<'_>) -> bool {
    entry.typename.caption() == Some("CreditEntitlement")
        || entry.kind.caption() == Some("CREDIT")
        || (!entry.feature.is_present() && (entry.currency.is_present() || entry.currency_id.is_present()))
}

fn feature(mut entry: Box<Entry<'_>>) -> Result<ListedEntitlement, MalformedBody> {
    let feature = mem::take(&mut entry.feature).take()?.unwrap_or_default();
    let feature = feature_particulars(&feature).map_err(|fault| fault.within("feature"))?;
    let resource_id = flat_or_nested(&entry.resource_id, &entry.resource, "resource")?;
    let resource_id = resource_id.map(|id| ResourceId(id.to_owned()));
    let usage = usage(&entry)?;
    let reset_period = reset_period(entry.reset_period)?;
    Ok(ListedEntitlement {
        has_usage: entry.current_usage.if_valid().is_some(),
        entitlement: Entitlement::Feature(Box::new(FeatureEntitlement {
            feature,
            resource_id,
            usage_limit: entry.usage_limit.given()?,
            has_unlimited_usage: entry.has_unlimited_usage.given()?,
            has_soft_limit: entry.has_soft_limit.take()?.unwrap_or_default(),
            access_denied_reason: entry.access_denied_reason.text()?.map(str::to_owned),
            enum_values: entry.enum_values.take()?.map(|values| values.0),
            valid_until: date(&entry.valid_until),
            credit_rate: entry.credit_rate.get()?.and_then(|rate| credit_rate(rate)),
            reset_period_configuration: reset_configuration(
                entry.reset_period_configuration.given()?,
                &reset_period,
            ),
            reset_period,
            usage_period_anchor: date(&entry.usage_period_anchor),
            usage,
            usage_updated_at: date(&entry.usage_updated_at),
        })),
    })
}

fn credit(entry: Box<Entry<'_>>) -> Result<ListedEntitlement, MalformedBody> {
    let usage = usage(&entry)?;
    let reference = entry.currency.if_valid().map(|currency| &currency.reference);
    let id = currency_id(&entry.currency_id, reference);
    let id = id
        .ok_or_else(|| MalformedBody::at("currency.currencyId", "missing"))?
        .to_owned();
    let mut currency = vec![("currencyId".into(), RawJson::text(&id))];
    currency.extend(entry.currency.take()?.unwrap_or_default().others);
    Ok(ListedEntitlement {
        has_usage: entry.current_usage.if_valid().is_some(),
        entitlement: Entitlement::Credit(Box::new(CreditEntitlement {
            currency: RawJson::object(&currency),
            currency_id: CurrencyId(id),
            usage_limit: entry.usage_limit.given()?,
            has_soft_limit: entry.has_soft_limit.take()?.unwrap_or_default(),
            access_denied_reason: entry.access_denied_reason.text()?.map(str::to_owned),
            valid_until: date(&entry.valid_until),
            usage,
            usage_updated_at: date(&entry.usage_updated_at),
        })),
    })
}

/// The usage that an entry carries; 0 if it says nothing of one.
fn usage(entry: &Entry<'_>) -> Result<Usage, MalformedBody> {
    Ok(Usage {
        current_usage: entry.current_usage.get()?.cloned().unwrap_or_else(|| 0.into()),
        period_start: date(&entry.usage_period_start),
        period_end: date(&entry.usage_period_end).or_else(|| date(&entry.next_reset_date)),
    })
}

fn feature_particulars(feature: &EntryFeature<'_>) -> Result<Feature, MalformedBody> {
    let either = |graphql: &Field<Cow<'_, str>>, webhook: &Field<Cow<'_, str>>| {
        graphql.caption().or_else(|| webhook.caption()).map(str::to_owned)
    };
    let id = own_id(&feature.ref_id, &feature.id)?.ok_or_else(|| MalformedBody::at("id", "missing"))?;
    Ok(Feature {
        id: FeatureId(id.to_owned()),
        feature_type: feature
            .feature_type
            .text()?
            .map(|text| known(text, &["NUMBER", "BOOLEAN", "ENUM"])),
        meter_type: feature.meter_type.text()?.map(meter_type),
        units: either(&feature.feature_units, &feature.unit).unwrap_or_default(),
        units_plural: either(&feature.feature_units_plural, &feature.units).unwrap_or_default(),
        display_name: either(&feature.display_name, &feature.name),
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

fn reset_period(given: Field<Cow<'_, str>>) -> Result<Given<Cow<'static, str>>, MalformedBody> {
    Ok(match given.given()? {
        Given::Absent => Given::Absent,
        Given::Null => Given::Null,
        Given::Value(period) => Given::Value(known(&period, &["MONTH", "YEAR", "WEEK", "DAY", "HOUR"])),
    })
}

/// A rate without an amount or a currency is none.
fn credit_rate(rate: &EntryCreditRate<'_>) -> Option<CreditRate> {
    let currency_id = currency_id(&rate.currency_id, rate.currency.if_valid().map(AsRef::as_ref))?.to_owned();
    let amount = rate.amount.if_valid()?.clone();
    Some(CreditRate { amount, currency_id })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WebhookResetConfiguration {
    according_to: RawJson,
}

/// A webhook's `{"accordingTo": X}` becomes the GraphQL object of its period. GraphQL's own form is passed on as it is, and
/// so is that of a period without a configuration in GraphQL (a day, an hour).
fn reset_configuration(given: Given<RawObject>, period: &Given<Cow<'static, str>>) -> Given<RawJson> {
    let given = match given {
        Given::Absent => return Given::Absent,
        Given::Null => return Given::Null,
        Given::Value(RawObject(given)) => given,
    };
    let period = match period {
        Given::Value(period) if given.get().contains("\"accordingTo\"") => &**period,
        Given::Value(_) | Given::Null | Given::Absent => "",
    };
    let (typename, key) = match period {
        "MONTH" => ("MonthlyResetPeriodConfig", "monthlyAccordingTo"),
        "WEEK" => ("WeeklyResetPeriodConfig", "weeklyAccordingTo"),
        "YEAR" => ("YearlyResetPeriodConfig", "yearlyAccordingTo"),
        _ => return Given::Value(given),
    };
    Given::Value(match serde_json::from_str(given.get()) {
        Ok(WebhookResetConfiguration { according_to }) => {
            RawJson::object(&[("__typename", RawJson::text(typename)), (key, according_to)])
        }
        Err(_) => given,
    })
}

/// Keeps one entry of each feature and currency: the last, in the place of the first, as a JavaScript `Map` does.
pub(super) fn without_duplicates(entries: Vec<ListedEntitlement>) -> Vec<Entitlement> {
    fn key(entitlement: &Entitlement) -> (bool, &str) {
        match entitlement {
            Entitlement::Feature(feature) => (true, feature.feature.id.as_str()),
            Entitlement::Credit(credit) => (false, credit.currency_id.as_str()),
        }
    }
    let all: Vec<_> = entries.into_iter().map(|entry| entry.entitlement).collect();
    let mut seen = HashSet::with_capacity(all.len());
    if all.iter().all(|entitlement| seen.insert(key(entitlement))) {
        return all;
    }
    let mut places = HashMap::new();
    let mut kept = Vec::new();
    for entitlement in all {
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
