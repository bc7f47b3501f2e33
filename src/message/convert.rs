//! Makes the domain event from the fields of a message.
//!
//! The rule for odd values: absent and null are the same unless a reader tells them apart ([`Given`]); an invalid date is
//! missing, as it is for the SDKs; any other wrong kind is a fault, since a guess in the cache would be an answer that
//! nobody gave. Stigg's internal ids (`entityId`; `id` beside a `refId`) are never used. Where a message leaves open
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

/// What a message means.
pub(super) fn event(
    event_type: EventType,
    scope: &Scope<'_>,
    times: &StateTimes,
) -> Result<Event, MalformedBody> {
    let ignored = Event::Ignored {
        label: event_type.name,
    };
    Ok(match event_type.change {
        Change::Entitlements => return entitlements_updated(scope, times),
        Change::Usage => usage_updated(scope, times)?.map_or(ignored, Event::UsageUpdated),
        Change::CreditBalance => Event::UsageUpdated(credit_balance_updated(scope, times)?),
        Change::Purge => match listed(scope)? {
            subjects if subjects.is_empty() => return Err(scope.missing("customerId")),
            subjects => Event::Purged(subjects),
        },
        Change::CustomerDeleted => Event::Purged([deleted_customer(scope)?].into_iter().collect()),
        // A migration of the customers it lists; of every one, if it lists none.
        Change::Migration => match listed(scope)? {
            subjects if subjects.is_empty() => Event::EnvironmentInvalidated,
            subjects => Event::Purged(subjects),
        },
        Change::PackagePublished => match scope.find(|fields| fields.migration_type.text())? {
            Some("NEW_CUSTOMERS") => ignored,
            Some(_) | None => Event::EnvironmentInvalidated,
        },
        Change::Nothing => ignored,
    })
}

/// An event without a list is malformed: taken for an empty one, it would deny everything. An empty list (also one of
/// kinds that nobody here knows) without a reason for it purges the customer: the next reader asks.
fn entitlements_updated(scope: &Scope<'_>, times: &StateTimes) -> Result<Event, MalformedBody> {
    let subject = scope.subject()?;
    let access_denied_reason = scope.find(|fields| fields.access_denied_reason.text())?;
    // Where both lists are present, the second version is the fuller: it has the credits too.
    let mut list = scope.find(|fields| fields.entitlements_v2.take_list("entitlementsV2"))?;
    if list.is_none() {
        list = scope.find(|fields| fields.entitlements.take_list("entitlements"))?;
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
        let fallback = entry.has_usage.then_some(times.fallback);
        *measured_at = measured_at.filter(|at| times.is_possible(*at)).or(fallback);
    }
    Ok(Event::EntitlementsUpdated(EntitlementsUpdated {
        subject,
        updated_at: updated_at.unwrap_or(times.fallback),
        access_denied_reason: access_denied_reason.map(str::to_owned),
        entitlements: entitlement::without_duplicates(entries),
    }))
}

/// `measurement.reported`, GraphQL `UsageUpdated` (`usage` beside `entitlement`), `UsageMeasurementUpdated` (flat) and
/// `UsageUpdatedV2` (`entitlementReference` beside `usage`). A usage of neither a feature nor a credit currency is of no
/// interest to the readers.
fn usage_updated(scope: &Scope<'_>, times: &StateTimes) -> Result<Option<UsageUpdated>, MalformedBody> {
    let subject = scope.subject()?;
    // Version 1 has the time and the feature in the entitlement beside the usage.
    let entitlement = scope.find(|fields| fields.entitlement.get())?;
    let of = if let Some(reference) = scope.find(|fields| fields.entitlement_reference.get())? {
        let within = |fault: MalformedBody| fault.within("entitlementReference").within(&scope.path());
        let kind = reference.kind.text().map_err(within)?;
        let id = reference.id.text().map_err(within)?;
        let id = id
            .ok_or_else(|| scope.missing("entitlementReference.id"))?
            .to_owned();
        match kind {
            None | Some("FEATURE") => UsageOf::Feature(FeatureId(id)),
            Some("CREDIT") => UsageOf::Credit(CurrencyId(id)),
            Some(_) => return Ok(None),
        }
    } else {
        let mut id = scope.find(|fields| feature_id(&fields.feature_id, &fields.feature))?;
        if let (None, Some(entitlement)) = (id, entitlement) {
            id = feature_id(&entitlement.feature_id, &entitlement.feature)
                .map_err(|fault| fault.within("entitlement").within(&scope.path()))?;
        }
        UsageOf::Feature(FeatureId(
            id.ok_or_else(|| scope.missing("feature.id"))?.to_owned(),
        ))
    };
    // A usage event without a usage is a fault: null is "not known", and a zero would grant what is used up.
    let current_usage = scope.find(|fields| fields.current_usage.get())?;
    let current_usage = current_usage
        .ok_or_else(|| scope.missing("currentUsage"))?
        .clone();
    let beside = entitlement.and_then(|entitlement| date(&entitlement.usage_updated_at));
    let balance = if let UsageOf::Credit(_) = &of {
        credit_balance(scope)
    } else {
        None
    };
    Ok(Some(UsageUpdated {
        subject,
        of,
        measured: measured(scope, times, current_usage, beside),
        balance,
    }))
}

