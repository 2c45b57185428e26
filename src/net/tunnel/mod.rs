//! Tunnels: what follows a CONNECT or an Upgrade, two directions of bytes that mean nothing to us.
//!
//! A direction that is silent or carries small messages costs no thread: it lies with the ferry, which
//! waits for all of them at once and carries what one read takes and one write sends. A direction that
//! has more is given to a thread of its own for as long as it is busy ([`half`]): that one moves bytes
//! in bulk, by reference where the system can. So an idle tunnel is two sockets and a small struct, and
//! a busy one holds nobody up.
//!
//! A half that ends passes its end on and the other goes on; a reset of one side resets the other; a
//! tunnel in which nothing moves in either direction for the idle limit is closed.

mod ferry;
mod half;

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::crew::Crew;
use super::permits::Permit;
use super::pipe::Pipes;
use super::socket::{self, Wait};

use ferry::Ferries;
use half::{Closing, Half, Haul, Pending, Tunnel};

/// One side of a tunnel: its socket, and what it sent before the tunnel stood.
#[derive(Debug)]
pub struct Side {
    /// The socket, blocking.
    pub stream: TcpStream,
    /// Bytes already read from it.
    pub early: Vec<u8>,
}

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
}

/// What a tunnel did, told once when both of its halves are over.
#[derive(Clone, Copy, Debug)]
pub struct TunnelTotals {
    /// Bytes delivered from the client to the next hop.
    pub to_hop: u64,
    /// Bytes delivered from the next hop to the client.
    pub to_client: u64,
    /// How it ended.
    pub end: TunnelEnd,
}

/// Which way bytes of a tunnel go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client.
    ToHop,
    /// From the next hop.
    ToClient,
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
}

/// All tunnels of a server: counted, and cut together at the end.
#[derive(Debug)]
pub struct Tunnels {
    table: Mutex<HashMap<u64, Arc<Tunnel>>>,
    all_over: Condvar,
    next: AtomicU64,
    is_cut: AtomicBool,
    ferries: Ferries,
    crew: Crew<Haul>,
    pipes: Arc<Pipes>,
}

/// Says how a tunnel ended; dropped afterwards with all it holds (leases, permits).
pub type OnEnd = Box<dyn FnOnce(TunnelTotals) + Send>;

/// A tunnel that nobody could be found for.
#[derive(Debug)]
pub struct NotStarted {
    half: Half,
    /// What the system said.
    pub error: io::Error,
}

impl NotStarted {
    /// Tells the client, as far as it listens.
    pub fn answer(self, bytes: &[u8]) {
        let client = self.half.from();
        if let Err(error) = socket::send(client, &[IoSlice::new(bytes)], Wait::Tick) {
            log::debug!("the client left before its refusal: {error}");
        }
        self.half.disown();
    }
}

impl Tunnels {
    /// No tunnels yet; those to come move bulk through `pipes`.
    pub fn new(pipes: Arc<Pipes>) -> Arc<Self> {
        Arc::new(Self {
            table: Mutex::default(),
            all_over: Condvar::new(),
            next: AtomicU64::new(0),
            is_cut: AtomicBool::new(false),
            ferries: Ferries::default(),
            crew: Crew::new("tunnel"),
            pipes,
        })
    }

    /// Starts a tunnel. `permit` is for the two threads it may need; `on_end` is called once.
    ///
    /// # Errors
    /// When nobody can be found to carry it: the client can still be told, `on_end` is not called.
    pub fn start(
        self: &Arc<Self>,
        (client, hop): (Side, Side),
        (idle_limit, meter): (Duration, Arc<dyn Meter>),
        permit: Permit,
        on_end: OnEnd,
    ) -> Result<(), NotStarted> {
        let tunnel = Arc::new(Tunnel {
            id: self.next.fetch_add(1, Ordering::Relaxed),
            client: client.stream,
            hop: hop.stream,
            begun: Instant::now(),
            idle_limit,
            meter,
            moved: AtomicU64::new(0),
            to_hop: AtomicU64::new(0),
            to_client: AtomicU64::new(0),
            halves: AtomicUsize::new(2),
            closing: Mutex::new(Closing {
                end: TunnelEnd::Finished,
                on_end: Some(on_end),
                _threads: permit,
            }),
        });
        tunnel.prepare();
        self.table.lock().insert(tunnel.id, Arc::clone(&tunnel));
        let up = Half::new(self, &tunnel, Direction::ToHop);
        let down = Half::new(self, &tunnel, Direction::ToClient);
        // Nothing may reach the client before what is in `hop.early`; the other way there is no answer
        // of ours to wait for. So this is the one that can still fail.
        if let Err((half, error)) = up.launch(Pending::early(client.early)) {
            down.disown();
            return Err(NotStarted { half, error });
        }
        if let Err((half, error)) = down.launch(Pending::early(hop.early)) {
            log::warn!("no thread for a tunnel: {error}");
            half.end(Err(TunnelEnd::Reset));
        }
        if self.is_cut.load(Ordering::Acquire) {
            tunnel.stop(TunnelEnd::Cut);
        }
        Ok(())
    }

    /// Tunnels open now.
    pub fn count(&self) -> usize {
        self.table.lock().len()
    }

    /// Waits until no tunnel is left, until `deadline`. Says whether none is.
    pub fn wait_until_over(&self, deadline: Instant) -> bool {
        let mut table = self.table.lock();
        while !table.is_empty() {
            if self.all_over.wait_until(&mut table, deadline).timed_out() {
                return table.is_empty();
            }
        }
        true
    }

    /// Cuts all of them; their halves end by themselves.
    pub fn cut(&self) {
        self.is_cut.store(true, Ordering::Release);
        for tunnel in self.table.lock().values() {
            tunnel.stop(TunnelEnd::Cut);
        }
    }

    fn forget(&self, id: u64) {
        let mut table = self.table.lock();
        let gone = table.remove(&id);
        if table.is_empty() {
            self.all_over.notify_all();
        }
        drop(table);
        drop(gone);
    }
}
