//! The objects of a message with the fields that matter here, under the names that either form (webhook, GraphQL)
//! gives them. Everything else in a message is skipped.

use std::borrow::Cow;

use serde::de::{IgnoredAny, MapAccess};
use serde_json::Number;

use super::field::{Field, FieldSeed, FromJson, RawList, RawObject, next_key, object};
use super::list::{EntitlementList, SubjectList};
use super::timestamp::Timestamp;
use crate::entitlement::RawJson;

type Text<'a> = Cow<'a, str>;

object! {
    /// One level of a message: an envelope, or the payload. A message may put its customer or its timestamp on either
    /// side of `payload`, and not every form has an envelope, so that every level may have every field.
    LevelFields {
        // The name of the event.
        kind: Text<'a> = "type",
        event_type: Text<'a> = "eventType",
        detail_type: Text<'a> = "detail-type",
        typename: Text<'a> = "__typename",
        // Amazon SNS.
        sns_type: Text<'a> = "Type",
        topic_arn: Text<'a> = "TopicArn",
        message: Text<'a> = "Message",
        // Whose.
        customer_id: Text<'a> = "customerId",
        customer: Box<Reference<'a>> = "customer",
        resource_id: Text<'a> = "resourceId",
        resource: Box<Reference<'a>> = "resource",
        // When.
        timestamp: Timestamp = "timestamp",
        entitlements_updated_at: Timestamp = "entitlementsUpdatedAt",
        usage_updated_at: Timestamp = "usageUpdatedAt",
        // Entitlements.
        entitlements: EntitlementList = "entitlements",
        entitlements_v2: EntitlementList = "entitlementsV2",
        access_denied_reason: Text<'a> = "accessDeniedReason",
        // A usage.
        entitlement: Box<UsageEntitlement<'a>> = "entitlement",
        entitlement_reference: Box<EntitlementReference<'a>> = "entitlementReference",
        feature: Box<Reference<'a>> = "feature",
        feature_id: Text<'a> = "featureId",
        current_usage: Number = "currentUsage",
        usage_period_start: Timestamp = "usagePeriodStart",
        usage_period_end: Timestamp = "usagePeriodEnd",
        next_reset_date: Timestamp = "nextResetDate",
        // The balance of a credit currency.
        currency_id: Text<'a> = "currencyId",
        currency: Box<Reference<'a>> = "currency",
        total_consumed: Number = "totalConsumed",
        total_granted: Number = "totalGranted",
        current_balance: Number = "currentBalance",
        valid_until: Timestamp = "validUntil",
        // Purges.
        customer_ids: SubjectList = "customerIds",
        customers: SubjectList = "customers",
        ref_id: Text<'a> = "refId",
        id: Text<'a> = "id",
        migration_type: Text<'a> = "migrationType",
    }
}

object! {
    /// A customer, a resource, a feature or a currency that is only named.
    Reference {
        ref_id: Text<'a> = "refId",
        id: Text<'a> = "id",
        currency_id: Text<'a> = "currencyId",
    }
}

object! {
    /// What GraphQL's `UsageUpdated` has beside its usage.
    UsageEntitlement {
        feature: Box<Reference<'a>> = "feature",
        feature_id: Text<'a> = "featureId",
        usage_updated_at: Timestamp = "usageUpdatedAt",
    }
}

object! {
    /// What the usage of GraphQL's `UsageUpdatedV2` is of.
    EntitlementReference {
        kind: Text<'a> = "type",
        id: Text<'a> = "id",
    }
}

object! {
    /// A customer in a list of customers.
    ListedCustomer {
        customer_id: Text<'a> = "customerId",
        customer: Box<Reference<'a>> = "customer",
        ref_id: Text<'a> = "refId",
        id: Text<'a> = "id",
        resource_id: Text<'a> = "resourceId",
        resource: Box<Reference<'a>> = "resource",
    }
}

object! {
    /// An entry of an entitlement list.
    Entry {
        typename: Text<'a> = "__typename",
        kind: Text<'a> = "type",
        feature: Box<EntryFeature<'a>> = "feature",
        currency_id: Text<'a> = "currencyId",
        currency: Box<Currency<'a>> = "currency",
        resource_id: Text<'a> = "resourceId",
        resource: Box<Reference<'a>> = "resource",
        usage_limit: Number = "usageLimit",
        has_unlimited_usage: bool = "hasUnlimitedUsage",
        has_soft_limit: bool = "hasSoftLimit",
        access_denied_reason: Text<'a> = "accessDeniedReason",
        enum_values: RawList = "enumValues",
        valid_until: Timestamp = "validUntil",
        credit_rate: Box<EntryCreditRate<'a>> = "creditRate",
        reset_period: Text<'a> = "resetPeriod",
        reset_period_configuration: RawObject = "resetPeriodConfiguration",
        entitlement_updated_at: Timestamp = "entitlementUpdatedAt",
        current_usage: Number = "currentUsage",
        usage_updated_at: Timestamp = "usageUpdatedAt",
        usage_period_anchor: Timestamp = "usagePeriodAnchor",
        usage_period_start: Timestamp = "usagePeriodStart",
        usage_period_end: Timestamp = "usagePeriodEnd",
        next_reset_date: Timestamp = "nextResetDate",
    }
}

