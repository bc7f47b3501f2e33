//! Where changes come from: it makes things true, and the messages that tell of them.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use serde_json::json;

use super::truth::{
    CURRENCY, Listing, Measured, SWITCH, Since, Story, Subject, Truth, VERSION_FEATURE, state_of,
};
use crate::support::messages::{
    Envelope, Shape, credit_balance, customer_deleted, entitlements_updated, event, package_published, purge,
    subscriptions_migrated, usage_updated,
};
use crate::support::state::{State, metered};

/// Features that are metered; each subject may have any of them.
const METERED: [&str; 3] = ["feature-calls", "feature-events", "feature-storage"];
/// A message that is to be sent.
#[derive(Clone)]
struct Waiting {
    subject: Subject,
    body: String,
    what: String,
    lists: bool,
    tells: BTreeMap<String, Measured>,
}

/// A message for the queue.
pub struct Sent {
    pub body: String,
    pub sent_at: i64,
}

/// The origin.
pub struct Origin {
    pub stories: BTreeMap<Subject, Story>,
    waiting: Vec<Waiting>,
    /// What is on its way to the queue.
    pub outgoing: Vec<Sent>,
    clock: i64,
    version: i64,
    pub malformed: BTreeSet<String>,
}

impl Origin {
    /// `from` is where the logical clock begins, in epoch milliseconds.
    pub fn new(from: i64) -> Self {
        let names = ["customer-1", "customer:2", "cus*[3]?", "customer-4"];
        let mut stories = BTreeMap::new();
        for (index, customer) in names.iter().enumerate() {
            for resource in [None, Some("site-1"), Some("site:2")]
                .into_iter()
                .take(1 + index % 3)
            {
                let subject = Subject {
                    customer: (*customer).to_owned(),
                    resource: resource.map(str::to_owned),
                };
                let story = Story {
                    truth: Truth::Unknown,
                    is_told: true,
                    usages: BTreeMap::new(),
                    stamped: BTreeMap::new(),
                    since: Since::default(),
                    log: Vec::new(),
                };
                stories.insert(subject, story);
            }
        }
        Self {
            stories,
            waiting: Vec::new(),
            outgoing: Vec::new(),
            clock: from,
            version: 0,
            malformed: BTreeSet::new(),
        }
    }

    pub fn subjects(&self) -> Vec<Subject> {
        self.stories.keys().cloned().collect()
    }

    pub fn story(&mut self, subject: &Subject) -> &mut Story {
        self.stories.get_mut(subject).expect("a subject of this origin")
    }

    pub fn tick(&mut self) -> i64 {
        self.clock += 1;
        self.clock
    }

    /// Writes a line into a subject's story.
    pub fn note(&mut self, subject: &Subject, line: &str) {
        let clock = self.clock;
        self.story(subject).log.push(format!("{clock} {line}"));
    }

    /// Begins a new time: what was sent until now has been looked at.
    pub fn forget_the_past(&mut self) {
        for story in self.stories.values_mut() {
            story.since = Since::default();
        }
    }

    /// A new list becomes true.
    fn new_list(&mut self, subject: &Subject, rng: &mut Rng) -> Listing {
        self.version += 1;
        let mut limits = BTreeMap::from([(VERSION_FEATURE.to_owned(), Some(self.version))]);
        if rng.bool() {
            limits.insert(SWITCH.to_owned(), None);
        }
        for feature in METERED {
            if rng.u8(..) < 150 {
                limits.insert(feature.to_owned(), Some(rng.i64(1..1_000)));
                let part = format!("f_{feature}");
                if !self.stories[subject].usages.contains_key(&part) {
                    self.measure(subject, &part, rng);
                }
            }
        }
        let at = self.tick();
        let usages = self.stories[subject].usages.clone();
        let listing = Listing { at, limits, usages };
        self.story(subject).truth = Truth::Listed(listing.clone());
        listing
    }

    fn measure(&mut self, subject: &Subject, part: &str, rng: &mut Rng) -> Measured {
        let measured = Measured {
            at: self.tick(),
            value: rng.i64(0..100_000),
        };
        let story = self.story(subject);
        story.usages.insert(part.to_owned(), measured);
        measured
    }

    /// Entitlements change, and a message tells of it.
    pub fn change_list(&mut self, subject: &Subject, rng: &mut Rng) {
        let listing = self.new_list(subject, rng);
        self.story(subject).is_told = true;
        let shape = rng.choice(Shape::ALL).expect("a shape");
        let with_credit = matches!(shape, Shape::GraphqlV2 | Shape::EventLog)
            && listing.usages.contains_key(&format!("credit_{CURRENCY}"))
            && rng.bool();
        let state = state_of(subject, &listing, with_credit);
        let mut tells = BTreeMap::new();
        for (part, measured) in &listing.usages {
            let is_carried = match part.strip_prefix("f_") {
                Some(feature) => listing.limits.contains_key(feature),
                None => with_credit,
            };
            if is_carried {
                // A webhook has one time for all.
                let stamp = if shape == Shape::Webhook {
                    listing.at
                } else {
                    measured.at
                };
                self.stamp(subject, part, stamp, *measured);
                tells.insert(part.clone(), *measured);
            }
        }
        let envelope = rng.choice(Envelope::ALL).expect("an envelope");
        let what = format!(
            "list {} of {} by {shape:?} in {envelope:?}",
            listing.limits[VERSION_FEATURE].unwrap_or_default(),
            listing.at
        );
        let waiting = Waiting {
            subject: subject.clone(),
            body: entitlements_updated(&state, shape).wrapped(envelope),
            what,
            lists: true,
            tells,
        };
        self.wait_to_tell(waiting, rng);
    }

