//! What Redis alone takes: the same writes with nothing in between, many in one round trip, on several connections.
//!
//! Plain `SET`s of value and timestamp, without any check: no worker that checks can be faster.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use crate::keys;
use crate::mix::{Customer, Mix, Sort, moment_ms, usage_of};
use crate::resp::{Connection, push_command};

/// As long as what the service stores of one feature.
const VALUE_BYTES_A_FEATURE: usize = 600;
/// `KEYS_TTL_IN_SECS`
const EXPIRY_SECS: &str = "604800";

/// How much.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    keys: keys::Options,
    #[arg(long, default_value_t = 4)]
    connections: u64,
    /// Messages in one round trip.
    #[arg(long, default_value_t = 50)]
    pipeline: u64,
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

/// Messages a second.
pub fn run(options: &Options) -> anyhow::Result<Value> {
    let written = AtomicU64::new(0);
    let barrier = Barrier::new(options.connections as usize);
    let began = Instant::now();
    let until = began + Duration::from_secs(options.seconds);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..options.connections)
            .map(|writer| {
                let (written, barrier) = (&written, &barrier);
                scope.spawn(move || write(options, writer, until, written, barrier))
            })
            .collect();
        writers.into_iter().try_for_each(|writer| writer.join().expect("no panic"))
    })?;
    let messages = written.load(Ordering::Relaxed);
    Ok(json!({"messages": messages, "seconds": began.elapsed().as_secs_f64()}))
}

fn write(
    options: &Options,
    writer: u64,
    until: Instant,
    written: &AtomicU64,
    barrier: &Barrier,
) -> anyhow::Result<()> {
    let mut redis = Connection::open(options.keys.redis)?;
    barrier.wait();
    let list = "x".repeat(VALUE_BYTES_A_FEATURE * options.keys.mix.features as usize);
    let mut number = writer;
    let mut commands = Vec::new();
    while Instant::now() < until {
        commands.clear();
        let mut sets = 0;
        for _ in 0..options.pipeline {
            sets += push_message(&mut commands, &options.keys.mix, number, &list);
            number += options.connections;
        }
        redis.send(&commands)?;
        redis.skip_answers(sets)?;
        written.fetch_add(options.pipeline, Ordering::Relaxed);
    }
    Ok(())
}

fn push_message(out: &mut Vec<u8>, mix: &Mix, number: u64, list: &str) -> usize {
    let at = moment_ms(number).to_string();
    let usage_of = |customer: Customer, feature| {
        let usage = usage_of(number);
        let value = format!(
            r#"{{"currentUsage":{usage},"usagePeriodStart":1793491200000,"usagePeriodEnd":1796083200000}}"#
        );
        (customer.usage_key(feature), value)
    };
    let mut sets = 0;
    let mut set = |key: &str, value: &str| {
        push_command(out, &["SET", key, value, "EX", EXPIRY_SECS]);
        push_command(out, &["SET", &format!("{key}#timestamp"), &at, "EX", EXPIRY_SECS]);
        sets += 2;
    };
    match mix.message(number) {
        (customer, Sort::Usage { feature }) => {
            let (key, value) = usage_of(customer, feature);
            set(&key, &value);
        }
        (customer, Sort::Entitlements) => {
            let key = customer.key();
            set(&key, list);
            set(&format!("{key}:metadata"), r#"{"accessDeniedReason":null}"#);
            for metered in 0..mix.metered() {
                let (key, value) = usage_of(customer, 2 * metered);
                set(&key, &value);
            }
        }
    }
    sets
}
