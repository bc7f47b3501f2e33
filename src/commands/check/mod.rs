//! `check`: asks everything that the service needs, with one line for each finding. What the service can do without fails
//! nothing. It leaves no trace: the one key that it writes to Redis is deleted again, and a message is received only where
//! that harms none.

mod clock_skew;
mod queue;
mod redis_server;

use std::fmt::Write as _;
use std::sync::Arc;

use clap::Args;
use console::style;
use serde::Serialize;
use serde_json::json;

use super::output::{date, print_json, printable};
use super::{CONFIGURATION, CommandError, DONE, FAILED, Session, print};
use crate::aws::sts::{StsAccess, StsClient};
use crate::aws::{CredentialsProvider, EdgeCredentials, provider};
use crate::clock;
use crate::config::{Config, CredentialSource, Settings, StsEndpoint};
use crate::edge::EdgeClient;
use crate::shutdown::Stop;

/// There are warnings, and nothing worse.
const WARNED: u8 = 3;

/// What `check` is asked.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Area {
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
    Ok,
    /// The service can do without, and an operator may want it that way.
    Note,
    Warning,
    Failure,
}

/// One line.
#[derive(Debug, Serialize)]
struct Finding {
    area: Area,
    #[serde(rename = "status")]
    severity: Severity,
    /// What was found, for what, and the remedy if there is something to be done. No secret.
    text: String,
}

impl Area {
    fn ok(self, text: impl Into<String>) -> Finding {
        self.finding(Severity::Ok, text)
    }

    fn note(self, text: impl Into<String>) -> Finding {
        self.finding(Severity::Note, text)
    }

    fn warning(self, text: impl Into<String>) -> Finding {
        self.finding(Severity::Warning, text)
    }

    fn failure(self, text: impl Into<String>) -> Finding {
        self.finding(Severity::Failure, text)
    }

    fn finding(self, severity: Severity, text: impl Into<String>) -> Finding {
        let (area, text) = (self, text.into());
        Finding { area, severity, text }
    }
}

pub(super) fn run(settings: &Settings, args: &CheckArgs) -> Result<u8, CommandError> {
    let findings = check(settings, args)?;
    if args.json {
        // Notes are no reason to look closer.
        let worst = findings.iter().map(|finding| finding.severity).max();
        let status = worst
            .filter(|worst| *worst > Severity::Note)
            .unwrap_or(Severity::Ok);
        print_json(&json!({"status": status, "checks": findings}))?;
    } else {
        print(lines(&findings))?;
    }
    Ok(exit_status(&findings))
}

fn check(settings: &Settings, args: &CheckArgs) -> Result<Vec<Finding>, CommandError> {
    let config = match settings.validate() {
        Ok(config) => config,
        Err(faults) => {
            let faults = faults.lines().iter();
            return Ok(faults.map(|fault| Area::Configuration.failure(fault)).collect());
        }
    };
    let mut access = settings.cache_access()?;
    access.notices.clear(); // they are findings
    let session = Session::open(settings, access, 1)?;
    let mut findings = vec![Area::Configuration.ok(format!(
        "valid: queue {} in {}, environment '{}'",
        config.queue_url, config.region, config.environment_prefix
    ))];
    findings.extend(
        config
            .notices
            .iter()
            .map(|notice| Area::Configuration.warning(notice)),
    );

    let edge = Arc::new(EdgeClient::new(
        config.edge_api_url.clone(),
        config.server_api_key.clone(),
        config.proxy.clone(),
    ));
    let provider = check_credentials(&config, settings.sts_endpoint(), &edge, &mut findings);
    let has_credentials = provider.is_some();
    if let Some(provider) = provider {
        queue::check(&config, provider, args.receive, &mut findings);
    }
    redis_server::check(&config, &session, &mut findings);
    findings.push(check_edge(&config, &edge, has_credentials));
    findings.push(clock_skew::check(&config, &session.store));
    Ok(findings)
}

