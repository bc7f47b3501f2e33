//! Settings (raw: environment and flags) -> Config (validated, all faults at once). The only reader of the
//! environment.
//!
//! `table` says which settings there are, `settings` takes them from flags and environment, `shown` is what the status
//! page may show. `validate` checks them with the help of `values` (numbers, choices, secrets), `queue`, `redis`, `proxy`,
//! `credentials` and `profiles` (the files that AWS's tools share). A fault or a notice never holds a secret's value, nor
//! that of a URL that may hold a password.

#![allow(missing_docs)] // most fields are the settings of their names, which `table` describes

mod credentials;
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
pub use shown::ShownSetting;
pub use values::Faults;

use crate::entitlement::stored::CacheFormat;

/// Where AWS credentials come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialSource {
    Static(StaticKeys),
    WebIdentity(WebIdentitySource),
    Container(ContainerSource),
    Profile(ProfileSource),
    InstanceMetadata(InstanceMetadataSource),
    EdgeApi,
}

/// Keys as the operator gave them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticKeys {
    pub access_key_id: String,
    pub secret_access_key: Secret,
    pub session_token: Option<Secret>,
}

/// A role that trusts an identity provider, such as Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebIdentitySource {
    /// Read again for each fetch.
    pub token: Secret,
    pub role_arn: String,
    /// Generated if none is given.
    pub session_name: Option<String>,
    pub sts: StsEndpoint,
}

/// Where roles are assumed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StsEndpoint {
    /// The region of STS, and to sign for.
    pub region: String,
    /// Without one, the region's own.
    pub url: Option<Url>,
}

/// The credentials endpoint of an ECS task or an EKS pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSource {
    /// One to which credentials may be sent.
    pub uri: Url,
    /// Read again for each fetch.
    pub authorization: Option<Secret>,
}

/// EC2's instance metadata, version 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceMetadataSource {
    pub endpoint: Url,
}

/// A profile with static keys in the files that the AWS CLI and SDKs share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileSource {
    pub name: String,
    /// The config file and the credentials file; read again for each renewal.
    pub files: [PathBuf; 2],
}

/// Where Redis is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisAddress {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
    Sentinel(SentinelConfig),
}

/// The sentinels, and how to ask them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentinelConfig {
    /// Host and port of each, at least one.
    pub sentinels: Vec<(String, u16)>,
    pub master: String,
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub tls: bool,
}

/// TLS to Redis. The client's certificate goes with its key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RedisTls {
    pub ca_file: Option<PathBuf>,
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
    pub region: String,
    pub is_serverless: bool,
    /// The operator's own credentials, never the Edge API's.
    pub credentials: Box<CredentialSource>,
}

/// How to reach Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisConfig {
    pub address: RedisAddress,
    pub db: u16,
    /// Without one, the `default` user.
    pub username: Option<String>,
    pub password: Option<Secret>,
    /// Instead of a password.
    pub iam: Option<RedisIam>,
    /// None without TLS.
    pub tls: Option<RedisTls>,
}

/// How long written keys live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    Never,
    /// At least 1.
    Seconds(u64),
}

/// Which customers are written: those in the cache, or all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheUpdatePolicy {
    UpdateIfExists,
    Upsert,
}

/// What becomes of a body that cannot be read: it is left to the queue's dead-letter rule, or logged and deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoisonPolicy {
    Redrive,
    Delete,
}

/// Where Sentry's DSN comes from. It is read once, at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SentryConfig {
    Disabled,
    Dsn(Secret),
    /// Requested from the Edge API.
    RemoteConfiguration,
}

/// One JSON object a line, or text for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Text,
}

/// What the log looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    pub level: log::LevelFilter,
    pub format: LogFormat,
    /// Text may be coloured on a terminal.
    pub colour: bool,
    pub message_key: String,
    pub error_key: String,
}

/// A whole, valid configuration.
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
    pub batch_size: u8,
    pub expiry: Expiry,
    pub cache_update_policy: CacheUpdatePolicy,
    pub cache_format: CacheFormat,
    /// `REFRESH_RATE`, with `REFRESH_AFTER_PURGE`.
    pub refresh_rate: Option<u32>,
    pub sentry: SentryConfig,
    pub port: u16,
    pub status_page: bool,
    pub log: LogConfig,
    pub consumers: usize,
    pub workers: usize,
    pub wait_time: Duration,
    pub shutdown_timeout: Duration,
    pub poison_policy: PoisonPolicy,
    /// Things worth a warning in the log at start, one line each.
    pub notices: Vec<String>,
    pub shown: Vec<ShownSetting>,
}

/// The part of a configuration that commands need for the cache. What they do not need is not checked.
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
#[derive(Debug)]
pub struct EdgeAccess {
    pub url: Url,
    pub key: Secret,
}
