//! What `inspect` found, as `--json` prints it. The table shows the same.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::{Map, Number, Value};

use crate::cache::keyspace::{metadata_key, timestamp_key};
use crate::cache::readers::{
    Entry, Kind, Stored, StoredList, Verdict, entries, form, timestamp_ms, verdicts,
};
use crate::commands::output::date;
use crate::entitlement::EpochMs;
use crate::store::admin::{Content, KeyExpiry, KeySnapshot};

/// What was read, by key.
pub(super) type Snapshots = HashMap<String, KeySnapshot>;

/// Everything that is cached for a customer or a resource.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    pub customer: String,
    pub resource: Option<String>,
    pub key: String,
    /// Something is stored at the customer key.
    pub cached: bool,
    pub format: &'static str,
    pub list: Stamp,
    /// For a resource: the customer's own list, which it is compared with.
    pub customer_list: Option<Stamp>,
    pub metadata: Metadata,
    pub entitlements: Vec<Row>,
    pub readers: [Verdict; 3],
    /// The keys of locks that SDKs hold now.
    pub locks: Vec<String>,
    /// The purges that are recorded: a message that was sent before is out of order.
    pub purges: Vec<RecordedPurge>,
}

/// When a value was true, and how long it lives.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Stamp {
    pub timestamp: Option<i64>,
    pub date: Option<String>,
    pub age_secs: Option<i64>,
    pub expires_in_secs: Option<u64>,
    /// What is odd about it.
    pub problem: Option<&'static str>,
    #[serde(skip)]
    pub expiry: KeyExpiry,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    pub cached: bool,
    pub access_denied_reason: Option<Value>,
    #[serde(flatten)]
    pub stamp: Stamp,
}

/// One entitlement.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    pub id: String,
    pub kind: &'static str,
    pub unlimited: bool,
    pub limit: Option<Number>,
    pub soft_limit: bool,
    pub access_denied_reason: Option<String>,
    pub valid_until: Option<i64>,
    pub reset_period: Option<String>,
    pub usage: Option<UsageRow>,
}

/// The usage that readers use.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct UsageRow {
    pub key: String,
    /// False: there is no usage key, and what follows is from the entry in the list.
    pub cached: bool,
    pub current_usage: Option<Number>,
    pub usage_period_start: Option<i64>,
    pub usage_period_end: Option<i64>,
    #[serde(flatten)]
    pub stamp: Stamp,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RecordedPurge {
    pub key: String,
    pub sent_at: i64,
    pub date: String,
    /// The timestamp of the newest list that it deleted.
    pub forgot_list_of: Option<i64>,
}

impl Report {
    /// Without the names of customer and resource.
    pub fn new(
        key: String,
        of_customer: Option<&str>,
        locks: &[String],
        tombstones: &[String],
        found: &Snapshots,
        now: EpochMs,
    ) -> Self {
        let text = |key: &str| found.get(key).and_then(KeySnapshot::text);
        let is_there = |key: &str| {
            found
                .get(key)
                .is_some_and(|found| found.content != Content::Absent)
        };
        let stored = |key: &str| Stored {
            value: text(key),
            timestamp: text(&timestamp_key(key)),
        };
        let stamp = |key: &str| Stamp::new(found.get(key), found.get(&timestamp_key(key)), now);
        let entries = entries(text(&key));
        let usage_keys: Vec<_> = entries
            .iter()
            .flatten()
            .map(|entry| entry.usage_key(&key))
            .collect();
        let list = StoredList {
            list: stored(&key),
            of_customer: of_customer.map(|key| text(&timestamp_key(key))),
            usages: usage_keys.iter().flatten().map(|key| stored(key)).collect(),
        };
        let row = |(entry, usage_key): (&Entry, Option<String>)| {
            let usage = usage_key.map(|key| {
                let (value, stamp) = (text(&key), stamp(&key));
                UsageRow::new(key, value, entry, stamp)
            });
            Row::new(entry, usage)
        };
        let metadata = metadata_key(&key);
        let stored_metadata: Value = text(&metadata)
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        let reason = stored_metadata.get("accessDeniedReason").cloned();
        Self {
            customer: String::new(),
            resource: None,
            cached: is_there(&key),
            format: entries.as_ref().map_or("none", |entries| form(entries)),
            list: stamp(&key),
            customer_list: of_customer.map(stamp),
            metadata: Metadata {
                cached: is_there(&metadata),
                access_denied_reason: reason.filter(|reason| !reason.is_null()),
                stamp: stamp(&metadata),
            },
            entitlements: entries.iter().flatten().zip(usage_keys).map(row).collect(),
            readers: verdicts(&list, &entries),
            locks: locks.iter().filter(|key| is_there(key)).cloned().collect(),
            purges: tombstones
                .iter()
                .filter_map(|key| RecordedPurge::read(key, text(key)?))
                .collect(),
            key,
        }
    }
}

