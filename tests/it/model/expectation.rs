//! What Redis must hold, given what is true and what was sent: see the top of `model`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::cache::{Cache, Cached, Stamped};
use super::origin::Origin;
use super::run::Variant;
use super::truth::{
    Balance, CURRENCIES, Listing, Lists, Measured, Story, Subject, Truth, credit_part, rate_of,
};

/// Lines of what differs, subject by subject.
pub fn differences(
    origin: &Origin,
    before: &Cache,
    now: &Cache,
    variant: Variant,
) -> BTreeMap<Subject, Vec<String>> {
    let nothing = Cached::new();
    let mut differences = BTreeMap::new();
    for (subject, story) in &origin.stories {
        let look = Look {
            story,
            variant,
            before: before.of.get(subject).unwrap_or(&nothing),
            now: now.of.get(subject).unwrap_or(&nothing),
        };
        let mut lines = Vec::new();
        look.list(&mut lines);
        look.metadata(&mut lines);
        look.usages(&mut lines);
        if now.tombstones.contains(subject) && !before.tombstones.contains(subject) {
            look.new_tombstone(&mut lines);
        }
        if !lines.is_empty() {
            differences.insert(subject.clone(), lines);
        }
    }
    differences
}

struct Look<'a> {
    story: &'a Story,
    variant: Variant,
    before: &'a Cached,
    now: &'a Cached,
}

