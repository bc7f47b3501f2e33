//! `replay`: messages from a file go the way of messages from the queue: the same decoding, the same changes, the same
//! scripts. Applying a message again changes nothing, so a replay that was cut short is simply begun anew.

mod line;

use std::fmt::Write;
use std::io::BufRead;

use clap::Args;
use indicatif::ProgressBar;

use self::line::{Line, read};
use super::apply::Applier;
use super::{DONE, FAILED, Opened, complain, human, lines, print, terminal};
use crate::cache::{CacheChange, Layout, changes};
use crate::clock;
use crate::config::Settings;
use crate::message::{self, Event};
use crate::store::{DryRun, Outcome, StoreError};

/// Changes that go out together: enough to share round trips, few enough that a bar moves. A migration may have 90,000.
const CHANGES_TOGETHER: usize = 250;

/// What `replay` is asked.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The file, one JSON message a line; `-` reads standard input.
    pub file: String,
    /// Change nothing; print what each message would change.
    #[arg(long)]
    pub dry_run: bool,
}

/// What became of all of it.
#[derive(Debug, Default)]
struct Tally {
    lines: u64,
    written: u64,
    stale: u64,
    purges: u64,
    invalidations: u64,
    unlinked: u64,
    not_cached: u64,
    purged_later: u64,
    idle: u64,
    bad: u64,
}

pub(super) fn run(settings: &Settings, args: &ReplayArgs) -> u8 {
    let opened = match Opened::new(settings, 1) {
        Ok(opened) => opened,
        Err(status) => return status,
    };
    let (input, total) = match lines::open(&args.file) {
        Ok(input) => input,
        Err(error) => {
            complain(format!(
                "cannot read {}: {error}; check the path and its permissions",
                args.file
            ));
            return FAILED;
        }
    };
    let bar = terminal::bar(total, "messages");
    let mut replay = Replay {
        layout: opened.layout(),
        applier: Applier::new(&opened.store),
        opened: &opened,
        tally: Tally::default(),
        bar,
        is_dry: args.dry_run,
    };
    let ended = replay.all(input);
    replay.bar.finish_and_clear();
    print(&replay.tally.summary(args.dry_run));
    match ended {
        Ok(()) if replay.tally.bad == 0 => DONE,
        Ok(()) => FAILED,
        Err(error) => {
            complain(error);
            FAILED
        }
    }
}

struct Replay<'a> {
    layout: Layout,
    applier: Applier<'a>,
    opened: &'a Opened,
    tally: Tally,
    bar: ProgressBar,
    is_dry: bool,
}

/// Changes that wait to go out, each with the number of its line.
type Waiting = Vec<(u64, CacheChange)>;

impl Replay<'_> {
    fn all(&mut self, input: impl BufRead) -> Result<(), String> {
        let mut waiting = Waiting::new();
        for (number, line) in (1..).zip(input.split(b'\n')) {
            let line = match line {
                Ok(line) => line,
                Err(error) => {
                    self.flush(&mut waiting)?;
                    return Err(format!(
                        "line {number}: cannot be read: {error}; what came before it was applied"
                    ));
                }
            };
            self.line(number, &line, &mut waiting)?;
            self.bar.inc(1);
        }
        self.flush(&mut waiting)
    }

    /// Adds the changes of a line to those that wait.
    fn line(&mut self, number: u64, line: &[u8], waiting: &mut Waiting) -> Result<(), String> {
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        self.tally.lines += 1;
        let decoded = read(line, clock::now()).and_then(|Line { body, sent_at }| {
            message::decode(&body, sent_at).map_err(|fault| fault.to_string())
        });
        match decoded {
            Ok(message) => {
                if let Event::Ignored { label } = message.event {
                    self.tally.idle += 1;
                    if self.is_dry {
                        self.tell(&format!("line {number}: changes nothing (type {label})"));
                    }
                }
                for change in changes(message, &self.layout) {
                    waiting.push((number, change));
                    if waiting.len() >= CHANGES_TOGETHER {
                        self.flush(waiting)?;
                    }
                }
            }
            Err(fault) => self.bad(number, &fault),
        }
        Ok(())
    }

    fn flush(&mut self, waiting: &mut Waiting) -> Result<(), String> {
        let Some((first, _)) = waiting.first() else {
            return Ok(());
        };
        let first = *first;
        let failed =
            |error: StoreError| format!("from line {first} on nothing is known to be applied: {error}");
        let (numbers, changes): (Vec<u64>, Vec<CacheChange>) = waiting.drain(..).unzip();
        if self.is_dry {
            let borrowed: Vec<&CacheChange> = changes.iter().collect();
            let runs = self.opened.store.dry_run(&borrowed).map_err(failed)?;
            for ((number, change), run) in numbers.into_iter().zip(&changes).zip(runs) {
                match run {
                    Ok(run) => self.tell(&format!("line {number}: {}", would_do(change, &run))),
                    Err(error) => self.bad(number, &error.to_string()),
                }
            }
            return Ok(());
        }
        let outcomes = self.applier.apply(&changes).map_err(failed)?;
        for ((number, change), outcome) in numbers.into_iter().zip(&changes).zip(outcomes) {
            match outcome {
                Ok(outcome) => self.tally.count(change, outcome),
                Err(error) => self.bad(number, &error.to_string()),
            }
        }
        Ok(())
    }

    fn bad(&mut self, number: u64, fault: &str) {
        self.tally.bad += 1;
        self.bar.suspend(|| complain(format!("line {number}: {fault}")));
    }

    fn tell(&self, line: &str) {
        let line = human::printable(line);
        self.bar.suspend(|| print(&format!("{line}\n")));
    }
}

