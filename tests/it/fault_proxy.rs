//! The fault proxy itself: each fault as its client sees it. The target echoes what it receives.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::fakes::proxy::{FaultProxy, Mode};
use super::support::child::thread;
use super::support::wait::{PATIENCE, wait_until};

/// Long enough to be sure that nothing comes.
const SILENCE: Duration = Duration::from_millis(300);

/// Echoes what it receives, with its own letter before each piece.
struct Echo {
    address: SocketAddr,
    /// Connections that have ended, as the target sees it.
    ended: Arc<AtomicUsize>,
    /// Bytes that it received.
    heard: Arc<AtomicUsize>,
}

impl Echo {
    fn start(letter: u8) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let echo =
            Self { address: listener.local_addr().unwrap(), ended: Arc::default(), heard: Arc::default() };
        let (ended, heard) = (Arc::clone(&echo.ended), Arc::clone(&echo.heard));
        thread("echo", move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (ended, heard) = (Arc::clone(&ended), Arc::clone(&heard));
                thread("echo-connection", move || {
                    let mut stream = stream;
                    let mut piece = vec![0; 64 * 1024];
                    while let Ok(count @ 1..) = stream.read(&mut piece) {
                        heard.fetch_add(count, Ordering::SeqCst);
                        if stream.write_all(&[letter]).is_err() || stream.write_all(&piece[..count]).is_err()
                        {
                            break;
                        }
                    }
                    ended.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        echo
    }
}

fn dial(proxy: &FaultProxy) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Says something and reads an answer of this length.
fn ask(stream: &mut TcpStream, words: &[u8], length: usize) -> Vec<u8> {
    stream.write_all(words).unwrap();
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).unwrap();
    answer
}

fn assert_passes(stream: &mut TcpStream) {
    assert_eq!(ask(stream, b"hello", 6), b"Ahello");
}

fn assert_silent(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(SILENCE)).unwrap();
    let error = stream.read(&mut [0; 16]).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
}

/// Everything up to the end, and how it ended.
fn rest(stream: &mut TcpStream) -> (Vec<u8>, Result<(), ErrorKind>) {
    let mut bytes = Vec::new();
    let mut piece = [0; 1024];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return (bytes, Ok(())),
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
            Err(error) => return (bytes, Err(error.kind())),
        }
    }
}

#[test]
fn what_is_said_passes_both_ways_and_connections_are_counted() {
    let echo = Echo::start(b'A');
    let proxy = FaultProxy::start(echo.address);
    let (mut one, mut other) = (dial(&proxy), dial(&proxy));
    assert_passes(&mut one);
    assert_passes(&mut other);
    assert_eq!((proxy.connections(), proxy.accepted()), (2, 2));
    drop(one);
    wait_until(PATIENCE, "one connection less", || proxy.connections() == 1);
    assert_passes(&mut other);
    assert_eq!(proxy.accepted(), 2);
}

#[test]
fn a_large_answer_comes_whole() {
    let echo = Echo::start(b'A');
    let proxy = FaultProxy::start(echo.address);
    let mut stream = dial(&proxy);
    let words: Vec<u8> = (0..3_000_000_u32).map(|number| number.to_le_bytes()[0] & 0x3F).collect();
    let mut speaker = stream.try_clone().unwrap();
    let said = words.clone();
    let speaking = thread("speaker", move || speaker.write_all(&said).unwrap());
    let mut heard: Vec<u8> = Vec::new();
    let mut piece = vec![0; 64 * 1024];
    while heard.len() < words.len() {
        let count = stream.read(&mut piece).unwrap();
        assert!(count > 0, "ended after {} bytes", heard.len());
        // The letter of the target stands before each piece; no byte of the words is one.
        heard.extend(piece[..count].iter().filter(|byte| **byte != b'A'));
    }
    speaking.join().unwrap();
    assert!(heard == words, "the same bytes in the same order");
}

#[test]
fn the_end_of_a_client_reaches_the_target() {
    let echo = Echo::start(b'A');
    let proxy = FaultProxy::start(echo.address);
    let mut stream = dial(&proxy);
    assert_passes(&mut stream);
    drop(stream);
    wait_until(PATIENCE, "the target to see the end", || echo.ended.load(Ordering::SeqCst) == 1);
}

#[test]
fn a_refusing_proxy_accepts_and_closes_at_once_until_it_passes_again() {
    let echo = Echo::start(b'A');
    let proxy = FaultProxy::start(echo.address);
    let mut before = dial(&proxy);
    assert_passes(&mut before);
    proxy.set(Mode::Refuse);
    assert_eq!(rest(&mut before), (Vec::new(), Ok(())));
    assert_eq!(rest(&mut dial(&proxy)), (Vec::new(), Ok(())));
    proxy.set(Mode::Pass);
    assert_passes(&mut dial(&proxy));
}

#[test]
fn a_stalled_proxy_accepts_and_says_nothing_and_then_goes_on_where_it_was() {
    let echo = Echo::start(b'A');
    let proxy = FaultProxy::start(echo.address);
    let mut before = dial(&proxy);
    assert_passes(&mut before);
    proxy.set(Mode::Stall);
    let mut during = dial(&proxy);
    before.write_all(b"one").unwrap();
    during.write_all(b"two").unwrap();
    assert_silent(&mut before);
    assert_silent(&mut during);
    assert_eq!(echo.heard.load(Ordering::SeqCst), 5, "nothing was passed on");
    proxy.set(Mode::Pass);
    assert_eq!(ask(&mut before, b"", 4), b"Aone");
    assert_eq!(ask(&mut during, b"", 4), b"Atwo");
}

