//! `warm`: fills the cache for a list of customers with what Stigg says about them now, in a new or an emptied Redis.
//!
//! It does what an SDK does after a miss: it asks Stigg and writes the answer, with the readers' refetch lock held meanwhile.
//! Without the lock a message could come between answer and write, be skipped because its customer is not cached yet
//! (`UPDATE_IF_EXISTS`), and leave the older answer in place. The service waits for the lock for as long as an SDK may
//! hold it, so an answer that took longer is discarded. An SDK that misses meanwhile waits to be notified, and is.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use crossbeam_channel::{Receiver, bounded, tick};
use indicatif::ProgressBar;

use super::output::{self, bar};
use super::{CommandError, DONE, FAILED, Session, complain, open_lines, print, subject};
use crate::backoff::Backoff;
use crate::cache::{CacheChange, changes};
use crate::clock;
use crate::clock::EpochMs;
use crate::config::{CacheUpdatePolicy, Settings};
use crate::edge::{EdgeClient, EdgeError, EdgeErrorKind};
use crate::entitlement::Subject;
use crate::http_client::HttpErrorKind;
use crate::log::printable;
use crate::message::{self, Event};
use crate::pipeline::worker::LOCKED_RETRY_MIN;
use crate::shutdown::Stop;
use crate::store::{CacheStore, LockPatience, Outcome, StoreError, WRITE_LOCK_MAX};

/// How long the Edge API may take: what it answers has to be written before the lock expires.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// An answer that came later than this after the lock was taken is discarded.
const WRITE_WITHIN: Duration = Duration::from_secs(4);
/// How long calls pause at most because the Edge API asks for it. A customer who would need more fails.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(2);
/// The time of a state that has none: 1 ms after the far-past marker that readers write for an empty list. Anything newer
/// stays, and any message replaces it; the marker itself would overwrite whatever is stored.
const NO_TIME: EpochMs = EpochMs(1);

/// What `warm` is asked.
#[derive(Debug, Args)]
pub struct WarmArgs {
    /// File with a customer's id on each line, or a customer's and, after a tab, a resource's; - reads standard input.
    pub file: String,
    /// Calls to the Edge API per second, retries included.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rate: u32,
    /// Customers that are filled at the same time.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub parallel: u32,
    /// Retries after a failure that may pass (429, 5xx, no answer), with growing waits. Where the API says how long to
    /// wait (Retry-After), all calls pause for as long, two minutes at most.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=20))]
    pub retries: u32,
    /// File that records finished lines: lines in it are skipped, and finished ones are added. With it, an interrupted run
    /// can be continued.
    #[arg(long, value_name = "PATH")]
    pub state: Option<String>,
    /// File for the lines that failed, which another run can read.
    #[arg(long, value_name = "PATH")]
    pub failed: Option<String>,
}

pub(super) fn run(settings: &Settings, args: &WarmArgs) -> Result<u8, CommandError> {
    let (mut access, edge) = settings.cache_and_edge_access()?;
    let proxy = access.proxy.clone();
    access.policy = CacheUpdatePolicy::Upsert; // whatever the policy for messages is
    let session = Session::open(settings, access)?;
    let edge = EdgeClient::for_many(edge.url, edge.key, proxy, args.parallel as usize, ANSWER_WITHIN);
    let filler = Filler {
        session: &session,
        edge: &edge,
        retries: args.retries,
        turns: tick(Duration::from_secs(1) / args.rate),
        paused_until: Mutex::new(Instant::now()),
    };
    let (input, total) = open_lines(&args.file)?;
    let mut record = Record::open(args, total)?;
    let done_before = std::mem::take(&mut record.done_before);
    let input = Mutex::new(input.split(b'\n'));
    let next = || input.lock().unwrap_or_else(PoisonError::into_inner).next();
    let ended = thread::scope(|scope| {
        // Without a buffer: once the record gives up, a thread makes one more call at most.
        let (sender, results) = bounded(0);
        for number in 0..args.parallel {
            let (sender, next, filler, done_before) = (sender.clone(), &next, &filler, &done_before);
            let fill = move || {
                while let Some(line) = next() {
                    let result = line.map(|line| fill_line(filler, done_before, &line));
                    if sender.send(result).is_err() {
                        return;
                    }
                }
            };
            let spawned = thread::Builder::new().name(format!("warm-{number}")).spawn_scoped(scope, fill);
            let cannot = "cannot start a thread; raise the limit of threads, or lower --parallel";
            spawned.map_err(|error| CommandError::Failed(format!("{cannot}: {error}")))?;
        }
        drop(sender);
        results.into_iter().try_for_each(|result| {
            let result = result.map_err(|error| CommandError::of_file("read on in", &args.file, &error));
            result.and_then(|(line, result)| record.add(&line, result))
        })
    });
    record.bar.finish_and_clear();
    let counts: Vec<(u64, &str)> = record.tally.into_iter().zip(TALLY).collect();
    print(output::counts(&counts))?;
    ended.map_err(|why| {
        let again = "run it again to go on (--state keeps what is done)";
        CommandError::Failed(format!("gave up: {why}; {again}"))
    })?;
    let failed = record.tally[FAILED_LINES];
    Ok(if failed == 0 { DONE } else { FAILED })
}

