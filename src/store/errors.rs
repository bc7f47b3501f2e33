//! Redis's errors, in words that tell a stranger what to do.

use redis::{ErrorKind, RedisError};

use super::{Reach, StoreError};
use crate::config::RedisConfig;

/// What a read-only replica would say if it were written to.
pub(super) fn replica_error(config: &RedisConfig) -> StoreError {
    let words = "You can't write against a read only replica.";
    translate(
        &RedisError::from((ErrorKind::Server(redis::ServerErrorKind::ReadOnly), words)),
        "cannot write to",
        config,
    )
}

/// Names the server in errors: `db-1:6379`, `unix:/run/redis.sock`.
pub fn server_name(config: &RedisConfig) -> String {
    match &config.address {
        crate::config::RedisAddress::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
        crate::config::RedisAddress::Tcp { host, port } => format!("{host}:{port}"),
        crate::config::RedisAddress::Unix(path) => format!("unix:{}", path.display()),
        crate::config::RedisAddress::Sentinel(sentinel) => {
            format!("the primary '{}' that Sentinel names", sentinel.master)
        }
    }
}

/// The code a server error begins with (`READONLY`), or a short name of a fault on the way (`timeout`).
fn kind_of(error: &RedisError) -> String {
    if error.is_timeout() {
        return "timeout".to_owned();
    }
    if error.is_io_error() {
        return "io".to_owned();
    }
    // The library does not pass on the server's own words when signing in fails.
    if error.kind() == ErrorKind::AuthenticationFailed {
        return "WRONGPASS".to_owned();
    }
    let code = error.code().unwrap_or_default();
    if code == "ERR" && is_full(error) {
        return "maxclients".to_owned();
    }
    if code == "ERR"
        && let Some(wrapped) = wrapped_code(error.detail().unwrap_or_default())
    {
        return wrapped.to_owned();
    }
    if code.is_empty() {
        format!("{:?}", error.kind())
    } else {
        code.to_owned()
    }
}

/// The server says so to whoever connects, whatever is asked, and closes.
pub(super) fn is_full(error: &RedisError) -> bool {
    error
        .detail()
        .is_some_and(|detail| detail.contains("max number of clients"))
}

/// Redis 6 wraps an error that a script met into one of the script: `ERR Error running script (…): @user_script:9:
/// -READONLY You can't write …`. Redis 7 tells it as it is, but for a permission.
fn wrapped_code(detail: &str) -> Option<&'static str> {
    if [
        "The user executing the script",
        "ACL failure in script",
        "no permissions to",
    ]
    .iter()
    .any(|words| detail.contains(words))
    {
        return Some("NOPERM");
    }
    [
        "READONLY",
        "OOM",
        "MISCONF",
        "NOREPLICAS",
        "MASTERDOWN",
        "NOPERM",
        "LOADING",
    ]
    .into_iter()
    .find(|code| detail.contains(&format!("-{code} ")))
}

