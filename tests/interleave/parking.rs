//! A parked connection: it is in one place, and what its client sends is always noticed.
//!
//! The waiter and the workers hand a connection to and fro while the system tells of new bytes at any
//! moment. This is a model of that, with events that are told once (edge-triggered): one client that
//! sends, the system, one who watches, two workers. All states that can be reached are gone through.
//! What a connection's place remembers, and when, is the protocol of the table of the waiter:
//!
//! - an event for a waiting connection takes it out, and somebody serves it;
//! - an event for one that is being served is remembered, and it does not wait when it comes back;
//! - a worker reads until there is nothing to read before it brings a connection back.

use std::collections::HashSet;

/// Requests that the client sends, one after the other or all at once.
const REQUESTS: u8 = 3;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Place {
    /// Nobody serves it; the next event is for the waiter.
    Waiting,
    /// Somebody serves it; whether something happened meanwhile.
    Away { stirred: bool },
    /// Closed.
    Vacant,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Worker {
    Idle,
    /// It has the connection and is about to read.
    Reads,
    /// It found nothing to read and is about to bring it back.
    Parks,
}

/// The end of what the client sends.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum End {
    ToCome,
    Sent,
    Read,
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
    /// Events that the watcher has taken, and not yet looked up in the table.
    taken: u8,
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
    /// A worker serves one request and brings the connection back without another look.
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
            place: Place::Waiting,
            taken: 0,
            queued: 0,
            workers: [Worker::Idle; 2],
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
                s.events = u8::from(s.place != Place::Vacant);
            });
        }
        if self.end == End::ToCome {
            step(&|s| {
                s.end = End::Sent;
                s.events = u8::from(s.place != Place::Vacant);
            });
        }
        if self.events > 0 && self.taken == 0 {
            step(&|s| {
                s.events = 0;
                s.taken = 1;
            });
        }
        if self.taken > 0 {
            step(&|s| {
                s.taken = 0;
                s.stir(protocol);
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

    fn stir(&mut self, protocol: Protocol) {
        match self.place {
            Place::Vacant => {}
            Place::Away { .. } if protocol == Protocol::Forgetful => {}
            Place::Away { .. } => self.place = Place::Away { stirred: true },
            Place::Waiting => {
                self.place = Place::Away { stirred: false };
                self.queued += 1;
            }
        }
    }

    fn read(&mut self, worker: usize, protocol: Protocol) {
        if self.unread > 0 {
            self.unread -= 1;
            self.served += 1;
            if protocol == Protocol::Hasty {
                self.workers[worker] = Worker::Parks;
            }
        } else if self.end == End::Sent {
            self.end = End::Read;
            self.place = Place::Vacant;
            self.workers[worker] = Worker::Idle;
        } else {
            self.workers[worker] = Worker::Parks;
        }
    }

    fn park(&mut self, worker: usize) {
        match self.place {
            // Something happened: it is served on.
            Place::Away { stirred: true } => {
                self.place = Place::Away { stirred: false };
                self.workers[worker] = Worker::Reads;
            }
            Place::Away { stirred: false } => {
                self.place = Place::Waiting;
                self.workers[worker] = Worker::Idle;
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
    assert_ne!(search(Protocol::Hasty).0, None);
}