/// What a change would do, in a line.
fn would_do(change: &CacheChange, run: &DryRun) -> String {
    let what = match change {
        CacheChange::InvalidateEnvironment(invalidation) => {
            let pattern = invalidation.keyspace.customer_keys_pattern();
            return format!("would delete every key of a customer in the environment: {pattern}");
        }
        CacheChange::Purge(_) => "would delete",
        CacheChange::WriteEntitlements(_) | CacheChange::WriteUsage(_) | CacheChange::WriteBalance(_) => {
            "would write"
        }
    };
    let nothing = |why: &str| format!("{what} nothing: {why}");
    match run.outcome {
        Outcome::SkippedByPolicy => {
            nothing("the customer is not cached (CACHE_UPDATE_POLICY=UPDATE_IF_EXISTS)")
        }
        Outcome::NoCustomer => nothing("the customer is not cached"),
        Outcome::PurgedLater => nothing("the customer was purged after it was sent"),
        Outcome::Locked => nothing("an SDK holds its lock"),
        Outcome::Applied { .. } if run.written.is_empty() && run.stale.is_empty() => {
            nothing("the customer is not cached")
        }
        Outcome::Applied { .. } => {
            let mut text = what.to_owned();
            if !run.written.is_empty() {
                let _ = write!(text, " {}", run.written.join(" ")); // a string takes everything
            }
            if !run.stale.is_empty() {
                let _ = write!(text, "; newer is stored at {}", run.stale.join(" "));
            }
            text
        }
    }
}

impl Tally {
    fn count(&mut self, change: &CacheChange, outcome: Outcome) {
        match (outcome, change) {
            (Outcome::Applied { .. }, CacheChange::Purge(_)) => self.purges += 1,
            (Outcome::Applied { written, .. }, CacheChange::InvalidateEnvironment(_)) => {
                self.invalidations += 1;
                self.unlinked += written;
            }
            (
                Outcome::Applied { written, stale },
                CacheChange::WriteEntitlements(_) | CacheChange::WriteUsage(_) | CacheChange::WriteBalance(_),
            ) => {
                self.written += written;
                self.stale += stale;
            }
            (Outcome::SkippedByPolicy | Outcome::NoCustomer, _) => self.not_cached += 1,
            (Outcome::PurgedLater, _) => self.purged_later += 1,
            (Outcome::Locked, _) => {}
        }
    }

    /// A line for each thing that happened at all.
    fn summary(&self, is_dry: bool) -> String {
        let messages = if is_dry {
            "messages read, nothing was changed"
        } else {
            "messages read"
        };
        let mut text = format!("{} {messages}\n", self.lines);
        for (count, what) in [
            (self.written, "values written, each with its timestamp"),
            (self.stale, "values left, as newer ones are stored"),
            (self.purges, "customers or resources purged"),
            (self.invalidations, "invalidations of the environment"),
            (self.unlinked, "keys deleted by them"),
            (
                self.not_cached,
                "changes without effect, as their customer is not cached",
            ),
            (
                self.purged_later,
                "changes without effect, as their customer was purged since",
            ),
            (self.idle, "messages that change nothing"),
            (self.bad, "bad lines or refused changes"),
        ] {
            if count > 0 {
                let _ = writeln!(text, "{count} {what}"); // a string takes everything
            }
        }
        text
    }
}
