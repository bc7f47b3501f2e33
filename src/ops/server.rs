//! `/livez`, `/readyz`, `/metrics` and the status page over `tiny_http`, and a JSON 404 for anything else.
//!
//! What a slow, broken or hostile client can do here, as read in the source of `tiny_http` 0.12:
//!
//! Held off:
//! - A client that connects and sends nothing, or half a request, holds a thread of `tiny_http`'s pool, never one
//!   of the handlers, and is cut off after [`Limits::idle`] without a byte.
//! - A client that does not read what it asked for holds one handler, however many requests it pipelines
//!   (`lanes`), for about [`Limits::write`] an answer; the other handlers go on.
//! - A request that announces a body over 1 KiB is neither answered nor ended: `tiny_http` would allocate the
//!   announced length in one piece when the request is dropped (`Content-Length: 9000000000000000000` ends the
//!   process), and then wait for the body in the handler. No endpoint takes a body. The
//!   price: one pool thread and its socket for each such request, until the process ends.
//! - `tiny_http` stops accepting, for good, after the first error or panic of its accept loop (no file descriptor
//!   left is enough). The listening socket is kept here, so the server is opened anew on it: at once if
//!   `tiny_http` tells, else when the server no longer answers its own [`OpsServer::knock`].
//! - `tiny_http` counts a pool thread as free until it has woken, so in a burst a connection may be queued behind
//!   clients that hang. The next connection that ends takes it along, and each knock is one: such a connection
//!   waits for one knock, [`Limits::knock_every`], not for the clients that hang.
//!
//! Not held off, because `tiny_http` gives no hold on it: it starts a thread for each connection and counts
//! neither; it reads a request line or header of any length into memory; a byte every few seconds keeps a
//! connection for ever; a request of HTTP/2 or 3 (`PRI * HTTP/2.0`) locks up its pool thread and its socket until
//! the process ends. Keep the port to the networks of the orchestrator and of Prometheus.

mod answer;
mod lanes;
mod listener;

use std::io::{self, Cursor, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tiny_http::{Header, Request, Response, Server};

use super::health::HealthBoard;
use super::metrics::Metrics;
use super::status::StatusBoard;
use crate::clock;
use crate::shutdown::{Stop, StopTrigger, stop_pair};

use answer::{Answer, Asked, Sources, answer};
use lanes::Lanes;

/// Threads that answer: a client that does not read costs one, and probes are few and short.
const HANDLERS: usize = 4;
/// The largest announced body, in bytes, that `tiny_http` reads before it hands the request over.
const BODY_BYTES_MAX: usize = 1024;
/// For each step (connect, answer) of a knock: it never leaves this host.
const KNOCK_DEADLINE: Duration = Duration::from_millis(500);
/// Knocks in a row without an answer after which the server is opened anew.
const KNOCKS_MISSED_MAX: u32 = 5;
/// Between the end of an accept loop and the next one: if its cause lasts, this keeps it from spinning.
const REOPEN_PAUSE: Duration = Duration::from_millis(200);

/// How long clients may take.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Without a byte from a client, also between two requests of one connection. Not one of the usual scrape
    /// intervals (10, 15, 30, 60 s), so that no scrape meets a connection that is being closed.
    idle: Duration,
    /// Without room for a byte to a client.
    write: Duration,
    /// Between two knocks: how long a connection may be queued behind clients that hang, so under the usual
    /// deadline of a probe; and far under `idle`, as accepting ends by that limit too.
    knock_every: Duration,
}

const LIMITS: Limits = Limits {
    idle: Duration::from_secs(20),
    write: Duration::from_secs(2),
    knock_every: Duration::from_millis(500),
};

/// The endpoints cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Another process, or another instance, listens there.
    #[error(
        "cannot listen on port {port} for the HTTP endpoints: it is in use; stop what listens there or set PORT to a free one"
    )]
    InUse {
        /// The port asked for.
        port: u16,
    },
    /// Ports under 1024 are for root, or for processes with `CAP_NET_BIND_SERVICE`.
    #[error(
        "cannot listen on port {port} for the HTTP endpoints: permission denied; set PORT to 1024 or more"
    )]
    Denied {
        /// The port asked for.
        port: u16,
    },
    /// Anything else that the system said.
    #[error(
        "cannot listen on port {port} for the HTTP endpoints: {cause}; set PORT to one that this host can listen on"
    )]
    Failed {
        /// The port asked for.
        port: u16,
        /// In the system's words.
        cause: String,
    },
}

