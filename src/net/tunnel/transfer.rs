//! One direction of a tunnel, wherever it is carried.
//!
//! A [`Transfer`] has one owner at a time: the event loop, or a thread while much moves. Neither waits for a
//! receiver with anything but the bytes themselves in hand: pipes and threads are held only while bytes
//! flow.

use std::io::IoSlice;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::net::buffer::{Buffer, LARGE};
use crate::net::pipe::{self, Filled, Pipe, Pipes, QUIET};
use crate::net::socket::{self, Received, Wait, Want};

use super::shared::{Age, Direction, Tunnel, TunnelEnd};

/// What a direction does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Waits for what it [wants](Transfer::wants).
    Wait,
    /// Has more to carry at once.
    Busy,
    /// Has ended.
    End,
}

/// One direction of a tunnel. One that is dropped takes its tunnel with it.
#[derive(Debug)]
pub(super) struct Transfer {
    tunnel: Arc<Tunnel>,
    direction: Direction,
    /// Bytes read and not delivered yet.
    pending: Buffer,
    /// When they were.
    age: Age,
    result: Result<(), TunnelEnd>,
}

impl Transfer {
    /// `early` was read before the tunnel stood.
    pub(super) fn new(tunnel: &Arc<Tunnel>, direction: Direction, early: &[u8]) -> Self {
        let mut transfer = Self {
            tunnel: Arc::clone(tunnel),
            direction,
            pending: Buffer::default(),
            age: Age::Early,
            result: Err(TunnelEnd::Reset),
        };
        transfer.set_pending(Buffer::holding(early));
        transfer
    }

    /// The tunnel it is part of.
    pub(super) fn tunnel(&self) -> &Arc<Tunnel> {
        &self.tunnel
    }

    /// Which way its bytes go.
    pub(super) fn direction(&self) -> Direction {
        self.direction
    }

    /// A number that no other one has.
    pub(super) fn number(&self) -> u64 {
        self.tunnel.id << 1 | u64::from(self.direction == Direction::ToClient)
    }

    /// What it waits for: to read or to write.
    pub(super) fn wants(&self) -> Want {
        if self.pending.bytes().is_empty() {
            Want::Read
        } else {
            Want::Write
        }
    }

    /// The socket on which it waits for it.
    pub(super) fn socket(&self, want: Want) -> &TcpStream {
        self.tunnel.socket(self.direction, want)
    }

    fn from(&self) -> &TcpStream {
        self.tunnel.from(self.direction)
    }

    fn to(&self) -> &TcpStream {
        self.tunnel.to(self.direction)
    }

    fn set_pending(&mut self, pending: Buffer) {
        let is_loaded = !pending.bytes().is_empty();
        let known = self.tunnel.is_loaded(self.direction);
        known.store(is_loaded, Ordering::Relaxed);
        self.pending = pending;
    }

    /// Sends what can be sent of the pending bytes without waiting.
    pub(super) fn send_pending(&mut self) -> Result<(), TunnelEnd> {
        let sent = self.send_now(self.pending.bytes())?;
        self.pending.forget(sent);
        if self.pending.bytes().is_empty() {
            self.set_pending(Buffer::default());
            self.age = Age::Fresh;
        }
        Ok(())
    }

    /// Carries what can be carried without waiting; it is read to `buffer`.
    pub(super) fn advance(&mut self, buffer: &mut [u8]) -> Result<Step, TunnelEnd> {
        if self.wants() == Want::Write {
            self.send_pending()?;
            return Ok(Step::Wait);
        }
        match socket::receive(self.from(), buffer, Wait::No)? {
            Received::Nothing => Ok(Step::Wait),
            Received::End => Ok(Step::End),
            Received::Bytes(count) => {
                let bytes = buffer.get(..count).unwrap_or_default();
                let sent = self.send_now(bytes)?;
                let rest = bytes.get(sent..).unwrap_or_default();
                if !rest.is_empty() {
                    self.set_pending(Buffer::holding(rest));
                    return Ok(Step::Wait);
                }
                // A full buffer says that there is more where it came from.
                Ok(if count == buffer.len() {
                    Step::Busy
                } else {
                    Step::Wait
                })
            }
        }
    }

    /// Moves bytes, with a thread's time to wait, until none comes or none is taken for a moment.
    pub(super) fn copy(&mut self, pipes: &Arc<Pipes>) -> Result<(), TunnelEnd> {
        let is_loaded = self.tunnel.is_loaded(self.direction);
        is_loaded.store(true, Ordering::Relaxed);
        socket::limit_read(self.from(), QUIET);
        socket::limit_write(self.to(), QUIET);
        let left = match pipes.lend() {
            Some(pipe) => self.copy_through(pipe)?,
            None => self.copy_with(Buffer::with_room(LARGE))?,
        };
        self.set_pending(left);
        Ok(())
    }

    /// Returns what is not taken.
    fn copy_through(&self, mut pipe: Pipe) -> Result<Buffer, TunnelEnd> {
        loop {
            match pipe::fill(&mut pipe, self.from(), u64::MAX)? {
                Filled::Bytes(_) => {}
                Filled::Nothing => return Ok(Buffer::default()),
                Filled::ReadInstead => {
                    drop(pipe);
                    return self.copy_with(Buffer::with_room(LARGE));
                }
            }
            while pipe.held() > 0 {
                // The socket goes on blocking, for the other direction reads from it.
                match pipe::drain_within_limit(&mut pipe, self.to())? {
                    0 => return Ok(pipe::into_buffer(pipe)?),
                    sent => self.tunnel.count(self.direction, self.age, sent),
                }
            }
        }
    }

    /// The same without a pipe.
    fn copy_with(&self, mut buffer: Buffer) -> Result<Buffer, TunnelEnd> {
        loop {
            match socket::receive(self.from(), buffer.room(), Wait::Tick)? {
                Received::Bytes(count) => buffer.extend(count),
                // An end is there to be read again.
                Received::Nothing | Received::End => return Ok(Buffer::default()),
            }
            while !buffer.bytes().is_empty() {
                match self.send_now(buffer.bytes())? {
                    0 if pipe::takes_soon(self.to()) => {}
                    0 => return Ok(Buffer::holding(buffer.bytes())),
                    sent => buffer.forget(sent),
                }
            }
        }
    }

    fn send_now(&self, bytes: &[u8]) -> Result<usize, TunnelEnd> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let sent = socket::send(self.to(), &[IoSlice::new(bytes)], Wait::No)?;
        if sent > 0 {
            self.tunnel.count(self.direction, self.age, sent);
        }
        Ok(sent)
    }

    /// Ends it; with an error, the whole tunnel.
    pub(super) fn end(mut self, result: Result<(), TunnelEnd>) {
        self.result = result;
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        // Also by a panic, which must not leave the other direction, or the count of tunnels, waiting.
        if let Err(end) = self.result {
            self.tunnel.stop(end);
        }
        self.tunnel.close(self.direction);
    }
}
