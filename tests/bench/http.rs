//! Calls of SQS as bytes on a socket: unsigned, on one kept connection, without TLS.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use anyhow::Context;
use url::Url;

/// One connection.
pub struct Caller {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Caller {
    /// To the endpoint of a queue on this machine.
    pub fn connect(endpoint: &Url) -> anyhow::Result<Self> {
        anyhow::ensure!(endpoint.scheme() == "http", "the raw client speaks no TLS");
        let port = endpoint.port().context("a URL with a port")?;
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; 64 * 1024] })
    }

    /// Sends a request and returns the body of its answer.
    pub fn call(&mut self, request: &[u8]) -> anyhow::Result<&str> {
        self.stream.write_all(request)?;
        let mut filled = 0;
        loop {
            // Only the answer that is read now can be in the buffer: nothing is asked before it is whole.
            let head = self.buffer[..filled].windows(4).position(|window| window == b"\r\n\r\n");
            if let Some(end) = head {
                let head = String::from_utf8_lossy(&self.buffer[..end]).to_ascii_lowercase();
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok())
                    .context("an answer without a length")?;
                let whole = end + 4 + length;
                self.buffer.resize(whole.max(self.buffer.len()), 0);
                self.stream.read_exact(&mut self.buffer[filled..whole])?;
                let body = std::str::from_utf8(&self.buffer[end + 4..whole])?;
                anyhow::ensure!(head.starts_with("http/1.1 200"), "refused: {body}");
                return Ok(body);
            }
            match self.stream.read(&mut self.buffer[filled..])? {
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                read => filled += read,
            }
        }
    }
}

/// A call.
pub fn request(operation: &str, body: &str) -> Vec<u8> {
    format!(
        "POST / HTTP/1.1\r\nHost: localhost\r\nX-Amz-Target: AmazonSQS.{operation}\r\n\
         Content-Type: application/x-amz-json-1.0\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
