//! The bodies of the origin's messages, some of them with a time that cannot be true.

use fastrand::Rng;
use serde_json::{Value, json};

use super::truth::{Balance, Listing, Measured, Subject, state_of};
use crate::support::messages::{CreditBalance, Envelope, Shape, entitlements_updated, usage_updated};
use crate::support::state::{State, iso, metered};

const YEAR_3000_MS: i64 = 32_503_680_000_000;

/// What the origin's clock is wrong about. The state times that follow from it are the truth's own all the same, or
/// the time at which the queue took the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrongTime {
    None,
    /// Another field of the message has the time.
    OneOfSeveral,
    /// No field of the message has the time: it counts from when it was sent, so it is sent at once.
    All,
}

impl WrongTime {
    pub fn some(rng: &mut Rng) -> Self {
        match rng.u8(..24) {
            0..2 => Self::OneOfSeveral,
            2 => Self::All,
            _ => Self::None,
        }
    }
}

/// The year 3000, or seconds in place of milliseconds.
fn impossible(at: i64, rng: &mut Rng) -> Value {
    match rng.u8(..3) {
        0 => json!(iso(YEAR_3000_MS + at % 1_000)),
        1 => json!(YEAR_3000_MS),
        _ => json!(at / 1_000),
    }
}

/// A message about a list. `own_usage_time` is false where every usage in it is of the list's time.
pub struct ListBody {
    pub body: String,
    pub what: String,
    pub own_usage_time: bool,
}

pub fn list(
    subject: &Subject,
    listing: &Listing,
    (shape, with_credit): (Shape, bool),
    wrong: WrongTime,
    rng: &mut Rng,
) -> ListBody {
    let mut message = entitlements_updated(&state_of(subject, listing, with_credit), shape);
    let body = &mut message.body;
    let has_times = shape != Shape::Webhook;
    let times_of_entries = match (wrong, has_times) {
        (WrongTime::All, true) => usize::MAX,
        (WrongTime::OneOfSeveral, true) => listing.limits.len() - 1,
        (WrongTime::None, _) | (_, false) => 0,
    };
    let entries = match shape {
        Shape::Webhook | Shape::EventLog => &mut body["entitlements"],
        Shape::GraphqlV1 => &mut body["data"]["entitlementsUpdated"]["entitlements"],
        Shape::GraphqlV2 => &mut body["data"]["entitlementsUpdatedV2"]["entitlements"],
    };
    let entries = entries.as_array_mut().expect("entitlements");
    for entry in entries.iter_mut().take(times_of_entries) {
        entry["entitlementUpdatedAt"] = impossible(listing.at, rng);
    }
    let has_message_time = matches!(shape, Shape::Webhook | Shape::EventLog);
    if has_message_time && (wrong == WrongTime::All || (wrong == WrongTime::OneOfSeveral && has_times)) {
        body["timestamp"] = impossible(listing.at, rng);
    }
    let envelope = rng.choice(Envelope::ALL).expect("an envelope");
    ListBody {
        body: message.wrapped(envelope),
        what: format!("by {shape:?} in {envelope:?}, wrong times: {wrong:?}"),
        own_usage_time: has_times,
    }
}

pub fn usage(
    subject: &Subject,
    feature: &str,
    measured: Measured,
    wrong: WrongTime,
    rng: &mut Rng,
) -> (String, String) {
    let shape = match wrong {
        WrongTime::None => rng.choice(Shape::ALL).expect("a shape"),
        WrongTime::OneOfSeveral => Shape::EventLog,
        WrongTime::All => rng.choice([Shape::Webhook, Shape::GraphqlV2]).expect("a shape"),
    };
    let state = State::new(subject.owner(), measured.at, &[metered(feature, 10, measured.value)]);
    let mut message = usage_updated(&state, feature, measured.value, measured.at, shape);
    let body = &mut message.body;
    match (wrong, shape) {
        (WrongTime::None, _) => {}
        (WrongTime::OneOfSeveral, _) => body["payload"]["usageUpdatedAt"] = impossible(measured.at, rng),
        (WrongTime::All, Shape::GraphqlV2) => {
            body["data"]["usageUpdatedV2"]["usage"]["usageUpdatedAt"] = impossible(measured.at, rng);
        }
        (WrongTime::All, _) => body["timestamp"] = impossible(measured.at, rng),
    }
    let envelope = rng.choice(Envelope::ALL).expect("an envelope");
    (message.wrapped(envelope), format!("by {shape:?} in {envelope:?}, wrong times: {wrong:?}"))
}

pub fn balance(
    subject: &Subject,
    currency: &str,
    (measured, balance): (Measured, Balance),
    wrong: WrongTime,
    rng: &mut Rng,
) -> (String, String) {
    let balance = CreditBalance {
        currency,
        left: balance.left,
        consumed: measured.value,
        valid_until: balance.valid_until,
        period: measured.period,
    };
    let by_graphql = wrong == WrongTime::All && rng.bool();
    let mut message = if by_graphql {
        balance.graphql(subject.owner())
    } else {
        balance.event_log(subject.owner(), measured.at)
    };
    match wrong {
        WrongTime::None => {}
        WrongTime::OneOfSeveral => {
            message.body["payload"]["usageUpdatedAt"] = impossible(measured.at, rng);
        }
        WrongTime::All if by_graphql => {}
        WrongTime::All => message.body["timestamp"] = impossible(measured.at, rng),
    }
    let envelope = rng.choice(Envelope::ALL).expect("an envelope");
    (message.wrapped(envelope), format!("in {envelope:?}, wrong times: {wrong:?}"))
}

/// A purge's own time, or one that cannot be true: then it counts from when it was sent.
pub fn purge_time(at: i64, body: &mut Value, rng: &mut Rng) {
    if rng.u8(..8) == 0 && body.get("timestamp").is_some() {
        body["timestamp"] = impossible(at, rng);
    }
}
