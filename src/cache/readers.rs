//! What the published SDKs make of what is stored: a hit or a miss, and why. Pure.
//!
//! Source: the published packages. 2.49.0 reads the customer key alone. 3.95.0 compares a resource's timestamp with its
//! customer's, and wants a usage key for each metered feature. `cache-redis-store` 1.29.0 (SDK 4.x) wants a timestamp
//! beside each value as well. Which credits 4.x wants a usage for is not published: all, it is assumed here.

use serde_json::{Map, Value};

use crate::entitlement::{CurrencyId, FeatureId};
use crate::message::UsageOf;

/// A generation of the SDK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// 2.x.
    V2,
    /// 3.x.
    V3,
    /// 4.x.
    V4,
}

/// Every generation.
pub const GENERATIONS: [Generation; 3] = [Generation::V2, Generation::V3, Generation::V4];

impl Generation {
    /// As people write it.
    pub fn label(self) -> &'static str {
        match self {
            Self::V2 => "2.x",
            Self::V3 => "3.x",
            Self::V4 => "4.x",
        }
    }
}

/// The keys of one customer or resource, as far as readers look at them.
#[derive(Debug, Default)]
pub struct StoredList<'a> {
    /// The customer key's value.
    pub value: Option<&'a str>,
    /// Its timestamp.
    pub timestamp: Option<&'a str>,
    /// For a resource: the timestamp of its customer's own list, if there is one.
    pub of_customer: Option<Option<&'a str>>,
    /// What the entries' usage keys hold, in the order of [`Entry::usage_of`] of those that have one.
    pub usages: Vec<StoredUsage<'a>>,
}

/// A usage key.
#[derive(Debug, Clone, Copy, Default)]
pub struct StoredUsage<'a> {
    /// Its value.
    pub value: Option<&'a str>,
    /// Its timestamp.
    pub timestamp: Option<&'a str>,
}

/// One entry of the list.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The feature's or the currency's id; the entry's own key if it names none.
    pub id: String,
    /// What it is about.
    pub kind: Kind,
    /// `calculatedEntitlement`.
    pub entitlement: Map<String, Value>,
    /// `usageData`, else `featureUsage`.
    pub usage: Map<String, Value>,
    /// It has what 2.x and 3.x look for.
    pub has_feature_usage: bool,
    /// It has what 4.x looks for.
    pub has_type: bool,
}

/// What an entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A feature with a meter: readers look for its usage.
    Metered,
    /// Another feature.
    Feature,
    /// A credit currency.
    Credit,
    /// No `calculatedEntitlement`: readers stumble over it.
    Malformed,
}

/// What a reader finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whose.
    pub generation: Generation,
    /// It answers from the cache; else it asks Stigg.
    pub is_hit: bool,
    /// Why it misses, or what is worth knowing of the hit.
    pub reasons: Vec<String>,
}

/// Which readers a list was written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// No list is stored, or none that can be read.
    None,
    /// A list without entries looks the same in each form.
    Empty,
    /// As SDK 3.x writes it (2.x, too).
    V3,
    /// As SDK 4.x writes it.
    V4,
    /// Each entry carries both.
    Compatible,
    /// Some entries are of the one form, some of another.
    Mixed,
}

impl Form {
    /// As `CACHE_FORMAT` has it, where it has it.
    pub fn label(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Empty => "empty",
            Self::V3 => "v3",
            Self::V4 => "v4",
            Self::Compatible => "compatible",
            Self::Mixed => "mixed",
        }
    }
}

impl Entry {
    /// The usage key that readers look for, if they look for one.
    pub fn usage_of(&self) -> Option<UsageOf> {
        match self.kind {
            Kind::Metered => Some(UsageOf::Feature(FeatureId(self.id.clone()))),
            Kind::Credit => Some(UsageOf::Credit(CurrencyId(self.id.clone()))),
            Kind::Feature | Kind::Malformed => None,
        }
    }

