//! What leaders and followers of two lanes do to the same exchanges and next hops, in every order there is.
//!
//! Lanes, tables, inboxes, permits and hand-overs are the real ones; only the threads are not. Each step of one of
//! them, up to where another can see what it has done, is a [`Step`]; so is what comes from outside. A search goes
//! through every state that any order of steps leads to. A state cannot be copied, so it is come to anew for each
//! step that follows it.
//!
//! A client's exchange asks a next hop, is suspended until that answers, and is over then; the next hop is idle
//! from then on, and the next client's exchange has it, in whichever lane that is. (What clients say while they are
//! served is gone through in `tests/interleave/parking.rs`.)

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use super::super::*;
use crate::config;
use crate::net::inherited::ListenerOwner;
use crate::net::permits::{PerClient, Permits};
use crate::net::resolve::Resolver;
use crate::net::socket::TICK;
use crate::relay::connections::Connections;
use crate::relay::worker::Worker as _;
use crate::relay::{Arrival, Context};
use crate::server::acceptor::Acceptor;
use crate::server::budget::Budget;
use crate::server::worker::LaneWorker;

const LANES: usize = 2;
/// How long a next hop may take for its answer, and how far time jumps: beyond that, and beyond the second after
/// which an exchange lasts. The test itself takes less, even if it stands still for a while.
const PATIENCE: Duration = Duration::from_secs(1000);
const JUMP: Duration = Duration::from_secs(2000);
/// Clients wait for longer.
const CONFIG: &str = "\
listen: 127.0.0.1:0
upstream: []
limits: {idle_timeout_secs: 3600, queue_timeout_secs: 3600}
";

/// What is gone through.
#[derive(Clone, Copy, Debug)]
struct Scenario {
    /// The lane that each client comes to.
    clients: &'static [usize],
    /// `limits.workers`.
    permits: usize,
    /// Threads beside those that lead.
    threads: usize,
    /// How often an exchange may have to wait for a peer.
    blocks: usize,
    /// How often time jumps while a leader sleeps.
    jumps: usize,
    more: More,
}

/// What may happen beside that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum More {
    Nothing,
    /// A lane may be late.
    GivesAway,
    /// What is answered becomes a tunnel.
    Tunnels,
    /// A next hop may close its connection.
    Closes,
    /// The program may end.
    Ends,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The leader of this lane goes on.
    Lead(usize),
    /// The same, and what is ready here has waited for too long.
    GiveAway(usize),
    /// The exchange that it serves may have to wait for a peer.
    Block(usize),
    Follow(usize),
    /// From here on it is from outside. A leader sleeps for as long as it may.
    Jump(usize),
    Answer(usize),
    Close(usize),
    End,
}

impl Step {
    fn is_from_outside(self) -> bool {
        match self {
            Self::Lead(_) | Self::GiveAway(_) | Self::Block(_) | Self::Follow(_) => false,
            Self::Jump(_) | Self::Answer(_) | Self::Close(_) | Self::End => true,
        }
    }
}

enum Leader<'a> {
    /// Serves what is ready, or goes to sleep.
    Looks(Box<Lane>),
    /// It has said so; whether it then closes what is idle.
    Sleeps(Box<Lane>, bool),
    Serves(LaneWorker<'a>, Work),
    Settles(Box<Lane>, Served),
    Ended,
}

enum Follower<'a> {
    Serves(LaneWorker<'a>, Work),
    Brings(usize, Served),
    /// It has put that into the inbox of this lane, and is about to wake its leader.
    Wakes(usize),
}

/// The far end of a connection to a next hop.
struct Far {
    /// None: it has closed it.
    stream: Option<UnixStream>,
    /// The near end; none: it is closed.
    near: Option<RawFd>,
    asked: u8,
    answered: u8,
    heard: u8,
    /// The lane that is told of it, and its slot there.
    home: Option<(usize, usize)>,
    /// Something happened since that lane last asked the system.
    is_stirred: bool,
}

impl Far {
    /// Whether the lane that watches it will be told something.
    fn has_event(&self) -> bool {
        self.is_stirred && self.near.is_some() && (self.is_unread() || self.stream.is_none())
    }

    fn is_watched_in(&self, lane: usize) -> bool {
        self.home.is_some_and(|(home, _)| home == lane)
    }

