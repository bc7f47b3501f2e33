//! What is answered to a method and a target. No socket here: the server asks, this says.
//!
//! Refuses every method but GET and HEAD, and every path but the three and, where there is a status page, its two.

use std::time::Instant;

use serde::Serialize;

use crate::entitlement::EpochMs;
use crate::ops::health::{HealthBoard, Readiness};
use crate::ops::metrics::Metrics;
use crate::ops::status::{PAGE_HEADERS, StatusBoard};

const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Longest path, in characters, that a 404 repeats.
const ECHOED_PATH_CHARS_MAX: usize = 256;

/// One answer; the server adds what is the same for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    /// Beside those that all answers have.
    pub(super) headers: &'static [(&'static str, &'static str)],
    pub(super) body: String,
}

/// Whom to ask.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sources<'a> {
    pub(super) health: &'a HealthBoard,
    pub(super) metrics: &'a Metrics,
    /// None if it is switched off.
    pub(super) status: Option<&'a StatusBoard>,
}

/// When it was asked, on both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) now: Instant,
    pub(super) at: EpochMs,
}

#[derive(Serialize)]
struct Live {
    status: &'static str,
}

#[derive(Serialize)]
struct Ready {
    status: &'static str,
    consumers: usize,
    redis: &'static str,
}

#[derive(Serialize)]
struct Refused<'a> {
    error: &'static str,
    path: &'a str,
}

/// The answer to `method` (as on the wire: `GET`) for `target` (as on the wire: a path with or without a query,
/// or a whole URL as a proxy sends it). The body is the same for HEAD; the server leaves it out.
pub(super) fn answer(method: &str, target: &str, sources: Sources<'_>, asked: Asked) -> Answer {
    let path = path_of(target);
    let Sources {
        health,
        metrics,
        status,
    } = sources;
    let now = asked.now;
    let endpoint: &dyn Fn() -> Answer = match (path.strip_suffix('/').unwrap_or(path), status) {
        ("/livez", _) => &|| live(health, now),
        ("/readyz", _) => &|| ready(health, now),
        ("/metrics", _) => &|| prometheus_text(health, metrics, now),
        ("/status", Some(status)) => &|| told(JSON, &[], status.json(now, asked.at)),
        ("", Some(status)) if path == "/" => &|| told(HTML, PAGE_HEADERS, status.page(now, asked.at)),
        _ => return refused(404, "not found", path, &[]),
    };
    if !matches!(method, "GET" | "HEAD") {
        return refused(405, "method not allowed", path, &[("Allow", "GET, HEAD")]);
    }
    endpoint()
}

fn told(
    content_type: &'static str,
    headers: &'static [(&'static str, &'static str)],
    body: String,
) -> Answer {
    Answer {
        status: 200,
        content_type,
        headers,
        body,
    }
}

fn live(health: &HealthBoard, now: Instant) -> Answer {
    let is_alive = health.is_live(now);
    json(
        if is_alive { 200 } else { 503 },
        &Live {
            status: up_or_down(is_alive),
        },
    )
}

fn ready(health: &HealthBoard, now: Instant) -> Answer {
    let Readiness {
        up,
        consumers,
        redis_connected,
    } = health.readiness(now);
    let redis = if redis_connected {
        "CONNECTED"
    } else {
        "DISCONNECTED"
    };
    json(
        if up { 200 } else { 503 },
        &Ready {
            status: up_or_down(up),
            consumers,
            redis,
        },
    )
}

fn prometheus_text(health: &HealthBoard, metrics: &Metrics, now: Instant) -> Answer {
    // From the same board as /readyz, at the same moment, so that the two never contradict each other for long.
    let readiness = health.readiness(now);
    metrics
        .consumers
        .set(i64::try_from(readiness.consumers).unwrap_or(i64::MAX));
    metrics.redis_up.set(i64::from(readiness.redis_connected));
    told(PROMETHEUS_TEXT, &[], metrics.render())
}

fn up_or_down(up: bool) -> &'static str {
    if up { "UP" } else { "DOWN" }
}

fn refused(
    status: u16,
    error: &'static str,
    path: &str,
    headers: &'static [(&'static str, &'static str)],
) -> Answer {
    let path = match path.char_indices().nth(ECHOED_PATH_CHARS_MAX) {
        Some((end, _)) => &path[..end],
        None => path,
    };
    Answer {
        headers,
        ..json(status, &Refused { error, path })
    }
}

fn json(status: u16, body: &impl Serialize) -> Answer {
    // Structs of strings and numbers always serialize.
    let body = serde_json::to_string(body).unwrap_or_default();
    Answer {
        status,
        content_type: JSON,
        headers: &[],
        body,
    }
}

