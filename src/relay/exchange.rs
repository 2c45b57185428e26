//! One request under way: what an exchange *is*, and what every step of it needs.
//!
//! Its steps are `impl` blocks of other files: see the list in [`super`].

use std::cell::OnceCell;
use std::hash::BuildHasher;
use std::io::IoSlice;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::balance::failover::AttemptError;
use crate::balance::pool::Pool;
use crate::balance::told::Parts;
use crate::balance::tried::Tried;
use crate::balance::upstream::Upstream;
use crate::net::conn::{LookAround, SendError};
use crate::net::socket::{self, HalfClose, Wait};
use crate::protocol::answer::HopFailure;
use crate::protocol::framing::Framing;
use crate::protocol::head::{RequestHead, ResponseHead};
use crate::protocol::persistence::{self, CloseReason, Persistence};
use crate::protocol::request_id::IdField;
use crate::protocol::rewrite::{self, Form, Via};
use crate::protocol::target::{Authority, RequestTarget, Scheme};
use crate::route::{Asked, Route};
use crate::stop::Stage;

use super::client::Client;
use super::context::Context;
use super::exits::{Target, Wanted};
use super::failed::{Failed, begun, truncated};
use super::hop::{Hop, look_at};
use super::report::Report;
use super::scratch::Scratch;
use super::snapshot::Snapshot;
use super::upload::Upload;
use super::worker::Worker;

/// A worker that has moved so many bytes of an exchange hands its other clients to another worker before it
/// goes on. It takes about a millisecond to move so much.
const LONG: u64 = 1024 * 1024;
/// Small pieces count as so many bytes: what they take is the time of their system calls.
const LEAST: u64 = 16 * 1024;

/// One exchange under way.
pub(super) struct Exchange<'a> {
    pub(super) ctx: &'a Context,
    pub(super) snapshot: &'a Snapshot,
    pub(super) worker: &'a dyn Worker,
    pub(super) scratch: &'a mut Scratch,
    pub(super) client: &'a mut Client,
    pub(super) head: &'a RequestHead,
    pub(super) state: ExchangeState,
    /// The next hop of an exchange that was suspended: it has the request, and may have answered.
    pub(super) resumed: Option<Hop>,
    pub(super) report: &'a mut Report,
    /// How the client's connection ends if the response breaks off.
    pub(super) client_end: ClientEnd,
    /// Whether the next read or write of a body may wait; see [`Exchange::begins_to_wait`].
    pub(super) wait: Wait,
    /// Bytes of bodies that were moved since the exchange was begun or resumed, each piece with at least [`LEAST`].
    pub(super) moved: u64,
}

/// What an exchange has come to: all of it that outlives the worker at hand while it waits for an answer.
#[derive(Debug)]
pub(super) struct ExchangeState {
    pub(super) destination: Destination,
    pub(super) upload: Upload,
    pub(super) persistence: Persistence,
    pub(super) upgrade: Option<Vec<u8>>,
    /// Tells its target apart from others, once that was asked for.
    target_hash: OnceCell<u64>,
    /// When the last byte of the request was read.
    pub(super) request_done: Option<Instant>,
    /// The next hop's connection belongs to this client from now on.
    pub(super) binds: bool,
    /// Upstreams that were tried, and those of them that count.
    pub(super) tried: Tried,
    pub(super) attempts: usize,
    /// Those among them that were offline.
    pub(super) trials: usize,
    /// How long it has waited in vain for connections.
    pub(super) dialled_in_vain: Duration,
    /// Addresses of an upstream that were given up for another one of the same.
    pub(super) given_up_addresses: u32,
    /// Why the last one failed.
    pub(super) last: Option<AttemptError>,
    /// The answer that the client gets if no other upstream opens the tunnel, or answers better.
    pub(super) kept: Option<Box<HopAnswer>>,
    /// Upstreams that may have no CONNECT, and the status that says so.
    pub(super) without_connect: Vec<(Arc<Upstream>, u16)>,
}

/// Where a request leads: its target, parsed once, and the way there.
#[derive(Debug)]
pub(super) struct Destination {
    pub(super) authority: Authority,
    /// That of its scheme.
    pub(super) default_port: u16,
    /// How the target is written for an upstream.
    pub(super) form: Form,
    /// So many bytes at the end of the request's target are its path and query.
    path_length: usize,
    /// The place of the rule that says so.
    rule: usize,
    pub(super) route: Route,
    /// What it wants of its upstream.
    pub(super) wanted: Option<Box<Wanted>>,
    /// What it is known by, if an upstream is told so.
    pub(super) parts: Option<Box<Parts>>,
}

