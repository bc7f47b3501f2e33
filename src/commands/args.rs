//! The command line beyond the settings: the commands, and which settings each shows in its help. It accepts the others as
//! well, so that one environment and one list of flags serve them all. Doc comments are the help.

use std::ffi::OsString;

use clap::{Arg, FromArgMatches, Subcommand};
use clap_complete::Shell;

use super::check::CheckArgs;
use super::inspect::InspectArgs;
use super::purge::PurgeArgs;
use super::replay::ReplayArgs;
use super::verify::VerifyArgs;
use super::warm::WarmArgs;
use crate::config::{Environment, Settings};

/// A command beside the service itself.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Checks that everything the service needs is reachable and that its credentials work, with a remedy for what fails.
    ///
    /// Configuration, credentials (and their owner in AWS), queue, Redis, Edge API and clock. What the service can do
    /// without is a note or a warning. It leaves no trace: one key below the prefix is written to Redis and deleted again, and
    /// one message is received, which stays visible to others. That raises the message's receive count. So nothing is received
    /// if messages wait and the dead-letter rule allows fewer than 5 receives or cannot be read, unless --receive is given.
    /// Redis in cluster mode needs a hash tag in ENVIRONMENT_PREFIX; without one, nothing is written. Exit status:
    /// 0 if all is well, 3 if there are warnings only, 10 if credentials failed, 11 the queue, 12 Redis, 13 the Edge API, 14
    /// the clock, 1 if several of these did, 78 if the configuration has faults.
    Check(CheckArgs),
    /// Shows what is cached for a customer, and whether each generation of Stigg's SDKs would answer from it.
    ///
    /// Reads Redis and changes nothing. Exit status: 0 if something is cached, 3 if nothing is, 1 if Redis cannot be read.
    Inspect(InspectArgs),
    /// Applies messages from a file (one JSON message a line) to the cache, as if they came from the queue.
    ///
    /// Accepts bodies as they are, and messages as aws sqs receive-message prints them (jq -c '.Messages[]'). Newer wins,
    /// the SDKs' locks are respected, and CACHE_UPDATE_POLICY applies. Bad lines are reported with their number and do
    /// not stop the rest. A message counts as sent at the time in its Attributes or its body, else now. Exit status: 0 if
    /// every line was applied, 1 if some are bad or Redis failed.
    Replay(ReplayArgs),
    /// Fills the cache for a list of customers with what Stigg's Edge API says about them now.
    ///
    /// For a new or an emptied Redis. It also writes customers that CACHE_UPDATE_POLICY would skip, but never over
    /// something newer. List a customer before its resources: a resource's entry counts only beside its customer's. Exit
    /// status: 0 if all are done, 1 if some failed or it gave up.
    Warm(WarmArgs),
    /// Compares what is cached with what Stigg's Edge API says now, and prints what differs.
    ///
    /// One line for each difference in access, limits, usages, periods and metadata, as each generation of Stigg's SDKs
    /// would answer from the cache, in the form of CACHE_FORMAT. Something newer in Redis is not a difference. A difference
    /// is checked again after 3 seconds before it is reported. It is also a difference if a customer is named and not cached;
    /// if a sampled one is purged meanwhile, it is not. Exit status: 0 if everything is equal or fixed, 3 if something
    /// differs, 1 if some customers could not be compared, if there were none to compare, or if it gave up.
    Verify(VerifyArgs),
    /// Deletes what is cached for a customer, a resource or everyone, so that the next reader asks Stigg.
    ///
    /// Asks first on a terminal; elsewhere it needs --yes. The purge is recorded for 12 hours, so that messages that were sent
    /// before restore nothing. Usages of a customer stay, as they do for a purge that comes from the queue. Exit status:
    /// 0 if it was done, 1 if the answer was no or Redis failed, 2 if nobody could be asked.
    Purge(PurgeArgs),
    /// Asks a running service whether its loops make progress (GET /livez on PORT of this machine).
    ///
    /// For probes in images without a shell. Exit status: 0 if it is up, 1 if it is down or does not answer.
    Live,
    /// Asks a running service whether it can do its work (GET /readyz on PORT of this machine).
    ///
    /// For probes in images without a shell. Exit status: 0 if it is ready, 1 if it is not or does not answer.
    Ready,
    /// Prints the completions of commands and flags for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Prints a manual page for man -l -: that of the service, of a command, or of all known problems (troubleshooting).
    Man {
        /// The command, or troubleshooting; without one, the page is that of the service.
        command: Option<String>,
    },
}

