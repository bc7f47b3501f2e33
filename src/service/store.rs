//! The store on Redis, and who signs for it.

use std::sync::Arc;

use crate::config::{Config, CredentialSource, RedisAddress, RedisConfig};
use crate::sqs::credentials::{CredentialsProvider, StaticCredentials};
use crate::store::{RedisStore, StoreRules, server_name};

/// The store, with a connection for each thread that needs one. Nothing is dialled yet.
pub(super) fn open(config: &Config) -> anyhow::Result<RedisStore> {
    log_the_way(&config.redis);
    let rules = StoreRules {
        policy: config.cache_update_policy,
        expiry: config.expiry,
    };
    // One a worker, one for the sampler, one for the guard.
    let connections = u32::try_from(config.workers + 2)?;
    Ok(RedisStore::new(
        config.redis.clone(),
        rules,
        connections,
        signer(config),
    ))
}

/// Who signs ElastiCache's tokens: the operator's own AWS credentials. Those of the Edge API are Stigg's, which no
/// cache of the operator's knows; the configuration refuses them.
fn signer(config: &Config) -> Option<Arc<dyn CredentialsProvider>> {
    config.redis.iam.as_ref()?;
    match &config.credentials {
        CredentialSource::Static {
            access_key_id,
            secret_access_key,
            session_token,
        } => Some(Arc::new(StaticCredentials::new(
            access_key_id.clone(),
            secret_access_key.clone(),
            session_token.clone(),
        ))),
        CredentialSource::EdgeApi => None,
    }
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
