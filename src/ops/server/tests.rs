//! Real requests over real connections: what an orchestrator, a scraper and a bad client would see.

use super::*;
use crate::ops::health::Patience;
use crate::ops::series;

/// Longer than any answer takes; only a failing test waits for it.
const DEADLINE: Duration = Duration::from_secs(10);

/// Limits that no client of a test meets, and knocks that a queued connection does not wait for long.
const PATIENT: Limits = Limits {
    idle: Duration::from_mins(1),
    write: Duration::from_mins(1),
    knock_every: Duration::from_millis(100),
};

/// A running server, its board, and the port to ask.
struct Site {
    server: OpsServer,
    health: Arc<HealthBoard>,
}

/// A server that listens and does not run yet.
fn site(limits: Limits) -> Site {
    site_with(limits, Patience::default())
}

fn board(pollers: usize, patience: Patience) -> Arc<HealthBoard> {
    Arc::new(HealthBoard::new(pollers, patience, Instant::now()))
}

fn site_with(limits: Limits, patience: Patience) -> Site {
    let health = board(10, patience);
    let server = OpsServer::bind_with(limits, 0, Arc::clone(&health), Arc::new(Metrics::new().unwrap()));
    Site {
        server: server.unwrap(),
        health,
    }
}

/// Ends the server also when a story fails, so that its thread can be joined.
struct Unblock<'a>(&'a OpsServer);

impl Drop for Unblock<'_> {
    fn drop(&mut self) {
        self.0.unblock();
    }
}

/// Runs the server while `story` is told.
fn run(site: &Site, story: impl FnOnce(&Site)) {
    thread::scope(|scope| {
        scope.spawn(|| site.server.run());
        let _unblock = Unblock(&site.server);
        story(site);
    });
}

fn with_site(limits: Limits, story: impl FnOnce(&Site)) {
    run(&site(limits), story);
}

impl Site {
    fn connect(&self) -> TcpStream {
        let connection = TcpStream::connect(listener::loopback(self.server.local_port())).unwrap();
        connection.set_read_timeout(Some(DEADLINE)).unwrap();
        connection.set_write_timeout(Some(DEADLINE)).unwrap();
        connection
    }