#[test]
fn answers_drip_at_the_given_rate_and_the_rest_comes_at_once_when_that_ends() {
    let echo = Echo::start(b'A');
    let proxy = FaultProxy::start(echo.address);
    let mut stream = dial(&proxy);
    proxy.set(Mode::Drip { bytes_per_sec: 40 });
    let started = Instant::now();
    stream.write_all(&[b'x'; 1_000]).unwrap();
    let mut first = [0; 20];
    stream.read_exact(&mut first).unwrap();
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(400), "20 bytes at 40 a second took {took:?}");
    proxy.set(Mode::Pass);
    let mut others = vec![0; 1_001 - 20];
    stream.read_exact(&mut others).unwrap();
    assert!(started.elapsed() < Duration::from_secs(20), "not 25 s as at that rate");
}

#[test]
fn half_open_connections_swallow_everything_for_ever_and_new_ones_pass() {
    let echo = Echo::start(b'A');
    let proxy = FaultProxy::start(echo.address);
    let mut before = dial(&proxy);
    assert_passes(&mut before);
    proxy.set(Mode::HalfOpen);
    before.write_all(b"lost").unwrap();
    assert_passes(&mut dial(&proxy));
    assert_silent(&mut before);
    proxy.set(Mode::Pass);
    before.write_all(b"lost too").unwrap();
    assert_silent(&mut before);
    assert_eq!(echo.heard.load(Ordering::SeqCst), 10, "only what passed was heard");
    proxy.cut();
    assert_eq!(rest(&mut before), (Vec::new(), Ok(())));
}

#[test]
fn an_answer_is_reset_in_its_middle() {
    let echo = Echo::start(b'A');
    let proxy = FaultProxy::start(echo.address);
    let mut stream = dial(&proxy);
    assert_passes(&mut stream);
    proxy.set(Mode::ResetAfter { bytes: 3 });
    stream.write_all(b"hello").unwrap();
    assert_eq!(rest(&mut stream), (b"Ahe".to_vec(), Err(ErrorKind::ConnectionReset)));
    wait_until(PATIENCE, "no connection", || proxy.connections() == 0);
}

#[test]
fn an_answer_is_cut_in_its_middle() {
    let echo = Echo::start(b'A');
    let proxy = FaultProxy::start(echo.address);
    proxy.set(Mode::CutAfter { bytes: 3 });
    for _ in 0..2 {
        let mut stream = dial(&proxy);
        stream.write_all(b"hello").unwrap();
        assert_eq!(rest(&mut stream), (b"Ahe".to_vec(), Ok(())));
    }
}

#[test]
fn garbage_is_as_long_as_the_answer_and_the_same_in_the_next_run() {
    let echo = Echo::start(b'A');
    let garbage = || {
        let proxy = FaultProxy::start(echo.address);
        proxy.set(Mode::Garbage);
        ask(&mut dial(&proxy), b"hello", 6)
    };
    let first = garbage();
    assert_ne!(first, b"Ahello");
    // The target may answer in two pieces, which are made random one after the other.
    assert_eq!(first.len(), garbage().len());
    assert_eq!(first[0], garbage()[0]);
}

#[test]
fn a_cut_is_an_end_and_a_reset_is_a_reset() {
    let echo = Echo::start(b'A');
    let proxy = FaultProxy::start(echo.address);
    let mut stream = dial(&proxy);
    assert_passes(&mut stream);
    proxy.cut();
    assert_eq!(rest(&mut stream), (Vec::new(), Ok(())));
    let mut stream = dial(&proxy);
    assert_passes(&mut stream);
    proxy.reset();
    assert_eq!(rest(&mut stream), (Vec::new(), Err(ErrorKind::ConnectionReset)));
    assert_passes(&mut dial(&proxy));
    wait_until(PATIENCE, "the target to see both ends", || echo.ended.load(Ordering::SeqCst) >= 2);
}

#[test]
fn new_connections_go_to_the_new_target_and_open_ones_stay() {
    let (one, other) = (Echo::start(b'A'), Echo::start(b'B'));
    let proxy = FaultProxy::start(one.address);
    let mut before = dial(&proxy);
    assert_passes(&mut before);
    proxy.retarget(other.address);
    assert_eq!(ask(&mut dial(&proxy), b"hello", 6), b"Bhello");
    assert_passes(&mut before);
}

#[test]
fn a_dropped_proxy_ends_its_connections_also_while_it_stalls() {
    let echo = Echo::start(b'A');
    let proxy = FaultProxy::start(echo.address);
    let mut before = dial(&proxy);
    assert_passes(&mut before);
    proxy.set(Mode::Stall);
    before.write_all(b"hello").unwrap();
    let mut during = dial(&proxy);
    wait_until(PATIENCE, "both connections", || proxy.connections() == 2);
    let port = proxy.port();
    drop(proxy);
    assert_eq!(rest(&mut before).0, b"");
    assert_eq!(rest(&mut during).0, b"");
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err(), "nobody listens");
}
