//! Clients of the HTTP port that are broken, slow or hostile: they can neither make the service hold more than its share
//! of the machine, nor keep a probe or a scrape from its answer.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::fakes::queue::QueueOptions;
use crate::support::command::run_program;
use crate::support::fake_stage::FakeStage;
use crate::support::prometheus::Prometheus;
use crate::support::service::{Service, binary};
use crate::support::tools::{free_port, repository_file, system_program};
use crate::support::wait::{PATIENCE, wait_until};

const RESIDENT_KIB_MAX: usize = 64 * 1024;
const DESCRIPTORS_MAX: usize = 200;
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);

/// Connections that are kept open, and opened again when the service closes them.
struct Crowd {
    size: usize,
    /// Sent by each when it is open.
    opening: String,
    /// Sent by each in every round.
    more: String,
    round: Duration,
}

fn crowd(size: usize, opening: &str, more: &str, round_ms: u64) -> Crowd {
    Crowd { size, opening: opening.to_owned(), more: more.to_owned(), round: Duration::from_millis(round_ms) }
}

/// A client that never reads.
struct Client {
    stream: TcpStream,
    since: Instant,
}

impl Crowd {
    /// Not faster than this, so that the machine's ports suffice.
    const OPENED_PER_ROUND_MAX: usize = 20;
    /// What has been sent an answer cannot be distinguished from what waits for one, and is replaced in time.
    const LIFE: Duration = Duration::from_secs(6);

    fn press_on(&self, address: &str, is_over: &AtomicBool) {
        let mut clients: Vec<Option<Client>> = (0..self.size).map(|_| self.open(address)).collect();
        while !is_over.load(Ordering::Acquire) {
            let next = Instant::now() + self.round;
            let mut opened = 0;
            for client in &mut clients {
                if client.as_mut().is_some_and(|client| self.goes_on(client)) {
                    continue;
                }
                *client = None;
                if opened < Self::OPENED_PER_ROUND_MAX {
                    opened += 1;
                    *client = self.open(address);
                }
            }
            wait_until(PATIENCE, "the next round", || Instant::now() >= next);
        }
    }

    fn open(&self, address: &str) -> Option<Client> {
        let mut stream = TcpStream::connect(address).ok()?;
        stream.set_nonblocking(true).ok()?;
        stream.write_all(self.opening.as_bytes()).ok()?;
        Some(Client { stream, since: Instant::now() })
    }

    fn goes_on(&self, client: &mut Client) -> bool {
        let blocks = |error: std::io::Error| error.kind() == ErrorKind::WouldBlock;
        let is_open = match client.stream.peek(&mut [0]) {
            Ok(length) => length > 0,
            Err(error) => blocks(error),
        };
        let written = client.stream.write(self.more.as_bytes());
        is_open && written.map_or_else(blocks, |_| true) && client.since.elapsed() < Self::LIFE
    }
}

fn address(service: &Service) -> String {
    service.url().trim_start_matches("http://").to_owned()
}

/// Sends this as it stands and reads until the service closes.
fn send(service: &Service, request: &[u8]) -> String {
    let mut connection = TcpStream::connect(address(service)).expect("the port is open");
    connection.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    connection.write_all(request).expect("it is received");
    let mut response = Vec::new();
    connection.read_to_end(&mut response).expect("a response and an orderly end");
    String::from_utf8_lossy(&response).into_owned()
}

/// How long a probe, on a connection of its own, waits for its 200.
fn probe(service: &Service) -> Duration {
    let began = Instant::now();
    let response = send(service, b"GET /livez HTTP/1.1\r\nHost: probe\r\n\r\n");
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    began.elapsed()
}

/// The clients of a story are many, and all of this process.
fn raise_own_limit_of_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    setrlimit(Resource::Nofile, raised).expect("up to the hard limit");
}

