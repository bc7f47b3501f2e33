//! The store on a real Redis: the calls that change the cache.

use std::sync::Arc;

use redis::{Value, cmd};

use super::connection::PooledConnection;
use super::errors::{Cause, StoreError, translate_answer};
use super::pool::ConnectionPool;
use super::script::{self, CallOptions, SOURCE, Step, StepResult, StepStatus, StoreRules};
use super::{CacheStore, LockPatience, Outcome, PrefixScan};
use crate::aws::CredentialsProvider;
use crate::cache::credit::{KnownBalance, adjusted};
use crate::cache::keyspace::{Keyspace, balance_key, timestamp_key};
use crate::cache::{CacheChange, Invalidation};
use crate::clock;
use crate::config::RedisConfig;
use crate::entitlement::CurrencyId;

/// Keys examined by one SCAN: a millisecond of the server's time.
const SCAN_COUNT: u32 = 1_000;
/// Scanned keys that one call deletes: three arguments each.
const UNLINKED_AT_ONCE: usize = 900;
/// Tries to adjust a list that others change meanwhile, before its message has to wait.
const ADJUST_TRIES: usize = 10;

/// Changes the cache on one Redis.
pub struct RedisStore {
    pub(super) config: RedisConfig,
    rules: StoreRules,
    pub(super) pool: ConnectionPool,
    sha1: String,
}

/// What a change would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DryRun {
    /// The outcome, without counts.
    pub outcome: Outcome,
    /// Keys that would be written (each with its timestamp) or deleted.
    pub written: Vec<String>,
    /// Keys that would stay, as something newer is stored.
    pub stale: Vec<String>,
}

type StepResults = Vec<Result<StepResult, StoreError>>;

impl RedisStore {
    /// A pool of at most `connections`. `signer` signs ElastiCache's tokens; without REDIS_IAM_AUTH none is needed.
    pub fn new(
        config: RedisConfig,
        rules: StoreRules,
        connections: u32,
        signer: Option<Arc<CredentialsProvider>>,
    ) -> Self {
        Self {
            pool: ConnectionPool::new(config.clone(), connections, signer),
            config,
            rules,
            sha1: redis::Script::new(SOURCE).get_hash().to_owned(),
        }
    }

