//! Settings (raw: environment and flags) -> Config (validated, all faults at once). The only reader of the
//! environment.
//!
//! `table` says which settings there are, `settings` takes them from flags and environment, `shown` is what the status
//! page may show. `validate` judges them with the help of `values` (numbers, choices, secrets), `queue`, `redis`, `proxy`,
//! `credentials` and `profiles` (the files that AWS's tools share). A fault or a notice never holds a secret's value, nor
//! that of a URL that may hold a password.

mod credentials;
mod plaintext;
mod profiles;
mod proxy;
mod queue;
mod redis;
mod region;
mod secret;
mod settings;
mod shown;
mod table;
mod validate;
mod values;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

pub use proxy::Proxy;
pub use secret::Secret;
pub use settings::{Environment, Settings, of_process};
pub use shown::{Shown, ShownSetting, ShownSettings};
pub use table::settings_table;
pub use values::Faults;

use self::profiles::ProfileFiles;
use crate::entitlement::stored::CacheFormat;

/// Where AWS credentials come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialSource {
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and, if given, `AWS_SESSION_TOKEN`.
    Static(StaticKeys),
    /// Temporary ones of a role, for a token of Kubernetes or another identity provider (`AWS_ROLE_ARN`).
    WebIdentity(WebIdentitySource),
    /// Temporary ones of the ECS task or the EKS pod.
    Container(ContainerSource),
    /// Static keys of a profile in the files that the AWS CLI and SDKs share (`AWS_PROFILE`).
    Profile(ProfileSource),
    /// Temporary ones of the EC2 instance.
    InstanceMetadata(InstanceMetadataSource),
    /// Temporary ones from the Edge API.
    EdgeApi,
}

/// Keys as the operator gave them.
#[allow(missing_docs)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticKeys {
    pub access_key_id: String,
    pub secret_access_key: Secret,
    pub session_token: Option<Secret>,
}

/// A role that trusts an identity provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebIdentitySource {
    /// `AWS_WEB_IDENTITY_TOKEN_FILE`: re-read for each fetch.
    pub token: Secret,
    /// `AWS_ROLE_ARN`.
    pub role_arn: String,
    /// `AWS_ROLE_SESSION_NAME`; without one, one is made up.
    pub session_name: Option<String>,
    /// Where the role is assumed.
    pub sts: StsEndpoint,
}

/// Where roles are assumed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StsEndpoint {
    /// The region of STS, and to sign for.
    pub region: String,
    /// `AWS_ENDPOINT_URL_STS`, else `AWS_ENDPOINT_URL`; without one, the region's own.
    pub url: Option<Url>,
}

/// The credentials endpoint of an ECS task or an EKS pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSource {
    /// `AWS_CONTAINER_CREDENTIALS_FULL_URI`, or `_RELATIVE_URI` on ECS's address. An allowed one.
    pub uri: Url,
    /// `AWS_CONTAINER_AUTHORIZATION_TOKEN`, or the file of that name with `_FILE`, re-read for each fetch.
    pub authorization: Option<Secret>,
}

/// EC2's instance metadata, version 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceMetadataSource {
    /// `AWS_EC2_METADATA_SERVICE_ENDPOINT`, by default `http://169.254.169.254`.
    pub endpoint: Url,
}

/// A profile with static keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileSource {
    /// `AWS_PROFILE`.
    pub name: String,
    /// Where profiles are; read again for each renewal.
    pub files: ProfileFiles,
}

/// Where Redis is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisAddress {
    /// Host name or address, and port.
    #[allow(missing_docs)]
    Tcp { host: String, port: u16 },
    /// A unix socket.
    Unix(PathBuf),
    /// Where the sentinels say.
    Sentinel(SentinelConfig),
}

/// The sentinels, and how to ask them.
#[allow(missing_docs)] // as the settings `REDIS_SENTINEL_…`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentinelConfig {
    /// Host and port of each, at least one.
    pub sentinels: Vec<(String, u16)>,
    pub master: String,
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub tls: bool,
}

/// TLS to Redis.
#[allow(missing_docs)] // as the settings `REDIS_TLS_…`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RedisTls {
    pub ca_file: Option<PathBuf>,
    /// Goes with `key_file`.
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    pub server_name: Option<String>,
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
    /// Whose credentials sign them: AWS credentials of one's own, never the Edge API's.
    pub credentials: Box<CredentialSource>,
}

/// How to reach Redis.
#[allow(missing_docs)] // as the settings `REDIS_…`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisConfig {
    pub address: RedisAddress,
    pub db: u16,
    /// Without one, the `default` user.
    pub username: Option<String>,
    pub password: Option<Secret>,
    /// What tokens are signed for, instead of a password.
    pub iam: Option<RedisIam>,
    /// None without TLS.
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

/// Where Sentry's DSN comes from. It is read once, at start.
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
#[allow(missing_docs)] // as the settings `LOG_…`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    pub level: log::LevelFilter,
    pub format: LogFormat,
    /// Text may be coloured on a terminal: not `NO_COLOR`.
    pub colour: bool,
    pub message_key: String,
    pub error_key: String,
}

/// A whole, valid configuration. Fields without a comment are the settings of that name.
#[allow(missing_docs)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub region: String,
    /// As given: what goes into request bodies.
    pub queue_url: String,
    /// Where SQS calls go: `AWS_ENDPOINT_URL_SQS`, else `AWS_ENDPOINT_URL`, else the queue URL's scheme and host.
    pub sqs_endpoint: Url,
    pub credentials: CredentialSource,
    /// The proxy for https calls, but never for those to containers' and instances' own endpoints.
    pub proxy: Option<Proxy>,
    pub server_api_key: Secret,
    pub edge_api_url: Url,
    pub environment_prefix: String,
    pub redis: RedisConfig,
    /// 1 to 10.
    pub batch_size: u8,
    pub expiry: Expiry,
    pub cache_update_policy: CacheUpdatePolicy,
    pub cache_format: CacheFormat,
    pub sentry: SentryConfig,
    pub port: u16,
    pub status_page: bool,
    pub log: LogConfig,
    /// At least 1.
    pub consumers: usize,
    /// At least 1.
    pub workers: usize,
    /// 0 to 20 s.
    pub wait_time: Duration,
    pub shutdown_timeout: Duration,
    pub poison_policy: PoisonPolicy,
    /// Things worth a warning in the log at start (ignored settings, aliases in use …), one line each.
    pub notices: Vec<String>,
    /// The settings as anybody may see them.
    pub shown: ShownSettings,
}

/// The part of a configuration that commands need for the cache. What they do not need is not judged.
#[allow(missing_docs)] // as in [`Config`]
#[derive(Debug)]
pub struct CacheAccess {
    pub redis: RedisConfig,
    pub environment_prefix: String,
    pub policy: CacheUpdatePolicy,
    pub format: CacheFormat,
    pub expiry: Expiry,
    /// The way to AWS, if AWS credentials authenticate to Redis.
    pub proxy: Option<Proxy>,
    pub notices: Vec<String>,
}

/// Stigg's Edge API: where it is, and the server API key.
#[allow(missing_docs)]
#[derive(Debug)]
pub struct EdgeAccess {
    pub url: Url,
    pub key: Secret,
}

impl CredentialSource {
    /// As `CREDENTIAL_SOURCE` calls it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Static(_) => "static",
            Self::WebIdentity(_) => "web-identity",
            Self::Container(_) => "container",
            Self::Profile(_) => "profile",
            Self::InstanceMetadata(_) => "instance-metadata",
            Self::EdgeApi => "edge",
        }
    }
}
