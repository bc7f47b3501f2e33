//! Settings -> Config, and the parts of it that commands need. Every setting is checked, whatever was found before it, so
//! that all faults come at once.

use std::num::NonZeroUsize;
use std::thread::available_parallelism;
use std::time::Duration;

use log::LevelFilter::{Debug, Error, Info, Trace, Warn};
use url::Url;

use super::CacheUpdatePolicy::{UpdateIfExists, Upsert};
use super::PoisonPolicy::{Delete, Redrive};
use super::settings::Settings;
#[allow(clippy::wildcard_imports)] // the settings
use super::table::*;
use super::values::{Faults, Validator, shown};
use super::{
    CacheAccess, Config, EdgeAccess, Expiry, LogConfig, LogFormat, SentryConfig, StsEndpoint, credentials,
    proxy, queue, redis,
};
use crate::entitlement::stored::CacheFormat::{Compatible, V3, V4};

const SECS_OF_A_YEAR: i64 = 365 * 24 * 60 * 60;

impl Settings {
    /// The configuration, or all that is wrong with it.
    pub fn validate(&self) -> Result<Config, Faults> {
        let mut validator = Validator::new(self);
        let config = config(&mut validator);
        validator.finish(config)
    }

    /// The port of a service that runs on this machine.
    pub fn port_to_probe(&self) -> Result<u16, Faults> {
        let mut validator = Validator::new(self);
        let port = validator.number(PORT);
        if validator.value(PORT) == Some("0") {
            validator.fault(PORT, "is 0, so the service took a free port; set the port that its log names");
        }
        validator.finish(Some(port))
    }

    /// What a command needs that reads or writes the cache.
    pub fn cache_access(&self) -> Result<CacheAccess, Faults> {
        let mut validator = Validator::new(self);
        let cache = cache(&mut validator);
        validator.finish(cache)
    }

    /// The same, and the Edge API: all faults of both at once.
    pub fn cache_and_edge_access(&self) -> Result<(CacheAccess, EdgeAccess), Faults> {
        let mut validator = Validator::new(self);
        let edge = queue::edge_api(&mut validator);
        let cache = cache(&mut validator);
        validator.finish(cache.zip(edge))
    }

    /// Where STS is, whatever the source of the credentials.
    pub fn sts_endpoint(&self) -> StsEndpoint {
        credentials::sts(&mut Validator::new(self))
    }

    /// Text may be coloured on a terminal.
    pub fn may_colour(&self) -> bool {
        // As https://no-color.org has it: whatever the value is.
        self.given(NO_COLOR).is_none()
    }

    /// The log of a command: text, of warnings and errors, unless set otherwise.
    pub fn command_log(&self) -> Result<LogConfig, Faults> {
        let mut validator = Validator::new(self);
        let log = log(&mut validator);
        let level = if validator.is_given(LOG_LEVEL) { log.level } else { Warn };
        let format = if validator.is_given(LOG_FORMAT) { log.format } else { LogFormat::Text };
        validator.finish(Some(LogConfig { level, format, ..log }))
    }
}

/// None only after a fault. There may be faults even if it is some.
fn config(validator: &mut Validator<'_>) -> Option<Config> {
    let (region, sqs_endpoint) = queue::address(validator);
    let credentials = credentials::credentials(validator);
    let edge = queue::edge_api(validator);
    let cache = cache(validator);
    if validator.is_given(CACHE_LOCK_RETRY_COUNT) {
        let what = "has no effect: this service takes no lock that it could have to retry";
        validator.notice(CACHE_LOCK_RETRY_COUNT, what);
    }
    let refresh_rate = validator.number(REFRESH_RATE);
    let refresh_rate = validator.boolean(REFRESH_AFTER_PURGE).then_some(refresh_rate);
    let sentry = sentry(validator);
    let batch_size = validator.number(BATCH_SIZE);
    let wait_time_secs = validator.number(WAIT_TIME_SECS);
    let poison_policy = validator.choice(POISON_POLICY, [("redrive", Redrive), ("delete", Delete)]);
    let port = validator.number(PORT);
    let status_page = validator.boolean(STATUS_PAGE);
    let log = log(validator);
    let consumers = validator.number(CONSUMERS);
    let cores = available_parallelism().map_or(2, NonZeroUsize::get);
    let workers = Some(validator.number(WORKERS)).filter(|workers| *workers > 0);
    let shutdown_timeout_secs = validator.number(SHUTDOWN_TIMEOUT_SECS);
    let (cache, edge) = (cache?, edge?);
    Some(Config {
        queue_url: validator.owned(QUEUE_URL)?,
        region: region?,
        sqs_endpoint: sqs_endpoint?,
        credentials,
        proxy: cache.proxy,
        server_api_key: edge.key,
        edge_api_url: edge.url,
        environment_prefix: cache.environment_prefix,
        redis: cache.redis,
        batch_size,
        expiry: cache.expiry,
        cache_update_policy: cache.policy,
        cache_format: cache.format,
        refresh_rate,
        sentry: sentry?,
        port,
        status_page,
        log,
        consumers,
        workers: workers.unwrap_or(cores.clamp(2, 8)),
        wait_time: Duration::from_secs(wait_time_secs),
        shutdown_timeout: Duration::from_secs(shutdown_timeout_secs),
        poison_policy,
        notices: validator.notices(),
        shown: validator.settings.shown(),
    })
}

