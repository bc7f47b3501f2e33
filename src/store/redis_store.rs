//! The store on a real Redis.

use std::mem;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::{Cmd, RedisError, Value, cmd};

use super::connection::{CONNECTION_LIFE, ConnectionManager, PooledConnection};
use super::errors::{replica_error, translate};
use super::request::Calls;
use super::scripts::{Scripts, clear_mark, outcome, set_mark, unlink_pairs};
use super::{CacheStore, Locks, Outcome, Reach, STOPPED, StoreError, Survey};
use crate::aws::CredentialsProvider;
use crate::cache::keyspace::Keyspace;
use crate::cache::{CacheChange, Invalidation, KeyWrite};
use crate::config::{CacheUpdatePolicy, Expiry, RedisConfig};

/// One deadline for a whole round trip, however many answers it has: a read timeout alone counts anew for each.
const ROUND_TRIP: Duration = Duration::from_secs(5);
/// How long to wait for a connection: longer than one dial, so that the dial's own error is what is reported.
const CHECKOUT: Duration = Duration::from_secs(4);
/// One slice of that wait.
const CHECKOUT_SLICE: Duration = Duration::from_millis(50);
/// Unused for this long, a connection may have been closed by the other side.
const IDLE: Duration = Duration::from_millis(500);
/// Calls in one round trip: a migration may list thousands of customers.
const CALLS_AT_MOST: usize = 500;
/// About as long as the call of a usage is, and as what goes with each value of a list beside it and its key.
const CALL_BYTES: usize = 640;
const WRITE_BYTES: usize = 80;
/// Bytes in one round trip, but for a single call that is larger.
const BYTES_AT_MOST: usize = 1024 * 1024;
/// Keys a SCAN step looks at, and so about as many as one UNLINK takes: a millisecond of the server's time.
const SCAN_COUNT: u32 = 1_000;

/// What the scripts are told beside the changes.
#[derive(Debug, Clone, Copy)]
pub struct StoreRules {
    /// Which customers are written.
    pub policy: CacheUpdatePolicy,
    /// How long written keys live.
    pub expiry: Expiry,
}

/// A pool of connections to one Redis, and the scripts.
pub struct RedisStore {
    config: RedisConfig,
    rules: StoreRules,
    manager: ConnectionManager,
    pool: r2d2::Pool<ConnectionManager>,
    scripts: Scripts,
    last_dial_error: LastDialError,
}

/// The pool tells its callers only that there is no connection; why is told here.
#[derive(Debug, Clone, Default)]
struct LastDialError(Arc<Mutex<Option<StoreError>>>);

impl LastDialError {
    fn take(&self) -> Option<StoreError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl r2d2::HandleError<StoreError> for LastDialError {
    fn handle_error(&self, error: StoreError) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}

impl RedisStore {
    /// A pool of at most `connections`, dialled when first needed: this never fails for a Redis that is away.
    /// `signer` signs ElastiCache's tokens; without REDIS_IAM_AUTH none is needed.
    pub fn new(
        config: RedisConfig,
        rules: StoreRules,
        connections: u32,
        signer: Option<Arc<dyn CredentialsProvider>>,
    ) -> Self {
        let last_dial_error = LastDialError::default();
        // One thread dials: more would only dial a Redis that is away from several sides at once.
        let dialler = scheduled_thread_pool::ScheduledThreadPool::builder()
            .num_threads(1)
            .thread_name_pattern("redis-dial-{}")
            .build();
        let manager = ConnectionManager::new(config.clone(), signer);
        let pool = r2d2::Pool::builder()
            .max_size(connections.max(1))
            .min_idle(Some(0))
            .test_on_check_out(false)
            .connection_timeout(CHECKOUT)
            .max_lifetime(Some(CONNECTION_LIFE))
            .idle_timeout(Some(Duration::from_mins(1)))
            .error_handler(Box::new(last_dial_error.clone()))
            .thread_pool(Arc::new(dialler))
            .build_unchecked(manager.clone());
        Self {
            config,
            rules,
            manager,
            pool,
            scripts: Scripts::new(),
            last_dial_error,
        }
    }

