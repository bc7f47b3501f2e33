//! A peer that leaks what it was sent: its refusals quote the request, it answers with half a document that holds
//! secrets, or does not answer. Over HTTP and over Redis's protocol.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::child::thread;
use super::http::{header_of, read_head};
use crate::fakes::acceptor::Acceptor;

/// How it behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As it should.
    Serve,
    /// Refuses, and quotes what it was sent.
    Refuse,
    /// Answers with something that is none: the beginning of a right answer, or what it was sent.
    Garbage,
    /// Takes what comes and says nothing.
    Stall,
}

/// A request over HTTP as it came.
pub struct Request {
    /// `GET /path`
    pub line: String,
    /// Head and body, one text.
    pub text: String,
}

type Answers = Arc<dyn Fn(&Request) -> String + Send + Sync>;

/// What it speaks.
#[derive(Clone)]
enum Speech {
    Http {
        /// The body of the right answer.
        answers: Answers,
        /// The body of a refusal with these words in it.
        refuses: fn(&str) -> String,
        /// 403, or a proxy's 407.
        status: &'static str,
    },
    /// The right answers are somebody else's.
    Redis(SocketAddr),
}

struct State {
    mode: Mode,
    calls: [usize; 4],
    open: Vec<TcpStream>,
}

/// The peer; dropping it ends it.
pub struct Hostile {
    pub port: u16,
    state: Arc<Mutex<State>>,
    acceptor: Acceptor,
}

impl Hostile {
    /// Speaks HTTP, and answers by this where it should. Refusals have this form.
    pub fn http(
        answers: impl Fn(&Request) -> String + Send + Sync + 'static,
        refuses: fn(&str) -> String,
    ) -> Self {
        Self::start(Speech::Http { answers: Arc::new(answers), refuses, status: "403 Forbidden" })
    }

    /// Stands before another HTTP server, the queue for one.
    pub fn before(server: SocketAddr, refuses: fn(&str) -> String) -> Self {
        Self::http(
            move |request| {
                let answer = TcpStream::connect(server).and_then(|mut upstream| {
                    upstream.write_all(request.text.as_bytes())?;
                    read_message(&mut upstream)
                });
                // A client may hang up at any time.
                answer.unwrap_or_default()
            },
            refuses,
        )
    }

    /// A proxy that wants another sign-in.
    pub fn proxy() -> Self {
        Self::start(Speech::Http {
            answers: Arc::new(|_| String::new()),
            refuses: str::to_owned,
            status: "407 Proxy Authentication Required",
        })
    }

    /// Stands before a Redis, or a Sentinel.
    pub fn redis(before: u16) -> Self {
        Self::start(Speech::Redis(([127, 0, 0, 1], before).into()))
    }

    fn start(speech: Speech) -> Self {
        let state = Arc::new(Mutex::new(State { mode: Mode::Serve, calls: [0; 4], open: Vec::new() }));
        let shared = Arc::clone(&state);
        let acceptor = Acceptor::start("hostile", 0, move |client| {
            if let Ok(clone) = client.try_clone() {
                shared.lock().unwrap().open.push(clone);
            }
            let (shared, speech) = (Arc::clone(&shared), speech.clone());
            thread("hostile-connection", move || {
                // A client may hang up at any time.
                let _ = match speech {
                    Speech::Http { answers, refuses, status } => {
                        speak_http(client, &shared, &*answers, refuses, status)
                    }
                    Speech::Redis(before) => speak_redis(client, &shared, before),
                };
            });
        });
        Self { port: acceptor.port, state, acceptor }
    }

