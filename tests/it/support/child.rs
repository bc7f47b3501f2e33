//! Child processes that cannot outlive the test binary, however it ends.
//!
//! Each is started through `setpriv --pdeathsig KILL`: the kernel kills it when the THREAD that started it ends.
//! A test's own thread ends with the test, so one thread that lives as long as the process starts them all.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use super::wait::wait_for;

type Started = std::io::Result<Child>;

/// What to start, and where the result goes.
type Order = (Command, Sender<Started>);

static SPAWNER: LazyLock<Mutex<Sender<Order>>> = LazyLock::new(|| {
    let (orders, received) = channel::<Order>();
    thread("spawner", move || {
        for (mut command, reply) in received {
            let _ = reply.send(command.spawn());
        }
    });
    Mutex::new(orders)
});

/// Starts a named thread of the harness.
pub fn thread<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run).expect("a thread can be started")
}

/// Lines of a stream, collected as they come.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<String>>>, Arc<AtomicBool>);

impl Lines {
    fn collect(name: &str, stream: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let sink = lines.clone();
        thread(name, move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while matches!(stream.read_until(b'\n', &mut line), Ok(1..)) {
                sink.0.lock().unwrap().push(String::from_utf8_lossy(&line).trim_end().to_owned());
                line.clear();
            }
            sink.1.store(true, Ordering::Release);
        });
        lines
    }

    /// The stream has ended: no line is missing.
    pub fn are_complete(&self) -> bool {
        self.1.load(Ordering::Acquire)
    }

    /// All of them so far.
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// The last few, as text.
    pub fn tail(&self) -> String {
        let lines = self.0.lock().unwrap();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

/// A signal that a test sends.
#[derive(Debug, Clone, Copy)]
pub enum Signal {
    Terminate,
    Interrupt,
    User1,
    Stop,
    Continue,
}

/// A running program. Killed when dropped.
pub struct Process {
    name: String,
    child: Mutex<Child>,
    pub stdout: Lines,
    pub stderr: Lines,
}

impl Process {
    /// Starts `program` with exactly this environment; what it writes is collected.
    pub fn start(name: &str, program: &Path, arguments: &[&str], environment: &[(String, String)]) -> Self {
        let (process, _stdin) = Self::spawn(name, program, arguments, environment, false);
        process
    }

    /// The same, with a pipe to its stdin; its stdout is the caller's to read.
    pub fn start_with_pipes(
        name: &str,
        program: &Path,
        arguments: &[&str],
        environment: &[(String, String)],
    ) -> (Self, ChildStdin, impl Read + Send + use<>) {
        let (mut process, stdin) = Self::spawn(name, program, arguments, environment, true);
        let stdout = process.child.get_mut().unwrap().stdout.take().expect("a pipe");
        (process, stdin.expect("a pipe"), stdout)
    }

    fn spawn(
        name: &str,
        program: &Path,
        arguments: &[&str],
        environment: &[(String, String)],
        piped: bool,
    ) -> (Self, Option<ChildStdin>) {
        let mut command = Command::new("/usr/bin/setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(arguments);
        command.env_clear().envs(environment.iter().cloned());
        command.stdin(if piped { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let (reply, started) = channel();
        SPAWNER.lock().unwrap().send((command, reply)).expect("the spawner lives");
        let mut child = started.recv().expect("the spawner answers").unwrap_or_else(|error| {
            panic!("cannot start {name} through /usr/bin/setpriv: {error}; run scripts/tools")
        });
        let stdin = child.stdin.take();
        let stdout = if piped {
            Lines::default()
        } else {
            Lines::collect(&format!("{name}-stdout"), child.stdout.take().expect("a pipe"))
        };
        let stderr = Lines::collect(&format!("{name}-stderr"), child.stderr.take().expect("a pipe"));
        (Self { name: name.to_owned(), child: Mutex::new(child), stdout, stderr }, stdin)
    }

    /// Its process id: setpriv becomes the program.
    pub fn id(&self) -> u32 {
        self.child.lock().unwrap().id()
    }

    /// Its exit status, once it has ended.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.child.lock().unwrap().try_wait().expect("a child can be waited for")
    }

    /// What it wrote last, for the message of a failed test.
    pub fn last_words(&self) -> String {
        let (stdout, stderr) = (self.stdout.tail(), self.stderr.tail());
        format!("--- stdout of {}:\n{stdout}\n--- stderr of {}:\n{stderr}", self.name, self.name)
    }

    /// Waits for a value that comes while the process runs; fails at once if the process ends first.
    pub fn wait_for<T>(&self, deadline: Duration, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
        let look = || {
            let value = condition();
            if value.is_none()
                && let Some(status) = self.exit_status()
            {
                panic!("{} ended ({status}) before: {what}\n{}", self.name, self.last_words());
            }
            value
        };
        wait_for(deadline, what, look, || self.last_words())
    }

    /// Waits for its end.
    pub fn wait_for_exit(&self, deadline: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        wait_for(deadline, what, || self.exit_status(), || self.last_words())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let name = match signal {
            Signal::Terminate => "TERM",
            Signal::Interrupt => "INT",
            Signal::User1 => "USR1",
            Signal::Stop => "STOP",
            Signal::Continue => "CONT",
        };
        // Not while another thread waits for the child: its id could be another process's by then.
        let mut child = self.child.lock().unwrap();
        let ended = child.try_wait().expect("a child can be waited for");
        assert!(ended.is_none(), "{} has ended: {ended:?}\n{}", self.name, self.last_words());
        let id = child.id();
        let sent =
            Command::new("/bin/sh").args(["-c", &format!("kill -s {name} {id}")]).status().expect("sh runs");
        assert!(sent.success(), "cannot send {name} to {}", self.name);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(mut child) = self.child.lock() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
