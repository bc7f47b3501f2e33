//! Opens what a message is wrapped in: SNS notification, EventBridge event, the event's own `payload` or `data`, the
//! GraphQL answer; each in any other, up to a bound. Nothing here knows what an event means.

use std::borrow::Cow;

use super::event_types::{Change, EventType, OTHER, event_type};
use super::surrogates::replace_lone_surrogates;
use super::timestamp::StateTimes;
use super::tree::{Field, Object, Tree, fields};
use super::{MalformedBody, Message};
use crate::clock::EpochMs;
use crate::entitlement::{CustomerId, ResourceId, Subject};

/// SNS around EventBridge around an event around a GraphQL answer makes seven levels; a body that is wrapped deeper is no
/// message of Stigg's.
const LEVELS_MAX: usize = 8;

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

/// The levels of a message, from the body to the payload. A field is looked for in the payload first and then outwards.
#[derive(Default)]
pub(super) struct Scope<'t> {
    /// Each with the path from the body to it.
    levels: Vec<(String, LevelFields<'t>)>,
}

/// Opens a body and reads what is inside the envelopes.
pub(super) fn open(
    body: &str,
    mut read: impl FnMut(EventType, &Scope<'_>) -> Result<Message, MalformedBody>,
) -> Result<Message, MalformedBody> {
    let mut envelopes = Envelopes { levels_left: LEVELS_MAX, path: String::new(), event_type: None };
    let mut text = Cow::Borrowed(body);
    loop {
        let mut repaired = None;
        let json = text.trim_start_matches('\u{feff}');
        let tree = Tree::parse(json).or_else(|error| {
            repaired = replace_lone_surrogates(json);
            repaired.as_deref().map_or(Err(error), Tree::parse)
        });
        let tree = tree.map_err(|error| envelopes.not_json(&error))?;
        let mut scope = Scope::default();
        let Some(notification) = envelopes.descend(&tree, &mut scope)? else {
            let event_type = envelopes.event_type.ok_or_else(|| {
                let problem = "missing: neither type, eventType, detail-type, __typename nor a GraphQL field names the event";
                scope.fault("type", problem)
            })?;
            return read(event_type, &scope);
        };
        text = Cow::Owned(notification.to_owned());
    }
}

/// What is known of a message while its envelopes are opened.
struct Envelopes {
    levels_left: usize,
    /// From the body to the present level.
    path: String,
    /// The event's type, if an envelope so far names it. The outermost documented name decides; an undocumented one (`next`
    /// of graphql-ws, an own `detail-type` of a bus) leaves the decision to the envelopes inside.
    event_type: Option<EventType>,
}

impl Envelopes {
    /// Collects the levels of an event, and finds its type. Stops at an SNS notification and returns its message.
    fn descend<'t>(
        &mut self,
        tree: &'t Tree<'_>,
        scope: &mut Scope<'t>,
    ) -> Result<Option<&'t str>, MalformedBody> {
        let mut field = tree.root(if self.path.is_empty() { "body" } else { "" });
        loop {
            let fault = |key: &str, problem: &str| MalformedBody::at(key, problem).within(&self.path);
            if self.levels_left == 0 {
                return Err(fault("", "more than 8 envelopes inside one another"));
            }
            self.levels_left -= 1;
            let object = field.object().map_err(|fault| fault.within(&self.path))?;
            let object = object.ok_or_else(|| fault(field.key, "expected an object, found null"))?;
            let level = LevelFields::of(object);
            let sns_type = level.sns_type.text_if_any();
            if let Some(notice @ ("SubscriptionConfirmation" | "UnsubscribeConfirmation")) = sns_type {
                // SNS about its own subscription.
                self.event_type = event_type(notice);
                return Ok(None);
            }
            let message = level.message.text();
            let has_message = level.topic_arn.is_present() && matches!(message, Ok(Some(_)));
            if sns_type == Some("Notification") || has_message {
                // Of the SNS envelope nothing is kept: its `Timestamp` is when it was published, not when it was true.
                let message = message.map_err(|fault| fault.within(&self.path))?;
                let message = message.ok_or_else(|| fault("Message", "missing"))?;
                self.push("Message");
                return Ok(Some(message));
            }
            let is_object = |field: &Field<'_>| matches!(field.object(), Ok(Some(_)));
            let mut wrappers = [level.detail, level.payload, level.data].into_iter();
            let mut graphql_fields = level.graphql_fields().into_iter();
            let wrapped = wrappers.find(is_object);
            let graphql = graphql_fields.find(|field| wrapped.is_none() && is_object(field));
            let names = [level.kind, level.event_type, level.detail_type, level.typename];
            let names = names.into_iter().filter_map(Field::text_if_any);
            for name in names.chain(graphql.map(|field| field.key)) {
                // A documented name is never replaced; the other type is.
                if self.event_type.is_none_or(|named| named == OTHER) {
                    self.event_type = Some(event_type(name).unwrap_or(OTHER));
                }
            }
            scope.levels.push((self.path.clone(), level));
            let Some(inner) = wrapped.or(graphql) else {
                break;
            };
            self.push(inner.key);
            field = inner;
        }
        // The usage may be an object of its own, beside what it is of.
        let usage = scope.find_valid(|level| level.usage.object().ok()?);
        if let Some(usage) = usage
            && self.event_type.is_some_and(|event_type| event_type.change == Change::Usage)
        {
            self.push("usage");
            scope.levels.push((self.path.clone(), LevelFields::of(usage)));
        }
        Ok(None)
    }

    fn not_json(&self, error: &serde_json::Error) -> MalformedBody {
        let place = format!("{} line {} column {}", self.path, error.line(), error.column());
        // An error of the syntax quotes nothing of the text. Its position is already in the place.
        let problem = error.to_string();
        let problem = problem.split(" at line ").next().unwrap_or_default();
        MalformedBody::at(place.trim_start(), format!("not JSON: {problem}"))
    }

    fn push(&mut self, key: &str) {
        let separator = if self.path.is_empty() { "" } else { "." };
        self.path.extend([separator, key]);
    }
}

