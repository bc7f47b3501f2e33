//! What an event changes, from the fields of its message.
//!
//! The rule for odd values: absent and null are the same unless a reader tells them apart ([`Given`]); a date that is
//! none is missing, as it is for the SDKs; any other wrong kind is a fault, since a guess in the cache would be an answer
//! that nobody gave. Stigg's internal ids (`entityId`; `id` beside a `refId`) are never used. Where a message leaves open
//! whom it concerns, the wider reading is taken: a stale cache answers wrongly, an empty one only asks again.

mod entitlement;

use std::borrow::Cow;

use serde_json::Number;

pub(super) use self::entitlement::entitlement;
use super::envelope::Scope;
use super::event_types::{Change, EventType};
use super::field::{Field, as_javascript};
use super::list::Entitlements;
use super::subjects::Subjects;
use super::timestamp::{StateTimes, Timestamp};
use super::wire::{ListedCustomer, Reference};
use super::{CreditBalance, EntitlementsUpdated, Event, MalformedBody, UsageOf, UsageUpdated};
use crate::entitlement::{
    CurrencyId, CustomerId, Entitlement, EpochMs, FeatureId, MeasuredUsage, ResourceId, Subject, Usage,
};

/// What a message means. `message_time` is the time of a state that has none of its own.
pub(super) fn event(
    event_type: EventType,
    scope: &Scope<'_>,
    times: &StateTimes,
    message_time: EpochMs,
) -> Result<Event, MalformedBody> {
    let usage_level = scope.find_usage().map(|level| Scope {
        key: "usage",
        level,
        outer: Some(scope),
    });
    let usage_scope = usage_level.as_ref().unwrap_or(scope);
    match event_type.change {
        Change::Entitlements => entitlements_updated(scope, times, message_time),
        Change::Usage => usage_updated(event_type, usage_scope, times, message_time),
        Change::CreditBalance => credit_balance_updated(scope, times, message_time),
        Change::Purge => match listed(scope)? {
            subjects if subjects.is_empty() => Err(scope.missing("customerId")),
            subjects => Ok(Event::Purged(subjects)),
        },
        Change::CustomerDeleted => customer_deleted(scope),
        // A migration of the customers it lists; of every one, if it lists none.
        Change::Migration => Ok(match listed(scope)? {
            subjects if subjects.is_empty() => Event::EnvironmentInvalidated,
            subjects => Event::Purged(subjects),
        }),
        Change::PackagePublished => {
            let migration_type = scope.find(|level| level.fields.migration_type.text())?;
            Ok(match migration_type {
                Some("NEW_CUSTOMERS") => Event::Ignored {
                    label: event_type.name,
                },
                Some(_) | None => Event::EnvironmentInvalidated,
            })
        }
        Change::Nothing => Ok(Event::Ignored {
            label: event_type.name,
        }),
    }
}

/// An event without a list is malformed: taken for an empty one, it would deny everything. An empty list (also one of
/// kinds that nobody here knows) without a reason for it purges the customer: the next reader asks.
fn entitlements_updated(
    scope: &Scope<'_>,
    times: &StateTimes,
    message_time: EpochMs,
) -> Result<Event, MalformedBody> {
    let subject = scope.subject()?;
    let access_denied_reason = scope.find(|level| level.fields.access_denied_reason.text())?;
    // Where both lists are present, the second version is the fuller: it has the credits too.
    let mut list = scope.find(|level| {
        let list = level.fields.entitlements_v2.get()?;
        list.map(|list| list.take("entitlementsV2")).transpose()
    })?;
    if list.is_none() {
        list = scope.find(|level| {
            let list = level.fields.entitlements.get()?;
            list.map(|list| list.take("entitlements")).transpose()
        })?;
    }
    let Entitlements {
        mut entries,
        updated_at,
    } = list.ok_or_else(|| scope.missing("entitlements"))?;
    if entries.is_empty() && access_denied_reason.is_none() {
        return Ok(Event::Purged([subject].into_iter().collect()));
    }
    let updated_at = updated_at.into_iter().find(|at| times.is_possible(*at));
    for entry in &mut entries {
        let measured_at = match &mut entry.entitlement {
            Entitlement::Feature(feature) => &mut feature.usage_updated_at,
            Entitlement::Credit(credit) => &mut credit.usage_updated_at,
        };
        *measured_at = measured_at
            .filter(|at| times.is_possible(*at))
            .or_else(|| entry.has_usage.then_some(message_time));
    }
    Ok(Event::EntitlementsUpdated(EntitlementsUpdated {
        subject,
        updated_at: updated_at.unwrap_or(message_time),
        access_denied_reason: access_denied_reason.map(str::to_owned),
        entitlements: entitlement::without_duplicates(entries),
    }))
}