impl Look<'_> {
    /// It was in the cache at the last look and has been ever since.
    fn stayed(&self) -> bool {
        self.before.contains_key("") && !self.story.since.purged
    }

    /// A reader has fetched it since the last look, and it has been in the cache ever since: the refetch lock stood for
    /// it until the reader had written.
    fn is_refetched(&self) -> bool {
        self.story.since.fetched.is_some() && !self.story.since.purged
    }

    fn must_be_there(&self) -> bool {
        let since = &self.story.since;
        self.stayed()
            || self.is_refetched()
            || (self.variant.policy == "UPSERT" && since.lists == Lists::New && !since.purged)
    }

    fn list(&self, lines: &mut Vec<String>) {
        let Some(found) = self.now.get("") else {
            if self.must_be_there() {
                lines.push(format!("the customer key is absent, not {:?}", self.story.truth));
            }
            return;
        };
        let mut differ = |what: &str| {
            lines.push(format!("{what}: {found:?}, the truth is {:?}", self.story.truth));
        };
        match &self.story.truth {
            Truth::Listed(listing) => {
                if found.at != listing.at {
                    differ("the customer key is of another time");
                } else if let Err(fault) = self.entries(&found.value, listing) {
                    differ(&fault);
                } else {
                    self.balances(found, listing, lines);
                }
            }
            Truth::Denied { at, .. } => {
                if found.value != json!({}) || (found.at != *at && found.at != 0) {
                    differ("the customer key is not empty, or of another time");
                }
            }
            Truth::Unknown | Truth::Nothing => {
                if found.value != json!({}) || found.at != 0 {
                    differ("the customer key is not a reader's empty list");
                }
            }
        }
    }

    /// The entries of a customer key are those of the list, in a form that was asked for.
    fn entries(&self, value: &Value, listing: &Listing) -> Result<(), String> {
        let entries = value.as_object().ok_or("no object")?;
        let mut limits = BTreeMap::new();
        for (name, entry) in entries {
            let calculated = &entry["calculatedEntitlement"];
            let is_v4 = calculated.get("type").is_some() || entry.get("usageData").is_some();
            if is_v4 && self.variant.format == "v3" {
                return Err(format!("the entry {name} is not in the form of SDK 3.x"));
            }
            if calculated.get("currency").is_some() {
                continue;
            }
            if calculated.get("type").is_some() && entry.get("featureUsage").is_none() {
                return Err(format!("the entry {name} has not both forms"));
            }
            if !calculated["enumValues"].is_array() {
                return Err(format!("the entry {name} lost its empty enumValues"));
            }
            let id = calculated["feature"]["id"].as_str().unwrap_or_default();
            let rate = rate_of(id);
            if calculated["creditRate"]["currencyId"].as_str() != rate.map(|rate| rate.currency) {
                return Err(format!("the entry {name} has another credit rate"));
            }
            if rate.is_none() && !calculated["accessDeniedReason"].is_null() {
                return Err(format!("the entry {name} is denied, and costs no credits"));
            }
            limits.insert(id.to_owned(), calculated["usageLimit"].as_i64());
        }
        if limits == listing.limits { Ok(()) } else { Err("the customer key has other entries".to_owned()) }
    }

    /// Entries that cost credits show the effect of one balance for each currency: of the one that the list was made
    /// with, or of a newer one; and not of one that is older than what was sent.
    fn balances(&self, found: &Stamped, listing: &Listing, lines: &mut Vec<String>) {
        for currency in CURRENCIES {
            let Some(newest) = self.newest_shown(&found.value, listing, currency) else {
                lines.push(format!(
                    "entries show the effect of no balance of {currency} that the list may have: {found:?}; \
                     made with {:?}, all: {:?}",
                    listing.balances.get(currency),
                    self.story.every_balance.get(currency)
                ));
                continue;
            };
            let least = self.least_balance(found, listing, currency);
            if let Some((least, why)) = least
                && newest < least.at
            {
                lines.push(format!(
                    "entries show a balance of {currency} of {newest}, older than {why}: {least:?}; {found:?}"
                ));
            }
        }
    }

    /// When the newest balance was true whose effect the entries of a list may be showing. `None`: there is no such
    /// balance.
    fn newest_shown(&self, value: &Value, listing: &Listing, currency: &str) -> Option<i64> {
        let shows = |balance: Option<&Balance>| {
            value.as_object().is_some_and(|entries| {
                entries.values().all(|entry| {
                    let calculated = &entry["calculatedEntitlement"];
                    let id = calculated["feature"]["id"].as_str().unwrap_or_default();
                    rate_of(id).filter(|rate| rate.currency == currency).is_none_or(|rate| {
                        let (reason, valid_until) = rate.entry_under(balance);
                        calculated["accessDeniedReason"].as_str() == reason
                            && calculated["validUntil"].as_i64() == valid_until
                    })
                })
            })
        };
        let made_with = listing.balances.get(currency);
        let every = self.story.every_balance.get(currency);
        let newer = every
            .into_iter()
            .flatten()
            .map(|(_, balance)| balance)
            .filter(|balance| balance.at > listing.at && shows(Some(balance)));
        let as_made = shows(made_with).then(|| made_with.map_or(0, |balance| balance.at));
        newer.map(|balance| balance.at).max().or(as_made)
    }

    /// The balance whose effect must at least be shown.
    fn least_balance(
        &self,
        found: &Stamped,
        listing: &Listing,
        currency: &'static str,
    ) -> Option<(Balance, &'static str)> {
        let since = &self.story.since;
        let mut least = Vec::new();
        if self.stayed() {
            let sent = since.balances.get(currency);
            least.extend(sent.map(|balance| (*balance, "what was sent")));
            if let Some(before) = self.before.get("").filter(|before| before.at == found.at) {
                let shown = self.newest_shown(&before.value, listing, currency);
                let balance = shown.and_then(|at| self.story.every_balance.get(currency)?.get(&at));
                least.extend(balance.map(|balance| (*balance, "at the last look")));
            }
        }
        if self.is_refetched() {
            let sent = since.balances_after_fetch.get(currency);
            least.extend(sent.map(|balance| (*balance, "what was sent after a reader had fetched")));
        }
        // A list that is newer than a balance stands as it came.
        least.into_iter().filter(|(balance, _)| balance.at > listing.at).max_by_key(|(balance, _)| balance.at)
    }

    fn metadata(&self, lines: &mut Vec<String>) {
        let Some(found) = self.now.get("metadata") else {
            return;
        };
        if self.is_metadata_of_an_older_list(found) {
            return;
        }
        let expected = match &self.story.truth {
            Truth::Listed(listing) if self.story.is_published => (Value::Null, listing.at),
            Truth::Denied { reason, at } => (json!(reason), *at),
            Truth::Listed(_) | Truth::Unknown | Truth::Nothing => {
                lines.push(format!("metadata of what was forgotten: {found:?}"));
                return;
            }
        };
        let expected = Stamped { value: json!({"accessDeniedReason": expected.0}), at: expected.1 };
        if *found != expected || self.variant.format == "v3" {
            lines.push(format!("the metadata is {found:?}, not {expected:?}"));
        }
    }

    /// See "What is kept out" at the top of `model`.
    fn is_metadata_of_an_older_list(&self, found: &Stamped) -> bool {
        let is_older = self.now.get("").is_some_and(|list| found.at < list.at);
        let since = &self.story.since;
        let is_known = self.before.get("metadata") == Some(found) && !since.purged;
        self.variant.policy == "UPDATE_IF_EXISTS"
            && self.variant.format != "v3"
            && is_older
            && (since.fetched.is_some() || is_known)
    }

    fn usages(&self, lines: &mut Vec<String>) {
        for (part, stamped) in self.now {
            if part.is_empty() || part == "metadata" {
                continue;
            }
            match self.measured(part, stamped) {
                None => lines.push(format!("{part} was never that: {stamped:?}")),
                Some(measured) if part.starts_with("credit_") => {
                    self.period(part, stamped, measured, lines);
                }
                Some(_) => {}
            }
        }
        for (part, (least, why)) in self.bounds() {
            let found = self.now.get(&part).and_then(|stamped| self.measured(&part, stamped));
            if found.is_none_or(|found| found.at < least.at) {
                lines.push(format!(
                    "{part} is older than {why}: {found:?}, not {least:?} (stored: {:?})",
                    self.now.get(&part)
                ));
            }
        }
    }

    /// What was measured, if the stored usage ever was true.
    fn measured(&self, part: &str, stamped: &Stamped) -> Option<Measured> {
        let measured = *self.story.stamped.get(part)?.get(&stamped.at)?;
        (stamped.value["currentUsage"].as_i64() == Some(measured.value)).then_some(measured)
    }

    /// A credit's period is that of its message; where the message has none, it is one that was sent before, and one
    /// that was stored at the last look is not lost.
    fn period(&self, part: &str, stamped: &Stamped, measured: Measured, lines: &mut Vec<String>) {
        let of = |value: &Value| -> [Option<i64>; 2] {
            ["usagePeriodStart", "usagePeriodEnd"].map(|name| value[name].as_i64())
        };
        let found = of(&stamped.value);
        let before = self.before.get(part).map(|before| of(&before.value));
        let had_one = before.is_some_and(|before| before != [None; 2]) && !self.story.since.invalidated;
        let is_right = match measured.period {
            Some(sent) => found == sent.map(Some),
            None if found == [None; 2] => !had_one,
            None => self.story.stamped[part]
                .range(..stamped.at)
                .any(|(_, earlier)| earlier.period.is_some_and(|sent| found == sent.map(Some))),
        };
        let reset = stamped.value["nextResetDate"].as_i64();
        let is_reset_right = reset == found[1].filter(|_| self.variant.format == "compatible");
        if !is_right || !is_reset_right {
            lines.push(format!(
                "{part} has another period than was sent: {stamped:?}, sent {measured:?}, before {before:?}"
            ));
        }
    }

    /// What each usage must at least be, and why.
    fn bounds(&self) -> BTreeMap<String, (Measured, &'static str)> {
        let mut bounds: BTreeMap<String, (Measured, &'static str)> = BTreeMap::new();
        let mut at_least = |part: &str, measured: Measured, why: &'static str| {
            let bound = bounds.entry(part.to_owned()).or_insert((measured, why));
            if bound.0.at < measured.at {
                *bound = (measured, why);
            }
        };
        let since = &self.story.since;
        if !since.invalidated {
            for (part, stamped) in self.before {
                if let Some(measured) = self.measured(part, stamped) {
                    at_least(part, measured, "at the last look");
                }
            }
        }
        let mut sent = Vec::new();
        if self.stayed() {
            sent.push((&since.sent, &since.balances, "what was sent"));
        }
        if self.is_refetched() {
            let why = "what was sent after a reader had fetched";
            sent.push((&since.sent_after_fetch, &since.balances_after_fetch, why));
        }
        for (usages, balances, why) in sent {
            for (part, measured) in usages {
                // In the form of SDK 3.x a list carries no credits.
                if !(part.starts_with("credit_") && self.variant.format == "v3") {
                    at_least(part, *measured, why);
                }
            }
            for (currency, balance) in balances {
                let part = credit_part(currency);
                at_least(&part, self.story.stamped[&part][&balance.at], why);
            }
        }
        if let (Truth::Listed(listing), Some(_), false) =
            (&self.story.truth, self.now.get(""), since.invalidated)
        {
            for feature in listing.limits.keys() {
                let part = format!("f_{feature}");
                if let Some(measured) = listing.usages.get(&part) {
                    at_least(&part, *measured, "the list beside it");
                }
            }
        }
        bounds
    }

    /// A purge of somebody of whom nothing was stored leaves nothing behind with UPDATE_IF_EXISTS.
    fn new_tombstone(&self, lines: &mut Vec<String>) {
        let had_nothing = self.before.is_empty() && self.story.since.fetched.is_none();
        if self.variant.policy == "UPDATE_IF_EXISTS" && had_nothing {
            lines.push("a tombstone of somebody of whom nothing was stored".to_owned());
        }
    }
}
