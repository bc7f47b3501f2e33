//! Redis: by its own settings, by one URL, or by sentinels.

use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use rustls::InconsistentKeys;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use url::Url;

#[allow(clippy::wildcard_imports)] // the settings
use super::table::*;
use super::values::{Validator, shown};
use super::{RedisAddress, RedisConfig, RedisIam, RedisTls, Secret, SentinelConfig, credentials, queue};

const DEFAULT_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26_379;
/// Settings that add to a URL, or are not about Redis.
const BESIDE_A_URL: [&str; 4] = ["REDIS_URL", "REDIS_TLS_", "REDIS_IAM_", "REDIS_ENVIRONMENT_"];

/// How to reach Redis. None after a fault.
pub(super) fn redis(validator: &mut Validator<'_>) -> Option<RedisConfig> {
    let mut config = if validator.is_given(REDIS_URL) {
        let mut others: Vec<&str> = validator.given("REDIS_").iter().map(|other| other.variable).collect();
        others.retain(|name| !BESIDE_A_URL.iter().any(|beside| name.starts_with(beside)));
        if !others.is_empty() {
            let others = others.join(", ");
            validator.fault(REDIS_URL, format!("is given together with {others}; unset one or the other"));
        }
        validator.read(REDIS_URL, of_url)
    } else {
        of_settings(validator)
    };
    tls(validator, config.as_mut());
    let iam = iam(validator, config.as_ref());
    let config = RedisConfig { iam, ..config? };
    if config.username.is_some() && config.password.is_none() && config.iam.is_none() {
        let what = "is given without a password, and Redis needs both; set REDIS_PASSWORD";
        validator.notice(REDIS_USERNAME, what);
    }
    Some(config)
}

fn of_settings(validator: &mut Validator<'_>) -> Option<RedisConfig> {
    let has_tls = validator.boolean(REDIS_TLS);
    let address = if validator.is_given(REDIS_SENTINELS) {
        for other in ["REDIS_HOST", "REDIS_PORT"] {
            validator.refuse(other, "together with REDIS_SENTINELS; unset one of the two");
        }
        sentinels(validator, has_tls).map(RedisAddress::Sentinel)
    } else {
        validator.refuse("REDIS_SENTINEL_", "without REDIS_SENTINELS; set that too, or unset it");
        validator.require(&[REDIS_HOST], " (or REDIS_URL); set the host name of Redis");
        let host = validator.read(REDIS_HOST, |value| match host_and_port(value) {
            Some((host, None)) => Ok(host),
            _ => Err(format!(
                "{} is not a host name or an address; set just that here, a port in REDIS_PORT, and a URL or the path of a \
                 socket in REDIS_URL (unix:///path)",
                shown(value)
            )),
        });
        let port = validator.number(REDIS_PORT);
        host.map(|host| RedisAddress::Tcp { host, port })
    };
    let db = validator.number(REDIS_DB);
    let password = validator.secret(&[REDIS_PASSWORD, REDIS_PASSWORD_FILE]);
    let username = validator.newer_or_older(REDIS_USERNAME, REDIS_USER);
    Some(RedisConfig {
        address: address?,
        db,
        username: validator.owned(username),
        password,
        iam: None,
        tls: has_tls.then(RedisTls::default),
    })
}

/// `host`, `host:port`, `::1`, `[::1]` or `[::1]:port`. An address is returned without brackets.
fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    // With a zone, too: fe80::1%eth0.
    let is_ipv6 = |text: &str| text.split('%').next().is_some_and(|text| text.parse::<Ipv6Addr>().is_ok());
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !is_ipv6(text) && !text.ends_with(']') => (host, Some(port.parse().ok()?)),
        _ => (text, None),
    };
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let is_odd = |letter: char| letter.is_whitespace() || letter.is_control() || "/:@?#[],".contains(letter);
    (is_ipv6(bare) || !bare.is_empty() && !bare.contains(is_odd)).then(|| (bare.to_owned(), port))
}

