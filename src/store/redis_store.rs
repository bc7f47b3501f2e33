//! The store on a real Redis: the calls that change the cache.

use std::collections::BTreeSet;
use std::slice;
use std::sync::Arc;

use redis::{Value, cmd};

use super::connection::{Connection, Connections};
use super::errors::{Cause, StoreError, refusal, unexpected};
use super::script::{Call, SOURCE, Step, StepResult, StoreRules, TOMBSTONE_SECS, results};
use super::{CacheStore, LockPatience, Outcome, PrefixScan};
use crate::aws::CredentialsProvider;
use crate::cache::credit::{KnownBalance, adjusted};
use crate::cache::keyspace::{ANY_CUSTOMER_KEYS, Keyspace, balance_key, prefix_of, timestamp_key, value_key};
use crate::cache::{CacheChange, Invalidation};
use crate::clock::EpochMs;
use crate::config::RedisConfig;
use crate::entitlement::CurrencyId;

/// Keys examined by one SCAN: a millisecond of the server's time.
const SCAN_COUNT: u32 = 1_000;
/// Steps of the scan for prefixes: a million keys.
const PREFIX_STEPS_MAX: u32 = 1_000;
/// Prefixes that it keeps; a warning names only a few.
const PREFIXES_MAX: usize = 100;
/// Tries to adjust a list that others change meanwhile, before its message has to wait.
const ADJUST_TRIES: usize = 10;
/// How long a key lives that shows that writes work.
const PROBE_SECS: u32 = 10;
const WRITING: &str = "cannot write to";

/// Changes the cache on one Redis.
pub struct RedisStore {
    rules: StoreRules,
    pub(super) connections: Connections,
    sha1: String,
}

type StepResults = Vec<Result<StepResult, StoreError>>;

impl RedisStore {
    /// At most this many connections, made when first used. `signer` signs ElastiCache's tokens; without REDIS_IAM_AUTH none is
    /// needed.
    pub fn new(
        config: RedisConfig,
        rules: StoreRules,
        connections: u32,
        signer: Option<Arc<CredentialsProvider>>,
    ) -> Self {
        let sha1 = redis::Script::new(SOURCE).get_hash().to_owned();
        Self { rules, connections: Connections::new(config, connections, signer), sha1 }
    }

