//! Bytes to and from a Redis: a TCP, TLS or unix socket, one deadline for whatever is under way on it, and the
//! library's parser for the answers (but for those of the scripts, see `numbers`).
//!
//! The library's own connection has a timeout for each read: twenty answers of a stalled server would take twenty
//! timeouts. Nor does it take another server name than the host's, or keep TLS sessions between connections.

use std::io::{self, BufRead as _, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{Cmd, Parser, RedisError, RedisResult, Value};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use socket2::{SockRef, TcpKeepalive};

use super::numbers::numbers;
use crate::lookup::{LookupError, Lookups};

/// A peer that is gone without a word is noticed after this and a few probes, even while nothing is sent.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// An armed timeout may be off by this share of itself: setting it is a system call.
const TOLERANCE: u32 = 20;

/// One connection.
pub(super) struct Wire {
    stream: BufReader<Stream>,
    parser: Parser,
    /// The library's parser has read an answer of this exchange, and perhaps more than that: what follows is its.
    is_the_parsers: bool,
}

enum Stream {
    Plain(Timed),
    Tls(Box<StreamOwned<ClientConnection, Timed>>),
}

/// A socket whose reads and writes end by a deadline, however many they are.
struct Timed {
    socket: Socket,
    deadline: Instant,
    armed: Duration,
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Wire {
    /// Dials each address of the name in turn.
    pub(super) fn tcp(host: &str, port: u16, lookups: &Lookups, deadline: Instant) -> io::Result<Self> {
        let addresses = lookups
            .addresses(host, port, deadline)
            .map_err(|error| match error {
                LookupError::Failed(error) => error,
                LookupError::NotInTime => io::Error::other(
                    "its host name was not resolved in time, this machine's DNS is slow or does not answer",
                ),
            })?;
        let mut failed = io::Error::from(ErrorKind::NotFound);
        for (index, address) in addresses.iter().enumerate() {
            // An address that swallows packets must not take the time of the next.
            let share = u32::try_from(addresses.len() - index).unwrap_or(1);
            match TcpStream::connect_timeout(address, left_until(deadline)? / share) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    let keepalive = TcpKeepalive::new()
                        .with_time(KEEPALIVE)
                        .with_interval(KEEPALIVE / 3);
                    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
                    return Ok(Self::plain(Socket::Tcp(stream), deadline));
                }
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Opens a unix socket.
    pub(super) fn unix(path: &Path, deadline: Instant) -> io::Result<Self> {
        Ok(Self::plain(Socket::Unix(UnixStream::connect(path)?), deadline))
    }

    fn plain(socket: Socket, deadline: Instant) -> Self {
        let timed = Timed {
            socket,
            deadline,
            armed: Duration::ZERO,
        };
        Self {
            stream: BufReader::new(Stream::Plain(timed)),
            parser: Parser::new(),
            is_the_parsers: false,
        }
    }

    /// Shakes hands: what follows is encrypted.
    pub(super) fn encrypted(self, config: Arc<ClientConfig>, name: ServerName<'static>) -> io::Result<Self> {
        // Nothing was sent yet, so nothing has come.
        let mut timed = match self.stream.into_inner() {
            Stream::Plain(timed) => timed,
            tls @ Stream::Tls(_) => {
                return Ok(Self {
                    stream: BufReader::new(tls),
                    ..self
                });
            }
        };
        let told =
            |error: io::Error| io::Error::new(error.kind(), format!("the TLS handshake failed: {error}"));
        let mut tls = ClientConnection::new(config, name).map_err(|error| told(io::Error::other(error)))?;
        while tls.is_handshaking() {
            tls.complete_io(&mut timed).map_err(told)?;
        }
        Ok(Self {
            stream: BufReader::new(Stream::Tls(Box::new(StreamOwned::new(tls, timed)))),
            parser: self.parser,
            is_the_parsers: false,
        })
    }

    /// Whatever is sent and received from now on ends by this moment, or fails. All earlier answers have been read.
    pub(super) fn until(&mut self, deadline: Instant) {
        self.is_the_parsers = false;
        match self.stream.get_mut() {
            Stream::Plain(timed) => timed.deadline = deadline,
            Stream::Tls(tls) => tls.sock.deadline = deadline,
        }
    }

    /// Sends packed commands.
    pub(super) fn send(&mut self, request: &[u8]) -> RedisResult<()> {
        let sent = match self.stream.get_mut() {
            Stream::Plain(timed) => timed.write_all(request).and_then(|()| timed.flush()),
            Stream::Tls(tls) => tls.write_all(request).and_then(|()| tls.flush()),
        };
        sent.map_err(RedisError::from)
    }

    /// The next answer; a server's error is a value.
    pub(super) fn receive(&mut self) -> RedisResult<Value> {
        if !self.is_the_parsers {
            if let Some((answer, length)) = numbers(self.stream.fill_buf()?) {
                self.stream.consume(length);
                return Ok(answer);
            }
            self.is_the_parsers = true;
        }
        let answer = self.parser.parse_value(&mut self.stream);
        // Depending on its nesting, a server's error comes as a value or as an error.
        answer.or_else(|error| redis::ServerError::try_from(error).map(Value::ServerError))
    }

    /// One command and its answer; a server's error is an error.
    pub(super) fn ask(&mut self, command: &Cmd) -> RedisResult<Value> {
        let sent = self.send(&command.get_packed_command());
        let answer = match sent {
            // A server that closes says why before it does (too many clients, say): that tells more than a broken pipe.
            Err(error) if error.is_connection_dropped() => self.receive().map_err(|_| error)?,
            sent => sent.and_then(|()| self.receive())?,
        };
        if let Value::ServerError(error) = answer {
            return Err(error.into());
        }
        Ok(answer)
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
            Self::Plain(timed) => timed.read(buffer),
            Self::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Timed {
    /// Sees to it that the next read or write ends near the deadline.
    fn arm(&mut self) -> io::Result<()> {
        let left = left_until(self.deadline)?;
        if self.armed.abs_diff(left) > left / TOLERANCE {
            match &self.socket {
                Socket::Tcp(stream) => {
                    stream.set_read_timeout(Some(left))?;
                    stream.set_write_timeout(Some(left))?;
                }
                Socket::Unix(stream) => {
                    stream.set_read_timeout(Some(left))?;
                    stream.set_write_timeout(Some(left))?;
                }
            }
            self.armed = left;
        }
        Ok(())
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.arm()?;
            let read = match &mut self.socket {
                Socket::Tcp(stream) => stream.read(buffer),
                Socket::Unix(stream) => stream.read(buffer),
            };
            // A process that was stopped for a while (a debugger) has lost nothing.
            if !matches!(&read, Err(error) if error.kind() == ErrorKind::Interrupted) {
                return read;
            }
        }
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.arm()?;
        match &mut self.socket {
            Socket::Tcp(stream) => stream.write(bytes),
            Socket::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(()) // sockets hold nothing back
    }
}
