//! What `check` asks Redis, the queue and the clocks, without leaving a trace.
//!
//! The one key that is written to Redis is deleted again. Deleting a receipt that never existed has no effect on the queue, but
//! is refused if deleting is not allowed. A receive raises the receive count of its message, even with a visibility timeout of
//! 0, so nothing is received where that could move the message to a dead-letter queue too early.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use url::Url;

use super::Severity::{Failure, Good, Note, Warning};
use super::{Area, Report};
use crate::aws::CredentialsProvider;
use crate::cache::changes;
use crate::clock;
use crate::clock::EpochMs;
use crate::commands::output::span;
use crate::commands::{Session, get};
use crate::config::{Config, CredentialSource};
use crate::message;
use crate::pipeline::prefix_check;
use crate::sqs::client::{SqsClient, SqsSettings, parse_http_date};
use crate::sqs::{Queue, QueueError, ReceiptHandle};
use crate::store::admin::ServerFacts;
use crate::store::{CacheStore, LockPatience, StoreError};

/// A dead-letter rule that allows fewer receives than this is not to be used up.
const RECEIVES_FEW: u64 = 5;
/// AWS accepts signatures that are up to this much off.
const REFUSED_FROM_SECS: u64 = 5 * 60;
const MENTIONED_FROM_SECS: u64 = 10;

/// Whether the service can write to Redis, and what Redis says about itself.
pub(super) fn redis_server(report: &mut Report, session: &Session) {
    report.area = Area::Redis;
    let Session { store, layout, prefix, redis_at, .. } = session;
    let token = format!("{:x}", fastrand::u64(..));
    let facts = store.facts();
    let written = store.write_read_delete(&layout.keyspace.probe_key(&token));
    match &facts {
        Ok(facts) => of_server(report, redis_at, facts, written.is_ok()),
        Err(error) if written.is_ok() => report.add(Note, format!("{error}. The service works without it")),
        Err(_) => {} // for the same reason as the write
    }
    if !report.add_result(written.map(|()| "a key below the prefix was written, read and deleted")) {
        return;
    }
    let applied = apply_to_nobody(session, &token);
    report.add_result(applied.map(|()| "the script that writes runs, and sees the SDKs' locks"));
    match store.scan_prefixes(&layout.keyspace, &|| true) {
        Err(error) => report.add(Warning, format!("{error}. Only an invalidation needs SCAN")),
        Ok(scan) if let Some(warning) = prefix_check::warning(prefix, &scan) => report.add(Warning, warning),
        Ok(scan) => {
            let who = if scan.has_own { "customers" } else { "no customers" };
            report.add(Good, format!("{who} of environment '{prefix}' are cached"));
        }
    }
}

/// Applies the usage of a customer who does not exist, as a worker would, which changes nothing. An ACL has to allow scripts and
/// the SDKs' locks (`P-*`).
fn apply_to_nobody(session: &Session, token: &str) -> Result<(), StoreError> {
    let body = json!({"type": "measurement.reported", "customer": {"id": format!("check-{token}")},
        "feature": {"id": "check"}, "currentUsage": 0});
    let message = message::decode(&body.to_string(), clock::now());
    for change in message.into_iter().flat_map(|message| changes(message, &session.layout)) {
        session.store.apply(&[(&change, LockPatience::RESPECT)], &|| true)?.remove(0)?;
    }
    Ok(())
}

fn of_server(report: &mut Report, at: &str, facts: &ServerFacts, is_writable: bool) {
    let version = facts.version.as_deref().unwrap_or("of unknown version");
    let role = facts.role.as_deref().unwrap_or("unknown").replace("master", "primary");
    let remedy = "name the primary in REDIS_HOST, or use REDIS_SENTINELS";
    let replica = |does: &str| format!("{at} is a replica, which {does}; {remedy}");
    match role.as_str() {
        "slave" if is_writable => report.add(Warning, replica("loses its writes")),
        "slave" => report.add(Failure, replica("refuses writes")),
        _ => report.add(Good, format!("{at} answers: Redis {version}, role {role}")),
    }
    if ["2.", "3.", "4.", "5."].iter().any(|old| version.starts_with(old)) {
        report.add(Warning, format!("Redis {version} is old: 6.2 and later are tested; upgrade it"));
    }
    if !facts.is_known {
        report.add(Note, "INFO is not available: no statistics, and version and memory are unknown");
    }
    let is_bounded = facts.maxmemory.is_some_and(|bytes| bytes > 0);
    match facts.maxmemory_policy.as_deref() {
        Some("noeviction") if is_bounded => {
            report.add(Warning, "a full Redis refuses writes: set a maxmemory-policy that evicts");
        }
        Some(policy) => report.add(Good, format!("the maxmemory-policy is {policy}")),
        None => {}
    }
}

