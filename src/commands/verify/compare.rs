//! Compares what is stored for a customer with what would be stored if Stigg's answer were written. Pure.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::cache::credit::{adjusted, known_balance};
use crate::cache::keyspace::{balance_key, metadata_key, timestamp_key};
use crate::cache::readers::{EntryKind, Stored, StoredEntry, StoredList, entries, timestamp_ms, verdicts};
use crate::cache::{CacheChange, Layout, changes};
use crate::clock::EpochMs;
use crate::entitlement::CurrencyId;
use crate::entitlement::stored::usage_json;
use crate::message::Message;
use crate::refetch::NO_TIME;

/// What readers take from an entry, see [`entry_field`]. Only the 4.x form has `displayName`.
const FIELDS: &str = "accessDeniedReason usageLimit hasUnlimitedUsage hasSoftLimit enumValues validUntil creditRate resourceId \
                      featureType meterType units unitsPlural usagePeriodAnchor resetPeriod resetPeriodConfiguration displayName";
const SDKS: [&str; 3] = ["2.x", "3.x", "4.x"];
/// A timestamp in Redis that is further ahead of the answer is wrong, as in messages. What is stored with it does not count as
/// newer: no message would ever replace it.
const AHEAD_MS_MAX: i64 = 3_600_000;

/// The texts that the keys of one customer or resource hold, by key.
pub(super) type Texts = HashMap<String, String>;

fn stored<'a>(texts: &'a Texts, key: &str) -> Stored<'a> {
    let text = |key: &str| texts.get(key).map(String::as_str);
    Stored { value: text(key), timestamp: text(&timestamp_key(key)) }
}

/// What Redis would hold if this answer of Stigg's were written, and the currencies that entries are paid in. A list without
/// a time is as new as the answer. If Stigg knows neither entitlements nor a reason why there are none, there is no list.
pub(super) fn expected(message: Message, list_key: &str, layout: &Layout) -> (Texts, Vec<CurrencyId>) {
    let (asked_at, format) = (message.sent_at, layout.format);
    let mut texts = HashMap::from([(timestamp_key(list_key), asked_at.0.to_string())]);
    let mut put = |key: String, value: String, at: EpochMs| {
        texts.extend([(timestamp_key(&key), at.0.to_string()), (key, value)]);
    };
    let mut rate_currencies = Vec::new();
    for change in changes(message, layout) {
        let (usages, credits) = match change {
            CacheChange::WriteEntitlements(write) => {
                rate_currencies = write.rate_currencies;
                let at = if write.list.timestamp <= NO_TIME { asked_at } else { write.list.timestamp };
                [write.list].into_iter().chain(write.metadata).for_each(|list| put(list.key, list.value, at));
                (write.usages, write.credits)
            }
            CacheChange::WriteUsage(usage) => (vec![usage.write], Vec::new()),
            CacheChange::WriteBalance(balance) => (Vec::new(), vec![balance.credit]),
            CacheChange::Purge(_) | CacheChange::InvalidateEnvironment(_) => continue,
        };
        for usage in usages {
            put(usage.key, usage.value, usage.timestamp);
        }
        for credit in credits {
            put(credit.key, usage_json(&credit.usage, format), credit.timestamp);
        }
    }
    (texts, rate_currencies)
}

/// Adjusts Stigg's list to the balances in Redis that are no older, as a write would, see `cache::credit`.
pub(super) fn adjust_to_balances(
    redis: &Texts,
    stigg: &mut Texts,
    list_key: &str,
    currencies: &[CurrencyId],
) {
    let list = stored(stigg, list_key);
    let listed_at = EpochMs(time(list).unwrap_or_default());
    let balance = |currency| {
        let record = redis.get(&balance_key(list_key, currency))?;
        Some((currency, known_balance(record, listed_at)?))
    };
    let balances: Vec<_> = currencies.iter().filter_map(balance).collect();
    if let Some(list) = list.value.and_then(|list| adjusted(list, &balances)) {
        stigg.insert(list_key.to_owned(), list);
    }
}

/// One difference, as `--json` prints it. The timestamps say when each value was true, in epoch milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Difference {
    /// Of the feature or the currency; `None` if the list as a whole differs.
    pub id: Option<String>,
    /// The field, `entitlement`, `usage`, `usage timestamp`, `list` or `metadata`.
    pub what: &'static str,
    pub redis: Value,
    pub stigg: Value,
    /// The SDK generations that answer something else because of it, or cannot answer from the cache.
    pub sdks: Vec<&'static str>,
    pub redis_timestamp: Option<i64>,
    pub stigg_timestamp: Option<i64>,
}

