//! `verify`: compares the cache with what Stigg says now, as the readers would answer from it.
//!
//! A customer who differs is checked again 3 s later, with new answers from both sides, since a message may be on its way.
//! Meanwhile the threads check others.

mod compare;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::ProgressBar;
use serde_json::Value;

use self::compare::{Difference, Texts, adjust_to_balances, compare, expected, persists};
use super::output::{Counted, Tally, bar, date};
use super::purge::purge;
use super::session::{EdgeCalls, Listed, NO_SUBJECT, counted, in_parallel, lock, named, open_subjects};
use super::{CommandError, DONE, FAILED, Pace, Session, complain, print, subject};
use crate::cache::keyspace::{balance_key, timestamp_key};
use crate::config::Settings;
use crate::entitlement::{ResourceId, Subject};
use crate::log::printable;
use crate::message::Event;
use crate::refetch::{RefetchError, Refetcher, ask};
use crate::shutdown::Stop;

/// The exit status if something differs.
const DIFFERENT: u8 = 3;
/// Within this time, a message that was on its way has arrived and is written.
const CHECKED_AGAIN_AFTER_SECS: u32 = 3;

/// The arguments of `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Customers that should be cached, or one file (- reads standard input) with a customer's id on each line, or a
    /// customer's and, after a tab, a resource's. A customer whose id looks like a file's name has to be in a list.
    #[arg(value_name = "CUSTOMER|FILE", required_unless_present = "sample", conflicts_with = "sample")]
    pub customers: Vec<String>,
    /// Take this many cached customers and resources at random, or all if there are fewer.
    #[arg(long, value_name = "N")]
    pub sample: Option<usize>,
    /// How far a usage may be from Stigg's, for features that are used meanwhile.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub usage_tolerance: u32,
    /// Write what Stigg says where something differs, as warm does.
    #[arg(long)]
    pub fix: bool,
    /// Print a JSON object for each difference.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub calls: EdgeCalls,
}

const EQUAL: Counted = (0, "equal");
const FIXED: Counted = (1, "differed and are fixed");
const DIFFER: Counted = (2, "differ; --fix writes what Stigg says");
const NOT_FIXED: Counted =
    (3, "differ still; run it again, then delete the keys of their usages (inspect --json shows them)");
const NOT_COMPARED: Counted = (4, "failed");
/// What arguments end with that are meant as files.
const FILE_ENDINGS: [&str; 5] = [".txt", ".csv", ".tsv", ".json", ".list"];

pub(super) fn run(settings: &Settings, args: &VerifyArgs) -> Result<u8, CommandError> {
    let (session, edge) = Session::open_with_edge(settings)?;
    let listed = listed(&session, args)?;
    if listed.is_empty() {
        let cause = format!("the list is empty, or nobody of environment '{}' is cached", session.prefix);
        let remedy = "check the list, ENVIRONMENT_PREFIX and REDIS_DB";
        return Err(CommandError::Failed(format!("nothing was compared: {cause}; {remedy}")));
    }
    let now = Instant::now();
    let first = |listed| Check { listed, due_at: now, before: None };
    let verify = Verify {
        args,
        session: &session,
        refetcher: Refetcher { store: &session.store, layout: &session.layout, edge: &edge },
        pace: Pace::new(args.calls.rate, args.calls.retries),
        bar: bar(Some(listed.len() as u64), "customers"),
        waiting: Mutex::new(listed.into_iter().map(first).collect()),
        tally: Mutex::new(Tally::of(EQUAL)),
    };
    let ended = in_parallel(args.calls.parallel, || verify.next(), |check| verify.work(check));
    verify.bar.finish_and_clear();
    let tally = &lock(&verify.tally);
    complain(tally.summary().trim_end());
    ended.map_err(|why| CommandError::Failed(format!("gave up: {why}")))?;
    // Some customers that were not compared are worse than some that differ.
    let mut statuses = [(NOT_COMPARED, FAILED), (DIFFER, DIFFERENT), (NOT_FIXED, DIFFERENT)].into_iter();
    Ok(statuses.find(|(what, _)| tally.has(*what)).map_or(DONE, |(_, status)| status))
}