    fn connection(&self) -> Result<r2d2::PooledConnection<ConnectionManager>, StoreError> {
        let deadline = Instant::now() + CHECKOUT;
        // An old error is no news of this attempt.
        self.last_dial_error.take();
        loop {
            // The pool goes on dialling in the background and would let its callers wait for that. Waiting in
            // slices, a caller learns of a failed dial soon after it has failed.
            match self.pool.get_timeout(CHECKOUT_SLICE) {
                // Dropping it ends it: the pool dials another one.
                Ok(connection) if self.manager.is_outdated(&connection) => {}
                Ok(connection) => return Ok(connection),
                Err(timeout) => {
                    if let Some(error) = self.last_dial_error.take() {
                        return Err(error);
                    }
                    if Instant::now() >= deadline {
                        return Err(self.no_connection(&timeout));
                    }
                }
            }
        }
    }

    fn no_connection(&self, timeout: &r2d2::Error) -> StoreError {
        StoreError {
            message: format!(
                "cannot connect to Redis at {}: {timeout}; check that Redis is running and reachable from here",
                super::errors::server_name(&self.config)
            ),
            kind: "timeout".to_owned(),
            reach: Reach::Redis,
        }
    }

    /// Acts on a connection; anew on another one if that had been dialled before and turns out to be closed, as
    /// servers and load balancers do with idle ones: that is no news of Redis. A new connection that breaks is.
    pub(super) fn on_a_connection<T>(
        &self,
        act: impl Fn(&mut PooledConnection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut others = self.pool.max_size();
        loop {
            let mut connection = self.connection()?;
            let may_be_stale = connection.has_served || connection.last_used.elapsed() > IDLE;
            match act(&mut connection) {
                Err(error) if may_be_stale && others > 0 && error.kind == "io" => {
                    others -= 1;
                    log::debug!(err:% = error; "an idle connection to Redis was closed; taking another one");
                }
                ended => return ended,
            }
        }
    }

    /// Sends the calls in one go and reads an answer each. Any error poisons the connection, as does a panic, since
    /// answers of this round trip may still be under way on it.
    pub(super) fn round_trip(
        &self,
        connection: &mut PooledConnection,
        calls: &Calls,
    ) -> Result<Vec<Value>, StoreError> {
        let was_poisoned = mem::replace(&mut connection.poisoned, true);
        match exchange(connection, calls) {
            Ok(answers) => {
                connection.poisoned = was_poisoned;
                connection.has_served = true;
                connection.last_used = Instant::now();
                Ok(answers)
            }
            Err(error) => Err(StoreError {
                reach: Reach::Redis,
                ..translate(&error, "lost the connection to", &self.config)
            }),
        }
    }

    /// What a server's error means for one change. One that reaches all of Redis poisons the connection.
    pub(super) fn server_error(
        &self,
        connection: &mut PooledConnection,
        error: redis::ServerError,
        doing: &str,
    ) -> StoreError {
        let error = translate(&RedisError::from(error), doing, &self.config);
        if error.reach == Reach::Redis {
            connection.poisoned = true;
        }
        error
    }

    fn load_scripts(&self, connection: &mut PooledConnection) -> Result<(), StoreError> {
        let mut loads = Calls::default();
        for script in self.scripts.all() {
            let mut load = cmd("SCRIPT");
            load.arg("LOAD").arg(script.source);
            loads.add(&load);
        }
        for answer in self.round_trip(connection, &loads)? {
            if let Value::ServerError(error) = answer {
                let error = self.server_error(connection, error, "cannot load the scripts into");
                return Err(StoreError {
                    reach: Reach::Redis,
                    ..error
                });
            }
        }
        Ok(())
    }

    fn one(&self, connection: &mut PooledConnection, call: &Cmd, doing: &str) -> Result<Value, StoreError> {
        let mut calls = Calls::default();
        calls.add(call);
        let answer = self.round_trip(connection, &calls)?.pop().unwrap_or(Value::Nil);
        served(answer).map_err(|error| StoreError {
            reach: Reach::Redis,
            ..self.server_error(connection, error, doing)
        })
    }

    /// One question about Redis itself. That an ACL forbids it says nothing of the connection.
    pub(super) fn ask(
        &self,
        connection: &mut PooledConnection,
        call: &Cmd,
        doing: &str,
    ) -> Result<Value, StoreError> {
        let answer = self.one(connection, call, doing);
        if answer.as_ref().is_err_and(|error| error.kind == "NOPERM") {
            connection.poisoned = false;
        }
        answer
    }

    pub(super) fn not_ours(&self, what: &str) -> StoreError {
        StoreError {
            message: format!(
                "cannot use the answer of Redis at {}: {what}; check that it is a Redis and not a proxy that changes answers",
                super::errors::server_name(&self.config)
            ),
            kind: "protocol".to_owned(),
            reach: Reach::Change,
        }
    }
}

/// About as many bytes as a change takes in a request: a buffer that grows is copied each time.
fn room_for(change: &CacheChange) -> usize {
    let CacheChange::WriteEntitlements { writes, .. } = change else {
        return CALL_BYTES;
    };
    let room_of = |write: &KeyWrite| 2 * write.key.len() + write.value.len() + WRITE_BYTES;
    CALL_BYTES + writes.iter().map(room_of).sum::<usize>()
}

/// More would make a round trip that a slow Redis cannot end in time, however often it is tried.
fn is_full(calls: &Calls) -> bool {
    calls.count() >= CALLS_AT_MOST || calls.request().len() >= BYTES_AT_MOST
}

fn exchange(connection: &mut PooledConnection, calls: &Calls) -> Result<Vec<Value>, RedisError> {
    let wire = &mut connection.wire;
    wire.until(Instant::now() + ROUND_TRIP);
    wire.send(calls.request())?;
    (0..calls.count()).map(|_| wire.receive()).collect()
}

impl RedisStore {
    /// One round trip of writes; their outcomes are added to `outcomes`.
    fn write(
        &self,
        connection: &mut PooledConnection,
        calls: &Calls,
        outcomes: &mut Vec<Result<Outcome, StoreError>>,
    ) -> Result<(), StoreError> {
        let mut answers = self.round_trip(connection, calls)?;
        if answers.iter().any(is_noscript) {
            // Redis has restarted or was told SCRIPT FLUSH. What was applied may be applied again without harm.
            self.load_scripts(connection)?;
            answers = self.round_trip(connection, calls)?;
        }
        for answer in answers {
            outcomes.push(match served(answer) {
                Ok(answer) => {
                    outcome(&answer).ok_or_else(|| self.not_ours("a script answered in an unknown form"))
                }
                Err(error) => {
                    let error = self.server_error(connection, error, "cannot write to");
                    if error.reach == Reach::Redis {
                        return Err(error);
                    }
                    Err(error)
                }
            });
        }
        Ok(())
    }

