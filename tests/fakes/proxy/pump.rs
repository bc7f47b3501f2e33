//! One connection through the proxy: two pumps, one a direction.
//!
//! A reset is a close with a linger of nothing, and happens when the last hold on the socket is let go of. So a
//! link is held by its pumps and by the proxy's list alone, and all three let go of it when it ends.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use super::{Mode, Shared, State, thread};

/// A peer that does not read must not keep a pump from seeing that its link has ended.
const WRITE_SLICE: Duration = Duration::from_millis(100);
/// How often a waiting pump checks without being notified.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Steps a second in which a drip falls.
const DRIPS_PER_SEC: u32 = 20;

/// A connection of a client, and the one to the target that belongs to it.
pub(super) struct Link {
    number: u64,
    client: TcpStream,
    server: OnceLock<TcpStream>,
    ended: AtomicBool,
    swallows: AtomicBool,
}

/// Where bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

/// What is to be done with a piece of an answer.
enum Treatment {
    Pass,
    Swallow,
    Drip {
        bytes_per_sec: u32,
    },
    Garbage,
    /// The link ends after so many bytes of the piece.
    End {
        after: usize,
        by_reset: bool,
    },
}

impl Link {
    pub(super) fn new(number: u64, client: TcpStream) -> Self {
        prepare(&client);
        Self {
            number,
            client,
            server: OnceLock::new(),
            ended: AtomicBool::new(false),
            swallows: AtomicBool::new(false),
        }
    }

    fn sockets(&self) -> impl Iterator<Item = &TcpStream> {
        std::iter::once(&self.client).chain(self.server.get())
    }

    /// Swallows everything from now on.
    pub(super) fn swallow(&self) {
        self.swallows.store(true, Ordering::SeqCst);
    }

    /// Ends both sides properly.
    pub(super) fn cut(&self) {
        self.ended.store(true, Ordering::SeqCst);
        for socket in self.sockets() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Has both sides reset when the last hold on them is let go of, and wakes the pumps, without a FIN.
    pub(super) fn reset(&self) {
        self.ended.store(true, Ordering::SeqCst);
        for socket in self.sockets() {
            let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
            let _ = socket.shutdown(Shutdown::Read);
        }
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    fn does_swallow(&self) -> bool {
        self.swallows.load(Ordering::SeqCst)
    }
}

fn prepare(socket: &TcpStream) {
    let _ = socket.set_nodelay(true);
    let _ = socket.set_write_timeout(Some(WRITE_SLICE));
}

/// Dials the target and pumps until both directions have ended.
pub(super) fn run(shared: &Arc<Shared>, link: Arc<Link>) {
    let number = link.number;
    if let Some(server) = dial(shared, &link) {
        prepare(&server);
        let _ = link.server.set(server);
        // It may have been ended while there was no server yet.
        if !link.has_ended() {
            let answers = {
                let (shared, link) = (Arc::clone(shared), Arc::clone(&link));
                thread("proxy-answers", move || {
                    Pump::new(&shared, &link, Direction::ToClient).run();
                })
            };
            Pump::new(shared, &link, Direction::ToServer).run();
            let _ = answers.join();
        }
    }
    // The list's hold first, then this one, which is the last: it closes the sockets.
    shared.state().links.remove(&number);
    drop(link);
    shared.state().running -= 1;
    shared.changed.notify_all();
}

/// The connection to the target, once the mode allows it.
fn dial(shared: &Shared, link: &Link) -> Option<TcpStream> {
    let mut state = shared.state();
    while state.mode == Mode::Stall && !state.closing && !link.has_ended() {
        state = shared.wait(state, LOOK_EVERY);
    }
    if state.closing || link.has_ended() {
        return None;
    }
    let target: SocketAddr = state.target;
    drop(state);
    TcpStream::connect_timeout(&target, Duration::from_secs(5)).ok()
}

/// One direction of a link.
struct Pump<'a> {
    shared: &'a Shared,
    link: &'a Link,
    direction: Direction,
    /// The mode's number, and the bytes answered since it began.
    epoch: u64,
    answered: usize,
    random: fastrand::Rng,
}

impl<'a> Pump<'a> {
    fn new(shared: &'a Shared, link: &'a Link, direction: Direction) -> Self {
        Self { shared, link, direction, epoch: 0, answered: 0, random: fastrand::Rng::with_seed(link.number) }
    }

    fn ends(&self) -> Option<(&'a TcpStream, &'a TcpStream)> {
        let server = self.link.server.get()?;
        Some(match self.direction {
            Direction::ToServer => (&self.link.client, server),
            Direction::ToClient => (server, &self.link.client),
        })
    }