object! {
    /// The feature of an entry.
    EntryFeature {
        ref_id: Text<'a> = "refId",
        id: Text<'a> = "id",
        feature_type: Text<'a> = "featureType",
        meter_type: Text<'a> = "meterType",
        feature_units: Text<'a> = "featureUnits",
        feature_units_plural: Text<'a> = "featureUnitsPlural",
        // A webhook's `unit` is one of them and its `units` are several, unlike what the words suggest beside GraphQL's.
        unit: Text<'a> = "unit",
        units: Text<'a> = "units",
        display_name: Text<'a> = "displayName",
        name: Text<'a> = "name",
    }
}

object! {
    /// What a unit of a feature costs.
    EntryCreditRate {
        amount: Number = "amount",
        currency_id: Text<'a> = "currencyId",
        currency: Box<Reference<'a>> = "currency",
    }
}

/// The currency of an entry: its id, and the other fields as given.
#[derive(Debug, Default)]
pub(super) struct Currency<'a> {
    pub(super) reference: Reference<'a>,
    pub(super) others: Vec<(Cow<'a, str>, RawJson)>,
}

impl<'a> FromJson<'a> for Box<Currency<'a>> {
    const WANTED: &'static str = "an object";

    fn from_object<A: MapAccess<'a>>(mut object: A, _levels: usize) -> Result<Option<Self>, A::Error> {
        let mut currency: Self = Box::default();
        while let Some(key) = next_key(&mut object)? {
            if key == "currencyId" {
                currency.reference.read(&key, &mut object)?;
                continue;
            }
            let value: RawJson = object.next_value()?;
            let text = || serde_json::from_str(value.get()).map_or(Field::Null, Field::Value);
            match &*key {
                "refId" => currency.reference.ref_id = text(),
                "id" => currency.reference.id = text(),
                _ => {}
            }
            if key != "__typename" {
                currency.others.push((key, value));
            }
        }
        Ok(Some(currency))
    }
}

/// Levels inside one another. SNS around EventBridge around an event around a GraphQL answer makes seven; a body that
/// is wrapped deeper is no message of Stigg's.
pub(super) const LEVELS_MAX: usize = 8;

/// The fields that hold the payload or the next envelope, in the order in which they are looked for, before
/// [`GRAPHQL_FIELDS`].
const WRAPPERS: [&str; 3] = ["detail", "payload", "data"];

/// The GraphQL subscription fields. They hold the payload and name the event: `{"data": {"<field>": {…payload…}}}`.
#[rustfmt::skip]
pub(super) const GRAPHQL_FIELDS: [&str; 7] = [
    "entitlementsUpdatedV2", "entitlementsUpdated", "usageUpdatedV2", "usageUpdated", "usageMeasurementUpdated",
    "creditBalanceUpdated", "packagePublished",
];

/// An envelope or the payload.
#[derive(Debug, Default)]
pub(super) struct Level<'a> {
    pub(super) fields: LevelFields<'a>,
    /// What is wrapped in it: how soon its field is looked for, the field, the level.
    pub(super) inner: Option<(usize, &'static str, Box<Level<'a>>)>,
    /// Its `usage`, an object of its own beside what the usage is of.
    pub(super) usage: Option<Box<Level<'a>>>,
}

/// Reads a level, and so many inside of it; the one inside those without looking further, so that it can be refused.
impl<'a> FromJson<'a> for Box<Level<'a>> {
    const WANTED: &'static str = "an object";

    fn from_object<A: MapAccess<'a>>(mut object: A, levels: usize) -> Result<Option<Self>, A::Error> {
        let mut read: Self = Box::default();
        while let Some(key) = next_key(&mut object)? {
            if read.fields.read(&key, &mut object)? {
                continue;
            }
            let mut wrappers = WRAPPERS.into_iter().chain(GRAPHQL_FIELDS).enumerate();
            let wrapper = wrappers.find(|(_, wrapper)| levels > 0 && *wrapper == key);
            let best = read.inner.as_ref().map_or(usize::MAX, |(rank, ..)| *rank);
            match wrapper {
                Some((rank, key)) if rank <= best => {
                    let level = object
                        .next_value_seed(FieldSeed::levels(levels - 1))?
                        .into_value();
                    let read_before = read.inner.take().filter(|_| rank < best);
                    read.inner = level.map(|level| (rank, key, level)).or(read_before);
                }
                None if key == "usage" && levels > 0 => {
                    read.usage = object.next_value_seed(FieldSeed::levels(0))?.into_value();
                }
                Some(_) | None => drop(object.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Some(read))
    }
}
