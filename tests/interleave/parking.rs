//! A parked connection: it is in one place, and what its client sends is always noticed.
//!
//! The leader of a lane, the followers that it has handed connections to, and the system, which tells of new
//! bytes at any moment, have a connection in turns. This is a model of that, with events that are told once
//! (edge-triggered): one client that sends, the system, two lanes with their leaders, a follower, and the end
//! of the program. When a leader hands its lane on, another thread leads, and it makes no difference which.
//! An exchange that waits for its next hop does so in a table of the same kind. All states that can be reached
//! are gone through. What a connection's place remembers, and when, is the protocol of the table of a lane:
//!
//! - a connection is watched from the first time it waits, and what is there already is told then;
//! - an event for a waiting connection takes it out, and it is served;
//! - an event for one that is away is remembered, and it does not wait when it comes back;
//! - an event that says that the client has ended is remembered for one look more than others: a read
//!   that fills no buffer shows that there is nothing more, but not that nothing more will come;
//! - a connection whose last read filled its buffer does not wait: no event tells of the rest.
//!
//! And this is the protocol of its inbox:
//!
//! - a leader says that it sleeps, then looks into the inbox, and only then sleeps;
//! - a follower puts a connection into the inbox, and then wakes a leader that has said so;
//! - a lane that gives a connection to one that sleeps does the same, once it is watched no more.
//!
//! And this is how a lane drains: once it has been told, it does not sleep before it has looked at what has
//! happened and closed what waits; what comes back then is closed.

use std::collections::HashSet;

/// How many requests one read takes at most.
const BUFFER: u8 = 2;
const LANES: usize = 2;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Place {
    /// It was never parked: the system tells nothing of it.
    Unwatched,
    /// It is in the table; the next event takes it out.
    Waiting,
    /// It is elsewhere; how often it is not to wait when it comes back.
    Away { looks: u8 },
    /// Closed.
    Vacant,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Leader {
    /// Takes what the system has to tell.
    Collects,
    /// It has put the connection into the inbox of the other lane.
    GaveAway,
    /// Looks into the inbox, and then serves what is ready.
    Looks,
    /// Has nothing to do.
    Idles,
    /// Has said that it sleeps.
    FallsAsleep,
    Sleeps,
    /// It has the connection and is about to read.
    Reads,
    /// It took all there was and is about to let the connection wait.
    Parks,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Follower {
    Idle,
    /// It has the connection and is about to read.
    Reads,
    /// It took all there was and is about to put the connection into the inbox.
    Brings,
    /// It did, and is about to wake the leader.
    Wakes(usize),
}

/// The end of what the client sends.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum End {
    ToCome,
    Sent,
    Read,
}

/// What an event says beside that there is something to read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum SocketEvent {
    Readable,
    ReadClosed,
}

/// How far a lane is with its end.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Drain {
    Never,
    ToCome,
    /// The order is in the inbox.
    Told,
    /// The same, and the leader was woken.
    Ordered,
    /// The lane knows, and has still to look.
    Begun,
    /// What waited is closed.
    Swept,
}

impl Drain {
    fn is_begun(self) -> bool {
        matches!(self, Self::Begun | Self::Swept)
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own that the model must remember"
)]
struct Lane {
    leader: Leader,
    /// Connections that were taken out and wait to be served.
    ready: u8,
    /// Connections that a follower brings back, and those that another lane gives away.
    inbox: (u8, u8),
    says_asleep: bool,
    wakes: u8,
    drain: Drain,
    /// Whether this round closes what waits.
    sweeps: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own that the model must remember"
)]
struct State {
    to_send: u8,
    sent: u8,
    /// Requests in the socket that were not read.
    unread: u8,
    served: u8,
    end: End,
    /// Events that the system has to tell: one at most, however much happens.
    events: u8,
    place: Place,
    /// The lane that has the connection, or had it last.
    home: usize,
    lanes: [Lane; LANES],
    follower: Follower,
    /// No lane is told of it, whatever its place.
    is_deaf: bool,
    /// A drain has closed the connection.
    was_cut: bool,
}

