//! Changes after which nothing is known but that what is cached is no longer true.
//!
//! Where a message leaves open whom it concerns, the wider reading is taken: a stale cache answers wrongly, an empty
//! one only asks again.

use std::collections::HashSet;

use smol_str::SmolStr;

use super::envelope::Scope;
use super::fields::{self, text};
use super::names::EventName;
use super::tree::Json;
use super::{Event, MalformedBody, identity};
use crate::entitlement::{CustomerId, Subject};

/// A purge of a customer or of one of its resources.
pub(super) fn requested(scope: &Scope<'_>) -> Result<Event, MalformedBody> {
    let subjects = listed(scope)?;
    if subjects.is_empty() {
        return Err(scope.missing("customerId"));
    }
    Ok(Event::Purged(subjects))
}

/// A deleted customer. The webhook is the customer itself, so its id is then the payload's own `id`.
pub(super) fn customer_deleted(scope: &Scope<'_>) -> Result<Event, MalformedBody> {
    if let Some(subject) = scope.subject_if_any()? {
        return Ok(Event::Purged(vec![subject]));
    }
    let own_id = scope.payload().map(identity::own_id).transpose();
    let own_id = own_id
        .map_err(|fault| scope.fault(&fault.place, &fault.problem))?
        .flatten();
    match own_id {
        Some(id) => Ok(Event::Purged(vec![Subject {
            customer: CustomerId(id),
            resource: None,
        }])),
        None => Err(scope.missing("customerId")),
    }
}

/// A migration of the customers it lists; of every one, if it lists none.
pub(super) fn migrated(scope: &Scope<'_>) -> Result<Event, MalformedBody> {
    let subjects = listed(scope)?;
    Ok(if subjects.is_empty() {
        Event::EnvironmentInvalidated
    } else {
        Event::Purged(subjects)
    })
}

/// A new version of a plan or add-on. Only one that is explicitly for new customers alone leaves the cached ones as
/// they are; an absent or unknown `migrationType` is read as all of them.
pub(super) fn package_published(name: EventName, scope: &Scope<'_>) -> Result<Event, MalformedBody> {
    let migration_type = scope.find(|fields| text::<SmolStr>(fields, "migrationType"))?;
    Ok(match migration_type.as_deref() {
        Some("NEW_CUSTOMERS") => Event::Ignored { label: name.label },
        Some(_) | None => Event::EnvironmentInvalidated,
    })
}

/// The customers of `customerIds` and `customers`, and the message's own, each once.
fn listed(scope: &Scope<'_>) -> Result<Vec<Subject>, MalformedBody> {
    let mut subjects = Vec::new();
    for key in ["customerIds", "customers"] {
        let Some((list, depth)) = scope.find_with_depth(|fields| fields::list(fields, key))? else {
            continue;
        };
        for (index, entry) in list.iter().enumerate() {
            let subject = listed_one(entry).map_err(|fault| {
                fault
                    .within(&format!("{key}[{index}]"))
                    .within(&scope.path_to(depth))
            })?;
            subjects.extend(subject);
        }
    }
    subjects.extend(scope.subject_if_any()?);
    let mut seen = HashSet::with_capacity(subjects.len());
    subjects.retain(|subject| seen.insert(subject.clone()));
    Ok(subjects)
}

/// A customer in a list: its id, or an object with it. Null is nobody.
fn listed_one(entry: &Json<'_>) -> Result<Option<Subject>, MalformedBody> {
    if entry.is_null() {
        return Ok(None);
    }
    if let Some(id) = entry.as_str().filter(|id| !id.is_empty()) {
        return Ok(Some(Subject {
            customer: CustomerId(id.to_owned()),
            resource: None,
        }));
    }
    let fields = fields::of_object(entry)?;
    let mut customer = identity::customer(&fields)?;
    if customer.is_none() {
        customer = identity::own_id(&fields)?.map(CustomerId);
    }
    let customer = customer.ok_or_else(|| MalformedBody::at("customerId", "missing"))?;
    Ok(Some(Subject {
        customer,
        resource: identity::resource(&fields)?,
    }))
}
