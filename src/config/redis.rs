//! Redis: by its own settings, or by one URL.

mod client_certificate;
mod iam;

use std::net::Ipv6Addr;
use std::path::PathBuf;

use url::{Host, Url};

use super::settings::Settings;
use super::values::{Findings, Raw, raw, shown};
use super::{RedisAddress, RedisConfig, RedisTls, Secret, SentinelConfig};

const DEFAULT_PORT: u16 = 6379;

/// What tokens for ElastiCache are made with; none of a part that has a fault.
pub(super) struct Aws<'a> {
    /// Of the queue.
    pub region: Option<&'a str>,
}

/// How to reach Redis. None after a fault.
pub(super) fn redis(settings: &Settings, aws: &Aws<'_>, findings: &mut Findings) -> Option<RedisConfig> {
    let by_url = raw!(settings, redis.redis_url);
    let by_sentinel = raw!(settings, redis.redis_sentinels);
    let mut config = match (by_url.value, by_sentinel.value) {
        (Some(text), _) => {
            refuse_both(settings, findings, by_url);
            from_url(by_url, text, findings)
        }
        (None, Some(_)) => from_sentinels(settings, findings),
        (None, None) => {
            refuse_without_sentinels(settings, findings);
            from_settings(settings, findings)
        }
    };
    let identity = client_certificate::files(settings, findings);
    let server_name = server_name(settings, findings);
    // These refine TLS however it was asked for, as a URL has no place for them.
    let ca = raw!(settings, redis.redis_tls_ca_file);
    let insecure = raw!(settings, redis.redis_tls_insecure);
    let ca_file = findings.certificates(ca);
    let is_insecure = findings.boolean(insecure);
    let iam = iam::iam(settings, config.as_ref(), aws, findings);
    let config = config.as_mut()?;
    config.iam = iam;
    match &mut config.tls {
        Some(tls) => {
            tls.insecure |= is_insecure;
            if tls.insecure {
                let without_effect = if ca_file.is_some() {
                    "; REDIS_TLS_CA_FILE has no effect"
                } else {
                    ""
                };
                findings.notice(
                    insecure,
                    format!(
                        "is on: the server's certificate is not verified, so anyone may pose as Redis{without_effect}"
                    ),
                );
            }
            tls.ca_file = ca_file;
            (tls.cert_file, tls.key_file) = identity.unzip();
            tls.server_name = server_name;
        }
        None if ca.value.is_some() => {
            // Whoever names an authority believes that the connection is encrypted.
            findings.fault(
                ca,
                "is given, but TLS is off; set REDIS_TLS=1 (or rediss:// in REDIS_URL), or unset it",
            );
        }
        None if identity.is_some() || server_name.is_some() => {
            let given = raw!(settings, redis.redis_tls_cert_file);
            let given = if identity.is_some() {
                given
            } else {
                raw!(settings, redis.redis_tls_server_name)
            };
            findings.fault(
                given,
                "is given, but TLS is off; set REDIS_TLS=1 (or rediss:// in REDIS_URL), or unset it",
            );
        }
        None if is_insecure => findings.notice(insecure, "has no effect, as TLS is off"),
        None => {}
    }
    if config.username.is_some() && config.password.is_none() && !iam::is_asked_for(settings) {
        findings.notice(
            raw!(settings, redis.redis_username),
            "is given without a password; Redis signs in by both, so set REDIS_PASSWORD too",
        );
    }
    Some(config.clone())
}

fn from_settings(settings: &Settings, findings: &mut Findings) -> Option<RedisConfig> {
    let host = host(raw!(settings, redis.redis_host), findings);
    let port = findings.number(raw!(settings, redis.redis_port), &(1..=u16::MAX));
    let config = beside_the_address(settings, findings);
    Some(RedisConfig {
        address: RedisAddress::Tcp { host: host?, port },
        ..config
    })
}

/// Everything but the address, which is a placeholder.
fn beside_the_address(settings: &Settings, findings: &mut Findings) -> RedisConfig {
    let db = findings.number(raw!(settings, redis.redis_db), &(0..=u16::MAX));
    let has_tls = findings.boolean(raw!(settings, redis.redis_tls));
    let password = findings.secret(
        raw!(settings, redis.redis_password),
        raw!(settings, redis.redis_password_file),
    );
    let newer = raw!(settings, redis.redis_username);
    let username = findings
        .newer_or_older(newer, raw!(settings, older.redis_user))
        .value
        .map(str::to_owned);
    RedisConfig {
        address: RedisAddress::Unix(PathBuf::new()),
        db,
        username,
        password,
        iam: None,
        tls: has_tls.then(RedisTls::default),
    }
}

