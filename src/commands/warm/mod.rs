//! `warm`: fills the cache for a list of customers with what Stigg says about them now, in a new or an emptied Redis.
//!
//! It does what an SDK does after a miss: see `fill`. One thread reads the list, some fill customers, and the main thread
//! records what became of each.

mod fill;

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::thread::{self, Scope};

use clap::Args;
use crossbeam_channel::bounded;
use indicatif::ProgressBar;

use self::fill::{ANSWER_WITHIN, FillError, Filled, Filler, Pace};
use super::output::{bar, counts, printable};
use super::{CommandError, DONE, FAILED, Session, complain, open_lines, print};
use crate::config::{CacheUpdatePolicy, Settings};
use crate::edge::EdgeClient;
use crate::entitlement::{CustomerId, ResourceId, Subject};

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
        store: &session.store,
        edge: &edge,
        layout: &session.layout,
        retries: args.retries,
        pace: Pace::new(args.rate),
    };
    let (input, total) = open_lines(&args.file)?;
    let (mut record, done_before) = Record::open(args, total)?;
    let ended = thread::scope(|scope| {
        // Without buffers: when the record gives up, nobody calls more than once again.
        let (lines_sender, lines) = bounded::<io::Result<Vec<u8>>>(0);
        let (results_sender, results) = bounded(0);
        let read = move || {
            for line in input.split(b'\n') {
                if lines_sender.send(line).is_err() {
                    return;
                }
            }
        };
        spawn(scope, "warm-reader".to_owned(), read)?;
        for number in 0..args.parallel {
            let (lines, results_sender) = (lines.clone(), results_sender.clone());
            let (filler, done_before) = (&filler, &done_before);
            let fill = move || {
                for line in lines {
                    let result = line.map(|line| fill_line(filler, done_before, &line));
                    if results_sender.send(result).is_err() {
                        return;
                    }
                }
            };
            spawn(scope, format!("warm-{number}"), fill)?;
        }
        drop((lines, results_sender));
        results.into_iter().try_for_each(|result| match result {
            Ok((line, result)) => record.add(&line, result),
            Err(error) => Err(CommandError::file("read on in", &args.file, error)),
        })
    });
    record.bar.finish_and_clear();
    print(record.tally.summary())?;
    ended.map_err(|why| {
        let again = match &args.state {
            Some(_) => "run it again to go on",
            None => "run it again (--state keeps what is done)",
        };
        CommandError::Failed(format!("gave up: {why}; {again}"))
    })?;
    Ok(if record.tally.failed == 0 { DONE } else { FAILED })
}

fn spawn<'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: String,
    run: impl FnOnce() + Send + 'scope,
) -> Result<(), CommandError> {
    let spawned = thread::Builder::new().name(name).spawn_scoped(scope, run);
    spawned.map(|_| ()).map_err(|error| {
        CommandError::Failed(format!(
            "cannot start a thread: {error}; raise the limit of threads, or lower --parallel"
        ))
    })
}

/// What became of a line.
enum Done {
    Blank,
    Before,
    Now(Filled),
}

fn fill_line(
    filler: &Filler<'_>,
    done_before: &HashSet<String>,
    line: &[u8],
) -> (String, Result<Done, FillError>) {
    let text = String::from_utf8_lossy(line);
    // Editors on Windows put a byte order mark before the first line.
    let text = text.trim_start_matches('\u{feff}').trim_end_matches('\r');
    let (customer, resource) = text
        .split_once('\t')
        .map_or((text, None), |(customer, id)| (customer, Some(id)));
    let result = if str::from_utf8(line).is_err() {
        Err(FillError::Customer("it is not UTF-8".to_owned()))
    } else if text.trim().is_empty() {
        Ok(Done::Blank)
    } else if done_before.contains(text) {
        Ok(Done::Before)
    } else if customer.is_empty() || resource == Some("") {
        let why = "it is no customer's id, and no two ids with a tab in between";
        Err(FillError::Customer(why.to_owned()))
    } else {
        let subject = Subject {
            customer: CustomerId(customer.to_owned()),
            resource: resource.map(|id| ResourceId(id.to_owned())),
        };
        filler.fill(&subject).map(Done::Now)
    };
    (text.to_owned(), result)
}

