//! `warm`: fills the cache for a list of customers with what Stigg says about them now, in a new or an emptied Redis.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;

use clap::Args;
use indicatif::ProgressBar;

use super::output::{Counted, Tally, bar};
use super::session::{EdgeCalls, Listed, NO_SUBJECT, counted, in_parallel, lock, open_subjects};
use super::{CommandError, DONE, FAILED, Pace, Session, print};
use crate::config::Settings;
use crate::refetch::{RefetchError, Refetcher};
use crate::store::Outcome;

/// The arguments of `warm`.
#[derive(Debug, Args)]
pub struct WarmArgs {
    /// File with a customer's id on each line, or a customer's and, after a tab, a resource's; - reads standard input.
    pub file: String,
    #[command(flatten)]
    pub calls: EdgeCalls,
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
    let (session, edge) = Session::open_with_edge(settings)?;
    let (input, total) = open_subjects(&args.file)?;
    let (done_before, record) = Record::open(args)?;
    let warm = Warm {
        refetcher: Refetcher { store: &session.store, layout: &session.layout, edge: &edge },
        pace: Pace::new(args.calls.rate, args.calls.retries),
        done_before,
        record: Mutex::new(record),
        bar: bar(total, "customers"),
    };
    let input = Mutex::new(input);
    let ended = in_parallel(args.calls.parallel, || lock(&input).next(), |listed| warm.line(listed?));
    warm.bar.finish_and_clear();
    let tally = &lock(&warm.record).tally;
    print(tally.summary())?;
    if let Err(why) = ended {
        let again = "run it again to continue (with --state, it skips what is done)";
        return Err(CommandError::Failed(format!("gave up: {why}; {again}")));
    }
    Ok(if tally.has(NOT_FILLED) { FAILED } else { DONE })
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
    fn line(&self, (text, subject): Listed) -> Result<(), CommandError> {
        self.bar.inc(1);
        let result = if self.done_before.contains(&text) {
            Ok(DONE_BEFORE)
        } else if let Some(subject) = subject {
            self.pace.call(|| self.refetcher.refetch(&subject)).map(|outcome| match outcome {
                None => (2, "left, as Stigg has no entitlements for them"),
                Some(Outcome::PurgedLater) => (3, "left, as they were purged meanwhile"),
                Some(Outcome::Applied { written: 0, .. }) => (1, "left, as newer entries are stored"),
                Some(_) => FILLED,
            })
        } else {
            Err(RefetchError::Customer(NO_SUBJECT.to_owned()))
        };
        let counted = counted(result, NOT_FILLED, &text, &self.bar)?;
        let cannot = "cannot record what is done or failed; is the disk full?";
        let recorded = lock(&self.record).add(&text, counted);
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
