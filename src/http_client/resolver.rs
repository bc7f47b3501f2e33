//! Name look-ups that are kept for a few seconds.
//!
//! ureq resolves the host before every call, also when it then takes a kept connection, and does so on a thread
//! of its own each time, whose answer is lost if it comes late. With a short memory a busy queue costs one look-up
//! every few seconds, and an address given as a number costs none. The memory is short enough that a moved endpoint is
//! found at the next try.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ureq::Timeout;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use crate::lookup::{LookupError, Lookups};

/// AWS's endpoints carry a time to live of 60 s and less; this stays well below.
const KEPT: Duration = Duration::from_secs(5);
/// For a call without a deadline, which there is none of.
const LONGEST: Duration = Duration::from_mins(1);
/// ureq takes so many.
const ADDRESSES_MAX: usize = 16;

/// The resolver's own words, told apart from faults of the connection itself.
#[derive(Debug)]
pub struct LookupFailed(String);

impl fmt::Display for LookupFailed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for LookupFailed {}

/// Resolves by the system, with a short memory of successes. Failures are not kept.
#[derive(Default)]
pub struct CachedResolver {
    /// Resolved in place of every peer: connections lead there.
    proxy: Option<Uri>,
    lookups: Lookups,
    kept: Mutex<HashMap<String, (Instant, ResolvedSocketAddrs)>>,
}

impl CachedResolver {
    /// Hands out the addresses of this proxy, if there is one, whatever is asked for.
    pub fn new(proxy: Option<Uri>) -> Self {
        Self {
            proxy,
            ..Self::default()
        }
    }
}

impl Resolver for CachedResolver {
    fn resolve(
        &self,
        uri: &Uri,
        _: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let uri = self.proxy.as_ref().unwrap_or(uri);
        let peer = uri
            .scheme()
            .zip(uri.authority())
            .and_then(|(scheme, authority)| DefaultResolver::host_and_port(scheme, authority))
            .unwrap_or_default();
        if let Ok(address) = peer.parse::<SocketAddr>() {
            let mut addresses = self.empty();
            addresses.push(address);
            return Ok(addresses);
        }
        if let Some((at, addresses)) = self
            .kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&peer)
            && at.elapsed() < KEPT
        {
            return Ok(addresses.clone());
        }
        let (host, port) = peer
            .rsplit_once(':')
            .and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)))
            .ok_or_else(|| ureq::Error::BadUri(uri.to_string()))?;
        let now = Instant::now();
        let deadline = now.checked_add(*timeout.after).unwrap_or(now + LONGEST);
        let found = self.lookups.addresses(host, port, deadline);
        let found = found.map_err(|error| match error {
            LookupError::NotInTime => ureq::Error::Timeout(Timeout::Resolve),
            LookupError::Failed(error) => ureq::Error::Other(Box::new(LookupFailed(error.to_string()))),
        })?;
        let mut addresses = self.empty();
        for address in found.into_iter().take(ADDRESSES_MAX) {
            addresses.push(address);
        }
        self.kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(peer, (Instant::now(), addresses.clone()));
        Ok(addresses)
    }
}

impl fmt::Debug for CachedResolver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("CachedResolver")
    }
}
