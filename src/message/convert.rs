//! Makes the domain event from the fields of a message.
//!
//! The rule for odd values: absent and null are the same unless a reader tells them apart; an invalid date is
//! missing, as it is for the SDKs; any other wrong kind is a fault, since a guess in the cache would be an answer that
//! nobody gave. Stigg's internal ids (`entityId`; `id` beside a `refId`) are never used. Where a message leaves open
//! whom it concerns, the wider reading is taken: a stale cache answers wrongly, an empty one only asks again.

use serde_json::Number;

use super::entries::entitlements;
use super::envelope::{Scope, flat_or_nested};
use super::event_types::{Change, EventType};
use super::subjects::Subjects;
use super::timestamp::StateTimes;
use super::tree::{Field, as_javascript, first_text};
use super::{CreditBalance, Decoded, EntitlementsUpdated, Event, MalformedBody, UsageUpdated};
use crate::clock::EpochMs;
use crate::entitlement::{CurrencyId, CustomerId, FeatureId, ResourceId, Subject, Usage, UsageOf};

/// What a message means.
pub(super) fn event(event_type: EventType, scope: &Scope<'_>, times: &StateTimes) -> Decoded<Event> {
    let ignored = Event::Ignored { label: event_type.name };
    Ok(match event_type.change {
        Change::Entitlements => return entitlements_updated(scope, times),
        Change::Usage => usage_updated(scope, times)?.map_or(ignored, Event::UsageUpdated),
        Change::CreditBalance => Event::UsageUpdated(credit_balance_updated(scope, times)?),
        Change::Purge | Change::Migration => match listed(scope)? {
            subjects if !subjects.is_empty() => Event::Purged(subjects),
            // A migration that lists nobody concerns every customer.
            _ if event_type.change == Change::Migration => Event::EnvironmentInvalidated,
            _ => return Err(scope.missing("customerId")),
        },
        Change::CustomerDeleted => Event::Purged(deleted_customer(scope)?.into()),
        Change::PackagePublished => match scope.find(|level| level.migration_type.text())? {
            Some("NEW_CUSTOMERS") => ignored,
            Some(_) | None => Event::EnvironmentInvalidated,
        },
        Change::Nothing => ignored,
    })
}

/// An event without a list is malformed: taken for an empty one, it would deny everything. An empty list (also one of
/// kinds that nobody here knows) without a reason for it purges the customer: the next reader asks.
fn entitlements_updated(scope: &Scope<'_>, times: &StateTimes) -> Decoded<Event> {
    let subject = scope.subject()?;
    let access_denied_reason = scope.find(|level| level.access_denied_reason.text())?;
    // Where both lists are present, the second version is the fuller: it has the credits too.
    let list = scope.find(|level| entitlements(level.entitlements_v2.or(level.entitlements), times))?;
    let (entitlements, updated_at) = list.ok_or_else(|| scope.missing("entitlements"))?;
    if entitlements.is_empty() && access_denied_reason.is_none() {
        return Ok(Event::Purged(subject.into()));
    }
    Ok(Event::EntitlementsUpdated(EntitlementsUpdated {
        subject,
        updated_at: updated_at.unwrap_or(times.fallback),
        access_denied_reason: access_denied_reason.map(str::to_owned),
        entitlements,
    }))
}

/// `measurement.reported`, GraphQL `UsageUpdated` (`usage` beside `entitlement`), `UsageMeasurementUpdated` (flat) and
/// `UsageUpdatedV2` (`entitlementReference` beside `usage`). A usage of neither a feature nor a credit currency is of no
/// interest to the readers.
fn usage_updated(scope: &Scope<'_>, times: &StateTimes) -> Decoded<Option<UsageUpdated>> {
    let subject = scope.subject()?;
    // Version 1 has the time and the feature in the entitlement beside the usage.
    let beside = scope.find(|level| level.entitlement.object())?.unwrap_or_default();
    let of = if let Some(reference) = scope.find(|level| level.entitlement_reference.object())? {
        let text = |key| reference.get(key).text().map_err(|fault| fault.within("entitlementReference"));
        let id = text("id")?.ok_or_else(|| scope.missing("entitlementReference.id"))?.to_owned();
        match text("type")? {
            None | Some("FEATURE") => UsageOf::Feature(FeatureId(id)),
            Some("CREDIT") => UsageOf::Credit(CurrencyId(id)),
            Some(_) => return Ok(None),
        }
    } else {
        let mut id = scope.find(|level| feature_id(level.feature_id, level.feature))?;
        if id.is_none() {
            id = feature_id(beside.get("featureId"), beside.get("feature"))?;
        }
        UsageOf::Feature(FeatureId(id.ok_or_else(|| scope.missing("feature.id"))?.to_owned()))
    };
    // A usage event without a usage is a fault: null is "not known", and a zero would grant what is used up.
    let current_usage =
        scope.find(|level| level.current_usage.number())?.ok_or_else(|| scope.missing("currentUsage"))?;
    let beside = beside.get("usageUpdatedAt").date();
    Ok(Some(updated(subject, of, current_usage, beside, scope, times)))
}

