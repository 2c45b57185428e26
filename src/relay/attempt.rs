//! One try at one next hop: the request out, the final response head in.
//!
//! The request body and the response can overlap in every way: the next hop may answer before it has
//! read all (an error to a big upload), ask for the body (`100 Continue`), or break the connection with
//! an answer still in it. So while the body is sent both peers are watched, and a next hop that takes
//! no more is still listened to.

use std::io::IoSlice;
use std::time::{Duration, Instant};

use crate::access_log::TryEnd;
use crate::balance::failover::AttemptError;
use crate::net::conn::{Conn, LookAround, SendError};
use crate::net::socket::{self, Received, TICK, Wait, Want};
use crate::protocol::answer::{HopFailure, Refusal};
use crate::protocol::framing::Framing;
use crate::protocol::head::{self, HeadError, HeadScanner, ResponseHead, Version};
use crate::protocol::persistence::{CloseReason, Persistence};
use crate::protocol::rewrite::{self, KeepAlive, ResponseRewrite, SentFraming, Switch};
use crate::protocol::shown::ShownHead;

use super::exchange::Exchange;
use super::failed::{Failed, unsent};
use super::hop::{Hop, ResponseWait, look_at};

/// How long a body is held back for a `100 Continue` that does not come (RFC 9110 §10.1.1 leaves the
/// time open; a client waits about as long before it sends unasked).
const AWAIT_CONTINUE: Duration = Duration::from_secs(1);

/// Interim responses (1xx) to one request; more is not a server but an attack.
const MOST_INTERIM: u32 = 32;

/// What came of waiting for a next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// More bytes, or a look around.
    More,
    /// Nothing, and the body must go on.
    BodyIsDue,
    /// Nothing, and the worker may do something else meanwhile.
    Suspends,
}

/// What came while the next head was read.
enum Came {
    Head(ResponseHead),
    /// Not all of it is there, and the body must go on.
    BodyIsDue,
    /// Nothing, and the worker may do something else meanwhile.
    Nothing,
}

