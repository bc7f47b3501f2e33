//! A TCP proxy that fails on purpose: it stands between the service and one peer, and injects faults of the network.
//!
//! It knows no protocol. It injects faults of the network alone: wrong answers of a peer are injected by the fake of
//! that peer. Each connection has one pump for each direction (see `pump`); a fault changes what the pumps do
//! with the bytes they read, so it reaches open connections as well as new ones.

mod pump;

use std::collections::HashMap;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use super::acceptor::{Acceptor, thread};
use pump::Link;

/// What the proxy does with its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Passes everything on.
    Pass,
    /// Closes what is open; accepts new connections and closes them at once.
    Refuse,
    /// Accepts, passes nothing on and says nothing. What was sent meanwhile goes on with the next mode.
    Stall,
    /// Answers come so slowly; requests pass.
    Drip {
        /// At least 1.
        bytes_per_sec: u32,
    },
    /// Connections that are open now swallow everything in silence, and for ever: not even an end is passed on.
    /// New ones pass.
    HalfOpen,
    /// A reset, after so many bytes of answers of each connection from now on.
    ResetAfter {
        /// What still comes through. 0: the first byte of an answer is what resets.
        bytes: usize,
    },
    /// A proper end, after so many bytes of answers of each connection from now on.
    CutAfter {
        /// What still comes through.
        bytes: usize,
    },
    /// As many bytes come as were answered, but random ones: by the connection's number, so that they are the same
    /// in the next run.
    Garbage,
}

/// A proxy on a port of its own on 127.0.0.1. Its threads end when it is dropped.
pub struct FaultProxy {
    shared: Arc<Shared>,
    acceptor: Acceptor,
}

/// What the acceptor, the pumps and the test share.
struct Shared {
    state: Mutex<State>,
    /// The state has changed.
    changed: Condvar,
}

struct State {
    mode: Mode,
    /// Counts the modes: answers are counted from the beginning of each.
    epoch: u64,
    target: SocketAddr,
    links: HashMap<u64, Arc<Link>>,
    accepted: u64,
    /// Threads of connections that have not ended.
    running: usize,
    closing: bool,
}

impl FaultProxy {
    /// Listens, and passes everything on to `target`.
    pub fn start(target: SocketAddr) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                mode: Mode::Pass,
                epoch: 0,
                target,
                links: HashMap::new(),
                accepted: 0,
                running: 0,
                closing: false,
            }),
            changed: Condvar::new(),
        });
        let of_acceptor = Arc::clone(&shared);
        let acceptor = Acceptor::start("proxy-accept", 0, move |client| accept(client, &of_acceptor));
        Self { shared, acceptor }
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.acceptor.port
    }

    /// From now on, for open and new connections.
    pub fn set(&self, mode: Mode) {
        if let Mode::Drip { bytes_per_sec } = mode {
            assert!(bytes_per_sec > 0, "a drip of nothing is Mode::Stall");
        }
        let mut state = self.shared.state();
        state.mode = mode;
        state.epoch += 1;
        if mode == Mode::HalfOpen {
            state.links.values().for_each(|link| link.swallow());
        }
        if mode == Mode::Refuse {
            state.links.values().for_each(|link| link.cut());
        }
        self.shared.changed.notify_all();
    }

    /// New connections go there: another address behind the same name.
    pub fn retarget(&self, target: SocketAddr) {
        self.shared.state().target = target;
    }

    /// Ends all open connections properly (FIN).
    pub fn cut(&self) {
        self.shared.state().links.values().for_each(|link| link.cut());
        self.shared.changed.notify_all();
    }

    /// Resets all open connections (RST).
    pub fn reset(&self) {
        self.shared.state().links.values().for_each(|link| link.reset());
        self.shared.changed.notify_all();
    }

    /// Connections that are open now.
    pub fn connections(&self) -> usize {
        self.shared.state().links.len()
    }

    /// Connections that were accepted since the start.
    pub fn accepted(&self) -> u64 {
        self.shared.state().accepted
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        {
            let mut state = self.shared.state();
            state.closing = true;
            state.links.values().for_each(|link| link.cut());
            self.shared.changed.notify_all();
        }
        self.acceptor.end();
        let state = self.shared.state();
        let ended = self
            .shared
            .changed
            .wait_timeout_while(state, Duration::from_secs(10), |state| state.running > 0)
            .expect("no pump panics");
        assert!(
            !ended.1.timed_out() || std::thread::panicking(),
            "{} threads of the proxy have not ended",
            ended.0.running
        );
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no pump panics")
    }

    /// Waits for any change of the state, for so long at most.
    fn wait<'a>(&self, state: MutexGuard<'a, State>, at_most: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, at_most).expect("no pump panics").0
    }
}

fn accept(client: TcpStream, shared: &Arc<Shared>) {
    let mut state = shared.state();
    if state.closing {
        return;
    }
    state.accepted += 1;
    if state.mode == Mode::Refuse {
        let _ = client.shutdown(Shutdown::Both);
        return;
    }
    let number = state.accepted;
    let link = Arc::new(Link::new(number, client));
    state.links.insert(number, Arc::clone(&link));
    state.running += 1;
    drop(state);
    let shared = Arc::clone(shared);
    thread("proxy-link", move || pump::run(&shared, link));
}
