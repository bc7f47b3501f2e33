//! `verify`: compares the cache with what Stigg says now, as the readers would answer from it.
//!
//! A difference is checked again after a while, with new answers of both sides, since a message may be on its way.

mod compare;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::ProgressBar;
use serde_json::Value;

use self::compare::{Texts, adjust, compare, persisting, stated};
use super::output::{Counted, Tally, bar, date};
use super::session::{EdgeCalls, NO_SUBJECT, in_parallel, lock, open_subjects};
use super::{CommandError, DONE, FAILED, Pace, Session, complain, print, subject};
use crate::cache::changes;
use crate::cache::keyspace::{balance_key, timestamp_key};
use crate::clock::{self, EpochMs};
use crate::config::{CacheUpdatePolicy, Settings};
use crate::edge::EdgeClient;
use crate::entitlement::{ResourceId, Subject};
use crate::log::printable;
use crate::message::{Event, Message};
use crate::refetch::{RefetchError, Refetcher, ask};
use crate::shutdown::Stop;

/// Something differs.
const DIFFERENT: u8 = 3;
/// A difference is checked again after this time: by then, a message has arrived and is written.
const CHECKED_AGAIN_AFTER: Duration = Duration::from_secs(3);
/// So many checks at most, if each finds other differences than the one before.
const CHECKS_MAX: u32 = 4;

/// The arguments of `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Customers that should be cached, or one file (- reads standard input) with a customer's id on each line, or a
    /// customer's and, after a tab, a resource's.
    #[arg(value_name = "CUSTOMER|FILE", required_unless_present = "sample", conflicts_with = "sample")]
    pub customers: Vec<String>,
    /// Takes so many cached customers and resources at random, or all if there are fewer.
    #[arg(long, value_name = "N")]
    pub sample: Option<usize>,
    /// By how much a usage may differ, for features that are used meanwhile.
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
const DIFFER: Counted = (2, "differ");
const UNKNOWN: Counted = (3, "failed");

type Subjects<'a> = Box<dyn Iterator<Item = Result<Subject, CommandError>> + Send + 'a>;

pub(super) fn run(settings: &Settings, args: &VerifyArgs) -> Result<u8, CommandError> {
    let (mut access, edge) = settings.cache_and_edge_access()?;
    let edge = EdgeClient::new(edge.url, edge.key, access.proxy.clone());
    access.policy = CacheUpdatePolicy::Upsert; // whatever the policy for messages is
    let session = Session::open(settings, access)?;
    let (subjects, total) = subjects(&session, args)?;
    let verify = Verify {
        args,
        session: &session,
        refetcher: Refetcher { store: &session.store, layout: &session.layout, edge: &edge },
        pace: Pace::new(args.calls.rate, args.calls.retries),
        waiting: Mutex::new((subjects, VecDeque::new())),
        tally: Mutex::new(Tally::of(EQUAL)),
        bar: bar(total, "customers"),
    };
    let ended = in_parallel(args.calls.parallel, || verify.next(), |check| verify.work(check?));
    verify.bar.finish_and_clear();
    let tally = &lock(&verify.tally);
    complain(tally.summary().trim_end());
    ended.map_err(|why| CommandError::Failed(format!("gave up: {why}")))?;
    let statuses = [(UNKNOWN, FAILED), (DIFFER, DIFFERENT)].into_iter();
    Ok(statuses.filter(|(what, _)| tally.has(*what)).map(|(_, status)| status).next().unwrap_or(DONE))
}

/// Who is verified, and how many they are, if that is known beforehand.
fn subjects<'a>(
    session: &Session,
    args: &'a VerifyArgs,
) -> Result<(Subjects<'a>, Option<u64>), CommandError> {
    Ok(match (args.sample, args.customers.as_slice()) {
        (Some(count), _) => {
            let sample = session.store.sample(&session.layout.keyspace, count)?;
            let total = sample.len() as u64;
            (Box::new(sample.into_iter().map(Ok)), Some(total))
        }
        (None, [path]) if path == "-" || Path::new(path).exists() => {
            let (listed, total) = open_subjects(path)?;
            let no_subject =
                |line: String| CommandError::Failed(format!("{}: {NO_SUBJECT}", printable(&line)));
            let subjects = listed.map(move |listed| {
                listed.and_then(|(line, subject)| subject.ok_or_else(|| no_subject(line)))
            });
            (Box::new(subjects), total)
        }
        (None, customers) => {
            (Box::new(customers.iter().map(|id| Ok(subject(id, None)))), Some(customers.len() as u64))
        }
    })
}

struct Verify<'a> {
    args: &'a VerifyArgs,
    session: &'a Session,
    refetcher: Refetcher<'a>,
    pace: Pace,
    /// Who was not checked yet, and who is checked again, in the order of time.
    waiting: Mutex<(Subjects<'a>, VecDeque<Check>)>,
    tally: Mutex<Tally>,
    bar: ProgressBar,
}

struct Check {
    subject: Subject,
    at: Instant,
    /// What was found by the check before.
    differences: Vec<Value>,
    checks_left: u32,
}

