//! The sample messages, each as a whole.

use super::{described_text, sample};

#[test]
fn the_webhook_of_entitlements_is_the_list_of_the_resource_at_the_messages_time() {
    assert_eq!(
        described_text(sample("webhook-entitlements-updated")),
        "customer-demo-01/site-1 at 1795161600000 has [feature-storage used 7.5 at 1795161600000]"
    );
}

#[test]
fn the_graphql_list_has_its_own_times_and_the_credits_too() {
    assert_eq!(
        described_text(sample("graphql-entitlements-updated-v2")),
        "customer-demo-01 at 1795161600000 has [\
         feature-api-calls used 42 in 1793491200000..1796083200000 at 1795161700000, \
         feature-sso, \
         feature-regions, \
         credit cred-type-ai used 250 in ..1796083200000 at 1795161700000]"
    );
}

#[test]
fn an_empty_list_with_a_reason_keeps_the_reason() {
    assert_eq!(
        described_text(sample("event-entitlements-updated-empty")),
        "customer-demo-02 at 1795161720000 denied NoActiveSubscription has []"
    );
}

#[test]
fn a_measurement_says_the_same_raw_and_in_either_envelope() {
    for name in ["webhook-measurement-reported", "sns-envelope", "eventbridge-envelope"] {
        assert_eq!(
            described_text(sample(name)),
            "customer-demo-01 used 43 in 1793491200000..1796083200000 of feature-api-calls at 1795161800000",
            "{name}"
        );
    }
}

#[test]
fn a_graphql_usage_has_its_own_time() {
    assert_eq!(
        described_text(sample("graphql-usage-updated-v2")),
        "customer-demo-01 used 44 in 1793491200000..1796083200000 of feature-api-calls at 1795161900000"
    );
}

#[test]
fn a_credit_balance_is_what_was_consumed_and_was_true_when_it_was_sent() {
    assert_eq!(
        described_text(sample("graphql-credit-balance-updated")),
        "customer-demo-01 used 1000 of credit cred-type-ai at 1795200000000"
    );
}

#[test]
fn purge_migration_publication_and_an_idle_event_are_told_apart() {
    assert_eq!(described_text(sample("event-purge-customer")), "purge customer-demo-01");
    assert_eq!(
        described_text(sample("event-subscriptions-migrated")),
        "purge customer-demo-01, customer-demo-02"
    );
    assert_eq!(described_text(sample("graphql-package-published")), "purge everything");
    assert_eq!(described_text(sample("event-unknown")), "ignored COUPON_CREATED");
}
