//! Signing in to ElastiCache by IAM.

use super::super::settings::Settings;
use super::super::values::{Findings, raw, shown};
use super::super::{RedisAddress, RedisConfig, RedisIam, credentials};
use super::Aws;

/// True if IAM is asked for, however faulty the rest is.
pub(super) fn is_asked_for(settings: &Settings) -> bool {
    // The fault of a value that is no boolean is `iam`'s.
    Findings::default().boolean(raw!(settings, redis.redis_iam_auth))
}

/// What tokens are made for. None if IAM is not asked for, or after a fault.
pub(super) fn iam(
    settings: &Settings,
    config: Option<&RedisConfig>,
    aws: &Aws<'_>,
    findings: &mut Findings,
) -> Option<RedisIam> {
    let iam = raw!(settings, redis.redis_iam_auth);
    let cache_name = raw!(settings, redis.redis_iam_cache_name);
    let region = raw!(settings, redis.redis_iam_region);
    let serverless = raw!(settings, redis.redis_iam_serverless);
    let is_on = findings.boolean(iam);
    let is_serverless = findings.boolean(serverless);
    if !is_on {
        for raw in [cache_name, region] {
            if raw.value.is_some() {
                findings.fault(
                    raw,
                    "is given, but REDIS_IAM_AUTH is off; set REDIS_IAM_AUTH=1, or unset it",
                );
            }
        }
        return None;
    }
    for password in [
        raw!(settings, redis.redis_password),
        raw!(settings, redis.redis_password_file),
    ] {
        if password.value.is_some() {
            findings.fault(
                password,
                "is given together with REDIS_IAM_AUTH, which signs in with tokens; unset one of the two",
            );
        }
    }
    if let Some(config) = config {
        judge_connection(settings, config, findings);
    }
    let credentials = own_credentials(settings, aws, findings);
    if matches!(credentials, Ok(None)) {
        findings.fault(
            iam,
            "needs AWS credentials of your own, and there are only those of Stigg's Edge API, which can read the queue \
             and cannot sign in to your cache; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or another source of \
             credentials",
        );
    }
    let name = match cache_name.value {
        None => {
            findings.fault(
                cache_name,
                "is required with REDIS_IAM_AUTH; set the name of the serverless cache or the id of the replication \
                 group",
            );
            None
        }
        Some(name) if !is_name(name) => {
            findings.fault(
                cache_name,
                format!(
                    "{} is not the name of a cache; set the name of the serverless cache or the id of the replication \
                     group (letters, digits and dashes), not its host name",
                    shown(name)
                ),
            );
            None
        }
        // ElastiCache keeps names in lower case, and the signature is over what it keeps.
        Some(name) => Some(name.to_ascii_lowercase()),
    };
    let region = match region.value {
        Some(given) if !is_name(given) => {
            findings.fault(
                region,
                format!(
                    "{} is not the name of a region; set one like us-east-1",
                    shown(given)
                ),
            );
            None
        }
        Some(given) => Some(given),
        None => aws.region,
    };
    Some(RedisIam {
        cache_name: name?,
        region: region?.to_owned(),
        is_serverless,
        credentials: Box::new(credentials.ok()??),
    })
}

/// AWS credentials of one's own, if there are any.
fn own_credentials(settings: &Settings, aws: &Aws<'_>, findings: &mut Findings) -> credentials::Found {
    // What is wrong with them has been told of the queue's already, unless the queue uses the Edge API's.
    let mut own = Findings::default();
    let found = credentials::aws_source(settings, &mut own, aws.region);
    for fault in own.faults {
        if !findings.faults.contains(&fault) {
            findings.faults.push(fault);
        }
    }
    found
}

fn judge_connection(settings: &Settings, config: &RedisConfig, findings: &mut Findings) {
    let iam = raw!(settings, redis.redis_iam_auth);
    let username = raw!(settings, redis.redis_username);
    match &config.address {
        RedisAddress::Tcp { .. } => {}
        RedisAddress::Unix(_) => findings.fault(
            iam,
            "is on, but REDIS_URL names a unix socket, where no ElastiCache is; set the cache's host name",
        ),
        RedisAddress::Sentinel(_) => findings.fault(
            iam,
            "is on together with REDIS_SENTINELS, which ElastiCache does not have; set REDIS_HOST to the primary \
             endpoint",
        ),
    }
    if config.username.is_none() {
        findings.fault(
            username,
            "is required with REDIS_IAM_AUTH; set the ElastiCache user, whose name and id must be the same",
        );
    }
    let is_by_url = raw!(settings, redis.redis_url).value.is_some();
    if config.tls.is_none() && matches!(config.address, RedisAddress::Tcp { .. }) {
        findings.fault(
            iam,
            if is_by_url {
                "needs TLS, without which the token could be read on the way; set rediss:// in REDIS_URL"
            } else {
                "needs TLS, without which the token could be read on the way; set REDIS_TLS=1"
            },
        );
    }
    if is_by_url && config.password.is_some() {
        findings.fault(
            raw!(settings, redis.redis_url),
            "holds a password, but REDIS_IAM_AUTH signs in with tokens; remove it",
        );
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || letter == '-')
}
