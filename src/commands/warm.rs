//! `warm`: fills the cache for a list of customers with what Stigg says about them now, in a new or an emptied Redis.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

use clap::Args;
use indicatif::ProgressBar;

use super::output::{Counted, Tally, bar};
use super::{CommandError, DONE, FAILED, Pace, Session, complain, open_lines, print, subject};
use crate::config::{CacheUpdatePolicy, Settings};
use crate::edge::EdgeClient;
use crate::log::printable;
use crate::refetch::{RefetchError, Refetcher};
use crate::store::Outcome;

/// The arguments of `warm`.
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
    /// wait (Retry-After), all calls pause that long, two minutes at most.
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

const FILLED: Counted = (0, "filled");
const DONE_BEFORE: Counted = (4, "skipped, as an earlier run did them");
const NOT_FILLED: Counted = (5, "failed");

pub(super) fn run(settings: &Settings, args: &WarmArgs) -> Result<u8, CommandError> {
    let (mut access, edge) = settings.cache_and_edge_access()?;
    let edge = EdgeClient::new(edge.url, edge.key, access.proxy.clone());
    access.policy = CacheUpdatePolicy::Upsert; // whatever the policy for messages is
    let session = Session::open(settings, access)?;
    let (input, total) = open_lines(&args.file)?;
    let (done_before, record) = Record::open(args)?;
    let warm = Warm {
        refetcher: Refetcher { store: &session.store, layout: &session.layout, edge: &edge },
        pace: Pace::new(args.rate, args.retries),
        done_before,
        record: Mutex::new(record),
        bar: bar(total, "customers"),
    };
    let input = Mutex::new(input.split(b'\n'));
    let next = || lock(&input).next();
    let gave_up = OnceLock::new();
    let work = || {
        while gave_up.get().is_none()
            && let Some(line) = next()
        {
            let line = line.map_err(|error| CommandError::of_file("read on in", &args.file, &error));
            if let Err(why) = line.and_then(|line| warm.line(&line)) {
                let _ = gave_up.set(why); // another thread may have been first
            }
        }
    };
    thread::scope(|scope| {
        for number in 1..args.parallel {
            // With fewer threads it only takes longer.
            let _ = thread::Builder::new().name(format!("warm-{number}")).spawn_scoped(scope, work);
        }
        work();
    });
    warm.bar.finish_and_clear();
    let tally = &lock(&warm.record).tally;
    print(tally.summary())?;
    if let Some(why) = gave_up.into_inner() {
        let again = "run it again to continue (with --state, it skips what is done)";
        return Err(CommandError::Failed(format!("gave up: {why}; {again}")));
    }
    Ok(if tally.has(NOT_FILLED) { FAILED } else { DONE })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Warm<'a> {
    refetcher: Refetcher<'a>,
    pace: Pace,
    /// Lines that an earlier run recorded.
    done_before: HashSet<String>,
    record: Mutex<Record>,
    bar: ProgressBar,
}

impl Warm<'_> {
    /// Fills the customer that this line names. An error ends the run.
    fn line(&self, line: &[u8]) -> Result<(), CommandError> {
        self.bar.inc(1);
        let text = String::from_utf8_lossy(line);
        // Editors on Windows put a byte order mark before the first line.
        let text = text.trim_start_matches('\u{feff}').trim_end_matches('\r');
        if text.trim().is_empty() {
            return Ok(());
        }
        let (customer, resource) = text.split_once('\t').unzip();
        let customer = customer.unwrap_or(text);
        let result = if self.done_before.contains(text) {
            Ok(DONE_BEFORE)
        } else if str::from_utf8(line).is_err() || customer.is_empty() || resource == Some("") {
            let why = "it is neither a customer's id in UTF-8 nor two ids with a tab in between";
            Err(RefetchError::Customer(why.to_owned()))
        } else {
            let subject = subject(customer, resource);
            self.pace.call(|| self.refetcher.refetch(&subject)).map(|outcome| match outcome {
                None => (2, "left, as Stigg has no entitlements for them"),
                Some(Outcome::PurgedLater) => (3, "left, as they were purged meanwhile"),
                Some(Outcome::Applied { written: 0, .. }) => (1, "left, as newer entries are stored"),
                Some(_) => FILLED,
            })
        };
        let counted = match result {
            Ok(counted) => counted,
            Err(RefetchError::Everyone(why)) => return Err(CommandError::Failed(why)),
            Err(RefetchError::Customer(why) | RefetchError::Retryable(why, _)) => {
                let line = printable(&text.replace('\t', ", resource "));
                self.bar.suspend(|| complain(format!("{line}: {why}")));
                NOT_FILLED
            }
        };
        let cannot = "cannot record what is done or failed; is the disk full?";
        let recorded = lock(&self.record).add(text, counted);
        recorded.map_err(|error| CommandError::Failed(format!("{cannot} {error}")))
    }
}

/// Records what became of each line.
struct Record {
    state: Option<File>,
    failed: Option<File>,
    tally: Tally,
}

impl Record {
    /// The record, and the lines in it already.
    fn open(args: &WarmArgs) -> Result<(HashSet<String>, Self), CommandError> {
        let open = |path: &String| {
            let file = File::options().read(true).append(true).create(true).open(path);
            file.map_err(|error| CommandError::of_file("open", path, &error))
        };
        let list = File::open(&args.file).ok();
        let state = args.state.as_ref().map(open).transpose()?;
        let failed = args.failed.as_ref().map(open).transpose()?;
        let mut ids = HashSet::new();
        let id = |file: &File| file.metadata().ok().map(|file| (file.dev(), file.ino()));
        let files = [&list, &state, &failed].into_iter().flatten();
        if !files.filter_map(id).all(|id| ids.insert(id)) {
            let why = "--state and --failed must be different files, or content is lost";
            return Err(CommandError::Failed(format!("the list {}, {why}", args.file)));
        }
        let lines = state.iter().flat_map(|file| BufReader::new(file).lines());
        let path = args.state.as_deref().unwrap_or_default();
        let unread = |error| CommandError::of_file("read", path, &error);
        let done_before = lines.collect::<io::Result<_>>().map_err(unread)?;
        let _ = failed.as_ref().map(|file| file.set_len(0)); // a pipe has no length
        Ok((done_before, Self { state, failed, tally: Tally::of(FILLED) }))
    }

    /// Writes at once: the process may end at any moment.
    fn add(&mut self, line: &str, what: Counted) -> io::Result<()> {
        self.tally.add(what, 1);
        let file = match what {
            DONE_BEFORE => None,
            NOT_FILLED => self.failed.as_mut(),
            _ => self.state.as_mut(),
        };
        file.map_or(Ok(()), |file| file.write_all(format!("{line}\n").as_bytes()))
    }
}
