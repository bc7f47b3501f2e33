//! One connection: HTTP/1.1 requests one after the other, each with a content length.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use super::Simulator;
use super::calls::Buffers;
use super::shelf::wait_until;

/// Room for the head, which is written before the body once the body's length is known.
const HEAD_ROOM: usize = 192;
/// Ten handles are far below.
const REQUEST_BYTES_MAX: usize = 1024 * 1024;

/// Serves a connection to its end.
pub fn serve(mut stream: impl Read + Write, simulator: &Simulator) -> io::Result<()> {
    let half = simulator.round_trip / 2;
    let mut buffer = vec![0; 64 * 1024];
    let mut filled = 0;
    let mut answer = Vec::with_capacity(64 * 1024);
    let mut buffers = Buffers::default();
    loop {
        let frame = loop {
            if let Some(frame) = frame(&buffer[..filled])? {
                break frame;
            }
            if filled == buffer.len() {
                if filled >= REQUEST_BYTES_MAX {
                    return Err(io::Error::other("a request of more than 1 MiB"));
                }
                buffer.resize(2 * filled, 0);
            }
            match stream.read(&mut buffer[filled..])? {
                0 => return Ok(()),
                read => filled += read,
            }
        };
        pass(half);
        let end = frame.head + frame.length;
        answer.clear();
        answer.resize(HEAD_ROOM, 0);
        let target = &buffer[frame.target.0..frame.target.1];
        let target = std::str::from_utf8(target).unwrap_or_default();
        let status = simulator.answer(target, &buffer[frame.head..end], &mut answer, &mut buffers);
        let start = put_head(&mut answer, status);
        pass(half);
        stream.write_all(&answer[start..])?;
        stream.flush()?;
        buffer.copy_within(end..filled, 0);
        filled -= end;
    }
}

fn pass(way: Duration) {
    if !way.is_zero() {
        wait_until(Instant::now() + way);
    }
}

/// Puts the head right before the body and returns where it begins.
fn put_head(answer: &mut [u8], status: u16) -> usize {
    let length = answer.len() - HEAD_ROOM;
    let reason = if status == 200 { "OK" } else { "Bad Request" };
    let head = format!(
        "HTTP/1.1 {status} {reason}\r\nx-amzn-RequestId: 00000000-0000-4000-8000-000000000000\r\n\
         Content-Type: application/x-amz-json-1.0\r\nContent-Length: {length}\r\n\r\n"
    );
    let start = HEAD_ROOM - head.len();
    answer[start..HEAD_ROOM].copy_from_slice(head.as_bytes());
    start
}

/// Where a request's parts are.
struct Frame {
    /// Its end.
    head: usize,
    length: usize,
    /// The value of `X-Amz-Target`.
    target: (usize, usize),
}

fn frame(buffer: &[u8]) -> io::Result<Option<Frame>> {
    let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let mut frame = Frame { head: end + 4, length: 0, target: (0, 0) };
    let mut start = 0;
    for line in buffer[..end].split(|byte| *byte == b'\n') {
        let line_start = start;
        start += line.len() + 1;
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if name.eq_ignore_ascii_case(b"content-length") {
            frame.length = std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.trim().parse().ok())
                .ok_or_else(|| io::Error::other("a content length that is none"))?;
        } else if name.eq_ignore_ascii_case(b"x-amz-target") {
            let from = line_start + colon + 1 + (value.len() - value.trim_ascii_start().len());
            frame.target = (from, from + value.trim_ascii().len());
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") || name.eq_ignore_ascii_case(b"expect") {
            return Err(io::Error::other("a header that the simulator does not know"));
        }
    }
    Ok((buffer.len() >= frame.head + frame.length).then_some(frame))
}