    fn is_unread(&self) -> bool {
        self.answered > self.heard
    }
}

/// What stays where it is while threads change.
struct Place {
    shared: Arc<Shared>,
    connections: Arc<Permits>,
    handed_on: RefCell<Option<Box<Lane>>>,
    /// Threads that wait for a lane.
    idle_threads: Cell<usize>,
}

struct World<'a> {
    scenario: Scenario,
    place: &'a Place,
    hand_on: &'a dyn Fn(Box<Lane>) -> Result<(), Box<Lane>>,
    leaders: [Leader<'a>; LANES],
    followers: Vec<Follower<'a>>,
    fars: Vec<Far>,
    /// Connections to next hops that no exchange has.
    idle: Vec<Conn>,
    /// The other ends of clients.
    _clients: Vec<UnixStream>,
    /// Clients whose connections an exchange has closed or taken.
    gone: usize,
    blocks: usize,
    jumps: usize,
    /// The poll of a lane was woken since its leader last asked the system.
    woken: [bool; LANES],
    has_ended: bool,
    steps: Vec<Step>,
}

fn pair() -> (Conn, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    (Conn::prepared(OwnedFd::from(near).into(), TICK), far)
}

fn context() -> Arc<Context> {
    let config = config::parse(CONFIG, "c.yaml").unwrap();
    Arc::new(Context::new(config, Resolver::default()).unwrap())
}

impl Place {
    fn new(ctx: &Arc<Context>, scenario: Scenario) -> (Self, [Box<Lane>; LANES]) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        Acceptor::prepare(&listener).unwrap();
        let listener = (listener, ListenerOwner::ThisProcess);
        let polls = [0, 1].map(|number| LaneHandle::new(number).unwrap());
        let connections = Permits::new(100);
        let shared = Arc::new(Shared {
            acceptor: Acceptor::new(ctx, listener, &connections),
            budget: Budget::new(scenario.permits, ctx.long_threads.clone()),
            queue: Permits::new(100),
            most_uncounted: 1,
            wakes_every: None,
            lanes: polls.iter().map(|(_, lane)| Arc::clone(lane)).collect(),
            ctx: Arc::clone(ctx),
        });
        let lanes = polls.map(|(poll, lane)| Box::new(Lane::new(&shared, poll, &lane).unwrap()));
        let place = Self {
            shared,
            connections,
            handed_on: RefCell::default(),
            idle_threads: Cell::new(scenario.threads),
        };
        (place, lanes)
    }

    fn hand_on(&self, lane: Box<Lane>) -> Result<(), Box<Lane>> {
        if self.idle_threads.get() == 0 {
            return Err(lane);
        }
        self.idle_threads.update(|idle| idle - 1);
        self.handed_on.replace(Some(lane));
        Ok(())
    }
}

impl<'a> World<'a> {
    fn new(
        scenario: Scenario,
        (place, lanes): (&'a Place, [Box<Lane>; LANES]),
        hand_on: &'a dyn Fn(Box<Lane>) -> Result<(), Box<Lane>>,
    ) -> Self {
        let per_client = Arc::<PerClient>::default();
        let mut far_ends = Vec::new();
        for (number, lane) in scenario.clients.iter().enumerate() {
            let (conn, far) = pair();
            far_ends.push(far);
            // Its port tells it apart.
            let address = SocketAddr::from(([127, 0, 0, 1], u16::try_from(number).unwrap()));
            let one = place.connections.take(1).unwrap();
            let permits = (one, per_client.take(address.ip(), None).unwrap());
            let from = (address, Arrival::Direct);
            let client = Client::new(conn, from, permits, &Connections::off());
            let newcomer = Newcomer::Client(Box::new(client));
            place.shared.lanes[*lane]
                .post(Mail::Newcomer(newcomer))
                .unwrap();
        }
        Self {
            scenario,
            place,
            hand_on,
            leaders: lanes.map(Leader::Looks),
            followers: Vec::new(),
            fars: Vec::new(),
            idle: Vec::new(),
            _clients: far_ends,
            gone: 0,
            blocks: scenario.blocks,
            jumps: scenario.jumps,
            woken: [false; LANES],
            has_ended: false,
            steps: Vec::new(),
        }
    }

    /// What may happen next.
    fn next_steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (lane, leader) in self.leaders.iter().enumerate() {
            match leader {
                Leader::Sleeps(..) => {
                    if self.has_event(lane) {
                        steps.push(Step::Lead(lane));
                    }
                    if self.jumps > 0 {
                        steps.push(Step::Jump(lane));
                    }
                }
                Leader::Looks(_) if self.scenario.more == More::GivesAway => {
                    steps.extend([Step::Lead(lane), Step::GiveAway(lane)]);
                }
                Leader::Serves(_, Work::Resume(_)) if self.blocks > 0 => {
                    steps.extend([Step::Lead(lane), Step::Block(lane)]);
                }
                Leader::Looks(_) | Leader::Serves(..) | Leader::Settles(..) => {
                    steps.push(Step::Lead(lane));
                }
                Leader::Ended => {}
            }
        }
        steps.extend((0..self.followers.len()).map(Step::Follow));
        let has_closed = self.fars.iter().any(|far| far.stream.is_none());
        for (number, far) in self.fars.iter().enumerate() {
            if far.stream.is_some() && far.near.is_some() {
                let answers = far.asked > far.answered;
                steps.extend(answers.then_some(Step::Answer(number)));
                let closes = self.scenario.more == More::Closes && !has_closed;
                steps.extend(closes.then_some(Step::Close(number)));
            }
        }
        if self.scenario.more == More::Ends && !self.has_ended {
            steps.push(Step::End);
        }
        steps
    }

