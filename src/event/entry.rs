//! One entry of an entitlement list, from either form to the readers' spellings.

use serde_json::{Map, Value};
use smol_str::SmolStr;

use super::MalformedBody;
use super::fields::{
    self, Fields, as_javascript, caption, date, flag, given_flag, given_number, given_text, list, object,
    text,
};
use super::identity;
use super::tree::Json;
use crate::entitlement::{
    CreditEntitlement, CreditRate, CurrencyId, Entitlement, EpochMs, Feature, FeatureEntitlement, FeatureId,
    Given, ResetPeriodConfiguration, Usage,
};

/// Decodes an entry; `None` for one of a kind that is neither a feature nor a credit currency. `message_time` is the
/// time of a usage that has none of its own.
pub(super) fn entitlement(
    entry: Fields<'_>,
    message_time: EpochMs,
) -> Result<Option<Entitlement>, MalformedBody> {
    if is_credit(&entry) {
        return Ok(Some(Entitlement::Credit(Box::new(credit(entry, message_time)?))));
    }
    match object(&entry, "feature")? {
        Some(feature) => {
            let feature = self::feature(feature).map_err(|fault| fault.within("feature"))?;
            Ok(Some(Entitlement::Feature(of_feature(
                feature,
                entry,
                message_time,
            )?)))
        }
        None => Ok(None),
    }
}

fn is_credit(entry: &Fields<'_>) -> bool {
    let is = |key: &str, value: &str| entry.get(key).and_then(Json::as_str) == Some(value);
    let has = |key: &str| entry.get(key).is_some_and(|value| !value.is_null());
    is("__typename", "CreditEntitlement")
        || is("type", "CREDIT")
        || (!has("feature") && (has("currency") || has("currencyId")))
}

fn of_feature(
    feature: Feature,
    entry: Fields<'_>,
    message_time: EpochMs,
) -> Result<Box<FeatureEntitlement>, MalformedBody> {
    let (usage, usage_updated_at) = usage(&entry, message_time)?;
    let reset_period = given_text(&entry, "resetPeriod")?;
    Ok(Box::new(FeatureEntitlement {
        feature,
        resource_id: identity::resource(&entry)?,
        usage_limit: given_number(&entry, "usageLimit")?,
        has_unlimited_usage: given_flag(&entry, "hasUnlimitedUsage")?,
        has_soft_limit: flag(&entry, "hasSoftLimit")?,
        access_denied_reason: text(&entry, "accessDeniedReason")?,
        enum_values: enum_values(&entry)?,
        valid_until: date(&entry, "validUntil"),
        credit_rate: credit_rate(&entry)?,
        reset_period_configuration: reset_period_configuration(&entry, &reset_period)?,
        reset_period,
        usage_period_anchor: date(&entry, "usagePeriodAnchor"),
        usage,
        usage_updated_at,
    }))
}

fn credit(entry: Fields<'_>, message_time: EpochMs) -> Result<CreditEntitlement, MalformedBody> {
    let currency_id =
        identity::currency(&entry).ok_or_else(|| MalformedBody::at("currency.currencyId", "missing"))?;
    let (usage, usage_updated_at) = usage(&entry, message_time)?;
    Ok(CreditEntitlement {
        currency: currency(object(&entry, "currency")?, &currency_id),
        currency_id,
        usage_limit: given_number(&entry, "usageLimit")?,
        has_soft_limit: flag(&entry, "hasSoftLimit")?,
        access_denied_reason: text(&entry, "accessDeniedReason")?,
        valid_until: date(&entry, "validUntil"),
        usage,
        usage_updated_at,
    })
}

/// The currency as given, and with its id under the name that readers look for.
fn currency(given: Option<Fields<'_>>, id: &CurrencyId) -> Map<String, Value> {
    let mut currency = given.map(Fields::to_map).unwrap_or_default();
    currency.shift_remove("__typename");
    currency.insert("currencyId".to_owned(), id.as_str().into());
    currency
}

