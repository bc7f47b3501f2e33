//! Redis's errors: what they mean, and what to do about them.

use redis::{ErrorKind, RedisError};

use crate::config::{RedisAddress, RedisConfig};

/// A fault of Redis, or of the way to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StoreError {
    /// What, for what, why, and the remedy, in one line. No secret, no customer.
    pub message: String,
    /// What kind of fault it is.
    pub cause: Cause,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// The connection failed.
    Io,
    /// There was no answer in time.
    Timeout,
    /// TLS is not set up as it should be.
    Tls,
    /// The answer is not Redis's, or not that of the script.
    Protocol,
    /// No sentinel knows a primary that answers.
    Sentinel,
    /// There is no password or token to authenticate with.
    Credentials,
    /// The keep-going callback said no: the service stops.
    Stopped,
    /// `WRONGPASS`.
    WrongPassword,
    /// `NOAUTH`.
    AuthenticationRequired,
    /// `NOPERM`.
    NoPermission,
    /// `READONLY`.
    ReadOnly,
    /// `LOADING`.
    Loading,
    /// `MASTERDOWN`.
    PrimaryDown,
    /// `max number of clients reached`.
    TooManyClients,
    /// `OOM`.
    OutOfMemory,
    /// `MISCONF`.
    CannotPersist,
    /// `NOREPLICAS`.
    NoReplicas,
    /// `BUSY`.
    Busy,
    /// `CLUSTERDOWN`.
    ClusterDown,
    /// `CROSSSLOT` or `MOVED`.
    OtherSlot,
    /// `NOSCRIPT`.
    NoScript,
    /// `WRONGTYPE`: something foreign stands at a key. The one fault that is known to belong to one change.
    WrongType,
    /// Anything else, by its code. Whether it is the server's or one change's shows when another change is tried.
    Other(String),
}

/// The codes that Redis's errors begin with.
const CODES: [(&str, Cause); 16] = [
    ("WRONGPASS", Cause::WrongPassword),
    ("NOAUTH", Cause::AuthenticationRequired),
    ("NOPERM", Cause::NoPermission),
    ("READONLY", Cause::ReadOnly),
    ("LOADING", Cause::Loading),
    ("MASTERDOWN", Cause::PrimaryDown),
    ("maxclients", Cause::TooManyClients),
    ("OOM", Cause::OutOfMemory),
    ("MISCONF", Cause::CannotPersist),
    ("NOREPLICAS", Cause::NoReplicas),
    ("BUSY", Cause::Busy),
    ("CLUSTERDOWN", Cause::ClusterDown),
    ("CROSSSLOT", Cause::OtherSlot),
    ("MOVED", Cause::OtherSlot),
    ("NOSCRIPT", Cause::NoScript),
    ("WRONGTYPE", Cause::WrongType),
];

/// Names of faults that no server's code tells.
const OWN_LABELS: [(&str, Cause); 7] = [
    ("io", Cause::Io),
    ("timeout", Cause::Timeout),
    ("tls", Cause::Tls),
    ("protocol", Cause::Protocol),
    ("sentinel", Cause::Sentinel),
    ("credentials", Cause::Credentials),
    ("stopped", Cause::Stopped),
];

impl Cause {
    /// A short stable name, for logs: `WRONGPASS`, `timeout` …
    pub fn label(&self) -> &str {
        if let Self::Other(code) = self {
            return code;
        }
        let all = CODES.iter().chain(&OWN_LABELS);
        all.clone()
            .find(|(_, cause)| cause == self)
            .map_or("", |(label, _)| label)
    }

    /// It is not known whether it is the server's or one change's.
    pub(super) fn is_unknown(&self) -> bool {
        matches!(self, Self::Other(_))
    }

    /// What a server's error means: by its code, or by a code inside, where Redis wraps what a script met.
    fn of(code: &str, detail: &str) -> Self {
        if detail.contains("max number of clients") {
            return Self::TooManyClients;
        }
        let acl = [
            "user executing the script",
            "ACL failure in script",
            "no permissions to",
        ];
        if code == "ERR" && acl.iter().any(|words| detail.contains(words)) {
            return Self::NoPermission;
        }
        let known = |code: &str| {
            CODES
                .iter()
                .find(|(known, _)| *known == code)
                .map(|(_, cause)| cause.clone())
        };
        let wrapped = || known(detail.split_once(" -")?.1.split(' ').next()?);
        known(code)
            .or_else(wrapped)
            .unwrap_or_else(|| Self::Other(code.to_owned()))
    }
}

