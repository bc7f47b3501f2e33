//! The settings as an operator gives them: environment variables and flags, raw text, not yet judged.
//!
//! Each field is one setting: its name in capitals is the environment variable, with dashes it is the flag, and
//! its doc comment is both the help text and the row of README's table. All values are read as text, so that
//! `validate` can report every fault at once: here only an unknown flag is refused. A flag wins over its
//! variable, and an empty value counts as not set.

mod credentials;

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};

use clap::builder::StyledStr;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, value_parser};

pub use self::credentials::CredentialSettings;
use super::shown::ShownSettings;

/// Environment variables as a snapshot, so that a test can pass its own.
pub type Environment = HashMap<OsString, OsString>;

/// Fields whose inner white space counts. Only line breaks at their end are dropped, as from a secret's file.
pub(super) const KEPT_AS_THEY_ARE: [&str; 6] = [
    "server_api_key",
    "aws_secret_access_key",
    "aws_session_token",
    "aws_container_authorization_token",
    "redis_password",
    "redis_sentinel_password",
];

/// Fields whose variable is in small letters, too, as every other program takes them. The one in capitals wins.
const ALSO_IN_SMALL_LETTERS: [&str; 2] = ["https_proxy", "no_proxy"];

/// Keeps the Redis cache that Stigg's SDKs read fresh: state changes from an SQS queue in, cache entries out.
#[derive(Parser)]
#[command(
    version,
    long_version = crate::build_info::version_and_commit(),
    max_term_width = 100,
    // The help is the same for -h and --help: no setting needs more than its sentence.
    next_line_help = true,
    after_help = "Every setting is an environment variable and a flag; \
                  the flag wins, and an empty value counts as not set. Give secrets by variable or by file, since \
                  flags show in the list of processes. Booleans are 0 or 1, true or false, yes or no, on or off.\n\n\
                  Exit status: 0 after a stop that was asked for; 1 if the service cannot start; 2 for an unknown \
                  flag; 70 after a defect in one of its loops; 78 if the configuration has faults: all are printed, and \
                  nothing is started; 130 or 143 after a second signal."
)]
pub struct Settings {
    /// Where changes come from.
    #[command(flatten)]
    pub queue: QueueSettings,
    /// Where AWS credentials come from.
    #[command(flatten)]
    pub credentials: CredentialSettings,
    /// Stigg's API.
    #[command(flatten)]
    pub stigg: StiggSettings,
    /// The way to AWS, Stigg and Sentry.
    #[command(flatten)]
    pub proxy: ProxySettings,
    /// Where entries go.
    #[command(flatten)]
    pub redis: RedisSettings,
    /// What is written.
    #[command(flatten)]
    pub cache: CacheSettings,
    /// Endpoints.
    #[command(flatten)]
    pub http: HttpSettings,
    /// The log.
    #[command(flatten)]
    pub log: LogSettings,
    /// Error reports.
    #[command(flatten)]
    pub sentry: SentrySettings,
    /// Threads and times.
    #[command(flatten)]
    pub running: RunningSettings,
    /// Names from before.
    #[command(flatten)]
    pub older: OlderSettings,
    /// Fields that were given, rather than left to their default.
    #[arg(skip)]
    pub given: BTreeSet<String>,
    /// Variables whose value is not UTF-8.
    #[arg(skip)]
    pub not_utf8: Vec<String>,
    /// What may be seen of them.
    #[arg(skip)]
    pub(super) shown: ShownSettings,
}

/// Where changes come from.
#[derive(Args)]
#[command(next_help_heading = "Queue")]
pub struct QueueSettings {
    /// AWS region of the queue. Required, unless `QUEUE_URL` tells it.
    #[arg(long, value_name = "REGION")]
    pub aws_region: Option<String>,
    /// URL of the SQS queue. Required.
    #[arg(long, value_name = "URL")]
    pub queue_url: Option<String>,
    /// Where SQS is called, path included, instead of the host in `QUEUE_URL`.
    #[arg(long, value_name = "URL")]
    pub aws_endpoint_url_sqs: Option<String>,
    /// The same for all AWS services; `AWS_ENDPOINT_URL_SQS` goes before it.
    #[arg(long, value_name = "URL")]
    pub aws_endpoint_url: Option<String>,
    /// Messages asked for at once, 1 to 10.
    #[arg(long, value_name = "N", default_value = "1")]
    pub batch_size: Option<String>,
    /// Seconds that the queue may wait for a message before it answers, 0 to 20.
    #[arg(long, value_name = "SECS", default_value = "20")]
    pub wait_time_secs: Option<String>,
    /// What becomes of a message that cannot be read: `redrive` leaves it to the queue's dead-letter rule,
    /// `delete` logs and deletes it.
    #[arg(long, value_name = "POLICY", default_value = "redrive")]
    pub poison_policy: Option<String>,
}

