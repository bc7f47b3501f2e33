//! The service under test: the built binary with a clean environment.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use serde_json::Value;

use super::child::{Process, Signal};
use super::http::{Answer, Metrics, get};
use super::moto::{AccessKey, Queue, REGION};
use super::redis::TestRedis;
use super::tools::{free_port, system_program};
use super::wait::PATIENCE;

/// A server key that only the tests use.
pub const SERVER_API_KEY: &str = "server-api-key-of-the-tests";

/// Environment variables of the service, and nothing else in its environment.
#[derive(Debug, Clone, Default)]
pub struct Settings(BTreeMap<String, String>);

impl Settings {
    /// What it needs to work from this queue into this Redis. Two pollers and short long polls, since moto is
    /// slow; batches of ten.
    pub fn new(redis: &TestRedis, queue: &Queue) -> Self {
        Self::of_redis(redis)
            .set("AWS_REGION", REGION)
            .set("QUEUE_URL", &queue.url)
            .access_key(&queue.moto.service_user)
    }

    /// The same without a queue.
    pub fn of_redis(redis: &TestRedis) -> Self {
        Self::default()
            .set("SERVER_API_KEY", SERVER_API_KEY)
            // Nobody listens there: a test that wants the Edge API says so.
            .set("EDGE_API_URL", "http://127.0.0.1:9")
            .set("DISABLE_SENTRY", "1")
            .set("REDIS_HOST", "127.0.0.1")
            .set("REDIS_PORT", redis.port.to_string())
            .set("PORT", free_port().to_string())
            .set("CONSUMERS", "2")
            .set("BATCH_SIZE", "10")
            .set("WAIT_TIME_SECS", "1")
    }

    /// The same with one more variable, or another value for it.
    pub fn set(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.0.insert(name.to_owned(), value.as_ref().to_owned());
        self
    }

    /// The same without a variable.
    pub fn unset(mut self, name: &str) -> Self {
        self.0.remove(name);
        self
    }

    /// The same with this access key.
    pub fn access_key(self, key: &AccessKey) -> Self {
        let settings = self.set("AWS_ACCESS_KEY_ID", &key.id).set("AWS_SECRET_ACCESS_KEY", &key.secret);
        match &key.session_token {
            Some(token) => settings.set("AWS_SESSION_TOKEN", token),
            None => settings,
        }
    }

    /// As a process is given them.
    pub fn environment(&self) -> Vec<(String, String)> {
        self.0.clone().into_iter().collect()
    }
}

/// The binary.
pub fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_persistent-cache-service"))
}

/// Runs the binary to its end: status, and all it wrote.
pub fn run_to_end(settings: &Settings, arguments: &[&str]) -> (ExitStatus, String) {
    let process = Process::start("service", binary(), arguments, &settings.environment());
    let status = process.wait_for_exit(PATIENCE);
    // The pipes are read to their end by threads; an ended process writes no more.
    super::wait::wait_until(PATIENCE, "the end of the output", || {
        process.stdout.are_complete() && process.stderr.are_complete()
    });
    (status, format!("{}\n{}", process.stdout.all().join("\n"), process.stderr.all().join("\n")))
}

/// What a process holds of the machine.
#[derive(Debug, Clone, Copy)]
pub struct Footprint {
    pub resident_kib: usize,
    pub threads: usize,
    pub descriptors: usize,
}

/// A running service.
pub struct Service {
    process: Process,
    base: String,
}

impl Service {
    /// Starts it and returns at once.
    pub fn spawn(settings: &Settings) -> Self {
        Self::spawn_program(binary(), &[], settings)
    }

    /// Starts another program that runs the service with these settings.
    pub fn spawn_program(program: &Path, arguments: &[&str], settings: &Settings) -> Self {
        let port = settings.0.get("PORT").expect("PORT is set");
        let base = format!("http://127.0.0.1:{port}");
        Self { process: Process::start("service", program, arguments, &settings.environment()), base }
    }

    /// Starts it with a log that nobody reads, as long as the caller does not.
    pub fn spawn_unread(settings: &Settings) -> (Self, impl Read + use<>) {
        let port = settings.0.get("PORT").expect("PORT is set");
        let base = format!("http://127.0.0.1:{port}");
        let (process, _stdin, log) =
            Process::start_with_pipes("service", binary(), &[], &settings.environment());
        (Self { process, base }, log)
    }

    /// Starts it with an `/etc/hosts` of its own (in a mount namespace of its own), and returns at once. What is
    /// written into the file later changes what its host names mean.
    pub fn spawn_with_hosts(settings: &Settings, hosts: &Path) -> Self {
        let port = settings.0.get("PORT").expect("PORT is set");
        let script = format!("mount --bind {} /etc/hosts && exec {}", hosts.display(), binary().display());
        let arguments = ["--map-root-user", "--mount", "/bin/sh", "-c", &script];
        Self {
            base: format!("http://127.0.0.1:{port}"),
            process: Process::start(
                "service",
                &system_program("unshare"),
                &arguments,
                &settings.environment(),
            ),
        }
    }

