//! What `inspect` found, for people.

use std::fmt::Write as _;
use std::io;

use console::style;

use super::report::{Report, Row, Stamp};
use crate::commands::output::{ago, columns, date, printable, span};
use crate::store::admin::KeyExpiry;

pub(super) fn table(report: &Report) -> io::Result<String> {
    let mut text = String::new();
    let mut line = |name: &str, what: &str| {
        let _ = writeln!(text, "{name:<9} {}", printable(what)); // a string accepts everything
    };
    match &report.resource {
        None => line("customer", &report.customer),
        Some(resource) => line("customer", &format!("{}, resource {resource}", report.customer)),
    }
    line("key", &report.key);
    match report.format {
        _ if !report.cached => line("list", "not cached"),
        "none" => line("list", &format!("unreadable, {}", of(&report.list))),
        form => line("list", &format!("form {form}, {}", of(&report.list))),
    }
    if let Some(stamp) = &report.customer_list {
        let of = match (&stamp.date, stamp.age_secs) {
            (Some(date), Some(secs)) => format!("own list is of {date} ({})", ago(secs)),
            _ => "own list is not cached, or has no timestamp".to_owned(),
        };
        line("customer's", &of);
    }
    match (&report.metadata.access_denied_reason, report.metadata.cached) {
        (Some(reason), _) => line(
            "metadata",
            &format!("access denied: {}", reason.as_str().unwrap_or("?")),
        ),
        (None, true) => line("metadata", "no reason to deny access"),
        (None, false) => line("metadata", "none (only SDK 4.x reads it)"),
    }
    for lock in &report.locks {
        line("lock", &format!("{lock} is held: an SDK is refetching"));
    }
    for purge in &report.purges {
        line(
            "purged",
            &format!(
                "{} ({}): what was sent before is out of order",
                purge.date, purge.key
            ),
        );
    }
    for reader in &report.readers {
        let is_hit = reader.outcome == "hit";
        let outcome = if is_hit {
            style("hit ").green()
        } else {
            style("miss").red()
        };
        let reasons = printable(&reader.reasons.join("; "));
        let line = format!("{:<9} {outcome}  {reasons}", format!("SDK {}", reader.sdk));
        let _ = writeln!(text, "{}", line.trim_end());
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
        rows.extend(report.entitlements.iter().map(cells));
        text.push('\n');
        text += &columns(&rows)?;
    }
    Ok(text)
}

fn cells(row: &Row) -> [String; 7] {
    let limit = match (&row.access_denied_reason, &row.limit) {
        (Some(reason), _) => Some(format!("denied: {reason}")),
        _ if row.unlimited => Some("unlimited".to_owned()),
        (None, Some(limit)) if row.soft_limit => Some(format!("{limit} (soft)")),
        (None, limit) => limit.as_ref().map(ToString::to_string),
    };
    let usage = row.usage.as_ref();
    let as_of = usage.and_then(|usage| match usage.stamp.problem {
        _ if !usage.cached => Some("no usage key: as in the list".to_owned()),
        Some(problem) => Some(problem.to_owned()),
        None => usage.stamp.age_secs.map(ago),
    });
    [
        Some(row.id.clone()),
        Some(row.kind.to_owned()),
        usage
            .and_then(|usage| usage.current_usage.as_ref())
            .map(ToString::to_string),
        limit,
        usage.and_then(|usage| usage.usage_period_end).map(date),
        as_of,
        usage.and_then(|usage| life(&usage.stamp)),
    ]
    .map(|cell| cell.map_or_else(|| "-".to_owned(), |cell| printable(&cell)))
}

/// When a list was true, and how long it lives.
fn of(stamp: &Stamp) -> String {
    let at = match (stamp.timestamp, &stamp.date, stamp.age_secs) {
        (Some(0), _, _) => "timestamp 0, which readers write for an empty list".to_owned(),
        (_, Some(date), Some(secs)) => format!("of {date} ({})", ago(secs)),
        _ => stamp.problem.unwrap_or("no timestamp").to_owned(),
    };
    match life(stamp) {
        Some(life) if stamp.expires_in_secs.is_some() => format!("{at}, expires in {life}"),
        Some(life) => format!("{at}, {life}"),
        None => at,
    }
}

fn life(stamp: &Stamp) -> Option<String> {
    match stamp.expiry {
        KeyExpiry::Absent => None,
        KeyExpiry::Never => Some("never expires".to_owned()),
        KeyExpiry::In(left) => Some(span(left.as_secs().max(1))),
        KeyExpiry::Unknown => Some("expiry unknown (no PTTL for this user)".to_owned()),
    }
}