    /// Does steps, in as many calls as they take.
    fn run(
        &self,
        steps: &[Step<'_>],
        is_dry_run: bool,
        keep_going: &dyn Fn() -> bool,
    ) -> Result<StepResults, StoreError> {
        self.pool.on_a_connection(|connection| {
            let mut results = Vec::with_capacity(steps.len());
            while results.len() < steps.len() {
                let (done, rest) = (results.len(), &steps[results.len()..]);
                if done > 0 && !keep_going() {
                    return Err(StoreError::stopped(&format!(
                        "stopped after {done} of {} changes",
                        steps.len()
                    )));
                }
                let (now, _) = rest.split_at(script::steps_in_call(rest));
                results.extend(self.call(connection, now, is_dry_run)?);
            }
            Ok(results)
        })
    }

    /// One call. An error that is not known to belong to one key counts as the server's, unless another key can be
    /// written at the same time.
    fn call(
        &self,
        connection: &mut PooledConnection,
        steps: &[Step<'_>],
        is_dry_run: bool,
    ) -> Result<StepResults, StoreError> {
        // A fault of the server's ends it: what comes behind would only meet it, too.
        let one_by_one = |connection: &mut PooledConnection| -> Result<StepResults, StoreError> {
            let one = |step| match self.call_once(connection, std::slice::from_ref(step), is_dry_run) {
                Err(error) if error.cause.is_unknown() => Ok(Err(error)),
                results => Ok(results?.remove(0)),
            };
            steps.iter().map(one).collect()
        };
        let mut results = match self.call_once(connection, steps, is_dry_run) {
            Err(error) if error.cause.is_unknown() => {
                // If nothing can be written, there is no need to ask for each change.
                self.probe(connection).map_err(|_| error)?;
                one_by_one(connection)?
            }
            results => results?,
        };
        let is_unknown =
            |result: &Result<_, StoreError>| result.as_ref().is_err_and(|error| error.cause.is_unknown());
        if results.iter().all(is_unknown)
            && let Some(Err(error)) = results.first().cloned()
        {
            // If another key can be written, one more try shows whether the fault is the changes' own or has passed.
            self.probe(connection).map_err(|_| error)?;
            results = one_by_one(connection)?;
        }
        let is_servers = |error: &&StoreError| !error.cause.is_unknown() && !error.is_permanent();
        let mut errors = results.iter().filter_map(|result| result.as_ref().err());
        if let Some(error) = errors.find(is_servers) {
            connection.is_broken = true;
            return Err(error.clone());
        }
        Ok(results)
    }

    /// A result for each step.
    fn call_once(
        &self,
        connection: &mut PooledConnection,
        steps: &[Step<'_>],
        is_dry_run: bool,
    ) -> Result<StepResults, StoreError> {
        let options = CallOptions { rules: &self.rules, is_dry_run, now: clock::now() };
        let answer = self.eval(connection, steps, options)?;
        let results = script::results(&answer).filter(|results| results.len() == steps.len());
        let results = results.ok_or_else(|| self.pool.not_ours("the script answered in an unknown form"))?;
        let refused = |words: String| {
            let (code, detail) = words.split_once(' ').unwrap_or_default();
            let is_code = code.len() > 2 && code.bytes().all(|byte| byte.is_ascii_uppercase());
            let (code, detail) = if is_code { (code, detail) } else { ("ERR", &*words) };
            translate_answer(code, detail, WRITING, &self.config)
        };
        Ok(results.into_iter().map(|result| result.map_err(refused)).collect())
    }

    /// Runs the script by its SHA-1 (EVALSHA), and loads it if the server does not have it. Where that is refused, EVAL
    /// sends the source.
    fn eval(
        &self,
        connection: &mut PooledConnection,
        steps: &[Step<'_>],
        options: CallOptions<'_>,
    ) -> Result<Value, StoreError> {
        let mut refused = None;
        if !connection.sends_source {
            let by_sha1 = script::call("EVALSHA", &self.sha1, steps, options);
            let mut tried = self.pool.query(connection, &by_sha1, WRITING);
            if matches!(&tried, Err(error) if error.cause == Cause::NoScript) {
                // Redis was restarted, or somebody called SCRIPT FLUSH.
                let mut load = cmd("SCRIPT");
                load.arg("LOAD").arg(SOURCE);
                tried = self.pool.query(connection, &load, "cannot load the script into");
                if tried.is_ok() {
                    tried = self.pool.query(connection, &by_sha1, WRITING);
                }
            }
            match tried {
                Err(error) if error.cause.is_unknown() || REFUSES_SHA1.contains(&error.cause) => {
                    refused = Some(error);
                }
                tried => return tried,
            }
        }
        let answer = self.pool.query(connection, &script::call("EVAL", SOURCE, steps, options), WRITING);
        if answer.is_ok() && refused.is_some() {
            (connection.sends_source, connection.is_broken) = (true, false);
        }
        // If both were refused for the same cause, the first error names the command that is needed.
        answer.map_err(|error| refused.filter(|first| first.cause == error.cause).unwrap_or(error))
    }

    fn probe(&self, connection: &mut PooledConnection) -> Result<(), StoreError> {
        let key = self.rules.keyspace.probe_key("write");
        let mut results = self.call_once(connection, &[Step::Probe(&key)], false)?;
        results.remove(0).map(|_| ())
    }

    /// Changes the stored list as the known balances have it, see `cache::credit`. False if it changes all the time. An
    /// inner error is this change's own.
    fn adjust_list(
        &self,
        customer_key: &str,
        currencies: &[CurrencyId],
    ) -> Result<Result<bool, StoreError>, StoreError> {
        let timestamp = timestamp_key(customer_key);
        let balances = currencies.iter().map(|currency| balance_key(customer_key, currency));
        let balances: Vec<String> = balances.collect();
        let mut keys = vec![customer_key, &timestamp];
        keys.extend(balances.iter().map(String::as_str));
        let mut mget = cmd("MGET");
        mget.arg(&keys);
        for _ in 0..ADJUST_TRIES {
            let reply = self
                .pool
                .on_a_connection(|connection| self.pool.query(connection, &mget, "cannot read from"))?;
            // What is not text is no list that anybody reads.
            let Ok(values) = redis::from_redis_value::<Vec<Option<String>>>(reply) else {
                return Ok(Ok(true));
            };
            let read: Vec<(&str, String)> =
                keys.iter().copied().zip(values.into_iter().map(Option::unwrap_or_default)).collect();
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
            match self.run(&[step], false, &|| true)?.remove(0) {
                Ok(result) if result.status == StepStatus::Conflict => {}
                ended => return Ok(ended.map(|_| true)),
            }
        }
        Ok(Ok(false))
    }

    /// The outcome of a change. Adjusts the list first, if a balance requires it.
    fn outcome(
        &self,
        change: &CacheChange,
        result: &StepResult,
    ) -> Result<Result<Outcome, StoreError>, StoreError> {
        let is_adjusted = match change {
            _ if result.status != StepStatus::AdjustList => Ok(true),
            CacheChange::WriteEntitlements(write) => {
                self.adjust_list(&write.list.key, &write.rate_currencies)?
            }
            CacheChange::WriteBalance(write) => {
                self.adjust_list(&write.customer_key, std::slice::from_ref(&write.currency))?
            }
            CacheChange::WriteUsage(_) | CacheChange::Purge(_) | CacheChange::InvalidateEnvironment(_) => {
                Ok(true)
            }
        };
        Ok(is_adjusted.map(|is_adjusted| if is_adjusted { result.outcome() } else { Outcome::Locked }))
    }

    /// What the changes would do, each as if those before it were applied. Writes nothing.
    pub fn dry_run(&self, changes: &[&CacheChange]) -> Result<Vec<Result<DryRun, StoreError>>, StoreError> {
        let patience = LockPatience::NONE;
        let steps: Vec<Step<'_>> = changes.iter().map(|change| Step::Change(change, patience)).collect();
        let dry_run = |result: StepResult| DryRun {
            outcome: result.outcome(),
            written: result.written.names(),
            stale: result.stale.names(),
        };
        let results = self.run(&steps, true, &|| true)?;
        Ok(results.into_iter().map(|result| result.map(dry_run)).collect())
    }

    fn scan_and_unlink(
        &self,
        connection: &mut PooledConnection,
        invalidation: &Invalidation,
        keep_going: &dyn Fn() -> bool,
    ) -> Result<u64, StoreError> {
        let Invalidation { keyspace, sent_at, .. } = invalidation;
        let step = |connection: &mut PooledConnection, step: Step<'_>| {
            let result = self.call(connection, &[step], false)?.remove(0)?;
            Ok::<u64, StoreError>(result.written.count())
        };
        let tombstone = keyspace.environment_tombstone();
        let resets = invalidation.resets_tombstone;
        step(connection, Step::SetTombstone(&tombstone, *sent_at, resets))?;
        let mut cursor = b"0".to_vec();
        let mut unlinked = 0;
        loop {
            let (next, keys) =
                self.scan(connection, &cursor, &keyspace.customer_keys_pattern(), SCAN_COUNT)?;
            // Each value is deleted together with its timestamp, whichever of the two was found. Meanwhile a reader may have
            // written both again, and nothing would ever replace half of a pair.
            let mut values: Vec<&[u8]> =
                keys.iter().map(|key| crate::cache::keyspace::value_key(key)).collect();
            values.sort_unstable();
            values.dedup();
            for scanned in values.chunks(UNLINKED_AT_ONCE) {
                let unlink = Step::Unlink { scanned, keyspace, sent_at: *sent_at };
                unlinked += step(connection, unlink)?;
            }
            if next == b"0" {
                break;
            }
            if !keep_going() {
                return Err(StoreError::stopped(&format!(
                    "stopped invalidating the environment after {unlinked} keys"
                )));
            }
            cursor = next;
        }
        if !invalidation.keeps_tombstone {
            step(connection, Step::ClearTombstone(&tombstone, *sent_at))?;
        }
        Ok(unlinked)
    }
}

const WRITING: &str = "cannot write to";
/// Causes for which EVALSHA may fail and EVAL succeed. Unknown causes are treated alike.
const REFUSES_SHA1: [Cause; 2] = [Cause::NoScript, Cause::NoPermission];

impl CacheStore for RedisStore {
    fn apply(
        &self,
        changes: &[(&CacheChange, LockPatience)],
        keep_going: &dyn Fn() -> bool,
    ) -> Result<Vec<Result<Outcome, StoreError>>, StoreError> {
        let steps: Vec<Step<'_>> =
            changes.iter().map(|(change, patience)| Step::Change(change, *patience)).collect();
        let results = self.run(&steps, false, keep_going)?;
        let outcome = |(result, (change, _)): (Result<StepResult, _>, &(&CacheChange, _))| match result {
            Ok(result) => self.outcome(change, &result),
            Err(error) => Ok(Err(error)),
        };
        results.into_iter().zip(changes).map(outcome).collect()
    }

    fn invalidate(
        &self,
        invalidation: &Invalidation,
        keep_going: &dyn Fn() -> bool,
    ) -> Result<u64, StoreError> {
        self.pool.on_a_connection(|connection| self.scan_and_unlink(connection, invalidation, keep_going))
    }

    fn probe_write(&self) -> Result<(), StoreError> {
        self.pool.on_a_connection(|connection| self.probe(connection))
    }

    fn scan_prefixes(&self, own: &Keyspace, keep_going: &dyn Fn() -> bool) -> Result<PrefixScan, StoreError> {
        self.scan_for_prefixes(own, keep_going)
    }

    fn follow_primary(&self) -> Result<(), StoreError> {
        self.pool.manager.follow_primary()
    }

    fn ping(&self) -> Result<(), StoreError> {
        match self.pool.on_a_connection(|connection| self.pool.query(connection, &cmd("PING"), "cannot use"))
        {
            // An ACL that forbids PING forbids no write.
            Err(error) if error.cause == Cause::NoPermission => Ok(()),
            // Nor does a server that knows it by another name; but this error may be said to every command.
            Err(error) if error.cause.is_unknown() => self.probe_write().map_err(|_| error),
            answer => answer.map(|_| ()),
        }
    }

    fn info(&self) -> Result<String, StoreError> {
        self.pool.on_a_connection(|connection| {
            let mut text = String::new();
            for section in ["stats", "memory", "replication"] {
                let reply =
                    self.pool.query(connection, cmd("INFO").arg(section), "cannot read the statistics of")?;
                let section = redis::from_redis_value::<String>(reply);
                text.push_str(&section.map_err(|_| self.pool.not_ours("INFO is not text"))?);
            }
            // Found before a write fails.
            if text.contains("role:slave") && text.contains("slave_read_only:1") {
                // Another connection may lead to the primary: the name may have moved there.
                connection.is_broken = true;
                return Err(self.pool.manager.replica_error());
            }
            Ok(text)
        })
    }
}
