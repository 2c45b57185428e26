//! One connection of a client: does the steps of its script and checks what comes back.

use std::io;
use std::os::fd::OwnedFd;

use crate::machine::{self, Interest, Moved, Waiting};
use crate::pattern;
use crate::script::Step;
use crate::wire;

/// An error, unless it holds.
macro_rules! ensure {
    ($holds:expr, $otherwise:expr $(,)?) => {
        if !$holds {
            return Err(io::Error::other($otherwise));
        }
    };
}

/// Where it is in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Head,
    Body,
}

/// A connection, or none yet, to one port.
pub(crate) struct Connection {
    port: u16,
    waiting: Waiting,
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
}

impl Connection {
    pub(crate) fn new(port: u16, waiting: Waiting) -> Self {
        Self {
            port,
            waiting,
            socket: None,
            registered: None,
            done: 0,
            offset: 0,
            head: Vec::new(),
            reading: Reading::Head,
        }
    }

    /// Forgets everything and closes.
    pub(crate) fn reset(&mut self) {
        *self = Self::new(self.port, self.waiting);
    }

    /// Whether nothing of the present step has happened.
    pub(crate) fn is_at_start(&self) -> bool {
        self.done == 0 && self.reading == Reading::Head && self.head.is_empty()
    }

    /// Does a step as far as it goes; none when it is done.
    pub(crate) fn perform(
        &mut self,
        step: &Step,
        buffer: &mut [u8],
    ) -> io::Result<Option<Interest>> {
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
        if is_done {
            self.done = 0;
        }
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
        self.done = 0;
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
