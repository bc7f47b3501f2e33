//! A whole entitlement list: whose, when, and its entries.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::entry::entitlement;
use super::envelope::Scope;
use super::fields;
use super::tree::Json;
use super::{EntitlementsUpdated, Event, MalformedBody};
use crate::entitlement::{Entitlement, EpochMs};

/// Decodes a list. An event without a list is malformed: taking it for an empty one would deny everything. An empty
/// list (also one of kinds that nobody here knows) without a reason for it purges the customer: the next reader asks.
pub(super) fn decode(scope: &Scope<'_>, sent_at: EpochMs) -> Result<Event, MalformedBody> {
    let subject = scope.subject()?;
    let access_denied_reason = scope.find(|fields| fields::text(fields, "accessDeniedReason"))?;
    let message_time = scope.message_time(sent_at);
    // Where both lists are there, the second one is the fuller: it has the credits too.
    let mut list = None;
    for key in ["entitlementsV2", "entitlements"] {
        if list.is_none() {
            list = scope
                .find_with_depth(|fields| fields::list(fields, key))?
                .map(|found| (key, found));
        }
    }
    let Some((key, (list, depth))) = list else {
        return Err(scope.missing("entitlements"));
    };

    let mut updated_at = None;
    let mut entitlements = Vec::with_capacity(list.len());
    for (index, entry) in list.iter().enumerate() {
        let decoded = decode_entry(entry, message_time, &mut updated_at);
        let decoded = decoded.map_err(|fault| {
            fault
                .within(&format!("{key}[{index}]"))
                .within(&scope.path_to(depth))
        })?;
        entitlements.extend(decoded);
    }
    if entitlements.is_empty() && access_denied_reason.is_none() {
        return Ok(Event::Purged(vec![subject]));
    }
    Ok(Event::EntitlementsUpdated(EntitlementsUpdated {
        subject,
        updated_at: updated_at.unwrap_or(message_time),
        access_denied_reason,
        entitlements: without_duplicates(entitlements),
    }))
}

/// Decodes one entry and notes the list's time: the first valid `entitlementUpdatedAt` in it.
fn decode_entry(
    entry: &Json<'_>,
    message_time: EpochMs,
    updated_at: &mut Option<EpochMs>,
) -> Result<Option<Entitlement>, MalformedBody> {
    if entry.is_null() {
        return Ok(None);
    }
    let fields = fields::of_object(entry)?;
    *updated_at = updated_at.or_else(|| fields::date(&fields, "entitlementUpdatedAt"));
    entitlement(fields, message_time)
}

/// Keeps one entry of each feature and currency: the last, in the place of the first, as a JavaScript `Map` does.
fn without_duplicates(mut entitlements: Vec<Entitlement>) -> Vec<Entitlement> {
    let mut first_of = HashMap::with_capacity_and_hasher(entitlements.len(), RandomState::default());
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
