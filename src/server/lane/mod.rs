//! A lane: what one core serves, and no other touches.
//!
//! It has a poll, a table of clients that wait, one of exchanges whose next hop was asked, and a list of what
//! is ready. There is no lock: it is a `Box` that belongs to its leader, a thread that polls and serves on its
//! own stack, with the relay as it is ([`super::worker`]). Before it may have to wait for a peer, the leader
//! hands the lane on to another thread ([`super::followers`]), and goes on as a follower; the client it has
//! served then comes back through the [`super::inbox`]. An exchange whose next hop has not answered waits in the
//! table, without a thread.
//!
//! Registration is edge-triggered and lasts as long as the connection, so what an event says must not be lost
//! while a connection is served: see [`super::table`].

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::net::conn::{Conn, WatchedSlot};
use crate::net::log_limiter::LogLimiter;
use crate::net::permits::{Permit, one_client};
use crate::net::socket::{self, Received, Wait};
use crate::protocol::answer::Refusal;
use crate::relay::outcome::{Outcome, Suspended};
use crate::relay::session;
use crate::relay::{Client, Snapshot};
use crate::stop::Stage;

use super::acceptor::{Left, Newcomer};
use super::budget::{Held, Waiting, WaitsForPermits, WorkPermit};
use super::inbox::{LaneHandle, Lent, Mail, Served};
use super::shared::Shared;
use super::table::{Parked, Slot, SlotTable, SocketEvent, Waits};

/// How long a client may go on sending after its last answer.
const LINGER: Duration = Duration::from_secs(5);
/// How much it may send in that time, in bytes.
const LINGER_BYTES: u64 = 16 * 1024 * 1024;
/// How long a head that is incomplete when a drain begins may take: the time a lost packet needs to be
/// sent again. Nobody promised to serve a request that has not come.
const LAST_BYTES: Duration = Duration::from_secs(1);
/// The first and the longest pause when there are no descriptors.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// How much later than it should a leader may look again; later, the whole process stood still.
const SLACK: Duration = Duration::from_millis(250);
/// How long what is ready may wait while another lane has nothing to do.
const LATE: Duration = Duration::from_millis(1);
/// How often a lane looks for exchanges that last while clients wait for a permit.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The token of the listener; the one before it is the waker's.
const LISTENER: Token = Token(1);
/// The token of the client at the first slot.
const FIRST: usize = 2;
/// The token of the connection to a next hop at the first slot.
const HOPS: usize = 1 << (usize::BITS - 2);
/// Events taken from the system at once.
const EVENTS: usize = 1024;

/// What is said when the system cannot watch a connection.
static NOT_WATCHED: LogLimiter = LogLimiter::new();

/// What one core serves.
#[derive(Debug)]
pub(super) struct Lane {
    shared: Arc<Shared>,
    handle: Arc<LaneHandle>,
    poll: Poll,
    events: Events,
    clients: SlotTable<Parked>,
    /// Exchanges whose next hops have not answered yet. A slot belongs to the connection to the next hop,
    /// and is kept from one exchange to the next.
    hops: SlotTable<Awaiting>,
    ready: VecDeque<Ready>,
    /// How many of `ready` are still served before the next look at the sockets: those that were there at the
    /// last look.
    pass: usize,
    /// When that last look was.
    pass_begun: Instant,
    /// Clients for which there is no permit.
    waiting: VecDeque<WaitingClient>,
    /// Exchanges that followers serve.
    lent: Vec<Arc<Lent>>,
    newcomers: Newcomers,
    stage: LaneStage,
    /// The configuration as of the last look.
    snapshot: Arc<Snapshot>,
    mail: Vec<Mail>,
}

/// What can be served.
#[derive(Debug)]
enum Ready {
    /// With its permit, if it has waited for one.
    Begin(Box<Client>, Option<Slot>, Option<Held>),
    Resume(Awaiting),
}

/// An exchange that waits for the answer of its next hop.
#[derive(Debug)]
struct Awaiting {
    suspended: Box<Suspended>,
    /// That of its client.
    slot: Option<Slot>,
    held: Option<Held>,
    /// Whether it may wait here, without a thread. Not if the system cannot watch its next hop: then the thread
    /// that resumes it waits.
    may_suspend: bool,
}

