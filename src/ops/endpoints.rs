//! Turns the bytes of a request into a reply. No sockets here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use http::Uri;
use httparse::{Error, Request, Status};
use serde_json::{Value, json};

use super::health::HealthBoard;
use super::metrics::Metrics;
use super::status::{PAGE, PAGE_POLICY, StatusBoard};
use crate::clock;

/// The largest head of a request.
pub(super) const HEAD_BYTES_MAX: usize = 8 * 1024;
const HEADERS_MAX: usize = 64;
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A response; the server adds the headers that all have.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OpsReply {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) headers: Vec<(&'static str, &'static str)>,
    pub(super) body: String,
    pub(super) http_version: (u8, u8),
    /// The body is not sent.
    pub(super) is_head: bool,
}

impl OpsReply {
    fn new(status: u16, content_type: &'static str, body: String) -> Self {
        Self { status, content_type, headers: Vec::new(), body, http_version: (1, 1), is_head: false }
    }

    fn json(status: u16, body: &Value) -> Self {
        Self::new(status, JSON, body.to_string())
    }
}

/// What the endpoints report.
pub(super) struct Endpoints {
    pub(super) health: Arc<HealthBoard>,
    pub(super) metrics: Arc<Metrics>,
    /// None if there is no status page.
    pub(super) status: Option<Arc<StatusBoard>>,
    /// Long bodies by their path. Clients that are served at the same time get the same, so a flood costs a tenth.
    pub(super) rendered: Mutex<HashMap<&'static str, (Instant, String)>>,
}

impl Endpoints {
    /// The reply to what has been received; none while the rest of the head may still arrive.
    pub(super) fn reply(&self, received: &[u8], is_late: bool, now: Instant) -> Option<OpsReply> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = Request::new(&mut headers);
        let head = received.get(..HEAD_BYTES_MAX).unwrap_or(received);
        let refused = match request.parse(head) {
            Ok(Status::Complete(_)) if !matches!(request.method, Some("GET" | "HEAD")) => {
                Some((405, "GET and HEAD are served"))
            }
            Ok(Status::Complete(_)) if has_body(&request) => {
                Some((413, "a request with a body is not served"))
            }
            Ok(Status::Complete(_)) => None,
            Ok(Status::Partial) if head.len() == HEAD_BYTES_MAX => {
                Some((431, "the head of the request is larger than 8 KiB"))
            }
            Ok(Status::Partial) if is_late => Some((408, "the request did not arrive in time")),
            Ok(Status::Partial) => return None,
            Err(Error::TooManyHeaders) => Some((431, "the request has too many headers")),
            Err(Error::Version) => Some((505, "HTTP/1.1 and HTTP/1.0 are served")),
            Err(_) => Some((400, "this is not an HTTP request")),
        };
        let mut reply = match refused {
            Some((status, error)) => OpsReply::json(status, &json!({ "error": error })),
            None => self.resource(request.path.unwrap_or_default(), now),
        };
        if reply.status == 405 {
            reply.headers.push(("Allow", "GET, HEAD"));
        }
        reply.is_head = request.method == Some("HEAD");
        reply.http_version = (1, request.version.unwrap_or(1));
        Some(reply)
    }

    fn resource(&self, target: &str, now: Instant) -> OpsReply {
        let target: Result<Uri, _> = target.parse(); // a proxy may send a whole URL
        let path = target.as_ref().map_or("", Uri::path);
        let health = self.health.readiness(now);
        let status_of = |is_up| if is_up { (200, "UP") } else { (503, "DOWN") };
        match (path.strip_suffix('/').unwrap_or(path), &self.status) {
            ("/livez", _) => {
                let (status, word) = status_of(health.is_live());
                OpsReply::json(status, &json!({ "status": word }))
            }
            ("/readyz", _) => {
                let (status, word) = status_of(health.up);
                let redis = if health.redis_connected { "CONNECTED" } else { "DISCONNECTED" };
                let body = json!({"status": word, "consumers": health.consumers, "redis": redis});
                OpsReply::json(status, &body)
            }
            ("/metrics", _) => {
                self.metrics.consumers.set(i64::try_from(health.consumers).unwrap_or(i64::MAX));
                self.metrics.redis_up.set(i64::from(health.redis_connected));
                OpsReply::new(200, PROMETHEUS_TEXT, self.rendered("/metrics", now, || self.metrics.render()))
            }
            ("/status", Some(status)) => {
                let report = || status.report(now, clock::now()).to_string();
                OpsReply::new(200, JSON, self.rendered("/status", now, report))
            }
            ("", Some(_)) if path == "/" => OpsReply {
                headers: vec![("Content-Security-Policy", &PAGE_POLICY), ("Referrer-Policy", "no-referrer")],
                ..OpsReply::new(200, HTML, PAGE.to_owned())
            },
            _ => OpsReply::json(404, &json!({"error": "not found: /livez, /readyz and /metrics are served"})),
        }
    }

    fn rendered(&self, path: &'static str, now: Instant, render: impl FnOnce() -> String) -> String {
        let mut rendered = self.rendered.lock().unwrap_or_else(PoisonError::into_inner);
        rendered.retain(|_, (at, _)| *at == now);
        rendered.entry(path).or_insert_with(|| (now, render())).1.clone()
    }
}

