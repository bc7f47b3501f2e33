//! Compares what is stored for a customer with what would be stored if Stigg's answer were written. Pure.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::cache::credit::{KnownBalance, adjusted};
use crate::cache::keyspace::{balance_key, metadata_key, timestamp_key};
use crate::cache::readers::{EntryKind, Stored, StoredEntry, StoredList, entries, timestamp_ms, verdicts};
use crate::cache::{CacheChange, CreditWrite, KeyWrite, Layout, changes};
use crate::entitlement::stored::{CacheFormat, usage_json};
use crate::entitlement::{CurrencyId, Subject};
use crate::message::Message;
use crate::refetch::NO_TIME;

/// What readers take from an entry, of its `calculatedEntitlement`, its `feature`, or (in the 3.x form) its usage. Its name
/// is not in the 3.x form.
const FIELDS: [&str; 16] = [
    "accessDeniedReason",
    "usageLimit",
    "hasUnlimitedUsage",
    "hasSoftLimit",
    "enumValues",
    "validUntil",
    "creditRate",
    "resourceId",
    "featureType",
    "meterType",
    "units",
    "unitsPlural",
    "usagePeriodAnchor",
    "resetPeriod",
    "resetPeriodConfiguration",
    "displayName",
];
const USAGE_FIELDS: [&str; 3] = ["currentUsage", "usagePeriodStart", "usagePeriodEnd"];
const ALL: &[&str] = &["2.x", "3.x", "4.x"];
const FROM_3: &[&str] = &["3.x", "4.x"];
const ONLY_4: &[&str] = &["4.x"];

/// One difference.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Difference {
    /// The feature's or the currency's id; `None` if it concerns the customer.
    pub id: Option<String>,
    /// `list`, `metadata`, `entitlement`, `usage`, `usage timestamp`, or a field of the entry.
    pub what: &'static str,
    pub redis: Value,
    pub stigg: Value,
    /// When each of the two was true.
    pub redis_timestamp: Option<i64>,
    pub stigg_timestamp: i64,
    /// The SDK generations that answer differently because of it, or do not answer from the cache.
    pub sdks: Vec<&'static str>,
}

/// What Stigg says of a customer, as it would be stored.
pub(super) struct Stated {
    key: String,
    /// The timestamp key of the customer's own list, if this is a resource's.
    customer_timestamp: Option<String>,
    /// `None` if Stigg knows neither entitlements nor a reason why there are none: nothing is stored then.
    pub list: Option<KeyWrite>,
    /// When the list was true; if it has no time, when Stigg was asked.
    at: i64,
    /// Why the customer as a whole has no access. `None` if the format has no metadata.
    reason: Option<Value>,
    /// By key.
    usages: HashMap<String, KeyWrite>,
    rate_currencies: Vec<CurrencyId>,
}

/// What is stored.
pub(super) struct Found {
    /// By key.
    pub texts: HashMap<String, String>,
    /// The customer key holds a hash or the like.
    pub is_foreign: bool,
}

/// The result of a comparison.
pub(super) struct Compared {
    pub differences: Vec<Difference>,
    /// What is stored must be purged before Stigg's answer can be written: its timestamp is later, but it is not newer.
    pub must_be_purged: bool,
}

impl Stated {
    pub fn new(message: Message, subject: &Subject, layout: &Layout) -> Self {
        let keyspace = &layout.keyspace;
        let own = subject.resource.as_ref().map(|_| Subject { resource: None, ..subject.clone() });
        let mut stated = Self {
            key: keyspace.customer_key(subject),
            customer_timestamp: own.map(|own| timestamp_key(&keyspace.customer_key(&own))),
            list: None,
            at: message.sent_at.0,
            reason: (layout.format != CacheFormat::V3).then_some(Value::Null),
            usages: HashMap::new(),
            rate_currencies: Vec::new(),
        };
        let of_credit = |CreditWrite { key, usage, timestamp, .. }| {
            let value = usage_json(&usage, layout.format);
            KeyWrite { key, value, timestamp }
        };
        let mut usages = Vec::new();
        for change in changes(message, layout) {
            match change {
                CacheChange::WriteEntitlements(write) => {
                    if write.list.timestamp > NO_TIME {
                        stated.at = write.list.timestamp.0;
                    }
                    stated.list = Some(write.list);
                    stated.reason = write.metadata.map(|metadata| reason(Some(&metadata.value)));
                    stated.rate_currencies = write.rate_currencies;
                    usages.extend(write.usages);
                    usages.extend(write.credits.into_iter().map(of_credit));
                }
                CacheChange::WriteUsage(change) => usages.push(change.write),
                CacheChange::WriteBalance(change) => usages.push(of_credit(change.credit)),
                CacheChange::Purge(_) | CacheChange::InvalidateEnvironment(_) => {}
            }
        }
        stated.usages = usages.into_iter().map(|usage| (usage.key.clone(), usage)).collect();
        stated
    }

