//! Two redis-servers that keep what they confirmed: a primary and its replica, which change places.
//!
//! `appendfsync always`: a write is on disk before it is confirmed (and before any other client can read it), so a
//! kill loses nothing that was confirmed. What a replica got by a full synchronisation is not on its disk until it
//! has rewritten its file: until then it is not killed (see [`RedisPair::wait_until_durable`]).

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::child::Process;
use crate::support::tools::{free_port, system_program};
use crate::support::wait::{PATIENCE, wait_for};

/// How long a question may take: Redis is on this machine.
const ANSWER: Duration = Duration::from_secs(5);

/// Both servers.
pub struct RedisPair {
    directory: PathBuf,
    servers: [Server; 2],
    primary: usize,
}

struct Server {
    port: u16,
    directory: PathBuf,
    process: Option<Process>,
}

impl Server {
    fn start(&mut self, replica_of: Option<u16>) {
        let (port, directory) = (self.port.to_string(), self.directory.display().to_string());
        let mut arguments = vec!["--bind", "127.0.0.1", "--port", &port, "--dir", &directory];
        arguments.extend(["--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
        // Both begin at once, and a short break does not cost a full synchronisation.
        arguments.extend(["--repl-diskless-sync-delay", "0", "--repl-backlog-size", "64mb"]);
        let primary_port = replica_of.map(|port| port.to_string());
        if let Some(primary_port) = &primary_port {
            arguments.extend(["--replicaof", "127.0.0.1", primary_port]);
        }
        let process = Process::start("redis", &system_program("redis-server"), &arguments, &[]);
        process.wait_for(PATIENCE, "redis to have loaded its data", || {
            let mut connection = connect(self.port).ok()?;
            redis::cmd("PING").exec(&mut connection).ok()
        });
        self.process = Some(process);
    }

    fn info(&self, section: &str) -> Option<String> {
        let mut connection = connect(self.port).ok()?;
        redis::cmd("INFO").arg(section).query(&mut connection).ok()
    }

    fn says(&self, section: &str, lines: &[&str]) -> bool {
        self.info(section).is_some_and(|info| lines.iter().all(|line| info.contains(line)))
    }
}

/// A connection that does not wait for ever.
pub fn connect(port: u16) -> redis::RedisResult<redis::Connection> {
    let connection =
        redis::Client::open(format!("redis://127.0.0.1:{port}/"))?.get_connection_with_timeout(ANSWER)?;
    connection.set_read_timeout(Some(ANSWER))?;
    connection.set_write_timeout(Some(ANSWER))?;
    Ok(connection)
}

impl RedisPair {
    /// Both running, the replica in step.
    pub fn start() -> Self {
        let directory = private_directory();
        let server = |name: &str| {
            let directory = directory.join(name);
            std::fs::create_dir_all(&directory).expect("a directory for redis");
            Server { port: free_port(), directory, process: None }
        };
        let mut servers = [server("a"), server("b")];
        let primary_port = servers[0].port;
        servers[0].start(None);
        servers[1].start(Some(primary_port));
        let pair = Self { directory, servers, primary: 0 };
        pair.wait_until_in_step();
        pair
    }

    /// Where the primary listens.
    pub fn primary_port(&self) -> u16 {
        self.servers[self.primary].port
    }

    /// The same, for a proxy.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.primary_port()).into()
    }

    fn replica(&self) -> &Server {
        &self.servers[1 - self.primary]
    }

    fn is_in_step(&self) -> bool {
        self.servers[self.primary].says("replication", &["role:master", "connected_slaves:1", "state=online"])
            && self
                .replica()
                .says("replication", &["role:slave", "master_link_status:up", "master_sync_in_progress:0"])
    }

    fn is_durable(&self) -> bool {
        self.servers[self.primary].says(
            "persistence",
            &[
                "loading:0",
                "aof_enabled:1",
                "aof_rewrite_in_progress:0",
                "aof_rewrite_scheduled:0",
                "aof_last_write_status:ok",
            ],
        )
    }

    /// Waits until the primary has everything on its disk: until then a kill would not be fair.
    pub fn wait_until_durable(&self) {
        wait_for(
            PATIENCE,
            "the primary to have everything on disk",
            || self.is_durable().then_some(()),
            || self.last_words(),
        );
    }

    /// Waits until the replica has caught up after what happened before.
    pub fn wait_until_in_step(&self) {
        wait_for(PATIENCE, "a replica in step", || self.is_in_step().then_some(()), || self.last_words());
    }

    /// Kills the primary with -9. Its port refuses from now on.
    pub fn kill_primary(&mut self) {
        self.servers[self.primary].process = None;
    }

    /// Starts it again, from what is on its disk. It stays the primary.
    pub fn start_primary(&mut self) {
        self.servers[self.primary].start(None);
    }

    /// The coordinated failover: the primary stops writing, waits until the replica has everything, and they change
    /// places. False if the replica did not get everything in time: then they stay.
    pub fn fail_over(&mut self) -> bool {
        let (old, new) = (&self.servers[self.primary], self.replica());
        let mut connection = connect(old.port).expect("the primary answers");
        redis::cmd("FAILOVER")
            .arg(&["TO", "127.0.0.1"])
            .arg(new.port)
            .arg("TIMEOUT")
            .arg(5_000)
            .exec(&mut connection)
            .expect("a failover can begin");
        wait_for(
            PATIENCE,
            "the end of a failover",
            || {
                let is_over = old.says("replication", &["master_failover_state:no-failover"]);
                let has_moved =
                    old.says("replication", &["role:slave"]) && new.says("replication", &["role:master"]);
                let has_stayed =
                    old.says("replication", &["role:master"]) && new.says("replication", &["role:slave"]);
                (is_over && (has_moved || has_stayed)).then_some(())
            },
            || self.last_words(),
        );
        let has_moved = new.says("replication", &["role:master"]);
        if has_moved {
            self.primary = 1 - self.primary;
        }
        has_moved
    }

    fn last_words(&self) -> String {
        let words = self.servers.iter().filter_map(|server| server.process.as_ref());
        words.map(Process::last_words).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for RedisPair {
    fn drop(&mut self) {
        for server in &mut self.servers {
            server.process = None;
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A new directory. Removes those of runs that were killed first.
fn private_directory() -> PathBuf {
    let parent = std::env::temp_dir().join("persistent-cache-chaos");
    for entry in std::fs::read_dir(&parent).into_iter().flatten().flatten() {
        if !Path::new("/proc").join(entry.file_name()).exists() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    let directory = parent.join(std::process::id().to_string());
    std::fs::create_dir_all(&directory).expect("a directory for redis");
    directory
}