/// `measurement.reported`, GraphQL `UsageUpdated` (`usage` beside `entitlement`), `UsageMeasurementUpdated` (flat) and
/// `UsageUpdatedV2` (`entitlementReference` beside `usage`). A usage of neither a feature nor a credit currency is of no
/// interest to the readers.
fn usage_updated(
    event_type: EventType,
    scope: &Scope<'_>,
    times: &StateTimes,
    message_time: EpochMs,
) -> Result<Event, MalformedBody> {
    let subject = scope.subject()?;
    // Version 1 has the time and the feature in the entitlement beside the usage.
    let entitlement = scope.find(|level| level.fields.entitlement.get())?;
    let reference = scope.find(|level| level.fields.entitlement_reference.get())?;
    let of = if let Some(reference) = reference {
        let within = |fault: MalformedBody| fault.within("entitlementReference").within(&scope.path());
        let kind = reference.kind.text().map_err(within)?;
        let id = reference.id.text().map_err(within)?;
        let id = id
            .ok_or_else(|| scope.missing("entitlementReference.id"))?
            .to_owned();
        match kind {
            None | Some("FEATURE") => UsageOf::Feature(FeatureId(id)),
            Some("CREDIT") => UsageOf::Credit(CurrencyId(id)),
            Some(_) => {
                return Ok(Event::Ignored {
                    label: event_type.name,
                });
            }
        }
    } else {
        let mut id = scope.find(|level| feature_id(&level.fields.feature_id, &level.fields.feature))?;
        if let (None, Some(entitlement)) = (id, entitlement) {
            id = feature_id(&entitlement.feature_id, &entitlement.feature)
                .map_err(|fault| fault.within("entitlement").within(&scope.path()))?;
        }
        UsageOf::Feature(FeatureId(
            id.ok_or_else(|| scope.missing("feature.id"))?.to_owned(),
        ))
    };
    // A usage event without a usage is a fault: null is "not known", and a zero would grant what is used up.
    let current_usage = scope.find(|level| level.fields.current_usage.get())?;
    let current_usage = current_usage
        .ok_or_else(|| scope.missing("currentUsage"))?
        .clone();
    let measured_at = scope.find_date(|level| &level.fields.usage_updated_at, Some(times));
    let beside = || {
        let at = entitlement?.usage_updated_at.if_valid()?.0;
        times.is_possible(at).then_some(at)
    };
    let balance = match &of {
        UsageOf::Credit(_) => credit_balance(scope),
        UsageOf::Feature(_) => None,
    };
    Ok(Event::UsageUpdated(UsageUpdated {
        subject,
        of,
        measured: MeasuredUsage {
            usage: usage(scope, current_usage),
            updated_at: measured_at.or_else(beside).unwrap_or(message_time),
        },
        balance,
    }))
}

/// The balance of a credit currency. For the readers it is a usage: what has been consumed of it.
fn credit_balance_updated(
    scope: &Scope<'_>,
    times: &StateTimes,
    message_time: EpochMs,
) -> Result<Event, MalformedBody> {
    let subject = scope.subject()?;
    let currency = scope.find(|level| {
        Ok(currency_id(
            &level.fields.currency_id,
            level.fields.currency.if_valid().map(|currency| &**currency),
        ))
    })?;
    let currency = currency.ok_or_else(|| scope.missing("currencyId"))?;
    let mut consumed = scope.find(|level| level.fields.total_consumed.get())?.cloned();
    if consumed.is_none() {
        consumed = scope.find(|level| level.fields.current_usage.get())?.cloned();
    }
    if consumed.is_none() {
        let granted = scope.find(|level| level.fields.total_granted.get())?;
        let balance = scope.find(|level| level.fields.current_balance.get())?;
        consumed = granted
            .zip(balance)
            .and_then(|(granted, balance)| difference(granted, balance));
    }
    let consumed = consumed.ok_or_else(|| scope.missing("totalConsumed"))?;
    let measured_at = scope.find_date(|level| &level.fields.usage_updated_at, Some(times));
    Ok(Event::UsageUpdated(UsageUpdated {
        subject,
        of: UsageOf::Credit(CurrencyId(currency.to_owned())),
        measured: MeasuredUsage {
            usage: usage(scope, consumed),
            updated_at: measured_at.unwrap_or(message_time),
        },
        balance: credit_balance(scope),
    }))
}

/// What is left of the currency: `currentBalance`, else what is not consumed of `totalGranted`.
fn credit_balance(scope: &Scope<'_>) -> Option<CreditBalance> {
    let left = scope
        .find_valid(|level| &level.fields.current_balance)
        .cloned()
        .or_else(|| {
            let granted = scope.find_valid(|level| &level.fields.total_granted)?;
            difference(granted, scope.find_valid(|level| &level.fields.total_consumed)?)
        })?;
    Some(CreditBalance {
        is_exhausted: left.as_f64()? <= 0.0,
        valid_until: scope.find_date(|level| &level.fields.valid_until, None),
    })
}

fn difference(minuend: &Number, subtrahend: &Number) -> Option<Number> {
    let whole = minuend
        .as_i64()
        .zip(subtrahend.as_i64())
        .and_then(|(a, b)| a.checked_sub(b));
    match whole {
        Some(whole) => Some(whole.into()),
        None => Number::from_f64(minuend.as_f64()? - subtrahend.as_f64()?).map(as_javascript),
    }
}

