//! The subcommands. Each uses the same modules as the service, and only the settings that it needs. Results go to standard
//! output, the log and errors to standard error.

pub mod args;

mod check;
mod inspect;
mod output;
mod purge;
mod replay;
mod session;
mod troubleshooting;
mod verify;
mod warm;

use std::fmt::Display;
use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use http::Request;
use url::Url;

use self::args::Command;
use self::output::{complain, print};
use self::session::{Pace, Session, open_lines, subject};
use crate::config::{Faults, Proxy, Settings};
use crate::http_client::{HttpClient, HttpError, HttpErrorKind, HttpOptions};
use crate::log::printable;
use crate::store::StoreError;

/// Everything was done.
const DONE: u8 = 0;
/// Something was not.
const FAILED: u8 = 1;
/// What clap uses for a command line that it cannot accept.
pub const USAGE: u8 = 2;
/// `EX_CONFIG` of sysexits.h: the configuration has faults, a restart will not help.
pub const CONFIGURATION: u8 = 78;

/// Why a command did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error("the configuration has faults, nothing was done:\n{0}")]
    Configuration(#[from] Faults),
    /// The command line does not say enough, or names what does not exist.
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Redis(#[from] StoreError),
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
    #[error("{0}")]
    Failed(String),
}

impl CommandError {
    fn of_file(doing: &str, path: &str, error: &io::Error) -> Self {
        Self::Failed(format!("cannot {doing} {path}: {error}; check the path and its permissions"))
    }
}

/// Runs a command to its end.
pub fn run(command: &Command, settings: &Settings) -> ExitCode {
    console::set_colors_enabled(settings.may_colour() && io::stdout().is_terminal());
    let ended = match command {
        Command::Check(args) => check::run(settings, args),
        Command::Inspect(args) => inspect::run(settings, args),
        Command::Replay(args) => replay::run(settings, args),
        Command::Warm(args) => warm::run(settings, args),
        Command::Verify(args) => verify::run(settings, args),
        Command::Purge(args) => purge::run(settings, args),
        Command::Live => probe(settings, "/livez"),
        Command::Ready => probe(settings, "/readyz"),
        Command::Completions { shell } => completions(*shell),
        Command::Man { command } => manual(command.as_deref()),
    };
    ExitCode::from(ended.unwrap_or_else(|error| {
        complain(&error);
        match error {
            CommandError::Configuration(_) => CONFIGURATION,
            CommandError::Usage(_) => USAGE,
            CommandError::Redis(_) | CommandError::Output(_) | CommandError::Failed(_) => FAILED,
        }
    }))
}

/// Asks a running service: for images that have no shell and no curl.
fn probe(settings: &Settings, path: &str) -> Result<u8, CommandError> {
    let port = settings.port_to_probe()?;
    let ask = |host| get(&format!("http://{host}:{port}{path}"), None);
    // The service listens on all addresses; a host has one of these loopbacks, or both.
    let answer = ask("127.0.0.1").or_else(|error| {
        let is_elsewhere = matches!(error.kind, HttpErrorKind::ConnectionRefused | HttpErrorKind::Connection);
        if is_elsewhere { ask("[::1]") } else { Err(error) }
    });
    let why = match answer {
        Ok(answer) => {
            // Something else may listen there.
            let (status, body) = (answer.status().as_u16(), String::from_utf8_lossy(answer.body()));
            let body = printable(body.trim_end());
            if status == 200 {
                return print(body + "\n");
            }
            let remedy = "the service's log and its /metrics say why";
            format!("GET {path} on port {port} answers {status}: {body}; {remedy}")
        }
        Err(error) => format!(
            "no answer to GET {path} on port {port} of this machine: {error}; is the service running here, and is PORT the \
             same?"
        ),
    };
    Err(CommandError::Failed(why))
}

/// One GET within 5 s: orchestrators do not give a probe much more.
fn get(url: &str, proxy: Option<Proxy>) -> Result<http::Response<Vec<u8>>, HttpError> {
    let no_url =
        |error: &dyn Display| HttpError { kind: HttpErrorKind::Protocol, message: error.to_string() };
    let base = Url::parse(url).map_err(|error| no_url(&error))?;
    let request = Request::get(url).body(Vec::new()).map_err(|error| no_url(&error))?;
    let (answer_bytes_max, deadline) = (1024 * 1024, Duration::from_secs(5));
    HttpClient::new(&base, HttpOptions { pool_size: 1, answer_bytes_max, deadline, proxy })
        .send(request, None)
}

fn completions(shell: clap_complete::Shell) -> Result<u8, CommandError> {
    let mut command = args::shown();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    print(&script)
}

fn manual(of: Option<&str>) -> Result<u8, CommandError> {
    if of == Some("troubleshooting") {
        return print(troubleshooting::page());
    }
    let mut command = args::shown();
    command.build();
    if let Some(name) = of {
        command = command.find_subcommand(name).cloned().ok_or_else(|| {
            CommandError::Usage(format!("there is no command '{name}'; --help lists the commands"))
        })?;
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    print(&page)
}
