//! The settings: one row each, from which flags, help, validation, README's tables and `/status` are made. A variable's
//! name in small letters with dashes is its flag.

use self::Holds::{Bool, Number, Secret, SecretFile, Text};

/// One row, known by its variable: `table::REDIS_HOST`.
pub(super) type Setting = &'static SettingRow;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct SettingRow {
    /// The heading that it is listed under. The settings of [`UNLISTED`] are in neither help nor README.
    pub group: &'static str,
    pub variable: &'static str,
    pub holds: Holds,
    pub default: Option<&'static str>,
    /// Markdown.
    pub help: &'static str,
}

/// What a value is. The texts are the value's name in the help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    Text(&'static str),
    /// A whole number within these bounds.
    Number(&'static str, u64, u64),
    /// As a flag it may stand alone, for yes.
    Bool,
    /// Never shown. In a `SECRET`, unlike in a URL, white space counts, but for line breaks at the end, as in its file.
    Secret(&'static str),
    /// A file with a secret, which should be readable by nobody else.
    SecretFile,
}

/// Older names, and variables that are not meant for this service.
pub(super) const UNLISTED: &str = "Other";

macro_rules! settings {
    (@default) => { None };
    (@default $default:literal) => { Some($default) };
    ($($group:tt { $($variable:ident: $holds:expr $(, $default:literal)? => $help:literal;)* })*) => {
        $($(pub(super) const $variable: Setting = &SettingRow {
            group: $group,
            variable: stringify!($variable),
            holds: $holds,
            default: settings!(@default $($default)?),
            help: $help,
        };)*)*
        pub(super) const TABLE: &[Setting] = &[$($($variable,)*)*];
    };
}

settings! {
    "Queue" {
        AWS_REGION: Text("REGION") => "AWS region of the queue. Required, unless `QUEUE_URL` names it.";
        QUEUE_URL: Text("URL") => "URL of the SQS queue. Required.";
        AWS_ENDPOINT_URL_SQS: Text("URL") => "Endpoint of SQS, including its path, instead of the host in `QUEUE_URL`.";
        AWS_ENDPOINT_URL: Text("URL") => "The same for all AWS services; `AWS_ENDPOINT_URL_SQS` takes precedence.";
        BATCH_SIZE: Number("N", 1, 10), "1" => "Messages per receive, 1 to 10.";
        WAIT_TIME_SECS: Number("SECS", 0, 20), "20" => "Seconds that a long poll waits for messages, 0 to 20.";
        POISON_POLICY: Text("POLICY"), "redrive" =>
            "Unreadable messages: `redrive` leaves them to the queue's dead-letter rule, `delete` logs and deletes them.";
    }
    "AWS credentials" {
        CREDENTIAL_SOURCE: Text("SOURCE"), "auto" => "`auto` takes the first source that is set, else the Edge API. `static`, \
            `web-identity`, `container`, `profile`, `instance-metadata` and `edge` take only that one.";
        AWS_ACCESS_KEY_ID: Text("ID") => "Access key id.";
        AWS_SECRET_ACCESS_KEY: Secret("SECRET") => "Secret that belongs to the access key id.";
        AWS_SECRET_ACCESS_KEY_FILE: SecretFile => "File that holds the secret; read again when it changes.";
        AWS_SESSION_TOKEN: Secret("SECRET") => "Session token, if the access key is a temporary one.";
        AWS_WEB_IDENTITY_TOKEN_FILE: Text("PATH") =>
            "File with a token of an identity provider, for which `AWS_ROLE_ARN` is assumed; read again each time.";
        AWS_ROLE_ARN: Text("ARN") => "Role to assume with the token.";
        AWS_ROLE_SESSION_NAME: Text("NAME") =>
            "Name of the session, as in CloudTrail. By default `persistent-cache-service-` and a number.";
        AWS_CONTAINER_CREDENTIALS_FULL_URI: Secret("URL") =>
            "Credentials endpoint of a container: https, or http to a loopback address or one of ECS and EKS.";
        AWS_CONTAINER_CREDENTIALS_RELATIVE_URI: Secret("PATH") => "The same as a path on ECS's address; takes precedence.";
        AWS_CONTAINER_AUTHORIZATION_TOKEN: Secret("SECRET") => "Value of `Authorization` for the container's endpoint.";
        AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE: Text("PATH") => "File that holds it; read again each time.";
        AWS_PROFILE: Text("NAME") => "Profile with static keys in the files that the AWS CLI and SDKs share.";
        AWS_CONFIG_FILE: Text("PATH"), "~/.aws/config" => "The shared config file.";
        AWS_SHARED_CREDENTIALS_FILE: SecretFile, "~/.aws/credentials" => "The shared credentials file.";
        AWS_EC2_METADATA_SERVICE_ENDPOINT: Text("URL"), "http://169.254.169.254" => "Endpoint of EC2's instance metadata.";
        AWS_ENDPOINT_URL_STS: Text("URL") => "Endpoint of STS, instead of the region's; takes precedence over `AWS_ENDPOINT_URL`.";
    }
    "Stigg" {
        SERVER_API_KEY: Secret("SECRET") => "Stigg's server API key. Required.";
        SERVER_API_KEY_FILE: SecretFile => "File that holds the key; read again when it changes.";
        EDGE_API_URL: Text("URL"), "https://edge.api.stigg.io" => "URL of Stigg's Edge API.";
    }
    "Proxy" {
        HTTPS_PROXY: Text("URL") =>
            "Proxy for https calls: `http://host:port`, or `http://user:password@host:port`. `https_proxy` is read too.";
        NO_PROXY: Text("HOSTS") => "Hosts that are called without the proxy: names (each covers all names below it), addresses, \
            ranges (`10.0.0.0/8`) or `*`, separated by commas. `no_proxy` is read too.";
    }
    "Redis" {
        REDIS_HOST: Text("HOST") => "Host name or address of Redis. Required, unless `REDIS_URL` is given.";
        REDIS_PORT: Number("PORT", 1, 65_535), "6379" => "Port of Redis.";
        REDIS_DB: Number("N", 0, 65_535), "0" => "Database number.";
        REDIS_USERNAME: Text("NAME") => "ACL user. Without one, the password is that of the user `default`.";
        REDIS_PASSWORD: Secret("SECRET") => "Password of the user.";
        REDIS_PASSWORD_FILE: SecretFile => "File that holds the password; read again when it changes.";
        REDIS_TLS: Bool, "0" => "Connect with TLS.";
        REDIS_TLS_CA_FILE: Text("PATH") => "PEM file of the authorities to trust, instead of the system's.";
        REDIS_TLS_CERT_FILE: Text("PATH") => "PEM file of the client certificate.";
        REDIS_TLS_KEY_FILE: SecretFile => "PEM file of that certificate's private key.";
        REDIS_TLS_SERVER_NAME: Text("NAME") => "Name in the server's certificate, if it is not the host's.";
        REDIS_TLS_INSECURE: Bool, "0" => "Do not verify the server's certificate. For tests only.";
        REDIS_URL: Text("URL") => "All of the above but the `REDIS_TLS_` settings in one: \
            `redis://user:password@host:6379/0`, `rediss://` for TLS, or `unix:///path/of/socket?db=0`.";
        REDIS_SENTINELS: Text("LIST") =>
            "Sentinels that know the primary, instead of `REDIS_HOST`: `host:port,…` (port 26379 if left out).";
        REDIS_SENTINEL_MASTER: Text("NAME") => "Name under which the sentinels monitor the primary.";
        REDIS_SENTINEL_USERNAME: Text("NAME") => "ACL user at the sentinels.";
        REDIS_SENTINEL_PASSWORD: Secret("SECRET") => "Password at the sentinels.";
        REDIS_SENTINEL_PASSWORD_FILE: SecretFile => "File that holds it; read again when it changes.";
        REDIS_SENTINEL_TLS: Bool => "Connect to the sentinels with TLS. By default as `REDIS_TLS`.";
        REDIS_IAM_AUTH: Bool, "0" => "Authenticate to ElastiCache by IAM, with a token signed for each connection. Needs AWS \
            credentials, TLS, `REDIS_USERNAME` and `REDIS_IAM_CACHE_NAME`.";
        REDIS_IAM_CACHE_NAME: Text("NAME") => "Name of the serverless cache, or id of the replication group.";
        REDIS_IAM_REGION: Text("REGION") => "AWS region of the cache. By default that of the queue.";
        REDIS_IAM_SERVERLESS: Bool, "0" => "The cache is serverless. Its tokens differ, and `ENVIRONMENT_PREFIX` needs a hash tag: `{production}`.";
    }
    "Cache" {
        ENVIRONMENT_PREFIX: Text("PREFIX"), "production" => "First part of every key: the same as in the SDKs that read.";
        CACHE_UPDATE_POLICY: Text("POLICY"), "UPDATE_IF_EXISTS" =>
            "Which customers are written: `UPDATE_IF_EXISTS` those that are in the cache, `UPSERT` all.";
        CACHE_FORMAT: Text("FORMAT"), "compatible" =>
            "Which SDKs read the entries: `v3`, `v4`, or `compatible` for any mixture of 2.x, 3.x and 4.x.";
        KEYS_TTL_IN_SECS: Text("SECS"), "604800" => "Seconds until an entry expires; negative: never.";
        REFRESH_AFTER_PURGE: Bool, "0" => "After a purge, refetch from the Edge API the customers that were cached, so that no SDK has to.";
        REFRESH_RATE: Number("N", 1, 1000), "20" => "Customers fetched per second, 1 to 1000.";
    }
    "HTTP" {
        PORT: Number("PORT", 0, 65_535), "4000" =>
            "Port of `/livez`, `/readyz`, `/metrics` and the status page; 0 takes a free one, which the log names.";
        STATUS_PAGE: Bool, "1" => "Serve the status page (`/`) and the same as JSON (`/status`). With `0`, both are 404.";
    }
    "Log" {
        LOG_LEVEL: Text("LEVEL"), "info" =>
            "`error`, `warn`, `info` or `debug`, each includes those before it; `trace` is for developing the service itself.";
        LOG_FORMAT: Text("FORMAT"), "json" => "`json`, one object a line for machines, or `text` for people.";
        NO_COLOR: Bool => "Any value turns colour off. Only text on a terminal is coloured.";
        LOG_MESSAGE_KEY: Text("KEY"), "msg" => "JSON key of the message.";
        LOG_ERROR_KEY: Text("KEY"), "err" => "JSON key of the error.";
    }
    "Sentry" {
        SENTRY_DSN: Secret("DSN") => "Where internal errors are reported. Without one, Stigg's Edge API is asked for it.";
        SENTRY_DSN_FILE: SecretFile => "File that holds the DSN; read once, at start.";
        DISABLE_SENTRY: Bool, "0" => "Report no errors to Sentry.";
    }
    "Running" {
        CONSUMERS: Number("N", 1, 256), "10" => "Pollers of the queue, 1 to 256.";
        WORKERS: Number("N", 1, 256) => "Workers that write to Redis, 1 to 256. By default one per core, 2 to 8.";
        SHUTDOWN_TIMEOUT_SECS: Number("SECS", 1, 3600), "10" => "Seconds that a stop may take, 1 to 3600.";
    }
    UNLISTED {
        HOME: Text("PATH") => "What `~` stands for in the names of the two shared files.";
        REDIS_ENVIRONMENT_PREFIX: Text("PREFIX") => "`ENVIRONMENT_PREFIX`.";
        REDIS_USER: Text("NAME") => "`REDIS_USERNAME`.";
        TTL_IN_SECS: Text("SECS") => "`KEYS_TTL_IN_SECS`.";
        CACHE_LOCK_RETRY_COUNT: Text("N") => "Accepted, without effect.";
    }
}

impl SettingRow {
    pub fn flag(&self) -> String {
        self.variable.to_ascii_lowercase().replace('_', "-")
    }

    /// Its value must never be shown.
    pub fn is_secret(&self) -> bool {
        matches!(self.holds, Secret(_))
    }
}