    /// Applies steps, in as many calls as they take.
    fn run(
        &self,
        connection: &mut Connection,
        steps: &[Step<'_>],
        is_dry_run: bool,
        keep_going: &dyn Fn() -> bool,
    ) -> Result<StepResults, StoreError> {
        let mut results = Vec::with_capacity(steps.len());
        while results.len() < steps.len() {
            let (done, all) = (results.len(), steps.len());
            if done > 0 && !keep_going() {
                return Err(StoreError::stopped(&format!("stopped after {done} of {all} changes")));
            }
            results.extend(self.call(connection, &steps[done..], is_dry_run)?);
        }
        Ok(results)
    }

    /// One call, for as many of these steps as fit. An error that is not known to belong to one key counts as the server's,
    /// unless another key can be written at the same time. A dry run does not try to.
    fn call(
        &self,
        connection: &mut Connection,
        steps: &[Step<'_>],
        is_dry_run: bool,
    ) -> Result<StepResults, StoreError> {
        let (call, count) = Call::of(steps);
        let mut results = self.call_once(connection, &call, count, is_dry_run)?;
        let is_unknown =
            |result: &Result<_, StoreError>| matches!(result, Err(error) if error.cause.is_unknown());
        // After the first time, whether the fault is the changes' own; after the second, whether it has passed.
        for _ in 0..2 {
            let Some(Err(error)) = results.first().filter(|_| results.iter().all(is_unknown)) else { break };
            if is_dry_run || self.probe(connection).is_err() {
                return Err(error.clone());
            }
            let alone = |step| Ok(self.call_once(connection, &Call::of(&[step]).0, 1, false)?.remove(0));
            results = steps[..count].iter().copied().map(alone).collect::<Result<_, StoreError>>()?;
        }
        let is_servers = |error: &&StoreError| !error.cause.is_unknown() && !error.is_permanent();
        if let Some(error) = results.iter().filter_map(|result| result.as_ref().err()).find(is_servers) {
            connection.is_broken = true;
            return Err(error.clone());
        }
        Ok(results)
    }

    /// A result for each of the call's steps. An unknown error is the result of each; any other ends it.
    fn call_once(
        &self,
        connection: &mut Connection,
        call: &Call,
        steps: usize,
        is_dry_run: bool,
    ) -> Result<StepResults, StoreError> {
        let answer = match self.eval(connection, call, is_dry_run) {
            Err(error) if error.cause.is_unknown() => return Ok(vec![Err(error); steps]),
            answer => answer?,
        };
        let results = results(&answer).filter(|results| results.len() == steps);
        let results = results
            .ok_or_else(|| unexpected("the script answered in an unknown form", &self.connections.config))?;
        let refused = |words: String| {
            let (code, detail) = words.split_once(' ').unwrap_or_default();
            let is_code = code.len() > 2 && code.bytes().all(|byte| byte.is_ascii_uppercase());
            let (code, detail) = if is_code { (code, detail) } else { ("ERR", &*words) };
            refusal(code, detail, WRITING, &self.connections.config)
        };
        Ok(results.into_iter().map(|result| result.map_err(refused)).collect())
    }

    /// Runs the script by its SHA-1 (EVALSHA). Where that is refused, EVAL sends the source.
    fn eval(&self, connection: &mut Connection, call: &Call, is_dry_run: bool) -> Result<Value, StoreError> {
        let command = |name, script| call.command(name, script, &self.rules, is_dry_run);
        let refused = match connection.query(&command("EVALSHA", &self.sha1), WRITING) {
            Err(error) if error.cause == Cause::NoScript || error.is_unsupported() => error,
            ended => return ended,
        };
        // A server that had lost the script, by a restart say, then has it again.
        match connection.query(&command("EVAL", SOURCE), WRITING) {
            Ok(answer) => {
                connection.is_broken = false;
                Ok(answer)
            }
            // If both were refused for the same cause, the first error names the command that is needed.
            Err(error) if error.cause == refused.cause => Err(refused),
            Err(error) => Err(error),
        }
    }

    fn probe(&self, connection: &mut Connection) -> Result<(), StoreError> {
        let key = &self.rules.keyspace.probe_key("write");
        let step = Step::SetTombstone { key, sent_at: EpochMs(0), secs: PROBE_SECS, resets: true };
        self.call_once(connection, &Call::of(&[step]).0, 1, false)?.remove(0).map(|_| ())
    }

    /// Adjusts the stored list to the known balances, see `cache::credit`. False if others keep changing it. An
    /// inner error is this change's own.
    fn adjust_list(
        &self,
        customer_key: &str,
        currencies: &[CurrencyId],
    ) -> Result<Result<bool, StoreError>, StoreError> {
        let mut keys = vec![customer_key.to_owned(), timestamp_key(customer_key)];
        keys.extend(currencies.iter().map(|currency| balance_key(customer_key, currency)));
        for _ in 0..ADJUST_TRIES {
            let reply: Value = self.connections.ask(cmd("MGET").arg(&keys), "cannot read from")?;
            // What is not text is no list that anybody reads.
            let values = redis::from_redis_value::<Vec<Option<String>>>(reply).unwrap_or_default();
            let read: Vec<(&str, String)> = keys
                .iter()
                .map(String::as_str)
                .zip(values.into_iter().map(Option::unwrap_or_default))
                .collect();
            let [(_, list), (_, listed_at), records @ ..] = read.as_slice() else {
                return Ok(Ok(true));
            };
            let listed_at: i64 = listed_at.parse().unwrap_or_default();
            let balances: Vec<KnownBalance> = currencies
                .iter()
                .zip(records)
                .filter_map(|(currency, (_, record))| KnownBalance::read(currency, record))
                .filter(|balance| balance.updated_at.0 >= listed_at)
                .collect();
            let Some(list) = adjusted(list, &balances) else {
                return Ok(Ok(true));
            };
            let step = Step::Replace { read: &read, list: &list };
            let replace = |connection: &mut _| self.run(connection, &[step], false, &|| true);
            match self.connections.on_one(replace)?.remove(0) {
                Ok(result) if result.outcome == Outcome::Locked => {}
                ended => return Ok(ended.map(|_| true)),
            }
        }
        Ok(Ok(false))
    }

    /// The outcome of a change. Adjusts the list first, if a balance requires it.
    #[allow(clippy::wildcard_enum_match_arm)] // no other change adjusts a list
    fn outcome(
        &self,
        change: &CacheChange,
        result: &StepResult,
    ) -> Result<Result<Outcome, StoreError>, StoreError> {
        let is_adjusted = match change {
            CacheChange::WriteEntitlements(write) if result.adjusts_list => {
                self.adjust_list(&write.list.key, &write.rate_currencies)?
            }
            CacheChange::WriteBalance(write) if result.adjusts_list => {
                self.adjust_list(&write.customer_key, slice::from_ref(&write.currency))?
            }
            _ => Ok(true),
        };
        Ok(is_adjusted.map(|is_adjusted| if is_adjusted { result.outcome } else { Outcome::Locked }))
    }

    /// What the changes would do, each as if those before it were applied. Writes nothing.
    pub fn dry_run(
        &self,
        changes: &[&CacheChange],
    ) -> Result<Vec<Result<StepResult, StoreError>>, StoreError> {
        let steps: Vec<_> = changes.iter().map(|change| Step::Change(change, LockPatience::NONE)).collect();
        self.connections.on_one(|connection| self.run(connection, &steps, true, &|| true))
    }

    fn scan_and_unlink(
        &self,
        connection: &mut Connection,
        invalidation: &Invalidation,
        each: &dyn Fn(&[u8]),
        keep_going: &dyn Fn() -> bool,
    ) -> Result<u64, StoreError> {
        let Invalidation { keyspace, sent_at, resets_tombstone: resets } = invalidation;
        let (key, sent_at) = (&keyspace.environment_tombstone(), *sent_at);
        let tombstone = Step::SetTombstone { key, sent_at, secs: TOMBSTONE_SECS, resets: *resets };
        self.call(connection, &[tombstone], false)?.remove(0)?;
        let mut unlinked = 0;
        let unlink = |connection: &mut Connection, keys: &[Vec<u8>]| {
            // Each value is deleted together with its timestamp, whichever of the two was found. Meanwhile a reader may have
            // written both again, and nothing would ever replace half of a pair.
            let values: BTreeSet<&[u8]> = keys.iter().map(|key| value_key(key)).collect();
            let unlink = |value| Step::Unlink { value, keyspace, sent_at };
            let steps: Vec<_> = values.iter().copied().map(unlink).collect();
            let results = self.run(connection, &steps, false, keep_going);
            // Even after an error: some may have been deleted.
            values.into_iter().for_each(each);
            for result in results? {
                if let Outcome::Applied { written, .. } = result?.outcome {
                    unlinked += written;
                }
            }
            Ok(keep_going())
        };
        if Self::scan(connection, &keyspace.customer_keys_pattern(), unlink)? {
            return Ok(unlinked);
        }
        Err(StoreError::stopped(&format!("stopped invalidating the environment after {unlinked} keys")))
    }

    /// Scans the keys that match, in small steps. `each` gets what a step found, and says whether to go on. True if everything
    /// was scanned.
    fn scan(
        connection: &mut Connection,
        pattern: &str,
        mut each: impl FnMut(&mut Connection, &[Vec<u8>]) -> Result<bool, StoreError>,
    ) -> Result<bool, StoreError> {
        let mut cursor = b"0".to_vec();
        loop {
            let mut scan = cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(SCAN_COUNT);
            let (next, keys): (Vec<u8>, Vec<Vec<u8>>) = connection.ask(&scan, "cannot scan the keys of")?;
            let goes_on = each(connection, &keys)?;
            if next == b"0" || !goes_on {
                return Ok(next == b"0");
            }
            cursor = next;
        }
    }
}

impl CacheStore for RedisStore {
    fn apply(
        &self,
        changes: &[(&CacheChange, LockPatience)],
        keep_going: &dyn Fn() -> bool,
    ) -> Result<Vec<Result<Outcome, StoreError>>, StoreError> {
        let steps: Vec<_> =
            changes.iter().map(|(change, patience)| Step::Change(change, *patience)).collect();
        let run = |connection: &mut _| self.run(connection, &steps, false, keep_going);
        let results = self.connections.on_one(run)?.into_iter().zip(changes);
        let outcome = |(result, (change, _)): (Result<_, _>, &(&CacheChange, _))| match result {
            Ok(result) => self.outcome(change, &result),
            Err(error) => Ok(Err(error)),
        };
        results.map(outcome).collect()
    }

    fn invalidate(
        &self,
        invalidation: &Invalidation,
        each: &dyn Fn(&[u8]),
        keep_going: &dyn Fn() -> bool,
    ) -> Result<u64, StoreError> {
        self.connections.on_one(|connection| self.scan_and_unlink(connection, invalidation, each, keep_going))
    }

    fn probe_write(&self) -> Result<(), StoreError> {
        self.connections.on_one(|connection| self.probe(connection))
    }

    fn scan_prefixes(&self, own: &Keyspace, keep_going: &dyn Fn() -> bool) -> Result<PrefixScan, StoreError> {
        self.connections.on_one(|connection| {
            let (mut scan, mut steps, mut is_stopped) = (PrefixScan::default(), 0, false);
            let is_complete = Self::scan(connection, ANY_CUSTOMER_KEYS, |_, keys| {
                scan.has_own = keys.iter().any(|key| own.is_customer_key(key));
                for prefix in keys.iter().filter_map(|key| prefix_of(key)) {
                    if scan.others.len() < PREFIXES_MAX {
                        scan.others.insert(prefix);
                    }
                }
                steps += 1;
                is_stopped = !scan.has_own && !keep_going();
                Ok(!scan.has_own && !is_stopped && steps < PREFIX_STEPS_MAX)
            })?;
            if is_stopped && !is_complete {
                return Err(StoreError::stopped("stopped scanning for the customers in Redis"));
            }
            Ok(PrefixScan { is_complete, ..scan })
        })
    }

    fn follow_primary(&self) -> Result<(), StoreError> {
        self.connections.follow_primary()
    }

    fn ping(&self) -> Result<(), StoreError> {
        match self.connections.ask::<Value>(&cmd("PING"), "cannot use") {
            // An ACL that forbids PING forbids no write.
            Err(error) if error.cause == Cause::NoPermission => Ok(()),
            // Nor does a server that knows it by another name; but every command may get this error.
            Err(error) if error.cause.is_unknown() => self.probe_write().map_err(|_| error),
            answer => answer.map(|_| ()),
        }
    }

    fn info(&self) -> Result<String, StoreError> {
        self.connections.on_one(|connection| {
            let text: String = connection.ask(&cmd("INFO"), "cannot read the statistics of")?;
            // Found before a write fails.
            if text.contains("role:slave") && text.contains("slave_read_only:1") {
                // Another connection may lead to the primary: the name may have moved there.
                connection.is_broken = true;
                return Err(self.connections.replica_error());
            }
            Ok(text)
        })
    }
}
