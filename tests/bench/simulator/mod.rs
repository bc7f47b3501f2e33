//! A queue that is never what a run waits for: SQS's JSON protocol over kept connections, a thread each, with
//! messages that are made when they are asked for.
//!
//! It is a simulator, not SQS: it checks no signature, loses nothing and keeps no order but that of the numbers. The
//! round trip that it is told is spent half before a call has its effect and half before the answer goes out, by
//! each call on its own.

mod calls;
mod connection;
mod control;
mod observer;
mod shelf;
mod tls;

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use crate::mix::{Bodies, Mix};
use shelf::Shelf;

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
    /// Port of the Redis that is watched for the writes of probes. It is set to publish writes, which costs it a
    /// little, so this is for runs that measure times.
    #[arg(long)]
    watch_redis: Option<u16>,
}

/// What the threads share.
pub struct Simulator {
    shelf: Shelf,
    bodies: Bodies,
    round_trip: Duration,
}

/// Runs until the process is ended. The first line of output says where it is.
pub fn run(options: Options) -> anyhow::Result<()> {
    let round_trip = Duration::from_millis(options.round_trip_ms);
    let simulator = Arc::new(Simulator {
        shelf: Shelf::new(options.mix.clone(), round_trip / 2),
        bodies: Bodies::new(options.mix),
        round_trip,
    });
    let tls = match (&options.certificate, &options.key) {
        (Some(certificate), Some(key)) => Some(tls::config(certificate, key)?),
        _ => None,
    };
    let queue = TcpListener::bind(("127.0.0.1", options.port))?;
    let control = TcpListener::bind("127.0.0.1:0")?;
    if let Some(port) = options.watch_redis {
        let simulator = Arc::clone(&simulator);
        let observer = observer::Observer::of(port)?;
        spawn("observer", move || observer.watch(&simulator.shelf));
    }
    let scheme = if tls.is_some() { "https" } else { "http" };
    let endpoint = format!("{scheme}://localhost:{}", queue.local_addr()?.port());
    let told = json!({
        "endpoint": endpoint,
        "queue_url": format!("{endpoint}/000000000000/bench"),
        "body_bytes": simulator.bodies.bytes_of_the_longest(),
        "control": control.local_addr()?.port(),
    });
    writeln!(std::io::stdout(), "{told}")?;
    let steered = Arc::clone(&simulator);
    spawn("control", move || control::serve(&control, &steered.shelf));
    let swept = Arc::clone(&simulator);
    spawn("sweeper", move || {
        loop {
            shelf::wait_until(Instant::now() + Duration::from_secs(1));
            swept.shelf.sweep();
        }
    });
    for stream in queue.incoming() {
        accept(stream?, &simulator, tls.as_ref())?;
    }
    Ok(())
}

fn accept(
    stream: TcpStream,
    simulator: &Arc<Simulator>,
    tls: Option<&Arc<rustls::ServerConfig>>,
) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    simulator.shelf.counts.connections.fetch_add(1, Ordering::Relaxed);
    let simulator = Arc::clone(simulator);
    let tls = tls.map(|config| rustls::ServerConnection::new(Arc::clone(config)));
    let tls = tls.transpose()?;
    spawn("connection", move || {
        // A peer that goes away ends its connection and nothing else.
        let _ = match tls {
            None => connection::serve(stream, &simulator),
            Some(tls) => connection::serve(rustls::StreamOwned::new(tls, stream), &simulator),
        };
    });
    Ok(())
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) {
    thread::Builder::new().name(name.to_owned()).spawn(run).expect("a thread");
}
