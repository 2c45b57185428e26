//! Large bodies from socket to socket without a copy.
//!
//! Only bodies whose end is found by counting, and exactly to that end: what comes behind it is for a
//! read to find, as is a connection that ends too early. There are few pipes, so one is held only while
//! bytes flow: once either peer keeps the other waiting, what is in it is taken out, and reading and
//! writing goes on. So time limits, vanished peers and early answers are seen to in one place, by the
//! copy (`respond.rs`, `attempt.rs`).

use std::io::IoSlice;
use std::time::Duration;

use crate::net::buffer::Buffer;
use crate::net::conn::Conn;
use crate::net::pipe::{self, Filled, Pipe, QUIET};
use crate::net::socket::{self, Wait, Want};
use crate::protocol::answer::{HopFailure, Refusal};
use crate::protocol::body::BodyCoder;
use crate::protocol::persistence::CloseReason;

use super::exchange::Exchange;
use super::failed::{Failed, truncated};
use super::hop::Hop;

/// When less than this is left of a body it is copied: 64 KiB.
const WORTH_A_PIPE: u64 = 64 * 1024;
/// From here on a body is not watched first to see whether it comes in bulk: 256 KiB.
const SURELY_WORTH: u64 = 256 * 1024;

impl Exchange<'_> {
    /// Passes on what comes of a response in bulk, up to its end at most, and until nothing comes or is
    /// taken for a moment.
    ///
    /// # Errors
    /// As for a copied body.
    pub(super) fn splice_response(
        &mut self,
        hop: &mut Hop,
        coder: &mut BodyCoder,
    ) -> Result<(), Failed> {
        let Some(mut pipe) = self.pipe_for(&hop.conn, coder.remaining()) else {
            return Ok(());
        };
        hop.conn.limit_read(QUIET);
        while let Some(left) = coder.remaining().filter(|left| *left > 0) {
            if self.wait == Wait::No && !socket::is_readable(hop.conn.stream()) {
                self.begins_to_wait();
            }
            match pipe::fill(&mut pipe, hop.conn.stream(), left) {
                Ok(Filled::Bytes(count)) => {
                    hop.conn.count_received(count as u64);
                    coder.skip(count as u64);
                    self.has_moved(count as u64);
                    self.check_response(hop)?;
                }
                Ok(Filled::ReadInstead | Filled::Nothing) => return Ok(()),
                Err(_) => return Err(truncated(HopFailure::Truncated)),
            }
            while pipe.held() > 0 {
                match pipe::drain(&mut pipe, self.client.conn.stream()) {
                    Ok(0) if self.begins_to_wait() => {}
                    Ok(0) if pipe::takes_soon(self.client.conn.stream()) => {}
                    Ok(0) => {
                        let rest = pipe::into_buffer(pipe)
                            .map_err(|_no_memory| truncated(HopFailure::LocalExhaustion))?;
                        return self.send_to_client(hop, &mut [IoSlice::new(rest.bytes())]);
                    }
                    Ok(sent) => self.client.conn.count_sent(sent as u64),
                    Err(_) => return Err(Failed::Closed(CloseReason::ClientGone)),
                }
            }
        }
        Ok(())
    }

    /// Passes on what comes of a request body in bulk, until the next hop speaks, or nothing comes or is
    /// taken for a moment. Says whether anything was.
    ///
    /// # Errors
    /// As for a copied body.
    pub(super) fn splice_request(&mut self, hop: &mut Hop) -> Result<bool, Failed> {
        let mut moved = false;
        let left = self.state.upload.unseen();
        let Some(mut pipe) = self.pipe_for(&self.client.conn, left) else {
            return Ok(moved);
        };
        while self.state.upload.is_open()
            && let Some(left) = self.state.upload.unseen().filter(|left| *left > 0)
        {
            self.check_hop(hop)?;
            let client = (self.client.conn.stream(), Want::Read);
            let next = (hop.conn.stream(), Want::Read);
            let limit = match self.wait {
                Wait::Tick => QUIET,
                Wait::No => Duration::ZERO,
            };
            let Ok((client, next)) = socket::wait_for(client, next, limit) else {
                return Err(Failed::Refused(Refusal::Internal));
            };
            if next.to_read() || !client.to_read() {
                return Ok(moved);
            }
            match pipe::fill(&mut pipe, self.client.conn.stream(), left) {
                Ok(Filled::Bytes(count)) => {
                    self.client.conn.count_received(count as u64);
                    self.has_moved(count as u64);
                    moved = true;
                    self.drain_to_hop(&mut pipe, hop);
                    if pipe.held() > 0 {
                        let rest = pipe::into_buffer(pipe)
                            .map_err(|_no_memory| Failed::Refused(Refusal::Internal))?;
                        self.state.upload.skip(count as u64, rest);
                        return Ok(true);
                    }
                    self.state.upload.skip(count as u64, Buffer::default());
                }
                Ok(Filled::ReadInstead | Filled::Nothing) => return Ok(moved),
                Err(_) => return Err(Failed::Closed(CloseReason::ClientGone)),
            }
        }
        Ok(moved)
    }

    /// Sends what the next hop takes.
    fn drain_to_hop(&mut self, pipe: &mut Pipe, hop: &mut Hop) {
        while pipe.held() > 0 {
            match pipe::drain(pipe, hop.conn.stream()) {
                Ok(0) if self.begins_to_wait() => {}
                Ok(0) if pipe::takes_soon(hop.conn.stream()) => {}
                Ok(0) => return,
                Ok(sent) => hop.conn.count_sent(sent as u64),
                Err(_) => return self.state.upload.abandon(),
            }
        }
    }

    /// A pipe, if what is left and how it comes are worth one, and there is one.
    fn pipe_for(&self, from: &Conn, left: Option<u64>) -> Option<Pipe> {
        let left = left.filter(|_| from.unread().is_empty())?;
        let is_worth = left >= SURELY_WORTH || (left >= WORTH_A_PIPE && from.is_in_bulk());
        is_worth.then(|| self.ctx.pipes.lend()).flatten()
    }
}
