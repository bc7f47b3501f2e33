//! Redis: by its own settings, or by one URL.

use std::net::Ipv6Addr;
use std::path::PathBuf;

use url::{Host, Url};

use super::settings::Settings;
use super::values::{Findings, Raw, raw, shown};
use super::{RedisAddress, RedisConfig, RedisTls, Secret};

const DEFAULT_PORT: u16 = 6379;

/// How to reach Redis. None after a fault.
pub(super) fn redis(settings: &Settings, findings: &mut Findings) -> Option<RedisConfig> {
    refuse_later(settings, findings);
    let by_url = raw!(settings, redis.redis_url);
    let mut config = match by_url.value {
        Some(text) => {
            refuse_both(settings, findings, by_url);
            from_url(by_url, text, findings)
        }
        None => from_settings(settings, findings),
    };
    // These two refine TLS however it was asked for, as a URL has no place for them.
    let ca = raw!(settings, redis.redis_tls_ca_file);
    let insecure = raw!(settings, redis.redis_tls_insecure);
    let ca_file = findings.certificates(ca);
    let is_insecure = findings.boolean(insecure);
    let config = config.as_mut()?;
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
        }
        None if ca.value.is_some() => {
            // Whoever names an authority believes that the connection is encrypted.
            findings.fault(
                ca,
                "is given, but TLS is off; set REDIS_TLS=1 (or rediss:// in REDIS_URL), or unset it",
            );
        }
        None if is_insecure => findings.notice(insecure, "has no effect, as TLS is off"),
        None => {}
    }
    if config.username.is_some() && config.password.is_none() {
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
    Some(RedisConfig {
        address: RedisAddress::Tcp { host: host?, port },
        db,
        username,
        password,
        tls: has_tls.then(RedisTls::default),
    })
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

/// What the contract knows and this version does not. To go on without would reach another Redis than was meant,
/// or in another way, so each is a fault.
fn refuse_later(settings: &Settings, findings: &mut Findings) {
    const SENTINEL: &str = "Redis Sentinel is not supported in this version; unset it, and set REDIS_HOST to a name that leads to the \
         primary";
    const IAM: &str = "signing in to ElastiCache by IAM is not supported in this version; unset it, and set \
                       REDIS_USERNAME and REDIS_PASSWORD";
    const CLIENT_CERTIFICATE: &str = "client certificates are not supported in this version; unset it, and let Redis accept clients without one \
         (tls-auth-clients no)";
    const SERVER_NAME: &str = "is not supported in this version; unset it, and set REDIS_HOST to the name in the server's certificate";
    for (raw, text) in [
        (raw!(settings, later.redis_sentinels), SENTINEL),
        (raw!(settings, later.redis_sentinel_master), SENTINEL),
        (raw!(settings, later.redis_sentinel_username), SENTINEL),
        (raw!(settings, later.redis_sentinel_password), SENTINEL),
        (raw!(settings, later.redis_sentinel_password_file), SENTINEL),
        (raw!(settings, later.redis_iam_cache_name), IAM),
        (raw!(settings, later.redis_tls_cert_file), CLIENT_CERTIFICATE),
        (raw!(settings, later.redis_tls_key_file), CLIENT_CERTIFICATE),
        (raw!(settings, later.redis_tls_server_name), SERVER_NAME),
    ] {
        if raw.value.is_some() {
            findings.fault(raw, text);
        }
    }
    let iam = raw!(settings, later.redis_iam_auth);
    if findings.boolean(iam) {
        findings.fault(iam, IAM);
    }
}
