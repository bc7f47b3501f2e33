//! The calls of `apply.lua`, which makes every change, and its answers.

use std::ops::Range;

use redis::{Cmd, RedisWrite as _, Value};
use serde_json::Value as Json;

use super::{LockPatience, Outcome};
use crate::cache::keyspace::{Keyspace, ReaderLocks, TIMESTAMP, balance_key};
use crate::cache::{CacheChange, CreditWrite, KeyWrite};
use crate::clock::EpochMs;
use crate::config::{CacheUpdatePolicy, Expiry};

/// The script.
pub(super) const SOURCE: &str = include_str!("apply.lua");

/// How long a tombstone lives: SQS hides a received message for 12 h at most, so a message that was received before the
/// purge was sent is received again within that time.
const TOMBSTONE_SECS: u32 = 12 * 60 * 60;
/// How long a key lives that shows that writes work.
const PROBE_SECS: u32 = 10;
/// Arguments of one call, keys included: 3,900 less those that are common to all its changes. ElastiCache Serverless takes
/// 3,999.
const ARGUMENTS_MAX: usize = 3_900 - 9;
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
    /// Replaces a list that is still as it was read: of each key, its name and what it held.
    Replace { read: &'a [(&'a str, String)], list: &'a str },
    /// Deletes scanned values, each with its timestamp.
    Unlink { scanned: &'a [&'a [u8]], keyspace: &'a Keyspace, sent_at: EpochMs },
    /// Records an invalidation.
    SetTombstone(&'a str, EpochMs, Resets),
    /// Forgets it, unless a later one is recorded.
    ClearTombstone(&'a str, EpochMs),
    /// Writes a key that lives for a few seconds.
    Probe(&'a str),
}

/// Whether what a tombstone recorded before is forgotten.
pub(super) type Resets = bool;

/// How the script decided a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepStatus {
    /// What was to be written is written or stale.
    Applied,
    /// See [`Outcome::Locked`].
    Locked,
    /// See [`Outcome::SkippedByPolicy`].
    NotCached,
    /// See [`Outcome::PurgedLater`].
    PurgedLater,
    /// See [`Outcome::NoCustomer`].
    NoCustomer,
    /// Applied, and the list has to be adjusted to a newer balance.
    AdjustList,
    /// What was to be replaced is no longer as it was read.
    Conflict,
}

/// Indexed by the numbers that `apply.lua` returns.
const STATUSES: [StepStatus; 7] = [
    StepStatus::Applied,
    StepStatus::Locked,
    StepStatus::NotCached,
    StepStatus::PurgedLater,
    StepStatus::NoCustomer,
    StepStatus::AdjustList,
    StepStatus::Conflict,
];

/// What the script did with one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepResult {
    /// How it was decided.
    pub status: StepStatus,
    /// Keys written.
    pub written: Keys,
    /// Keys left as they are, since something newer is stored.
    pub stale: Keys,
}

/// Keys that a step wrote or left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keys {
    /// So many.
    Count(u64),
    /// In a dry run: these.
    Names(Vec<String>),
}

impl Keys {
    /// How many.
    pub fn count(&self) -> u64 {
        match self {
            Self::Count(count) => *count,
            Self::Names(names) => names.len() as u64,
        }
    }

    /// Their names; none if they were only counted.
    pub(super) fn names(self) -> Vec<String> {
        match self {
            Self::Count(_) => Vec::new(),
            Self::Names(names) => names,
        }
    }
}

/// The script's answer: a value for each step. An inner error is Redis's own text. `None` if this is not an answer of the
/// script.
pub fn results(answer: &Value) -> Option<Vec<Result<StepResult, String>>> {
    let Value::Array(values) = answer else { return None };
    values.iter().map(result).collect()
}