fn from_sentinels(settings: &Settings, findings: &mut Findings) -> Option<RedisConfig> {
    let given = raw!(settings, redis.redis_sentinels);
    for other in [raw!(settings, redis.redis_host), raw!(settings, redis.redis_port)] {
        if other.is_given {
            let name = other.variable();
            findings.fault(
                other,
                format!("is given together with REDIS_SENTINELS, which tell where the primary is; unset {name} or REDIS_SENTINELS"),
            );
        }
    }
    let mut sentinels = Vec::new();
    for text in given
        .value
        .unwrap_or_default()
        .split(',')
        .map(str::trim)
        .filter(|text| !text.is_empty())
    {
        match sentinel_address(text) {
            Some(address) => sentinels.push(address),
            None => findings.fault(
                given,
                format!(
                    "{} is not host:port; set a list like sentinel-1:26379,sentinel-2:26379",
                    shown(text)
                ),
            ),
        }
    }
    if sentinels.is_empty() {
        findings.fault(
            given,
            "names no sentinel; set a list like sentinel-1:26379,sentinel-2:26379",
        );
    }
    let master = raw!(settings, redis.redis_sentinel_master);
    if master.value.is_none() {
        findings.fault(
            master,
            "is required with REDIS_SENTINELS; set the name that the sentinels give the primary, often mymaster",
        );
    }
    let password = findings.secret(
        raw!(settings, redis.redis_sentinel_password),
        raw!(settings, redis.redis_sentinel_password_file),
    );
    let config = beside_the_address(settings, findings);
    let tls = raw!(settings, redis.redis_sentinel_tls);
    let sentinel = SentinelConfig {
        sentinels,
        master: master.value?.to_owned(),
        username: raw!(settings, redis.redis_sentinel_username)
            .value
            .map(str::to_owned),
        password,
        tls: if tls.value.is_some() {
            findings.boolean(tls)
        } else {
            config.tls.is_some()
        },
    };
    Some(RedisConfig {
        address: RedisAddress::Sentinel(sentinel),
        ..config
    })
}

/// `host`, `host:port`, `[::1]:port`.
fn sentinel_address(text: &str) -> Option<(String, u16)> {
    const SENTINEL_PORT: u16 = 26_379;
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (host, port.parse().ok().filter(|port| *port != 0)?)
        }
        Some(_) | None => (text, SENTINEL_PORT),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_odd =
        host.is_empty() || host.contains(|letter: char| letter.is_whitespace() || "/@?#".contains(letter));
    (!is_odd).then(|| (host.to_owned(), port))
}

fn refuse_without_sentinels(settings: &Settings, findings: &mut Findings) {
    for raw in [
        raw!(settings, redis.redis_sentinel_master),
        raw!(settings, redis.redis_sentinel_username),
        raw!(settings, redis.redis_sentinel_password),
        raw!(settings, redis.redis_sentinel_password_file),
        raw!(settings, redis.redis_sentinel_tls),
    ] {
        if raw.value.is_some() {
            findings.fault(raw, "is given without REDIS_SENTINELS; set that too, or unset it");
        }
    }
}

fn server_name(settings: &Settings, findings: &mut Findings) -> Option<String> {
    let raw = raw!(settings, redis.redis_tls_server_name);
    let name = raw.value?;
    if rustls::pki_types::ServerName::try_from(name).is_err() {
        findings.fault(
            raw,
            format!(
                "{} is not a host name; set the name in the server's certificate",
                shown(name)
            ),
        );
        return None;
    }
    Some(name.to_owned())
}

/// A host name or an address, without brackets.
fn host(raw: Raw<'_>, findings: &mut Findings) -> Option<String> {
    let Some(value) = raw.value else {
        findings.fault(
            raw,
            "REDIS_HOST or REDIS_URL is required; set the host name of Redis",
        );
        return None;
    };
    let bare = value
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(value);
    let is_ipv6 = bare
        .split('%')
        .next()
        .is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
    if is_ipv6 {
        return Some(bare.to_owned());
    }
    let fault = if value.contains("://") {
        "is a URL; set it as REDIS_URL instead, or only the host name here".to_owned()
    } else if value.starts_with('/') {
        "is a path; for a unix socket set REDIS_URL=unix:///path/of/socket".to_owned()
    } else if value.contains(',') {
        format!(
            "{} is more than one host; set the host name of the primary",
            shown(value)
        )
    } else if let Some((name, port)) = value.rsplit_once(':')
        && !name.is_empty()
        && port.chars().all(|digit| digit.is_ascii_digit())
    {
        format!(
            "{} holds a port; set {} here and the port as REDIS_PORT",
            shown(value),
            shown(name)
        )
    } else if value
        .contains(|letter: char| letter.is_whitespace() || letter.is_control() || "/:@?#[]".contains(letter))
    {
        format!(
            "{} is not a host name or an address; set one without port, user or path",
            shown(value)
        )
    } else {
        return Some(value.to_owned());
    };
    findings.fault(raw, fault);
    None
}

