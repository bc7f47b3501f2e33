//! Where changes come from: it changes the truth, and sends the messages about it.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use serde_json::json;

use super::bodies::{self, WrongTime};
use super::truth::{
    Balance, CURRENCIES, CURRENCY, Listing, Lists, Measured, RATED, SWITCH, Since, Story, Subject, Truth,
    VERSION_FEATURE, credit_part,
};
use crate::support::messages::{
    Envelope, Message, Shape, customer_deleted, entitlements_updated, event, package_published, purge,
    subscriptions_migrated,
};
use crate::support::state::State;

/// Features that are metered; each subject may have any of them.
const METERED: [&str; 3] = ["feature-calls", "feature-events", "feature-storage"];
const DAY_MS: i64 = 86_400_000;

/// What a message does, as far as the model has to know.
#[derive(Clone, Default)]
struct Effect {
    lists: bool,
    /// It purges the subject, and with a customer its resources.
    purges: bool,
    carries: BTreeMap<String, Measured>,
    balance: Option<(&'static str, Balance)>,
}

/// A message that is to be sent, or was.
#[derive(Clone)]
struct Waiting {
    subject: Subject,
    body: String,
    what: String,
    effect: Effect,
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
    /// What was sent with a time of its own: it may come back from a dead-letter queue.
    redrivable: Vec<Waiting>,
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
            for resource in [None, Some("site-1"), Some("site:2")].into_iter().take(1 + index % 3) {
                let subject =
                    Subject { customer: (*customer).to_owned(), resource: resource.map(str::to_owned) };
                stories.insert(subject, Story::new());
            }
        }
        Self {
            stories,
            waiting: Vec::new(),
            redrivable: Vec::new(),
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
        for feature in RATED {
            if !METERED.contains(&feature) && rng.bool() {
                limits.insert(feature.to_owned(), Some(rng.i64(1..1_000)));
            }
        }
        for feature in METERED {
            if rng.u8(..) < 150 {
                limits.insert(feature.to_owned(), Some(rng.i64(1..1_000)));
                let part = format!("f_{feature}");
                if !self.stories[subject].usages.contains_key(&part) {
                    self.measure(subject, &part, None, rng);
                }
            }
        }
        let at = self.tick();
        let story = self.story(subject);
        let listing = Listing { at, limits, usages: story.usages.clone(), balances: story.balances.clone() };
        story.truth = Truth::Listed(listing.clone());
        listing
    }

    fn measure(
        &mut self,
        subject: &Subject,
        part: &str,
        period: Option<[i64; 2]>,
        rng: &mut Rng,
    ) -> Measured {
        let measured = Measured { at: self.tick(), value: rng.i64(0..100_000), period };
        let story = self.story(subject);
        story.usages.insert(part.to_owned(), measured);
        measured
    }

    /// Entitlements change, and a message reports it.
    pub fn change_list(&mut self, subject: &Subject, rng: &mut Rng) {
        let listing = self.new_list(subject, rng);
        self.story(subject).is_published = true;
        let shape = rng.choice(Shape::ALL).expect("a shape");
        // A usage without its period would leave open whether the stored one stays.
        let credit = listing.usages.get(&credit_part(CURRENCY));
        let with_credit = matches!(shape, Shape::GraphqlV2 | Shape::EventLog)
            && credit.is_some_and(|credit| credit.period.is_some())
            && rng.bool();
        let wrong = WrongTime::some(rng);
        let list = bodies::list(subject, &listing, (shape, with_credit), wrong, rng);
        let mut carries = BTreeMap::new();
        for (part, measured) in &listing.usages {
            let is_carried = match part.strip_prefix("f_") {
                Some(feature) => listing.limits.contains_key(feature),
                None => with_credit && *part == credit_part(CURRENCY),
            };
            if is_carried {
                let stamp = if list.own_usage_time { measured.at } else { listing.at };
                self.stamp(subject, part, stamp, *measured);
                carries.insert(part.clone(), *measured);
            }
        }
        let version = listing.limits[VERSION_FEATURE].unwrap_or_default();
        let what = format!("list {version} of {} {}", listing.at, list.what);
        let effect = Effect { lists: true, carries, ..Effect::default() };
        self.plan_message(subject, (list.body, what), effect, wrong, rng);
    }

    /// A usage is measured, and a message reports it.
    pub fn change_usage(&mut self, subject: &Subject, rng: &mut Rng) {
        let feature = rng.choice(METERED).expect("a feature");
        let part = format!("f_{feature}");
        let measured = self.measure(subject, &part, None, rng);
        self.stamp(subject, &part, measured.at, measured);
        let wrong = WrongTime::some(rng);
        let (body, how) = bodies::usage(subject, feature, measured, wrong, rng);
        let what = format!("{part} {} of {} {how}", measured.value, measured.at);
        let effect = Effect { carries: BTreeMap::from([(part, measured)]), ..Effect::default() };
        self.plan_message(subject, (body, what), effect, wrong, rng);
    }

