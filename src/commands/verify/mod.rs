//! `verify`: compares the cache with what Stigg says now, as the readers would answer from it.
//!
//! A difference is checked again after a while, with new answers of both sides, since a message may be on its way.

mod compare;

use std::collections::VecDeque;
use std::io::BufRead;
use std::path::Path;
use std::slice;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::ProgressBar;
use serde_json::{Value, json};

use self::compare::{Compared, Difference, Found, Stated, persisting};
use super::output::{Counted, Tally, bar, date};
use super::session::{EdgeCalls, NO_SUBJECT, in_parallel, lock, parse_line};
use super::{CommandError, DONE, FAILED, Pace, Session, complain, open_lines, print};
use crate::cache::changes;
use crate::clock;
use crate::clock::EpochMs;
use crate::config::{CacheUpdatePolicy, Settings};
use crate::edge::EdgeClient;
use crate::entitlement::{ResourceId, Subject};
use crate::log::printable;
use crate::message::{Event, Message};
use crate::refetch::{RefetchError, Refetcher, ask};
use crate::shutdown::Stop;
use crate::store::admin::Content;

/// Something differs.
const DIFFERENT: u8 = 3;
/// A difference is checked again after this time: by then, a message has arrived and is written.
const CHECKED_AGAIN_AFTER: Duration = Duration::from_secs(3);
/// Checks again if each finds other differences than the one before.
const CHECKS_AGAIN: u32 = 3;

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
    /// Print a JSON object for each difference. The summary goes to standard error.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub calls: EdgeCalls,
}

const EQUAL: Counted = (0, "equal");
const FIXED: Counted = (1, "differed and are fixed");
const DIFFER: Counted = (2, "differ");
const UNKNOWN: Counted = (3, "failed");

/// A subject's line, and whose it is, unless the line is faulty.
type Listed = (String, Option<Subject>);
type Subjects<'a> = Box<dyn Iterator<Item = Result<Listed, CommandError>> + Send + 'a>;

pub(super) fn run(settings: &Settings, args: &VerifyArgs) -> Result<u8, CommandError> {
    let (mut access, edge) = settings.cache_and_edge_access()?;
    let edge = EdgeClient::new(edge.url, edge.key, access.proxy.clone());
    access.policy = CacheUpdatePolicy::Upsert; // whatever the policy for messages is
    let session = Session::open(settings, access)?;
    let (subjects, total) = subjects(&session, args)?;
    let verify = Verify {
        args,
        session: &session,
        edge: &edge,
        pace: Pace::new(args.calls.rate, args.calls.retries),
        waiting: Mutex::new((subjects, VecDeque::new())),
        tally: Mutex::new(Tally::of(EQUAL)),
        bar: bar(total, "customers"),
    };
    let ended = in_parallel(args.calls.parallel, || verify.next(), |work| verify.work(work));
    verify.bar.finish_and_clear();
    let tally = &lock(&verify.tally);
    let summary = tally.summary();
    if args.json {
        complain(summary.trim_end());
    } else {
        print(summary)?;
    }
    ended.map_err(|why| CommandError::Failed(format!("gave up: {why}")))?;
    Ok(match () {
        () if tally.has(UNKNOWN) => FAILED,
        () if tally.has(DIFFER) => DIFFERENT,
        () => DONE,
    })
}

/// Who is verified, and how many they are, if that can be known beforehand.
fn subjects<'a>(
    session: &Session,
    args: &'a VerifyArgs,
) -> Result<(Subjects<'a>, Option<u64>), CommandError> {
    if let Some(count) = args.sample {
        let sample = session.store.sample(&session.layout.keyspace, count)?;
        let total = sample.len() as u64;
        let listed = |subject| Ok((String::new(), Some(subject)));
        return Ok((Box::new(sample.into_iter().map(listed)), Some(total)));
    }
    if let [path] = args.customers.as_slice()
        && (path == "-" || Path::new(path).exists())
    {
        let (lines, total) = open_lines(path)?;
        let read = |line: Result<Vec<u8>, _>| match line {
            Ok(line) => parse_line(&line).map(Ok),
            Err(error) => Some(Err(CommandError::of_file("read on in", path, &error))),
        };
        return Ok((Box::new(lines.split(b'\n').filter_map(read)), total));
    }
    let listed = args.customers.iter().filter_map(|customer| parse_line(customer.as_bytes()).map(Ok));
    Ok((Box::new(listed), Some(args.customers.len() as u64)))
}

struct Verify<'a> {
    args: &'a VerifyArgs,
    session: &'a Session,
    edge: &'a EdgeClient,
    pace: Pace,
    /// Who was not yet checked, and who is checked again, in the order of time.
    waiting: Mutex<(Subjects<'a>, VecDeque<Suspect>)>,
    tally: Mutex<Tally>,
    bar: ProgressBar,
}

/// Somebody for whom something differs.
struct Suspect {
    subject: Subject,
    differences: Vec<Difference>,
    checks: u32,
    next_at: Instant,
}

enum Work {
    Check(Result<Listed, CommandError>),
    CheckAgain(Suspect),
}