/// Stigg's API.
#[derive(Args)]
#[command(next_help_heading = "Stigg")]
pub struct StiggSettings {
    /// Stigg's server API key. Required.
    #[arg(long, value_name = "SECRET")]
    pub server_api_key: Option<String>,
    /// File that holds the key; read again when it changes.
    #[arg(long, value_name = "PATH")]
    pub server_api_key_file: Option<String>,
    /// URL of Stigg's Edge API.
    #[arg(long, value_name = "URL", default_value = "https://edge.api.stigg.io")]
    pub edge_api_url: Option<String>,
}

/// The way to AWS, Stigg and Sentry.
#[derive(Args)]
#[command(next_help_heading = "Proxy")]
#[allow(clippy::struct_field_names)] // a field's name is the variable's name
pub struct ProxySettings {
    /// Proxy for https calls: `http://host:port`, with `user:password@` if it asks for it. `https_proxy` is taken too.
    #[arg(long, value_name = "URL")]
    pub https_proxy: Option<String>,
    /// Hosts that are called without the proxy: names (each with all below it), addresses, ranges (`10.0.0.0/8`), `*`;
    /// with commas in between. `no_proxy` is taken too.
    #[arg(long, value_name = "HOSTS")]
    pub no_proxy: Option<String>,
}

/// Where entries go.
#[derive(Args)]
#[command(next_help_heading = "Redis")]
#[allow(clippy::struct_field_names)] // a field's name is the variable's name
pub struct RedisSettings {
    /// Host name or address of Redis. Required, unless `REDIS_URL` is given.
    #[arg(long, value_name = "HOST")]
    pub redis_host: Option<String>,
    /// Port of Redis.
    #[arg(long, value_name = "PORT", default_value = "6379")]
    pub redis_port: Option<String>,
    /// Database number.
    #[arg(long, value_name = "N", default_value = "0")]
    pub redis_db: Option<String>,
    /// ACL user. Without one, the password is that of the user `default`.
    #[arg(long, value_name = "NAME")]
    pub redis_username: Option<String>,
    /// Password of the user.
    #[arg(long, value_name = "SECRET")]
    pub redis_password: Option<String>,
    /// File that holds the password; read again when it changes.
    #[arg(long, value_name = "PATH")]
    pub redis_password_file: Option<String>,
    /// Connect with TLS.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "1", default_value = "0")]
    pub redis_tls: Option<String>,
    /// PEM file of the authorities to trust, instead of the system's.
    #[arg(long, value_name = "PATH")]
    pub redis_tls_ca_file: Option<String>,
    /// PEM file of the certificate that the service shows to Redis.
    #[arg(long, value_name = "PATH")]
    pub redis_tls_cert_file: Option<String>,
    /// PEM file of that certificate's private key.
    #[arg(long, value_name = "PATH")]
    pub redis_tls_key_file: Option<String>,
    /// Name that the server's certificate must carry, if it is not the host's.
    #[arg(long, value_name = "NAME")]
    pub redis_tls_server_name: Option<String>,
    /// Do not verify the server's certificate. For tests only.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "1", default_value = "0")]
    pub redis_tls_insecure: Option<String>,
    /// Host, port, database, user, password and TLS in one, instead of the settings above:
    /// `redis://user:password@host:6379/0`, `rediss://` for TLS, or `unix:///path/of/socket?db=0`.
    #[arg(long, value_name = "URL")]
    pub redis_url: Option<String>,
    /// Sentinels that know where the primary is, instead of `REDIS_HOST`: `host:port,…` (port 26379 if left out).
    #[arg(long, value_name = "LIST")]
    pub redis_sentinels: Option<String>,
    /// The sentinels' name of the primary.
    #[arg(long, value_name = "NAME")]
    pub redis_sentinel_master: Option<String>,
    /// ACL user at the sentinels.
    #[arg(long, value_name = "NAME")]
    pub redis_sentinel_username: Option<String>,
    /// Password at the sentinels.
    #[arg(long, value_name = "SECRET")]
    pub redis_sentinel_password: Option<String>,
    /// File that holds it; read again when it changes.
    #[arg(long, value_name = "PATH")]
    pub redis_sentinel_password_file: Option<String>,
    /// Whether the sentinels speak TLS. By default as `REDIS_TLS`.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "1")]
    pub redis_sentinel_tls: Option<String>,
    /// Sign in to ElastiCache by IAM: each connection with a fresh token, signed with this service's AWS
    /// credentials. Needs `REDIS_TLS`, `REDIS_USERNAME` and `REDIS_IAM_CACHE_NAME`.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "1", default_value = "0")]
    pub redis_iam_auth: Option<String>,
    /// Name of the serverless cache, or id of the replication group.
    #[arg(long, value_name = "NAME")]
    pub redis_iam_cache_name: Option<String>,
    /// AWS region of the cache. By default that of the queue.
    #[arg(long, value_name = "REGION")]
    pub redis_iam_region: Option<String>,
    /// The cache is a serverless one, which wants tokens of its own kind.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "1", default_value = "0")]
    pub redis_iam_serverless: Option<String>,
}

