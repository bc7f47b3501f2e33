//! The HTTP client for SQS, AWS's credentials, the Edge API and Sentry: ureq, set up in one place.
//!
//! Each call has one deadline, from the name lookup to the last byte of the body. Every HTTP status is a value. Redirects
//! are not followed: a signed request must not travel to another host. The environment is not read; a proxy comes in
//! through [`HttpOptions`].

mod dial;

use std::io::{ErrorKind, Read as _};
use std::sync::OnceLock;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};
use ureq::unversioned::transport::{ConnectProxyConnector, Connector as _, RustlsConnector};
use ureq::{Agent, Timeout};
use url::Url;

use self::dial::{Dial, LookupFailed, NoResolver};
use crate::config::Proxy;

/// The part of a call's deadline for lookup, connecting, proxy and TLS together, so that a peer that drops packets is told
/// from one that is slow to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Below the idle timeouts of AWS's and Stigg's front ends: a pooled connection is rarely one that they have closed.
const IDLE_AGE_MAX: Duration = Duration::from_secs(15);
/// Buffers of a connection. A response head must fit into the first.
const INPUT_BYTES: usize = 64 * 1024;
const OUTPUT_BYTES: usize = 16 * 1024;
/// Allocated for a body by its `Content-Length` alone.
const BELIEVED_BYTES_MAX: u64 = 1024 * 1024;

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

/// A client of one peer. Certificates are loaded at the first https call.
#[derive(Debug)]
pub struct HttpClient {
    is_https: bool,
    options: HttpOptions,
    agent: OnceLock<Agent>,
}

/// A whole response, whatever its status.
#[derive(Debug)]
pub struct HttpResponse {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: http::HeaderMap,
    /// The body, at most `answer_bytes_max` long.
    pub body: Vec<u8>,
}

/// Why there was no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HttpErrorKind {
    /// The deadline passed, or connecting took too long.
    Timeout,
    /// The name could not be resolved.
    HostNotFound,
    /// Nothing listens there.
    ConnectionRefused,
    /// No route, or the connection broke.
    Connection,
    /// The certificate was not accepted, or the handshake failed.
    Tls,
    /// The body was longer than allowed.
    AnswerTooLarge,
    /// What came back was not HTTP, or the request could not be put as HTTP.
    Protocol,
    /// The proxy did not connect us.
    Proxy(ProxyFault),
}

/// What is wrong with the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProxyFault {
    /// It cannot be connected to: no such name, nothing listens.
    Unreachable,
    /// It requires another user and password (407).
    Authentication,
    /// It does not connect to this peer, or does not answer as a proxy.
    Refused,
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

/// Makes ring the process's crypto provider, for every TLS user in it. Calling it again changes nothing.
pub fn install_crypto_provider() {
    if CryptoProvider::get_default().is_none() {
        // Another thread may have been first, with the same one.
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
            Self::Proxy(ProxyFault::Authentication) => "proxy_authentication",
            Self::Proxy(ProxyFault::Refused) => "proxy_refused",
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
            Self::Authentication => {
                "set http://user:password@host:port in HTTPS_PROXY, with special characters percent-encoded"
            }
            Self::Refused => {
                "allow this host and port on the proxy, or name the host in NO_PROXY to call it directly"
            }
        }
    }
}

impl HttpClient {
    /// A client for the peer at `base`, whose scheme and host decide on TLS and proxy.
    pub fn new(base: &Url, options: HttpOptions) -> Self {
        let proxy = options.proxy.filter(|proxy| proxy.is_for(base));
        Self {
            is_https: base.scheme() == "https",
            options: HttpOptions { proxy, ..options },
            agent: OnceLock::new(),
        }
    }

    /// Sends one request and reads the whole response, within `deadline` or that of the options. The latter costs less:
    /// for a deadline of its own, ureq copies its configuration and, until a call without one was made, sets up TLS anew.
    pub fn send(
        &self,
        request: http::Request<Vec<u8>>,
        deadline: Option<Duration>,
    ) -> Result<HttpResponse, HttpError> {
        let agent = self.agent()?;
        let response = if request.body().is_empty() && request.method() == http::Method::GET {
            run(&agent, request.map(|_| ()), deadline)
        } else {
            run(&agent, request, deadline)
        };
        let mut response = response.map_err(|error| self.describe(&error))?;
        let length = response.body().content_length().unwrap_or_default();
        let mut body =
            Vec::with_capacity(usize::try_from(length.min(BELIEVED_BYTES_MAX)).unwrap_or_default());
        let reader = response.body_mut().with_config();
        let mut reader = reader.limit(self.options.answer_bytes_max).reader();
        reader
            .read_to_end(&mut body)
            .map_err(|error| self.describe(&ureq::Error::from(error)))?;
        let (parts, _) = response.into_parts();
        Ok(HttpResponse {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
        })
    }

    /// The agent, for libraries that bring their own requests.
    pub fn agent(&self) -> Result<Agent, HttpError> {
        if let Some(agent) = self.agent.get() {
            return Ok(agent.clone());
        }
        // A failure is not kept: certificates may be installed later.
        let agent = self.build()?;
        Ok(self.agent.get_or_init(|| agent).clone())
    }