/// Which rule of the protocol is left out, to see that the model notices.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Whole,
    /// An event for a connection that is being served is forgotten.
    Forgetful,
    /// An event that says that the client has ended is one like all others.
    Endless,
    /// A connection comes back after one read, whether that filled the buffer or not.
    Hasty,
    /// A follower wakes no leader: the next event will.
    Quiet,
    /// A leader does not look into the inbox once it has said that it sleeps.
    Sleepy,
    /// A connection that is given away is not watched anew where it comes.
    Stale,
    /// A lane that drains lets those wait that come back.
    Lenient,
}

/// Takes down the state that a change leads to.
type Step<'s> = &'s mut dyn FnMut(&dyn Fn(&mut State));

impl Lane {
    fn first(ready: u8, drain: Drain) -> Self {
        Self {
            leader: Leader::Looks,
            ready,
            inbox: (0, 0),
            says_asleep: false,
            wakes: 0,
            drain,
            sweeps: false,
        }
    }

    fn has_mail(&self) -> bool {
        self.inbox != (0, 0) || matches!(self.drain, Drain::Told | Drain::Ordered)
    }

    fn wake(&mut self) {
        if std::mem::take(&mut self.says_asleep) {
            self.wakes = 1;
        }
    }
}

impl State {
    /// The client sends so many requests, one after the other or all at once.
    fn first(requests: u8, drain: Drain) -> Self {
        Self {
            to_send: requests,
            sent: 0,
            unread: 0,
            served: 0,
            end: End::ToCome,
            events: 0,
            place: Place::Unwatched,
            home: 0,
            lanes: [Lane::first(1, drain), Lane::first(0, drain)],
            follower: Follower::Idle,
            is_deaf: false,
            was_cut: false,
        }
    }

    /// Every state that one step of one party leads to.
    fn successors(&self, protocol: Protocol) -> Vec<Self> {
        let mut next = Vec::new();
        let mut step = |change: &dyn Fn(&mut Self)| {
            let mut state = self.clone();
            change(&mut state);
            next.push(state);
        };
        if self.to_send > 0 && self.end == End::ToCome {
            step(&|s| {
                s.to_send -= 1;
                s.sent += 1;
                s.unread += 1;
                s.events = u8::from(s.is_watched());
            });
        }
        if self.end == End::ToCome {
            step(&|s| {
                s.end = End::Sent;
                s.events = u8::from(s.is_watched());
            });
        }
        for lane in 0..LANES {
            match self.lanes[lane].drain {
                Drain::ToCome => step(&|s| s.lanes[lane].drain = Drain::Told),
                Drain::Told => step(&|s| {
                    s.lanes[lane].wake();
                    s.lanes[lane].drain = Drain::Ordered;
                }),
                Drain::Never | Drain::Ordered | Drain::Begun | Drain::Swept => {}
            }
            self.lead(lane, protocol, &mut step);
        }
        self.follow(protocol, &mut step);
        next
    }

    /// The steps of a leader.
    fn lead(&self, at: usize, protocol: Protocol, step: Step<'_>) {
        let own = &self.lanes[at];
        match own.leader {
            Leader::Collects => step(&|s| s.collect(at, protocol)),
            Leader::Looks => {
                step(&|s| s.look(at, protocol));
                if own.ready > 0 && self.lanes[other(at)].says_asleep {
                    step(&|s| s.give_away(at));
                }
            }
            Leader::GaveAway => step(&|s| {
                s.lanes[other(at)].wake();
                s.lanes[at].leader = Leader::Looks;
            }),
            Leader::Idles if own.drain == Drain::Begun => step(&|s| s.go(at, Leader::Collects)),
            Leader::Idles => step(&|s| {
                s.lanes[at].says_asleep = true;
                s.go(at, Leader::FallsAsleep);
            }),
            Leader::FallsAsleep => step(&|s| {
                let stays = s.lanes[at].has_mail() && protocol != Protocol::Sleepy;
                s.go(
                    at,
                    if stays {
                        Leader::Collects
                    } else {
                        Leader::Sleeps
                    },
                );
            }),
            Leader::Sleeps if own.wakes + self.events_of(at) > 0 => step(&|s| {
                s.lanes[at].wakes = 0;
                s.go(at, Leader::Collects);
            }),
            Leader::Sleeps => {}
            Leader::Reads => {
                step(&|s| match s.read(protocol) {
                    Some(true) => s.go(at, Leader::Collects),
                    Some(false) => s.go(at, Leader::Parks),
                    None => {}
                });
                if self.follower == Follower::Idle {
                    // Another thread leads from now on.
                    step(&|s| {
                        s.follower = Follower::Reads;
                        s.go(at, Leader::Collects);
                    });
                }
            }
            Leader::Parks => step(&|s| {
                s.park(at, protocol);
                s.go(at, Leader::Collects);
            }),
        }
    }

