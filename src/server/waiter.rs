//! The waiter: holds connections from which nothing can be read yet, however many they are.
//!
//! A new connection may wait here for its first byte, a kept-alive one for its next request, one whose
//! head is incomplete for the rest of it, and one that was answered for the last time until its client
//! is done sending. An exchange whose next hop was asked and has not answered waits here, too, in the slot
//! of that connection. Each has a deadline.
//!
//! It has no thread of its own: whoever has nothing better to do keeps the [`WatchGuard`], mostly a worker
//! without a request (see [`super::workers`]), which then serves what it found ready without any other
//! thread having been woken.
//!
//! Who watches is also told of new connections, and lets the acceptor take them in; such a one comes here
//! only when it has nothing to say yet, or no more.
//!
//! Registration is edge-triggered and lasts as long as the connection, so what an event says must not
//! be lost while a worker has the connection: see [`super::table`]. A worker that leaves bytes unread
//! in the socket says so when it parks the connection.

use std::io;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token};
use parking_lot::{Mutex, MutexGuard};

use crate::net::conn::{Conn, GiveBack, WatchedSlot};
use crate::net::log_limiter::LogLimiter;
use crate::net::socket::{self, Received, Wait};
use crate::protocol::answer::Refusal;
use crate::relay::outcome::{Outcome, Suspended};
use crate::relay::session;
use crate::relay::{Client, Context};
use crate::stop::Stage;

use super::crew::Ticket;
use super::systemd::SystemdReporter;
use super::table::{Parked, Slot, SlotTable, SocketEvent, Waits};

/// How long a client may go on sending after its last answer.
const LINGER: Duration = Duration::from_secs(5);
/// How much it may send in that time, in bytes.
const LINGER_BYTES: u64 = 16 * 1024 * 1024;
/// Connections refused without a permit that may linger at once, if there are file descriptors
/// enough; more are closed at once.
const MOST_UNCOUNTED: usize = 256;
/// How long a head that is incomplete when a drain begins may take: the time a lost packet needs to be
/// sent again. Nobody promised to serve a request that has not come.
const LAST_BYTES: Duration = Duration::from_secs(1);
/// The share of all file descriptors that those may use: they come out of the reserve.
const UNCOUNTED_SHARE: usize = 16;
/// The token of the waker.
const WAKE: Token = Token(0);
/// The token of the listener.
const DOOR: Token = Token(1);
/// The token of the connection at the first slot.
const FIRST: usize = 2;
/// The token of the connection to a next hop at the first slot.
const HOPS: usize = 1 << (usize::BITS - 2);
/// Events taken from the system at once.
const EVENTS: usize = 1024;

/// What is said when the system cannot watch a connection.
static NOT_WATCHED: LogLimiter = LogLimiter::new();

/// The waiting connections, shared by whoever parks one and whoever watches.
#[derive(Debug)]
pub(super) struct Waiter {
    ctx: Arc<Context>,
    service: Arc<SystemdReporter>,
    most_uncounted: usize,
    registry: Registry,
    waker: mio::Waker,
    source: Mutex<EventSource>,
    /// How often somebody has begun to watch.
    watches: AtomicUsize,
    /// Somebody may have come, and nobody has looked since.
    rings: AtomicBool,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    table: SlotTable<Parked>,
    /// Exchanges whose next hops have not answered yet. A slot belongs to the connection to the next hop,
    /// and is kept from one exchange to the next.
    hops: SlotTable<AwaitingAnswer>,
    /// When the watch in progress ends by itself; `None`: it does not.
    wakes_at: Option<Instant>,
    stage: WaiterStage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WaiterStage {
    Running,
    /// Idle connections are closed; half-read heads may still be completed for a moment.
    Draining {
        /// Those that were idle when it began are closed.
        swept: bool,
        /// When that moment is over.
        until: Instant,
    },
    Ended,
}

/// Where events come from.
#[derive(Debug)]
struct EventSource {
    poll: Poll,
    events: Events,
}

/// A client that may have something to say, with its slot.
pub(super) type ReadyClient = (Box<Client>, Option<Slot>);

/// An exchange that waits for the answer of its next hop.
#[derive(Debug)]
pub(super) struct AwaitingAnswer {
    pub(super) suspended: Box<Suspended>,
    /// That of its client.
    pub(super) slot: Option<Slot>,
    pub(super) ticket: Ticket,
}

impl GiveBack for Waiter {
    fn give_back(&self, number: usize) {
        let left = self.held.lock().hops.leave(Slot(number));
        drop(left);
    }
}

impl Waits for AwaitingAnswer {
    fn is_uncounted(&self) -> bool {
        false
    }
}

/// Why an exchange does not wait.
#[derive(Debug)]
pub(super) enum Back {
    /// Something has happened already.
    Ready(AwaitingAnswer),
    /// The system cannot watch its next hop.
    Unwatched(AwaitingAnswer),
}

/// What a watch has found.
#[derive(Debug, Default)]
pub(super) struct ReadyWork {
    /// Clients that may have something to say.
    pub(super) clients: Vec<ReadyClient>,
    /// Exchanges that may go on.
    pub(super) answers: Vec<AwaitingAnswer>,
}

/// What is read away and when that ends.
type ReadAway = (Parked, Instant, Slot);

/// Whether a connection is still to be read away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Linger {
    GoesOn,
    Over,
}

