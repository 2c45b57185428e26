//! CONNECT, through an upstream or directly, and the start of every tunnel.
//!
//! A CONNECT carries nothing but an address, so an upstream that breaks off before it answered costs
//! nothing but another try. Once the answer is 2xx, both connections, with whatever came early on
//! either, become a tunnel, and the worker is free.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::access_log::TryEnd;
use crate::balance::connect::{TELLING_PORT, may_lack_connect};
use crate::balance::failover;
use crate::balance::state::is_gateway_error;
use crate::balance::upstream::Lease;
use crate::net::idle_pool::Leftover;
use crate::net::tunnel::{OnEnd, Patience, Side};
use crate::protocol::answer::{self, HopFailure, Refusal};
use crate::protocol::framing::Framing;
use crate::protocol::head::ResponseHead;
use crate::protocol::persistence::{CloseReason, Persistence};
use crate::protocol::rewrite::{self, Switch};
use crate::protocol::shown::ShownHead;
use crate::route::Route;

use super::client::{BoundTo, Client};
use super::context::Context;
use super::exchange::{Done, Exchange, HopAnswer};
use super::failed::Failed;
use super::hop::{Hop, HopOrigin};
use super::outcome::Outcome;
use super::report::{Report, RouteTaken, TunnelMeter};
use super::snapshot::Snapshot;
use super::upstreams::AttemptStart;

/// The longest wait for an upstream's answer to CONNECT, whatever `limits.response_timeout_secs` says.
pub(super) const MOST_PATIENCE: Duration = Duration::from_secs(60);