    fn read(key: &str, value: &Value) -> Self {
        let object = |name: &str| value.get(name).and_then(Value::as_object).cloned();
        let entitlement = object("calculatedEntitlement");
        let text = |path: &str| value.pointer(path).and_then(Value::as_str);
        let meter = text("/calculatedEntitlement/feature/meterType");
        let (kind, id) = match &entitlement {
            None => (Kind::Malformed, None),
            Some(_) if text("/calculatedEntitlement/type") == Some("CREDIT") => {
                (Kind::Credit, text("/calculatedEntitlement/currency/currencyId"))
            }
            Some(_) => {
                let is_metered = text("/calculatedEntitlement/feature/featureType") == Some("NUMBER")
                    && matches!(meter, Some("Incremental" | "Fluctuating"));
                let kind = if is_metered { Kind::Metered } else { Kind::Feature };
                (kind, text("/calculatedEntitlement/feature/id"))
            }
        };
        let feature_usage = object("featureUsage");
        Self {
            id: id.unwrap_or(key).to_owned(),
            kind,
            has_feature_usage: feature_usage.is_some(),
            has_type: text("/calculatedEntitlement/type").is_some(),
            entitlement: entitlement.unwrap_or_default(),
            usage: object("usageData").or(feature_usage).unwrap_or_default(),
        }
    }
}

/// The entries of a list; what is wrong with it if it cannot be read.
pub fn entries(value: Option<&str>) -> Result<Vec<Entry>, &'static str> {
    match value {
        None => Err("nothing is cached"),
        Some("") => Err("the value is empty"),
        Some(value) => match serde_json::from_str(value) {
            Ok(Value::Object(list)) => Ok(list.iter().map(|(key, value)| Entry::read(key, value)).collect()),
            Ok(_) => Err("the value is no JSON object"),
            Err(_) => Err("the value is not JSON"),
        },
    }
}

/// Which readers a list was written for.
pub fn form(entries: &[Entry]) -> Form {
    let mut forms = entries
        .iter()
        .filter(|entry| matches!(entry.kind, Kind::Metered | Kind::Feature))
        .map(|entry| match (entry.has_feature_usage, entry.has_type) {
            (true, true) => Form::Compatible,
            (false, true) => Form::V4,
            (_, false) => Form::V3,
        });
    let Some(first) = forms.next() else {
        // Only 4.x knows credits.
        return if entries.is_empty() { Form::Empty } else { Form::V4 };
    };
    if forms.all(|form| form == first) {
        first
    } else {
        Form::Mixed
    }
}

/// A stored timestamp as JavaScript reads it: the number that the text begins with, if it is a date.
pub fn timestamp_ms(text: &str) -> Option<i64> {
    const LAST_DATE_MS: i64 = 8_640_000_000_000_000;
    let text = text.trim_start();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = digits
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(digits.len());
    let number: i64 = digits.get(..end)?.parse().ok()?;
    (number <= LAST_DATE_MS).then_some(sign * number)
}

/// What a reader of this generation finds when it asks for the whole list. (3.x and 4.x miss a single feature only
/// if that one's usage is missing.)
pub fn verdict(generation: Generation, list: &StoredList<'_>) -> Verdict {
    let mut misses = Vec::new();
    let mut notes = Vec::new();
    match entries(list.value) {
        Err(why) => misses.push(why.to_owned()),
        Ok(entries) => {
            let malformed = entries.iter().filter(|entry| entry.kind == Kind::Malformed);
            if malformed.count() > 0 {
                misses
                    .push("an entry has no calculatedEntitlement, over which the reader stumbles".to_owned());
            }
            if generation != Generation::V2 {
                misses.extend(missing_usages(generation, &entries, &list.usages));
            }
            // Only 4.x knows credits in any form.
            let is_for_4_only =
                |entry: &Entry| entry.has_type && !entry.has_feature_usage && entry.kind != Kind::Credit;
            if generation != Generation::V4 && entries.iter().any(is_for_4_only) {
                notes.push(
                    "some entries are of the 4.x form, without the featureUsage that it reads".to_owned(),
                );
            }
        }
    }
    let timestamp = list.timestamp.and_then(timestamp_ms);
    if generation == Generation::V4 && list.value.is_some() && timestamp.is_none() {
        misses.push("the list has no timestamp".to_owned());
    }
    if let Some(of_customer) = list.of_customer
        && generation != Generation::V2
    {
        match (timestamp, of_customer.and_then(timestamp_ms)) {
            (_, None) => misses.push(
                "the customer's own list has no timestamp, so the resource's does not count".to_owned(),
            ),
            (None, Some(_)) if generation == Generation::V3 && list.value.is_some() => {
                misses.push("the list has no timestamp to compare with the customer's".to_owned());
            }
            (Some(own), Some(of_customer)) if own < of_customer => misses.push(format!(
                "the resource's list ({own}) is older than the customer's own ({of_customer})"
            )),
            (None | Some(_), Some(_)) => {}
        }
    }
    Verdict {
        generation,
        is_hit: misses.is_empty(),
        reasons: if misses.is_empty() { notes } else { misses },
    }
}

