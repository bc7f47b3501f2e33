//! `check`: asks everything that the service needs, with one line for each finding. What the service can do without fails
//! nothing. It leaves no trace: see `peers`.

mod peers;

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

#[derive(Debug, Default)]
struct Findings(Vec<(Area, Finding)>);

impl Findings {
    fn add(&mut self, area: Area, findings: impl IntoIterator<Item = Finding>) {
        self.0.extend(findings.into_iter().map(|finding| (area, finding)));
    }

    fn worst(&self) -> Severity {
        let severities = self.0.iter().map(|(_, (severity, _))| *severity);
        severities.max().unwrap_or(Good)
    }

    fn lines(&self) -> String {
        let line = |(area, (severity, text)): &(Area, Finding)| {
            let severity = match severity {
                Good => style("ok     ").green(),
                Note => style("note   ").cyan(),
                Warning => style("warning").yellow(),
                Failure => style("failure").red(),
            };
            let area = format!("{area:?}").to_lowercase();
            format!("{severity}  {area:<13}  {}\n", printable(text))
        };
        self.0.iter().map(line).collect::<Vec<_>>().concat()
    }

    fn json(&self) -> Value {
        let finding = |(area, (severity, text)): &(Area, Finding)| json!({"area": area, "status": severity, "text": text});
        let status = if self.worst() == Note { Good } else { self.worst() };
        json!({"status": status, "checks": self.0.iter().map(finding).collect::<Vec<_>>()})
    }

    /// The area that failed, if it is one; 1 if they are several; 3 if there are warnings and nothing worse.
    fn exit_status(&self) -> u8 {
        let failures = self.0.iter().filter(|(_, (severity, _))| *severity == Failure);
        let mut failed = failures.map(|(area, _)| *area);
        match failed.next() {
            Some(first) if failed.all(|area| area == first) => first as u8,
            Some(_) => FAILED,
            None if self.worst() == Warning => WARNED,
            None => DONE,
        }
    }
}

pub(super) fn run(settings: &Settings, args: &CheckArgs) -> Result<u8, CommandError> {
    let findings = check(settings, args)?;
    if args.json {
        print_json(&findings.json())?;
    } else {
        print(findings.lines())?;
    }
    Ok(findings.exit_status())
}

fn check(settings: &Settings, args: &CheckArgs) -> Result<Findings, CommandError> {
    let mut findings = Findings::default();
    let config = match settings.validate() {
        Ok(config) => config,
        Err(faults) => {
            findings.add(Area::Configuration, faults.lines().iter().map(failure));
            return Ok(findings);
        }
    };
    let mut access = settings.cache_access()?;
    access.notices.clear(); // they are findings
    let session = Session::open(settings, access, 1)?;
    let (queue, region, prefix) = (&config.queue_url, &config.region, &config.environment_prefix);
    let valid = format!("valid: queue {queue} in {region}, environment '{prefix}'");
    findings.add(Area::Configuration, [good(valid)]);
    findings.add(Area::Configuration, config.notices.iter().map(warning));

    let (url, key) = (config.edge_api_url.clone(), config.server_api_key.clone());
    let edge = Arc::new(EdgeClient::new(url, key, config.proxy.clone()));
    let of_edge = EdgeCredentials::new(Arc::clone(&edge), queue.clone());
    let (provider, _) = provider(&config.credentials, config.proxy.clone(), of_edge, Stop::never());
    let credentials = provider.current(clock::now());
    match &credentials {
        Err(error) => findings.add(Area::Credentials, [failure(&error.message)]),
        Ok(credentials) => {
            let until = credentials.expires_at.map(|at| format!(", until {}", date(at.0)));
            let source = provider.describe() + &until.unwrap_or_default();
            let caller = caller(&config, settings.sts_endpoint(), credentials);
            findings.add(Area::Credentials, [good(source), caller]);
            findings.add(Area::Queue, peers::queue(&config, provider, args.receive));
        }
    }
    findings.add(Area::Redis, peers::redis_server(prefix, &session));
    let is_needed = config.credentials == CredentialSource::EdgeApi && credentials.is_err();
    let answer = match edge.sentry_dsn() {
        Ok(_) => good(format!("{} answers and takes SERVER_API_KEY", edge.address())),
        Err(error) if is_needed => failure(error.message),
        Err(error) => warning(format!(
            "{error}. Only error reports and the command warm need it"
        )),
    };
    findings.add(Area::Edge, [answer]);
    findings.add(Area::Clock, [peers::clocks(&config, &session.store)]);
    Ok(findings)
}

/// Whom AWS takes the credentials for.
fn caller(config: &Config, endpoint: StsEndpoint, credentials: &Credentials) -> Finding {
    let proxy = config.proxy.clone();
    let sts = StsClient::new(&StsAccess { endpoint, proxy }, None);
    let sts = sts.ok_or_else(|| "the region has no STS; check AWS_REGION".to_owned());
    sts.and_then(|sts| sts.caller(credentials)).map_or_else(
        |why| {
            warning(format!(
                "cannot tell who the caller is ({why}): the service itself need not know"
            ))
        },
        |arn| good(format!("the caller is {arn}")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(of: &[(Area, Severity)]) -> Findings {
        let finding = |(area, severity): &(Area, Severity)| (*area, (*severity, "PORT: is not".to_owned()));
        Findings(of.iter().map(finding).collect())
    }

    #[test]
    fn the_exit_status_tells_which_area_failed() {
        let with = |areas: &[Area]| {
            let mut of = vec![(Area::Queue, Good), (Area::Redis, Note), (Area::Clock, Warning)];
            of.extend(areas.iter().map(|area| (*area, Failure)));
            findings(&of).exit_status()
        };
        assert_eq!(findings(&[]).exit_status(), 0);
        assert_eq!(findings(&[(Area::Redis, Note)]).exit_status(), 0);
        assert_eq!(with(&[]), 3);
        assert_eq!(with(&[Area::Redis]), 12);
        assert_eq!(with(&[Area::Configuration, Area::Configuration]), 78);
        assert_eq!(with(&[Area::Redis, Area::Queue]), 1);
    }

    #[test]
    fn a_line_has_status_area_and_text_and_a_note_leaves_all_well() {
        let findings = findings(&[(Area::Redis, Note), (Area::Configuration, Good)]);
        let lines = "note     redis          PORT: is not\nok       configuration  PORT: is not\n";
        assert_eq!(findings.lines(), lines);
        assert_eq!(findings.json()["status"], "ok");
        assert_eq!(findings.json()["checks"][0]["status"], "note");
    }
}
