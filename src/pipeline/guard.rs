//! Looks once, when Redis is first there, whether ENVIRONMENT_PREFIX can be right: if no customer of this environment
//! is in Redis, and customers of others are, the SDKs probably write under another prefix, and nothing that this
//! service writes would ever be read. It is the commonest mistake of all, and nothing else shows it.
//!
//! It says so and no more: nothing is wiped and nothing refused, since a new environment looks the same.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::gate::RedisGate;
use crate::cache::keyspace::Keyspace;
use crate::shutdown::Stop;
use crate::store::{CacheStore, Cause, PrefixScan};

/// Between two steps, so that the look is no load beside the work.
const PAUSE: Duration = Duration::from_millis(2);
/// After a look that failed.
const AGAIN_AFTER: Duration = Duration::from_secs(5);
/// So many other prefixes are named.
const NAMED_MAX: usize = 5;
/// The longest that one of them is shown.
const SHOWN_MAX: usize = 60;

/// The guard.
pub struct Guard {
    /// Redis.
    pub store: Arc<dyn CacheStore>,
    /// Knows when Redis is there.
    pub gate: Arc<RedisGate>,
    /// The environment's keys.
    pub keyspace: Keyspace,
    /// `ENVIRONMENT_PREFIX`.
    pub prefix: String,
    /// Ends the look.
    pub stop: Stop,
}

impl Guard {
    /// Waits for Redis, looks once, and says what is worth saying.
    pub fn run(&self) {
        while !self.stop.is_stopped() {
            if self.gate.wait_open(&self.stop, AGAIN_AFTER) && self.look() {
                return;
            }
        }
    }

    /// One look, and what there is to say of it. False if it has to be looked again.
    fn look(&self) -> bool {
        match self
            .store
            .scan_prefixes(&self.keyspace, &|| !self.stop.wait(PAUSE))
        {
            Ok(survey) => {
                let (has_own, others) = (survey.has_own, survey.others.len());
                log::debug!(has_own, others; "looked whose customers are in Redis");
                if let Some(warning) = warning(&self.prefix, &survey) {
                    log::warn!("{warning}");
                }
                true
            }
            Err(error) if matches!(error.cause, Cause::NoPermission | Cause::Stopped) => {
                log::debug!(err:% = error; "whether ENVIRONMENT_PREFIX is that of the SDKs is not looked at");
                true
            }
            Err(error) => {
                log::debug!(err:% = error; "cannot look yet whether ENVIRONMENT_PREFIX is that of the SDKs");
                self.stop.wait(AGAIN_AFTER);
                false
            }
        }
    }
}

/// What a survey gives reason to say.
fn warning(prefix: &str, survey: &PrefixScan) -> Option<String> {
    let PrefixScan {
        has_own,
        others,
        is_complete,
    } = survey;
    if *has_own || others.is_empty() {
        return None;
    }
    let looked_at = if *is_complete {
        "Redis"
    } else {
        "the part of Redis that was looked at"
    };
    Some(format!(
        "no customer of ENVIRONMENT_PREFIX {} is in {looked_at}, but there are customers of {}; check that \
         ENVIRONMENT_PREFIX is the environmentPrefix that the SDKs are given (and REDIS_DB their database), else they \
         never read what is written here. A new environment looks the same: then all is well once an SDK has cached a \
         customer",
        shown(prefix),
        list(others)
    ))
}

fn list(others: &BTreeSet<String>) -> String {
    let named: Vec<String> = others
        .iter()
        .take(NAMED_MAX)
        .map(|prefix| shown(prefix))
        .collect();
    let more = others.len().saturating_sub(NAMED_MAX);
    let rest = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    format!("{}{rest}", named.join(", "))
}

/// A prefix in quotes, in one line, and short: it may be anything.
fn shown(prefix: &str) -> String {
    let short: String = prefix.chars().take(SHOWN_MAX).collect();
    let rest = if short.len() < prefix.len() { "…" } else { "" };
    format!("'{}{rest}'", short.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survey(has_own: bool, others: &[&str]) -> PrefixScan {
        PrefixScan {
            has_own,
            others: others.iter().map(|prefix| (*prefix).to_owned()).collect(),
            is_complete: true,
        }
    }

    #[test]
    fn customers_of_others_alone_are_worth_a_warning_that_names_a_few() {
        let others = ["a", "b", "c", "d", "line\nbreak", "f", "g"];
        let warning = warning("production", &survey(false, &others)).unwrap();
        assert!(
            warning.starts_with(
                "no customer of ENVIRONMENT_PREFIX 'production' is in Redis, but there are customers of 'a', 'b', 'c', \
                 'd', 'f' and 2 more; check that ENVIRONMENT_PREFIX is the environmentPrefix"
            ),
            "{warning}"
        );
        let long = "x".repeat(1_000);
        let warning = super::warning("p", &survey(false, &[&long, "line\nbreak"])).unwrap();
        assert!(
            warning.contains(r"'line\nbreak'") && warning.len() < 600,
            "{warning}"
        );
    }

    #[test]
    fn an_empty_redis_and_one_with_own_customers_are_no_reason_to_speak() {
        assert_eq!(warning("p", &survey(false, &[])), None);
        assert_eq!(warning("p", &survey(true, &["staging"])), None);
    }

    #[test]
    fn what_was_not_looked_at_is_not_told_to_be_empty() {
        let part = PrefixScan {
            is_complete: false,
            ..survey(false, &["staging"])
        };
        let warning = warning("p", &part).unwrap();
        assert!(
            warning.contains("is in the part of Redis that was looked at"),
            "{warning}"
        );
    }
}