/// An error of a connection attempt or a call. `doing` says what was tried: "cannot write to".
pub(super) fn translate(error: &RedisError, doing: &str, config: &RedisConfig) -> StoreError {
    let server = server_name(config);
    let kind = kind_of(error);
    let user = config.username.as_deref().unwrap_or("default");
    let detail = error.detail().unwrap_or_default();
    let cause = if detail.is_empty() {
        error.to_string()
    } else {
        detail.trim_end_matches('.').to_owned()
    };
    let (cause, remedy) = match kind.as_str() {
        "timeout" => ("no answer in time".to_owned(), timeout_remedy(config).to_owned()),
        "io" => (error.to_string(), io_remedy(error, config)),
        "WRONGPASS" if config.iam.is_some() => (
            format!("it refused to sign in '{user}' with the token that was signed for it (WRONGPASS)"),
            "check that the AWS identity may elasticache:Connect to the cache and the user, that the user's name is its \
             id, REDIS_IAM_CACHE_NAME, REDIS_IAM_REGION, REDIS_IAM_SERVERLESS, and this machine's clock"
                .to_owned(),
        ),
        "WRONGPASS" => (
            format!("it refused to sign in '{user}' with the password that it was given (WRONGPASS)"),
            "check REDIS_USERNAME and REDIS_PASSWORD; for a server without a password leave both out"
                .to_owned(),
        ),
        "NOAUTH" => (
            format!("{kind} {cause}"),
            "it asks for a password: set REDIS_PASSWORD".to_owned(),
        ),
        "NOPERM" => (
            format!("user '{user}' lacks a permission: {cause}"),
            "the ACL must allow the keys of ENVIRONMENT_PREFIX and the commands named in README".to_owned(),
        ),
        "READONLY" => (
            "it is a read-only replica".to_owned(),
            if matches!(config.address, crate::config::RedisAddress::Sentinel(_)) {
                "a failover is under way: this heals when Sentinel names the new primary".to_owned()
            } else {
                "point REDIS_HOST at the primary; after a failover this heals when the name follows"
                    .to_owned()
            },
        ),
        "LOADING" => (
            "it is loading its data".to_owned(),
            "wait until it has finished".to_owned(),
        ),
        "MASTERDOWN" => (
            "it is a replica that lost its primary".to_owned(),
            "point REDIS_HOST at the primary".to_owned(),
        ),
        "maxclients" => (
            "it has as many clients as it may have (maxclients)".to_owned(),
            "raise its maxclients, or find out who holds so many connections (CLIENT LIST)".to_owned(),
        ),
        "OOM" => (
            "its memory is full (maxmemory)".to_owned(),
            "raise maxmemory or choose an evicting maxmemory-policy".to_owned(),
        ),
        "MISCONF" => (
            "it cannot save to disk and refuses writes".to_owned(),
            "see Redis's own log: its disk is full or not writable".to_owned(),
        ),
        "WRONGTYPE" => (
            format!("{kind} {cause}"),
            "something foreign stands at a key of this customer: LOG_LEVEL=debug, or SIGUSR1, has the log name the \
             customer's key; TYPE tells what stands there, DEL removes it"
                .to_owned(),
        ),
        "Parse" => ("what it answers is not Redis's protocol".to_owned(), not_redis_remedy(config)),
        _ => (format!("{kind} {cause}"), other_remedy(error).to_owned()),
    };
    StoreError {
        message: format!("{doing} Redis at {server}: {cause}; {remedy}"),
        reach: reach(&kind, error),
        kind,
    }
}

/// What says where Redis is.
fn where_to(config: &RedisConfig) -> &'static str {
    match &config.address {
        crate::config::RedisAddress::Tcp { .. } => "REDIS_HOST and REDIS_PORT (or REDIS_URL)",
        crate::config::RedisAddress::Unix(_) => "the socket's path in REDIS_URL",
        crate::config::RedisAddress::Sentinel(_) => "what Sentinel announces",
    }
}

fn io_remedy(error: &RedisError, config: &RedisConfig) -> String {
    let tls = config.tls.is_some();
    let text = error.to_string().to_lowercase();
    // The server's judgement of what was shown to it; what this side finds wrong with the server's is no alert received.
    let judges = |alert: &&str| text.contains(&format!("received fatal alert: {alert}"));
    let shows_one = config.tls.as_ref().is_some_and(|tls| tls.cert_file.is_some());
    if shows_one && ["unknownca", "badcertificate", "certificate"].iter().any(judges) {
        return "the server refuses the certificate that is shown to it: check that the one in REDIS_TLS_CERT_FILE has not \
                expired and is signed by an authority that the server trusts"
            .to_owned();
    }
    let words = ["certificate", "tls", "handshake", "fatal alert"];
    if tls && words.iter().any(|word| text.contains(word)) {
        return "check REDIS_TLS, REDIS_TLS_CA_FILE and REDIS_TLS_SERVER_NAME: the server's certificate must be valid \
                for its name; if it asks for a client certificate, set REDIS_TLS_CERT_FILE and REDIS_TLS_KEY_FILE"
            .to_owned();
    }
    let mut remedy = format!(
        "check {} and that Redis is running and reachable from here",
        where_to(config)
    );
    if !tls && error.is_connection_dropped() && !error.is_connection_refusal() {
        remedy.push_str("; if it speaks TLS, set REDIS_TLS=1");
    }
    remedy
}

fn timeout_remedy(config: &RedisConfig) -> &'static str {
    if config.tls.is_some() {
        return "check that Redis speaks TLS at this port (if not, set REDIS_TLS=0), is not overloaded or stopped, and that nothing drops packets on the way";
    }
    "check that Redis is not overloaded or stopped and that nothing drops packets on the way"
}