/// The path alone: without the query, and without scheme and host where a proxy sent a whole URL.
fn path_of(target: &str) -> &str {
    let without_query = target.split('?').next().unwrap_or(target);
    match without_query.split_once("://") {
        Some((_scheme, rest)) => rest.find('/').map_or("/", |start| &rest[start..]),
        None => without_query,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::ops::health::Patience;
    use crate::ops::status::Fixed;

    fn board() -> (HealthBoard, Instant) {
        let now = Instant::now();
        (HealthBoard::new(10, Patience::default(), now), now)
    }

    fn ask(method: &str, target: &str) -> Answer {
        let (health, now) = board();
        health.set_redis_connected(true);
        health.call_succeeded(3, now);
        ask_of(&health, method, target, now)
    }

    fn ask_of(health: &HealthBoard, method: &str, target: &str, now: Instant) -> Answer {
        let metrics = Metrics::new().unwrap();
        let sources = Sources {
            health,
            metrics: &metrics,
            status: None,
        };
        let at = EpochMs(1_793_491_200_000);
        answer(method, target, sources, Asked { now, at })
    }

    #[test]
    fn queries_trailing_slashes_and_whole_urls_are_tolerated() {
        for target in [
            "/readyz",
            "/readyz/",
            "/readyz?verbose=1",
            "/readyz/?verbose=/a?b",
            "http://service:4000/readyz?verbose",
        ] {
            let Answer { status, body, .. } = ask("GET", target);
            assert_eq!(
                (status, body.as_str()),
                (200, r#"{"status":"UP","consumers":1,"redis":"CONNECTED"}"#),
                "{target}"
            );
        }
    }

    #[test]
    fn with_a_status_page_there_are_two_paths_more_and_without_one_they_are_not_found() {
        let (health, now) = board();
        let (health, metrics) = (Arc::new(health), Arc::new(Metrics::new().unwrap()));
        let faults = Arc::default();
        let status = StatusBoard::new(
            Fixed::default(),
            Arc::clone(&health),
            Arc::clone(&metrics),
            faults,
            now,
        );
        let sources = Sources {
            health: &health,
            metrics: &metrics,
            status: Some(&status),
        };
        let asked = Asked { now, at: EpochMs(0) };
        let ask = |method, target| answer(method, target, sources, asked);
        for target in ["/", "/?x=1", "http://host", "http://host/"] {
            let page = ask("GET", target);
            assert_eq!((page.status, page.content_type), (200, HTML), "{target}");
            assert!(
                page.headers
                    .iter()
                    .any(|(name, _)| *name == "Content-Security-Policy")
            );
            assert!(page.body.starts_with("<!DOCTYPE html>") && page.body.ends_with("</html>\n"));
        }
        for target in ["/status", "/status/", "/status?x"] {
            let json = ask("HEAD", target);
            assert_eq!((json.status, json.content_type), (200, JSON), "{target}");
            assert!(json.body.starts_with("{\"service\":"), "{}", json.body);
        }
        for target in ["/", "/status"] {
            assert_eq!(ask("POST", target).status, 405, "{target}");
        }
        for target in ["", "*", "//", "/status//", "/Status", "status"] {
            assert_eq!(ask("GET", target).status, 404, "{target}");
        }
        assert_eq!(super::tests::ask("GET", "/status").status, 404);
        assert_eq!(super::tests::ask("POST", "/").status, 404);
    }

    #[test]
    fn near_misses_are_not_found() {
        for target in [
            "/",
            "",
            "*",
            "//",
            "/Readyz",
            "/readyz//",
            "/readyz/x",
            "readyz",
            "/metricsx",
            "http://host",
        ] {
            assert_eq!(ask("GET", target).status, 404, "{target}");
        }
    }

    #[test]
    fn a_path_that_is_not_there_is_not_found_by_any_method_and_told_without_its_query() {
        for method in ["GET", "POST", "BREW"] {
            assert_eq!(
                ask(method, "/a\"b?token=x"),
                Answer {
                    status: 404,
                    content_type: "application/json",
                    headers: &[],
                    body: r#"{"error":"not found","path":"/a\"b"}"#.to_owned(),
                }
            );
        }
    }

    #[test]
    fn a_long_path_is_not_repeated_whole() {
        let body = ask("GET", &format!("/{}", "é".repeat(100_000))).body;
        assert_eq!(
            body,
            format!(r#"{{"error":"not found","path":"/{}"}}"#, "é".repeat(255))
        );
    }

    #[test]
    fn other_methods_are_told_what_is_allowed() {
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "get", ""] {
            let Answer {
                status,
                headers,
                body,
                ..
            } = ask(method, "/livez");
            assert_eq!(
                (status, headers, body.as_str()),
                (
                    405,
                    [("Allow", "GET, HEAD")].as_slice(),
                    r#"{"error":"method not allowed","path":"/livez"}"#
                )
            );
        }
    }

    #[test]
    fn dead_loops_make_the_service_not_live() {
        let (health, now) = board();
        let later = now + Duration::from_hours(1);
        let dead = ask_of(&health, "GET", "/livez", later);
        assert_eq!((dead.status, dead.body.as_str()), (503, r#"{"status":"DOWN"}"#));
    }

    #[test]
    fn a_service_that_is_not_ready_still_lives() {
        let (health, now) = board();
        let live = ask_of(&health, "GET", "/livez", now);
        assert_eq!((live.status, live.body.as_str()), (200, r#"{"status":"UP"}"#));
    }
}
