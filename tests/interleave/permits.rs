//! A permit is held by one exchange, and none lies idle while a client waits for it.
//!
//! Requests of two lanes, on as many threads, take, want, give back and wait for the permits of
//! `limits.workers`. This is a model of that, one step for each atomic update or critical section:
//!
//! - a permit is taken past nobody: whoever sees that others wait stands in line;
//! - whoever stands in line looks then whether one has been given back meanwhile;
//! - whoever gives one back looks then whether others wait;
//! - one that is passed on goes to a lane by mail, and the lane gives it back if the client has left.
//!
//! All states that can be reached are gone through.

use std::collections::HashSet;

/// Clients; those with an even number are in one lane, the others in the other.
const CLIENTS: usize = 4;
const LANES: usize = 2;
const LIMIT: u8 = 1;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Step {
    /// Looks whether others wait.
    Wants,
    /// Takes a permit if there is one.
    Takes,
    /// Is about to stand in line.
    Stands,
    Works,
    /// Looks whether others wait for what there is.
    PassesOn(Then),
    Waits,
    /// It was told that it has waited for too long.
    Over,
}

/// What a thread that passes permits on does then.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Then {
    Waits,
    IsOver,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct State {
    taken: u8,
    line: Vec<usize>,
    clients: [Step; CLIENTS],
    /// Permits on their way to each lane.
    mail: [u8; LANES],
    /// Lanes that have given one back and are about to pass it on.
    passing: [bool; LANES],
}

/// Which rule is left out, to see that the model notices.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Whole,
    /// Whoever stands in line does not look again.
    Trusting,
    /// Whoever gives one back does not look who waits.
    Careless,
    /// A lane keeps what nobody waits for any more.
    Greedy,
}

impl State {
    fn first() -> Self {
        Self {
            taken: 0,
            line: Vec::new(),
            clients: [Step::Wants; CLIENTS],
            mail: [0; LANES],
            passing: [false; LANES],
        }
    }

    fn successors(&self, protocol: Protocol) -> Vec<Self> {
        let clients = (0..CLIENTS).flat_map(|client| self.step(client, protocol));
        let lanes = (0..LANES).filter_map(|lane| self.lane(lane, protocol));
        clients.chain(lanes).collect()
    }

    /// What the thread of a client may do next.
    fn step(&self, client: usize, protocol: Protocol) -> Vec<Self> {
        let mut next = self.clone();
        let then = match self.clients[client] {
            Step::Wants if self.line.is_empty() => Step::Takes,
            Step::Wants => Step::Stands,
            Step::Takes if self.taken < LIMIT => {
                next.taken += 1;
                Step::Works
            }
            Step::Takes => Step::Stands,
            Step::Stands => {
                next.line.push(client % LANES);
                if protocol == Protocol::Trusting {
                    Step::Waits
                } else {
                    Step::PassesOn(Then::Waits)
                }
            }
            Step::Works => {
                next.taken -= 1;
                if protocol == Protocol::Careless {
                    Step::Over
                } else {
                    Step::PassesOn(Then::IsOver)
                }
            }
            Step::PassesOn(then) => match (next.pass_on(), then) {
                (true, _) => Step::PassesOn(then),
                (false, Then::Waits) => Step::Waits,
                (false, Then::IsOver) => Step::Over,
            },
            // Its time is over. If its permit is on the way, another has that, or the lane gives it back.
            Step::Waits => {
                let place = next.line.iter().position(|lane| *lane == client % LANES);
                if let Some(place) = place {
                    next.line.remove(place);
                }
                Step::Over
            }
            Step::Over => return Vec::new(),
        };
        next.clients[client] = then;
        vec![next]
    }

    /// Passes one permit on, if there is one and somebody waits for it.
    fn pass_on(&mut self) -> bool {
        let passes = self.taken < LIMIT && !self.line.is_empty();
        if passes {
            self.taken += 1;
            let lane = self.line.remove(0);
            self.mail[lane] += 1;
        }
        passes
    }

    /// What the leader of a lane may do next.
    fn lane(&self, lane: usize, protocol: Protocol) -> Option<Self> {
        let mut next = self.clone();
        if self.passing[lane] {
            next.passing[lane] = next.pass_on();
            return Some(next);
        }
        next.mail[lane] = self.mail[lane].checked_sub(1)?;
        // A client that still passes permits on has stood in line already: the leader does both.
        let mut own = (lane..CLIENTS).step_by(LANES);
        if own.any(|client| self.clients[client] == Step::PassesOn(Then::Waits)) {
            return None;
        }
        let mut own = (lane..CLIENTS).step_by(LANES);
        match own.find(|client| self.clients[*client] == Step::Waits) {
            Some(client) => next.clients[client] = Step::Works,
            None if protocol == Protocol::Greedy => {}
            None => {
                next.taken -= 1;
                next.passing[lane] = true;
            }
        }
        Some(next)
    }

    /// Permits that somebody has.
    fn held(&self) -> usize {
        let works = |step: &&Step| **step == Step::Works;
        let at_work = self.clients.iter().filter(works).count();
        at_work
            + self
                .mail
                .iter()
                .map(|mail| usize::from(*mail))
                .sum::<usize>()
    }

    /// Whether a client waits though nothing but the end of its patience would change that.
    fn sleeps(&self, protocol: Protocol) -> bool {
        let waits = |step: &Step| matches!(step, Step::Waits | Step::Over);
        self.clients.contains(&Step::Waits)
            && self.clients.iter().all(waits)
            && (0..LANES).all(|lane| self.lane(lane, protocol).is_none())
    }
}

/// The first state in which something is wrong, and how many states there are.
fn search(protocol: Protocol) -> (Option<State>, usize) {
    let mut seen = HashSet::from([State::first()]);
    let mut open = vec![State::first()];
    while let Some(state) = open.pop() {
        let is_wrong = state.taken > LIMIT || state.held() != usize::from(state.taken);
        if is_wrong || state.sleeps(protocol) {
            return (Some(state), seen.len());
        }
        for next in state.successors(protocol) {
            if seen.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    (None, seen.len())
}

#[test]
fn a_permit_is_held_once_and_nobody_waits_for_one_that_lies_idle() {
    let (wrong, states) = search(Protocol::Whole);
    assert_eq!(wrong, None);
    assert!(states > 100, "{states} states are too few to mean anything");
}

#[test]
fn the_model_notices_when_a_look_is_left_out_or_a_permit_is_kept() {
    assert_ne!(search(Protocol::Trusting).0, None);
    assert_ne!(search(Protocol::Careless).0, None);
    assert_ne!(search(Protocol::Greedy).0, None);
}
