//! Two copy threads after a CONNECT or an Upgrade: one for each direction.
//!
//! A half that ends passes its end on and the other goes on; a reset of one side resets the other; a
//! tunnel in which nothing moves in either direction for the idle limit is closed. No buffer is held
//! while a half waits: it waits with a small one on its stack and borrows a large one only while bytes
//! come in bulk.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::permits::Permit;
use super::socket::{self, Received, Wait};
use super::threads;

/// What a waiting half reads into, in bytes.
const SMALL: usize = 4 * 1024;
/// What a busy half reads into, in bytes.
const LARGE: usize = 128 * 1024;
/// Large buffers kept for the next busy half.
const SPARE_BUFFERS: usize = 32;

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
#[derive(Debug, Default)]
pub struct Tunnels {
    table: Mutex<HashMap<u64, Arc<Tunnel>>>,
    all_over: Condvar,
    next: AtomicU64,
    is_cut: AtomicBool,
    spare: Mutex<Vec<Vec<u8>>>,
}

/// Says how a tunnel ended; dropped afterwards with all it holds (leases, permits).
pub type OnEnd = Box<dyn FnOnce(TunnelTotals) + Send>;

struct Tunnel {
    client: TcpStream,
    hop: TcpStream,
    begun: Instant,
    idle_limit: Duration,
    meter: Arc<dyn Meter>,
    /// Milliseconds after `begun` at which bytes last moved.
    moved: AtomicU64,
    to_hop: AtomicU64,
    to_client: AtomicU64,
    /// Halves still copying.
    halves: AtomicUsize,
    closing: Mutex<Closing>,
}

struct Closing {
    end: TunnelEnd,
    on_end: Option<OnEnd>,
    _threads: Permit,
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel")
            .field("client", &self.client)
            .field("hop", &self.hop)
            .finish_non_exhaustive()
    }
}

/// A tunnel whose threads exist but do not copy yet.
#[must_use = "a tunnel that is not opened closes both sides"]
#[derive(Debug)]
pub struct ReadyTunnel {
    start: [Arc<Gate>; 2],
}

/// Holds a copy thread until its tunnel is opened, or dropped.
#[derive(Debug, Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum GateState {
    #[default]
    Closed,
    Open,
    Abandoned,
}

impl Gate {
    fn set(&self, state: GateState) {
        let mut current = self.state.lock();
        if *current == GateState::Closed {
            *current = state;
            self.changed.notify_all();
        }
    }

    fn opens(&self) -> bool {
        let mut state = self.state.lock();
        while *state == GateState::Closed {
            self.changed.wait(&mut state);
        }
        *state == GateState::Open
    }
}

impl ReadyTunnel {
    /// Lets the bytes flow.
    pub fn open(self) {
        for gate in &self.start {
            gate.set(GateState::Open);
        }
    }
}

/// A tunnel for which there was no thread.
#[derive(Debug)]
pub struct NotStarted {
    tunnel: Arc<Tunnel>,
    /// What the system said.
    pub error: io::Error,
}

impl NotStarted {
    /// Tells the client, as far as it listens.
    pub fn answer(self, bytes: &[u8]) {
        let sent = socket::send(&self.tunnel.client, &[IoSlice::new(bytes)], Wait::Tick);
        if let Err(error) = sent {
            log::debug!("the client left before its refusal: {error}");
        }
    }
}

impl Drop for ReadyTunnel {
    fn drop(&mut self) {
        for gate in &self.start {
            gate.set(GateState::Abandoned);
        }
    }
}

