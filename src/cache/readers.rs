//! What the published SDKs make of what is stored: a hit or a miss, and why. Pure.
//!
//! Source: the published packages. 2.49.0 reads the customer key alone. 3.95.0 compares a resource's timestamp with its
//! customer's, and wants a usage key for each metered feature. `cache-redis-store` 1.29.0 (SDK 4.x) wants a timestamp
//! beside each value as well. Which credits 4.x wants a usage for is not published; all of them are assumed.

use serde::Serialize;
use serde_json::{Map, Value};

use super::keyspace::{credit_usage_key, feature_usage_key};
use crate::entitlement::{CurrencyId, FeatureId};
use crate::json::replace_lone_surrogates;

/// A value and the timestamp beside it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stored<'a> {
    /// The value.
    pub value: Option<&'a str>,
    /// Its timestamp.
    pub timestamp: Option<&'a str>,
}

/// The keys of one customer or resource, as far as readers look at them.
#[derive(Debug, Default)]
pub struct StoredList<'a> {
    /// The customer key.
    pub list: Stored<'a>,
    /// For a resource: the timestamp of its customer's own list, if there is one.
    pub of_customer: Option<Option<&'a str>>,
    /// The usage keys of the entries that have one, in their order.
    pub usages: Vec<Stored<'a>>,
}

/// One entry of the list.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredEntry {
    /// The feature's or the currency's id; the entry's own key if it names none.
    pub id: String,
    /// What it is about.
    pub kind: EntryKind,
    /// `calculatedEntitlement`.
    pub entitlement: Map<String, Value>,
    /// `usageData`, else `featureUsage`.
    pub usage: Map<String, Value>,
    /// Which readers it was written for, as `CACHE_FORMAT` has it. `None` for a credit, which only 4.x knows.
    form: Option<&'static str>,
}

/// What an entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A feature with a meter: readers look for its usage.
    Metered,
    /// Another feature.
    Feature,
    /// A credit currency.
    Credit,
    /// No `calculatedEntitlement`: readers fail on it.
    Malformed,
}

/// What a generation of readers finds.
#[derive(Debug, Serialize)]
pub struct Verdict {
    /// The generation, such as `2.x`.
    pub sdk: &'static str,
    /// `hit`: it answers from the cache. `miss`: it asks Stigg.
    pub outcome: &'static str,
    /// Why it misses, or what is worth knowing of the hit.
    pub reasons: Vec<String>,
}

impl StoredEntry {
    /// The usage key that readers look for, if they look for one.
    pub fn usage_key(&self, customer_key: &str) -> Option<String> {
        let id = self.id.clone();
        match self.kind {
            EntryKind::Metered => Some(feature_usage_key(customer_key, &FeatureId(id))),
            EntryKind::Credit => Some(credit_usage_key(customer_key, &CurrencyId(id))),
            EntryKind::Feature | EntryKind::Malformed => None,
        }
    }

    fn read(key: &str, value: &Value) -> Self {
        let object = |name| value.get(name).and_then(Value::as_object);
        let text = |path: &str| value["calculatedEntitlement"].pointer(path).and_then(Value::as_str);
        let (entitlement, feature_usage) = (object("calculatedEntitlement"), object("featureUsage"));
        let kind = match (text("/type"), text("/feature/featureType"), text("/feature/meterType")) {
            _ if entitlement.is_none() => EntryKind::Malformed,
            (Some("CREDIT"), ..) => EntryKind::Credit,
            (_, Some("NUMBER"), Some("Incremental" | "Fluctuating")) => EntryKind::Metered,
            _ => EntryKind::Feature,
        };
        let id = text(if kind == EntryKind::Credit { "/currency/currencyId" } else { "/feature/id" });
        let form = match (kind, text("/type"), feature_usage) {
            (EntryKind::Credit | EntryKind::Malformed, ..) => None,
            (_, None, _) => Some("v3"),
            (_, Some(_), Some(_)) => Some("compatible"),
            (_, Some(_), None) => Some("v4"),
        };
        Self {
            id: id.unwrap_or(key).to_owned(),
            kind,
            entitlement: entitlement.cloned().unwrap_or_default(),
            usage: object("usageData").or(feature_usage).cloned().unwrap_or_default(),
            form,
        }
    }
}

/// The entries of a list; what is wrong with it if it cannot be read.
pub fn entries(value: Option<&str>) -> Result<Vec<StoredEntry>, &'static str> {
    let value = value.ok_or("nothing is cached")?;
    // An SDK may have written half an emoji.
    let whole = || serde_json::from_str(&replace_lone_surrogates(value)?).ok();
    match serde_json::from_str(value).or_else(|error| whole().ok_or(error)) {
        Ok(Value::Object(list)) => {
            Ok(list.iter().map(|(key, value)| StoredEntry::read(key, value)).collect())
        }
        Ok(_) => Err("the value is not a JSON object"),
        Err(_) if value.is_empty() => Err("the value is empty"),
        Err(_) => Err("the value is not JSON"),
    }
}

