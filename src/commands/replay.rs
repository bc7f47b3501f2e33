//! `replay`: messages from a file are decoded and applied as those from the queue are. Applying a message again changes
//! nothing, so a replay that was interrupted is simply started again.

use std::fmt::Display;
use std::io::BufRead;

use clap::Args;
use indicatif::ProgressBar;
use serde_json::Value;

use super::output::{Counted, Tally, bar};
use super::{CommandError, DONE, FAILED, Session, complain, open_lines, print};
use crate::cache::{CacheChange, changes};
use crate::clock;
use crate::clock::EpochMs;
use crate::config::Settings;
use crate::log::printable;
use crate::message::{self, Event};
use crate::sqs::protocol::sent_at;
use crate::store::{Outcome, StepResult};

/// Changes that are applied together: enough to share round trips, few enough that the bar moves. A migration may have 90,000.
const CHANGES_TOGETHER: usize = 250;

/// The arguments of `replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// File with one JSON message on each line; - reads standard input.
    pub file: String,
    /// Change nothing; print what each message would change.
    #[arg(long)]
    pub dry_run: bool,
}

const READ: Counted = (0, "messages read");
const BAD: Counted = (9, "bad lines or refused changes");

pub(super) fn run(settings: &Settings, args: &ReplayArgs) -> Result<u8, CommandError> {
    let session = Session::open(settings, settings.cache_access()?)?;
    let (input, total) = open_lines(&args.file)?;
    let mut replay = Replay {
        session: &session,
        is_dry: args.dry_run,
        pending: Vec::new(),
        tally: Tally::of(READ),
        bar: bar(total, "messages"),
    };
    let ended = replay.all(input);
    replay.bar.finish_and_clear();
    print(replay.tally.summary() + if args.dry_run { "nothing was changed\n" } else { "" })?;
    ended?;
    Ok(if replay.tally.has(BAD) { FAILED } else { DONE })
}

struct Replay<'a> {
    session: &'a Session,
    is_dry: bool,
    /// Changes that are not applied yet, each with the number of its line.
    pending: Vec<(u64, CacheChange)>,
    tally: Tally,
    bar: ProgressBar,
}

