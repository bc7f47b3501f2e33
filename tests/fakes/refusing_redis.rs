//! A proxy that speaks Redis's protocol. It stands before a real redis-server and gives the answers that such a server
//! cannot be made to give on purpose: any error text, a hang, a closed connection or half an answer, for some commands
//! only. Everything else is the server's own answer.
//!
//! A connection is served in lock step: a command, its answer, the next command. A command that has more than one
//! answer (SUBSCRIBE, MONITOR) and one that is no array of strings panic.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Result, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::acceptor::{Acceptor, thread};

/// Which commands are refused, and how.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// Names in upper case; none is every command.
    pub commands: &'static [&'static str],
    /// Only those that have an argument with this text in it.
    pub only_with: Option<&'static str>,
    pub how: How,
}

/// What is done instead of passing the server's answer on.
#[derive(Debug, Clone)]
pub enum How {
    /// An error with this text. The command does not reach the server.
    Error(&'static str),
    /// These bytes. The command does not reach the server.
    Answer(Vec<u8>),
    /// Nothing, until the refusals change; then the connection is closed. The command does not reach the server.
    Hang,
    /// The connection is closed. The command does not reach the server.
    Close,
    /// The server executes the command, half of its answer comes, and the connection is closed.
    HalfAnswer,
}

impl Refusal {
    /// Of these commands, whatever their arguments.
    pub fn of(commands: &'static [&'static str], how: How) -> Self {
        Self { commands, only_with: None, how }
    }

    fn concerns(&self, command: &Command) -> bool {
        (self.commands.is_empty() || self.commands.contains(&command.name.as_str()))
            && self.only_with.is_none_or(|text| command.mentions(text))
    }
}

/// A proxy on a port of its own on 127.0.0.1. Its threads end when it is dropped.
pub struct RefusingRedis {
    shared: Arc<Shared>,
    acceptor: Acceptor,
}

struct Shared {
    state: Mutex<State>,
    /// The refusals have changed, or a connection has ended.
    changed: Condvar,
    server: SocketAddr,
}

#[derive(Default)]
struct State {
    refusals: Vec<Refusal>,
    /// Counts the changes of the refusals.
    epoch: u64,
    /// Both ends of each connection.
    links: HashMap<u64, [TcpStream; 2]>,
    accepted: u64,
    running: usize,
    closing: bool,
    first_refused_at: Option<Instant>,
    refused: u64,
    arguments_max: usize,
}

impl RefusingRedis {
    /// Listens; passes everything on until `refuse` is called.
    pub fn start(server: SocketAddr) -> Self {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), server });
        let of_acceptor = Arc::clone(&shared);
        let acceptor = Acceptor::start("refusing-accept", 0, move |client| accept(client, &of_acceptor));
        Self { shared, acceptor }
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.acceptor.port
    }

    /// From now on these are refused, and nothing else. The first that concerns a command counts.
    pub fn refuse(&self, refusals: &[Refusal]) {
        let mut state = self.shared.state();
        state.refusals = refusals.to_vec();
        state.epoch += 1;
        self.shared.changed.notify_all();
    }

    /// From now on nothing is refused.
    pub fn pass(&self) {
        self.refuse(&[]);
    }

    /// Ends all open connections.
    pub fn cut(&self) {
        self.shared.state().cut();
    }

    /// When it first refused something.
    pub fn first_refused_at(&self) -> Option<Instant> {
        self.shared.state().first_refused_at
    }

    /// How many commands it has refused.
    pub fn refused(&self) -> u64 {
        self.shared.state().refused
    }

    /// How many connections it has accepted.
    pub fn accepted(&self) -> u64 {
        self.shared.state().accepted
    }

    /// Most arguments that one command had, its name among them.
    pub fn arguments_max(&self) -> usize {
        self.shared.state().arguments_max
    }
}

impl Drop for RefusingRedis {
    fn drop(&mut self) {
        {
            let mut state = self.shared.state();
            state.closing = true;
            state.cut();
            self.shared.changed.notify_all();
        }
        self.acceptor.end();
        let (state, waited) = self
            .shared
            .changed
            .wait_timeout_while(self.shared.state(), Duration::from_secs(10), |state| state.running > 0)
            .expect("no connection panics");
        assert!(
            !waited.timed_out() || std::thread::panicking(),
            "{} connections of the proxy have not ended",
            state.running
        );
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no connection panics while it holds the state")
    }

    /// How this command is refused, if it is.
    fn judge(&self, command: &Command) -> Option<How> {
        let mut state = self.state();
        state.arguments_max = state.arguments_max.max(command.arguments.len());
        let refusal = state
            .refusals
            .iter()
            .find(|refusal| refusal.concerns(command))
            .map(|refusal| refusal.how.clone())?;
        state.refused += 1;
        state.first_refused_at.get_or_insert_with(Instant::now);
        Some(refusal)
    }