fn has_body(request: &Request<'_, '_>) -> bool {
    request.headers.iter().any(|header| {
        let is_length = header.name.eq_ignore_ascii_case("Content-Length");
        let is_empty = header.value.iter().all(|digit| *digit == b'0');
        header.name.eq_ignore_ascii_case("Transfer-Encoding") || (is_length && !is_empty)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ops::status::Fixed;

    fn endpoints(has_status_page: bool) -> Endpoints {
        let now = Instant::now();
        let health = Arc::new(HealthBoard::new(10, Duration::from_secs(65), now));
        let metrics = Arc::new(Metrics::new().unwrap());
        health.set_redis_connected(true);
        health.call_succeeded(3, now);
        let status = has_status_page.then(|| {
            let (health, metrics) = (health.clone(), metrics.clone());
            Arc::new(StatusBoard::new(Fixed::default(), health, metrics, Arc::default(), now))
        });
        Endpoints { health, metrics, status, rendered: Mutex::default() }
    }

    fn reply_to(request: &[u8]) -> Option<OpsReply> {
        endpoints(true).reply(request, false, Instant::now())
    }

    fn get(target: &str) -> OpsReply {
        reply_to(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes()).unwrap()
    }

    fn status(request: &str) -> Option<u16> {
        reply_to(request.as_bytes()).map(|reply| reply.status)
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
            let reply = get(target);
            let expected = r#"{"status":"UP","consumers":1,"redis":"CONNECTED"}"#;
            assert_eq!((reply.status, reply.body.as_str()), (200, expected), "{target}");
        }
        for target in ["/", "/?x=1", "http://host", "http://host/"] {
            assert_eq!((get(target).status, get(target).content_type), (200, HTML), "{target}");
        }
        for target in ["/status", "/status/", "/status?x"] {
            assert_eq!((get(target).status, get(target).content_type), (200, JSON), "{target}");
        }
    }

    #[test]
    fn clients_served_at_the_same_time_get_the_same_metrics_and_later_ones_those_of_their_time() {
        let endpoints = endpoints(false);
        let now = Instant::now();
        let at = |now| endpoints.reply(b"GET /metrics HTTP/1.1\r\n\r\n", false, now).unwrap().body;
        let first = at(now);
        endpoints.metrics.messages_processed.inc();
        assert_eq!(at(now), first);
        assert!(
            at(now + Duration::from_millis(1)).contains("\npersistent_cache_messages_processed_total 1\n")
        );
    }

    #[test]
    fn near_misses_are_not_found() {
        for target in
            ["*", "//", "/Readyz", "/readyz//", "/readyz/x", "readyz", "/metricsx", "/status//", "/Status"]
        {
            assert_eq!(get(target).status, 404, "{target}");
        }
        let without_page = endpoints(false);
        for target in ["/", "/status"] {
            let request = format!("GET {target} HTTP/1.1\r\n\r\n");
            assert_eq!(
                without_page.reply(request.as_bytes(), false, Instant::now()).unwrap().status,
                404,
                "{target}"
            );
        }
    }

    #[test]
    fn other_methods_are_reported_what_is_allowed_whatever_body_they_announce() {
        for request in [
            "POST /livez HTTP/1.1\r\nContent-Length: 1025\r\n\r\n",
            "PUT /livez HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\n\r\n",
            "BREW /nothing HTTP/1.0\r\n\r\n",
            "get /livez HTTP/1.1\r\n\r\n",
        ] {
            let reply = reply_to(request.as_bytes()).unwrap();
            assert_eq!(
                (reply.status, &*reply.headers),
                (405, [("Allow", "GET, HEAD")].as_slice()),
                "{request}"
            );
            assert_eq!(reply.content_type, JSON);
        }
    }

    #[test]
    fn bodies_are_refused_and_an_empty_one_is_none() {
        for (header, expected) in [
            ("Content-Length: 0", 200),
            ("Content-Length: 000", 200),
            ("Content-Length: 1", 413),
            ("content-length: 9000000000000000000", 413),
            ("Content-Length: 18446744073709551616", 413),
            ("Content-Length: 0\r\nContent-Length: 5", 413),
            ("Content-Length: -1", 413),
            ("Content-Length: 1, 1", 413),
            ("Transfer-Encoding: chunked", 413),
            ("transfer-encoding: identity\r\nContent-Length: 5", 413),
        ] {
            assert_eq!(
                status(&format!("GET /livez HTTP/1.1\r\n{header}\r\n\r\n")),
                Some(expected),
                "{header}"
            );
        }
    }

    #[test]
    fn what_is_no_request_is_refused_as_soon_as_that_is_known() {
        for (request, expected) in [
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
            ("GET /livez HTTP/3", 505),
            ("GET /livez HTTP/1.1\r\nno colon\r\n\r\n", 400),
            ("GET /li vez HTTP/1.1\r\n\r\n", 505),
            ("GET\r\n\r\n", 400),
            ("GET /livez\r\n\r\n", 400),
            ("\u{16}\u{3}\u{1}", 400),
            ("GET /livez HTTP/1.1\r\nX: \0\r\n\r\n", 400),
        ] {
            assert_eq!(status(request), Some(expected), "{request:?}");
        }
        let many = "X: y\r\n".repeat(HEADERS_MAX + 1);
        assert_eq!(status(&format!("GET / HTTP/1.1\r\n{many}\r\n")), Some(431));
    }

    #[test]
    fn an_incomplete_head_is_waited_for_until_it_is_late_or_too_large() {
        let half = b"GET /livez HTTP/1.1\r\nHost: h";
        assert_eq!(reply_to(half), None);
        assert_eq!(endpoints(false).reply(half, true, Instant::now()).unwrap().status, 408);
        assert_eq!(endpoints(false).reply(b"", true, Instant::now()).unwrap().status, 408);
        for begin in ["GET /livez HTTP/1.1\r\nX: ", "GET /", "G"] {
            let fill = |bytes: usize| format!("{begin:x<bytes$}");
            assert_eq!(status(&fill(HEAD_BYTES_MAX - 1)), None, "{begin:?}");
            assert_eq!(status(&fill(HEAD_BYTES_MAX)), Some(431), "{begin:?}");
        }
        let complete = format!("GET /livez HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(HEAD_BYTES_MAX));
        assert_eq!(status(&complete), Some(431));
    }

    #[test]
    fn head_and_http_1_0_are_remembered_for_the_response() {
        let reply = reply_to(b"HEAD /livez HTTP/1.0\r\n\r\nGET /livez HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!((reply.is_head, reply.http_version, reply.status), (true, (1, 0), 200));
    }

    #[test]
    fn dead_loops_make_the_service_not_live_and_a_missing_redis_does_not() {
        let endpoints = endpoints(false);
        let now = Instant::now();
        endpoints.health.set_redis_connected(false);
        let resource = |path, now| {
            let reply = endpoints.resource(path, now);
            (reply.status, reply.body)
        };
        assert_eq!(resource("/livez", now), (200, r#"{"status":"UP"}"#.to_owned()));
        let down = r#"{"status":"DOWN","consumers":1,"redis":"DISCONNECTED"}"#;
        assert_eq!(resource("/readyz", now), (503, down.to_owned()));
        let later = now + Duration::from_hours(1);
        assert_eq!(resource("/livez", later), (503, r#"{"status":"DOWN"}"#.to_owned()));
    }
}