/// True for a difference that an earlier comparison found as well. If Redis has meanwhile received what Stigg had then, and
/// only Stigg's newer state is missing, Redis was just late.
pub(super) fn persists(before: &[Difference], now: &Difference) -> bool {
    before.iter().filter(|before| (&before.id, before.what) == (&now.id, now.what)).any(|before| {
        before.stigg_timestamp > now.redis_timestamp || now.redis_timestamp >= now.stigg_timestamp
    })
}

/// Of Redis and of Stigg, in this order.
type Sides<T> = [T; 2];
type Times = Sides<Option<i64>>;

/// The differences between what Redis holds and what it would hold with Stigg's state. Something newer in Redis is none, nor
/// is a miss that readers would have with Stigg's state as well. `own_key` is the key of the customer's own list, which for a
/// resource is not `list_key`.
pub(super) fn compare(
    texts: Sides<&Texts>,
    list_key: &str,
    own_key: &str,
    asked_at: EpochMs,
    usage_tolerance: f64,
) -> Vec<Difference> {
    let mut differences = Vec::new();
    let mut add = |id: Option<&str>, what, [redis, stigg]: Sides<Value>, times: Times, sdks: &[_]| {
        let (id, sdks, [redis_timestamp, stigg_timestamp]) = (id.map(str::to_owned), sdks.to_vec(), times);
        differences.push(Difference { id, what, redis, stigg, sdks, redis_timestamp, stigg_timestamp });
    };
    let is_newer = |[redis, stigg]: Times| redis > stigg && redis <= Some(asked_at.0 + AHEAD_MS_MAX);

    // Can the SDKs answer from the list? Missing usages are found one by one, below.
    let lists = texts.map(|texts| stored(texts, list_key));
    let (list_times, listed) = (lists.map(time), lists.map(|list| entries(list.value)));
    let of_customer = (own_key != list_key).then(|| stored(texts[0], own_key).timestamp);
    let list = |list| StoredList { list, of_customer, usages: Vec::new() };
    let verdicts = [0, 1].map(|side| verdicts(&list(lists[side]), &listed[side]));
    let [redis, stigg] = &verdicts;
    let misses = redis.iter().zip(stigg).filter(|(redis, stigg)| {
        stigg.outcome == "hit" && redis.reasons.iter().any(|reason| !stigg.reasons.contains(reason))
    });
    let misses: Vec<_> = misses.map(|(redis, _)| redis).collect();
    // Later generations miss for more reasons.
    if let Some(last) = misses.last() {
        let sdks: Vec<_> = misses.iter().map(|miss| miss.sdk).collect();
        let count = listed[1].iter().flatten().count();
        let values = [last.reasons.join("; "), format!("a list of {count} entitlement(s)")].map(Value::from);
        add(None, "list", values, list_times, &sdks);
    }

    let metadata = texts.map(|texts| stored(texts, &metadata_key(list_key)));
    let (reasons, reason_times) = (metadata.map(denied_reason), metadata.map(time));
    let is_any_newer = is_newer(list_times) || is_newer(reason_times);
    if !is_any_newer && lists[0].value.is_some() && metadata[1].value.is_some() && reasons[0] != reasons[1] {
        add(None, "metadata", reasons, reason_times, &SDKS[2..]);
    }

    let [Ok(redis), stigg] = &listed else { return differences }; // reported above
    // By whether they are credits, and id.
    let mut pairs = BTreeMap::<(bool, &str), Sides<Option<&StoredEntry>>>::new();
    for (side, entries) in [redis, stigg.as_deref().unwrap_or_default()].into_iter().enumerate() {
        for entry in entries {
            pairs.entry((entry.kind == EntryKind::Credit, &entry.id)).or_default()[side] = Some(entry);
        }
    }
    for ((is_credit, id), pair) in pairs {
        let (id, sdks) = (Some(id), if is_credit { &SDKS[2..] } else { &SDKS });
        let [Some(redis), Some(stigg)] = pair else {
            if !is_newer(list_times) {
                let values = pair.map(|entry| entry.map_or(Value::Null, |_| "listed".into()));
                add(id, "entitlement", values, list_times, sdks);
            }
            continue;
        };
        for what in FIELDS.split_whitespace().filter(|_| !is_newer(list_times)) {
            let values = [redis, stigg].map(|entry| entry_field(entry, what));
            if !is_same(&values, 0.0) && (what != "displayName" || !values.contains(&Value::Null)) {
                add(id, what, values, list_times, sdks);
            }
        }

        let Some(key) = stigg.usage_key(list_key) else { continue };
        let usages = texts.map(|texts| stored(texts, &key));
        let (times, [redis_usage, stigg_usage]) =
            (usages.map(time), usages.map(|usage| usage.value.and_then(object)));
        let Some(stigg_usage) = stigg_usage else { continue };
        let Some(redis_usage) = redis_usage else {
            let missed_by = if is_credit { &SDKS[2..] } else { &SDKS[1..] };
            add(id, "usage", [usages[0].value.into(), stigg_usage.into()], times, missed_by);
            continue;
        };
        if times[0].is_none() {
            add(id, "usage timestamp", usages.map(|usage| usage.timestamp.into()), times, &SDKS[2..]);
        }
        let fields = [("currentUsage", usage_tolerance), ("usagePeriodStart", 0.0), ("usagePeriodEnd", 0.0)];
        for (what, tolerance) in fields.into_iter().filter(|_| !is_newer(times)) {
            let values = [[&redis_usage, &redis.usage], [&stigg_usage, &stigg.usage]];
            let values = values.map(|usages| usage_field(usages, what));
            let is_kept = is_credit && values[1].is_null(); // a balance without a period leaves the stored one
            if !is_kept && !is_same(&values, tolerance) {
                add(id, what, values, times, sdks);
            }
        }
    }
    differences
}