impl Waits for Awaiting {
    fn kind(&self) -> usize {
        0
    }
}

/// A client with a request and no permit for it.
#[derive(Debug)]
struct WaitingClient {
    client: Box<Client>,
    slot: Option<Slot>,
    address: IpAddr,
    since: Instant,
    /// Its place in the queue.
    _place: Permit,
}

/// Whether connections wait to be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Newcomers {
    None,
    Some,
    /// There are no descriptors for them.
    Stuck {
        until: Instant,
        pause: Duration,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LaneStage {
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

/// One thing to serve.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) work: Work,
    /// That of the client.
    pub(super) slot: Option<Slot>,
    /// The permit of its exchange, if that has begun.
    pub(super) held: Option<Held>,
    pub(super) may_suspend: bool,
}

#[derive(Debug)]
pub(super) enum Work {
    Begin(Box<Client>),
    Resume(Box<Suspended>),
}

/// Whether a connection is still to be read away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Linger {
    GoesOn,
    Over,
}

impl Lane {
    /// A lane that is told of new connections.
    ///
    /// # Errors
    /// When the system has no memory left.
    pub(super) fn new(
        shared: &Arc<Shared>,
        poll: Poll,
        handle: &Arc<LaneHandle>,
    ) -> io::Result<Self> {
        let listens = |listener: &TcpListener| watch_listener(&poll, listener);
        shared.acceptor.with(listens).transpose()?;
        Ok(Self {
            snapshot: shared.ctx.snapshot(),
            shared: Arc::clone(shared),
            handle: Arc::clone(handle),
            poll,
            events: Events::with_capacity(EVENTS),
            clients: SlotTable::default(),
            hops: SlotTable::default(),
            ready: VecDeque::new(),
            pass: 0,
            pass_begun: Instant::now(),
            waiting: VecDeque::new(),
            lent: Vec::new(),
            newcomers: Newcomers::None,
            stage: LaneStage::Running,
            mail: Vec::new(),
        })
    }

    /// What others know of it, and what it shares with them.
    pub(super) fn outside(&self) -> (Arc<Shared>, Arc<LaneHandle>) {
        (Arc::clone(&self.shared), Arc::clone(&self.handle))
    }

    /// The configuration in force.
    pub(super) fn snapshot(&mut self) -> Arc<Snapshot> {
        self.shared.ctx.refresh(&mut self.snapshot);
        Arc::clone(&self.snapshot)
    }

    /// The next thing to serve; waits for it. `None`: the lane has ended.
    pub(super) fn next_task(&mut self) -> Option<Task> {
        loop {
            if self.pass > 0
                && let Some(ready) = self.ready.pop_front()
            {
                self.pass -= 1;
                return Some(match ready {
                    Ready::Resume(awaiting) => Task {
                        work: Work::Resume(awaiting.suspended),
                        slot: awaiting.slot,
                        held: awaiting.held,
                        may_suspend: awaiting.may_suspend,
                    },
                    Ready::Begin(client, slot, held) => Task {
                        work: Work::Begin(client),
                        slot,
                        held,
                        may_suspend: true,
                    },
                });
            }
            if !self.round() {
                return None;
            }
        }
    }

    /// There is a permit for a client from `address`. If none waits any more, it goes back
    /// to the budget, which passes it on.
    fn permit_came(&mut self, address: IpAddr, permit: WorkPermit) {
        let mut all = self.waiting.iter();
        let place = all.position(|waiting| waiting.address == address);
        if let Some(mut first) = place.and_then(|place| self.waiting.remove(place)) {
            first.client.has_waited(first.since.elapsed());
            let held = Some(Held::Work(permit));
            let ready = Ready::Begin(first.client, first.slot, held);
            self.ready.push_back(ready);
        }
    }

    /// There is no permit for this client.
    fn let_wait(&mut self, client: Box<Client>, slot: Option<Slot>) {
        let Some(place) = self.shared.queue.take(1) else {
            return self.guarded(|lane| lane.refuse(client, slot, &Refusal::QueueFull));
        };
        let address = one_client(client.address.ip());
        self.waiting.push_back(WaitingClient {
            client,
            slot,
            address,
            since: Instant::now(),
            _place: place,
        });
        if self.shared.budget.stand_in_line(address, self.receiver()) {
            // Every lane is to look for exchanges that last.
            self.shared.wake();
        }
    }