    fn has_event(&self, lane: usize) -> bool {
        let mut fars = self.fars.iter();
        self.woken[lane] || fars.any(|far| far.is_watched_in(lane) && far.has_event())
    }

    fn take(&mut self, step: Step) {
        self.steps.push(step);
        let asleep = self.asleep();
        match step {
            Step::Lead(at) | Step::GiveAway(at) | Step::Jump(at) => self.lead(at, step),
            Step::Block(lane) => self.block(lane),
            Step::Follow(number) => self.follow(number),
            Step::Answer(number) => {
                let far = &mut self.fars[number];
                if far.stream.as_mut().unwrap().write_all(b"!").is_err() {
                    assert!(self.has_ended, "it is closed: {:?}", self.steps);
                    far.near = None;
                }
                far.answered += 1;
                far.is_stirred = true;
            }
            Step::Close(number) => {
                let far = &mut self.fars[number];
                far.stream = None;
                far.is_stirred = true;
            }
            Step::End => {
                self.has_ended = true;
                self.place.shared.tell(|| Mail::End);
            }
        }
        for (lane, (was, is)) in asleep.into_iter().zip(self.asleep()).enumerate() {
            let by_itself = matches!(
                step,
                Step::Lead(own) | Step::GiveAway(own) | Step::Jump(own) if own == lane
            );
            self.woken[lane] |= was && !is && !by_itself;
        }
        self.see_homes();
    }

    /// Which lanes are to be woken.
    fn asleep(&self) -> [bool; LANES] {
        [0, 1].map(|lane| self.place.shared.lanes[lane].is_asleep())
    }

    /// Goes on with the leader of a lane, up to where others can see what it has done.
    fn lead(&mut self, at: usize, step: Step) {
        let leader = std::mem::replace(&mut self.leaders[at], Leader::Ended);
        self.leaders[at] = match leader {
            Leader::Looks(lane) => {
                let (timeout, sweeps) = lane.timeout(Instant::now());
                if timeout != Some(Duration::ZERO) && lane.handle.falls_asleep() {
                    Leader::Sleeps(lane, sweeps)
                } else {
                    self.go_round((lane, sweeps), step)
                }
            }
            Leader::Sleeps(lane, sweeps) => self.go_round((lane, sweeps), step),
            Leader::Serves(worker, work) => match self.serve(&worker, work) {
                Ok(work) => Leader::Serves(worker, work),
                Err(outcome) => match worker.finish(outcome) {
                    (served, Some(lane)) if is_seen(&served) => Leader::Settles(lane, served),
                    (served, lane) => self.settles(lane.unwrap(), served),
                },
            },
            Leader::Settles(lane, served) => self.settles(lane, served),
            Leader::Ended => Leader::Ended,
        };
    }