/// Where it is recorded what became of each line.
struct Record {
    state: Option<File>,
    failed: Option<File>,
    tally: Tally,
    bar: ProgressBar,
}

#[derive(Debug, Default)]
struct Tally {
    filled: u64,
    newer: u64,
    unknown: u64,
    purged: u64,
    done_before: u64,
    failed: u64,
}

impl Record {
    /// Opens the files; also returns the lines that an earlier run has done.
    fn open(args: &WarmArgs, total: Option<u64>) -> Result<(Self, HashSet<String>), CommandError> {
        let paths = [Some(&args.file), args.state.as_ref(), args.failed.as_ref()];
        let paths: Vec<&String> = paths.into_iter().flatten().collect();
        for (index, path) in paths.iter().enumerate() {
            if paths[..index].iter().any(|other| is_same_file(other, path)) {
                return Err(CommandError::Failed(format!(
                    "{path} would be read and written at once, and its content lost; name a different file for the list, \
                     --state and --failed"
                )));
            }
        }
        let mut done_before = HashSet::new();
        let mut state = None;
        if let Some(path) = &args.state {
            let failed = |error| CommandError::file("open", path, error);
            let options = File::options().read(true).append(true).create(true).clone();
            let file = options.open(path).map_err(failed)?;
            for line in BufReader::new(&file).lines() {
                done_before.insert(line.map_err(failed)?);
            }
            state = Some(file);
        }
        let create = |path| File::create(path).map_err(|error| CommandError::file("write", path, error));
        let record = Self {
            state,
            failed: args.failed.as_deref().map(create).transpose()?,
            tally: Tally::default(),
            bar: bar(total, "customers"),
        };
        Ok((record, done_before))
    }

    fn add(&mut self, line: &str, result: Result<Done, FillError>) -> Result<(), CommandError> {
        self.bar.inc(1);
        let tally = &mut self.tally;
        let (count, file) = match result {
            Ok(Done::Blank) => return Ok(()),
            Ok(Done::Before) => (&mut tally.done_before, &mut None),
            Ok(Done::Now(Filled::Written)) => (&mut tally.filled, &mut self.state),
            Ok(Done::Now(Filled::NewerIsStored)) => (&mut tally.newer, &mut self.state),
            Ok(Done::Now(Filled::NothingKnown)) => (&mut tally.unknown, &mut self.state),
            Ok(Done::Now(Filled::PurgedMeanwhile)) => (&mut tally.purged, &mut self.state),
            Err(FillError::Everyone(why)) => return Err(CommandError::Failed(why)),
            Err(error) => {
                let line = printable(&line.replace('\t', ", resource "));
                self.bar.suspend(|| complain(format!("{line}: {error}")));
                (&mut tally.failed, &mut self.failed)
            }
        };
        *count += 1;
        // At once: the next moment may be the last.
        let written = file
            .as_mut()
            .map(|file| file.write_all(format!("{line}\n").as_bytes()));
        written.transpose().map(|_| ()).map_err(|error| {
            CommandError::Failed(format!(
                "cannot record what is done or failed: {error}; is the disk full?"
            ))
        })
    }
}

impl Tally {
    fn summary(&self) -> String {
        let rest = counts(&[
            (self.newer, "left, as newer entries are stored"),
            (self.unknown, "left, as Stigg knows no entitlements of them"),
            (self.purged, "left, as they were purged meanwhile"),
            (self.done_before, "skipped, as an earlier run did them"),
            (self.failed, "failed"),
        ]);
        format!("{} filled\n{rest}", self.filled)
    }
}

fn is_same_file(one: &str, other: &str) -> bool {
    let id = |path| std::fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    one == other || id(one).is_some_and(|one| id(other) == Some(one))
}
