//! What `inspect` found, as `--json` prints it. The table shows the same.

use serde::Serialize;
use serde_json::{Map, Number, Value};

use crate::cache::readers::{
    EntryKind as Kind, Stored, StoredEntry as Entry, StoredList, Verdict, entries, form, timestamp_ms,
    verdicts,
};
use crate::commands::human;
use crate::entitlement::EpochMs;
use crate::store::admin::{Content, KeyExpiry, KeySnapshot};

/// Everything that is cached for a customer or a resource.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    pub customer: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    pub key: String,
    /// Something is stored at the customer key.
    pub cached: bool,
    pub format: &'static str,
    pub list: Stamp,
    /// For a resource: the customer's own list, with which it is compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub customer_list: Option<Stamp>,
    pub metadata: Metadata,
    pub entitlements: Vec<Row>,
    pub readers: [Verdict; 3],
    /// Locks that SDKs hold at this moment: their keys.
    pub locks: Vec<String>,
    /// Purges that are remembered: a message that was sent before is late news.
    pub purges: Vec<Purge>,
}

/// When a value was true, and how long it lives.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Stamp {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_secs: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in_secs: Option<u64>,
    /// What is odd about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<&'static str>,
    #[serde(skip)]
    pub life: KeyExpiry,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_denied_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reset_period: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageRow>,
}

/// The usage that readers use.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct UsageRow {
    pub key: String,
    /// False: there is no usage key, and what follows is what the list's own entry says.
    pub cached: bool,
    pub current_usage: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage_period_start: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage_period_end: Option<i64>,
    #[serde(flatten)]
    pub stamp: Stamp,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Purge {
    pub key: String,
    pub sent_at: i64,
    pub date: String,
    /// How new the newest list was that it forgot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forgot_list_of: Option<i64>,
}

/// Keys of one subject, looked at.
pub(super) struct Looks {
    pub list: [KeySnapshot; 2],
    pub customer_list: Option<KeySnapshot>,
    pub metadata: [KeySnapshot; 2],
    /// Of each entry that has one, in order: the key, its value and its timestamp.
    pub usages: Vec<(String, [KeySnapshot; 2])>,
    pub locks: Vec<(String, KeySnapshot)>,
    pub tombstones: Vec<(String, KeySnapshot)>,
}

impl Report {
    pub fn new(customer: String, resource: Option<String>, key: String, looks: &Looks, now: EpochMs) -> Self {
        let [value, timestamp] = &looks.list;
        let entries = entries(value.text());
        let stored = StoredList {
            list: stored(&looks.list),
            of_customer: looks.customer_list.as_ref().map(KeySnapshot::text),
            usages: looks.usages.iter().map(|(_, usage)| stored(usage)).collect(),
        };
        let mut usages = looks.usages.iter();
        let rows = entries.iter().flatten().map(|entry| {
            let usage = entry.usage_key(&key).and_then(|_| usages.next());
            Row::new(
                entry,
                usage.map(|(key, looks)| UsageRow::new(key, looks, entry, now)),
            )
        });
        let rows: Vec<Row> = rows.collect();
        Self {
            cached: value.content != Content::Absent,
            format: entries.as_ref().map_or("none", |entries| form(entries)),
            list: Stamp::new(value, timestamp, now),
            customer_list: looks
                .customer_list
                .as_ref()
                .map(|look| Stamp::new(look, look, now)),
            metadata: Metadata::new(&looks.metadata, now),
            entitlements: rows,
            readers: verdicts(&stored, &entries),
            locks: looks
                .locks
                .iter()
                .filter(|(_, look)| look.content != Content::Absent)
                .map(|(key, _)| key.clone())
                .collect(),
            purges: looks
                .tombstones
                .iter()
                .filter_map(|(key, look)| Purge::read(key, look))
                .collect(),
            customer,
            resource,
            key,
        }
    }
}

fn stored([value, timestamp]: &[KeySnapshot; 2]) -> Stored<'_> {
    Stored {
        value: value.text(),
        timestamp: timestamp.text(),
    }
}

