//! The tables: what is refused, and what has to come of it.

use crate::fakes::refusing_redis::{How, Refusal};
use crate::support::redis::TestRedis;

/// What has to come of a refusal. In every case nothing reaches the dead letters, the log stays short, and after the
/// end all is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// There is no way to write: /readyz is 503 from soon after the beginning to the end.
    Pauses,
    /// There is another way to write: all is written, and /readyz is 200.
    Writes,
    /// The service may find another way or not: /readyz is 200 only if all is written.
    EitherWay,
}

/// Who refuses.
pub enum Refused {
    ByProxy(Vec<Refusal>),
    ByServer { begin: fn(&TestRedis), end: fn(&TestRedis) },
}

pub struct Row {
    pub name: &'static str,
    pub refused: Refused,
    pub outcome: Outcome,
    /// Texts that the log has to have.
    pub says: &'static [&'static str],
    /// Connections that are open go on without it.
    pub begins_with_new_connections: bool,
    /// The server forgets its scripts when the refusal begins.
    pub forgets_scripts: bool,
    /// `requirepass`, and REDIS_PASSWORD.
    pub password: Option<&'static str>,
    /// Arguments of the server.
    pub arguments: &'static [&'static str],
    /// REDIS_DB.
    pub database: &'static str,
}

impl Row {
    fn new(name: &'static str, refused: Refused, outcome: Outcome) -> Self {
        Self {
            name,
            refused,
            outcome,
            says: &[],
            begins_with_new_connections: false,
            forgets_scripts: false,
            password: None,
            arguments: &[],
            database: "0",
        }
    }

    fn proxied(commands: &'static [&'static str], how: How, outcome: Outcome, name: &'static str) -> Self {
        Self::new(name, Refused::ByProxy(vec![Refusal::of(commands, how)]), outcome)
    }

    /// Refused with a text, which is the row's name.
    fn text(commands: &'static [&'static str], text: &'static str, outcome: Outcome) -> Self {
        Self::proxied(commands, How::Error(text), outcome, text)
    }

    fn says(mut self, says: &'static [&'static str]) -> Self {
        self.says = says;
        self
    }

    fn on_new_connections(mut self) -> Self {
        self.begins_with_new_connections = true;
        self
    }

    fn without_scripts(mut self) -> Self {
        self.forgets_scripts = true;
        self
    }

    fn with_password(mut self) -> Self {
        self.password = Some("of-the-server");
        self
    }

    fn with_arguments(mut self, arguments: &'static [&'static str]) -> Self {
        self.arguments = arguments;
        self
    }

    fn in_database(mut self, database: &'static str) -> Self {
        self.database = database;
        self
    }
}

/// Every command that could change a key, and what is needed for a script.
const WRITES: &[&str] = &["EVALSHA", "EVAL", "SCRIPT", "FCALL", "FUNCTION", "SET", "SETEX", "DEL", "UNLINK"];
/// Scripts in any form.
const SCRIPTS: &[&str] = &["EVALSHA", "EVAL", "SCRIPT"];
const EVERYTHING: &[&str] = &[];

/// Writes are refused, by every name that they have.
pub fn of_writes() -> Vec<Row> {
    use Outcome::Pauses;
    // Known texts, and invented ones: a text that nobody has seen before must do no harm.
    let texts = [
        "ERR max requests limit exceeded. Limit: 500000, Usage: 500000. See https://example.com/limits for details",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
        "READONLY You can't write against a read only replica.",
        "NOREPLICAS Not enough good replicas to write.",
        "CLUSTERDOWN The cluster is down",
        "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
        "UNKILLABLE Sorry the script already executed write commands against the dataset.",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "QUOTA exceeded: an invented text",
        "an invented text without a code",
        "ERR",
        "ERR value is not an integer or out of range",
        "ERR Error running script (call to f_0): @user_script:40: -OOM command not allowed when used memory > 'maxmemory'.",
        "NOPERM User default has no permissions to run the 'evalsha' command",
        "EXECABORT Transaction discarded because of previous errors.",
    ];
    let mut rows: Vec<Row> = texts.map(|text| Row::text(WRITES, text, Pauses)).into();
    rows.extend([
        Row::text(SCRIPTS, "ERR This instance has scripts disabled", Pauses),
        Row::text(WRITES, "MOVED 1 10.0.0.1:6379", Pauses).says(&["ENVIRONMENT_PREFIX", "{production}"]),
        Row::text(WRITES, "ASK 3999 10.0.0.1:6379", Pauses),
        Row::text(WRITES, "CROSSSLOT Keys in request don't hash to the same slot", Pauses)
            .says(&["ENVIRONMENT_PREFIX", "{production}"]),
        Row::proxied(WRITES, How::Hang, Pauses, "writes hang"),
        Row::proxied(WRITES, How::Close, Pauses, "writes close the connection"),
        Row::proxied(WRITES, How::HalfAnswer, Pauses, "writes are answered by half"),
        Row::proxied(WRITES, How::Answer(b"+OK\r\n".to_vec()), Pauses, "writes are answered with OK"),
        Row::proxied(WRITES, How::Answer(b"*0\r\n".to_vec()), Pauses, "writes are answered with nothing"),
        Row::proxied(
            WRITES,
            How::Answer(b"HTTP/1.1 400 \r\n\r\n".to_vec()),
            Pauses,
            "writes are answered by HTTP",
        ),
    ]);
    rows
}

