//! TLS in front of a neighbour that speaks plain HTTP: a request in, its answer out, then the connection closes.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use persistent_cache_service::http_client::install_crypto_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{HandshakeKind, ServerConfig, ServerConnection, StreamOwned};

use super::child::thread;
use super::tls::Certificate;

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
    closing: Arc<AtomicBool>,
}

impl TlsFront {
    /// Listens as these names (and 127.0.0.1 and localhost), in front of `upstream` (`127.0.0.1:port`).
    pub fn start(directory: &Path, names: &[&str], upstream: &str) -> Self {
        Self::with(directory, names, upstream, serve)
    }

    /// The same for whatever is spoken inside of TLS: bytes are passed on as they come, both ways.
    pub fn start_raw(directory: &Path, upstream: &str) -> Self {
        Self::with(directory, &[], upstream, pass)
    }

    fn with(directory: &Path, names: &[&str], upstream: &str, serve: Serve) -> Self {
        install_crypto_provider();
        let certificate = Certificate::make_for(directory, names);
        let chain = CertificateDer::pem_file_iter(&certificate.public)
            .expect("a certificate file")
            .collect::<Result<Vec<_>, _>>()
            .expect("certificates");
        let key = PrivateKeyDer::from_pem_file(&certificate.key).expect("a key");
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a certificate with its key");
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let served = Arc::new(AtomicUsize::new(0));
        let closing = Arc::new(AtomicBool::new(false));
        let resumed = Arc::new(AtomicUsize::new(0));
        let (counter, of_resumed, is_closing) =
            (Arc::clone(&served), Arc::clone(&resumed), Arc::clone(&closing));
        let upstream = upstream.to_owned();
        thread("tls-front", move || {
            for client in listener.incoming().map_while(Result::ok) {
                if is_closing.load(Ordering::SeqCst) {
                    return;
                }
                let (config, upstream) = (Arc::clone(&config), upstream.clone());
                let (counter, of_resumed) = (Arc::clone(&counter), Arc::clone(&of_resumed));
                thread("tls-front-connection", move || {
                    // A client that goes away, or does not like the certificate, is its own affair.
                    let Ok(client) = shaken_hands(client, config) else {
                        return;
                    };
                    if client.conn.handshake_kind() == Some(HandshakeKind::Resumed) {
                        of_resumed.fetch_add(1, Ordering::SeqCst);
                    }
                    if serve(client, &upstream).is_ok() {
                        counter.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        Self { port, authority: certificate.authority, served, resumed, closing }
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

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
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
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).map_err(std::io::Error::other)?;
    let header = |line: &str, name: &str| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    };
    let length = head.lines().find_map(|line| header(line, "content-length"));
    let mut body = vec![0; length.map_or(0, |length| length.parse().expect("a length"))];
    client.read_exact(&mut body)?;

    // One request a connection, so that the answer ends where the connection does.
    let mut lines: Vec<&str> =
        head.trim_end().split("\r\n").filter(|line| header(line, "connection").is_none()).collect();
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