    /// `http://127.0.0.1:port`
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on behaves so, also to those who are connected: their connections end.
    pub fn turn(&self, mode: Mode) {
        let mut state = self.state.lock().unwrap();
        state.mode = mode;
        for connection in state.open.drain(..) {
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
    }

    /// What it was asked for, and over HTTP has answered, while it behaved so.
    pub fn calls(&self, mode: Mode) -> usize {
        self.state.lock().unwrap().calls[mode as usize]
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.acceptor.end();
        self.turn(Mode::Refuse);
    }
}

/// The mode of this call; counts it.
fn called(state: &Mutex<State>) -> Mode {
    let mode = state.lock().unwrap().mode;
    count(state, mode);
    mode
}

fn count(state: &Mutex<State>, mode: Mode) {
    state.lock().unwrap().calls[mode as usize] += 1;
}

/// Until the other side hangs up.
fn say_nothing(client: &mut TcpStream) {
    let mut ignored = [0; 1024];
    while matches!(client.read(&mut ignored), Ok(1..)) {}
}

fn speak_http(
    mut client: TcpStream,
    state: &Mutex<State>,
    answers: &dyn Fn(&Request) -> String,
    refuses: fn(&str) -> String,
    refusal: &str,
) -> std::io::Result<()> {
    let request = read_request(&mut client)?;
    let mode = state.lock().unwrap().mode;
    // What is behind the request line, on one line. What may be secret comes first: quotes are shortened.
    let (_, sent) = request.text.split_once("\r\n").unwrap_or_default();
    let interesting = ["authorization", "token", "key"];
    let (mut first, rest): (Vec<&str>, Vec<&str>) = sent.split(['\n', '\r', '&']).partition(|line| {
        let name = line.split([':', '=']).next().unwrap_or_default().to_lowercase();
        interesting.iter().any(|part| name.contains(part))
    });
    first.extend(rest);
    let words = first.join(" ");
    let (status, body) = match mode {
        Mode::Serve => {
            let answer = answers(&request);
            if answer.starts_with("HTTP/1.1") {
                count(state, mode);
                return client.write_all(answer.as_bytes());
            }
            ("200 OK", answer)
        }
        Mode::Refuse => (refusal, refuses(&words)),
        Mode::Garbage => {
            let whole = answers(&request);
            let half: String = whole.chars().take(whole.chars().count() * 3 / 4).collect();
            ("200 OK", format!("{half} {words}"))
        }
        Mode::Stall => {
            count(state, mode);
            say_nothing(&mut client);
            return Ok(());
        }
    };
    let token_life = "x-aws-ec2-metadata-token-ttl-seconds: 21600";
    write!(
        client,
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\n{token_life}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )?;
    count(state, mode);
    Ok(())
}

/// Head and body of a request or an answer.
fn read_message(client: &mut TcpStream) -> std::io::Result<String> {
    let head = read_head(client)?;
    let length = header_of(&head, "content-length").and_then(|length| length.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    client.read_exact(&mut body)?;
    Ok(head + &String::from_utf8_lossy(&body))
}

fn read_request(client: &mut TcpStream) -> std::io::Result<Request> {
    let text = read_message(client)?;
    let line = text.lines().next().unwrap_or_default();
    let line = line.rsplit_once(' ').map_or(line, |(line, _)| line).to_owned();
    Ok(Request { line, text })
}

fn speak_redis(mut client: TcpStream, state: &Mutex<State>, before: SocketAddr) -> std::io::Result<()> {
    let mut upstream = TcpStream::connect(before)?;
    let (mut from_server, mut to_client) = (upstream.try_clone()?, client.try_clone()?);
    thread("hostile-answers", move || {
        let _ = std::io::copy(&mut from_server, &mut to_client);
        let _ = to_client.shutdown(std::net::Shutdown::Both);
    });
    client.set_read_timeout(Some(Duration::from_mins(2)))?;
    let mut chunk = [0; 16 * 1024];
    loop {
        let length = client.read(&mut chunk)?;
        if length == 0 {
            return upstream.shutdown(std::net::Shutdown::Both);
        }
        let mode = called(state);
        let sent = String::from_utf8_lossy(&chunk[..length]).replace("\r\n", " ");
        match mode {
            Mode::Serve => upstream.write_all(&chunk[..length])?,
            // As old servers refuse a command that they do not know.
            Mode::Refuse => write!(client, "-ERR unknown command, with args beginning with: {sent}\r\n")?,
            Mode::Garbage => write!(client, "?{sent}\r\n")?,
            Mode::Stall => say_nothing(&mut client),
        }
    }
}