/// A usage with the period it is counted in.
fn usage(scope: &Scope<'_>, current_usage: Number) -> Usage {
    Usage {
        current_usage,
        period_start: scope.find_date(|level| &level.fields.usage_period_start, None),
        period_end: scope
            .find_date(|level| &level.fields.usage_period_end, None)
            .or_else(|| scope.find_date(|level| &level.fields.next_reset_date, None)),
    }
}

/// The webhook is the customer itself, so its id may be the payload's own `id`.
fn customer_deleted(scope: &Scope<'_>) -> Result<Event, MalformedBody> {
    let mut subject = scope.subject_if_any()?;
    // An EventBridge envelope has an `id` of its own.
    let is_envelope = !matches!(scope.level.fields.detail_type, Field::Absent);
    if subject.is_none() && !is_envelope {
        let own_id = own_id(&scope.level.fields.ref_id, &scope.level.fields.id);
        let own_id = own_id.map_err(|fault| fault.within(&scope.path()))?;
        subject = own_id.map(|id| Subject {
            customer: CustomerId(id.to_owned()),
            resource: None,
        });
    }
    let subject = subject.ok_or_else(|| scope.missing("customerId"))?;
    Ok(Event::Purged([subject].into_iter().collect()))
}

/// The customers of `customerIds` and `customers`, and the message's own, each once.
fn listed(scope: &Scope<'_>) -> Result<Subjects, MalformedBody> {
    let ids = scope.find(|level| {
        let list = level.fields.customer_ids.get()?;
        list.map(|list| list.take("customerIds")).transpose()
    })?;
    let mut subjects = ids.unwrap_or_default();
    let customers = scope.find(|level| {
        let list = level.fields.customers.get()?;
        list.map(|list| list.take("customers")).transpose()
    })?;
    subjects.append(&customers.unwrap_or_default());
    if let Some(own) = scope.subject_if_any()? {
        subjects.push(
            own.customer.as_str(),
            own.resource.as_ref().map(ResourceId::as_str),
        );
    }
    Ok(subjects.without_duplicates())
}

/// The ids of a customer in a list, and of its resource.
pub(super) fn listed_customer<'s>(
    listed: &'s ListedCustomer<'_>,
) -> Result<(&'s str, Option<&'s str>), MalformedBody> {
    let mut customer = flat_or_nested(&listed.customer_id, &listed.customer, "customer")?;
    if customer.is_none() {
        customer = own_id(&listed.ref_id, &listed.id)?;
    }
    let customer = customer.ok_or_else(|| MalformedBody::at("customerId", "missing"))?;
    Ok((
        customer,
        flat_or_nested(&listed.resource_id, &listed.resource, "resource")?,
    ))
}

/// `customerId`, else `customer.refId`, else `customer.id`; a resource alike.
pub(super) fn flat_or_nested<'s>(
    flat: &'s Field<Cow<'_, str>>,
    nested: &'s Field<Box<Reference<'_>>>,
    key: &str,
) -> Result<Option<&'s str>, MalformedBody> {
    if let Some(id) = flat.text()? {
        return Ok(Some(id));
    }
    match nested.get()? {
        Some(nested) => own_id(&nested.ref_id, &nested.id).map_err(|fault| fault.within(key)),
        None => Ok(None),
    }
}

/// The id of an object itself: `refId` where there is one (in GraphQL, `id` is then an internal UUID), else `id`.
fn own_id<'s>(
    ref_id: &'s Field<Cow<'_, str>>,
    id: &'s Field<Cow<'_, str>>,
) -> Result<Option<&'s str>, MalformedBody> {
    match ref_id.text()? {
        Some(id) => Ok(Some(id)),
        None => id.text(),
    }
}

/// `feature.refId`, else `featureId`, else `feature.id`.
fn feature_id<'s>(
    flat: &'s Field<Cow<'_, str>>,
    feature: &'s Field<Box<Reference<'_>>>,
) -> Result<Option<&'s str>, MalformedBody> {
    let feature = feature.get()?;
    let within = |fault: MalformedBody| fault.within("feature");
    if let Some(id) = feature
        .map(|feature| feature.ref_id.text())
        .transpose()
        .map_err(within)?
        .flatten()
    {
        return Ok(Some(id));
    }
    if let Some(id) = flat.text()? {
        return Ok(Some(id));
    }
    Ok(feature
        .map(|feature| feature.id.text())
        .transpose()
        .map_err(within)?
        .flatten())
}

/// `currencyId`, else `currency.currencyId`, else `currency.refId`, else `currency.id`.
fn currency_id<'s>(flat: &'s Field<Cow<'_, str>>, currency: Option<&'s Reference<'_>>) -> Option<&'s str> {
    flat.caption().or_else(|| {
        let currency = currency?;
        let nested = [&currency.currency_id, &currency.ref_id, &currency.id];
        nested.into_iter().find_map(Field::caption)
    })
}

fn date(field: &Field<Timestamp>) -> Option<EpochMs> {
    field.if_valid().map(|at| at.0)
}
