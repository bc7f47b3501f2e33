//! The HTTP client for SQS, AWS's credentials, the Edge API and Sentry: ureq, set up in one place.
//!
//! Each call has one deadline, from the name lookup to the last byte of the body. Every HTTP status is a value. Redirects
//! are not followed: a signed request must not travel to another host. The environment is not read; a proxy comes in
//! through [`HttpOptions`].

mod dial;

use std::fmt::Display;
use std::io::{ErrorKind, Read as _};
use std::sync::LazyLock;
use std::time::Duration;

use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::unversioned::transport::{ConnectProxyConnector, Connector as _, RustlsConnector};
use ureq::{Agent, Timeout};
use url::Url;

use self::dial::{Dial, NoResolver};
use crate::config::Proxy;

/// The part of a call's deadline for lookup, connecting, proxy and TLS together. It distinguishes a peer that drops packets
/// from one that is slow to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The most that is allocated for an answer before it is read, whatever its Content-Length promises.
const ANSWER_BYTES_RESERVED: u64 = 1024 * 1024;
const OUTPUT_BYTES: usize = 16 * 1024;
const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// How one peer is called.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// Connections kept open between calls: as many as there are threads that call.
    pub pool_size: usize,
    /// The longest body that is read; a longer one is an error.
    pub answer_bytes_max: u64,
    /// The deadline of a call that has none of its own.
    pub deadline: Duration,
    /// For https, unless `NO_PROXY` names the host. None for the metadata endpoints of containers and instances.
    pub proxy: Option<Proxy>,
}

/// A client of one peer.
#[derive(Debug)]
pub struct HttpClient {
    options: HttpOptions,
    agent: Agent,
}

/// A call without a response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct HttpError {
    /// What kind of fault it is.
    pub kind: HttpErrorKind,
    /// What happened, without the peer's name: the caller knows it better.
    pub message: String,
}

/// Why there was no response. Displayed, it is a short stable name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[allow(missing_docs)] // each has a name
pub enum HttpErrorKind {
    #[error("timeout")]
    Timeout,
    #[error("host_not_found")]
    HostNotFound,
    #[error("connection_refused")]
    ConnectionRefused,
    /// No route, or the connection broke.
    #[error("connection_failed")]
    Connection,
    #[error("tls")]
    Tls,
    #[error("answer_too_large")]
    AnswerTooLarge,
    /// What came back was not HTTP, or the request could not be expressed in HTTP.
    #[error("not_http")]
    Protocol,
    #[error("proxy_unreachable")]
    ProxyUnreachable,
    #[error("proxy_authentication")]
    ProxyAuthentication,
    /// The proxy does not connect to this peer, or does not answer as a proxy.
    #[error("proxy_refused")]
    ProxyRefused,
}

impl HttpErrorKind {
    /// The remedy, as the end of an error's text. The caller provides those for an unreachable and for a
    /// wrong peer: only it knows the settings that name the peer.
    #[rustfmt::skip]
    pub fn remedy<'a>(self, unreachable: &'a str, wrong_peer: &'a str) -> &'a str {
        match self {
            Self::Timeout | Self::HostNotFound | Self::ConnectionRefused | Self::Connection => unreachable,
            Self::Tls => "check the URL and this machine's trusted certificates (package ca-certificates, SSL_CERT_FILE)",
            Self::AnswerTooLarge | Self::Protocol => wrong_peer,
            Self::ProxyUnreachable => "check HTTPS_PROXY and the network path (DNS, firewall); NO_PROXY names hosts that are \
                                       called without it",
            Self::ProxyAuthentication => "set http://user:password@host:port in HTTPS_PROXY, with special characters \
                                          percent-encoded",
            Self::ProxyRefused => "allow this host and port on the proxy, or name the host in NO_PROXY to call it directly",
        }
    }
}

/// Makes ring the process's crypto provider, for every TLS user in it. Calling it again changes nothing.
pub fn install_crypto_provider() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// The authorities that this machine trusts: read when the first client for https is made.
static ROOTS: LazyLock<RootCerts> = LazyLock::new(|| {
    let found = rustls_native_certs::load_native_certs().certs;
    found.iter().map(|der| Certificate::from_der(der).to_owned()).into()
});

