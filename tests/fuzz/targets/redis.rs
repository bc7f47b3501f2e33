//! What Redis answers: the library's parser on whatever comes, and what is read of it.

use std::io::{self, Read};
use std::sync::LazyLock;

use fastrand::Rng;
use persistent_cache_service::ops::metrics::Metrics;
use persistent_cache_service::store::{Outcome, parse_primary, results};
use redis::{Parser, Value, from_redis_value};

use super::{Memory, Target, hold};
use crate::judge::Probe;
use crate::mutate::{bytes, resp};

pub const ANSWER: Target = Target {
    name: "redis-answer",
    about: "Redis's protocol: a script's outcome, SCAN, INFO, a Sentinel's primary",
    weight: 14,
    memory: Memory {
        per_byte: 72,
        // The library makes room for what an answer claims to hold: for 4,096 values at most, on each of a hundred levels.
        constant: 24 * 1024 * 1024,
    },
    input: resp::input,
    check: answer,
};

pub const INFO: Target = Target {
    name: "redis-info",
    about: "the text that Redis answers to INFO, to the gauges",
    weight: 2,
    memory: Memory { per_byte: 8, constant: 64 * 1024 },
    input: info_input,
    check: info,
};

/// A connection from which so many bytes come at a time.
struct Drip<'a> {
    left: &'a [u8],
    at_once: usize,
}

impl Read for Drip<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.at_once.min(buffer.len()).min(self.left.len());
        let (now, later) = self.left.split_at(count);
        buffer[..count].copy_from_slice(now);
        self.left = later;
        Ok(count)
    }
}

/// Every answer in the bytes, up to the first that is none.
fn answers(input: &[u8], at_once: usize) -> Vec<Value> {
    let mut connection = Drip { left: input, at_once };
    let mut parser = Parser::new();
    let mut answers = Vec::new();
    while answers.len() < 64 {
        match parser.parse_value(&mut connection) {
            Ok(answer) => answers.push(answer),
            Err(_) => break,
        }
    }
    answers
}

/// As text, since a NaN is not equal to itself.
fn shown(answers: &[Value]) -> String {
    format!("{answers:?}")
}

fn answer(input: &[u8], probe: &mut Probe) -> Result<bool, String> {
    let whole = probe.measure(|| answers(input, usize::MAX));
    if input.len() < 512 {
        let dripped = answers(input, 1 + input.len() % 3);
        // Not the other way round: where the whole is refused for a byte that is no type, the library lets the same
        // byte pass if it is the last that has come so far.
        let same = whole.len() <= dripped.len() && shown(&whole) == shown(&dripped[..whole.len()]);
        hold(same, || format!("answers do not hang on how they come: {whole:?}, {dripped:?}"))?;
    }
    let mut understood = false;
    for answer in whole {
        if let Some(steps) = results(&answer) {
            understood = true;
            let Value::Array(values) = &answer else {
                return Err(format!("{steps:?} come of {answer:?}"));
            };
            hold(values.len() == steps.len(), || format!("{steps:?} come of one value each"))?;
            for (step, value) in steps.iter().zip(values) {
                // What was counted is in the number that it came from.
                if let (Ok(step), Value::Int(number)) = (step, value)
                    && let Outcome::Applied { written, stale } = step.outcome
                {
                    let counted = (written + (stale << 16)) << 4;
                    hold(i64::try_from(counted).is_ok_and(|counted| number - counted < 16), || {
                        format!("{number} says {step:?}")
                    })?;
                }
            }
        }
        if let Value::ServerError(error) = &answer {
            let _ = (error.code().to_owned(), error.details().map(str::len));
        }
        if let Some((host, port)) = parse_primary(answer.clone()) {
            understood = true;
            hold(!host.is_empty() && port != 0, || format!("a primary can be dialled: {host:?}, {port}"))?;
        }
        let scan: Result<(Vec<u8>, Vec<Vec<u8>>), _> = from_redis_value(answer.clone());
        let text: Result<String, _> = from_redis_value(answer.clone());
        let count: Result<u64, _> = from_redis_value(answer);
        understood |= scan.is_ok() || text.is_ok() || count.is_ok();
    }
    Ok(understood)
}

static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics::new().expect("the metrics can be registered"));

fn info_input(rng: &mut Rng) -> Vec<u8> {
    let numbers =
        ["0", "1", "-1", "1e308", "1.7e308", "1e309", "inf", "NaN", "18446744073709551616", "", " 7 ", "1:2"];
    let names = ["keyspace_hits", "keyspace_misses", "used_memory", "role", "# Stats", ""];
    let mut text = String::new();
    for _ in 0..rng.u32(..8) {
        text.push_str(names[rng.usize(..names.len())]);
        text.push_str([":", "", "::"][rng.usize(..3).saturating_sub(rng.usize(..3))]);
        text.push_str(numbers[rng.usize(..numbers.len())]);
        text.push_str(["\r\n", "\n"][rng.usize(..2)]);
    }
    let mut text = text.into_bytes();
    if rng.bool() {
        bytes::mutate(rng, &mut text);
    }
    text
}

fn info(input: &[u8], probe: &mut Probe) -> Result<bool, String> {
    let text = String::from_utf8_lossy(input);
    LazyLock::force(&METRICS);
    probe.measure(|| METRICS.observe_redis_info(&text));
    // Gauges are shared by the threads, but whatever any of them has set must be a number that makes sense.
    let ratio = METRICS.hit_ratio.get();
    hold((0.0..=100.0).contains(&ratio), || format!("the ratio is a percentage, not {ratio}"))?;
    let gauges = [&METRICS.hits, &METRICS.misses, &METRICS.memory_usage];
    hold(gauges.iter().all(|gauge| gauge.get().is_finite() && gauge.get() >= 0.0), || {
        "counts and bytes are finite".to_owned()
    })?;
    Ok(text.contains("keyspace_hits:"))
}
