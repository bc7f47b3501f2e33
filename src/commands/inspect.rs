//! `inspect`: what is cached for a customer, and what each generation of readers makes of it. It only reads. The report is
//! JSON; the table is made from it.

use std::collections::HashMap;

use clap::Args;
use console::style;
use serde_json::{Map, Value, json};

use super::output::{ago, columns, date, show, span};
use super::{CommandError, DONE, Session, subject};
use crate::cache::keyspace::{metadata_key, timestamp_key};
use crate::cache::readers::{
    EntryKind, Stored, StoredEntry, StoredList, entries, form, timestamp_ms, verdicts,
};
use crate::clock;
use crate::clock::EpochMs;
use crate::config::Settings;
use crate::log::printable;
use crate::store::StoreError;
use crate::store::admin::{Content, KeyExpiry, KeySnapshot};

/// Nothing is cached.
const NOT_CACHED: u8 = 3;

/// The arguments of `inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The customer's id, as it was given to Stigg.
    pub customer: String,
    /// The id of one of the customer's resources, whose cache is shown instead.
    #[arg(long, value_name = "ID")]
    pub resource: Option<String>,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

pub(super) fn run(settings: &Settings, args: &InspectArgs) -> Result<u8, CommandError> {
    let session = Session::open(settings, settings.cache_access()?)?;
    let report = report(&session, args)?;
    let is_cached = report["list"]["cached"] == true;
    show(args.json, &report, || table(&report))?;
    Ok(if is_cached { DONE } else { NOT_CACHED })
}

fn report(session: &Session, args: &InspectArgs) -> Result<Value, StoreError> {
    let (keyspace, now) = (&session.layout.keyspace, clock::now());
    let own = subject(&args.customer, args.resource.as_deref());
    let key = keyspace.customer_key(&own);
    let metadata = metadata_key(&key);
    // A resource's list is compared with its customer's.
    let customer_key = keyspace.customer_key(&subject(&args.customer, None));
    let of_customer = args.resource.as_ref().map(|_| &customer_key);
    let mut locks = keyspace.reader_locks(&own).write;
    locks.push(keyspace.refetch_lock(&own));
    let tombstones = keyspace.tombstones(&own);

    let mut found = Snapshots::default();
    let values = [key.clone(), metadata.clone(), customer_key.clone()];
    found.read(session, &[&locks, &tombstones, values.as_slice()].concat())?;
    let entries = entries(found.get(&key).text());
    let usages = entries.iter().flatten().filter_map(|entry| entry.usage_key(&key));
    let usages: Vec<String> = usages.collect();
    found.read(session, &usages)?;

    locks.retain(|key| found.get(key).content != Content::Absent);
    let list = StoredList {
        list: found.stored(&key),
        of_customer: of_customer.map(|key| found.stored(key).timestamp),
        usages: usages.iter().map(|key| found.stored(key)).collect(),
    };
    let entitlements = entries.iter().flatten().map(|entry| found.entitlement(entry, &key, now));
    let purges = tombstones.iter().filter_map(|key| found.purge(key));
    let mut report = json!({
        "customer": args.customer,
        "resource": args.resource,
        "key": key,
        "cached": found.get(&key).content != Content::Absent,
        "format": entries.as_ref().map_or("none", |entries| form(entries)),
        "list": found.stamp(&key, now),
        "customerList": of_customer.map(|key| found.stamp(key, now)),
        "metadata": found.stamp(&metadata, now),
        "readers": verdicts(&list, &entries),
        "entitlements": entitlements.collect::<Vec<_>>(),
        "locks": locks,
        "purges": purges.collect::<Vec<_>>(),
    });
    let metadata = found.json(&metadata);
    let reason = metadata.and_then(|mut json| json.remove("accessDeniedReason"));
    report["metadata"]["accessDeniedReason"] = reason.unwrap_or_default();
    Ok(report)
}

/// What was read, by key.
#[derive(Default)]
struct Snapshots(HashMap<String, KeySnapshot>);