    /// Where its permits come.
    fn receiver(&self) -> Arc<dyn WaitsForPermits> {
        Arc::<LaneHandle>::clone(&self.handle)
    }

    /// A follower serves this exchange from now on.
    pub(super) fn lends(&mut self, lent: &Arc<Lent>) {
        self.lent.push(Arc::clone(lent));
    }

    /// It does so no more.
    pub(super) fn is_back(&mut self, lent: &Arc<Lent>) {
        let place = self.lent.iter().position(|other| Arc::ptr_eq(other, lent));
        if let Some(place) = place {
            self.lent.swap_remove(place);
        }
    }

    /// Exchanges that last give up their permits for those who stand in line.
    fn make_room(&mut self, now: Instant) {
        for lent in &self.lent {
            lent.lasts(now);
        }
        for waiting in self.hops.waiting_mut() {
            let since = waiting.suspended.since();
            if let Some(held) = &mut waiting.held {
                held.lasts(since, now, Waiting::WithoutThread);
            }
        }
    }

    /// Sees what is to be done with what was served.
    pub(super) fn settle(&mut self, served: Served) {
        let Served {
            outcome,
            slot,
            held,
            lent,
        } = served;
        if let Some(lent) = lent {
            self.is_back(&lent);
        }
        match outcome {
            Outcome::Park(client) => self.park(client, slot),
            Outcome::Wait(client) => self.let_wait(client, slot),
            Outcome::Yield(client) => self.ready.push_back(Ready::Begin(client, slot, None)),
            Outcome::Linger(client) => self.linger(client, slot),
            Outcome::Closed | Outcome::Tunneled => self.forget(slot),
            Outcome::Suspended(suspended) => {
                self.suspend(Awaiting {
                    suspended,
                    slot,
                    held,
                    may_suspend: true,
                });
            }
        }
    }

    /// A panic costs the connection at hand, never more.
    fn guarded(&mut self, act: impl FnOnce(&mut Self)) {
        if catch_unwind(AssertUnwindSafe(|| act(self))).is_err() {
            self.shared.ctx.metrics.panics.increment();
        }
    }

    /// Waits until something happens. `false`: the lane has ended.
    fn round(&mut self) -> bool {
        let begun = Instant::now();
        self.handle.pulse.beat(begun);
        self.publish();
        let is_late = begun.saturating_duration_since(self.pass_begun) >= LATE;
        let (timeout, sweeps) = self.timeout(begun);
        let may_sleep = timeout != Some(Duration::ZERO) && self.handle.falls_asleep();
        let timeout = if may_sleep {
            timeout
        } else {
            Some(Duration::ZERO)
        };
        let polled = self.poll.poll(&mut self.events, timeout);
        self.handle.awakes();
        if let Err(error) = polled {
            self.events.clear();
            // A process that stood still is interrupted, too.
            if error.kind() != io::ErrorKind::Interrupted {
                log::error!("waiting for connections failed: {error}");
                self.shared.ctx.stop.wait(LINGER);
            }
        }
        let now = Instant::now();
        self.excuse(now, timeout);
        self.see_to(now, (sweeps, is_late))
    }

    /// Does what there is to do once the system has told what has happened. `false`: the lane has ended.
    fn see_to(&mut self, now: Instant, (sweeps, is_late): (bool, bool)) -> bool {
        self.shared.ctx.refresh(&mut self.snapshot);
        self.collect();
        self.read_mail();
        self.take_in(now);
        self.give_up_late(now);
        if self.shared.budget.is_wanted() {
            self.make_room(now);
        }
        // After a full batch there may be more that is no longer idle.
        if sweeps && self.events.iter().count() < EVENTS {
            self.drop_idle();
        }
        if is_late {
            self.give_away();
        }
        self.pass = self.ready.len();
        self.pass_begun = now;
        self.stage != LaneStage::Ended
    }

