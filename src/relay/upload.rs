//! The request body on its way to the next hop, and what of it can be sent again.
//!
//! As long as the body fits into [`REPLAYABLE`] bytes, what is sent stays in the buffer, so that another
//! attempt can send it again; beyond that the body can be sent only once.

use crate::balance::failover::Replay;
use crate::net::buffer::Buffer;
use crate::net::conn::Conn;
use crate::protocol::body::{BodyCoder, Sent};
use crate::protocol::chunked::BodyError;
use crate::protocol::framing::Framing;
use crate::protocol::head::Message;

/// The most bytes of a body that are kept for another attempt: 64 KiB.
pub const REPLAYABLE: usize = 64 * 1024;

/// Memory of so many bytes is kept for other bodies: 32 KiB.
const USUAL: usize = 32 * 1024;

/// A request body.
#[derive(Debug)]
pub struct Upload {
    framing: Framing,
    coder: BodyCoder,
    /// Bytes for the next hop, in its framing: all of them so far, or, once `replay` is `Gone`, those
    /// that it has not taken yet. Those before `sent` it has.
    buffer: Vec<u8>,
    /// Bytes that were not looked at, as they came out of a pipe. While there are any, `buffer` is empty and
    /// `sent` counts those of them that the next hop has. They stay in this memory, of which there is a limit.
    unseen: Buffer,
    sent: usize,
    replay: Replay,
    next_hop: NextHop,
    /// The client waits for a `100 Continue` before it sends the body.
    pub expects_continue: bool,
}

/// Whether there is a point in sending more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NextHop {
    Takes,
    /// It has left, or takes no more.
    Refuses,
}

impl Upload {
    /// A body of which nothing has been read yet.
    pub fn new(framing: Framing, trailer_limit: usize) -> Self {
        Self {
            framing,
            coder: BodyCoder::new(Message::Request, framing, Sent::AsReceived, trailer_limit),
            buffer: Vec::new(),
            unseen: Buffer::default(),
            sent: 0,
            replay: Replay::Whole,
            next_hop: NextHop::Takes,
            expects_continue: false,
        }
    }

    /// Uses the memory of `spare`, if there is a body to be put there.
    pub fn borrow_memory(&mut self, spare: &mut Vec<u8>) {
        if !self.coder.is_finished() && self.buffer.capacity() == 0 {
            std::mem::swap(&mut self.buffer, spare);
        }
    }

    /// The exchange is over: gives memory of a usual size back.
    pub fn return_memory(&mut self, spare: &mut Vec<u8>) {
        let mut memory = std::mem::take(&mut self.buffer);
        if (spare.capacity()..=USUAL).contains(&memory.capacity()) {
            memory.clear();
            *spare = memory;
        }
    }

    /// How the end of the body is found.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Whether the whole body was read from the client.
    pub fn is_finished(&self) -> bool {
        self.coder.is_finished()
    }

    /// Whether the next hop took all of it: only then does the next request on its connection begin
    /// where that one will look for it.
    pub fn is_delivered(&self) -> bool {
        self.next_hop == NextHop::Takes && self.coder.is_finished() && self.pending().is_empty()
    }

    /// Whether the next hop is to get more.
    pub fn is_open(&self) -> bool {
        self.next_hop == NextHop::Takes && (!self.coder.is_finished() || !self.pending().is_empty())
    }

    /// The next hop takes no more.
    pub fn abandon(&mut self) {
        self.next_hop = NextHop::Refuses;
    }

    /// Another attempt begins: it sends what is [`kept`](Self::kept) and goes on from there.
    pub fn resume(&mut self) {
        self.next_hop = NextHop::Takes;
        if self.replay == Replay::Gone {
            self.buffer.clear();
            self.unseen = Buffer::default();
        }
        self.sent = self.buffer.len();
    }

