//! `warm`: fills the cache of a list of customers with what Stigg says of them now: for a new or an emptied Redis.
//!
//! It does what an SDK does after a miss, so that it is as safe: it holds the readers' lock of a refetch from before it
//! asks until it has written, for which readers and the service wait, and newer wins. See `fill`.

mod fill;

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use clap::Args;
use indicatif::ProgressBar;

use self::fill::{Filled, Filler, NotFilled, Pace};
use super::{DONE, FAILED, Opened, complain, lines, print, terminal};
use crate::config::Settings;
use crate::edge::EdgeClient;
use crate::entitlement::{CustomerId, ResourceId, Subject};

/// What `warm` is asked.
#[derive(Debug, Args)]
pub struct WarmArgs {
    /// The file, a customer's id a line, or the customer's and, behind a tab, a resource's; `-` reads standard input.
    pub file: String,
    /// Calls of the Edge API a second, tries again included.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rate: u32,
    /// Customers at the same time.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub parallel: u32,
    /// Tries again after a failure that may pass (429, 5xx, no answer), with growing waits; where the API
    /// says how long to wait (`Retry-After`), nobody calls for as long, two minutes at most.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=20))]
    pub retries: u32,
    /// File of what is done: what stands in it is skipped, and what is done is added. With it, a run that was cut short
    /// goes on where it was.
    #[arg(long, value_name = "PATH")]
    pub state: Option<String>,
    /// File for the lines that failed, to be given to another run.
    #[arg(long, value_name = "PATH")]
    pub failed: Option<String>,
}

#[derive(Debug, Default)]
struct Tally {
    done_before: u64,
    filled: u64,
    newer: u64,
    unknown: u64,
    purged: u64,
    failed: u64,
}

/// What the threads share.
struct Run<'a> {
    filler: Filler<'a>,
    input: Mutex<Box<dyn Iterator<Item = std::io::Result<Vec<u8>>> + Send>>,
    done_before: HashSet<String>,
    state: Mutex<Option<File>>,
    failures: Mutex<Option<File>>,
    tally: Mutex<Tally>,
    /// Why nothing more can be done.
    given_up: Mutex<Option<String>>,
    bar: ProgressBar,
}

pub(super) fn run(settings: &Settings, args: &WarmArgs) -> u8 {
    let (opened, edge) = match Opened::for_a_fill(settings, args.parallel) {
        Ok(opened) => opened,
        Err(status) => return status,
    };
    let edge = EdgeClient::for_many(
        edge.url,
        edge.key,
        opened.access.proxy.clone(),
        args.parallel as usize,
        fill::ANSWER_WITHIN,
    );
    let filler = Filler {
        store: &opened.store,
        edge: &edge,
        layout: opened.layout(),
        retries: args.retries,
        pace: Pace::new(args.rate),
    };
    let run = match prepare(filler, args) {
        Ok(run) => run,
        Err(error) => {
            complain(error);
            return FAILED;
        }
    };
    thread::scope(|scope| {
        for number in 0..args.parallel {
            let filler = thread::Builder::new()
                .name(format!("warm-{number}"))
                .spawn_scoped(scope, || run.work());
            if let Err(error) = filler {
                run.give_up(format!(
                    "cannot start a thread: {error}; raise the limit of threads, or lower --parallel"
                ));
            }
        }
    });
    run.bar.finish_and_clear();
    run.end(args)
}

fn prepare<'a>(filler: Filler<'a>, args: &WarmArgs) -> Result<Run<'a>, String> {
    let cannot = |what: &str, path: &str, error: std::io::Error| {
        format!("cannot {what} {path}: {error}; check the path and its permissions")
    };
    let (input, total) = lines::open(&args.file).map_err(|error| cannot("read", &args.file, error))?;
    let written = [args.state.as_deref(), args.failed.as_deref()];
    let list = Some(args.file.as_str());
    for (one, other) in [(list, written[0]), (list, written[1]), (written[0], written[1])] {
        if let (Some(one), Some(other)) = (one, other)
            && is_same_file(one, other)
        {
            return Err(format!(
                "{other} would be read and written at once, and its content lost; name a file for each of the list, \
                 --state and --failed"
            ));
        }
    }
    let mut done_before = HashSet::new();
    let mut state = None;
    if let Some(path) = &args.state {
        let file = File::options().read(true).append(true).create(true).open(path);
        let file = file.map_err(|error| cannot("open", path, error))?;
        for line in BufReader::new(&file).lines() {
            done_before.insert(line.map_err(|error| cannot("read", path, error))?);
        }
        state = Some(file);
    }
    let failures = args
        .failed
        .as_ref()
        .map(|path| File::create(path).map_err(|error| cannot("write", path, error)))
        .transpose()?;
    Ok(Run {
        filler,
        input: Mutex::new(Box::new(input.split(b'\n'))),
        done_before,
        state: Mutex::new(state),
        failures: Mutex::new(failures),
        tally: Mutex::default(),
        given_up: Mutex::default(),
        bar: terminal::bar(total, "customers"),
    })
}