impl Destination {
    /// That of a request of this client.
    pub(super) fn of(
        target: RequestTarget<'_>,
        (client, user): (IpAddr, Option<&str>),
        snapshot: &Snapshot,
    ) -> Self {
        let (authority, scheme, path_length) = match target {
            RequestTarget::Absolute(absolute) => {
                let path_length = absolute.path_and_query.len();
                (absolute.authority, absolute.scheme, path_length)
            }
            RequestTarget::Authority(authority) => (authority, Scheme::HTTP, 0),
        };
        let rule = snapshot.config.rules.decides(Asked {
            host: authority.host(),
            port: authority.port(),
            user,
            client,
        });
        Self {
            rule,
            route: snapshot.route_now(rule),
            authority,
            default_port: scheme.default_port(),
            form: Form::for_upstream(scheme),
            path_length,
            wanted: None,
            parts: None,
        }
    }

    /// The target of this request.
    pub(super) fn target(&self, head: &RequestHead) -> Target<'_> {
        Target {
            authority: &self.authority,
            default_port: self.default_port,
            is_tunnel: head.method() == "CONNECT",
        }
    }

    /// Whether this proxy is to serve what only an HTTP proxy behind it may know: the direct way knows `http`
    /// alone, and so does the one through SOCKS5.
    pub(super) fn is_unknown_here(&self, pool: &Pool) -> bool {
        let has_only_socks = |group| {
            let upstreams = pool.group(group).upstreams();
            !upstreams.is_empty() && upstreams.iter().all(|one| one.spec.is_socks())
        };
        self.form == Form::AsReceived
            && match self.route {
                Route::Direct => true,
                Route::ViaUpstream(group) => has_only_socks(group),
                Route::Refused => false,
            }
    }
}

impl ExchangeState {
    /// Takes the fallback of its rule once nobody is in service in its group; not the direct way, which a request
    /// has from its beginning or never.
    pub(super) fn follow_rule(&mut self, snapshot: &Snapshot) {
        let destination = &mut self.destination;
        if let Route::ViaUpstream(_) = destination.route
            && let via @ Route::ViaUpstream(_) = snapshot.route_now(destination.rule)
        {
            destination.route = via;
        }
    }

    /// Whether no upstream in service was there to be tried.
    pub(super) fn had_only_trials(&self) -> bool {
        self.trials == self.tried.len()
    }

    /// That of an exchange that begins.
    pub(super) fn new(upload: Upload, head: &RequestHead, destination: Destination) -> Self {
        Self {
            destination,
            upload,
            persistence: persistence::of_request(head),
            upgrade: rewrite::requested_upgrade(head),
            target_hash: OnceCell::new(),
            request_done: None,
            binds: false,
            tried: Tried::default(),
            attempts: 0,
            trials: 0,
            dialled_in_vain: Duration::ZERO,
            given_up_addresses: 0,
            last: None,
            kept: None,
            without_connect: Vec::new(),
        }
    }
}

/// How a client learns that what it got is not all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientEnd {
    /// The framing of the body tells.
    Orderly,
    /// The body would end with the connection: only a reset tells.
    Reset,
}

impl<'a> Exchange<'a> {
    /// The upstreams it may go through.
    pub(super) fn pool(&self) -> &'a Pool {
        let group = if let Route::ViaUpstream(group) = self.state.destination.route {
            group
        } else {
            None
        };
        self.snapshot.pool.group(group)
    }

    /// This proxy's entry in `Via`, if it is to have one.
    pub(super) fn via(&self) -> Option<&'a Via> {
        let (ctx, snapshot) = (self.ctx, self.snapshot);
        snapshot.config.via.then_some(&ctx.via)
    }

    /// The field that names the request to next hops and client, if there is to be one.
    pub(super) fn id_field(&self) -> Option<IdField<'_>> {
        let name = self.snapshot.config.request_id.as_ref()?;
        let id = self.report.id(self.ctx);
        Some(IdField { name, id })
    }
}

/// What an upstream answers.
#[derive(Debug)]
pub(super) struct HopAnswer {
    pub(super) hop: Hop,
    pub(super) head: ResponseHead,
    pub(super) framing: Framing,
}

/// How an exchange ended well, or goes on elsewhere.
#[derive(Debug)]
pub(super) enum Done {
    /// With a response; whether the client's connection goes on.
    Answered(Persistence),
    /// Not yet: the answer of this next hop is to be waited for without a worker.
    Suspended(Hop),
    /// With a tunnel to this next hop; `first` goes to the client before anything else.
    Switched {
        /// The other end.
        hop: Hop,
        /// The head that tells the client.
        first: Vec<u8>,
    },
}

