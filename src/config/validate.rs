//! Settings -> Config, and the parts of it that commands need. Every setting is judged, whatever was found before it, so
//! that all faults come at once.

use std::num::NonZeroUsize;
use std::thread::available_parallelism;
use std::time::Duration;

use log::LevelFilter;
use url::Url;

use super::CacheUpdatePolicy::{UpdateIfExists, Upsert};
use super::PoisonPolicy::{Delete, Redrive};
use super::settings::Settings;
use super::values::{Faults, Findings, raw, shown};
use super::{
    CacheAccess, Config, EdgeAccess, Expiry, LogConfig, LogFormat, SentryConfig, StsEndpoint, credentials,
    plaintext, proxy, queue, redis,
};
use crate::entitlement::stored::CacheFormat::{Compatible, V3, V4};

const SECS_OF_A_YEAR: i64 = 365 * 24 * 60 * 60;

impl Settings {
    /// The configuration, or all that is wrong with it.
    pub fn validate(&self) -> Result<Config, Faults> {
        let mut findings = self.findings.clone();
        let config = self.config(&mut findings);
        findings.unless_faulty(config)
    }

    /// The port of a service that runs on this machine.
    pub fn port_to_probe(&self) -> Result<u16, Faults> {
        let mut findings = Findings::default();
        let raw = raw!(self, http.port);
        let port = findings.number(raw);
        if raw.value == Some("0") {
            let what = "is 0, which lets the service take a free port that nobody knows; set the port that its log tells";
            findings.fault(raw, what);
        }
        findings.unless_faulty(Some(port))
    }

    /// What a command needs that reads or writes the cache.
    pub fn cache_access(&self) -> Result<CacheAccess, Faults> {
        let mut findings = self.findings.clone();
        let region = queue::region_if_told(self);
        let cache = self.cache(region.as_deref(), &mut findings);
        findings.unless_faulty(cache)
    }

    /// The same, and the Edge API: all faults of both at once.
    pub fn cache_and_edge_access(&self) -> Result<(CacheAccess, EdgeAccess), Faults> {
        let mut findings = self.findings.clone();
        let region = queue::region_if_told(self);
        let cache = self.cache(region.as_deref(), &mut findings);
        let edge = queue::edge_api(self, &mut findings);
        let access = cache.zip(edge).map(|(mut cache, (key, url))| {
            cache.notices.clone_from(&findings.notices);
            (cache, EdgeAccess { url, key })
        });
        findings.unless_faulty(access)
    }

    /// Where STS is, whatever the source of the credentials: `AWS_ENDPOINT_URL_STS`, else `AWS_ENDPOINT_URL`, else the
    /// region's own.
    pub fn sts_endpoint(&self) -> StsEndpoint {
        let own = raw!(self, credentials.aws_endpoint_url_sts).value;
        let url = own.or(raw!(self, queue.aws_endpoint_url).value);
        StsEndpoint {
            region: queue::region_if_told(self).unwrap_or_default(),
            url: url.and_then(|url| Url::parse(url).ok()),
        }
    }

    /// What a command prints may be coloured on a terminal.
    pub fn may_colour(&self) -> bool {
        // As https://no-color.org has it: whatever the value is.
        !raw!(self, log.no_color).is_given
    }

    /// The log of a command: for people, and of warnings and worse, unless it is set.
    pub fn command_log(&self) -> Result<LogConfig, Faults> {
        let mut findings = Findings::default();
        let mut config = self.log(&mut findings);
        if !raw!(self, log.log_level).is_given {
            config.level = LevelFilter::Warn;
        }
        if !raw!(self, log.log_format).is_given {
            config.format = LogFormat::Text;
        }
        findings.unless_faulty(Some(config))
    }

    /// None only after a fault. There may be faults even if it is some.
    fn config(&self, findings: &mut Findings) -> Option<Config> {
        let queue = queue::address(self, findings);
        let region = queue.as_ref().map(|queue| queue.region.as_str());
        let credentials = credentials::credentials(self, findings, region);
        if let Some(credentials) = &credentials {
            plaintext::notices(self, credentials, findings);
        }
        let edge_api = queue::edge_api(self, findings);
        let cache = self.cache(region, findings);
        let retries = raw!(self, older.cache_lock_retry_count);
        if retries.is_given {
            let what = "has no effect: this service takes no lock that it could have to retry";
            findings.notice(retries, what);
        }
        let sentry = self.sentry(findings);
        let batch_size = findings.number(raw!(self, queue.batch_size));
        let wait_time_secs = findings.number(raw!(self, queue.wait_time_secs));
        let poison_policies = [("redrive", Redrive), ("delete", Delete)];
        let poison_policy = findings.choice(raw!(self, queue.poison_policy), poison_policies);
        let port = findings.number(raw!(self, http.port));
        let status_page = findings.boolean(raw!(self, http.status_page));
        let log = self.log(findings);
        let consumers = findings.number(raw!(self, running.consumers));
        let workers = raw!(self, running.workers);
        let workers = if workers.is_given {
            findings.number(workers)
        } else {
            available_parallelism().map_or(2, NonZeroUsize::get).clamp(2, 8)
        };
        let shutdown_timeout_secs = findings.number(raw!(self, running.shutdown_timeout_secs));
        let (queue, cache, (server_api_key, edge_api_url)) = (queue?, cache?, edge_api?);
        Some(Config {
            queue_url: queue.queue_url.to_owned(),
            region: queue.region,
            sqs_endpoint: queue.endpoint,
            credentials: credentials?,
            proxy: cache.proxy,
            server_api_key,
            edge_api_url,
            environment_prefix: cache.environment_prefix,
            redis: cache.redis,
            batch_size,
            expiry: cache.expiry,
            cache_update_policy: cache.policy,
            cache_format: cache.format,
            sentry: sentry?,
            port,
            status_page,
            log,
            consumers,
            workers,
            wait_time: Duration::from_secs(wait_time_secs),
            shutdown_timeout: Duration::from_secs(shutdown_timeout_secs),
            poison_policy,
            notices: findings.notices.clone(),
            shown: self.shown(),
        })
    }

