//! The prefix check: once, when Redis can first be used, whether `ENVIRONMENT_PREFIX` can be right.
//!
//! If no customer of this environment is in Redis and customers of others are, the SDKs probably write under another
//! prefix, and nothing that this service writes would ever be read. It is the most common mistake, and nothing else
//! shows it. A new environment looks the same, so there is a warning and no more.

use std::time::Duration;

use super::context::Context;
use crate::store::PrefixScan;

/// Between two steps of the scan, so that it does not slow the work.
const PAUSE: Duration = Duration::from_millis(2);
/// After a scan that failed.
const RETRY_AFTER: Duration = Duration::from_mins(1);
/// How many other prefixes are named, and how many characters of each: it may be anything.
const NAMED_MAX: usize = 5;
const SHOWN_MAX: usize = 60;

/// Waits for Redis, checks until it succeeds once, and warns if there is reason to.
pub fn check_prefix(context: &Context, prefix: &str) {
    let exit = &context.shutdown.exit;
    while !exit.is_stopped() {
        if !context.gate.wait_open(exit, RETRY_AFTER) {
            continue;
        }
        match context.store.scan_prefixes(&context.layout.keyspace, &|| !exit.wait(PAUSE)) {
            Ok(scan) => {
                log::debug!(has_own = scan.has_own, others = scan.others.len(); "checked whose customers are in Redis");
                if let Some(warning) = warning(prefix, &scan) {
                    log::warn!("{warning}");
                }
                return;
            }
            Err(error) => log::debug!(err:% = error; "ENVIRONMENT_PREFIX is not checked yet"),
        }
        exit.wait(RETRY_AFTER);
    }
}

/// What is suspicious about the customers that were found.
pub fn warning(prefix: &str, scan: &PrefixScan) -> Option<String> {
    if scan.has_own || scan.others.is_empty() {
        return None;
    }
    let place = if scan.is_complete { "Redis" } else { "the part of Redis that was scanned" };
    let shown = |prefix: &str| {
        let short: String = prefix.chars().take(SHOWN_MAX).collect();
        format!("'{}'", short.escape_debug())
    };
    let mut named: Vec<String> = scan.others.iter().take(NAMED_MAX).map(|other| shown(other)).collect();
    if let more @ 1.. = scan.others.len() - named.len() {
        named.push(format!("{more} more"));
    }
    Some(format!(
        "no customer of ENVIRONMENT_PREFIX {} is in {place}, but there are customers of {}; check that \
         ENVIRONMENT_PREFIX is the environmentPrefix that the SDKs are given (and REDIS_DB their database), else they \
         never read what is written here. In a new environment this is expected until an SDK has cached a customer",
        shown(prefix),
        named.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(has_own: bool, others: &[&str]) -> PrefixScan {
        PrefixScan {
            has_own,
            others: others.iter().map(|prefix| (*prefix).to_owned()).collect(),
            is_complete: true,
        }
    }

    #[test]
    fn customers_of_others_alone_are_worth_a_warning_that_names_a_few() {
        let others = ["a", "b", "c", "d", "line\nbreak", "f", "g"];
        let warning = warning("production", &scan(false, &others)).unwrap();
        assert!(
            warning.starts_with(
                "no customer of ENVIRONMENT_PREFIX 'production' is in Redis, but there are customers of 'a', 'b', 'c', \
                 'd', 'f', 2 more; check that ENVIRONMENT_PREFIX is the environmentPrefix"
            ),
            "{warning}"
        );
        let long = "x".repeat(1_000);
        let warning = super::warning("p", &scan(false, &[&long, "line\nbreak"])).unwrap();
        assert!(warning.contains(r"'line\nbreak'") && warning.len() < 600, "{warning}");
    }

    #[test]
    fn an_empty_redis_and_one_with_own_customers_are_no_reason_to_speak() {
        assert_eq!(warning("p", &scan(false, &[])), None);
        assert_eq!(warning("p", &scan(true, &["staging"])), None);
    }

    #[test]
    fn what_was_not_looked_at_is_not_told_to_be_empty() {
        let part = PrefixScan { is_complete: false, ..scan(false, &["staging"]) };
        let warning = warning("p", &part).unwrap();
        assert!(warning.contains("is in the part of Redis that was scanned"), "{warning}");
    }
}
