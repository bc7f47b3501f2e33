//! A real redis-server of a test's own: own port, own directory, nothing persisted.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::{Commands, ConnectionInfo, FromRedisValue, IntoConnectionInfo};

use super::child::{Process, Signal, thread};
use super::tls::Certificate;
use super::tools::{free_port, system_program};
use super::wait::PATIENCE;

/// How the server is set up, beyond a free port.
#[derive(Default)]
pub struct RedisOptions {
    /// `requirepass`.
    pub password: Option<String>,
    /// An ACL user with every right, and its password; the default user is then off.
    pub user: Option<(String, String)>,
    /// A second port that speaks TLS, with a certificate made for it.
    pub tls: bool,
    /// The TLS port accepts only clients that show a certificate of the same authority.
    pub asks_for_certificates: bool,
    /// Address and port, where they matter; else 127.0.0.1 and a free port.
    pub address: Option<(&'static str, u16)>,
    /// Further arguments of redis-server.
    pub arguments: Vec<&'static str>,
    /// Another server than the system's redis-server.
    pub program: Option<PathBuf>,
}

/// A redis-server, or the place where one would be.
pub struct TestRedis {
    address: &'static str,
    pub port: u16,
    /// The TLS port, if asked for.
    pub tls_port: Option<u16>,
    directory: PathBuf,
    program: PathBuf,
    arguments: Vec<String>,
    login: Option<(Option<String>, String)>,
    process: Mutex<Option<Process>>,
}

/// Everything about one key that a reader could see.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub value: String,
    /// Seconds to live; -1 is for ever.
    pub ttl: i64,
}

impl TestRedis {
    /// A plain one, running.
    pub fn start() -> Self {
        Self::start_with(RedisOptions::default())
    }

    /// One with options, running.
    pub fn start_with(options: RedisOptions) -> Self {
        let redis = Self::prepare(options);
        redis.run();
        redis
    }

    /// One with a second port that speaks TLS, running.
    pub fn with_tls(asks_for_certificates: bool) -> Self {
        Self::start_with(RedisOptions { tls: true, asks_for_certificates, ..RedisOptions::default() })
    }

    /// One that is not running yet: its port is known, and nobody listens on it.
    pub fn prepare(options: RedisOptions) -> Self {
        let directory = private_directory();
        let (address, port) = options.address.unwrap_or_else(|| ("127.0.0.1", free_port()));
        let mut arguments: Vec<String> =
            ["--save", "", "--appendonly", "no", "--bind", address, "--port"].map(str::to_owned).to_vec();
        let path = |name: &str| directory.join(name).display().to_string();
        arguments.extend([port.to_string(), "--dir".into(), directory.display().to_string()]);
        arguments.extend(["--unixsocket".into(), path("redis.sock")]);
        let mut login = None;
        if let Some(password) = options.password {
            arguments.extend(["--requirepass".into(), password.clone()]);
            login = Some((None, password));
        }
        if let Some((user, password)) = options.user {
            let acl = format!("user default off\nuser {user} on >{password} ~* &* +@all\n");
            std::fs::write(directory.join("users.acl"), acl).expect("an ACL file");
            arguments.extend(["--aclfile".into(), path("users.acl")]);
            login = Some((Some(user), password));
        }
        let tls_port = options.tls.then(|| {
            let tls_port = free_port();
            let certificate = Certificate::make_for(&directory, &["redis.test"]);
            let text = |path: PathBuf| path.display().to_string();
            arguments.extend([
                "--tls-port".into(),
                tls_port.to_string(),
                "--tls-auth-clients".into(),
                if options.asks_for_certificates { "yes" } else { "no" }.into(),
            ]);
            arguments.extend(["--tls-cert-file".into(), text(certificate.public)]);
            arguments.extend(["--tls-key-file".into(), text(certificate.key)]);
            arguments.extend(["--tls-ca-cert-file".into(), text(certificate.authority)]);
            tls_port
        });
        arguments.extend(options.arguments.into_iter().map(str::to_owned));
        Self {
            address,
            port,
            tls_port,
            directory,
            program: options.program.unwrap_or_else(|| system_program("redis-server")),
            arguments,
            login,
            process: Mutex::new(None),
        }
    }

    /// Starts the server and waits until it answers.
    pub fn run(&self) {
        self.begin();
        let process = self.process.lock().unwrap();
        let process = process.as_ref().expect("a process");
        process.wait_for(PATIENCE, "an answer from redis", || self.try_connection().ok());
    }

    /// Starts the server: it may take its time to load what was saved.
    pub fn begin(&self) {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let process = Process::start("redis", &self.program, &arguments, &[]);
        *self.process.lock().unwrap() = Some(process);
    }

    /// Kills the server: everything in it is lost, its port refuses.
    pub fn stop(&self) {
        *self.process.lock().unwrap() = None;
    }

    /// Kills the server and starts an empty one in its place.
    pub fn restart(&self) {
        self.stop();
        self.run();
    }

    /// Stops answering, with every connection left open, until `resume`.
    pub fn pause(&self) {
        self.process.lock().unwrap().as_ref().expect("a running redis").signal(Signal::Stop);
    }

    /// Goes on answering.
    pub fn resume(&self) {
        self.process.lock().unwrap().as_ref().expect("a running redis").signal(Signal::Continue);
    }