/// The cache: where it is, and how it is written. None only after a fault.
fn cache(validator: &mut Validator<'_>) -> Option<CacheAccess> {
    let proxy = proxy::proxy(validator);
    let redis = redis::redis(validator);
    let prefix = validator.newer_or_older(ENVIRONMENT_PREFIX, REDIS_ENVIRONMENT_PREFIX);
    let environment_prefix = validator.owned(prefix).unwrap_or_default();
    let policies = [("UPDATE_IF_EXISTS", UpdateIfExists), ("UPSERT", Upsert)];
    let policy = validator.choice(CACHE_UPDATE_POLICY, policies);
    let format = validator.choice(CACHE_FORMAT, [("compatible", Compatible), ("v3", V3), ("v4", V4)]);
    let expiry = expiry(validator);
    let notices = validator.notices();
    Some(CacheAccess { redis: redis?, environment_prefix, policy, format, expiry, proxy, notices })
}

fn expiry(validator: &mut Validator<'_>) -> Expiry {
    let setting = validator.newer_or_older(KEYS_TTL_IN_SECS, TTL_IN_SECS);
    let secs = validator.read(setting, |value| {
        let secs = value.parse().ok().filter(|secs: &i64| *secs != 0 && *secs <= 100 * SECS_OF_A_YEAR);
        let what = "is not a lifetime; set 1 to 3153600000 seconds (100 years), or -1 for ever";
        secs.ok_or_else(|| format!("{} {what}", shown(value)))
    });
    if let Some(secs) = secs.filter(|secs| *secs > SECS_OF_A_YEAR) {
        let what = "seconds are more than a year; the unit is seconds, not milliseconds";
        validator.notice(setting, format!("{secs} {what}"));
    }
    secs.and_then(|secs| u64::try_from(secs).ok()).map_or(Expiry::Never, Expiry::Seconds)
}

fn log(validator: &mut Validator<'_>) -> LogConfig {
    let levels = [("error", Error), ("warn", Warn), ("info", Info), ("debug", Debug), ("trace", Trace)];
    let is_free = |key: &str| !["time", "level", "target", "thread"].contains(&key);
    let [message_key, error_key] = [LOG_MESSAGE_KEY, LOG_ERROR_KEY].map(|setting| {
        let what = "is the key of something else; set another than time, level, target and thread";
        validator.text(setting, is_free, what).unwrap_or_default()
    });
    if message_key == error_key {
        validator.fault(LOG_ERROR_KEY, "is the same key as LOG_MESSAGE_KEY; set another");
    }
    LogConfig {
        level: validator.choice(LOG_LEVEL, levels),
        format: validator.choice(LOG_FORMAT, [("json", LogFormat::Json), ("text", LogFormat::Text)]),
        colour: !validator.is_given(NO_COLOR),
        message_key,
        error_key,
    }
}

fn sentry(validator: &mut Validator<'_>) -> Option<SentryConfig> {
    if validator.boolean(DISABLE_SENTRY) {
        // Whatever the DSN is, it is not used.
        return Some(SentryConfig::Disabled);
    }
    let settings = [SENTRY_DSN, SENTRY_DSN_FILE];
    let Some(setting) = validator.first_given(&settings) else {
        return Some(SentryConfig::RemoteConfiguration);
    };
    let dsn = validator.token(&settings)?;
    let is_dsn = |url: Url| {
        matches!(url.scheme(), "http" | "https") && !url.username().is_empty() && url.path() != "/"
    };
    if !dsn.read().is_ok_and(|dsn| Url::parse(&dsn).is_ok_and(is_dsn)) {
        let what = "is not a Sentry DSN (https://<key>@<host>/<project>)";
        validator.fault(setting, format!("{what}; copy it from Sentry, or set DISABLE_SENTRY=1"));
    }
    Some(SentryConfig::Dsn(dsn))
}
