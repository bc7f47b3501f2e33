//! Controls the run: plain HTTP on a port of its own, one request for each connection.
//!
//! `GET /counts`; `POST /start?messages=N&rate=N` (each may be left out), `/stop`, `/measure`, `/purge?customers=N`.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

use serde_json::{Value, json};

use super::supply::BenchSupply;
use crate::fakes::queue::FakeQueue;
use crate::mix::Customer;

/// Answers for as long as the process lives.
pub fn serve(listener: &TcpListener, queue: &FakeQueue, supply: &BenchSupply) {
    for stream in listener.incoming().flatten() {
        // A caller that goes away is not waited for.
        let _ = answer(&stream, queue, supply);
    }
}

fn answer(mut stream: &TcpStream, queue: &FakeQueue, supply: &BenchSupply) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let path = first.split(' ').nth(1).unwrap_or_default();
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let number = |name: &str| {
        let pair = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        pair.and_then(|value| value.parse::<f64>().ok())
    };
    let (status, body) = match path {
        "/counts" => {
            let (mut report, counts) = (supply.report(), queue.counts());
            report["deleted"] = counts.deleted.into();
            report["redelivered"] = counts.redelivered.into();
            // The service is measured only if it does what SQS demands.
            report["complaints"] = queue.complaints().into();
            (200, report)
        }
        "/start" => {
            supply.start(number("messages").map(|messages| messages as u64), number("rate"));
            queue.wake();
            (200, json!({}))
        }
        "/stop" => (200, json!({"messages": supply.stop()})),
        "/measure" => {
            supply.measure();
            (200, json!({}))
        }
        "/purge" => {
            let customers = number("customers").unwrap_or_default() as u64;
            let ids: Vec<_> = (0..customers).map(|number| Customer::Ordinary(number).to_string()).collect();
            queue
                .send(json!({"type": "SUBSCRIPTIONS_MIGRATED", "payload": {"customerIds": ids}}).to_string());
            (200, json!({}))
        }
        _ => (404, Value::Null),
    };
    let body = body.to_string();
    write!(
        stream,
        "HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}