impl StoreError {
    /// An error of this cause.
    pub(super) fn new(cause: Cause, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            cause,
        }
    }

    /// The service stops before the work is done.
    pub(super) fn stopped(what: &str) -> Self {
        Self::new(
            Cause::Stopped,
            format!("{what}: the service stops; it is done again when the message comes again"),
        )
    }

    /// Trying the same change again cannot help until somebody removes what stands at its key. Any other refusal may
    /// pass: a permission may be granted, a server replaced.
    pub fn is_permanent(&self) -> bool {
        self.cause == Cause::WrongType
    }

    /// The work was broken off since the service stops.
    pub fn is_stopped(&self) -> bool {
        self.cause == Cause::Stopped
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
    let text = error.to_string();
    let (cause, words) = if error.is_timeout() {
        (Cause::Timeout, "no answer in time".to_owned())
    } else if error.is_io_error() {
        (Cause::Io, text)
    } else if error.kind() == ErrorKind::Parse {
        (
            Cause::Protocol,
            "what it answers is not Redis's protocol".to_owned(),
        )
    } else if let Some(code) = error.code() {
        return translate_answer(code, error.detail().unwrap_or_default(), doing, config);
    } else {
        (Cause::Other(format!("{:?}", error.kind())), text)
    };
    describe(cause, &words, doing, config)
}

/// A server's error, by its code and its words.
pub(super) fn translate_answer(code: &str, detail: &str, doing: &str, config: &RedisConfig) -> StoreError {
    let detail = without_arguments(detail).trim().trim_end_matches('.');
    let words = format!("{code} {detail}");
    describe(Cause::of(code, detail), &words, doing, config)
}

/// Redis quotes the arguments of a command that it does not know: a customer's keys, or a password.
pub(super) fn without_arguments(detail: &str) -> &str {
    detail
        .split(", with args beginning with")
        .next()
        .unwrap_or_default()
}

/// The error line: the cause, in plain words where Redis's own say less, and the remedy.
fn describe(cause: Cause, words: &str, doing: &str, config: &RedisConfig) -> StoreError {
    let user = config.username.as_deref().unwrap_or("default");
    let plain = PLAIN_WORDS.iter().find(|(known, _)| *known == cause);
    let why = if cause == Cause::WrongPassword && config.iam.is_some() {
        format!("it refused the token that was signed for user '{user}' (WRONGPASS)")
    } else if cause == Cause::WrongPassword {
        format!("it refused the password of user '{user}' (WRONGPASS)")
    } else if cause == Cause::NoPermission {
        format!("user '{user}' lacks a permission: {words}")
    } else {
        plain.map_or(words, |(_, plain)| plain).to_owned()
    };
    let remedy = remedy(&cause, words, config);
    StoreError::new(
        cause,
        format!("{doing} Redis at {}: {why}; {remedy}", server_name(config)),
    )
}

/// What says more than Redis's own words.
const PLAIN_WORDS: [(Cause, &str); 6] = [
    (Cause::ReadOnly, "it is a read-only replica"),
    (Cause::Loading, "it is loading its data"),
    (Cause::PrimaryDown, "it is a replica that lost its primary"),
    (
        Cause::TooManyClients,
        "it has as many clients as it may have (maxclients)",
    ),
    (Cause::OutOfMemory, "its memory is full (maxmemory)"),
    (Cause::CannotPersist, "it cannot save to disk and refuses writes"),
];