    /// A usage is measured, and a message tells of it.
    pub fn change_usage(&mut self, subject: &Subject, rng: &mut Rng) {
        let feature = rng.choice(METERED).expect("a feature");
        let part = format!("f_{feature}");
        let measured = self.measure(subject, &part, rng);
        self.stamp(subject, &part, measured.at, measured);
        let shape = rng.choice(Shape::ALL).expect("a shape");
        let state = State::new(
            subject.owner(),
            measured.at,
            &[metered(feature, 10, measured.value)],
        );
        let message = usage_updated(&state, feature, measured.value, measured.at, shape);
        let envelope = rng.choice(Envelope::ALL).expect("an envelope");
        let what = format!("{part} {} of {} by {shape:?}", measured.value, measured.at);
        let waiting = Waiting {
            subject: subject.clone(),
            body: message.wrapped(envelope),
            what,
            lists: false,
            tells: BTreeMap::from([(part, measured)]),
        };
        self.wait_to_tell(waiting, rng);
    }

    /// Credits are consumed, and a message tells of it.
    pub fn change_credit(&mut self, subject: &Subject, rng: &mut Rng) {
        let part = format!("credit_{CURRENCY}");
        let measured = self.measure(subject, &part, rng);
        self.stamp(subject, &part, measured.at, measured);
        let message = credit_balance(subject.owner(), CURRENCY, measured.value, measured.at);
        let envelope = rng.choice(Envelope::ALL).expect("an envelope");
        let what = format!("{part} {} of {}", measured.value, measured.at);
        let waiting = Waiting {
            subject: subject.clone(),
            body: message.wrapped(envelope),
            what,
            lists: false,
            tells: BTreeMap::from([(part, measured)]),
        };
        self.wait_to_tell(waiting, rng);
    }

    /// A customer loses everything, and the reason is told.
    pub fn deny(&mut self, subject: &Subject, rng: &mut Rng) {
        let at = self.tick();
        let reasons = ["CustomerIsArchived", "NoActiveSubscription", "CustomerNotFound"];
        let reason = rng.choice(reasons).expect("a reason");
        let story = self.story(subject);
        story.truth = Truth::Denied { reason, at };
        story.is_told = true;
        let mut state = State::new(subject.owner(), at, &[]);
        state.access_denied_reason = Some(reason.to_owned());
        // The event log alone gives an empty list a time.
        let message = entitlements_updated(&state, Shape::EventLog);
        let envelope = rng.choice(Envelope::ALL).expect("an envelope");
        let what = format!("denied {reason} of {at}");
        let waiting = Waiting {
            subject: subject.clone(),
            body: message.wrapped(envelope),
            what,
            lists: true,
            tells: BTreeMap::new(),
        };
        self.wait_to_tell(waiting, rng);
    }

    fn stamp(&mut self, subject: &Subject, part: &str, stamp: i64, measured: Measured) {
        let stamped = &mut self.story(subject).stamped;
        stamped
            .entry(part.to_owned())
            .or_default()
            .insert(stamp, measured);
    }

    /// Some are told twice.
    fn wait_to_tell(&mut self, waiting: Waiting, rng: &mut Rng) {
        if rng.u8(..) < 25 {
            self.waiting.push(waiting.clone());
        }
        self.waiting.push(waiting);
    }

    /// Sends some of what waits, in any order.
    pub fn tell_some(&mut self, rng: &mut Rng) {
        for _ in 0..rng.usize(1..8) {
            if !self.waiting.is_empty() {
                let index = rng.usize(..self.waiting.len());
                let waiting = self.waiting.swap_remove(index);
                self.tell(waiting);
            }
        }
    }

    /// Sends all that waits about some subjects, in any order.
    pub fn tell_all(&mut self, about: impl Fn(&Subject) -> bool, rng: &mut Rng) {
        rng.shuffle(&mut self.waiting);
        let (now, later) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition::<Vec<_>, _>(|waiting| about(&waiting.subject));
        self.waiting = later;
        for waiting in now {
            self.tell(waiting);
        }
    }

    fn tell(&mut self, waiting: Waiting) {
        let sent_at = self.send(waiting.body);
        let story = self.story(&waiting.subject);
        story.log.push(format!("{sent_at} sent {}", waiting.what));
        story.since.listed |= waiting.lists;
        for (part, measured) in waiting.tells {
            let told = story.since.told.entry(part).or_insert(measured);
            if told.at < measured.at {
                *told = measured;
            }
        }
    }