    fn run(&mut self) {
        let Some((mut from, to)) = self.ends() else { return };
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => {
                    self.source_ended(to);
                    return;
                }
                Ok(count) => {
                    if !self.treat(&mut buffer[..count], to) {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    // A reset of one side resets the other, unless nothing gets through any more.
                    if !self.link.does_swallow() || self.direction == Direction::ToServer {
                        self.link.reset();
                    }
                    return;
                }
            }
        }
    }

    /// Passes an end on; of a swallowed link only the client's, to whom alone the link belongs then.
    fn source_ended(&self, to: &TcpStream) {
        if self.link.has_ended() {
            return;
        }
        drop(self.wait_while_stalled());
        if !self.link.does_swallow() {
            let _ = to.shutdown(Shutdown::Write);
        } else if self.direction == Direction::ToServer {
            self.link.cut();
        }
    }

    /// The state, when the mode is not (or no longer) [`Mode::Stall`].
    fn wait_while_stalled(&self) -> MutexGuard<'a, State> {
        let mut state = self.shared.state();
        while state.mode == Mode::Stall && !self.link.has_ended() && !self.link.does_swallow() {
            state = self.shared.wait(state, LOOK_EVERY);
        }
        state
    }

    fn treatment(&mut self, count: usize) -> Treatment {
        let state = self.wait_while_stalled();
        if self.link.does_swallow() {
            return Treatment::Swallow;
        }
        let (mode, epoch) = (state.mode, state.epoch);
        drop(state);
        if self.direction == Direction::ToServer {
            return Treatment::Pass;
        }
        if epoch != self.epoch {
            self.epoch = epoch;
            self.answered = 0;
        }
        let left = |bytes: usize| bytes.saturating_sub(self.answered);
        let treatment = match mode {
            Mode::ResetAfter { bytes } if count >= left(bytes).max(1) => {
                Treatment::End { after: left(bytes), by_reset: true }
            }
            Mode::CutAfter { bytes } if count >= left(bytes).max(1) => {
                Treatment::End { after: left(bytes), by_reset: false }
            }
            Mode::Drip { bytes_per_sec } => Treatment::Drip { bytes_per_sec },
            Mode::Garbage => Treatment::Garbage,
            Mode::Pass
            | Mode::Refuse
            | Mode::Stall
            | Mode::HalfOpen
            | Mode::ResetAfter { .. }
            | Mode::CutAfter { .. } => Treatment::Pass,
        };
        self.answered += count;
        treatment
    }

    /// Does with a piece what the mode says. False when the link has ended.
    fn treat(&mut self, piece: &mut [u8], to: &TcpStream) -> bool {
        match self.treatment(piece.len()) {
            Treatment::Pass => self.write(piece, to),
            Treatment::Swallow => !self.link.has_ended(),
            Treatment::Drip { bytes_per_sec } => self.drip(piece, to, bytes_per_sec),
            Treatment::Garbage => {
                self.random.fill(piece);
                self.write(piece, to)
            }
            Treatment::End { after, by_reset } => {
                self.write(&piece[..after], to);
                if by_reset {
                    self.link.reset();
                } else {
                    self.link.cut();
                }
                false
            }
        }
    }

    fn write(&self, mut piece: &[u8], mut to: &TcpStream) -> bool {
        while !piece.is_empty() {
            if self.link.has_ended() {
                return false;
            }
            match to.write(piece) {
                Ok(written) => piece = &piece[written..],
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                Err(_) => {
                    self.link.reset();
                    return false;
                }
            }
        }
        true
    }

    /// Writes slowly, until another mode begins: then the rest goes at once, as that mode has it.
    fn drip(&mut self, piece: &mut [u8], to: &TcpStream, bytes_per_sec: u32) -> bool {
        let steps = bytes_per_sec.min(DRIPS_PER_SEC);
        let drop_size = usize::try_from(bytes_per_sec / steps).expect("a small number");
        let pause = Duration::from_secs(1) / steps;
        let mut from = 0;
        while from < piece.len() {
            let until = Instant::now() + pause;
            let mut state = self.shared.state();
            while Instant::now() < until && state.epoch == self.epoch && !self.link.has_ended() {
                state = self.shared.wait(state, until.saturating_duration_since(Instant::now()));
            }
            let goes_on = state.epoch == self.epoch;
            drop(state);
            if !goes_on {
                return self.treat(&mut piece[from..], to);
            }
            let next = (from + drop_size).min(piece.len());
            if !self.write(&piece[from..next], to) {
                return false;
            }
            from = next;
        }
        true
    }
}
