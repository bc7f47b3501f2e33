//! The names of events (webhook, event log, GraphQL type, GraphQL field) and what each changes.
//!
//! Names are compared exactly: a similar name is another event. Sources: Stigg's webhook
//! reference, the event types of its event queues, its GraphQL schema.

/// What an event's name says has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// A whole entitlement list.
    Entitlements,
    /// One usage.
    Usage,
    /// The balance of a credit currency.
    CreditBalance,
    /// A customer is to be forgotten.
    Purge,
    /// A customer is gone; the webhook is the customer object itself.
    CustomerDeleted,
    /// Subscriptions moved to another version of their plan.
    Migration,
    /// A plan or add-on got a new version.
    PackagePublished,
    /// Nothing that is cached.
    Nothing,
}

/// A documented event name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EventType {
    /// The name itself, for metrics: one of a bounded set.
    pub(super) name: &'static str,
    /// What it means here.
    pub(super) change: Change,
}

/// Every type that is not documented. Labels of metrics come from a fixed set, never from a message.
pub(super) const OTHER: EventType = EventType { name: "other", change: Change::Nothing };

/// The documented event of that name, if there is one.
pub(super) fn event_type(name: &str) -> Option<EventType> {
    let idle = std::iter::once(&(Change::Nothing, IDLE));
    ACTING.iter().chain(idle).find_map(|(change, names)| {
        let name = names.iter().find(|known| **known == name)?;
        Some(EventType { name, change: *change })
    })
}

/// Names that change what is cached.
#[rustfmt::skip]
const ACTING: [(Change, &[&str]); 7] = [
    (Change::Entitlements, &[
        "entitlements.updated", "ENTITLEMENTS_UPDATED", "EntitlementsUpdated", "entitlementsUpdated",
        "EntitlementsUpdatedV2", "entitlementsUpdatedV2",
    ]),
    (Change::Usage, &[
        "measurement.reported", "MEASUREMENT_REPORTED", "UsageUpdated", "usageUpdated", "UsageMeasurementUpdated",
        "usageMeasurementUpdated", "UsageUpdatedV2", "usageUpdatedV2",
    ]),
    (Change::CreditBalance, &["CREDIT_BALANCE_UPDATED", "CreditBalanceUpdated", "creditBalanceUpdated"]),
    (Change::Purge, &["PURGE_CUSTOMER_PERSISTENT_CACHE_REQUESTED"]),
    (Change::CustomerDeleted, &["customer.deleted", "CUSTOMER_DELETED"]),
    (Change::Migration, &["SUBSCRIPTIONS_MIGRATED", "subscriptionsMigrated"]),
    (Change::PackagePublished, &["PACKAGE_PUBLISHED", "PackagePublished", "packagePublished"]),
];

