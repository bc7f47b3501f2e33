//! Settings -> Config. Every setting is judged, whatever was found before it, so that all faults come at once.

use std::num::NonZeroUsize;
use std::time::Duration;

use log::LevelFilter;
use url::Url;

use super::settings::Settings;
use super::values::{Faults, Findings, Raw, raw, shown};
use super::{
    CacheUpdatePolicy, Config, Expiry, LogConfig, LogFormat, PoisonPolicy, SentryConfig, credentials,
    plaintext, proxy, queue, redis,
};
use crate::entitlement::stored::CacheFormat;

/// Fields of every log line, which the two keys must not take.
const LOG_FIELDS: [&str; 4] = ["time", "level", "target", "thread"];
const SECS_OF_A_YEAR: i64 = 365 * 24 * 60 * 60;

impl Settings {
    /// The configuration, or all that is wrong with it.
    pub fn validate(&self) -> Result<Config, Faults> {
        let mut findings = Findings::default();
        for variable in &self.not_utf8 {
            findings
                .faults
                .push(format!("{variable}: is not UTF-8; set plain text"));
        }
        let config = self.config(&mut findings);
        let Findings { faults, notices } = findings;
        match config {
            Some(config) if faults.is_empty() => Ok(Config { notices, ..config }),
            _ => Err(Faults(faults)),
        }
    }

    /// None only after a fault; there may be faults all the same.
    fn config(&self, findings: &mut Findings) -> Option<Config> {
        let queue = queue::address(self, findings);
        let region = queue.as_ref().map(|queue| queue.region.as_str());
        let credentials = credentials::credentials(self, findings, region);
        if let Some(credentials) = &credentials {
            plaintext::notices(self, credentials, findings);
        }
        let proxy = proxy::proxy(self, findings);
        let batch_size = findings.number(raw!(self, queue.batch_size), &(1..=10));
        let wait_time_secs = findings.number(raw!(self, queue.wait_time_secs), &(0..=20));
        let poison_policy = findings.choice(
            raw!(self, queue.poison_policy),
            [
                ("redrive", PoisonPolicy::Redrive),
                ("delete", PoisonPolicy::Delete),
            ],
        );
        let edge_api = queue::edge_api(self, findings);
        let aws = redis::Aws {
            region: queue.as_ref().map(|queue| queue.region.as_str()),
        };
        let redis = redis::redis(self, &aws, findings);
        let environment_prefix = environment_prefix(self, findings);
        let CacheRules {
            policy,
            format,
            expiry,
        } = cache_rules(self, findings);
        let retries = raw!(self, older.cache_lock_retry_count);
        if retries.value.is_some() {
            findings.notice(
                retries,
                "has no effect: this service takes no lock that it could have to retry",
            );
        }
        let port = findings.number(raw!(self, http.port), &(0..=u16::MAX));
        let status_page = findings.boolean(raw!(self, http.status_page));
        let log = log(self, findings);
        let sentry = sentry(self, findings);
        let consumers = findings.number(raw!(self, running.consumers), &(1..=256));
        let workers = workers(self, findings);
        let shutdown_timeout_secs = findings.number(raw!(self, running.shutdown_timeout_secs), &(1..=3600));

        let (queue, (server_api_key, edge_api_url)) = (queue?, edge_api?);
        Some(Config {
            region: queue.region,
            queue_url: queue.queue_url,
            sqs_endpoint: queue.endpoint,
            credentials: credentials?,
            proxy,
            server_api_key,
            edge_api_url,
            environment_prefix,
            redis: redis?,
            batch_size,
            expiry,
            cache_update_policy: policy,
            cache_format: format,
            sentry: sentry?,
            port,
            status_page,
            log,
            consumers,
            workers,
            wait_time: Duration::from_secs(wait_time_secs),
            shutdown_timeout: Duration::from_secs(shutdown_timeout_secs),
            poison_policy,
            notices: Vec::new(),
            shown: self.shown().clone(),
        })
    }
}

impl Findings {
    /// The newer setting, or the older one where the newer is not set. Either way a notice says so.
    pub(super) fn newer_or_older<'a>(&mut self, newer: Raw<'a>, older: Raw<'a>) -> Raw<'a> {
        if older.value.is_none() {
            return newer;
        }
        let name = newer.variable();
        if newer.is_given {
            self.notice(older, format!("has no effect, as {name} is set"));
            return newer;
        }
        self.notice(
            older,
            format!("is the older name of {name}; it works, but use {name}"),
        );
        older
    }
}

pub(super) fn environment_prefix(settings: &Settings, findings: &mut Findings) -> String {
    let newer = raw!(settings, cache.environment_prefix);
    let raw = findings.newer_or_older(newer, raw!(settings, older.redis_environment_prefix));
    let prefix = raw.value.unwrap_or_default();
    if prefix.contains(|letter: char| letter.is_whitespace() || letter.is_control()) {
        findings.notice(
            raw,
            format!(
                "{} holds white space or control characters; check that the SDKs use the same",
                shown(prefix)
            ),
        );
    }
    prefix.to_owned()
}

/// What is written, and for how long.
pub(super) struct CacheRules {
    pub policy: CacheUpdatePolicy,
    pub format: CacheFormat,
    pub expiry: Expiry,
}

