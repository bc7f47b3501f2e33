//! Opens what a message is wrapped in: SNS notification, EventBridge event, the event's own `payload` or `data`, the
//! GraphQL answer; each in any other, up to a bound. Nothing here knows what an event means.

use super::event_types::{self, Change, EventType, OTHER};
use super::tree::{Field, Object, Tree, fields, first_text};
use super::{Decoded, MalformedBody, join};
use crate::entitlement::{CustomerId, ResourceId, Subject};
use crate::json::replace_lone_surrogates;

/// SNS notifications inside one another. Each takes stack, and escapes (`\u005c`) let a body of 1 MiB hold hundreds.
const NOTIFICATIONS_MAX: usize = 8;

fields! {
    /// One level of a message: an envelope, or the payload. A message may put its customer or its timestamp on either
    /// side of `payload`, and not every form has an envelope, so that every level may have every field.
    LevelFields {
        // The name of the event.
        kind = "type", event_type = "eventType", detail_type = "detail-type", typename = "__typename",
        // Amazon SNS.
        sns_type = "Type", topic_arn = "TopicArn", message = "Message",
        // What the payload or the next envelope is in.
        detail = "detail", payload = "payload", data = "data",
        entitlements_updated_v2 = "entitlementsUpdatedV2", entitlements_updated = "entitlementsUpdated",
        usage_updated_v2 = "usageUpdatedV2", usage_updated = "usageUpdated",
        usage_measurement_updated = "usageMeasurementUpdated", credit_balance_updated = "creditBalanceUpdated",
        package_published = "packagePublished", usage = "usage",
        // Whose.
        customer_id = "customerId", customer = "customer", resource_id = "resourceId", resource = "resource",
        // When.
        timestamp = "timestamp", entitlements_updated_at = "entitlementsUpdatedAt", usage_updated_at = "usageUpdatedAt",
        // Entitlements.
        entitlements = "entitlements", entitlements_v2 = "entitlementsV2", access_denied_reason = "accessDeniedReason",
        // A usage.
        entitlement = "entitlement", entitlement_reference = "entitlementReference", feature = "feature",
        feature_id = "featureId", current_usage = "currentUsage", usage_period_start = "usagePeriodStart",
        usage_period_end = "usagePeriodEnd", next_reset_date = "nextResetDate",
        // The balance of a credit currency.
        currency_id = "currencyId", currency = "currency", total_consumed = "totalConsumed",
        total_granted = "totalGranted", current_balance = "currentBalance", valid_until = "validUntil",
        // Purges.
        customer_ids = "customerIds", customers = "customers", ref_id = "refId", id = "id", migration_type = "migrationType",
    }
}

impl<'t> LevelFields<'t> {
    /// The GraphQL subscription fields. They hold the payload and name the event: `{"data": {"<field>": {…payload…}}}`.
    #[rustfmt::skip]
    pub(super) fn graphql_fields(&self) -> [Field<'t>; 7] {
        [
            self.entitlements_updated_v2, self.entitlements_updated, self.usage_updated_v2, self.usage_updated,
            self.usage_measurement_updated, self.credit_balance_updated, self.package_published,
        ]
    }
}

/// A level and the path from the body to it.
type Level<'t> = (String, LevelFields<'t>);

/// The levels of a message. A field is looked for in the payload first and then outwards.
pub(super) struct Scope<'t> {
    pub(super) payload: Level<'t>,
    /// From the body inwards.
    envelopes: Vec<Level<'t>>,
}

