//! The clients of the queue and of Redis, with their credentials.

use std::sync::Arc;
use std::time::Duration;

use super::credentials::{self, Purpose};
use super::threads::Background;
use crate::cache::keyspace::Keyspace;
use crate::config::{Config, RedisAddress, RedisConfig};
use crate::edge::EdgeClient;
use crate::sqs::Queue;
use crate::sqs::client::{SqsClient, SqsSettings};
use crate::store::{CacheStore, RedisStore, StoreRules, server_name};

const QUEUE: Purpose = Purpose { thread: "credentials", signs: "the queue", publishes_expiry: true };
const REDIS: Purpose = Purpose { thread: "redis-credentials", signs: "ElastiCache", publishes_expiry: false };

/// What a receive may take beyond its long poll.
pub(super) const RECEIVE_SLACK: Duration = Duration::from_secs(5);
/// What a source of credentials may take for one fetch, with a margin: no endpoint has more than 10 s.
pub(super) const CREDENTIALS_FETCH_MAX: Duration = Duration::from_secs(30);

/// The client of the queue. `callers` is the number of threads that call at the same time.
pub(super) fn queue(
    config: &Config,
    edge: &Arc<EdgeClient>,
    callers: usize,
    background: &mut Background,
) -> anyhow::Result<Arc<dyn Queue>> {
    let credentials = credentials::start(&config.credentials, &QUEUE, config, edge, background)?;
    let settings = SqsSettings {
        endpoint: config.sqs_endpoint.clone(),
        queue_url: config.queue_url.clone(),
        region: config.region.clone(),
        pool_size: callers,
        receive_slack: RECEIVE_SLACK,
        proxy: config.proxy.clone(),
    };
    Ok(Arc::new(SqsClient::new(settings, credentials)))
}

/// The store. Nothing is dialled yet.
pub(super) fn store(
    config: &Config,
    edge: &Arc<EdgeClient>,
    background: &mut Background,
) -> anyhow::Result<Arc<dyn CacheStore>> {
    log_redis(&config.redis);
    // ElastiCache's tokens are signed with the operator's own credentials: the configuration refuses the Edge API's.
    let iam = config.redis.iam.as_ref();
    let signer = iam.map(|iam| credentials::start(&iam.credentials, &REDIS, config, edge, background));
    let signer = signer.transpose()?;
    let rules = StoreRules {
        keyspace: Keyspace::new(config.environment_prefix.clone()),
        policy: config.cache_update_policy,
        expiry: config.expiry,
    };
    Ok(Arc::new(RedisStore::new(config.redis.clone(), rules, signer)))
}

/// Logs how Redis is reached, so that it need not be guessed from errors. No secret.
fn log_redis(redis: &RedisConfig) {
    let address = server_name(redis);
    let mut sentinels = Vec::new();
    if let RedisAddress::Sentinel(sentinel) = &redis.address {
        let spelled = |(host, port): &(_, _)| format!("{host}:{port}");
        sentinels.extend(sentinel.sentinels.iter().map(spelled));
    }
    let sentinels = sentinels.join(",");
    let auth = match (&redis.iam, &redis.password) {
        (Some(_), _) => "IAM token",
        (None, Some(_)) => "password",
        (None, None) => "none",
    };
    let tls = match &redis.tls {
        None => "off",
        Some(tls) if tls.insecure => "on, not verified",
        Some(tls) if tls.cert_file.is_some() => "on, with a client certificate",
        Some(_) => "on",
    };
    log::info!(
        redis = address.as_str(), sentinels = sentinels.as_str(), db = redis.db, tls,
        user = redis.username.as_deref().unwrap_or("default"), auth;
        "entries are written to Redis at {address}"
    );
}
