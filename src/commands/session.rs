//! What commands share: the log on standard error, the store, the subject of a command, files of lines, threads, and how fast
//! the Edge API is called.

use std::fs::File;
use std::io::{self, BufRead, BufReader, stderr, stdin};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use crossbeam_channel::{Receiver, tick};
use indicatif::ProgressBar;

use super::output::Counted;
use super::{CommandError, complain};
use crate::aws::own_provider;
use crate::backoff::Backoff;
use crate::cache::keyspace::Keyspace;
use crate::cache::{CacheChange, Layout};
use crate::config::{CacheAccess, CacheUpdatePolicy, Settings};
use crate::edge::EdgeClient;
use crate::entitlement::{CustomerId, ResourceId, Subject};
use crate::http_client;
use crate::log as service_log;
use crate::log::printable;
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
    /// For what writes Stigg's answers, whatever CACHE_UPDATE_POLICY says of messages.
    pub fn open_with_edge(settings: &Settings) -> Result<(Self, EdgeClient), CommandError> {
        let (mut access, edge) = settings.cache_and_edge_access()?;
        let edge = EdgeClient::new(edge.url, edge.key, access.proxy.clone());
        access.policy = CacheUpdatePolicy::Upsert;
        Ok((Self::open(settings, access)?, edge))
    }

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

/// A line's text, and what it names: a customer, or a customer and, after a tab, a resource; `None` if it is neither.
pub(super) type Listed = (String, Option<Subject>);

/// What the lines of a file name, empty lines left out, and how many lines there are, see [`open_lines`].
pub(super) fn open_subjects(
    path: &str,
) -> Result<(impl Iterator<Item = Result<Listed, CommandError>> + Send, Option<u64>), CommandError> {
    let (input, total) = open_lines(path)?;
    let read = move |line: io::Result<Vec<u8>>| match line {
        Ok(line) => parse_line(&line).map(Ok),
        Err(error) => Some(Err(CommandError::of_file("read on in", path, &error))),
    };
    Ok((input.split(b'\n').filter_map(read), total))
}

fn parse_line(line: &[u8]) -> Option<Listed> {
    let text = String::from_utf8_lossy(line);
    // Editors on Windows put a byte order mark before the first line.
    let text = text.trim_start_matches('\u{feff}').trim_end_matches('\r');
    if text.trim().is_empty() {
        return None;
    }
    let (customer, resource) = text.split_once('\t').unzip();
    let customer = customer.unwrap_or(text);
    let is_one = str::from_utf8(line).is_ok() && !customer.is_empty() && resource != Some("");
    Some((text.to_owned(), is_one.then(|| subject(customer, resource))))
}

/// The line as people read it.
pub(super) fn named(line: &str) -> String {
    printable(&line.replace('\t', ", resource "))
}

/// Says why this line failed, which counts as `failed`. What would fail the others as well is an error.
pub(super) fn counted(
    result: Result<Counted, RefetchError>,
    failed: Counted,
    line: &str,
    bar: &ProgressBar,
) -> Result<Counted, CommandError> {
    match result {
        Ok(counted) => Ok(counted),
        Err(RefetchError::Everyone(why)) => Err(CommandError::Failed(why)),
        Err(RefetchError::Customer(why) | RefetchError::Retryable(why, _)) => {
            bar.suspend(|| complain(format!("{}: {why}", named(line))));
            Ok(failed)
        }
    }
}

pub(super) const NO_SUBJECT: &str =
    "it is neither a customer's id in UTF-8 nor two ids with a tab in between";

/// Works through what `next` gives, in so many threads, until it gives nothing. The first error ends all of them.
pub(super) fn in_parallel<T>(
    threads: u32,
    next: impl Fn() -> Option<T> + Sync,
    work: impl Fn(T) -> Result<(), CommandError> + Sync,
) -> Result<(), CommandError> {
    let gave_up = OnceLock::new();
    let run = || {
        while gave_up.get().is_none()
            && let Some(item) = next()
        {
            if let Err(why) = work(item) {
                let _ = gave_up.set(why); // another thread may have been first
            }
        }
    };
    thread::scope(|scope| {
        for number in 1..threads {
            // With fewer threads it only takes longer.
            let _ = thread::Builder::new().name(format!("command-{number}")).spawn_scoped(scope, run);
        }
        run();
    });
    gave_up.into_inner().map_or(Ok(()), Err)
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How the Edge API is called.
#[derive(Debug, Args)]
pub struct EdgeCalls {
    /// Calls to the Edge API per second, retries included.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rate: u32,
    /// Customers that are processed at the same time.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub parallel: u32,
    /// Retries after a failure that may pass (429, 5xx, no answer), with growing waits. Where the API says how long to
    /// wait (Retry-After), all calls pause that long, two minutes at most.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=20))]
    pub retries: u32,
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
                return Err(RefetchError::Customer(format!("{why} (tries: {tries})")));
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
