//! Runs the inputs in a process of their own, and names the input that ended it: an overflowed stack or an
//! allocation that cannot be had is no panic, it ends the process.

use std::env::current_exe;
use std::fs;
use std::process::{Command, ExitCode, ExitStatus};
use std::time::Instant;

use crate::judge::InputId;
use crate::result_file::ResultFile;
use crate::worker::{keep, running_file};
use crate::{Plan, failures};

/// Runs the plan.
pub fn run(plan: &Plan, result_file: &ResultFile) -> ExitCode {
    let started = Instant::now();
    fs::create_dir_all(failures()).expect("the directory of failures can be made");
    println!("{} inputs, {} threads, seed {:016x}", plan.inputs, plan.threads, plan.seed);
    let status = child(&plan.arguments());
    match status.code() {
        Some(0) => {
            for thread in 0..plan.threads {
                // It is only of use after an abort.
                let _ = fs::remove_file(running_file(thread));
            }
            result_file.write(&[
                ("inputs", plan.inputs.to_string()),
                ("faults", "0".to_owned()),
                ("took", format!("{} s", started.elapsed().as_secs())),
                ("threads", plan.threads.to_string()),
                ("seed", format!("{:016x}", plan.seed)),
            ]);
            ExitCode::SUCCESS
        }
        Some(1) => ExitCode::FAILURE,
        Some(_) | None => {
            println!("the process of the inputs died ({status}); looking for the input that did it");
            for thread in 0..plan.threads {
                blame(thread);
            }
            ExitCode::FAILURE
        }
    }
}

/// Runs again, alone, what a thread was at when the process died.
fn blame(thread: usize) {
    let Ok(trace) = fs::read_to_string(running_file(thread)) else {
        return;
    };
    let Ok(id) = InputId::parse(trace.trim()) else {
        return;
    };
    let status = child(&["--replay".to_owned(), id.to_string()]);
    if status.code() != Some(0) {
        let path = keep(&id.to_string(), &id.input());
        println!("FAULT {id}: ends the process ({status}); kept in {}", path.display());
    }
}

fn child(arguments: &[String]) -> ExitStatus {
    Command::new(current_exe().expect("a process knows its own file"))
        .args(arguments)
        .status()
        .expect("the fuzzer can start itself")
}

impl Plan {
    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            "--work".to_owned(),
            format!("--inputs={}", self.inputs),
            format!("--seed={:x}", self.seed),
            format!("--threads={}", self.threads),
        ];
        arguments.extend(self.time_max.map(|time| format!("--seconds={}", time.as_secs())));
        arguments.extend(self.targets.iter().map(|target| format!("--target={}", target.name)));
        arguments
    }
}
