//! `check`: everything that the service needs, asked of each in turn, with a line for each answer. It leaves no trace:
//! the one key that it writes to Redis it deletes again, and a message is received only where that harms none.

mod clock_skew;
mod credentials;
mod edge;
mod queue;
mod redis_server;

use std::fmt::Write;
use std::io::IsTerminal;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::terminal::Paint;
use super::{CONFIGURATION, DONE, FAILED, Opened, complain, print};
use crate::config::Settings;
use crate::edge::EdgeClient;
use crate::log::printable;

/// There are warnings, and nothing worse.
const WARNED: u8 = 3;

/// What `check` is asked.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Print JSON instead of lines.
    #[arg(long)]
    pub json: bool,
    /// Receive a message even where the queue's dead-letter rule counts receives closely, or cannot be read.
    #[arg(long)]
    pub receive: bool,
}

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Area {
    Configuration,
    Credentials,
    Queue,
    Redis,
    Edge,
    Clock,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Warning,
    Failure,
}

/// One line.
#[derive(Debug, Serialize)]
struct Finding {
    area: Area,
    status: Status,
    /// What was found, for what, and the remedy if there is something to be done. No secret.
    text: String,
}

impl Area {
    fn label(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Credentials => "credentials",
            Self::Queue => "queue",
            Self::Redis => "redis",
            Self::Edge => "edge",
            Self::Clock => "clock",
        }
    }

    /// The exit status if this, and this alone, fails.
    fn exit_status(self) -> u8 {
        match self {
            Self::Configuration => CONFIGURATION,
            Self::Credentials => 10,
            Self::Queue => 11,
            Self::Redis => 12,
            Self::Edge => 13,
            Self::Clock => 14,
        }
    }

    fn ok(self, text: impl Into<String>) -> Finding {
        self.finding(Status::Ok, text)
    }

    fn warning(self, text: impl Into<String>) -> Finding {
        self.finding(Status::Warning, text)
    }

    fn failure(self, text: impl Into<String>) -> Finding {
        self.finding(Status::Failure, text)
    }

    fn finding(self, status: Status, text: impl Into<String>) -> Finding {
        Finding {
            area: self,
            status,
            text: text.into(),
        }
    }
}

pub(super) fn run(settings: &Settings, args: &CheckArgs) -> u8 {
    let findings = match look(settings, args) {
        Ok(findings) => findings,
        Err(status) => return status,
    };
    let worst = findings
        .iter()
        .map(|finding| finding.status)
        .max()
        .unwrap_or(Status::Ok);
    if args.json {
        let report = json!({"status": worst, "checks": findings});
        match serde_json::to_string_pretty(&report) {
            Ok(json) => print(&format!("{json}\n")),
            Err(error) => {
                complain(format!("cannot print what was found as JSON: {error}"));
                return FAILED;
            }
        };
    } else {
        let is_coloured = settings.may_colour() && std::io::stdout().is_terminal();
        print(&lines(&findings, Paint(is_coloured)));
    }
    exit_status(&findings)
}

fn look(settings: &Settings, args: &CheckArgs) -> Result<Vec<Finding>, u8> {
    let config = match settings.validate() {
        Ok(config) => config,
        Err(faults) => {
            let faults = faults.lines().iter();
            return Ok(faults
                .map(|fault| Area::Configuration.failure(fault.as_str()))
                .collect());
        }
    };
    let opened = Opened::silent(settings, 1)?;
    let mut findings = vec![Area::Configuration.ok(format!(
        "valid: queue {} in {}, environment '{}'",
        config.queue_url, config.region, config.environment_prefix
    ))];
    let notices = config.notices.iter();
    findings.extend(notices.map(|notice| Area::Configuration.warning(notice.as_str())));

    let edge = Arc::new(EdgeClient::new(
        config.edge_api_url.clone(),
        config.server_api_key.clone(),
        config.proxy.clone(),
    ));
    let provider = credentials::check(&config, &settings.sts_endpoint(), &edge, &mut findings);
    if let Some(provider) = provider {
        queue::check(&config, provider, args.receive, &mut findings);
    }
    redis_server::check(&config, &opened.store, &mut findings);
    edge::check(&config, &edge, &mut findings);
    clock_skew::check(&config, &opened.store, &mut findings);
    Ok(findings)
}

fn lines(findings: &[Finding], paint: Paint) -> String {
    let mut text = String::new();
    for finding in findings {
        let status = match finding.status {
            Status::Ok => paint.green("ok     "),
            Status::Warning => paint.yellow("warning"),
            Status::Failure => paint.red("failure"),
        };
        let _ = writeln!(
            text,
            "{status}  {:<13}  {}",
            finding.area.label(),
            printable(&finding.text)
        );
    }
    text
}

/// The area that failed, if it is one; 1 if they are several; 3 if there are warnings and nothing worse.
fn exit_status(findings: &[Finding]) -> u8 {
    let mut failed = findings
        .iter()
        .filter(|finding| finding.status == Status::Failure)
        .map(|finding| finding.area);
    match failed.next() {
        Some(first) if failed.all(|area| area == first) => first.exit_status(),
        Some(_) => FAILED,
        None if findings.iter().any(|finding| finding.status == Status::Warning) => WARNED,
        None => DONE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_status_tells_which_area_failed() {
        let (ok, warning) = (Area::Queue.ok("a"), Area::Clock.warning("b"));
        assert_eq!(exit_status(&[]), 0);
        let findings = vec![ok, warning];
        assert_eq!(exit_status(&findings), 3);
        let with = |areas: &[Area]| {
            let failures = areas.iter().map(|area| area.failure("c"));
            exit_status(&failures.chain([Area::Clock.warning("b")]).collect::<Vec<_>>())
        };
        assert_eq!(with(&[Area::Redis]), 12);
        assert_eq!(with(&[Area::Configuration, Area::Configuration]), 78);
        assert_eq!(with(&[Area::Redis, Area::Queue]), 1);
    }

    #[test]
    fn a_line_has_status_area_and_text() {
        let findings = [
            Area::Edge.ok("answers"),
            Area::Configuration.failure("PORT: is not"),
        ];
        assert_eq!(
            lines(&findings, Paint(false)),
            "ok       edge           answers\nfailure  configuration  PORT: is not\n"
        );
    }
}
