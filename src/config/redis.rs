//! Redis: by its own settings, by one URL, or by sentinels.

use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;
use rustls::InconsistentKeys;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use url::{Host, Url};

use super::settings::Settings;
use super::values::{Findings, Raw, raw, shown};
use super::{RedisAddress, RedisConfig, RedisIam, RedisTls, Secret, SentinelConfig, credentials, queue};

const DEFAULT_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26_379;
/// Settings that add to a URL, or are not about Redis.
const BESIDE_A_URL: [&str; 4] = ["REDIS_URL", "REDIS_TLS_", "REDIS_IAM_", "REDIS_ENVIRONMENT_"];

/// How to reach Redis. None after a fault. `region` is the queue's, none if there was a fault in it.
pub(super) fn redis(
    settings: &Settings,
    region: Option<&str>,
    findings: &mut Findings,
) -> Option<RedisConfig> {
    let url = raw!(settings, redis.redis_url);
    let mut config = if url.is_given {
        let names = settings.given("REDIS_").map(Raw::variable);
        let is_other = |name: &&str| !BESIDE_A_URL.iter().any(|beside| name.starts_with(beside));
        let names = names.filter(is_other).collect::<Vec<_>>().join(", ");
        if !names.is_empty() {
            findings.fault(url, format!("is given together with {names}; unset either"));
        }
        findings.read(url, of_url)
    } else {
        of_settings(settings, findings)
    };
    tls(settings, config.as_mut(), findings);
    let iam = iam(settings, config.as_ref(), region, findings);
    let mut config = config?;
    config.iam = iam;
    if config.username.is_some() && config.password.is_none() && config.iam.is_none() {
        let username = raw!(settings, redis.redis_username);
        let what = "is given without a password, and Redis needs both; set REDIS_PASSWORD";
        findings.notice(username, what);
    }
    Some(config)
}

fn of_settings(settings: &Settings, findings: &mut Findings) -> Option<RedisConfig> {
    let (host, port) = (raw!(settings, redis.redis_host), raw!(settings, redis.redis_port));
    let has_tls = findings.boolean(raw!(settings, redis.redis_tls));
    let address = if raw!(settings, redis.redis_sentinels).is_given {
        let what = "together with REDIS_SENTINELS; unset one of the two";
        findings.refuse([host, port], what);
        sentinels(settings, has_tls, findings).map(RedisAddress::Sentinel)
    } else {
        let what = "without REDIS_SENTINELS; set that too, or unset it";
        findings.refuse(settings.given("REDIS_SENTINEL_"), what);
        findings.require(host, " (or REDIS_URL); set the host name of Redis");
        let (host, port) = (findings.read(host, host_name), findings.number(port));
        host.map(|host| RedisAddress::Tcp { host, port })
    };
    let db = findings.number(raw!(settings, redis.redis_db));
    let password = raw!(settings, redis.redis_password);
    let password = findings.secret(password, raw!(settings, redis.redis_password_file));
    let username = raw!(settings, redis.redis_username);
    let username = findings.newer_or_older(username, raw!(settings, older.redis_user));
    Some(RedisConfig {
        address: address?,
        db,
        username: username.value.map(str::to_owned),
        password,
        iam: None,
        tls: has_tls.then(RedisTls::default),
    })
}

/// A host name or an address, without brackets.
fn host_name(value: &str) -> Result<String, String> {
    let in_brackets = value.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let bare = in_brackets.unwrap_or(value);
    let is_ipv6 = |text: &str| text.parse::<Ipv6Addr>().is_ok();
    let is_odd = |letter: char| letter.is_whitespace() || letter.is_control() || "/:@?#[],".contains(letter);
    if value.contains("://") || value.starts_with('/') {
        return Err("is a URL or a path; set it as REDIS_URL (unix:///path for a socket)".into());
    }
    if bare.split('%').next().is_some_and(is_ipv6) || !value.contains(is_odd) {
        return Ok(bare.to_owned());
    }
    Err(shown(value) + " is not one host name or address; set only that, and the port as REDIS_PORT")
}

fn sentinels(settings: &Settings, has_tls: bool, findings: &mut Findings) -> Option<SentinelConfig> {
    const REMEDY: &str = "set a list like sentinel-1:26379,sentinel-2:26379";
    let sentinels = findings.read(raw!(settings, redis.redis_sentinels), |value| {
        let texts = value.split(',').map(str::trim).filter(|text| !text.is_empty());
        let fault = |text| format!("{} is not host:port; {REMEDY}", shown(text));
        let sentinels = texts.map(|text| sentinel(text).ok_or_else(|| fault(text)));
        let sentinels: Vec<_> = sentinels.collect::<Result<_, _>>()?;
        let some = Some(sentinels).filter(|sentinels| !sentinels.is_empty());
        some.ok_or_else(|| format!("names no sentinel; {REMEDY}"))
    });
    let master = raw!(settings, redis.redis_sentinel_master);
    let what = " with REDIS_SENTINELS; set the sentinels' name of the primary, often mymaster";
    findings.require(master, what);
    let password = raw!(settings, redis.redis_sentinel_password);
    let password = findings.secret(password, raw!(settings, redis.redis_sentinel_password_file));
    let username = raw!(settings, redis.redis_sentinel_username).value;
    let tls = raw!(settings, redis.redis_sentinel_tls);
    let has_tls = (!tls.is_given && has_tls) || findings.boolean(tls);
    Some(SentinelConfig {
        sentinels: sentinels?,
        master: master.value?.to_owned(),
        username: username.map(str::to_owned),
        password,
        tls: has_tls,
    })
}