impl Tunnels {
    /// Starts both threads of a tunnel. `permit` is for two threads; `on_end` is called once.
    ///
    /// # Errors
    /// When a thread cannot be had: the client can still be told, `on_end` is not called.
    pub fn prepare(
        self: &Arc<Self>,
        (client, hop): (Side, Side),
        (idle_limit, meter): (Duration, Arc<dyn Meter>),
        permit: Permit,
        on_end: OnEnd,
    ) -> Result<ReadyTunnel, NotStarted> {
        let tunnel = Arc::new(Tunnel {
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
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let gates = [Arc::<Gate>::default(), Arc::<Gate>::default()];
        let ready = ReadyTunnel {
            start: gates.clone(),
        };
        let halves = [
            (Direction::ToHop, client.early),
            (Direction::ToClient, hop.early),
        ];
        for (gate, (direction, early)) in gates.into_iter().zip(halves) {
            let half = Half {
                owner: Arc::clone(self),
                tunnel: Arc::clone(&tunnel),
                id,
                direction,
            };
            // Dropping `ready` on failure makes a thread already started leave at its gate.
            let started = threads::start(direction.name(), move || {
                if gate.opens() {
                    half.run(early);
                } else {
                    half.forget();
                }
            });
            if let Err(error) = started {
                return Err(NotStarted { tunnel, error });
            }
        }
        self.table.lock().insert(id, Arc::clone(&tunnel));
        if self.is_cut.load(Ordering::Acquire) {
            tunnel.stop(TunnelEnd::Cut);
        }
        Ok(ready)
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

    /// Cuts all of them; their threads end by themselves.
    pub fn cut(&self) {
        self.is_cut.store(true, Ordering::Release);
        for tunnel in self.table.lock().values() {
            tunnel.stop(TunnelEnd::Cut);
        }
    }

    fn borrow(&self) -> Vec<u8> {
        let spare = self.spare.lock().pop();
        spare.unwrap_or_else(|| Vec::with_capacity(LARGE))
    }

    fn give_back(&self, buffer: Vec<u8>) {
        let mut spare = self.spare.lock();
        if spare.len() < SPARE_BUFFERS {
            spare.push(buffer);
        }
    }
}

impl Tunnel {
    fn touch(&self) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.fetch_max(now, Ordering::Relaxed);
    }

    /// How much longer nothing may move; zero when the tunnel is to be closed.
    fn patience_left(&self) -> Duration {
        let moved = Duration::from_millis(self.moved.load(Ordering::Relaxed));
        let silent = self.begun.elapsed().saturating_sub(moved);
        self.idle_limit.saturating_sub(silent)
    }

    /// Ends both halves; the first reason is the one told.
    fn stop(&self, end: TunnelEnd) {
        {
            let mut closing = self.closing.lock();
            if closing.end == TunnelEnd::Finished {
                closing.end = end;
            }
        }
        for stream in [&self.client, &self.hop] {
            let closed = match end {
                TunnelEnd::Reset => socket::reset(stream),
                TunnelEnd::Finished | TunnelEnd::Idle | TunnelEnd::Cut => {
                    stream.shutdown(Shutdown::Both)
                }
            };
            if let Err(error) = closed {
                log::trace!("this side was gone already: {error}");
            }
        }
    }
}

impl Direction {
    fn name(self) -> &'static str {
        match self {
            Self::ToHop => "tunnel-up",
            Self::ToClient => "tunnel-down",
        }
    }
}

/// One direction of a tunnel, on its own thread.
struct Half {
    owner: Arc<Tunnels>,
    tunnel: Arc<Tunnel>,
    id: u64,
    direction: Direction,
}

impl Half {
    fn run(self, early: Vec<u8>) {
        let tunnel = &*self.tunnel;
        for stream in [&tunnel.client, &tunnel.hop] {
            socket::limit(stream, tunnel.idle_limit);
        }
        let (from, to, count) = match self.direction {
            Direction::ToHop => (&tunnel.client, &tunnel.hop, &tunnel.to_hop),
            Direction::ToClient => (&tunnel.hop, &tunnel.client, &tunnel.to_client),
        };
        match self.copy(early, from, to, count) {
            Ok(()) => {
                if let Err(error) = to.shutdown(Shutdown::Write) {
                    log::trace!("this side was gone before the end: {error}");
                }
            }
            Err(end) => tunnel.stop(end),
        }
        // The last half tells; `Half` is dropped after that, and the sockets with it.
        if tunnel.halves.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.finish();
        }
    }

    fn finish(&self) {
        let (end, on_end) = {
            let mut closing = self.tunnel.closing.lock();
            (closing.end, closing.on_end.take())
        };
        if let Some(on_end) = on_end {
            on_end(TunnelTotals {
                to_hop: self.tunnel.to_hop.load(Ordering::Relaxed),
                to_client: self.tunnel.to_client.load(Ordering::Relaxed),
                end,
            });
        }
        self.forget();
    }

    fn forget(&self) {
        let mut table = self.owner.table.lock();
        table.remove(&self.id);
        if table.is_empty() {
            self.owner.all_over.notify_all();
        }
    }

    /// Copies until the sender's end (`Ok`) or until the tunnel is to be closed.
    fn copy(
        &self,
        early: Vec<u8>,
        from: &TcpStream,
        to: &TcpStream,
        count: &AtomicU64,
    ) -> Result<(), TunnelEnd> {
        self.deliver((&early, Age::Early), to, count)?;
        drop(early);
        let mut small = Vec::with_capacity(SMALL);
        loop {
            small.clear();
            match socket::receive(from, &mut small, Wait::Tick) {
                Ok(Received::End) => return Ok(()),
                Ok(Received::Nothing) => self.wait_on(from)?,
                Ok(Received::Bytes(_)) => {
                    self.deliver((&small, Age::Fresh), to, count)?;
                    if small.len() == SMALL {
                        let mut large = self.owner.borrow();
                        let copied = self.copy_bulk(&mut large, from, to, count);
                        self.owner.give_back(large);
                        if copied? == Received::End {
                            return Ok(());
                        }
                    }
                }
                Err(_) => return Err(TunnelEnd::Reset),
            }
        }
    }

    /// Copies with a large buffer as long as more is there at once.
    fn copy_bulk(
        &self,
        large: &mut Vec<u8>,
        from: &TcpStream,
        to: &TcpStream,
        count: &AtomicU64,
    ) -> Result<Received, TunnelEnd> {
        loop {
            large.clear();
            match socket::receive(from, large, Wait::No) {
                Ok(Received::Bytes(_)) => self.deliver((large, Age::Fresh), to, count)?,
                Ok(other) => return Ok(other),
                Err(_) => return Err(TunnelEnd::Reset),
            }
        }
    }

    fn deliver(
        &self,
        (bytes, age): (&[u8], Age),
        to: &TcpStream,
        count: &AtomicU64,
    ) -> Result<(), TunnelEnd> {
        let mut left = bytes;
        while !left.is_empty() {
            match socket::send(to, &[IoSlice::new(left)], Wait::Tick) {
                Ok(0) => self.wait_on(to)?,
                Ok(sent) => {
                    left = left.get(sent..).unwrap_or_default();
                    count.fetch_add(sent as u64, Ordering::Relaxed);
                    self.tunnel.meter.moved(self.direction, age, sent as u64);
                    self.tunnel.touch();
                }
                Err(_) => return Err(TunnelEnd::Reset),
            }
        }
        Ok(())
    }

    /// After a time limit: over, or wait for the rest of the idle limit?
    fn wait_on(&self, stream: &TcpStream) -> Result<(), TunnelEnd> {
        let left = self.tunnel.patience_left();
        if left.is_zero() {
            return Err(TunnelEnd::Idle);
        }
        socket::limit(stream, left);
        Ok(())
    }
}
