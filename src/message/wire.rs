//! The objects of a message with the fields that matter here, under the names that either form (webhook, GraphQL)
//! gives them. Everything else in a message is skipped.

use std::borrow::Cow;

use serde::de::{IgnoredAny, MapAccess, Visitor as _};
use serde_json::Number;

use super::field::{Field, FieldSeed, FromJson, Key, RawList, RawObject, object};
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
        amount: RawJson = "amount",
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
        while let Some(Key(key)) = object.next_key()? {
            match &*key {
                "currencyId" => {
                    currency.reference.read(&key, &mut object)?;
                }
                "__typename" => {
                    object.next_value::<IgnoredAny>()?;
                }
                _ => {
                    let value: RawJson = object.next_value()?;
                    let text = || serde_json::from_str(value.get()).map_or(Field::Null, Field::Value);
                    match &*key {
                        "refId" => currency.reference.ref_id = text(),
                        "id" => currency.reference.id = text(),
                        _ => {}
                    }
                    currency.others.push((key, value));
                }
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
pub(super) const GRAPHQL_FIELDS: [&str; 7] = [
    "entitlementsUpdatedV2",
    "entitlementsUpdated",
    "usageUpdatedV2",
    "usageUpdated",
    "usageMeasurementUpdated",
    "creditBalanceUpdated",
    "packagePublished",
];

/// An envelope or the payload.
#[derive(Debug, Default)]
pub(super) struct Level<'a> {
    pub(super) fields: LevelFields<'a>,
    /// What is wrapped in it.
    pub(super) inner: Option<Inner<'a>>,
    /// Its `usage`, an object of its own beside what the usage is of.
    pub(super) usage: Option<Box<Level<'a>>>,
}

/// What is wrapped in a level.
#[derive(Debug)]
pub(super) struct Inner<'a> {
    /// How soon its field is looked for.
    rank: usize,
    pub(super) key: &'static str,
    /// None if it is deeper than [`LEVELS_MAX`]: it was not read.
    pub(super) level: Option<Box<Level<'a>>>,
}

impl<'a> FromJson<'a> for Box<Level<'a>> {
    const WANTED: &'static str = "an object";

    fn from_object<A: MapAccess<'a>>(mut object: A, levels: usize) -> Result<Option<Self>, A::Error> {
        let mut read: Self = Box::default();
        while let Some(Key(key)) = object.next_key()? {
            if read.fields.read(&key, &mut object)? {
                continue;
            }
            let mut wrappers = WRAPPERS.into_iter().chain(GRAPHQL_FIELDS).enumerate();
            let wrapper = wrappers.find(|(_, wrapper)| *wrapper == key);
            match (levels, wrapper) {
                (1.., Some(wrapper)) => read.read_inner(wrapper, &mut object, levels - 1)?,
                (1.., None) if key == "usage" => {
                    read.usage = object.next_value_seed(FieldSeed::new(0))?.into_value();
                }
                _ => {
                    object.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Some(read))
    }
}

impl<'a> Level<'a> {
    /// Reads what is wrapped in this level, if it may hold so many more. If several fields could be wrappers, the one that is looked for first is.
    fn read_inner<A: MapAccess<'a>>(
        &mut self,
        (rank, key): (usize, &'static str),
        object: &mut A,
        levels: usize,
    ) -> Result<(), A::Error> {
        let rank_so_far = self.inner.as_ref().map(|inner| inner.rank);
        if rank_so_far.is_some_and(|rank_so_far| rank_so_far < rank) {
            object.next_value::<IgnoredAny>()?;
            return Ok(());
        }
        let level = match levels {
            0 => object
                .next_value::<Field<Unread>>()?
                .into_value()
                .map(|Unread| None),
            _ => object
                .next_value_seed(FieldSeed::new(levels))?
                .into_value()
                .map(Some),
        };
        match level {
            Some(level) => self.inner = Some(Inner { rank, key, level }),
            // The last of a repeated field counts.
            None if rank_so_far == Some(rank) => self.inner = None,
            None => {}
        }
        Ok(())
    }
}

/// An object that is not read.
struct Unread;

impl<'de> FromJson<'de> for Unread {
    const WANTED: &'static str = "an object";

    fn from_object<A: MapAccess<'de>>(object: A, _levels: usize) -> Result<Option<Self>, A::Error> {
        IgnoredAny.visit_map(object)?;
        Ok(Some(Self))
    }
}
