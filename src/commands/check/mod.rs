//! `check`: asks everything that the service needs, with one line for each finding. What the service can do without fails
//! nothing. It leaves no trace: see `peers`.

mod peers;

use std::fmt::Write as _;
use std::sync::Arc;

use clap::Args;
use console::style;
use serde::Serialize;
use serde_json::{Value, json};

use self::Severity::{Failure, Good, Note, Warning};
use super::output::{date, print_json, printable};
use super::{CONFIGURATION, CommandError, DONE, FAILED, Session, print};
use crate::aws::sts::{StsAccess, StsClient};
use crate::aws::{Credentials, EdgeCredentials, provider};
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
    #[serde(rename = "ok")]
    Good,
    /// The service does without, which may well be intended.
    Note,
    Warning,
    Failure,
}

/// How bad it is; then what was found, for what, and the remedy if there is something to be done. No secret.
type Finding = (Severity, String);

fn good(text: impl Into<String>) -> Finding {
    (Good, text.into())
}

fn note(text: impl Into<String>) -> Finding {
    (Note, text.into())
}

fn warning(text: impl Into<String>) -> Finding {
    (Warning, text.into())
}

fn failure(text: impl Into<String>) -> Finding {
    (Failure, text.into())
}

type Findings = Vec<(Area, Finding)>;

pub(super) fn run(settings: &Settings, args: &CheckArgs) -> Result<u8, CommandError> {
    let findings = check(settings, args)?;
    if args.json {
        print_json(&json(&findings))?;
    } else {
        print(lines(&findings))?;
    }
    Ok(exit_status(&findings))
}

fn check(settings: &Settings, args: &CheckArgs) -> Result<Findings, CommandError> {
    let of = |area| move |finding| (area, finding);
    let config = match settings.validate() {
        Ok(config) => config,
        Err(faults) => {
            let faults = faults.lines().iter().map(failure);
            return Ok(faults.map(of(Area::Configuration)).collect());
        }
    };
    let mut access = settings.cache_access()?;
    access.notices.clear(); // they are findings
    let session = Session::open(settings, access, 1)?;
    let (queue, region, prefix) = (&config.queue_url, &config.region, &config.environment_prefix);
    let valid = format!("valid: queue {queue} in {region}, environment '{prefix}'");
    let mut findings = vec![(Area::Configuration, good(valid))];
    findings.extend(config.notices.iter().map(warning).map(of(Area::Configuration)));

    let (url, key) = (config.edge_api_url.clone(), config.server_api_key.clone());
    let edge = Arc::new(EdgeClient::new(url, key, config.proxy.clone()));
    let of_edge = EdgeCredentials::new(Arc::clone(&edge), queue.clone());
    let (provider, _) = provider(&config.credentials, config.proxy.clone(), of_edge, Stop::never());
    let credentials = provider.current(clock::now());
    match &credentials {
        Err(error) => findings.push((Area::Credentials, failure(&error.message))),
        Ok(credentials) => {
            let until = credentials.expires_at.map(|at| format!(", until {}", date(at.0)));
            let source = provider.describe() + &until.unwrap_or_default();
            findings.push((Area::Credentials, good(source)));
            let caller = caller(&config, settings.sts_endpoint(), credentials);
            findings.push((Area::Credentials, caller));
            findings.extend(peers::queue(&config, provider, args.receive).map(of(Area::Queue)));
        }
    }
    let redis = peers::redis_server(prefix, &session);
    findings.extend(redis.into_iter().map(of(Area::Redis)));
    let is_needed = config.credentials == CredentialSource::EdgeApi && credentials.is_err();
    let answer = match edge.sentry_dsn() {
        Ok(_) => good(format!("{} answers and takes SERVER_API_KEY", edge.address())),
        Err(error) if is_needed => failure(error.message),
        Err(error) => warning(format!("{error}. Only error reports and warm need it")),
    };
    findings.push((Area::Edge, answer));
    findings.push((Area::Clock, peers::clocks(&config, &session.store)));
    Ok(findings)
}

/// Whom AWS takes the credentials for.
fn caller(config: &Config, endpoint: StsEndpoint, credentials: &Credentials) -> Finding {
    let proxy = config.proxy.clone();
    let sts = StsClient::new(&StsAccess { endpoint, proxy }, None);
    let sts = sts.ok_or_else(|| "the region has no STS; check AWS_REGION".to_owned());
    match sts.and_then(|sts| sts.caller(credentials)) {
        Ok(arn) => good(format!("the caller is {arn}")),
        Err(why) => warning(format!("the caller is unknown: {why}. The service does without")),
    }
}

fn worst(findings: &Findings) -> Severity {
    let severities = findings.iter().map(|(_, (severity, _))| *severity);
    severities.max().unwrap_or(Good)
}

fn lines(findings: &Findings) -> String {
    let mut text = String::new();
    for (area, (severity, what)) in findings {
        let severity = match severity {
            Good => style("ok     ").green(),
            Note => style("note   ").cyan(),
            Warning => style("warning").yellow(),
            Failure => style("failure").red(),
        };
        let (area, what) = (format!("{area:?}").to_lowercase(), printable(what));
        let _ = writeln!(text, "{severity}  {area:<13}  {what}"); // a string accepts everything
    }
    text
}

fn json(findings: &Findings) -> Value {
    let check =
        |(area, (severity, text)): &(Area, Finding)| json!({"area": area, "status": severity, "text": text});
    let worst = worst(findings);
    let status = if worst == Note { Good } else { worst };
    json!({"status": status, "checks": findings.iter().map(check).collect::<Vec<_>>()})
}

/// The area that failed, if it is one; 1 if they are several; 3 if there are warnings and nothing worse.
fn exit_status(findings: &Findings) -> u8 {
    let failures = findings.iter().filter(|(_, (severity, _))| *severity == Failure);
    let mut failed = failures.map(|(area, _)| *area);
    match failed.next() {
        Some(first) if failed.all(|area| area == first) => first as u8,
        Some(_) => FAILED,
        None if worst(findings) == Warning => WARNED,
        None => DONE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(of: &[(Area, Severity)]) -> Findings {
        let finding = |(area, severity): &(Area, Severity)| (*area, (*severity, "PORT: is not".to_owned()));
        of.iter().map(finding).collect()
    }

    #[test]
    fn the_exit_status_tells_which_area_failed() {
        let with = |areas: &[Area]| {
            let mut of = vec![(Area::Queue, Good), (Area::Redis, Note), (Area::Clock, Warning)];
            of.extend(areas.iter().map(|area| (*area, Failure)));
            exit_status(&findings(&of))
        };
        assert_eq!(exit_status(&findings(&[])), 0);
        assert_eq!(exit_status(&findings(&[(Area::Redis, Note)])), 0);
        assert_eq!(with(&[]), 3);
        assert_eq!(with(&[Area::Redis]), 12);
        assert_eq!(with(&[Area::Configuration, Area::Configuration]), 78);
        assert_eq!(with(&[Area::Redis, Area::Queue]), 1);
    }

    #[test]
    fn a_line_has_status_area_and_text_and_a_note_leaves_all_well() {
        let findings = findings(&[(Area::Redis, Note), (Area::Configuration, Good)]);
        let text = "note     redis          PORT: is not\nok       configuration  PORT: is not\n";
        assert_eq!(lines(&findings), text);
        assert_eq!(json(&findings)["status"], "ok");
        assert_eq!(json(&findings)["checks"][0]["status"], "note");
    }
}
