//! The one set-up of the HTTP client, shared by the queue, the Edge API and the error reports.
//!
//! Every call has one deadline that covers name look-up, connecting, TLS, sending and reading the whole body, so
//! that no peer can hold a thread. Any HTTP status is a value: what it means is the caller's to know. Redirects
//! are not followed, because a signed request must not travel to another host. The environment is not read; a
//! proxy comes in through [`HttpOptions`], and only https goes through it.

mod resolver;
mod socket;
mod tunnel;

use std::io::{ErrorKind, Read as _};
use std::sync::OnceLock;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use ureq::http::Uri;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};
use ureq::unversioned::transport::{Connector, RustlsConnector};
use ureq::{Agent, Timeout};
use url::Url;

use self::resolver::{CachedResolver, LookupFailed};
use self::socket::SocketConnector;
use self::tunnel::{Tunnel, TunnelFailed};
use crate::config::Proxy;

/// Connecting, TLS included, gets at most this much of a call's deadline: a peer that drops packets is told from
/// one that thinks.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Below the idle timeouts of AWS's and Stigg's front ends, so that a kept connection is rarely a closed one.
const IDLE_AGE_MAX: Duration = Duration::from_secs(15);

/// A record of TLS has 16 KiB at most.
const TLS_BUFFER_BYTES: usize = 16 * 1024;
/// What comes over TLS is taken out of its records into a buffer that has to hold the longest head.
const TLS_INPUT_BYTES: usize = 64 * 1024;

/// Room that is made for an answer by its `Content-Length` alone.
const BELIEVED_BYTES_MAX: u64 = 1024 * 1024;

/// What this service calls itself.
const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// What one peer's client needs to be told.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// Connections kept open between calls: as many as there are threads that call.
    pub pool_size: usize,
    /// The longest body that is read; a longer one is an error.
    pub answer_bytes_max: u64,
    /// The deadline of a call that names none.
    pub deadline: Duration,
    /// The way there, for https and what the proxy's exceptions do not name. None for peers that are never behind a
    /// proxy: the endpoints of containers and of instances.
    pub proxy: Option<Proxy>,
}

/// A client of one peer. Cheap to build: certificates are loaded at the first `https` call and no sooner.
#[derive(Debug)]
pub struct HttpClient {
    https: bool,
    options: HttpOptions,
    agent: OnceLock<Agent>,
}

/// A whole answer, whatever its status.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: http::HeaderMap,
    /// The body, at most `answer_bytes_max` long.
    pub body: Vec<u8>,
}

/// Why there was no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HttpErrorKind {
    /// The deadline passed, or connecting took too long.
    Timeout,
    /// The name could not be resolved.
    HostNotFound,
    /// Nobody listens there.
    ConnectionRefused,
    /// No way there, or the connection broke.
    Connection,
    /// The certificate was not accepted, or the handshake failed.
    Tls,
    /// The body was longer than allowed.
    AnswerTooLarge,
    /// What came back was not HTTP, or the request could not be put as HTTP.
    Protocol,
    /// The proxy did not let us through.
    Proxy(ProxyFault),
}

/// What a proxy does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProxyFault {
    /// It cannot be connected to: no such name, nobody listens, no way there.
    Unreachable,
    /// It wants another user and password (407).
    SignIn,
    /// It does not connect to this peer.
    Refused,
    /// What listens there is no HTTP proxy.
    NotAProxy,
}

/// A call without an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{words}")]
pub struct HttpError {
    /// The sort of fault.
    pub kind: HttpErrorKind,
    /// What happened, without the peer's name: the caller knows it better.
    pub words: String,
}

/// Makes ring the crypto provider of the process, for every TLS user in it. Calling it again changes nothing.
pub fn install_crypto_provider() {
    if CryptoProvider::get_default().is_none() {
        // Another thread may have been first: then that one's provider stands, which is the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

impl HttpErrorKind {
    /// A short stable name.
    pub fn label(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::HostNotFound => "host_not_found",
            Self::ConnectionRefused => "connection_refused",
            Self::Connection => "connection_failed",
            Self::Tls => "tls",
            Self::AnswerTooLarge => "answer_too_large",
            Self::Protocol => "not_http",
            Self::Proxy(ProxyFault::Unreachable) => "proxy_unreachable",
            Self::Proxy(ProxyFault::SignIn) => "proxy_sign_in",
            Self::Proxy(ProxyFault::Refused) => "proxy_refused",
            Self::Proxy(ProxyFault::NotAProxy) => "not_a_proxy",
        }
    }
}

impl ProxyFault {
    /// What to do about it, as the end of an error.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Unreachable => {
                "check HTTPS_PROXY and the way there (DNS, firewall); NO_PROXY names hosts that are called without it"
            }
            Self::SignIn => {
                "set http://user:password@host:port in HTTPS_PROXY, with special characters percent-encoded"
            }
            Self::Refused => {
                "allow this host and port on the proxy, or name the host in NO_PROXY to call it directly"
            }
            Self::NotAProxy => {
                "check HTTPS_PROXY: is this an HTTP proxy, and of this scheme (http or https)?"
            }
        }
    }
}