    fn build(&self) -> Result<Agent, HttpError> {
        install_crypto_provider();
        let roots = if self.is_https {
            system_roots()?
        } else {
            RootCerts::new_with_certs(&[])
        };
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .root_certs(roots)
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .proxy(self.options.proxy.as_ref().map(Proxy::of_ureq))
            .user_agent(USER_AGENT)
            .http_status_as_error(false)
            .max_redirects(0)
            .no_delay(true)
            .max_idle_connections(self.options.pool_size)
            .max_idle_connections_per_host(self.options.pool_size)
            .max_idle_age(IDLE_AGE_MAX)
            .input_buffer_size(INPUT_BYTES)
            .output_buffer_size(OUTPUT_BYTES)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(self.options.deadline))
            .build();
        let connector =
            ().chain(ConnectProxyConnector::default())
                .chain(Dial::default())
                .chain(RustlsConnector::default());
        Ok(Agent::with_parts(config, connector, NoResolver))
    }

    fn describe(&self, error: &ureq::Error) -> HttpError {
        let (kind, message) = cause(error);
        let Some(proxy) = &self.options.proxy else {
            return HttpError { kind, message };
        };
        let at = proxy.address();
        let (kind, message) = match kind {
            // The peer's own name is resolved by the proxy, and its connection is the proxy's.
            HttpErrorKind::HostNotFound | HttpErrorKind::ConnectionRefused => (
                HttpErrorKind::Proxy(ProxyFault::Unreachable),
                format!("cannot connect to the proxy at {at}: {message}"),
            ),
            HttpErrorKind::Proxy(ProxyFault::Authentication) if proxy.has_login() => (
                kind,
                format!("the proxy at {at} refuses the user and password ({message})"),
            ),
            HttpErrorKind::Proxy(ProxyFault::Authentication) => (
                kind,
                format!("the proxy at {at} requires a user and a password ({message})"),
            ),
            HttpErrorKind::Proxy(_) => (
                kind,
                format!("the proxy at {at} does not connect to this host ({message})"),
            ),
            HttpErrorKind::Timeout
            | HttpErrorKind::Connection
            | HttpErrorKind::Tls
            | HttpErrorKind::AnswerTooLarge
            | HttpErrorKind::Protocol => (kind, format!("{message} (through the proxy at {at})")),
        };
        HttpError { kind, message }
    }
}

#[allow(clippy::wildcard_enum_match_arm)] // ureq's enum is open: what it adds is a protocol fault to us
fn cause(error: &ureq::Error) -> (HttpErrorKind, String) {
    match error {
        ureq::Error::Timeout(Timeout::Connect) => {
            (HttpErrorKind::Timeout, "timed out while connecting".to_owned())
        }
        ureq::Error::Timeout(Timeout::Resolve) => (
            HttpErrorKind::HostNotFound,
            "cannot resolve the host name: no answer in time".to_owned(),
        ),
        ureq::Error::Timeout(_) => (
            HttpErrorKind::Timeout,
            "timed out: no complete answer within the deadline".to_owned(),
        ),
        ureq::Error::BodyExceedsLimit(limit) => (
            HttpErrorKind::AnswerTooLarge,
            format!("the answer is longer than {limit} bytes"),
        ),
        ureq::Error::Rustls(_) | ureq::Error::Tls(_) | ureq::Error::Pem(_) => {
            (HttpErrorKind::Tls, format!("the TLS handshake failed: {error}"))
        }
        ureq::Error::Io(error) => io_cause(error),
        ureq::Error::ConnectProxyFailed(reason) => {
            // The status is only in ureq's text; a test watches it.
            let fault = if reason.contains("407") {
                ProxyFault::Authentication
            } else {
                ProxyFault::Refused
            };
            (HttpErrorKind::Proxy(fault), reason.clone())
        }
        ureq::Error::Other(other) if other.is::<LookupFailed>() => (
            HttpErrorKind::HostNotFound,
            format!("cannot resolve the host name: {other}"),
        ),
        _ => (HttpErrorKind::Protocol, error.to_string()),
    }
}

fn run(
    agent: &Agent,
    request: http::Request<impl ureq::AsSendBody>,
    deadline: Option<Duration>,
) -> Result<http::Response<ureq::Body>, ureq::Error> {
    let Some(deadline) = deadline else {
        return agent.run(request);
    };
    let configured = agent.configure_request(request);
    agent.run(configured.timeout_global(Some(deadline)).build())
}

#[allow(clippy::wildcard_enum_match_arm)] // std's list is open: the rest is described by its own text
fn io_cause(error: &std::io::Error) -> (HttpErrorKind, String) {
    let of_tls = error.get_ref().filter(|inner| inner.is::<rustls::Error>());
    if let Some(error) = of_tls {
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
            format!("the connection was closed before the answer was complete ({error})"),
        ),
        _ => (
            HttpErrorKind::Connection,
            format!("the connection failed: {error}"),
        ),
    }
}

/// The authorities that this machine trusts.
fn system_roots() -> Result<RootCerts, HttpError> {
    let loaded = rustls_native_certs::load_native_certs();
    if loaded.certs.is_empty() {
        let cause = loaded.errors.first().map(|error| format!(" ({error})"));
        return Err(HttpError {
            kind: HttpErrorKind::Tls,
            message: format!(
                "this machine has no trusted root certificates{}; install ca-certificates or name a PEM file in \
                 SSL_CERT_FILE",
                cause.unwrap_or_default()
            ),
        });
    }
    let roots = loaded
        .certs
        .iter()
        .map(|der| Certificate::from_der(der).to_owned());
    Ok(roots.collect::<Vec<_>>().into())
}

#[cfg(test)]
pub mod stub;
#[cfg(test)]
mod tests;