    /// What is ready here had to wait: another lane that has nothing to do gets the last half of it.
    fn give_away(&mut self) {
        let kept = self.ready.len().div_ceil(2);
        if kept == self.ready.len() {
            return;
        }
        let Some(idle) = self.shared.idle_lane().map(Arc::clone) else {
            return;
        };
        for ready in self.ready.split_off(kept) {
            match ready {
                Ready::Begin(client, slot, None) => {
                    if slot.is_some() {
                        self.handle.unwatch(client.conn.stream().as_raw_fd());
                        self.forget(slot);
                    }
                    drop(idle.post(Mail::Newcomer(Newcomer::Client(client))));
                }
                ready @ (Ready::Begin(..) | Ready::Resume(_)) => self.ready.push_back(ready),
            }
        }
    }

    /// Tells others.
    fn publish(&self) {
        let load = self.clients.occupied() + self.ready.len() + self.waiting.len();
        let [parked, lingering, _] = self.clients.counts();
        self.handle.load.store(load, Ordering::Relaxed);
        self.handle.parked.store(parked, Ordering::Relaxed);
        self.handle.lingering.store(lingering, Ordering::Relaxed);
    }

    /// How long to wait, and whether idle connections are dropped then.
    fn timeout(&self, now: Instant) -> (Option<Duration>, bool) {
        // A look at what has arrived until now, and only then idle ones are dropped.
        if let LaneStage::Draining { swept: false, .. } = self.stage {
            return (Some(Duration::ZERO), true);
        }
        let accepts = match self.newcomers {
            Newcomers::None => None,
            Newcomers::Some => Some(now),
            Newcomers::Stuck { until, .. } => Some(until),
        };
        if !self.ready.is_empty() || accepts == Some(now) || self.stage == LaneStage::Ended {
            return (Some(Duration::ZERO), false);
        }
        let first = self
            .waiting
            .front()
            .map(|first| first.since + self.patience());
        let deadlines = [
            self.clients.first_deadline(),
            self.hops.first_deadline(),
            first,
            accepts,
        ];
        let until = deadlines.into_iter().flatten().min();
        let left = until.map(|at| at.saturating_duration_since(now));
        let look = self.shared.budget.is_wanted().then_some(LOOK_EVERY);
        let limits = [left, look, self.shared.wakes_every];
        (limits.into_iter().flatten().min(), false)
    }

    fn patience(&self) -> Duration {
        self.snapshot.config.limits.queue_timeout
    }

    /// While the whole process stood still no client was served: that is not counted as waiting.
    fn excuse(&mut self, now: Instant, timeout: Option<Duration>) {
        let passed = now.saturating_duration_since(self.pass_begun);
        let too_late = passed.saturating_sub(timeout.unwrap_or(passed));
        if too_late > SLACK {
            for waiting in &mut self.waiting {
                waiting.since = (waiting.since + passed).min(now);
            }
        }
    }

    /// Takes what is ready out of the tables.
    fn collect(&mut self) {
        let mut left = Vec::new();
        for event in &self.events {
            let what_happened = if event.is_read_closed() {
                SocketEvent::ReadClosed
            } else {
                SocketEvent::Readable
            };
            if let Some(index) = event.token().0.checked_sub(HOPS) {
                let stirred = self.hops.on_event(Slot(index), what_happened);
                let stirred = stirred.map(|(waiting, _)| Ready::Resume(waiting));
                self.ready.extend(stirred);
                continue;
            }
            let Some(index) = event.token().0.checked_sub(FIRST) else {
                if event.token() == LISTENER && self.newcomers == Newcomers::None {
                    self.newcomers = Newcomers::Some;
                }
                continue;
            };
            let slot = Slot(index);
            match self.clients.on_event(slot, what_happened) {
                Some((Parked::Client(client), _)) => {
                    self.ready.push_back(Ready::Begin(client, Some(slot), None));
                }
                Some((what, until)) => left.push((what, until, slot)),
                None => {}
            }
        }
        for (what, until, slot) in left {
            self.guarded(|lane| lane.read_away(what, until, Some(slot)));
        }
    }

