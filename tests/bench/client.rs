//! One simulated client: walks through its script, as far as it goes each time.
//!
//! A client never waits by itself: it says what it has to be woken for.

use std::io;
use std::rc::Rc;
use std::time::Instant;

use crate::connection::Connection;
use crate::machine::{Interest, Waiting};
use crate::script::{Script, Step};

/// Where it all ends up.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// How long each cycle took, in nanoseconds.
    pub(crate) latencies: Vec<u32>,
    pub(crate) errors: u64,
    /// What went wrong first.
    pub(crate) first_error: Option<String>,
}

/// Whether a client may begin its cycle again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    GoOn,
    FinishCycle,
}

/// Where a client stands after it went as far as it could.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stand {
    Wants(Interest),
    /// It has nothing more to do.
    Rests,
}

/// The half of a script that a client is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Setup,
    Cycle,
}

/// One simulated client.
pub(crate) struct Client {
    script: Rc<Script>,
    step: usize,
    part: Part,
    pub(crate) connection: Connection,
    started: Instant,
    pub(crate) rests: bool,
}

impl Client {
    pub(crate) fn new(script: &Rc<Script>, port: u16, waiting: Waiting) -> Self {
        Self {
            script: Rc::clone(script),
            step: 0,
            part: Part::Setup,
            connection: Connection::new(port, waiting),
            started: Instant::now(),
            rests: false,
        }
    }

    /// The next turn begins with the first step.
    fn restart(&mut self) {
        self.connection.reset();
        self.step = 0;
        self.part = if self.script.setup.is_empty() {
            Part::Cycle
        } else {
            Part::Setup
        };
    }

    /// Goes on; an error is counted and begins the script anew.
    pub(crate) fn turn(&mut self, buffer: &mut [u8], pace: Pace, tally: &mut Tally) -> Stand {
        match self.advance(buffer, pace, tally) {
            Ok(stand) => {
                self.rests = stand == Stand::Rests;
                stand
            }
            Err(error) => {
                tally.errors += 1;
                let step = self.current().cloned();
                let name = step.map_or_else(String::new, |step| step.name().to_owned());
                let set_up = if self.is_set_up() { "" } else { " (setup)" };
                tally
                    .first_error
                    .get_or_insert_with(|| format!("{name}{set_up}: {error}"));
                self.restart();
                self.rests = true;
                Stand::Rests
            }
        }
    }

    /// Whether it does anything after its setup.
    pub(crate) fn has_cycle(&self) -> bool {
        !self.script.cycle.is_empty()
    }

    /// Whether it has done what comes first.
    pub(crate) fn is_set_up(&self) -> bool {
        self.part == Part::Cycle
    }

    fn current(&self) -> Option<&Step> {
        if self.is_set_up() {
            self.script.cycle.get(self.step)
        } else {
            self.script.setup.get(self.step)
        }
    }

    fn advance(&mut self, buffer: &mut [u8], pace: Pace, tally: &mut Tally) -> io::Result<Stand> {
        // One read per wake-up: a second one would mostly find nothing.
        let mut may_read = true;
        let script = Rc::clone(&self.script);
        loop {
            let steps = if self.is_set_up() {
                &script.cycle
            } else {
                &script.setup
            };
            let Some(step) = steps.get(self.step) else {
                self.step = 0;
                if !self.is_set_up() {
                    self.part = Part::Cycle;
                    // Whoever set it up decides when it goes on.
                    return Ok(Stand::Rests);
                }
                if script.cycle.is_empty() {
                    return Ok(Stand::Rests);
                }
                let nanoseconds = self.started.elapsed().as_nanos();
                tally
                    .latencies
                    .push(u32::try_from(nanoseconds).unwrap_or(u32::MAX));
                if pace == Pace::FinishCycle {
                    return Ok(Stand::Rests);
                }
                continue;
            };
            if self.step == 0 && self.connection.is_at_start() {
                if pace == Pace::FinishCycle && self.is_set_up() {
                    return Ok(Stand::Rests);
                }
                self.started = Instant::now();
            }
            if step.reads() && !may_read {
                return Ok(Stand::Wants(Interest::Reading));
            }
            may_read &= !step.reads();
            if let Some(interest) = self.connection.perform(step, buffer)? {
                return Ok(Stand::Wants(interest));
            }
            self.step += 1;
        }
    }
}
