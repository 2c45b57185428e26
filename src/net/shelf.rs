//! Idle connections to one upstream, kept for reuse, newest first.
//!
//! The newest is the least likely to have been closed meanwhile, and the oldest get the chance to
//! expire. Count and age are limited by `limits.upstream_idle_connections` and `.upstream_idle_secs`.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::conn::Conn;
use super::socket;

/// Idle connections to one upstream.
#[derive(Debug, Default)]
pub struct Shelf {
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    conn: Conn,
    since: Instant,
    use_for: UseFor,
}

/// What an idle connection is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UseFor {
    /// Every request.
    Anything,
    /// Requests for the target it was used for last, by its hash.
    Target(u64),
}

impl UseFor {
    /// Whether a request for the target of this hash may take it.
    pub fn admits(self, target: u64) -> bool {
        match self {
            Self::Anything => true,
            Self::Target(last) => last == target,
        }
    }
}

impl Shelf {
    /// Keeps a connection on which nothing is under way, unless there are `most` already.
    pub fn keep(&self, conn: Conn, use_for: UseFor, most: usize) {
        let mut idle = self.idle.lock();
        if idle.len() < most {
            idle.push(Idle {
                conn,
                since: Instant::now(),
                use_for,
            });
        }
    }

    /// The connection used last of those that are good for `target`, if that was less than `within` ago
    /// and nothing has happened on it since. Those found closed are dropped on the way.
    pub fn take(&self, within: Duration, target: u64) -> Option<Conn> {
        loop {
            let newest = {
                let mut idle = self.idle.lock();
                let index = idle.iter().rposition(|idle| idle.use_for.admits(target))?;
                if idle.get(index)?.since.elapsed() >= within {
                    return None; // Every other one is older still; the next sweep has them.
                }
                idle.remove(index)
            };
            if socket::is_quiet(newest.conn.stream()) {
                return Some(newest.conn);
            }
        }
    }

    /// Drops what is older than `within` or was closed by the upstream.
    pub fn sweep(&self, within: Duration) {
        self.idle
            .lock()
            .retain(|idle| idle.since.elapsed() < within && socket::is_quiet(idle.conn.stream()));
    }

    /// Drops what leads elsewhere than to one of these addresses.
    pub fn keep_only(&self, addresses: &[IpAddr]) {
        let leads_there =
            |idle: &Idle| idle.conn.dialled().is_none_or(|at| addresses.contains(&at));
        self.idle.lock().retain(leads_there);
    }

    /// Drops all.
    pub fn clear(&self) {
        self.idle.lock().clear();
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        self.idle.lock().len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::net::socket::TICK;

    const LONG: Duration = Duration::from_secs(3600);

    fn pair() -> (Conn, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let near = TcpStream::connect_timeout(&address, Duration::from_secs(10)).unwrap();
        (Conn::prepared(near, TICK), listener.accept().unwrap().0)
    }

    #[test]
    fn the_last_used_connection_comes_back_first() {
        let shelf = Shelf::default();
        let (first, _far_first) = pair();
        let (second, _far_second) = pair();
        let port = second.stream().local_addr().unwrap().port();
        shelf.keep(first, UseFor::Anything, 2);
        shelf.keep(second, UseFor::Anything, 2);
        let taken = shelf.take(LONG, 0).unwrap();
        assert_eq!(taken.stream().local_addr().unwrap().port(), port);
        assert_eq!(shelf.len(), 1);
    }

    #[test]
    fn a_connection_that_may_be_a_pipe_serves_no_other_target() {
        let shelf = Shelf::default();
        let (near, _far) = pair();
        shelf.keep(near, UseFor::Target(1), 2);
        assert!(shelf.take(LONG, 2).is_none());
        assert!(shelf.take(LONG, 1).is_some());
    }

    #[test]
    fn a_connection_with_unasked_bytes_or_an_end_is_never_handed_out() {
        let shelf = Shelf::default();
        let (near, far) = pair();
        shelf.keep(near, UseFor::Anything, 2);
        drop(far);
        let (near, mut far) = pair();
        far.write_all(b"HTTP/1.1 200 OK\r\n").unwrap();
        shelf.keep(near, UseFor::Anything, 2);
        // The bytes are on loopback, but arrival is the kernel's business: wait for it.
        for idle in shelf.idle.lock().iter() {
            idle.conn.stream().peek(&mut [0]).unwrap();
        }
        assert!(shelf.take(LONG, 0).is_none());
        assert!(shelf.is_empty());
    }

    #[test]
    fn neither_too_many_nor_too_old_ones_are_kept() {
        let shelf = Shelf::default();
        let (first, _far_first) = pair();
        let (second, _far_second) = pair();
        shelf.keep(first, UseFor::Anything, 1);
        shelf.keep(second, UseFor::Anything, 1);
        assert_eq!(shelf.len(), 1);
        assert!(shelf.take(Duration::ZERO, 0).is_none());
        shelf.sweep(Duration::ZERO);
        assert!(shelf.is_empty());
    }
}