/// The balance of a credit currency. For the readers it is a usage: what has been consumed of it.
fn credit_balance_updated(scope: &Scope<'_>, times: &StateTimes) -> Result<UsageUpdated, MalformedBody> {
    let subject = scope.subject()?;
    let currency = scope.find(|fields| {
        Ok(currency_id(
            &fields.currency_id,
            fields.currency.if_valid().map(AsRef::as_ref),
        ))
    })?;
    let currency = currency.ok_or_else(|| scope.missing("currencyId"))?;
    let mut consumed = scope.find(|fields| fields.total_consumed.get())?.cloned();
    if consumed.is_none() {
        consumed = scope.find(|fields| fields.current_usage.get())?.cloned();
    }
    if consumed.is_none() {
        let granted = scope.find(|fields| fields.total_granted.get())?;
        let balance = scope.find(|fields| fields.current_balance.get())?;
        consumed = granted
            .zip(balance)
            .and_then(|(granted, balance)| difference(granted, balance));
    }
    let consumed = consumed.ok_or_else(|| scope.missing("totalConsumed"))?;
    Ok(UsageUpdated {
        subject,
        of: UsageOf::Credit(CurrencyId(currency.to_owned())),
        measured: measured(scope, times, consumed, None),
        balance: credit_balance(scope),
    })
}

/// A usage with its period, and when it was true: at its own time, or at that of what is beside it.
fn measured(
    scope: &Scope<'_>,
    times: &StateTimes,
    current_usage: Number,
    beside: Option<EpochMs>,
) -> MeasuredUsage {
    let own = scope.find_date(|fields| &fields.usage_updated_at, Some(times));
    let period_end = scope.find_date(|fields| &fields.usage_period_end, None);
    MeasuredUsage {
        usage: Usage {
            current_usage,
            period_start: scope.find_date(|fields| &fields.usage_period_start, None),
            period_end: period_end.or_else(|| scope.find_date(|fields| &fields.next_reset_date, None)),
        },
        updated_at: own
            .or_else(|| beside.filter(|at| times.is_possible(*at)))
            .unwrap_or(times.fallback),
    }
}

/// What is left of the currency: `currentBalance`, else what is not consumed of `totalGranted`.
fn credit_balance(scope: &Scope<'_>) -> Option<CreditBalance> {
    let left = scope
        .find_valid(|fields| &fields.current_balance)
        .cloned()
        .or_else(|| {
            let granted = scope.find_valid(|fields| &fields.total_granted)?;
            difference(granted, scope.find_valid(|fields| &fields.total_consumed)?)
        })?;
    Some(CreditBalance {
        is_exhausted: left.as_f64()? <= 0.0,
        valid_until: scope.find_date(|fields| &fields.valid_until, None),
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

/// The webhook is the customer itself, so its id may be the payload's own `id`.
fn deleted_customer(scope: &Scope<'_>) -> Result<Subject, MalformedBody> {
    if let Some(subject) = scope.subject_if_any()? {
        return Ok(subject);
    }
    let fields = &scope.level.fields;
    let id = own_id(&fields.ref_id, &fields.id).map_err(|fault| fault.within(&scope.path()))?;
    // An EventBridge envelope has an `id` of its own.
    let id = id
        .filter(|_| fields.detail_type.is_absent())
        .ok_or_else(|| scope.missing("customerId"))?;
    Ok(Subject {
        customer: CustomerId(id.to_owned()),
        resource: None,
    })
}

/// The customers of `customerIds` and `customers`, and the message's own, each once.
fn listed(scope: &Scope<'_>) -> Result<Subjects, MalformedBody> {
    let ids = scope.find(|fields| fields.customer_ids.take_list("customerIds"))?;
    let mut subjects: Subjects = ids.unwrap_or_default();
    let customers = scope.find(|fields| fields.customers.take_list("customers"))?;
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
    let of = |id: Option<&'s Field<Cow<'_, str>>>| {
        id.map_or(Ok(None), Field::text)
            .map_err(|fault| fault.within("feature"))
    };
    if let Some(id) = of(feature.map(|feature| &feature.ref_id))? {
        return Ok(Some(id));
    }
    match flat.text()? {
        Some(id) => Ok(Some(id)),
        None => of(feature.map(|feature| &feature.id)),
    }
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
