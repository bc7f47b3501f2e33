//! A real sentinel of a test's own: it watches one primary, alone, and is quick to act.

use std::path::PathBuf;

use redis::{ConnectionInfo, FromRedisValue, IntoConnectionInfo as _};

use super::child::Process;
use super::redis::{TestRedis, private_directory};
use super::tools::{free_port, system_program};
use super::wait::{PATIENCE, wait_until};

/// What the sentinel calls the primary.
pub const MASTER: &str = "mymaster";
/// The only user that the sentinel lets in.
pub const USER: &str = "watcher";
/// That user's password.
pub const PASSWORD: &str = "of-the-watcher";

/// A running sentinel.
pub struct TestSentinel {
    pub port: u16,
    directory: PathBuf,
    _process: Process,
    speaks_tls: bool,
    asks_for_password: bool,
}

impl TestSentinel {
    /// Watches this server, over TLS if it has a port for it; then the sentinel itself speaks TLS, too.
    pub fn of(redis: &TestRedis) -> Self {
        Self::start(redis, true)
    }

    /// The same, but it lets everybody in without a password.
    pub fn open_to_all(redis: &TestRedis) -> Self {
        Self::start(redis, false)
    }

    fn start(redis: &TestRedis, asks_for_password: bool) -> Self {
        let (port, directory) = (free_port(), private_directory());
        let watched = redis.tls_port.unwrap_or(redis.port);
        let (certificate, key) = redis.certificate_files();
        let speaks_tls = redis.tls_port.is_some();
        let listen = if speaks_tls {
            format!(
                "port 0\ntls-port {port}\ntls-auth-clients no\ntls-replication yes\ntls-cert-file {}\ntls-key-file {}\n\
                 tls-ca-cert-file {}\n",
                certificate.display(),
                key.display(),
                redis.authority_file().display()
            )
        } else {
            format!("port {port}\n")
        };
        let users = if asks_for_password {
            format!("user default off\nuser {USER} on >{PASSWORD} ~* &* +@all\n")
        } else {
            String::new()
        };
        let configuration = format!(
            "{listen}bind 127.0.0.1\n{users}\
             sentinel monitor {MASTER} 127.0.0.1 {watched} 1\n\
             sentinel down-after-milliseconds {MASTER} 1000\n\
             sentinel failover-timeout {MASTER} 5000\n"
        );
        let file = directory.join("sentinel.conf");
        std::fs::write(&file, configuration).expect("a file");
        let arguments = [file.to_str().expect("a path"), "--sentinel"];
        let process = Process::start("sentinel", &system_program("redis-server"), &arguments, &[]);
        let sentinel = Self { port, directory, _process: process, speaks_tls, asks_for_password };
        wait_until(PATIENCE, "a sentinel that listens", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        sentinel
    }

    /// Runs one command, as on redis-cli.
    pub fn command<T: FromRedisValue>(&self, words: &[&str]) -> T {
        assert!(!self.speaks_tls, "a test that talks to the sentinel uses a plain one");
        let login = if self.asks_for_password { format!("{USER}:{PASSWORD}@") } else { String::new() };
        let info: ConnectionInfo =
            format!("redis://{login}127.0.0.1:{}/", self.port).into_connection_info().expect("an address");
        let mut connection = redis::Client::open(info)
            .and_then(|client| client.get_connection_with_timeout(PATIENCE))
            .expect("the sentinel answers");
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]).query(&mut connection).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// The port of the primary, as the sentinel has it.
    pub fn primary_port(&self) -> u16 {
        let address: Vec<String> = self.command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER]);
        address[1].parse().expect("a port")
    }

    /// Replicas that it could promote now.
    pub fn good_replicas(&self) -> usize {
        let replicas: Vec<Vec<String>> = self.command(&["SENTINEL", "REPLICAS", MASTER]);
        let is_good = |fields: &&Vec<String>| {
            let value = |name: &str| {
                let at = fields.iter().position(|field| field == name)?;
                fields.get(at + 1).cloned()
            };
            value("flags").as_deref() == Some("slave") && value("master-link-status").as_deref() == Some("ok")
        };
        replicas.iter().filter(is_good).count()
    }
}

impl Drop for TestSentinel {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