    fn settles(&self, mut lane: Box<Lane>, served: Served) -> Leader<'a> {
        lane.settle(served);
        self.goes_on(lane)
    }

    /// Serves what is ready, or looks for more.
    fn goes_on(&self, mut lane: Box<Lane>) -> Leader<'a> {
        if lane.pass == 0 || lane.ready.is_empty() {
            return Leader::Looks(lane);
        }
        let shared = &self.place.shared;
        let handle = &shared.lanes[lane.handle.number];
        let task = lane.next_task().unwrap();
        let (worker, work) = LaneWorker::new((shared, handle), self.hand_on, lane, task);
        Leader::Serves(worker, work)
    }

    /// Asks the system what has happened, and does what there is to do then: [`Lane::round`] without the sleep.
    fn go_round(&mut self, (mut lane, sweeps): (Box<Lane>, bool), step: Step) -> Leader<'a> {
        let at = lane.handle.number;
        lane.poll
            .poll(&mut lane.events, Some(Duration::ZERO))
            .unwrap();
        let is_told = !lane.events.is_empty();
        assert_eq!(is_told, self.has_event(at), "lane {at}: {:?}", self.steps);
        self.woken[at] = false;
        for far in &mut self.fars {
            far.is_stirred &= !far.is_watched_in(at);
        }
        let mut now = Instant::now();
        if matches!(step, Step::Jump(_)) {
            self.jumps -= 1;
            now += JUMP;
        }
        lane.handle.awakes();
        if !lane.see_to(now, (sweeps, matches!(step, Step::GiveAway(_)))) {
            for mut suspended in lane.end() {
                self.far_of(suspended.hop()).near = None;
            }
            return Leader::Ended;
        }
        self.goes_on(lane)
    }

    /// The exchange that the leader serves has to wait: another thread leads, if there is one.
    fn block(&mut self, at: usize) {
        self.blocks -= 1;
        let leader = std::mem::replace(&mut self.leaders[at], Leader::Ended);
        let Leader::Serves(worker, work) = leader else {
            panic!("it serves nobody");
        };
        worker.may_block();
        self.leaders[at] = match self.place.handed_on.take() {
            Some(lane) => {
                self.followers.push(Follower::Serves(worker, work));
                self.goes_on(lane)
            }
            None => Leader::Serves(worker, work),
        };
    }

    fn follow(&mut self, number: usize) {
        match self.followers.remove(number) {
            Follower::Serves(worker, work) => {
                let home = worker.home();
                let next = match self.serve(&worker, work) {
                    Ok(work) => Follower::Serves(worker, work),
                    Err(outcome) => Follower::Brings(home, worker.finish(outcome).0),
                };
                self.followers.insert(number, next);
            }
            Follower::Brings(home, served) => {
                let put = self.place.shared.lanes[home].put(Mail::Done(served));
                if let Err(Mail::Done(served)) = put {
                    self.drop_with_lane(served);
                    self.place.idle_threads.update(|idle| idle + 1);
                } else {
                    self.followers.insert(number, Follower::Wakes(home));
                }
            }
            Follower::Wakes(home) => {
                self.place.shared.lanes[home].wake();
                self.place.idle_threads.update(|idle| idle + 1);
            }
        }
    }

    /// There is no lane for it any more.
    fn drop_with_lane(&mut self, served: Served) {
        if let Outcome::Suspended(mut suspended) = served.outcome {
            self.far_of(suspended.hop()).near = None;
        }
    }

    /// What a session does: asks a next hop, and hears its answer.
    fn serve(&mut self, worker: &LaneWorker<'_>, work: Work) -> Result<Work, Outcome> {
        match work {
            Work::Begin(client) if !worker.may_begin() => Err(Outcome::Wait(client)),
            Work::Begin(client) => {
                let conn = self.idle.pop().unwrap_or_else(|| self.dial());
                self.far_of(&conn).asked += 1;
                let ctx = &self.place.shared.ctx;
                let asked = Suspended::asked(ctx, client, conn, PATIENCE);
                Ok(Work::Resume(Box::new(asked)))
            }
            Work::Resume(mut suspended) => Err(match suspended.hop().receive(Wait::No) {
                Ok(Received::Nothing) => Outcome::Suspended(suspended),
                Ok(Received::Bytes(count)) => {
                    self.far_of(suspended.hop()).heard += u8::try_from(count).unwrap();
                    suspended.hop().consume(count);
                    self.complete(worker, *suspended)
                }
                Ok(Received::End) | Err(_) => {
                    self.far_of(suspended.hop()).near = None;
                    self.gone += 1;
                    Outcome::Closed
                }
            }),
        }
    }

    fn complete(&mut self, worker: &LaneWorker<'_>, suspended: Suspended) -> Outcome {
        let (client, mut conn) = suspended.over();
        if self.scenario.more == More::Tunnels {
            worker.takes_over(&client);
            worker.takes_over_hop(&mut conn);
            self.far_of(&conn).near = None;
            self.gone += 1;
            return Outcome::Tunneled;
        }
        self.idle.push(conn);
        Outcome::Park(client)
    }

    fn dial(&mut self) -> Conn {
        let (conn, far) = pair();
        self.fars.push(Far {
            stream: Some(far),
            near: Some(conn.stream().as_raw_fd()),
            asked: 0,
            answered: 0,
            heard: 0,
            home: None,
            is_stirred: false,
        });
        conn
    }

    /// The number of its other end.
    fn number_of(&self, conn: &Conn) -> usize {
        let near = Some(conn.stream().as_raw_fd());
        // One that was closed by a lane that ended may have had the same.
        self.fars.iter().rposition(|far| far.near == near).unwrap()
    }

    fn far_of(&mut self, conn: &Conn) -> &mut Far {
        let number = self.number_of(conn);
        &mut self.fars[number]
    }

    /// Notes which connections are watched elsewhere since the last step.
    fn see_homes(&mut self) {
        let mut seen = Vec::new();
        for leader in &mut self.leaders {
            let mut see = |conn: &mut Conn| {
                seen.push((conn.stream().as_raw_fd(), conn.watched_as()));
            };
            let mut see_all = |lane: &mut Lane| {
                let waiting = lane.hops.waiting_mut();
                let ready = lane.ready.iter_mut().filter_map(|ready| match ready {
                    Ready::Resume(awaiting) => Some(awaiting),
                    Ready::Begin(..) => None,
                });
                waiting
                    .chain(ready)
                    .for_each(|one| see(one.suspended.hop()));
            };
            match leader {
                Leader::Looks(lane) => see_all(lane),
                Leader::Serves(worker, work) => {
                    worker.with_lane(|lane| see_all(lane));
                    if let Work::Resume(suspended) = work {
                        see(suspended.hop());
                    }
                }
                Leader::Sleeps(..) | Leader::Settles(..) | Leader::Ended => {}
            }
        }
        for (near, home) in seen {
            let far = self.fars.iter_mut().rfind(|far| far.near == Some(near));
            let far = far.unwrap();
            // What is there already is told then.
            far.is_stirred |= far.home != home;
            far.home = home;
        }
    }

    /// What must be so whatever happens, and what must be so once nothing happens but from outside.
    fn check(&mut self) {
        let place = self.place;
        let budget = &place.shared.budget;
        assert!(budget.taken() <= self.scenario.permits, "{:?}", self.steps);
        let mut next = self.next_steps().into_iter();
        if !next.all(Step::is_from_outside) {
            return;
        }
        assert!(self.followers.is_empty(), "{:?}", self.steps);
        let is_due = budget.is_wanted() && budget.taken() < self.scenario.permits;
        assert!(!is_due, "a client waits beside a permit: {:?}", self.steps);
        let (mut suspended, mut homes) = (0, [0; LANES]);
        for (at, leader) in self.leaders.iter_mut().enumerate() {
            let only_left = |mail: &[Mail]| mail.iter().all(|one| matches!(one, Mail::HopLeft(_)));
            let left = place.shared.lanes[at].peek(|mail, _| {
                assert!(only_left(mail), "mail is not read: {:?}", self.steps);
                mail.len()
            });
            let Leader::Sleeps(lane, _) = leader else {
                assert!(self.has_ended, "a lane has ended: {:?}", self.steps);
                continue;
            };
            assert!(
                lane.lent.is_empty() && lane.ready.is_empty(),
                "{:?}",
                self.steps
            );
            homes[at] = lane.hops.occupied() - left;
            for awaiting in lane.hops.waiting_mut() {
                suspended += 1;
                let near = Some(awaiting.suspended.hop().stream().as_raw_fd());
                let far = self.fars.iter().rfind(|far| far.near == near).unwrap();
                let sleeps = far.is_unread() || far.stream.is_none();
                assert!(!sleeps, "an answer is not heard: {:?}", self.steps);
            }
        }
        if self.has_ended {
            assert_eq!(
                (budget.taken(), budget.lasting()),
                (0, 0),
                "{:?}",
                self.steps
            );
            return;
        }
        let held = budget.taken() + budget.lasting();
        assert_eq!(held, suspended, "permits: {:?}", self.steps);
        for (at, home) in homes.into_iter().enumerate() {
            let mine = |far: &&Far| far.near.is_some() && far.is_watched_in(at);
            let watched = self.fars.iter().filter(mine).count();
            assert_eq!(home, watched, "slots of lane {at}: {:?}", self.steps);
        }
        let there = self.scenario.clients.len() - self.gone;
        assert_eq!(
            place.connections.taken(),
            there,
            "clients: {:?}",
            self.steps
        );
    }

    /// All that matters for what may happen from here on.
    fn fingerprint(&mut self) -> String {
        let mut out = String::new();
        for (at, leader) in self.leaders.iter_mut().enumerate() {
            let leads = match leader {
                Leader::Looks(lane) => format!("looks {}", shown(lane)),
                Leader::Sleeps(lane, sweeps) => format!("sleeps {sweeps}{}", shown(lane)),
                Leader::Serves(worker, work) => {
                    let lane = worker.with_lane(shown);
                    format!("serves {}{lane:?}", name(work))
                }
                Leader::Settles(lane, served) => {
                    format!("settles {}{}", outcome(served), shown(lane))
                }
                Leader::Ended => "ended".to_owned(),
            };
            let handle = &self.place.shared.lanes[at];
            let mail = handle.peek(|mail, says| {
                let mail: Vec<_> = mail.iter().map(letter).collect();
                format!("{says}{mail:?}")
            });
            let wakes = (handle.is_asleep(), self.woken[at]);
            write!(out, "{leads}{mail}{wakes:?}|").unwrap();
        }
        for follower in &self.followers {
            match follower {
                Follower::Serves(worker, work) => {
                    write!(out, "serves {}{}", worker.home(), name(work)).unwrap();
                }
                Follower::Brings(home, served) => {
                    write!(out, "brings {home}{}", outcome(served)).unwrap();
                }
                Follower::Wakes(home) => write!(out, "wakes {home}").unwrap(),
            }
        }
        for far in &self.fars {
            let counts = (far.asked, far.answered, far.heard);
            let is_there = (far.near.is_some(), far.stream.is_some());
            write!(
                out,
                "{counts:?}{is_there:?}{:?}{}",
                far.home,
                far.has_event()
            )
            .unwrap();
        }
        let idle = self.idle.iter().map(|conn| self.number_of(conn));
        let idle: Vec<_> = idle.collect();
        let budget = &self.place.shared.budget;
        let budget = (budget.taken(), budget.lasting(), budget.is_wanted());
        let left = (self.blocks, self.jumps, self.gone, self.has_ended);
        write!(out, "{idle:?}{budget:?}{left:?}").unwrap();
        out
    }
}