/// The HTTP endpoints. Listens from [`OpsServer::bind`] on; answers while [`OpsServer::run`] runs.
pub struct OpsServer {
    health: Arc<HealthBoard>,
    metrics: Arc<Metrics>,
    status: Option<Arc<StatusBoard>>,
    limits: Limits,
    port: u16,
    /// Kept beside `tiny_http`'s own handle on it: connections queue up here while the server is opened anew.
    listener: TcpListener,
    current: Mutex<Arc<Server>>,
    /// Held by the one handler that takes the next request.
    turn: Mutex<()>,
    lanes: Lanes<SocketAddr, Request>,
    stop: Stop,
    stop_trigger: Mutex<Option<StopTrigger>>,
}

impl OpsServer {
    /// Listens on `port` (0: any free one) of all addresses, IPv4 and, where the host has it, IPv6. Without a status
    /// board there is no status page.
    pub fn bind(
        port: u16,
        health: Arc<HealthBoard>,
        metrics: Arc<Metrics>,
        status: Option<Arc<StatusBoard>>,
    ) -> Result<Self, ServerError> {
        let server = Self::bind_with(LIMITS, port, health, metrics)?;
        Ok(Self { status, ..server })
    }

    fn bind_with(
        limits: Limits,
        port: u16,
        health: Arc<HealthBoard>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, ServerError> {
        let listener = listener::bind(port)
            .and_then(|listener| listener::with_deadlines(listener, limits.idle, limits.write))
            .map_err(|error| ServerError::of(port, &error))?;
        let bound = listener
            .local_addr()
            .map_err(|error| ServerError::of(port, &error))?
            .port();
        let server = open(&listener).map_err(|error| ServerError::of(port, &error))?;
        let (stop_trigger, stop) = stop_pair();
        Ok(Self {
            health,
            metrics,
            status: None,
            limits,
            port: bound,
            listener,
            current: Mutex::new(Arc::new(server)),
            turn: Mutex::new(()),
            lanes: Lanes::new(),
            stop,
            stop_trigger: Mutex::new(Some(stop_trigger)),
        })
    }

    /// The port that is listened on.
    pub fn local_port(&self) -> u16 {
        self.port
    }

    /// Answers until [`OpsServer::unblock`]; then returns once the answers under way are out.
    pub fn run(&self) {
        thread::scope(|scope| {
            for number in 0..HANDLERS {
                let name = format!("ops-http-{number}");
                let handler = thread::Builder::new()
                    .name(name)
                    .spawn_scoped(scope, || self.handle_requests());
                if let Err(error) = handler {
                    log::error!(
                        "cannot start a thread for the HTTP endpoints: {error}; raise the limit of threads"
                    );
                }
            }
            self.watch();
        });
    }

    /// Makes [`OpsServer::run`] return, now or when it is called. The port is free once the server is dropped.
    pub fn unblock(&self) {
        drop(lock(&self.stop_trigger).take());
        let current = lock(&self.current);
        for _ in 0..HANDLERS {
            current.unblock();
        }
    }

    /// Opens the server anew when it no longer answers. The knocks have a second use: accepting ends after
    /// `idle` without a connection, and each knock is one.
    fn watch(&self) {
        let mut missed = 0;
        while !self.stop.wait(self.limits.knock_every) {
            missed = if self.knock() { 0 } else { missed + 1 };
            if missed >= KNOCKS_MISSED_MAX {
                missed = 0;
                let current = Arc::clone(&lock(&self.current));
                log::warn!(
                    "the HTTP endpoints do not answer on port {}; opening them anew",
                    self.port
                );
                self.reopen(&current);
            }
        }
    }

    /// Asks `/livez` of this very server, as a probe would. True if anything is answered.
    fn knock(&self) -> bool {
        let ask = || -> io::Result<bool> {
            let mut connection = TcpStream::connect_timeout(&listener::loopback(self.port), KNOCK_DEADLINE)?;
            connection.set_write_timeout(Some(KNOCK_DEADLINE))?;
            connection.set_read_timeout(Some(KNOCK_DEADLINE))?;
            connection.write_all(b"HEAD /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
            Ok(connection.read(&mut [0])? > 0)
        };
        ask().unwrap_or(false)
    }

    /// One handler: answers what comes in until the stop.
    fn handle_requests(&self) {
        while let Some(request) = self.next_request() {
            self.handle(request);
        }
    }

    /// The next request whose connection nobody answers; `None` at the stop. What is in the queue then is passed
    /// over, so that it does not come to be answered, and waited for, when the queue is dropped.
    fn next_request(&self) -> Option<Request> {
        // One handler at a time takes a request and enters its lane: were another to overtake it in between, a
        // later request of a connection would be answered first, and wait for the earlier one behind it for ever.
        let _turn = lock(&self.turn);
        loop {
            let server = Arc::clone(&lock(&self.current));
            match server.recv() {
                Ok(request) if self.stop.is_stopped() => discard(request),
                Ok(request) => {
                    if let Some(free) = self.admit(request) {
                        return Some(free);
                    }
                }
                Err(_) if self.stop.is_stopped() => return None,
                // Woken by `reopen`, to go to the new server.
                Err(_) if !self.is_current(&server) => {}
                Err(error) => {
                    log::debug!(
                        "the HTTP endpoints stopped accepting connections: {error}; opening them anew"
                    );
                    if self.stop.wait(REOPEN_PAUSE) {
                        return None;
                    }
                    self.reopen(&server);
                }
            }
        }
    }

    /// Gives the request back if it is to be answered now.
    fn admit(&self, request: Request) -> Option<Request> {
        if announces_body(&request) {
            log::debug!("a request with a body is left unanswered on the HTTP endpoints");
            discard(request);
            return None;
        }
        // Only a unix socket has clients without an address, and this is none.
        let client = *request.remote_addr()?;
        self.lanes.enter(client, request)
    }

    fn is_current(&self, server: &Arc<Server>) -> bool {
        Arc::ptr_eq(server, &lock(&self.current))
    }

    /// Puts a new server in the place of a dead one, once, and sends the handler that waits to it. If it cannot be opened,
    /// the next missed knocks try again.
    fn reopen(&self, dead: &Arc<Server>) {
        let mut current = lock(&self.current);
        if self.stop.is_stopped() || !Arc::ptr_eq(dead, &current) {
            return;
        }
        match open(&self.listener) {
            Ok(server) => {
                *current = Arc::new(server);
                // At most one handler waits there.
                dead.unblock();
            }
            Err(error) => log::warn!(
                "cannot open the HTTP endpoints on port {} anew: {error}",
                self.port
            ),
        }
    }

    /// Answers one request, and those that its connection sends meanwhile.
    fn handle(&self, request: Request) {
        let Some(client) = request.remote_addr().copied() else {
            return;
        };
        let mut next = Some(request);
        while let Some(request) = next {
            let answered = self.respond(request);
            if let Err(error) = &answered {
                log::debug!("an answer on the HTTP endpoints did not reach its client: {error}");
            }
            if answered.is_err() || self.stop.is_stopped() {
                self.lanes.abandon(&client).into_iter().for_each(discard);
                return;
            }
            next = self.lanes.next(&client);
        }
    }

    fn respond(&self, request: Request) -> io::Result<()> {
        let sources = Sources {
            health: &self.health,
            metrics: &self.metrics,
            status: self.status.as_deref(),
        };
        let asked = Asked {
            now: Instant::now(),
            at: clock::now(),
        };
        let answer = answer(request.method().as_str(), request.url(), sources, asked);
        request.respond(response(answer))
    }
}

impl ServerError {
    fn of(port: u16, error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::AddrInUse {
            Self::InUse { port }
        } else if error.kind() == io::ErrorKind::PermissionDenied {
            Self::Denied { port }
        } else {
            Self::Failed {
                port,
                cause: error.to_string(),
            }
        }
    }
}

/// A `tiny_http` server on another handle of this listener.
fn open(listener: &TcpListener) -> io::Result<Server> {
    Server::from_listener(listener.try_clone()?, None).map_err(io::Error::other)
}

/// A body that `tiny_http` has not read itself before it handed the request over.
fn announces_body(request: &Request) -> bool {
    let waits_for_continue = request
        .headers()
        .iter()
        .any(|header| header.field.equiv("Expect"));
    request
        .body_length()
        .is_some_and(|bytes| bytes > BODY_BYTES_MAX || (bytes > 0 && waits_for_continue))
}

/// Ends a request without an answer and without waiting for its client.
fn discard(request: Request) {
    if announces_body(&request) {
        // Dropping it would allocate and await the body: see the top of this file.
        std::mem::forget(request);
    } else {
        // A request that is dropped answers 500, which may wait; its writer, dropped unused, does not.
        drop(request.into_writer());
    }
}

fn response(answer: Answer) -> Response<Cursor<Vec<u8>>> {
    let headers = [
        ("Content-Type", answer.content_type),
        // The version of a library is nobody's business.
        ("Server", env!("CARGO_PKG_NAME")),
        // A cached probe would be a lie.
        ("Cache-Control", "no-store"),
    ];
    let headers = headers.iter().chain(answer.headers);
    let plain = Response::from_data(answer.body)
        .with_status_code(answer.status)
        // A length is told always: chunks would be for answers that are made on the way.
        .with_chunked_threshold(usize::MAX);
    headers
        .filter_map(|(name, value)| Header::from_bytes(*name, *value).ok())
        .fold(plain, Response::with_header)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is locked here is replaced in one step, so a poisoned lock is as good as any.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