impl Verify<'_> {
    fn next(&self) -> Option<Result<Check, CommandError>> {
        let mut waiting = lock(&self.waiting);
        let (subjects, again) = &mut *waiting;
        let now = Instant::now();
        let is_due = again.front().is_some_and(|check| check.at <= now);
        if !is_due && let Some(subject) = subjects.next() {
            let first =
                |subject| Check { subject, at: now, differences: Vec::new(), checks_left: CHECKS_MAX };
            return Some(subject.map(first));
        }
        let check = again.pop_front()?;
        drop(waiting);
        Stop::never().wait(check.at.saturating_duration_since(now));
        Some(Ok(check))
    }

    /// An error ends the run.
    fn work(&self, check: Check) -> Result<(), CommandError> {
        let name = name(&check.subject);
        let counted = match self.check(check) {
            Ok(None) => return Ok(()),
            Ok(Some(counted)) => counted,
            Err(RefetchError::Everyone(why)) => return Err(CommandError::Failed(why)),
            Err(RefetchError::Customer(why) | RefetchError::Retryable(why, _)) => {
                self.bar.suspend(|| complain(format!("{}: {why}", printable(&name))));
                UNKNOWN
            }
        };
        self.bar.inc(1);
        lock(&self.tally).add(counted, 1);
        Ok(())
    }

    /// `None`: it is checked again.
    fn check(&self, check: Check) -> Result<Option<Counted>, RefetchError> {
        let Check { subject, differences: before, checks_left, .. } = check;
        let differences = self.compare(&subject)?;
        let confirmed = persisting(&before, &differences);
        if differences.is_empty() || confirmed.is_empty() && checks_left == 1 {
            return Ok(Some(EQUAL));
        }
        if confirmed.is_empty() {
            let (at, checks_left) = (Instant::now() + CHECKED_AGAIN_AFTER, checks_left - 1);
            lock(&self.waiting).1.push_back(Check { subject, at, differences, checks_left });
            return Ok(None);
        }
        let is_fixed = self.args.fix && self.fix(&subject, &confirmed)?;
        let lines: String =
            confirmed.into_iter().map(|difference| self.line(&subject, difference, is_fixed)).collect();
        let printed = self.bar.suspend(|| print(lines));
        printed.map_err(|error| RefetchError::Everyone(error.to_string()))?;
        Ok(Some(if is_fixed { FIXED } else { DIFFER }))
    }

    fn compare(&self, subject: &Subject) -> Result<Vec<Value>, RefetchError> {
        let Refetcher { store, layout, edge } = self.refetcher;
        let list_key = layout.keyspace.customer_key(subject);
        let own = Subject { resource: None, ..subject.clone() };
        let own_key = subject.resource.as_ref().map(|_| layout.keyspace.customer_key(&own));
        let message = self.pace.call(|| ask(edge, subject))?;
        let (mut stigg, currencies) = stated(message, &list_key, layout);
        let balances = currencies.iter().map(|currency| balance_key(&list_key, currency));
        let others =
            [list_key.clone()].into_iter().chain(own_key.as_deref().map(timestamp_key)).chain(balances);
        let keys: Vec<String> = stigg.0.keys().cloned().chain(others).collect();
        let texts = store.texts(&keys)?.into_iter().zip(keys);
        let redis = Texts(texts.filter_map(|(text, key)| Some((key, text?))).collect());
        let is_stored = [&list_key, &timestamp_key(&list_key)].iter().any(|key| redis.0.contains_key(*key));
        if !is_stored && self.args.sample.is_some() {
            return Ok(Vec::new()); // it was purged meanwhile
        }
        adjust(&redis, &mut stigg, &list_key, &currencies);
        Ok(compare([&redis, &stigg], &list_key, own_key.as_deref(), self.args.usage_tolerance.into()))
    }

    /// Writes what Stigg says. True if the differences are gone.
    fn fix(&self, subject: &Subject, differences: &[Value]) -> Result<bool, RefetchError> {
        for is_first in [true, false] {
            if !is_first {
                // Stigg has nothing to write, or cannot date it, or what is stored cannot be read and has a later time.
                let subjects = subject.clone().into();
                let sent_at = EpochMs(clock::now().0 - 1); // before Stigg is asked
                let purge = Message { event: Event::Purged(subjects), sent_at, implausible_timestamps: 0 };
                self.session.apply(&changes(purge, &self.session.layout).collect::<Vec<_>>())?;
            }
            self.pace.call(|| self.refetcher.refetch(subject))?;
            if persisting(differences, &self.compare(subject)?).is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn line(&self, subject: &Subject, mut difference: Value, is_fixed: bool) -> String {
        if self.args.json {
            difference["customer"] = subject.customer.as_str().into();
            difference["resource"] = subject.resource.as_ref().map(ResourceId::as_str).into();
            difference["fixed"] = is_fixed.into();
            return printable(&difference.to_string()) + "\n";
        }
        let text = |name| match difference[name].as_str() {
            Some(text) => text.to_owned(),
            None if difference[name].is_null() => "nothing".to_owned(),
            None => difference[name].to_string(),
        };
        let at = |name| difference[name].as_i64().map_or("no timestamp".to_owned(), date);
        let id = difference["id"].as_str().map_or(String::new(), |id| format!("{id}: "));
        let sdks: Vec<&str> =
            difference["sdks"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let sdks = if sdks.len() < 3 { format!("; only SDK {}", sdks.join(", ")) } else { String::new() };
        let line = [
            format!("{}: {id}{}: ", name(subject), text("what")),
            format!("Redis {} ({}), ", text("redis"), at("redisTimestamp")),
            format!("Stigg {} ({}){sdks}", text("stigg"), at("stiggTimestamp")),
        ];
        printable(&line.concat()) + if is_fixed { "; fixed\n" } else { "\n" }
    }
}

fn name(subject: &Subject) -> String {
    let resource = subject.resource.as_ref().map(|id| format!(", resource {}", id.as_str()));
    subject.customer.as_str().to_owned() + &resource.unwrap_or_default()
}
