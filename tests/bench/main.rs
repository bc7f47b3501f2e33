//! The programs around a measurement: the queue, a bare client as an upper bound, and what fills and checks
//! Redis. `scripts/bench` runs them beside the contenders; see there.
//!
//! `cargo build --release --example bench`, then `target/release/examples/bench --help`.

// Not a harness of tests: a panic here is a fault of the run. Rates and times are floats and small numbers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::similar_names
)]

#[path = "../fakes/mod.rs"]
mod fakes;
mod fill;
mod histogram;
mod http;
mod keys;
mod limit;
mod mix;
mod queue;
mod redis_limit;
mod resp;

use std::io::Write;

use clap::Parser;

/// The programs around a measurement.
#[derive(Debug, Parser)]
enum Program {
    /// The queue.
    Queue(queue::Options),
    /// A bare client of the queue, with nothing behind it.
    Limit(limit::Options),
    /// The writes alone, as an upper bound.
    RedisLimit(redis_limit::Options),
    /// Makes a queue in an emulator, and sends it messages.
    Fill(fill::Options),
    /// Fills Redis with the customers that messages will be of.
    Prime(keys::Options),
    /// Compares Redis with what the first so many messages have to leave.
    Check {
        #[command(flatten)]
        options: keys::Options,
        #[arg(long)]
        messages: u64,
    },
}

fn main() -> anyhow::Result<()> {
    let result = match Program::parse() {
        Program::Queue(options) => return queue::run(options),
        Program::Limit(options) => return limit::run(&options),
        Program::RedisLimit(options) => redis_limit::run(&options)?,
        Program::Fill(options) => fill::run(options)?,
        Program::Prime(options) => keys::prime(&options)?,
        Program::Check { options, messages } => keys::check(&options, messages)?,
    };
    writeln!(std::io::stdout(), "{result}")?;
    Ok(())
}
