//! The balance of a credit currency. For the readers it is a usage: what has been consumed of it.

use serde_json::Number;

use super::envelope::Scope;
use super::fields::{as_javascript, number};
use super::usage::period;
use super::{Event, MalformedBody, UsageOf, UsageUpdated, identity};
use crate::entitlement::{EpochMs, MeasuredUsage, Usage};

/// Decodes a balance.
pub(super) fn decode(scope: &Scope<'_>, sent_at: EpochMs) -> Result<Event, MalformedBody> {
    let subject = scope.subject()?;
    let currency = scope.find(|fields| Ok(identity::currency(fields)))?;
    let currency = currency.ok_or_else(|| scope.missing("currencyId"))?;
    let current_usage = consumed(scope)?.ok_or_else(|| scope.missing("totalConsumed"))?;
    let updated_at = scope
        .date("usageUpdatedAt")
        .unwrap_or_else(|| scope.message_time(sent_at));
    Ok(Event::UsageUpdated(UsageUpdated {
        subject,
        of: UsageOf::Credit(currency),
        measured: MeasuredUsage {
            usage: Usage {
                current_usage,
                ..period(scope)
            },
            updated_at,
        },
    }))
}

/// `totalConsumed`, else `currentUsage`, else what is gone of `totalGranted`.
fn consumed(scope: &Scope<'_>) -> Result<Option<Number>, MalformedBody> {
    for key in ["totalConsumed", "currentUsage"] {
        if let Some(consumed) = scope.find(|fields| number(fields, key))? {
            return Ok(Some(consumed));
        }
    }
    let granted = scope.find(|fields| number(fields, "totalGranted"))?;
    let balance = scope.find(|fields| number(fields, "currentBalance"))?;
    Ok(granted
        .zip(balance)
        .and_then(|(granted, balance)| difference(&granted, &balance)))
}

fn difference(minuend: &Number, subtrahend: &Number) -> Option<Number> {
    let whole = minuend
        .as_i64()
        .zip(subtrahend.as_i64())
        .and_then(|(a, b)| a.checked_sub(b));
    match whole {
        Some(whole) => Some(whole.into()),
        None => {
            Number::from_f64(minuend.as_f64()? - subtrahend.as_f64()?).map(|number| as_javascript(&number))
        }
    }
}