/// Every command is refused, or what a new connection begins with.
pub fn of_connections() -> Vec<Row> {
    use Outcome::{Pauses, Writes};
    vec![
        Row::text(EVERYTHING, "ERR max daily request limit exceeded. Limit: 10000, Usage: 10000", Pauses),
        Row::text(EVERYTHING, "LOADING Redis is loading the dataset in memory", Pauses),
        Row::text(
            EVERYTHING,
            "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            Pauses,
        ),
        Row::text(EVERYTHING, "NOAUTH Authentication required.", Pauses),
        Row::text(EVERYTHING, "ERR max number of clients reached", Pauses).on_new_connections(),
        Row::text(
            &["AUTH", "HELLO"],
            "WRONGPASS invalid username-password pair or user is disabled.",
            Pauses,
        )
        .with_password()
        .on_new_connections(),
        Row::text(&["AUTH", "HELLO"], "ERR invalid password", Pauses).with_password().on_new_connections(),
        Row::text(&["AUTH", "HELLO"], "DENIED signing in is an invented extra", Pauses)
            .with_password()
            .on_new_connections(),
        Row::text(&["SELECT"], "ERR SELECT is not allowed in cluster mode", Pauses)
            .in_database("3")
            .on_new_connections()
            .says(&["REDIS_DB"]),
        Row::text(&["SELECT"], "ERR unknown command 'SELECT'", Writes).on_new_connections(),
    ]
}

/// Some commands are refused, and for most there is another way.
pub fn of_single_commands() -> Vec<Row> {
    use Outcome::{EitherWay, Writes};
    vec![
        // Scripts by one of their names.
        Row::text(&["EVALSHA"], "ERR unknown command 'EVALSHA', with args beginning with: '0' '1'", Writes),
        Row::text(&["EVALSHA"], "NOSCRIPT No matching script. Please use EVAL.", Writes),
        Row::text(
            &["EVALSHA"],
            "NOPERM this user has no permissions to run the 'evalsha' command",
            EitherWay,
        ),
        Row::text(&["EVALSHA"], "QUOTA of EVALSHA exceeded: an invented text", EitherWay),
        Row::text(&["EVAL"], "ERR unknown command 'EVAL', with args beginning with: 'x' '1'", Writes),
        Row::text(&["SCRIPT"], "ERR unknown command 'SCRIPT', with args beginning with: 'LOAD'", Writes)
            .without_scripts(),
        Row::text(
            &["SCRIPT"],
            "NOPERM this user has no permissions to run the 'script|load' command",
            Writes,
        )
        .without_scripts(),
        // What is no write.
        Row::text(&["PING"], "NOPERM this user has no permissions to run the 'ping' command", Writes),
        Row::text(&["PING"], "ERR PING is an invented extra", EitherWay),
        Row::text(&["INFO"], "NOPERM this user has no permissions to run the 'info' command", Writes),
        Row::text(
            &["GET", "MGET"],
            "NOPERM this user has no permissions to run the 'get' command",
            EitherWay,
        ),
        Row::text(&["SCAN", "ROLE", "CLIENT", "CONFIG"], "ERR unknown command", Writes).on_new_connections(),
    ]
}

fn nothing(_: &TestRedis) {}

/// A real server does it all.
pub fn by_the_server_itself() -> Vec<Row> {
    use Outcome::{Pauses, Writes};
    let from_the_start = || Refused::ByServer { begin: nothing, end: nothing };
    vec![
        Row::new("rename-command EVALSHA", from_the_start(), Writes).with_arguments(&[
            "--rename-command",
            "EVALSHA",
            "",
        ]),
        Row::new("rename-command SCRIPT", from_the_start(), Writes).with_arguments(&[
            "--rename-command",
            "SCRIPT",
            "",
        ]),
        Row::new(
            "maxmemory is reached",
            Refused::ByServer {
                begin: |redis| redis.command(&["CONFIG", "SET", "maxmemory", "1"]),
                end: |redis| redis.command(&["CONFIG", "SET", "maxmemory", "0"]),
            },
            Pauses,
        )
        .with_arguments(&["--maxmemory-policy", "noeviction"])
        .says(&["maxmemory"]),
        Row::new(
            "min-replicas-to-write 1",
            Refused::ByServer {
                begin: |redis| redis.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]),
                end: |redis| redis.command(&["CONFIG", "SET", "min-replicas-to-write", "0"]),
            },
            Pauses,
        ),
        Row::new(
            "the ACL takes scripts away",
            Refused::ByServer {
                begin: |redis| redis.command(&["ACL", "SETUSER", "default", "-@scripting"]),
                end: |redis| redis.command(&["ACL", "SETUSER", "default", "+@scripting"]),
            },
            Pauses,
        ),
        Row::new(
            "the ACL takes SET away, also inside of scripts",
            Refused::ByServer {
                begin: |redis| redis.command(&["ACL", "SETUSER", "default", "-set", "-unlink", "-del"]),
                end: |redis| redis.command(&["ACL", "SETUSER", "default", "+set", "+unlink", "+del"]),
            },
            Pauses,
        ),
        Row::new(
            "CLIENT PAUSE WRITE",
            Refused::ByServer {
                begin: |redis| redis.command(&["CLIENT", "PAUSE", "600000", "WRITE"]),
                end: |redis| redis.command(&["CLIENT", "UNPAUSE"]),
            },
            Pauses,
        ),
        Row::new(
            "it is a replica",
            Refused::ByServer {
                begin: |redis| redis.command(&["REPLICAOF", "127.0.0.1", "9"]),
                end: |redis| redis.command(&["REPLICAOF", "NO", "ONE"]),
            },
            Pauses,
        ),
    ]
}