impl HttpClient {
    /// A client for the peer at `base`: its scheme decides on certificates, its scheme and host on the proxy.
    pub fn new(base: &Url, options: HttpOptions) -> Self {
        let proxy = options.proxy.filter(|proxy| proxy.is_for(base));
        Self {
            https: base.scheme() == "https",
            options: HttpOptions { proxy, ..options },
            agent: OnceLock::new(),
        }
    }

    /// Sends one request and reads the whole answer, within `deadline` (else the one of the options, which costs less:
    /// ureq copies its whole configuration for a call that has a deadline of its own, and sets up TLS for it).
    pub fn send(
        &self,
        request: http::Request<Vec<u8>>,
        deadline: Option<Duration>,
    ) -> Result<Answer, HttpError> {
        let agent = self.agent()?;
        let answered = if request.body().is_empty() && request.method() == http::Method::GET {
            run(&agent, request.map(|_| ()), deadline)
        } else {
            run(&agent, request, deadline)
        };
        let mut response = answered.map_err(|error| self.describe(&error))?;
        let told = response.body().content_length().unwrap_or_default();
        let mut body = Vec::with_capacity(usize::try_from(told.min(BELIEVED_BYTES_MAX)).unwrap_or_default());
        let reader = response.body_mut().with_config();
        let mut reader = reader.limit(self.options.answer_bytes_max).reader();
        reader
            .read_to_end(&mut body)
            .map_err(|error| self.describe(&ureq::Error::from(error)))?;
        let (parts, _) = response.into_parts();
        Ok(Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
        })
    }

    /// The agent itself, for libraries that bring their own requests.
    pub fn agent(&self) -> Result<Agent, HttpError> {
        if let Some(agent) = self.agent.get() {
            return Ok(agent.clone());
        }
        // A failure is not kept, so that certificates which appear later heal the client. Two threads that are
        // first at once both build one, and one of the two is dropped.
        let built = self.build()?;
        Ok(self.agent.get_or_init(|| built).clone())
    }

    fn build(&self) -> Result<Agent, HttpError> {
        install_crypto_provider();
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .root_certs(if self.https {
                system_roots()?
            } else {
                RootCerts::new_with_certs(&[])
            })
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            // ureq would read HTTP_PROXY and HTTPS_PROXY by itself; `Tunnel` does what is to be done.
            .proxy(None)
            .user_agent(USER_AGENT)
            .http_status_as_error(false)
            .max_redirects(0)
            .no_delay(true)
            .max_idle_connections(self.options.pool_size)
            .max_idle_connections_per_host(self.options.pool_size)
            .max_idle_age(IDLE_AGE_MAX)
            // Of TLS connections. Beneath them, and of others, is the socket's own.
            .input_buffer_size(TLS_INPUT_BYTES)
            .output_buffer_size(TLS_BUFFER_BYTES)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(self.options.deadline))
            .build();
        let proxy = match &self.options.proxy {
            Some(proxy) => Some((proxy.clone(), proxy_uri(proxy)?)),
            None => None,
        };
        let resolver = CachedResolver::new(proxy.as_ref().map(|(_, uri)| uri.clone()));
        let connector = SocketConnector
            .chain(Tunnel::new(proxy))
            .chain(RustlsConnector::default());
        Ok(Agent::with_parts(config, connector, resolver))
    }

    /// What happened. Behind a proxy whatever hinders connecting hinders the way to the proxy.
    fn describe(&self, error: &ureq::Error) -> HttpError {
        let HttpError { kind, words } = self.describe_direct(error);
        let Some(proxy) = &self.options.proxy else {
            return HttpError { kind, words };
        };
        let proxy = proxy.shown();
        match kind {
            HttpErrorKind::Proxy(_) => HttpError { kind, words },
            HttpErrorKind::HostNotFound | HttpErrorKind::ConnectionRefused => HttpError {
                kind: HttpErrorKind::Proxy(ProxyFault::Unreachable),
                words: format!("cannot connect to the proxy at {proxy}: {words}"),
            },
            HttpErrorKind::Timeout
            | HttpErrorKind::Connection
            | HttpErrorKind::Tls
            | HttpErrorKind::AnswerTooLarge
            | HttpErrorKind::Protocol => HttpError {
                kind,
                words: format!("{words} (through the proxy at {proxy})"),
            },
        }
    }

    #[allow(clippy::wildcard_enum_match_arm)] // ureq's enum is open: what it adds is a protocol fault to us
    fn describe_direct(&self, error: &ureq::Error) -> HttpError {
        let (kind, words) = match error {
            ureq::Error::Timeout(Timeout::Connect) => {
                (HttpErrorKind::Timeout, "timed out while connecting".to_owned())
            }
            ureq::Error::Timeout(Timeout::Resolve) => (
                HttpErrorKind::HostNotFound,
                "cannot resolve the host name: no answer in time".to_owned(),
            ),
            ureq::Error::Timeout(_) => (
                HttpErrorKind::Timeout,
                "timed out: no whole answer within the deadline".to_owned(),
            ),
            ureq::Error::HostNotFound => (
                HttpErrorKind::HostNotFound,
                "cannot resolve the host name: it has no address".to_owned(),
            ),
            ureq::Error::BodyExceedsLimit(_) => (
                HttpErrorKind::AnswerTooLarge,
                format!(
                    "the answer is longer than {} bytes",
                    self.options.answer_bytes_max
                ),
            ),
            ureq::Error::Rustls(_) | ureq::Error::Tls(_) | ureq::Error::Pem(_) => {
                (HttpErrorKind::Tls, format!("the TLS handshake failed: {error}"))
            }
            ureq::Error::Io(io) => describe_io(io),
            ureq::Error::Other(other) => {
                if let Some(failed) = other.downcast_ref::<LookupFailed>() {
                    let words = format!("cannot resolve the host name: {failed}");
                    (HttpErrorKind::HostNotFound, words)
                } else if let Some(failed) = other.downcast_ref::<TunnelFailed>() {
                    (HttpErrorKind::Proxy(failed.fault), failed.words.clone())
                } else {
                    (HttpErrorKind::Protocol, error.to_string())
                }
            }
            _ => (HttpErrorKind::Protocol, error.to_string()),
        };
        HttpError { kind, words }
    }
}

