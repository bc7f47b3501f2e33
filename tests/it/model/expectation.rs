//! What Redis must hold, given what is true and what was sent: see the words at the top of `model`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::cache::{Cache, Cached, Stamped};
use super::origin::Origin;
use super::run::Variant;
use super::truth::{Listing, Measured, Story, Subject, Truth};

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

    fn must_be_there(&self) -> bool {
        self.stayed()
            || (self.variant.policy == "UPSERT" && self.story.since.listed && !self.story.since.purged)
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
            let id = calculated["feature"]["id"].as_str().unwrap_or_default();
            limits.insert(id.to_owned(), calculated["usageLimit"].as_i64());
        }
        if limits == listing.limits {
            Ok(())
        } else {
            Err("the customer key has other entries".to_owned())
        }
    }

    fn metadata(&self, lines: &mut Vec<String>) {
        let Some(found) = self.now.get("metadata") else {
            return;
        };
        let expected = match &self.story.truth {
            Truth::Listed(listing) if self.story.is_told => (Value::Null, listing.at),
            Truth::Denied { reason, at } => (json!(reason), *at),
            Truth::Listed(_) | Truth::Unknown | Truth::Nothing => {
                lines.push(format!("metadata of what was forgotten: {found:?}"));
                return;
            }
        };
        let expected = Stamped {
            value: json!({"accessDeniedReason": expected.0}),
            at: expected.1,
        };
        if *found != expected || self.variant.format == "v3" {
            lines.push(format!("the metadata is {found:?}, not {expected:?}"));
        }
    }

    fn usages(&self, lines: &mut Vec<String>) {
        for (part, stamped) in self.now {
            if !part.is_empty() && part != "metadata" && self.measured(part, stamped).is_none() {
                lines.push(format!("{part} was never that: {stamped:?}"));
            }
        }
        for (part, (least, why)) in self.bounds() {
            let found = self
                .now
                .get(&part)
                .and_then(|stamped| self.measured(&part, stamped));
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
        if self.stayed() {
            for (part, measured) in &since.told {
                // A credit that came with a list is not for readers of SDK 3.x.
                if !(part.starts_with("credit_") && self.variant.format == "v3") {
                    at_least(part, *measured, "what was told");
                }
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
}
