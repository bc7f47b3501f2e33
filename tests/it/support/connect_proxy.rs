//! An HTTP proxy for https: it connects to the target of CONNECT, if the login is right and the peer allowed.
//! It knows where names lead, as a proxy at the edge of a network does whose inside resolves none of them.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::child::thread;
use super::http::{header_of, read_head};
use crate::fakes::acceptor::Acceptor;

/// One CONNECT that came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect {
    /// `host:port`
    pub target: String,
    /// The status that was answered.
    pub status: u16,
}

#[derive(Default)]
struct State {
    /// `user:password`, if one is asked for.
    login: Option<String>,
    /// Peers that are allowed, and the ports of 127.0.0.1 that they lead to.
    routes: BTreeMap<String, u16>,
    connects: Vec<Connect>,
}

/// The proxy; dropping it ends it.
pub struct ConnectProxy {
    pub port: u16,
    state: Arc<Mutex<State>>,
    _acceptor: Acceptor,
}

impl ConnectProxy {
    /// Listens; refuses everything until it has routes.
    pub fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let acceptor = Acceptor::start("connect-proxy", 0, move |client| {
            let shared = Arc::clone(&shared);
            thread("connect-proxy-connection", move || {
                // A client may hang up at any time.
                let _ = serve(client, &shared);
            });
        });
        Self { port: acceptor.port, state, _acceptor: acceptor }
    }

    /// What HTTPS_PROXY is set to, with this login (as it stands in a URL).
    pub fn url(&self, login: Option<&str>) -> String {
        let login = login.map(|login| format!("{login}@")).unwrap_or_default();
        format!("http://{login}127.0.0.1:{}", self.port)
    }

    /// From now on asks for this `user:password`.
    pub fn ask_for(&self, login: &str) {
        self.state.lock().unwrap().login = Some(login.to_owned());
    }

    /// From now on connects to this `host:port`, which is on this port of 127.0.0.1.
    pub fn allow(&self, target: &str, port: u16) {
        self.state.lock().unwrap().routes.insert(target.to_owned(), port);
    }

    /// Every CONNECT so far.
    pub fn connects(&self) -> Vec<Connect> {
        self.state.lock().unwrap().connects.clone()
    }

    /// The peers that it connected to.
    pub fn connected_to(&self) -> Vec<String> {
        let mut targets: Vec<String> = self
            .connects()
            .into_iter()
            .filter(|connect| connect.status == 200)
            .map(|connect| connect.target)
            .collect();
        targets.sort();
        targets.dedup();
        targets
    }
}

fn serve(mut client: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let head = read_head(&mut client)?;
    let first = head.lines().next().unwrap_or_default();
    let target =
        first.strip_prefix("CONNECT ").and_then(|rest| rest.strip_suffix(" HTTP/1.1")).map(str::to_owned);
    let login = header_of(&head, "proxy-authorization");
    let (status, port) = {
        let mut state = state.lock().unwrap();
        let expected = state.login.as_ref().map(|login| format!("Basic {}", BASE64_STANDARD.encode(login)));
        let route = target.as_ref().and_then(|target| state.routes.get(target).copied());
        let status = if target.is_none() {
            405
        } else if expected.is_some() && login != expected {
            407
        } else if route.is_none() {
            403
        } else {
            200
        };
        let target = target.unwrap_or_else(|| first.to_owned());
        state.connects.push(Connect { target, status });
        (status, route)
    };
    let (200, Some(port)) = (status, port) else {
        let challenge = if status == 407 { "Proxy-Authenticate: Basic realm=\"tests\"\r\n" } else { "" };
        return client
            .write_all(format!("HTTP/1.1 {status} No\r\n{challenge}Content-Length: 0\r\n\r\n").as_bytes());
    };
    let server = TcpStream::connect(("127.0.0.1", port))?;
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    let (client_in, server_out) = (client.try_clone()?, server.try_clone()?);
    thread("connect-proxy-back", move || pass(server_out, client));
    pass(client_in, server);
    Ok(())
}

/// Passes on what comes until one of the two ends.
fn pass(mut from: TcpStream, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
