//! The settings as an operator gives them: environment variables and flags, raw text, not yet judged, so that `validate`
//! can report every fault at once. Only an unknown flag is refused here. A flag wins over its variable, and an empty
//! value counts as not set.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};

use clap::builder::StyledStr;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, value_parser};

use super::shown::tells_a_secret;
use super::table::{Holds, SettingRow, TABLE, UNLISTED};
use super::values::{Findings, Raw, is_quoted, shown};

/// Environment variables as a snapshot, so that a test can pass its own.
pub type Environment = HashMap<OsString, OsString>;

const ABOUT: &str = "Keeps the Redis cache that Stigg's SDKs read fresh: state changes from an SQS queue in, cache entries out";
const AFTER_HELP: &str = "Every setting is an environment variable and a flag; the flag wins, and an empty value counts as not \
     set. Give secrets by variable or by file, since flags show in the list of processes. Booleans are 0 or 1, true or \
     false, yes or no, on or off.\n\n\
     Exit status: 0 after a stop that was asked for; 1 if the service cannot start; 2 for an unknown flag; 70 after a \
     defect in one of its loops; 78 if the configuration has faults: all are printed, and nothing is started; 130 or 143 \
     after a second signal.";

/// What was given, by flag or variable.
#[derive(Default)]
pub struct Settings {
    /// As [`TABLE`] has them.
    given: Vec<Option<String>>,
    /// What there is to say about how they were given.
    pub(super) findings: Findings,
}

/// The arguments and the environment of this process. The one place that reads them.
pub fn of_process() -> (Vec<OsString>, Environment) {
    (std::env::args_os().collect(), std::env::vars_os().collect())
}

impl Settings {
    /// A flag for each setting, with help as people read it. They take text of any encoding, so that clap refuses no
    /// value. Commands are added to it elsewhere.
    pub fn flags() -> Command {
        Command::default()
            .name(env!("CARGO_PKG_NAME"))
            .version(env!("CARGO_PKG_VERSION"))
            .long_version(crate::build_info::version_and_commit())
            .about(ABOUT)
            .after_help(AFTER_HELP)
            .max_term_width(100)
            // The help is the same for -h and --help: no setting needs more than its sentence.
            .next_line_help(true)
            .args(TABLE.iter().map(argument))
    }

    /// The settings in what [`Self::flags`] matched, and this environment. A flag may stand before a command or behind
    /// it: of several matches the first that has it wins.
    pub fn from_matches(matches: &[&ArgMatches], environment: &Environment) -> Self {
        let mut settings = Self::default();
        for setting in TABLE {
            let flag = matches
                .iter()
                .find_map(|matches| on_the_command_line(matches, &setting.id()))
                .filter(|value| !is_blank(value));
            let given = flag
                .or_else(|| variable(setting, environment))
                .and_then(|value| settings.findings.text(setting, value, flag.is_some()));
            settings.given.push(given);
        }
        settings
    }

    /// What was given for the setting at this place of [`TABLE`], else its default.
    pub(super) fn raw(&self, position: usize) -> Raw<'_> {
        let given = self.given.get(position).and_then(Option::as_deref);
        let setting = &TABLE[position];
        Raw { setting, value: given.or(setting.default), is_given: given.is_some() }
    }

    pub(super) fn raws(&self) -> impl Iterator<Item = Raw<'_>> {
        (0..TABLE.len()).map(|position| self.raw(position))
    }

    /// The settings that were given whose names begin with this.
    pub(super) fn given(&self, prefix: &'static str) -> impl Iterator<Item = Raw<'_>> {
        self.raws().filter(move |raw| raw.is_given && raw.variable().starts_with(prefix))
    }
}

/// Nothing of it shows: a secret may be in any setting.
impl std::fmt::Debug for Settings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Settings")
    }
}

impl Findings {
    /// The text of a value. What stands out about how it was given becomes a notice.
    fn text(&mut self, setting: &'static SettingRow, value: &OsStr, is_flag: bool) -> Option<String> {
        let mut raw = Raw { setting, value: None, is_given: true };
        let Some(text) = value.to_str() else {
            // Others set these for other programs too: what is not understood of them prevents nothing.
            if matches!(setting.variable, "HOME" | "HTTPS_PROXY" | "NO_COLOR" | "NO_PROXY") {
                self.notice(raw, "is not UTF-8, and is ignored");
            } else {
                self.fault(raw, "is not UTF-8; set plain text");
            }
            return None;
        };
        let text =
            if setting.holds == Holds::Secret { text.trim_end_matches(['\r', '\n']) } else { text.trim() };
        raw.value = Some(text);
        if !is_flag && is_of_a_service_link(setting, text) {
            let what = "is ignored: Kubernetes sets it for a Service of that name (service links)";
            let remedy = "set a number yourself, or enableServiceLinks: false in the pod";
            self.notice(raw, format!("{} {what}; {remedy}", shown(text)));
            return None;
        }
        if is_quoted(text) {
            let what = "starts and ends with quotes, which are part of the value";
            self.notice(raw, format!("{what} (docker --env-file keeps them); remove them"));
        }
        if is_flag && tells_a_secret(setting, text) {
            let what = "is given as a flag, which every user of this machine can see (/proc/<pid>/cmdline)";
            self.notice(raw, format!("{what}; set the environment variable instead"));
        }
        Some(text.to_owned())
    }
}

/// In each pod beside a Service that is named redis, `REDIS_PORT` is `tcp://10.0.0.1:6379`; Docker's links do the same.
fn is_of_a_service_link(setting: &SettingRow, text: &str) -> bool {
    let protocol = text.split_once("://").map(|(protocol, _)| protocol);
    setting.variable.ends_with("_PORT") && matches!(protocol, Some("tcp" | "udp" | "sctp"))
}

fn argument(setting: &'static SettingRow) -> Arg {
    let value_name = match setting.holds {
        Holds::Text(name) | Holds::Number(name, ..) | Holds::Hidden(name) => name,
        Holds::Secret => "SECRET",
        Holds::SecretFile => "PATH",
        Holds::Bool => "BOOL",
    };
    let help = setting.help.replace('`', "");
    Arg::new(setting.id())
        .long(setting.flag())
        .value_name(value_name)
        .num_args(usize::from(setting.holds != Holds::Bool)..=1)
        .default_missing_value("1")
        .default_values(setting.default)
        .value_parser(value_parser!(OsString))
        .allow_negative_numbers(true)
        // clap's own `env` is not used, since it reads the environment itself.
        .help(StyledStr::from(format!("{help} [env: {}]", setting.variable)))
        .help_heading(setting.group)
        .hide(setting.group == UNLISTED)
}

/// The flag's value, if it was given; a command need not know every flag.
fn on_the_command_line<'a>(matches: &'a ArgMatches, id: &str) -> Option<&'a OsStr> {
    let value = matches.try_get_one::<OsString>(id).ok()??;
    (matches.value_source(id) == Some(ValueSource::CommandLine)).then_some(value)
}

/// The variable's value. Programs take those of the proxy in small letters too; the one in capitals wins.
fn variable<'a>(setting: &SettingRow, environment: &'a Environment) -> Option<&'a OsStr> {
    let small = Some(setting.id()).filter(|_| setting.group == "Proxy");
    let names = [Some(setting.variable), small.as_deref()].into_iter().flatten();
    let mut values = names.filter_map(|name| environment.get(OsStr::new(name)));
    values.find(|value| !is_blank(value)).map(OsString::as_os_str)
}

fn is_blank(value: &OsStr) -> bool {
    value.to_str().is_some_and(|text| text.trim().is_empty())
}
