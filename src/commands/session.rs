//! What commands share: the log on standard error, the store, the subject of a command, files of lines, and how fast the Edge
//! API is called.

use std::fs::File;
use std::io::{BufRead, BufReader, stderr, stdin};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, tick};

use super::{CommandError, complain};
use crate::aws::own_provider;
use crate::backoff::Backoff;
use crate::cache::keyspace::Keyspace;
use crate::cache::{CacheChange, Layout};
use crate::config::{CacheAccess, Settings};
use crate::entitlement::{CustomerId, ResourceId, Subject};
use crate::http_client;
use crate::log as service_log;
use crate::pipeline::worker::{LOCKED_RETRY_MIN, apply_once};
use crate::refetch::RefetchError;
use crate::shutdown::Stop;
use crate::store::{Outcome, RedisStore, StoreError, StoreRules, server_name};

/// How long calls pause at most because the Edge API asks for it. A customer that needs a longer pause fails.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(2);

pub(super) struct Session {
    pub layout: Layout,
    /// ENVIRONMENT_PREFIX.
    pub prefix: String,
    pub store: RedisStore,
    /// How messages name Redis.
    pub redis_at: String,
}

/// More than any command needs. Each is made when it is needed.
const CONNECTIONS_MAX: u32 = 100;

impl Session {
    /// No connection is made yet.
    pub fn open(settings: &Settings, access: CacheAccess) -> Result<Self, CommandError> {
        if let Err(error) = service_log::start(stderr(), &settings.command_log()?) {
            complain(format!("cannot start the log: {error}"));
        }
        service_log::hide_keys(&access.environment_prefix);
        for notice in &access.notices {
            log::warn!("{notice}");
        }
        http_client::install_crypto_provider();
        let keyspace = Keyspace::new(access.environment_prefix.as_str());
        let rules = StoreRules { keyspace: keyspace.clone(), policy: access.policy, expiry: access.expiry };
        let iam = access.redis.iam.as_ref();
        let signer = iam.and_then(|iam| own_provider(&iam.credentials, access.proxy));
        Ok(Self {
            layout: Layout { keyspace, format: access.format },
            prefix: access.environment_prefix,
            redis_at: server_name(&access.redis),
            store: RedisStore::new(access.redis, rules, CONNECTIONS_MAX, signer),
        })
    }

    /// Applies changes, or one invalidation, as the workers do. An outcome for each, in order, none of them
    /// [`Outcome::Locked`]: readers' locks are waited for. The error is the server's: what was applied by then can be applied
    /// again without harm.
    pub fn apply(&self, changes: &[CacheChange]) -> Result<Vec<Result<Outcome, StoreError>>, StoreError> {
        let (began, mut waited) = (Instant::now(), Duration::ZERO);
        let mut outcomes = vec![Ok(Outcome::Locked); changes.len()];
        while outcomes.contains(&Ok(Outcome::Locked)) {
            if !waited.is_zero() {
                Stop::never().wait(LOCKED_RETRY_MIN);
            }
            let pairs = outcomes.iter_mut().zip(changes);
            let locked = pairs.filter(|(outcome, _)| **outcome == Ok(Outcome::Locked));
            let (slots, attempts): (Vec<_>, Vec<_>) =
                locked.map(|(outcome, change)| (outcome, (change, waited))).unzip();
            for (slot, outcome) in slots.into_iter().zip(apply_once(&self.store, &attempts, None, &|| true)?)
            {
                *slot = outcome;
            }
            waited = began.elapsed();
        }
        Ok(outcomes)
    }
}

pub(super) fn subject(customer: &str, resource: Option<&str>) -> Subject {
    Subject {
        customer: CustomerId(customer.to_owned()),
        resource: resource.map(|id| ResourceId(id.to_owned())),
    }
}

/// A file to read line by line, `-` for standard input, and how many lines it has, if that can be counted beforehand.
pub(super) fn open_lines(path: &str) -> Result<(Box<dyn BufRead + Send>, Option<u64>), CommandError> {
    if path == "-" {
        return Ok((Box::new(BufReader::new(stdin())), None));
    }
    let open = || File::open(path).map_err(|error| CommandError::of_file("read", path, &error));
    // A pipe can be read only once.
    let is_file = Path::new(path).is_file();
    let counted = is_file.then(open).transpose()?;
    let total = counted.map(|file| BufReader::new(file).split(b'\n').count() as u64);
    Ok((Box::new(BufReader::new(open()?)), total))
}

/// Limits the calls per second of all threads, and allows none while the Edge API asks for a pause.
pub(super) struct Pace {
    retries: u32,
    turns: Receiver<Instant>,
    paused_until: Mutex<Instant>,
}

impl Pace {
    /// `rate` is the calls per second, retries included.
    pub fn new(rate: u32, retries: u32) -> Self {
        let turns = tick(Duration::from_secs(1) / rate);
        Self { retries, turns, paused_until: Mutex::new(Instant::now()) }
    }

    /// Makes a call, again after failures that may pass, with growing waits.
    pub fn call<T>(&self, call: impl Fn() -> Result<T, RefetchError>) -> Result<T, RefetchError> {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        let mut tries = 1;
        loop {
            let paused_until = *self.paused_until();
            Stop::never().wait(paused_until.saturating_duration_since(Instant::now()));
            let _ = self.turns.recv(); // they never end
            let (why, retry_after) = match call() {
                Err(RefetchError::Retryable(why, retry_after)) => (why, retry_after),
                ended => return ended,
            };
            if tries > self.retries {
                return Err(RefetchError::Customer(format!("{why} (tried {tries} times)")));
            }
            let pause = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
            let mut paused_until = self.paused_until();
            *paused_until = (*paused_until).max(Instant::now() + pause);
            drop(paused_until);
            Stop::never().wait(backoff.next_wait(fastrand::f64()));
            tries += 1;
        }
    }

    fn paused_until(&self) -> MutexGuard<'_, Instant> {
        self.paused_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