/// Whether others can see a difference between the end of the work at an exchange and what its lane does then.
fn is_seen(served: &Served) -> bool {
    matches!(served.outcome, Outcome::Suspended(_) | Outcome::Wait(_))
}

fn shown(lane: &mut Lane) -> String {
    let ready = lane.ready.iter().map(|ready| match ready {
        Ready::Begin(client, slot, held) => {
            format!(
                "begin {}{slot:?}{}",
                client.address.port(),
                permit(held.as_ref())
            )
        }
        Ready::Resume(awaiting) => awaited(awaiting),
    });
    let ready: Vec<_> = ready.collect();
    let waiting = lane.hops.waiting();
    let waiting: Vec<_> = waiting.map(|(slot, one)| (slot, awaited(one))).collect();
    let in_line = lane.waiting.iter();
    let in_line: Vec<_> = in_line.map(|one| one.client.address.port()).collect();
    let (clients, hops) = (lane.clients.shape(), lane.hops.shape());
    let counts = (lane.pass, lane.lent.len(), lane.stage);
    format!("{ready:?}{waiting:?}{in_line:?}{clients} {hops}{counts:?}")
}

fn awaited(awaiting: &Awaiting) -> String {
    let number = awaiting.suspended.client().address.port();
    let held = permit(awaiting.held.as_ref());
    format!("{number}{:?}{held}", awaiting.slot)
}