/// The balance of a credit currency. For the readers it is a usage: what has been consumed of it.
fn credit_balance_updated(scope: &Scope<'_>, times: &StateTimes) -> Decoded<UsageUpdated> {
    let subject = scope.subject()?;
    let currency = scope
        .find(|level| currency_id(level.currency_id, level.currency))?
        .ok_or_else(|| scope.missing("currencyId"))?;
    let mut consumed = scope.find(|level| level.total_consumed.or(level.current_usage).number())?;
    if consumed.is_none() {
        let granted = scope.find(|level| level.total_granted.number())?;
        let left = granted.zip(scope.find(|level| level.current_balance.number())?);
        consumed = left.and_then(|(granted, left)| difference(&granted, &left));
    }
    let consumed = consumed.ok_or_else(|| scope.missing("totalConsumed"))?;
    let of = UsageOf::Credit(CurrencyId(currency.to_owned()));
    Ok(updated(subject, of, consumed, None, scope, times))
}

/// A usage with its period and balance. It was true at its own time, else at the time of the entitlement beside it.
fn updated(
    subject: Subject,
    of: UsageOf,
    current_usage: Number,
    beside: Option<EpochMs>,
    scope: &Scope<'_>,
    times: &StateTimes,
) -> UsageUpdated {
    let period_end = scope
        .find_valid(|level| level.usage_period_end.date())
        .or_else(|| scope.find_valid(|level| level.next_reset_date.date()));
    let usage = Usage {
        current_usage,
        period_start: scope.find_valid(|level| level.usage_period_start.date()),
        period_end,
    };
    let own = scope.find_valid(|level| times.possible(level.usage_updated_at.date()));
    UsageUpdated {
        balance: if let UsageOf::Credit(_) = of { credit_balance(scope) } else { None },
        updated_at: own.or_else(|| times.possible(beside)).unwrap_or(times.fallback),
        subject,
        of,
        usage,
    }
}

/// What is left of the currency: `currentBalance`, else what is not consumed of `totalGranted`.
fn credit_balance(scope: &Scope<'_>) -> Option<CreditBalance> {
    let number = |field: Field<'_>| field.number().ok()?;
    let left = scope.find_valid(|level| number(level.current_balance)).or_else(|| {
        let granted = scope.find_valid(|level| number(level.total_granted))?;
        difference(&granted, &scope.find_valid(|level| number(level.total_consumed))?)
    })?;
    Some(CreditBalance {
        is_exhausted: left.as_f64()? <= 0.0,
        valid_until: scope.find_valid(|level| level.valid_until.date()),
    })
}

fn difference(minuend: &Number, subtrahend: &Number) -> Option<Number> {
    as_javascript(minuend.as_f64()? - subtrahend.as_f64()?)
}

/// The webhook is the customer itself, so its id may be the payload's own `id`.
fn deleted_customer(scope: &Scope<'_>) -> Decoded<Subject> {
    if let Some(subject) = scope.subject_if_any()? {
        return Ok(subject);
    }
    let (path, payload) = &scope.payload;
    // An EventBridge envelope has an `id` of its own.
    let own = Some(payload.id).filter(|_| payload.detail_type.is_absent());
    let id = first_text([payload.ref_id].into_iter().chain(own)).map_err(|fault| fault.within(path))?;
    let id = id.ok_or_else(|| scope.missing("customerId"))?;
    Ok(Subject { customer: CustomerId(id.to_owned()), resource: None })
}

/// The customers of `customerIds` and `customers`, and the message's own.
fn listed(scope: &Scope<'_>) -> Decoded<Subjects> {
    let mut subjects = Subjects::default();
    let mut add = |list: Field<'_>| {
        let Some(listed) = list.list()? else {
            return Ok(None);
        };
        for (index, customer) in listed.enumerate() {
            let added = add_listed(&mut subjects, customer);
            added.map_err(|fault| fault.within(&format!("[{index}]")).within(list.key))?;
        }
        Ok(Some(()))
    };
    scope.find(|level| add(level.customer_ids))?;
    scope.find(|level| add(level.customers))?;
    if let Some(Subject { customer, resource }) = scope.subject_if_any()? {
        subjects.push(customer.as_str(), resource.as_ref().map(ResourceId::as_str));
    }
    Ok(subjects)
}

/// A listed customer is an id, or an object with one. A null is skipped.
fn add_listed(subjects: &mut Subjects, listed: Field<'_>) -> Decoded<()> {
    if let Some(id) = listed.text_if_any() {
        subjects.push(id, None);
    } else if let Some(object) = listed.object()? {
        let mut customer = flat_or_nested(object.get("customerId"), object.get("customer"))?;
        if customer.is_none() {
            customer = first_text([object.get("refId"), object.get("id")])?;
        }
        let customer = customer.ok_or_else(|| MalformedBody::at("customerId", "missing"))?;
        let resource = flat_or_nested(object.get("resourceId"), object.get("resource"))?;
        subjects.push(customer, resource);
    }
    Ok(())
}

/// `feature.refId`, else `featureId`, else `feature.id`.
fn feature_id<'t>(flat: Field<'t>, feature: Field<'t>) -> Decoded<Option<&'t str>> {
    let feature = feature.object()?.unwrap_or_default();
    first_text([feature.get("refId"), flat, feature.get("id")])
}

/// `currencyId`, else `currency.currencyId`, else `currency.refId`, else `currency.id`.
pub(super) fn currency_id<'t>(flat: Field<'t>, currency: Field<'t>) -> Decoded<Option<&'t str>> {
    let currency = currency.object().ok().flatten().unwrap_or_default();
    first_text([flat, currency.get("currencyId"), currency.get("refId"), currency.get("id")])
}
