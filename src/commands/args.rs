//! The command line beyond the settings: which commands there are, and what each is asked.
//!
//! Each command's doc comment is its help. Which settings a command knows stands in [`Command::uses`]: these show in its
//! help, the others are taken all the same, so that one environment and one list of flags serve them all.

use std::ffi::OsString;

use clap::{Arg, Args, FromArgMatches, Subcommand};
use clap_complete::Shell;

use super::check::CheckArgs;
use super::inspect::InspectArgs;
use super::purge::PurgeArgs;
use super::replay::ReplayArgs;
use super::warm::WarmArgs;
use crate::config::{Environment, Settings};

/// A command beside the service itself.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Asks everything that the service needs whether it is there and lets it in, with a remedy for what does not.
    ///
    /// Configuration, credentials (and whom AWS takes them for), queue, Redis, Edge API and the clock, a line each. It leaves
    /// no trace: one key below the prefix is written to Redis and deleted again, and one message is received, hidden from
    /// nobody. As that raises its receive count, nothing is received where messages wait under a dead-letter rule that
    /// bears fewer than 5 receives, or may bear so few, unless --receive is given. Exit status: 0 if all is well, 3 if
    /// there are warnings only, 10 if credentials failed, 11 the queue, 12 Redis, 13 the Edge API, 14 the clock, 1 if
    /// several of these did, 78 if the configuration has faults.
    Check(CheckArgs),
    /// Shows what is cached for a customer, and whether each generation of Stigg's SDKs would answer from it.
    ///
    /// Reads Redis and changes nothing. Exit status: 0 if something is cached, 3 if nothing is, 1 if Redis cannot be
    /// asked, 78 if the configuration has faults.
    Inspect(InspectArgs),
    /// Applies messages from a file (one JSON message a line) to the cache, as if they came from the queue.
    ///
    /// Takes bodies as they are, and messages as aws sqs receive-message prints them (jq -c '.Messages[]'). Newer wins,
    /// the readers' locks are waited for, CACHE_UPDATE_POLICY holds. Bad lines are told with their number and do not
    /// stop the rest. A message was sent when its Attributes or itself say so, else now. Exit status: 0 if every line
    /// was applied, 1 if some are bad or Redis failed, 78 if the configuration has faults.
    Replay(ReplayArgs),
    /// Fills the cache of a list of customers with what Stigg's Edge API says of them now.
    ///
    /// For a new or an emptied Redis. It writes whom CACHE_UPDATE_POLICY would not, but never over something newer.
    /// List a customer before its resources: a resource's entry counts only beside its customer's. Exit status: 0 if
    /// all are done, 1 if some failed or it gave up, 78 if the configuration has faults.
    Warm(WarmArgs),
    /// Forgets what is cached of a customer, of a resource or of everyone, so that the next reader asks Stigg.
    ///
    /// Asks first on a terminal; elsewhere it needs --yes. It is remembered for 12 hours, so that messages that were
    /// sent before bring nothing back. Usages of a customer stay, as they do for a purge that comes from the queue.
    /// Exit status: 0 if it was done, 1 if the answer was no or Redis failed, 2 if nobody could be asked, 78 if the
    /// configuration has faults.
    Purge(PurgeArgs),
    /// Asks a running service whether its loops come round (`GET /livez` on `PORT` of this machine).
    ///
    /// For probes in images without a shell. Exit status: 0 if it is up, 1 if it is down or does not answer, 78 if
    /// `PORT` is faulty.
    Live,
    /// Asks a running service whether it can do its work (`GET /readyz` on `PORT` of this machine).
    ///
    /// For probes in images without a shell. Exit status: 0 if it is ready, 1 if it is not or does not answer, 78 if
    /// `PORT` is faulty.
    Ready,
    /// Prints what a shell needs to complete commands and flags.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Prints the manual page, of the whole or of one command, for `man -l -`.
    Man(ManArgs),
}

/// What [`Command::Man`] is asked.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The command; without one, the page is that of the service.
    pub command: Option<String>,
}

/// Groups of settings, as the headings of the help have them, and single ones.
struct Uses {
    groups: &'static [&'static str],
    settings: &'static [&'static str],
}

/// What [`parse`] makes of a command line.
#[derive(Debug)]
pub struct CommandLine {
    /// Whatever is set, whether the command needs it or not.
    pub settings: Settings,
    /// None runs the service.
    pub command: Option<Command>,
}

/// Which settings a command, by its name, is told in its help.
fn uses(command: &str) -> Uses {
    let (groups, settings): (&[&str], &[&str]) = match command {
        "check" => (
            &["Queue", "AWS credentials", "Stigg", "Proxy", "Redis", "Cache"],
            &["log_level"],
        ),
        "live" | "ready" => (&["HTTP"], &[]),
        "replay" => (&["Redis", "Cache"], &["log_level"]),
        "warm" => (&["Stigg", "Redis", "Cache", "Proxy"], &["log_level"]),
        "purge" | "inspect" => (&["Redis"], &["environment_prefix", "log_level"]),
        _ => (&[], &[]),
    };
    Uses { groups, settings }
}

