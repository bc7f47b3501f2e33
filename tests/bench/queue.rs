//! The queue of a run: the fake SQS of the stories, in a process of its own, with messages that are made when they are
//! received. `scripts/bench` steers it over a port of its own (see `control`).

mod control;
mod observer;
mod supply;
mod tls;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use crate::fakes::queue::{FakeQueue, QueueOptions};
use crate::mix::{Bodies, Mix};
use supply::BenchSupply;

/// How it is started.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    mix: Mix,
    /// What each call takes on its way there and back together.
    #[arg(long, default_value_t = 0)]
    round_trip_ms: u64,
    /// Port of the queue; 0: any.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Speak TLS with this certificate chain (PEM).
    #[arg(long, requires = "key")]
    certificate: Option<PathBuf>,
    /// The certificate's key (PEM).
    #[arg(long)]
    key: Option<PathBuf>,
    /// Port of the Redis in which the writes of probes are observed. It is set to publish writes, which costs it a
    /// little, so this is for runs that measure times.
    #[arg(long)]
    watch_redis: Option<u16>,
}

/// Runs until the process is ended. The first line of output says where it is.
pub fn run(options: Options) -> anyhow::Result<()> {
    let round_trip = Duration::from_millis(options.round_trip_ms);
    let bodies = Bodies::new(options.mix);
    let body_bytes = bodies.bytes_of_the_longest();
    let supply = Arc::new(BenchSupply::new(bodies, round_trip / 2));
    let tls = match (&options.certificate, &options.key) {
        (Some(certificate), Some(key)) => Some(tls::config(certificate, key)?),
        _ => None,
    };
    let queue = FakeQueue::start(QueueOptions {
        region: "us-east-2".into(),
        access_key_id: "AKIAEXAMPLE".into(),
        secret_access_key: "secret".into(),
        port: options.port,
        tls,
        round_trip,
        supply: Some(supply.clone()),
        ..QueueOptions::default()
    });
    if let Some(port) = options.watch_redis {
        let supply = Arc::clone(&supply);
        let observer = observer::Observer::of(port)?;
        thread::Builder::new().name("observer".to_owned()).spawn(move || observer.watch(&supply))?;
    }
    let control = std::net::TcpListener::bind("127.0.0.1:0")?;
    let queue_url = queue.url();
    let endpoint = queue_url.split_inclusive('/').take(3).collect::<String>();
    let address = json!({
        "endpoint": endpoint.trim_end_matches('/'),
        "queue_url": queue_url,
        "body_bytes": body_bytes,
        "control": control.local_addr()?.port(),
    });
    writeln!(std::io::stdout(), "{address}")?;
    control::serve(&control, &queue, &supply);
    Ok(())
}
