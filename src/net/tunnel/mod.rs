//! Tunnels: what follows a CONNECT or an Upgrade, two directions of bytes that mean nothing to us.
//!
//! A direction that is silent, carries small messages, or waits for its receiver costs no thread: it is with
//! an event loop ([`event_loop`]), which waits for all of them at once. A direction that has more to carry is
//! given to a thread of its own for as long as it is busy ([`transfer`]): that one moves bytes in bulk, by
//! reference where the system can. So an idle tunnel is two sockets and a small struct, and a busy one holds
//! up no other. Where there is no thread for it, the event loop goes on carrying it, slower.
//!
//! A direction that ends passes its end on and the other goes on; a reset of one side resets the other; a
//! tunnel in which nothing moves in either direction for the idle limit is closed, after a shorter time if
//! one side has ended.

mod event_loop;
mod shared;
mod transfer;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::pipe::Pipes;
use super::threads::{self, LongThreads};

use event_loop::{EventLoop, Resources};
use shared::Tunnel;
use transfer::Transfer;

pub use shared::{Age, Direction, Meter, OnEnd, Patience, TunnelEnd, TunnelTotals};

/// Event loops on a large machine: each takes three descriptors and a thread from the start on.
const EVENT_LOOPS: usize = 8;

/// One side of a tunnel: its socket, and what it sent before the tunnel stood.
#[derive(Debug)]
pub struct Side {
    /// The socket, blocking.
    pub stream: TcpStream,
    /// Bytes already read from it.
    pub early: Vec<u8>,
}

/// All tunnels of a server: counted, and cut together at the end.
#[derive(Debug)]
pub struct Tunnels {
    table: Mutex<HashMap<u64, Arc<Tunnel>>>,
    all_over: Condvar,
    next: AtomicU64,
    is_cut: AtomicBool,
    event_loops: Vec<Arc<EventLoop>>,
}

impl Tunnels {
    /// No tunnels yet; those to come move bulk through `pipes`, on threads out of the budget `threads`.
    ///
    /// # Errors
    /// When the process has no file descriptors left.
    pub fn new(pipes: Arc<Pipes>, threads: LongThreads) -> io::Result<Arc<Self>> {
        let resources = Arc::new(Resources::new(threads, pipes));
        let event_loops = threads::cores().div_ceil(2).min(EVENT_LOOPS);
        let event_loops = (0..event_loops).map(|_| EventLoop::new(Arc::clone(&resources)));
        Ok(Arc::new(Self {
            table: Mutex::default(),
            all_over: Condvar::new(),
            next: AtomicU64::new(0),
            is_cut: AtomicBool::new(false),
            event_loops: event_loops.collect::<io::Result<_>>()?,
        }))
    }

