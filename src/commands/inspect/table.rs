//! What `inspect` found, for people.

use std::fmt::Write;
use std::time::Duration;

use super::report::{Report, Row, Stamp};
use crate::commands::human;
use crate::commands::terminal::{Paint, columns};
use crate::entitlement::EpochMs;
use crate::store::admin::KeyExpiry;

pub(super) fn table(report: &Report, now: EpochMs, is_coloured: bool) -> String {
    let paint = Paint(is_coloured);
    let mut text = String::new();
    let mut line = |name: &str, what: &str| {
        let _ = writeln!(text, "{name:<9} {what}"); // a string takes everything
    };
    let whose = match &report.resource {
        None => report.customer.clone(),
        Some(resource) => format!("{}, resource {resource}", report.customer),
    };
    line("customer", &human::printable(&whose));
    line("key", &human::printable(&report.key));
    if report.cached {
        let form = match report.format {
            "none" => "unreadable".to_owned(),
            form => format!("form {form}"),
        };
        line("list", &format!("{form}, {}", stamp(&report.list, now)));
    } else {
        line("list", "not cached");
    }
    if let Some(customers) = &report.customer_list {
        line("customer's", &customers_list(customers, now));
    }
    let metadata = match (&report.metadata.access_denied_reason, report.metadata.cached) {
        (Some(reason), _) => format!("access denied: {}", reason.as_str().unwrap_or("?")),
        (None, true) => "no reason to deny access".to_owned(),
        (None, false) => "none (only SDK 4.x reads it)".to_owned(),
    };
    line("metadata", &human::printable(&metadata));
    for lock in &report.locks {
        line(
            "lock",
            &format!("{} is held: an SDK is refetching", human::printable(lock)),
        );
    }
    for purge in &report.purges {
        line(
            "purged",
            &format!(
                "{} ({}): what was sent before is late news",
                purge.date,
                human::printable(&purge.key)
            ),
        );
    }
    for reader in &report.readers {
        let outcome = if reader.outcome == "hit" {
            paint.green("hit ")
        } else {
            paint.red("miss")
        };
        let reasons = reader.reasons.join("; ");
        line(
            &format!("SDK {}", reader.sdk),
            format!("{outcome}  {reasons}").trim_end(),
        );
    }
    if !report.entitlements.is_empty() {
        let head = [
            "ENTITLEMENT",
            "KIND",
            "USAGE",
            "LIMIT",
            "PERIOD ENDS",
            "AS OF",
            "EXPIRES IN",
        ];
        let mut rows = vec![head.map(str::to_owned)];
        rows.extend(
            report
                .entitlements
                .iter()
                .map(|row| cells(row, now).map(|cell| human::printable(&cell))),
        );
        text.push('\n');
        text.push_str(&columns(&rows));
    }
    text
}

fn cells(row: &Row, now: EpochMs) -> [String; 7] {
    let none = || "-".to_owned();
    let limit = match (&row.limit, row.unlimited) {
        (_, true) => "unlimited".to_owned(),
        (Some(limit), false) if row.soft_limit => format!("{limit} (soft)"),
        (Some(limit), false) => limit.to_string(),
        (None, false) => none(),
    };
    let denied = row
        .access_denied_reason
        .as_ref()
        .map_or_else(|| limit.clone(), |reason| format!("denied: {reason}"));
    let Some(usage) = &row.usage else {
        let [usage, ends, at, expires] = [(); 4].map(|()| none());
        return [
            row.id.clone(),
            row.kind.to_owned(),
            usage,
            denied,
            ends,
            at,
            expires,
        ];
    };
    let number = usage
        .current_usage
        .as_ref()
        .map_or_else(none, ToString::to_string);
    let at = if !usage.cached {
        "no usage key: as in the list".to_owned()
    } else if let Some(problem) = usage.stamp.problem {
        problem.to_owned()
    } else {
        usage
            .stamp
            .timestamp
            .map_or_else(none, |at| ago(EpochMs(at), now))
    };
    [
        row.id.clone(),
        row.kind.to_owned(),
        number,
        denied,
        usage
            .usage_period_end
            .map_or_else(none, |end| human::date(EpochMs(end))),
        at,
        life(usage.stamp.life).unwrap_or_else(none),
    ]
}

fn customers_list(customers: &Stamp, now: EpochMs) -> String {
    match customers.timestamp {
        Some(at) => format!(
            "own list is of {} ({})",
            human::date(EpochMs(at)),
            ago(EpochMs(at), now)
        ),
        None => "own list is not cached, or has no timestamp".to_owned(),
    }
}

fn stamp(stamp: &Stamp, now: EpochMs) -> String {
    let at = match (stamp.timestamp, stamp.problem) {
        (Some(0), _) => "timestamp 0, which readers write for an empty list".to_owned(),
        (Some(at), _) => format!("of {} ({})", human::date(EpochMs(at)), ago(EpochMs(at), now)),
        (None, problem) => problem.unwrap_or("no timestamp").to_owned(),
    };
    match (life(stamp.life), stamp.life) {
        (Some(life), KeyExpiry::In(_)) => format!("{at}, expires in {life}"),
        (Some(life), _) => format!("{at}, {life}"),
        (None, _) => at,
    }
}

fn ago(at: EpochMs, now: EpochMs) -> String {
    let age = human::age(at, now);
    if at > now { age } else { format!("{age} ago") }
}

fn life(life: KeyExpiry) -> Option<String> {
    match life {
        KeyExpiry::Absent => None,
        KeyExpiry::Never => Some("never expires".to_owned()),
        KeyExpiry::In(left) => Some(human::span(left.max(Duration::from_secs(1)))),
        KeyExpiry::Unknown => Some("expiry unknown (no PTTL for this user)".to_owned()),
    }
}