/// A field of `calculatedEntitlement`, of the feature in it, or, in the 3.x form, of the entry's usage.
fn entry_field(entry: &StoredEntry, name: &str) -> Value {
    let of_feature = || entry.entitlement.get("feature")?.get(name);
    let field = entry.entitlement.get(name).or_else(of_feature).or_else(|| entry.usage.get(name));
    field.cloned().unwrap_or_default()
}

/// A field of the usage key's value, else of the usage in the list. 2.x calls the end of the period `nextResetDate`.
fn usage_field(usages: [&Map<String, Value>; 2], name: &str) -> Value {
    let alias = if name == "usagePeriodEnd" { "nextResetDate" } else { name };
    let field = usages.into_iter().find_map(|usage| usage.get(name).or_else(|| usage.get(alias)));
    field.cloned().unwrap_or_default()
}

fn is_same([redis, stigg]: &Sides<Value>, tolerance: f64) -> bool {
    let difference = redis.as_f64().zip(stigg.as_f64()).map(|(redis, stigg)| (redis - stigg).abs());
    redis == stigg || difference.is_some_and(|difference| difference <= tolerance)
}

/// Why the customer as a whole has no access, or null. Metadata that cannot be read is shown as it is.
fn denied_reason(metadata: Stored<'_>) -> Value {
    let Some(text) = metadata.value else { return Value::Null };
    object(text).map_or(text.into(), |mut json| json.remove("accessDeniedReason").unwrap_or_default())
}

/// `None` if it is not a JSON object.
fn object(json: &str) -> Option<Map<String, Value>> {
    serde_json::from_str(json).ok()
}

