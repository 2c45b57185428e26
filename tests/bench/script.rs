//! What one client does, as a list of steps, and how it walks through them.
//!
//! Every scenario is such a list: what to do once, and what to do over and over. A client never
//! waits by itself: it goes as far as it can and says what it has to be woken for.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Instant;

use crate::machine::{self, Interest, Moved, Waiting};
use crate::pattern;
use crate::wire;

/// An error, unless it holds.
macro_rules! ensure {
    ($holds:expr, $otherwise:expr $(,)?) => {
        if !$holds {
            return Err(io::Error::other($otherwise));
        }
    };
}

/// One thing a client does.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Connects.
    Open,
    /// Writes these bytes.
    Send(Rc<[u8]>),
    /// Reads a response with status 200 and so many bytes of pattern.
    Answer(usize),
    /// Reads the head that opens a tunnel; what follows it belongs to the stream.
    Opened,
    /// Reads exactly these bytes.
    Expect(Rc<[u8]>),
    /// Reads so much of the stream, which goes on with the pattern.
    Drink(usize),
    /// Writes so much of the stream.
    Pour(usize),
    /// Closes.
    Close,
}

/// What a client does once, and then over and over; nothing more, when `cycle` is empty.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script {
    pub(crate) setup: Vec<Step>,
    pub(crate) cycle: Vec<Step>,
}

impl Script {
    /// Whether it wants more of a connection than one request or one tunnel.
    pub(crate) fn keeps_connections(&self) -> bool {
        let has = |wanted: fn(&Step) -> bool| self.setup.iter().chain(&self.cycle).any(wanted);
        has(|step| matches!(step, Step::Answer(_))) && !has(|step| matches!(step, Step::Close))
    }
}

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

/// Where it is in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Head,
    Body,
}

/// One simulated client.
pub(crate) struct Client {
    script: Rc<Script>,
    pub(crate) port: u16,
    waiting: Waiting,
    step: usize,
    part: Part,
    pub(crate) socket: Option<OwnedFd>,
    /// What epoll was told about this socket.
    pub(crate) registered: Option<Interest>,
    /// How much of the step is done.
    done: usize,
    /// Where the stream of a tunnel is in the pattern.
    offset: usize,
    /// A head that has not come as a whole.
    head: Vec<u8>,
    reading: Reading,
    started: Instant,
    pub(crate) rests: bool,
}

impl Client {
    pub(crate) fn new(script: &Rc<Script>, port: u16, waiting: Waiting) -> Self {
        Self {
            script: Rc::clone(script),
            port,
            waiting,
            step: 0,
            part: Part::Setup,
            socket: None,
            registered: None,
            done: 0,
            offset: 0,
            head: Vec::new(),
            reading: Reading::Head,
            started: Instant::now(),
            rests: false,
        }
    }

