//! A parked connection: it is in one place, and what its client sends is always noticed.
//!
//! The leader of a lane, the followers that it has handed connections to, and the system, which tells of new
//! bytes at any moment, have a connection in turns. This is a model of that, with events that are told once
//! (edge-triggered): one client that sends, the system, a leader, a follower. When the leader hands its lane
//! on, another thread leads, and it makes no difference which. All states that can be reached are gone
//! through. What a connection's place remembers, and when, is the protocol of the table of a lane:
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
//! - a follower puts a connection into the inbox, and then wakes a leader that has said so.

use std::collections::HashSet;

/// Requests that the client sends, one after the other or all at once.
const REQUESTS: u8 = 4;
/// How many of them one read takes at most.
const BUFFER: u8 = 2;

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
    Wakes,
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

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct State {
    sent: u8,
    /// Requests in the socket that were not read.
    unread: u8,
    served: u8,
    end: End,
    /// Events that the system has to tell: one at most, however much happens.
    events: u8,
    place: Place,
    /// Connections that were taken out and wait to be served.
    ready: u8,
    leader: Leader,
    follower: Follower,
    inbox: u8,
    says_asleep: bool,
    /// Events that wake the leader for its inbox: one at most, as above.
    wakes: u8,
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
}

/// Takes down the state that a change leads to.
type Step<'s> = &'s mut dyn FnMut(&dyn Fn(&mut State));

impl State {
    fn first() -> Self {
        Self {
            sent: 0,
            unread: 0,
            served: 0,
            end: End::ToCome,
            events: 0,
            place: Place::Unwatched,
            ready: 1,
            leader: Leader::Looks,
            follower: Follower::Idle,
            inbox: 0,
            says_asleep: false,
            wakes: 0,
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
        if self.sent < REQUESTS && self.end == End::ToCome {
            step(&|s| {
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
        self.lead(protocol, &mut step);
        self.follow(protocol, &mut step);
        next
    }

    /// The steps of the leader.
    fn lead(&self, protocol: Protocol, step: Step<'_>) {
        match self.leader {
            Leader::Collects => step(&|s| s.collect(protocol)),
            Leader::Looks => step(&State::look),
            Leader::Idles => step(&|s| {
                s.says_asleep = true;
                s.leader = Leader::FallsAsleep;
            }),
            Leader::FallsAsleep => step(&|s| {
                let stays = s.inbox > 0 && protocol != Protocol::Sleepy;
                s.leader = if stays {
                    Leader::Collects
                } else {
                    Leader::Sleeps
                };
            }),
            Leader::Sleeps if self.events + self.wakes > 0 => step(&|s| {
                s.wakes = 0;
                s.leader = Leader::Collects;
            }),
            Leader::Sleeps => {}
            Leader::Reads => {
                step(&|s| match s.read(protocol) {
                    Some(true) => s.leader = Leader::Collects,
                    Some(false) => s.leader = Leader::Parks,
                    None => {}
                });
                if self.follower == Follower::Idle {
                    // Another thread leads from now on.
                    step(&|s| {
                        s.follower = Follower::Reads;
                        s.leader = Leader::Collects;
                    });
                }
            }
            Leader::Parks => step(&|s| {
                s.park();
                s.leader = Leader::Collects;
            }),
        }
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
                s.inbox += 1;
                s.follower = Follower::Wakes;
            }),
            Follower::Wakes => step(&|s| {
                if protocol != Protocol::Quiet && s.says_asleep {
                    s.says_asleep = false;
                    s.wakes = 1;
                }
                s.follower = Follower::Idle;
            }),
        }
    }

    fn is_watched(&self) -> bool {
        !matches!(self.place, Place::Vacant | Place::Unwatched)
    }

    fn collect(&mut self, protocol: Protocol) {
        self.says_asleep = false;
        self.leader = Leader::Looks;
        if std::mem::take(&mut self.events) > 0 {
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
                self.ready += 1;
            }
        }
    }

    fn look(&mut self) {
        for _ in 0..std::mem::take(&mut self.inbox) {
            self.park();
        }
        if self.ready > 0 {
            self.ready -= 1;
            self.leader = Leader::Reads;
        } else {
            self.leader = Leader::Idles;
        }
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

    fn park(&mut self) {
        if self.place == Place::Unwatched {
            self.place = Place::Away { looks: 0 };
            self.events = u8::from(self.unread > 0 || self.end == End::Sent);
        }
        match self.place {
            Place::Away { looks: 0 } => self.place = Place::Waiting,
            // Something happened: it is served on.
            Place::Away { looks } => {
                self.place = Place::Away { looks: looks - 1 };
                self.ready += 1;
            }
            Place::Unwatched | Place::Waiting | Place::Vacant => panic!("two had it: {self:?}"),
        }
    }

    /// How many have the connection.
    fn owners(&self) -> usize {
        let leads = matches!(self.leader, Leader::Reads | Leader::Parks);
        let follows = matches!(self.follower, Follower::Reads | Follower::Brings);
        let waits = self.place == Place::Waiting;
        let moves = usize::from(self.ready) + usize::from(self.inbox);
        usize::from(leads) + usize::from(follows) + usize::from(waits) + moves
    }
}

/// The first state in which something is wrong, and how many states there are.
fn search(protocol: Protocol) -> (Option<State>, usize) {
    let mut seen = HashSet::from([State::first()]);
    let mut open = vec![State::first()];
    while let Some(state) = open.pop() {
        let expected = usize::from(state.place != Place::Vacant);
        let next = state.successors(protocol);
        let is_stuck = next.is_empty();
        let is_lost = is_stuck && (state.served != state.sent || state.end != End::Read);
        // The client may be silent from now on: then it must be the only one that can act.
        let is_silent = next
            .iter()
            .all(|one| one.sent != state.sent || one.end != state.end && one.end == End::Sent);
        let sleeps = is_silent && state.unread > 0 && state.place != Place::Vacant;
        if state.owners() != expected || is_lost || sleeps {
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

#[test]
fn a_parked_connection_has_one_owner_and_no_request_of_it_sleeps() {
    let (wrong, states) = search(Protocol::Whole);
    assert_eq!(wrong, None);
    assert!(states > 100, "{states} states are too few to mean anything");
}

#[test]
fn the_model_notices_when_an_event_is_forgotten_or_a_look_is_left_out() {
    assert_ne!(search(Protocol::Forgetful).0, None);
    assert_ne!(search(Protocol::Endless).0, None);
    assert_ne!(search(Protocol::Hasty).0, None);
}

#[test]
fn the_model_notices_when_a_leader_that_sleeps_is_not_woken_or_has_not_looked() {
    assert_ne!(search(Protocol::Quiet).0, None);
    assert_ne!(search(Protocol::Sleepy).0, None);
}