impl Snapshots {
    /// Reads these keys and their timestamps, in one round trip.
    fn read(&mut self, session: &Session, keys: &[String]) -> Result<(), StoreError> {
        let timestamps = keys.iter().map(|key| timestamp_key(key));
        let keys: Vec<String> = timestamps.chain(keys.iter().cloned()).collect();
        let snapshots = session.store.snapshot(&keys)?;
        self.0.extend(keys.into_iter().zip(snapshots));
        Ok(())
    }

    fn get(&self, key: &str) -> &KeySnapshot {
        self.0.get(key).unwrap_or(&KeySnapshot::ABSENT)
    }

    fn stored(&self, key: &str) -> Stored<'_> {
        let (value, timestamp) = (self.get(key).text(), self.get(&timestamp_key(key)).text());
        Stored { value, timestamp }
    }

    fn json(&self, key: &str) -> Option<Map<String, Value>> {
        serde_json::from_str(self.get(key).text()?).ok()
    }

    /// When a value was true, how long it lives, and what is odd about it.
    fn stamp(&self, key: &str, now: EpochMs) -> Value {
        let value = self.get(key);
        let at = self.get(&timestamp_key(key)).text().and_then(timestamp_ms);
        let problem = match (&value.content, at) {
            (Content::Foreign | Content::NotText, _) => Some("the key holds a value that no SDK writes"),
            (Content::Text(_), None) => Some("no readable timestamp"),
            (Content::Absent, Some(_)) => Some("a timestamp without its value"),
            (Content::Text(_), Some(_)) | (Content::Absent, None) => None,
        };
        let (expires, expires_in_secs) = match value.expiry {
            KeyExpiry::Absent => (None, None),
            KeyExpiry::Never => (Some("never".to_owned()), None),
            KeyExpiry::In(left) => (Some("in ".to_owned() + &span(left.as_secs())), Some(left.as_secs())),
            KeyExpiry::Unknown => (Some("unknown (this user may not run PTTL)".to_owned()), None),
        };
        json!({
            "cached": value.content != Content::Absent,
            "timestamp": at,
            "date": at.map(date),
            "ageSecs": at.map(|at| now.0.saturating_sub(at) / 1_000),
            "expires": expires,
            "expiresInSecs": expires_in_secs,
            "problem": problem,
        })
    }

    /// With entitlement and usage as they are stored.
    fn entitlement(&self, entry: &StoredEntry, customer_key: &str, now: EpochMs) -> Value {
        let usage = entry.usage_key(customer_key).map(|key| {
            let mut usage = self.stamp(&key, now);
            // Without a usage key, readers of 2.x use what is in the entry.
            let value = self.json(&key).unwrap_or_else(|| entry.usage.clone());
            (usage["key"], usage["value"]) = (key.into(), value.into());
            usage
        });
        let entitlement: Value = entry.entitlement.clone().into();
        let kind = match (entry.kind, entitlement["feature"]["featureType"].as_str()) {
            (EntryKind::Feature, Some(kind)) => kind.to_lowercase(),
            (kind, _) => format!("{kind:?}").to_lowercase(),
        };
        json!({"id": entry.id, "kind": kind, "entitlement": entitlement, "usage": usage})
    }

    /// A tombstone is `<when the purge was sent>`, or `<when>:<timestamp of the newest list that it deleted>`.
    fn purge(&self, key: &str) -> Option<Value> {
        let tombstone = self.get(key).text()?;
        let (sent_at, list) = tombstone.split_once(':').unwrap_or((tombstone, ""));
        let (sent_at, list): (i64, Option<i64>) = (sent_at.parse().ok()?, list.parse().ok());
        Some(json!({"key": key, "sentAt": sent_at, "date": date(sent_at), "forgotListOf": list}))
    }
}