/// Who is verified.
fn listed(session: &Session, args: &VerifyArgs) -> Result<Vec<Listed>, CommandError> {
    if let Some(count) = args.sample {
        let sample = session.store.sample(&session.layout.keyspace, count)?;
        return Ok(sample.into_iter().map(|subject| (line_of(&subject), Some(subject))).collect());
    }
    match args.customers.as_slice() {
        [path] if path == "-" || Path::new(path).exists() => open_subjects(path)?.0.collect(),
        ids => ids.iter().map(|id| customer(id)).collect(),
    }
}

/// The customer with this id. A mistyped file name must not become a customer, whom `--fix` would write.
fn customer(id: &str) -> Result<Listed, CommandError> {
    if id.contains('/') || FILE_ENDINGS.iter().any(|ending| id.ends_with(ending)) {
        let cause = "no such file exists, or it is not the only argument";
        let remedy = "if it is a customer's id, give it on standard input (verify -)";
        return Err(CommandError::Usage(format!("'{id}' looks like a file: {cause}; {remedy}")));
    }
    Ok((id.to_owned(), Some(subject(id, None))))
}

/// The line that lists it in a file.
fn line_of(subject: &Subject) -> String {
    let resource = subject.resource.as_ref().map(|id| format!("\t{}", id.as_str()));
    subject.customer.as_str().to_owned() + &resource.unwrap_or_default()
}

struct Verify<'a> {
    args: &'a VerifyArgs,
    session: &'a Session,
    refetcher: Refetcher<'a>,
    pace: Pace,
    /// First checks, and among them the second ones, at about the place where they are due.
    waiting: Mutex<VecDeque<Check>>,
    tally: Mutex<Tally>,
    bar: ProgressBar,
}

/// A first or a second check of one customer or resource.
struct Check {
    listed: Listed,
    due_at: Instant,
    /// What the first check found; `None` if this is the first.
    before: Option<Vec<Difference>>,
}

