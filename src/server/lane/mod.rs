//! A lane: what one core serves, and nobody else touches.
//!
//! It has a poll, a table of clients that wait, one of exchanges whose next hop was asked, and a list of what
//! is ready. There is no lock: it is a `Box` that belongs to its leader, a thread that polls and serves on its
//! own stack, with the relay as it is. Before it may have to wait for a peer, the leader hands the lane on to
//! another thread ([`followers`]), and goes on as a follower; what it has served then comes back through the
//! [`inbox`]. An exchange whose next hop has not answered waits in the table, without a thread.
//!
//! Registration is edge-triggered and lasts as long as the connection, so what an event says must not be lost
//! while a connection is served: see [`super::table`].

pub(super) mod followers;
pub(super) mod inbox;
mod seat;

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::net::buffer::Buffer;
use crate::net::conn::{Conn, WatchedSlot};
use crate::net::log_limiter::LogLimiter;
use crate::net::permits::{Permit, one_client};
use crate::net::socket::{self, Received, Wait};
use crate::protocol::answer::Refusal;
use crate::relay::outcome::{Outcome, Suspended};
use crate::relay::session;
use crate::relay::{Client, Snapshot};
use crate::stop::Stage;

use super::budget::{Held, WorkPermit};
use super::door::{Arrivals, Left};
use super::lanes::Lanes;
use super::table::{Parked, Slot, SlotTable, SocketEvent, Waits};

use inbox::{Handle, Mail};
use seat::Away;

/// How long a client may go on sending after its last answer.
const LINGER: Duration = Duration::from_secs(5);
/// How much it may send in that time, in bytes.
const LINGER_BYTES: u64 = 16 * 1024 * 1024;
/// How long a head that is incomplete when a drain begins may take: the time a lost packet needs to be
/// sent again. Nobody promised to serve a request that has not come.
const LAST_BYTES: Duration = Duration::from_secs(1);
/// The first and the longest pause when there are no descriptors.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// How much later than it should a leader may wake up; later, the whole process stood still.
const SLACK: Duration = Duration::from_millis(250);
/// How often a lane looks for exchanges that last while clients wait for a permit.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The token of the waker.
const WAKE: Token = Token(0);
/// The token of the listener.
const DOOR: Token = Token(1);
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
    lanes: Arc<Lanes>,
    handle: Arc<Handle>,
    poll: Poll,
    events: Events,
    clients: SlotTable<Parked>,
    /// Exchanges whose next hops have not answered yet. A slot belongs to the connection to the next hop,
    /// and is kept from one exchange to the next.
    hops: SlotTable<Awaiting>,
    ready: VecDeque<Ready>,
    /// So many of them come before the next look at the sockets.
    pass: usize,
    /// Clients for which there is no permit.
    waiting: VecDeque<WaitingClient>,
    /// Exchanges that followers serve.
    away: Vec<Arc<Away>>,
    door: DoorState,
    stage: LaneStage,
    /// The configuration as of the last round.
    snapshot: Arc<Snapshot>,
    arrivals: Arrivals,
    mail: Vec<Mail>,
    memory: Buffer,
}

/// What can be served.
#[derive(Debug)]
enum Ready {
    Begin(Box<Client>, Option<Slot>),
    /// The same, with its permit.
    Permitted(Task),
    Resume(Awaiting),
}

/// An exchange that waits for the answer of its next hop.
#[derive(Debug)]
struct Awaiting {
    suspended: Box<Suspended>,
    /// That of its client.
    slot: Option<Slot>,
    held: Option<Held>,
    /// Whether it may do so without a thread: the system can watch its next hop.
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

/// Whether anyone is at the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DoorState {
    Quiet,
    Rings,
    /// There are no descriptors.
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
struct Task {
    work: Work,
    slot: Option<Slot>,
    /// The permit of its exchange, if that has begun.
    held: Option<Held>,
    may_suspend: bool,
}

#[derive(Debug)]
enum Work {
    Begin(Box<Client>),
    Resume(Box<Suspended>),
}

/// What has become of it.
#[derive(Debug)]
pub(super) struct Back {
    outcome: Outcome,
    slot: Option<Slot>,
    /// The permit of an exchange that is not over.
    held: Option<Held>,
    /// As what its lane knew it while a follower served it.
    away: Option<Arc<Away>>,
}

impl Back {
    /// Ends it: there is no lane any more.
    fn is_over(self, lanes: &Lanes) {
        match self.outcome {
            Outcome::Suspended(suspended) => seat::cut(lanes, *suspended),
            Outcome::Park(_)
            | Outcome::Wait(_)
            | Outcome::Yield(_)
            | Outcome::Linger(_)
            | Outcome::Closed
            | Outcome::Tunneled => {}
        }
    }
}

/// Whether a connection is still to be read away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Linger {
    GoesOn,
    Over,
}