    /// What the next hop is to get now.
    pub fn pending(&self) -> &[u8] {
        let held = match self.unseen.bytes() {
            [] => &self.buffer,
            unseen => unseen,
        };
        held.get(self.sent..).unwrap_or_default()
    }

    /// The next hop took so many bytes of [`pending`](Self::pending).
    pub fn advance(&mut self, count: usize) {
        self.sent += count;
        if self.replay == Replay::Gone && self.pending().is_empty() {
            self.buffer.clear();
            self.unseen = Buffer::default();
            self.sent = 0;
        }
    }

    /// From now on the body cannot be sent again.
    fn forget_sent(&mut self) {
        self.replay = Replay::Gone;
        self.buffer = self.pending().to_vec();
        self.sent = 0;
    }

    /// Whether another attempt could send the body from its beginning.
    pub fn replay(&self) -> Replay {
        self.replay
    }

    /// What an attempt must send before anything new.
    pub fn kept(&self) -> &[u8] {
        match self.replay {
            Replay::Whole => &self.buffer,
            Replay::Gone => &[],
        }
    }

    /// Reads what the client has already sent, as far as it can be kept, so that it goes out together
    /// with the head.
    ///
    /// # Errors
    /// When the client's framing is broken.
    pub fn prefetch(&mut self, client: &mut Conn) -> Result<(), BodyError> {
        while !self.coder.is_finished() && !client.unread().is_empty() {
            if self.buffer.len() + client.unread().len() > REPLAYABLE {
                return Ok(());
            }
            self.read(client)?;
        }
        self.resume();
        Ok(())
    }

    /// How many bytes of the body may go to the next hop without being looked at: its end is found by
    /// counting, nothing waits before them, and there are too many to be kept.
    pub fn unseen(&self) -> Option<u64> {
        let is_kept = self.replay == Replay::Whole && self.buffer.len() <= REPLAYABLE;
        if is_kept || !self.pending().is_empty() {
            return None;
        }
        self.coder.remaining()
    }

    /// So many of the [`unseen`](Self::unseen) bytes were read from the client; what the next hop did
    /// not take of them is `rest`.
    pub fn skip(&mut self, bytes: u64, rest: Buffer) {
        if self.replay == Replay::Whole {
            self.forget_sent();
        }
        self.coder.skip(bytes);
        self.unseen = rest;
    }

    /// Moves what the client sent to [`pending`](Self::pending).
    ///
    /// # Errors
    /// When the client's framing is broken.
    pub fn read(&mut self, client: &mut Conn) -> Result<(), BodyError> {
        let passed = self.coder.pass(client.unread_mut())?;
        let data = client.unread().get(..passed.output).unwrap_or_default();
        let new = data.len() + self.coder.after().len();
        if self.replay == Replay::Whole && self.buffer.len() + new > REPLAYABLE {
            self.forget_sent();
        }
        self.buffer.extend_from_slice(data);
        self.buffer.extend_from_slice(self.coder.after());
        client.consume(passed.taken);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It was copied to memory that no limit counts, and that was let go with the exchange only.
    #[test]
    fn what_a_next_hop_does_not_take_in_bulk_stays_where_it_is_until_it_has_it() {
        const BULK: usize = 1024 * 1024;
        let mut upload = Upload::new(Framing::Length(3 * BULK as u64), 0);
        for _ in 0..2 {
            let rest = Buffer::holding(&vec![b'x'; BULK]);
            let place = rest.bytes().as_ptr();
            upload.skip(BULK as u64, rest);
            assert_eq!(upload.pending().as_ptr(), place);
            assert_eq!(upload.unseen(), None, "there is something before them");
            upload.advance(1);
            assert_eq!(upload.pending().len(), BULK - 1);
            upload.advance(BULK - 1);
            assert_eq!(upload.pending(), b"");
            assert_eq!((upload.unseen.size(), upload.buffer.capacity()), (0, 0));
        }
        assert_eq!(upload.unseen(), Some(BULK as u64));
    }
}