    /// Forgets everything: the next turn begins with the first step.
    fn restart(&mut self) {
        let fresh = Self::new(&self.script, self.port, self.waiting);
        *self = fresh;
        if self.script.setup.is_empty() {
            self.part = Part::Cycle;
        }
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
            if self.step == 0
                && self.done == 0
                && self.reading == Reading::Head
                && self.head.is_empty()
            {
                if pace == Pace::FinishCycle && self.is_set_up() {
                    return Ok(Stand::Rests);
                }
                self.started = Instant::now();
            }
            if step.reads() && !may_read {
                return Ok(Stand::Wants(Interest::Reading));
            }
            may_read &= !step.reads();
            if let Some(interest) = self.perform(step, buffer)? {
                return Ok(Stand::Wants(interest));
            }
            self.step += 1;
            self.done = 0;
        }
    }

    /// Does a step as far as it goes; none when it is done.
    fn perform(&mut self, step: &Step, buffer: &mut [u8]) -> io::Result<Option<Interest>> {
        let is_done = match step {
            Step::Open => {
                self.registered = None;
                self.offset = 0;
                self.socket = Some(machine::open(self.port, self.waiting)?);
                true
            }
            Step::Close => {
                self.registered = None;
                self.socket = None;
                true
            }
            Step::Send(bytes) => return self.send(bytes.len(), |from| &bytes[from..]),
            Step::Pour(count) => {
                let (offset, count) = (self.offset, *count);
                let wanted = self.send(count, |from| {
                    pattern::at(offset + from, (count - from).min(pattern::LONGEST))
                })?;
                if wanted.is_none() {
                    self.offset = (offset + count) % pattern::PERIOD;
                }
                return Ok(wanted);
            }
            Step::Answer(length) => self.read_answer(*length, buffer)?,
            Step::Opened => self.read_opening(buffer)?,
            Step::Expect(bytes) => {
                let wanted = &bytes[self.done..];
                let count = self.receive(&mut buffer[..wanted.len()])?;
                ensure!(
                    buffer[..count] == wanted[..count],
                    "other bytes than expected",
                );
                self.done += count;
                self.done == bytes.len()
            }
            Step::Drink(length) => {
                let wanted = (length - self.done).min(buffer.len());
                let count = self.receive(&mut buffer[..wanted])?;
                ensure!(
                    pattern::is_at(self.offset, &buffer[..count]),
                    "the stream is damaged",
                );
                self.offset = (self.offset + count) % pattern::PERIOD;
                self.done += count;
                self.done == *length
            }
        };
        Ok((!is_done).then_some(Interest::Reading))
    }

    fn socket(&self) -> io::Result<&OwnedFd> {
        let missing = || io::Error::other("the script has no open connection here");
        self.socket.as_ref().ok_or_else(missing)
    }

    fn send<'b>(
        &mut self,
        length: usize,
        rest: impl Fn(usize) -> &'b [u8],
    ) -> io::Result<Option<Interest>> {
        while self.done < length {
            match machine::send(self.socket()?, rest(self.done))? {
                Moved::Bytes(count) => self.done += count,
                Moved::NotNow => return Ok(Some(Interest::Writing)),
            }
        }
        Ok(None)
    }

    /// Reads once; no bytes when there are none yet.
    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match machine::receive(self.socket()?, buffer)? {
            Moved::Bytes(0) => Err(io::Error::other("closed too early")),
            Moved::Bytes(count) => Ok(count),
            Moved::NotNow if self.waiting == Waiting::InCall => Err(io::Error::other("silence")),
            Moved::NotNow => Ok(0),
        }
    }

    /// Reads until there is a whole head; what was read so far is then in `received`.
    fn read_head(
        &mut self,
        buffer: &mut [u8],
        received: &mut Vec<u8>,
    ) -> io::Result<Option<usize>> {
        let count = self.receive(buffer)?;
        *received = std::mem::take(&mut self.head);
        received.extend_from_slice(&buffer[..count]);
        let end = wire::end_of_head(received);
        if end.is_none() {
            ensure!(received.len() < 32 * 1024, "an endless head");
            self.head = std::mem::take(received);
        }
        Ok(end)
    }

    fn read_opening(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let mut received = Vec::new();
        let Some(end) = self.read_head(buffer, &mut received)? else {
            return Ok(false);
        };
        let (head, early) = received.split_at(end);
        check_head(head, 0)?;
        ensure!(pattern::is_at(0, early), "the stream is damaged");
        self.offset = early.len() % pattern::PERIOD;
        Ok(true)
    }

    fn read_answer(&mut self, length: usize, buffer: &mut [u8]) -> io::Result<bool> {
        let mut received = Vec::new();
        let received = if self.reading == Reading::Body {
            let count = self.receive(buffer)?;
            &buffer[..count]
        } else {
            let Some(end) = self.read_head(buffer, &mut received)? else {
                return Ok(false);
            };
            let (head, body) = received.split_at(end);
            check_head(head, length)?;
            self.reading = Reading::Body;
            body
        };
        ensure!(
            received.len() <= length - self.done,
            "more bytes than the answer has",
        );
        ensure!(pattern::is_at(self.done, received), "the body is damaged");
        self.done += received.len();
        let is_done = self.done == length;
        if is_done {
            self.reading = Reading::Head;
        }
        Ok(is_done)
    }
}

impl Step {
    fn reads(&self) -> bool {
        matches!(
            self,
            Self::Answer(_) | Self::Opened | Self::Expect(_) | Self::Drink(_)
        )
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Open => "connecting",
            Self::Send(_) | Self::Pour(_) => "sending",
            Self::Answer(_) | Self::Opened => "the answer",
            Self::Expect(_) => "the echo",
            Self::Drink(_) => "the stream",
            Self::Close => "closing",
        }
    }
}

fn check_head(head: &[u8], length: usize) -> io::Result<()> {
    let first_line = || {
        let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
        String::from_utf8_lossy(line).into_owned()
    };
    if wire::status(head) != Some(200) {
        return Err(io::Error::other(first_line()));
    }
    let told = wire::field(head, "content-length").map(wire::number);
    match told {
        Some(told) => ensure!(told == Some(length), "another Content-Length"),
        None => ensure!(length == 0, "no Content-Length"),
    }
    Ok(())
}
