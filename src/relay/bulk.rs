//! Large bodies from socket to socket without a copy.
//!
//! Only bodies whose end is found by counting, and exactly to that end: what comes behind it is for a
//! read to find, as is a connection that ends too early. Whatever a pipe cannot do is done by reading
//! and writing, so every rule about time limits, vanished peers and early answers is that of the copy.

use std::io::IoSlice;
use std::time::{Duration, Instant};

use crate::net::conn::Conn;
use crate::net::pipe::{self, Filled, Pipe};
use crate::net::socket::{self, TICK, Wait, Want};
use crate::protocol::answer::{HopFailure, Refusal};
use crate::protocol::body::BodyCoder;
use crate::protocol::persistence::CloseReason;

use super::exchange::Exchange;
use super::failed::{Failed, truncated};
use super::hop::Hop;

/// When less than this is left of a body it is copied: 64 KiB.
const WORTH_A_PIPE: u64 = 64 * 1024;
/// From here on nobody waits to see whether it comes in bulk: 256 KiB.
const SURELY_WORTH: u64 = 256 * 1024;

impl Exchange<'_> {
    /// Passes on what comes of a response in bulk, up to its end at most.
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
        let patience = self.snapshot.config.limits.io_timeout;
        hop.conn.limit_read(patience.min(TICK));
        let mut since = Instant::now();
        while let Some(left) = coder.remaining().filter(|left| *left > 0) {
            if self.flow.wait() == Wait::No && !socket::is_readable(hop.conn.stream()) {
                self.begins_to_wait();
            }
            match pipe::fill(&mut pipe, hop.conn.stream(), left) {
                Ok(Filled::Bytes(count)) => {
                    hop.conn.count_received(count as u64);
                    coder.skip(count as u64);
                    self.has_moved(count as u64);
                    self.check_stage()?;
                    self.drain_to_client(&mut pipe)?;
                    since = Instant::now();
                }
                Ok(Filled::ReadInstead) => return Ok(()),
                Ok(Filled::Nothing) => self.check_flow(hop, since)?,
                Err(_) => return Err(truncated(HopFailure::Truncated)),
            }
        }
        Ok(())
    }

    fn drain_to_client(&mut self, pipe: &mut Pipe) -> Result<(), Failed> {
        let mut since: Option<Instant> = None;
        while pipe.held() > 0 {
            match pipe::drain(pipe, self.client.conn.stream(), self.flow.wait()) {
                Ok(0) if self.begins_to_wait() => {}
                Ok(0) => {
                    self.check_stage()?;
                    let since = *since.get_or_insert_with(Instant::now);
                    // The first time limit of the socket has passed already.
                    let left = self.snapshot.config.limits.io_timeout.saturating_sub(TICK);
                    let client = self.client.conn.stream();
                    if socket::is_overdue(since, left, || socket::is_writable(client)) {
                        return Err(Failed::Closed(CloseReason::ClientTooSlow));
                    }
                }
                Ok(sent) => {
                    self.client.conn.count_sent(sent as u64);
                    since = None;
                }
                Err(_) => return Err(Failed::Closed(CloseReason::ClientGone)),
            }
        }
        Ok(())
    }

    /// Passes on what comes of a request body in bulk, until the next hop speaks. Says whether anything
    /// was.
    ///
    /// # Errors
    /// As for a copied body.
    pub(super) fn splice_request(
        &mut self,
        hop: &mut Hop,
        progress: &mut Instant,
    ) -> Result<bool, Failed> {
        let mut moved = self.pass_unread(hop, progress)?;
        let left = self.course.upload.unseen(0);
        let Some(mut pipe) = self.pipe_for(&self.client.conn, left) else {
            return Ok(moved);
        };
        while let Some(left) = self.course.upload.unseen(0).filter(|left| *left > 0) {
            self.check_stage()?;
            let client = (self.client.conn.stream(), Want::Read);
            let next = (hop.conn.stream(), Want::Read);
            let limit = match self.flow.wait() {
                Wait::Tick => TICK,
                Wait::No => Duration::ZERO,
            };
            let Ok((client, next)) = socket::wait_for(client, next, limit) else {
                return Err(Failed::Refused(Refusal::Internal));
            };
            if next.to_read() {
                return Ok(moved);
            }
            if !client.to_read() {
                if !self.begins_to_wait() {
                    self.check_client_sends(*progress)?;
                }
                continue;
            }
            match pipe::fill(&mut pipe, self.client.conn.stream(), left) {
                Ok(Filled::Bytes(count)) => {
                    self.client.conn.count_received(count as u64);
                    self.has_moved(count as u64);
                    let rest = self.drain_to_hop(&mut pipe, hop)?;
                    self.course.upload.skip(count as u64, &rest);
                    moved = true;
                    if !rest.is_empty() || !self.course.upload.is_open() {
                        return Ok(moved);
                    }
                    *progress = Instant::now();
                }
                Ok(Filled::Nothing) => {}
                Ok(Filled::ReadInstead) => return Ok(moved),
                Err(_) => return Err(Failed::Closed(CloseReason::ClientGone)),
            }
        }
        Ok(moved)
    }

    /// Sends what was read of the request body already, from where it lies.
    fn pass_unread(&mut self, hop: &mut Hop, progress: &mut Instant) -> Result<bool, Failed> {
        let mut moved = false;
        loop {
            let unread = self.client.conn.unread();
            let left = self.course.upload.unseen(unread.len()).unwrap_or(0);
            let most = usize::try_from(left).unwrap_or(usize::MAX);
            let bytes = unread.get(..most).unwrap_or(unread);
            if bytes.is_empty() || !self.course.upload.is_open() {
                return Ok(moved);
            }
            match hop.conn.send(&[IoSlice::new(bytes)], Wait::No) {
                Ok(0) if self.begins_to_wait() => {}
                Ok(0) if socket::is_readable(hop.conn.stream()) => return Ok(true),
                Ok(0) => self.wait_for_taker(hop, *progress)?,
                Ok(sent) => {
                    self.client.conn.consume(sent);
                    self.course.upload.skip(sent as u64, b"");
                    self.has_moved(sent as u64);
                    *progress = Instant::now();
                    moved = true;
                }
                Err(_) => {
                    self.course.upload.abandon();
                    return Ok(true);
                }
            }
        }
    }

    /// Returns what the next hop does not take because it has something to say.
    fn drain_to_hop(&mut self, pipe: &mut Pipe, hop: &mut Hop) -> Result<Vec<u8>, Failed> {
        let mut progress = Instant::now();
        while pipe.held() > 0 {
            match pipe::drain(pipe, hop.conn.stream(), Wait::No) {
                Ok(0) if self.begins_to_wait() => {}
                Ok(0) if socket::is_readable(hop.conn.stream()) => {
                    return pipe::empty(pipe)
                        .map_err(|_no_memory| Failed::Refused(Refusal::Internal));
                }
                Ok(0) => self.wait_for_taker(hop, progress)?,
                Ok(sent) => {
                    hop.conn.count_sent(sent as u64);
                    progress = Instant::now();
                }
                Err(_) => {
                    self.course.upload.abandon();
                    return Ok(Vec::new());
                }
            }
        }
        Ok(Vec::new())
    }

    /// A pipe, if what is left and how it comes are worth one, and there is one.
    fn pipe_for(&self, from: &Conn, left: Option<u64>) -> Option<Pipe> {
        let left = left.filter(|_| from.unread().is_empty())?;
        let is_worth = left >= SURELY_WORTH || (left >= WORTH_A_PIPE && from.is_in_bulk());
        is_worth.then(|| self.ctx.pipes.lend()).flatten()
    }
}