    /// The keys that a comparison needs. The first is the list's.
    pub fn keys(&self) -> Vec<String> {
        let mut keys = vec![self.key.clone(), metadata_key(&self.key)];
        keys.extend(self.usages.keys().cloned());
        keys.extend(keys.iter().map(|key| timestamp_key(key)).collect::<Vec<_>>());
        keys.extend(self.rate_currencies.iter().map(|currency| balance_key(&self.key, currency)));
        keys.extend(self.customer_timestamp.clone());
        keys
    }

    /// What differs. Something newer in Redis does not, nor does a miss that readers would have with Stigg's state as well.
    /// `is_expected`: that nothing is stored is a difference.
    pub fn compare(&self, found: &Found, is_expected: bool, usage_tolerance: f64) -> Compared {
        let list = found.stored(&self.key);
        let is_missing = list.value.is_none() && !found.is_foreign;
        if is_missing && (self.list.is_none() || !is_expected) {
            return Compared { differences: Vec::new(), must_be_purged: false };
        }
        let stated_list = self.list.as_ref().map_or("{}", |list| &list.value);
        let stated_list =
            adjusted(stated_list, &self.newer_balances(found)).unwrap_or(stated_list.to_owned());
        let theirs = entries(Some(&stated_list));
        let ours =
            if found.is_foreign { Err("the key holds something foreign") } else { entries(list.value) };

        let times = (time(list), self.at);
        let is_newer = times.0 > Some(self.at);
        let is_blocked = self.list.as_ref().is_some_and(|list| times.0 > Some(list.timestamp.0));
        let must_be_purged = self.list.is_none() || is_blocked && (!is_newer || ours.is_err());

        let at = self.at.to_string();
        let stated = Stored { value: Some(&stated_list), timestamp: Some(&at) };
        let of_customer = self.customer_timestamp.as_ref().map(|key| found.text(key));
        // Whether usages are missing is seen below, one by one.
        let verdicts_of =
            |list, entries| verdicts(&StoredList { list, of_customer, usages: Vec::new() }, entries);
        let pairs = verdicts_of(list, &ours).into_iter().zip(verdicts_of(stated, &theirs));
        let mut reasons: Vec<(String, Vec<&'static str>)> = Vec::new();
        for (verdict, with_stiggs) in pairs.filter(|(_, with_stiggs)| with_stiggs.outcome == "hit") {
            for reason in verdict.reasons.into_iter().filter(|reason| !with_stiggs.reasons.contains(reason)) {
                match reasons.iter_mut().find(|(known, _)| *known == reason) {
                    Some((_, sdks)) => sdks.push(verdict.sdk),
                    None => reasons.push((reason, vec![verdict.sdk])),
                }
            }
        }
        let mut differences = Vec::new();
        let count = format!("{} entitlements", theirs.as_ref().map_or(0, Vec::len));
        for (reason, sdks) in reasons {
            differences.push(Difference::new(
                None,
                "list",
                [reason.into(), count.as_str().into()],
                times,
                &sdks,
            ));
        }
        if let Some(stated) = self.reason.as_ref().filter(|_| !is_newer && !is_missing) {
            let metadata = found.stored(&metadata_key(&self.key));
            let (values, times) = ([reason(metadata.value), stated.clone()], (time(metadata), self.at));
            if values[0] != values[1] && times.0 <= Some(self.at) {
                differences.push(Difference::new(None, "metadata", values, times, ONLY_4));
            }
        }
        if let (Ok(ours), Ok(theirs)) = (&ours, &theirs) {
            for ((is_credit, id), [our, their]) in pair(ours, theirs) {
                let (sdks, id) = (if is_credit { ONLY_4 } else { ALL }, Some(id));
                let listed = [our, their].map(|entry| entry.map_or(Value::Null, |_| "listed".into()));
                let (Some(our), Some(their)) = (our, their) else {
                    if !is_newer {
                        differences.push(Difference::new(id, "entitlement", listed, times, sdks));
                    }
                    continue;
                };
                for what in FIELDS.into_iter().filter(|_| !is_newer) {
                    let values = [our, their].map(|entry| field(entry, what).clone());
                    if !is_same(&values, 0.0) && (what != "displayName" || !values[0].is_null()) {
                        differences.push(Difference::new(id, what, values, times, sdks));
                    }
                }
                let key = their.usage_key(&self.key);
                if let Some(usage) = key.and_then(|key| self.usages.get(&key)) {
                    differences.extend(usage_differences(usage, found, [our, their], usage_tolerance));
                }
            }
        }
        Compared { differences, must_be_purged }
    }

    /// Balances that a list with Stigg's time would be adjusted to, see `cache::credit`.
    fn newer_balances(&self, found: &Found) -> Vec<KnownBalance> {
        let currencies = self.rate_currencies.iter();
        let balances = currencies.filter_map(|currency| {
            KnownBalance::read(currency, found.text(&balance_key(&self.key, currency))?)
        });
        balances.filter(|balance| balance.updated_at.0 > self.at).collect()
    }
}

impl Found {
    fn text(&self, key: &str) -> Option<&str> {
        self.texts.get(key).map(String::as_str)
    }

