//! As much of HTTP/1.1 as an SDK of AWS speaks: one request after the other on a kept connection, each with a
//! content length. Anything else is refused by name.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use time::OffsetDateTime;
use time::macros::format_description;

/// Ten handles, or one message of 1 MiB with every character escaped, are far below.
const REQUEST_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A request, as it lies in the connection's buffer.
#[derive(Debug)]
pub struct Request<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub headers: Vec<(&'a str, &'a str)>,
    pub body: &'a [u8],
}

impl Request<'_> {
    /// The first header of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(given, _)| given.eq_ignore_ascii_case(name));
        found.map(|(_, value)| *value)
    }
}

/// An answer, without the headers that each has.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub content_type: &'static str,
    /// `x-amzn-query-error`
    pub query_error: Option<String>,
    pub body: Vec<u8>,
}

/// TCP, or TLS on top of it.
pub trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A connection and what was read of it beyond the last request.
pub struct Connection {
    stream: Box<dyn Stream>,
    socket: TcpStream,
    buffer: Vec<u8>,
    consumed: usize,
}

/// Where a request's parts are in the buffer.
struct Frame {
    head: usize,
    length: usize,
}

impl Connection {
    pub fn new(socket: TcpStream, tls: Option<Arc<ServerConfig>>) -> io::Result<Self> {
        let stream: Box<dyn Stream> = match tls {
            None => Box::new(socket.try_clone()?),
            Some(config) => {
                let tls = ServerConnection::new(config).map_err(io::Error::other)?;
                Box::new(StreamOwned::new(tls, socket.try_clone()?))
            }
        };
        Ok(Self { stream, socket, buffer: Vec::with_capacity(16 * 1024), consumed: 0 })
    }

    /// The next request; `Ok(None)` at the end of the connection, an error with its reason for what is no request.
    pub fn next_request(&mut self) -> Result<Option<Request<'_>>, String> {
        self.buffer.drain(..self.consumed);
        self.consumed = 0;
        let frame = loop {
            if let Some(frame) = frame(&self.buffer)? {
                break frame;
            }
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) | Err(_) => return Ok(None),
                Ok(read) => self.buffer.extend_from_slice(&chunk[..read]),
            }
        };
        self.consumed = frame.head + frame.length;
        let head = std::str::from_utf8(&self.buffer[..frame.head]).map_err(|_| "a head that is no text")?;
        let mut lines = head.split("\r\n");
        let mut first = lines.next().unwrap_or_default().split(' ');
        let (Some(method), Some(path), Some("HTTP/1.1")) = (first.next(), first.next(), first.next()) else {
            return Err("no HTTP/1.1 request".to_owned());
        };
        let headers =
            lines.filter_map(|line| line.split_once(':')).map(|(name, value)| (name, value.trim())).collect();
        Ok(Some(Request { method, path, headers, body: &self.buffer[frame.head..self.consumed] }))
    }

    pub fn answer(&mut self, answer: &Answer, number: u64, now_ms: i64) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(answer.body.len() + 300);
        write!(
            bytes,
            "HTTP/1.1 {} {}\r\nx-amzn-RequestId: 00000000-0000-4000-8000-{number:012x}\r\nDate: {}\r\n\
             Content-Type: {}\r\nContent-Length: {}\r\nConnection: keep-alive\r\n",
            answer.status,
            reason(answer.status),
            http_date(now_ms),
            answer.content_type,
            answer.body.len()
        )?;
        if let Some(query_error) = &answer.query_error {
            write!(bytes, "x-amzn-query-error: {query_error}\r\n")?;
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&answer.body);
        self.stream.write_all(&bytes)?;
        self.stream.flush()
    }

    /// Returns when the peer has gone.
    pub fn wait_for_its_end(&mut self) {
        let mut chunk = [0; 1024];
        while matches!(self.stream.read(&mut chunk), Ok(1..)) {}
    }

    /// Ends the connection with a reset.
    pub fn reset(self) {
        let _ = socket2::SockRef::from(&self.socket).set_linger(Some(std::time::Duration::ZERO));
    }
}

fn frame(buffer: &[u8]) -> Result<Option<Frame>, String> {
    if buffer.len() > REQUEST_BYTES_MAX {
        return Err("a request of more than 16 MiB".to_owned());
    }
    let Some(end) = find(buffer, b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = end + 4;
    let mut length = 0;
    for line in buffer[..end].split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            length = std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse().ok())
                .filter(|length| *length <= REQUEST_BYTES_MAX)
                .ok_or("a content length that is none")?;
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") || name.eq_ignore_ascii_case(b"expect") {
            return Err(format!(
                "the header {}, which this queue does not know",
                String::from_utf8_lossy(name)
            ));
        }
    }
    Ok((buffer.len() >= head + length).then_some(Frame { head, length }))
}

fn find(buffer: &[u8], what: &[u8]) -> Option<usize> {
    buffer.windows(what.len()).position(|window| window == what)
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Other",
    }
}

fn http_date(now_ms: i64) -> String {
    let format = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let now = OffsetDateTime::from_unix_timestamp(now_ms / 1_000).expect("a time");
    now.format(&format).expect("a text")
}