fn missing_usages(generation: Generation, entries: &[Entry], usages: &[StoredUsage<'_>]) -> Option<String> {
    let with_usage = entries.iter().filter(|entry| entry.usage_of().is_some());
    let missing: Vec<&str> = with_usage
        .zip(usages)
        .filter(|(entry, usage)| match generation {
            Generation::V2 => false,
            // 3.x knows no credits, and does not look at a usage's timestamp.
            Generation::V3 => entry.kind == Kind::Metered && usage.value.is_none(),
            Generation::V4 => usage.value.is_none() || usage.timestamp.and_then(timestamp_ms).is_none(),
        })
        .map(|(entry, _)| entry.id.as_str())
        .collect();
    let what = match generation {
        Generation::V4 => "no usage with a timestamp is stored for",
        Generation::V2 | Generation::V3 => "no usage is stored for",
    };
    (!missing.is_empty()).then(|| format!("{what} {}", missing.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const METERED: &str = r#"{"api":{"calculatedEntitlement":{"type":"FEATURE","feature":{"id":"api","featureType":"NUMBER","meterType":"Incremental"}},"featureUsage":{"currentUsage":1}}}"#;
    const V4_ONLY: &str = r#"{"sso":{"calculatedEntitlement":{"type":"FEATURE","feature":{"id":"sso","featureType":"BOOLEAN"}}},
        "ai":{"calculatedEntitlement":{"type":"CREDIT","currency":{"currencyId":"ai"}}}}"#;

    fn list<'a>(value: &'a str, timestamp: Option<&'a str>) -> StoredList<'a> {
        StoredList {
            value: Some(value),
            timestamp,
            ..StoredList::default()
        }
    }

    fn hits(list: &StoredList<'_>) -> [bool; 3] {
        GENERATIONS.map(|generation| verdict(generation, list).is_hit)
    }

    #[test]
    fn nothing_and_what_is_no_list_is_a_miss_for_everyone() {
        assert_eq!(hits(&StoredList::default()), [false; 3]);
        for value in ["", "{", "7"] {
            assert_eq!(hits(&list(value, Some("5"))), [false; 3], "{value}");
        }
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
            usages: vec![StoredUsage { value, timestamp }],
            ..list(METERED, Some("5"))
        };
        assert_eq!(hits(&with(Some("{}"), Some("5"))), [true; 3]);
        assert_eq!(hits(&with(Some("{}"), None)), [true, true, false]);
        assert_eq!(hits(&with(None, None)), [true, false, false]);
        let verdict = verdict(Generation::V3, &with(None, None));
        assert_eq!(verdict.reasons, ["no usage is stored for api"]);
    }

    #[test]
    fn a_credit_without_usage_is_a_miss_for_4_and_its_form_is_told_to_the_others() {
        let list = StoredList {
            usages: vec![StoredUsage::default()],
            ..list(V4_ONLY, Some("5"))
        };
        assert_eq!(hits(&list), [true, true, false]);
        assert!(verdict(Generation::V3, &list).reasons[0].contains("4.x form"));
    }

    #[test]
    fn a_resource_older_than_its_customer_is_a_miss_from_3_on() {
        let beside = |of_customer| StoredList {
            of_customer: Some(of_customer),
            ..list("{}", Some("5"))
        };
        assert_eq!(hits(&beside(Some("5"))), [true; 3]);
        assert_eq!(hits(&beside(Some("6"))), [true, false, false]);
        assert_eq!(hits(&beside(None)), [true, false, false]);
        let without_its_own = StoredList {
            of_customer: Some(Some("5")),
            ..list("{}", None)
        };
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
    fn forms_are_told_apart() {
        let of = |value| form(&entries(Some(value)).unwrap());
        assert_eq!(of(METERED), Form::Compatible);
        assert_eq!(of(V4_ONLY), Form::V4);
        assert_eq!(of("{}"), Form::Empty);
        let v3 = METERED.replace(r#""type":"FEATURE","#, "");
        assert_eq!(of(&v3), Form::V3);
        let mixed = format!(
            "{},{}",
            METERED.trim_end_matches('}').to_owned() + "}}",
            &v3.replacen("{\"api", "\"other", 1)
        );
        assert_eq!(of(&mixed), Form::Mixed);
    }
}
