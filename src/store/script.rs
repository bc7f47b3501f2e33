//! The calls of `apply.lua`, which makes every change, and its answers.

use redis::{Arg, Cmd, RedisWrite as _, Value, cmd, from_redis_value};
use serde_json::Value as Json;

use super::{LockPatience, Outcome};
use crate::cache::keyspace::{Keyspace, ReaderLocks, TIMESTAMP, balance_key};
use crate::cache::{CacheChange, CreditWrite, EntitlementsWrite, KeyWrite};
use crate::clock::{self, EpochMs};
use crate::config::{CacheUpdatePolicy, Expiry};

/// The script.
pub(super) const SOURCE: &str = include_str!("apply.lua");

/// How long a tombstone lives: SQS hides a received message for 12 h at most, so a message that was received before the
/// purge was sent is received again within that time.
pub(super) const TOMBSTONE_SECS: u32 = 12 * 60 * 60;
/// Arguments of one call, keys included: 3,900 less those that are common to all its changes. ElastiCache Serverless takes
/// 3,999.
const ARGUMENTS_MAX: usize = 3_900 - 10;
/// Bytes of one call, but for a single change that is larger.
const BYTES_MAX: usize = 1024 * 1024;

/// The settings that the script needs.
#[derive(Debug, Clone)]
pub struct StoreRules {
    /// Spells the keys.
    pub keyspace: Keyspace,
    /// Which customers are written.
    pub policy: CacheUpdatePolicy,
    /// How long written keys live.
    pub expiry: Expiry,
}

