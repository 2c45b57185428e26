//! An authority to a connected socket, within a deadline.
//!
//! All addresses of a name are tried, in the system's order but with the families taking turns, and
//! each but the first 250 ms after the one before it, or as soon as that one failed (RFC 8305 §4, §5): the
//! first that answers is taken. A guard sees every address before it is connected to, and the address it allowed is the one
//! connected to: a name that resolves differently a moment later (DNS rebinding) gains nothing.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::protocol::answer::HopFailure;
use crate::protocol::target::{Authority, Host};

use super::conn::Conn;
use super::resolve::{ResolveError, Resolver};
use super::socket::{self, Connected, TICK, Want};

/// How long an attempt is waited for before the next address is tried beside it (RFC 8305 §5).
const STAGGER: Duration = Duration::from_millis(250);
/// How long an attempt is waited for while others are on their way.
const AT_ONCE: Duration = Duration::from_millis(1);

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
    let addresses = addresses(authority.host(), resolver, deadline)?;
    let allowed: Vec<IpAddr> = addresses.into_iter().filter(|ip| allows(*ip)).collect();
    if allowed.is_empty() {
        return Err(DialError::Forbidden);
    }
    let mut race = Race {
        waiting: taking_turns(allowed).into(),
        port: authority.port(),
        running: Vec::new(),
        error: HopFailure::ConnectTimeout,
    };
    race.run(deadline).map_err(DialError::Failed)
}

/// The same addresses, but the families take turns for as long as there are any of both.
fn taking_turns(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let first_is_v6 = addresses.first().is_some_and(IpAddr::is_ipv6);
    let (preferred, others): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == first_is_v6);
    let mut turns = Vec::with_capacity(preferred.len() + others.len());
    let mut others = others.into_iter();
    for address in preferred {
        turns.push(address);
        turns.extend(others.next());
    }
    turns.extend(others);
    turns
}

/// An attempt: its socket, where it leads, and the time limit the socket has.
type Begun = (TcpStream, SocketAddr, Duration);

/// Attempts to connect, some of them on their way.
struct Race {
    waiting: VecDeque<IpAddr>,
    port: u16,
    running: Vec<Begun>,
    /// What failed last.
    error: HopFailure,
}

impl Race {
    fn run(&mut self, deadline: Instant) -> Result<Conn, HopFailure> {
        let mut next_at = Instant::now();
        loop {
            let now = Instant::now();
            if now >= deadline {
                // What was made while the whole process stood still is there all the same.
                let made = self.wait(Duration::ZERO).map_err(|error| failed(&error))?;
                let begun = made.ok_or(HopFailure::ConnectTimeout)?;
                return ready(begun).map_err(|error| failed(&error));
            }
            if (self.running.is_empty() || now >= next_at)
                && let Some(address) = self.waiting.pop_front()
            {
                next_at = now + STAGGER;
                let address = SocketAddr::new(address, self.port);
                match self.begin(address, deadline - now) {
                    Ok(Some(begun)) => return ready(begun).map_err(|error| failed(&error)),
                    Ok(None) => {}
                    Err(error) => {
                        self.error = failed(&error);
                        next_at = now;
                    }
                }
                continue;
            }
            if self.running.is_empty() {
                return Err(self.error);
            }
            let until = if self.waiting.is_empty() {
                deadline
            } else {
                next_at.min(deadline)
            };
            match self.wait(until.saturating_duration_since(now)) {
                Ok(Some(begun)) => return ready(begun).map_err(|error| failed(&error)),
                Ok(None) => {}
                Err(error) => {
                    // RFC 8305 §5: nobody waits for one that has failed.
                    self.error = failed(&error);
                    next_at = now;
                }
            }
        }
    }

    /// Starts an attempt. `None`: it is on its way.
    fn begin(&mut self, address: SocketAddr, left: Duration) -> io::Result<Option<Begun>> {
        let patience = match (self.running.is_empty(), self.waiting.is_empty()) {
            (true, true) => TICK,
            (true, false) => STAGGER,
            (false, _) => AT_ONCE,
        };
        let patience = patience.min(left);
        let (stream, connected) = socket::connect(address, patience)?;
        let begun = (stream, address, patience);
        Ok(match connected {
            Connected::Yes => Some(begun),
            Connected::NotYet => {
                self.running.push(begun);
                None
            }
        })
    }

