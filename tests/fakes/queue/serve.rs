//! The queue as a server: one thread a connection, and what each call does.

mod calls;

use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use md5::{Digest, Md5};
use persistent_cache_service::clock;

use super::dice::{Dice, Fate};
use super::http::{Answer, Connection, Request};
use super::protocol::{Operation, Refusal, SQS};
use super::shelf::{Letter, Shelf};
use super::signature::{KnownKey, Signatures};
use super::{Counts, Faults, QueueOptions};

/// SQS's bound.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// What every thread of the queue shares.
pub struct Server {
    options: QueueOptions,
    address: SocketAddr,
    /// The path of the queue's URL.
    path: String,
    started: Instant,
    /// Milliseconds that were let pass on purpose.
    advanced: AtomicU64,
    shelf: Mutex<Shelf>,
    /// Something may be visible, or the queue ends.
    arrived: Condvar,
    /// Held by those who look whether the queue ends, before they pause.
    pauses: Mutex<()>,
    /// The queue ends.
    ending: Condvar,
    faults: RwLock<Arc<Faults>>,
    signatures: Signatures,
    complaints: Mutex<Vec<String>>,
    /// Complaints that somebody looked at.
    seen: AtomicU64,
    calls: [AtomicU64; Operation::COUNT],
    requests: AtomicU64,
    open_polls: AtomicUsize,
    ended: AtomicBool,
    connections: Mutex<HashMap<u64, TcpStream>>,
    /// Those whose call is never answered.
    hanging: Mutex<HashSet<u64>>,
}

/// The threads: the one that accepts, and one a connection.
pub struct Threads {
    acceptor: Option<JoinHandle<()>>,
    connections: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

/// Starts the queue on a free port.
pub fn start(options: QueueOptions) -> (Arc<Server>, Threads) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let signatures = Signatures::new(&options.region);
    let key =
        KnownKey { secret: options.secret_access_key.clone(), session_token: None, expires_at_ms: None };
    signatures.allow(&options.access_key_id, key);
    let name = if options.fifo { "state-changes.fifo" } else { "state-changes" };
    let server = Arc::new(Server {
        address,
        path: format!("/000000000000/{name}"),
        started: Instant::now(),
        advanced: AtomicU64::new(0),
        shelf: Mutex::new(Shelf::new(options.fifo, options.max_receive_count, options.in_flight_max)),
        arrived: Condvar::new(),
        pauses: Mutex::default(),
        ending: Condvar::new(),
        faults: RwLock::default(),
        signatures,
        complaints: Mutex::default(),
        seen: AtomicU64::new(0),
        calls: Default::default(),
        requests: AtomicU64::new(1),
        open_polls: AtomicUsize::new(0),
        ended: AtomicBool::new(false),
        connections: Mutex::default(),
        hanging: Mutex::default(),
        options,
    });
    let connections: Arc<Mutex<Vec<JoinHandle<()>>>> = Arc::default();
    let acceptor = {
        let (server, connections) = (Arc::clone(&server), Arc::clone(&connections));
        thread("queue-accept", move || accept(&listener, &server, &connections))
    };
    let threads = Threads { acceptor: Some(acceptor), connections };
    (server, threads)
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run).expect("a thread can be started")
}

fn accept(listener: &TcpListener, server: &Arc<Server>, threads: &Mutex<Vec<JoinHandle<()>>>) {
    for (number, stream) in listener.incoming().enumerate() {
        if server.has_ended() {
            return;
        }
        let Ok(stream) = stream else { continue };
        let _ = stream.set_nodelay(true);
        let number = number as u64;
        if let Ok(clone) = stream.try_clone() {
            server.connections.lock().unwrap().insert(number, clone);
        }
        let served_by = Arc::clone(server);
        let handle = thread("queue-connection", move || {
            // Registered with the server, so that its end can end it.
            let end = served_by.serve(Connection::new(stream), number);
            served_by.connections.lock().unwrap().remove(&number);
            drop(end);
        });
        let mut threads = threads.lock().unwrap();
        threads.retain(|thread| !thread.is_finished());
        threads.push(handle);
    }
}

