//! A response that comes while the request body still goes.
//!
//! Neither side may be waited for alone: a next hop that echoes stops reading once its answer is not
//! taken, and a client that sends everything before it reads anything would wait for ever. So both
//! directions move as far as their peers let them, on one thread, until one of them is finished. The rest
//! of a response is then copied as any other is.

use std::io::{self, IoSlice};
use std::time::{Duration, Instant};

use crate::net::socket::{self, PollReady, Received, TICK, Wait, Want};
use crate::protocol::answer::HopFailure;
use crate::protocol::body::BodyCoder;
use crate::protocol::persistence::CloseReason;

use super::exchange::Exchange;
use super::failed::{Failed, truncated, unsent};
use super::hop::Hop;

/// The most bytes waiting for the client before the next hop is read again.
const WINDOW: usize = 64 * 1024;

/// The response direction.
struct Down<'a> {
    coder: &'a mut BodyCoder,
    /// Bytes for the client, from `sent` on.
    out: &'a mut Vec<u8>,
    sent: usize,
}

impl Down<'_> {
    fn pending(&self) -> &[u8] {
        self.out.get(self.sent..).unwrap_or_default()
    }

    fn is_finished(&self) -> bool {
        self.coder.is_finished() && self.pending().is_empty()
    }

    fn wants_input(&self) -> bool {
        !self.coder.is_finished() && self.pending().len() < WINDOW
    }

    /// Turns what the next hop sent into bytes for the client.
    fn absorb(&mut self, hop: &mut Hop) -> Result<(), Failed> {
        while self.wants_input() && !hop.conn.unread().is_empty() {
            let passed = self
                .coder
                .pass(hop.conn.unread_mut())
                .map_err(|error| truncated(HopFailure::from(error)))?;
            let data = hop.conn.unread().get(..passed.output).unwrap_or_default();
            if !data.is_empty() {
                self.out.extend_from_slice(self.coder.before());
            }
            self.out.extend_from_slice(data);
            self.out.extend_from_slice(self.coder.after());
            hop.conn.consume(passed.taken);
        }
        Ok(())
    }

    /// The client took so many bytes. They are dropped even if some are left behind them: with a client that
    /// never takes all, the buffer would grow to the length of the body.
    fn advance(&mut self, count: usize) {
        self.sent += count;
        if self.pending().is_empty() {
            self.out.clear();
            self.sent = 0;
        } else if self.sent >= WINDOW {
            self.out.drain(..self.sent);
            self.sent = 0;
        }
    }

    fn end(&mut self) -> Result<(), Failed> {
        self.coder
            .end_of_input()
            .map_err(|error| truncated(HopFailure::from(error)))?;
        self.out.extend_from_slice(self.coder.after());
        Ok(())
    }
}

