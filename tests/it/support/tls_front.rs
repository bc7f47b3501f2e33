//! TLS in front of a neighbour that speaks plain HTTP: a request in, its answer out, then the connection closes.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls::{HandshakeKind, ServerConfig, ServerConnection, StreamOwned};

use super::child::thread;
use super::http::{header_of, read_head};
use super::tls::Certificate;
use crate::fakes::acceptor::Acceptor;

type Client = StreamOwned<ServerConnection, TcpStream>;

/// What is done with a connection.
type Serve = fn(Client, &str) -> std::io::Result<()>;

/// The front; dropping it ends it.
pub struct TlsFront {
    pub port: u16,
    /// PEM file of the authority that signed its certificate.
    pub authority: PathBuf,
    served: Arc<AtomicUsize>,
    resumed: Arc<AtomicUsize>,
    _acceptor: Acceptor,
}

impl TlsFront {
    /// Listens as these names (and 127.0.0.1 and localhost), in front of `upstream` (`127.0.0.1:port`).
    pub fn start(directory: &Path, names: &[&str], upstream: &str) -> Self {
        Self::with(directory, names, upstream, serve)
    }

    /// The same for any protocol inside of TLS: bytes are passed on as they come, both ways.
    pub fn start_raw(directory: &Path, upstream: &str) -> Self {
        Self::with(directory, &[], upstream, pass)
    }

    fn with(directory: &Path, names: &[&str], upstream: &str, serve: Serve) -> Self {
        let certificate = Certificate::make_for(directory, names);
        let config = certificate.server_config();
        let (served, resumed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (of_served, of_resumed) = (Arc::clone(&served), Arc::clone(&resumed));
        let upstream = upstream.to_owned();
        let acceptor = Acceptor::start("tls-front", 0, move |client| {
            let (config, upstream) = (Arc::clone(&config), upstream.clone());
            let (of_served, of_resumed) = (Arc::clone(&of_served), Arc::clone(&of_resumed));
            thread("tls-front-connection", move || {
                // A client may go away, or refuse the certificate.
                let Ok(client) = shaken_hands(client, config) else {
                    return;
                };
                if client.conn.handshake_kind() == Some(HandshakeKind::Resumed) {
                    of_resumed.fetch_add(1, Ordering::SeqCst);
                }
                if serve(client, &upstream).is_ok() {
                    of_served.fetch_add(1, Ordering::SeqCst);
                }
            });
        });
        let (port, authority) = (acceptor.port, certificate.authority);
        Self { port, authority, served, resumed, _acceptor: acceptor }
    }

    /// How many requests were answered.
    pub fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }

    /// How many connections went on with the session of an earlier one.
    pub fn resumed(&self) -> usize {
        self.resumed.load(Ordering::SeqCst)
    }
}

fn shaken_hands(client: TcpStream, config: Arc<ServerConfig>) -> std::io::Result<Client> {
    let connection = ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut client = StreamOwned::new(connection, client);
    while client.conn.is_handshaking() {
        client.conn.complete_io(&mut client.sock)?;
    }
    Ok(client)
}

fn serve(mut client: Client, upstream: &str) -> std::io::Result<()> {
    let head = read_head(&mut client)?;
    let length = header_of(&head, "content-length");
    let mut body = vec![0; length.map_or(0, |length| length.parse().expect("a length"))];
    client.read_exact(&mut body)?;

    // One request a connection, so that the answer ends where the connection does.
    let mut lines: Vec<&str> =
        head.trim_end().split("\r\n").filter(|line| header_of(line, "connection").is_none()).collect();
    lines.push("Connection: close\r\n\r\n");
    let mut server = TcpStream::connect(upstream)?;
    server.write_all(lines.join("\r\n").as_bytes())?;
    server.write_all(&body)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    client.write_all(&answer)?;
    client.conn.send_close_notify();
    client.flush()?;
    client.sock.shutdown(Shutdown::Write)
}

fn pass(mut client: Client, upstream: &str) -> std::io::Result<()> {
    // One thread for both ways, since the TLS connection is one state: each side is listened to for a moment.
    const MOMENT: Option<Duration> = Some(Duration::from_millis(5));
    let mut server = TcpStream::connect(upstream)?;
    client.sock.set_read_timeout(MOMENT)?;
    server.set_read_timeout(MOMENT)?;
    while pass_some(&mut client, &mut server)? && pass_some(&mut server, &mut client)? {}
    Ok(())
}

/// Passes on what is there. False at the end.
fn pass_some(from: &mut impl Read, to: &mut impl Write) -> std::io::Result<bool> {
    let mut bytes = [0; 16 * 1024];
    match from.read(&mut bytes) {
        Ok(0) => Ok(false),
        Ok(count) => {
            to.write_all(&bytes[..count])?;
            to.flush()?;
            Ok(true)
        }
        Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => Ok(true),
        Err(error) => Err(error),
    }
}