impl Stamp {
    fn new(value: &KeySnapshot, timestamp: &KeySnapshot, now: EpochMs) -> Self {
        let at = timestamp.text().and_then(timestamp_ms);
        let problem = match (&value.content, &timestamp.content) {
            (Content::Foreign, _) | (_, Content::Foreign) => Some("something foreign stands at the key"),
            (Content::NotText, _) => Some("the value is no text"),
            (Content::Absent, Content::Absent) => None,
            (Content::Absent, _) => Some("a timestamp without its value"),
            (Content::Text(_), Content::Absent) => Some("no timestamp"),
            (Content::Text(_), _) if at.is_none() => Some("the timestamp is no number"),
            (Content::Text(_), Content::Text(_) | Content::NotText) => None,
        };
        Self {
            timestamp: at,
            date: at.map(|at| human::date(EpochMs(at))),
            age_secs: at.map(|at| now.0.saturating_sub(at) / 1_000),
            expires_in_secs: match value.expiry {
                KeyExpiry::In(left) => Some(left.as_secs()),
                KeyExpiry::Absent | KeyExpiry::Never | KeyExpiry::Unknown => None,
            },
            problem,
            life: value.expiry,
        }
    }
}

impl Metadata {
    fn new([value, timestamp]: &[KeySnapshot; 2], now: EpochMs) -> Self {
        let metadata: Option<Value> = value.text().and_then(|text| serde_json::from_str(text).ok());
        let reason = metadata.and_then(|metadata| metadata.get("accessDeniedReason").cloned());
        Self {
            cached: value.content != Content::Absent,
            access_denied_reason: reason.filter(|reason| !reason.is_null()),
            stamp: Stamp::new(value, timestamp, now),
        }
    }
}

impl Row {
    fn new(entry: &Entry, usage: Option<UsageRow>) -> Self {
        let field = |name: &str| entry.entitlement.get(name).filter(|value| !value.is_null());
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let is_true = |name: &str| field(name).and_then(Value::as_bool).unwrap_or(false);
        let kind = match entry.kind {
            Kind::Metered => "metered",
            Kind::Credit => "credit",
            Kind::Malformed => "malformed",
            Kind::Feature => match field("feature").and_then(|feature| feature.get("featureType")) {
                Some(Value::String(kind)) if kind == "BOOLEAN" => "boolean",
                Some(Value::String(kind)) if kind == "NUMBER" => "number",
                Some(Value::String(kind)) if kind == "ENUM" => "enum",
                Some(_) | None => "feature",
            },
        };
        Self {
            id: entry.id.clone(),
            kind,
            unlimited: is_true("hasUnlimitedUsage"),
            limit: field("usageLimit").and_then(Value::as_number).cloned(),
            soft_limit: is_true("hasSoftLimit"),
            access_denied_reason: field("accessDeniedReason").and_then(text),
            valid_until: field("validUntil").and_then(Value::as_i64),
            reset_period: field("resetPeriod")
                .or_else(|| entry.usage.get("resetPeriod"))
                .and_then(text),
            usage,
        }
    }
}

impl UsageRow {
    fn new(key: &str, [value, timestamp]: &[KeySnapshot; 2], entry: &Entry, now: EpochMs) -> Self {
        let stored: Option<Map<String, Value>> =
            value.text().and_then(|text| serde_json::from_str(text).ok());
        let usage = stored.as_ref().unwrap_or(&entry.usage);
        let number = |name: &str| usage.get(name).and_then(Value::as_i64);
        Self {
            key: key.to_owned(),
            cached: stored.is_some(),
            current_usage: usage.get("currentUsage").and_then(Value::as_number).cloned(),
            usage_period_start: number("usagePeriodStart"),
            usage_period_end: number("usagePeriodEnd").or_else(|| number("nextResetDate")),
            stamp: Stamp::new(value, timestamp, now),
        }
    }
}

impl Purge {
    /// A mark is `<when the purge was sent>`, or `<when>:<timestamp of the newest list forgotten>`.
    fn read(key: &str, look: &KeySnapshot) -> Option<Self> {
        let mut parts = look.text()?.splitn(2, ':');
        let sent_at = parts.next()?.parse().ok()?;
        Some(Self {
            key: key.to_owned(),
            sent_at,
            date: human::date(EpochMs(sent_at)),
            forgot_list_of: parts.next().and_then(|list| list.parse().ok()),
        })
    }
}