/// The right to wait for events; one thread has it at a time.
#[derive(Debug)]
pub(super) struct WatchGuard<'a> {
    waiter: &'a Waiter,
    source: MutexGuard<'a, EventSource>,
}

/// Numbers for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct WaiterCounts {
    /// Connections that wait for a request or the rest of one.
    pub(super) parked: usize,
    /// Connections that are about to be closed and still hold their permits.
    pub(super) lingering: usize,
}

impl Waiter {
    /// A waiter that holds nothing.
    ///
    /// # Errors
    /// When the process has no file descriptors left.
    pub(super) fn new(ctx: Arc<Context>, service: Arc<SystemdReporter>) -> io::Result<Arc<Self>> {
        let poll = Poll::new()?;
        let files = socket::raise_file_limit();
        Ok(Arc::new(Self {
            ctx,
            service,
            most_uncounted: (files / UNCOUNTED_SHARE).min(MOST_UNCOUNTED),
            registry: poll.registry().try_clone()?,
            waker: mio::Waker::new(poll.registry(), WAKE)?,
            source: Mutex::new(EventSource {
                poll,
                events: Events::with_capacity(EVENTS),
            }),
            watches: AtomicUsize::new(0),
            rings: AtomicBool::new(false),
            held: Mutex::new(Held {
                table: SlotTable::default(),
                hops: SlotTable::default(),
                wakes_at: None,
                stage: WaiterStage::Running,
            }),
        }))
    }

    /// Holds a client until it says something. It is given back when it has done so already.
    pub(super) fn park(&self, mut client: Box<Client>, slot: Option<Slot>) -> Option<ReadyClient> {
        client.conn.shrink();
        let until = client.deadline(&self.ctx.snapshot(), Instant::now());
        let slot = self.slot(&client.conn, slot)?;
        // No event tells of what was there before the last read and was not taken by it.
        if client.conn.may_have_more() {
            return Some((client, Some(slot)));
        }
        match self.add(Parked::Client(client), until, slot)? {
            Parked::Client(client) => Some((client, Some(slot))),
            Parked::Lingering { .. } | Parked::Uncounted { .. } => None,
        }
    }

    /// Holds a client that was answered for the last time until it is done sending.
    pub(super) fn linger(&self, client: Box<Client>, slot: Option<Slot>) {
        let left = LINGER_BYTES;
        let until = Instant::now() + LINGER;
        self.read_away(Parked::Lingering { client, left }, until, slot);
    }

    /// The same for a connection that was refused without a permit.
    pub(super) fn linger_uncounted(&self, conn: Conn) {
        if self.held.lock().table.uncounted() < self.most_uncounted {
            let until = Instant::now() + LINGER;
            let (conn, left) = (Box::new(conn), LINGER_BYTES);
            self.read_away(Parked::Uncounted { conn, left }, until, None);
        }
    }

    /// Holds an exchange until its next hop says something, or until it is time to see whether there is
    /// still a point in waiting.
    pub(super) fn suspend(self: &Arc<Self>, mut waiting: AwaitingAnswer) -> Result<(), Back> {
        let until = waiting.suspended.until();
        let Some(slot) = self.slot_of_hop(waiting.suspended.hop()) else {
            return Err(Back::Unwatched(waiting));
        };
        let mut held = self.held.lock();
        if held.stage == WaiterStage::Ended {
            return Err(Back::Unwatched(waiting));
        }
        if let Err(waiting) = held.hops.wait(slot, waiting, until) {
            return Err(Back::Ready(waiting));
        }
        self.wake_at(held, until);
        Ok(())
    }