/// Which readers a list was written for, as `CACHE_FORMAT` has it; `mixed` if the entries differ, `empty` if there are none.
pub fn form(entries: &[StoredEntry]) -> &'static str {
    let mut forms = entries.iter().filter_map(|entry| entry.form);
    match forms.next() {
        None if entries.is_empty() => "empty",
        None => "v4",
        Some(first) if forms.all(|form| form == first) => first,
        Some(_) => "mixed",
    }
}

/// A stored timestamp as JavaScript reads it: the number that the text begins with, if it is a date.
pub fn timestamp_ms(text: &str) -> Option<i64> {
    const LAST_DATE_MS: u64 = 8_640_000_000_000_000;
    let text = text.trim_start();
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let behind = digits.trim_start_matches(|letter: char| letter.is_ascii_digit());
    let number: i64 = text.strip_suffix(behind)?.parse().ok()?;
    (number.unsigned_abs() <= LAST_DATE_MS).then_some(number)
}

/// What each generation of readers finds when it asks for the whole list. (3.x and 4.x miss a single feature only if
/// that one's usage is missing.)
pub fn verdicts(stored: &StoredList<'_>, entries: &Result<Vec<StoredEntry>, &'static str>) -> [Verdict; 3] {
    [(2, "2.x"), (3, "3.x"), (4, "4.x")].map(|(generation, sdk)| {
        let mut reasons = misses(generation, stored, entries);
        let outcome = if reasons.is_empty() { "hit" } else { "miss" };
        let is_v4 = |entry: &StoredEntry| entry.form == Some("v4");
        if outcome == "hit" && generation < 4 && entries.iter().flatten().any(is_v4) {
            reasons
                .push("some entries are of the 4.x form, without the featureUsage that it reads".to_owned());
        }
        Verdict { sdk, outcome, reasons }
    })
}

/// Why a generation of readers (2, 3 or 4) misses.
fn misses(
    generation: u8,
    stored: &StoredList<'_>,
    entries: &Result<Vec<StoredEntry>, &'static str>,
) -> Vec<String> {
    let own = stored.list.timestamp.and_then(timestamp_ms);
    let of_customer = stored.of_customer.filter(|_| generation > 2).map(|at| at.and_then(timestamp_ms));
    let is_malformed = |entry: &StoredEntry| entry.kind == EntryKind::Malformed;
    let needs_timestamp = generation == 4 || of_customer.is_some_and(|at| at.is_some());
    let faults = [
        (entries.is_err(), entries.as_ref().err().copied().unwrap_or_default()),
        (
            entries.iter().flatten().any(is_malformed),
            "an entry has no calculatedEntitlement, on which the reader fails",
        ),
        (stored.list.value.is_some() && own.is_none() && needs_timestamp, "the list has no timestamp"),
        (
            of_customer == Some(None),
            "the customer's own list has no timestamp, so the resource's does not count",
        ),
        (
            own.zip(of_customer.flatten()).is_some_and(|(own, of_customer)| own < of_customer),
            "the resource's list is older than the customer's own",
        ),
    ];
    let faults = faults.into_iter().filter(|(is_found, _)| *is_found).map(|(_, why)| why.to_owned());
    let missing = entries.iter().filter_map(|entries| missing_usages(generation, entries, &stored.usages));
    faults.chain(missing).collect()
}