impl Replay<'_> {
    fn all(&mut self, input: impl BufRead) -> Result<(), CommandError> {
        for (number, line) in (1..).zip(input.split(b'\n')) {
            match line {
                Ok(line) => self.line(number, line.trim_ascii())?,
                Err(error) => {
                    self.bad(number, format!("cannot be read: {error}"));
                    break;
                }
            }
            self.bar.inc(1);
        }
        self.flush()
    }

    fn line(&mut self, number: u64, line: &[u8]) -> Result<(), CommandError> {
        if line.is_empty() {
            return Ok(());
        }
        self.tally.add(READ, 1);
        let (body, sent_at) = body_of(&String::from_utf8_lossy(line), clock::now());
        let message = match message::decode(&body, sent_at) {
            Ok(message) => message,
            Err(fault) => {
                self.bad(number, fault);
                return Ok(());
            }
        };
        if let Event::Ignored { label } = message.event {
            self.tally.add((8, "messages that change nothing"), 1);
            self.predict(number, &format!("changes nothing (type {label})"))?;
        }
        for change in changes(message, &self.session.layout) {
            let is_alone = matches!(change, CacheChange::InvalidateEnvironment(_));
            if is_alone || self.pending.len() >= CHANGES_TOGETHER {
                self.flush()?;
            }
            self.pending.push((number, change));
            if is_alone {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), CommandError> {
        let (numbers, changes): (Vec<u64>, Vec<CacheChange>) = self.pending.drain(..).unzip();
        let Some(&first) = numbers.first() else {
            return Ok(());
        };
        let failed = |error| {
            let what = format!("lines from {first} on may not have been applied");
            CommandError::Failed(format!("{what}: {error}"))
        };
        let lines = numbers.into_iter().zip(&changes);
        if self.is_dry {
            let runs = self.session.store.dry_run(&changes.iter().collect::<Vec<_>>());
            for ((number, change), run) in lines.zip(runs.map_err(failed)?) {
                match run {
                    Ok(run) => self.predict(number, &prediction(change, &run))?,
                    Err(error) => self.bad(number, error),
                }
            }
            return Ok(());
        }
        for ((number, change), outcome) in lines.zip(self.session.apply(&changes).map_err(failed)?) {
            match outcome {
                Ok(outcome) => count(&mut self.tally, change, outcome),
                Err(error) => self.bad(number, error),
            }
        }
        Ok(())
    }

    fn bad(&mut self, number: u64, fault: impl Display) {
        self.tally.add(BAD, 1);
        self.bar.suspend(|| complain(format!("line {number}: {fault}")));
    }

    fn predict(&self, number: u64, what: &str) -> Result<(), CommandError> {
        if self.is_dry {
            let line = printable(&format!("line {number}: {what}"));
            self.bar.suspend(|| print(line + "\n"))?;
        }
        Ok(())
    }
}

fn count(tally: &mut Tally, change: &CacheChange, outcome: Outcome) {
    let (what, count) = match (outcome, change) {
        (Outcome::Applied { .. }, CacheChange::Purge(_)) => ((3, "customers or resources purged"), 1),
        (Outcome::Applied { written, .. }, CacheChange::InvalidateEnvironment(_)) => {
            tally.add((4, "invalidations of the environment"), 1);
            ((5, "keys deleted by them"), written)
        }
        (Outcome::Applied { written, stale }, _) => {
            tally.add((2, "values left, as newer ones are stored"), stale);
            ((1, "values written, each with its timestamp"), written)
        }
        (Outcome::SkippedByPolicy | Outcome::NoCustomer, _) => {
            ((6, "changes of customers who are not cached"), 1)
        }
        (Outcome::PurgedLater, _) => ((7, "changes sent before a purge"), 1),
        (Outcome::Locked, _) => return,
    };
    tally.add(what, count);
}

/// The body in a line, which is the line itself or in a message as `aws sqs receive-message` prints it, and when it was
/// sent: as the queue says, else now. (Decoding takes the message's own time if that is earlier.)
fn body_of(line: &str, now: EpochMs) -> (String, EpochMs) {
    // Capital, as in SQS's answers: no event has this field. What is wrong with a line, decoding reports.
    let mut message: Value = serde_json::from_str(line).unwrap_or_default();
    let stated = message.pointer("/Attributes/SentTimestamp");
    let stated = stated.and_then(|at| at.as_i64().or_else(|| at.as_str()?.parse().ok()));
    let (body, stated) = match message.get_mut("Body").map(Value::take) {
        Some(Value::String(body)) => (body, sent_at(stated)),
        _ => (line.to_owned(), None),
    };
    (body, stated.unwrap_or(now))
}

/// What a change would do.
fn prediction(change: &CacheChange, run: &StepResult) -> String {
    if let CacheChange::InvalidateEnvironment(invalidation) = change {
        let pattern = invalidation.keyspace.customer_keys_pattern();
        return format!("would delete every key of a customer in the environment: {pattern}");
    }
    let verb = if change.only_deletes() { "delete" } else { "write" };
    let (written, stale) = (run.written.join(" "), run.stale.join(" "));
    match (written.as_str(), stale.as_str()) {
        ("", "") => format!("would {verb} nothing: {}", run.outcome.label()),
        ("", stale) => format!("would {verb} nothing: newer is stored at {stale}"),
        (written, "") => format!("would {verb} {written}"),
        (written, stale) => format!("would {verb} {written}; newer is stored at {stale}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: EpochMs = EpochMs(1_800_000_000_000);

    #[test]
    fn a_body_was_sent_when_it_says_so_else_now() {
        let stated =
            r#"{"type":"customer.deleted","timestamp":"2026-11-24T12:00:00Z","customer":{"id":"c"}}"#;
        let (body, sent_at) = body_of(stated, NOW);
        let message = message::decode(&body, sent_at);
        assert_eq!(message.map(|message| message.sent_at), Ok(EpochMs(1_795_521_600_000)));
        for unstated in [r#"{"type":"x"}"#, "{", "7"] {
            assert_eq!(body_of(unstated, NOW), (unstated.to_owned(), NOW));
        }
    }

    #[test]
    fn a_message_as_the_aws_cli_prints_it_is_unwrapped() {
        let line = r#"{"MessageId":"1","Body":"{\"type\":\"x\"}","Attributes":{"SentTimestamp":"5"}}"#;
        assert_eq!(body_of(line, NOW), (r#"{"type":"x"}"#.to_owned(), EpochMs(5)));
    }

    #[test]
    fn a_time_of_sending_that_is_none_is_as_good_as_unstated() {
        for odd in ["0", "-5", "9223372036854775807", "soon"] {
            let line =
                format!(r#"{{"Body":"{{\\"type\\":\\"x\\"}}","Attributes":{{"SentTimestamp":"{odd}"}}}}"#);
            assert_eq!(body_of(&line, NOW).1, NOW, "{odd}");
        }
    }
}
