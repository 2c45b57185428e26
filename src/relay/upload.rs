//! The request body on its way to the next hop, and what of it can be sent again.
//!
//! As long as the body fits into [`REPLAYABLE`] bytes, everything sent is also kept, so that another
//! attempt can send it again; beyond that the body can be sent only once.

use crate::balance::failover::Replay;
use crate::net::conn::Conn;
use crate::protocol::body::{BodyCoder, BodyError, Sent};
use crate::protocol::framing::Framing;

/// The most bytes of a body that are kept for another attempt: 64 KiB.
pub const REPLAYABLE: usize = 64 * 1024;

/// A request body.
#[derive(Debug)]
pub struct Upload {
    framing: Framing,
    coder: BodyCoder,
    /// Everything sent so far, in the framing of the next hop; empty once `replay` is `Gone`.
    kept: Vec<u8>,
    replay: Replay,
    /// Bytes read from the client that the next hop has not taken yet, from `sent` on.
    pending: Vec<u8>,
    sent: usize,
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
            coder: BodyCoder::new(framing, Sent::AsReceived, trailer_limit),
            kept: Vec::new(),
            replay: Replay::Whole,
            pending: Vec::new(),
            sent: 0,
            next_hop: NextHop::Takes,
            expects_continue: false,
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
        self.pending.clear();
        self.sent = 0;
    }

    /// What the next hop is to get now.
    pub fn pending(&self) -> &[u8] {
        self.pending.get(self.sent..).unwrap_or_default()
    }

    /// The next hop took so many bytes of [`pending`](Self::pending).
    pub fn advance(&mut self, count: usize) {
        self.sent += count;
        if self.pending().is_empty() {
            self.pending.clear();
            self.sent = 0;
        }
    }

    /// Whether another attempt could send the body from its beginning.
    pub fn replay(&self) -> Replay {
        self.replay
    }

    /// What an attempt must send before anything new.
    pub fn kept(&self) -> &[u8] {
        &self.kept
    }

    /// Reads what the client has already sent, as far as it can be kept, so that it goes out together
    /// with the head.
    ///
    /// # Errors
    /// When the client's framing is broken.
    pub fn prefetch(&mut self, client: &mut Conn) -> Result<(), BodyError> {
        while !self.coder.is_finished() && !client.unread().is_empty() {
            if self.kept.len() + client.unread().len() > REPLAYABLE {
                return Ok(());
            }
            let mut kept = std::mem::take(&mut self.kept);
            let read = self.read_to(client, &mut kept);
            self.kept = kept;
            read?;
        }
        Ok(())
    }

    /// How many bytes of the body may go to the next hop without being looked at: its end is found by
    /// counting, nothing waits before them, and with the `next` ones they are too many to be kept.
    pub fn unseen(&self, next: usize) -> Option<u64> {
        let is_kept = match self.replay {
            Replay::Gone => false,
            Replay::Whole => self.kept.len().saturating_add(next) <= REPLAYABLE,
        };
        if is_kept || !self.pending().is_empty() {
            return None;
        }
        self.coder.remaining()
    }

    /// So many of the [`unseen`](Self::unseen) bytes were read from the client; what the next hop did
    /// not take of them is `rest`.
    pub fn skip(&mut self, bytes: u64, rest: &[u8]) {
        self.replay = Replay::Gone;
        self.kept = Vec::new();
        self.coder.skip(bytes);
        self.pending.extend_from_slice(rest);
    }

    /// Moves what the client sent to [`pending`](Self::pending), with a copy as long as it can be kept.
    ///
    /// # Errors
    /// When the client's framing is broken.
    pub fn read(&mut self, client: &mut Conn) -> Result<(), BodyError> {
        let mut pending = std::mem::take(&mut self.pending);
        let from = pending.len();
        let read = self.read_to(client, &mut pending);
        self.pending = pending;
        read?;
        let new = self.pending.get(from..).unwrap_or_default();
        if self.replay == Replay::Whole {
            if self.kept.len() + new.len() <= REPLAYABLE {
                self.kept.extend_from_slice(new);
            } else {
                self.replay = Replay::Gone;
                self.kept = Vec::new();
            }
        }
        Ok(())
    }

    fn read_to(&mut self, client: &mut Conn, to: &mut Vec<u8>) -> Result<(), BodyError> {
        let passed = self.coder.pass(client.unread_mut())?;
        let data = client.unread().get(..passed.output).unwrap_or_default();
        to.extend_from_slice(data);
        to.extend_from_slice(self.coder.after());
        client.consume(passed.taken);
        Ok(())
    }
}
