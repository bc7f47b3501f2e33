//! Bare clients: as many pollers as the service has, which only receive, and as many threads that only delete what
//! they received. Nothing is decoded or written. What they reach is the most that a worker could.
//!
//! Two of them. `service` is the service's own queue client: it signs, speaks through the same HTTP stack and reads
//! whole answers, so the distance of the service to it is what the decoding, Redis and the pipeline cost. `raw` is
//! bytes on a socket, unsigned and unread but for the handles: no client can be faster, so it tells what the
//! simulator can give.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use crossbeam_channel::{Receiver, Sender, bounded};
use persistent_cache_service::config::Secret;
use persistent_cache_service::sqs::client::{SqsClient, SqsSettings};
use persistent_cache_service::sqs::credentials::StaticCredentials;
use persistent_cache_service::sqs::{Queue, ReceiptHandle};
use url::Url;

/// SQS's bound of a batch.
const BATCH_MAX: usize = 10;
/// Handles between receiving and deleting: what the pollers bring in one round, and again as much.
const BETWEEN: usize = 200;

/// Which client, and how much of it.
#[derive(Debug, Args)]
pub struct Options {
    /// The queue: its scheme, host and port are where it is called.
    #[arg(long)]
    queue_url: Url,
    #[arg(long, value_enum, default_value = "service")]
    client: Client,
    #[arg(long, default_value_t = 10)]
    pollers: usize,
    /// Messages asked for in one call.
    #[arg(long, default_value_t = 10)]
    batch: u8,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Client {
    Service,
    Raw,
}

/// One connection's worth of a client.
trait Bare: Send {
    fn receive(&mut self) -> anyhow::Result<Vec<String>>;
    fn delete(&mut self, handles: &[String]) -> anyhow::Result<()>;
}

/// Runs until the process is ended, or a call fails.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let shared = Arc::new(SqsClient::new(
        SqsSettings {
            endpoint: options.queue_url.clone(),
            queue_url: options.queue_url.to_string(),
            region: "us-east-2".to_owned(),
            pool_size: 2 * options.pollers,
            receive_slack: Duration::from_secs(5),
            proxy: None,
        },
        Arc::new(StaticCredentials::new(
            "AKIAEXAMPLE".to_owned(),
            Secret::inline("secret"),
            None,
        )),
    ));
    let client = || -> anyhow::Result<Box<dyn Bare>> {
        Ok(match options.client {
            Client::Service => Box::new(OfService {
                client: Arc::clone(&shared),
                batch: options.batch,
            }),
            Client::Raw => Box::new(Raw::connect(&options.queue_url, options.batch)?),
        })
    };
    let (received, to_delete) = bounded(BETWEEN);
    let (ended, end) = bounded(1);
    for _ in 0..options.pollers {
        let (poller, received) = (client()?, received.clone());
        spawn(ended.clone(), move || poll(poller, &received));
        let (deleter, to_delete) = (client()?, to_delete.clone());
        spawn(ended.clone(), move || delete(deleter, &to_delete));
    }
    end.recv()?
}

fn spawn(ended: Sender<anyhow::Result<()>>, run: impl FnOnce() -> anyhow::Result<()> + Send + 'static) {
    thread::Builder::new()
        .spawn(move || {
            // The first to end ends the process.
            let _ = ended.try_send(run());
        })
        .expect("a thread");
}

fn poll(mut client: Box<dyn Bare>, received: &Sender<String>) -> anyhow::Result<()> {
    loop {
        for handle in client.receive()? {
            received.send(handle)?;
        }
    }
}

/// What is waiting is deleted in one call; nothing is waited for to fill it.
fn delete(mut client: Box<dyn Bare>, to_delete: &Receiver<String>) -> anyhow::Result<()> {
    loop {
        let mut handles = vec![to_delete.recv()?];
        handles.extend(to_delete.try_iter().take(BATCH_MAX - 1));
        client.delete(&handles)?;
    }
}

struct OfService {
    client: Arc<SqsClient>,
    batch: u8,
}