fn permit(held: Option<&Held>) -> &'static str {
    match held {
        None => "-",
        Some(Held::Work(_)) => "work",
        Some(Held::Lasting { .. }) => "lasting",
    }
}

fn name(work: &Work) -> String {
    match work {
        Work::Begin(client) => format!("begin {}", client.address.port()),
        Work::Resume(suspended) => format!("resume {}", suspended.client().address.port()),
    }
}

fn outcome(served: &Served) -> String {
    let what = match &served.outcome {
        Outcome::Park(client) => format!("park {}", client.address.port()),
        Outcome::Wait(client) => format!("wait {}", client.address.port()),
        Outcome::Suspended(suspended) => format!("suspended {}", suspended.client().address.port()),
        Outcome::Yield(_) | Outcome::Linger(_) | Outcome::Closed | Outcome::Tunneled => {
            "gone".into()
        }
    };
    let held = permit(served.held.as_ref());
    format!("{what}{:?}{held}", served.slot)
}

fn letter(mail: &Mail) -> String {
    match mail {
        Mail::Newcomer(Newcomer::Client(client)) => format!("newcomer {}", client.address.port()),
        Mail::Newcomer(Newcomer::Refused(_)) => "refused".into(),
        Mail::Done(served) => outcome(served),
        Mail::Permit(..) => "permit".into(),
        Mail::ClientLeft(slot) => format!("client {slot:?}"),
        Mail::HopLeft(slot) => format!("hop {slot:?}"),
        Mail::Drain => "drain".into(),
        Mail::End => "end".into(),
    }
}