fn sentinels(validator: &mut Validator<'_>, has_tls: bool) -> Option<SentinelConfig> {
    let sentinels = validator.read(REDIS_SENTINELS, |value| {
        let remedy = "set a list like sentinel-1:26379,sentinel-2:26379";
        let sentinel = |text: &str| {
            let sentinel = host_and_port(text).map(|(host, port)| (host, port.unwrap_or(SENTINEL_PORT)));
            sentinel.ok_or_else(|| format!("{} is not host:port; {remedy}", shown(text)))
        };
        let list = value.split(',').map(str::trim).filter(|item| !item.is_empty());
        let list = list.map(sentinel).collect::<Result<Vec<_>, String>>()?;
        if list.is_empty() { Err(format!("names no sentinel; {remedy}")) } else { Ok(list) }
    });
    let what =
        " with REDIS_SENTINELS; set the name under which the sentinels monitor the primary, often mymaster";
    validator.require(&[REDIS_SENTINEL_MASTER], what);
    let password = validator.secret(&[REDIS_SENTINEL_PASSWORD, REDIS_SENTINEL_PASSWORD_FILE]);
    let own_tls = validator.boolean(REDIS_SENTINEL_TLS);
    Some(SentinelConfig {
        sentinels: sentinels?,
        master: validator.owned(REDIS_SENTINEL_MASTER)?,
        username: validator.owned(REDIS_SENTINEL_USERNAME),
        password,
        tls: if validator.is_given(REDIS_SENTINEL_TLS) { own_tls } else { has_tls },
    })
}

/// The TLS settings that apply however TLS was enabled, since a URL has no place for them.
fn tls(validator: &mut Validator<'_>, config: Option<&mut RedisConfig>) {
    validator.pem::<CertificateDer<'_>>(REDIS_TLS_CA_FILE, "valid certificate");
    let chain = validator.pem::<CertificateDer<'_>>(REDIS_TLS_CERT_FILE, "valid certificate");
    let keys = validator.pem::<PrivateKeyDer<'_>>(REDIS_TLS_KEY_FILE, "private key that is not encrypted");
    let what = "is not a host name; set that in the certificate";
    let is_name = |name: &str| ServerName::try_from(name).is_ok();
    let mut refined = RedisTls {
        ca_file: validator.value(REDIS_TLS_CA_FILE).map(PathBuf::from),
        cert_file: validator.value(REDIS_TLS_CERT_FILE).map(PathBuf::from),
        key_file: validator.value(REDIS_TLS_KEY_FILE).map(PathBuf::from),
        server_name: validator.text(REDIS_TLS_SERVER_NAME, is_name, what),
        insecure: validator.boolean(REDIS_TLS_INSECURE),
    };
    validator.require_both(&[REDIS_TLS_CERT_FILE], &[REDIS_TLS_KEY_FILE]);
    if let (Some(chain), Some(mut keys)) = (chain, keys)
        && let Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) =
            CertifiedKey::from_der(chain, keys.remove(0), &default_provider())
    {
        let [certificate, key] = [REDIS_TLS_CERT_FILE, REDIS_TLS_KEY_FILE]
            .map(|setting| validator.value(setting).unwrap_or_default());
        let what = format!("{key} is not the key of the certificate in REDIS_TLS_CERT_FILE, {certificate}");
        let remedy = "set both to files of one key pair";
        validator.fault(REDIS_TLS_KEY_FILE, format!("{what}; {remedy}"));
    }
    match config.map(|config| &mut config.tls) {
        Some(Some(tls)) => {
            refined.insecure |= tls.insecure;
            if refined.insecure {
                let what = "is on: the certificate is not verified, so anyone may pose as Redis";
                validator.notice(REDIS_TLS_INSECURE, what);
            }
            *tls = refined;
        }
        Some(None) => {
            // Whoever sets one of these believes that the connection is encrypted.
            let what = "while TLS is off; set REDIS_TLS=1 (or rediss:// in REDIS_URL), or unset it";
            validator.refuse("REDIS_TLS_", what);
        }
        None => {}
    }
}