    /// Starts it and waits until it is ready.
    pub fn start(settings: &Settings) -> Self {
        let service = Self::spawn(settings);
        service.wait_until_ready();
        service
    }

    /// Waits for a value that comes while the service runs; fails at once if it ends first.
    pub fn wait_for<T>(&self, what: &str, condition: impl FnMut() -> Option<T>) -> T {
        self.process.wait_for(PATIENCE, what, condition)
    }

    /// Waits until something holds while the service runs.
    pub fn wait_until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        self.wait_for(what, || condition().then_some(()));
    }

    /// Waits for 200 from `/readyz`.
    pub fn wait_until_ready(&self) {
        self.wait_until("/readyz to say 200", || {
            self.try_get("/readyz").is_some_and(|answer| answer.status == 200)
        });
    }

    /// One GET; `None` if nobody answers.
    pub fn try_get(&self, path: &str) -> Option<Answer> {
        get(&format!("{}{path}", self.base))
    }

    /// One GET; waits for the port to open, since a service that was just started opens it in its own time.
    pub fn get(&self, path: &str) -> Answer {
        self.wait_for(&format!("an answer to GET {path}"), || self.try_get(path))
    }

    /// One request on a connection of its own: the answer as it came, with its headers. HEAD has no body.
    pub fn ask(&self, method: &str, path: &str) -> String {
        let address = self.url().trim_start_matches("http://");
        let mut connection = TcpStream::connect(address).expect("the port is open");
        connection.set_read_timeout(Some(PATIENCE)).expect("a deadline");
        let request = format!("{method} {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).expect("it answers");
        answer
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.base
    }

    /// `/metrics`, read.
    pub fn metrics(&self) -> Metrics {
        let answer = self.get("/metrics");
        assert_eq!(answer.status, 200, "{}", answer.body);
        Metrics::parse(&answer.body)
    }

    /// Waits until a series has reached a value.
    pub fn wait_for_metric(&self, series: &str, at_least: f64) {
        let what = format!("{series} to reach {at_least}");
        self.wait_until(&what, || self.metrics().value(series) >= at_least);
    }

    /// What it wrote to stdout, but for what a test binary says when it begins.
    pub fn log_lines(&self) -> Vec<String> {
        let mut lines = self.process.stdout.all();
        lines.retain(|line| !["", "running 1 test"].contains(&line.as_str()));
        lines
    }

    /// What it wrote to stderr.
    pub fn stderr(&self) -> Vec<String> {
        self.process.stderr.all()
    }

    /// The log as JSON. Panics at a line that is not a JSON object.
    pub fn log(&self) -> Vec<Value> {
        self.log_lines().iter().map(|line| log_record(line)).collect()
    }

    /// Waits for a warning or an error whose text has each of these parts, in any case; gives the line.
    pub fn wait_for_complaint(&self, parts: &[&str]) -> String {
        let what = format!("a warning or an error in the log that says {parts:?}");
        self.wait_for(&what, || {
            self.log_lines().into_iter().find(|line| {
                let level = log_record(line)["level"].as_str().unwrap_or_default().to_lowercase();
                let text = line.to_lowercase();
                ["warn", "error"].contains(&level.as_str())
                    && parts.iter().all(|part| text.contains(&part.to_lowercase()))
            })
        })
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Resident memory at its peak, in KiB.
    pub fn peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))
            .expect("a running service");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let number = line.and_then(|rest| rest.split_whitespace().next()).expect("a peak");
        number.parse().expect("a number")
    }

    /// What it holds of the machine now.
    pub fn footprint(&self) -> Footprint {
        let directory = format!("/proc/{}", self.process.id());
        let status = std::fs::read_to_string(format!("{directory}/status")).expect("a running service");
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|rest| rest.split_whitespace().next());
            number.and_then(|number| number.parse().ok()).expect("a number")
        };
        Footprint {
            resident_kib: number("VmRSS:"),
            threads: number("Threads:"),
            descriptors: std::fs::read_dir(format!("{directory}/fd")).expect("a running service").count(),
        }
    }

    /// Its exit status, once it has ended.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.process.exit_status()
    }

    /// Waits for its end.
    pub fn wait_for_exit(&self, deadline: Duration) -> ExitStatus {
        self.process.wait_for_exit(deadline)
    }

    /// Ends it with SIGTERM; it has to end well.
    pub fn stop(self) {
        self.signal(Signal::Terminate);
        let status = self.wait_for_exit(PATIENCE);
        assert!(status.success(), "{status}\n{}", self.process.last_words());
    }
}

fn log_record(line: &str) -> Value {
    let record = serde_json::from_str(line).unwrap_or_else(|error| panic!("not JSON ({error}): {line}"));
    assert!(matches!(record, Value::Object(_)), "not an object: {line}");
    record
}