fn table(report: &Value) -> String {
    let (list, metadata) = (&report["list"], &report["metadata"]);
    let mut lines = Vec::new();
    for name in ["customer", "resource", "key"] {
        lines.extend(report[name].as_str().map(|text| format!("{name}\t{}", printable(text))));
    }
    lines.push(match report["format"].as_str() {
        _ if list["cached"] == false => "list\tnot cached".to_owned(),
        Some("none") | None => format!("list\tunreadable, {}", since(list)),
        Some(form) => format!("list\tform {form}, {}", since(list)),
    });
    let customers = &report["customerList"];
    if customers.is_object() {
        lines.push(format!("customer's\town list is {}", since(customers)));
    }
    lines.push(match metadata["accessDeniedReason"].as_str() {
        Some(reason) => format!("metadata\taccess denied: {}", printable(reason)),
        None if metadata["cached"] == true => "metadata\tno reason to deny access".to_owned(),
        None => "metadata\tnone (only SDK 4.x reads it)".to_owned(),
    });
    for lock in items(&report["locks"]) {
        lines.push(format!("lock\t{} is held: an SDK is refetching", shown(lock)));
    }
    for purge in items(&report["purges"]) {
        let (date, key) = (shown(&purge["date"]), shown(&purge["key"]));
        lines.push(format!("purged\t{date} ({key}): messages that were sent before restore nothing"));
    }
    for reader in items(&report["readers"]) {
        let outcome = style(format!("{:<4}", shown(&reader["outcome"])));
        let outcome = if reader["outcome"] == "hit" { outcome.green() } else { outcome.red() };
        let reasons: Vec<String> = items(&reader["reasons"]).iter().map(shown).collect();
        let line = format!("SDK {}\t{outcome}  {}", shown(&reader["sdk"]), reasons.join("; "));
        lines.push(line.trim_end().to_owned());
    }
    let rows = items(&report["entitlements"]);
    if !rows.is_empty() {
        lines.push("\nENTITLEMENT\tKIND\tUSAGE\tLIMIT\tPERIOD ENDS\tAS OF\tEXPIRES".to_owned());
        lines.extend(rows.iter().map(row));
    }
    columns(&lines)
}

fn row(row: &Value) -> String {
    let (entitlement, usage) = (&row["entitlement"], &row["usage"]);
    let limit = shown(&entitlement["usageLimit"]);
    let limit = match entitlement["accessDeniedReason"].as_str() {
        Some(reason) => format!("denied: {reason}"),
        None if entitlement["hasUnlimitedUsage"] == true => "unlimited".to_owned(),
        None if entitlement["hasSoftLimit"] == true && limit != "-" => format!("{limit} (soft)"),
        None => limit,
    };
    let value = &usage["value"];
    let ends = value["usagePeriodEnd"].as_i64().or(value["nextResetDate"].as_i64()).map(date);
    let as_of = match usage["problem"].as_str() {
        _ if usage["cached"] == false => Some("no usage key: as in the list".to_owned()),
        Some(problem) => Some(problem.to_owned()),
        None => usage["ageSecs"].as_i64().map(ago),
    };
    let [limit, ends, as_of] = [Some(limit), ends, as_of].map(Value::from);
    let cells = [&row["id"], &row["kind"], &value["currentUsage"], &limit, &ends, &as_of, &usage["expires"]];
    cells.map(shown).join("\t")
}

/// When a list was true, and how long it lives.
fn since(stamp: &Value) -> String {
    let at = match (stamp["timestamp"].as_i64(), stamp["ageSecs"].as_i64()) {
        _ if stamp["cached"] == false => return "not cached".to_owned(),
        (Some(0), _) => "timestamp 0, which readers write for an empty list".to_owned(),
        (Some(at), Some(secs)) => format!("of {} ({})", date(at), ago(secs)),
        _ => shown(&stamp["problem"]),
    };
    format!("{at}, expires {}", shown(&stamp["expires"]))
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The text for a terminal; `-` for nothing.
fn shown(value: &Value) -> String {
    match value.as_str() {
        Some(text) => printable(text),
        None if value.is_null() => "-".to_owned(),
        None => printable(&value.to_string()),
    }
}