    /// Sends a request as it stands and reads until the server closes the connection.
    fn send(&self, request: &str) -> String {
        let mut connection = self.connect();
        connection.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Status and body of one request on a connection of its own.
    fn ask(&self, method: &str, target: &str) -> (u16, String) {
        let answer = self.send(&format!(
            "{method} {target} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"
        ));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        (status_of(head), body.to_owned())
    }
}

fn status_of(head: &str) -> u16 {
    head.split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or_default()
}

/// Reads one answer with a told length from a connection that stays open.
fn read_answer(connection: &mut TcpStream) -> (String, String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        connection.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "))
        .unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    connection.read_exact(&mut body).unwrap();
    (head, String::from_utf8(body).unwrap())
}

#[test]
fn livez_follows_the_loops() {
    with_site(PATIENT, |site| {
        assert_eq!(site.ask("GET", "/livez"), (200, r#"{"status":"UP"}"#.to_owned()));
    });
    let impatient = Patience {
        silent_after: Duration::ZERO,
        ..Patience::default()
    };
    let site = site_with(PATIENT, impatient);
    run(&site, |site| {
        let deadline = Instant::now() + Duration::from_secs(10);
        while site.ask("GET", "/livez") != (503, r#"{"status":"DOWN"}"#.to_owned()) {
            assert!(
                Instant::now() < deadline,
                "no poller has come round, and yet it lives"
            );
        }
    });
}

#[test]
fn readyz_follows_the_board_to_the_stop() {
    let down = r#"{"status":"DOWN","consumers":0,"redis":"DISCONNECTED"}"#;
    let up = r#"{"status":"UP","consumers":10,"redis":"CONNECTED"}"#;
    let stopping = r#"{"status":"DOWN","consumers":10,"redis":"CONNECTED"}"#;
    with_site(PATIENT, |site| {
        assert_eq!(site.ask("GET", "/readyz"), (503, down.to_owned()));
        site.health.set_redis_connected(true);
        (0..10).for_each(|poller| site.health.call_succeeded(poller, Instant::now()));
        assert_eq!(site.ask("GET", "/readyz"), (200, up.to_owned()));
        site.health.begin_stop();
        assert_eq!(site.ask("GET", "/readyz/?full=1"), (503, stopping.to_owned()));
    });
}

#[test]
fn metrics_are_prometheus_text_with_the_boards_state_of_now() {
    with_site(PATIENT, |site| {
        site.health.set_redis_connected(true);
        site.health.call_succeeded(4, Instant::now());
        let answer = site.send("GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(
            answer.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"),
            "{answer}"
        );
        for series in series::ALL
            .iter()
            .filter(|series| series.name != series::CREDENTIALS_EXPIRY.name)
        {
            let line = format!("\n# TYPE {} {}\n", series.name, series.kind.as_str());
            assert!(answer.contains(&line), "{line}");
        }
        for line in [
            "persistent_cache_consumers 1",
            "persistent_cache_redis_up 1",
            "# TYPE process_open_fds gauge",
        ] {
            assert!(answer.contains(&format!("\n{line}\n")), "{line}");
        }
    });
}

#[test]
fn what_is_not_there_is_a_json_404_and_other_methods_a_json_405() {
    with_site(PATIENT, |site| {
        let not_found = (404, r#"{"error":"not found","path":"/healthz"}"#.to_owned());
        assert_eq!(site.ask("GET", "/healthz?x=1"), not_found);
        assert_eq!(site.ask("PUT", "/healthz"), not_found);
        let answer = site.send("POST /livez HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert_eq!(
            (status_of(head), body),
            (405, r#"{"error":"method not allowed","path":"/livez"}"#)
        );
        assert!(head.contains("\r\nAllow: GET, HEAD"), "{head}");
        assert!(head.contains("\r\nContent-Type: application/json"), "{head}");
    });
}

#[test]
fn head_tells_the_length_and_sends_no_body() {
    with_site(PATIENT, |site| {
        let answer = site.send("HEAD /livez HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("\r\nContent-Length: 15\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    });
}

#[test]
fn a_connection_is_kept_for_the_next_request_and_closed_when_the_client_says_so() {
    with_site(PATIENT, |site| {
        let mut connection = site.connect();
        for _ in 0..3 {
            connection
                .write_all(b"GET /livez HTTP/1.1\r\nHost: here\r\n\r\n")
                .unwrap();
            let (head, body) = read_answer(&mut connection);
            assert_eq!((status_of(&head), body.as_str()), (200, r#"{"status":"UP"}"#));
        }
        connection
            .write_all(b"GET /livez HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
            .unwrap();
        read_answer(&mut connection);
        assert_eq!(connection.read(&mut [0]).unwrap(), 0, "closed");
        assert!(
            site.send("GET /livez HTTP/1.0\r\n\r\n")
                .ends_with(r#"{"status":"UP"}"#)
        );
    });
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    with_site(PATIENT, |site| {
        let mut connection = site.connect();
        for number in 0..50 {
            write!(connection, "GET /{number} HTTP/1.1\r\nHost: here\r\n\r\n").unwrap();
        }
        for number in 0..50 {
            let (_, body) = read_answer(&mut connection);
            assert_eq!(body, format!(r#"{{"error":"not found","path":"/{number}"}}"#));
        }
    });
}

#[test]
fn clients_that_hang_do_not_keep_a_good_one_waiting() {
    with_site(PATIENT, |site| {
        let silent: Vec<_> = (0..20).map(|_| site.connect()).collect();
        let mut halfway = site.connect();
        halfway.write_all(b"GET /livez HTTP/1.1\r\nHost: he").unwrap();
        assert_eq!(site.ask("GET", "/livez").0, 200);
        drop((silent, halfway));
    });
}

#[test]
fn a_client_that_asks_much_and_reads_nothing_does_not_keep_a_good_one_waiting() {
    with_site(PATIENT, |site| {
        let mut greedy = site.connect();
        // Some 40 MB of answers: more than the buffers between the two hold, so a handler is stuck with it.
        greedy
            .write_all(
                "GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n"
                    .repeat(3_000)
                    .as_bytes(),
            )
            .unwrap();
        for _ in 0..20 {
            assert_eq!(site.ask("GET", "/livez").0, 200);
        }
    });
}

#[test]
fn announced_bodies_neither_hold_the_handlers_nor_end_the_process() {
    with_site(PATIENT, |site| {
        let heads = [
            "POST /livez HTTP/1.1\r\nContent-Length: 9000000000000000000\r\n\r\n",
            "POST /livez HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n\r\n",
            "POST /livez HTTP/1.1\r\nContent-Length: 5000\r\n\r\n",
            "POST /livez HTTP/1.1\r\nContent-Length: 1025\r\n\r\n",
            "POST /livez HTTP/1.1\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n",
            "POST /livez HTTP/1.1\r\nContent-Length: 10\r\n\r\n",
            "POST /livez HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
            "GET /livez HTTP/1.1\r\nContent-Length: 5000\r\nConnection: upgrade\r\n\r\n",
        ];
        let held: Vec<_> = heads
            .into_iter()
            .map(|head| {
                let mut connection = site.connect();
                connection.write_all(head.as_bytes()).unwrap();
                connection
            })
            .collect();
        for _ in 0..20 {
            assert_eq!(site.ask("GET", "/livez").0, 200);
        }
        drop(held);
        assert_eq!(site.ask("GET", "/livez").0, 200);
    });
}

#[test]
fn garbage_is_refused_or_dropped_and_the_next_request_is_answered() {
    with_site(PATIENT, |site| {
        for garbage in [
            "\r\n\r\n",
            "GET\r\n\r\n",
            "GET /livez\r\n\r\n",
            "GET /livez HTTP/1.1\r\nno colon\r\n\r\n",
        ] {
            let answer = site.send(garbage);
            assert!(answer.starts_with("HTTP/1.1 400 "), "{garbage:?}: {answer}");
        }
        let mut connection = site.connect();
        connection
            .write_all(b"\x16\x03\x01\x02\x00 \xff\xfe\r\n\r\n")
            .unwrap();
        assert_eq!(
            connection.read(&mut [0]).unwrap_or(0),
            0,
            "a TLS handshake gets no answer"
        );
        let long_header = format!("GET /livez HTTP/1.0\r\nX: {}\r\n\r\n", "x".repeat(1_000_000));
        assert!(site.send(&long_header).starts_with("HTTP/1.0 200 "));
        let mut from_http_2 = site.connect();
        from_http_2
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .unwrap();
        assert_eq!(site.ask("GET", "/livez").0, 200);
    });
}

#[test]
fn a_silent_client_is_cut_off() {
    let limits = Limits {
        idle: Duration::from_millis(300),
        ..PATIENT
    };
    with_site(limits, |site| {
        assert_eq!(
            site.connect().read(&mut [0]).unwrap(),
            0,
            "closed by the server, within the test's deadline"
        );
    });
}

#[test]
fn the_server_goes_on_after_accepting_has_ended() {
    // Without a knock in time, a silent client is cut off at about the moment when accepting ends too.
    let limits = Limits {
        idle: Duration::from_millis(300),
        knock_every: DEADLINE,
        ..PATIENT
    };
    with_site(limits, |site| {
        let first = Arc::clone(&lock(&site.server.current));
        for _ in 0..3 {
            assert_eq!(site.connect().read(&mut [0]).unwrap(), 0);
            assert_eq!(site.ask("GET", "/livez").0, 200);
        }
        assert!(
            !Arc::ptr_eq(&first, &lock(&site.server.current)),
            "it was opened anew"
        );
    });
}

#[test]
fn knocks_in_time_keep_accepting_from_ending() {
    let limits = Limits {
        idle: Duration::from_secs(1),
        ..PATIENT
    };
    with_site(limits, |site| {
        let first = Arc::clone(&lock(&site.server.current));
        for _ in 0..2 {
            assert_eq!(site.connect().read(&mut [0]).unwrap(), 0);
        }
        assert!(
            Arc::ptr_eq(&first, &lock(&site.server.current)),
            "it was never opened anew"
        );
    });
}

#[test]
fn a_server_that_no_longer_answers_is_opened_anew() {
    let site = site(PATIENT);
    // What a panic in the accept loop leaves behind: a server that gets nothing and tells nothing. The first one
    // is dropped here, before anything else connects, so that its own accept loop has ended.
    let elsewhere = listener::bind(0).unwrap();
    *lock(&site.server.current) = Arc::new(open(&elsewhere).unwrap());
    run(&site, |site| assert_eq!(site.ask("GET", "/livez").0, 200));
}

#[test]
fn a_stop_does_not_wait_for_a_client_that_reads_nothing() {
    let site = site(Limits {
        write: Duration::from_millis(100),
        ..PATIENT
    });
    let mut greedy = site.connect();
    run(&site, |site| {
        greedy
            .write_all(
                "GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n"
                    .repeat(3_000)
                    .as_bytes(),
            )
            .unwrap();
        assert_eq!(site.ask("GET", "/livez").0, 200);
    });
    // `run` has returned, while the client is still there; and what it asked for last is no burden either.
    drop(site);
    drop(greedy);
}

#[test]
fn a_port_in_use_is_told_with_its_remedy() {
    let taken = OpsServer::bind(
        0,
        board(1, Patience::default()),
        Arc::new(Metrics::new().unwrap()),
        None,
    )
    .unwrap();
    let port = taken.local_port();
    let again = OpsServer::bind(
        port,
        board(1, Patience::default()),
        Arc::new(Metrics::new().unwrap()),
        None,
    );
    assert_eq!(
        again.err().unwrap().to_string(),
        format!(
            "cannot listen on port {port} for the HTTP endpoints: it is in use; \
             stop what listens there or set PORT to a free one"
        )
    );
}

#[test]
fn unblock_before_run_lets_run_return_at_once() {
    let server = OpsServer::bind(
        0,
        board(1, Patience::default()),
        Arc::new(Metrics::new().unwrap()),
        None,
    )
    .unwrap();
    server.unblock();
    server.unblock();
    server.run();
}