/// `host`, `host:port`, `[::1]:port`.
fn sentinel(text: &str) -> Option<(String, u16)> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (host, port.parse().ok().filter(|port| *port != 0)?)
        }
        Some(_) | None => (text, SENTINEL_PORT),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_odd = |letter: char| letter.is_whitespace() || "/@?#".contains(letter);
    (!host.is_empty() && !host.contains(is_odd)).then(|| (host.to_owned(), port))
}

/// What refines TLS however it was asked for, as a URL has no place for it.
fn tls(settings: &Settings, config: Option<&mut RedisConfig>, findings: &mut Findings) {
    let certificate = raw!(settings, redis.redis_tls_cert_file);
    let key = raw!(settings, redis.redis_tls_key_file);
    let insecure = raw!(settings, redis.redis_tls_insecure);
    let refined = RedisTls {
        ca_file: findings.certificates(raw!(settings, redis.redis_tls_ca_file)),
        cert_file: findings.certificates(certificate),
        key_file: findings.private_key(key),
        server_name: findings.read(raw!(settings, redis.redis_tls_server_name), |name| {
            let fault = |_| format!("{} is not a host name; set that in the certificate", shown(name));
            ServerName::try_from(name).map(|_| name.to_owned()).map_err(fault)
        }),
        insecure: findings.boolean(insecure),
    };
    for (given, missing) in [(certificate, key), (key, certificate)] {
        if given.is_given {
            findings.require(missing, &format!(" with {}; set both", given.variable()));
        }
    }
    if let (Some(cert_file), Some(key_file)) = (&refined.cert_file, &refined.key_file)
        && !belong_together(cert_file, key_file)
    {
        let what = "is not the key of the certificate in REDIS_TLS_CERT_FILE";
        let (cert_file, key_file) = (cert_file.display(), key_file.display());
        let remedy = "set both to files that were made together";
        findings.fault(key, format!("{key_file} {what}, {cert_file}; {remedy}"));
    }
    match config.map(|config| &mut config.tls) {
        Some(Some(tls)) => {
            if tls.insecure || refined.insecure {
                let what = "is on: the certificate is not verified, so anyone may pose as Redis";
                findings.notice(insecure, what);
            }
            let insecure = tls.insecure || refined.insecure;
            *tls = RedisTls { insecure, ..refined };
        }
        Some(None) => {
            // Whoever sets one of these believes that the connection is encrypted.
            let given = settings.given("REDIS_TLS_").filter(|raw| !raw.is_a_switch());
            let what = "while TLS is off; set REDIS_TLS=1 (or rediss:// in REDIS_URL), or unset it";
            findings.refuse(given, what);
        }
        None => {}
    }
}

/// False if it is certain that the key is another certificate's. A file that cannot be used at all is reported when it is used.
fn belong_together(certificate: &Path, key: &Path) -> bool {
    let read = || {
        let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
        Ok::<_, pem::Error>((chain, PrivateKeyDer::from_pem_file(key)?))
    };
    let provider = rustls::crypto::ring::default_provider();
    let pair = read().map(|(chain, key)| CertifiedKey::from_der(chain, key, &provider));
    let mismatch = rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch);
    !pair.is_ok_and(|pair| pair.is_err_and(|error| error == mismatch))
}

