//! Which Redis is the primary, as the sentinels have it. Each is asked in turn, none for long; the first that knows
//! is believed, and whoever dials its answer checks the role.

use std::time::{Duration, Instant};

use redis::{ErrorKind, RedisError, Value, cmd};

use super::connection::{DialPlan, SignIn, open, sign_in};
use super::{Reach, StoreError};
use crate::config::{RedisTls, SentinelConfig};

/// One sentinel's share of the time.
const EACH: Duration = Duration::from_secs(1);

/// Where the primary is now: host and port.
pub(super) fn primary(
    config: &SentinelConfig,
    tls: Option<&RedisTls>,
    plan: &DialPlan,
    deadline: Instant,
) -> Result<(String, u16), StoreError> {
    let password = match &config.password {
        None => None,
        Some(secret) => Some(secret.read().map_err(|error| StoreError {
            message: format!(
                "cannot read the password of Sentinel: {error}; check REDIS_SENTINEL_PASSWORD_FILE"
            ),
            kind: "password file".to_owned(),
            reach: Reach::Redis,
        })?),
    };
    let mut said = Vec::new();
    for (host, port) in &config.sentinels {
        let until = deadline.min(Instant::now() + EACH);
        let asked = ask(config, tls, plan, (host, *port), password.as_deref(), until);
        match asked {
            Ok(Some(primary)) => return Ok(primary),
            Ok(None) => said.push(format!("{host}:{port} does not know it")),
            Err(why) => said.push(format!("{host}:{port}: {why}")),
        }
    }
    Err(StoreError {
        message: format!(
            "cannot find the primary '{}' through Sentinel: {}; check REDIS_SENTINELS, REDIS_SENTINEL_MASTER and, if \
             they ask for it, REDIS_SENTINEL_USERNAME and REDIS_SENTINEL_PASSWORD",
            config.master,
            said.join("; ")
        ),
        kind: "sentinel".to_owned(),
        reach: Reach::Redis,
    })
}

/// What one sentinel says; in words why it says nothing.
fn ask(
    config: &SentinelConfig,
    tls: Option<&RedisTls>,
    plan: &DialPlan,
    (host, port): (&str, u16),
    password: Option<&str>,
    deadline: Instant,
) -> Result<Option<(String, u16)>, String> {
    let words = |error: RedisError| match error.detail() {
        _ if error.kind() == ErrorKind::Parse => "its answer is not one of a sentinel".to_owned(),
        Some(detail) if error.is_io_error() => detail.to_owned(),
        Some(detail) => format!("{} {detail}", error.code().unwrap_or_default()),
        None => error.to_string(),
    };
    // The name to expect in the certificate is the primary's, not the sentinel's.
    let tls = config.tls.then(|| RedisTls {
        server_name: None,
        ..tls.cloned().unwrap_or_default()
    });
    let mut sentinel = open(host, port, tls.as_ref(), plan, deadline).map_err(|error| match error {
        super::connection::OpenError::Tls(error) => error.message,
        super::connection::OpenError::Io(error) => error.to_string(),
    })?;
    let login = SignIn {
        username: config.username.as_deref(),
        password,
        db: 0,
    };
    sign_in(&mut sentinel, &login).map_err(words)?;
    let mut question = cmd("SENTINEL");
    question.arg("GET-MASTER-ADDR-BY-NAME").arg(&config.master);
    let answer = sentinel.ask(&question).map_err(words)?;
    if answer == Value::Nil {
        return Ok(None);
    }
    parse_primary(answer)
        .map(Some)
        .ok_or_else(|| "its answer is not a host and a port".to_owned())
}

/// `[host, port]`, both as text.
pub fn parse_primary(answer: Value) -> Option<(String, u16)> {
    let (host, port): (String, String) = redis::from_redis_value(answer).ok()?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (!host.is_empty()).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(words: &str) -> Value {
        Value::BulkString(words.as_bytes().to_vec())
    }

    #[test]
    fn an_answer_is_a_host_and_a_port_and_nothing_else_is() {
        let answer = Value::Array(vec![text("10.0.0.7"), text("6379")]);
        assert_eq!(parse_primary(answer), Some(("10.0.0.7".to_owned(), 6379)));
        for odd in [
            Value::Array(vec![text("10.0.0.7")]),
            Value::Array(vec![text(""), text("6379")]),
            Value::Array(vec![text("10.0.0.7"), text("0")]),
            Value::Array(vec![text("10.0.0.7"), text("70000")]),
            Value::Int(7),
        ] {
            assert_eq!(parse_primary(odd.clone()), None, "{odd:?}");
        }
    }
}