    /// Credits are consumed or granted, and a message reports it.
    pub fn change_credit(&mut self, subject: &Subject, rng: &mut Rng) {
        let currency = rng.choice(CURRENCIES).expect("a currency");
        let part = credit_part(currency);
        let period = rng.bool().then(|| {
            let start = self.clock - rng.i64(1..10) * DAY_MS;
            [start, start + 30 * DAY_MS]
        });
        let measured = self.measure(subject, &part, period, rng);
        let balance = Balance {
            at: measured.at,
            left: rng.choice([-5, 0, 0, 10, 500]).expect("a balance"),
            // Nearly every balance has an end of its own, which shows which message an entry comes from.
            valid_until: (rng.u8(..4) > 0).then_some(measured.at + 90 * DAY_MS),
        };
        self.stamp(subject, &part, measured.at, measured);
        let story = self.story(subject);
        story.balances.insert(currency, balance);
        let every = story.every_balance.entry(currency).or_default();
        every.insert(balance.at, balance);
        let wrong = WrongTime::some(rng);
        let (body, how) = bodies::balance(subject, currency, (measured, balance), wrong, rng);
        let what = format!(
            "{part} {} left {} period {period:?} of {} {how}",
            measured.value, balance.left, measured.at
        );
        let effect = Effect {
            carries: BTreeMap::from([(part, measured)]),
            balance: Some((currency, balance)),
            ..Effect::default()
        };
        self.plan_message(subject, (body, what), effect, wrong, rng);
    }

    /// A customer loses everything, and a message gives the reason.
    pub fn deny(&mut self, subject: &Subject, rng: &mut Rng) {
        let at = self.tick();
        let reasons = ["CustomerIsArchived", "NoActiveSubscription", "CustomerNotFound"];
        let reason = rng.choice(reasons).expect("a reason");
        let story = self.story(subject);
        story.truth = Truth::Denied { reason, at };
        story.is_published = true;
        let mut state = State::new(subject.owner(), at, &[]);
        state.access_denied_reason = Some(reason.to_owned());
        // The event log alone gives an empty list a time.
        let message = entitlements_updated(&state, Shape::EventLog);
        let envelope = rng.choice(Envelope::ALL).expect("an envelope");
        let what = format!("denied {reason} of {at}");
        let effect = Effect { lists: true, ..Effect::default() };
        self.plan_message(subject, (message.wrapped(envelope), what), effect, WrongTime::None, rng);
    }

    fn stamp(&mut self, subject: &Subject, part: &str, stamp: i64, measured: Measured) {
        let stamped = &mut self.story(subject).stamped;
        stamped.entry(part.to_owned()).or_default().insert(stamp, measured);
    }