impl Threads {
    /// Ends and joins them all.
    pub fn end(&mut self, server: &Server) {
        server.ended.store(true, Ordering::SeqCst);
        // Under the lock, so that nobody is between looking and waiting.
        drop(server.shelf.lock());
        server.arrived.notify_all();
        drop(server.pauses.lock());
        server.ending.notify_all();
        let _ = TcpStream::connect(server.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        for connection in server.connections.lock().unwrap().values() {
            let _ = connection.shutdown(Shutdown::Both);
        }
        let connections: Vec<_> = self.connections.lock().unwrap().drain(..).collect();
        for connection in connections {
            let _ = connection.join();
        }
    }
}

/// What becomes of a connection after a call.
enum Next {
    Answer(Answer),
    Hang,
    Reset,
}

impl Server {
    pub fn url(&self) -> String {
        format!("http://{}{}", self.address, self.path)
    }

    pub fn signatures(&self) -> &Signatures {
        &self.signatures
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// Its own, which may be off.
    fn wall_clock_ms(&self) -> i64 {
        clock::now().0 + self.options.clock_ahead_ms
    }

    /// Milliseconds since the start.
    fn now(&self) -> u64 {
        let passed = u64::try_from(self.started.elapsed().as_millis()).expect("a short run");
        passed + self.advanced.load(Ordering::SeqCst)
    }

    pub fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_millis()).expect("a short time");
        self.advanced.fetch_add(by, Ordering::SeqCst);
        drop(self.shelf.lock());
        self.arrived.notify_all();
    }

    pub fn send(&self, body: &str, sent_at_ms: i64, group: Option<&str>) -> String {
        assert!(
            (1..=BODY_BYTES_MAX).contains(&body.len()),
            "a body has 1 byte to 1 MiB, not {} bytes",
            body.len()
        );
        assert!(group.is_none() || self.options.fifo, "only a FIFO queue has groups");
        let json_body = serde_json::to_string(body).expect("a text");
        let mut md5_of_body = String::with_capacity(32);
        for byte in Md5::digest(body.as_bytes()) {
            let _ = write!(md5_of_body, "{byte:02x}");
        }
        let group = self.options.fifo.then(|| group.unwrap_or("default").to_owned());
        let mut shelf = self.shelf.lock().unwrap();
        let id = format!("5e9d0000-0000-4000-8000-{:012x}", shelf.next_message());
        shelf.send(Letter { id: id.clone(), json_body, md5_of_body, sent_at_ms, group });
        drop(shelf);
        self.arrived.notify_one();
        id
    }

    pub fn set_faults(&self, faults: Faults) {
        let nothing_hangs = faults.hang <= 0.0;
        *self.faults.write().unwrap() = Arc::new(faults);
        if nothing_hangs {
            let connections = self.connections.lock().unwrap();
            for hanging in self.hanging.lock().unwrap().drain() {
                if let Some(connection) = connections.get(&hanging) {
                    let _ = connection.shutdown(Shutdown::Both);
                }
            }
        }
    }

    pub fn counts(&self) -> Counts {
        let now = self.now();
        self.shelf.lock().unwrap().counts(now)
    }

    pub fn open_polls(&self) -> usize {
        self.open_polls.load(Ordering::SeqCst)
    }

    pub fn dead_letters(&self) -> Vec<String> {
        self.shelf.lock().unwrap().dead_letters()
    }

    pub fn complaints(&self) -> Vec<String> {
        let complaints = self.complaints.lock().unwrap();
        self.seen.store(complaints.len() as u64, Ordering::SeqCst);
        complaints.clone()
    }

    pub fn unseen_complaints(&self) -> Vec<String> {
        let complaints = self.complaints.lock().unwrap();
        let seen = usize::try_from(self.seen.load(Ordering::SeqCst)).expect("a length");
        complaints[seen..].to_vec()
    }

    fn complain(&self, complaint: String) {
        self.complaints.lock().unwrap().push(complaint);
    }

