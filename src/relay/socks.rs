//! Through a SOCKS5 upstream: what comes before the first byte of a request.
//!
//! The upstream is asked for a connection to the target before it gets anything of the request, so whatever
//! fails until then leaves the request free to go elsewhere, whatever its method is. A refusal means what an
//! HTTP proxy's to CONNECT does. Once the connection is open it is the target's: what comes on it is an
//! answer of the target alone.
//!
//! It is waited for as an answer is: without a worker if possible, with the same time limits, and as long as
//! the client is there.

use std::io::IoSlice;
use std::time::Instant;

use crate::access_log::TryEnd;
use crate::balance::failover::AttemptError;
use crate::net::socket::Wait;
use crate::protocol::answer::{HopFailure, Refusal};
use crate::protocol::socks::{self, Round, SocksError, Then};

use super::attempt::Progress;
use super::connect::MOST_PATIENCE;
use super::exchange::Exchange;
use super::failed::Failed;
use super::hop::{Hop, ResponseWait};

impl Exchange<'_> {
    /// Has a SOCKS5 upstream connect to the target, unless that is done or the next hop is none. `None`: it
    /// is to be waited for without a worker.
    ///
    /// # Errors
    /// See [`Failed`]; nothing of the request was sent.
    pub(super) fn open_way(&mut self, hop: &mut Hop) -> Result<Option<()>, Failed> {
        let Some(round) = hop.round else {
            return Ok(Some(()));
        };
        self.client.listed.goes(&self.report.route);
        let opened = self.negotiate(hop, round).map_err(unsent);
        self.learn_of_address(hop, &opened);
        hop.count_bytes();
        let end = match &opened {
            Err(failed) => failed.label(),
            Ok(Some(())) if self.head.method() == "CONNECT" => "connected",
            // There will be an answer to tell.
            Ok(_) => return opened,
        };
        let lease = hop.lease.as_ref();
        self.report
            .tried(self.ctx, lease, hop.begun, TryEnd::Word(end));
        opened
    }

    fn negotiate(&mut self, hop: &mut Hop, mut round: Round) -> Result<Option<()>, Failed> {
        let limit = self.snapshot.config.limits.response_timeout;
        let limit = self.patience(limit.min(MOST_PATIENCE));
        let mut waiting = if let Some(waiting) = hop.waiting.take() {
            waiting
        } else {
            self.say(hop, round)?;
            ResponseWait {
                sent_at: Some(Instant::now()),
                ..ResponseWait::default()
            }
        };
        loop {
            let credentials = hop.lease.as_ref().map(|lease| &lease.upstream().spec);
            let credentials = credentials.and_then(|spec| spec.credentials.as_ref());
            let reply = round.reply(credentials, hop.conn.unread());
            match reply.map_err(|error| self.weigh_socks_error(hop, error))? {
                Some((length, then)) => {
                    hop.conn.consume(length);
                    match then {
                        Then::Round(next) => {
                            round = next;
                            hop.round = Some(next);
                            self.say(hop, next)?;
                        }
                        Then::Open => {
                            hop.round = None;
                            return Ok(Some(()));
                        }
                    }
                }
                None => match self.receive_more(hop, &mut waiting, limit)? {
                    Progress::More | Progress::BodyIsDue => {}
                    Progress::Suspends => {
                        hop.waiting = Some(waiting);
                        return Ok(None);
                    }
                },
            }
        }
    }

    /// Sends the message of a round: so little that the socket takes it at once.
    fn say(&self, hop: &mut Hop, round: Round) -> Result<(), Failed> {
        let lease = hop.lease.as_ref();
        let credentials = lease.and_then(|lease| self.credentials(lease.upstream()));
        let message = round.message(credentials.as_deref(), self.authority());
        let mut message = message.ok_or(Failed::Refused(Refusal::Internal))?;
        if round == Round::Greeting {
            let mut first = Vec::new();
            self.write_proxy_header(hop, &mut first);
            message.splice(..0, first);
        }
        match hop.conn.send(&[IoSlice::new(&message)], Wait::No) {
            Ok(count) if count == message.len() => Ok(()),
            Ok(_) | Err(_) => Err(Failed::no_response(HopFailure::Reset)),
        }
    }

    /// What a refusal means for the request, and whether it tells something about the upstream.
    fn weigh_socks_error(&mut self, hop: &Hop, error: SocksError) -> Failed {
        let refusal = match error {
            SocksError::NotSocks => return Failed::no_response(HopFailure::NotSocks),
            SocksError::LoginRefused => {
                return Failed::no_response(HopFailure::AuthenticationRefused);
            }
            SocksError::Refused(refusal) => refusal,
        };
        if let Some(lease) = &hop.lease {
            self.weigh_tunnel_answer(lease, hop.begun.elapsed(), refusal.status());
        }
        match refusal {
            socks::Refusal::NotAllowed => {
                // What others said before is not the last word.
                self.state.kept = None;
                Failed::Refused(Refusal::NextHop(HopFailure::TargetNotAllowed))
            }
            socks::Refusal::TimedOut => Failed::no_response(HopFailure::TargetTimeout),
            socks::Refusal::Unreachable(why) => {
                Failed::no_response(HopFailure::TargetUnreachable(why))
            }
        }
    }

    /// Notes how long an upstream took to open the way of a tunnel.
    pub(super) fn weigh_open_way(&self, hop: &Hop) {
        if let Some(lease) = &hop.lease {
            self.weigh_tunnel_answer(lease, hop.begun.elapsed(), 200);
        }
    }
}

/// No byte of the request has left, so it may go elsewhere; but one that waited for all of its time has none
/// left.
fn unsent(failed: Failed) -> Failed {
    match failed {
        Failed::Hop(AttemptError::NoResponse(failure))
            if failure != HopFailure::ResponseTimeout =>
        {
            Failed::Hop(AttemptError::NotSent(failure))
        }
        Failed::Hop(_) | Failed::Refused(_) | Failed::Closed(_) => failed,
    }
}
