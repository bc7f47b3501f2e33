//! Bare clients: as many pollers as the service has, which only receive, and as many threads that only delete what
//! they received. Nothing is decoded or written. What they reach is the most that a worker could.
//!
//! Two of them. `service` is the service's own queue client: it signs, speaks through the same HTTP stack and reads
//! whole answers, so the distance of the service to it is what the decoding, Redis and the pipeline cost. `raw` is
//! bytes on a socket, unsigned and unread but for the handles: no client can be faster, so it tells what the
//! simulator can give.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::{Args, ValueEnum};
use crossbeam_channel::{Receiver, Sender, bounded};
use persistent_cache_service::aws::own_provider;
use persistent_cache_service::config::{CredentialSource, Secret, StaticKeys};
use persistent_cache_service::sqs::client::{SqsClient, SqsSettings};
use persistent_cache_service::sqs::{Queue, ReceiptHandle};
use url::Url;

use crate::http::{Caller, request};

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
    let keys = CredentialSource::Static(StaticKeys {
        access_key_id: "AKIAEXAMPLE".to_owned(),
        secret_access_key: Secret::inline("secret"),
        session_token: None,
    });
    let shared = Arc::new(SqsClient::new(
        SqsSettings {
            endpoint: options.queue_url.join("/")?,
            queue_url: options.queue_url.to_string(),
            region: "us-east-2".to_owned(),
            pool_size: 2 * options.pollers,
            long_poll_deadline: Duration::from_secs(25),
            proxy: None,
        },
        own_provider(&keys, None).ok_or_else(|| anyhow::anyhow!("keys are a source"))?,
    ));
    let client = || -> anyhow::Result<Box<dyn Bare>> {
        Ok(match options.client {
            Client::Service => Box::new(OfService { client: Arc::clone(&shared), batch: options.batch }),
            Client::Raw => Box::new(Raw {
                caller: Caller::connect(&options.queue_url)?,
                queue_url: options.queue_url.to_string(),
                receive: request(
                    "ReceiveMessage",
                    &format!(
                        r#"{{"QueueUrl":"{}","MaxNumberOfMessages":{},"WaitTimeSeconds":20}}"#,
                        options.queue_url, options.batch
                    ),
                ),
            }),
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
        Ok(deliveries.into_iter().map(|delivery| delivery.receipt_handle.0).collect())
    }

    fn delete(&mut self, handles: &[String]) -> anyhow::Result<()> {
        let handles: Vec<ReceiptHandle> = handles.iter().cloned().map(ReceiptHandle).collect();
        let outcome = self.client.delete_batch(&handles)?;
        anyhow::ensure!(outcome.iter().all(Option::is_none), "a delete failed: {outcome:?}");
        Ok(())
    }
}

struct Raw {
    caller: Caller,
    queue_url: String,
    receive: Vec<u8>,
}

impl Bare for Raw {
    fn receive(&mut self) -> anyhow::Result<Vec<String>> {
        let body = self.caller.call(&self.receive)?;
        // A message's own text has its quotes escaped, so this is found where it is a field and nowhere else.
        let handles = body.split(r#""ReceiptHandle":""#).skip(1);
        Ok(handles.filter_map(|rest| rest.split('"').next()).map(str::to_owned).collect())
    }

    fn delete(&mut self, handles: &[String]) -> anyhow::Result<()> {
        let entries: Vec<String> = handles
            .iter()
            .enumerate()
            .map(|(index, handle)| format!(r#"{{"Id":"{index}","ReceiptHandle":"{handle}"}}"#))
            .collect();
        let body = format!(r#"{{"QueueUrl":"{}","Entries":[{}]}}"#, self.queue_url, entries.join(","));
        self.caller.call(&request("DeleteMessageBatch", &body))?;
        Ok(())
    }
}
