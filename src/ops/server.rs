//! The HTTP front. One thread serves every connection with `poll`: no client can make it wait, and what a client can
//! hold is bounded in number, size and time.
//!
//! A connection receives one head, sends one response and is closed. What is not a short, complete GET or HEAD request
//! is refused by `endpoints`. `tiny_http` writes the responses; its server is not used, because it grows without bound
//! under a hostile client.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Socket, Type};

use super::endpoints::{Endpoints, OpsReply};
use super::health::HealthBoard;
use super::metrics::Metrics;
use super::status::StatusBoard;

/// Connections served at a time. When there are more, [`evict`] makes room.
const CONNECTIONS_MAX: usize = 64;
/// Connections accepted before the open ones are served again, so that a burst cannot evict one that was never read.
const ACCEPTED_MAX: usize = 16;
/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 4096;
/// For a request's head, and then for the client to take the response.
const DEADLINE: Duration = Duration::from_secs(5);
/// Between two tries to accept while the process has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Read from one connection before the others have their turn.
const CHUNK_BYTES: usize = 8 * 1024;

/// The HTTP endpoints. Listens from [`OpsServer::bind`] on; responds while [`OpsServer::run`] runs.
pub struct OpsServer {
    endpoints: Endpoints,
    listener: TcpListener,
    /// [`DEADLINE`], but for tests.
    deadline: Duration,
    /// Shut down to stop; `stopped` is its other end.
    stop: UnixStream,
    stopped: UnixStream,
}

impl OpsServer {
    /// Listens on `port` (0: any free one) by IPv4 and IPv6. Without a status board there is no status page.
    pub fn bind(
        port: u16,
        health: Arc<HealthBoard>,
        metrics: Arc<Metrics>,
        status: Option<Arc<StatusBoard>>,
    ) -> io::Result<Self> {
        let listener = listen(port).map_err(|cause| {
            let remedy = "set PORT to a free one, of 1024 or more unless as root";
            io::Error::other(format!(
                "cannot listen on port {port} for the HTTP endpoints: {cause}; {remedy}"
            ))
        })?;
        let endpoints = Endpoints { health, metrics, status, rendered: Mutex::default() };
        let (stop, stopped) = UnixStream::pair()?;
        Ok(Self { endpoints, listener, deadline: DEADLINE, stop, stopped })
    }

    /// The port that is listened on.
    pub fn local_port(&self) -> u16 {
        self.listener.local_addr().map_or(0, |address| address.port())
    }

    /// Makes [`OpsServer::run`] return, now or when it is called. The port is free once the server is dropped.
    pub fn unblock(&self) {
        let _ = self.stop.shutdown(Shutdown::Both); // again does no harm
    }

    /// Serves until [`OpsServer::unblock`].
    pub fn run(&self) {
        let mut connections = Vec::new(); // the oldest first
        let mut accept_at = Instant::now();
        while self.wait(&connections, accept_at) {
            let now = Instant::now();
            connections.retain_mut(|connection: &mut HttpConnection| {
                let transferred = self.transfer(connection, now);
                let is_open = transferred.unwrap_or_else(|error| error.kind() == ErrorKind::WouldBlock);
                is_open && now < connection.deadline
            });
            if now < accept_at {
                continue;
            }
            if let Err(error) = self.accept(&mut connections, now) {
                accept_at = now + ACCEPT_PAUSE;
                log::warn!(fault = "accept", err:% = error; "cannot accept connections to the HTTP endpoints; retrying; \
                    if descriptors are exhausted, raise the limit of open files (ulimit -n)");
            }
        }
    }

    /// Waits until there is something to do. False at the stop.
    fn wait(&self, connections: &[HttpConnection], accept_at: Instant) -> bool {
        let now = Instant::now();
        let can_accept = now >= accept_at;
        // Of `stopped`, only the hang-up is of interest, which is always reported.
        let mut polled = vec![PollFd::new(&self.stopped, PollFlags::empty())];
        if can_accept {
            polled.push(PollFd::new(&self.listener, PollFlags::IN));
        }
        polled.extend(connections.iter().map(|connection| {
            let is_sending = matches!(connection.phase, Phase::Response(_));
            let flags = if is_sending { PollFlags::OUT } else { PollFlags::IN };
            PollFd::new(&connection.stream, flags)
        }));
        let deadlines = connections.iter().map(|connection| connection.deadline);
        let next = deadlines.chain((!can_accept).then_some(accept_at)).min();
        let timeout = next.and_then(|next| Timespec::try_from(next.saturating_duration_since(now)).ok());
        // An interrupted wait ends early, which does no harm.
        let _ = poll(&mut polled, timeout.as_ref());
        polled[0].revents().is_empty()
    }