/// The settings in a URL. No fault shows the value, since it may hold a password.
fn of_url(text: &str) -> Result<RedisConfig, String> {
    let decoded = |text: &str| {
        let decoded = percent_decode_str(text).decode_utf8();
        let fault = |_| "holds a percent-encoded part that is not UTF-8; correct it".to_owned();
        decoded.map(String::from).map_err(fault)
    };
    let url = Url::parse(text).map_err(|error| {
        format!("is not a URL ({error}); set redis://user:password@host:6379/0, the password percent-encoded")
    })?;
    let mut username = decoded(url.username())?;
    let mut password = decoded(url.password().unwrap_or_default())?;
    let mut db = String::new();
    let mut tls = (url.scheme() == "rediss").then(RedisTls::default);
    let path = decoded(url.path())?;
    let address = match (url.scheme(), url.host()) {
        ("redis" | "rediss", _) if url.port() == Some(0) => {
            return Err("holds the port 0; set one from 1 to 65535".into());
        }
        ("redis" | "rediss", Some(host)) => {
            path.trim_start_matches('/').clone_into(&mut db);
            let host = match host {
                Host::Domain(name) => decoded(name)?,
                Host::Ipv4(address) => address.to_string(),
                Host::Ipv6(address) => address.to_string(),
            };
            let port = url.port().unwrap_or(DEFAULT_PORT);
            RedisAddress::Tcp { host, port }
        }
        ("redis" | "rediss", None) => return Err("names no host; set redis://host:6379".into()),
        ("unix" | "redis+unix", None) if path.starts_with('/') && path != "/" => {
            RedisAddress::Unix(PathBuf::from(path))
        }
        ("unix" | "redis+unix", _) => return Err("names no absolute path; set unix:///path/of/socket".into()),
        _ => return Err("must start with redis://, rediss:// (TLS) or unix://; correct it".into()),
    };
    // The form that the redis crate and redis-py know: ?db=1&user=…&pass=….
    for (key, value) in url.query_pairs().filter(|(_, value)| !value.is_empty()) {
        match (key.as_ref(), &address) {
            ("db", RedisAddress::Unix(_)) => db = value.into_owned(),
            ("user" | "username", RedisAddress::Unix(_)) => username = value.into_owned(),
            ("pass" | "password", RedisAddress::Unix(_)) => password = value.into_owned(),
            _ => return Err("holds a query; remove it, or percent-encode a ? of the password".into()),
        }
    }
    match (url.fragment(), &mut tls) {
        (None, _) => {}
        (Some("insecure"), Some(tls)) => tls.insecure = true,
        _ => return Err("holds a fragment; remove it, or percent-encode a # of the password".into()),
    }
    // Not shown: a password that was not percent-encoded may have ended up here.
    let fault = |_| "holds a database that is not a number from 0 to 65535; correct it".to_owned();
    Ok(RedisConfig {
        address,
        db: format!("0{db}").parse().map_err(fault)?,
        username: (!username.is_empty()).then_some(username),
        password: (!password.is_empty()).then(|| Secret::inline(password)),
        iam: None,
        tls,
    })
}

/// What tokens for ElastiCache are made for. None if IAM is not asked for, or after a fault.
fn iam(
    settings: &Settings,
    config: Option<&RedisConfig>,
    region: Option<&str>,
    findings: &mut Findings,
) -> Option<RedisIam> {
    let iam = raw!(settings, redis.redis_iam_auth);
    let is_serverless = findings.boolean(raw!(settings, redis.redis_iam_serverless));
    if !findings.boolean(iam) {
        let given = settings.given("REDIS_IAM_").filter(|raw| !raw.is_a_switch());
        let what = "while REDIS_IAM_AUTH is off; set REDIS_IAM_AUTH=1, or unset it";
        findings.refuse(given, what);
        return None;
    }
    if let Some(config) = config {
        if config.tls.is_none() || !matches!(config.address, RedisAddress::Tcp { .. }) {
            let remedy = "set REDIS_HOST and REDIS_TLS=1, or a rediss:// URL";
            findings.fault(iam, format!("needs TLS to the host of an ElastiCache; {remedy}"));
        }
        if config.password.is_some() {
            findings.fault(iam, "uses tokens instead of a password; unset one of the two");
        }
        if config.username.is_none() {
            let username = raw!(settings, redis.redis_username);
            findings.require(username, " with REDIS_IAM_AUTH; set the ElastiCache user's id");
        }
    }
    // Their faults have been reported for the queue already, unless the queue uses the Edge API's credentials.
    let mut own = Findings::default();
    let credentials = credentials::aws_source(settings, &mut own, region);
    own.faults.retain(|fault| !findings.faults.contains(fault));
    findings.faults.append(&mut own.faults);
    if matches!(credentials, Ok(None)) {
        let remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or another source of credentials";
        let what = format!("needs AWS credentials other than those of Stigg's Edge API; {remedy}");
        findings.fault(iam, what);
    }
    let name = raw!(settings, redis.redis_iam_cache_name);
    let what = " with REDIS_IAM_AUTH; set the name of the serverless cache or replication group";
    findings.require(name, what);
    let cache_name = findings.read(name, |name| {
        let fault = || shown(name) + " is not the name of a cache; set that, not its host name";
        let is_name = name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '-');
        // ElastiCache keeps names in lower case, and the signature is over what it keeps.
        is_name.then(|| name.to_ascii_lowercase()).ok_or_else(fault)
    });
    let own_region = findings.read(raw!(settings, redis.redis_iam_region), queue::region_name);
    Some(RedisIam {
        cache_name: cache_name?,
        region: own_region.or(region.map(str::to_owned))?,
        is_serverless,
        credentials: Box::new(credentials.ok()??),
    })
}