#[test]
fn twenty_seconds_of_hostile_clients_cost_little_and_delay_no_probe_and_no_scrape() {
    raise_own_limit_of_descriptors();
    let stage = FakeStage::new(QueueOptions::default());
    let port = free_port().to_string();
    let service = Service::start(&stage.settings().set("PORT", &port));
    let prometheus = Prometheus::start(&port, &repository_file("scripts/prometheus/alerts.yml"));
    service.wait_until("the first scrape", || prometheus.values("up == 1").len() == 1);
    let before = service.footprint();

    let endless = "x".repeat(16 * 1024);
    let crowds = [
        crowd(1_500, "", "", 50),
        crowd(200, "POST /livez HTTP/1.1\r\nContent-Length: 1025\r\n\r\n", "", 100),
        crowd(50, "PUT /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n", 100),
        crowd(50, "GET /status HTTP/1.1\r\nContent-Length: 9000000000000000000\r\n\r\n", &endless, 20),
        crowd(100, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\0\0\0\u{4}\0\0\0\0\0", 100),
        crowd(100, "GET /livez HTTP/1.1\r\n", "X-Endless: and on and on\r\n", 10),
        crowd(20, "GET /livez HTTP/1.1\r\nX: ", &endless, 10),
        crowd(20, "GET /", &endless, 10),
        crowd(30, "", &"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n".repeat(200), 10),
        crowd(30, "GET /status HTTP/1.1\r\n\r\n", "", 50),
        crowd(100, "GET /livez HTTP/1.1\r\nHost: ", "s", 1_000),
        crowd(50, "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}\u{3}", &endless, 50),
    ];
    let (mut peak, mut slowest) = (before, Duration::ZERO);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _over = OnDrop(&is_over);
        for crowd in &crowds {
            let address = address(&service);
            let is_over = &is_over;
            scope.spawn(move || crowd.press_on(&address, is_over));
        }
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(20) {
            let next = Instant::now() + Duration::from_millis(100);
            slowest = slowest.max(probe(&service));
            let now = service.footprint();
            peak.resident_kib = peak.resident_kib.max(now.resident_kib);
            peak.threads = peak.threads.max(now.threads);
            peak.descriptors = peak.descriptors.max(now.descriptors);
            wait_until(PATIENCE, "the next probe", || Instant::now() >= next);
        }
    });
    println!("before {before:?}, peak {peak:?}, slowest probe {slowest:?}");
    assert!(slowest < ANSWERED_WITHIN, "{slowest:?}");
    assert!(peak.resident_kib < RESIDENT_KIB_MAX, "{peak:?}");
    assert!(peak.descriptors < DESCRIPTORS_MAX, "{peak:?}");
    assert!(peak.threads <= before.threads + 2, "{before:?}, then {peak:?}");

    let scrapes = "count_over_time(up[20s])";
    let failed = "20 * (1 - avg_over_time(up[20s]))";
    let seen = (prometheus.values(scrapes), prometheus.values(failed));
    assert!(seen.0[0] >= 15.0 && seen.1 == [0.0], "scrapes, failed: {seen:?}");

    wait_until(Duration::from_secs(10), "everything to be back to normal", || {
        let now = service.footprint();
        now.descriptors <= before.descriptors + 3 && now.threads <= before.threads
    });
    assert!(service.footprint().resident_kib < RESIDENT_KIB_MAX);
    assert_eq!(service.get("/readyz").status, 200);
    service.stop();
}

struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn what_is_no_short_complete_get_or_head_is_refused_and_says_why_even_to_who_is_still_sending() {
    let stage = FakeStage::new(QueueOptions::default());
    let service = Service::start(&stage.settings());
    let body = "x".repeat(2_000_000);
    for (request, status) in [
        ("DELETE /metrics HTTP/1.1\r\n\r\n".to_owned(), "405"),
        (format!("POST /status HTTP/1.1\r\nContent-Length: 2000000\r\n\r\n{body}"), "405"),
        (format!("GET /readyz HTTP/1.1\r\nContent-Length: 2000000\r\n\r\n{body}"), "413"),
        (format!("HEAD /livez HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1e8480\r\n{body}"), "413"),
        ("GET /livez HTTP/1.1\r\nContent-Length: many\r\n\r\n".to_owned(), "413"),
        ("GET /livez HTTP/1.1\r\nthis is no header\r\n\r\n".to_owned(), "400"),
        (format!("GET /{body} HTTP/1.1\r\n\r\n"), "431"),
        (format!("GET /livez HTTP/1.1\r\nCookie: {body}\r\n\r\n"), "431"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), "505"),
    ] {
        let response = send(&service, request.as_bytes());
        let begin = &request[..request.len().min(60)];
        assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{begin:?}: {response}");
        for header in
            ["Connection: close", "X-Content-Type-Options: nosniff", "Content-Type: application/json"]
        {
            assert!(response.contains(&format!("\r\n{header}\r\n")), "{begin:?}: {response}");
        }
        let is_allow_told = response.contains("\r\nAllow: GET, HEAD\r\n");
        assert_eq!(is_allow_told, status == "405", "{begin:?}: {response}");
    }
    let began = Instant::now();
    for half in ["", "G", "GET /livez HTTP/1.1\r\nHost: here\r\n"] {
        let response = send(&service, half.as_bytes());
        assert!(response.starts_with("HTTP/1.1 408 "), "{half:?}: {response}");
    }
    assert!(began.elapsed() < Duration::from_secs(3 * 7), "{:?}", began.elapsed());
    service.stop();
}

#[test]
fn when_no_descriptor_is_left_probes_are_answered_again_as_soon_as_there_is_one() {
    let stage = FakeStage::new(QueueOptions::default());
    let command = format!("ulimit -n 48; exec {}", binary().display());
    let service = Service::spawn_program("/bin/sh".as_ref(), &["-c", &command], &stage.settings());
    service.wait_until_ready();
    let silent: Vec<TcpStream> =
        (0..300).map(|_| TcpStream::connect(address(&service)).expect("it listens")).collect();
    for _ in 0..20 {
        probe(&service);
    }
    assert!(service.footprint().descriptors <= 48);
    drop(silent);
    probe(&service);
    service.wait_until_ready();
    service.stop();
}

#[test]
fn ipv4_and_ipv6_are_served_where_sockets_for_ipv6_take_no_ipv4() {
    let script = format!(
        "ip link set lo up && echo 1 > /proc/sys/net/ipv6/bindv6only || exit 77\n\
         '{}' & service=$!\n\
         ask() {{ exec 3<>/dev/tcp/$1/4000 && printf 'HEAD /livez HTTP/1.0\\r\\n\\r\\n' >&3 && head -n 1 <&3; }}\n\
         for _ in $(seq 100); do ask 127.0.0.1 >/dev/null 2>&1 && break; sleep 0.1; done\n\
         for address in 127.0.0.1 ::1; do echo \"$address $(ask $address)\"; done\n\
         kill $service; wait $service",
        binary().display()
    );
    let stage = FakeStage::new(QueueOptions::default());
    let settings = stage.settings().set("PORT", "4000").set("SHUTDOWN_TIMEOUT_SECS", "1");
    let mut environment = settings.environment();
    environment.push(("PATH".to_owned(), "/usr/sbin:/usr/bin:/sbin:/bin".to_owned()));
    let arguments = ["--map-root-user", "--net", "bash", "-c", &script];
    let ended = run_program("unshare", &system_program("unshare"), &arguments, &environment, "");
    let answers: Vec<&str> =
        ended.stdout.lines().filter(|line| !line.starts_with('{')).map(str::trim).collect();
    assert_eq!(answers, ["127.0.0.1 HTTP/1.0 200 OK", "::1 HTTP/1.0 200 OK"], "{ended:?}");
}