/// The poll of a lane that is yet to be, and what others know of it.
///
/// # Errors
/// When the process has no file descriptors left.
pub(super) fn poll(number: usize) -> io::Result<(Poll, Arc<Handle>)> {
    let poll = Poll::new()?;
    let handle = Handle::new(number, &poll)?;
    Ok((poll, Arc::new(handle)))
}

impl Lane {
    /// A lane that is told of new connections.
    ///
    /// # Errors
    /// When the system has no memory left.
    pub(super) fn new(
        lanes: &Arc<Lanes>,
        poll: Poll,
        handle: &Arc<Handle>,
    ) -> io::Result<Box<Self>> {
        let watched = lanes.door.with(|listener| watch_door(&poll, listener));
        watched.transpose()?;
        Ok(Box::new(Self {
            snapshot: lanes.ctx.snapshot(),
            lanes: Arc::clone(lanes),
            handle: Arc::clone(handle),
            poll,
            events: Events::with_capacity(EVENTS),
            clients: SlotTable::default(),
            hops: SlotTable::default(),
            ready: VecDeque::new(),
            pass: 0,
            waiting: VecDeque::new(),
            away: Vec::new(),
            door: DoorState::Quiet,
            stage: LaneStage::Running,
            arrivals: Arrivals::default(),
            mail: Vec::new(),
            memory: Buffer::default(),
        }))
    }

    /// The next thing to serve; waits for it. `None`: the lane has ended.
    fn next_task(&mut self) -> Option<Task> {
        loop {
            while self.pass > 0
                && let Some(ready) = self.ready.pop_front()
            {
                self.pass -= 1;
                match ready {
                    Ready::Resume(awaiting) => {
                        return Some(Task {
                            work: Work::Resume(awaiting.suspended),
                            slot: awaiting.slot,
                            held: awaiting.held,
                            may_suspend: awaiting.may_suspend,
                        });
                    }
                    Ready::Begin(client, slot) => return Some(begin(client, slot, None)),
                    Ready::Permitted(task) => return Some(task),
                }
            }
            if !self.round() {
                return None;
            }
        }
    }

    /// There is a permit for a client from `address`. If none waits any more, another has it.
    fn permit_came(&mut self, address: IpAddr, permit: WorkPermit) {
        let mut all = self.waiting.iter();
        let place = all.position(|waiting| waiting.address == address);
        if let Some(first) = place.and_then(|place| self.waiting.remove(place)) {
            let held = Some(Held::Work(permit));
            let task = begin(first.client, first.slot, held);
            self.ready.push_back(Ready::Permitted(task));
        }
    }