/// Goes through all states, and says how many there are.
fn search(scenario: Scenario) -> usize {
    let ctx = context();
    let mut seen = HashSet::new();
    let mut open = VecDeque::from([Vec::new()]);
    while let Some(mut way) = open.pop_front() {
        let (place, lanes) = Place::new(&ctx, scenario);
        let hand_on = |lane| place.hand_on(lane);
        let mut world = World::new(scenario, (&place, lanes), &hand_on);
        for step in &way {
            world.take(*step);
        }
        while seen.insert(world.fingerprint()) {
            world.check();
            let mut steps = world.next_steps().into_iter();
            let Some(first) = steps.next() else { break };
            open.extend(steps.map(|other| [way.as_slice(), &[other]].concat()));
            way.push(first);
            world.take(first);
        }
    }
    seen.len()
}

/// Two clients of two lanes; the second has the next hop of the first if that is free by then.
const TWO: Scenario = Scenario {
    clients: &[0, 1],
    permits: 2,
    threads: 1,
    blocks: 1,
    jumps: 0,
    more: More::Nothing,
};

fn expect_many(scenario: Scenario, least: usize) {
    let states = search(scenario);
    assert!(
        states >= least,
        "{states} states are too few to mean anything"
    );
}

#[test]
fn an_answer_is_heard_whoever_leads_follows_or_has_its_next_hop() {
    let two_followers = Scenario {
        threads: 2,
        blocks: 2,
        ..TWO
    };
    expect_many(two_followers, 10_000);
}

#[test]
fn an_exchange_goes_on_where_it_is_when_there_is_no_thread_to_hand_the_lane_to() {
    let one_thread = Scenario { blocks: 2, ..TWO };
    expect_many(one_thread, 5_000);
}

#[test]
fn a_permit_is_given_back_once_though_what_holds_it_lasts_or_is_lent_to_a_follower() {
    let one_permit = Scenario {
        permits: 1,
        jumps: 1,
        ..TWO
    };
    expect_many(one_permit, 5_000);
}

#[test]
fn a_client_that_is_given_away_is_served_where_it_comes() {
    let one_lane = Scenario {
        clients: &[0, 0],
        more: More::GivesAway,
        ..TWO
    };
    expect_many(one_lane, 3_000);
}

#[test]
fn a_tunnel_and_a_next_hop_that_closes_leave_no_slot_behind() {
    for more in [More::Tunnels, More::Closes] {
        expect_many(Scenario { more, ..TWO }, 2_000);
    }
}

#[test]
fn what_a_follower_brings_back_to_a_lane_that_has_ended_is_over() {
    let more = More::Ends;
    expect_many(Scenario { more, ..TWO }, 2_000);
}