/// Documented names that change nothing here: what they lead to comes as one of the names above.
#[rustfmt::skip]
const IDLE: &[&str] = &[
    // Webhooks.
    "addon.created", "addon.deleted", "addon.updated", "automatic_recharge.operation.attempted", "coupon.archived",
    "coupon.created", "coupon.updated", "credit_balance.depleted", "credit_balance.low", "credits.automatic_recharge_limit_exceeded",
    "credits.balance.depleted", "credits.balance.usage_low", "credits.expired", "credits.grant.depleted",
    "credits.grant.updated", "credits.grant.usage_low", "credits.granted", "customer.created", "customer.payment_failed",
    "customer.updated", "entitlement_usage_exceeded",
    "feature.created", "feature.deleted", "feature.updated", "plan.created", "plan.deleted", "plan.updated",
    "product.created", "product.deleted", "product.updated", "promotionalEntitlement.ends_soon",
    "promotionalEntitlement.expired", "promotionalEntitlement.granted", "promotionalEntitlement.revoked",
    "promotionalEntitlement.updated", "subscription.billing_month.ends_soon", "subscription.canceled",
    "subscription.create_failed", "subscription.created", "subscription.expired", "subscription.trial.ends_soon",
    "subscription.trial_converted", "subscription.trial_expired", "subscription.trial_started", "subscription.updated",
    // Event queue and event log.
    "ADDON_CREATED", "ADDON_DELETED", "ADDON_UPDATED", "API_KEY_CREATED", "API_KEY_REVOKED", "API_KEY_ROTATED",
    "API_KEY_UPDATED", "AUTOMATIC_RECHARGE_CONFIGURATION_CHANGED", "AUTOMATIC_RECHARGE_OPERATION_ATTEMPTED",
    "AUTOMATIC_RECHARGE_THRESHOLD_BREACH", "COUPON_ARCHIVED", "COUPON_CREATED", "COUPON_UPDATED",
    "CREATE_SUBSCRIPTION_FAILED", "CREDITS_AUTOMATIC_RECHARGE_LIMIT_EXCEEDED", "CREDIT_BALANCE_DEPLETED",
    "CREDIT_BALANCE_LOW", "CREDIT_GRANT_BALANCE_DEPLETED", "CREDIT_GRANT_BALANCE_LOW", "CREDIT_GRANT_CREATED",
    "CREDIT_GRANT_DEPLETED", "CREDIT_GRANT_EXPIRED", "CREDIT_GRANT_PROCESS_COMPLETED", "CREDIT_GRANT_UPDATED",
    "CREDIT_GRANT_VOIDED", "CUSTOMER_CREATED", "CUSTOMER_ENTITLEMENT_CALCULATION_TRIGGERED", "CUSTOMER_PAYMENT_FAILED",
    "CUSTOMER_RESOURCE_ENTITLEMENT_CALCULATION_TRIGGERED", "CUSTOMER_UPDATED",
    "EDGE_API_CLIENT_CONFIGURATION_DATA_RESYNC", "EDGE_API_CUSTOMER_DATA_RESYNC", "EDGE_API_DATA_RESYNC",
    "EDGE_API_DOGGO_RESYNC", "EDGE_API_PACKAGE_ENTITLEMENTS_DATA_RESYNC", "EDGE_API_PLAN_CACHE_DATA_RESYNC",
    "EDGE_API_PRODUCT_CACHE_DATA_RESYNC", "EDGE_API_SUBSCRIPTIONS_DATA_RESYNC", "ENTITLEMENT_DENIED",
    "ENTITLEMENT_GRANTED", "ENTITLEMENT_REQUESTED", "ENTITLEMENT_USAGE_EXCEEDED", "ENVIRONMENT_DELETED",
    "EVENT_LOG_CREATED", "EVENT_QUEUE_DEPROVISIONING_REQUESTED", "EVENT_QUEUE_PROVISIONING_REQUESTED",
    "FEATURE_ARCHIVED", "FEATURE_CREATED", "FEATURE_DELETED", "FEATURE_GROUP_ARCHIVED", "FEATURE_GROUP_CREATED",
    "FEATURE_GROUP_UN_ARCHIVED", "FEATURE_GROUP_UPDATED", "FEATURE_UPDATED", "IMPORT_INTEGRATION_CATALOG",
    "IMPORT_INTEGRATION_CATALOG_TRIGGERED", "IMPORT_INTEGRATION_CUSTOMERS", "IMPORT_INTEGRATION_CUSTOMERS_TRIGGERED",
    "IMPORT_SUBSCRIPTIONS_BULK_TRIGGERED", "MEMBER_INVITED", "MIGRATE_SUBSCRIPTIONS",
    "MIGRATE_SUBSCRIPTIONS_SCHEDULED_UPDATES", "PACKAGE_GROUP_CREATED", "PACKAGE_GROUP_UPDATED", "PLAN_CREATED",
    "PLAN_DELETED", "PLAN_UPDATED", "PRODUCT_CREATED", "PRODUCT_DELETED", "PRODUCT_UNARCHIVED", "PRODUCT_UPDATED",
    "PROMOTIONAL_ENTITLEMENT_ENDS_SOON", "PROMOTIONAL_ENTITLEMENT_EXPIRED", "PROMOTIONAL_ENTITLEMENT_GRANTED",
    "PROMOTIONAL_ENTITLEMENT_REVOKED", "PROMOTIONAL_ENTITLEMENT_UPDATED", "RECALCULATE_ENTITLEMENTS_TRIGGERED",
    "RECALCULATE_MIGRATED_ENTITLEMENTS_BATCH", "RECALCULATE_RESOURCE_ENTITLEMENTS", "REPLAY_WEBHOOK_EVENT",
    "RESYNC_INTEGRATION", "RESYNC_INTEGRATION_TRIGGERED", "SCHEDULER_BATCH", "SUBSCRIPTIONS_MIGRATION_TRIGGERED",
    "SUBSCRIPTION_BILLING_MONTH_ENDS_SOON", "SUBSCRIPTION_CANCELED", "SUBSCRIPTION_CREATED", "SUBSCRIPTION_EXPIRED",
    "SUBSCRIPTION_SPENT_LIMIT_EXCEEDED", "SUBSCRIPTION_TRIAL_CONVERTED", "SUBSCRIPTION_TRIAL_ENDS_SOON",
    "SUBSCRIPTION_TRIAL_EXPIRED", "SUBSCRIPTION_TRIAL_STARTED", "SUBSCRIPTION_UPDATED",
    "SUBSCRIPTION_USAGE_CHARGE_TRIGGERED", "SUBSCRIPTION_USAGE_UPDATED", "SYNC_COUPON", "SYNC_CREDIT_GRANT",
    "SYNC_CUSTOMER", "SYNC_FAILED", "SYNC_PACKAGE", "SYNC_SUBSCRIPTION", "SYNC_SUBSCRIPTION_USAGE",
    "USAGE_THRESHOLD_EXCEEDED", "WIDGET_CONFIGURATION_UPDATED",
    // Amazon SNS, about its own subscription to the queue.
    "SubscriptionConfirmation", "UnsubscribeConfirmation",
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::envelope::LevelFields;
    use super::super::tree::Object;
    use super::*;

    #[test]
    fn no_name_is_listed_twice() {
        let mut seen = HashSet::new();
        for name in ACTING.iter().flat_map(|(_, names)| *names).chain(IDLE) {
            assert!(seen.insert(name), "{name}");
        }
    }

    #[test]
    fn every_graphql_field_is_the_name_of_a_change() {
        for field in LevelFields::of(Object::default()).graphql_fields() {
            let change = event_type(field.key).map(|name| name.change);
            assert!(change.is_some_and(|change| change != Change::Nothing), "{}", field.key);
        }
    }

    #[test]
    fn a_name_that_is_only_near_is_not_known() {
        for near in
            ["entitlements.updated.", "ENTITLEMENTS-UPDATED", "Entitlements.Updated", "", "next", "FEATURE"]
        {
            assert_eq!(event_type(near), None, "{near}");
        }
    }
}
