//! The thread that accepts the connections of a fake.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Listens on 127.0.0.1 until it is ended or dropped.
pub struct Acceptor {
    pub port: u16,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Acceptor {
    /// `accept` gets each connection, in a thread of this name. It starts a thread for what takes time.
    pub fn start(name: &str, port: u16, mut accept: impl FnMut(TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let ended = Arc::new(AtomicBool::new(false));
        let has_ended = Arc::clone(&ended);
        let thread = thread(name, move || {
            for client in listener.incoming() {
                if has_ended.load(Ordering::SeqCst) {
                    return;
                }
                if let Ok(client) = client {
                    accept(client);
                }
            }
        });
        Self { port, ended, thread: Some(thread) }
    }

    /// Accepts no further connection.
    pub fn end(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.ended.store(true, Ordering::SeqCst);
            // Wakes the thread.
            let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
            let _ = thread.join();
        }
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.end();
    }
}

/// Starts a thread with a name.
pub fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run).expect("a thread can be started")
}