    /// Waits for one of those on their way; an error is that of one that is not any more.
    fn wait(&mut self, limit: Duration) -> io::Result<Option<Begun>> {
        let asked: Vec<_> = self
            .running
            .iter()
            .map(|(stream, ..)| (stream.as_fd(), Want::Write))
            .collect();
        let seen = socket::wait_any(&asked, limit)?;
        let Some(at) = seen.iter().position(|ready| ready.to_write()) else {
            return Ok(None);
        };
        let begun = self.running.swap_remove(at);
        match begun.0.take_error()? {
            Some(error) => Err(error),
            None => Ok(Some(begun)),
        }
    }
}

/// What every connection to a next hop needs.
fn ready((stream, address, patience): Begun) -> io::Result<Conn> {
    if stream.local_addr()? == address {
        // Linux lets a socket connect to itself when the port it was given is the one it asked for.
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    socket::prepare(&stream)?;
    if patience != TICK {
        return Conn::new(stream, TICK);
    }
    // What limited the attempt limits every write.
    stream.set_read_timeout(Some(TICK))?;
    Ok(Conn::prepared(stream, TICK))
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
    use std::os::fd::OwnedFd;

    use rustix::net::{AddressFamily, SocketType};

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

    /// A port of 127.0.0.9 that does not answer: its queue of connections is full.
    fn silent_port(holding: &mut Vec<TcpStream>) -> (OwnedFd, u16) {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&socket, &SocketAddr::from(([127, 0, 0, 9], 0))).unwrap();
        rustix::net::listen(&socket, 0).unwrap();
        let address = rustix::net::getsockname(&socket).unwrap();
        let address = SocketAddr::try_from(address).unwrap();
        loop {
            let (stream, connected) = socket::connect(address, AT_ONCE).unwrap();
            holding.push(stream);
            if connected == Connected::NotYet {
                return (socket, address.port());
            }
        }
    }

    #[test]
    fn an_address_that_does_not_answer_does_not_hold_up_the_next() {
        let mut holding = Vec::new();
        let (_silent, port) = silent_port(&mut holding);
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let resolver = Resolver::asking(|_| Ok(vec![[127, 0, 0, 9].into(), [127, 0, 0, 1].into()]));
        let target = authority(&format!("two.test:{port}"));
        let conn = dial(&target, &resolver, deadline(), &|_| true).unwrap();
        let reached = conn.stream().peer_addr().unwrap();
        assert_eq!(reached, listener.local_addr().unwrap());
    }

    #[test]
    fn a_connection_that_is_not_answered_in_time_is_too_late() {
        let mut holding = Vec::new();
        let (_silent, port) = silent_port(&mut holding);
        let target = authority(&format!("127.0.0.9:{port}"));
        let soon = Instant::now() + Duration::from_millis(50);
        let late = dial(&target, &Resolver::default(), soon, &|_| true);
        let expected = DialError::Failed(HopFailure::ConnectTimeout);
        assert_eq!(late.err(), Some(expected));
    }

    #[test]
    fn families_take_turns_beginning_with_the_one_the_system_prefers() {
        let check = |system: &[&str], turns: &[&str]| {
            let parsed = |texts: &[&str]| -> Vec<IpAddr> {
                texts.iter().map(|text| text.parse().unwrap()).collect()
            };
            assert_eq!(taking_turns(parsed(system)), parsed(turns));
        };
        check(
            &["::1", "::2", "::3", "1.1.1.1"],
            &["::1", "1.1.1.1", "::2", "::3"],
        );
        check(
            &["1.1.1.1", "::1", "::2", "2.2.2.2"],
            &["1.1.1.1", "::1", "2.2.2.2", "::2"],
        );
        check(&[], &[]);
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