    /// The cache: where it is, and how it is written. None only after a fault.
    fn cache(&self, region: Option<&str>, findings: &mut Findings) -> Option<CacheAccess> {
        let proxy = proxy::proxy(self, findings);
        let redis = redis::redis(self, region, findings);
        let prefix = raw!(self, cache.environment_prefix);
        let prefix = findings.newer_or_older(prefix, raw!(self, older.redis_environment_prefix));
        let environment_prefix = prefix.value.unwrap_or_default().to_owned();
        if environment_prefix.contains(|letter: char| letter.is_whitespace() || letter.is_control()) {
            let what = "holds white space or control characters; check that the SDKs use the same";
            findings.notice(prefix, format!("{} {what}", shown(&environment_prefix)));
        }
        let policies = [("UPDATE_IF_EXISTS", UpdateIfExists), ("UPSERT", Upsert)];
        let formats = [("compatible", Compatible), ("v3", V3), ("v4", V4)];
        let policy = findings.choice(raw!(self, cache.cache_update_policy), policies);
        let format = findings.choice(raw!(self, cache.cache_format), formats);
        let expiry = self.expiry(findings);
        Some(CacheAccess {
            redis: redis?,
            environment_prefix,
            policy,
            format,
            expiry,
            proxy,
            notices: findings.notices.clone(),
        })
    }

    fn expiry(&self, findings: &mut Findings) -> Expiry {
        let newer = raw!(self, cache.keys_ttl_in_secs);
        let raw = findings.newer_or_older(newer, raw!(self, older.ttl_in_secs));
        let secs = findings.read(raw, |value| match value.parse::<i64>() {
            Ok(secs) if secs != 0 && secs <= 100 * SECS_OF_A_YEAR => Ok(secs),
            Ok(_) | Err(_) => {
                Err(shown(value) + " is no lifetime; set 1 to 3153600000 seconds (100 years), or -1 for ever")
            }
        });
        let Some(secs) = secs.and_then(|secs| u64::try_from(secs).ok()) else {
            return Expiry::Never;
        };
        if secs > SECS_OF_A_YEAR.unsigned_abs() {
            let what = format!("{secs} seconds are more than a year; the unit is seconds, not milliseconds");
            findings.notice(raw, what);
        }
        Expiry::Seconds(secs)
    }

    fn log(&self, findings: &mut Findings) -> LogConfig {
        let levels = [
            ("error", LevelFilter::Error),
            ("warn", LevelFilter::Warn),
            ("info", LevelFilter::Info),
            ("debug", LevelFilter::Debug),
            ("trace", LevelFilter::Trace),
        ];
        let formats = [("json", LogFormat::Json), ("text", LogFormat::Text)];
        let mut taken = vec!["time", "level", "target", "thread"];
        let keys = [raw!(self, log.log_message_key), raw!(self, log.log_error_key)];
        let [message_key, error_key] = keys.map(|raw| {
            let key = raw.value.unwrap_or_default();
            if taken.contains(&key) {
                let taken = taken.join(", ");
                findings.fault(raw, format!("must be another key than {taken}; change it"));
            }
            taken.push(key);
            key.to_owned()
        });
        LogConfig {
            level: findings.choice(raw!(self, log.log_level), levels),
            format: findings.choice(raw!(self, log.log_format), formats),
            colour: self.may_colour(),
            message_key,
            error_key,
        }
    }

    fn sentry(&self, findings: &mut Findings) -> Option<SentryConfig> {
        if findings.boolean(raw!(self, sentry.disable_sentry)) {
            // Whatever the DSN is, it is not used.
            return Some(SentryConfig::Disabled);
        }
        let (inline, file) = (raw!(self, sentry.sentry_dsn), raw!(self, sentry.sentry_dsn_file));
        if !inline.is_given && !file.is_given {
            return Some(SentryConfig::RemoteConfiguration);
        }
        let dsn = findings.token(inline, file)?;
        if !dsn.read().is_ok_and(|dsn| is_dsn(&dsn)) {
            let what = "is not a Sentry DSN (https://<key>@<host>/<project>); copy it from Sentry, or set DISABLE_SENTRY=1";
            findings.fault(if inline.is_given { inline } else { file }, what);
        }
        Some(SentryConfig::Dsn(dsn))
    }
}

fn is_dsn(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| {
        let has_project = url.path().rsplit('/').next().is_some_and(|id| !id.is_empty());
        matches!(url.scheme(), "http" | "https") && !url.username().is_empty() && has_project
    })
}
