//! The messages, and what each of them has to leave in Redis. Everything by a seed.
//!
//! Each message is a moment of its own, a millisecond later than the one before. The moment is also the number that
//! it carries (a usage, a limit), so that a stored value shows which message it is from. They are sent a little out
//! of order, older ones after newer ones too: what has to be stored is the newest that was sent.

use fastrand::Rng;
use persistent_cache_service::clock;
use serde_json::{Value, json};

use crate::support::messages::{self, Envelope, Message, Shape};
use crate::support::sdk::Owner;
use crate::support::stage::PREFIX;
use crate::support::state::{State, boolean, credit, iso, metered};

/// Customers, and how many of them have a resource beside.
const CUSTOMERS: usize = 2_000;
const WITH_RESOURCE: usize = 1_000;
/// Every fourth message is of one of these first few: keys that many workers fight for.
const HOT: usize = 20;
const METERED: [&str; 3] = ["feature-calls", "feature-seats", "feature-storage"];
const CURRENCY: &str = "cred-type-ai";
/// Messages that are shuffled together before they are sent.
const SHUFFLED: usize = 200;

/// Keys of one subject, in this order: entitlements, metadata, the metered features', the currency's.
const KEYS_EACH: usize = 2 + METERED.len() + 1;
const CREDIT_KEY: usize = KEYS_EACH - 1;

/// A state of one key: the moment it was true at, and the number that it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub at_ms: i64,
    pub number: i64,
}

/// One key, as it has to be.
#[derive(Debug)]
pub struct Key {
    pub name: String,
    /// The newest version that was sent.
    pub newest: Option<Version>,
    place: usize,
}

impl Key {
    /// The number that a stored value carries; `None` if it is no value of this key.
    pub fn number_in(&self, value: &str, version: Version) -> Option<i64> {
        let value: Value = serde_json::from_str(value).ok()?;
        match self.place {
            0 => value[METERED[0]]["calculatedEntitlement"]["usageLimit"].as_i64(),
            1 => (value == json!({"accessDeniedReason": null})).then_some(version.number),
            _ => value["currentUsage"].as_i64(),
        }
    }
}

/// A message on its way, and what it has to leave.
struct Outgoing {
    body: String,
    effects: Vec<(usize, Version)>,
}

struct Subject {
    customer: String,
    resource: Option<String>,
    /// When each metered feature, and the currency, was measured last.
    measured: [i64; METERED.len()],
    consumed: i64,
}

