//! As much of HTTP/1.1 as an SDK of AWS speaks: one request after the other on a kept connection, each with a
//! content length. Anything else is refused by name.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use httparse::Status;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use time::OffsetDateTime;
use time::macros::format_description;

/// Ten handles, or one message of 1 MiB with every character escaped, are far below.
const REQUEST_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Far more than an SDK sends.
const HEADERS_MAX: usize = 64;
const READ_BYTES: usize = 16 * 1024;

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
    /// What one read brings.
    chunk: Box<[u8]>,
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
        let (buffer, chunk) = (Vec::with_capacity(READ_BYTES), vec![0; READ_BYTES].into_boxed_slice());
        Ok(Self { stream, socket, buffer, consumed: 0, chunk })
    }

    /// The next request; `Ok(None)` at the end of the connection, an error with its reason for what is no request.
    pub fn next_request(&mut self) -> Result<Option<Request<'_>>, String> {
        self.buffer.drain(..self.consumed);
        self.consumed = 0;
        let frame = loop {
            if let Some(frame) = frame(&self.buffer)? {
                break frame;
            }
            match self.stream.read(&mut self.chunk) {
                Ok(0) | Err(_) => return Ok(None),
                Ok(read) => self.buffer.extend_from_slice(&self.chunk[..read]),
            }
        };
        self.consumed = frame.head + frame.length;
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        request.parse(&self.buffer[..frame.head]).map_err(|error| error.to_string())?;
        let headers = request
            .headers
            .iter()
            .filter_map(|header| Some((header.name, std::str::from_utf8(header.value).ok()?)));
        Ok(Some(Request {
            method: request.method.unwrap_or_default(),
            path: request.path.unwrap_or_default(),
            headers: headers.collect(),
            body: &self.buffer[frame.head..self.consumed],
        }))
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
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let Status::Complete(head) =
        request.parse(buffer).map_err(|error| format!("no HTTP request: {error}"))?
    else {
        return Ok(None);
    };
    if request.version != Some(1) {
        return Err("no HTTP/1.1 request".to_owned());
    }
    let mut length = 0;
    for httparse::Header { name, value } in request.headers {
        if name.eq_ignore_ascii_case("content-length") {
            length = std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse().ok())
                .filter(|length| *length <= REQUEST_BYTES_MAX)
                .ok_or("an invalid content length")?;
        } else if name.eq_ignore_ascii_case("transfer-encoding") || name.eq_ignore_ascii_case("expect") {
            return Err(format!("the header {name}, which this queue does not know"));
        }
    }
    Ok((buffer.len() >= head + length).then_some(Frame { head, length }))
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