impl Verify<'_> {
    fn next(&self) -> Option<Check> {
        let check = lock(&self.waiting).pop_front()?;
        Stop::never().wait(check.due_at.saturating_duration_since(Instant::now()));
        Some(check)
    }

    /// Makes a check and counts its result. An error ends the run.
    fn work(&self, check: Check) -> Result<(), CommandError> {
        let line = check.listed.0.clone();
        if let Some(result) = self.check(check).transpose() {
            let counted = counted(result, NOT_COMPARED, &line, &self.bar)?;
            self.bar.inc(1);
            lock(&self.tally).add(counted, 1);
        }
        Ok(())
    }

    /// Compares, fixes if asked to, and prints what differs. `None` if a second check is due.
    fn check(&self, Check { listed, before, .. }: Check) -> Result<Option<Counted>, RefetchError> {
        let subject = listed.1.as_ref().ok_or_else(|| RefetchError::Customer(NO_SUBJECT.to_owned()))?;
        let mut differences = self.compare(subject)?;
        match before {
            None if !differences.is_empty() => {
                let due_at = Instant::now() + Duration::from_secs(CHECKED_AGAIN_AFTER_SECS.into());
                let mut waiting = lock(&self.waiting);
                let place = waiting.len().min((self.args.calls.rate * CHECKED_AGAIN_AFTER_SECS) as usize);
                waiting.insert(place, Check { listed, due_at, before: Some(differences) });
                return Ok(None);
            }
            before => differences.retain(|now| persists(before.as_deref().unwrap_or_default(), now)),
        }
        if differences.is_empty() {
            return Ok(Some(EQUAL));
        }
        let is_fixed = self.args.fix && self.fix(subject, &differences)?;
        let lines: String =
            differences.iter().map(|difference| self.line(subject, difference, is_fixed)).collect();
        let printed = self.bar.suspend(|| print(lines));
        printed.map_err(|error| RefetchError::Everyone(error.to_string()))?;
        Ok(Some(match (self.args.fix, is_fixed) {
            (false, _) => DIFFER,
            (true, false) => NOT_FIXED,
            (true, true) => FIXED,
        }))
    }

    /// Asks Stigg, reads the keys that its answer would be written to, and compares the two.
    fn compare(&self, subject: &Subject) -> Result<Vec<Difference>, RefetchError> {
        let Refetcher { store, layout, edge } = self.refetcher;
        let list_key = layout.keyspace.customer_key(subject);
        let own = Subject { resource: None, ..subject.clone() };
        let own_key = layout.keyspace.customer_key(&own);
        let message = self.pace.call(|| ask(edge, subject))?;
        let asked_at = message.sent_at;
        let (mut stigg, currencies) = expected(message, &list_key, layout);
        let balances = currencies.iter().map(|currency| balance_key(&list_key, currency));
        let others = [list_key.clone(), timestamp_key(&own_key)].into_iter().chain(balances);
        let keys: Vec<String> = stigg.keys().cloned().chain(others).collect();
        let texts = store.texts(&keys)?.into_iter().zip(keys);
        let redis: Texts = texts.filter_map(|(text, key)| Some((key, text?))).collect();
        let has_list = redis.contains_key(&list_key) || redis.contains_key(&timestamp_key(&list_key));
        let is_purged_meanwhile = !has_list && self.args.sample.is_some();
        if is_purged_meanwhile {
            return Ok(Vec::new());
        }
        adjust_to_balances(&redis, &mut stigg, &list_key, &currencies);
        let tolerance = self.args.usage_tolerance.into();
        Ok(compare([&redis, &stigg], &list_key, &own_key, asked_at, tolerance))
    }

    /// Writes what Stigg says, and compares again. True if these differences are gone.
    fn fix(&self, subject: &Subject, differences: &[Difference]) -> Result<bool, RefetchError> {
        let refill = || {
            self.pace.call(|| self.refetcher.refetch(subject))?;
            let left = self.compare(subject)?;
            Ok(!left.iter().any(|left| left.what == "list" || persists(differences, left)))
        };
        if refill()? {
            return Ok(true);
        }
        // Nothing replaced what is stored: Stigg has nothing to write, or its list has no time or an earlier one.
        purge(self.session, Event::Purged(subject.clone().into()))?;
        // What was asked for in the millisecond of the purge counts as older than the purge.
        Stop::never().wait(Duration::from_millis(1));
        refill()
    }

    /// What is printed for a difference.
    fn line(&self, subject: &Subject, difference: &Difference, is_fixed: bool) -> String {
        if self.args.json {
            let mut line = serde_json::json!(difference);
            line["customer"] = subject.customer.as_str().into();
            line["resource"] = subject.resource.as_ref().map(ResourceId::as_str).into();
            line["fixed"] = is_fixed.into();
            return printable(&line.to_string()) + "\n";
        }
        let text = |value: &Value| match value.as_str() {
            Some(text) => text.to_owned(),
            None if value.is_null() => "nothing".to_owned(),
            None => value.to_string(),
        };
        let at = |at: Option<i64>| at.map_or("no timestamp".to_owned(), date);
        let Difference { id, what, redis, stigg, sdks, redis_timestamp, stigg_timestamp } = difference;
        let id = id.as_ref().map(|id| format!("{id}: ")).unwrap_or_default();
        let only = if sdks.len() < 3 { format!("; only for SDK {}", sdks.join(", ")) } else { String::new() };
        let line = [
            format!("{}: {id}{what}: ", named(&line_of(subject))),
            format!("Redis {} ({}), ", text(redis), at(*redis_timestamp)),
            format!("Stigg {} ({}){only}", text(stigg), at(*stigg_timestamp)),
        ];
        printable(&line.concat()) + if is_fixed { "; fixed\n" } else { "\n" }
    }
}
