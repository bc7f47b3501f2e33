//! What is in Redis before a run, so that every message has something to do, and what has to be there after it.

use std::collections::HashMap;

use clap::Args;
use serde_json::{Value, json};

use crate::mix::{BASE_MS, Customer, Mix, STEADY_USAGE, Sort, moment_ms, usage_of};
use crate::resp::{Connection, push_command};

/// Bytes that are sent before answers are read.
const AT_ONCE: usize = 256 * 1024;
/// How many customers are checked after a run.
const LOOKED_AT: u64 = 1_000;

/// Which Redis.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    pub mix: Mix,
    /// Port of Redis on this machine.
    #[arg(long)]
    pub redis: u16,
}

/// Puts every customer into the cache, as of before the first message.
pub fn prime(options: &Options) -> anyhow::Result<Value> {
    let mut redis = Connection::open(options.redis)?;
    let at = BASE_MS.to_string();
    let (mut commands, mut waiting, mut keys) = (Vec::new(), 0, 0);
    for customer in options.mix.everyone() {
        let mut parts = vec!["MSET".to_owned()];
        let key = customer.key();
        let metadata = format!("{key}:metadata");
        for (key, value) in [(key, "{}"), (metadata, r#"{"accessDeniedReason":null}"#)]
            .into_iter()
            .chain((0..options.mix.metered()).map(|at| (customer.usage_key(2 * at), r#"{"currentUsage":0}"#)))
        {
            parts.extend([key.clone(), value.to_owned(), format!("{key}#timestamp"), at.clone()]);
        }
        keys += parts.len() / 2;
        push_command(&mut commands, &parts);
        waiting += 1;
        if commands.len() >= AT_ONCE {
            redis.send(&commands)?;
            redis.skip_answers(waiting)?;
            (commands, waiting) = (Vec::new(), 0);
        }
    }
    redis.send(&commands)?;
    redis.skip_answers(waiting)?;
    Ok(json!({"keys": keys}))
}

/// Compares a sample of the customers with the newest of the first `messages` messages of each.
pub fn check(options: &Options, messages: u64) -> anyhow::Result<Value> {
    let expected = expected(&options.mix, messages);
    let mut redis = Connection::open(options.redis)?;
    let (mut right, mut wrong) = (0, Vec::new());
    for (key, (number, usage)) in &expected {
        let found = redis.call_for_list(&["MGET", key, &format!("{key}#timestamp")])?;
        let [Some(value), Some(timestamp)] = found.as_slice() else {
            wrong.push(format!("{key} is not there"));
            continue;
        };
        let stored: Value = serde_json::from_str(value).unwrap_or_default();
        let is_right = *timestamp == moment_ms(*number).to_string()
            && match usage {
                Some(usage) => stored["currentUsage"] == *usage,
                None => {
                    stored.as_object().is_some_and(|features| features.len() as u64 == options.mix.features)
                }
            };
        if is_right {
            right += 1;
        } else {
            wrong.push(format!("{key} is not of message {number}: {timestamp}"));
        }
    }
    wrong.sort();
    Ok(json!({"right": right, "wrong": wrong.len(), "examples": wrong.iter().take(3).collect::<Vec<_>>()}))
}

/// Key -> the newest message that wrote it, and the usage in it if it is one.
fn expected(mix: &Mix, messages: u64) -> HashMap<String, (u64, Option<u64>)> {
    let every = mix.customers.div_ceil(LOOKED_AT);
    let mut expected = HashMap::new();
    for number in 0..messages {
        let (customer, sort) = mix.message(number);
        if matches!(customer, Customer::Ordinary(customer) if !customer.is_multiple_of(every)) {
            continue;
        }
        match sort {
            Sort::Usage { feature } => {
                expected.insert(customer.usage_key(feature), (number, Some(usage_of(number))));
            }
            Sort::Entitlements => {
                expected.insert(customer.key(), (number, None));
                for feature in (0..mix.metered()).map(|at| 2 * at) {
                    let usage = if feature == 0 { usage_of(number) } else { STEADY_USAGE };
                    expected.insert(customer.usage_key(feature), (number, Some(usage)));
                }
            }
        }
    }
    expected
}