/// Both lead to one file.
fn is_same_file(one: &str, other: &str) -> bool {
    let of = |path| std::fs::metadata(path).map(|of| (of.dev(), of.ino())).ok();
    one == other || of(one).is_some_and(|one| of(other) == Some(one))
}

impl Run<'_> {
    fn work(&self) {
        while locked(&self.given_up).is_none() {
            let Some(line) = locked(&self.input).next() else {
                return;
            };
            match line {
                Ok(line) => self.line(&line),
                Err(error) => self.give_up(format!("cannot read on: {error}")),
            }
            self.bar.inc(1);
        }
    }

    fn line(&self, line: &[u8]) {
        let Ok(line) = std::str::from_utf8(line) else {
            self.failed(&String::from_utf8_lossy(line), "it is not UTF-8");
            return;
        };
        // Editors of Windows put a byte order mark before the first line.
        let line = line.trim_start_matches('\u{feff}').trim_end_matches('\r');
        if line.trim().is_empty() {
            return;
        }
        if self.done_before.contains(line) {
            locked(&self.tally).done_before += 1;
            return;
        }
        let subject = match line.split_once('\t') {
            None => Some((line, None)),
            Some((customer, resource)) if !customer.is_empty() && !resource.is_empty() => {
                Some((customer, Some(resource)))
            }
            Some(_) => None,
        };
        let Some((customer, resource)) = subject else {
            self.failed(
                line,
                "it is no customer's id, and no two ids with a tab in between",
            );
            return;
        };
        let subject = Subject {
            customer: CustomerId(customer.to_owned()),
            resource: resource.map(|id| ResourceId(id.to_owned())),
        };
        match self.filler.fill(&subject) {
            Ok(filled) => self.done(line, filled),
            Err(NotFilled::This(why)) => self.failed(line, &why),
            Err(NotFilled::Any(why)) => self.give_up(why),
        }
    }

    fn done(&self, line: &str, filled: Filled) {
        let mut tally = locked(&self.tally);
        *match filled {
            Filled::Written => &mut tally.filled,
            Filled::NewerIsStored => &mut tally.newer,
            Filled::NothingKnown => &mut tally.unknown,
            Filled::PurgedMeanwhile => &mut tally.purged,
        } += 1;
        drop(tally);
        self.note(&self.state, line);
    }

    fn failed(&self, line: &str, why: &str) {
        locked(&self.tally).failed += 1;
        self.note(&self.failures, line);
        let shown = line.replace('\t', ", resource ");
        self.bar.suspend(|| complain(format!("{shown}: {why}")));
    }

    /// A line more in a file, at once: the next moment may be the last.
    fn note(&self, file: &Mutex<Option<File>>, line: &str) {
        let mut file = locked(file);
        if let Some(open) = file.as_mut()
            && let Err(error) = open.write_all(format!("{line}\n").as_bytes())
        {
            *file = None;
            drop(file);
            self.give_up(format!(
                "cannot note what is done or failed: {error}; is the disk full?"
            ));
        }
    }

    fn give_up(&self, why: String) {
        locked(&self.given_up).get_or_insert(why);
    }

    fn end(&self, args: &WarmArgs) -> u8 {
        let tally = locked(&self.tally);
        let mut text = format!("{} filled\n", tally.filled);
        for (count, what) in [
            (tally.newer, "left, as newer entries are stored"),
            (tally.unknown, "left, as Stigg knows no entitlements of them"),
            (tally.purged, "left, as they were purged meanwhile"),
            (tally.done_before, "skipped, as an earlier run did them"),
            (tally.failed, "failed"),
        ] {
            if count > 0 {
                text.push_str(&count.to_string());
                text.push(' ');
                text.push_str(what);
                text.push('\n');
            }
        }
        print(&text);
        if let Some(why) = locked(&self.given_up).as_ref() {
            let again = if args.state.is_some() {
                "run it again to go on"
            } else {
                "run it again (--state keeps what is done)"
            };
            complain(format!("gave up: {why}; {again}"));
            return FAILED;
        }
        if tally.failed > 0 { FAILED } else { DONE }
    }
}

/// No thread panics while it holds one of these; even then the data would be valid.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