    fn walk(
        &self,
        connection: &mut PooledConnection,
        invalidation: &Invalidation,
        go_on: &dyn Fn() -> bool,
    ) -> Result<u64, StoreError> {
        const DOING: &str = "cannot invalidate the environment in";
        let Invalidation {
            pattern,
            mark,
            keeps_mark,
            sent_at,
        } = invalidation;
        self.one(connection, &set_mark(mark, *sent_at), DOING)?;
        let mut cursor = b"0".to_vec();
        let mut unlinked = 0;
        loop {
            let mut scan = cmd("SCAN");
            scan.arg(&cursor)
                .arg("MATCH")
                .arg(pattern)
                .arg("COUNT")
                .arg(SCAN_COUNT);
            let answer = self.one(connection, &scan, DOING)?;
            let (next, keys): (Vec<u8>, Vec<Vec<u8>>) = redis::from_redis_value(answer)
                .map_err(|_| self.not_ours("SCAN answered in an unknown form"))?;
            if !keys.is_empty() {
                let answer = self.one(connection, &unlink_pairs(&keys, mark, *sent_at), DOING)?;
                unlinked += redis::from_redis_value::<u64>(answer).unwrap_or_default();
            }
            if next == b"0" {
                break;
            }
            if !go_on() {
                return Err(stopped(&format!(
                    "gave up invalidating the environment after {unlinked} keys"
                )));
            }
            cursor = next;
        }
        if !keeps_mark {
            self.one(connection, &clear_mark(mark, *sent_at), DOING)?;
        }
        Ok(unlinked)
    }
}

/// What a walk or a long row of changes ends with when it is told not to go on.
pub(super) fn stopped(what: &str) -> StoreError {
    StoreError {
        message: format!("{what}: the service stops; it is done anew when the message comes again"),
        kind: STOPPED.to_owned(),
        reach: Reach::Redis,
    }
}

impl CacheStore for RedisStore {
    fn apply(
        &self,
        changes: &[(&CacheChange, Locks)],
        go_on: &dyn Fn() -> bool,
    ) -> Result<Vec<Result<Outcome, StoreError>>, StoreError> {
        let StoreRules { policy, expiry } = self.rules;
        self.on_a_connection(|connection| {
            let mut outcomes = Vec::with_capacity(changes.len());
            let room: usize = changes.iter().map(|(change, _)| room_for(change)).sum();
            let mut calls = Calls::with_room(room.min(BYTES_AT_MOST));
            for (change, locks) in changes {
                self.scripts.add_call(&mut calls, change, *locks, policy, expiry);
                if is_full(&calls) {
                    if !go_on() {
                        return Err(stopped(&format!(
                            "gave up after {} of {} changes",
                            outcomes.len(),
                            changes.len()
                        )));
                    }
                    self.write(connection, &calls, &mut outcomes)?;
                    calls.clear();
                }
            }
            if calls.count() > 0 {
                self.write(connection, &calls, &mut outcomes)?;
            }
            Ok(outcomes)
        })
    }

