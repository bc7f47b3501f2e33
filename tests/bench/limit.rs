//! The bare client: as many pollers as the service has, which only receive, and as many threads that only delete what
//! they received. Nothing is decoded or written. It is the service's own queue client, so the distance of the service
//! to it is what the decoding, Redis and the pipeline cost.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::Args;
use crossbeam_channel::{Receiver, Sender, bounded};
use persistent_cache_service::aws::own_provider;
use persistent_cache_service::config::{CredentialSource, Secret, StaticKeys};
use persistent_cache_service::sqs::client::{SqsClient, SqsSettings};
use persistent_cache_service::sqs::{Queue, ReceiptHandle};
use url::Url;

/// SQS's limit of a batch.
const BATCH_MAX: usize = 10;
/// Handles between receiving and deleting: what the pollers bring in one round, and again as much.
const BETWEEN: usize = 200;

/// How much of it.
#[derive(Debug, Args)]
pub struct Options {
    /// The queue: its scheme, host and port are where it is called.
    #[arg(long)]
    queue_url: Url,
    #[arg(long, default_value_t = 10)]
    pollers: usize,
    /// Messages asked for in one call.
    #[arg(long, default_value_t = 10)]
    batch: u8,
}

/// Runs until the process is ended, or a call fails.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let keys = CredentialSource::Static(StaticKeys {
        access_key_id: "AKIAEXAMPLE".to_owned(),
        secret_access_key: Secret::inline("secret"),
        session_token: None,
    });
    let client = Arc::new(SqsClient::new(
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
    let (received, to_delete) = bounded(BETWEEN);
    let (ended, end) = bounded(1);
    for _ in 0..options.pollers {
        let (poller, received, batch) = (Arc::clone(&client), received.clone(), options.batch);
        spawn(ended.clone(), move || poll(&poller, batch, &received));
        let (deleter, to_delete) = (Arc::clone(&client), to_delete.clone());
        spawn(ended.clone(), move || delete(&deleter, &to_delete));
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

fn poll(client: &SqsClient, batch: u8, received: &Sender<ReceiptHandle>) -> anyhow::Result<()> {
    loop {
        for delivery in client.receive(batch, Duration::from_secs(20))? {
            received.send(delivery.receipt_handle)?;
        }
    }
}

/// What is waiting is deleted in one call; nothing is waited for to fill it.
fn delete(client: &SqsClient, to_delete: &Receiver<ReceiptHandle>) -> anyhow::Result<()> {
    loop {
        let mut handles = vec![to_delete.recv()?];
        handles.extend(to_delete.try_iter().take(BATCH_MAX - 1));
        let outcome = client.delete_batch(&handles)?;
        anyhow::ensure!(outcome.iter().all(Option::is_none), "a delete failed: {outcome:?}");
    }
}
