//! What comes out of a body, described in one line, so that a test reads as the message and its meaning.

mod changes;
mod entitlements;
mod envelopes;
mod robustness;
mod samples;
mod timestamps;

use serde_json::Value;

use super::{Event, MalformedBody, Message, decode};
use crate::clock::EpochMs;
use crate::entitlement::{Entitlement, Subject, Usage, UsageOf};

/// The `SentTimestamp` of every message here.
const SENT_AT: EpochMs = EpochMs(1_795_200_000_000);

/// The samples as they are, by file name.
const SAMPLES: [(&str, &str); 12] = [
    (
        "event-entitlements-updated-empty",
        include_str!("../../../tests/samples/event-entitlements-updated-empty.json"),
    ),
    ("event-purge-customer", include_str!("../../../tests/samples/event-purge-customer.json")),
    (
        "event-subscriptions-migrated",
        include_str!("../../../tests/samples/event-subscriptions-migrated.json"),
    ),
    ("event-unknown", include_str!("../../../tests/samples/event-unknown.json")),
    ("eventbridge-envelope", include_str!("../../../tests/samples/eventbridge-envelope.json")),
    (
        "graphql-credit-balance-updated",
        include_str!("../../../tests/samples/graphql-credit-balance-updated.json"),
    ),
    (
        "graphql-entitlements-updated-v2",
        include_str!("../../../tests/samples/graphql-entitlements-updated-v2.json"),
    ),
    ("graphql-package-published", include_str!("../../../tests/samples/graphql-package-published.json")),
    ("graphql-usage-updated-v2", include_str!("../../../tests/samples/graphql-usage-updated-v2.json")),
    ("sns-envelope", include_str!("../../../tests/samples/sns-envelope.json")),
    (
        "webhook-entitlements-updated",
        include_str!("../../../tests/samples/webhook-entitlements-updated.json"),
    ),
    (
        "webhook-measurement-reported",
        include_str!("../../../tests/samples/webhook-measurement-reported.json"),
    ),
];

fn sample(name: &str) -> &'static str {
    SAMPLES.iter().find(|(sample, _)| *sample == name).expect("a sample of that name").1
}

fn decoded(body: &Value) -> Result<Message, MalformedBody> {
    decode(&body.to_string(), SENT_AT)
}

/// What a body says, in one line; or where it is malformed, and why.
fn described(body: &Value) -> String {
    described_text(&body.to_string())
}

fn described_text(body: &str) -> String {
    match decode(body, SENT_AT) {
        Ok(message) => describe(&message.event),
        Err(fault) => format!("malformed: {fault}"),
    }
}

fn describe(event: &Event) -> String {
    match event {
        Event::EntitlementsUpdated(updated) => {
            let reason = updated.access_denied_reason.as_deref();
            let denied = reason.map(|reason| format!(" denied {reason}")).unwrap_or_default();
            let entries: Vec<_> = updated.entitlements.iter().map(describe_entry).collect();
            let (subject, at) = (describe_subject(&updated.subject), updated.updated_at.0);
            format!("{subject} at {at}{denied} has [{}]", entries.join(", "))
        }
        Event::UsageUpdated(updated) => {
            let (subject, usage) = (describe_subject(&updated.subject), describe_usage(&updated.usage));
            format!("{subject} used {usage} of {} at {}", describe_of(&updated.of), updated.updated_at.0)
        }
        Event::Purged(subjects) => {
            let subjects = (0..subjects.len()).map(|index| describe_subject(&subjects.get(index)));
            format!("purge {}", subjects.collect::<Vec<_>>().join(", "))
        }
        Event::EnvironmentInvalidated => "purge everything".to_owned(),
        Event::Ignored { label } => format!("ignored {label}"),
    }
}

fn describe_subject(subject: &Subject) -> String {
    match &subject.resource {
        Some(resource) => format!("{}/{}", subject.customer.as_str(), resource.as_str()),
        None => subject.customer.as_str().to_owned(),
    }
}

fn describe_of(of: &UsageOf) -> String {
    match of {
        UsageOf::Feature(feature) => feature.as_str().to_owned(),
        UsageOf::Credit(currency) => format!("credit {}", currency.as_str()),
    }
}

fn describe_entry(entitlement: &Entitlement) -> String {
    let of = describe_of(&entitlement.of);
    match entitlement.usage_updated_at {
        Some(at) => format!("{of} used {} at {}", describe_usage(&entitlement.usage), at.0),
        None => of,
    }
}

fn describe_usage(usage: &Usage) -> String {
    let ms = |time: Option<EpochMs>| time.map(|time| time.0.to_string()).unwrap_or_default();
    match (usage.period_start, usage.period_end) {
        (None, None) => usage.current_usage.to_string(),
        (start, end) => format!("{} in {}..{}", usage.current_usage, ms(start), ms(end)),
    }
}