    fn invalidate(&self, invalidation: &Invalidation, go_on: &dyn Fn() -> bool) -> Result<u64, StoreError> {
        self.on_a_connection(|connection| self.walk(connection, invalidation, go_on))
    }

    fn survey(&self, own: &Keyspace, go_on: &dyn Fn() -> bool) -> Result<Survey, StoreError> {
        super::survey::survey(self, own, go_on)
    }

    fn follow_primary(&self) -> Result<(), StoreError> {
        self.manager.look_for_primary()
    }

    fn ping(&self) -> Result<(), StoreError> {
        let asked = self.on_a_connection(|connection| self.ask(connection, &cmd("PING"), "cannot use"));
        match asked {
            // An ACL that forbids PING forbids no write.
            Err(error) if error.kind != "NOPERM" => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn info(&self) -> Result<String, StoreError> {
        self.on_a_connection(|connection| {
            let mut text = String::new();
            for section in ["stats", "memory", "replication"] {
                let mut info = cmd("INFO");
                info.arg(section);
                let answer = self.ask(connection, &info, "cannot read the statistics of")?;
                let section = redis::from_redis_value::<String>(answer);
                text.push_str(&section.map_err(|_| self.not_ours("INFO is no text"))?);
            }
            // Told before a write meets it.
            if text.contains("role:slave") && text.contains("slave_read_only:1") {
                // Another connection may lead to the primary: the name may have moved there.
                connection.poisoned = true;
                return Err(replica_error(&self.config));
            }
            Ok(text)
        })
    }
}

/// An answer, or the server's error.
pub(super) fn served(answer: Value) -> Result<Value, redis::ServerError> {
    if let Value::ServerError(error) = answer {
        return Err(error);
    }
    Ok(answer)
}

fn is_noscript(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(error) if error.code() == "NOSCRIPT")
}