    fn go(&mut self, at: usize, to: Leader) {
        self.lanes[at].leader = to;
    }

    /// The steps of the follower.
    fn follow(&self, protocol: Protocol, step: Step<'_>) {
        match self.follower {
            Follower::Idle => {}
            Follower::Reads => step(&|s| match s.read(protocol) {
                Some(true) => s.follower = Follower::Idle,
                Some(false) => s.follower = Follower::Brings,
                None => {}
            }),
            Follower::Brings => step(&|s| {
                s.lanes[s.home].inbox.0 += 1;
                s.follower = Follower::Wakes(s.home);
            }),
            Follower::Wakes(lane) => step(&|s| {
                if protocol != Protocol::Quiet {
                    s.lanes[lane].wake();
                }
                s.follower = Follower::Idle;
            }),
        }
    }

    fn is_watched(&self) -> bool {
        !self.is_deaf && !matches!(self.place, Place::Vacant | Place::Unwatched)
    }

    /// What the system has to tell the leader of this lane.
    fn events_of(&self, lane: usize) -> u8 {
        if lane == self.home { self.events } else { 0 }
    }

    fn collect(&mut self, at: usize, protocol: Protocol) {
        let own = &mut self.lanes[at];
        own.says_asleep = false;
        own.sweeps = own.drain == Drain::Begun;
        own.leader = Leader::Looks;
        if self.events_of(at) > 0 {
            self.events = 0;
            // It says what is so when it is taken, not when it came.
            let event = match self.end {
                End::ToCome => SocketEvent::Readable,
                End::Sent | End::Read => SocketEvent::ReadClosed,
            };
            self.on_event(event, protocol);
        }
    }

    fn on_event(&mut self, event: SocketEvent, protocol: Protocol) {
        let further = u8::from(event == SocketEvent::ReadClosed && protocol != Protocol::Endless);
        match self.place {
            Place::Vacant | Place::Unwatched => {}
            Place::Away { .. } if protocol == Protocol::Forgetful => {}
            Place::Away { looks } => {
                let looks = looks.max(1 + further);
                self.place = Place::Away { looks };
            }
            Place::Waiting => {
                self.place = Place::Away { looks: further };
                self.lanes[self.home].ready += 1;
            }
        }
    }

    fn look(&mut self, at: usize, protocol: Protocol) {
        let (back, given) = std::mem::take(&mut self.lanes[at].inbox);
        if matches!(self.lanes[at].drain, Drain::Told | Drain::Ordered) {
            self.lanes[at].drain = Drain::Begun;
        }
        for _ in 0..back {
            self.park(at, protocol);
        }
        let own = &mut self.lanes[at];
        own.ready += given;
        if std::mem::take(&mut own.sweeps) {
            own.drain = Drain::Swept;
            if self.home == at && self.place == Place::Waiting {
                self.place = Place::Vacant;
                self.was_cut = true;
            }
        }
        let own = &mut self.lanes[at];
        if own.ready > 0 {
            own.ready -= 1;
            own.leader = Leader::Reads;
        } else {
            own.leader = Leader::Idles;
        }
    }

    /// The other lane sleeps and gets what is ready here.
    fn give_away(&mut self, at: usize) {
        self.lanes[at].ready -= 1;
        self.go(at, Leader::GaveAway);
        self.place = Place::Unwatched;
        self.events = 0;
        self.home = other(at);
        self.lanes[other(at)].inbox.1 += 1;
    }

    /// Whether that was the end; none: there may be more to read.
    fn read(&mut self, protocol: Protocol) -> Option<bool> {
        let taken = self.unread.min(BUFFER);
        self.unread -= taken;
        self.served += taken;
        if taken == 0 && self.end == End::Sent {
            self.end = End::Read;
            self.place = Place::Vacant;
            return Some(true);
        }
        (taken < BUFFER || protocol == Protocol::Hasty).then_some(false)
    }