    /// The slot of a next hop, which is watched from now on until its connection is closed.
    fn slot_of_hop(self: &Arc<Self>, conn: &mut Conn) -> Option<Slot> {
        if let Some(number) = conn.watched_as() {
            return Some(Slot(number));
        }
        let slot = self.held.lock().hops.admit();
        let waiter: Weak<Self> = Arc::downgrade(self);
        let watched = WatchedSlot::new(slot.0, waiter);
        let fd = conn.stream().as_raw_fd();
        let token = Token(HOPS + slot.0);
        let registered = self
            .registry
            .register(&mut SourceFd(&fd), token, Interest::READABLE);
        if let Err(error) = registered {
            log::debug!("a next hop cannot be watched: {error}");
            return None;
        }
        conn.set_watched(Some(watched));
        Some(slot)
    }

    /// From now on the watch has nothing to do with the events of a next hop.
    pub(super) fn dismiss_hop(&self, conn: &mut Conn) {
        if conn.watched_as().is_some() {
            self.unwatch(conn);
            conn.set_watched(None);
        }
    }

    /// From now on events of `client` are somebody else's business.
    pub(super) fn dismiss(&self, client: &Client, slot: Slot) {
        self.unwatch(&client.conn);
        self.leave(slot);
    }

    fn unwatch(&self, conn: &Conn) {
        let fd = conn.stream().as_raw_fd();
        if let Err(error) = self.registry.deregister(&mut SourceFd(&fd)) {
            log::debug!("a connection was not watched: {error}");
        }
    }

    /// The connection of this slot is closed.
    pub(super) fn leave(&self, slot: Slot) {
        let left = self.held.lock().table.leave(slot);
        drop(left);
    }

    /// As [`Waiter::slot`]; what is there already is reported, too.
    fn slot_anew(&self, conn: &Conn, slot: Option<Slot>) -> Option<Slot> {
        let Some(slot) = slot else {
            return self.slot(conn, None);
        };
        let (fd, token) = (conn.stream().as_raw_fd(), Token(slot.0 + FIRST));
        let again = self
            .registry
            .reregister(&mut SourceFd(&fd), token, Interest::READABLE);
        if let Err(error) = again {
            return self.cannot_watch(slot, &error);
        }
        Some(slot)
    }

    fn cannot_watch(&self, slot: Slot, error: &io::Error) -> Option<Slot> {
        if let Some(more) = NOT_WATCHED.allow() {
            log::warn!("a connection is closed because it cannot be watched: {error}{more}");
        }
        self.leave(slot);
        None
    }

    fn forget(&self, slot: Option<Slot>) {
        if let Some(slot) = slot {
            self.leave(slot);
        }
    }

    /// The slot of `conn`, which is watched from now on if it was not yet. None: it cannot be.
    fn slot(&self, conn: &Conn, slot: Option<Slot>) -> Option<Slot> {
        if slot.is_some() {
            return slot;
        }
        // First a slot, so that no event comes too early.
        let slot = self.held.lock().table.admit();
        let fd = conn.stream().as_raw_fd();
        let registered = self.registry.register(
            &mut SourceFd(&fd),
            Token(slot.0 + FIRST),
            Interest::READABLE,
        );
        if let Err(error) = registered {
            return self.cannot_watch(slot, &error);
        }
        Some(slot)
    }

    /// Lets a connection wait, or closes it when it is too late for that. It is given back when
    /// something has happened on it meanwhile.
    fn add(&self, what: Parked, until: Instant, slot: Slot) -> Option<Parked> {
        let mut held = self.held.lock();
        let until = match held.stage {
            WaiterStage::Running => until,
            WaiterStage::Draining { until: last, .. } if what.is_unfinished() => until.min(last),
            WaiterStage::Draining { .. } if !what.is_idle() => until,
            WaiterStage::Draining { .. } | WaiterStage::Ended => {
                let left = held.table.leave(slot);
                // What is dropped may give back a slot, too.
                drop(held);
                drop(left);
                return None;
            }
        };
        if let Err(what) = held.table.wait(slot, what, until) {
            return Some(what);
        }
        self.wake_at(held, until);
        None
    }

