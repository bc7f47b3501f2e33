//! Redis's errors: what they mean, and what to do about them.

use std::error::Error;
use std::io;
use std::sync::Arc;

use redis::{ErrorKind, RedisError};

use super::tls_errors::explain;
use crate::config::{HASH_TAG, RedisAddress, RedisConfig};
use crate::log::{peer_code, peer_text};

/// A fault of Redis, or of the way to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StoreError {
    /// What, for what, why, and the remedy, in one line. No secret, no customer.
    pub message: String,
    /// What kind of fault it is.
    pub cause: Cause,
}

/// What is wrong. See `CAUSES` for the codes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // each has a line in CAUSES
pub enum Cause {
    Io,
    Timeout,
    Tls,
    Protocol,
    Sentinel,
    Credentials,
    /// The keep-going callback said no: the service stops.
    Stopped,
    WrongPassword,
    NoPermission,
    ReadOnly,
    NoScript,
    /// The one fault that is known to belong to one change.
    WrongType,
    /// The server's, and nothing here depends on which: by its code.
    Server(&'static str),
    /// Anything else, by its code. Whether it is the server's or one change's shows when something else is written.
    Other(String),
}

const SEE_LOG: &str = "see Redis's own log";

/// A cause with the code that Redis's errors begin with, or a name of ours; words that say more than Redis's own; and the
/// remedy, where it is always the same.
type Row = (Cause, &'static str, &'static str, &'static str);

const fn server(code: &'static str, plain: &'static str, remedy: &'static str) -> Row {
    (Cause::Server(code), code, plain, remedy)
}

#[rustfmt::skip]
const CAUSES: [Row; 23] = [
    (Cause::Io, "io", "", ""),
    (Cause::Timeout, "timeout", "", "check that Redis is not overloaded or stopped and that nothing drops packets on the way"),
    (Cause::Tls, "tls", "", SEE_LOG),
    (Cause::Protocol, "protocol", "", ""),
    (Cause::Sentinel, "sentinel", "", SEE_LOG),
    (Cause::Credentials, "credentials", "", SEE_LOG),
    (Cause::Stopped, "stopped", "", SEE_LOG),
    (Cause::WrongPassword, "WRONGPASS", "", "check REDIS_USERNAME and REDIS_PASSWORD"),
    server("NOAUTH", "", "it asks for a password: set REDIS_PASSWORD"),
    (Cause::NoPermission, "NOPERM", "", "the ACL must allow the keys of ENVIRONMENT_PREFIX and the commands that src/config/README.md lists"),
    (Cause::ReadOnly, "READONLY", "it is a read-only replica",
        "point REDIS_HOST at the primary; after a failover this ends when the name points to the new one"),
    server("LOADING", "it is loading its data", "wait until it has finished"),
    server("MASTERDOWN", "it is a replica that lost its primary", "point REDIS_HOST at the primary"),
    server("maxclients", "it has reached its limit of clients (maxclients)",
        "raise its maxclients, or find out who holds so many connections (CLIENT LIST)"),
    server("OOM", "its memory is full (maxmemory)", "raise maxmemory or choose an evicting maxmemory-policy"),
    server("MISCONF", "it cannot save to disk and refuses writes",
        "see Redis's own log: its disk is full or not writable"),
    server("NOREPLICAS", "", SEE_LOG),
    server("BUSY", "", SEE_LOG),
    server("CLUSTERDOWN", "", SEE_LOG),
    server("CROSSSLOT", "", HASH_TAG),
    server("MOVED", "", OTHER_NODE),
    (Cause::NoScript, "NOSCRIPT", "", SEE_LOG),
    (Cause::WrongType, "WRONGTYPE", "", FOREIGN_KEY),
];

const OTHER_NODE: &str = "another node of this cluster has the keys of this prefix, and neither this service nor an SDK follows MOVED: \
                          use a server with one endpoint for all slots; or put a hash tag into ENVIRONMENT_PREFIX, as in \
                          '{production}', and let REDIS_HOST and REDIS_PORT name the node that MOVED names, in every SDK too \
                          (after a failover it is another one)";
const FOREIGN_KEY: &str = "a key of this customer holds a value that neither Stigg nor this service wrote: at LOG_LEVEL=debug, or after \
                           SIGUSR1, the log names the customer's key; TYPE shows what it holds, and DEL removes it";

const IAM_REMEDY: &str = "check that the AWS identity is allowed elasticache:Connect on the cache and the user, that the user's name is its id, \
                          REDIS_IAM_CACHE_NAME, REDIS_IAM_REGION, REDIS_IAM_SERVERLESS, and this machine's clock";

impl Cause {
    /// A short stable name, for logs: `WRONGPASS`, `timeout` …
    pub fn label(&self) -> &str {
        if let Self::Other(code) = self { code } else { self.row().1 }
    }

    fn row(&self) -> Row {
        let row = CAUSES.into_iter().find(|(cause, ..)| cause == self);
        row.unwrap_or((Self::Other(String::new()), "", "", SEE_LOG))
    }

    /// It is not known whether the fault is the server's or one change's.
    pub(super) fn is_unknown(&self) -> bool {
        matches!(self, Self::Other(_))
    }

    /// What a server's error means: by its code, or by a code inside, where Redis wraps what a script met.
    fn of(code: &str, detail: &str) -> Self {
        // A server's codes are capitals; the other names are ours.
        let is_code = |code: &str| code.bytes().all(|byte| byte.is_ascii_uppercase());
        let known = |code: &str| Some(CAUSES.into_iter().find(|row| row.1 == code && is_code(code))?.0);
        let wrapped = || known(detail.split_once(" -")?.1.split(' ').next()?);
        let acl = ["user executing the script", "ACL failure in script", "no permissions to"];
        if detail.contains("max number of clients") {
            Self::Server("maxclients")
        } else if code == "ERR" && acl.iter().any(|words| detail.contains(words)) {
            Self::NoPermission
        } else {
            let other = || Self::Other(peer_code(code).unwrap_or("ERR").to_owned());
            known(code).or_else(wrapped).unwrap_or_else(other)
        }
    }
}

impl StoreError {
    /// An error of this cause.
    pub(super) fn new(cause: Cause, message: impl Into<String>) -> Self {
        Self { message: message.into(), cause }
    }

    /// The service stops before the work is done.
    pub(super) fn stopped(what: &str) -> Self {
        let again = "the service is stopping; this is retried when the message is delivered again";
        Self::new(Cause::Stopped, format!("{what}: {again}"))
    }

    /// Trying the same change again cannot help until somebody removes the value at its key. Any other refusal may
    /// pass: a permission may be granted, a server replaced.
    pub fn is_permanent(&self) -> bool {
        self.cause == Cause::WrongType
    }

    /// The work was interrupted because the service stops.
    pub fn is_stopped(&self) -> bool {
        self.cause == Cause::Stopped
    }

    /// An ACL forbids the command, or the server does not know it: it was renamed, or a managed service lacks it.
    pub(super) fn is_unsupported(&self) -> bool {
        self.cause == Cause::NoPermission || self.cause.is_unknown()
    }
}

/// The error of this type among an error's causes.
pub(super) fn cause_in<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    if let Some(found) = error.downcast_ref() {
        return Some(found);
    }
    // redis keeps its cause in an Arc; the source of an I/O error is that of the error in it.
    if let Some(shared) = error.downcast_ref::<Arc<dyn Error + Send + Sync>>() {
        return cause_in(shared.as_ref());
    }
    match error.downcast_ref::<io::Error>() {
        Some(io) => cause_in(io.get_ref()?),
        None => cause_in(error.source()?),
    }
}

/// Names the server in errors: `db-1:6379`, `unix:/run/redis.sock`.
pub fn server_name(config: &RedisConfig) -> String {
    match &config.address {
        RedisAddress::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
        RedisAddress::Tcp { host, port } => format!("{host}:{port}"),
        RedisAddress::Unix(path) => format!("unix:{}", path.display()),
        RedisAddress::Sentinel(sentinel) => {
            format!("the primary '{}' that Sentinel names", sentinel.master)
        }
    }
}

/// A fault of a connection attempt or of a call. `doing` says what was tried: "cannot write to".
pub(super) fn translate(error: &RedisError, doing: &str, config: &RedisConfig) -> StoreError {
    if let Some(error) = cause_in::<StoreError>(error) {
        return error.clone();
    }
    if let (Some(tls), Some(failure)) = (&config.tls, cause_in(error)) {
        let (at, why) = (server_name(config), explain(failure, tls));
        return StoreError::new(Cause::Io, format!("{doing} Redis at {at}: {why}"));
    }
    if error.is_timeout() {
        describe(Cause::Timeout, "no answer in time", doing, config)
    } else if error.is_io_error() {
        describe(Cause::Io, &error.to_string(), doing, config)
    } else if error.kind() == ErrorKind::Parse {
        describe(Cause::Protocol, "what it answers is not Redis's protocol", doing, config)
    } else if let Some(code) = error.code() {
        refusal(code, error.detail().unwrap_or_default(), doing, config)
    } else {
        let kind = format!("{:?}", error.kind());
        describe(Cause::Other(kind), &peer_text(&error.to_string()), doing, config)
    }
}

/// A reply that no Redis gives.
pub(super) fn unexpected(what: &str, config: &RedisConfig) -> StoreError {
    let (at, remedy) = (server_name(config), "check that it is a Redis and not a proxy that changes answers");
    StoreError::new(Cause::Protocol, format!("cannot use the answer of Redis at {at}: {what}; {remedy}"))
}

/// A server's error, by its code and its text.
pub(super) fn refusal(code: &str, detail: &str, doing: &str, config: &RedisConfig) -> StoreError {
    describe(Cause::of(code, detail), server_text(code, detail).trim_end_matches('.'), doing, config)
}

/// What may be shown of a server's error: neither the arguments that it quotes nor a code that is none.
pub(super) fn server_text(code: &str, detail: &str) -> String {
    let code = peer_code(code).unwrap_or("ERR");
    [code, " ", &peer_text(detail)].concat().trim_end().to_owned()
}

/// The error line: the cause, in plain words where Redis's own text says less, and the remedy.
#[allow(clippy::wildcard_enum_match_arm)]
fn describe(cause: Cause, words: &str, doing: &str, config: &RedisConfig) -> StoreError {
    let user = config.username.as_deref().unwrap_or("default");
    let (_, _, plain, remedy) = cause.row();
    let mut why = if plain.is_empty() { words } else { plain }.to_owned();
    let mut remedy = remedy.to_owned();
    let settings = match &config.address {
        RedisAddress::Tcp { .. } => "REDIS_HOST and REDIS_PORT (or REDIS_URL)",
        RedisAddress::Unix(_) => "the socket's path in REDIS_URL",
        RedisAddress::Sentinel(_) => "what Sentinel announces",
    };
    let has_tls = config.tls.is_some();
    let try_tls = if has_tls { "" } else { "; if it speaks TLS, set REDIS_TLS=1" };
    match cause {
        Cause::Io => {
            let text = words.to_lowercase();
            let closed = ["reset", "broken pipe", "end of file", "unexpected eof", "handshake"];
            let is_closed = closed.iter().any(|part| text.contains(part));
            remedy = if is_closed && has_tls {
                format!(
                    "check {settings}, that Redis is running and speaks TLS at this port (if not, set REDIS_TLS=0) and, if it \
                     requires a client certificate, REDIS_TLS_CERT_FILE"
                )
            } else {
                let hint = if is_closed { try_tls } else { "" };
                format!("check {settings} and that Redis is running and reachable from here{hint}")
            };
        }
        Cause::Protocol => remedy = format!("check {settings} and that a Redis listens there{try_tls}"),
        Cause::Timeout if has_tls => {
            remedy = format!("check that Redis speaks TLS at this port (if not, set REDIS_TLS=0); {remedy}");
        }
        Cause::WrongPassword if config.iam.is_some() => {
            why = format!("it refused the token that was signed for user '{user}' (WRONGPASS)");
            IAM_REMEDY.clone_into(&mut remedy);
        }
        Cause::WrongPassword => why = format!("it refused the password of user '{user}' (WRONGPASS)"),
        Cause::NoPermission => why = format!("user '{user}' lacks a permission: {words}"),
        Cause::ReadOnly if matches!(config.address, RedisAddress::Sentinel(_)) => {
            "a failover is under way: this ends when Sentinel names the new primary".clone_into(&mut remedy);
        }
        Cause::Other(_) if words.contains("DB index") || words.contains("SELECT") => {
            "check REDIS_DB (or the number at the end of REDIS_URL): the server has no such database"
                .clone_into(&mut remedy);
        }
        _ => {} // the table says enough
    }
    let at = server_name(config);
    StoreError::new(cause, format!("{doing} Redis at {at}: {why}; {remedy}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> RedisConfig {
        RedisConfig {
            address: RedisAddress::Tcp { host: "db-1".to_owned(), port: 6379 },
            db: 0,
            username: None,
            password: None,
            iam: None,
            tls: None,
        }
    }

    fn answered(code: &str, detail: &str) -> StoreError {
        refusal(code, detail, "cannot write to", &config())
    }

    #[test]
    fn an_answer_that_is_not_redis_is_described_in_one_line_without_its_bytes() {
        let error = redis::parse_redis_value(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap_err();
        let error = translate(&error, "cannot connect to", &config());
        assert_eq!(error.cause, Cause::Protocol);
        assert_eq!(
            error.message,
            "cannot connect to Redis at db-1:6379: what it answers is not Redis's protocol; check REDIS_HOST and REDIS_PORT (or \
             REDIS_URL) and that a Redis listens there; if it speaks TLS, set REDIS_TLS=1"
        );
    }

    #[test]
    fn a_refusal_is_recognized_however_a_script_wraps_it() {
        for (code, detail, cause) in [
            (
                "ERR",
                "Error running script (call to f_1): @user_script:40: -READONLY You can't write",
                Cause::ReadOnly,
            ),
            (
                "ERR",
                "Error running script (call to f_1): @user_script:1: -OOM command not allowed",
                Cause::Server("OOM"),
            ),
            (
                "ERR",
                "The user executing the script can't run this command or subcommand",
                Cause::NoPermission,
            ),
            ("READONLY", "You can't write against a read only replica.", Cause::ReadOnly),
            ("MISCONF", "Redis is configured to save RDB snapshots", Cause::Server("MISCONF")),
            ("ERR", "max number of clients reached", Cause::Server("maxclients")),
            ("CROSSSLOT", "Keys in request don't hash to the same slot", Cause::Server("CROSSSLOT")),
            ("ERR", "max requests limit exceeded", Cause::Other("ERR".to_owned())),
            // A name of ours is no code of a server's: as `Stopped`, this one would drop messages.
            ("ERR", "the proxy was -stopped by its operator", Cause::Other("ERR".to_owned())),
        ] {
            assert_eq!(answered(code, detail).cause, cause, "{detail}");
        }
    }

    #[test]
    fn an_error_never_quotes_the_arguments_of_the_command() {
        let error = answered(
            "ERR",
            "unknown command 'EVALSHA', with args beginning with: 'abc' '5' 'production-alice@example.com'",
        );
        assert_eq!(
            error.message,
            "cannot write to Redis at db-1:6379: ERR unknown command 'EVALSHA'; see Redis's own log"
        );
    }

    #[test]
    fn a_database_that_does_not_exist_is_named_as_the_cause() {
        for detail in ["DB index is out of range", "SELECT is not allowed in cluster mode"] {
            let message = answered("ERR", detail).message;
            assert!(message.contains("check REDIS_DB"), "{message}");
        }
    }

    #[test]
    fn an_error_names_server_cause_and_remedy() {
        assert_eq!(
            answered("OOM", "command not allowed when used memory > 'maxmemory'.").message,
            "cannot write to Redis at db-1:6379: its memory is full (maxmemory); raise maxmemory or choose an evicting \
             maxmemory-policy"
        );
    }

    #[test]
    fn only_a_foreign_type_at_a_key_is_permanent() {
        assert!(answered("WRONGTYPE", "a list").is_permanent());
        for code in ["NOPERM", "ERR", "OOM"] {
            assert!(!answered(code, "words").is_permanent(), "{code}");
        }
    }
}