impl Exchange<'_> {
    /// Sends the request whose head is in `scratch.out`, and what follows, if that was not done yet; returns
    /// the final response's head (or that of a 101) and the framing of its body. `limit` is the longest
    /// wait for it once the request is complete. `None`: it is to be waited for without a worker.
    ///
    /// # Errors
    /// See [`Failed`]; the client has seen nothing but interim responses.
    pub(super) fn ask(
        &mut self,
        hop: &mut Hop,
        limit: Duration,
    ) -> Result<Option<(ResponseHead, Framing)>, Failed> {
        self.client.listed.goes(&self.report.route);
        let head = self.head_of_answer(hop, limit);
        self.learn_of_address(hop, &head);
        let answer = match head {
            Ok(None) => return Ok(None),
            Ok(Some(head)) => self
                .examine(hop, &head)
                .map(|framing| Some((head, framing))),
            Err(failed) => Err(failed),
        };
        if let Ok(Some((head, _))) = &answer {
            passes!(self.report, self.ctx, "from the next hop", head.as_bytes());
        }
        let end = match &answer {
            Ok(answer) => {
                let head = answer.as_ref().map(|(head, _)| head);
                TryEnd::Status(head.map_or(0, ResponseHead::status))
            }
            Err(failed) => TryEnd::Word(failed.label()),
        };
        self.report
            .tried(self.ctx, hop.lease.as_ref(), hop.begun, end);
        answer
    }

    fn head_of_answer(
        &mut self,
        hop: &mut Hop,
        limit: Duration,
    ) -> Result<Option<ResponseHead>, Failed> {
        let mut waiting = if let Some(waiting) = hop.waiting.take() {
            waiting
        } else {
            self.state.upload.resume();
            self.send_head(hop)?;
            ResponseWait::default()
        };
        let limit = self.patience(limit);
        let answer = self.await_answer(hop, &mut waiting, limit);
        hop.waiting = Some(waiting);
        answer
    }

    fn await_answer(
        &mut self,
        hop: &mut Hop,
        waiting: &mut ResponseWait,
        limit: Duration,
    ) -> Result<Option<ResponseHead>, Failed> {
        // Kept while the next hop sends interim responses: these are no progress of the request body.
        let mut progress = waiting.sent_at.unwrap_or_else(Instant::now);
        loop {
            if self.state.upload.is_open() {
                self.send_body(hop, &mut progress)?;
                if !self.state.upload.is_open() {
                    progress = Instant::now();
                }
            }
            if !self.state.upload.is_open() {
                waiting.sent_at.get_or_insert(progress);
                self.state.request_done.get_or_insert(progress);
            }
            let head = match self.next_head(hop, waiting, limit)? {
                Came::Head(head) => head,
                Came::Nothing => return Ok(None),
                Came::BodyIsDue => {
                    if self.state.upload.pending().is_empty() {
                        self.check_client_sends(hop, progress)?;
                    } else {
                        self.check_hop_takes(hop, progress)?;
                    }
                    continue;
                }
            };
            match head.status() {
                101 if self.state.upload.is_open() || !self.asked_to_switch(&head) => {
                    return Err(Failed::no_response(HopFailure::SwitchUnasked));
                }
                100 | 102..=199 => self.pass_interim(hop, &head, waiting)?,
                _ => return Ok(Some(head)),
            }
            self.scratch.response = head.into_memory();
        }
    }

    /// Whether a 101 switches to a protocol that was asked for: "a server MUST NOT switch to a protocol
    /// that was not indicated by the client" (RFC 9110 §7.8).
    fn asked_to_switch(&self, head: &ResponseHead) -> bool {
        let asked = self.state.upgrade.as_deref().unwrap_or_default();
        let is_asked = |protocol: &[u8]| {
            let mut members = asked.split(|byte| *byte == b',');
            members.any(|member| member.trim_ascii().eq_ignore_ascii_case(protocol))
        };
        let mut switched = head.fields().members("Upgrade").peekable();
        switched.peek().is_some() && switched.all(is_asked)
    }

    fn send_head(&mut self, hop: &mut Hop) -> Result<(), Failed> {
        let before = hop.conn.sent();
        let mut parts = [
            IoSlice::new(&self.scratch.out),
            IoSlice::new(self.state.upload.kept()),
        ];
        let stop = &self.ctx.stop;
        let patience = self.snapshot.config.limits.io_timeout;
        let worker = self.worker;
        let begun = Instant::now();
        let mut lost = Ok(());
        let lease = hop.lease.as_ref();
        let sent = hop.conn.send_all(&mut parts, patience, &mut || {
            worker.may_block();
            lost = self.weigh_silence(lease, begun);
            if lost.is_err() || self.client_is_gone() {
                return LookAround::GiveUp;
            }
            look_at(stop.stage())
        });
        lost?;
        match sent {
            Ok(()) => Ok(()),
            Err(SendError::Io(_)) if hop.conn.sent() == before => {
                Err(Failed::Hop(AttemptError::NotSent(HopFailure::Reset)))
            }
            // The next hop may have answered before it closed: its answer is read.
            Err(SendError::Io(_)) => {
                self.state.upload.abandon();
                Ok(())
            }
            Err(SendError::Stalled) => Err(Failed::no_response(HopFailure::SendTimeout)),
            Err(SendError::Cut) => Err(self.given_up()),
        }
    }

    /// Sends the body until it is finished, or until the next hop says something or takes no more.
    /// `progress` is when a piece of it last got on.
    fn send_body(&mut self, hop: &mut Hop, progress: &mut Instant) -> Result<(), Failed> {
        let waits = self.state.upload.expects_continue
            && self.state.upload.pending().is_empty()
            && self.client.conn.unread().is_empty();
        if waits {
            self.begins_to_wait();
            // A client that sends its body after all need not be waited for.
            let client = (self.client.conn.stream(), Want::Read);
            let next = (hop.conn.stream(), Want::Read);
            let ready = socket::wait_for(client, next, AWAIT_CONTINUE);
            if ready.is_ok_and(|(_, next)| next.to_read()) {
                return Ok(());
            }
        }
        self.state.upload.expects_continue = false;
        while self.state.upload.is_open() {
            self.check_hop(hop)?;
            while !self.state.upload.pending().is_empty() {
                let pending = [IoSlice::new(self.state.upload.pending())];
                match hop.conn.send(&pending, Wait::No) {
                    Ok(0) if self.begins_to_wait() => {}
                    Ok(0) if socket::is_readable(hop.conn.stream()) => return Ok(()),
                    Ok(0) => self.wait_for_taker(hop, *progress)?,
                    Ok(count) => {
                        self.state.upload.advance(count);
                        self.has_moved(count as u64);
                        *progress = Instant::now();
                    }
                    Err(_) => {
                        self.state.upload.abandon();
                        return Ok(());
                    }
                }
            }
            if socket::is_readable(hop.conn.stream()) || !self.state.upload.is_open() {
                return Ok(());
            }
            if self.splice_request(hop)? || self.read_body(hop, *progress)? {
                *progress = Instant::now();
            } else {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Reads a piece of the body. `false`: the next hop spoke first.
    fn read_body(&mut self, hop: &mut Hop, progress: Instant) -> Result<bool, Failed> {
        loop {
            if !self.client.conn.unread().is_empty() {
                self.state
                    .upload
                    .read(&mut self.client.conn)
                    .map_err(|error| Failed::Refused(Refusal::from(error)))?;
                return Ok(true);
            }
            match self.client.conn.receive_bulk(Wait::No) {
                Ok(Received::Bytes(_)) => {}
                Ok(Received::End) | Err(_) => return Err(Failed::Closed(CloseReason::ClientGone)),
                Ok(Received::Nothing) => {
                    self.begins_to_wait();
                    let client = (self.client.conn.stream(), Want::Read);
                    let next = (hop.conn.stream(), Want::Read);
                    let Ok((client, next)) = socket::wait_for(client, next, TICK) else {
                        return Err(Failed::Refused(Refusal::Internal));
                    };
                    if next.to_read() {
                        return Ok(false);
                    }
                    if !client.to_read() {
                        self.check_client_sends(hop, progress)?;
                    }
                }
            }
        }
    }

    /// Waits until the next hop takes more or says something, or until it is time to look what is wrong
    /// with it: it has taken nothing since `since`. A send to a next hop that takes nothing returns at once;
    /// the wait is here, and short, so that whoever sends looks around again and again.
    pub(super) fn wait_for_taker(&self, hop: &Hop, since: Instant) -> Result<(), Failed> {
        if self.client_is_gone() {
            return Err(Failed::Closed(CloseReason::ClientGone));
        }
        if !socket::is_writable(hop.conn.stream()) {
            self.weigh_silence(hop.lease.as_ref(), since)?;
        }
        self.check_hop_takes(hop, since)?;
        let now = Instant::now();
        let look = |lease| self.next_look(lease, since, now);
        let until = hop.lease.as_ref().map_or(now + TICK, look);
        let client = (self.client.conn.stream(), Want::Nothing);
        let next = (hop.conn.stream(), Want::ReadOrWrite);
        socket::wait_for(client, next, until.saturating_duration_since(now))
            .map_err(|_no_memory| Failed::Refused(Refusal::Internal))?;
        Ok(())
    }

    /// Whether nothing has got on since `since` for too long; see [`socket::is_overdue`].
    pub(super) fn is_stalled(&self, since: Instant, can_go_on: impl FnOnce() -> bool) -> bool {
        socket::is_overdue(since, self.snapshot.config.limits.io_timeout, can_go_on)
    }

    /// The client has sent nothing of the body for a while, or since `since`: is there still a point in
    /// waiting?
    pub(super) fn check_client_sends(&self, hop: &Hop, since: Instant) -> Result<(), Failed> {
        self.check_hop(hop)?;
        if self.is_stalled(since, || socket::is_readable(self.client.conn.stream())) {
            return Err(Failed::Refused(Refusal::BodyTimeout));
        }
        Ok(())
    }

    /// The next hop has taken nothing for a while, or since `since`: is there still a point in waiting?
    pub(super) fn check_hop_takes(&self, hop: &Hop, since: Instant) -> Result<(), Failed> {
        self.check_hop(hop)?;
        if self.is_stalled(since, || socket::is_writable(hop.conn.stream())) {
            return Err(Failed::no_response(HopFailure::SendTimeout));
        }
        Ok(())
    }

    /// The next head from the next hop, if it comes before something else is to be done.
    fn next_head(
        &mut self,
        hop: &mut Hop,
        waiting: &mut ResponseWait,
        limit: Duration,
    ) -> Result<Came, Failed> {
        let limits = self.snapshot.head_limits();
        waiting.drips = false;
        loop {
            let scanner = waiting
                .scanner
                .get_or_insert_with(HeadScanner::for_response);
            let end = scanner.scan(hop.conn.unread(), limits);
            if let Some(length) = end.map_err(|error| malformed(error, &hop.conn))? {
                let mut memory = std::mem::take(&mut self.scratch.response);
                hop.conn.take_into(length, &mut memory.bytes);
                let head = ResponseHead::scanned(memory, scanner);
                waiting.scanner = None;
                return head
                    .map(Came::Head)
                    .map_err(|error| Failed::no_response(error.into()));
            }
            match self.receive_more(hop, waiting, limit)? {
                Progress::More => {}
                Progress::BodyIsDue => return Ok(Came::BodyIsDue),
                Progress::Suspends => return Ok(Came::Nothing),
            }
        }
    }

    /// Waits once for more from the next hop, and looks around if nothing came for a while.
    pub(super) fn receive_more(
        &self,
        hop: &mut Hop,
        waiting: &mut ResponseWait,
        limit: Duration,
    ) -> Result<Progress, Failed> {
        // A next hop that drips is never silent, and the time passes all the same.
        if waiting.drips && waiting.looked.get_or_insert_with(Instant::now).elapsed() >= TICK {
            waiting.looked = None;
            self.look_around(hop, waiting, limit)?;
        }
        let was_suspended = waiting.suspended_until.take().is_some();
        // Before a SOCKS5 upstream has connected, no body is sent.
        let sends_body = self.state.upload.is_open() && hop.round.is_none();
        let wait = if was_suspended || sends_body {
            Wait::No
        } else if !self.state.upload.is_open()
            && hop.conn.unread().is_empty()
            && self.worker.may_suspend()
        {
            waiting.suspended_until = Some(self.look_again(hop, waiting, limit));
            return Ok(Progress::Suspends);
        } else {
            self.worker.may_block();
            let until = self.look_again(hop, waiting, limit);
            hop.conn
                .limit_read(until.saturating_duration_since(Instant::now()));
            Wait::Tick
        };
        match hop.conn.receive(wait) {
            Ok(Received::Bytes(_)) => waiting.drips = true,
            Ok(Received::End) => return Err(Failed::no_response(HopFailure::Closed)),
            Ok(Received::Nothing) if wait == Wait::No && !was_suspended => {
                return Ok(Progress::BodyIsDue);
            }
            Ok(Received::Nothing) => self.look_around(hop, waiting, limit)?,
            Err(_) => return Err(Failed::no_response(HopFailure::Reset)),
        }
        Ok(Progress::More)
    }

    /// When the response must have come.
    fn last_moment(&self, waiting: &ResponseWait, limit: Duration) -> Option<Instant> {
        let attempt = waiting.sent_at.map(|sent_at| sent_at + limit);
        [attempt, self.deadline()].into_iter().flatten().min()
    }

    /// When to look around at the latest.
    fn look_again(&self, hop: &Hop, waiting: &ResponseWait, limit: Duration) -> Instant {
        let now = Instant::now();
        let look = match (&hop.lease, waiting.sent_at) {
            (Some(lease), Some(sent_at)) => self.next_look(lease, sent_at, now),
            (None, _) | (_, None) => now + TICK,
        };
        let last = self.last_moment(waiting, limit).unwrap_or(now + limit);
        look.min(last)
    }

    /// Nothing came for a while: is there still a point in waiting?
    fn look_around(
        &self,
        hop: &Hop,
        waiting: &ResponseWait,
        limit: Duration,
    ) -> Result<(), Failed> {
        self.check_hop(hop)?;
        if self.client_is_gone() {
            return Err(Failed::Closed(CloseReason::ClientGone));
        }
        // What has come is read before anything is judged: see `socket::is_overdue`.
        if socket::is_readable(hop.conn.stream()) {
            return Ok(());
        }
        let last = self.last_moment(waiting, limit);
        if last.is_some_and(|last| last <= Instant::now()) {
            return Err(Failed::no_response(HopFailure::ResponseTimeout));
        }
        match waiting.sent_at {
            Some(sent_at) => self.weigh_silence(hop.lease.as_ref(), sent_at),
            None => Ok(()),
        }
    }

    /// Passes a 1xx on (RFC 9110 §15.2), except to an HTTP/1.0 client, which does not know them.
    fn pass_interim(
        &mut self,
        hop: &Hop,
        head: &ResponseHead,
        waiting: &mut ResponseWait,
    ) -> Result<(), Failed> {
        waiting.interim += 1;
        if waiting.interim > MOST_INTERIM {
            return Err(Failed::no_response(HopFailure::TooManyInterim));
        }
        if head.status() == 100 {
            self.state.upload.expects_continue = false;
        }
        if self.head.version() == Version::Http10 {
            return Ok(());
        }
        let bytes = self.interim(head, Switch::Stays);
        self.send_to_client(hop, &mut [IoSlice::new(&bytes)])
            .map_err(unsent)
    }

    /// What the client gets of a 1xx: it has no body, and says nothing of the connection.
    pub(super) fn interim(&self, head: &ResponseHead, upgrade: Switch) -> Vec<u8> {
        let mut bytes = Vec::new();
        let how = ResponseRewrite {
            framing: SentFraming::None,
            persistence: Persistence::KeepAlive,
            keep_alive: KeepAlive::Implied,
            via: self.via(),
            upgrade,
            passes_challenge: false,
            id: self.id_field().filter(|_| upgrade == Switch::Switches),
        };
        rewrite::response(head, &how, &mut bytes);
        bytes
    }
}

/// What does not even begin as HTTP is not the work of an origin.
fn malformed(error: HeadError, from: &Conn) -> Failed {
    Failed::no_response(if head::begins_as_response(from.unread()) {
        error.into()
    } else {
        HopFailure::NotHttp
    })
}