/// The line without what editors add, and what became of it; `None` if it is blank.
fn fill_line(
    filler: &Filler<'_>,
    done_before: &HashSet<String>,
    line: &[u8],
) -> (String, Option<Result<Filled, FillError>>) {
    let text = String::from_utf8_lossy(line);
    // Editors on Windows put a byte order mark before the first line.
    let text = text.trim_start_matches('\u{feff}').trim_end_matches('\r');
    let bad = |why: &str| Some(Err(FillError::Customer(why.to_owned())));
    let result = match text.split_once('\t') {
        _ if str::from_utf8(line).is_err() => bad("it is not UTF-8"),
        _ if text.trim().is_empty() => None,
        _ if done_before.contains(text) => Some(Ok(Filled::Before)),
        Some((customer, resource)) if customer.is_empty() || resource.is_empty() => {
            bad("it is no customer's id, and no two ids with a tab in between")
        }
        Some((customer, resource)) => Some(filler.fill(&subject(customer, Some(resource)))),
        None => Some(filler.fill(&subject(text, None))),
    };
    (text.to_owned(), result)
}

/// By [`Filled`], and then the lines that failed.
const TALLY: [&str; 6] = [
    "filled",
    "left, as newer entries are stored",
    "left, as Stigg knows no entitlements of them",
    "left, as they were purged meanwhile",
    "skipped, as an earlier run did them",
    "failed",
];
const FAILED_LINES: usize = TALLY.len() - 1;

/// Where it is recorded what became of each line.
struct Record {
    done_before: HashSet<String>,
    state: Option<File>,
    failed: Option<File>,
    tally: [u64; TALLY.len()],
    bar: ProgressBar,
}

impl Record {
    fn open(args: &WarmArgs, total: Option<u64>) -> Result<Self, CommandError> {
        let open = |path: &String| {
            let file = File::options().read(true).append(true).create(true).open(path);
            file.map_err(|error| CommandError::of_file("open", path, &error))
        };
        let list = File::open(&args.file).ok();
        let state = args.state.as_ref().map(open).transpose()?;
        let failed = args.failed.as_ref().map(open).transpose()?;
        let mut ids = HashSet::new();
        for file in [&list, &state, &failed].into_iter().flatten() {
            let is_another = file.metadata().map(|file| ids.insert((file.dev(), file.ino())));
            if matches!(is_another, Ok(false)) {
                let why = "--state and --failed must be different files, or content is lost";
                return Err(CommandError::Failed(format!("the list {}, {why}", args.file)));
            }
        }
        let lines = state.iter().flat_map(|file| BufReader::new(file).lines());
        let path = args.state.as_deref().unwrap_or_default();
        let unread = |error| CommandError::of_file("read", path, &error);
        let done_before = lines.collect::<io::Result<_>>().map_err(unread)?;
        let _ = failed.as_ref().map(|file| file.set_len(0)); // a pipe has no length
        let (tally, bar) = ([0; TALLY.len()], bar(total, "customers"));
        Ok(Self { done_before, state, failed, tally, bar })
    }

    fn add(&mut self, line: &str, result: Option<Result<Filled, FillError>>) -> Result<(), CommandError> {
        self.bar.inc(1);
        let (index, file) = match result {
            None => return Ok(()),
            Some(Ok(Filled::Before)) => (Filled::Before as usize, None),
            Some(Ok(filled)) => (filled as usize, self.state.as_mut()),
            Some(Err(FillError::Everyone(why))) => return Err(CommandError::Failed(why)),
            Some(Err(FillError::Customer(why) | FillError::Retryable(why, _))) => {
                let line = printable(&line.replace('\t', ", resource "));
                self.bar.suspend(|| complain(format!("{line}: {why}")));
                (FAILED_LINES, self.failed.as_mut())
            }
        };
        self.tally[index] += 1;
        // At once: the next moment may be the last.
        let written = file.map_or(Ok(()), |file| file.write_all(format!("{line}\n").as_bytes()));
        let cannot = "cannot record what is done or failed; is the disk full?";
        written.map_err(|error| CommandError::Failed(format!("{cannot} {error}")))
    }
}

/// What became of a customer.
#[derive(Debug, Clone, Copy)]
enum Filled {
    Written,
    NewerIsStored,
    /// Stigg knows neither entitlements nor a reason why there are none: the next reader has to ask.
    NothingKnown,
    /// A purge came while Stigg was asked.
    PurgedMeanwhile,
    /// An earlier run filled it.
    Before,
}

/// Why a customer was not filled.
#[derive(Debug)]
enum FillError {
    /// It may pass. The Edge API asked for this pause.
    Retryable(String, Option<Duration>),
    /// It is this customer's own.
    Customer(String),
    /// The other customers would fail for the same reason.
    Everyone(String),
}

impl From<StoreError> for FillError {
    fn from(error: StoreError) -> Self {
        Self::Everyone(error.message)
    }
}

