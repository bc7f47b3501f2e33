//! Bytes to and from Redis: a TCP, TLS or unix socket with one deadline for a whole exchange, and the library's parser for
//! the replies.
//!
//! The library's own connection has a timeout for each read, so twenty replies of a stalled server would take twenty
//! timeouts. Nor does it take another server name than the host's, or keep TLS sessions between connections.

use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{Cmd, Parser, RedisError, RedisResult, Value};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use socket2::{Socket, TcpKeepalive};

use super::tls_errors::failure_of;
use crate::lookup::Lookups;

/// After this and a few probes a peer that vanished is noticed, even while nothing is sent.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// A timeout in force may be off by this share of itself: setting it is a system call.
const TOLERANCE: u32 = 20;

/// One connection.
pub(super) struct Transport {
    stream: BufReader<Stream>,
    parser: Parser,
}

enum Stream {
    Plain(TimedSocket),
    Tls(Box<StreamOwned<ClientConnection, TimedSocket>>),
}

#[derive(Debug, thiserror::Error)]
#[error("the TLS handshake failed: {0}")]
struct HandshakeFailed(#[source] io::Error);

/// A socket whose reads and writes end by a deadline, however many they are.
struct TimedSocket {
    socket: Socket,
    deadline: Instant,
    timeout: Duration,
}

impl Transport {
    /// Connects to the addresses of the name in turn, until one answers.
    pub(super) fn tcp(host: &str, port: u16, lookups: &Lookups, deadline: Instant) -> io::Result<Self> {
        let addresses = lookups.addresses(host, port, deadline)?;
        let mut failed = io::Error::from(ErrorKind::NotFound);
        for (index, address) in addresses.iter().enumerate() {
            // An address that drops packets must leave time for the next.
            let share = u32::try_from(addresses.len() - index).unwrap_or(1);
            match TcpStream::connect_timeout(address, left_until(deadline)? / share) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    let socket = Socket::from(stream);
                    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
                    socket.set_tcp_keepalive(&keepalive.with_interval(KEEPALIVE / 3))?;
                    return Ok(Self::plain(socket, deadline));
                }
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Opens a unix socket.
    pub(super) fn unix(path: &Path, deadline: Instant) -> io::Result<Self> {
        Ok(Self::plain(UnixStream::connect(path)?.into(), deadline))
    }

    fn plain(socket: Socket, deadline: Instant) -> Self {
        Self::over(Stream::Plain(TimedSocket { socket, deadline, timeout: Duration::ZERO }))
    }

    fn over(stream: Stream) -> Self {
        Self { stream: BufReader::new(stream), parser: Parser::new() }
    }

    /// Does the TLS handshake: what follows is encrypted.
    pub(super) fn encrypted(self, config: Arc<ClientConfig>, name: ServerName<'static>) -> io::Result<Self> {
        // Nothing was sent yet, so nothing has come.
        let mut socket = match self.stream.into_inner() {
            Stream::Plain(socket) => socket,
            tls @ Stream::Tls(_) => return Ok(Self::over(tls)),
        };
        let failed = |error: io::Error| io::Error::new(error.kind(), HandshakeFailed(error));
        let mut tls = ClientConnection::new(config, name).map_err(|error| failed(io::Error::other(error)))?;
        while tls.is_handshaking() {
            if let Err(error) = tls.complete_io(&mut socket) {
                // A server that closes says why before it does, perhaps while more is being sent.
                let alert = tls.read_tls(&mut socket).ok().and_then(|_| tls.process_new_packets().err());
                return Err(failed(alert.map_or(error, io::Error::other)));
            }
        }
        Ok(Self::over(Stream::Tls(Box::new(StreamOwned::new(tls, socket)))))
    }

    /// Whatever is sent and received from now on ends by this moment, or fails.
    pub(super) fn set_deadline(&mut self, deadline: Instant) {
        match self.stream.get_mut() {
            Stream::Plain(socket) => socket.deadline = deadline,
            Stream::Tls(tls) => tls.sock.deadline = deadline,
        }
    }

    /// Sends packed commands.
    pub(super) fn send(&mut self, request: &[u8]) -> RedisResult<()> {
        let sent = match self.stream.get_mut() {
            Stream::Plain(socket) => socket.write_all(request),
            Stream::Tls(tls) => tls.write_all(request).and_then(|()| tls.flush()),
        };
        sent.map_err(RedisError::from)
    }

    /// The next reply; a server's error is a value.
    pub(super) fn receive(&mut self) -> RedisResult<Value> {
        // Depending on its nesting, a server's error comes as a value or as an error.
        let reply = self.parser.parse_value(&mut self.stream);
        reply.or_else(|error| redis::ServerError::try_from(error).map(Value::ServerError))
    }

    /// One command and its reply; a server's error is an error.
    pub(super) fn query(&mut self, command: &Cmd) -> RedisResult<Value> {
        let reply = match self.send(&command.get_packed_command()) {
            // A server that closes says why before it does (too many clients, say): more than a broken pipe tells.
            Err(error) if error.is_connection_dropped() => {
                self.receive().map_err(|said| if failure_of(&said).is_some() { said } else { error })?
            }
            sent => sent.and_then(|()| self.receive())?,
        };
        if let Value::ServerError(error) = reply {
            return Err(error.into());
        }
        Ok(reply)
    }
}

fn left_until(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::Error::new(ErrorKind::TimedOut, "no answer in time"));
    }
    Ok(left)
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Tls(tls) => tls.read(buffer),
        }
    }
}

impl TimedSocket {
    /// Makes the next read or write end near the deadline.
    fn set_timeout(&mut self) -> io::Result<()> {
        let left = left_until(self.deadline)?;
        if self.timeout.abs_diff(left) > left / TOLERANCE {
            self.socket.set_read_timeout(Some(left))?;
            self.socket.set_write_timeout(Some(left))?;
            self.timeout = left;
        }
        Ok(())
    }
}

impl Read for TimedSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.set_timeout()?;
            let read = self.socket.read(buffer);
            // A process that was stopped for a while (a debugger) has lost nothing.
            if !matches!(&read, Err(error) if error.kind() == ErrorKind::Interrupted) {
                return read;
            }
        }
    }
}

impl Write for TimedSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.set_timeout()?;
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(()) // sockets hold nothing back
    }
}
