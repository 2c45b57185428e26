//! One request: where it goes, how often it is tried, and what the client gets.
//!
//! The rules of failover are pure functions of [`AttemptError`] (`balance/failover.rs`); this module
//! finds next hops, applies those rules, and makes sure that every way out is told: in an answer, in
//! the upstream's vitals, and in the report.

use std::cell::OnceCell;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::balance::failover::{self, AttemptError, Next};
use crate::balance::pool::Tried;
use crate::balance::upstream::Lease;
use crate::net::buffer::Buffer;
use crate::net::shelf::Rest;
use crate::protocol::answer::{HopFailure, Refusal};
use crate::protocol::credentials::Credentials;
use crate::protocol::head::{HeadMemory, RequestHead};
use crate::protocol::persistence::{self, Persistence};
use crate::protocol::rewrite::{self, Form, HopConnection, MaxForwards, RequestRewrite, Via};
use crate::protocol::target::{AbsoluteForm, Authority};
use crate::route::Route;

use super::access;
use super::attempt::{BoundTo, Failed, Hop, HopOrigin};
use super::connect::TunnelAnswer;
use super::flow::Flow;
use super::next_hop::Reuse;
use super::report::{self, Report, RouteTaken};
use super::session::Worker;
use super::upload::Upload;
use super::{Client, Context, Snapshot, reuse};

/// The most upstreams one request is tried at.
const MOST_ATTEMPTS: usize = 3;

/// One exchange under way.
pub struct Exchange<'a> {
    pub(super) ctx: &'a Context,
    pub(super) snapshot: &'a Snapshot,
    pub(super) worker: &'a dyn Worker,
    pub(super) client: &'a mut Client,
    pub(super) head: &'a RequestHead,
    pub(super) authority: &'a Authority,
    pub(super) course: Course,
    /// The next hop that has the request already, and may have answered.
    pub(super) asked: Option<Hop>,
    pub(super) report: &'a mut Report,
    /// What is about to be sent.
    pub(super) out: Vec<u8>,
    /// Memory for the next response head.
    pub(super) scratch_response: HeadMemory,
    /// Memory for what the next hop sends.
    pub(super) from_hop: Buffer,
    /// How the client's connection ends if the response breaks off.
    pub(super) client_end: ClientEnd,
    pub(super) flow: Flow,
}

/// What an exchange has come to: all of it that outlives the worker at hand while it waits for an answer.
#[derive(Debug)]
pub(super) struct Course {
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
    tried: Tried,
    attempts: usize,
    /// Those among them that were offline.
    trials: usize,
    /// How long it has waited in vain for connections.
    pub(super) dialled_in_vain: Duration,
    /// Whether an address of an upstream was given up for another one of the same.
    pub(super) other_address: OtherAddress,
    /// Why the last one failed.
    last: Option<AttemptError>,
    /// What the first upstream said that could not open a tunnel. It may be the target's fault, so one more
    /// opinion is enough.
    pub(super) refused: Option<Box<TunnelAnswer>>,
}

impl Course {
    /// Whether no upstream in service was there to be tried.
    fn had_only_trials(&self) -> bool {
        self.trials == self.tried.len()
    }

    /// That of an exchange that begins.
    pub(super) fn new(upload: Upload, head: &RequestHead) -> Self {
        Self {
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
            other_address: OtherAddress::Untried,
            last: None,
            refused: None,
        }
    }
}

/// Where an attempt begins.
#[expect(clippy::large_enum_variant, reason = "one at a time, on the stack")]
pub(super) enum Start {
    /// With an upstream that was picked.
    Picked(Lease),
    /// At the answer of this next hop, which was waited for without a worker.
    Asked(Hop),
}

impl std::fmt::Debug for Exchange<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange")
            .field("authority", &self.authority)
            .field("report", &self.report)
            .finish_non_exhaustive()
    }
}

/// Whether a second address of one upstream was tried after a connection to the first came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OtherAddress {
    Untried,
    Tried,
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
    /// This proxy's entry in `Via`, if it is to have one.
    pub(super) fn via(&self) -> Option<&'a Via> {
        let (ctx, snapshot) = (self.ctx, self.snapshot);
        snapshot.config.via.then_some(&ctx.via)
    }
}