/// The settings in a URL. No fault shows the value, since it may hold a password.
fn of_url(text: &str) -> Result<RedisConfig, String> {
    let remedy = "set redis://user:password@host:6379/0 (rediss:// for TLS) or unix:///path?db=0&user=…&pass=…, with user and \
                  password percent-encoded";
    let fault = |what: &str| format!("{what}; {remedy}");
    let decoded = |text: &str| {
        let decoded = percent_decode_str(text).decode_utf8();
        decoded.map(String::from).map_err(|_| fault("holds a percent-encoded part that is not UTF-8"))
    };
    let url = Url::parse(text).map_err(|error| fault(&format!("is not a URL ({error})")))?;
    let mut query: HashMap<_, _> = url.query_pairs().into_owned().collect();
    let path = decoded(url.path())?;
    let (address, [db, username, password]) = match (url.scheme(), url.host_str()) {
        ("redis" | "rediss", Some(host)) => {
            let host = decoded(host.trim_matches(['[', ']']))?;
            let password = decoded(url.password().unwrap_or_default())?;
            let parts = [path.trim_matches('/').to_owned(), decoded(url.username())?, password];
            (RedisAddress::Tcp { host, port: url.port().unwrap_or(DEFAULT_PORT) }, parts)
        }
        // As the redis crate has it.
        ("unix" | "redis+unix", None) if path.starts_with('/') && path != "/" => {
            let parts = ["db", "user", "pass"].map(|name| query.remove(name).unwrap_or_default());
            (RedisAddress::Unix(PathBuf::from(path)), parts)
        }
        ("redis" | "rediss", None) => return Err(fault("names no host")),
        ("unix" | "redis+unix", _) => return Err(fault("names no absolute path")),
        _ => return Err(fault("is not a URL of Redis")),
    };
    let has_tls = url.scheme() == "rediss";
    let insecure = has_tls && url.fragment() == Some("insecure");
    if !query.is_empty() || url.fragment().is_some() && !insecure {
        return Err(fault("holds a query or a fragment that is not known"));
    }
    let not_empty = |part: String| Some(part).filter(|part| !part.is_empty());
    let db = format!("0{db}").parse();
    Ok(RedisConfig {
        address,
        db: db.map_err(|_| fault("holds a database that is not a number from 0 to 65535"))?,
        username: not_empty(username),
        password: not_empty(password).map(Secret::inline),
        iam: None,
        tls: has_tls.then(|| RedisTls { insecure, ..RedisTls::default() }),
    })
}

/// What ElastiCache tokens are signed for. None if IAM is not asked for, or after a fault.
fn iam(validator: &mut Validator<'_>, config: Option<&RedisConfig>) -> Option<RedisIam> {
    let is_serverless = validator.boolean(REDIS_IAM_SERVERLESS);
    if !validator.boolean(REDIS_IAM_AUTH) {
        let what = "while REDIS_IAM_AUTH is off; set REDIS_IAM_AUTH=1, or unset it";
        validator.refuse("REDIS_IAM_", what);
        return None;
    }
    if let Some(config) = config {
        if config.tls.is_none() || !matches!(config.address, RedisAddress::Tcp { .. }) {
            let remedy = "set REDIS_HOST and REDIS_TLS=1, or a rediss:// URL";
            validator
                .fault(REDIS_IAM_AUTH, format!("needs the host of an ElastiCache cache, and TLS; {remedy}"));
        }
        if config.password.is_some() {
            validator.fault(REDIS_IAM_AUTH, "uses tokens instead of a password; unset one of the two");
        }
        if config.username.is_none() {
            validator.require(&[REDIS_USERNAME], " with REDIS_IAM_AUTH; set the ElastiCache user's id");
        }
    }
    let faults = validator.faults();
    let credentials = credentials::own(validator);
    if credentials.is_none() && validator.faults() == faults {
        let remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or another source of credentials";
        let what = format!("needs AWS credentials other than those of Stigg's Edge API; {remedy}");
        validator.fault(REDIS_IAM_AUTH, what);
    }
    let what = " with REDIS_IAM_AUTH; set the name of the serverless cache or replication group";
    validator.require(&[REDIS_IAM_CACHE_NAME], what);
    let is_name = |name: &str| name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '-');
    let what = "is not the name of a cache; set that, not its host name";
    let cache_name = validator.text(REDIS_IAM_CACHE_NAME, is_name, what);
    Some(RedisIam {
        region: queue::region_name(validator, REDIS_IAM_REGION).or_else(|| queue::region(validator))?,
        // ElastiCache keeps names in lower case, and the signature is over what it keeps.
        cache_name: cache_name?.to_ascii_lowercase(),
        is_serverless,
        credentials: Box::new(credentials?),
    })
}
