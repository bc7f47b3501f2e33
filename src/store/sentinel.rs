//! Asks the sentinels which Redis is the primary. A server that a sentinel names is used only after it has answered as a
//! primary: after a failover, or cut off from the others, a sentinel may name the old one.

use std::time::{Duration, Instant};

use redis::{Value, cmd};

use super::connection::{DialPlan, Login, authenticate, open};
use super::errors::{Cause, StoreError, server_text};
use crate::config::{RedisTls, SentinelConfig};
use crate::log::peer_text;

/// One server's share of the time.
pub(super) const EACH: Duration = Duration::from_secs(1);

/// A server, by host and port.
pub(super) type Server = (String, u16);

/// Asks the sentinels one by one and tries each primary that they name, once, until `try_primary` succeeds. The error says
/// what each sentinel answered, and why no primary could be used.
pub(super) fn find<T>(
    config: &SentinelConfig,
    tls: Option<&RedisTls>,
    plan: &DialPlan,
    deadline: Instant,
    mut try_primary: impl FnMut(&Server, Instant) -> Result<T, StoreError>,
) -> Result<(Server, T), StoreError> {
    let mut tried: Vec<Server> = Vec::new();
    let mut said = Vec::new();
    let mut refused = None;
    for (sentinel, answer) in answers(config, tls, plan, deadline)? {
        match answer {
            Ok(Some(primary)) if tried.contains(&primary) => {}
            Ok(Some(primary)) => match try_primary(&primary, deadline.min(Instant::now() + EACH)) {
                Ok(taken) => return Ok((primary, taken)),
                Err(error) => {
                    said.push(format!("{sentinel} names {}:{}", primary.0, primary.1));
                    refused = Some(error);
                    tried.push(primary);
                }
            },
            Ok(None) => said.push(format!("{sentinel} does not know it")),
            Err(why) => said.push(format!("{sentinel}: {why}")),
        }
    }
    // A server that was reached says more than the sentinels.
    Err(refused.unwrap_or_else(|| {
        StoreError::new(
            Cause::Sentinel,
            format!(
                "cannot find the primary '{}' through Sentinel: {}; check REDIS_SENTINELS, REDIS_SENTINEL_MASTER and, if they ask \
                 for it, REDIS_SENTINEL_USERNAME and REDIS_SENTINEL_PASSWORD",
                config.master,
                said.join("; ")
            ),
        )
    }))
}

/// The server that most sentinels name as the primary; in a tie, `current`. `None` if none of them names one.
pub(super) fn elected(
    config: &SentinelConfig,
    tls: Option<&RedisTls>,
    plan: &DialPlan,
    deadline: Instant,
    current: Option<&Server>,
) -> Result<Option<Server>, StoreError> {
    let answers = answers(config, tls, plan, deadline)?;
    let named: Vec<Server> = answers.filter_map(|(_, answer)| answer.ok()?).collect();
    let votes = |server: &Server| named.iter().filter(|other| *other == server).count();
    let elected = named.iter().max_by_key(|server| (votes(server), Some(*server) == current));
    Ok(elected.cloned())
}

/// A sentinel's answer: a server, `None` if it does not know one, or why it did not answer.
type SentinelAnswer = Result<Option<Server>, String>;

/// Each sentinel and its answer, asked lazily.
fn answers<'a>(
    config: &'a SentinelConfig,
    tls: Option<&'a RedisTls>,
    plan: &'a DialPlan,
    deadline: Instant,
) -> Result<impl Iterator<Item = (String, SentinelAnswer)> + 'a, StoreError> {
    let password = config.password.as_ref().map(crate::config::Secret::read).transpose();
    let password = password.map_err(|error| {
        StoreError::new(
            Cause::Credentials,
            format!("cannot read the password of Sentinel: {error}; check REDIS_SENTINEL_PASSWORD_FILE"),
        )
    })?;
    Ok(config.sentinels.iter().map(move |(host, port)| {
        let until = deadline.min(Instant::now() + EACH);
        let answer = ask(config, tls, plan, (host, *port), password.as_deref(), until);
        (format!("{host}:{port}"), answer)
    }))
}

fn ask(
    config: &SentinelConfig,
    tls: Option<&RedisTls>,
    plan: &DialPlan,
    (host, port): (&str, u16),
    password: Option<&str>,
    deadline: Instant,
) -> SentinelAnswer {
    let words = |error: redis::RedisError| match error.detail() {
        _ if error.kind() == redis::ErrorKind::Parse => "its answer is not one of a sentinel".to_owned(),
        Some(detail) if error.is_io_error() => detail.to_owned(),
        Some(detail) => server_text(error.code().unwrap_or_default(), detail),
        None => peer_text(&error.to_string()),
    };
    // The name to expect in the certificate is the primary's, not the sentinel's.
    let tls = config.tls.then(|| RedisTls { server_name: None, ..tls.cloned().unwrap_or_default() });
    let mut sentinel = open(host, port, tls.as_ref(), plan, deadline).map_err(|error| error.to_string())?;
    let login = Login { username: config.username.as_deref(), password, db: 0 };
    authenticate(&mut sentinel, &login, "REDIS_SENTINEL_PASSWORD", plan).map_err(words)?;
    let mut question = cmd("SENTINEL");
    question.arg("GET-MASTER-ADDR-BY-NAME").arg(&config.master);
    let answer = sentinel.query(&question).map_err(words)?;
    if answer == Value::Nil {
        return Ok(None);
    }
    let primary = parse_primary(answer).ok_or_else(|| "its answer is not a host and a port".to_owned());
    primary.map(Some)
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