impl Verify<'_> {
    fn next(&self) -> Option<Work> {
        let mut waiting = lock(&self.waiting);
        let (subjects, suspects) = &mut *waiting;
        let is_due = suspects.front().is_some_and(|suspect| suspect.next_at <= Instant::now());
        if !is_due && let Some(listed) = subjects.next() {
            return Some(Work::Check(listed));
        }
        let suspect = suspects.pop_front()?;
        drop(waiting);
        Stop::never().wait(suspect.next_at.saturating_duration_since(Instant::now()));
        Some(Work::CheckAgain(suspect))
    }

    /// An error ends the run.
    fn work(&self, work: Work) -> Result<(), CommandError> {
        let (name, result) = match work {
            Work::CheckAgain(suspect) => (name(&suspect.subject), self.check_again(suspect)),
            Work::Check(listed) => match listed? {
                (line, None) => (line, Err(RefetchError::Customer(NO_SUBJECT.to_owned()))),
                (_, Some(subject)) => (name(&subject), self.check_first(subject)),
            },
        };
        let counted = match result {
            Ok(Some(counted)) => counted,
            Ok(None) => return Ok(()),
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

    /// `None`: it is not known yet.
    fn check_first(&self, subject: Subject) -> Result<Option<Counted>, RefetchError> {
        let differences = self.compare(&subject)?.differences;
        Ok(self.conclude(subject, differences, 0))
    }

    fn conclude(&self, subject: Subject, differences: Vec<Difference>, checks: u32) -> Option<Counted> {
        if differences.is_empty() || checks > CHECKS_AGAIN {
            return Some(EQUAL);
        }
        let next_at = Instant::now() + CHECKED_AGAIN_AFTER;
        lock(&self.waiting).1.push_back(Suspect { subject, differences, checks, next_at });
        None
    }

    fn check_again(&self, suspect: Suspect) -> Result<Option<Counted>, RefetchError> {
        let Suspect { subject, differences, checks, .. } = suspect;
        let compared = self.compare(&subject)?;
        let confirmed = persisting(&differences, &compared.differences);
        if confirmed.is_empty() {
            return Ok(self.conclude(subject, compared.differences, checks + 1));
        }
        let is_fixed = self.args.fix && self.fix(&subject, &confirmed, compared.must_be_purged)?;
        let lines = confirmed.iter().map(|difference| self.line(&subject, difference, is_fixed));
        let lines: String = lines.collect();
        let printed = self.bar.suspend(|| print(lines));
        printed.map_err(|error| RefetchError::Everyone(error.to_string()))?;
        Ok(Some(if is_fixed { FIXED } else { DIFFER }))
    }

    fn compare(&self, subject: &Subject) -> Result<Compared, RefetchError> {
        let message = self.pace.call(|| ask(self.edge, subject))?;
        let stated = Stated::new(message, subject, &self.session.layout);
        let (store, keys) = (&self.session.store, stated.keys());
        let texts = keys.iter().cloned().zip(store.texts(&keys)?);
        let texts = texts.filter_map(|(key, text)| Some((key, text?))).collect();
        let mut found = Found { texts, is_foreign: false };
        if let [list, ..] = keys.as_slice()
            && !found.texts.contains_key(list)
        {
            found.is_foreign =
                store.snapshot(slice::from_ref(list))?.iter().any(|list| list.content == Content::Foreign);
        }
        Ok(stated.compare(&found, self.args.sample.is_none(), self.args.usage_tolerance.into()))
    }

    /// Writes what Stigg says. True if the differences are gone.
    fn fix(
        &self,
        subject: &Subject,
        differences: &[Difference],
        must_be_purged: bool,
    ) -> Result<bool, RefetchError> {
        let Session { store, layout, .. } = self.session;
        if must_be_purged {
            let subjects = [subject.clone()].into_iter().collect();
            let sent_at = EpochMs(clock::now().0 - 1); // before Stigg is asked
            let purge = Message { event: Event::Purged(subjects), sent_at, implausible_timestamps: 0 };
            let purge: Vec<_> = changes(purge, layout).collect();
            for outcome in self.session.apply(&purge)? {
                outcome.map_err(|error| RefetchError::Customer(error.message))?;
            }
        }
        let refetcher = Refetcher { store, layout, edge: self.edge };
        self.pace.call(|| refetcher.refetch(subject))?;
        Ok(persisting(differences, &self.compare(subject)?.differences).is_empty())
    }

    fn line(&self, subject: &Subject, difference: &Difference, is_fixed: bool) -> String {
        let Difference { id, what, redis, stigg, redis_timestamp, stigg_timestamp, sdks } = difference;
        if self.args.json {
            let mut json = json!(difference);
            json["customer"] = subject.customer.as_str().into();
            json["resource"] = subject.resource.as_ref().map(ResourceId::as_str).into();
            json["fixed"] = is_fixed.into();
            return printable(&json.to_string()) + "\n";
        }
        let id = id.as_ref().map_or(String::new(), |id| format!("{id}: "));
        let redis_at = redis_timestamp.map_or("no timestamp".to_owned(), date);
        let (redis, stigg, stigg_at) = (shown(redis), shown(stigg), date(*stigg_timestamp));
        let sdks = if sdks.len() == 3 { String::new() } else { format!("; only SDK {}", sdks.join(", ")) };
        let fixed = if is_fixed { "; fixed" } else { "" };
        let name = name(subject);
        let line = format!(
            "{name}: {id}{what}: Redis {redis} ({redis_at}), Stigg {stigg} ({stigg_at}){sdks}{fixed}"
        );
        printable(&line) + "\n"
    }
}

fn name(subject: &Subject) -> String {
    let customer = subject.customer.as_str();
    subject
        .resource
        .as_ref()
        .map_or(customer.to_owned(), |id| format!("{customer}, resource {}", id.as_str()))
}

fn shown(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    if value.is_null() { "nothing".to_owned() } else { text }
}