/// Whether a command, by its name, uses this setting.
fn uses(command: &str, setting: &Arg) -> bool {
    let groups = match command {
        "check" => "Queue, AWS credentials, Stigg, Proxy, Redis, Cache",
        "live" | "ready" => "HTTP",
        "replay" => "Redis, Cache",
        "warm" | "verify" => "Stigg, Redis, Cache, Proxy",
        "purge" | "inspect" => "Redis",
        _ => return false,
    };
    let group = setting.get_help_heading().unwrap_or_default();
    let is_log_or_prefix = ["LOG_LEVEL", "ENVIRONMENT_PREFIX"].contains(&setting.get_id().as_str());
    let is_for_others = match setting.get_id().as_str() {
        "STATUS_PAGE" | "REFRESH_AFTER_PURGE" | "REFRESH_RATE" => command != "check",
        "CACHE_UPDATE_POLICY" => matches!(command, "warm" | "verify"),
        _ => false,
    };
    let is_used = groups.split(", ").any(|used| used == group) || is_log_or_prefix && groups != "HTTP";
    is_used && !is_for_others && !setting.is_hide_set()
}

/// The whole command line as it is parsed: each command accepts every setting, and hides those that it does not use.
fn parsed() -> clap::Command {
    with_commands(|is_used, setting| Some(setting.hide(!is_used)))
}

/// The whole command line as manuals and completions show it.
pub fn shown() -> clap::Command {
    with_commands(bool::then_some)
}

fn with_commands(setting_of: impl Fn(bool, Arg) -> Option<Arg>) -> clap::Command {
    let flags = Settings::flags();
    let settings: Vec<Arg> = flags.get_arguments().cloned().collect();
    let about = flags.get_about().cloned().unwrap_or_default();
    Command::augment_subcommands(flags)
        .about(about)
        .subcommand_help_heading("Commands (without one, the service runs)")
        .mut_subcommands(|command| {
            let name = command.get_name();
            let setting_of = |setting: &Arg| setting_of(uses(name, setting), setting.clone());
            let settings: Vec<Arg> = settings.iter().filter_map(setting_of).collect();
            command.next_line_help(true).args(settings)
        })
}

/// The settings (needed or not) and the command (none is the service) in these arguments, of which the first is the program's
/// name, and this environment. The error is clap's: help, version or a wrong flag, to be printed as it is.
pub fn parse(
    args: Vec<OsString>,
    environment: &Environment,
) -> Result<(Settings, Option<Command>), clap::Error> {
    let matches = parsed().try_get_matches_from(args)?;
    // Flags after the command win over flags before it.
    let mut all = vec![&matches];
    if let Some((_, of_command)) = matches.subcommand() {
        all.insert(0, of_command);
    }
    let settings = Settings::from_matches(&all, environment);
    let command = matches.subcommand().map(|_| Command::from_arg_matches(&matches));
    Ok((settings, command.transpose()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(
        words: &str,
        environment: &[(&str, &str)],
    ) -> Result<(Settings, Option<Command>), clap::Error> {
        let environment = environment.iter().map(|(name, value)| (name.into(), value.into())).collect();
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
        let (settings, command) = parse_words("--port 4001", &[]).unwrap();
        assert!(command.is_none());
        assert_eq!(settings.port_to_probe().unwrap(), 4001);
    }

    #[test]
    fn a_setting_may_stand_before_a_command_behind_it_or_in_the_environment() {
        for (words, environment, port) in [
            ("--port 1 ready", [("PORT", "3")], 1),
            ("ready --port 2", [("PORT", "3")], 2),
            ("--port 1 ready --port 2", [("PORT", "3")], 2),
            ("ready", [("PORT", "3")], 3),
        ] {
            let (settings, command) = parse_words(words, &environment).unwrap();
            assert!(matches!(command, Some(Command::Ready)), "{words}");
            assert_eq!(settings.port_to_probe().unwrap(), port, "{words}");
        }
    }

    #[test]
    fn a_command_takes_every_setting_and_shows_those_it_uses() {
        let (settings, _) = parse_words("ready --redis-host r", &[]).unwrap();
        let shown = settings.shown();
        assert!(shown.iter().any(|setting| setting.name == "REDIS_HOST" && setting.is_given));
        let help = parse_words("ready --help", &[]).unwrap_err().to_string();
        assert!(help.contains("--port") && !help.contains("--redis-host"), "{help}");
        assert!(!help.contains('`') && !help.contains("--status-page"), "{help}");
        let help = parse_words("verify --help", &[]).unwrap_err().to_string();
        assert!(help.contains("--cache-format"), "{help}");
        assert!(!help.contains("--refresh-rate") && !help.contains("--cache-update-policy"), "{help}");
    }

    #[test]
    fn a_command_that_is_not_known_is_refused() {
        let error = parse_words("redy", &[]).unwrap_err().to_string();
        assert!(error.contains("'ready'"), "{error}");
    }
}