    fn accept(&self, connections: &mut Vec<HttpConnection>, now: Instant) -> io::Result<()> {
        for _ in 0..ACCEPTED_MAX {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(true)?;
                    if connections.len() >= CONNECTIONS_MAX {
                        evict(connections);
                    }
                    connections.push(HttpConnection {
                        stream,
                        phase: Phase::Head(Vec::new()),
                        deadline: now + self.deadline,
                    });
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(_) if evict(connections) => {} // no descriptor was left
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Does what can be done without waiting. False once the client has ended the connection.
    fn transfer(&self, connection: &mut HttpConnection, now: Instant) -> io::Result<bool> {
        let HttpConnection { stream, phase, deadline } = connection;
        let mut chunk = [0; CHUNK_BYTES];
        if let Phase::Head(received) = phase {
            match stream.read(&mut chunk) {
                Ok(0) => return Ok(false),
                Ok(length) => received.extend_from_slice(&chunk[..length]),
                Err(error) if now < *deadline => return Err(error),
                Err(_) => {}
            }
            let Some(reply) = self.endpoints.reply(received, now >= *deadline, now) else {
                return Ok(true);
            };
            *deadline = now + self.deadline;
            *phase = Phase::Response(encode(reply)?);
        }
        if let Phase::Response(unsent) = phase {
            while !unsent.is_empty() {
                let sent = stream.write(unsent)?;
                unsent.drain(..sent);
            }
            stream.shutdown(Shutdown::Write)?;
            *phase = Phase::Drain;
        }
        Ok(stream.read(&mut chunk)? > 0)
    }
}

/// On `[::]` for IPv6 and IPv4, whatever `net.ipv6.bindv6only` says, or on 0.0.0.0 where the host has no IPv6.
fn listen(port: u16) -> io::Result<TcpListener> {
    let listen_on = |domain, address: SocketAddr| -> io::Result<TcpListener> {
        let socket = Socket::new(domain, Type::STREAM, None)?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(TcpListener::from(socket))
    };
    match listen_on(Domain::IPV6, (Ipv6Addr::UNSPECIFIED, port).into()) {
        Err(error) if !matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::PermissionDenied) => {
            listen_on(Domain::IPV4, (Ipv4Addr::UNSPECIFIED, port).into())
        }
        bound => bound,
    }
}

/// Closes the connection that matters least: one that has its response, else one without a complete request, else one
/// that is slow to take its response; of these the oldest. False if there is none.
fn evict(connections: &mut Vec<HttpConnection>) -> bool {
    let rank = |connection: &HttpConnection| match connection.phase {
        Phase::Drain => 0,
        Phase::Head(_) => 1,
        Phase::Response(_) => 2,
    };
    let evicted = (0..connections.len()).min_by_key(|index| rank(&connections[*index]));
    evicted.map(|index| connections.remove(index)).is_some()
}

struct HttpConnection {
    stream: TcpStream,
    phase: Phase,
    deadline: Instant,
}

enum Phase {
    /// Receives a request; what has arrived of it.
    Head(Vec<u8>),
    /// Sends the response; what is left of it.
    Response(Vec<u8>),
    /// Everything is sent. What the client still sends, such as a body, is discarded: closing the connection before it
    /// is read would reset it, and the client could lose the response.
    Drain,
}

/// The response as it is sent.
fn encode(reply: OpsReply) -> io::Result<Vec<u8>> {
    let common = [
        ("Content-Type", reply.content_type),
        // Do not disclose the library and its version.
        ("Server", env!("CARGO_PKG_NAME")),
        // A cached probe result would be wrong.
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
    ];
    let mut response = tiny_http::Response::from_data(reply.body)
        .with_status_code(reply.status)
        .with_chunked_threshold(usize::MAX);
    for (name, value) in common.into_iter().chain(reply.headers) {
        let header = tiny_http::Header::from_bytes(name, value);
        response.add_header(header.map_err(|()| io::Error::other("not a header"))?);
    }
    let mut bytes = Vec::new();
    response.raw_print(&mut bytes, reply.http_version.into(), &[], reply.is_head, None)?;
    // `tiny_http` drops this header when it is added to a response.
    let status_line_end = bytes.iter().position(|byte| *byte == b'\r').unwrap_or_default();
    bytes.splice(status_line_end..status_line_end, *b"\r\nConnection: close");
    Ok(bytes)
}

#[cfg(test)]
mod tests;
