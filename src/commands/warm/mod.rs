//! `warm`: fills the cache for a list of customers with what Stigg says about them now, in a new or an emptied Redis.
//!
//! It does what an SDK does after a miss: see `fill`. Some threads fill customers, the main one records what became of each.

mod fill;

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use crossbeam_channel::{bounded, tick};
use indicatif::ProgressBar;

use self::fill::{ANSWER_WITHIN, FillError, Filled, Filler};
use super::output::{self, bar, printable};
use super::{CommandError, DONE, FAILED, Session, complain, open_lines, print, subject};
use crate::config::{CacheUpdatePolicy, Settings};
use crate::edge::EdgeClient;

/// What `warm` is asked.
#[derive(Debug, Args)]
pub struct WarmArgs {
    /// The file, a customer's id a line, or the customer's and, behind a tab, a resource's; - reads standard input.
    pub file: String,
    /// Calls of the Edge API a second, retries included.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rate: u32,
    /// Customers at the same time.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub parallel: u32,
    /// Retries after a failure that may pass (429, 5xx, no answer), with growing waits. Where the API says how long to
    /// wait (Retry-After), nobody calls for as long, two minutes at most.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=20))]
    pub retries: u32,
    /// File of what is done: what is in it is skipped, and what is done is added. With it, a run that was interrupted
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
    let session = Session::open(settings, access, args.parallel)?;
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
            let spawned = thread::Builder::new()
                .name(format!("warm-{number}"))
                .spawn_scoped(scope, fill);
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
        Ok(Self {
            done_before,
            state,
            failed,
            tally,
            bar,
        })
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
