//! Parts of a configuration, for commands that need no more: what they do not need is not judged.

use log::LevelFilter;
use url::Url;

use super::settings::Settings;
use super::validate::{CacheRules, cache_rules, environment_prefix};
use super::values::{Faults, Findings, raw};
use super::{
    CacheUpdatePolicy, Expiry, LogConfig, LogFormat, Proxy, RedisConfig, Secret, StsEndpoint, proxy, queue,
    redis, validate,
};
use crate::entitlement::stored::CacheFormat;

/// The cache: where it is, and how it is written.
#[derive(Debug)]
pub struct CacheAccess {
    /// Redis.
    pub redis: RedisConfig,
    /// First part of every key.
    pub environment_prefix: String,
    /// Which customers are written.
    pub policy: CacheUpdatePolicy,
    /// What is written.
    pub format: CacheFormat,
    /// Life of written keys.
    pub expiry: Expiry,
    /// The way to AWS, where Redis is signed in to with its credentials.
    pub proxy: Option<Proxy>,
    /// Things worth a warning, one line each.
    pub notices: Vec<String>,
}

/// Stigg's Edge API: where it is, and the key to it.
#[derive(Debug)]
pub struct EdgeAccess {
    /// The API.
    pub url: Url,
    /// Stigg's server API key.
    pub key: Secret,
}

impl Settings {
    /// The port of a service that runs on this machine.
    pub fn port_to_probe(&self) -> Result<u16, Faults> {
        part(|findings| {
            let raw = raw!(self, http.port);
            if raw.value == Some("0") {
                findings.fault(
                    raw,
                    "is 0, which lets the service take a free port that nobody knows; set the port that its log tells",
                );
            }
            Some(findings.number(raw, &(0..=u16::MAX)))
        })
    }

    /// What a command needs that reads or writes the cache.
    pub fn cache_access(&self) -> Result<CacheAccess, Faults> {
        part(|findings| self.cache_part(findings))
    }

    /// The same, and the Edge API: all faults of both at once.
    pub fn cache_and_edge_access(&self) -> Result<(CacheAccess, EdgeAccess), Faults> {
        part(|findings| {
            let cache = self.cache_part(findings);
            let (key, url) = queue::edge_api(self, findings)?;
            Some((cache?, EdgeAccess { url, key }))
        })
    }

    fn cache_part(&self, findings: &mut Findings) -> Option<CacheAccess> {
        for variable in &self.not_utf8 {
            findings
                .faults
                .push(format!("{variable}: is not UTF-8; set plain text"));
        }
        let region = queue::region_if_told(self);
        let aws = redis::Aws {
            region: region.as_deref(),
        };
        let redis = redis::redis(self, &aws, findings);
        let environment_prefix = environment_prefix(self, findings);
        let CacheRules {
            policy,
            format,
            expiry,
        } = cache_rules(self, findings);
        Some(CacheAccess {
            redis: redis?,
            environment_prefix,
            policy,
            format,
            expiry,
            proxy: proxy::proxy(self, findings),
            notices: findings.notices.clone(),
        })
    }

    /// Where STS is, for those who ask it whatever the source of the credentials is: `AWS_ENDPOINT_URL_STS`, else
    /// `AWS_ENDPOINT_URL`, else the region's own.
    pub fn sts_endpoint(&self) -> StsEndpoint {
        let given = [
            raw!(self, credentials.aws_endpoint_url_sts),
            raw!(self, queue.aws_endpoint_url),
        ];
        StsEndpoint {
            region: queue::region_if_told(self).unwrap_or_default(),
            url: given
                .into_iter()
                .find_map(|raw| raw.value)
                .and_then(|url| Url::parse(url).ok()),
        }
    }

    /// What a command prints may be coloured on a terminal.
    pub fn may_colour(&self) -> bool {
        raw!(self, log.no_color).value.is_none()
    }

    /// The log of a command: for people, and of warnings and worse, unless it is set.
    pub fn command_log(&self) -> Result<LogConfig, Faults> {
        let mut config = part(|findings| Some(validate::log(self, findings)))?;
        if !self.given.contains("log_level") {
            config.level = LevelFilter::Warn;
        }
        if !self.given.contains("log_format") {
            config.format = LogFormat::Text;
        }
        Ok(config)
    }
}

/// Judges a part: its value, or all faults in it.
fn part<T>(read: impl FnOnce(&mut Findings) -> Option<T>) -> Result<T, Faults> {
    let mut findings = Findings::default();
    let part = read(&mut findings);
    match part {
        Some(part) if findings.faults.is_empty() => Ok(part),
        _ => Err(Faults(findings.faults)),
    }
}