/// What is written.
#[derive(Args)]
#[command(next_help_heading = "Cache")]
pub struct CacheSettings {
    /// First part of every key: the same as in the SDKs that read.
    #[arg(long, value_name = "PREFIX", default_value = "production")]
    pub environment_prefix: Option<String>,
    /// Which customers are written: `UPDATE_IF_EXISTS` those that are in the cache, `UPSERT` all.
    #[arg(long, value_name = "POLICY", default_value = "UPDATE_IF_EXISTS")]
    pub cache_update_policy: Option<String>,
    /// Which SDKs read the entries: `v3`, `v4`, or `compatible` for any mixture of 2.x, 3.x and 4.x.
    #[arg(long, value_name = "FORMAT", default_value = "compatible")]
    pub cache_format: Option<String>,
    /// Seconds that a written entry lives; a negative number means for ever.
    #[arg(long, value_name = "SECS", default_value = "604800")]
    pub keys_ttl_in_secs: Option<String>,
}

/// Endpoints.
#[derive(Args)]
#[command(next_help_heading = "HTTP")]
pub struct HttpSettings {
    /// Port of `/livez`, `/readyz`, `/metrics` and the status page; 0 takes a free one, which the log tells.
    #[arg(long, value_name = "PORT", default_value = "4000")]
    pub port: Option<String>,
    /// Serve the status page, `/`, and the same as JSON, `/status`. If not, both are a 404.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "1", default_value = "1")]
    pub status_page: Option<String>,
}

/// The log.
#[derive(Args)]
#[command(next_help_heading = "Log")]
#[allow(clippy::struct_field_names)] // a field's name is the variable's name
pub struct LogSettings {
    /// What is logged: `error`, `warn`, `info` or `debug`, each with those before it (`trace` is for work on the service
    /// itself).
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: Option<String>,
    /// `json`, one object a line for machines, or `text` for people.
    #[arg(long, value_name = "FORMAT", default_value = "json")]
    pub log_format: Option<String>,
    /// No colour in text, whatever the value is. Without it there is colour on a terminal, and nowhere else.
    #[arg(long, value_name = "ANY", num_args = 0..=1, default_missing_value = "1")]
    pub no_color: Option<String>,
    /// JSON key of the message.
    #[arg(long, value_name = "KEY", default_value = "msg")]
    pub log_message_key: Option<String>,
    /// JSON key of the error.
    #[arg(long, value_name = "KEY", default_value = "err")]
    pub log_error_key: Option<String>,
}

/// Error reports.
#[derive(Args)]
#[command(next_help_heading = "Sentry")]
pub struct SentrySettings {
    /// Where internal errors are reported. Without one, Stigg's Edge API is asked for it.
    #[arg(long, value_name = "DSN")]
    pub sentry_dsn: Option<String>,
    /// File that holds the DSN; read again when it changes.
    #[arg(long, value_name = "PATH")]
    pub sentry_dsn_file: Option<String>,
    /// Report no errors to Sentry.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "1", default_value = "0")]
    pub disable_sentry: Option<String>,
}

/// Threads and times.
#[derive(Args)]
#[command(next_help_heading = "Running")]
pub struct RunningSettings {
    /// Pollers of the queue, 1 to 256.
    #[arg(long, value_name = "N", default_value = "10")]
    pub consumers: Option<String>,
    /// Workers that write to Redis, 1 to 256. By default one a core, at least 2 and at most 8.
    #[arg(long, value_name = "N")]
    pub workers: Option<String>,
    /// Seconds that a stop may take, 1 to 3600.
    #[arg(long, value_name = "SECS", default_value = "10")]
    pub shutdown_timeout_secs: Option<String>,
}