    fn wait_for_other_refusals(&self) {
        let state = self.state();
        let epoch = state.epoch;
        let waits = |state: &mut State| state.epoch == epoch && !state.closing;
        drop(self.changed.wait_while(state, waits).expect("no connection panics"));
    }
}

impl State {
    fn cut(&self) {
        for socket in self.links.values().flatten() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

fn accept(client: TcpStream, shared: &Arc<Shared>) {
    let mut state = shared.state();
    if state.closing {
        return;
    }
    // Without a server, no connection is accepted.
    let Ok(server) = TcpStream::connect(shared.server) else {
        return;
    };
    state.accepted += 1;
    state.running += 1;
    let number = state.accepted;
    let ends = [&client, &server].map(|end| {
        let _ = end.set_nodelay(true);
        end.try_clone().expect("a handle of a socket")
    });
    state.links.insert(number, ends);
    drop(state);
    let shared = Arc::clone(shared);
    thread("refusing-link", move || {
        // An end of either side ends the connection.
        let _ = serve(&shared, &client, &server);
        let _ = client.shutdown(Shutdown::Both);
        let mut state = shared.state();
        state.links.remove(&number);
        state.running -= 1;
        shared.changed.notify_all();
    });
}

fn serve(shared: &Shared, mut client: &TcpStream, mut server: &TcpStream) -> Result<()> {
    let (mut commands, mut answers) = (BufReader::new(client), BufReader::new(server));
    loop {
        let command = Command::read(&mut commands)?;
        match shared.judge(&command) {
            None => {
                server.write_all(&command.raw)?;
                client.write_all(&read_answer(&mut answers)?)?;
            }
            Some(How::Error(text)) => client.write_all(format!("-{text}\r\n").as_bytes())?,
            Some(How::Answer(bytes)) => client.write_all(&bytes)?,
            Some(How::Hang) => {
                shared.wait_for_other_refusals();
                return Ok(());
            }
            Some(How::Close) => return Ok(()),
            Some(How::HalfAnswer) => {
                server.write_all(&command.raw)?;
                let answer = read_answer(&mut answers)?;
                return client.write_all(&answer[..answer.len() / 2]);
            }
        }
    }
}

/// A command as it came.
struct Command {
    raw: Vec<u8>,
    /// In upper case.
    name: String,
    arguments: Vec<Vec<u8>>,
}

impl Command {
    fn read(from: &mut impl BufRead) -> Result<Self> {
        let mut raw = Vec::new();
        let head = read_line(from, &mut raw)?;
        assert!(head.starts_with('*'), "no array of strings: {head}");
        let mut arguments = Vec::new();
        for _ in 0..number(&head)? {
            let head = read_line(from, &mut raw)?;
            assert!(head.starts_with('$'), "no array of strings: {head}");
            arguments.push(read_bytes(from, number(&head)?, &mut raw)?);
        }
        let name = String::from_utf8_lossy(&arguments[0]).to_uppercase();
        assert!(!name.ends_with("SUBSCRIBE") && name != "MONITOR", "{name} has many answers");
        Ok(Self { raw, name, arguments })
    }

    fn mentions(&self, text: &str) -> bool {
        let has = |argument: &Vec<u8>| argument.windows(text.len()).any(|part| part == text.as_bytes());
        self.arguments.iter().any(has)
    }
}

/// One whole answer of the server, as it came.
fn read_answer(from: &mut impl BufRead) -> Result<Vec<u8>> {
    let mut raw = Vec::new();
    let mut missing = 1;
    while missing > 0 {
        missing -= 1;
        let head = read_line(from, &mut raw)?;
        match head.as_bytes().first() {
            Some(b'$' | b'=' | b'!') if head != "$-1" => {
                read_bytes(from, number(&head)?, &mut raw)?;
            }
            Some(b'*' | b'~') if head != "*-1" => missing += number(&head)?,
            Some(b'%') => missing += 2 * number(&head)?,
            Some(b'+' | b'-' | b':' | b'$' | b'*' | b',' | b'#' | b'_' | b'(') => {}
            _ => panic!("no answer that this proxy knows: {head}"),
        }
    }
    Ok(raw)
}

fn read_line(from: &mut impl BufRead, raw: &mut Vec<u8>) -> Result<String> {
    let start = raw.len();
    from.read_until(b'\n', raw)?;
    let line = raw[start..].strip_suffix(b"\r\n").ok_or(ErrorKind::UnexpectedEof)?;
    Ok(String::from_utf8_lossy(line).into_owned())
}

/// So many bytes and the end of the line behind them.
fn read_bytes(from: &mut impl Read, count: usize, raw: &mut Vec<u8>) -> Result<Vec<u8>> {
    let start = raw.len();
    raw.resize(start + count + 2, 0);
    from.read_exact(&mut raw[start..])?;
    Ok(raw[start..start + count].to_vec())
}

/// The number behind a type prefix: `$12`.
fn number(head: &str) -> Result<usize> {
    head[1..].parse().map_err(|_| ErrorKind::InvalidData.into())
}