/// Opens a text and reads what is inside its envelopes. `path` leads from the body to it, through this many SNS notifications.
/// `event_type` is the event's, if an envelope so far names it: the outermost documented name decides; an undocumented one
/// (`next` of graphql-ws, a custom `detail-type`) leaves the decision to the envelopes inside.
///
/// How deep objects nest is bounded by `serde_json`.
pub(super) fn open<T>(
    text: &str,
    (mut path, notifications): (String, usize),
    mut event_type: Option<EventType>,
    read: &dyn Fn(EventType, &Scope<'_>) -> Decoded<T>,
) -> Decoded<T> {
    if notifications > NOTIFICATIONS_MAX {
        let problem = format!("more than {NOTIFICATIONS_MAX} notifications inside one another");
        return Err(MalformedBody::at(&path, problem));
    }
    let json = text.trim_start_matches('\u{feff}');
    let mut repaired = None;
    let tree = Tree::parse(json).or_else(|error| {
        repaired = replace_lone_surrogates(json);
        repaired.as_deref().map_or(Err(error), Tree::parse)
    });
    // A syntax error does not quote the text.
    let tree = tree.map_err(|error| MalformedBody::at(&path, format!("not JSON: {error}")))?;
    let root = tree.root().object().map_err(|fault| fault.within(&path))?;
    let mut object = root.ok_or_else(|| MalformedBody::at(&path, "expected an object, found null"))?;
    let mut envelopes = Vec::with_capacity(4);
    let payload = loop {
        let level = LevelFields::of(object);
        let sns_type = level.sns_type.text_if_any();
        let has_message = level.topic_arn.is_present() && level.message.text_if_any().is_some();
        if sns_type.map_or(has_message, |sns_type| sns_type == "Notification") {
            // The SNS envelope is dropped: its `Timestamp` is when it was published, not when the state was true.
            let message = level.message.text().and_then(|text| text.ok_or_else(|| level.message.missing()));
            let message = message.map_err(|fault| fault.within(&path))?;
            return open(message, (join(&path, "Message"), notifications + 1), event_type, read);
        }
        let wrapped = [level.detail, level.payload, level.data].into_iter().find_map(object_at);
        let mut graphql_fields = level.graphql_fields().into_iter();
        let graphql = if wrapped.is_none() { graphql_fields.find_map(object_at) } else { None };
        // A `Type` that is left here is of a message about the SNS subscription itself.
        let names = [level.sns_type, level.kind, level.event_type, level.detail_type, level.typename];
        let names = names.into_iter().filter_map(Field::text_if_any);
        for name in names.chain(graphql.map(|(key, _)| key)) {
            // A documented name is never replaced; the other type is.
            if event_type.is_none_or(|named| named == OTHER) {
                event_type = Some(event_types::find(name).unwrap_or(OTHER));
            }
        }
        let is_usage = event_type.is_some_and(|event_type| event_type.change == Change::Usage);
        let usage = if is_usage { object_at(level.usage) } else { None };
        let Some((key, inner)) = wrapped.or(graphql).or(usage) else {
            break (path, level);
        };
        let inner_path = join(&path, key);
        envelopes.push((path, level));
        (path, object) = (inner_path, inner);
    };
    let scope = Scope { payload, envelopes };
    let event_type = event_type.ok_or_else(|| {
        let problem =
            "missing: neither type, eventType, detail-type, __typename nor a GraphQL field names the event";
        scope.fault("type", problem)
    })?;
    read(event_type, &scope)
}

/// The name of a field that holds an object, and the object.
fn object_at(field: Field<'_>) -> Option<(&str, Object<'_>)> {
    Some((field.key, field.object().ok()??))
}

impl<'t> Scope<'t> {
    fn outwards(&self) -> impl Iterator<Item = &Level<'t>> {
        std::iter::once(&self.payload).chain(self.envelopes.iter().rev())
    }

    /// Reads something from the innermost level that has it.
    pub(super) fn find<T>(
        &self,
        mut read: impl FnMut(&LevelFields<'t>) -> Decoded<Option<T>>,
    ) -> Decoded<Option<T>> {
        let read = |(path, level): &Level<'t>| read(level).map_err(|fault| fault.within(path)).transpose();
        self.outwards().find_map(read).transpose()
    }

    /// The same, but a value of another type counts as absent.
    pub(super) fn find_valid<T>(&self, read: impl Fn(&LevelFields<'t>) -> Option<T>) -> Option<T> {
        self.outwards().find_map(|(_, level)| read(level))
    }

    /// Whose state it is, if the message says so.
    pub(super) fn subject_if_any(&self) -> Decoded<Option<Subject>> {
        let Some(customer) = self.find(|level| flat_or_nested(level.customer_id, level.customer))? else {
            return Ok(None);
        };
        let resource = self.find(|level| flat_or_nested(level.resource_id, level.resource))?;
        Ok(Some(Subject {
            customer: CustomerId(customer.to_owned()),
            resource: resource.map(|id| ResourceId(id.to_owned())),
        }))
    }

    pub(super) fn subject(&self) -> Decoded<Subject> {
        self.subject_if_any()?.ok_or_else(|| self.missing("customerId"))
    }

    /// The fault of a payload without this field.
    pub(super) fn missing(&self, key: &str) -> MalformedBody {
        self.fault(key, "missing")
    }

    fn fault(&self, key: &str, problem: &str) -> MalformedBody {
        MalformedBody::at(key, problem).within(&self.payload.0)
    }
}

/// `customerId`, else `customer.refId`, else `customer.id`; a resource alike. In GraphQL, `id` beside a `refId` is an internal
/// UUID.
pub(super) fn flat_or_nested<'t>(flat: Field<'t>, nested: Field<'t>) -> Decoded<Option<&'t str>> {
    if let Some(id) = flat.text()? {
        return Ok(Some(id));
    }
    let object = nested.object()?.unwrap_or_default();
    first_text([object.get("refId"), object.get("id")]).map_err(|fault| fault.within(nested.key))
}