impl Bare for OfService {
    fn receive(&mut self) -> anyhow::Result<Vec<String>> {
        let deliveries = self.client.receive(self.batch, Duration::from_secs(20))?;
        Ok(deliveries
            .into_iter()
            .map(|delivery| delivery.receipt_handle.0)
            .collect())
    }

    fn delete(&mut self, handles: &[String]) -> anyhow::Result<()> {
        let handles: Vec<ReceiptHandle> = handles.iter().cloned().map(ReceiptHandle).collect();
        let outcome = self.client.delete_batch(&handles)?;
        anyhow::ensure!(
            outcome.iter().all(Option::is_none),
            "a delete failed: {outcome:?}"
        );
        Ok(())
    }
}

struct Raw {
    stream: TcpStream,
    queue_url: String,
    receive: Vec<u8>,
    buffer: Vec<u8>,
}

impl Raw {
    fn connect(queue_url: &Url, batch: u8) -> anyhow::Result<Self> {
        anyhow::ensure!(queue_url.scheme() == "http", "the raw client speaks no TLS");
        let port = queue_url.port().context("a queue URL with a port")?;
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        let receive = request(
            "ReceiveMessage",
            &format!(r#"{{"QueueUrl":"{queue_url}","MaxNumberOfMessages":{batch},"WaitTimeSeconds":20}}"#),
        );
        Ok(Self {
            stream,
            queue_url: queue_url.to_string(),
            receive,
            buffer: vec![0; 64 * 1024],
        })
    }

    /// Sends a request and returns the body of its answer.
    fn call(
        stream: &mut TcpStream,
        buffer: &mut Vec<u8>,
        request: &[u8],
    ) -> io::Result<std::ops::Range<usize>> {
        stream.write_all(request)?;
        let mut filled = 0;
        loop {
            if let Some(end) = buffer[..filled.min(1024)]
                .windows(4)
                .position(|window| window == b"\r\n\r\n")
            {
                let head = String::from_utf8_lossy(&buffer[..end]);
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("Content-Length: ")?.parse::<usize>().ok());
                let whole = end + 4 + length.ok_or_else(|| io::Error::other("an answer without a length"))?;
                if !head.starts_with("HTTP/1.1 200") {
                    return Err(io::Error::other(format!("refused: {head}")));
                }
                buffer.resize(whole.max(buffer.len()), 0);
                stream.read_exact(&mut buffer[filled..whole])?;
                return Ok(end + 4..whole);
            }
            match stream.read(&mut buffer[filled..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => filled += read,
            }
        }
    }
}

fn request(operation: &str, body: &str) -> Vec<u8> {
    format!(
        "POST / HTTP/1.1\r\nHost: localhost\r\nX-Amz-Target: AmazonSQS.{operation}\r\n\
         Content-Type: application/x-amz-json-1.0\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

impl Bare for Raw {
    fn receive(&mut self) -> anyhow::Result<Vec<String>> {
        let body = Self::call(&mut self.stream, &mut self.buffer, &self.receive)?;
        let body = std::str::from_utf8(&self.buffer[body])?;
        // A message's own text has its quotes escaped, so this is found where it is a field and nowhere else.
        let handles = body.split(r#""ReceiptHandle":""#).skip(1);
        Ok(handles
            .filter_map(|rest| rest.split('"').next())
            .map(str::to_owned)
            .collect())
    }

    fn delete(&mut self, handles: &[String]) -> anyhow::Result<()> {
        let entries: Vec<String> = handles
            .iter()
            .enumerate()
            .map(|(index, handle)| format!(r#"{{"Id":"{index}","ReceiptHandle":"{handle}"}}"#))
            .collect();
        let body = format!(
            r#"{{"QueueUrl":"{}","Entries":[{}]}}"#,
            self.queue_url,
            entries.join(",")
        );
        Self::call(
            &mut self.stream,
            &mut self.buffer,
            &request("DeleteMessageBatch", &body),
        )?;
        Ok(())
    }
}
