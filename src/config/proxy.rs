//! `HTTPS_PROXY`, and `NO_PROXY` for the hosts that are called without it.
//!
//! Both are set for every program on a machine, so what is not understood is skipped with a notice. `NO_PROXY` is read as
//! curl, Go and Python do: a name stands for itself and all below it. Names are not resolved, so a range matches only
//! a URL that contains an address.

use std::net::IpAddr;

use ipnet::IpNet;
use url::{Host, Url};

use super::settings::Settings;
use super::values::{Findings, raw, shown};

/// A CONNECT proxy for https, and the hosts that are called without it. Nothing shows its user and password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    proxy: ureq::Proxy,
    no_proxy: Vec<Exception>,
}

/// Hosts of `NO_PROXY`, and the port if it names one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Exception(Hosts, Option<u16>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    All,
    /// This name, and every one below it.
    Below(String),
    Network(IpNet),
}

impl Proxy {
    /// A proxy by its URL, `host:port` being an http one. The error is cause and remedy.
    pub fn parse(url: &str) -> Result<Self, &'static str> {
        const REMEDY: &str = "set http://host:port or http://user:password@host:port, with special characters of user and \
                              password percent-encoded";
        let text = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        // A / or ? of a password that is not encoded ends the host.
        let is_address =
            |url: &Url| url.path().len() <= 1 && url.query().is_none() && url.fragment().is_none();
        if !Url::parse(&text).is_ok_and(|url| url.has_host() && is_address(&url)) {
            return Err(REMEDY);
        }
        let proxy = ureq::Proxy::new(&text).map_err(|_| REMEDY)?;
        if !matches!(proxy.protocol(), ureq::ProxyProtocol::Http | ureq::ProxyProtocol::Https) {
            return Err("SOCKS proxies are not supported; set an HTTP proxy, http://host:port");
        }
        let no_proxy = Vec::new();
        Ok(Self { proxy, no_proxy })
    }

    /// True if calls to this URL go through the proxy.
    pub fn is_for(&self, url: &Url) -> bool {
        url.scheme() == "https" && !self.no_proxy.iter().any(|exception| exception.matches(url))
    }

    /// Scheme, host and port, for logs and errors.
    pub fn address(&self) -> String {
        let scheme = self.proxy.uri().scheme_str().unwrap_or_default();
        format!("{scheme}://{}:{}", self.proxy.host(), self.proxy.port())
    }

    /// As the HTTP client takes it.
    pub fn of_ureq(&self) -> ureq::Proxy {
        self.proxy.clone()
    }
}

/// Entries of `NO_PROXY` that a notice names.
const SHOWN_MAX: usize = 5;

/// The proxy, if there is a usable one.
pub(super) fn proxy(settings: &Settings, findings: &mut Findings) -> Option<Proxy> {
    let raw = raw!(settings, proxy.https_proxy);
    let mut proxy = match Proxy::parse(raw.value?) {
        Ok(proxy) => proxy,
        Err(why) => {
            findings.notice(raw, format!("has no effect, https calls are made directly: {why}"));
            return None;
        }
    };
    let raw = raw!(settings, proxy.no_proxy);
    let entries = raw.value.unwrap_or_default().split([',', ' ', '\t']);
    let mut skipped = Vec::new();
    for entry in entries.filter(|entry| !entry.is_empty()) {
        match Exception::parse(entry) {
            Some(exception) => proxy.no_proxy.push(exception),
            None => skipped.push(shown(entry)),
        }
    }
    if !skipped.is_empty() {
        // One notice, however many there are: the log limits what repeats, and would drop the notices behind them.
        let rest = match skipped.len().saturating_sub(SHOWN_MAX) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let verb = if skipped.len() == 1 { "is" } else { "are" };
        skipped.truncate(SHOWN_MAX);
        let remedy = "set names (example.com), addresses, ranges (10.0.0.0/8) or *, with commas in between";
        findings.notice(raw, format!("{}{rest} {verb} skipped; {remedy}", skipped.join(", ")));
    }
    Some(proxy)
}

impl Exception {
    fn parse(entry: &str) -> Option<Self> {
        if let Some(hosts) = Hosts::parse(entry) {
            return Some(Self(hosts, None));
        }
        let (host, port) = entry.rsplit_once(':')?;
        Some(Self(Hosts::parse(host)?, Some(port.parse().ok()?)))
    }

    fn matches(&self, url: &Url) -> bool {
        let Self(hosts, port) = self;
        if port.is_some() && *port != url.port_or_known_default() {
            return false;
        }
        match (hosts, url.host()) {
            (Hosts::All, _) => true,
            (Hosts::Below(name), Some(Host::Domain(host))) => {
                let rest = host.trim_end_matches('.').strip_suffix(name.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
            (Hosts::Network(network), Some(Host::Ipv4(address))) => network.contains(&IpAddr::V4(address)),
            (Hosts::Network(network), Some(Host::Ipv6(address))) => network.contains(&IpAddr::V6(address)),
            _ => false,
        }
    }
}

impl Hosts {
    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::All);
        }
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        let network = text.parse().or_else(|_| bare.parse::<IpAddr>().map(IpNet::from));
        if let Ok(network) = network {
            return Some(Self::Network(network));
        }
        let name = text.trim_start_matches('*').trim_start_matches('.').trim_end_matches('.');
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        (!name.is_empty() && name.chars().all(is_name)).then(|| Self::Below(name.to_ascii_lowercase()))
    }
}