impl Stamp {
    fn new(value: Option<&KeySnapshot>, timestamp: Option<&KeySnapshot>, now: EpochMs) -> Self {
        let value = value.unwrap_or(&KeySnapshot::ABSENT);
        let timestamp = timestamp.unwrap_or(&KeySnapshot::ABSENT);
        let at = timestamp.text().and_then(timestamp_ms);
        let problem = match (&value.content, &timestamp.content) {
            (Content::Foreign, _) | (_, Content::Foreign) => Some("something foreign stands at the key"),
            (Content::NotText, _) => Some("the value is not text"),
            (Content::Absent, Content::Absent) => None,
            (Content::Absent, _) => Some("a timestamp without its value"),
            (Content::Text(_), Content::Absent) => Some("no timestamp"),
            (Content::Text(_), _) if at.is_none() => Some("the timestamp is not a number"),
            (Content::Text(_), Content::Text(_) | Content::NotText) => None,
        };
        Self {
            timestamp: at,
            date: at.map(date),
            age_secs: at.map(|at| now.0.saturating_sub(at) / 1_000),
            expires_in_secs: match value.expiry {
                KeyExpiry::In(left) => Some(left.as_secs()),
                KeyExpiry::Absent | KeyExpiry::Never | KeyExpiry::Unknown => None,
            },
            problem,
            expiry: value.expiry,
        }
    }
}

impl Row {
    fn new(entry: &Entry, usage: Option<UsageRow>) -> Self {
        let field = |name: &str| entry.entitlement.get(name).filter(|value| !value.is_null());
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let is_true = |name: &str| field(name).and_then(Value::as_bool).unwrap_or(false);
        let feature_type = field("feature").and_then(|feature| feature.get("featureType")?.as_str());
        let kind = match (entry.kind, feature_type) {
            (Kind::Metered, _) => "metered",
            (Kind::Credit, _) => "credit",
            (Kind::Malformed, _) => "malformed",
            (Kind::Feature, Some("BOOLEAN")) => "boolean",
            (Kind::Feature, Some("NUMBER")) => "number",
            (Kind::Feature, Some("ENUM")) => "enum",
            (Kind::Feature, _) => "feature",
        };
        let reset_period = field("resetPeriod").or_else(|| entry.usage.get("resetPeriod"));
        Self {
            id: entry.id.clone(),
            kind,
            unlimited: is_true("hasUnlimitedUsage"),
            limit: field("usageLimit").and_then(Value::as_number).cloned(),
            soft_limit: is_true("hasSoftLimit"),
            access_denied_reason: field("accessDeniedReason").and_then(text),
            valid_until: field("validUntil").and_then(Value::as_i64),
            reset_period: reset_period.and_then(text),
            usage,
        }
    }
}

impl UsageRow {
    fn new(key: String, value: Option<&str>, entry: &Entry, stamp: Stamp) -> Self {
        let stored: Option<Map<String, Value>> = value.and_then(|text| serde_json::from_str(text).ok());
        let usage = stored.as_ref().unwrap_or(&entry.usage);
        let number = |name: &str| usage.get(name).and_then(Value::as_i64);
        Self {
            key,
            cached: stored.is_some(),
            current_usage: usage.get("currentUsage").and_then(Value::as_number).cloned(),
            usage_period_start: number("usagePeriodStart"),
            usage_period_end: number("usagePeriodEnd").or_else(|| number("nextResetDate")),
            stamp,
        }
    }
}

impl RecordedPurge {
    /// A tombstone is `<when the purge was sent>`, or `<when>:<timestamp of the newest list that it deleted>`.
    fn read(key: &str, tombstone: &str) -> Option<Self> {
        let (sent_at, list) = tombstone.split_once(':').unwrap_or((tombstone, ""));
        let sent_at = sent_at.parse().ok()?;
        Some(Self {
            key: key.to_owned(),
            sent_at,
            date: date(sent_at),
            forgot_list_of: list.parse().ok(),
        })
    }
}
