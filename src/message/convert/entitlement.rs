//! One entry of an entitlement list, from either form to the readers' spellings.

use std::borrow::Cow;
use std::collections::HashMap;
use std::mem;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

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
            credit_rate: entry.credit_rate.take()?.and_then(credit_rate),
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
    let currency = CurrencyJson {
        id: &id,
        others: entry.currency.take()?.unwrap_or_default().others,
    };
    let currency = RawJson::new(&currency).map_err(|_| MalformedBody::at("currency", "cannot be read"))?;
    Ok(ListedEntitlement {
        has_usage: entry.current_usage.if_valid().is_some(),
        entitlement: Entitlement::Credit(Box::new(CreditEntitlement {
            currency,
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

/// A currency with its id under the name that readers look for.
struct CurrencyJson<'a> {
    id: &'a str,
    others: Vec<(Cow<'a, str>, RawJson)>,
}

impl Serialize for CurrencyJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let id = RawJson::new(&self.id).map_err(serde::ser::Error::custom)?;
        let others = self.others.iter().map(|(name, value)| (&**name, value));
        serializer.collect_map([("currencyId", &id)].into_iter().chain(others))
    }
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
fn credit_rate(rate: Box<EntryCreditRate<'_>>) -> Option<CreditRate> {
    let currency_id = currency_id(
        &rate.currency_id,
        rate.currency.if_valid().map(|currency| &**currency),
    )?
    .to_owned();
    let amount = rate.amount.into_value()?;
    Some(CreditRate { amount, currency_id })
}

/// A webhook's `{"accordingTo": X}`, as GraphQL has it.
#[derive(Serialize)]
#[serde(tag = "__typename")]
enum ResetConfiguration<'a> {
    #[serde(rename = "MonthlyResetPeriodConfig")]
    Month {
        #[serde(rename = "monthlyAccordingTo")]
        according_to: &'a RawValue,
    },
    #[serde(rename = "WeeklyResetPeriodConfig")]
    Week {
        #[serde(rename = "weeklyAccordingTo")]
        according_to: &'a RawValue,
    },
    #[serde(rename = "YearlyResetPeriodConfig")]
    Year {
        #[serde(rename = "yearlyAccordingTo")]
        according_to: &'a RawValue,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WebhookResetConfiguration<'a> {
    #[serde(borrow)]
    according_to: &'a RawValue,
}

/// GraphQL's own form is passed on as it is, and so is that of a period without a configuration in GraphQL (a day, an
/// hour).
fn reset_configuration(given: Given<RawObject>, period: &Given<Cow<'static, str>>) -> Given<RawJson> {
    let given = match given {
        Given::Absent => return Given::Absent,
        Given::Null => return Given::Null,
        Given::Value(RawObject(given)) => given,
    };
    let graphql =
        serde_json::from_str(given.get())
            .ok()
            .and_then(|WebhookResetConfiguration { according_to }| {
                let Given::Value(period) = period else { return None };
                let configuration = match &**period {
                    "MONTH" => ResetConfiguration::Month { according_to },
                    "WEEK" => ResetConfiguration::Week { according_to },
                    "YEAR" => ResetConfiguration::Year { according_to },
                    _ => return None,
                };
                RawJson::new(&configuration).ok()
            });
    Given::Value(graphql.unwrap_or(given))
}

/// Keeps one entry of each feature and currency: the last, in the place of the first, as a JavaScript `Map` does.
pub(super) fn without_duplicates(entries: Vec<ListedEntitlement>) -> Vec<Entitlement> {
    let mut entitlements: Vec<_> = entries.into_iter().map(|entry| entry.entitlement).collect();
    let mut first_of = HashMap::with_capacity(entitlements.len());
    let mut repeats = Vec::new();
    for (index, entitlement) in entitlements.iter().enumerate() {
        let key = match entitlement {
            Entitlement::Feature(feature) => (true, feature.feature.id.as_str()),
            Entitlement::Credit(credit) => (false, credit.currency_id.as_str()),
        };
        let first = *first_of.entry(key).or_insert(index);
        if first != index {
            repeats.push((first, index));
        }
    }
    for (first, repeat) in &repeats {
        entitlements.swap(*first, *repeat);
    }
    let mut outdated = repeats.iter().map(|(_, repeat)| *repeat).peekable();
    let mut index = 0;
    entitlements.retain(|_| {
        let is_outdated = outdated.next_if_eq(&index).is_some();
        index += 1;
        !is_outdated
    });
    entitlements
}