    fn read_mail(&mut self) {
        let mut mail = std::mem::take(&mut self.mail);
        self.handle.read(&mut mail);
        mail.drain(..).for_each(|mail| self.receive(mail));
        self.mail = mail;
    }

    fn receive(&mut self, mail: Mail) {
        match mail {
            Mail::Newcomer(newcomer) => self.welcome(newcomer),
            Mail::Done(served) => self.settle(served),
            Mail::Permit(address, permit) => self.permit_came(address, permit),
            Mail::ClientLeft(slot) => self.leave(slot),
            Mail::HopLeft(slot) => drop(self.hops.leave(slot)),
            Mail::Drain => {
                let until = Instant::now() + LAST_BYTES;
                self.stage = LaneStage::Draining {
                    swept: false,
                    until,
                };
                self.clients.shorten_deadlines(Parked::is_unfinished, until);
            }
            Mail::End => self.stage = LaneStage::Ended,
        }
    }

    /// Takes in new connections; those that another lane has more room for go there.
    fn take_in(&mut self, now: Instant) {
        let pause = match self.newcomers {
            Newcomers::None => return,
            Newcomers::Stuck { until, .. } if now < until => return,
            Newcomers::Some => PAUSES.0,
            Newcomers::Stuck { pause, .. } => (pause * 2).min(PAUSES.1),
        };
        if self.stage != LaneStage::Running || self.shared.ctx.stop.stage() != Stage::Running {
            self.newcomers = Newcomers::None;
            return; // What is left is for the drain, or for the next process.
        }
        let (shared, handle) = self.outside();
        let snapshot = Arc::clone(&self.snapshot);
        let mut welcome = |newcomer| match shared.emptiest(&handle) {
            None => self.welcome(newcomer),
            Some(other) => drop(other.post(Mail::Newcomer(newcomer))),
        };
        let left = shared.acceptor.take_in(&snapshot, &mut welcome);
        self.newcomers = match left {
            Left::Nothing => Newcomers::None,
            Left::Some => Newcomers::Some,
            Left::Stuck => Newcomers::Stuck {
                until: now + pause,
                pause,
            },
        };
    }

    fn welcome(&mut self, newcomer: Newcomer) {
        match newcomer {
            // Its request is mostly there already.
            Newcomer::Client(client) => self.ready.push_back(Ready::Begin(client, None, None)),
            Newcomer::Refused(conn) => self.guarded(|lane| lane.linger_uncounted(conn)),
        }
    }

    /// Holds a client until it says something.
    fn park(&mut self, client: Box<Client>, slot: Option<Slot>) {
        let until = client.deadline(&self.snapshot, Instant::now());
        let Some(slot) = self.slot(&client.conn, slot) else {
            return;
        };
        // No event tells of what was there before the last read and was not taken by it.
        if client.conn.may_have_more() {
            return self.ready.push_back(Ready::Begin(client, Some(slot), None));
        }
        if let Some(Parked::Client(client)) = self.add(Parked::Client(client), until, slot) {
            self.ready.push_back(Ready::Begin(client, Some(slot), None));
        }
    }

    /// Holds a client that was answered for the last time until it is done sending.
    fn linger(&mut self, client: Box<Client>, slot: Option<Slot>) {
        let left = LINGER_BYTES;
        let until = Instant::now() + LINGER;
        self.guarded(|lane| lane.read_away(Parked::Lingering { client, left }, until, slot));
    }

    /// The same for a connection that was refused without a permit.
    fn linger_uncounted(&mut self, conn: Box<Conn>) {
        let [_, _, uncounted] = self.clients.counts();
        if uncounted < self.shared.most_uncounted {
            let until = Instant::now() + LINGER;
            let left = LINGER_BYTES;
            self.read_away(Parked::Uncounted { conn, left }, until, None);
        }
    }

    /// Holds an exchange until its next hop says something, or until it is time to see whether there is
    /// still a point in waiting.
    fn suspend(&mut self, mut waiting: Awaiting) {
        let until = waiting.suspended.until();
        let Some(slot) = self.slot_of_hop(waiting.suspended.hop()) else {
            waiting.may_suspend = false;
            return self.ready.push_back(Ready::Resume(waiting));
        };
        // No event tells of what was there before the last read and was not taken by it.
        if waiting.suspended.hop().may_have_more() {
            return self.ready.push_back(Ready::Resume(waiting));
        }
        if let Err(waiting) = self.hops.wait(slot, waiting, until) {
            self.ready.push_back(Ready::Resume(waiting));
        }
    }

