//! The way through a CONNECT proxy.
//!
//! ureq has one of its own. It is not used, because its wait for the proxy's answer begins anew with each byte that
//! comes, so that a proxy which drips holds a thread; and because its errors do not tell a proxy that cannot be
//! reached from a peer that cannot. The resolver hands out the proxy's addresses in place of the peer's, so the TCP
//! connection that arrives here leads to the proxy. The peer's name is resolved by the proxy alone.

use std::fmt;
use std::io::{Read, Write};
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ureq::http::Uri;
use ureq::unversioned::transport::time::{Duration, Instant};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, NextTimeout, RustlsConnector, Transport, TransportAdapter,
};

use super::{ProxyFault, USER_AGENT};
use crate::config::Proxy;

/// More than any proxy says before the tunnel is open.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// What went wrong between here and the far end of the proxy.
#[derive(Debug)]
pub struct TunnelFailed {
    /// The sort of fault.
    pub fault: ProxyFault,
    /// What happened, the proxy named.
    pub words: String,
}

impl fmt::Display for TunnelFailed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.words)
    }
}

impl std::error::Error for TunnelFailed {}

/// Asks the proxy at the other end of the connection to connect to the peer. Does nothing if there is no proxy.
pub struct Tunnel {
    proxy: Option<(Proxy, Uri)>,
    /// TLS to the proxy itself, if it is an https one.
    tls: RustlsConnector,
}

impl Tunnel {
    /// Through this proxy, whose URI comes along.
    pub fn new(proxy: Option<(Proxy, Uri)>) -> Self {
        Self {
            proxy,
            tls: RustlsConnector::default(),
        }
    }
}

impl<In: Transport> Connector<In> for Tunnel {
    type Out = Either<In, Opened>;

    fn connect(
        &self,
        details: &ConnectionDetails,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let Some((proxy, uri)) = &self.proxy else {
            return Ok(chained.map(Either::A));
        };
        let to_proxy = ConnectionDetails {
            uri,
            addrs: details.addrs.clone(),
            config: details.config,
            request_level: details.request_level,
            resolver: details.resolver,
            now: details.now,
            timeout: details.timeout,
            current_time: Arc::clone(&details.current_time),
            run_connector: Arc::clone(&details.run_connector),
            register_shutdown: Arc::clone(&details.register_shutdown),
        };
        let Some(connection) = self.tls.connect(&to_proxy, chained)? else {
            return Ok(None);
        };
        let mut adapter = TransportAdapter::new(connection.boxed(), Arc::clone(&details.current_time));
        adapter.set_timeout(remaining(details));
        ask(&mut adapter, proxy, details.uri)?;
        Ok(Some(Either::B(Opened(adapter.into_inner()))))
    }
}

/// What is left for connecting: the TCP connection, and TLS to the proxy, took their share.
fn remaining(details: &ConnectionDetails) -> NextTimeout {
    let mut timeout = details.timeout;
    if let (Duration::Exact(whole), Instant::Exact(began), Instant::Exact(now)) =
        (timeout.after, details.now, (details.current_time)())
    {
        timeout.after = Duration::Exact(whole.saturating_sub(now.saturating_duration_since(began)));
    }
    timeout
}

fn ask(adapter: &mut TransportAdapter, proxy: &Proxy, peer: &Uri) -> Result<(), ureq::Error> {
    let failed = |fault: ProxyFault, what: String| {
        let words = format!("the proxy at {} {what}", proxy.shown());
        ureq::Error::Other(Box::new(TunnelFailed { fault, words }))
    };
    // Tunnels are for https alone.
    let target = format!(
        "{}:{}",
        peer.host().unwrap_or_default(),
        peer.port_u16().unwrap_or(443)
    );
    let sign_in = match &proxy.login {
        Some(login) => {
            let login = login.read()?;
            format!("Proxy-Authorization: Basic {}\r\n", BASE64_STANDARD.encode(login))
        }
        None => String::new(),
    };
    let request =
        format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: {USER_AGENT}\r\n{sign_in}\r\n");
    adapter.write_all(request.as_bytes())?;
    adapter.flush()?;

    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= ANSWER_BYTES_MAX {
            return Err(failed(
                ProxyFault::NotAProxy,
                "does not answer as an HTTP proxy".to_owned(),
            ));
        }
        match adapter.read(&mut byte).map_err(ureq::Error::from) {
            Ok(1..) => answer.push(byte[0]),
            Ok(0) => {
                let what = format!("closed the connection when asked for {target}");
                return Err(failed(ProxyFault::NotAProxy, what));
            }
            Err(ureq::Error::Io(error)) => {
                let what = format!("broke the connection when asked for {target} ({error})");
                return Err(failed(ProxyFault::NotAProxy, what));
            }
            Err(error) => return Err(error),
        }
    }
    match status(&answer) {
        Some(200..=299) => Ok(()),
        Some(407) => {
            let what = if proxy.login.is_some() {
                "refuses the user and password that it was given (407)"
            } else {
                "asks for a user and a password (407)"
            };
            Err(failed(ProxyFault::SignIn, what.to_owned()))
        }
        Some(status) => Err(failed(
            ProxyFault::Refused,
            format!("refuses to connect to {target} (CONNECT answered with {status})"),
        )),
        None => Err(failed(
            ProxyFault::NotAProxy,
            "does not answer as an HTTP proxy".to_owned(),
        )),
    }
}

/// The status in `HTTP/1.1 200 Connection established`.
fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\r').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    words.next()?.parse().ok()
}

/// A connection to the peer. Whatever TLS there was belongs to the proxy.
#[derive(Debug)]
pub struct Opened(Box<dyn Transport>);

impl Transport for Opened {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.0.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.0.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.0.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.0.is_open()
    }

    fn is_tls(&self) -> bool {
        false
    }
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Tunnel").field(&self.proxy).finish()
    }
}

#[cfg(test)]
mod tests;
