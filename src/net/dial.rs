//! An authority to a connected socket, within a deadline.
//!
//! All addresses of a name are tried in the system's order, each with its share of the time that is
//! left. A guard sees every address before it is connected to, and the address it allowed is the one
//! connected to: a name that resolves differently a moment later (DNS rebinding) gains nothing.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::protocol::answer::HopFailure;
use crate::protocol::target::{Authority, Host};

use super::conn::Conn;
use super::resolve::{ResolveError, Resolver};
use super::socket::{self, TICK};

/// The least time one of several addresses is given.
const LEAST_SHARE: Duration = Duration::from_millis(250);

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialError {
    /// None of the addresses may be connected to.
    Forbidden,
    /// What failed.
    Failed(HopFailure),
}

impl From<HopFailure> for DialError {
    fn from(failure: HopFailure) -> Self {
        Self::Failed(failure)
    }
}

/// Connects to `authority`, trying only addresses that `allows` lets pass.
///
/// # Errors
/// What failed at the last address tried.
pub fn dial(
    authority: &Authority,
    resolver: &Resolver,
    deadline: Instant,
    allows: &dyn Fn(IpAddr) -> bool,
) -> Result<Conn, DialError> {
    let mut error = DialError::Forbidden;
    let addresses = addresses(authority.host(), resolver, deadline)?;
    let allowed: Vec<IpAddr> = addresses.into_iter().filter(|ip| allows(*ip)).collect();
    for (index, address) in allowed.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let others = u32::try_from(allowed.len() - index).unwrap_or(u32::MAX);
        let share = (left / others).max(LEAST_SHARE).min(left);
        if share.is_zero() {
            return Err(DialError::Failed(HopFailure::ConnectTimeout));
        }
        match connect(SocketAddr::new(*address, authority.port()), share) {
            Ok(conn) => return Ok(conn),
            Err(said) => error = DialError::Failed(failed(&said)),
        }
    }
    Err(error)
}

/// The addresses of `host`, without asking anybody where it is one.
///
/// # Errors
/// When there is none, or none in time.
pub fn addresses(
    host: &Host,
    resolver: &Resolver,
    deadline: Instant,
) -> Result<Vec<IpAddr>, HopFailure> {
    match host {
        Host::V4(address) => Ok(vec![IpAddr::V4(*address)]),
        Host::V6(address) => Ok(vec![IpAddr::V6(*address)]),
        Host::Name(name) => match resolver.addresses(name, deadline) {
            Ok(addresses) => Ok(addresses.to_vec()),
            Err(ResolveError::NoAddress) => Err(HopFailure::DnsError),
            Err(ResolveError::TimedOut) => Err(HopFailure::DnsTimeout),
        },
    }
}

fn connect(address: SocketAddr, limit: Duration) -> io::Result<Conn> {
    let stream = TcpStream::connect_timeout(&address, limit)?;
    if stream.local_addr()? == address {
        // Linux lets a socket connect to itself when the port it was given is the one it asked for.
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    socket::prepare(&stream)?;
    Conn::new(stream, TICK)
}

fn failed(error: &io::Error) -> HopFailure {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, TimedOut, WouldBlock};
    let kind = error.kind();
    if is_exhaustion(error) {
        HopFailure::LocalExhaustion
    } else if matches!(kind, TimedOut | WouldBlock) {
        HopFailure::ConnectTimeout
    } else if matches!(kind, ConnectionRefused | ConnectionReset) {
        HopFailure::ConnectRefused
    } else {
        HopFailure::ConnectUnreachable
    }
}

/// Whether it is this process (or machine) that has nothing left: the next hop is not to blame.
pub(crate) fn is_exhaustion(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOBUFS,
        Errno::NOMEM,
        Errno::ADDRNOTAVAIL,
        Errno::AGAIN,
    ]
    .iter()
    .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn deadline() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    fn authority(text: &str) -> Authority {
        Authority::from_connect(text.as_bytes()).unwrap()
    }

    #[test]
    fn every_address_of_a_name_is_tried() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        // Nothing listens on that port of the first address.
        let resolver = Resolver::asking(|_| Ok(vec![[127, 0, 0, 9].into(), [127, 0, 0, 1].into()]));
        let conn = dial(
            &authority(&format!("two.test:{port}")),
            &resolver,
            deadline(),
            &|_| true,
        )
        .unwrap();
        assert_eq!(
            conn.stream().peer_addr().unwrap(),
            listener.local_addr().unwrap()
        );
    }

    #[test]
    fn an_address_the_guard_refuses_is_never_connected_to() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let target = authority(&listener.local_addr().unwrap().to_string());
        let refused = dial(&target, &Resolver::default(), deadline(), &|_| false);
        assert!(matches!(refused, Err(DialError::Forbidden)));
        listener.set_nonblocking(true).unwrap();
        assert_eq!(
            listener.accept().unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
    }

    #[test]
    fn a_port_on_which_nobody_listens_refuses() {
        let reserved = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let target = authority(&reserved.local_addr().unwrap().to_string());
        drop(reserved);
        let refused = dial(&target, &Resolver::default(), deadline(), &|_| true);
        assert!(
            matches!(refused, Err(DialError::Failed(HopFailure::ConnectRefused))),
            "{refused:?}"
        );
    }
}