impl<'t> Scope<'t> {
    fn outwards(&self) -> impl Iterator<Item = &(String, LevelFields<'t>)> {
        self.levels.iter().rev()
    }

    /// Reads something from the innermost level that has it.
    pub(super) fn find<T>(
        &self,
        mut read: impl FnMut(&LevelFields<'t>) -> Result<Option<T>, MalformedBody>,
    ) -> Result<Option<T>, MalformedBody> {
        for (path, level) in self.outwards() {
            match read(level) {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(fault) => return Err(fault.within(path)),
            }
        }
        Ok(None)
    }

    /// The same for what is left out if it is of another kind.
    pub(super) fn find_valid<T>(&self, read: impl Fn(&LevelFields<'t>) -> Option<T>) -> Option<T> {
        self.outwards().find_map(|(_, level)| read(level))
    }

    /// The innermost possible time of a state.
    pub(super) fn find_time(
        &self,
        times: &StateTimes,
        field: impl Fn(&LevelFields<'t>) -> Field<'t>,
    ) -> Option<EpochMs> {
        self.find_valid(|level| times.possible(field(level).date()))
    }

    /// Whose state it is, if the message says so.
    pub(super) fn subject_if_any(&self) -> Result<Option<Subject>, MalformedBody> {
        let Some(customer) = self.find(|level| flat_or_nested(level.customer_id, level.customer))? else {
            return Ok(None);
        };
        let resource = self.find(|level| flat_or_nested(level.resource_id, level.resource))?;
        Ok(Some(Subject {
            customer: CustomerId(customer.to_owned()),
            resource: resource.map(|id| ResourceId(id.to_owned())),
        }))
    }

    /// Whose state it is.
    pub(super) fn subject(&self) -> Result<Subject, MalformedBody> {
        self.subject_if_any()?.ok_or_else(|| self.missing("customerId"))
    }

    /// The fault of a payload without this field.
    pub(super) fn missing(&self, key: &str) -> MalformedBody {
        self.fault(key, "missing")
    }

    fn fault(&self, key: &str, problem: &str) -> MalformedBody {
        let path = self.levels.last().map_or("", |(path, _)| path);
        MalformedBody::at(key, problem).within(path)
    }

    /// Reads something from the payload alone.
    pub(super) fn in_payload<T>(
        &self,
        read: impl FnOnce(&LevelFields<'t>) -> Result<Option<T>, MalformedBody>,
    ) -> Result<Option<T>, MalformedBody> {
        let Some((path, level)) = self.levels.last() else {
            return Ok(None);
        };
        read(level).map_err(|fault| fault.within(path))
    }
}

/// `customerId`, else `customer.refId`, else `customer.id`; a resource alike.
pub(super) fn flat_or_nested<'t>(
    flat: Field<'t>,
    nested: Field<'t>,
) -> Result<Option<&'t str>, MalformedBody> {
    match (flat.text()?, nested.object()) {
        (None, Ok(Some(object))) => own_id(object).map_err(|fault| fault.within(nested.key)),
        (None, Err(fault)) => Err(fault),
        (flat, _) => Ok(flat),
    }
}

/// The id of an object itself: `refId` where there is one (in GraphQL, `id` is then an internal UUID), else `id`.
pub(super) fn own_id(object: Object<'_>) -> Result<Option<&str>, MalformedBody> {
    match object.get("refId").text()? {
        Some(id) => Ok(Some(id)),
        None => object.get("id").text(),
    }
}
