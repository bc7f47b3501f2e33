//! TCP connections of the HTTP client: ureq's own, with the name lookup inside the time for connecting.
//!
//! ureq resolves the name before each call, on a new thread, even if the call then takes a pooled connection: a DNS server
//! that is down would break connections that work. Here a name is resolved when a connection is made.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ureq::Timeout;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, NextTimeout, TcpConnector, Transport,
};

use super::{CONNECT_TIMEOUT, OUTPUT_BYTES};
use crate::lookup::Lookups;

/// A connection used this recently is assumed to be open. Probing one takes six system calls, three of them while the pool is
/// locked for all threads.
const PROBE_AFTER: Duration = Duration::from_secs(1);
/// Socket timeouts are rounded up to a multiple of this: setting one is a system call, and the time that is left changes with
/// each read and write.
const TIMEOUT_STEP: Duration = Duration::from_millis(250);

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
    type Out = Either<In, Dialed>;

    fn connect(&self, of: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, ureq::Error> {
        if let Some(through_proxy) = chained {
            return Ok(Some(Either::A(through_proxy)));
        }
        let connect_by = Instant::now() + (*of.timeout.after).min(CONNECT_TIMEOUT);
        let host = of.uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let port = of.uri.port_u16().unwrap_or(if of.needs_tls() { 443 } else { 80 });
        let found = self.lookups.addresses(host, port, connect_by);
        let found = found.map_err(|error| ureq::Error::Other(Box::new(error)))?;
        let mut addrs = NoResolver.empty();
        // ureq accepts no more.
        found.into_iter().take(16).for_each(|address| addrs.push(address));
        let details = ConnectionDetails {
            addrs,
            timeout: NextTimeout {
                after: connect_by.saturating_duration_since(Instant::now()).into(),
                ..of.timeout
            },
            now: (of.current_time)(),
            current_time: Arc::clone(&of.current_time),
            run_connector: Arc::clone(&of.run_connector),
            register_shutdown: Arc::clone(&of.register_shutdown),
            ..*of
        };
        let tcp = Connector::<()>::connect(&self.tcp, &details, None)?;
        let connect_by = Some((of.timeout.reason, connect_by));
        let dialed = |tcp| Dialed { tcp, connect_by, unsent: Vec::new(), used_at: Instant::now() };
        Ok(tcp.map(|tcp| Either::B(dialed(tcp))))
    }
}

/// A TCP connection. Until its first call is over, it also bounds waits that began while connecting: ureq starts a new wait for
/// each byte of a proxy's answer.
#[derive(Debug)]
pub(super) struct Dialed {
    tcp: <TcpConnector as Connector>::Out,
    connect_by: Option<(Timeout, Instant)>,
    /// The head of a request waits here for the body: one packet for both.
    unsent: Vec<u8>,
    used_at: Instant,
}

impl Dialed {
    fn send(&mut self, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let unsent = std::mem::take(&mut self.unsent);
        for part in unsent.chunks(OUTPUT_BYTES) {
            self.tcp.buffers().output()[..part.len()].copy_from_slice(part);
            self.tcp.transmit_output(part.len(), stepped(timeout))?;
        }
        self.unsent = unsent;
        self.unsent.clear();
        Ok(())
    }
}

/// Rounds a timeout up to a multiple of [`TIMEOUT_STEP`]. Short ones stay as they are.
fn stepped(mut timeout: NextTimeout) -> NextTimeout {
    let steps = timeout.after.as_millis().div_ceil(TIMEOUT_STEP.as_millis());
    if let 5..=100_000 = steps {
        timeout.after = (TIMEOUT_STEP * u32::try_from(steps).unwrap_or_default()).into();
    }
    timeout
}

impl Transport for Dialed {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.tcp.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.unsent.extend_from_slice(&self.tcp.buffers().output()[..amount]);
        if self.unsent.len() < OUTPUT_BYTES { Ok(()) } else { self.send(timeout) }
    }

    fn await_input(&mut self, mut timeout: NextTimeout) -> Result<bool, ureq::Error> {
        if let Some((reason, connect_by)) = self.connect_by
            && reason == timeout.reason
        {
            timeout.after = connect_by.saturating_duration_since(Instant::now()).min(*timeout.after).into();
        }
        self.send(timeout)?;
        let result = self.tcp.await_input(stepped(timeout));
        self.used_at = Instant::now();
        result
    }

    fn is_open(&mut self) -> bool {
        // It goes to the pool, or comes from there: the next call has another deadline.
        self.connect_by = None;
        self.unsent.is_empty() && (self.used_at.elapsed() < PROBE_AFTER || self.tcp.is_open())
    }
}

#[cfg(test)]
mod tests {
    use ureq::Agent;

    use super::*;
    use crate::http_client::stub::{Reply, Stub};

    fn agent(lookups: Lookups, deadline: Duration) -> Agent {
        let config = Agent::config_builder().timeout_global(Some(deadline)).proxy(None);
        let tcp = TcpConnector::default();
        Agent::with_parts(config.build(), Dial { lookups, tcp }, NoResolver)
    }

    #[test]
    fn a_lookup_that_does_not_end_costs_the_deadline_and_no_more() {
        let (_never, ends) = crossbeam_channel::bounded::<()>(0);
        let lookups = Lookups::by(move |_| {
            let _ = ends.recv();
            Ok(Vec::new())
        });
        let began = Instant::now();
        let error = agent(lookups, Duration::from_millis(100)).get("http://db.test").call().unwrap_err();
        assert!(error.to_string().contains("no answer in time"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(5), "took {:?}", began.elapsed());
    }

    #[test]
    fn a_name_that_is_no_longer_resolved_does_not_end_a_connection() {
        let stub = Stub::start([Stub::ok("one"), Stub::ok("two"), Reply::Silence]);
        let first = std::sync::atomic::AtomicBool::new(true);
        let lookups = Lookups::by(move |_| {
            let is_first = first.swap(false, std::sync::atomic::Ordering::SeqCst);
            if is_first { Ok(vec![[127, 0, 0, 1].into()]) } else { Err(std::io::Error::other("down")) }
        });
        let agent = agent(lookups, Duration::from_secs(10));
        let url = format!("http://db.test:{}", stub.url.port().unwrap());
        for body in ["one", "two"] {
            let mut response = agent.get(&url).call().unwrap();
            assert_eq!(response.body_mut().read_to_string().unwrap(), body);
        }
    }
}
