//! This machine's clock against those of the queue, the Edge API and Redis. Calls to the queue are signed with the queue's
//! own time, but tokens for ElastiCache with this machine's, and purges are compared with messages by time.

use std::time::Duration;

use http::Request;
use url::Url;

use super::{Area, Finding};
use crate::clock;
use crate::commands::output::span;
use crate::config::Config;
use crate::entitlement::EpochMs;
use crate::http_client::{HttpClient, HttpOptions};
use crate::sqs::client::parse_http_date;
use crate::store::RedisStore;

/// AWS accepts signatures that are up to this much off.
const REFUSED_FROM_SECS: u64 = 5 * 60;
const MENTIONED_FROM_SECS: u64 = 10;

pub(super) fn check(config: &Config, store: &RedisStore) -> Finding {
    let ahead_ms = |ask: &dyn Fn() -> Option<EpochMs>| {
        let before = clock::now();
        let there = ask()?;
        Some(i64::midpoint(before.0, clock::now().0) - there.0)
    };
    let clocks = [
        ("the queue", ahead_ms(&|| date_of(config, &config.sqs_endpoint))),
        (
            "the Edge API",
            ahead_ms(&|| date_of(config, &config.edge_api_url)),
        ),
        ("Redis", ahead_ms(&|| store.time())),
    ];
    let known: Vec<_> = clocks
        .into_iter()
        .filter_map(|(who, ahead_ms)| Some((who, ahead_ms?)))
        .collect();
    judge(&known, config.redis.iam.is_some())
}

fn judge(clocks: &[(&str, i64)], signs_by_own_clock: bool) -> Finding {
    let Some((who, ahead_ms)) = clocks.iter().max_by_key(|(_, ahead_ms)| ahead_ms.abs()) else {
        return Area::Clock.note("no peer tells what time it is; check this machine's clock");
    };
    let off_secs = ahead_ms.unsigned_abs() / 1_000;
    if off_secs < MENTIONED_FROM_SECS {
        let who: Vec<&str> = clocks.iter().map(|(who, _)| *who).collect();
        return Area::Clock.ok(format!("within 10 s of {}", who.join(", ")));
    }
    let direction = if *ahead_ms > 0 { "ahead of" } else { "behind" };
    let text = format!(
        "this machine's clock is {} {direction} that of {who}; set it by NTP",
        span(off_secs)
    );
    if off_secs < REFUSED_FROM_SECS {
        Area::Clock.warning(text)
    } else if signs_by_own_clock {
        Area::Clock.failure(format!("{text}: ElastiCache refuses tokens that are 5 min off"))
    } else {
        Area::Clock.warning(format!(
            "{text}: until then, calls to the queue are signed with the queue's time"
        ))
    }
}

/// The `Date` of whatever is answered: an unsigned request without a key is refused, with a date.
fn date_of(config: &Config, url: &Url) -> Option<EpochMs> {
    let options = HttpOptions {
        pool_size: 1,
        answer_bytes_max: 1024 * 1024,
        deadline: Duration::from_secs(5),
        proxy: config.proxy.clone(),
    };
    let request = Request::get(url.as_str()).body(Vec::new()).ok()?;
    let answer = HttpClient::new(url, options).send(request, None).ok()?;
    parse_http_date(answer.headers.get("date")?.to_str().ok()?)
}

#[cfg(test)]
mod tests {
    use super::super::Severity::{Failure, Note, Ok, Warning};
    use super::*;

    #[test]
    fn the_clock_that_is_farthest_off_counts() {
        for (clocks, signs_by_own_clock, severity, part) in [
            (
                &[("the queue", 400), ("Redis", -900)][..],
                true,
                Ok,
                "within 10 s of the queue, Redis",
            ),
            (
                &[("the queue", 0), ("Redis", -11_000)],
                true,
                Warning,
                "11 s behind that of Redis",
            ),
            (
                &[("the queue", 301_000)],
                true,
                Failure,
                "5 min 1 s ahead of that of the queue",
            ),
            (
                &[("the queue", 301_000)],
                false,
                Warning,
                "signed with the queue's time",
            ),
            (&[], true, Note, "no peer tells"),
        ] {
            let finding = judge(clocks, signs_by_own_clock);
            assert_eq!(finding.severity, severity);
            assert!(finding.text.contains(part), "{}", finding.text);
        }
    }
}