fn remedy(cause: &Cause, words: &str, config: &RedisConfig) -> String {
    let is_sentinel = matches!(config.address, RedisAddress::Sentinel(_));
    let remedy = match cause {
        Cause::Timeout if config.tls.is_some() => {
            "check that Redis speaks TLS at this port (if not, set REDIS_TLS=0), is not overloaded or stopped, and that nothing \
             drops packets on the way"
        }
        Cause::Timeout => {
            "check that Redis is not overloaded or stopped and that nothing drops packets on the way"
        }
        Cause::Io => return io_remedy(words, config),
        Cause::Protocol => {
            return format!(
                "check {} and that a Redis listens there{}",
                address_settings(config),
                tls_hint(config)
            );
        }
        Cause::WrongPassword if config.iam.is_some() => {
            "check that the AWS identity may elasticache:Connect to the cache and the user, that the user's name is its id, \
             REDIS_IAM_CACHE_NAME, REDIS_IAM_REGION, REDIS_IAM_SERVERLESS, and this machine's clock"
        }
        Cause::WrongPassword => "check REDIS_USERNAME and REDIS_PASSWORD",
        Cause::AuthenticationRequired => "it asks for a password: set REDIS_PASSWORD",
        Cause::NoPermission => {
            "the ACL must allow the keys of ENVIRONMENT_PREFIX and the commands named in README"
        }
        Cause::ReadOnly if is_sentinel => {
            "a failover is under way: this ends when Sentinel names the new primary"
        }
        Cause::ReadOnly => {
            "point REDIS_HOST at the primary; after a failover this ends when the name follows"
        }
        Cause::Loading => "wait until it has finished",
        Cause::PrimaryDown => "point REDIS_HOST at the primary",
        Cause::TooManyClients => {
            "raise its maxclients, or find out who holds so many connections (CLIENT LIST)"
        }
        Cause::OutOfMemory => "raise maxmemory or choose an evicting maxmemory-policy",
        Cause::CannotPersist => "see Redis's own log: its disk is full or not writable",
        Cause::OtherSlot => {
            "it is a cluster, where all keys of an environment must be in one slot of this node: put a hash tag into the prefix, \
             as in ENVIRONMENT_PREFIX='{production}', in every reader too, and set REDIS_DB=0"
        }
        Cause::WrongType => {
            "something foreign stands at a key of this customer: LOG_LEVEL=debug, or SIGUSR1, has the log name the customer's \
             key; TYPE shows what stands there, DEL removes it"
        }
        Cause::Other(_) if words.contains("DB index") || words.contains("SELECT") => {
            "check REDIS_DB (or the number at the end of REDIS_URL): the server has no such database"
        }
        Cause::Tls
        | Cause::Sentinel
        | Cause::Credentials
        | Cause::Stopped
        | Cause::NoReplicas
        | Cause::Busy
        | Cause::ClusterDown
        | Cause::NoScript
        | Cause::Other(_) => "see Redis's own log",
    };
    remedy.to_owned()
}

fn address_settings(config: &RedisConfig) -> &'static str {
    match &config.address {
        RedisAddress::Tcp { .. } => "REDIS_HOST and REDIS_PORT (or REDIS_URL)",
        RedisAddress::Unix(_) => "the socket's path in REDIS_URL",
        RedisAddress::Sentinel(_) => "what Sentinel announces",
    }
}

fn tls_hint(config: &RedisConfig) -> &'static str {
    if config.tls.is_some() {
        ""
    } else {
        "; if it speaks TLS, set REDIS_TLS=1"
    }
}

fn io_remedy(words: &str, config: &RedisConfig) -> String {
    let text = words.to_lowercase();
    let has = |part: &&str| text.contains(*part);
    if let Some(tls) = &config.tls {
        // The server's judgement of the client's certificate; what this side finds wrong is no alert received.
        let refusals = ["alert: unknownca", "alert: badcertificate", "alert: certificate"];
        if tls.cert_file.is_some() && text.contains("received fatal") && refusals.iter().any(has) {
            return "the server refuses the certificate that is shown to it: check that the one in REDIS_TLS_CERT_FILE has not \
                    expired and is signed by an authority that the server trusts"
                .to_owned();
        }
        if ["certificate", "tls", "handshake", "fatal alert"].iter().any(has) {
            return "check REDIS_TLS, REDIS_TLS_CA_FILE and REDIS_TLS_SERVER_NAME: the server's certificate must be valid for its \
                    name; if it asks for a client certificate, set REDIS_TLS_CERT_FILE and REDIS_TLS_KEY_FILE"
                .to_owned();
        }
    }
    let is_closed = ["reset", "broken pipe", "end of file", "unexpected eof"]
        .iter()
        .any(has);
    format!(
        "check {} and that Redis is running and reachable from here{}",
        address_settings(config),
        if is_closed { tls_hint(config) } else { "" }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

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

    fn answered(code: &str, detail: &str) -> StoreError {
        translate_answer(code, detail, "cannot write to", &config())
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
                Cause::OutOfMemory,
            ),
            (
                "ERR",
                "The user executing the script can't run this command or subcommand",
                Cause::NoPermission,
            ),
            (
                "READONLY",
                "You can't write against a read only replica.",
                Cause::ReadOnly,
            ),
            (
                "MISCONF",
                "Redis is configured to save RDB snapshots",
                Cause::CannotPersist,
            ),
            ("ERR", "max number of clients reached", Cause::TooManyClients),
            (
                "CROSSSLOT",
                "Keys in request don't hash to the same slot",
                Cause::OtherSlot,
            ),
            (
                "ERR",
                "max requests limit exceeded",
                Cause::Other("ERR".to_owned()),
            ),
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
        for detail in [
            "DB index is out of range",
            "SELECT is not allowed in cluster mode",
        ] {
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
