//! TCP connections of the HTTP client: ureq's own, with the name lookup inside the time for connecting.
//!
//! ureq resolves the name before each call, on a thread of its own, even if the call then takes a pooled connection: a DNS
//! server that is down would break connections that work. Here a name is resolved when a connection is made.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ureq::Timeout;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, NextTimeout, TcpConnector, Transport,
};

use crate::lookup::{LookupError, Lookups};

/// For a call without a deadline, which there is none of.
const CONNECT_TIMEOUT_MAX: Duration = Duration::from_mins(1);
/// ureq takes so many.
const ADDRESSES_MAX: usize = 16;

/// The system resolver's error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct LookupFailed(String);

/// Leaves the lookup to [`Dial`].
#[derive(Debug)]
pub(super) struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        Ok(self.empty())
    }
}

/// Resolves the host and connects to it, if there is no connection (through a proxy) already.
#[derive(Debug, Default)]
pub(super) struct Dial {
    lookups: Lookups,
    tcp: TcpConnector,
}

impl<In: Transport> Connector<In> for Dial {
    type Out = Either<In, Dialed<<TcpConnector as Connector<()>>::Out>>;

    fn connect(
        &self,
        details: &ConnectionDetails,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        if let Some(through_proxy) = chained {
            return Ok(Some(Either::A(through_proxy)));
        }
        let connect_by = Instant::now() + (*details.timeout.after).min(CONNECT_TIMEOUT_MAX);
        let addrs = self.resolve(details.uri, connect_by)?;
        let left = connect_by.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ureq::Error::Timeout(Timeout::Connect));
        }
        let details = ConnectionDetails {
            uri: details.uri,
            addrs,
            config: details.config,
            request_level: details.request_level,
            resolver: details.resolver,
            now: (details.current_time)(),
            timeout: NextTimeout {
                after: left.into(),
                ..details.timeout
            },
            current_time: Arc::clone(&details.current_time),
            run_connector: Arc::clone(&details.run_connector),
            register_shutdown: Arc::clone(&details.register_shutdown),
        };
        let tcp = Connector::<()>::connect(&self.tcp, &details, None)?;
        Ok(tcp.map(|tcp| {
            Either::B(Dialed {
                tcp,
                connect_by: Some((details.timeout.reason, connect_by)),
            })
        }))
    }
}

impl Dial {
    fn resolve(&self, uri: &Uri, deadline: Instant) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let default_port = if uri.scheme_str() == Some("https") {
            443
        } else {
            80
        };
        let port = uri.port_u16().unwrap_or(default_port);
        let found = self.lookups.addresses(host, port, deadline);
        let found = found.map_err(|error| match error {
            LookupError::NotInTime => ureq::Error::Timeout(Timeout::Resolve),
            LookupError::Failed(error) => ureq::Error::Other(Box::new(LookupFailed(error.to_string()))),
        })?;
        let mut addresses = NoResolver.empty();
        found
            .into_iter()
            .take(ADDRESSES_MAX)
            .for_each(|address| addresses.push(address));
        Ok(addresses)
    }
}

/// A TCP connection. Until its first call is over, it also ends waits that began while connecting: ureq waits anew for each
/// byte of a proxy's answer.
#[derive(Debug)]
pub(super) struct Dialed<T> {
    tcp: T,
    connect_by: Option<(Timeout, Instant)>,
}

impl<T: Transport> Transport for Dialed<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.tcp.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.tcp.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, mut timeout: NextTimeout) -> Result<bool, ureq::Error> {
        if let Some((reason, connect_by)) = self.connect_by
            && reason == timeout.reason
        {
            let left = connect_by.saturating_duration_since(Instant::now());
            timeout.after = left.min(*timeout.after).into();
        }
        self.tcp.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        // It goes to the pool, or comes from there: the next call has another deadline.
        self.connect_by = None;
        self.tcp.is_open()
    }
}