fn not_redis_remedy(config: &RedisConfig) -> String {
    let tls = if config.tls.is_some() {
        ""
    } else {
        "; if it speaks TLS, set REDIS_TLS=1"
    };
    format!("check {} and that a Redis listens there{tls}", where_to(config))
}

fn other_remedy(error: &RedisError) -> &'static str {
    // "DB index is out of range", "SELECT is not allowed in cluster mode".
    if error
        .detail()
        .is_some_and(|detail| detail.contains("DB index") || detail.contains("SELECT"))
    {
        return "check REDIS_DB (or the number at the end of REDIS_URL): the server has no such database";
    }
    if error.kind() == ErrorKind::InvalidClientConfig {
        return "check the REDIS_* settings";
    }
    "see Redis's own log"
}

/// Whether trying another change on the same Redis makes sense.
fn reach(kind: &str, error: &RedisError) -> Reach {
    match kind {
        "READONLY" | "LOADING" | "MASTERDOWN" | "NOAUTH" | "WRONGPASS" | "NOPERM" | "OOM" | "MISCONF"
        | "NOREPLICAS" | "BUSY" | "UNKILLABLE" | "CLUSTERDOWN" | "maxclients" | "timeout" | "io" => {
            Reach::Redis
        }
        _ if error.is_unrecoverable_error() || error.is_connection_dropped() => Reach::Redis,
        _ => Reach::Change,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RedisAddress;

    fn config() -> RedisConfig {
        RedisConfig {
            address: RedisAddress::Tcp {
                host: "db-1".to_owned(),
                port: 6379,
            },
            db: 0,
            username: None,
            password: None,
            iam: None,
            tls: None,
        }
    }

    /// What a server's answer is translated to.
    fn answered(code: &'static str, detail: &str) -> StoreError {
        let error = redis::make_extension_error(code.to_owned(), Some(detail.to_owned()));
        translate(&error, "cannot write to", &config())
    }

    #[test]
    fn an_answer_that_is_no_redis_is_told_in_one_line_without_its_bytes() {
        let error = redis::parse_redis_value(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap_err();
        let told = translate(&error, "cannot connect to", &config());
        assert_eq!(told.reach, Reach::Redis);
        assert_eq!(
            told.message,
            "cannot connect to Redis at db-1:6379: what it answers is not Redis's protocol; check REDIS_HOST and REDIS_PORT (or \
             REDIS_URL) and that a Redis listens there; if it speaks TLS, set REDIS_TLS=1"
        );
    }

    #[test]
    fn a_refusal_that_a_script_met_reaches_all_of_redis_however_it_is_wrapped() {
        for (code, detail, kind) in [
            (
                "ERR",
                "Error running script (call to f_1): @user_script:40: -READONLY You can't write",
                "READONLY",
            ),
            (
                "ERR",
                "Error running script (call to f_1): @user_script:1: -OOM command not allowed",
                "OOM",
            ),
            (
                "ERR",
                "The user executing the script can't run this command or subcommand",
                "NOPERM",
            ),
            (
                "READONLY",
                "You can't write against a read only replica.",
                "READONLY",
            ),
            ("MISCONF", "Redis is configured to save RDB snapshots", "MISCONF"),
            ("ERR", "max number of clients reached", "maxclients"),
        ] {
            let error = answered(code, detail);
            assert_eq!(
                (error.kind.as_str(), error.reach),
                (kind, Reach::Redis),
                "{detail}"
            );
        }
    }

    #[test]
    fn an_error_of_one_change_is_that_changes_own() {
        let error = answered("ERR", "value is not an integer or out of range");
        assert_eq!(error.reach, Reach::Change);
        assert_eq!(
            error.message,
            "cannot write to Redis at db-1:6379: ERR value is not an integer or out of range; see Redis's own log"
        );
    }

    #[test]
    fn a_database_that_is_not_there_is_told_as_such() {
        for detail in [
            "DB index is out of range",
            "SELECT is not allowed in cluster mode",
        ] {
            let told = answered("ERR", detail).message;
            assert!(told.contains("check REDIS_DB"), "{told}");
        }
    }

    #[test]
    fn a_line_names_server_cause_and_remedy() {
        assert_eq!(
            answered("OOM", "command not allowed when used memory > 'maxmemory'.").message,
            "cannot write to Redis at db-1:6379: its memory is full (maxmemory); raise maxmemory or choose an evicting \
             maxmemory-policy"
        );
    }
}