    /// The slot of a next hop, which is watched here from now on until its connection is closed.
    fn slot_of_hop(&mut self, conn: &mut Conn) -> Option<Slot> {
        match conn.watched_as() {
            Some((home, number)) if home == self.handle.number => return Some(Slot(number)),
            Some(_) => self.shared.unwatch_hop(conn),
            None => {}
        }
        let slot = self.hops.admit();
        let table: Weak<LaneHandle> = Arc::downgrade(&self.handle);
        let watched = WatchedSlot::new((self.handle.number, slot.0), table);
        if let Err(error) = self.watch(conn, Token(HOPS + slot.0)) {
            log::debug!("a next hop cannot be watched: {error}");
            return None;
        }
        conn.set_watched(Some(watched));
        Some(slot)
    }

    fn watch(&self, conn: &Conn, token: Token) -> io::Result<()> {
        let fd = conn.stream().as_raw_fd();
        let registry = self.poll.registry();
        registry.register(&mut SourceFd(&fd), token, Interest::READABLE)
    }

    /// The connection of this slot is closed, or watched no longer.
    fn leave(&mut self, slot: Slot) {
        drop(self.clients.leave(slot));
    }

    /// As [`Lane::leave`], if it has one.
    pub(super) fn forget(&mut self, slot: Option<Slot>) {
        if let Some(slot) = slot {
            self.leave(slot);
        }
    }

    fn cannot_watch(&mut self, slot: Slot, error: &io::Error) -> Option<Slot> {
        if let Some(more) = NOT_WATCHED.allow() {
            log::warn!("a connection is closed because it cannot be watched: {error}{more}");
        }
        self.leave(slot);
        None
    }

    /// The slot of `conn`, which is watched from now on if it was not yet. None: it cannot be.
    fn slot(&mut self, conn: &Conn, slot: Option<Slot>) -> Option<Slot> {
        if slot.is_some() {
            return slot;
        }
        let slot = self.clients.admit();
        match self.watch(conn, Token(slot.0 + FIRST)) {
            Ok(()) => Some(slot),
            Err(error) => self.cannot_watch(slot, &error),
        }
    }

    /// As [`Lane::slot`]; what is there already is reported, too.
    fn slot_anew(&mut self, conn: &Conn, slot: Option<Slot>) -> Option<Slot> {
        let Some(slot) = slot else {
            return self.slot(conn, None);
        };
        let (fd, token) = (conn.stream().as_raw_fd(), Token(slot.0 + FIRST));
        let registry = self.poll.registry();
        match registry.reregister(&mut SourceFd(&fd), token, Interest::READABLE) {
            Ok(()) => Some(slot),
            Err(error) => self.cannot_watch(slot, &error),
        }
    }

    /// Lets a connection wait, or closes it when it is too late for that. It is given back when
    /// something has happened on it meanwhile.
    fn add(&mut self, what: Parked, until: Instant, slot: Slot) -> Option<Parked> {
        let until = match self.stage {
            LaneStage::Running => until,
            LaneStage::Draining { until: last, .. } if what.is_unfinished() => until.min(last),
            LaneStage::Draining { .. } if !what.is_idle() => until,
            LaneStage::Draining { .. } | LaneStage::Ended => {
                drop(what);
                self.leave(slot);
                return None;
            }
        };
        self.clients.wait(slot, what, until).err()
    }