/// Names from before, taken where the newer one is not set. Each leads to a notice in the log.
#[derive(Args)]
pub struct OlderSettings {
    /// `ENVIRONMENT_PREFIX`.
    #[arg(long, hide = true)]
    pub redis_environment_prefix: Option<String>,
    /// `REDIS_USERNAME`.
    #[arg(long, hide = true)]
    pub redis_user: Option<String>,
    /// `KEYS_TTL_IN_SECS`.
    #[arg(long, hide = true)]
    pub ttl_in_secs: Option<String>,
    /// Accepted, without effect.
    #[arg(long, hide = true)]
    pub cache_lock_retry_count: Option<String>,
}

/// The arguments and the environment of this process. The one place that reads them.
pub fn of_process() -> (Vec<OsString>, Environment) {
    (std::env::args_os().collect(), std::env::vars_os().collect())
}

impl Settings {
    /// The flags, with help as people read it, and taken as text of any encoding, so that clap refuses no value;
    /// negative numbers are values, not flags. Commands are added to it elsewhere.
    pub fn flags() -> clap::Command {
        help_command().mut_args(|arg| {
            arg.value_parser(value_parser!(OsString))
                .allow_negative_numbers(true)
        })
    }

    /// The settings in these arguments (the first is the program's name) and this environment. The error is clap's:
    /// help, version or an unknown flag, to be printed as it is.
    pub fn read_from<A>(
        args: impl IntoIterator<Item = A>,
        environment: &Environment,
    ) -> Result<Self, clap::Error>
    where
        A: Into<OsString> + Clone,
    {
        let matches = Self::flags().try_get_matches_from(args)?;
        Self::from_matches(&[&matches], environment)
    }

    /// The settings in what [`Self::flags`] matched, and this environment. A flag may stand before a command or behind
    /// it: of several matches the first that has it wins.
    pub fn from_matches(matches: &[&ArgMatches], environment: &Environment) -> Result<Self, clap::Error> {
        let mut given = BTreeSet::new();
        let mut not_utf8 = Vec::new();
        let command = Self::command();
        let mut arguments = vec![OsString::from(command.get_name())];
        for arg in command.get_arguments() {
            let field = arg.get_id().as_str();
            let flag = matches
                .iter()
                .find_map(|matches| on_the_command_line(matches, field))
                .filter(|value| !is_blank(value));
            let variable = variables(field)
                .iter()
                .filter_map(|variable| environment.get(OsStr::new(variable)))
                .find(|value| !is_blank(value));
            let Some(value) = flag.or(variable) else { continue };
            let Some(text) = value.to_str() else {
                not_utf8.push(self::variable(field));
                continue;
            };
            let text = if KEPT_AS_THEY_ARE.contains(&field) {
                text.trim_end_matches(['\r', '\n'])
            } else {
                text.trim()
            };
            arguments.push(format!("--{}={text}", arg.get_long().unwrap_or(field)).into());
            given.insert(field.to_owned());
        }
        // Flags and environment are one list of flags now, which fills the struct.
        let values = Self::command().try_get_matches_from(arguments)?;
        let settings = Self::from_arg_matches(&values)?;
        Ok(Self {
            shown: ShownSettings::of(&command, &values, |field| given.contains(field)),
            given,
            not_utf8,
            ..settings
        })
    }
}

/// The flag's value, if it was given; a command need not know every flag.
fn on_the_command_line<'a>(matches: &'a ArgMatches, field: &str) -> Option<&'a OsString> {
    let value = matches.try_get_one::<OsString>(field).ok()??;
    (matches.value_source(field) == Some(ValueSource::CommandLine)).then_some(value)
}

/// A secret may be in any field, so only the names of those that were given show.
impl std::fmt::Debug for Settings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Settings")
            .field("given", &self.given)
            .finish_non_exhaustive()
    }
}

/// The environment variable of a field.
pub(super) fn variable(field: &str) -> String {
    field.to_ascii_uppercase()
}

/// The environment variables that a field is read from, the first that is set.
fn variables(field: &str) -> Vec<String> {
    let mut variables = vec![variable(field)];
    if ALSO_IN_SMALL_LETTERS.contains(&field) {
        variables.push(field.to_owned());
    }
    variables
}

fn is_blank(value: &OsStr) -> bool {
    value.to_str().is_some_and(|text| text.trim().is_empty())
}

/// The command with help as people read it: with each setting's variable, and without the marks that only
/// README's table and rustdoc render. clap's own `env` is not used, since it reads the environment itself.
fn help_command() -> clap::Command {
    Settings::command().mut_args(|arg| {
        let help = arg
            .get_help()
            .map(ToString::to_string)
            .unwrap_or_default()
            .replace('`', "");
        let variable = variable(arg.get_id().as_str());
        arg.help(StyledStr::from(format!("{help} [env: {variable}]")))
    })
}
