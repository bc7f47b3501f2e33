//! `HTTPS_PROXY`, and `NO_PROXY` for the hosts that are called without it.
//!
//! Both are set for every program on a machine, so what is not understood is skipped with a notice. `NO_PROXY` is read as
//! curl, Go and Python do: a name stands for itself and all below it. ureq knows neither that nor ranges.

use std::net::IpAddr;

use ipnet::IpNet;
use url::Url;

use super::table;
use super::values::{Validator, shown};

/// A CONNECT proxy for https, and the hosts that are called without it. Its user and password are never shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    proxy: ureq::Proxy,
    /// Entries of `NO_PROXY`.
    no_proxy: Vec<String>,
}

impl Proxy {
    /// Parses the URL of a proxy; `host:port` means http. None if it is not that of an HTTP proxy.
    pub fn parse(url: &str) -> Option<Self> {
        let text = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        // A / or ? of a password that is not encoded ends the host.
        let is_address =
            |url: &Url| url.path().len() <= 1 && url.query().is_none() && url.fragment().is_none();
        Url::parse(&text).ok().filter(|url| url.has_host() && is_address(url))?;
        let proxy = ureq::Proxy::new(&text).ok()?;
        let is_http = matches!(proxy.protocol(), ureq::ProxyProtocol::Http | ureq::ProxyProtocol::Https);
        is_http.then(|| Self { proxy, no_proxy: Vec::new() })
    }

    /// True if calls to this URL go through the proxy.
    pub fn is_for(&self, url: &Url) -> bool {
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']', '.']);
        let port = url.port_or_known_default();
        let is_direct = |entry: &String| names(entry, host, port) == Some(true);
        url.scheme() == "https" && !self.no_proxy.iter().any(is_direct)
    }

    /// Scheme, host and port, for logs and errors.
    pub fn address(&self) -> String {
        let scheme = self.proxy.uri().scheme_str().unwrap_or_default();
        format!("{scheme}://{}:{}", self.proxy.host(), self.proxy.port())
    }

    pub fn of_ureq(&self) -> ureq::Proxy {
        self.proxy.clone()
    }
}

/// The proxy, if there is a usable one.
pub(super) fn proxy(validator: &mut Validator<'_>) -> Option<Proxy> {
    let Some(mut proxy) = Proxy::parse(validator.value(table::HTTPS_PROXY)?) else {
        let remedy = "set http://host:port or http://user:password@host:port, with special characters of user and password \
                      percent-encoded; SOCKS is not supported";
        let what = format!("has no effect, https calls are made directly: {remedy}");
        validator.notice(table::HTTPS_PROXY, what);
        return None;
    };
    let entries = validator.value(table::NO_PROXY).unwrap_or_default().split([',', ' ', '\t']);
    let entries = entries.filter(|entry| !entry.is_empty());
    let (known, unknown): (Vec<_>, Vec<_>) = entries.partition(|entry| names(entry, "", None).is_some());
    proxy.no_proxy = known.into_iter().map(str::to_owned).collect();
    if !unknown.is_empty() {
        // One notice, however many there are: the log limits what repeats, and would drop the notices behind them.
        let what = format!("{} is skipped", shown(&unknown.join(", ")));
        let remedy = "set names (example.com), addresses, ranges (10.0.0.0/8) or *, with commas in between";
        validator.notice(table::NO_PROXY, format!("{what}; {remedy}"));
    }
    Some(proxy)
}

/// Whether an entry of `NO_PROXY` names this peer. None if it is not understood. Names are not resolved, so a range matches
/// only a host that is an address.
fn names(entry: &str, host: &str, port: Option<u16>) -> Option<bool> {
    if entry == "*" {
        return Some(true);
    }
    let bare = entry.trim_matches(['[', ']']);
    let network = entry.parse().or_else(|_| bare.parse::<IpAddr>().map(IpNet::from));
    let address = host.parse::<IpAddr>();
    if let Ok(network) = network {
        return Some(address.is_ok_and(|address| network.contains(&address)));
    }
    if let Some((entry, of_entry)) = entry.rsplit_once(':') {
        let of_entry: u16 = of_entry.parse().ok()?;
        return Some(names(entry, host, port)? && port == Some(of_entry));
    }
    let name = entry.trim_start_matches(['*', '.']).trim_end_matches('.').to_ascii_lowercase();
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    let rest = host.strip_suffix(&name);
    let is_below = rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    let is_named = is_below && address.is_err(); // 2.3 is no domain of 10.1.2.3
    (!name.is_empty() && name.chars().all(is_name)).then_some(is_named)
}
