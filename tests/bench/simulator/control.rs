//! How the run is steered: plain HTTP on a port of its own, one request a connection.
//!
//! `GET /counts`; `POST /start?messages=N&rate=N` (each may be left out), `/stop`, `/measure`.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

use serde_json::{Value, json};

use super::shelf::Shelf;

/// Answers for as long as the process lives.
pub fn serve(listener: &TcpListener, shelf: &Shelf) {
    for stream in listener.incoming().flatten() {
        // Who asks and goes away is not waited for.
        let _ = answer(&stream, shelf);
    }
}

fn answer(mut stream: &TcpStream, shelf: &Shelf) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let path = first.split(' ').nth(1).unwrap_or_default();
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let (status, told) = match path {
        "/counts" => (200, shelf.told()),
        "/start" => {
            let number = |name: &str| {
                let pair = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
                pair.and_then(|value| value.parse::<f64>().ok())
            };
            shelf.start(number("messages").map(|messages| messages as u64), number("rate"));
            (200, json!({}))
        }
        "/stop" => (200, json!({"messages": shelf.stop()})),
        "/measure" => {
            shelf.measure_anew();
            (200, json!({}))
        }
        _ => (404, Value::Null),
    };
    let body = told.to_string();
    write!(
        stream,
        "HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}