    /// There is no permit for this client.
    fn let_wait(&mut self, client: Box<Client>, slot: Option<Slot>) {
        let Some(place) = self.lanes.queue.take(1) else {
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
        if self.lanes.budget.stand_in_line(address, &self.handle) {
            // Every lane is to look for exchanges that last.
            self.lanes.wake();
        }
    }

    /// A follower serves this exchange from now on.
    fn lends(&mut self, away: &Arc<Away>) {
        self.away.push(Arc::clone(away));
    }

    /// It does so no more.
    fn is_back(&mut self, away: &Arc<Away>) {
        let place = self.away.iter().position(|other| Arc::ptr_eq(other, away));
        if let Some(place) = place {
            self.away.swap_remove(place);
        }
    }

    /// Exchanges that last give up their permits for those who stand in line.
    fn make_room(&mut self, now: Instant) {
        for away in &self.away {
            away.gives_up(now);
        }
        for waiting in self.hops.waiting_mut() {
            let since = waiting.suspended.since();
            if let Some(held) = &mut waiting.held {
                held.lasts(since, now);
            }
        }
    }

    /// Sees what is to be done with what was served.
    fn settle(&mut self, back: Back) {
        let Back {
            outcome,
            slot,
            held,
            away,
        } = back;
        if let Some(away) = away {
            self.is_back(&away);
        }
        match outcome {
            Outcome::Park(client) => self.park(client, slot),
            Outcome::Wait(client) => self.let_wait(client, slot),
            Outcome::Yield(client) => self.ready.push_back(Ready::Begin(client, slot)),
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
            self.lanes.ctx.metrics.panics.increment();
        }
    }

    /// Waits until something happens. `false`: the lane has ended.
    fn round(&mut self) -> bool {
        self.handle.pulse.beat();
        self.publish();
        let begun = Instant::now();
        let (timeout, sweeps) = self.timeout(begun);
        let may_sleep = timeout != Some(Duration::ZERO) && self.handle.falls_asleep();
        let timeout = if may_sleep {
            timeout
        } else {
            Some(Duration::ZERO)
        };
        let polled = self.poll.poll(&mut self.events, timeout);
        self.handle.is_awake();
        match polled {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return true,
            Err(error) => {
                log::error!("waiting for connections failed: {error}");
                self.lanes.ctx.stop.wait(LINGER);
                return true;
            }
        }
        let now = Instant::now();
        self.excuse(begun, now, timeout);
        self.snapshot = self.lanes.ctx.snapshot();
        // A full batch: there may be more that is no longer idle.
        let all_seen = self.events.iter().count() < EVENTS;
        self.collect();
        self.read_mail();
        self.answer_door(now);
        self.give_up_late(now);
        if self.lanes.budget.is_wanted() {
            self.make_room(now);
        }
        if sweeps && all_seen {
            self.drop_idle();
        }
        self.pass = self.ready.len();
        self.stage != LaneStage::Ended
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
        let door = match self.door {
            DoorState::Quiet => None,
            DoorState::Rings => Some(now),
            DoorState::Stuck { until, .. } => Some(until),
        };
        if !self.ready.is_empty() || door == Some(now) || self.stage == LaneStage::Ended {
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
            door,
        ];
        let until = deadlines.into_iter().flatten().min();
        let left = until.map(|at| at.saturating_duration_since(now));
        let look = self.lanes.budget.is_wanted().then_some(LOOK_EVERY);
        let limits = left.into_iter().chain(self.lanes.service.every);
        (limits.chain(look).min(), false)
    }

    fn patience(&self) -> Duration {
        self.snapshot.config.limits.queue_timeout
    }

    /// While the whole process stood still nobody was served: that is not counted as waiting.
    fn excuse(&mut self, begun: Instant, now: Instant, timeout: Option<Duration>) {
        let passed = now.saturating_duration_since(begun);
        let too_late = passed.saturating_sub(timeout.unwrap_or(passed));
        if too_late > SLACK {
            for waiting in &mut self.waiting {
                waiting.since = (waiting.since + passed).min(now);
            }
        }
    }

    /// Takes what is ready out of the tables.
    fn collect(&mut self) {
        let mut away = Vec::new();
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
                if event.token() == DOOR && self.door == DoorState::Quiet {
                    self.door = DoorState::Rings;
                }
                continue;
            };
            let slot = Slot(index);
            match self.clients.on_event(slot, what_happened) {
                Some((Parked::Client(client), _)) => {
                    self.ready.push_back(Ready::Begin(client, Some(slot)));
                }
                Some((what, until)) => away.push((what, until, slot)),
                None => {}
            }
        }
        for (what, until, slot) in away {
            self.guarded(|lane| lane.read_away(what, until, Some(slot)));
        }
    }

    fn read_mail(&mut self) {
        let mut mail = std::mem::take(&mut self.mail);
        self.handle.read(&mut mail);
        for mail in mail.drain(..) {
            match mail {
                Mail::Came(client) => self.guarded(|lane| lane.welcome(client)),
                Mail::Back(back) => self.settle(back),
                Mail::Permit(address, permit) => self.permit_came(address, permit),
                Mail::Left(slot) => self.leave(slot),
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
        self.mail = mail;
    }

    /// Takes in who has come. Who is better off in another lane goes there.
    fn answer_door(&mut self, now: Instant) {
        let pause = match self.door {
            DoorState::Quiet => return,
            DoorState::Stuck { until, .. } if now < until => return,
            DoorState::Rings => PAUSES.0,
            DoorState::Stuck { pause, .. } => (pause * 2).min(PAUSES.1),
        };
        if self.stage != LaneStage::Running || self.lanes.ctx.stop.stage() != Stage::Running {
            self.door = DoorState::Quiet;
            return; // What is left is for the drain, or for the next process.
        }
        let mut arrivals = std::mem::take(&mut self.arrivals);
        self.door = match self.lanes.door.take_in(&mut arrivals) {
            Left::Nothing => DoorState::Quiet,
            Left::Some => DoorState::Rings,
            Left::Stuck => DoorState::Stuck {
                until: now + pause,
                pause,
            },
        };
        for conn in arrivals.refused.drain(..) {
            self.guarded(|lane| lane.linger_uncounted(conn));
        }
        for client in arrivals.clients.drain(..) {
            match self.lanes.emptiest(&self.handle) {
                None => self.guarded(|lane| lane.welcome(client)),
                Some(other) => drop(other.post(Mail::Came(client))),
            }
        }
        self.arrivals = arrivals;
    }

    /// A new client: its request is mostly there already.
    fn welcome(&mut self, mut client: Box<Client>) {
        client.conn.borrow_memory(&mut self.memory);
        let said = client.conn.receive(Wait::No);
        client.conn.release(&mut self.memory);
        match said {
            Ok(Received::Nothing) => self.park(client, None),
            // What has ended shows again.
            Ok(Received::Bytes(_) | Received::End) | Err(_) => {
                self.ready.push_back(Ready::Begin(client, None));
            }
        }
    }

    /// Holds a client until it says something.
    fn park(&mut self, mut client: Box<Client>, slot: Option<Slot>) {
        client.conn.shrink();
        let until = client.deadline(&self.snapshot, Instant::now());
        let Some(slot) = self.slot(&client.conn, slot) else {
            return;
        };
        // No event tells of what was there before the last read and was not taken by it.
        if client.conn.may_have_more() {
            return self.ready.push_back(Ready::Begin(client, Some(slot)));
        }
        if let Some(Parked::Client(client)) = self.add(Parked::Client(client), until, slot) {
            self.ready.push_back(Ready::Begin(client, Some(slot)));
        }
    }

    /// Holds a client that was answered for the last time until it is done sending.
    fn linger(&mut self, client: Box<Client>, slot: Option<Slot>) {
        let left = LINGER_BYTES;
        let until = Instant::now() + LINGER;
        self.guarded(|lane| lane.read_away(Parked::Lingering { client, left }, until, slot));
    }

    /// The same for a connection that was refused without a permit.
    fn linger_uncounted(&mut self, conn: Conn) {
        let [_, _, uncounted] = self.clients.counts();
        if uncounted < self.lanes.most_uncounted {
            let until = Instant::now() + LINGER;
            let (conn, left) = (Box::new(conn), LINGER_BYTES);
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
        if let Err(waiting) = self.hops.wait(slot, waiting, until) {
            self.ready.push_back(Ready::Resume(waiting));
        }
    }

    /// The slot of a next hop, which is watched here from now on until its connection is closed.
    fn slot_of_hop(&mut self, conn: &mut Conn) -> Option<Slot> {
        match conn.watched_as() {
            Some((home, number)) if home == self.handle.number => return Some(Slot(number)),
            Some(_) => self.lanes.unwatch_hop(conn),
            None => {}
        }
        let slot = self.hops.admit();
        let table: Weak<Handle> = Arc::downgrade(&self.handle);
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

    fn forget(&mut self, slot: Option<Slot>) {
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
                self.ready.push_back(Ready::Begin(client, Some(slot)));
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
            && let Some(first) = self.waiting.pop_front()
        {
            self.lanes.budget.leave_line(first.address, &self.handle);
            self.guarded(|lane| lane.refuse(first.client, first.slot, &Refusal::QueueTimeout));
        }
    }

    /// A deadline has passed.
    fn give_up(&mut self, what: Parked, slot: Slot) {
        match what {
            Parked::Client(client) if client.head_begun.is_some() => {
                let refusal = match self.lanes.ctx.stop.stage() {
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
        match session::refuse(&self.lanes.ctx, client, refusal) {
            Outcome::Park(client)
            | Outcome::Wait(client)
            | Outcome::Yield(client)
            | Outcome::Linger(client) => {
                self.linger(client, slot);
            }
            Outcome::Closed | Outcome::Tunneled | Outcome::Suspended(_) => self.forget(slot),
        }
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

    /// Closes everything.
    fn end(mut self: Box<Self>) {
        let left = self.handle.close();
        let ready = std::mem::take(&mut self.ready).into_iter();
        let ready = ready.filter_map(|ready| match ready {
            Ready::Begin(..) | Ready::Permitted(_) => None,
            Ready::Resume(waiting) => Some(waiting),
        });
        let waiting: Vec<_> = self
            .hops
            .take_all(|_| true)
            .into_iter()
            .chain(ready)
            .collect();
        drop(self.clients.take_all(|_| true));
        for waiting in waiting {
            seat::cut(&self.lanes, *waiting.suspended);
        }
        for mail in left {
            if let Mail::Back(back) = mail {
                back.is_over(&self.lanes);
            }
        }
        self.waiting.clear();
        self.publish();
    }
}

fn begin(client: Box<Client>, slot: Option<Slot>, held: Option<Held>) -> Task {
    Task {
        work: Work::Begin(client),
        slot,
        held,
        may_suspend: true,
    }
}

/// Has the leader told of new connections; one leader that sleeps is enough.
#[cfg(target_os = "linux")]
fn watch_door(poll: &Poll, listener: &std::net::TcpListener) -> io::Result<()> {
    use rustix::event::epoll;
    let flags = epoll::EventFlags::IN | epoll::EventFlags::ET | epoll::EventFlags::EXCLUSIVE;
    let data = epoll::EventData::new_u64(DOOR.0 as u64);
    Ok(epoll::add(poll.registry(), listener, data, flags)?)
}

#[cfg(not(target_os = "linux"))]
fn watch_door(poll: &Poll, listener: &std::net::TcpListener) -> io::Result<()> {
    let fd = listener.as_raw_fd();
    poll.registry()
        .register(&mut SourceFd(&fd), DOOR, Interest::READABLE)
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