    fn send(&mut self, body: String) -> i64 {
        let sent_at = self.tick();
        self.outgoing.push(Sent { body, sent_at });
        sent_at
    }

    /// True if something older is under way (or still to be sent) that a reader's far-past mark would give way to.
    pub fn has_lists_under_way(&self, subject: &Subject) -> bool {
        self.stories[subject].since.listed
            || self
                .waiting
                .iter()
                .any(|waiting| waiting.lists && waiting.subject == *subject)
    }

    /// A subject is forgotten, by one of the messages that say so. Sometimes it changed without another word.
    pub fn purge(&mut self, subject: &Subject, rng: &mut Rng) {
        let customer = subject.customer.clone();
        self.tell_all(|other| other.customer == customer, rng);
        let sort = rng.u8(..6);
        let envelope = rng.choice(Envelope::ALL).expect("an envelope");
        let owner = subject.owner();
        let (message, what) = match (sort, &subject.resource) {
            (0, _) => {
                self.story(subject).truth = Truth::Nothing;
                self.story(subject).is_told = true;
                let shape = rng.choice([Shape::Webhook, Shape::GraphqlV2]).expect("a shape");
                let state = State::new(owner, self.tick(), &[]);
                (
                    entitlements_updated(&state, shape),
                    "an empty list without a reason",
                )
            }
            (1, None) => {
                self.silently_change(subject, rng);
                (customer_deleted(&customer, self.clock), "customer.deleted")
            }
            (2, None) => {
                self.silently_change(subject, rng);
                (
                    subscriptions_migrated(&[&customer], self.clock),
                    "a migration of it",
                )
            }
            _ => {
                self.silently_change(subject, rng);
                (purge(owner, self.clock), "a purge")
            }
        };
        let sent_at = self.send(message.wrapped(envelope));
        let whole_customer = subject.resource.is_none();
        for (other, story) in &mut self.stories {
            if other == subject || (whole_customer && other.customer == customer) {
                story.since.purged = true;
                story.log.push(format!("{sent_at} sent {what} for {subject:?}"));
            }
        }
    }

    fn silently_change(&mut self, subject: &Subject, rng: &mut Rng) {
        if rng.bool() {
            let listing = self.new_list(subject, rng);
            self.story(subject).is_told = false;
            self.note(
                subject,
                &format!(
                    "silently list {}",
                    listing.limits[VERSION_FEATURE].unwrap_or_default()
                ),
            );
        }
    }

    /// Everybody is forgotten, and some changed without another word.
    pub fn invalidate(&mut self, rng: &mut Rng) {
        self.tell_all(|_| true, rng);
        for subject in self.subjects() {
            self.silently_change(&subject, rng);
        }
        let message = if rng.bool() {
            package_published("ALL_CUSTOMERS")
        } else {
            subscriptions_migrated(&[], self.clock)
        };
        let envelope = rng.choice(Envelope::ALL).expect("an envelope");
        let sent_at = self.send(message.wrapped(envelope));
        for story in self.stories.values_mut() {
            story.since.purged = true;
            story.since.invalidated = true;
            story.log.push(format!("{sent_at} sent an invalidation"));
        }
    }

    /// Something that changes nothing.
    pub fn chat(&mut self, subject: &Subject, rng: &mut Rng) {
        let owner = subject.owner();
        let message = match rng.u8(..3) {
            0 => package_published("NEW_CUSTOMERS"),
            1 => event(
                "CUSTOMER_UPDATED",
                self.clock,
                &json!({"customerId": owner.customer, "name": "x"}),
            ),
            _ => event(
                "SOMETHING_NEW",
                self.clock,
                &json!({"customerId": owner.customer}),
            ),
        };
        let envelope = rng.choice(Envelope::ALL).expect("an envelope");
        self.send(message.wrapped(envelope));
    }

    /// Something that nobody can read; no two are alike.
    pub fn babble(&mut self, subject: &Subject, rng: &mut Rng) {
        let clock = self.tick();
        let body = match rng.u8(..4) {
            0 => format!("{{\"type\":\"entitlements.updated\",\"n\":{clock}"),
            1 => json!({"type": "ENTITLEMENTS_UPDATED", "customerId": subject.customer, "n": clock}).to_string(),
            2 => json!({"type": "MEASUREMENT_REPORTED", "payload": {"customerId": subject.customer}, "n": clock})
                .to_string(),
            _ => format!("[{clock}]"),
        };
        self.malformed.insert(body.clone());
        self.send(body);
    }

    /// What a reader that asks now is told: times of usages included.
    pub fn answer(&mut self, subject: &Subject) -> (Truth, BTreeMap<String, Measured>) {
        let story = self.story(subject);
        let (truth, usages) = (story.truth.clone(), story.usages.clone());
        if let Truth::Listed(listing) = &truth {
            for (part, measured) in &usages {
                let feature = part.strip_prefix("f_").unwrap_or_default();
                if listing.limits.contains_key(feature) {
                    self.stamp(subject, part, measured.at, *measured);
                }
            }
        }
        (truth, usages)
    }
}
