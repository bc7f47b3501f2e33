//! This machine's clock against those of the queue, the Edge API and Redis. AWS refuses signatures that are some minutes
//! off, and purges are compared with messages by time.

use std::time::Duration;

use http::Request;
use url::Url;

use super::{Area, Finding};
use crate::clock;
use crate::commands::human;
use crate::config::{Config, Proxy};
use crate::entitlement::EpochMs;
use crate::http_client::{HttpClient, HttpOptions};
use crate::sqs::client::parse_http_date;
use crate::store::RedisStore;

/// AWS takes signatures that are up to this much off.
const REFUSED_FROM_MS: i64 = 5 * 60 * 1000;
/// From here on it is worth a word.
const MENTIONED_FROM_MS: i64 = 10 * 1000;

pub(super) fn check(config: &Config, store: &RedisStore, findings: &mut Vec<Finding>) {
    let proxy = config.proxy.as_ref();
    let mut told = Vec::new();
    let mut ask = |who, ask: &dyn Fn() -> Option<EpochMs>| {
        let before = clock::now();
        let there = ask();
        let here = i64::midpoint(before.0, clock::now().0);
        told.extend(there.map(|there| (who, here - there.0)));
    };
    ask("the queue", &|| date_of(&config.sqs_endpoint, proxy));
    ask("the Edge API", &|| date_of(&config.edge_api_url, proxy));
    ask("Redis", &|| store.time());
    findings.push(judge(&told));
}

fn judge(told: &[(&str, i64)]) -> Finding {
    let Some((who, ahead_ms)) = told.iter().max_by_key(|(_, ahead_ms)| ahead_ms.abs()) else {
        return Area::Clock.warning("nobody told what time it is; check this machine's clock");
    };
    let off = human::span(Duration::from_millis(ahead_ms.unsigned_abs()));
    let direction = if *ahead_ms > 0 { "ahead of" } else { "behind" };
    let text = format!("this machine's clock is {off} {direction} that of {who}; set it by NTP");
    match ahead_ms.abs() {
        REFUSED_FROM_MS.. => {
            Area::Clock.failure(format!("{text}: AWS refuses signatures that are 5 min off"))
        }
        MENTIONED_FROM_MS.. => Area::Clock.warning(text),
        _ => {
            let who: Vec<&str> = told.iter().map(|(who, _)| *who).collect();
            Area::Clock.ok(format!("within 10 s of {}", who.join(", ")))
        }
    }
}

/// The `Date` of whatever it answers: an unsigned request without a key is refused, with a date.
fn date_of(url: &Url, proxy: Option<&Proxy>) -> Option<EpochMs> {
    let options = HttpOptions {
        pool_size: 1,
        answer_bytes_max: 1024 * 1024,
        deadline: Duration::from_secs(5),
        proxy: proxy.cloned(),
    };
    let request = Request::get(url.as_str()).body(Vec::new()).ok()?;
    let answer = HttpClient::new(url, options).send(request, None).ok()?;
    parse_http_date(answer.headers.get("date")?.to_str().ok()?)
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn the_clock_that_is_farthest_off_counts() {
        for (told, status, part) in [
            (
                &[("the queue", 400), ("Redis", -900)][..],
                Status::Ok,
                "within 10 s of the queue, Redis",
            ),
            (
                &[("the queue", 0), ("Redis", -11_000)],
                Status::Warning,
                "11 s behind that of Redis",
            ),
            (
                &[("the queue", 301_000)],
                Status::Failure,
                "5 min 1 s ahead of that of the queue",
            ),
            (&[], Status::Warning, "nobody told"),
        ] {
            let finding = judge(told);
            assert_eq!(finding.status, status);
            assert!(finding.text.contains(part), "{}", finding.text);
        }
    }
}
