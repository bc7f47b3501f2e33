//! `check`: checks everything that the service needs, with one line for each finding. What the service can do without is no
//! failure. It leaves no trace: see `peers`.

mod peers;

use std::fmt::{Display, Write as _};
use std::sync::Arc;

use clap::Args;
use console::style;
use serde::Serialize;
use serde_json::json;

use self::Severity::{Failure, Good, Note, Warning};
use super::output::{date, show};
use super::{CONFIGURATION, CommandError, DONE, FAILED, Session};
use crate::aws::provider;
use crate::aws::sts::StsClient;
use crate::clock;
use crate::config::{CredentialSource, Settings};
use crate::edge::EdgeClient;
use crate::log::printable;

/// There are warnings, and nothing worse.
const WARNED: u8 = 3;

/// The arguments of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Print JSON instead of lines.
    #[arg(long)]
    pub json: bool,
    /// Receive a message even where the queue's dead-letter rule allows few receives, or cannot be read.
    #[arg(long)]
    pub receive: bool,
}

/// What is checked, with the exit status if this, and this alone, fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Area {
    #[default]
    Configuration = CONFIGURATION as isize,
    Credentials = 10,
    Queue = 11,
    Redis = 12,
    Edge = 13,
    Clock = 14,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    #[serde(rename = "ok")]
    Good,
    /// The service works without it, which may be intended.
    Note,
    Warning,
    Failure,
}

#[derive(Debug, Serialize)]
struct Finding {
    area: Area,
    #[serde(rename = "status")]
    severity: Severity,
    /// What was found, for what, and the remedy if there is something to be done. No secret.
    text: String,
}

#[derive(Debug, Default)]
struct Report {
    /// What is being checked.
    area: Area,
    findings: Vec<Finding>,
}

impl Report {
    fn add(&mut self, severity: Severity, text: impl Display) {
        let (area, text) = (self.area, text.to_string());
        self.findings.push(Finding { area, severity, text });
    }

    /// Good, or a failure. True if it is good.
    fn add_result(&mut self, result: Result<impl Display, impl Display>) -> bool {
        let is_good = result.is_ok();
        match result {
            Ok(text) => self.add(Good, text),
            Err(error) => self.add(Failure, error),
        }
        is_good
    }

    fn worst(&self) -> Severity {
        let severities = self.findings.iter().map(|finding| finding.severity);
        severities.max().unwrap_or(Good)
    }

    fn lines(&self) -> String {
        let mut lines = String::new();
        for Finding { area, severity, text } in &self.findings {
            let severity = match severity {
                Good => style("ok     ").green(),
                Note => style("note   ").cyan(),
                Warning => style("warning").yellow(),
                Failure => style("failure").red(),
            };
            let (area, text) = (format!("{area:?}").to_lowercase(), printable(text));
            let _ = writeln!(lines, "{severity}  {area:<13}  {text}"); // a string accepts everything
        }
        lines
    }

    /// The area that failed, if it is one; 1 if they are several; 3 if there are warnings and nothing worse.
    fn exit_status(&self) -> u8 {
        let failures = self.findings.iter().filter(|finding| finding.severity == Failure);
        let mut failed = failures.map(|finding| finding.area);
        match failed.next() {
            Some(first) if failed.all(|area| area == first) => first as u8,
            Some(_) => FAILED,
            None if self.worst() == Warning => WARNED,
            None => DONE,
        }
    }
}

pub(super) fn run(settings: &Settings, args: &CheckArgs) -> Result<u8, CommandError> {
    let report = check(settings, args)?;
    let worst = report.worst();
    let status = if worst == Note { Good } else { worst };
    let json = json!({"status": status, "checks": report.findings});
    show(args.json, &json, || report.lines())?;
    Ok(report.exit_status())
}

fn check(settings: &Settings, args: &CheckArgs) -> Result<Report, CommandError> {
    let mut report = Report::default();
    let config = match settings.validate() {
        Ok(config) => config,
        Err(faults) => {
            faults.0.iter().for_each(|fault| report.add(Failure, fault));
            return Ok(report);
        }
    };
    let mut access = settings.cache_access()?;
    access.notices.clear(); // they are findings
    let session = Session::open(settings, access)?;
    let (queue, region, prefix) = (&config.queue_url, &config.region, &config.environment_prefix);
    report.add(Good, format!("valid: queue {queue} in {region}, environment '{prefix}'"));
    config.notices.iter().for_each(|notice| report.add(Warning, notice));

    report.area = Area::Credentials;
    let (url, key, proxy) = (&config.edge_api_url, &config.server_api_key, &config.proxy);
    let edge = Arc::new(EdgeClient::new(url.clone(), key.clone(), proxy.clone()));
    let provider = provider(&config.credentials, proxy.clone(), &edge, queue);
    let credentials = provider.current(clock::now());
    match &credentials {
        Err(error) => report.add(Failure, error),
        Ok(credentials) => {
            let until = credentials.expires_at.map(|at| format!(", until {}", date(at.0)));
            report.add(Good, provider.describe() + &until.unwrap_or_default());
            let sts = StsClient::new(&settings.sts_endpoint(), proxy.clone(), "identify the caller");
            match sts.and_then(|sts| sts.caller(credentials)) {
                Ok(arn) => report.add(Good, format!("the caller is {arn}")),
                Err(error) => report.add(Warning, format!("{error}. The service works without it")),
            }
            peers::queue(&mut report, &config, provider, args.receive);
        }
    }
    peers::redis_server(&mut report, &session);
    report.area = Area::Edge;
    let is_needed = config.credentials == CredentialSource::EdgeApi && credentials.is_err();
    match edge.sentry_dsn() {
        Ok(_) => report.add(Good, format!("{} answers and accepts SERVER_API_KEY", edge.address())),
        Err(error) if is_needed => report.add(Failure, error),
        Err(error) => report.add(Warning, format!("{error}. Only error reports, warm and verify need it")),
    }
    peers::clocks(&mut report, &config, &session);
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(of: &[(Area, Severity)]) -> Report {
        let mut report = Report::default();
        for (area, severity) in of {
            report.area = *area;
            report.add(*severity, "PORT: is not");
        }
        report
    }

    #[test]
    fn the_exit_status_tells_which_area_failed() {
        let with = |areas: &[Area]| {
            let mut of = vec![(Area::Queue, Good), (Area::Redis, Note), (Area::Clock, Warning)];
            of.extend(areas.iter().map(|area| (*area, Failure)));
            report(&of).exit_status()
        };
        assert_eq!(report(&[]).exit_status(), 0);
        assert_eq!(report(&[(Area::Redis, Note)]).exit_status(), 0);
        assert_eq!(with(&[]), 3);
        assert_eq!(with(&[Area::Redis]), 12);
        assert_eq!(with(&[Area::Configuration, Area::Configuration]), 78);
        assert_eq!(with(&[Area::Redis, Area::Queue]), 1);
    }

    #[test]
    fn a_line_has_status_area_and_text() {
        assert_eq!(
            report(&[(Area::Redis, Note), (Area::Configuration, Good)]).lines(),
            "note     redis          PORT: is not\nok       configuration  PORT: is not\n"
        );
    }
}
