//! Real requests over real connections: what an orchestrator, a scraper and a bad client see.

use std::thread;

use super::*;
use crate::ops::status::Fixed;
use crate::shutdown::Stop;

/// Longer than any response takes; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(10);
const GET: &str = "GET /livez HTTP/1.1\r\nHost: here\r\n\r\n";

fn server() -> OpsServer {
    let now = Instant::now();
    let health = Arc::new(HealthBoard::new(10, Duration::from_secs(65), now));
    let metrics = Arc::new(Metrics::new().unwrap());
    let status = StatusBoard::new(Fixed::default(), health.clone(), metrics.clone(), Arc::default(), now);
    OpsServer::bind(0, health, metrics, Some(Arc::new(status))).unwrap()
}

/// Stops the server also when a test fails, so that its thread can be joined.
struct Unblock<'a>(&'a OpsServer);

impl Drop for Unblock<'_> {
    fn drop(&mut self) {
        self.0.unblock();
    }
}

/// Runs a server while `test` uses it.
fn with(server: &OpsServer, test: impl FnOnce(&OpsServer)) {
    thread::scope(|scope| {
        scope.spawn(|| server.run());
        let _unblock = Unblock(server);
        test(server);
    });
}

fn with_server(test: impl FnOnce(&OpsServer)) {
    with(&server(), test);
}

impl OpsServer {
    fn connect(&self) -> TcpStream {
        let connection = TcpStream::connect((Ipv4Addr::LOCALHOST, self.local_port())).unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        connection.set_write_timeout(Some(PATIENCE)).unwrap();
        connection
    }

    /// Sends this and reads until the server closes the connection.
    fn send(&self, request: &str) -> String {
        let mut connection = self.connect();
        connection.write_all(request.as_bytes()).unwrap();
        response(&mut connection)
    }
}

fn response(connection: &mut TcpStream) -> String {
    let mut response = String::new();
    connection.read_to_string(&mut response).unwrap();
    response
}

#[test]
fn a_response_has_its_headers_its_length_and_its_body_and_the_connection_ends() {
    with_server(|server| {
        let response = server.send(GET);
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, r#"{"status":"UP"}"#);
        let (status, headers) = head.split_once("\r\n").unwrap();
        assert_eq!(status, "HTTP/1.1 200 OK");
        let headers: Vec<&str> = headers.lines().filter(|header| !header.starts_with("Date: ")).collect();
        assert_eq!(
            headers,
            [
                "Connection: close",
                "Content-Type: application/json",
                "Server: persistent-cache-service",
                "Cache-Control: no-store",
                "X-Content-Type-Options: nosniff",
                "Content-Length: 15",
            ]
        );
    });
}

#[test]
fn head_has_the_length_and_no_body_and_http_1_0_is_answered_in_its_version() {
    with_server(|server| {
        let response = server.send("HEAD /livez HTTP/1.0\r\n\r\n");
        assert!(response.starts_with("HTTP/1.0 200 OK\r\n"), "{response}");
        assert!(response.contains("\r\nContent-Length: 15\r\n"), "{response}");
        assert!(response.ends_with("\r\n\r\n"), "{response}");
    });
}

#[test]
fn metrics_are_prometheus_text_with_the_health_of_now() {
    with_server(|server| {
        server.endpoints.health.set_redis_connected(true);
        server.endpoints.health.call_succeeded(4, Instant::now());
        let response = server.send("GET /metrics HTTP/1.1\r\n\r\n");
        for part in [
            "\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n",
            "\npersistent_cache_consumers 1\n",
            "\npersistent_cache_redis_up 1\n",
            "\n# TYPE process_open_fds gauge\n",
        ] {
            assert!(response.contains(part), "{part} in {response}");
        }
    });
}

#[test]
fn a_head_may_come_in_pieces_and_what_follows_it_is_not_answered() {
    with_server(|server| {
        let mut connection = server.connect();
        connection.set_nodelay(true).unwrap();
        for piece in GET.as_bytes().chunks(7) {
            connection.write_all(piece).unwrap();
        }
        connection.write_all(GET.repeat(100).as_bytes()).unwrap();
        let response = response(&mut connection);
        assert_eq!(response.matches("HTTP/1.1").count(), 1, "{response}");
    });
}

