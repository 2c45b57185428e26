//! What both directions of one tunnel share.

use std::io;
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::net::socket::{self, PollReady, Want};

/// How a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelEnd {
    /// Both sides finished.
    Finished,
    /// One side reset the connection or vanished.
    Reset,
    /// Nothing moved for the idle limit.
    Idle,
    /// The process ends.
    Cut,
    /// What carries it is to be free of tunnels: see [`Meter::is_cut`].
    HopCut,
}

/// What a call on a socket fails with says that the connection is broken.
impl From<io::Error> for TunnelEnd {
    fn from(_broken: io::Error) -> Self {
        Self::Reset
    }
}

/// What a tunnel did, told once when both of its directions are over.
#[derive(Clone, Copy, Debug)]
pub struct TunnelTotals {
    /// Bytes delivered from the client to the next hop.
    pub to_hop: u64,
    /// Bytes delivered from the next hop to the client.
    pub to_client: u64,
    /// How it ended.
    pub end: TunnelEnd,
}

/// How long nothing may move in a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// While both sides may still send.
    pub idle: Duration,
    /// Once one of them has ended, if that is shorter: the other often never will.
    pub half_closed: Duration,
}

/// Says how a tunnel ended; dropped afterwards with all it holds (leases, permits).
pub type OnEnd = Box<dyn FnOnce(TunnelTotals) + Send>;

/// Which way bytes of a tunnel go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client.
    ToHop,
    /// From the next hop.
    ToClient,
}

impl Direction {
    fn other(self) -> Self {
        match self {
            Self::ToHop => Self::ToClient,
            Self::ToClient => Self::ToHop,
        }
    }
}

/// When bytes of a tunnel were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// Before the tunnel stood.
    Early,
    /// By the tunnel itself.
    Fresh,
}

/// Is told of the bytes of a tunnel as they are delivered, so that a long one is seen while it lasts.
pub trait Meter: Send + Sync {
    /// So many more were delivered.
    fn moved(&self, direction: Direction, age: Age, bytes: u64);

    /// Whether it is to end now, see [`super::Tunnels::end_marked`].
    fn is_cut(&self) -> bool;
}

/// What is known of one direction.
#[derive(Debug, Default)]
struct Way {
    /// Bytes delivered.
    delivered: AtomicU64,
    /// Bytes may have been read that are not delivered yet.
    is_loaded: AtomicBool,
}

struct Closing {
    end: TunnelEnd,
    on_end: Option<OnEnd>,
}

/// Two connections, and what is known of the bytes between them.
pub(super) struct Tunnel {
    pub(super) id: u64,
    client: TcpStream,
    hop: TcpStream,
    /// Whose tunnel it is.
    pub(super) owner: IpAddr,
    begun: Instant,
    patience: Patience,
    meter: Arc<dyn Meter>,
    /// Milliseconds after `begun` at which bytes last moved.
    moved: AtomicU64,
    to_hop: Way,
    to_client: Way,
    /// Directions not over yet.
    open: AtomicUsize,
    closing: Mutex<Closing>,
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel")
            .field("client", &self.client)
            .field("hop", &self.hop)
            .finish_non_exhaustive()
    }
}