/// How an exchange ended well, or goes on elsewhere.
#[derive(Debug)]
pub enum Done {
    /// With a response; whether the client's connection goes on.
    Answered(Persistence),
    /// Not yet: this next hop was asked, and its answer is to be waited for without a worker.
    Asked(Hop),
    /// With a tunnel to this next hop; `first` goes to the client before anything else.
    Switched {
        /// The other end.
        hop: Hop,
        /// The head that tells the client.
        first: Vec<u8>,
    },
}

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

    /// Tries one upstream after the other until `attempt` succeeds or the rules say stop.
    ///
    /// # Errors
    /// The last failure, as an answer.
    pub(super) fn over_upstreams(
        &mut self,
        attempt: &mut dyn FnMut(&mut Self, Start) -> Result<Done, Failed>,
    ) -> Result<Done, Failed> {
        let snapshot = self.snapshot;
        let pool = &snapshot.pool;
        let most = pool.upstreams().len().min(MOST_ATTEMPTS);
        while let Some(start) = self.next_start(most) {
            let result = attempt(self, start);
            // It need not be the one it began with: another may have been connected to sooner.
            if let RouteTaken::Upstream(upstream) = &self.report.route
                && !matches!(result, Ok(Done::Asked(_)))
            {
                report::count_attempt(upstream.vitals(), &result);
            }
            let error = match result {
                Err(Failed::Hop(error)) => error,
                done_or_over => return done_or_over,
            };
            if !failover::is_unreached(&error) {
                self.course.attempts += 1;
            }
            let is_over = self.deadline().is_some_and(|at| at <= Instant::now())
                || self.has_dialled_enough(Duration::ZERO)
                || self.is_refused_twice(&error);
            match self.next_after(&error) {
                Next::Failover if !is_over => self.course.last = Some(error),
                Next::Failover | Next::GiveUp => return Err(refused(Failed::Hop(error))),
                Next::Close => return Err(Failed::Hop(error)),
            }
        }
        Err(match self.course.last {
            // Nobody was in service, and who was tried all the same could not be connected to.
            Some(error) if failover::is_unreached(&error) && self.course.had_only_trials() => {
                Failed::Refused(Refusal::NoUpstream)
            }
            Some(error) => refused(Failed::Hop(error)),
            None if pool.upstreams().is_empty() => Failed::Refused(Refusal::NoUpstreamConfigured),
            None => Failed::Refused(Refusal::NoUpstream),
        })
    }

    /// Whether it has waited for connections as long as for those of all its attempts; `now`: in the race at
    /// hand. They cost no attempt, but nobody waits for the whole of a large pool that takes none.
    pub(super) fn has_dialled_enough(&self, now: Duration) -> bool {
        let most = u32::try_from(MOST_ATTEMPTS).unwrap_or(u32::MAX);
        self.snapshot
            .config
            .limits
            .connect_timeout
            .saturating_mul(most)
            <= self.course.dialled_in_vain + now
    }

    /// Whether a second upstream asks for credentials: then it is the origin that does, or the operator's
    /// mistake, and a third would not know better.
    fn is_refused_twice(&self, error: &AttemptError) -> bool {
        let is_refused =
            |error: &AttemptError| matches!(error.failure(), HopFailure::AuthenticationRefused);
        is_refused(error) && self.course.last.as_ref().is_some_and(is_refused)
    }

    /// The next hop that was asked already, or another upstream unless `most` were tried.
    fn next_start(&mut self, most: usize) -> Option<Start> {
        if let Some(hop) = self.asked.take() {
            return Some(Start::Asked(hop));
        }
        if self.course.attempts >= most {
            return None;
        }
        self.another_upstream().map(Start::Picked)
    }

    /// An upstream that was not tried yet, which it is from now on.
    pub(super) fn another_upstream(&mut self) -> Option<Lease> {
        let lease = self.next_upstream()?;
        self.report.tries(&lease);
        Some(lease)
    }

    /// The upstream this client is bound to, if it still can be used, else the one the mode picks; while
    /// none is in service, one that is offline, to see whether it works.
    fn next_upstream(&mut self) -> Option<Lease> {
        let tried = &mut self.course.tried;
        if let Some(bound) = &self.client.bound {
            if let BoundTo::Upstream(id) = bound.to
                && !tried.contains(id)
                && let Some(lease) = self.snapshot.pool.lease(id)
            {
                tried.insert(id);
                return Some(lease);
            }
            self.client.bound = None;
        }
        let pool = &self.snapshot.pool;
        if let Some(lease) = pool.pick(self.snapshot.config.mode, tried) {
            return Some(lease);
        }
        if self.course.trials >= MOST_ATTEMPTS {
            return None;
        }
        let lease = pool.pick_trial(tried, Instant::now())?;
        self.course.trials += 1;
        Some(lease)
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

    pub(super) fn next_after(&self, error: &AttemptError) -> Next {
        failover::next(error, self.head.method(), self.course.upload.replay())
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
            Some(bound) => (bound.conn, HopOrigin::Reused(Rest::Nothing)),
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

    /// A connection to the upstream of `lease` that is there already: the one bound to this client, or an
    /// idle one; else the lease again.
    pub(super) fn idle_connection(&mut self, lease: Lease, begun: Instant) -> Result<Hop, Lease> {
        match self.reuse(&lease) {
            Some((conn, rest)) => {
                let origin = HopOrigin::Reused(rest);
                Ok(Hop::new(conn, Some(lease), begun, origin))
            }
            None => Err(lease),
        }
    }

    /// Whether the direct route may go there for this client.
    pub(super) fn may_reach(&self, address: IpAddr) -> bool {
        let asker = access::Asker::new(access::Asking::of(self.client), self.head);
        access::allows_origin(&self.snapshot.config.access, asker, address)
    }

    /// When the response must have begun, all attempts together (`limits.request_timeout_secs`).
    pub(super) fn deadline(&self) -> Option<Instant> {
        let timeout = self.snapshot.config.limits.request_timeout?;
        Some(self.course.request_done? + timeout)
    }

    pub(super) fn target_hash(&self) -> u64 {
        let hash = || self.ctx.target_hasher.hash_one(self.authority);
        *self.course.target_hash.get_or_init(hash)
    }
}

/// What a client is told when no other next hop is tried. After the first byte of the response there
/// is nothing left to tell.
fn refused(failed: Failed) -> Failed {
    match failed {
        Failed::Hop(AttemptError::NotSent(failure) | AttemptError::NoResponse(failure)) => {
            Failed::Refused(Refusal::NextHop(failure))
        }
        Failed::Hop(AttemptError::Truncated(_)) | Failed::Refused(_) | Failed::Closed(_) => failed,
    }
}

/// Whether the next hop has ended the connection without a word.
pub(super) fn is_staleness(error: &AttemptError) -> bool {
    match error {
        AttemptError::NotSent(failure) | AttemptError::NoResponse(failure) => {
            matches!(failure, HopFailure::Closed | HopFailure::Reset)
        }
        AttemptError::Truncated(_) => false,
    }
}
