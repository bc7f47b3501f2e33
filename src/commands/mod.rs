//! The commands: what an operator asks beside running the service. Each is thin, and stands on the same parts as the
//! service.
//!
//! What a command found out goes to standard output; the log, of which it needs little, to standard error. A command
//! needs only those settings that its work needs.

pub mod args;

mod apply;
mod check;
mod human;
mod inspect;
mod lines;
mod opened;
mod probe;
mod purge;
mod replay;
mod terminal;
mod warm;

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

use self::args::Command;
use self::opened::Opened;
use crate::config::{Faults, Settings};

/// It came to the end that was wished for.
const DONE: u8 = 0;
/// It did not.
const FAILED: u8 = 1;
/// What clap uses for a command line that it cannot take.
pub const USAGE: u8 = 2;
/// `EX_CONFIG` of sysexits.h: the configuration has faults, a restart will not help.
pub const CONFIGURATION: u8 = 78;

/// Runs a command to its end.
pub fn run(command: &Command, settings: &Settings) -> ExitCode {
    let status = match command {
        Command::Check(args) => check::run(settings, args),
        Command::Inspect(args) => inspect::run(settings, args),
        Command::Replay(args) => replay::run(settings, args),
        Command::Warm(args) => warm::run(settings, args),
        Command::Purge(args) => purge::run(settings, args),
        Command::Live => probe::run(settings, "/livez"),
        Command::Ready => probe::run(settings, "/readyz"),
        Command::Completions { shell } => completions(*shell),
        Command::Man(args) => manual(args.command.as_deref()),
    };
    ExitCode::from(status)
}

fn completions(shell: clap_complete::Shell) -> u8 {
    let mut command = args::shown();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    print(&String::from_utf8_lossy(&script))
}

fn manual(of: Option<&str>) -> u8 {
    let mut whole = args::shown();
    whole.build();
    let command = match of {
        None => Some(whole),
        Some(name) => whole.find_subcommand(name).cloned(),
    };
    let Some(command) = command else {
        let name = of.unwrap_or_default();
        complain(format!(
            "there is no command '{name}', so it has no manual page; --help lists the commands"
        ));
        return USAGE;
    };
    let mut page = Vec::new();
    match clap_mangen::Man::new(command).render(&mut page) {
        Ok(()) => print(&String::from_utf8_lossy(&page)),
        Err(error) => {
            complain(format!("cannot make the manual page: {error}"));
            FAILED
        }
    }
}

/// Writes what was found out. A reader that has gone does not need it.
fn print(text: &str) -> u8 {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            complain(format!("cannot write what was found out: {error}"));
            FAILED
        }
        Ok(()) | Err(_) => DONE,
    }
}

/// Says what went wrong.
fn complain(what: impl Display) {
    let _ = writeln!(std::io::stderr(), "{what}");
}

/// Says what is wrong with the settings that a command needs.
fn complain_of_settings(faults: &Faults) -> u8 {
    complain(format!(
        "the configuration has faults, nothing was done:\n{faults}"
    ));
    CONFIGURATION
}