fn result(value: &Value) -> Option<Result<StepResult, String>> {
    let (status, written, stale) = if let Value::Int(number) = value {
        let number = u64::try_from(*number).ok()?;
        let (written, stale) = (number >> 4 & 0xffff, number >> 20);
        (number & 0xf, Keys::Count(written), Keys::Count(stale))
    } else if let Value::Array(values) = value {
        let [Value::Int(status), written, stale] = values.as_slice() else {
            return None;
        };
        (u64::try_from(*status).ok()?, names(written)?, names(stale)?)
    } else {
        return Some(Err(text(value)?));
    };
    let status = *STATUSES.get(usize::try_from(status).ok()?)?;
    Some(Ok(StepResult { status, written, stale }))
}

fn names(value: &Value) -> Option<Keys> {
    let Value::Array(names) = value else { return None };
    names.iter().map(text).collect::<Option<_>>().map(Keys::Names)
}

fn text(value: &Value) -> Option<String> {
    let Value::BulkString(bytes) = value else {
        return None;
    };
    Some(String::from_utf8_lossy(bytes).into_owned())
}

impl StepResult {
    /// The outcome, if the step is a change.
    pub(super) fn outcome(&self) -> Outcome {
        match self.status {
            StepStatus::Applied | StepStatus::AdjustList => {
                Outcome::Applied { written: self.written.count(), stale: self.stale.count() }
            }
            StepStatus::Locked | StepStatus::Conflict => Outcome::Locked,
            StepStatus::NotCached => Outcome::SkippedByPolicy,
            StepStatus::PurgedLater => Outcome::PurgedLater,
            StepStatus::NoCustomer => Outcome::NoCustomer,
        }
    }
}

/// What is common to all steps of a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct CallOptions<'a> {
    pub rules: &'a StoreRules,
    pub is_dry_run: bool,
    pub now: EpochMs,
}

