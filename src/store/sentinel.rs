//! Asks the sentinels which Redis is the primary. A server that a sentinel names is used only after it has answered as a
//! primary: after a failover, or cut off from the others, a sentinel may name the old one.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use redis::{Value, cmd};

use super::connection::Dialer;
use super::errors::{Cause, StoreError, server_text};
use crate::config::{Secret, SentinelConfig};
use crate::log::peer_text;

/// One server's share of the time, at most.
pub(super) const EACH: Duration = Duration::from_secs(1);

/// A server, by host and port.
pub(super) type Server = (String, u16);

/// Asks all sentinels which server is the primary: the one that most of them name comes first; in a tie, `current`. If they
/// name none, the error says what each of them answered.
pub(super) fn primaries(
    config: &SentinelConfig,
    dialer: &Dialer,
    deadline: Instant,
    current: Option<&Server>,
) -> Result<Vec<Server>, StoreError> {
    let password = config.password.as_ref().map(Secret::read).transpose().map_err(|error| {
        let message =
            format!("cannot read the password of Sentinel: {error}; check REDIS_SENTINEL_PASSWORD_FILE");
        StoreError::new(Cause::Credentials, message)
    })?;
    let (mut named, mut said) = (Vec::new(), Vec::new());
    for ((host, port), to_ask) in config.sentinels.iter().zip((1..=config.sentinels.len()).rev()) {
        // Those that hang must leave time for the others, and for the primary.
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(to_ask + 1).unwrap_or(u32::MAX);
        match ask(config, dialer, (host, *port), password.as_deref(), Instant::now() + share.min(EACH)) {
            Ok(Some(primary)) => named.push(primary),
            Ok(None) => said.push(format!("{host}:{port} does not know it")),
            Err(why) => said.push(format!("{host}:{port}: {why}")),
        }
    }
    if named.is_empty() {
        let message = format!(
            "cannot find the primary '{}' through Sentinel: {}; check REDIS_SENTINELS, REDIS_SENTINEL_MASTER, whether they \
             speak TLS (REDIS_SENTINEL_TLS) and, if they ask for it, REDIS_SENTINEL_USERNAME and REDIS_SENTINEL_PASSWORD",
            config.master,
            said.join("; ")
        );
        return Err(StoreError::new(Cause::Sentinel, message));
    }
    let votes = |server: &Server| named.iter().filter(|other| *other == server).count();
    let mut ranked = named.clone();
    ranked.sort_by_cached_key(|server| Reverse((votes(server), Some(server) == current, server.clone())));
    ranked.dedup();
    Ok(ranked)
}

/// A sentinel's answer: a server, `None` if it does not know one, or why it did not answer.
fn ask(
    config: &SentinelConfig,
    dialer: &Dialer,
    (host, port): (&str, u16),
    password: Option<&str>,
    deadline: Instant,
) -> Result<Option<Server>, String> {
    let words = |error: redis::RedisError| match error.code() {
        _ if error.kind() == redis::ErrorKind::Parse => "its answer is not one of a sentinel".to_owned(),
        _ if error.is_timeout() => "no answer in time".to_owned(),
        Some(code) => server_text(code, error.detail().unwrap_or_default()),
        None => dialer.explain(&error).unwrap_or_else(|| peer_text(&error.to_string())),
    };
    let mut sentinel = dialer.open(host, port, deadline).map_err(|error| error.to_string())?;
    dialer.authenticate(&mut sentinel, config.username.as_deref(), password).map_err(words)?;
    let mut question = cmd("SENTINEL");
    question.arg("GET-MASTER-ADDR-BY-NAME").arg(&config.master);
    let answer = sentinel.query(&question).map_err(words)?;
    if answer == Value::Nil {
        return Ok(None);
    }
    parse_primary(answer).map(Some).ok_or_else(|| "its answer is not a host and a port".to_owned())
}

/// `[host, port]`, both as text.
pub fn parse_primary(answer: Value) -> Option<Server> {
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