/// A queue's attributes by name. IAM may hide any of them.
type Attributes = HashMap<String, String>;

/// Whether messages can be received and deleted, and what else the queue says about itself.
pub(super) fn queue(
    report: &mut Report,
    config: &Config,
    credentials: Arc<CredentialsProvider>,
    receives: bool,
) {
    report.area = Area::Queue;
    let settings = SqsSettings {
        endpoint: config.sqs_endpoint.clone(),
        queue_url: config.queue_url.clone(),
        region: config.region.clone(),
        pool_size: 1,
        long_poll_deadline: Duration::from_secs(5),
        proxy: config.proxy.clone(),
    };
    let queue = SqsClient::new(settings, credentials);
    let attributes = queue.attributes("All");
    match &attributes {
        Ok(attributes) => report.add(Good, described(attributes)),
        // Stigg's credentials may be for receiving and deleting alone.
        Err(error) if error.refused && config.credentials == CredentialSource::EdgeApi => {
            report.add(Note, "these credentials may not read its attributes; the service works without them");
        }
        Err(error) => report.add(Warning, format!("{error}; the service works without them")),
    }
    let deleted = queue.delete_batch(&[ReceiptHandle("check".to_owned())]);
    report.add_result(deleted.map(|_| "reached; messages may be deleted"));
    if let Some(why) = why_not_to_receive(attributes.as_ref()).filter(|_| !receives) {
        let forced = "--receive receives anyway";
        return report.add(Warning, format!("nothing was received: {why}; {forced}"));
    }
    report.add_result(queue.peek().map(|count| match count {
        None => "messages may be received; none was waiting".to_owned(),
        Some(count) => {
            let came = "one message was received and not hidden";
            format!("messages may be received: {came} (its receive count is {count} now)")
        }
    }));
}

/// After how many receives a message goes to the dead-letter queue; none without a redrive policy.
fn receives_max(attributes: &Attributes) -> Option<u64> {
    let policy: Value = serde_json::from_str(attributes.get("RedrivePolicy")?).ok()?;
    // A number, or the same as text: SQS accepts both and returns what it got.
    let max = policy.get("maxReceiveCount")?;
    max.as_u64().or_else(|| max.as_str()?.parse().ok())
}

fn why_not_to_receive(attributes: Result<&Attributes, &QueueError>) -> Option<String> {
    let why = match attributes {
        Ok(attributes) if attributes.get("ApproximateNumberOfMessages").is_some_and(|count| count == "0") => {
            return None;
        }
        Ok(attributes) => {
            let max = receives_max(attributes).filter(|max| *max < RECEIVES_FEW)?;
            format!("after {max} of them the dead-letter rule takes it")
        }
        Err(error) if error.refused => "the dead-letter rule cannot be read".to_owned(),
        // The receive will probably fail as well, and its error says why.
        Err(_) => return None,
    };
    Some(format!("a receive raises a message's receive count, and {why}"))
}

fn described(attributes: &Attributes) -> String {
    let count = |name| attributes.get(name).map_or("?", String::as_str);
    let waiting = count("ApproximateNumberOfMessages");
    let in_flight = count("ApproximateNumberOfMessagesNotVisible");
    let visibility = count("VisibilityTimeout");
    let rule = match receives_max(attributes) {
        Some(max) => format!("a dead-letter rule after {max} receives"),
        None => "no dead-letter rule: an unreadable message stays until it expires".to_owned(),
    };
    let counts = format!("about {waiting} messages wait, {in_flight} are in flight");
    format!("{counts}; {visibility} s of visibility timeout; {rule}")
}

/// This machine's clock against those of the queue, the Edge API and Redis. Calls to the queue are signed with the queue's own
/// time, but tokens for ElastiCache with this machine's, and purges are compared with messages by time.
pub(super) fn clocks(report: &mut Report, config: &Config, session: &Session) {
    report.area = Area::Clock;
    // Without a key a request is refused, with a date.
    let date = |url: &Url| {
        let answer = get(url.as_str(), config.proxy.clone()).ok()?;
        parse_http_date(answer.headers().get("date")?.to_str().ok()?)
    };
    let ahead_ms = |there: EpochMs| clock::now().0 - there.0;
    let clocks = [
        ("the queue", date(&config.sqs_endpoint).map(ahead_ms)),
        ("the Edge API", date(&config.edge_api_url).map(ahead_ms)),
        ("Redis", session.store.time().map(ahead_ms)),
    ];
    let clocks: Vec<_> = clocks.into_iter().filter_map(|(who, ahead_ms)| Some((who, ahead_ms?))).collect();
    judge(report, &clocks, config.redis.iam.is_some());
}