    /// Sends a message sooner or later, some twice. One whose time is that of the queue is sent at once, and once.
    fn plan_message(
        &mut self,
        subject: &Subject,
        (body, what): (String, String),
        effect: Effect,
        wrong: WrongTime,
        rng: &mut Rng,
    ) {
        let waiting = Waiting { subject: subject.clone(), body, what, effect };
        if wrong == WrongTime::All {
            let sent_at = self.clock;
            self.publish_at(waiting, sent_at);
            return;
        }
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
                self.publish(waiting);
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
            self.publish(waiting);
        }
    }

    fn publish(&mut self, waiting: Waiting) {
        let sent_at = self.tick();
        self.redrivable.push(waiting.clone());
        self.publish_at(waiting, sent_at);
    }

    fn publish_at(&mut self, waiting: Waiting, sent_at: i64) {
        self.outgoing.push(Sent { body: waiting.body, sent_at });
        let story = self.story(&waiting.subject);
        story.log.push(format!("{sent_at} sent {}", waiting.what));
        if waiting.effect.lists {
            story.since.lists = Lists::New;
        }
        note_measurements(&mut story.since, &waiting.effect);
    }

    /// Something that was sent comes back from a dead-letter queue: the same body, sent now.
    ///
    /// No list comes back to a subject that has none now: a reader's far-past marker would give way to it.
    pub fn redrive(&mut self, rng: &mut Rng) {
        let Some(waiting) = rng.choice(&self.redrivable).cloned() else {
            return;
        };
        let is_listed = matches!(self.stories[&waiting.subject].truth, Truth::Listed(_));
        if waiting.effect.lists && !is_listed {
            return;
        }
        let sent_at = self.tick();
        self.outgoing.push(Sent { body: waiting.body, sent_at });
        if waiting.effect.purges {
            self.note_purge(&waiting.subject, &format!("{sent_at} redrove {}", waiting.what));
            return;
        }
        let story = self.story(&waiting.subject);
        story.log.push(format!("{sent_at} redrove {}", waiting.what));
        if waiting.effect.lists {
            story.since.lists = story.since.lists.max(Lists::Redriven);
        } else {
            note_measurements(&mut story.since, &waiting.effect);
        }
    }

    fn send(&mut self, body: String) -> i64 {
        let sent_at = self.tick();
        self.outgoing.push(Sent { body, sent_at });
        sent_at
    }

    /// True if something older is under way (or still to be sent) that a reader's far-past marker would give way to.
    pub fn has_lists_under_way(&self, subject: &Subject) -> bool {
        self.stories[subject].since.lists > Lists::None
            || self.waiting.iter().any(|waiting| waiting.effect.lists && waiting.subject == *subject)
    }

    /// A subject is forgotten, by one of the messages that say so. Sometimes it changed without another word.
    pub fn purge(&mut self, subject: &Subject, rng: &mut Rng) {
        let customer = subject.customer.clone();
        self.tell_all(|other| other.customer == customer, rng);
        let sort = rng.u8(..6);
        let envelope = rng.choice(Envelope::ALL).expect("an envelope");
        let owner = subject.owner();
        if sort > 0 {
            self.silently_change(subject, rng);
        }
        let at = self.clock;
        let (mut message, what) = match (sort, &subject.resource) {
            (0, _) => {
                self.story(subject).truth = Truth::Nothing;
                self.story(subject).is_published = true;
                let shape = rng.choice([Shape::Webhook, Shape::GraphqlV2]).expect("a shape");
                let state = State::new(owner, self.tick(), &[]);
                (entitlements_updated(&state, shape), "an empty list without a reason")
            }
            (1, None) => (customer_deleted(&customer, at), "customer.deleted"),
            (2, None) => (subscriptions_migrated(&[&customer], at), "a migration of it"),
            _ => (purge(owner, at), "a purge"),
        };
        let told_time = message.body.get("timestamp").cloned();
        bodies::purge_time(at, &mut message.body, rng);
        let waiting = Waiting {
            subject: subject.clone(),
            body: message.wrapped(envelope),
            what: what.to_owned(),
            effect: Effect { purges: true, ..Effect::default() },
        };
        let sent_at = self.send(waiting.body.clone());
        self.note_purge(subject, &format!("{sent_at} sent {what}"));
        if told_time.is_some() && told_time == message.body.get("timestamp").cloned() {
            self.redrivable.push(waiting);
        }
    }

    fn note_purge(&mut self, subject: &Subject, line: &str) {
        for (other, story) in &mut self.stories {
            if other == subject || (subject.resource.is_none() && other.customer == subject.customer) {
                story.since.purged = true;
                story.log.push(format!("{line} for {subject:?}"));
            }
        }
    }

    fn silently_change(&mut self, subject: &Subject, rng: &mut Rng) {
        if rng.bool() {
            let listing = self.new_list(subject, rng);
            self.story(subject).is_published = false;
            self.note(
                subject,
                &format!("silently list {}", listing.limits[VERSION_FEATURE].unwrap_or_default()),
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
        let about =
            |name: &str, at: i64| -> Message { event(name, at, &json!({"customerId": owner.customer})) };
        let message = match rng.u8(..3) {
            0 => package_published("NEW_CUSTOMERS"),
            1 => about("CUSTOMER_UPDATED", self.clock),
            _ => about("SOMETHING_NEW", self.clock),
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

    /// What a reader that asks now receives: times of usages included.
    pub fn answer(&mut self, subject: &Subject) -> (Truth, BTreeMap<String, Measured>) {
        let clock = self.clock;
        let story = self.story(subject);
        story.since.fetched.get_or_insert(clock);
        let (mut truth, usages) = (story.truth.clone(), story.usages.clone());
        if let Truth::Listed(listing) = &mut truth {
            listing.balances = story.balances.clone();
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

fn note_measurements(since: &mut Since, effect: &Effect) {
    let is_after_fetch = |at: i64| since.fetched.is_some_and(|fetched| fetched < at);
    for (part, measured) in &effect.carries {
        let mut maps = vec![&mut since.sent];
        if is_after_fetch(measured.at) {
            maps.push(&mut since.sent_after_fetch);
        }
        for map in maps {
            let newest = map.entry(part.clone()).or_insert(*measured);
            if newest.at < measured.at {
                *newest = *measured;
            }
        }
    }
    if let Some((currency, balance)) = effect.balance {
        let mut maps = vec![&mut since.balances];
        if is_after_fetch(balance.at) {
            maps.push(&mut since.balances_after_fetch);
        }
        for map in maps {
            let newest = map.entry(currency).or_insert(balance);
            if newest.at < balance.at {
                *newest = balance;
            }
        }
    }
}
