//! A peer for tests: answers each request with the next thing on its list, well-behaved or not, and tells what it
//! was asked. One connection at a time, on a free port of 127.0.0.1.

#![allow(clippy::missing_panics_doc)] // a test's helper fails the test that uses it

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use url::Url;

/// What the stub does when it has read a request.
pub enum Reply {
    /// A whole answer: status, further headers, body.
    Answer(u16, &'static str, String),
    /// These bytes, then the connection closes.
    Bytes(Vec<u8>),
    /// A body that comes byte by byte, for as long as the client listens.
    Drip,
    /// A head that comes byte by byte, for as long as the client listens.
    DripHead,
    /// Nothing at all; ends when the client hangs up.
    Silence,
}

/// What the stub was asked.
#[derive(Debug)]
pub struct Asked {
    /// The first line, without `HTTP/1.1`.
    pub line: String,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
    /// Which connection it came over, from 0.
    pub connection: usize,
}

impl Asked {
    /// A header's value, or an empty text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

/// The peer; dropping it ends it.
pub struct Stub {
    /// Where it listens.
    pub url: Url,
    asked: Receiver<Asked>,
    closing: Arc<AtomicBool>,
    open: Arc<Mutex<Option<TcpStream>>>,
    thread: Option<JoinHandle<()>>,
}

impl Stub {
    /// Listens, and gives these replies in order; closes connections without a word when they are used up.
    pub fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let (tell, asked) = channel();
        let closing = Arc::new(AtomicBool::new(false));
        let open = Arc::new(Mutex::new(None));
        let mut replies = replies.into_iter().collect::<Vec<_>>().into_iter();
        let (is_closing, now_open) = (Arc::clone(&closing), Arc::clone(&open));
        let serve = move || {
            for (connection, stream) in listener.incoming().enumerate() {
                if is_closing.load(Ordering::SeqCst) {
                    return;
                }
                let mut stream = stream.unwrap();
                *now_open.lock().unwrap() = Some(stream.try_clone().unwrap());
                while let Some(request) = read_request(&mut stream, connection) {
                    let _ = tell.send(request);
                    let goes_on = replies.next().is_some_and(|reply| give(&mut stream, &reply));
                    if !goes_on {
                        break;
                    }
                }
                let _ = stream.shutdown(Shutdown::Both);
            }
        };
        let thread = std::thread::Builder::new().name("stub".to_owned()).spawn(serve).unwrap();
        Self { url, asked, closing, open, thread: Some(thread) }
    }

    /// An answer of status 200 with this body.
    pub fn ok(body: impl Into<String>) -> Reply {
        Reply::Answer(200, "", body.into())
    }

    /// The next request that arrived.
    pub fn asked(&self) -> Asked {
        self.asked.recv_timeout(Duration::from_secs(10)).expect("the stub was asked")
    }

    /// True if no further request has arrived.
    pub fn was_left_alone(&self) -> bool {
        self.asked.try_recv().is_err()
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::SeqCst);
        if let Some(stream) = self.open.lock().unwrap().take() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let _ = TcpStream::connect((self.url.host_str().unwrap(), self.url.port().unwrap()));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A port of 127.0.0.1 on which nobody listens.
pub fn dead_url() -> Url {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap()
}

fn read_request(stream: &mut TcpStream, connection: usize) -> Option<Asked> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if !matches!(stream.read(&mut byte), Ok(1)) {
            return None;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.split("\r\n");
    let line = lines.next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length =
        headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, n)| n.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(Asked { line, headers, body: String::from_utf8_lossy(&body).into_owned(), connection })
}

/// True if the connection can take another request.
fn give(stream: &mut TcpStream, reply: &Reply) -> bool {
    match reply {
        Reply::Answer(status, headers, body) => {
            let head = format!("HTTP/1.1 {status} Some\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
            stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).is_ok()
        }
        Reply::Bytes(bytes) => {
            let _ = stream.write_all(bytes);
            false
        }
        Reply::Drip | Reply::DripHead => {
            let end = if matches!(reply, Reply::Drip) { "\r\n\r\n" } else { "\r\nX-Long: " };
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: 1000000{end}");
            let _ = stream.write_all(head.as_bytes());
            let (_never, pace): (Sender<()>, _) = channel();
            while stream.write_all(b" ").is_ok() {
                let _ = pace.recv_timeout(Duration::from_millis(20));
            }
            false
        }
        Reply::Silence => {
            let _ = stream.read(&mut [0]);
            false
        }
    }
}
