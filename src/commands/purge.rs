//! `purge`: forgets what is cached of a customer, a resource or everyone, so that the next reader asks Stigg.

use std::io::{BufRead, IsTerminal, Write};

use clap::Args;

use super::apply::Applier;
use super::{FAILED, Opened, USAGE, complain, print};
use crate::cache::{CacheChange, changes};
use crate::clock;
use crate::config::Settings;
use crate::entitlement::{CustomerId, EpochMs, ResourceId, Subject};
use crate::message::{Event, Message};
use crate::store::{Outcome, StoreError, server_name};

/// What `purge` is asked.
#[derive(Debug, Args)]
pub struct PurgeArgs {
    /// The customer's id, as it was given to Stigg.
    #[arg(required_unless_present = "environment", conflicts_with = "environment")]
    pub customer: Option<String>,
    /// The id of one of the customer's resources: that one alone is forgotten.
    #[arg(long, value_name = "ID", requires = "customer")]
    pub resource: Option<String>,
    /// Forget every customer below `ENVIRONMENT_PREFIX`.
    #[arg(long)]
    pub environment: bool,
    /// Do not ask first.
    #[arg(long)]
    pub yes: bool,
}

pub(super) fn run(settings: &Settings, args: &PurgeArgs) -> u8 {
    let opened = match Opened::new(settings, 1) {
        Ok(opened) => opened,
        Err(status) => return status,
    };
    let at = server_name(&opened.access.redis);
    let prefix = &opened.access.environment_prefix;
    let what = match (&args.customer, &args.resource) {
        (None, _) => format!("every customer of environment '{prefix}'"),
        (Some(customer), None) => format!("customer '{customer}' of environment '{prefix}'"),
        (Some(customer), Some(resource)) => {
            format!("resource '{resource}' of customer '{customer}' of environment '{prefix}'")
        }
    };
    let may = may_go_on(
        args.yes,
        std::io::stdin().is_terminal(),
        &format!("Forget what is cached of {what} in Redis at {at}?"),
    );
    match may {
        Answer::Yes => {}
        Answer::No => {
            complain("nothing was done");
            return FAILED;
        }
        Answer::NobodyToAsk => {
            complain(
                "nothing was done: there is no terminal to ask on; add --yes to go on without a question",
            );
            return USAGE;
        }
    }
    let purged = match &args.customer {
        None => environment(&opened),
        Some(customer) => one(
            &opened,
            &Subject {
                customer: CustomerId(customer.clone()),
                resource: args.resource.clone().map(ResourceId),
            },
        ),
    };
    match purged {
        Ok(text) => print(&text),
        Err(error) => {
            complain(error);
            FAILED
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Yes,
    No,
    NobodyToAsk,
}

fn may_go_on(yes: bool, is_terminal: bool, question: &str) -> Answer {
    if yes {
        return Answer::Yes;
    }
    if !is_terminal {
        return Answer::NobodyToAsk;
    }
    let mut stderr = std::io::stderr();
    let _ = write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush());
    let mut answer = String::new();
    let _ = std::io::stdin().lock().read_line(&mut answer);
    if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
        Answer::Yes
    } else {
        Answer::No
    }
}

fn one(opened: &Opened, subject: &Subject) -> Result<String, StoreError> {
    let mut lines = String::new();
    let mut deleted = 0;
    for mut change in purges(opened, Event::Purged([subject.clone()].into_iter().collect())) {
        if let CacheChange::Purge(purge) = &mut change {
            // Whatever is in the way of new lists goes: an operator purges to start anew.
            purge.resets_tombstone = true;
        }
        for would in opened.store.dry_run(&[&change])? {
            for key in would?.written {
                lines.push_str(&key);
                lines.push('\n');
                deleted += 1;
            }
        }
        if let Some(Err(error)) = Applier::new(&opened.store).apply(&[change])?.pop() {
            return Err(error);
        }
    }
    Ok(if deleted == 0 {
        "nothing was cached\n".to_owned()
    } else {
        format!("{lines}deleted {deleted} keys; usages stay, and the next reader asks Stigg\n")
    })
}

fn environment(opened: &Opened) -> Result<String, StoreError> {
    let mut deleted = 0;
    for mut change in purges(opened, Event::EnvironmentInvalidated) {
        if let CacheChange::InvalidateEnvironment(invalidation) = &mut change {
            invalidation.resets_tombstone = true;
        }
        for outcome in Applier::new(&opened.store).apply(&[change])? {
            if let Outcome::Applied { written, .. } = outcome? {
                deleted += written;
            }
        }
    }
    let prefix = &opened.access.environment_prefix;
    Ok(format!(
        "deleted {deleted} keys of customers of '{prefix}'; the next readers ask Stigg\n"
    ))
}

/// The changes of a purge that is sent now.
fn purges(opened: &Opened, event: Event) -> impl Iterator<Item = CacheChange> {
    let message = Message {
        event,
        sent_at: purge_time(opened),
        implausible_timestamps: 0,
    };
    changes(message, &opened.layout())
}

/// When the purge was sent: messages that were sent before it are out of order. Of this machine's clock and that of Redis the
/// earlier one counts, since a clock ahead would keep newer messages away.
fn purge_time(opened: &Opened) -> EpochMs {
    let now = clock::now();
    opened.store.time().map_or(now, |of_redis| of_redis.min(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_terminal_only_yes_lets_it_go_on() {
        assert_eq!(may_go_on(true, false, "?"), Answer::Yes);
        assert_eq!(may_go_on(false, false, "?"), Answer::NobodyToAsk);
    }
}
