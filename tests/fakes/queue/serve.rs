//! The queue as a server: one thread for each connection, and what each call does.

mod calls;

use std::collections::{HashMap, HashSet};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use md5::{Digest, Md5};
use persistent_cache_service::clock;

use super::super::acceptor::{Acceptor, thread};
use super::dice::{Dice, Fate};
use super::http::{Answer, Connection, Request};
use super::protocol::{Operation, Refusal, SQS};
use super::signature::{KnownKey, Signatures};
use super::store::{Body, Message, Store};
use super::{Counts, Faults, QueueOptions};

/// SQS's bound.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// What every thread of the queue shares.
pub struct Server {
    options: QueueOptions,
    /// The path of the queue's URL.
    path: String,
    started: Instant,
    /// Milliseconds that a test has skipped.
    advanced: AtomicU64,
    store: Mutex<Store>,
    /// Something may be visible, or the queue ends.
    arrived: Condvar,
    /// Held while a thread checks whether the queue ends, before it pauses.
    pauses: Mutex<()>,
    /// The queue ends.
    ending: Condvar,
    faults: RwLock<Arc<Faults>>,
    signatures: Signatures,
    complaints: Mutex<Vec<String>>,
    /// Complaints that the test has read.
    seen: AtomicU64,
    calls: [AtomicU64; Operation::COUNT],
    requests: AtomicU64,
    open_polls: AtomicUsize,
    ended: AtomicBool,
    connections: Mutex<HashMap<u64, TcpStream>>,
    /// Those whose call is never answered.
    hanging: Mutex<HashSet<u64>>,
}