impl<'a> Exchange<'a> {
    /// When the response must have begun, all attempts together (`limits.request_timeout_secs`).
    pub(super) fn deadline(&self) -> Option<Instant> {
        let timeout = self.snapshot.config.limits.request_timeout?;
        Some(self.state.request_done? + timeout)
    }

    pub(super) fn target_hash(&self) -> u64 {
        let hash = || self.ctx.target_hasher.hash_one(self.authority());
        *self.state.target_hash.get_or_init(hash)
    }

    /// Where the request leads.
    pub(super) fn authority(&self) -> &Authority {
        &self.state.destination.authority
    }

    /// The rest of its target, as received: may be empty or begin with `?`.
    pub(super) fn path_and_query(&self) -> &'a [u8] {
        let (head, length) = (self.head, self.state.destination.path_length);
        let at = head.target().len().saturating_sub(length);
        head.target().get(at..).unwrap_or_default()
    }

    /// Whether there is a point in going on. Also to be asked while bytes flow: peers that are never slow
    /// must not keep a process alive.
    pub(super) fn check_stage(&self) -> Result<(), Failed> {
        match self.ctx.stop.stage() {
            Stage::Running | Stage::Draining => Ok(()),
            Stage::Ended => Err(Failed::Closed(CloseReason::Draining)),
        }
    }

    /// The same once the request is with a next hop: that may have been cut.
    pub(super) fn check_hop(&self, hop: &Hop) -> Result<(), Failed> {
        self.check_stage()?;
        if hop.is_cut() {
            return Err(Failed::no_response(HopFailure::UpstreamCut));
        }
        Ok(())
    }

    /// The same once the client has something of the response.
    pub(super) fn check_response(&self, hop: &Hop) -> Result<(), Failed> {
        self.check_hop(hop).map_err(begun)
    }

    /// Why a peer is not waited for any more: the process ends, or the client is gone.
    pub(super) fn given_up(&self) -> Failed {
        let ended = self.check_stage().err();
        ended.unwrap_or(Failed::Closed(CloseReason::ClientGone))
    }

    /// Whether the client is gone since it stood in line, where nobody looked.
    pub(super) fn has_left_the_line(&self) -> bool {
        self.resumed.is_none() && self.report.has_waited() && self.client_is_gone()
    }

    pub(super) fn client_is_gone(&self) -> bool {
        // A client that will not send another request, or has sent it already, may close its side while it
        // waits.
        let half_close = match self.state.persistence {
            Persistence::KeepAlive if self.client.conn.unread().is_empty() => HalfClose::Gone,
            Persistence::KeepAlive | Persistence::Close(_) => HalfClose::Waits,
        };
        socket::is_gone(self.client.conn.stream(), half_close)
    }

    /// Sends to the client, who may be slow but not endlessly, what comes from `hop`.
    ///
    /// # Errors
    /// When the client is gone, stalls, the process ends or the next hop was cut.
    pub(super) fn send_to_client(
        &mut self,
        hop: &Hop,
        parts: &mut [IoSlice<'_>],
    ) -> Result<(), Failed> {
        let stop = &self.ctx.stop;
        let patience = self.snapshot.config.limits.io_timeout;
        let worker = self.worker;
        let sent = self.client.conn.send_all(parts, patience, &mut || {
            worker.may_block();
            if hop.is_cut() {
                return LookAround::GiveUp;
            }
            look_at(stop.stage())
        });
        sent.map_err(|error| match error {
            SendError::Io(_) => Failed::Closed(CloseReason::ClientGone),
            SendError::Stalled => Failed::Closed(CloseReason::ClientTooSlow),
            SendError::Cut if hop.is_cut() => truncated(HopFailure::UpstreamCut),
            SendError::Cut => Failed::Closed(CloseReason::Draining),
        })
    }

    /// A peer is to be waited for. Says whether that is new: what was tried is to be tried again then.
    ///
    /// To have another worker serve the others costs a thread's wake-up, which is more than most bodies do.
    /// So reads and writes of a body are first tried without waiting. Once that does not go on, or the body
    /// turns out to be long, the others get a worker of their own, and this one may wait as long as it likes.
    pub(super) fn begins_to_wait(&mut self) -> bool {
        let is_new = self.wait == Wait::No;
        if is_new {
            self.wait = Wait::Tick;
            self.worker.may_block();
        }
        is_new
    }

    /// A piece of so many bytes of a body went on.
    pub(super) fn has_moved(&mut self, bytes: u64) {
        self.moved = self.moved.saturating_add(bytes.max(LEAST));
        self.client.listed.moved(|| self.client.totals());
        if self.moved > LONG {
            self.begins_to_wait();
        }
    }
}
