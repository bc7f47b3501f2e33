//! Whose, and of what: the ids in a message, under the names that either form gives them.
//!
//! Stigg's internal ids (`entityId`; `id` beside a `refId`) are never used: the readers' keys are built of the ids
//! that the company gave.

use super::MalformedBody;
use super::fields::{Fields, object, text};
use super::tree::Json;
use crate::entitlement::{CurrencyId, CustomerId, FeatureId, ResourceId};

/// `customerId`, else `customer.refId`, else `customer.id`.
pub(super) fn customer(fields: &Fields<'_>) -> Result<Option<CustomerId>, MalformedBody> {
    Ok(flat_or_nested(fields, "customerId", "customer")?.map(CustomerId))
}

/// `resourceId`, else `resource.refId`, else `resource.id`.
pub(super) fn resource(fields: &Fields<'_>) -> Result<Option<ResourceId>, MalformedBody> {
    Ok(flat_or_nested(fields, "resourceId", "resource")?.map(ResourceId))
}

fn flat_or_nested(fields: &Fields<'_>, flat: &str, nested: &str) -> Result<Option<String>, MalformedBody> {
    if let Some(id) = text(fields, flat)? {
        return Ok(Some(id));
    }
    match object(fields, nested)? {
        Some(object) => own_id(&object).map_err(|fault| fault.within(nested)),
        None => Ok(None),
    }
}

/// The id of the object itself: `refId` where there is one (in GraphQL, `id` is then an internal UUID), else `id`.
pub(super) fn own_id(object: &Fields<'_>) -> Result<Option<String>, MalformedBody> {
    match text(object, "refId")? {
        Some(id) => Ok(Some(id)),
        None => text(object, "id"),
    }
}

/// `feature.refId`, else `featureId`, else `feature.id`.
pub(super) fn feature(fields: &Fields<'_>) -> Result<Option<FeatureId>, MalformedBody> {
    let feature = object(fields, "feature")?.unwrap_or_default();
    let within = |fault: MalformedBody| fault.within("feature");
    if let Some(id) = text(&feature, "refId").map_err(within)? {
        return Ok(Some(FeatureId(id)));
    }
    if let Some(id) = text(fields, "featureId")? {
        return Ok(Some(FeatureId(id)));
    }
    Ok(text(&feature, "id").map_err(within)?.map(FeatureId))
}

/// `currencyId`, else `currency.currencyId`, else `currency.refId`, else `currency.id`.
pub(super) fn currency(fields: &Fields<'_>) -> Option<CurrencyId> {
    let of = |fields: &Fields<'_>, key: &str| {
        fields
            .get(key)
            .and_then(Json::as_str)
            .filter(|id| !id.is_empty())
            .map(str::to_owned)
    };
    let nested = || {
        let currency = fields.get("currency")?.as_object()?;
        of(&currency, "currencyId")
            .or_else(|| of(&currency, "refId"))
            .or_else(|| of(&currency, "id"))
    };
    of(fields, "currencyId").or_else(nested).map(CurrencyId)
}