/// How many of these steps go into one call, at least one.
pub(super) fn steps_in_call(steps: &[Step<'_>]) -> usize {
    let (mut arguments, mut bytes) = (0, 0);
    for (index, step) in steps.iter().enumerate() {
        emit(std::slice::from_ref(step), &mut |_, parts| {
            arguments += 1;
            bytes += parts.iter().map(|part| part.len()).sum::<usize>();
        });
        if index > 0 && (arguments > ARGUMENTS_MAX || bytes > BYTES_MAX) {
            return index;
        }
    }
    steps.len()
}

/// The call that does these steps: `EVALSHA` and the SHA-1, or `EVAL` and the source.
pub(super) fn call(command: &str, script: &str, steps: &[Step<'_>], options: CallOptions<'_>) -> Cmd {
    let mut bytes: Vec<u8> = Vec::new();
    let [mut deciding, mut others, mut arguments] = [const { Vec::new() }; 3];
    emit(steps, &mut |part, pieces| {
        let start = bytes.len();
        for piece in pieces {
            bytes.extend_from_slice(piece);
        }
        let list: &mut Vec<Range<usize>> = match part {
            Part::Deciding => &mut deciding,
            Part::Other => &mut others,
            Part::Argument => &mut arguments,
        };
        list.push(start..bytes.len());
    });
    let add = |call: &mut Cmd, ranges: &[Range<usize>]| {
        for range in ranges {
            call.write_arg(bytes.get(range.clone()).unwrap_or_default());
        }
    };
    let mut call = Cmd::with_capacity(ARGUMENTS_MAX.min(12 * steps.len() + 9), bytes.len());
    call.arg(command).arg(script).arg(deciding.len() + others.len());
    add(&mut call, &deciding);
    add(&mut call, &others);
    call.arg(deciding.len());
    match options.rules.expiry {
        Expiry::Never => call.arg(""),
        Expiry::Seconds(seconds) => call.arg(seconds),
    };
    let is_update = options.rules.policy == CacheUpdatePolicy::UpdateIfExists;
    call.arg(u8::from(is_update)).arg(u8::from(options.is_dry_run));
    call.arg(TOMBSTONE_SECS).arg(options.now.0);
    add(&mut call, &arguments);
    call
}

/// Where something stands in a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Deciding,
    Other,
    Argument,
}

/// The number of locks that a usage respects. None if the step is not a usage.
fn usage_locks(step: &Step<'_>) -> Option<usize> {
    let Step::Change(CacheChange::WriteUsage(usage), patience) = step else {
        return None;
    };
    Some(respected_locks(&usage.locks, *patience).len())
}

fn respected_locks(locks: &ReaderLocks, patience: LockPatience) -> &[String] {
    if patience.respects_write_lock { &locks.write } else { &[] }
}

/// Emits the keys and arguments of steps, each kind in the order that `apply.lua` expects. Each key or argument is given in
/// parts, which are joined.
fn emit(steps: &[Step<'_>], sink: &mut dyn FnMut(Part, &[&[u8]])) {
    let mut emit = Emitter(sink);
    // Usages in a row with as many locks each are one group.
    for group in
        steps.chunk_by(|one, next| usage_locks(one).is_some() && usage_locks(one) == usage_locks(next))
    {
        if let Some(locks) = group.first().and_then(usage_locks) {
            emit.text("usages").number(group.len()).number(locks);
        }
        for step in group {
            emit_step(step, &mut emit);
        }
    }
}

fn emit_step(step: &Step<'_>, emit: &mut Emitter<'_, '_>) {
    match step {
        Step::Change(change, patience) => emit_change(change, *patience, emit),
        Step::Replace { read, list } => {
            emit.text("replace").number(read.len()).text(list);
            for (key, value) in *read {
                emit.deciding(key).text(value);
            }
        }
        Step::Unlink { scanned, keyspace, sent_at } => {
            emit.text("unlink").number(sent_at.0).number(scanned.len());
            for value in *scanned {
                // Of any other value the timestamp stands in the place of a tombstone, which is then not set.
                let (timestamp, tombstone) = ([value, TIMESTAMP.as_bytes()], keyspace.tombstone_of(value));
                emit.0(Part::Deciding, &timestamp);
                emit.0(Part::Deciding, &[&tombstone.clone().unwrap_or_else(|| timestamp.concat())]);
                emit.0(Part::Other, &[value]);
                emit.flag(tombstone.is_some());
            }
        }
        Step::SetTombstone(key, sent_at, resets) => {
            emit.deciding(key).text("tombstone").number(sent_at.0);
            emit.number(TOMBSTONE_SECS).flag(*resets);
        }
        Step::Probe(key) => {
            emit.deciding(key).text("tombstone").number(0);
            emit.number(PROBE_SECS).flag(true);
        }
        Step::ClearTombstone(key, sent_at) => {
            emit.deciding(key).text("clear").number(sent_at.0);
        }
    }
}

fn emit_change(change: &CacheChange, patience: LockPatience, emit: &mut Emitter<'_, '_>) {
    match change {
        CacheChange::WriteUsage(usage) => {
            for lock in respected_locks(&usage.locks, patience) {
                emit.deciding(lock);
            }
            emit.deciding_timestamp(&usage.customer_key).other(&usage.locks.refetch);
            emit.write(&usage.write);
        }
        CacheChange::WriteBalance(write) => {
            emit.text("balance").locks(&write.locks, patience, false).refetch(patience);
            if write.adjusts_list && write.balance.is_some() {
                // As JSON.stringify and serde_json write it.
                let currency = Json::from(write.currency.as_str()).to_string();
                emit.0(Part::Argument, &[b"\"currencyId\":", currency.as_bytes()]);
            } else {
                emit.text("");
            }
            emit.deciding_timestamp(&write.customer_key).credit(&write.credit);
            emit.other(&write.locks.refetch).other(&write.customer_key);
            match &write.balance {
                None => emit.text("").text(""),
                Some(balance) => emit.flag(balance.is_exhausted).optional(balance.valid_until.map(|at| at.0)),
            };
        }
        CacheChange::WriteEntitlements(write) => {
            emit.text("entitlements").locks(&write.locks, patience, false).refetch(patience);
            emit.number(write.tombstones.len());
            emit.number(write.usages.len()).number(write.credits.len());
            emit.number(write.rate_currencies.len());
            emit.number(write.sent_at.0).flag(write.is_from_edge_api).number(write.list.timestamp.0);
            emit.text(&write.list.value);
            emit.text(write.metadata.as_ref().map_or("", |metadata| &metadata.value));
            for tombstone in &write.tombstones {
                emit.deciding(tombstone);
            }
            emit.other(&write.locks.refetch);
            for KeyWrite { key, .. } in std::iter::once(&write.list).chain(&write.metadata) {
                emit.deciding_timestamp(key).other(key);
            }
            for usage in &write.usages {
                emit.write(usage);
            }
            for credit in &write.credits {
                emit.credit(credit);
            }
            for currency in &write.rate_currencies {
                emit.deciding(&balance_key(&write.list.key, currency));
            }
        }
        CacheChange::Purge(purge) => {
            emit.text("purge").locks(&purge.locks, patience, true);
            emit.deciding(&purge.tombstone);
            emit.deciding_timestamp(&purge.customer_key);
            emit.deciding_timestamp(&purge.metadata_key);
            emit.other(&purge.customer_key).other(&purge.metadata_key);
            emit.number(purge.sent_at.0).flag(purge.resets_tombstone);
        }
        CacheChange::InvalidateEnvironment(_) => {
            emit.text("nothing");
        }
    }
}

struct Emitter<'s, 'f>(&'s mut (dyn FnMut(Part, &[&[u8]]) + 'f));

impl Emitter<'_, '_> {
    fn deciding(&mut self, key: &str) -> &mut Self {
        (self.0)(Part::Deciding, &[key.as_bytes()]);
        self
    }

    fn deciding_timestamp(&mut self, key: &str) -> &mut Self {
        (self.0)(Part::Deciding, &[key.as_bytes(), TIMESTAMP.as_bytes()]);
        self
    }

    fn other(&mut self, key: &str) -> &mut Self {
        (self.0)(Part::Other, &[key.as_bytes()]);
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        (self.0)(Part::Argument, &[text.as_bytes()]);
        self
    }

    fn number(&mut self, number: impl itoa::Integer) -> &mut Self {
        self.text(itoa::Buffer::new().format(number))
    }

    fn flag(&mut self, flag: bool) -> &mut Self {
        self.text(if flag { "1" } else { "0" })
    }

    fn optional(&mut self, number: Option<i64>) -> &mut Self {
        match number {
            None => self.text(""),
            Some(number) => self.number(number),
        }
    }

    /// The locks that are still respected, and their number.
    fn locks(&mut self, locks: &ReaderLocks, patience: LockPatience, is_purge: bool) -> &mut Self {
        let write = respected_locks(locks, patience);
        let refetch = (is_purge && patience.respects_refetch_lock).then_some(&locks.refetch);
        for lock in write.iter().chain(refetch) {
            self.deciding(lock);
        }
        self.number(write.len() + usize::from(refetch.is_some()))
    }

    /// What a list or a balance does while the refetch lock is held, see `while_refetching` in `apply.lua`.
    fn refetch(&mut self, patience: LockPatience) -> &mut Self {
        self.text(match (patience.respects_refetch_lock, patience.has_waited) {
            (false, _) => "",
            (true, false) => "again",
            (true, true) => "wait",
        })
    }

    fn write(&mut self, write: &KeyWrite) -> &mut Self {
        self.deciding_timestamp(&write.key).other(&write.key);
        self.number(write.timestamp.0).text(&write.value)
    }

    fn credit(&mut self, credit: &CreditWrite) -> &mut Self {
        self.deciding_timestamp(&credit.key).deciding(&credit.key).deciding(&credit.balance_key);
        let usage = &credit.usage;
        self.number(credit.timestamp.0).text(&usage.current_usage.to_string());
        self.optional(usage.period_start.map(|at| at.0));
        self.optional(usage.period_end.map(|at| at.0));
        self.flag(credit.has_next_reset_date)
    }
}
