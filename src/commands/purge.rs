//! `purge`: deletes what is cached for a customer, a resource or everyone, so that the next reader asks Stigg.

use std::io::{self, BufRead, IsTerminal, Write};

use clap::Args;

use super::{CommandError, Session, print, subject};
use crate::cache::{CacheChange, changes};
use crate::clock;
use crate::config::Settings;
use crate::log::printable;
use crate::message::{Event, Message};
use crate::store::{Outcome, StoreError};

/// The arguments of `purge`.
#[derive(Debug, Args)]
pub struct PurgeArgs {
    /// The customer's id, as it was given to Stigg.
    #[arg(required_unless_present = "environment", conflicts_with = "environment")]
    pub customer: Option<String>,
    /// The id of one of the customer's resources: only what is cached for this one is deleted.
    #[arg(long, value_name = "ID", requires = "customer")]
    pub resource: Option<String>,
    /// Purge every customer below ENVIRONMENT_PREFIX.
    #[arg(long)]
    pub environment: bool,
    /// Do not ask first.
    #[arg(long)]
    pub yes: bool,
}

pub(super) fn run(settings: &Settings, args: &PurgeArgs) -> Result<u8, CommandError> {
    let session = Session::open(settings, settings.cache_access()?)?;
    let (whom, event) = match (&args.customer, &args.resource) {
        (None, _) => ("every customer".to_owned(), Event::EnvironmentInvalidated),
        (Some(customer), resource) => {
            let of = resource.as_ref().map(|resource| format!("resource '{resource}' of "));
            let whom = format!("{}customer '{customer}'", of.unwrap_or_default());
            (whom, Event::Purged(subject(customer, resource.as_deref()).into()))
        }
    };
    if !args.yes {
        let (prefix, at) = (&session.prefix, &session.redis_at);
        let question = format!("Delete what is cached for {whom} of environment '{prefix}' in Redis {at}?");
        confirm(&printable(&question))?;
    }
    print(purge(&session, event)?)
}

fn confirm(question: &str) -> Result<(), CommandError> {
    if !io::stdin().is_terminal() {
        let why = "nothing was done: there is no terminal to ask on; add --yes to skip the question";
        return Err(CommandError::Usage(why.to_owned()));
    }
    let mut stderr = io::stderr();
    let _ = write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush());
    let mut answer = String::new();
    let _ = io::stdin().lock().read_line(&mut answer); // unreadable input is not a yes
    if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
        return Ok(());
    }
    Err(CommandError::Failed("nothing was done".to_owned()))
}

/// Has the effect of a purge message that is sent now, but also clears tombstones: an operator purges to start from scratch.
pub(super) fn purge(session: &Session, event: Event) -> Result<String, StoreError> {
    let now = clock::now();
    // With a clock that is ahead, newer messages would be out of order.
    let sent_at = session.store.time().map_or(now, |of_redis| of_redis.min(now));
    let mut text = String::new();
    for mut change in changes(Message { event, sent_at, implausible_timestamps: 0 }, &session.layout) {
        if let CacheChange::Purge(purge) = &mut change {
            purge.resets_tombstone = true;
        } else if let CacheChange::InvalidateEnvironment(invalidation) = &mut change {
            invalidation.resets_tombstone = true;
        }
        let keys = session.store.dry_run(&[&change])?.remove(0)?.written;
        text.extend(keys.iter().map(|key| printable(key) + "\n"));
        let outcome = session.apply(std::slice::from_ref(&change))?.remove(0)?;
        let written = if let Outcome::Applied { written, .. } = outcome { written } else { 0 };
        let prefix = &session.prefix;
        let summary = match (&change, written) {
            (_, 0) => "nothing was cached\n".to_owned(),
            (CacheChange::InvalidateEnvironment(_), _) => {
                format!("deleted {written} keys of customers of '{prefix}'; the next readers ask Stigg\n")
            }
            _ => format!("deleted {written} keys; usages stay, and the next reader asks Stigg\n"),
        };
        text.push_str(&summary);
    }
    Ok(text)
}
