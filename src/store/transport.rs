//! Bytes to and from Redis: a TCP, TLS or unix socket with one deadline for a whole exchange, and the library's parser for
//! the replies.
//!
//! The library's own connection has a timeout for each read, so twenty replies of a stalled server would take twenty
//! timeouts. Nor does it take another server name than the host's, or keep TLS sessions between connections.

use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use redis::{Cmd, Parser, RedisError, RedisResult, Value};
use rustls::{ClientConnection, StreamOwned};
use socket2::{Domain, SockAddr, Socket, TcpKeepalive, Type};

use super::errors::cause_in;
use crate::lookup::Lookups;

/// After this and a few probes a peer that vanished is noticed, even while nothing is sent.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// A socket's timeout may be off by one part in this many: setting it is a system call.
const TOLERANCE: u32 = 20;

/// One connection.
pub(super) struct Transport {
    stream: BufReader<Box<dyn Stream>>,
    parser: Parser,
}

/// With TLS or without.
trait Stream: Read + Write + Send {
    fn socket(&mut self) -> &mut TimedSocket;
}

impl Stream for TimedSocket {
    fn socket(&mut self) -> &mut TimedSocket {
        self
    }
}

impl Stream for StreamOwned<ClientConnection, TimedSocket> {
    fn socket(&mut self) -> &mut TimedSocket {
        &mut self.sock
    }
}

/// A socket whose reads and writes end by a deadline, however many they are.
pub(super) struct TimedSocket {
    socket: Socket,
    deadline: Instant,
    timeout: Duration,
}

impl Transport {
    /// Over a socket that is connected. With TLS, the first command does the handshake.
    pub(super) fn new(socket: TimedSocket, tls: Option<ClientConnection>) -> Self {
        let stream: Box<dyn Stream> = match tls {
            None => Box::new(socket),
            Some(tls) => Box::new(StreamOwned::new(tls, socket)),
        };
        Self { stream: BufReader::new(stream), parser: Parser::new() }
    }

    /// Whatever is sent and received from now on ends by this moment, or fails.
    pub(super) fn set_deadline(&mut self, deadline: Instant) {
        self.stream.get_mut().socket().deadline = deadline;
    }

    /// Sends packed commands.
    pub(super) fn send(&mut self, request: &[u8]) -> RedisResult<()> {
        let stream = self.stream.get_mut();
        stream.write_all(request).and_then(|()| stream.flush()).map_err(RedisError::from)
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
            // A server may say why (too many clients) before it closes: more than a broken pipe says.
            Err(error) if error.is_connection_dropped() => {
                let has_cause = |read: &RedisError| cause_in::<rustls::Error>(read).is_some();
                self.receive().map_err(|read| if has_cause(&read) { read } else { error })?
            }
            sent => sent.and_then(|()| self.receive())?,
        };
        if let Value::ServerError(error) = reply {
            return Err(error.into());
        }
        Ok(reply)
    }
}

impl TimedSocket {
    /// Connects to the addresses of the name in turn, until one answers.
    pub(super) fn tcp(host: &str, port: u16, lookups: &Lookups, deadline: Instant) -> io::Result<Self> {
        let addresses = lookups.addresses(host, port, deadline)?;
        let mut failed = io::Error::from(ErrorKind::NotFound);
        for (index, address) in addresses.iter().enumerate() {
            // An address that drops packets must leave time for the next.
            let share = u32::try_from(addresses.len() - index).unwrap_or(1);
            let socket = Socket::new(Domain::for_address(*address), Type::STREAM, None)?;
            match socket.connect_timeout(&(*address).into(), left_until(deadline)? / share) {
                Ok(()) => {
                    socket.set_tcp_nodelay(true)?;
                    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
                    socket.set_tcp_keepalive(&keepalive.with_interval(KEEPALIVE / 3))?;
                    return Ok(Self { socket, deadline, timeout: Duration::ZERO });
                }
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Opens a unix socket.
    pub(super) fn unix(path: &Path, deadline: Instant) -> io::Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // This one limits connecting, too: it waits for as long as the server's backlog is full.
        socket.set_write_timeout(Some(left_until(deadline)?))?;
        socket.connect(&SockAddr::unix(path)?)?;
        Ok(Self { socket, deadline, timeout: Duration::ZERO })
    }

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

fn left_until(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    // A socket takes a timeout of less than a microsecond for none at all.
    if left < Duration::from_millis(1) {
        return Err(io::Error::new(ErrorKind::TimedOut, "no answer in time"));
    }
    Ok(left)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_never_leaves_so_little_that_a_socket_would_wait_for_ever() {
        for micros in 0..1_000 {
            let left = left_until(Instant::now() + Duration::from_micros(micros));
            assert!(left.is_err(), "{micros} µs: {left:?}");
        }
    }

    #[test]
    fn connecting_to_a_unix_socket_whose_backlog_is_full_ends_at_the_deadline() {
        let path = std::env::temp_dir().join(format!("pcs-backlog-{}", std::process::id()));
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        listener.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        listener.listen(0).unwrap();
        let began = Instant::now();
        let soon = || Instant::now() + Duration::from_millis(100);
        let connections: Vec<_> = (0..4).map(|_| TimedSocket::unix(&path, soon())).collect();
        std::fs::remove_file(&path).unwrap();
        let error = connections.into_iter().find_map(Result::err).expect("a backlog that is full");
        assert!(RedisError::from(error).is_timeout());
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}
