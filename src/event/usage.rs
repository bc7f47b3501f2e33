//! One usage: `measurement.reported`, GraphQL `UsageUpdated` (`usage` beside `entitlement`), `UsageMeasurementUpdated`
//! (flat) and `UsageUpdatedV2` (`entitlementReference` beside `usage`).

use smol_str::SmolStr;

use super::envelope::Scope;
use super::fields::{self, text};
use super::identity;
use super::names::EventName;
use super::{Event, MalformedBody, UsageOf, UsageUpdated};
use crate::entitlement::{CurrencyId, EpochMs, FeatureId, MeasuredUsage, Usage};

/// Decodes a usage. A usage of something that is neither a feature nor a credit currency is no affair of the readers.
pub(super) fn decode(
    name: EventName,
    mut scope: Scope<'_>,
    sent_at: EpochMs,
) -> Result<Event, MalformedBody> {
    scope.enter_object("usage");
    let subject = scope.subject()?;
    // Version 1 has the time and the feature's particulars in the entitlement beside the usage.
    let entitlement = scope
        .find(|fields| fields::object(fields, "entitlement"))?
        .unwrap_or_default();
    let reference = scope.find(|fields| fields::object(fields, "entitlementReference"))?;
    let of = if let Some(reference) = reference {
        let within = |fault: MalformedBody| fault.within("entitlementReference").within(&scope.path());
        let kind = text::<SmolStr>(&reference, "type").map_err(within)?;
        let id = text(&reference, "id").map_err(within)?;
        let id = id.ok_or_else(|| scope.missing("entitlementReference.id"))?;
        match kind.as_deref() {
            None | Some("FEATURE") => UsageOf::Feature(FeatureId(id)),
            Some("CREDIT") => UsageOf::Credit(CurrencyId(id)),
            Some(_) => return Ok(Event::Ignored { label: name.label }),
        }
    } else {
        let mut feature = scope.find(identity::feature)?;
        if feature.is_none() {
            feature = identity::feature(&entitlement)
                .map_err(|fault| fault.within("entitlement").within(&scope.path()))?;
        }
        UsageOf::Feature(feature.ok_or_else(|| scope.missing("feature.id"))?)
    };
    // A usage event without a usage is refused: null is "not known", and a zero would grant what is used up.
    let current_usage = scope.find(|fields| fields::number(fields, "currentUsage"))?;
    let current_usage = current_usage.ok_or_else(|| scope.missing("currentUsage"))?;
    let updated_at = scope
        .date("usageUpdatedAt")
        .or_else(|| fields::date(&entitlement, "usageUpdatedAt"));
    Ok(Event::UsageUpdated(UsageUpdated {
        subject,
        of,
        measured: MeasuredUsage {
            usage: Usage {
                current_usage,
                ..period(&scope)
            },
            updated_at: updated_at.unwrap_or_else(|| scope.message_time(sent_at)),
        },
    }))
}

/// The period of a usage that is still to be counted.
pub(super) fn period(scope: &Scope<'_>) -> Usage {
    Usage {
        current_usage: 0.into(),
        period_start: scope.date("usagePeriodStart"),
        period_end: scope
            .date("usagePeriodEnd")
            .or_else(|| scope.date("nextResetDate")),
    }
}