pub(super) fn cache_rules(settings: &Settings, findings: &mut Findings) -> CacheRules {
    CacheRules {
        policy: findings.choice(
            raw!(settings, cache.cache_update_policy),
            [
                ("UPDATE_IF_EXISTS", CacheUpdatePolicy::UpdateIfExists),
                ("UPSERT", CacheUpdatePolicy::Upsert),
            ],
        ),
        format: findings.choice(
            raw!(settings, cache.cache_format),
            [
                ("compatible", CacheFormat::Compatible),
                ("v3", CacheFormat::V3),
                ("v4", CacheFormat::V4),
            ],
        ),
        expiry: expiry(settings, findings),
    }
}

fn expiry(settings: &Settings, findings: &mut Findings) -> Expiry {
    // A hundred years: beyond, a number is a mistake, and Redis refuses the largest.
    const MOST: i64 = 100 * SECS_OF_A_YEAR;
    let raw = findings.newer_or_older(
        raw!(settings, cache.keys_ttl_in_secs),
        raw!(settings, older.ttl_in_secs),
    );
    let value = raw.value.unwrap_or_default();
    let remedy = "set the seconds that an entry lives, or -1 for ever";
    match value.parse::<i64>() {
        Ok(secs) if secs < 0 => return Expiry::Never,
        Ok(0) => findings.fault(
            raw,
            format!("0 would let entries expire as they are written; {remedy}"),
        ),
        Ok(secs) if secs > MOST => {
            findings.fault(raw, format!("{} is more than 100 years; {remedy}", shown(value)));
        }
        Ok(secs) => {
            if secs > SECS_OF_A_YEAR {
                findings.notice(
                    raw,
                    format!("{secs} seconds are more than a year; the unit is seconds, not milliseconds"),
                );
            }
            return Expiry::Seconds(secs.unsigned_abs());
        }
        Err(_) => findings.fault(raw, format!("{} is not a whole number; {remedy}", shown(value))),
    }
    Expiry::Never
}

pub(super) fn log(settings: &Settings, findings: &mut Findings) -> LogConfig {
    let level_raw = raw!(settings, log.log_level);
    // `trace` is taken too, for those who look into the service itself.
    let level = if level_raw
        .value
        .is_some_and(|level| level.eq_ignore_ascii_case("trace"))
    {
        LevelFilter::Trace
    } else {
        let levels = [
            ("error", LevelFilter::Error),
            ("warn", LevelFilter::Warn),
            ("info", LevelFilter::Info),
            ("debug", LevelFilter::Debug),
        ];
        findings.choice(level_raw, levels)
    };
    let format = findings.choice(
        raw!(settings, log.log_format),
        [("json", LogFormat::Json), ("text", LogFormat::Text)],
    );
    let message = raw!(settings, log.log_message_key);
    let error = raw!(settings, log.log_error_key);
    for raw in [message, error] {
        if raw.value.is_some_and(|key| LOG_FIELDS.contains(&key)) {
            findings.fault(
                raw,
                format!(
                    "{} is a field of every log line; set another key than {}",
                    shown(raw.value.unwrap_or_default()),
                    LOG_FIELDS.join(", ")
                ),
            );
        }
    }
    if message.value == error.value {
        findings.fault(error, "is the same as LOG_MESSAGE_KEY; set another key");
    }
    LogConfig {
        level,
        format,
        // As https://no-color.org has it: whatever the value is.
        colour: raw!(settings, log.no_color).value.is_none(),
        message_key: message.value.unwrap_or_default().to_owned(),
        error_key: error.value.unwrap_or_default().to_owned(),
    }
}

fn sentry(settings: &Settings, findings: &mut Findings) -> Option<SentryConfig> {
    let is_disabled = findings.boolean(raw!(settings, sentry.disable_sentry));
    if is_disabled {
        // Whatever the DSN is, it is not used.
        return Some(SentryConfig::Disabled);
    }
    let inline = raw!(settings, sentry.sentry_dsn);
    let file = raw!(settings, sentry.sentry_dsn_file);
    if inline.value.is_none() && file.value.is_none() {
        return Some(SentryConfig::RemoteConfiguration);
    }
    let secret = findings.token(inline, file)?;
    if !secret.read().is_ok_and(|dsn| is_dsn(&dsn)) {
        let given = if inline.value.is_some() { inline } else { file };
        findings.fault(
            given,
            "is not a Sentry DSN (https://<key>@<host>/<project>); copy it from Sentry, or set DISABLE_SENTRY=1",
        );
        return None;
    }
    Some(SentryConfig::Dsn(secret))
}

fn is_dsn(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && !url.username().is_empty()
            && url
                .path()
                .rsplit('/')
                .next()
                .is_some_and(|project| !project.is_empty())
    })
}

fn workers(settings: &Settings, findings: &mut Findings) -> usize {
    let raw = raw!(settings, running.workers);
    if raw.value.is_some() {
        return findings.number(raw, &(1..=256));
    }
    std::thread::available_parallelism()
        .map_or(2, NonZeroUsize::get)
        .clamp(2, 8)
}