/// Where credentials come from, and whom AWS takes them for. None if there are none.
fn check_credentials(
    config: &Config,
    endpoint: StsEndpoint,
    edge: &Arc<EdgeClient>,
    findings: &mut Vec<Finding>,
) -> Option<Arc<dyn CredentialsProvider>> {
    let of_edge = EdgeCredentials::new(Arc::clone(edge), config.queue_url.clone());
    let (provider, _) = provider(&config.credentials, config.proxy.clone(), of_edge, Stop::never());
    let credentials = match provider.current(clock::now()) {
        Ok(credentials) => credentials,
        Err(error) => {
            findings.push(Area::Credentials.failure(error.message));
            return None;
        }
    };
    let until = credentials.expires_at.map(|at| format!(", until {}", date(at.0)));
    findings.push(Area::Credentials.ok(provider.describe() + &until.unwrap_or_default()));
    let access = StsAccess {
        endpoint,
        proxy: config.proxy.clone(),
    };
    let caller = match StsClient::new(&access, None) {
        Some(sts) => sts.caller(&credentials),
        None => Err("the region has no STS; check AWS_REGION".to_owned()),
    };
    findings.push(match caller {
        Ok(arn) => Area::Credentials.ok(format!("the caller is {arn}")),
        Err(why) => Area::Credentials.warning(format!(
            "cannot tell who the caller is ({}): the service itself need not know",
            why.trim_end_matches('.')
        )),
    });
    Some(provider)
}

/// Stigg's Edge API answers and accepts the key. The service needs it for no more than its credentials, if for these.
fn check_edge(config: &Config, edge: &EdgeClient, has_credentials: bool) -> Finding {
    match edge.sentry_dsn() {
        Ok(_) => Area::Edge.ok(format!("{} answers and accepts SERVER_API_KEY", edge.address())),
        Err(error) if config.credentials == CredentialSource::EdgeApi && !has_credentials => {
            Area::Edge.failure(error.message)
        }
        Err(error) => Area::Edge.warning(format!(
            "{error}. The service works without it; error reports without SENTRY_DSN and `warm` do not"
        )),
    }
}

fn lines(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding {
        area,
        severity,
        text: what,
    } in findings
    {
        let severity = match severity {
            Severity::Ok => style("ok     ").green(),
            Severity::Note => style("note   ").cyan(),
            Severity::Warning => style("warning").yellow(),
            Severity::Failure => style("failure").red(),
        };
        let area = format!("{area:?}").to_lowercase();
        let _ = writeln!(text, "{severity}  {area:<13}  {}", printable(what)); // a string accepts everything
    }
    text
}

/// The area that failed, if it is one; 1 if they are several; 3 if there are warnings and nothing worse.
fn exit_status(findings: &[Finding]) -> u8 {
    let is = |severity| move |finding: &&Finding| finding.severity == severity;
    let mut failed = findings
        .iter()
        .filter(is(Severity::Failure))
        .map(|finding| finding.area);
    match failed.next() {
        Some(first) if failed.all(|area| area == first) => first as u8,
        Some(_) => FAILED,
        None if findings.iter().any(|finding| is(Severity::Warning)(&finding)) => WARNED,
        None => DONE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_status_tells_which_area_failed() {
        assert_eq!(exit_status(&[]), 0);
        let harmless = || vec![Area::Queue.ok("a"), Area::Redis.note("b")];
        assert_eq!(exit_status(&harmless()), 0);
        let with = |areas: &[Area]| {
            let mut findings = harmless();
            findings.extend(areas.iter().map(|area| area.failure("c")));
            findings.push(Area::Clock.warning("d"));
            exit_status(&findings)
        };
        assert_eq!(with(&[]), 3);
        assert_eq!(with(&[Area::Redis]), 12);
        assert_eq!(with(&[Area::Configuration, Area::Configuration]), 78);
        assert_eq!(with(&[Area::Redis, Area::Queue]), 1);
    }

    #[test]
    fn a_line_has_severity_area_and_text() {
        let findings = [
            Area::Edge.ok("answers"),
            Area::Configuration.failure("PORT: is not"),
        ];
        assert_eq!(
            lines(&findings),
            "ok       edge           answers\nfailure  configuration  PORT: is not\n"
        );
    }
}