fn time(stored: Stored<'_>) -> Option<i64> {
    stored.timestamp.and_then(timestamp_ms)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cache::keyspace::Keyspace;
    use crate::entitlement::stored::CacheFormat;
    use crate::entitlement::{CustomerId, Subject};
    use crate::message::decode_answer;

    const KEY: &str = "p:c_ann";
    const AT: i64 = 1_795_161_600_000;

    /// What Stigg says, 1 s after its list was true: a metered feature that is paid in `ai`.
    fn answer() -> (Texts, Vec<CurrencyId>) {
        answer_in(CacheFormat::Compatible)
    }

    fn answer_in(format: CacheFormat) -> (Texts, Vec<CurrencyId>) {
        let body = json!({"__typename": "EntitlementsUpdatedV2", "customerId": "ann", "entitlementsV2": [{
            "__typename": "FeatureEntitlement", "usageLimit": 10, "currentUsage": 4,
            "feature": {"refId": "api", "displayName": "API", "featureType": "NUMBER", "meterType": "Incremental"},
            "entitlementUpdatedAt": AT, "usageUpdatedAt": AT, "creditRate": {"amount": 2, "currencyId": "ai"},
        }]});
        let message = decode_answer(&body.to_string(), EpochMs(AT + 1_000), NO_TIME).unwrap();
        let keyspace = Keyspace::new("p");
        let subject = Subject { customer: CustomerId("ann".to_owned()), resource: None };
        assert_eq!(keyspace.customer_key(&subject), KEY);
        expected(message, KEY, &Layout { keyspace, format })
    }

    fn differences(sides: [&Texts; 2], own_key: Option<&str>) -> Vec<Difference> {
        compare(sides, KEY, own_key.unwrap_or(KEY), EpochMs(AT + 1_000), 0.0)
    }

    fn whats(differences: &[Difference]) -> Vec<&str> {
        differences.iter().map(|difference| difference.what).collect()
    }

    #[test]
    fn what_would_be_stored_does_not_differ_from_itself() {
        use CacheFormat::{Compatible, V3, V4};
        let (stigg, currencies) = answer();
        assert_eq!(differences([&stigg, &stigg], None), []);
        assert_eq!(currencies, [CurrencyId("ai".to_owned())]);
        let nothing = Texts::new();
        for (format, stigg_in) in [(V3, Compatible), (Compatible, V4), (Compatible, V3)] {
            let (redis, stigg) = (answer_in(format).0, answer_in(stigg_in).0);
            assert_eq!(differences([&redis, &stigg], None), [], "{format:?}");
        }
        assert_eq!(whats(&differences([&nothing, &stigg], None)), ["list"]);
    }

    #[test]
    fn a_balance_that_is_no_older_than_the_list_denies_in_both() {
        let ((mut stigg, currencies), (mut redis, _)) = (answer(), answer());
        let balance = balance_key(KEY, &currencies[0]);
        let denied = redis[KEY]
            .replace(r#""enumValues""#, r#""accessDeniedReason":"InsufficientCredits","enumValues""#);
        redis.extend([(KEY.to_owned(), denied), (balance.clone(), format!("{AT},,{},1,", AT - 1))]);
        adjust_to_balances(&redis, &mut stigg, KEY, &currencies);
        assert_eq!(whats(&differences([&redis, &stigg], None)), ["accessDeniedReason"]);
        redis.insert(balance, format!("{AT},,{AT},1,"));
        adjust_to_balances(&redis, &mut stigg, KEY, &currencies);
        assert_eq!(whats(&differences([&redis, &stigg], None)), [""; 0]);
    }

    #[test]
    fn a_resource_that_misses_with_stiggs_state_too_does_not_differ() {
        let (stigg, _) = answer();
        let (mut redis, _) = answer();
        redis.insert("own#timestamp".to_owned(), (AT + 1).to_string());
        assert_eq!(whats(&differences([&redis, &stigg], Some("own"))), [""; 0]);
        redis.insert("own#timestamp".to_owned(), AT.to_string());
        redis.insert(timestamp_key(KEY), (AT - 1).to_string());
        let found = differences([&redis, &stigg], Some("own"));
        assert_eq!((whats(&found), found[0].sdks.as_slice()), (vec!["list"], &SDKS[1..]));
    }

    #[test]
    fn a_state_that_is_only_late_does_not_persist() {
        let seen = |redis_timestamp, stigg_timestamp| Difference {
            id: Some("api".to_owned()),
            what: "currentUsage",
            redis: Value::Null,
            stigg: Value::Null,
            sdks: Vec::new(),
            redis_timestamp,
            stigg_timestamp: Some(stigg_timestamp),
        };
        let before = [seen(Some(1), 5)];
        for (redis, stigg, is_persistent) in
            [(Some(1), 5, true), (Some(4), 9, true), (Some(5), 9, false), (Some(9), 9, true), (None, 9, true)]
        {
            assert_eq!(persists(&before, &seen(redis, stigg)), is_persistent, "{redis:?}, {stigg}");
        }
        assert!(!persists(&[], &before[0]));
    }

    #[test]
    fn a_timestamp_far_ahead_is_not_newer() {
        let ((stigg, _), (mut redis, _)) = (answer(), answer());
        let limited = redis[KEY].replace(r#""usageLimit":10"#, r#""usageLimit":7"#);
        redis.insert(KEY.to_owned(), limited);
        for (ahead_ms, found) in [(1_001, [].as_slice()), (2 * AHEAD_MS_MAX, &["usageLimit"])] {
            redis.insert(timestamp_key(KEY), (AT + ahead_ms).to_string());
            assert_eq!(whats(&differences([&redis, &stigg], None)), found, "{ahead_ms}");
        }
    }
}