    /// What must run, each on a thread of its own, for tunnels to be carried; until [`Tunnels::finish`]. They
    /// panic when they cannot go on.
    pub fn event_loops(&self) -> impl Iterator<Item = impl FnOnce() + Send + 'static> {
        let event_loops = self.event_loops.clone().into_iter();
        event_loops.map(|event_loop| move || event_loop.run())
    }

    /// Starts a tunnel that belongs to the client at `owner`; `on_end` is called once.
    pub fn start(
        self: &Arc<Self>,
        owner: IpAddr,
        (client, hop): (Side, Side),
        how: (Patience, Arc<dyn Meter>),
        on_end: OnEnd,
    ) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let tunnels = Arc::clone(self);
        let on_end = Box::new(move |totals| {
            // This may be the drop that a panic began, and a second one would end the process.
            if catch_unwind(AssertUnwindSafe(|| on_end(totals))).is_err() {
                log::error!("the end of a tunnel could not be told");
            }
            tunnels.forget(id);
        });
        let tunnel = Tunnel::new((id, owner), (client.stream, hop.stream), how, on_end);
        self.table.lock().insert(id, Arc::clone(&tunnel));
        let early = [
            (Direction::ToHop, client.early),
            (Direction::ToClient, hop.early),
        ];
        for (direction, early) in early {
            let mut transfer = Transfer::new(&tunnel, direction, &early);
            match (transfer.send_pending(), self.event_loop_of(id)) {
                (Ok(()), Some(event_loop)) => event_loop.take(transfer),
                (Ok(()), None) => transfer.end(Err(TunnelEnd::Reset)),
                (Err(end), _) => transfer.end(Err(end)),
            }
        }
        if self.is_cut.load(Ordering::Acquire) {
            tunnel.stop(TunnelEnd::Cut);
        }
        // It may have been marked before it was in the table.
        tunnel.end_if_marked();
    }

    /// Both directions of a tunnel have the same one.
    fn event_loop_of(&self, id: u64) -> Option<&Arc<EventLoop>> {
        let count = self.event_loops.len().max(1);
        self.event_loops
            .get(usize::try_from(id).unwrap_or(0) % count)
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

    /// Cuts all of them; their directions end by themselves.
    pub fn cut(&self) {
        self.is_cut.store(true, Ordering::Release);
        for tunnel in self.table.lock().values() {
            tunnel.stop(TunnelEnd::Cut);
        }
    }

    /// Ends those that are [marked by their meter](Meter::is_cut); their directions end by themselves.
    pub fn end_marked(&self) {
        for tunnel in self.table.lock().values() {
            tunnel.end_if_marked();
        }
    }

    /// Ends the event loops: from now on no tunnel is carried.
    pub fn finish(&self) {
        for event_loop in &self.event_loops {
            event_loop.finish();
        }
    }

    /// Has the event loops panic.
    #[cfg(test)]
    pub(crate) fn break_down(&self) {
        for event_loop in &self.event_loops {
            event_loop.break_down();
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
    use std::time::Duration;

    use super::shared::Uncounted;
    use super::*;
    use crate::net::threads;

    /// Longer than anything here takes on a busy machine.
    const PATIENCE: Duration = Duration::from_secs(30);
    const PATIENT: Patience = Patience {
        idle: PATIENCE,
        half_closed: PATIENCE,
    };

    /// Tunnels that may use so many threads besides those of the event loops.
    fn with_threads(threads: usize) -> Arc<Tunnels> {
        let tunnels = Tunnels::new(Pipes::at_most(1), LongThreads::of(threads)).unwrap();
        for event_loop in tunnels.event_loops() {
            drop(threads::start("tunnels", event_loop).unwrap());
        }
        tunnels
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
        let how: (Patience, Arc<dyn Meter>) = (PATIENT, Arc::new(Uncounted));
        let owner = IpAddr::from([127, 0, 0, 1]);
        tunnels.start(owner, (client_side, hop_side), how, on_end);
        (client, hop)
    }

    #[test]
    fn a_panic_of_who_is_told_of_the_end_leaves_no_tunnel_behind() {
        let tunnels = with_threads(2);
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
    fn a_tunnel_that_is_over_wakes_no_event_loop_however_long_it_is_still_known() {
        let tunnels = with_threads(2);
        let (client, hop) = start(&tunnels, Box::new(|_totals| {}));
        let known: Vec<Arc<Tunnel>> = tunnels.table.lock().values().cloned().collect();
        drop((client, hop));
        assert!(tunnels.wait_until_over(Instant::now() + PATIENCE));
        for event_loop in &tunnels.event_loops {
            assert_eq!(event_loop.ready(), [] as [u64; 0]);
        }
        assert_eq!(known.len(), 1);
    }

    /// More than all buffers of two connections take.
    const BULK: usize = 16 * 1024 * 1024;

    fn pattern(length: usize) -> Vec<u8> {
        (0..=250).cycle().take(length).collect()
    }

    #[test]
    fn a_busy_tunnel_without_a_thread_is_carried_by_the_event_loop() {
        use std::io::Read;
        let tunnels = with_threads(0);
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
    fn a_tunnel_whose_receiver_takes_nothing_can_be_cut_and_holds_no_other_up() {
        use std::io::Read;
        let tunnels = with_threads(0);
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