impl Uses {
    fn include(&self, setting: &Arg) -> bool {
        let is_of_a_group = setting
            .get_help_heading()
            .is_some_and(|heading| self.groups.contains(&heading));
        !setting.is_hide_set() && (is_of_a_group || self.settings.contains(&setting.get_id().as_str()))
    }
}

/// The whole command line as it is parsed: each command takes every setting, and hides what it does not use.
fn parsed() -> clap::Command {
    with_commands(|uses, setting| {
        let is_shown = uses.include(&setting);
        Some(setting.hide(!is_shown))
    })
}

/// The whole command line as people are told of it, in manuals and completions.
pub fn shown() -> clap::Command {
    with_commands(|uses, setting| uses.include(&setting).then_some(setting))
}

fn with_commands(setting_of: impl Fn(&Uses, Arg) -> Option<Arg>) -> clap::Command {
    let flags = Settings::flags();
    let settings: Vec<Arg> = flags.get_arguments().cloned().collect();
    let about = flags.get_about().cloned().unwrap_or_default();
    Command::augment_subcommands(flags)
        .about(about)
        .subcommand_help_heading("Commands (without one, the service runs)")
        .mut_subcommands(|command| {
            let uses = uses(command.get_name());
            let settings = settings
                .iter()
                .filter_map(|setting| setting_of(&uses, setting.clone()));
            plain(command.next_line_help(true)).args(settings.collect::<Vec<_>>())
        })
}

/// The texts without the marks that only rustdoc renders.
fn plain(command: clap::Command) -> clap::Command {
    let without_marks = |text: &dyn ToString| text.to_string().replace('`', "");
    let about = command.get_about().map(|about| without_marks(about));
    let long = command.get_long_about().map(|about| without_marks(about));
    let mut command = command.mut_args(|mut arg| {
        if let Some(help) = arg.get_help().map(|help| without_marks(help)) {
            arg = arg.help(help);
        }
        if let Some(long) = arg.get_long_help().map(|help| without_marks(help)) {
            arg = arg.long_help(long);
        }
        arg
    });
    if let Some(about) = about {
        command = command.about(about);
    }
    if let Some(long) = long {
        command = command.long_about(long);
    }
    command
}

/// The command and the settings in these arguments (the first is the program's name) and this environment. The error
/// is clap's: help, version or a wrong flag, to be printed as it is.
pub fn parse(args: Vec<OsString>, environment: &Environment) -> Result<CommandLine, clap::Error> {
    let matches = parsed().try_get_matches_from(args)?;
    // What stands behind the command is nearer to it than what stands before.
    let mut all = vec![&matches];
    if let Some((_, of_command)) = matches.subcommand() {
        all.insert(0, of_command);
    }
    let settings = Settings::from_matches(&all, environment);
    let command = matches
        .subcommand_name()
        .map(|_| Command::from_arg_matches(&matches))
        .transpose()?;
    Ok(CommandLine { settings, command })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &str, environment: &[(&str, &str)]) -> Result<CommandLine, clap::Error> {
        let environment = environment
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        let args = std::iter::once("persistent-cache-service").chain(words.split_whitespace());
        parse(args.map(OsString::from).collect(), &environment)
    }

    #[test]
    fn clap_finds_no_fault_in_the_command_line() {
        parsed().debug_assert();
        shown().debug_assert();
    }

    #[test]
    fn without_a_command_it_is_the_service() {
        let line = parse_words("--port 4001", &[]).unwrap();
        assert!(line.command.is_none());
        assert_eq!(line.settings.port_to_probe().unwrap(), 4001);
    }

    #[test]
    fn a_setting_may_stand_before_a_command_behind_it_or_in_the_environment() {
        for (words, environment, port) in [
            ("--port 1 ready", [("PORT", "3")], 1),
            ("ready --port 2", [("PORT", "3")], 2),
            ("--port 1 ready --port 2", [("PORT", "3")], 2),
            ("ready", [("PORT", "3")], 3),
        ] {
            let line = parse_words(words, &environment).unwrap();
            assert!(matches!(line.command, Some(Command::Ready)), "{words}");
            assert_eq!(line.settings.port_to_probe().unwrap(), port, "{words}");
        }
    }

    #[test]
    fn a_command_takes_every_setting_and_shows_those_it_uses() {
        let line = parse_words("ready --redis-host r", &[]).unwrap();
        let shown = line.settings.shown().0;
        assert!(
            shown
                .iter()
                .any(|setting| setting.name == "REDIS_HOST" && setting.is_given)
        );
        let help = parse_words("ready --help", &[]).unwrap_err().to_string();
        assert!(
            help.contains("--port") && !help.contains("--redis-host"),
            "{help}"
        );
        assert!(!help.contains('`'), "{help}");
    }

    #[test]
    fn a_command_that_is_not_known_is_refused() {
        let error = parse_words("redy", &[]).unwrap_err().to_string();
        assert!(error.contains("'ready'"), "{error}");
    }
}
