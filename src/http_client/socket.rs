//! The TCP connections of the HTTP client.
//!
//! ureq brings its own. It is not used, because it costs a dozen system calls where four do: the head and the body
//! of a request are sent one by one, the time that is left is told to the kernel anew before each read and write,
//! and whether a kept connection is still open is asked twice, in three calls each. At ten thousand calls a second
//! that is more than all the rest. It also keeps 256 KiB of buffers a connection, however small the answers are.
//!
//! Here a request goes out when its answer is waited for, the kernel is told of the time that is left when what it
//! knows is off by more than a twentieth, and buffers grow with what comes.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, recv};
use ureq::Timeout;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, NextTimeout, ShutdownHandle, Transport,
};

/// What the kernel was told may be off by this share of the time that is left.
const TOLERANCE: u32 = 20;
/// Room for a request: a batch of ten receipt handles has five kilobytes, a session token may have four.
const OUTPUT_BYTES: usize = 16 * 1024;
/// A head needs so much room in one piece: with less, what was held back is sent first.
const HEAD_BYTES: usize = 8 * 1024;
/// Room for an answer at first, and at most: a large one is read in pieces.
const INPUT_BYTES: usize = 8 * 1024;
const INPUT_BYTES_MAX: usize = 128 * 1024;

/// Connects to the addresses of a peer, one after the other.
#[derive(Debug)]
pub struct SocketConnector;

/// A connection.
#[derive(Debug)]
pub struct Socket {
    /// Shared with the agent, which may shut it down.
    stream: Arc<Shared>,
    buffers: SocketBuffers,
    armed_read: Duration,
    armed_write: Duration,
    /// Something came since it was last asked whether it is open.
    has_just_read: bool,
}

#[derive(Debug)]
struct Shared(TcpStream);