impl HttpClient {
    /// A client for the peer at `base`, whose scheme and host decide on TLS and proxy.
    pub fn new(base: &Url, options: HttpOptions) -> Self {
        install_crypto_provider();
        let proxy = options.proxy.filter(|proxy| proxy.is_for(base));
        let is_https = base.scheme() == "https";
        let roots = if is_https { ROOTS.clone() } else { RootCerts::new_with_certs(&[]) };
        let config = Agent::config_builder()
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .proxy(proxy.as_ref().map(Proxy::of_ureq))
            .user_agent(USER_AGENT)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_idle_connections(options.pool_size)
            .max_idle_connections_per_host(options.pool_size)
            // A response head must fit into the first.
            .input_buffer_size(64 * 1024)
            .output_buffer_size(OUTPUT_BYTES)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(options.deadline))
            .build();
        let dial = ().chain(ConnectProxyConnector::default()).chain(Dial::default());
        let agent = Agent::with_parts(config, dial.chain(RustlsConnector::default()), NoResolver);
        Self { options: HttpOptions { proxy, ..options }, agent }
    }

    /// Sends one request and reads the whole response, whatever its status, within `deadline` or that of the options. The
    /// latter costs less: for a deadline of its own, ureq copies its configuration and, until a call without one was made,
    /// sets up TLS again.
    pub fn send(
        &self,
        request: http::Request<Vec<u8>>,
        deadline: Option<Duration>,
    ) -> Result<http::Response<Vec<u8>>, HttpError> {
        let agent = &self.agent;
        let request = match deadline {
            Some(deadline) => agent.configure_request(request).timeout_global(Some(deadline)).build(),
            None => request,
        };
        let has_body = !request.body().is_empty() || request.method() != http::Method::GET;
        let response = if has_body { agent.run(request) } else { agent.run(request.map(|_| ())) };
        let (head, body) = response.map_err(|error| self.describe(&error))?.into_parts();
        // ureq's own `read_to_vec` starts with an empty vector, and copies it each time that it grows.
        let length = body.content_length().unwrap_or_default().min(ANSWER_BYTES_RESERVED);
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
        let mut reader = body.into_with_config().limit(self.options.answer_bytes_max).reader();
        reader.read_to_end(&mut bytes).map_err(|error| self.describe(&error.into()))?;
        Ok(http::Response::from_parts(head, bytes))
    }

    /// The agent, for libraries that bring their own requests.
    pub fn agent(&self) -> Agent {
        self.agent.clone()
    }

    fn describe(&self, error: &ureq::Error) -> HttpError {
        let (mut kind, mut message) = cause(error);
        if let Some(at) = self.options.proxy.as_ref().map(Proxy::address) {
            if matches!(kind, HttpErrorKind::HostNotFound | HttpErrorKind::ConnectionRefused) {
                // The proxy resolves the peer's name and connects to it.
                kind = HttpErrorKind::ProxyUnreachable;
                message = format!("cannot connect to the proxy at {at}: {message}");
            } else {
                message = format!("{message} (through the proxy at {at})");
            }
        }
        HttpError { kind, message }
    }
}

#[rustfmt::skip]
#[allow(clippy::wildcard_enum_match_arm)] // both enums are open: the rest is described by its own text
fn cause(error: &ureq::Error) -> (HttpErrorKind, String) {
    use HttpErrorKind as Kind;
    use ureq::Error;
    let tls = |error: &dyn Display| (Kind::Tls, format!("the TLS handshake failed: {error}"));
    match error {
        Error::Timeout(Timeout::Connect) => (Kind::Timeout, "timed out while connecting".to_owned()),
        Error::Timeout(_) => (Kind::Timeout, "timed out: no complete answer within the deadline".to_owned()),
        Error::BodyExceedsLimit(limit) => (Kind::AnswerTooLarge, format!("the answer is longer than {limit} bytes")),
        // The status is only in ureq's text.
        Error::ConnectProxyFailed(why) if why.contains("407") => (Kind::ProxyAuthentication,
            format!("the proxy refuses the user and password, or requires them ({why})")),
        Error::ConnectProxyFailed(why) => (Kind::ProxyRefused, format!("the proxy does not connect to this host ({why})")),
        // See `dial`.
        Error::Other(lookup) => (Kind::HostNotFound, lookup.to_string()),
        Error::Rustls(_) | Error::Tls(_) | Error::Pem(_) => tls(error),
        Error::Io(io) if io.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>) => tls(io),
        Error::Io(io) => match io.kind() {
            ErrorKind::ConnectionRefused => (Kind::ConnectionRefused, "connection refused".to_owned()),
            ErrorKind::TimedOut => (Kind::Timeout, "timed out".to_owned()),
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe =>
                (Kind::Connection, format!("the connection was closed before the answer was complete ({io})")),
            _ => (Kind::Connection, format!("the connection failed: {io}")),
        },
        _ => (Kind::Protocol, error.to_string()),
    }
}

#[cfg(test)]
pub mod stub;
#[cfg(test)]
mod tests;