/// All customers, and every key of theirs.
pub struct World {
    random: Rng,
    subjects: Vec<Subject>,
    pub keys: Vec<Key>,
    features: Vec<Value>,
    credit: Value,
    base_ms: i64,
    moment: i64,
    outgoing: Vec<Outgoing>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut subjects = Vec::new();
        for number in 0..CUSTOMERS {
            let customer = format!("customer-{number}");
            let resources = [None, Some(format!("site-{number}"))];
            let count = 1 + usize::from(number < WITH_RESOURCE);
            subjects.extend(resources.into_iter().take(count).map(|resource| Subject {
                customer: customer.clone(),
                resource,
                measured: [0; METERED.len()],
                consumed: 0,
            }));
        }
        let keys = subjects.iter().flat_map(keys_of).collect();
        let mut features: Vec<Value> = METERED.iter().map(|id| metered(id, 0, 0)).collect();
        features.push(boolean("feature-sso"));
        Self {
            random: Rng::with_seed(seed),
            subjects,
            keys,
            features,
            credit: credit(CURRENCY, 0, 0),
            // A day ago: there is room for a day's messages before the clock is overtaken.
            base_ms: clock::now().0 - 86_400_000,
            moment: 0,
            outgoing: Vec::new(),
        }
    }

    /// How many messages [`World::first`] gives.
    pub fn subjects(&self) -> usize {
        self.subjects.len()
    }

    /// The first message of a subject: its whole state. It has to be there before a usage of it can be stored.
    pub fn first(&mut self, subject: usize) -> String {
        self.moment += 1;
        self.subjects[subject].measured = [self.moment; METERED.len()];
        self.subjects[subject].consumed = self.moment;
        let outgoing = self.entitlements(subject, Shape::GraphqlV2);
        self.sent(&outgoing);
        outgoing.body
    }

    /// The next message. What it has to leave counts from now on.
    pub fn next(&mut self) -> String {
        if self.outgoing.is_empty() {
            self.outgoing = (0..SHUFFLED).map(|_| self.message()).collect();
            self.random.shuffle(&mut self.outgoing);
        }
        let outgoing = self.outgoing.pop().expect("just filled");
        self.sent(&outgoing);
        outgoing.body
    }

    fn sent(&mut self, outgoing: &Outgoing) {
        for (key, version) in &outgoing.effects {
            let newest = &mut self.keys[*key].newest;
            *newest = (*newest).max(Some(*version));
        }
    }

    fn message(&mut self) -> Outgoing {
        self.moment += 1;
        let subjects = self.subjects.len();
        let is_hot = self.random.u8(..4) == 0;
        let subject = self.random.usize(..if is_hot { HOT } else { subjects });
        let shape = Shape::ALL[self.random.usize(..Shape::ALL.len())];
        match self.random.u8(..20) {
            0..5 => self.entitlements(subject, shape),
            5..8 => self.credit_balance(subject),
            _ => self.usage(subject, shape),
        }
    }

    fn version(&self, number: i64) -> Version {
        Version { at_ms: self.base_ms + number, number }
    }

    fn state(&self, subject: usize, entitlements: Vec<Value>) -> State {
        let subject = &self.subjects[subject];
        State {
            customer: subject.customer.clone(),
            resource: subject.resource.clone(),
            updated_at_ms: self.base_ms + self.moment,
            access_denied_reason: None,
            entitlements,
        }
    }

    fn wrapped(&mut self, message: &Message) -> String {
        message.wrapped(Envelope::ALL[self.random.usize(..Envelope::ALL.len())])
    }

    /// Everything about a subject: the limit is new, the usages are those that were measured last.
    fn entitlements(&mut self, subject: usize, shape: Shape) -> Outgoing {
        let now = self.version(self.moment);
        let first_key = subject * KEYS_EACH;
        let mut effects = vec![(first_key, now), (first_key + 1, now)];
        let mut entitlements = self.features.clone();
        let measured = self.subjects[subject].measured;
        for (index, number) in measured.into_iter().enumerate() {
            let mut version = self.version(number);
            entitlements[index]["usageLimit"] = json!(self.moment);
            entitlements[index]["currentUsage"] = json!(number);
            entitlements[index]["usageUpdatedAt"] = json!(iso(version.at_ms));
            // A webhook does not say when a usage was measured: it was true when it was sent.
            if shape == Shape::Webhook {
                version.at_ms = now.at_ms;
            }
            effects.push((first_key + 2 + index, version));
        }
        // Only version 2 knows credits.
        if shape == Shape::GraphqlV2 {
            let consumed = self.version(self.subjects[subject].consumed);
            let mut credit = self.credit.clone();
            credit["currentUsage"] = json!(consumed.number);
            credit["usageUpdatedAt"] = json!(iso(consumed.at_ms));
            entitlements.push(credit);
            effects.push((first_key + CREDIT_KEY, consumed));
        }
        for entitlement in &mut entitlements {
            entitlement["entitlementUpdatedAt"] = json!(iso(now.at_ms));
        }
        let state = self.state(subject, entitlements);
        let body = self.wrapped(&messages::entitlements_updated(&state, shape));
        Outgoing { body, effects }
    }

    fn usage(&mut self, subject: usize, shape: Shape) -> Outgoing {
        let now = self.version(self.moment);
        let feature = self.random.usize(..METERED.len());
        self.subjects[subject].measured[feature] = now.number;
        let state = self.state(subject, vec![self.features[feature].clone()]);
        let message = messages::usage_updated(&state, METERED[feature], now.number, now.at_ms, shape);
        Outgoing { body: self.wrapped(&message), effects: vec![(subject * KEYS_EACH + 2 + feature, now)] }
    }

    fn credit_balance(&mut self, subject: usize) -> Outgoing {
        let now = self.version(self.moment);
        self.subjects[subject].consumed = now.number;
        let message =
            messages::credit_balance(owner(&self.subjects[subject]), CURRENCY, now.number, now.at_ms);
        Outgoing { body: self.wrapped(&message), effects: vec![(subject * KEYS_EACH + CREDIT_KEY, now)] }
    }
}

fn owner(subject: &Subject) -> Owner<'_> {
    Owner { customer: &subject.customer, resource: subject.resource.as_deref() }
}

fn keys_of(subject: &Subject) -> Vec<Key> {
    let customer_key = owner(subject).key(PREFIX);
    let mut names = vec![customer_key.clone(), format!("{customer_key}:metadata")];
    names.extend(METERED.iter().map(|id| format!("{customer_key}:f_{id}")));
    names.push(format!("{customer_key}:credit_{CURRENCY}"));
    names.into_iter().enumerate().map(|(place, name)| Key { name, newest: None, place }).collect()
}