    /// Has the watch in progress end at `until` at the latest.
    fn wake_at(&self, mut held: MutexGuard<'_, Held>, until: Instant) {
        if held.wakes_at.is_none_or(|at| until < at) {
            // Else every other one would wake it, too.
            held.wakes_at = Some(until);
            drop(held);
            self.wake();
        }
    }

    /// Ends the watch in progress, or the next.
    pub(super) fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            log::error!("the waiter cannot be woken: {error}");
        }
    }

    /// Has whoever watches told of new connections, too.
    ///
    /// # Errors
    /// When the system has no memory left for it.
    pub(super) fn watch_door(&self, listener: &impl AsRawFd) -> io::Result<()> {
        let fd = listener.as_raw_fd();
        self.registry
            .register(&mut SourceFd(&fd), DOOR, Interest::READABLE)
    }

    /// The end of that: who passed the listener may keep it open.
    pub(super) fn forget_door(&self, listener: &impl AsRawFd) {
        let fd = listener.as_raw_fd();
        if let Err(error) = self.registry.deregister(&mut SourceFd(&fd)) {
            log::debug!("the listener was not watched: {error}");
        }
    }

    /// More may wait at the door than was taken in.
    pub(super) fn ring(&self) {
        self.rings.store(true, Ordering::Relaxed);
        self.wake();
    }

    /// Whether somebody may wait at the door; whoever asks goes and looks.
    pub(super) fn has_rung(&self) -> bool {
        self.rings.load(Ordering::Relaxed) && self.rings.swap(false, Ordering::Relaxed)
    }

    /// Begins to watch, if nobody does.
    pub(super) fn try_watch(&self) -> Option<WatchGuard<'_>> {
        let source = self.source.try_lock()?;
        self.watches.fetch_add(1, Ordering::Relaxed);
        Some(WatchGuard {
            waiter: self,
            source,
        })
    }

    /// Whether somebody watches.
    pub(super) fn is_watched(&self) -> bool {
        self.source.is_locked()
    }

    /// How often somebody has begun to watch.
    pub(super) fn watches(&self) -> usize {
        self.watches.load(Ordering::Relaxed)
    }

    /// A panic costs the connection at hand, never more.
    fn guarded(&self, act: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(act)).is_err() {
            self.ctx.metrics.panics.increment();
        }
    }

    /// A deadline has passed.
    fn give_up(&self, what: Parked, slot: Slot) {
        match what {
            Parked::Client(client) if client.head_begun.is_some() => {
                let refusal = match self.ctx.stop.stage() {
                    Stage::Running => Refusal::HeadTimeout,
                    Stage::Draining | Stage::Ended => Refusal::Draining,
                };
                self.refuse(client, Some(slot), &refusal);
            }
            // Idle for too long, or lingered enough: closed without a word.
            Parked::Client(_) | Parked::Lingering { .. } | Parked::Uncounted { .. } => {
                self.leave(slot);
            }
        }
    }

    /// Refuses a connection of which no request could be read.
    pub(super) fn refuse(&self, client: Box<Client>, slot: Option<Slot>, refusal: &Refusal) {
        match session::refuse(&self.ctx, client, refusal) {
            Outcome::Park(client) | Outcome::Yield(client) | Outcome::Linger(client) => {
                self.linger(client, slot);
            }
            Outcome::Closed | Outcome::Tunneled | Outcome::Suspended(_) => self.forget(slot),
        }
    }

    /// Reads away what a client sends after its last answer, so that no reset overtakes the answer, and
    /// lets it wait for more.
    fn read_away(&self, mut what: Parked, until: Instant, mut slot: Option<Slot>) {
        while read_once(&mut what) == Linger::GoesOn {
            // What is left unread is reported again, however often it was before.
            let Some(held) = self.slot_anew(what.conn(), slot) else {
                return;
            };
            match self.add(what, until, held) {
                None => return,
                Some(stirred) => what = stirred,
            }
            slot = Some(held);
        }
        drop(what);
        self.forget(slot);
    }

    /// Closes idle connections from now on. What already sent something is still served.
    pub(super) fn drain(&self) {
        let until = Instant::now() + LAST_BYTES;
        let mut held = self.held.lock();
        held.stage = WaiterStage::Draining {
            swept: false,
            until,
        };
        held.table.shorten_deadlines(Parked::is_unfinished, until);
        drop(held);
        self.wake();
    }

    /// Closes everything; nobody needs to watch any more. Returns exchanges that still wait.
    pub(super) fn end(&self) -> Vec<AwaitingAnswer> {
        let mut held = self.held.lock();
        held.stage = WaiterStage::Ended;
        let closed = held.table.take_all(|_| true);
        let waiting = held.hops.take_all(|_| true);
        drop(held);
        drop(closed);
        self.wake();
        waiting
    }

    /// Numbers for people.
    pub(super) fn counts(&self) -> WaiterCounts {
        let held = self.held.lock();
        let mut counts = WaiterCounts::default();
        for (_, what) in held.table.waiting() {
            match what {
                Parked::Client(_) => counts.parked += 1,
                Parked::Lingering { .. } => counts.lingering += 1,
                Parked::Uncounted { .. } => {}
            }
        }
        counts
    }
}