    /// Shows this certificate to those who connect from now on, and trusts clients of its authority.
    pub fn show(&self, certificate: &Certificate) {
        let text = |path: &Path| path.display().to_string();
        self.command::<()>(&[
            "CONFIG",
            "SET",
            "tls-cert-file",
            &text(&certificate.public),
            "tls-key-file",
            &text(&certificate.key),
            "tls-ca-cert-file",
            &text(&certificate.authority),
        ]);
    }

    /// Where the unix socket is.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("redis.sock")
    }

    /// The authority that signed the TLS certificate.
    pub fn authority_file(&self) -> PathBuf {
        self.directory.join("ca.crt")
    }

    /// A certificate of that authority, and its key: the server's own.
    pub fn certificate_files(&self) -> (PathBuf, PathBuf) {
        (self.directory.join("server.crt"), self.directory.join("server.key"))
    }

    /// A directory for files of the test (secrets …), removed with the server.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn connection_info(&self) -> ConnectionInfo {
        let info =
            format!("redis://{}:{}/", self.address, self.port).into_connection_info().expect("an address");
        let mut settings = info.redis_settings().clone();
        if let Some((user, password)) = &self.login {
            settings = settings.set_password(password.as_str());
            if let Some(user) = user {
                settings = settings.set_username(user.as_str());
            }
        }
        info.set_redis_settings(settings)
    }

    fn try_connection(&self) -> redis::RedisResult<redis::Connection> {
        let mut connection =
            redis::Client::open(self.connection_info())?.get_connection_with_timeout(PATIENCE)?;
        redis::cmd("PING").exec(&mut connection)?;
        Ok(connection)
    }

    /// It takes commands.
    pub fn answers(&self) -> bool {
        self.try_connection().is_ok()
    }

    /// A connection to database 0, with the server's own credentials.
    pub fn connection(&self) -> redis::Connection {
        self.try_connection().expect("redis answers")
    }

    /// Runs one command, as on redis-cli.
    pub fn command<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query(&mut self.connection()).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<String> {
        self.connection().get(key).expect("redis answers")
    }

    /// The value of a key, as JSON.
    pub fn json(&self, key: &str) -> Option<serde_json::Value> {
        let text = self.get(key)?;
        Some(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{key} is not JSON: {error}: {text}")))
    }

    /// The keys there are, in order.
    pub fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.command(&["KEYS", "*"]);
        keys.sort();
        keys
    }

    /// Every key with its value and its life.
    pub fn snapshot(&self) -> BTreeMap<String, Entry> {
        let mut connection = self.connection();
        let keys: Vec<String> = connection.keys("*").expect("redis answers");
        let mut entry = |key: String| {
            let value: Option<String> = connection.get(&key).expect("redis answers");
            let ttl = connection.ttl::<_, i64>(&key).expect("redis answers");
            value.map(|value| (key, Entry { value, ttl }))
        };
        keys.into_iter().filter_map(&mut entry).collect()
    }

    /// The same without the lives, for states that must be the same to the byte.
    pub fn contents(&self) -> BTreeMap<String, String> {
        self.snapshot().into_iter().map(|(key, entry)| (key, entry.value)).collect()
    }

    /// How often a command has run since the server started, inside scripts too.
    pub fn calls_of(&self, command: &str) -> u64 {
        let statistics: String = self.command(&["INFO", "commandstats"]);
        let prefix = format!("cmdstat_{}:calls=", command.to_lowercase());
        let line = statistics.lines().find_map(|line| line.strip_prefix(&prefix));
        line.and_then(|rest| rest.split(',').next()).map_or(0, |calls| calls.parse().expect("a number"))
    }

    /// Watches every command from now on (MONITOR).
    pub fn monitor(&self) -> Monitor {
        assert!(self.login.is_none(), "a monitored redis has no password");
        let mut stream = TcpStream::connect((self.address, self.port)).expect("redis accepts");
        stream.write_all(b"MONITOR\r\n").expect("redis reads");
        let mut reader = BufReader::new(stream);
        let mut first = String::new();
        reader.read_line(&mut first).expect("redis answers");
        assert_eq!(first.trim_end(), "+OK");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        thread("redis-monitor", move || {
            for line in reader.lines().map_while(Result::ok) {
                sink.lock().unwrap().push(line);
            }
        });
        Monitor(lines)
    }
}

/// A new directory. Directories of runs that were killed go first: nobody else removes those.
pub fn private_directory() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    // Not below target: a unix socket's path may have 107 bytes.
    let parent = std::env::temp_dir().join("persistent-cache-it");
    if number == 0 {
        for entry in std::fs::read_dir(&parent).into_iter().flatten().flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            let process = name.split('-').next().unwrap_or_default();
            if !Path::new("/proc").join(process).exists() {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }
    let directory = parent.join(format!("{}-{number}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory for redis");
    directory
}

impl Drop for TestRedis {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// The commands a server has run since, one a line, with their arguments quoted.
pub struct Monitor(Arc<Mutex<Vec<String>>>);

impl Monitor {
    /// How many commands named this exact argument.
    pub fn mentions(&self, argument: &str) -> usize {
        let quoted = format!("\"{argument}\"");
        self.0.lock().unwrap().iter().filter(|line| line.contains(&quoted)).count()
    }
}

/// How close two lives have to be to count as equal, in seconds: the writes are that far apart.
pub const TTL_TOLERANCE: Duration = Duration::from_secs(2);
