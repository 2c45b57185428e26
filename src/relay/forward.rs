//! A request that is not CONNECT: through one upstream after the other, or directly.

use std::time::Instant;

use crate::balance::upstream::Lease;
use crate::net::idle_pool::Leftover;
use crate::protocol::answer::{HopFailure, Refusal};
use crate::protocol::credentials::Credentials;
use crate::protocol::rewrite::{self, Form, HopConnection, MaxForwards, RequestRewrite};
use crate::protocol::target::AbsoluteForm;
use crate::route::Route;

use super::client::BoundTo;
use super::exchange::{Done, Exchange};
use super::failed::{Failed, refused};
use super::hop::{Hop, HopOrigin};
use super::next_hop::Reuse;
use super::report::RouteTaken;
use super::reuse;
use super::upstreams::Start;

impl Exchange<'_> {
    /// Relays an absolute-form request.
    ///
    /// # Errors
    /// See [`Failed`]; nothing of a final response was sent unless the error says so.
    pub fn relay(&mut self, target: &AbsoluteForm<'_>) -> Result<Done, Failed> {
        if self.asked.is_none() {
            self.take_in_body()?;
        }
        match self.snapshot.config.rules.route(self.authority.host()) {
            Route::Direct => self.relay_directly(target),
            Route::ViaUpstream => {
                self.over_upstreams(&mut |exchange, start| exchange.relay_via(target, start))
            }
        }
    }

    /// What the client has sent of the body already goes out with the head.
    fn take_in_body(&mut self) -> Result<(), Failed> {
        self.course.binds = rewrite::binds_connection(self.head.fields());
        self.course.upload.expects_continue = rewrite::expects_continue(self.head);
        if !self.course.upload.expects_continue {
            self.course
                .upload
                .prefetch(&mut self.client.conn)
                .map_err(|error| Failed::Refused(Refusal::from(error)))?;
        }
        if self.course.upload.is_finished() {
            self.course.request_done = Some(Instant::now());
        } else {
            self.worker.takes_over(self.client);
        }
        Ok(())
    }

    fn relay_via(&mut self, target: &AbsoluteForm<'_>, start: Start) -> Result<Done, Failed> {
        let mut hop = match start {
            Start::Picked(lease) => {
                let begun = match self.course.request_done {
                    Some(done) if self.report.attempts == 1 => done,
                    Some(_) | None => Instant::now(),
                };
                self.connect_upstream(lease, begun)?
            }
            Start::Asked(hop) => hop,
        };
        let begun = hop.begun;
        loop {
            if let (false, Some(lease)) = (hop.is_asked(), &hop.lease) {
                let credentials = lease.upstream().spec.credentials.as_ref();
                self.write_request(target, Form::Absolute, credentials);
            }
            let (failed, lease, origin) = match self.converse(hop) {
                Ok(done) => return Ok(done),
                Err(unanswered) => unanswered,
            };
            let (Failed::Hop(error), Some(lease)) = (&failed, lease) else {
                return Err(failed);
            };
            if !self.may_dial_again(&lease, origin, error) {
                self.blame(&lease, begun, error);
                return Err(failed);
            }
            if reuse::explains(origin, error) {
                self.broke(&lease, error);
            }
            if !self.may_be_sent_afresh(error) {
                return Err(failed);
            }
            // The upstream has not failed: something had happened to the connection while it was idle, or it
            // has another address.
            hop = self.dial_upstream(lease, begun, Reuse::Allowed)?;
        }
    }

    fn relay_directly(&mut self, target: &AbsoluteForm<'_>) -> Result<Done, Failed> {
        let begun = match self.asked.take() {
            Some(hop) => return self.converse_directly(hop, target),
            None => Instant::now(),
        };
        self.report.route = RouteTaken::Direct;
        self.report.attempts += 1;
        let to = BoundTo::Origin(target.authority.clone());
        let bound = self.take_bound(&to, None).filter(|bound| {
            // It was dialed for another request, and maybe under other rules.
            let there = bound.conn.stream().peer_addr();
            there.is_ok_and(|there| self.may_reach(there.ip()))
        });
        let (conn, origin) = match bound {
            Some(bound) => (bound.conn, HopOrigin::Reused(Leftover::Nothing)),
            None => (self.dial_origin()?, HopOrigin::Fresh),
        };
        self.converse_directly(Hop::new(conn, None, begun, origin), target)
    }

    fn converse_directly(
        &mut self,
        mut hop: Hop,
        target: &AbsoluteForm<'_>,
    ) -> Result<Done, Failed> {
        loop {
            if !hop.is_asked() {
                self.write_request(target, Form::Origin, None);
            }
            let begun = hop.begun;
            let (failed, _, origin) = match self.converse(hop) {
                Ok(done) => return Ok(done),
                Err(unanswered) => unanswered,
            };
            match &failed {
                Failed::Hop(error)
                    if reuse::explains(origin, error) && self.may_be_sent_afresh(error) => {}
                Failed::Hop(_) | Failed::Refused(_) | Failed::Closed(_) => {
                    return Err(refused(failed));
                }
            }
            // Nobody failed: something had happened to the connection while it was idle.
            let conn = self.dial_origin()?;
            hop = Hop::new(conn, None, begun, HopOrigin::Fresh);
        }
    }

    /// Sends the request in `self.out` over `hop` and passes the answer on. With an error come the
    /// lease and where the connection was from.
    fn converse(&mut self, mut hop: Hop) -> Result<Done, (Failed, Option<Lease>, HopOrigin)> {
        let limit = self.snapshot.config.limits.response_timeout;
        let origin = hop.origin;
        let (head, framing) = match self.ask(&mut hop, limit) {
            Ok(Some(_)) if self.may_be_anothers(&hop) => {
                hop.count_bytes();
                let failed = Failed::no_response(HopFailure::Closed);
                return Err((failed, hop.lease, origin));
            }
            Ok(Some(answer)) => answer,
            Ok(None) => return Ok(Done::Asked(hop)),
            Err(failed) => {
                hop.count_bytes();
                return Err((failed, hop.lease, origin));
            }
        };
        if head.status() == 101 {
            return Ok(self.switch(hop, &head));
        }
        self.respond(hop, head, framing)
            .map(Done::Answered)
            .map_err(|(failed, lease)| (failed, lease, origin))
    }

    fn write_request(
        &mut self,
        target: &AbsoluteForm<'_>,
        form: Form,
        credentials: Option<&Credentials>,
    ) {
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        let how = RequestRewrite {
            form,
            target,
            framing: self.course.upload.framing(),
            credentials,
            via: self.via(),
            upgrade: self.course.upgrade.as_deref(),
            max_forwards: match rewrite::max_forwards(self.head) {
                MaxForwards::Left(left) => Some(left),
                MaxForwards::Absent | MaxForwards::Zero => None,
            },
            connection: HopConnection::KeepAlive,
        };
        rewrite::request(self.head, &how, &mut out);
        self.out = out;
    }
}
