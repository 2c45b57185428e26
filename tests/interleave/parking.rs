//! A parked connection: it is in one place, and what its client sends is always noticed.
//!
//! The waiter and the workers hand a connection to and fro while the system tells of new bytes at any
//! moment. This is a model of that, with events that are told once (edge-triggered): one client that
//! sends, the system, one who watches, two workers; whichever of them watches is no matter. All states
//! that can be reached are gone through. What a connection's place remembers, and when, is the protocol
//! of the table of the waiter:
//!
//! - a connection is watched from the first time it waits, and what is there already is told then;
//! - an event for a waiting connection takes it out, and somebody serves it;
//! - an event for one that is away is remembered, and it does not wait when it comes back;
//! - an event that says that the client has ended is remembered for one look more than others: a read
//!   that fills no buffer shows that there is nothing more, but not that nothing more will come;
//! - a connection whose last read filled its buffer does not wait: no event tells of the rest.

use std::collections::HashSet;

/// Requests that the client sends, one after the other or all at once.
const REQUESTS: u8 = 4;
/// How many of them one read takes at most.
const BUFFER: u8 = 2;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Place {
    /// It was never parked: the system tells nothing of it.
    Unwatched,
    /// Nobody serves it; the next event is for the waiter.
    Waiting,
    /// Somebody has it; how often it is not to wait when it comes back.
    Away { looks: u8 },
    /// Closed.
    Vacant,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Worker {
    Idle,
    /// It has the connection and is about to read.
    Reads,
    /// It took all there was and is about to bring it back.
    Parks,
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
    /// Requests in the socket that nobody has read.
    unread: u8,
    served: u8,
    end: End,
    /// Events that the system has to tell: one at most, however much happens.
    events: u8,
    place: Place,
    /// The event that the watcher has taken, and not yet looked up in the table.
    taken: Option<SocketEvent>,
    /// Connections that were taken out and wait for a worker.
    queued: u8,
    workers: [Worker; 2],
}

/// Which rule of the protocol is left out, to see that the model notices.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Whole,
    /// An event for a connection that is being served is forgotten.
    Forgetful,
    /// An event that says that the client has ended is one like all others.
    Endless,
    /// A worker brings a connection back after one read, whether that filled the buffer or not.
    Hasty,
}

impl State {
    fn first() -> Self {
        Self {
            sent: 0,
            unread: 0,
            served: 0,
            end: End::ToCome,
            events: 0,
            place: Place::Unwatched,
            taken: None,
            queued: 0,
            workers: [Worker::Reads, Worker::Idle],
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
        if self.events > 0 && self.taken.is_none() {
            step(&|s| {
                s.events = 0;
                // It says what is so when it is taken, not when it came.
                s.taken = Some(match s.end {
                    End::ToCome => SocketEvent::Readable,
                    End::Sent | End::Read => SocketEvent::ReadClosed,
                });
            });
        }
        if let Some(event) = self.taken {
            step(&|s| {
                s.taken = None;
                s.on_event(event, protocol);
            });
        }
        for worker in 0..self.workers.len() {
            match self.workers[worker] {
                Worker::Idle if self.queued > 0 => step(&|s| {
                    s.queued -= 1;
                    s.workers[worker] = Worker::Reads;
                }),
                Worker::Idle => {}
                Worker::Reads => step(&|s| s.read(worker, protocol)),
                Worker::Parks => step(&|s| s.park(worker)),
            }
        }
        next
    }

    fn is_watched(&self) -> bool {
        !matches!(self.place, Place::Vacant | Place::Unwatched)
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
                self.queued += 1;
            }
        }
    }

    fn read(&mut self, worker: usize, protocol: Protocol) {
        let taken = self.unread.min(BUFFER);
        self.unread -= taken;
        self.served += taken;
        if taken == 0 && self.end == End::Sent {
            self.end = End::Read;
            self.place = Place::Vacant;
            self.workers[worker] = Worker::Idle;
        } else if taken < BUFFER || protocol == Protocol::Hasty {
            self.workers[worker] = Worker::Parks;
        }
    }

    fn park(&mut self, worker: usize) {
        match self.place {
            Place::Unwatched => {
                self.place = Place::Away { looks: 0 };
                self.events = u8::from(self.unread > 0 || self.end == End::Sent);
            }
            Place::Away { looks: 0 } => {
                self.place = Place::Waiting;
                self.workers[worker] = Worker::Idle;
            }
            // Something happened: it is served on.
            Place::Away { looks } => {
                self.place = Place::Away { looks: looks - 1 };
                self.workers[worker] = Worker::Reads;
            }
            Place::Waiting | Place::Vacant => panic!("two had it: {self:?}"),
        }
    }

    /// How many have the connection.
    fn owners(&self) -> usize {
        let busy = self
            .workers
            .iter()
            .filter(|one| **one != Worker::Idle)
            .count();
        let waits = usize::from(self.place == Place::Waiting);
        busy + waits + usize::from(self.queued)
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
        // The client may be silent from now on: then nobody but it can be the one to act.
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