impl Exchange<'_> {
    /// Copies the response whose head is in `out` while the request body goes on, until either is complete.
    /// What the client has not taken yet is in `out` then. A request body that the next hop does not take
    /// is given up.
    ///
    /// # Errors
    /// When the response cannot be completed.
    pub(super) fn copy_both_ways(
        &mut self,
        hop: &mut Hop,
        coder: &mut BodyCoder,
        out: &mut Vec<u8>,
    ) -> Result<(), Failed> {
        self.worker.takes_over_hop(&mut hop.conn);
        self.begins_to_wait();
        let mut down = Down {
            coder,
            out,
            sent: 0,
        };
        let mut progress = Instant::now();
        down.absorb(hop).map_err(unsent)?;
        loop {
            self.check_response(hop)?;
            down.absorb(hop)?;
            self.absorb_upload()?;
            if down.is_finished() || !self.state.upload.is_open() {
                down.out.drain(..down.sent);
                return Ok(());
            }
            let Ok((client, next)) = self.wait_for_both(hop, &down, TICK) else {
                // The client has the head: an answer of our own would stand in the body.
                return Err(truncated(HopFailure::LocalExhaustion));
            };
            let mut moved = false;
            if client.to_write() && !down.pending().is_empty() {
                moved |= self.write_down(&mut down)?;
            }
            if next.to_read() && down.wants_input() {
                moved |= read_down(&mut down, hop)?;
            }
            if client.to_read() && self.upload_wants_input() {
                moved |= self.read_up();
            }
            if next.to_write() && !self.state.upload.pending().is_empty() {
                moved |= self.write_up(hop);
            }
            if moved {
                self.client.listed.moved(|| self.client.totals());
                progress = Instant::now();
            } else if self.client_is_gone() {
                return Err(Failed::Closed(CloseReason::ClientGone));
            } else if self.is_stalled(progress, || self.can_go_on(hop, &down)) {
                // A next hop that waits for more of the body is not to blame for its silence.
                let waits_for_hop = down.pending().is_empty() && !self.upload_wants_input();
                return Err(if waits_for_hop {
                    truncated(HopFailure::Stalled)
                } else {
                    Failed::Closed(CloseReason::ClientTooSlow)
                });
            }
        }
    }

    /// Waits until either side can do what is wanted of it, at most `limit`.
    fn wait_for_both(
        &self,
        hop: &Hop,
        down: &Down<'_>,
        limit: Duration,
    ) -> io::Result<(PollReady, PollReady)> {
        let client = want((self.upload_wants_input(), !down.pending().is_empty()));
        let has_pending = !self.state.upload.pending().is_empty();
        let next = want((down.wants_input(), has_pending));
        let sockets = (self.client.conn.stream(), hop.conn.stream());
        socket::wait_for((sockets.0, client), (sockets.1, next), limit)
    }

    fn can_go_on(&self, hop: &Hop, down: &Down<'_>) -> bool {
        let looked = self.wait_for_both(hop, down, Duration::ZERO);
        looked.is_ok_and(|ready| ready != Default::default())
    }

    fn upload_wants_input(&self) -> bool {
        self.state.upload.is_open() && self.state.upload.pending().is_empty()
    }

    /// Moves what the client already sent towards the next hop. A broken framing ends the response,
    /// too: it may depend on bytes that cannot be told.
    fn absorb_upload(&mut self) -> Result<(), Failed> {
        if self.upload_wants_input() && !self.client.conn.unread().is_empty() {
            let read = self.state.upload.read(&mut self.client.conn);
            read.map_err(|_broken| Failed::Closed(CloseReason::RequestRefused))?;
        }
        Ok(())
    }

    fn read_up(&mut self) -> bool {
        match self.client.conn.receive_bulk(Wait::No) {
            Ok(Received::Bytes(_)) => true,
            Ok(Received::Nothing) => false,
            // The body will not be complete; the response may still be wanted.
            Ok(Received::End) | Err(_) => {
                self.state.upload.abandon();
                true
            }
        }
    }

    fn write_up(&mut self, hop: &mut Hop) -> bool {
        let pending = [IoSlice::new(self.state.upload.pending())];
        if let Ok(count) = hop.conn.send(&pending, Wait::No) {
            self.state.upload.advance(count);
            count > 0
        } else {
            self.state.upload.abandon();
            true
        }
    }

    fn write_down(&mut self, down: &mut Down<'_>) -> Result<bool, Failed> {
        let sent = self
            .client
            .conn
            .send(&[IoSlice::new(down.pending())], Wait::No)
            .map_err(|_gone| Failed::Closed(CloseReason::ClientGone))?;
        down.advance(sent);
        Ok(sent > 0)
    }
}

fn want(to_read_and_write: (bool, bool)) -> Want {
    match to_read_and_write {
        (false, false) => Want::Nothing,
        (true, false) => Want::Read,
        (false, true) => Want::Write,
        (true, true) => Want::ReadOrWrite,
    }
}

fn read_down(down: &mut Down<'_>, hop: &mut Hop) -> Result<bool, Failed> {
    match hop.conn.receive_bulk(Wait::No) {
        Ok(Received::Bytes(_)) => Ok(true),
        Ok(Received::Nothing) => Ok(false),
        Ok(Received::End) => down.end().map(|()| true),
        Err(_) => Err(truncated(HopFailure::Truncated)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::body::Sent;
    use crate::protocol::framing::Framing;
    use crate::protocol::head::Message;

    /// A client that never quite takes all of it made the buffer grow to the length of the body.
    #[test]
    fn a_slow_client_costs_a_window_however_long_the_body_is() {
        let mut coder = BodyCoder::new(Message::Response, Framing::UntilClose, Sent::AsReceived, 0);
        let mut out = Vec::new();
        let mut down = Down {
            coder: &mut coder,
            out: &mut out,
            sent: 0,
        };
        for number in 0..10_000_u32 {
            while down.wants_input() {
                down.out.extend_from_slice(&[number.to_le_bytes()[0]; 1000]);
            }
            down.advance(down.pending().len() - 1);
            assert_eq!(down.pending().len(), 1);
            assert!(down.out.len() <= 2 * WINDOW, "{}", down.out.len());
        }
    }
}