impl WatchGuard<'_> {
    /// Waits until something happens, at most `limit`; adds what is to be served to `found`.
    pub(super) fn wait(mut self, limit: Option<Duration>, found: &mut ReadyWork) {
        let waiter = self.waiter;
        waiter.service.pulses.waiter.beat();
        let Some((timeout, sweeps)) = self.timeout(limit) else {
            return;
        };
        let EventSource { poll, events } = &mut *self.source;
        match poll.poll(events, timeout) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return,
            Err(error) => {
                log::error!("waiting for connections failed: {error}");
                return waiter.ctx.stop.wait(LINGER);
            }
        }
        // A full batch: there may be more that is no longer idle.
        let all_seen = events.iter().count() < EVENTS;
        let (mut away, late) = self.collect(found);
        for (what, until, slot) in late {
            // What came while the whole process stood still is looked at first: see `socket::is_overdue`.
            if !socket::is_readable(what.conn().stream()) {
                waiter.guarded(|| waiter.give_up(what, slot));
            } else if let Parked::Client(client) = what {
                found.clients.push((client, Some(slot)));
            } else {
                away.push((what, until, slot));
            }
        }
        for (what, until, slot) in away {
            waiter.guarded(|| waiter.read_away(what, until, Some(slot)));
        }
        if sweeps && all_seen {
            waiter.drop_idle();
        }
    }

    /// How long to wait, and whether idle connections are dropped then. None: not at all.
    fn timeout(&self, limit: Option<Duration>) -> Option<(Option<Duration>, bool)> {
        let mut held = self.waiter.held.lock();
        if held.stage == WaiterStage::Ended {
            return None;
        }
        // A look at what has arrived until now, and only then idle ones are dropped.
        if let WaiterStage::Draining { swept: false, .. } = held.stage {
            return Some((Some(Duration::ZERO), true));
        }
        let deadlines = [held.table.first_deadline(), held.hops.first_deadline()];
        held.wakes_at = deadlines.into_iter().flatten().min();
        let every = self.waiter.service.pulses.every;
        let left = held
            .wakes_at
            .map(|at| at.saturating_duration_since(Instant::now()));
        Some((left.into_iter().chain(every).chain(limit).min(), false))
    }

    /// Takes what is ready, and what is late, out of the tables.
    fn collect(&self, found: &mut ReadyWork) -> (Vec<ReadAway>, Vec<ReadAway>) {
        let (mut away, mut late) = (Vec::new(), Vec::new());
        let mut held = self.waiter.held.lock();
        for event in &self.source.events {
            let what_happened = if event.is_read_closed() {
                SocketEvent::ReadClosed
            } else {
                SocketEvent::Readable
            };
            if let Some(index) = event.token().0.checked_sub(HOPS) {
                let stirred = held.hops.on_event(Slot(index), what_happened);
                found.answers.extend(stirred.map(|(waiting, _)| waiting));
                continue;
            }
            let Some(index) = event.token().0.checked_sub(FIRST) else {
                if event.token() == DOOR {
                    self.waiter.rings.store(true, Ordering::Relaxed);
                }
                continue;
            };
            let slot = Slot(index);
            match held.table.on_event(slot, what_happened) {
                Some((Parked::Client(client), _)) => found.clients.push((client, Some(slot))),
                Some((what, until)) => away.push((what, until, slot)),
                None => {}
            }
        }
        let now = Instant::now();
        while let Some((what, slot)) = held.table.late(now) {
            late.push((what, now, slot));
        }
        while let Some((waiting, _)) = held.hops.late(now) {
            found.answers.push(waiting);
        }
        (away, late)
    }
}