impl From<EdgeError> for FillError {
    fn from(error: EdgeError) -> Self {
        use EdgeErrorKind::{ApiKeyInvalid, ApiKeyUnreadable, NoUrl, Status, Unanswered, UnexpectedAnswer};
        use HttpErrorKind::{Connection, ConnectionRefused, HostNotFound, Timeout};
        match error.kind {
            Status(401 | 403) | ApiKeyUnreadable | ApiKeyInvalid => Self::Everyone(error.message),
            Status(429 | 500..) | Unanswered(Timeout | HostNotFound | ConnectionRefused | Connection) => {
                Self::Retryable(error.message, error.retry_after)
            }
            Status(_) | UnexpectedAnswer | NoUrl | Unanswered(_) => Self::Customer(error.message),
        }
    }
}

struct Filler<'a> {
    session: &'a Session,
    edge: &'a EdgeClient,
    retries: u32,
    /// One for each call, of whichever thread.
    turns: Receiver<Instant>,
    /// No calls before this.
    paused_until: Mutex<Instant>,
}

impl Filler<'_> {
    fn fill(&self, subject: &Subject) -> Result<Filled, FillError> {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        let mut tries = 1;
        loop {
            match self.try_once(subject) {
                Err(FillError::Retryable(why, _)) if tries > self.retries => {
                    return Err(FillError::Customer(format!("{why} (tried {tries} times)")));
                }
                Err(FillError::Retryable(_, retry_after)) => {
                    let pause = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
                    let mut paused_until = self.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
                    *paused_until = (*paused_until).max(Instant::now() + pause);
                    drop(paused_until);
                    Stop::never().wait(backoff.next_wait(fastrand::f64()));
                    tries += 1;
                }
                ended => return ended,
            }
        }
    }

    fn wait_for_turn(&self) {
        let paused_until = *self.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
        Stop::never().wait(paused_until.saturating_duration_since(Instant::now()));
        let _ = self.turns.recv(); // they never end
    }

    fn try_once(&self, subject: &Subject) -> Result<Filled, FillError> {
        self.wait_for_turn();
        let Session { store, layout, .. } = self.session;
        let keyspace = &layout.keyspace;
        let lock = keyspace.refetch_lock(subject);
        let token = format!("warm-{:x}", fastrand::u128(..));
        let locked_at = self.take(&lock, &token)?;
        let filled = self.ask_and_write(subject, locked_at);
        if let Err(error) = store.release_lock(&lock, &token) {
            log::debug!(err:% = error; "a refetch lock was not released: it expires");
        }
        if matches!(filled, Ok(Filled::Written | Filled::NewerIsStored)) {
            store.publish_refetched(&keyspace.refetch_channel(subject));
        }
        filled
    }

    /// Takes the lock, and returns when that was; waits for a reader that holds it, which is filling this very customer.
    fn take(&self, lock: &str, token: &str) -> Result<Instant, FillError> {
        let began = Instant::now();
        while began.elapsed() <= WRITE_LOCK_MAX {
            let locked_at = Instant::now();
            if self.session.store.take_lock(lock, token, WRITE_LOCK_MAX)? {
                return Ok(locked_at);
            }
            Stop::never().wait(LOCKED_RETRY_MIN);
        }
        let why = "an SDK holds the lock of a refetch all the time";
        Err(FillError::Retryable(why.to_owned(), None))
    }

    fn ask_and_write(&self, subject: &Subject, locked_at: Instant) -> Result<Filled, FillError> {
        // A purge that is sent from now on makes the answer out of date.
        let asked_at = clock::now();
        let body = self.edge.entitlements_state(subject)?;
        let message = message::decode_answer(&body, asked_at, NO_TIME).map_err(|fault| {
            FillError::Customer(format!("cannot read the Edge API's answer: {fault}; report it"))
        })?;
        if !matches!(message.event, Event::EntitlementsUpdated(_)) {
            return Ok(Filled::NothingKnown);
        }
        for mut change in changes(message, &self.session.layout) {
            if let CacheChange::WriteEntitlements(write) = &mut change {
                (write.sent_at, write.is_from_edge_api) = (asked_at, true);
            }
            let outcome = self.write(&change, locked_at)?;
            if outcome == Outcome::PurgedLater {
                return Ok(Filled::PurgedMeanwhile);
            } else if let Outcome::Applied { written: 0, .. } = outcome {
                return Ok(Filled::NewerIsStored);
            }
        }
        Ok(Filled::Written)
    }

    fn write(&self, change: &CacheChange, locked_at: Instant) -> Result<Outcome, FillError> {
        let attempt = [(change, LockPatience::OWN_REFETCH)];
        while locked_at.elapsed() <= WRITE_WITHIN {
            match self.session.store.apply(&attempt, &|| true)?.remove(0) {
                Ok(Outcome::Locked) => _ = Stop::never().wait(LOCKED_RETRY_MIN),
                outcome => return outcome.map_err(|error| FillError::Customer(error.message)),
            }
        }
        let why = "the answer came too late to be written while the lock was held";
        Err(FillError::Retryable(why.to_owned(), None))
    }
}
