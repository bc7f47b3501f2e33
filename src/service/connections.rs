//! The clients of the queue and of Redis, and the threads that renew their credentials.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;

use super::Setup;
use crate::aws::{CredentialsProvider, provider};
use crate::cache::Layout;
use crate::cache::keyspace::Keyspace;
use crate::clock;
use crate::config::{CredentialSource, RedisAddress, RedisConfig};
use crate::log::FaultLog;
use crate::ops::metrics::Metrics;
use crate::pipeline::context::seconds;
use crate::refresh::{self, RefreshQueue, Refresher};
use crate::shutdown::Stop;
use crate::sqs::Queue;
use crate::sqs::client::{SqsClient, SqsSettings};
use crate::store::{RedisStore, StoreRules, server_name};

/// What a receive may take beyond its long poll.
pub(super) const RECEIVE_SLACK: Duration = Duration::from_secs(5);
/// What a source of credentials may take for one fetch: STS and the Edge API have 10 s, the others less.
pub(super) const CREDENTIALS_FETCH_MAX: Duration = Duration::from_secs(10);

/// The thread that renews the queue's credentials. Their expiry is published as a metric.
const QUEUE_CREDENTIALS: &str = "credentials";
const REDIS_CREDENTIALS: &str = "redis-credentials";

impl Setup<'_> {
    pub(super) fn queue(&self) -> anyhow::Result<Arc<dyn Queue>> {
        let config = self.config;
        let credentials = self.credentials(&config.credentials, QUEUE_CREDENTIALS, "the queue")?;
        let settings = SqsSettings {
            endpoint: config.sqs_endpoint.clone(),
            queue_url: config.queue_url.clone(),
            region: config.region.clone(),
            // Pollers, deleters, and the thread that extends visibility.
            pool_size: config.consumers * 2 + 1,
            long_poll_deadline: config.wait_time + RECEIVE_SLACK,
            proxy: config.proxy.clone(),
        };
        Ok(Arc::new(SqsClient::new(settings, credentials)))
    }

    /// No connection is made yet.
    pub(super) fn store(&self) -> anyhow::Result<Arc<RedisStore>> {
        let config = self.config;
        log_redis(&config.redis);
        // ElastiCache's tokens are signed with the operator's own credentials: the configuration refuses the Edge API's.
        let iam = config.redis.iam.as_ref();
        let signer = iam.map(|iam| self.credentials(&iam.credentials, REDIS_CREDENTIALS, "ElastiCache"));
        let rules = StoreRules {
            keyspace: Keyspace::new(config.environment_prefix.clone()),
            policy: config.cache_update_policy,
            expiry: config.expiry,
        };
        // One per worker, one for the sampler, one for the prefix check, one per refresh.
        let connections = u32::try_from(config.workers + 2)? + self.parallel_refreshes();
        Ok(Arc::new(RedisStore::new(config.redis.clone(), rules, connections, signer.transpose()?)))
    }

    /// Enough for REFRESH_RATE if the Edge API takes 200 ms; 64 at most.
    fn parallel_refreshes(&self) -> u32 {
        self.config.refresh_rate.unwrap_or_default().div_ceil(5).min(64)
    }

    /// Starts the threads that refresh purged customers, if they are asked for.
    pub(super) fn start_refresher(
        &self,
        layout: &Layout,
        store: &Arc<RedisStore>,
        drain: &Stop,
    ) -> anyhow::Result<Option<Arc<RefreshQueue>>> {
        let Some(rate) = self.config.refresh_rate else { return Ok(None) };
        let queue = Arc::new(RefreshQueue::new(refresh::CAPACITY, Arc::clone(&self.metrics)));
        let refresher = Arc::new(Refresher {
            queue: Arc::clone(&queue),
            store: Arc::clone(store),
            layout: layout.clone(),
            edge: Arc::clone(&self.edge),
            faults: Arc::clone(&self.faults),
            stop: drain.clone(),
        });
        let (sender, in_turn) = bounded(0);
        for index in 0..self.parallel_refreshes() {
            let (refresher, in_turn) = (Arc::clone(&refresher), in_turn.clone());
            self.threads.spawn(format!("refresh-{index}"), move || refresher.run(&in_turn))?;
        }
        self.threads.spawn("refresh", move || refresher.dispatch(rate, &sender))?;
        Ok(Some(queue))
    }

    /// The provider of this source, and a thread that renews its credentials. `signs` is what they sign.
    fn credentials(
        &self,
        source: &CredentialSource,
        thread: &'static str,
        signs: &'static str,
    ) -> anyhow::Result<Arc<CredentialsProvider>> {
        let config = self.config;
        let provider = provider(source, config.proxy.clone(), &self.edge, &config.queue_url);
        log::info!(credentials = provider.describe().as_str(); "calls to {signs} are signed");
        let (credentials, exit) = (Arc::clone(&provider), self.exit.clone());
        let (metrics, faults) = (Arc::clone(&self.metrics), Arc::clone(&self.faults));
        self.threads.spawn(thread, move || renew(&credentials, thread, signs, &metrics, &faults, &exit))?;
        Ok(provider)
    }
}

/// Renews ahead of expiry until the exit phase.
fn renew(
    credentials: &CredentialsProvider,
    kind: &str,
    signs: &str,
    metrics: &Metrics,
    faults: &FaultLog,
    exit: &Stop,
) {
    let mut logged = None;
    loop {
        let renewed = credentials.renew_if_due(clock::now());
        let holds_any = credentials.usable(clock::now()).is_some();
        match renewed {
            Ok(_) => {
                if let Some(outage) = faults.recovered(kind, Duration::ZERO, Instant::now()) {
                    log::info!(lasted_secs = outage.lasted.as_secs_f64(); "credentials are available again");
                }
            }
            Err(error) => {
                // Two kinds: the worse one is not held back as a repetition of the other.
                let (fault, message) = if holds_any {
                    let used = "the current ones are used until they expire";
                    ("renewal", format!("cannot renew the credentials of {signs}: {used}"))
                } else {
                    ("absence", format!("there are no credentials for {signs}: retrying"))
                };
                let fault = format!("{kind} {fault}");
                faults.fault(&fault, log::Level::Error, &message, &error.message, Instant::now());
            }
        }
        // A caller may have fetched them, not this loop.
        let (source, expiry) = (credentials.describe(), credentials.expiry());
        if holds_any && logged.as_ref() != Some(&(source.clone(), expiry)) {
            log::info!(credentials = source.as_str(); "renewed the credentials of {signs}");
            logged = Some((source, expiry));
        }
        if let Some(expiry) = expiry.filter(|_| kind == QUEUE_CREDENTIALS) {
            metrics.credentials_expiry.with_label_values::<&str>(&[]).set(seconds(expiry));
        }
        let wait = credentials.next_renewal_in(clock::now());
        if exit.wait(wait.max(Duration::from_millis(100))) {
            return;
        }
    }
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
