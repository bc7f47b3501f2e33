//! A command of the binary, or another program, run to its end.

use std::io::{Read, Write};
use std::path::Path;

use serde_json::Value;

use super::child::{Process, thread};
use super::service::{Settings, binary};
use super::wait::{PATIENCE, wait_until};

/// How a command ended, and what it said.
#[derive(Debug)]
pub struct Ended {
    /// The exit status.
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// What it printed, as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }
}

/// Runs a command with nothing on its standard input.
pub fn run(settings: &Settings, arguments: &[&str]) -> Ended {
    run_with_input(settings, arguments, "")
}

/// Runs a command with this on its standard input, which is no terminal.
pub fn run_with_input(settings: &Settings, arguments: &[&str], input: &str) -> Ended {
    run_program("command", binary(), arguments, &settings.environment(), input)
}

/// Runs any program with this on its standard input.
pub fn run_program(
    name: &str,
    program: &Path,
    arguments: &[&str],
    environment: &[(String, String)],
    input: &str,
) -> Ended {
    let (process, mut stdin, mut stdout) = Process::start_with_pipes(name, program, arguments, environment);
    let input = input.to_owned();
    // A command that does not read its input closes the pipe: no fault of anybody's.
    let writer = thread("command-stdin", move || drop(stdin.write_all(input.as_bytes())));
    let reader = thread("command-stdout", move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).expect("the output is text");
        text
    });
    let status = process.wait_for_exit(PATIENCE);
    wait_until(PATIENCE, "the end of the output", || {
        process.stderr.are_complete() && reader.is_finished() && writer.is_finished()
    });
    Ended {
        status: status.code().expect("it ended by itself"),
        stdout: reader.join().expect("the output is text"),
        stderr: process.stderr.all().join("\n"),
    }
}