    fn park(&mut self, at: usize, protocol: Protocol) {
        if self.place == Place::Unwatched {
            self.is_deaf = protocol == Protocol::Stale && at != 0;
            self.place = Place::Away { looks: 0 };
            let is_there = self.unread > 0 || self.end == End::Sent;
            self.events = u8::from(is_there && self.is_watched());
        }
        if self.lanes[at].drain.is_begun() && protocol != Protocol::Lenient {
            self.place = Place::Vacant;
            self.was_cut = true;
            return;
        }
        match self.place {
            Place::Away { looks: 0 } => self.place = Place::Waiting,
            // Something happened: it is served on.
            Place::Away { looks } => {
                self.place = Place::Away { looks: looks - 1 };
                self.lanes[at].ready += 1;
            }
            Place::Unwatched | Place::Waiting | Place::Vacant => panic!("two had it: {self:?}"),
        }
    }

    /// How many have the connection.
    fn owners(&self) -> usize {
        let reads = |lane: &&Lane| matches!(lane.leader, Leader::Reads | Leader::Parks);
        let leads = self.lanes.iter().filter(reads).count();
        let follows = matches!(self.follower, Follower::Reads | Follower::Brings);
        let waits = self.place == Place::Waiting;
        let moves = |lane: &Lane| usize::from(lane.ready + lane.inbox.0 + lane.inbox.1);
        let moves: usize = self.lanes.iter().map(moves).sum();
        leads + usize::from(follows) + usize::from(waits) + moves
    }

    /// Whether `next` is what a client or the operator does, who may do nothing more.
    fn is_moved_from_outside(&self, next: &Self) -> bool {
        let is_told =
            |lanes: (&Lane, &Lane)| (lanes.0.drain, lanes.1.drain) == (Drain::ToCome, Drain::Told);
        next.sent != self.sent
            || next.end != self.end && next.end == End::Sent
            || self.lanes.iter().zip(&next.lanes).any(is_told)
    }
}

fn other(lane: usize) -> usize {
    LANES - 1 - lane
}

/// The first state in which something is wrong, and how many states there are.
fn search(protocol: Protocol, first: State) -> (Option<State>, usize) {
    let mut seen = HashSet::from([first.clone()]);
    let mut open = vec![first];
    while let Some(state) = open.pop() {
        let expected = usize::from(state.place != Place::Vacant);
        let next = state.successors(protocol);
        // Nobody has anything to do, unless somebody outside does something.
        let is_still = next.iter().all(|one| state.is_moved_from_outside(one));
        let is_lost = next.is_empty()
            && !state.was_cut
            && (state.served != state.sent || state.end != End::Read);
        let sleeps = is_still && state.unread > 0 && state.place != Place::Vacant;
        let home = state.lanes[state.home].drain;
        let stays = is_still
            && !matches!(home, Drain::Never | Drain::ToCome)
            && state.place != Place::Vacant;
        if state.owners() != expected || is_lost || sleeps || stays {
            return (Some(state), seen.len());
        }
        for state in next {
            if seen.insert(state.clone()) {
                open.push(state);
            }
        }
    }
    (None, seen.len())
}

/// A client that goes on for as long as it likes.
fn running() -> State {
    State::first(4, Drain::Never)
}

/// One that is there when the program is told to end.
fn ending() -> State {
    State::first(1, Drain::ToCome)
}

#[test]
fn a_parked_connection_has_one_owner_and_no_request_of_it_sleeps() {
    for first in [running(), ending()] {
        let (wrong, states) = search(Protocol::Whole, first);
        assert_eq!(wrong, None);
        assert!(states > 100, "{states} states are too few to mean anything");
    }
}

#[test]
fn the_model_notices_when_an_event_is_forgotten_or_a_look_is_left_out() {
    assert_ne!(search(Protocol::Forgetful, running()).0, None);
    assert_ne!(search(Protocol::Endless, running()).0, None);
    assert_ne!(search(Protocol::Hasty, running()).0, None);
}

#[test]
fn the_model_notices_when_a_leader_that_sleeps_is_not_woken_or_has_not_looked() {
    assert_ne!(search(Protocol::Quiet, running()).0, None);
    assert_ne!(search(Protocol::Sleepy, running()).0, None);
}

#[test]
fn the_model_notices_when_one_that_is_given_away_is_not_watched_anew_or_a_drain_keeps_one() {
    assert_ne!(search(Protocol::Stale, running()).0, None);
    assert_ne!(search(Protocol::Lenient, ending()).0, None);
}
