//! The store on Redis, and who signs for it.

use std::sync::Arc;

use super::credentials::{self, Purpose, Surroundings};
use super::crew::Crew;
use crate::aws::CredentialsProvider;
use crate::cache::keyspace::Keyspace;
use crate::config::{Config, RedisAddress, RedisConfig};
use crate::store::{RedisStore, StoreRules, server_name};

const REDIS: Purpose = Purpose {
    thread: "redis-credentials",
    what: "ElastiCache",
    tells_expiry: false,
};

/// The store, with a connection for each thread that needs one. Nothing is dialled yet.
pub(super) fn open(
    config: &Config,
    signer: Option<Arc<dyn CredentialsProvider>>,
) -> anyhow::Result<RedisStore> {
    log_the_way(&config.redis);
    let rules = StoreRules {
        keyspace: Keyspace::new(config.environment_prefix.clone()),
        policy: config.cache_update_policy,
        expiry: config.expiry,
    };
    // One a worker, one for the sampler, one for the guard.
    let connections = u32::try_from(config.workers + 2)?;
    Ok(RedisStore::new(config.redis.clone(), rules, connections, signer))
}

/// A provider and the thread that renews what it provides, where there are such.
pub(super) type Signer = (Option<Arc<dyn CredentialsProvider>>, Option<Crew>);

/// Who signs ElastiCache's tokens, and the thread that renews the credentials: the operator's own AWS credentials.
/// Those of the Edge API are Stigg's, which no cache of the operator's knows; the configuration refuses them.
pub(super) fn signer(config: &Config, surroundings: Surroundings<'_>) -> anyhow::Result<Signer> {
    let Some(iam) = &config.redis.iam else {
        return Ok((None, None));
    };
    let (provider, renewal) = credentials::start(&iam.credentials, &REDIS, surroundings)?;
    Ok((Some(provider), renewal))
}

/// Which way Redis is reached, so that nobody has to guess it from errors. No secret.
fn log_the_way(redis: &RedisConfig) {
    let at = server_name(redis);
    let sentinels = match &redis.address {
        RedisAddress::Sentinel(sentinel) => sentinel
            .sentinels
            .iter()
            .map(|(host, port)| format!("{host}:{port}"))
            .collect::<Vec<_>>()
            .join(","),
        RedisAddress::Tcp { .. } | RedisAddress::Unix(_) => String::new(),
    };
    let signs_in_with = match (&redis.iam, &redis.password) {
        (Some(_), _) => "an IAM token",
        (None, Some(_)) => "a password",
        (None, None) => "nothing",
    };
    let tls = match &redis.tls {
        None => "off",
        Some(tls) if tls.insecure => "on, not verified",
        Some(tls) if tls.cert_file.is_some() => "on, with a client certificate",
        Some(_) => "on",
    };
    log::info!(
        redis = at.as_str(), sentinels = sentinels.as_str(), db = redis.db, tls,
        user = redis.username.as_deref().unwrap_or("default"), signs_in_with;
        "entries are written to Redis at {at}"
    );
}
