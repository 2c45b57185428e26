//! Which ports of the loopback address the demonstration takes.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

/// Where the relay listens, if that port is free.
pub(super) const RELAY_PORT: u16 = 8080;
/// Where the status page is, if that port is free.
pub(super) const PAGE_PORT: u16 = 9090;
/// The first port that is tried for everything behind it. Below the ports that systems give to outgoing
/// connections, so that none of those can take the port of an upstream that is dead for a while.
pub(super) const FIRST_PORT: u16 = 8081;
/// How many ports are tried before any will do.
const PORTS_TRIED: u16 = 200;

/// What `start` makes of the first port from `first` on that is not in use.
pub(super) fn free_port<T>(first: u16, start: impl Fn(u16) -> io::Result<T>) -> io::Result<T> {
    for port in first..first.saturating_add(PORTS_TRIED) {
        match start(port) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            result => return result,
        }
    }
    start(0)
}

/// A port of the loopback address.
pub(super) fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_port_in_use_is_passed_over() {
        let first = TcpListener::bind(loopback(0)).unwrap();
        let taken = first.local_addr().unwrap().port();
        let next = free_port(taken, |port| TcpListener::bind(loopback(port))).unwrap();
        assert_ne!(next.local_addr().unwrap().port(), taken);
    }

    #[test]
    fn other_failures_to_start_are_told() {
        let failed = free_port(1, |_| Err::<(), _>(io::ErrorKind::PermissionDenied.into()));
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}