impl Tunnel {
    /// One in which nothing has moved yet; `on_end` is called when both directions are over.
    pub(super) fn new(
        (id, owner): (u64, IpAddr),
        (client, hop): (TcpStream, TcpStream),
        (patience, meter): (Patience, Arc<dyn Meter>),
        on_end: OnEnd,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            client,
            hop,
            owner,
            begun: Instant::now(),
            patience,
            meter,
            moved: AtomicU64::new(0),
            to_hop: Way::default(),
            to_client: Way::default(),
            open: AtomicUsize::new(2),
            closing: Mutex::new(Closing {
                end: TunnelEnd::Finished,
                on_end: Some(on_end),
            }),
        })
    }

    /// The socket from which bytes of this direction come.
    pub(super) fn from(&self, direction: Direction) -> &TcpStream {
        match direction {
            Direction::ToHop => &self.client,
            Direction::ToClient => &self.hop,
        }
    }

    /// The socket to which they go.
    pub(super) fn to(&self, direction: Direction) -> &TcpStream {
        self.from(direction.other())
    }

    /// The socket on which a direction waits for `want`.
    pub(super) fn socket(&self, direction: Direction, want: Want) -> &TcpStream {
        match want {
            Want::Write => self.to(direction),
            Want::Nothing | Want::Read | Want::ReadOrWrite => self.from(direction),
        }
    }

    fn way(&self, direction: Direction) -> &Way {
        match direction {
            Direction::ToHop => &self.to_hop,
            Direction::ToClient => &self.to_client,
        }
    }

    /// So many bytes were delivered.
    pub(super) fn count(&self, direction: Direction, age: Age, bytes: usize) {
        let bytes = bytes as u64;
        let delivered = &self.way(direction).delivered;
        delivered.fetch_add(bytes, Ordering::Relaxed);
        self.meter.moved(direction, age, bytes);
        self.note_movement();
    }

    fn note_movement(&self) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.fetch_max(now, Ordering::Relaxed);
    }

    /// Whether bytes of this direction may have been read that are not delivered yet.
    pub(super) fn is_loaded(&self, direction: Direction) -> &AtomicBool {
        &self.way(direction).is_loaded
    }

    /// How much longer nothing may move; zero when the tunnel is to be closed.
    pub(super) fn patience_left(&self) -> Duration {
        let moved = Duration::from_millis(self.moved.load(Ordering::Relaxed));
        let silent = self.begun.elapsed().saturating_sub(moved);
        let Patience { idle, half_closed } = self.patience;
        let limit = if self.is_half_closed() {
            half_closed.min(idle)
        } else {
            idle
        };
        limit.saturating_sub(silent)
    }

    /// Whether one direction is over already, so that both sockets are closed with the other.
    pub(super) fn is_half_closed(&self) -> bool {
        self.open.load(Ordering::Acquire) == 1
    }

    /// Whether there is something to carry now in `direction`, which is not over, or in the other one. What
    /// came while the whole process stood still is in the sockets: see [`socket::is_overdue`].
    pub(super) fn can_go_on(&self, direction: Direction) -> bool {
        let both = |stream| (stream, Want::ReadOrWrite);
        let (from, to) = (both(self.from(direction)), both(self.to(direction)));
        let Ok((from, to)) = socket::wait_for(from, to, Duration::ZERO) else {
            return false;
        };
        let moves = |from: PollReady, to: PollReady, direction| {
            if self.is_loaded(direction).load(Ordering::Relaxed) {
                to.to_write()
            } else {
                from.to_read()
            }
        };
        moves(from, to, direction) || (!self.is_half_closed() && moves(to, from, direction.other()))
    }

    /// Ends it if its meter says so.
    pub(super) fn end_if_marked(&self) {
        if self.meter.is_cut() {
            self.stop(TunnelEnd::HopCut);
        }
    }

    /// Whether either side was reset or has vanished.
    pub(super) fn is_broken(&self) -> bool {
        socket::is_broken(&self.client) || socket::is_broken(&self.hop)
    }

    /// Ends both directions; the first reason is the one told.
    pub(super) fn stop(&self, end: TunnelEnd) {
        {
            let mut closing = self.closing.lock();
            if closing.end == TunnelEnd::Finished {
                closing.end = end;
            }
        }
        for stream in [&self.client, &self.hop] {
            let closed = match end {
                TunnelEnd::Reset => socket::reset(stream),
                TunnelEnd::Finished | TunnelEnd::Idle | TunnelEnd::Cut | TunnelEnd::HopCut => {
                    stream.shutdown(Shutdown::Both)
                }
            };
            if let Err(error) = closed {
                log::trace!("this side was gone already: {error}");
            }
        }
    }

    /// One direction is over: passes its end on, or tells the end of the tunnel if it was the last one.
    pub(super) fn close(&self, direction: Direction) {
        // Noted first: the silence before is none of a side that has ended.
        self.note_movement();
        if self.open.fetch_sub(1, Ordering::AcqRel) > 1 {
            if let Err(error) = self.to(direction).shutdown(Shutdown::Write) {
                log::trace!("this side was gone before the end: {error}");
            }
            return;
        }
        // Both sockets are closed with the tunnel: that passes the end on.
        let (end, on_end) = {
            let mut closing = self.closing.lock();
            (closing.end, closing.on_end.take())
        };
        if let Some(on_end) = on_end {
            on_end(TunnelTotals {
                to_hop: self.to_hop.delivered.load(Ordering::Relaxed),
                to_client: self.to_client.delivered.load(Ordering::Relaxed),
                end,
            });
        }
    }
}