fn feature(feature: Fields<'_>) -> Result<Feature, MalformedBody> {
    let either = |feature: &Fields<'_>, graphql: &str, webhook: &str| -> Option<SmolStr> {
        caption(feature, graphql).or_else(|| caption(feature, webhook))
    };
    Ok(Feature {
        id: identity::own_id(&feature)?
            .map(FeatureId)
            .ok_or_else(|| MalformedBody::at("id", "missing"))?,
        feature_type: text(&feature, "featureType")?,
        meter_type: text(&feature, "meterType")?.map(as_graphql_meter_type),
        // A webhook's `unit` is one of them and its `units` are many: not what the plain words suggest beside
        // GraphQL's `featureUnits`, which is one.
        units: either(&feature, "featureUnits", "unit").unwrap_or_default(),
        units_plural: either(&feature, "featureUnitsPlural", "units").unwrap_or_default(),
        display_name: either(&feature, "displayName", "name"),
    })
}

/// A meter type that is not known is passed on as it is: readers treat it as no meter.
fn as_graphql_meter_type(meter_type: SmolStr) -> SmolStr {
    let known = ["Incremental", "Fluctuating", "None"];
    known
        .into_iter()
        .find(|name| name.eq_ignore_ascii_case(&meter_type))
        .map_or(meter_type, SmolStr::new_static)
}

/// The usage that an entry carries, and when it was true; no time if the entry says nothing of usage.
fn usage(entry: &Fields<'_>, message_time: EpochMs) -> Result<(Usage, Option<EpochMs>), MalformedBody> {
    let current_usage = fields::number(entry, "currentUsage")?;
    let measured_at =
        date(entry, "usageUpdatedAt").or_else(|| current_usage.is_some().then_some(message_time));
    let usage = Usage {
        current_usage: current_usage.unwrap_or_else(|| 0.into()),
        period_start: date(entry, "usagePeriodStart"),
        period_end: date(entry, "usagePeriodEnd").or_else(|| date(entry, "nextResetDate")),
    };
    Ok((usage, measured_at))
}

fn enum_values(entry: &Fields<'_>) -> Result<Vec<Value>, MalformedBody> {
    let values = list(entry, "enumValues")?.unwrap_or_default();
    Ok(values.iter().copied().map(Json::to_value).collect())
}

/// A rate without an amount or a currency is none.
fn credit_rate(entry: &Fields<'_>) -> Result<Option<CreditRate>, MalformedBody> {
    let Some(rate) = object(entry, "creditRate")? else {
        return Ok(None);
    };
    let currency = identity::currency(&rate);
    let amount = match rate.get("amount") {
        None | Some(Json::Null) => return Ok(None),
        Some(Json::Number(amount)) => Value::Number(as_javascript(amount)),
        Some(other) => other.to_value(),
    };
    Ok(currency.map(|CurrencyId(currency_id)| CreditRate { amount, currency_id }))
}

/// A webhook's `{"accordingTo": X}` becomes the GraphQL object of its period; GraphQL's own is passed on as it is.
fn reset_period_configuration(
    entry: &Fields<'_>,
    reset_period: &Given<SmolStr>,
) -> Result<Given<ResetPeriodConfiguration>, MalformedBody> {
    const KEY: &str = "resetPeriodConfiguration";
    if !entry.contains_key(KEY) {
        return Ok(Given::Absent);
    }
    let Some(given) = object(entry, KEY)? else {
        return Ok(Given::Null);
    };
    let (typename, key) = match reset_period {
        Given::Value(period) if period == "MONTH" => ("MonthlyResetPeriodConfig", "monthlyAccordingTo"),
        Given::Value(period) if period == "WEEK" => ("WeeklyResetPeriodConfig", "weeklyAccordingTo"),
        Given::Value(period) if period == "YEAR" => ("YearlyResetPeriodConfig", "yearlyAccordingTo"),
        // Days and hours have no configuration in GraphQL.
        Given::Value(_) | Given::Null | Given::Absent => {
            return Ok(Given::Value(ResetPeriodConfiguration::AsGiven(given.to_map())));
        }
    };
    Ok(Given::Value(match given.get("accordingTo") {
        None => ResetPeriodConfiguration::AsGiven(given.to_map()),
        Some(according_to) => ResetPeriodConfiguration::AccordingTo {
            typename,
            key,
            according_to: according_to.to_value(),
        },
    }))
}