    fn stored(&self, key: &str) -> Stored<'_> {
        Stored { value: self.text(key), timestamp: self.text(&timestamp_key(key)) }
    }
}

impl Difference {
    fn new(
        id: Option<&str>,
        what: &'static str,
        [redis, stigg]: [Value; 2],
        (redis_timestamp, stigg_timestamp): (Option<i64>, i64),
        sdks: &[&'static str],
    ) -> Self {
        let (id, sdks) = (id.map(str::to_owned), sdks.to_vec());
        Self { id, what, redis, stigg, redis_timestamp, stigg_timestamp, sdks }
    }

    /// It was there before as well, and Redis has not had anything as new as Stigg had then: it is not just late.
    fn persists(&self, before: &[Self]) -> bool {
        before.iter().any(|before| {
            let had = before.stigg_timestamp..self.stigg_timestamp;
            (&self.id, self.what) == (&before.id, before.what)
                && !self.redis_timestamp.is_some_and(|at| had.contains(&at))
        })
    }
}

/// The differences that were there before.
pub(super) fn persisting(before: &[Difference], now: &[Difference]) -> Vec<Difference> {
    now.iter().filter(|difference| difference.persists(before)).cloned().collect()
}

/// The usage as readers see it: what its key holds wins over what the entry holds.
fn usage_differences(
    usage: &KeyWrite,
    found: &Found,
    [our, their]: [&StoredEntry; 2],
    tolerance: f64,
) -> Vec<Difference> {
    let (id, is_credit) = (Some(their.id.as_str()), their.kind == EntryKind::Credit);
    let stored = found.stored(&usage.key);
    let times = (time(stored), usage.timestamp.0);
    let stated = object(&usage.value).unwrap_or_default();
    let Some(value) = stored.value.and_then(object) else {
        let (values, sdks) = ([stored.value.into(), stated.into()], if is_credit { ONLY_4 } else { FROM_3 });
        return vec![Difference::new(id, "usage", values, times, sdks)];
    };
    let mut differences = Vec::new();
    if times.0.is_none() {
        let values = [stored.timestamp.into(), times.1.into()];
        differences.push(Difference::new(id, "usage timestamp", values, times, ONLY_4));
    }
    for what in USAGE_FIELDS.into_iter().filter(|_| times.0 <= Some(times.1)) {
        let values = [(&value, our), (&stated, their)].map(|(value, entry)| {
            let known = [value, &entry.usage].into_iter().find_map(|usage| {
                let alias = usage.get("nextResetDate").filter(|_| what == "usagePeriodEnd");
                usage.get(what).or(alias)
            });
            known.cloned().unwrap_or_default()
        });
        let tolerance = if what == "currentUsage" { tolerance } else { 0.0 };
        // A balance without a period leaves the stored one.
        let is_kept = is_credit && values[1].is_null();
        if !is_kept && !is_same(&values, tolerance) {
            differences.push(Difference::new(id, what, values, times, if is_credit { ONLY_4 } else { ALL }));
        }
    }
    differences
}

type Pairs<'a> = BTreeMap<(bool, &'a str), [Option<&'a StoredEntry>; 2]>;

/// Entries of both lists, by whether they are credits, and id.
fn pair<'a>(ours: &'a [StoredEntry], theirs: &'a [StoredEntry]) -> Pairs<'a> {
    let mut pairs = Pairs::new();
    for (side, entries) in [ours, theirs].into_iter().enumerate() {
        for entry in entries {
            pairs.entry((entry.kind == EntryKind::Credit, &entry.id)).or_default()[side] = Some(entry);
        }
    }
    pairs
}

fn field<'a>(entry: &'a StoredEntry, name: &str) -> &'a Value {
    let of_feature = entry.entitlement.get("feature").and_then(|feature| feature.get(name));
    let found = entry.entitlement.get(name).or(of_feature).or_else(|| entry.usage.get(name));
    found.unwrap_or(&Value::Null)
}

fn is_same([one, other]: &[Value; 2], tolerance: f64) -> bool {
    match (one.as_f64(), other.as_f64()) {
        (Some(one), Some(other)) => (one - other).abs() <= tolerance,
        _ => one == other,
    }
}

/// What metadata say: a reason or null; what cannot be read, as it is.
fn reason(metadata: Option<&str>) -> Value {
    let read = |text| {
        object(text).map_or(text.into(), |mut json| json.remove("accessDeniedReason").unwrap_or_default())
    };
    metadata.map_or(Value::Null, read)
}

fn object(json: &str) -> Option<Map<String, Value>> {
    serde_json::from_str(json).ok()
}

fn time(stored: Stored<'_>) -> Option<i64> {
    stored.timestamp.and_then(timestamp_ms)
}
