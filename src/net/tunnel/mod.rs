//! Tunnels: what follows a CONNECT or an Upgrade, two directions of bytes that mean nothing to us.
//!
//! A direction that is silent or carries small messages costs no thread: it lies with the ferry, which
//! waits for all of them at once and carries what one read takes and one write sends. A direction that
//! has more is given to a thread of its own for as long as it is busy ([`half`]): that one moves bytes
//! in bulk, by reference where the system can. So an idle tunnel is two sockets and a small struct, and
//! a busy one holds nobody up. Where the system has no thread for it, the ferry goes on carrying it,
//! slower.
//!
//! A half that ends passes its end on and the other goes on; a reset of one side resets the other; a
//! tunnel in which nothing moves in either direction for the idle limit is closed.

mod ferry;
mod half;
mod stuck;

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
use half::{Closing, Half, Haul, Pending, Tunnel, Way};

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
        Self::with(pipes, Crew::new("tunnel"))
    }

    fn with(pipes: Arc<Pipes>, crew: Crew<Haul>) -> Arc<Self> {
        Arc::new(Self {
            table: Mutex::default(),
            all_over: Condvar::new(),
            next: AtomicU64::new(0),
            is_cut: AtomicBool::new(false),
            ferries: Ferries::default(),
            crew,
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
            to_hop: Way::default(),
            to_client: Way::default(),
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

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;
    use std::sync::mpsc;

    use super::super::permits::Permits;
    use super::*;

    /// Longer than anything here takes on a busy machine.
    const PATIENCE: Duration = Duration::from_secs(30);

    /// Counts nothing.
    struct Nobody;

    impl Meter for Nobody {
        fn moved(&self, _direction: Direction, _age: Age, _bytes: u64) {}
    }

    /// The end of a peer, and the side of a tunnel that leads there.
    #[expect(clippy::disallowed_methods, reason = "loopback answers at once")]
    fn side() -> (TcpStream, Side) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        let early = Vec::new();
        (peer, Side { stream, early })
    }

    fn start(tunnels: &Arc<Tunnels>, on_end: OnEnd) -> (TcpStream, TcpStream) {
        start_with(tunnels, Vec::new(), on_end)
    }

    fn start_with(tunnels: &Arc<Tunnels>, early: Vec<u8>, on_end: OnEnd) -> (TcpStream, TcpStream) {
        let ((client, mut client_side), (hop, hop_side)) = (side(), side());
        client_side.early = early;
        let permit = Permits::new(2).take(2).unwrap();
        let how: (Duration, Arc<dyn Meter>) = (PATIENCE, Arc::new(Nobody));
        let started = tunnels.start((client_side, hop_side), how, permit, on_end);
        assert!(started.is_ok());
        (client, hop)
    }

    #[test]
    fn a_panic_of_who_is_told_of_the_end_leaves_no_tunnel_behind() {
        let tunnels = Tunnels::new(Pipes::at_most(1));
        let (said, heard) = mpsc::channel();
        for _ in 0..2 {
            let said = said.clone();
            let on_end = Box::new(move |totals: TunnelTotals| {
                said.send(totals.to_hop).unwrap();
                panic!("on purpose");
            });
            let (mut client, hop) = start(&tunnels, on_end);
            client.write_all(b"abc").unwrap();
            drop((client, hop));
        }
        for _ in 0..2 {
            assert!(heard.recv_timeout(PATIENCE).unwrap() <= 3);
        }
        assert!(tunnels.wait_until_over(Instant::now() + PATIENCE));
        assert_eq!(tunnels.count(), 0);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_tunnel_that_is_over_stirs_nobody_however_long_somebody_still_knows_it() {
        let tunnels = Tunnels::new(Pipes::at_most(1));
        let (client, hop) = start(&tunnels, Box::new(|_totals| {}));
        let known: Vec<Arc<Tunnel>> = tunnels.table.lock().values().cloned().collect();
        drop((client, hop));
        assert!(tunnels.wait_until_over(Instant::now() + PATIENCE));
        assert_eq!(tunnels.ferries.stirred(), [] as [u64; 0]);
        assert_eq!(known.len(), 1);
    }

    /// More than all buffers of two connections take.
    #[cfg(target_os = "linux")]
    const BULK: usize = 16 * 1024 * 1024;

    #[cfg(target_os = "linux")]
    fn pattern(length: usize) -> Vec<u8> {
        (0..=250).cycle().take(length).collect()
    }

    /// Tunnels without any thread but the ferry's.
    #[cfg(target_os = "linux")]
    fn without_threads() -> Arc<Tunnels> {
        Tunnels::with(Pipes::at_most(1), Crew::of_nobody("tunnel"))
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_busy_tunnel_without_a_thread_is_carried_by_the_ferry() {
        use std::io::Read;
        let tunnels = without_threads();
        let (said, heard) = mpsc::channel();
        let on_end = Box::new(move |totals: TunnelTotals| said.send(totals).unwrap());
        let (early, rest) = (pattern(BULK / 2), pattern(BULK));
        let (mut client, mut hop) = start_with(&tunnels, early.clone(), on_end);
        let mut sender = client.try_clone().unwrap();
        let (mut to_hop, mut to_client) = (Vec::new(), Vec::new());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                sender.write_all(&rest).unwrap();
                sender.shutdown(std::net::Shutdown::Write).unwrap();
            });
            scope.spawn(|| client.read_to_end(&mut to_client).unwrap());
            hop.read_to_end(&mut to_hop).unwrap();
            hop.write_all(b"thanks").unwrap();
            hop.shutdown(std::net::Shutdown::Write).unwrap();
        });
        assert!(to_hop == [early, rest].concat());
        assert_eq!(to_client, b"thanks");
        let totals = heard.recv_timeout(PATIENCE).unwrap();
        assert_eq!(totals.to_hop, (BULK + BULK / 2) as u64);
        assert_eq!(totals.end, TunnelEnd::Finished);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_tunnel_whose_receiver_takes_nothing_can_be_cut_and_holds_no_other_up() {
        use std::io::Read;
        let tunnels = without_threads();
        let (said, heard) = mpsc::channel();
        let ends = |said: &mpsc::Sender<TunnelEnd>| -> OnEnd {
            let said = said.clone();
            Box::new(move |totals| said.send(totals.end).unwrap())
        };
        let stuck = start_with(&tunnels, pattern(BULK), ends(&said));
        let (mut client, mut hop) = start(&tunnels, ends(&said));
        for _ in 0..3 {
            client.write_all(b"ping").unwrap();
            let mut four = [0; 4];
            hop.read_exact(&mut four).unwrap();
        }
        tunnels.cut();
        for _ in 0..2 {
            assert_eq!(heard.recv_timeout(PATIENCE), Ok(TunnelEnd::Cut));
        }
        assert!(tunnels.wait_until_over(Instant::now() + PATIENCE));
        drop(stuck);
    }
}