/// The proxy's address as ureq takes it.
fn proxy_uri(proxy: &Proxy) -> Result<Uri, HttpError> {
    proxy.shown().parse().map_err(|error| HttpError {
        kind: HttpErrorKind::Proxy(ProxyFault::Unreachable),
        words: format!("cannot connect to the proxy at {}: {error}", proxy.shown()),
    })
}

/// Sends with the agent's own deadline where none is named: only such calls let ureq keep its TLS set-up (and
/// with it TLS sessions) for later ones.
fn run(
    agent: &Agent,
    request: http::Request<impl ureq::AsSendBody>,
    deadline: Option<Duration>,
) -> Result<http::Response<ureq::Body>, ureq::Error> {
    match deadline {
        None => agent.run(request),
        Some(deadline) => agent.run(
            agent
                .configure_request(request)
                .timeout_global(Some(deadline))
                .build(),
        ),
    }
}

#[allow(clippy::wildcard_enum_match_arm)] // std's list is long and open: the rest is told in its own words
fn describe_io(error: &std::io::Error) -> (HttpErrorKind, String) {
    // rustls reports a refused certificate as an I/O error that wraps its own.
    if error
        .get_ref()
        .is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>)
    {
        return (HttpErrorKind::Tls, format!("the TLS handshake failed: {error}"));
    }
    match error.kind() {
        ErrorKind::ConnectionRefused => (HttpErrorKind::ConnectionRefused, "connection refused".to_owned()),
        ErrorKind::TimedOut | ErrorKind::WouldBlock => (HttpErrorKind::Timeout, "timed out".to_owned()),
        ErrorKind::UnexpectedEof
        | ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe => (
            HttpErrorKind::Connection,
            format!("the connection was closed before the answer was whole ({error})"),
        ),
        _ => (
            HttpErrorKind::Connection,
            format!("the connection failed: {error}"),
        ),
    }
}

/// The authorities this machine trusts.
fn system_roots() -> Result<RootCerts, HttpError> {
    let loaded = rustls_native_certs::load_native_certs();
    if loaded.certs.is_empty() {
        let cause = loaded
            .errors
            .first()
            .map(|error| format!(" ({error})"))
            .unwrap_or_default();
        return Err(HttpError {
            kind: HttpErrorKind::Tls,
            words: format!(
                "this machine has no trusted root certificates{cause}; install ca-certificates or name a PEM \
                 file in SSL_CERT_FILE"
            ),
        });
    }
    Ok(loaded
        .certs
        .iter()
        .map(|der| Certificate::from_der(der).to_owned())
        .collect::<Vec<_>>()
        .into())
}

#[cfg(test)]
pub mod stub;
#[cfg(test)]
mod tests;
