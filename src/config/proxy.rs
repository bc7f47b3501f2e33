//! The proxy for https calls: `HTTPS_PROXY`, and `NO_PROXY` for the hosts that are called without it.
//!
//! The list is read as Go, curl and Python read it, as far as they agree. A name stands for itself and everything
//! below it. Names are not resolved, so an address or a range of addresses (CIDR) matches only a URL that holds
//! an address. User and password of the proxy are a secret: nothing here shows them.

use std::net::IpAddr;

use percent_encoding::percent_decode_str;
use url::{Host, Url};

use super::Secret;
use super::settings::Settings;
use super::values::{Findings, raw};

/// A CONNECT proxy, and who is called without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Scheme (http: plain to the proxy; https: TLS to it), host and port. Never user or password.
    pub address: Url,
    /// `user:password`, decoded, for `Proxy-Authorization: Basic`.
    pub login: Option<Secret>,
    /// `NO_PROXY`.
    pub no_proxy: NoProxy,
}

/// Who is called without the proxy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NoProxy(Vec<Exception>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Exception {
    hosts: Hosts,
    /// Any, if none.
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    All,
    /// This name, and every one below it.
    Below(String),
    /// Addresses that share the first `bits` with this one.
    Range(IpAddr, u32),
}

impl Proxy {
    /// True if calls to this URL go through the proxy: https ones that no exception names.
    pub fn is_for(&self, url: &Url) -> bool {
        url.scheme() == "https" && !self.no_proxy.names(url)
    }

    /// Where the proxy is, for logs and errors: scheme, host and port.
    pub fn shown(&self) -> String {
        let port = self.port();
        let host = self.address.host_str().unwrap_or_default();
        format!("{}://{host}:{port}", self.address.scheme())
    }

    /// Its port; a proxy's default ones are those of its scheme.
    pub fn port(&self) -> u16 {
        self.address.port_or_known_default().unwrap_or_default()
    }
}

impl NoProxy {
    fn names(&self, url: &Url) -> bool {
        let port = url.port_or_known_default();
        let Some(host) = url.host() else { return false };
        self.0.iter().any(|exception| {
            exception.port.is_none_or(|wanted| port == Some(wanted)) && exception.hosts.hold(&host)
        })
    }
}