    /// Serves a connection to its end; gives it back if the end is only to be let go of.
    fn serve(&self, mut connection: Connection, connection_number: u64) -> Option<Connection> {
        while !self.has_ended() {
            let now_ms = self.wall_clock_ms();
            let next = match connection.next_request() {
                Ok(None) => break,
                Ok(Some(request)) => self.answer_to(&request, now_ms),
                Err(words) => {
                    self.complain(format!("a request that is none: {words}"));
                    let answer = Refusal::common(400, "BadRequest", words).answer();
                    let _ = connection.answer(&answer, 0, now_ms);
                    break;
                }
            };
            let number = self.requests.fetch_add(1, Ordering::Relaxed);
            match next {
                Next::Answer(answer) => {
                    if connection.answer(&answer, number, self.wall_clock_ms()).is_err() {
                        break;
                    }
                }
                Next::Hang => {
                    self.hanging.lock().unwrap().insert(connection_number);
                    connection.wait_for_its_end();
                    break;
                }
                Next::Reset => {
                    connection.reset();
                    return None;
                }
            }
        }
        Some(connection)
    }

    fn answer_to(&self, request: &Request<'_>, now_ms: i64) -> Next {
        if let Err(refused) = self.signatures.check(request, now_ms) {
            self.complain(format!("{}: {}", refused.code, refused.words));
            return Next::Answer(Refusal::common(403, refused.code, refused.words).answer());
        }
        let target = request.header("x-amz-target").unwrap_or_default();
        let operation = match Operation::from_target(target) {
            Some(operation) if request.method == "POST" && request.path == self.options.endpoint_path => {
                operation
            }
            _ => {
                let words = format!("{} {} with the target '{target}'", request.method, request.path);
                return self.refuse(&Refusal::common(400, "UnknownOperationException", words));
            }
        };
        if request.header("content-type") != Some("application/x-amz-json-1.0") {
            let words = format!("content type {:?}", request.header("content-type"));
            return self.refuse(&Refusal::common(400, "SerializationException", words));
        }
        let faults = Arc::clone(&self.faults.read().unwrap());
        let number = self.calls[operation as usize].fetch_add(1, Ordering::SeqCst);
        let mut dice = Dice::new(self.options.seed, operation as u64, number);
        let (fate, delay) = (dice.fate(&faults), dice.delay(&faults));
        if fate != Fate::Served || delay.is_some() {
            self.shelf.lock().unwrap().count_fault();
        }
        if let Some(delay) = delay {
            self.pause(delay);
        }
        match fate {
            Fate::Error => Next::Answer(
                Refusal::common(500, "InternalFailure", "The request processing has failed.").answer(),
            ),
            Fate::Unavailable => Next::Answer(Answer {
                status: 503,
                content_type: "text/html",
                query_error: None,
                body: b"<html><body><h1>503 Service Unavailable</h1></body></html>".to_vec(),
            }),
            Fate::Throttled => Next::Answer(
                Refusal {
                    status: 400,
                    namespace: SQS,
                    code: "RequestThrottled",
                    words: "The request was denied due to request throttling.".into(),
                }
                .answer(),
            ),
            Fate::Hang => Next::Hang,
            Fate::Reset => Next::Reset,
            Fate::AnswerLost => {
                let _ = self.call(operation, request.body, &mut dice, &faults);
                Next::Reset
            }
            Fate::Served => match self.call(operation, request.body, &mut dice, &faults) {
                Ok(answer) => {
                    // As it is now: a long poll began long ago.
                    let told_late = self.faults.read().unwrap().told_late;
                    if let (Operation::Receive, Some(late)) = (operation, told_late) {
                        self.pause(late);
                    }
                    Next::Answer(answer)
                }
                Err(refusal) => self.refuse(&refusal),
            },
        }
    }

    fn refuse(&self, refusal: &Refusal) -> Next {
        // What IAM forbids, and a full hand, are nobody's mistake.
        if !["AccessDeniedException", "OverLimit"].contains(&refusal.code) {
            self.complain(format!("{}: {}", refusal.code, refusal.words));
        }
        Next::Answer(refusal.answer())
    }

    /// Waits, unless the queue ends.
    fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut pauses = self.pauses.lock().unwrap();
        while !self.has_ended()
            && let Some(left) = until.checked_duration_since(Instant::now())
        {
            pauses = self.ending.wait_timeout(pauses, left).unwrap().0;
        }
    }
}