/// What the script does in one atomic step: a change of a message, or one of the store's own.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step<'a> {
    /// A change. An invalidation does nothing here, since it is not atomic.
    Change(&'a CacheChange, LockPatience),
    /// Replaces the list at the first key, if all keys still hold these values. If not, the result is [`Outcome::Locked`].
    Replace { keys: &'a [String], values: &'a [String], list: &'a str },
    /// Deletes a scanned value with its timestamp.
    Unlink { value: &'a [u8], keyspace: &'a Keyspace, sent_at: EpochMs },
    /// Records an invalidation; with `resets`, whatever was recorded before.
    SetTombstone { key: &'a str, sent_at: EpochMs, secs: u32, resets: bool },
}

/// What the script did with one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepResult {
    /// What became of it.
    pub outcome: Outcome,
    /// The list has to be adjusted to a newer balance.
    pub adjusts_list: bool,
    /// In a dry run: keys that would be written (each with its timestamp) or deleted.
    pub written: Vec<String>,
    /// In a dry run: keys that would stay, as something newer is stored.
    pub stale: Vec<String>,
}

/// The script's answer: a value for each step. An inner error is Redis's own text. `None` if this is not an answer of the
/// script.
pub fn results(answer: &Value) -> Option<Vec<Result<StepResult, String>>> {
    let Value::Array(values) = answer else { return None };
    values.iter().map(result).collect()
}

fn result(value: &Value) -> Option<Result<StepResult, String>> {
    let (number, written, stale) = if let Value::Int(number) = value {
        (*number, Vec::new(), Vec::new())
    } else if let Value::BulkString(error) = value {
        return Some(Err(String::from_utf8_lossy(error).into_owned()));
    } else {
        from_redis_value::<(i64, Vec<String>, Vec<String>)>(value.clone()).ok()?
    };
    let number = u64::try_from(number).ok()?;
    let status = number & 0xf;
    let outcome = match status {
        0 | 5 => Outcome::Applied { written: number >> 4 & 0xffff, stale: number >> 20 },
        1 => Outcome::Locked,
        2 => Outcome::SkippedByPolicy,
        3 => Outcome::PurgedLater,
        4 => Outcome::NoCustomer,
        _ => return None,
    };
    Some(Ok(StepResult { outcome, adjusts_list: status == 5, written, stale }))
}

/// What `apply.lua` has to know of a step, equal ones in a row once: its kind, and how many locks, further deciding keys, other
/// keys and arguments it has.
type Head = (&'static str, [usize; 4]);

/// The keys and arguments of one call, each kind in the order that `apply.lua` expects.
pub(super) struct Call {
    /// How many steps it makes.
    pub(super) steps: usize,
    deciding: Cmd,
    others: Cmd,
    heads: Cmd,
    arguments: Cmd,
}

impl Call {
    /// The call for as many of these steps as fit, at least one.
    pub(super) fn of(steps: &[Step<'_>]) -> Self {
        let part = || Cmd::with_capacity(4 * steps.len(), 256 * steps.len());
        let [deciding, others, heads, arguments] = [part(), part(), Cmd::new(), part()];
        let mut call = Self { steps: steps.len(), deciding, others, heads, arguments };
        let mut heads: Vec<(Head, usize)> = Vec::new();
        for step in steps {
            let head = call.add(step);
            match heads.last_mut() {
                Some((last, number)) if *last == head => *number += 1,
                _ => heads.push((head, 1)),
            }
        }
        for ((kind, counts), number) in heads {
            call.heads.arg(kind).arg(number).arg(&counts[..]);
        }
        let (arguments, bytes) = size(&call.parts());
        if steps.len() <= 1 || arguments <= ARGUMENTS_MAX && bytes <= BYTES_MAX {
            return call;
        }
        Self::of(&steps[..steps.len() / 2])
    }

    fn parts(&self) -> [&Cmd; 4] {
        [&self.deciding, &self.others, &self.heads, &self.arguments]
    }

    /// The packed command: `EVALSHA` and the SHA-1, or `EVAL` and the source. The library would copy it once more.
    pub(super) fn request(&self, name: &str, script: &str, rules: &StoreRules, is_dry_run: bool) -> Vec<u8> {
        let [deciding, others, heads, arguments] = self.parts();
        let mut begin = cmd(name);
        begin.arg(script).arg(count(deciding) + count(others));
        let mut settings = Cmd::new();
        settings.arg(count(deciding));
        match rules.expiry {
            Expiry::Never => settings.arg(""),
            Expiry::Seconds(seconds) => settings.arg(seconds),
        };
        settings.arg(rules.policy == CacheUpdatePolicy::UpdateIfExists).arg(is_dry_run);
        settings.arg(TOMBSTONE_SECS).arg(clock::now().0).arg(count(heads));
        let parts = [&begin, deciding, others, &settings, heads, arguments];
        let (count, bytes) = size(&parts);
        let mut request = Vec::with_capacity(bytes + 16 * (count + 1));
        request.extend(format!("*{count}\r\n").into_bytes());
        let mut length = itoa::Buffer::new();
        for argument in parts.into_iter().flat_map(bytes_of) {
            for part in [b"$", length.format(argument.len()).as_bytes(), b"\r\n", argument, b"\r\n"] {
                request.extend_from_slice(part);
            }
        }
        request
    }

    /// Adds a step. Returns its head.
    fn add(&mut self, step: &Step<'_>) -> Head {
        let before = [&self.deciding, &self.others, &self.arguments].map(count);
        let (kind, locks) = match step {
            Step::Change(change, patience) => self.add_change(change, *patience),
            Step::Replace { keys, values, list } => {
                self.deciding.arg(keys);
                self.arguments.arg(keys.len()).arg(list).arg(values);
                ("replace", 0)
            }
            Step::Unlink { value, keyspace, sent_at } => {
                // For any other value, the timestamp takes the place of a tombstone, which is then not set.
                let timestamp = [value, TIMESTAMP.as_bytes()].concat();
                let tombstone = keyspace.tombstone_of(value);
                self.deciding.arg(&timestamp).arg(tombstone.as_ref().unwrap_or(&timestamp));
                self.others.arg(value);
                self.arguments.arg(sent_at.0).arg(tombstone.is_some());
                ("unlink", 0)
            }
            Step::SetTombstone { key, sent_at, secs, resets } => {
                self.deciding.arg(key);
                self.arguments.arg(sent_at.0).arg(secs).arg(resets);
                ("tombstone", 0)
            }
        };
        let after = [&self.deciding, &self.others, &self.arguments].map(count);
        (kind, [locks, after[0] - before[0] - locks, after[1] - before[1], after[2] - before[2]])
    }

    /// The kind of the change, and how many locks it respects.
    fn add_change(&mut self, change: &CacheChange, patience: LockPatience) -> (&'static str, usize) {
        // What a list or a balance does while the refetch lock is held, see `while_refetching` in `apply.lua`.
        let refetch = match (patience.respects_refetch_lock, patience.has_waited) {
            (false, _) => "",
            (true, false) => "again",
            (true, true) => "wait",
        };
        match change {
            CacheChange::WriteUsage(usage) => {
                let locks = write_locks(&usage.locks, patience);
                self.deciding.arg(locks);
                self.timestamp(&usage.customer_key);
                self.others.arg(&usage.locks.refetch);
                self.write(&usage.write);
                ("usage", locks.len())
            }
            CacheChange::WriteBalance(write) => {
                let locks = write_locks(&write.locks, patience);
                self.deciding.arg(locks);
                self.timestamp(&write.customer_key);
                self.others.arg(&write.locks.refetch).arg(&write.customer_key);
                self.arguments.arg(refetch);
                if write.balance.is_some() {
                    // As JSON.stringify and serde_json write it.
                    let currency = Json::from(write.currency.as_str());
                    self.arguments.write_arg_fmt(format_args!("\"currencyId\":{currency}"));
                } else {
                    self.arguments.arg("");
                }
                let balance = write.balance.as_ref();
                self.optional(balance.map(|balance| balance.is_exhausted.into()));
                self.optional(balance.and_then(|balance| balance.valid_until).map(|at| at.0));
                self.credit(&write.credit);
                ("balance", locks.len())
            }
            CacheChange::WriteEntitlements(write) => {
                let locks = write_locks(&write.locks, patience);
                let EntitlementsWrite { tombstones, usages, credits, rate_currencies: rates, .. } = &**write;
                self.arguments.arg(refetch).arg(tombstones.len());
                self.arguments.arg(usages.len()).arg(credits.len()).arg(rates.len());
                self.arguments.arg(write.sent_at.0).arg(write.is_from_edge_api);
                self.arguments.arg(write.list.timestamp.0).arg(&write.list.value);
                self.arguments.arg(write.metadata.as_ref().map_or("", |metadata| &metadata.value));
                self.deciding.arg(locks).arg(tombstones);
                self.others.arg(&write.locks.refetch);
                for KeyWrite { key, .. } in std::iter::once(&write.list).chain(&write.metadata) {
                    self.timestamp(key);
                    self.others.arg(key);
                }
                for usage in usages {
                    self.write(usage);
                }
                for credit in credits {
                    self.credit(credit);
                }
                for currency in rates {
                    self.deciding.arg(balance_key(&write.list.key, currency));
                }
                ("entitlements", locks.len())
            }
            CacheChange::Purge(purge) => {
                let locks = write_locks(&purge.locks, patience);
                let refetch = patience.respects_refetch_lock.then_some(&purge.locks.refetch);
                self.deciding.arg(locks).arg(refetch).arg(&purge.tombstone);
                self.timestamp(&purge.customer_key);
                self.timestamp(&purge.metadata_key);
                self.others.arg(&purge.customer_key).arg(&purge.metadata_key);
                self.arguments.arg(purge.sent_at.0).arg(purge.resets_tombstone);
                ("purge", locks.len() + usize::from(refetch.is_some()))
            }
            CacheChange::InvalidateEnvironment(_) => ("nothing", 0),
        }
    }

    fn timestamp(&mut self, key: &str) {
        self.deciding.write_arg_fmt(format_args!("{key}{TIMESTAMP}"));
    }

    fn optional(&mut self, number: Option<i64>) {
        match number {
            None => self.arguments.arg(""),
            Some(number) => self.arguments.arg(number),
        };
    }

    fn write(&mut self, write: &KeyWrite) {
        self.timestamp(&write.key);
        self.others.arg(&write.key);
        self.arguments.arg(write.timestamp.0).arg(&write.value);
    }

    fn credit(&mut self, credit: &CreditWrite) {
        self.timestamp(&credit.key);
        self.deciding.arg(&credit.key).arg(&credit.balance_key);
        let usage = &credit.usage;
        self.arguments.arg(credit.timestamp.0);
        self.arguments.write_arg_fmt(&usage.current_usage);
        self.optional(usage.period_start.map(|at| at.0));
        self.optional(usage.period_end.map(|at| at.0));
        self.arguments.arg(credit.has_next_reset_date);
    }
}

fn count(part: &Cmd) -> usize {
    part.args_iter().len()
}

fn bytes_of(part: &Cmd) -> impl Iterator<Item = &[u8]> {
    // There is no other kind of argument here.
    part.args_iter().filter_map(|argument| if let Arg::Simple(bytes) = argument { Some(bytes) } else { None })
}

/// The number of arguments, and their bytes.
fn size(parts: &[&Cmd]) -> (usize, usize) {
    let all = parts.iter().copied().flat_map(bytes_of);
    all.fold((0, 0), |(count, bytes), argument| (count + 1, bytes + argument.len()))
}

/// The write locks that are still respected.
fn write_locks(locks: &ReaderLocks, patience: LockPatience) -> &[String] {
    if patience.respects_write_lock { &locks.write } else { &[] }
}
