//! Settings (raw: environment and flags) -> Config (validated, all faults at once). The only reader of the
//! environment.
//!
//! `settings` says which settings there are, `table` shows them to readers of README, `validate` judges them with
//! the help of `values` (numbers, choices, secrets), `queue` (region, endpoint, credentials) and `redis` (address,
//! TLS). A fault or a notice never holds a secret's value, nor that of a URL that may hold a password.

mod queue;
mod redis;
mod secret;
mod settings;
mod table;
mod validate;
mod values;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

pub use secret::Secret;
pub use settings::{Environment, Settings};
pub use table::settings_table;
pub use values::Faults;

use crate::entitlement::stored::CacheFormat;

/// Where AWS credentials come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialSource {
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and, if given, `AWS_SESSION_TOKEN`.
    Static {
        /// The key id: not a secret.
        access_key_id: String,
        /// The secret.
        secret_access_key: Secret,
        /// For temporary credentials.
        session_token: Option<Secret>,
    },
    /// Temporary ones from the Edge API.
    EdgeApi,
}

/// Where Redis is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisAddress {
    /// Host name or address, and port.
    Tcp {
        /// Host name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// A unix socket.
    Unix(PathBuf),
    /// Where the sentinels say.
    Sentinel(SentinelConfig),
}

/// The sentinels, and how to ask them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentinelConfig {
    /// Host and port of each, at least one.
    pub sentinels: Vec<(String, u16)>,
    /// Their name of the primary.
    pub master: String,
    /// ACL user at the sentinels.
    pub username: Option<String>,
    /// Password at the sentinels.
    pub password: Option<Secret>,
    /// The sentinels speak TLS, too.
    pub tls: bool,
}

/// TLS to Redis.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RedisTls {
    /// PEM file of the authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM file of the client certificate; goes with `key_file`.
    pub cert_file: Option<PathBuf>,
    /// PEM file of its private key.
    pub key_file: Option<PathBuf>,
    /// The name in the server's certificate, where it is not the host's.
    pub server_name: Option<String>,
    /// Do not verify the server's certificate.
    pub insecure: bool,
}

/// What an ElastiCache token is made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisIam {
    /// Name of the serverless cache or id of the replication group, in lower case.
    pub cache_name: String,
    /// AWS region of the cache.
    pub region: String,
    /// It is a serverless cache.
    pub is_serverless: bool,
}

/// How to reach Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisConfig {
    /// Where.
    pub address: RedisAddress,
    /// Database number.
    pub db: u16,
    /// ACL user; none is the `default` user.
    pub username: Option<String>,
    /// Password.
    pub password: Option<Secret>,
    /// What tokens are signed for, instead of a password.
    pub iam: Option<RedisIam>,
    /// TLS, if on.
    pub tls: Option<RedisTls>,
}

/// How long written keys live (`KEYS_TTL_IN_SECS`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// For ever (a negative setting).
    Never,
    /// This many seconds, at least 1.
    Seconds(u64),
}

/// `CACHE_UPDATE_POLICY`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheUpdatePolicy {
    /// Write only customers that are in the cache.
    #[default]
    UpdateIfExists,
    /// Always write.
    Upsert,
}

/// `POISON_POLICY`: what becomes of a body that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PoisonPolicy {
    /// Left to the queue's dead-letter rule, with growing visibility timeout.
    #[default]
    Redrive,
    /// Logged and deleted.
    Delete,
}

/// Where Sentry's DSN comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SentryConfig {
    /// `DISABLE_SENTRY`.
    Disabled,
    /// `SENTRY_DSN`.
    Dsn(Secret),
    /// Asked of the Edge API at start.
    RemoteConfiguration,
}

/// `LOG_FORMAT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// For people.
    Text,
}

/// What the log looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// `LOG_LEVEL`.
    pub level: log::LevelFilter,
    /// `LOG_FORMAT`.
    pub format: LogFormat,
    /// `LOG_MESSAGE_KEY`.
    pub message_key: String,
    /// `LOG_ERROR_KEY`.
    pub error_key: String,
}

/// A whole, valid configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// AWS region of the queue.
    pub region: String,
    /// The queue, as given: what goes into request bodies.
    pub queue_url: String,
    /// Where SQS calls go: `AWS_ENDPOINT_URL_SQS`, else `AWS_ENDPOINT_URL`, else the queue URL's scheme and host.
    pub sqs_endpoint: Url,
    /// Where credentials come from.
    pub credentials: CredentialSource,
    /// Stigg's server API key.
    pub server_api_key: Secret,
    /// The Edge API.
    pub edge_api_url: Url,
    /// First part of every key.
    pub environment_prefix: String,
    /// Redis.
    pub redis: RedisConfig,
    /// Messages a receive, 1 to 10.
    pub batch_size: u8,
    /// Life of written keys.
    pub expiry: Expiry,
    /// Which customers are written.
    pub cache_update_policy: CacheUpdatePolicy,
    /// What is written.
    pub cache_format: CacheFormat,
    /// Error reports.
    pub sentry: SentryConfig,
    /// Port of the HTTP endpoints.
    pub port: u16,
    /// The log.
    pub log: LogConfig,
    /// Pollers, at least 1.
    pub consumers: usize,
    /// Workers, at least 1.
    pub workers: usize,
    /// Long poll, 0 to 20 s.
    pub wait_time: Duration,
    /// Budget of a stop.
    pub shutdown_timeout: Duration,
    /// What becomes of unreadable bodies.
    pub poison_policy: PoisonPolicy,
    /// Things worth a warning in the log at start (ignored settings, aliases in use …), one line each.
    pub notices: Vec<String>,
}