    fn give_up_late(&mut self, now: Instant) {
        while let Some((what, slot)) = self.clients.late(now) {
            // What came while the whole process stood still is looked at first: see `socket::is_overdue`.
            if !socket::is_readable(what.conn().stream()) {
                self.guarded(|lane| lane.give_up(what, slot));
            } else if let Parked::Client(client) = what {
                self.ready.push_back(Ready::Begin(client, Some(slot), None));
            } else {
                self.guarded(|lane| lane.read_away(what, now, Some(slot)));
            }
        }
        while let Some((waiting, _)) = self.hops.late(now) {
            self.ready.push_back(Ready::Resume(waiting));
        }
        let patience = self.patience();
        while let Some(first) = self.waiting.front()
            && now.saturating_duration_since(first.since) >= patience
            && let Some(mut first) = self.waiting.pop_front()
        {
            first.client.has_waited(first.since.elapsed());
            self.shared
                .budget
                .leave_line(first.address, &self.receiver());
            self.guarded(|lane| lane.refuse(first.client, first.slot, &Refusal::QueueTimeout));
        }
    }

    /// A deadline has passed.
    fn give_up(&mut self, what: Parked, slot: Slot) {
        match what {
            Parked::Client(client) if client.head_begun.is_some() => {
                let refusal = match self.shared.ctx.stop.stage() {
                    Stage::Running => Refusal::HeadTimeout,
                    Stage::Draining | Stage::Ended => Refusal::Draining,
                };
                self.refuse(client, Some(slot), &refusal);
            }
            // Idle for too long, or lingered enough: closed without a word.
            Parked::Client(_) | Parked::Lingering { .. } | Parked::Uncounted { .. } => {
                drop(what);
                self.leave(slot);
            }
        }
    }

    /// Refuses a connection of which no request could be read.
    fn refuse(&mut self, client: Box<Client>, slot: Option<Slot>, refusal: &Refusal) {
        let client = session::refuse(&self.shared.ctx, client, refusal);
        self.linger(client, slot);
    }

    /// Reads away what a client sends after its last answer, so that no reset overtakes the answer, and
    /// lets it wait for more.
    fn read_away(&mut self, mut what: Parked, until: Instant, mut slot: Option<Slot>) {
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

    /// After this, no idle one is taken any more.
    fn drop_idle(&mut self) {
        if let LaneStage::Draining { swept, .. } = &mut self.stage {
            *swept = true;
        }
        drop(self.clients.take_all(Parked::is_idle));
    }

    /// Clients wait for permits no more.
    fn leave_line(&mut self) {
        for waiting in std::mem::take(&mut self.waiting) {
            let budget = &self.shared.budget;
            budget.leave_line(waiting.address, &self.receiver());
        }
    }

    /// Closes everything but exchanges that are not over.
    pub(super) fn end(mut self: Box<Self>) -> Vec<Suspended> {
        self.stage = LaneStage::Ended;
        self.leave_line(); // Or each of their permits would be given back in giving back the one before it.
        for mail in self.handle.close() {
            self.receive(mail);
        }
        self.leave_line();
        drop(self.clients.take_all(|_| true));
        let mut left = self.hops.take_all(|_| true);
        for ready in std::mem::take(&mut self.ready) {
            if let Ready::Resume(awaiting) = ready {
                left.push(awaiting);
            }
        }
        self.publish();
        left.into_iter()
            .map(|awaiting| *awaiting.suspended)
            .collect()
    }
}

/// Has the leader told of new connections; of all leaders that sleep one is enough.
#[cfg(target_os = "linux")]
fn watch_listener(poll: &Poll, listener: &TcpListener) -> io::Result<()> {
    use rustix::event::epoll::{self, EventFlags};
    let flags = EventFlags::IN | EventFlags::ET | EventFlags::EXCLUSIVE;
    let data = epoll::EventData::new_u64(LISTENER.0 as u64);
    match epoll::add(poll.registry(), listener, data, flags) {
        // An old system, or one that only looks like Linux.
        Err(rustix::io::Errno::INVAL) => watch_shared_listener(poll, listener),
        added => Ok(added?),
    }
}

#[cfg(not(target_os = "linux"))]
fn watch_listener(poll: &Poll, listener: &TcpListener) -> io::Result<()> {
    watch_shared_listener(poll, listener)
}

/// The same where all leaders are told.
fn watch_shared_listener(poll: &Poll, listener: &TcpListener) -> io::Result<()> {
    let fd = listener.as_raw_fd();
    let mut source = SourceFd(&fd);
    poll.registry()
        .register(&mut source, LISTENER, Interest::READABLE)
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
mod tests;

#[cfg(test)]
mod orders {
    mod tests;
}
