//! The settings as an operator gives them: environment variables and flags, raw text, not yet judged, so that `validate`
//! can report every fault at once. Only an unknown flag is refused here. A flag wins over its variable, and an empty
//! value counts as not set.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};

use clap::builder::StyledStr;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, value_parser};

use super::table::{Holds, Setting, TABLE, UNLISTED};
use super::values::{is_quoted, shown};

/// Environment variables as a snapshot, so that a test can pass its own.
pub type Environment = HashMap<OsString, OsString>;

const AFTER_HELP: &str = "Every setting is an environment variable and a flag; the flag wins, and an empty value counts as not \
     set. Give secrets by variable or by file, since flags show in the list of processes. Booleans are 0 or 1, true or \
     false, yes or no, on or off.\n\n\
     Exit status: 0 after a stop that was asked for; 1 if the service cannot start; 2 for an unknown flag; 70 after a \
     defect in one of its loops; 78 if the configuration has faults: all are printed, and nothing is started; 130 or 143 \
     after a second signal.";

/// What was given, by flag or variable.
#[derive(Default)]
pub struct Settings {
    given: HashMap<&'static str, String>,
    /// What there is to say about how they were given.
    pub(super) faults: Vec<String>,
    pub(super) notices: Vec<String>,
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
            .about(env!("CARGO_PKG_DESCRIPTION"))
            .after_help(AFTER_HELP)
            .max_term_width(100)
            // The help is the same for -h and --help: no setting needs more than its sentence.
            .next_line_help(true)
            .args(TABLE.iter().copied().map(argument))
    }

    /// The settings in what [`Self::flags`] matched, and this environment. A flag may stand before a command or behind
    /// it: of several matches the first that has it wins.
    pub fn from_matches(matches: &[&ArgMatches], environment: &Environment) -> Self {
        let mut settings = Self::default();
        for setting in TABLE {
            let mut flags = matches.iter().filter_map(|matches| flag(matches, setting.variable));
            let flag = flags.next().filter(|value| !is_blank(value));
            let value = flag.or_else(|| variable(setting, environment));
            if let Some(text) = value.and_then(|value| settings.text(setting, value, flag.is_some())) {
                settings.given.insert(setting.variable, text);
            }
        }
        settings
    }

    pub(super) fn given(&self, setting: Setting) -> Option<&str> {
        self.given.get(setting.variable).map(String::as_str)
    }

    /// What was given, else the default.
    pub(super) fn value(&self, setting: Setting) -> Option<&str> {
        self.given(setting).or(setting.default)
    }

    /// The text of a value. What stands out about how it was given becomes a notice.
    fn text(&mut self, setting: Setting, value: &OsStr, is_flag: bool) -> Option<String> {
        let variable = setting.variable;
        let mut notice = |what: String| self.notices.push(format!("{variable}: {what}"));
        let Some(text) = value.to_str() else {
            // Others set these for other programs too: what is not understood of them prevents nothing.
            if matches!(variable, "HOME" | "HTTPS_PROXY" | "NO_COLOR" | "NO_PROXY") {
                notice("is not UTF-8, and is ignored".to_owned());
            } else {
                self.faults.push(format!("{variable}: is not UTF-8; set plain text"));
            }
            return None;
        };
        let without_breaks = text.trim_end_matches(['\r', '\n']);
        let text = if setting.holds == Holds::Secret("SECRET") { without_breaks } else { text.trim() };
        // In each pod beside a Service that is named redis, REDIS_PORT is tcp://10.0.0.1:6379; Docker's links do the same.
        let is_link = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| text.starts_with(scheme));
        if is_link && variable.ends_with("_PORT") && !is_flag {
            let what = "is ignored: Kubernetes sets it for a Service of that name (service links)";
            let remedy = "set a number yourself, or enableServiceLinks: false in the pod";
            notice(format!("{} {what}; {remedy}", shown(text)));
            return None;
        }
        if is_quoted(text) {
            let what = "starts and ends with quotes, which are part of the value";
            notice(format!("{what} (docker --env-file keeps them); remove them"));
        }
        let may_hold_a_password = text.contains('@') || text.contains(":/") && text.contains('?');
        if is_flag && (setting.is_secret() || may_hold_a_password) {
            let what = "is given as a flag, which every user of this machine can see (/proc/<pid>/cmdline)";
            notice(format!("{what}; set the environment variable instead"));
        }
        Some(text.to_owned())
    }
}

/// Nothing of it shows: a secret may be in any setting.
impl std::fmt::Debug for Settings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Settings")
    }
}

fn argument(setting: Setting) -> Arg {
    let value_name = match setting.holds {
        Holds::Text(name) | Holds::Number(name, ..) | Holds::Secret(name) => name,
        Holds::SecretFile => "PATH",
        Holds::Bool => "BOOL",
    };
    let help = setting.help.replace('`', "");
    Arg::new(setting.variable)
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
fn flag<'a>(matches: &'a ArgMatches, variable: &str) -> Option<&'a OsStr> {
    let value = matches.try_get_one::<OsString>(variable).ok()??;
    (matches.value_source(variable) == Some(ValueSource::CommandLine)).then_some(value)
}

/// The variable's value. Programs take those of the proxy in small letters too; the one in capitals wins.
fn variable(setting: Setting, environment: &Environment) -> Option<&OsStr> {
    let small = Some(setting.variable.to_ascii_lowercase()).filter(|_| setting.group == "Proxy");
    let names = [Some(setting.variable), small.as_deref()].into_iter().flatten();
    let mut values = names.filter_map(|name| environment.get(OsStr::new(name)));
    values.find(|value| !is_blank(value)).map(OsString::as_os_str)
}

fn is_blank(value: &OsStr) -> bool {
    value.to_str().is_some_and(|text| text.trim().is_empty())
}