/// Counts nothing.
#[cfg(test)]
pub(super) struct Uncounted;

#[cfg(test)]
impl Meter for Uncounted {
    fn moved(&self, _direction: Direction, _age: Age, _bytes: u64) {}

    fn is_cut(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, Write as _};

    use super::*;
    use crate::net::socket::Wait;
    use crate::net::socket::tests::pair;

    /// A tunnel that is not carried and was idle for too long, and its two ends.
    fn idle_tunnel() -> (Arc<Tunnel>, TcpStream, TcpStream) {
        let ((client, far_client), (hop, far_hop)) = (pair(), pair());
        let tunnel = tunnel_between((client, hop), Duration::ZERO, Duration::ZERO);
        assert!(tunnel.patience_left().is_zero());
        (tunnel, far_client, far_hop)
    }

    fn tunnel_between(
        sides: (TcpStream, TcpStream),
        idle: Duration,
        half_closed: Duration,
    ) -> Arc<Tunnel> {
        let how: (Patience, Arc<dyn Meter>) = (Patience { idle, half_closed }, Arc::new(Uncounted));
        let name = (0, IpAddr::from([127, 0, 0, 1]));
        Tunnel::new(name, sides, how, Box::new(|_totals| {}))
    }

    #[test]
    fn the_silence_of_a_half_closed_tunnel_begins_with_the_end_of_its_side() {
        let hour = Duration::from_secs(3600);
        for (idle, half_closed, allowed) in [
            (hour, hour / 2, hour / 2),
            // Nothing lives longer for having ended.
            (hour / 2, hour, hour / 2),
        ] {
            let ((client, _far_client), (hop, _far_hop)) = (pair(), pair());
            let mut tunnel = tunnel_between((client, hop), idle, half_closed);
            let begun = Instant::now().checked_sub(Duration::from_secs(2)).unwrap();
            Arc::get_mut(&mut tunnel).unwrap().begun = begun;
            assert!(tunnel.patience_left() + Duration::from_secs(2) <= idle);
            tunnel.close(Direction::ToHop);
            let left = tunnel.patience_left();
            assert!(
                left + Duration::from_secs(1) > allowed && left <= allowed,
                "{left:?}"
            );
        }
    }

    const BOTH: [Direction; 2] = [Direction::ToHop, Direction::ToClient];

    #[test]
    fn a_tunnel_goes_on_while_either_side_has_sent_something() {
        let (tunnel, mut far_client, _far_hop) = idle_tunnel();
        assert_eq!(BOTH.map(|one| tunnel.can_go_on(one)), [false, false]);
        far_client.write_all(b"x").unwrap();
        tunnel.client.peek(&mut [0]).unwrap();
        assert_eq!(BOTH.map(|one| tunnel.can_go_on(one)), [true, true]);
        // That direction is over: what its side sends, and be it the end, does not matter any more.
        tunnel.open.store(1, Ordering::Relaxed);
        assert_eq!(BOTH.map(|one| tunnel.can_go_on(one)), [true, false]);
    }

    #[test]
    fn a_tunnel_with_bytes_in_hand_goes_on_only_if_they_are_taken() {
        let (tunnel, mut far_client, _far_hop) = idle_tunnel();
        tunnel.to_hop.is_loaded.store(true, Ordering::Relaxed);
        assert!(tunnel.can_go_on(Direction::ToHop));
        let much = vec![0; 1 << 20];
        while socket::send(&tunnel.hop, &[IoSlice::new(&much)], Wait::No).unwrap() > 0 {}
        far_client.write_all(b"x").unwrap();
        tunnel.client.peek(&mut [0]).unwrap();
        assert_eq!(BOTH.map(|one| tunnel.can_go_on(one)), [false, false]);
    }
}