impl Hosts {
    fn hold(&self, host: &Host<&str>) -> bool {
        match (self, host) {
            (Self::All, _) => true,
            (Self::Below(name), Host::Domain(host)) => {
                let host = host.trim_end_matches('.').to_ascii_lowercase();
                host.strip_suffix(name.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
            (Self::Range(first, bits), Host::Ipv4(address)) => shares(*first, IpAddr::V4(*address), *bits),
            (Self::Range(first, bits), Host::Ipv6(address)) => shares(*first, IpAddr::V6(*address), *bits),
            (Self::Below(_), Host::Ipv4(_) | Host::Ipv6(_)) | (Self::Range(..), Host::Domain(_)) => false,
        }
    }
}

/// True if both addresses are of one family and begin with the same bits.
fn shares(first: IpAddr, second: IpAddr, bits: u32) -> bool {
    match (first, second) {
        (IpAddr::V4(first), IpAddr::V4(second)) => {
            let differing = u32::from(first) ^ u32::from(second);
            differing.leading_zeros() >= bits
        }
        (IpAddr::V6(first), IpAddr::V6(second)) => {
            let differing = u128::from(first) ^ u128::from(second);
            differing.leading_zeros() >= bits
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

/// The proxy, if one is set. None after a fault, too.
pub(super) fn proxy(settings: &Settings, findings: &mut Findings) -> Option<Proxy> {
    let no_proxy = no_proxy(settings, findings);
    let raw = raw!(settings, proxy.https_proxy);
    let value = raw.value?;
    match parse(value) {
        Ok((address, login)) => Some(Proxy {
            address,
            login,
            no_proxy,
        }),
        Err(fault) => {
            findings.fault(raw, fault);
            None
        }
    }
}

/// Address and login of a proxy URL. No fault shows the value: it may hold a password, encoded well or not.
fn parse(value: &str) -> Result<(Url, Option<Secret>), String> {
    const REMEDY: &str = "set http://host:port or http://user:password@host:port, with special characters of user and \
                          password percent-encoded";
    // curl and the SDKs take an address without a scheme for a plain one.
    let text = if value.contains("://") {
        value.to_owned()
    } else {
        format!("http://{value}")
    };
    let url = Url::parse(&text).map_err(|error| format!("is not a URL ({error}); {REMEDY}"))?;
    match url.scheme() {
        "http" | "https" => {}
        scheme if scheme.starts_with("socks") => {
            return Err("SOCKS proxies are not supported; set an HTTP proxy, http://host:port".to_owned());
        }
        _ => return Err(format!("is not the URL of an HTTP proxy; {REMEDY}")),
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        // An unencoded / or ? or # of a password ends the host, too.
        return Err(format!("holds more than host and port; {REMEDY}"));
    }
    let login = if url.username().is_empty() && url.password().is_none() {
        None
    } else {
        let decoded = |text: &str| {
            percent_decode_str(text)
                .decode_utf8()
                .map(std::borrow::Cow::into_owned)
                .map_err(|_| "holds a percent-encoded part that is not UTF-8; encode it as UTF-8".to_owned())
        };
        let (user, password) = (
            decoded(url.username())?,
            decoded(url.password().unwrap_or_default())?,
        );
        if user.contains(':') {
            return Err(
                "the user holds a colon, which the sign-in of proxies cannot carry; use another user"
                    .to_owned(),
            );
        }
        Some(Secret::inline(format!("{user}:{password}")))
    };
    let mut address = url;
    // Neither fails for a URL with a host, and http and https have one.
    let _ = address.set_username("");
    let _ = address.set_password(None);
    Ok((address, login))
}

fn no_proxy(settings: &Settings, findings: &mut Findings) -> NoProxy {
    let raw = raw!(settings, proxy.no_proxy);
    let mut exceptions = Vec::new();
    for entry in raw
        .value
        .unwrap_or_default()
        .split([',', ' ', '\t'])
        .filter(|entry| !entry.is_empty())
    {
        match exception(entry) {
            Some(exception) => exceptions.push(exception),
            None => findings.fault(
                raw,
                format!(
                    "{} is no host; set names (example.com), addresses, ranges (10.0.0.0/8) or *, with commas in between",
                    super::values::shown(entry)
                ),
            ),
        }
    }
    NoProxy(exceptions)
}

fn exception(entry: &str) -> Option<Exception> {
    if entry == "*" {
        return Some(Exception {
            hosts: Hosts::All,
            port: None,
        });
    }
    if let Some((address, bits)) = entry.split_once('/') {
        let address = address.parse::<IpAddr>().ok()?;
        let bits = bits.parse().ok().filter(|bits| *bits <= width(address))?;
        let hosts = Hosts::Range(address, bits);
        return Some(Exception { hosts, port: None });
    }
    if let Some(address) = address(entry) {
        let hosts = Hosts::Range(address, width(address));
        return Some(Exception { hosts, port: None });
    }
    let (host, port) = match entry.rsplit_once(':') {
        Some((host, port)) => (host, Some(port.parse().ok()?)),
        None => (entry, None),
    };
    let hosts = if let Some(address) = address(host) {
        Hosts::Range(address, width(address))
    } else {
        let name = host.strip_prefix('*').unwrap_or(host);
        let name = name.strip_prefix('.').unwrap_or(name).trim_end_matches('.');
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        if name.is_empty() || !name.chars().all(plain) {
            return None;
        }
        Hosts::Below(name.to_ascii_lowercase())
    };
    Some(Exception { hosts, port })
}

/// An address, an IPv6 one with brackets or without.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(text);
    bare.parse().ok()
}

fn width(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(_) => u32::BITS,
        IpAddr::V6(_) => u128::BITS,
    }
}