impl Exchange<'_> {
    /// Opens what CONNECT asks for.
    ///
    /// # Errors
    /// See [`Failed`].
    pub(super) fn connect(&mut self) -> Result<Done, Failed> {
        self.state.request_done.get_or_insert_with(Instant::now);
        match self.state.destination.route {
            Route::Direct => self.connect_directly(),
            Route::Refused => Err(Failed::Refused(Refusal::RefusedByRule)),
            Route::ViaUpstream(_) => {
                let done = self.over_upstreams(&mut Self::connect_via);
                self.or_kept(done)
            }
        }
    }

    fn connect_via(&mut self, start: AttemptStart) -> Result<Done, Failed> {
        let mut hop = match start {
            AttemptStart::Picked(lease, begun) => self.connect_for_tunnel(lease, begun)?,
            AttemptStart::Resumed(hop) => hop,
        };
        loop {
            if hop.round.is_some() {
                match self.open_way(&mut hop) {
                    Ok(Some(())) => {
                        self.weigh_open_way(&hop);
                        self.learn_of_connect(&hop);
                        return Ok(self.opened(hop));
                    }
                    Ok(None) => return Ok(Done::Suspended(hop)),
                    Err(failed) => hop = self.after_failure(hop, failed)?,
                }
                continue;
            }
            let (head, framing) = match self.ask_for_tunnel(&mut hop) {
                Ok(Some(answer)) => answer,
                Ok(None) => return Ok(Done::Suspended(hop)),
                Err(failed) => {
                    hop = self.after_failure(hop, failed)?;
                    continue;
                }
            };
            if (200..300).contains(&head.status()) {
                self.scratch.response = head.into_memory();
                self.learn_of_connect(&hop);
                return Ok(self.opened(hop));
            }
            let answer = self.unless_kept(HopAnswer { hop, head, framing })?;
            return self.weigh_refusal(answer);
        }
    }

    /// A connection of its own for a tunnel; or, where the client is in the midst of a handshake with the upstream,
    /// that of the handshake.
    fn connect_for_tunnel(&mut self, lease: Lease, begun: Instant) -> Result<Hop, Failed> {
        let upstream = lease.upstream();
        if upstream.spec.told.passes_credentials {
            self.state.binds = rewrite::binds_connection(self.head.fields());
            let bound = self.take_bound(&BoundTo::Upstream(upstream.id()), Some(upstream));
            if let Some(bound) = bound {
                self.report.connected(None);
                let origin = HopOrigin::Reused(Leftover::Nothing);
                return Ok(Hop::new(bound.conn, Some(lease), begun, origin));
            }
        }
        self.dial_upstream(lease, begun)
    }

    /// An upstream does not open the tunnel. Its answer is the client's unless another upstream is to be asked
    /// first: after one that cannot reach the target, which may be the target's fault, so one more opinion of
    /// that kind is enough; and after one that may have no CONNECT, whose answer is the last that is wanted.
    fn weigh_refusal(&mut self, answer: HopAnswer) -> Result<Done, Failed> {
        let status = answer.head.status();
        let kept = self.state.kept.as_ref();
        let kept = kept.map(|kept| kept.head.status());
        if may_lack_connect(status) {
            if let Some(lease) = &answer.hop.lease
                && self.authority().port() == TELLING_PORT
            {
                let upstream = Arc::clone(lease.upstream());
                self.state.without_connect.push((upstream, status));
            }
            if kept.is_none() {
                self.state.kept = Some(Box::new(answer));
            }
        } else if is_gateway_error(status)
            && !kept.is_some_and(is_gateway_error)
            && !self
                .state
                .last
                .is_some_and(|last| failover::is_about_target(&last))
        {
            self.state.kept = Some(Box::new(answer));
        } else {
            return self.pass_answer(answer);
        }
        decided!(self, "another upstream may open the tunnel");
        Err(Failed::no_response(HopFailure::TunnelRefused))
    }

    /// This upstream has opened the tunnel: it has CONNECT, and those that refused it may have none.
    fn learn_of_connect(&mut self, hop: &Hop) {
        let now = Instant::now();
        if let Some(lease) = &hop.lease {
            lease.upstream().opened_tunnel(now);
        }
        for (upstream, status) in std::mem::take(&mut self.state.without_connect) {
            upstream.refused_tunnel(status, self.target_hash(), now);
        }
    }

    /// The next try at the same upstream, if it has another address; else it is blamed.
    fn after_failure(&mut self, hop: Hop, failed: Failed) -> Result<Hop, Failed> {
        let begun = hop.begun;
        let (Failed::Hop(error), Some(lease)) = (&failed, hop.lease) else {
            return Err(failed);
        };
        if self.may_dial_again(&lease, hop.origin, error) {
            return self.dial_upstream(lease, begun);
        }
        self.blame(&lease, begun, error);
        Err(failed)
    }

    fn connect_directly(&mut self) -> Result<Done, Failed> {
        self.report.route = RouteTaken::Direct;
        self.report.attempts += 1;
        let begun = Instant::now();
        let conn = self.dial_origin()?;
        let connected = TryEnd::Word("connected");
        self.report.tried(self.ctx, None, begun, connected);
        Ok(self.opened(Hop::new(conn, None, Instant::now(), HopOrigin::Fresh)))
    }

    /// Sends CONNECT and reads the answer's head, as [`Exchange::ask`].
    fn ask_for_tunnel(&mut self, hop: &mut Hop) -> Result<Option<(ResponseHead, Framing)>, Failed> {
        if !hop.has_request() {
            let mut out = std::mem::take(&mut self.scratch.out);
            out.clear();
            self.write_proxy_header(hop, &mut out);
            let begins = out.len();
            let lease = hop.lease.as_ref();
            let credentials = lease.and_then(|lease| self.authorization(lease.upstream()));
            rewrite::connect(
                self.head,
                self.authority(),
                (credentials.as_deref(), self.forwarded()),
                (self.via(), self.id_field()),
                &mut out,
            );
            let head = out.get(begins..).unwrap_or_default();
            passes!(self.report, self.ctx, "to the next hop", head);
            self.scratch.out = out;
        }
        let limit = self.snapshot.config.limits.response_timeout;
        let answer = self.ask(hop, limit.min(MOST_PATIENCE));
        hop.count_bytes();
        answer
    }

    fn opened(&mut self, hop: Hop) -> Done {
        decided!(self, "the tunnel is open");
        let mut first = Vec::new();
        answer::tunnel_opened(self.id_field(), &mut first);
        self.report.answered(200);
        Done::Switched { hop, first }
    }

    /// Gives the client the upstream's own words, and closes if they refuse a tunnel: what the client sent early
    /// for that must not be read as a request (RFC 9931).
    pub(super) fn pass_answer(&mut self, answer: HopAnswer) -> Result<Done, Failed> {
        let HopAnswer { hop, head, framing } = answer;
        if let Some(lease) = &hop.lease {
            self.report.route = RouteTaken::Upstream(Arc::clone(lease.upstream()));
        }
        // A client that answers a challenge waits for what comes of that, and has sent nothing for the tunnel.
        let is_handshake = self.state.binds
            && hop.is_clients_matter(head.status())
            && self.client.conn.unread().is_empty();
        if self.head.method() == "CONNECT" && !is_handshake {
            self.state.persistence = Persistence::Close(CloseReason::ConnectRefused);
        }
        let begun = hop.begun;
        match self.respond(hop, head, framing) {
            Ok(persistence) => Ok(Done::Answered(persistence)),
            Err((failed, lease)) => {
                if let (Some(lease), Failed::Hop(error)) = (&lease, &failed) {
                    self.blame(lease, begun, error);
                }
                Err(failed)
            }
        }
    }

    /// The tunnel that follows a 101 (RFC 9110 §7.8).
    pub(super) fn switch(&mut self, hop: Hop, head: &ResponseHead) -> Done {
        let first = self.interim(head, Switch::Switches);
        self.report.answered(101);
        Done::Switched { hop, first }
    }
}

/// Makes a tunnel of both connections; `first` reaches the client before anything else.
pub(super) fn start_tunnel(
    (ctx, snapshot): (&Arc<Context>, &Snapshot),
    client: Box<Client>,
    (mut hop, mut first): (Hop, Vec<u8>),
    mut report: Report,
) -> Outcome {
    let (received, sent) = client.totals();
    let Client {
        conn,
        permits,
        address,
        listed,
        ..
    } = *client;
    hop.count_bytes();
    let Hop {
        conn: hop, lease, ..
    } = hop;
    let meter = TunnelMeter::new(ctx, lease.as_ref());
    listed.moved(|| (received, sent));
    let meter = listed.becomes_tunnel(&report.route, meter);
    let (stream, early) = conn.into_parts();
    let client = Side { stream, early };
    let (stream, early) = hop.into_parts();
    first.extend_from_slice(&early);
    let hop = Side {
        stream,
        early: first,
    };
    let told = Arc::clone(ctx);
    let on_end: OnEnd = Box::new(move |totals| {
        report.tunneled(totals);
        let after = (received + totals.to_hop, sent + totals.to_client);
        report.finish(&told, after);
        drop((lease, permits, listed));
    });
    let limits = &snapshot.config.limits;
    let patience = Patience {
        idle: limits.tunnel_idle_timeout,
        half_closed: limits.tunnel_half_closed,
    };
    let how = (patience, meter);
    ctx.tunnels.start(address.ip(), (client, hop), how, on_end);
    Outcome::Tunneled
}
