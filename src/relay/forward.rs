//! A request that is not CONNECT: through one upstream after the other, or directly.

use std::time::Instant;

use crate::balance::upstream::Lease;
use crate::net::idle_pool::Leftover;
use crate::protocol::answer::{HopFailure, Refusal};
use crate::protocol::forwarded::ForwardedFor;
use crate::protocol::rewrite::{self, Form, MaxForwards, RequestRewrite};
use crate::protocol::shown::ShownHead;
use crate::route::Route;

use super::client::BoundTo;
use super::exchange::{Done, Exchange, HopAnswer};
use super::failed::{Failed, refused};
use super::hop::{Hop, HopOrigin};
use super::report::RouteTaken;
use super::reuse;
use super::upstreams::AttemptStart;

impl Exchange<'_> {
    /// Relays an absolute-form request.
    ///
    /// # Errors
    /// See [`Failed`]; nothing of a final response was sent unless the error says so.
    pub(super) fn relay(&mut self) -> Result<Done, Failed> {
        if self.resumed.is_none() {
            self.take_in_body()?;
        }
        match self.state.destination.route {
            Route::Direct => self.relay_directly(),
            Route::Refused => Err(Failed::Refused(Refusal::RefusedByRule)),
            Route::ViaUpstream(_) => {
                let done = self.over_upstreams(&mut Self::relay_via);
                self.or_kept(done)
            }
        }
    }

    /// What the client has sent of the body already goes out with the head.
    fn take_in_body(&mut self) -> Result<(), Failed> {
        self.state.binds = rewrite::binds_connection(self.head.fields());
        self.state.upload.expects_continue = rewrite::expects_continue(self.head);
        if !self.state.upload.expects_continue {
            self.state
                .upload
                .prefetch(&mut self.client.conn)
                .map_err(|error| Failed::Refused(Refusal::from(error)))?;
        }
        if self.state.upload.is_finished() {
            self.state.request_done = Some(Instant::now());
        } else {
            self.worker.reads_body(self.client);
        }
        Ok(())
    }

    fn relay_via(&mut self, start: AttemptStart) -> Result<Done, Failed> {
        let mut hop = match start {
            AttemptStart::Picked(lease, begun) => self.connect_upstream(lease, begun)?,
            AttemptStart::Resumed(hop) => hop,
        };
        loop {
            let (origin, begun) = (hop.origin, hop.begun);
            let result = match self.open_way(&mut hop) {
                Ok(Some(())) => {
                    self.write_for_upstream(&hop);
                    self.converse(hop)
                }
                Ok(None) => return Ok(Done::Suspended(hop)),
                Err(failed) => Err((failed, hop.lease, origin)),
            };
            let (failed, lease, origin) = match result {
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
            decided!(self, "is sent afresh to the same upstream");
            // The upstream has not failed: something had happened to the connection while it was idle, or it
            // has another address.
            hop = self.dial_upstream(lease, begun)?;
        }
    }

    fn relay_directly(&mut self) -> Result<Done, Failed> {
        let begun = match self.resumed.take() {
            Some(hop) => return self.converse_directly(hop),
            None => Instant::now(),
        };
        self.report.route = RouteTaken::Direct;
        self.report.attempts += 1;
        let to = BoundTo::Origin(self.authority().clone());
        let bound = self.take_bound(&to, None).filter(|bound| {
            // It was dialed for another request, and maybe under other rules.
            let there = bound.conn.stream().peer_addr();
            there.is_ok_and(|there| self.may_reach(there.ip()))
        });
        let (conn, origin) = match bound {
            Some(bound) => (bound.conn, HopOrigin::Reused(Leftover::Nothing)),
            None => (self.dial_origin()?, HopOrigin::Fresh),
        };
        self.converse_directly(Hop::new(conn, None, begun, origin))
    }

    fn converse_directly(&mut self, mut hop: Hop) -> Result<Done, Failed> {
        loop {
            if !hop.has_request() {
                self.write_request(None, Form::Origin, (None, None));
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
            decided!(self, "is sent afresh to the origin");
            // The origin has not failed: something had happened to the connection while it was idle.
            let conn = self.dial_origin()?;
            hop = Hop::new(conn, None, begun, HopOrigin::Fresh);
        }
    }

    /// Sends the request in `scratch.out` over `hop` and passes the answer on. With an error come the
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
            Ok(None) => return Ok(Done::Suspended(hop)),
            Err(failed) => {
                hop.count_bytes();
                return Err((failed, hop.lease, origin));
            }
        };
        if head.status() == 101 {
            return Ok(self.switch(hop, &head));
        }
        let answer = self.unless_kept(HopAnswer { hop, head, framing });
        let HopAnswer { hop, head, framing } = answer.map_err(|failed| (failed, None, origin))?;
        self.respond(hop, head, framing)
            .map(Done::Answered)
            .map_err(|(failed, lease)| (failed, lease, origin))
    }

    /// Writes the request for the upstream of `hop`, which is its target by now if that one speaks SOCKS5.
    fn write_for_upstream(&mut self, hop: &Hop) {
        let (false, Some(lease)) = (hop.has_request(), &hop.lease) else {
            return;
        };
        let upstream = lease.upstream();
        if upstream.spec.is_socks() {
            return self.write_request(None, Form::Origin, (None, None));
        }
        let credentials = self.authorization(upstream);
        let told = (credentials.as_deref(), self.forwarded());
        self.write_request(Some(hop), self.state.destination.form, told);
    }

    /// `proxy`: the HTTP proxy that it is for.
    fn write_request(
        &mut self,
        proxy: Option<&Hop>,
        form: Form,
        (credentials, forwarded): (Option<&[u8]>, Option<ForwardedFor>),
    ) {
        let mut out = std::mem::take(&mut self.scratch.out);
        out.clear();
        if let Some(hop) = proxy {
            self.write_proxy_header(hop, &mut out);
        }
        let begins = out.len();
        let how = RequestRewrite {
            form,
            authority: self.authority(),
            default_port: self.state.destination.default_port,
            path_and_query: self.path_and_query(),
            framing: self.state.upload.framing(),
            credentials,
            forwarded,
            via: self.via(),
            upgrade: self.state.upgrade.as_deref(),
            max_forwards: match rewrite::max_forwards(self.head) {
                MaxForwards::Left(left) => Some(left),
                MaxForwards::Absent | MaxForwards::Zero => None,
            },
            id: self.id_field(),
        };
        rewrite::request(self.head, &how, &mut out);
        let head = out.get(begins..).unwrap_or_default();
        passes!(self.report, self.ctx, "to the next hop", head);
        self.scratch.out = out;
    }
}