impl ShutdownHandle for Shared {
    fn shutdown(&self) {
        // It fails if the connection is gone already.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

#[derive(Debug)]
struct SocketBuffers {
    output: Vec<u8>,
    /// So much of the output is ready to be sent.
    held_back: usize,
    input: Vec<u8>,
    /// What has come and was not consumed yet.
    unread: std::ops::Range<usize>,
    /// The last look at the input consumed some of it.
    progress: bool,
}

impl Connector for SocketConnector {
    type Out = Socket;

    fn connect(&self, details: &ConnectionDetails, _: Option<()>) -> Result<Option<Socket>, ureq::Error> {
        let began = Instant::now();
        let whole = details.timeout.not_zero().map(|after| *after);
        let mut failed = ureq::Error::Io(io::Error::from(ErrorKind::ConnectionRefused));
        for (index, address) in details.addrs.iter().enumerate() {
            let attempt = match whole {
                None => TcpStream::connect(address),
                Some(whole) => {
                    let left = whole.saturating_sub(began.elapsed());
                    if left.is_zero() {
                        return Err(ureq::Error::Timeout(details.timeout.reason));
                    }
                    // An address that swallows packets must not take the time of the next.
                    let share = u32::try_from(details.addrs.len() - index).unwrap_or(1);
                    TcpStream::connect_timeout(address, left / share)
                }
            };
            match attempt {
                Ok(stream) => return connected(stream, details).map(Some),
                Err(error) if is_timeout(&error) => failed = ureq::Error::Timeout(Timeout::Connect),
                Err(error) => failed = ureq::Error::Io(error),
            }
        }
        Err(failed)
    }
}

fn connected(stream: TcpStream, details: &ConnectionDetails) -> Result<Socket, ureq::Error> {
    stream.set_nodelay(true)?;
    let stream = Arc::new(Shared(stream));
    let handle: Weak<Shared> = Arc::downgrade(&stream);
    (details.register_shutdown)(handle)?;
    Ok(Socket {
        stream,
        buffers: SocketBuffers {
            output: vec![0; OUTPUT_BYTES],
            held_back: 0,
            input: vec![0; INPUT_BYTES],
            unread: 0..0,
            progress: false,
        },
        armed_read: Duration::ZERO,
        armed_write: Duration::ZERO,
        has_just_read: false,
    })
}

impl Socket {
    /// Sends what was held back.
    fn send(&mut self, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let timeout = timeout.for_write();
        let waiting = std::mem::take(&mut self.buffers.held_back);
        let until = until(timeout)?;
        let mut sent = 0;
        while sent < waiting {
            arm(
                &self.stream.0,
                left(until, timeout)?,
                &mut self.armed_write,
                TcpStream::set_write_timeout,
            )?;
            match (&self.stream.0).write(&self.buffers.output[sent..waiting]) {
                Ok(0) => return Err(io::Error::from(ErrorKind::WriteZero).into()),
                Ok(more) => sent += more,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(told(error, timeout)),
            }
        }
        Ok(())
    }
}

impl Transport for Socket {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.buffers.held_back += amount;
        if self.buffers.output.len() - self.buffers.held_back < HEAD_BYTES {
            self.send(timeout)?;
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.send(timeout)?;
        let timeout = timeout.for_read();
        let until = until(timeout)?;
        let came = loop {
            arm(
                &self.stream.0,
                left(until, timeout)?,
                &mut self.armed_read,
                TcpStream::set_read_timeout,
            )?;
            match (&self.stream.0).read(self.buffers.input_append_buf()) {
                Ok(came) => break came,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(told(error, timeout)),
            }
        };
        self.has_just_read = true;
        self.buffers.input_appended(came);
        Ok(came > 0)
    }

    /// Asked when an answer has been read, and again when the connection is to be used for the next call. The first
    /// time the answer itself is the evidence.
    fn is_open(&mut self) -> bool {
        if std::mem::take(&mut self.has_just_read) {
            return true;
        }
        // Nothing may have come: neither the end nor more than was asked for.
        let mut byte = [0_u8; 1];
        let came = recv(&self.stream.0, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT);
        matches!(came, Err(rustix::io::Errno::WOULDBLOCK))
    }
}

impl Buffers for SocketBuffers {
    fn output(&mut self) -> &mut [u8] {
        &mut self.output[self.held_back..]
    }

    fn input(&self) -> &[u8] {
        &self.input[self.unread.clone()]
    }

    fn input_append_buf(&mut self) -> &mut [u8] {
        if self.unread.is_empty() {
            self.unread = 0..0;
        } else if self.unread.end == self.input.len() && self.unread.start > 0 {
            self.input.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
        }
        if self.unread.end == self.input.len() {
            // ureq gives up a head that is longer than half of the most.
            let longer = (2 * self.input.len()).min(2 * INPUT_BYTES_MAX);
            self.input.resize(longer, 0);
        }
        &mut self.input[self.unread.end..]
    }

    fn input_appended(&mut self, amount: usize) {
        self.unread.end += amount;
        let is_full = self.unread.len() == self.input.len();
        if is_full && self.input.len() < INPUT_BYTES_MAX {
            // There is more to come: in larger pieces.
            self.input.resize(2 * self.input.len(), 0);
        }
    }

    fn input_consume(&mut self, amount: usize) {
        self.progress = amount > 0;
        self.unread.start = (self.unread.start + amount).min(self.unread.end);
    }

    fn tmp_and_output(&mut self) -> (&mut [u8], &mut [u8]) {
        // The body of a request is put together before its answer comes.
        if self.unread.is_empty() {
            self.unread = 0..0;
        }
        (
            &mut self.input[self.unread.end..],
            &mut self.output[self.held_back..],
        )
    }

    fn can_use_input(&self) -> bool {
        !self.unread.is_empty() && self.progress
    }
}

/// When the time is over; `None` for never. An error if it is over already.
fn until(timeout: NextTimeout) -> Result<Option<Instant>, ureq::Error> {
    if timeout.after.is_zero() {
        return Err(ureq::Error::Timeout(timeout.reason));
    }
    Ok(timeout.not_zero().map(|after| Instant::now() + *after))
}

/// How much of it is left; `None` for as much as it takes.
fn left(until: Option<Instant>, timeout: NextTimeout) -> Result<Option<Duration>, ureq::Error> {
    let Some(until) = until else { return Ok(None) };
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(ureq::Error::Timeout(timeout.reason));
    }
    Ok(Some(left))
}

/// Tells the kernel how long the next read, or write, may take.
fn arm(
    stream: &TcpStream,
    left: Option<Duration>,
    armed: &mut Duration,
    tell: impl Fn(&TcpStream, Option<Duration>) -> io::Result<()>,
) -> io::Result<()> {
    // Zero is what the kernel calls never.
    let wanted = left.unwrap_or_default();
    if armed.abs_diff(wanted) > wanted / TOLERANCE {
        tell(stream, left)?;
        *armed = wanted;
    }
    Ok(())
}

fn told(error: io::Error, timeout: NextTimeout) -> ureq::Error {
    if is_timeout(&error) {
        ureq::Error::Timeout(timeout.reason)
    } else {
        error.into()
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock)
}
