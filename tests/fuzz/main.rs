//! The fuzzer: whatever a queue, Redis or an AWS endpoint may send, nothing panics, nothing takes more memory than a
//! bounded multiple of what was sent, nothing nests its way through the stack, nothing takes long.
//!
//! Stable Rust and a mutator of its own (`mutate`), since coverage-guided fuzzing needs a nightly compiler. Every
//! input follows from its target and its seed alone: a failure is reported as `TARGET:SEED`, and
//! `--replay TARGET:SEED` runs it again. `scripts/fuzz` runs ten million inputs, `scripts/test` a minute's worth.
//!
//! Reading order: `targets` (what is parsed, and what must hold), `judge` (one input), `worker` (many),
//! `supervisor` (outlives an abort, as an overflowed stack is one), `mutate`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a fuzzer that cannot work must say so
#![allow(clippy::print_stdout, clippy::print_stderr)] // its output is what it is for

mod targets;

mod judge;
#[path = "../result_file.rs"]
mod result_file;
mod supervisor;
mod worker;

mod mutate;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::judge::InputId;
use crate::result_file::ResultFile;
use crate::targets::{TARGETS, Target};

/// Feeds hostile inputs to everything that reads what a peer sent.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many inputs, over all targets.
    #[arg(long, default_value_t = 100_000)]
    inputs: u64,
    /// Ends earlier, after so many seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// What all inputs follow from; a random one if it is not given. Hexadecimal.
    #[arg(long, value_parser = hexadecimal)]
    seed: Option<u64>,
    /// Only these targets (repeatable); all if not given.
    #[arg(long, value_name = "NAME", value_parser = target)]
    target: Vec<&'static Target>,
    /// How many threads; one for each core if not given.
    #[arg(long)]
    threads: Option<usize>,
    /// Runs one input again and shows it.
    #[arg(long, value_name = "TARGET:SEED", value_parser = InputId::parse)]
    replay: Option<InputId>,
    /// Runs the content of a file through a target.
    #[arg(long, value_name = "FILE", requires = "target")]
    file: Option<PathBuf>,
    /// Lists the targets.
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    result_file: ResultFile,
    /// The supervisor's own call: run the inputs in this process.
    #[arg(long, hide = true)]
    work: bool,
}

/// What a run is to do.
#[derive(Debug)]
struct Plan {
    inputs: u64,
    time_max: Option<Duration>,
    seed: u64,
    targets: Vec<&'static Target>,
    threads: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        for target in TARGETS {
            println!("{:<18} {}", target.name, target.about);
        }
        return ExitCode::SUCCESS;
    }
    if let Some(id) = arguments.replay {
        return worker::replay(id);
    }
    if let Some(path) = &arguments.file {
        return worker::replay_file(arguments.target[0], path);
    }
    let plan = Plan {
        inputs: arguments.inputs,
        time_max: arguments.seconds.map(Duration::from_secs),
        seed: arguments.seed.unwrap_or_else(|| fastrand::u64(..)),
        targets: if arguments.target.is_empty() { TARGETS.iter().collect() } else { arguments.target },
        threads: arguments
            .threads
            .or_else(|| std::thread::available_parallelism().ok().map(Into::into))
            .unwrap_or(1)
            .max(1),
    };
    if arguments.work { worker::run(&plan) } else { supervisor::run(&plan, &arguments.result_file) }
}

/// Where failing inputs are kept: `target/fuzz-failures`.
fn failures() -> PathBuf {
    let target =
        Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("cargo's tmp lies in its target directory");
    target.join("fuzz-failures")
}

fn hexadecimal(text: &str) -> Result<u64, String> {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).map_err(|error| error.to_string())
}

fn target(name: &str) -> Result<&'static Target, String> {
    TARGETS
        .iter()
        .find(|target| target.name == name)
        .ok_or_else(|| format!("there is no target {name}; --list names them"))
}
