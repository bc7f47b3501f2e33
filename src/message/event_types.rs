//! The names of events (webhook, event log, GraphQL type, GraphQL field) and what each changes.
//!
//! Names are compared exactly: a similar name is another event. Sources: Stigg's webhook reference, the event types of its
//! event queues, its GraphQL schema.

/// Documented names that change nothing here, one a line: what follows from them comes under a name of [`ACTING`]. They are labels
/// of a metric, and none of them is an envelope of another event.
const WITHOUT_EFFECT: &str = include_str!("events_without_effect.txt");

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

/// What an event's name says has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Entitlements,
    Usage,
    CreditBalance,
    Purge,
    CustomerDeleted,
    /// Subscriptions moved to another version of their plan.
    Migration,
    /// A plan or add-on got a new version.
    PackagePublished,
    /// Nothing that is cached.
    Nothing,
}

/// A documented event name, or [`OTHER`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EventType {
    /// The name itself, for metrics: one of a bounded set.
    pub(super) name: &'static str,
    pub(super) change: Change,
}

/// Every type that is not documented. Labels of metrics come from a fixed set, never from a message.
pub(super) const OTHER: EventType = EventType { name: "other", change: Change::Nothing };

/// The documented event of that name, if there is one.
pub(super) fn find(name: &str) -> Option<EventType> {
    let acting = ACTING.iter().flat_map(|(change, names)| names.iter().map(|name| (*change, *name)));
    let others = WITHOUT_EFFECT.lines().map(|name| (Change::Nothing, name));
    let mut documented = acting.chain(others).map(|(change, name)| EventType { name, change });
    documented.find(|event_type| event_type.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::envelope::LevelFields;
    use super::super::tree::Object;
    use super::*;

    #[test]
    fn no_name_is_listed_twice() {
        let mut seen = HashSet::new();
        for name in ACTING.iter().flat_map(|(_, names)| *names).copied().chain(WITHOUT_EFFECT.lines()) {
            assert!(seen.insert(name), "{name}");
        }
        assert!(seen.len() > 150, "{}", seen.len());
    }

    #[test]
    fn every_graphql_field_is_the_name_of_a_change() {
        for field in LevelFields::of(Object::default()).graphql_fields() {
            let change = find(field.key).map(|name| name.change);
            assert!(change.is_some_and(|change| change != Change::Nothing), "{}", field.key);
        }
    }

    #[test]
    fn a_name_that_is_only_near_is_not_known() {
        for near in
            ["entitlements.updated.", "ENTITLEMENTS-UPDATED", "Entitlements.Updated", "", "next", "FEATURE"]
        {
            assert_eq!(find(near), None, "{near}");
        }
    }
}