#[test]
fn a_client_that_sends_a_body_still_reads_why_it_is_refused() {
    with_server(|server| {
        let length = 3_000_000;
        let head = format!("POST /livez HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
        let response = server.send(&(head + &"x".repeat(length)));
        assert!(response.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"), "{response}");
        assert!(response.contains("\r\nAllow: GET, HEAD\r\n"), "{response}");
    });
}

#[test]
fn each_refusal_has_its_reason_phrase() {
    with_server(|server| {
        for (request, status) in [
            ("GET / HTTP/1.1\r\n:\r\n\r\n", "400 Bad Request"),
            ("GET / HTTP/1.1\r\nContent-Length: 9\r\n\r\n", "413 Payload Too Large"),
            (&"x".repeat(9_000), "431 Request Header Fields Too Large"),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505 HTTP Version Not Supported"),
        ] {
            let response = server.send(request);
            assert!(response.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{status}: {response}");
        }
    });
}

#[test]
fn a_head_that_is_late_is_a_408_and_a_client_that_takes_nothing_is_cut_off() {
    let mut server = server();
    server.deadline = Duration::from_millis(200);
    with(&server, |server| {
        let mut slow = server.connect();
        slow.write_all(b"GET /livez HT").unwrap();
        let mut silent = server.connect();
        for connection in [&mut slow, &mut silent] {
            assert!(response(connection).starts_with("HTTP/1.1 408 Request Time"));
        }
        // It never closes its side.
        let mut lingering = server.connect();
        lingering.write_all(GET.as_bytes()).unwrap();
        let began = Instant::now();
        while began.elapsed() < PATIENCE && lingering.write_all(b"x").is_ok() {
            Stop::never().wait(Duration::from_millis(10));
        }
        assert!(began.elapsed() < PATIENCE, "it is still connected");
    });
}

#[test]
fn more_clients_than_are_served_at_a_time_do_not_delay_a_good_one() {
    with_server(|server| {
        let silent: Vec<_> = (0..3 * CONNECTIONS_MAX).map(|_| server.connect()).collect();
        let began = Instant::now();
        for _ in 0..20 {
            assert!(server.send(GET).starts_with("HTTP/1.1 200 OK\r\n"));
        }
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        drop(silent);
    });
}

#[test]
fn the_connection_that_is_missed_least_makes_room() {
    let server = server();
    let response = || Phase::Response(Vec::new());
    let head = || Phase::Head(Vec::new());
    let phases = [response(), head(), Phase::Drain, head()];
    let connection = |(number, phase)| HttpConnection {
        stream: server.connect(),
        phase,
        deadline: Instant::now() + Duration::from_secs(number),
    };
    let mut connections: Vec<HttpConnection> = (0..).zip(phases).map(connection).collect();
    let deadlines: Vec<Instant> = connections.iter().map(|connection| connection.deadline).collect();
    let mut evicted = Vec::new();
    while evict(&mut connections) {
        let is_gone =
            |deadline: &Instant| connections.iter().all(|connection| connection.deadline != *deadline);
        let gone = (0..deadlines.len()).filter(|number| is_gone(&deadlines[*number]));
        evicted.extend(gone.filter(|number| !evicted.contains(number)).collect::<Vec<_>>());
    }
    assert_eq!(evicted, [2, 1, 3, 0]);
}

#[test]
fn it_is_reached_by_ipv4_and_where_the_host_has_it_by_ipv6() {
    let listener = listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    TcpStream::connect((Ipv4Addr::LOCALHOST, address.port())).expect("by IPv4");
    if address.is_ipv6() {
        TcpStream::connect((Ipv6Addr::LOCALHOST, address.port())).expect("by IPv6");
    }
}

#[test]
fn a_port_in_use_is_an_error_with_its_remedy() {
    for taken in [TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap(), listen(0).unwrap()] {
        let port = taken.local_addr().unwrap().port();
        let endpoints = server().endpoints;
        let bound = OpsServer::bind(port, endpoints.health, endpoints.metrics, None);
        let expected = format!(
            "cannot listen on port {port} for the HTTP endpoints: Address already in use (os error 98); \
             set PORT to a free one, of 1024 or more unless as root"
        );
        assert_eq!(bound.err().unwrap().to_string(), expected);
    }
}

#[test]
fn a_stop_waits_for_no_client_and_may_come_before_the_start() {
    let stopped = server();
    stopped.unblock();
    stopped.unblock();
    stopped.run();
    let server = server();
    let mut silent = server.connect();
    with(&server, |server| drop(server.send(GET)));
    assert_eq!(silent.read(&mut [0]).unwrap_or_default(), 0);
}