fn missing_usages(generation: u8, entries: &[StoredEntry], usages: &[Stored<'_>]) -> Option<String> {
    let counted = entries.iter().filter(|entry| matches!(entry.kind, EntryKind::Metered | EntryKind::Credit));
    let is_missing = |(entry, usage): &(&StoredEntry, &Stored<'_>)| match generation {
        2 => false,
        // 3.x knows no credits, and does not look at a usage's timestamp.
        3 => entry.kind == EntryKind::Metered && usage.value.is_none(),
        _ => usage.value.is_none() || usage.timestamp.and_then(timestamp_ms).is_none(),
    };
    let missing: Vec<&str> =
        counted.zip(usages).filter(is_missing).map(|(entry, _)| entry.id.as_str()).collect();
    let timed = if generation == 4 { " with a timestamp" } else { "" };
    (!missing.is_empty()).then(|| format!("no usage{timed} is stored for {}", missing.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const METERED: &str = r#"{"api":{"calculatedEntitlement":{"type":"FEATURE","feature":{"id":"api","featureType":"NUMBER","meterType":"Incremental"}},"featureUsage":{"currentUsage":1}}}"#;
    const V4_ONLY: &str = r#"{"sso":{"calculatedEntitlement":{"type":"FEATURE","feature":{"id":"sso","featureType":"BOOLEAN"}}},
        "ai":{"calculatedEntitlement":{"type":"CREDIT","currency":{"currencyId":"ai"}}}}"#;

    fn list<'a>(value: &'a str, timestamp: Option<&'a str>) -> StoredList<'a> {
        let value = Some(value);
        StoredList { list: Stored { value, timestamp }, ..StoredList::default() }
    }

    fn of_all(list: &StoredList<'_>) -> [Verdict; 3] {
        verdicts(list, &entries(list.list.value))
    }

    fn hits(list: &StoredList<'_>) -> [bool; 3] {
        of_all(list).map(|verdict| verdict.outcome == "hit")
    }

    #[test]
    fn nothing_and_what_is_no_list_is_a_miss_for_everyone() {
        assert_eq!(hits(&StoredList::default()), [false; 3]);
        for value in ["", "{", "7"] {
            assert_eq!(hits(&list(value, Some("5"))), [false; 3], "{value}");
        }
    }

    #[test]
    fn half_an_emoji_is_read_as_the_readers_do() {
        let entries = entries(Some(r#"{"a":{"calculatedEntitlement":{"name":"\ud83d"}}}"#)).unwrap();
        assert_eq!(entries[0].entitlement["name"], "\u{fffd}");
    }

    #[test]
    fn a_list_without_a_timestamp_is_a_miss_for_4_only() {
        assert_eq!(hits(&list("{}", Some("5"))), [true; 3]);
        assert_eq!(hits(&list("{}", None)), [true, true, false]);
        assert_eq!(hits(&list("{}", Some("soon"))), [true, true, false]);
    }

    #[test]
    fn a_metered_feature_without_usage_is_a_miss_from_3_on() {
        let with = |value, timestamp| StoredList {
            usages: vec![Stored { value, timestamp }],
            ..list(METERED, Some("5"))
        };
        assert_eq!(hits(&with(Some("{}"), Some("5"))), [true; 3]);
        assert_eq!(hits(&with(Some("{}"), None)), [true, true, false]);
        assert_eq!(hits(&with(None, None)), [true, false, false]);
        let [_, v3, _] = of_all(&with(None, None));
        assert_eq!(v3.reasons, ["no usage is stored for api"]);
    }

    #[test]
    fn a_credit_without_usage_is_a_miss_for_4_and_its_form_is_reported_to_the_others() {
        let list = StoredList { usages: vec![Stored::default()], ..list(V4_ONLY, Some("5")) };
        assert_eq!(hits(&list), [true, true, false]);
        let [_, v3, _] = of_all(&list);
        assert!(v3.reasons[0].contains("4.x form"));
    }

    #[test]
    fn a_resource_older_than_its_customer_is_a_miss_from_3_on() {
        let beside = |of_customer| StoredList { of_customer: Some(of_customer), ..list("{}", Some("5")) };
        assert_eq!(hits(&beside(Some("5"))), [true; 3]);
        assert_eq!(hits(&beside(Some("6"))), [true, false, false]);
        assert_eq!(hits(&beside(None)), [true, false, false]);
        let without_its_own = StoredList { of_customer: Some(Some("5")), ..list("{}", None) };
        assert_eq!(hits(&without_its_own), [true, false, false]);
    }

    #[test]
    fn timestamps_are_read_as_javascript_reads_them() {
        assert_eq!(timestamp_ms("1795161600000"), Some(1_795_161_600_000));
        assert_eq!(timestamp_ms(" 12abc"), Some(12));
        assert_eq!(timestamp_ms("-3"), Some(-3));
        for text in ["", "x", "9999999999999999", "99999999999999999999"] {
            assert_eq!(timestamp_ms(text), None, "{text}");
        }
    }

    #[test]
    fn forms_are_distinguished() {
        let of = |value| form(&entries(Some(value)).unwrap());
        assert_eq!(of(METERED), "compatible");
        assert_eq!(of(V4_ONLY), "v4");
        assert_eq!(of("{}"), "empty");
        let v3 = METERED.replace(r#""type":"FEATURE","#, "");
        assert_eq!(of(&v3), "v3");
        let mixed = format!(
            "{},{}",
            METERED.trim_end_matches('}').to_owned() + "}}",
            &v3.replacen("{\"api", "\"other", 1)
        );
        assert_eq!(of(&mixed), "mixed");
    }
}