fn refuse_both(settings: &Settings, findings: &mut Findings, by_url: Raw<'_>) {
    let others = [
        raw!(settings, redis.redis_host),
        raw!(settings, redis.redis_port),
        raw!(settings, redis.redis_db),
        raw!(settings, redis.redis_username),
        raw!(settings, older.redis_user),
        raw!(settings, redis.redis_password),
        raw!(settings, redis.redis_password_file),
        raw!(settings, redis.redis_tls),
        raw!(settings, redis.redis_sentinels),
        raw!(settings, redis.redis_sentinel_master),
    ];
    let names: Vec<String> = others
        .iter()
        .filter(|raw| raw.is_given)
        .map(|raw| raw.variable())
        .collect();
    if !names.is_empty() {
        let names = names.join(", ");
        findings.fault(
            by_url,
            format!("is given together with {names}; unset either the URL or {names}"),
        );
    }
}

/// The address in a URL. The value is never shown, since it may hold a password.
fn from_url(raw: Raw<'_>, text: &str, findings: &mut Findings) -> Option<RedisConfig> {
    let parsed = Url::parse(text).map_err(|error| {
        format!("is not a URL ({error}); set redis://user:password@host:6379/0, with special characters of the password percent-encoded")
    });
    let config = parsed.and_then(|url| match url.scheme() {
        "redis" => tcp(&url, None),
        "rediss" => tcp(&url, Some(RedisTls::default())),
        "unix" | "redis+unix" => unix(&url),
        _ => Err("must start with redis://, rediss:// (TLS) or unix://; correct it".to_owned()),
    });
    match config {
        Ok(config) => Some(config),
        Err(fault) => {
            findings.fault(raw, fault);
            None
        }
    }
}

fn tcp(url: &Url, tls: Option<RedisTls>) -> Result<RedisConfig, String> {
    let host = match url.host() {
        Some(Host::Domain(name)) if !name.is_empty() => decoded(name)?,
        Some(Host::Ipv4(address)) => address.to_string(),
        Some(Host::Ipv6(address)) => address.to_string(),
        Some(Host::Domain(_)) | None => return Err("names no host; set redis://host:6379".to_owned()),
    };
    if url.query().is_some() {
        return Err(
            "holds a query, which is not known; remove what follows ?, or percent-encode a ? of the \
                    password"
                .to_owned(),
        );
    }
    let tls = match (url.fragment(), tls) {
        (None, tls) => tls,
        (Some("insecure"), Some(tls)) => Some(RedisTls {
            insecure: true,
            ..tls
        }),
        (Some(_), _) => {
            return Err(
                "holds a fragment; remove what follows #, or percent-encode a # of the password".to_owned(),
            );
        }
    };
    if url.port() == Some(0) {
        return Err("holds the port 0; set one from 1 to 65535".to_owned());
    }
    let password = url
        .password()
        .map(decoded)
        .transpose()?
        .filter(|password| !password.is_empty());
    Ok(RedisConfig {
        address: RedisAddress::Tcp {
            host,
            port: url.port().unwrap_or(DEFAULT_PORT),
        },
        db: database(url.path().trim_start_matches('/'))?,
        username: Some(decoded(url.username())?).filter(|name| !name.is_empty()),
        password: password.map(Secret::inline),
        iam: None,
        tls,
    })
}

fn unix(url: &Url) -> Result<RedisConfig, String> {
    let path = decoded(url.path())?;
    if url.host_str().is_some_and(|host| !host.is_empty()) || !path.starts_with('/') || path.len() < 2 {
        return Err("names no absolute path; set unix:///path/of/socket, with three slashes".to_owned());
    }
    let mut config = RedisConfig {
        address: RedisAddress::Unix(PathBuf::from(path)),
        db: 0,
        username: None,
        password: None,
        iam: None,
        tls: None,
    };
    // The form that the redis crate and redis-py know: ?db=1&user=…&pass=….
    for (key, value) in url.query_pairs() {
        match key.as_ref() {
            _ if value.is_empty() => {}
            "db" => config.db = database(&value)?,
            "user" | "username" => config.username = Some(value.into_owned()),
            "pass" | "password" => config.password = Some(Secret::inline(value)),
            _ => return Err("holds a query that is not known; use db, user and pass".to_owned()),
        }
    }
    Ok(config)
}

fn database(text: &str) -> Result<u16, String> {
    if text.is_empty() {
        return Ok(0);
    }
    // The text is not shown: a password that was not percent-encoded may have ended up here.
    text.parse()
        .map_err(|_| "holds a database that is not a number from 0 to 65535; correct it".to_owned())
}

/// Percent-decoded text. The url crate hands the parts out encoded.
fn decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escape = match (first, after) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)),
            _ => None,
        };
        if let Some((high, low)) = escape {
            bytes.push(high << 4 | low);
            rest = after.get(2..).unwrap_or_default();
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes)
        .map_err(|_| "holds a percent-encoded part that is not UTF-8; encode it as UTF-8".to_owned())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}