/// The threads: the one that accepts, and one for each connection.
pub struct Threads {
    acceptor: Acceptor,
    connections: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

/// Starts the queue on a free port.
pub fn start(options: QueueOptions) -> (Arc<Server>, Threads) {
    let signatures = Signatures::new(&options.region);
    let key =
        KnownKey { secret: options.secret_access_key.clone(), session_token: None, expires_at_ms: None };
    signatures.allow(&options.access_key_id, key);
    let name = if options.fifo { "state-changes.fifo" } else { "state-changes" };
    let server = Arc::new(Server {
        path: format!("/000000000000/{name}"),
        started: Instant::now(),
        advanced: AtomicU64::new(0),
        store: Mutex::new(Store::new(options.fifo, options.max_receive_count, options.in_flight_max)),
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
        let mut accepted = 0;
        Acceptor::start("queue-accept", server.options.port, move |stream| {
            accepted += 1;
            accept(stream, accepted, &server, &connections);
        })
    };
    (server, Threads { acceptor, connections })
}

fn accept(stream: TcpStream, number: u64, server: &Arc<Server>, threads: &Mutex<Vec<JoinHandle<()>>>) {
    let _ = stream.set_nodelay(true);
    if let Ok(clone) = stream.try_clone() {
        server.connections.lock().unwrap().insert(number, clone);
    }
    let served_by = Arc::clone(server);
    let handle = thread("queue-connection", move || {
        // Registered with the server, so that its end can end it.
        let connection = Connection::new(stream, served_by.options.tls.clone());
        let end = connection.ok().and_then(|connection| served_by.serve(connection, number));
        served_by.connections.lock().unwrap().remove(&number);
        drop(end);
    });
    let mut threads = threads.lock().unwrap();
    threads.retain(|thread| !thread.is_finished());
    threads.push(handle);
}

impl Threads {
    pub fn port(&self) -> u16 {
        self.acceptor.port
    }

    /// Ends and joins them all.
    pub fn end(&mut self, server: &Server) {
        server.ended.store(true, Ordering::SeqCst);
        // Under the lock, so that no thread is between its check and its wait.
        drop(server.store.lock());
        server.arrived.notify_all();
        drop(server.pauses.lock());
        server.ending.notify_all();
        self.acceptor.end();
        for connection in server.connections.lock().unwrap().values() {
            let _ = connection.shutdown(Shutdown::Both);
        }
        let connections: Vec<_> = self.connections.lock().unwrap().drain(..).collect();
        for connection in connections {
            let _ = connection.join();
        }
    }
}

/// What happens to a connection after a call.
enum Next {
    Answer(Answer),
    Hang,
    Reset,
}

impl Server {
    pub fn url(&self, port: u16) -> String {
        match self.options.tls {
            None => format!("http://127.0.0.1:{port}{}", self.path),
            Some(_) => format!("https://localhost:{port}{}", self.path),
        }
    }

    pub fn signatures(&self) -> &Signatures {
        &self.signatures
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// The clock of the queue, which may be wrong on purpose.
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
        drop(self.store.lock());
        self.arrived.notify_all();
    }

    pub fn send(&self, body: &str, sent_at_ms: i64, group: Option<&str>) -> String {
        assert!(
            (1..=BODY_BYTES_MAX).contains(&body.len()),
            "a body has 1 byte to 1 MiB, not {} bytes",
            body.len()
        );
        assert!(group.is_none() || self.options.fifo, "only a FIFO queue has groups");
        let json = serde_json::to_string(body).expect("a text");
        let body = Body::Sent { json, md5: hex::encode(Md5::digest(body.as_bytes())) };
        let group = self.options.fifo.then(|| group.unwrap_or("default").to_owned());
        let mut store = self.store.lock().unwrap();
        let id = format!("5e9d0000-0000-4000-8000-{:012x}", store.next_message());
        store.send(Message { id: id.clone(), body, sent_at_ms, group });
        drop(store);
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
        self.store.lock().unwrap().counts(now)
    }

    pub fn open_polls(&self) -> usize {
        self.open_polls.load(Ordering::SeqCst)
    }

    pub fn dead_letters(&self) -> Vec<String> {
        self.store.lock().unwrap().dead_letters()
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

    /// Serves a connection to its end. Returns it unless it was reset.
    fn serve(&self, mut connection: Connection, connection_number: u64) -> Option<Connection> {
        while !self.has_ended() {
            let half = self.options.round_trip / 2;
            let now_ms = self.wall_clock_ms();
            let next = match connection.next_request() {
                Ok(None) => break,
                Ok(Some(request)) => {
                    self.pause(half);
                    self.answer_to(&request, now_ms)
                }
                Err(message) => {
                    self.complain(format!("a request that is none: {message}"));
                    let answer = Refusal::common(400, "BadRequest", message).answer();
                    let _ = connection.answer(&answer, 0, now_ms);
                    break;
                }
            };
            let number = self.requests.fetch_add(1, Ordering::Relaxed);
            match next {
                Next::Answer(answer) => {
                    self.pause(half);
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
            self.complain(format!("{}: {}", refused.code, refused.message));
            return Next::Answer(Refusal::common(403, refused.code, refused.message).answer());
        }
        let target = request.header("x-amz-target").unwrap_or_default();
        let operation = match Operation::from_target(target) {
            Some(operation) if request.method == "POST" && request.path == self.options.endpoint_path => {
                operation
            }
            _ => {
                let message = format!("{} {} with the target '{target}'", request.method, request.path);
                return self.refuse(&Refusal::common(400, "UnknownOperationException", message));
            }
        };
        if request.header("content-type") != Some("application/x-amz-json-1.0") {
            let message = format!("content type {:?}", request.header("content-type"));
            return self.refuse(&Refusal::common(400, "SerializationException", message));
        }
        let faults = Arc::clone(&self.faults.read().unwrap());
        let number = self.calls[operation as usize].fetch_add(1, Ordering::SeqCst);
        let mut dice = Dice::new(self.options.seed, operation as u64, number);
        let (fate, delay) = (dice.fate(&faults), dice.delay(&faults));
        if fate != Fate::Served || delay.is_some() {
            self.store.lock().unwrap().count_fault();
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
                    message: "The request was denied due to request throttling.".into(),
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
                    let answers_late = self.faults.read().unwrap().answers_late;
                    if let (Operation::Receive, Some(late)) = (operation, answers_late) {
                        self.pause(late);
                    }
                    Next::Answer(answer)
                }
                Err(refusal) => self.refuse(&refusal),
            },
        }
    }

    fn refuse(&self, refusal: &Refusal) -> Next {
        // What IAM forbids, and too many messages in flight, are no mistake of the caller.
        if !["AccessDeniedException", "OverLimit"].contains(&refusal.code) {
            self.complain(format!("{}: {}", refusal.code, refusal.message));
        }
        Next::Answer(refusal.answer())
    }

    /// Waits, unless the queue ends.
    fn pause(&self, time: Duration) {
        if time.is_zero() {
            return;
        }
        let until = Instant::now() + time;
        let mut pauses = self.pauses.lock().unwrap();
        while !self.has_ended()
            && let Some(left) = until.checked_duration_since(Instant::now())
        {
            pauses = self.ending.wait_timeout(pauses, left).unwrap().0;
        }
    }
}