impl Waiter {
    /// After this, no idle one is taken any more.
    fn drop_idle(&self) {
        let mut held = self.held.lock();
        if let WaiterStage::Draining { swept, .. } = &mut held.stage {
            *swept = true;
        }
        let dropped = held.table.take_all(Parked::is_idle);
        drop(held);
        drop(dropped);
    }
}

/// Reads away a piece of what a client sends after its last answer.
fn read_once(what: &mut Parked) -> Linger {
    let (conn, left) = match what {
        Parked::Client(_) => return Linger::Over,
        Parked::Lingering { client, left } => (&mut client.conn, left),
        Parked::Uncounted { conn, left } => (&mut **conn, left),
    };
    conn.consume(usize::MAX);
    match conn.receive_bulk(Wait::No) {
        Ok(Received::Bytes(count)) => *left = left.saturating_sub(count as u64),
        Ok(Received::Nothing) => {}
        Ok(Received::End) | Err(_) => return Linger::Over,
    }
    conn.consume(usize::MAX);
    conn.shrink();
    if *left == 0 {
        return Linger::Over;
    }
    Linger::GoesOn
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
    use std::os::fd::OwnedFd;

    use super::*;
    use crate::config;
    use crate::net::permits::{PerClient, Permits};
    use crate::net::resolve::Resolver;
    use crate::net::socket::TICK;
    use crate::net::systemd_notifier::SystemdNotifier;
    use crate::relay::Arrival;
    use crate::relay::connections::Connections;

    fn waiter() -> Arc<Waiter> {
        let config = config::parse("listen: 127.0.0.1:0\nupstream: []\n", "c.yaml").unwrap();
        let ctx = Arc::new(Context::new(config, Resolver::default()).unwrap());
        Waiter::new(
            ctx,
            Arc::new(SystemdReporter::new(SystemdNotifier::default())),
        )
        .unwrap()
    }

    /// A client whose head should have come long ago, and its own end.
    fn late_client() -> (Box<Client>, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let far = TcpStream::connect_timeout(&address, Duration::from_secs(10)).unwrap();
        let (near, address) = listener.accept().unwrap();
        let one = Permits::new(1).take(1).unwrap();
        let of_client = Arc::<PerClient>::default();
        let of_client = of_client.take(IpAddr::from([127, 0, 0, 1]), None).unwrap();
        let conn = Conn::new(near, TICK).unwrap();
        let mut client = Client::new(
            conn,
            (address, Arrival::Direct),
            (one, of_client),
            &Connections::off(),
        );
        client.head_begun = Instant::now().checked_sub(Duration::from_secs(3600));
        (Box::new(client), far)
    }

    /// As it happens when the system has told of so many that this one is left for the next time.
    #[test]
    fn a_client_that_has_sent_something_is_not_late_though_nobody_was_told_of_it() {
        let waiter = waiter();
        let (client, mut far) = late_client();
        assert!(waiter.park(client, None).is_none());
        far.write_all(b"\r\n").unwrap();
        let mut watch = waiter.try_watch().unwrap();
        let EventSource { poll, events } = &mut *watch.source;
        while !events.iter().any(|event| event.token() == Token(FIRST)) {
            poll.poll(events, None).unwrap();
        }
        let mut found = ReadyWork::default();
        watch.wait(Some(Duration::ZERO), &mut found);
        assert_eq!(found.clients.len(), 1);
    }

    #[test]
    fn a_client_that_has_sent_nothing_more_is_late() {
        let waiter = waiter();
        let (client, _far) = late_client();
        assert!(waiter.park(client, None).is_none());
        let mut found = ReadyWork::default();
        let watch = waiter.try_watch().unwrap();
        watch.wait(Some(Duration::ZERO), &mut found);
        assert!(found.clients.is_empty());
        assert_eq!(waiter.counts().lingering, 1);
    }

    #[test]
    fn the_table_of_next_hops_is_short_again_when_a_crowd_of_them_is_closed() {
        let waiter = waiter();
        // Any socket does.
        let socket = || UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let hop = || Conn::prepared(OwnedFd::from(socket()).into(), TICK);
        let mut crowd: Vec<Conn> = (0..5000).map(|_| hop()).collect();
        for conn in &mut crowd {
            waiter.slot_of_hop(conn).unwrap();
        }
        let mut last = crowd.pop().unwrap();
        drop(crowd);
        waiter.dismiss_hop(&mut last);
        assert_eq!(waiter.held.lock().hops.len(), 0);
    }
}
