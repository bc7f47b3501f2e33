//! What is fuzzed: everything that reads what a peer sent, with what must hold of it beside "no panic".

mod aws;
mod edge;
mod message;
mod redis;
mod sqs;

use fastrand::Rng;

use crate::judge::Probe;

/// A parser under test.
#[derive(Debug)]
pub struct Target {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it reads.
    pub about: &'static str,
    /// Its share of the inputs.
    pub weight: u64,
    /// What the parsing may allocate.
    pub memory: Memory,
    /// Makes an input.
    pub input: fn(&mut Rng) -> Vec<u8>,
    /// Parses an input, under measure, and checks what must hold. Returns whether it was understood, or what does
    /// not hold.
    pub check: fn(&[u8], &mut Probe) -> Result<bool, String>,
}

/// The most memory that parsing may hold at one time, beside the input.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// For each byte of the input.
    pub per_byte: u64,
    /// And whatever the input.
    pub constant: u64,
}

impl Memory {
    /// What an input of this length may take.
    pub fn allowed(self, length: usize) -> u64 {
        self.constant + self.per_byte * length as u64
    }
}

/// All of them.
pub const TARGETS: &[Target] = &[
    message::TARGET,
    sqs::RECEIVE,
    sqs::BATCH,
    sqs::ATTRIBUTES,
    sqs::ERROR,
    edge::CREDENTIALS,
    edge::CONFIGURATION,
    edge::STATE,
    aws::STS,
    aws::DOCUMENT,
    redis::ANSWER,
    redis::INFO,
];

/// Lists and objects may nest this deep: the parser's own limit.
const NESTING_MAX: usize = 127;

/// The rule of the input, as a fault if it does not hold.
fn hold(holds: bool, rule: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(rule()) }
}

/// How deep lists and objects nest, texts aside.
fn nesting(text: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_text, mut is_escaped) = (0_usize, 0, false, false);
    for byte in text {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_text => is_escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// What nests deeper than the parser's limit must be refused.
fn refuses_depth(input: &[u8], understood: bool) -> Result<(), String> {
    hold(!understood || nesting(input) <= NESTING_MAX, || {
        format!("what nests {} deep is refused", nesting(input))
    })
}

/// A fault is one bounded printable line.
fn is_a_line(text: &str, chars_max: usize) -> Result<(), String> {
    hold(text.chars().count() <= chars_max, || {
        format!("an error has at most {chars_max} characters, not {}", text.chars().count())
    })?;
    hold(!text.chars().any(char::is_control), || format!("a fault is one printable line: {text:?}"))
}
