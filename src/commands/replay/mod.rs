//! `replay`: messages from a file go the way of messages from the queue: the same decoding, the same changes, the same
//! scripts. Applying a message again changes nothing, so a replay that was cut short is simply begun anew.

mod line;

use std::collections::HashMap;
use std::fmt::Write;
use std::io::BufRead;

use clap::Args;
use indicatif::ProgressBar;

use self::line::{Line, read};
use super::apply::Applier;
use super::{DONE, FAILED, Opened, complain, human, lines, print, terminal};
use crate::cache::foresight::{Foresight, foresee, keys_to_know};
use crate::cache::keyspace::Keyspace;
use crate::cache::{CacheChange, Layout, changes_for};
use crate::clock;
use crate::config::Settings;
use crate::message::{self, Event};
use crate::store::look::Look;
use crate::store::{Outcome, StoreError};

/// Lines whose changes go out together: enough to share round trips, few enough that a bar moves.
const LINES_TOGETHER: usize = 64;

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
        layout: Layout {
            keyspace: Keyspace::new(opened.access.environment_prefix.clone()),
            format: opened.access.format,
            policy: opened.access.policy,
        },
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

impl Replay<'_> {
    fn all(&mut self, input: impl BufRead) -> Result<(), String> {
        let mut waiting: Vec<(u64, Vec<CacheChange>)> = Vec::new();
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
            if let Some(changes) = self.line(number, &line) {
                waiting.push((number, changes));
            }
            if waiting.len() >= LINES_TOGETHER {
                self.flush(&mut waiting)?;
            }
            self.bar.inc(1);
        }
        self.flush(&mut waiting)
    }

    /// The changes of a line. None if it changes nothing, or cannot be read.
    fn line(&mut self, number: u64, line: &[u8]) -> Option<Vec<CacheChange>> {
        if line.trim_ascii().is_empty() {
            return None;
        }
        self.tally.lines += 1;
        let decoded = read(line, clock::now()).and_then(|Line { body, sent_at }| {
            message::decode(&body, sent_at)
                .map(|message| (message.event, message.sent_at))
                .map_err(|fault| fault.to_string())
        });
        match decoded {
            Ok((Event::Ignored { label }, _)) => {
                self.tally.idle += 1;
                if self.is_dry {
                    self.tell(&format!("line {number}: changes nothing (type {label})"));
                }
                None
            }
            Ok((event, sent_at)) => Some(changes_for(&event, sent_at, &self.layout)),
            Err(fault) => {
                self.bad(number, &fault);
                None
            }
        }
    }

    fn flush(&mut self, waiting: &mut Vec<(u64, Vec<CacheChange>)>) -> Result<(), String> {
        let Some((first, _)) = waiting.first() else {
            return Ok(());
        };
        let first = *first;
        let failed =
            |error: StoreError| format!("from line {first} on nothing is known to be applied: {error}");
        if self.is_dry {
            for (number, changes) in waiting.drain(..) {
                for change in &changes {
                    let foreseen = self.foresee(change).map_err(|error| error.to_string())?;
                    self.tell(&format!("line {number}: {foreseen}"));
                }
            }
            return Ok(());
        }
        let all: Vec<CacheChange> = waiting.iter().flat_map(|(_, changes)| changes.clone()).collect();
        let mut outcomes = self.applier.apply(&all).map_err(failed)?.into_iter();
        for (number, changes) in waiting.drain(..) {
            for change in &changes {
                match outcomes.next().unwrap_or(Ok(Outcome::Locked)) {
                    Ok(outcome) => self.tally.count(change, outcome),
                    Err(error) => self.bad(number, &error.to_string()),
                }
            }
        }
        Ok(())
    }

    fn foresee(&self, change: &CacheChange) -> Result<Foresight, StoreError> {
        let keys = keys_to_know(change);
        let looks = self.opened.store.look(&keys)?;
        let known: HashMap<&str, &str> = keys
            .iter()
            .zip(&looks)
            .filter_map(|(key, look): (&String, &Look)| Some((key.as_str(), look.text()?)))
            .collect();
        Ok(foresee(change, self.layout.policy, &|key| {
            known.get(key).copied()
        }))
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

impl Tally {
    fn count(&mut self, change: &CacheChange, outcome: Outcome) {
        match (outcome, change) {
            (Outcome::Applied { .. }, CacheChange::Purge { .. }) => self.purges += 1,
            (Outcome::Applied { written, .. }, CacheChange::InvalidateEnvironment(_)) => {
                self.invalidations += 1;
                self.unlinked += written;
            }
            (
                Outcome::Applied { written, stale },
                CacheChange::WriteEntitlements { .. } | CacheChange::WriteUsage { .. },
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
                "changes without effect, as late news of what was purged since",
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