fn judge(report: &mut Report, ahead_ms: &[(&str, i64)], signs_by_own_clock: bool) {
    let Some((who, most_ms)) = ahead_ms.iter().max_by_key(|(_, ahead_ms)| ahead_ms.abs()) else {
        return report.add(Note, "no peer gave its time; check this machine's clock");
    };
    let off_secs = most_ms.unsigned_abs() / 1_000;
    let (off, direction) = (span(off_secs), if *most_ms > 0 { "ahead of" } else { "behind" });
    let off = format!("this machine's clock is {off} {direction} that of {who}; set it by NTP");
    let who: Vec<&str> = ahead_ms.iter().map(|(who, _)| *who).collect();
    match off_secs {
        0..MENTIONED_FROM_SECS => report.add(Good, format!("within 10 s of {}", who.join(", "))),
        MENTIONED_FROM_SECS..REFUSED_FROM_SECS => report.add(Warning, off),
        _ if signs_by_own_clock => report.add(Failure, off + ": ElastiCache refuses tokens"),
        _ => report.add(Warning, off + "; calls are signed with the queue's time"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;

    fn severities(facts: &ServerFacts, is_writable: bool) -> Vec<Severity> {
        let mut report = Report::default();
        of_server(&mut report, "db:6379", facts, is_writable);
        report.findings.iter().map(|finding| finding.severity).collect()
    }

    #[test]
    fn a_replica_a_bound_without_eviction_and_an_old_server_are_reported() {
        let facts = |version: &str, role: &str, policy: &str| ServerFacts {
            is_known: true,
            version: Some(version.to_owned()),
            role: Some(role.to_owned()),
            maxmemory: Some(1),
            maxmemory_policy: Some(policy.to_owned()),
        };
        let primary = facts("7.0.15", "master", "volatile-lru");
        let replica = facts("7.0.15", "slave", "volatile-lru");
        assert_eq!(severities(&primary, true), [Good, Good]);
        assert_eq!(severities(&replica, false), [Failure, Good]);
        assert_eq!(severities(&replica, true), [Warning, Good]);
        let old = facts("5.0.1", "master", "noeviction");
        assert_eq!(severities(&old, true), [Good, Warning, Warning]);
    }

    #[test]
    fn what_a_server_does_not_tell_is_a_note() {
        assert_eq!(severities(&ServerFacts::default(), true), [Good, Note]);
    }

    fn attributes(visible: &str, redrive_policy: &str) -> Attributes {
        let visible = ("ApproximateNumberOfMessages", visible);
        let named = [visible, ("RedrivePolicy", redrive_policy)].into_iter();
        named.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn attributes_are_read_and_none_is_needed() {
        let some = attributes("3", r#"{"deadLetterTargetArn":"arn","maxReceiveCount":"4"}"#);
        assert!(described(&some).starts_with("about 3 messages wait, ? are in flight; ? s"));
        assert!(described(&some).ends_with("a dead-letter rule after 4 receives"));
        assert!(described(&Attributes::new()).contains("no dead-letter rule"));
    }

    #[test]
    fn nothing_is_received_where_few_receives_are_allowed() {
        let may = |max: u64, visible: &str| {
            let policy = format!(r#"{{"maxReceiveCount":{max}}}"#);
            why_not_to_receive(Ok(&attributes(visible, &policy))).is_none()
        };
        assert!(may(10, "7") && may(1, "0"));
        assert!(!may(1, "7") && !may(4, "unknown"));
        assert!(why_not_to_receive(Ok(&attributes("7", ""))).is_none());
        let refused = |refused| QueueError { message: String::new(), kind: String::new(), refused };
        assert!(why_not_to_receive(Err(&refused(true))).is_some());
        assert!(why_not_to_receive(Err(&refused(false))).is_none());
    }

    #[test]
    fn the_clock_that_is_farthest_off_counts() {
        let queue_off = &[("the queue", 301_000)];
        for (ahead_ms, signs_by_own_clock, severity, part) in [
            (&[("the queue", 400), ("Redis", -900)][..], true, Good, "within 10 s of the queue, Redis"),
            (&[("the queue", 0), ("Redis", -11_000)], true, Warning, "11 s behind that of Redis"),
            (queue_off, true, Failure, "5 min 1 s ahead of that of the queue"),
            (queue_off, false, Warning, "signed with the queue's time"),
            (&[], true, Note, "no peer gave"),
        ] {
            let mut report = Report::default();
            judge(&mut report, ahead_ms, signs_by_own_clock);
            let finding = &report.findings[0];
            assert_eq!(finding.severity, severity);
            assert!(finding.text.contains(part), "{finding:?}");
        }
    }
}
