//! The listening socket: all addresses, IPv4 and IPv6, with deadlines that every accepted connection inherits.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Listens on `port` (0: any free one) of `[::]`, which takes IPv4 too, or of 0.0.0.0 where that is not to be
/// had (no IPv6, or `net.ipv6.bindv6only`).
pub(super) fn bind(port: u16) -> io::Result<TcpListener> {
    if let Ok(v6) = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)) {
        let bound = v6.local_addr()?.port();
        // A socket that takes IPv4 too refuses a second one on the port. If there is none, it is IPv6 only, and
        // IPv4 is what probes use.
        return Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, bound)).unwrap_or(v6));
    }
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
}

/// Bounds each wait for a client: `read` for its next byte, `write` for room in its window.
///
/// `tiny_http` sets no deadline and hands out no socket to set one on. But Linux gives an accepted socket the
/// deadlines of the one that listens, and std sets them on any socket that it takes for a stream. The catch:
/// accepting now ends with an error too when nobody has connected for `read`; the server sees to that.
pub(super) fn with_deadlines(
    listener: TcpListener,
    read: Duration,
    write: Duration,
) -> io::Result<TcpListener> {
    let socket = TcpStream::from(OwnedFd::from(listener));
    socket.set_read_timeout(Some(read))?;
    socket.set_write_timeout(Some(write))?;
    Ok(TcpListener::from(OwnedFd::from(socket)))
}

/// Where this host reaches its own listener.
pub(super) fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_can_be_reached_by_ipv4_and_where_the_host_has_it_by_ipv6() {
        let listener = bind(0).unwrap();
        let address = listener.local_addr().unwrap();
        TcpStream::connect(loopback(address.port())).expect("by IPv4");
        if address.is_ipv6() {
            TcpStream::connect((Ipv6Addr::LOCALHOST, address.port())).expect("by IPv6");
        }
    }

    #[test]
    fn an_accepted_connection_has_the_deadlines_of_the_listener() {
        let (read, write) = (Duration::from_secs(7), Duration::from_secs(3));
        let listener = with_deadlines(bind(0).unwrap(), read, write).unwrap();
        let _client = TcpStream::connect(loopback(listener.local_addr().unwrap().port())).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(accepted.read_timeout().unwrap(), Some(read));
        assert_eq!(accepted.write_timeout().unwrap(), Some(write));
    }
}
