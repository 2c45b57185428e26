//! Connections to where a request goes.
//!
//! A connection that is not there soon is raced by one to the next upstream, and so on, all of them unused
//! until one is made: the request goes to the upstream that can be talked to first, and one that swallows
//! connections costs a moment, not the time limit of a connection. Nothing of the request has been sent by
//! then, so this holds for every method. Who loses is kept idle if it arrived, and else looked into if it
//! took longer than usual; only a connection that failed is held against its upstream.
//!
//! Not here: what of several addresses of one name is tried ([`crate::net::dial`]), and which idle
//! connection a request may take (`relay/reuse.rs`).

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::time::Instant;

use crate::access_log::TryEnd;
use crate::balance::failover::AttemptError;
use crate::balance::reason::Doubt;
#[cfg(feature = "tls")]
use crate::balance::tls::Tls;
use crate::balance::upstream::Lease;
use crate::net::addresses::AddressBook;
use crate::net::conn::{Conn, LookAround};
use crate::net::dial::{self, DialError, Goal, Race, RaceEvent, Runner, STAGGER};
use crate::net::idle_pool::{LastUse, Leftover, Sender, UseFor};
use crate::protocol::answer::{HopFailure, Refusal};
use crate::protocol::target::Authority;

use super::access::{self, Requester};
use super::exchange::Exchange;
use super::failed::Failed;
use super::hop::{Hop, HopOrigin, look_at};
use super::snapshot::Snapshot;
use super::{report, reuse};

/// What came of a connection that was not needed, because another was there sooner.
const OUTRUN: TryEnd = TryEnd::Word("outrun");

/// The most upstreams that are connected to at the same moment for one request.
const MOST_RACING: usize = 4;

/// An upstream that is connected to.
struct Contender<'a> {
    lease: Lease,
    /// When the attempt began.
    begun: Instant,
    snapshot: &'a Snapshot,
}

impl Goal for Contender<'_> {
    fn authority(&self) -> &Authority {
        &self.lease.upstream().spec.authority
    }

    fn book(&self) -> Option<&AddressBook> {
        self.snapshot.addresses(self.lease.upstream())
    }

    #[cfg(feature = "tls")]
    fn tls(&self) -> Option<&Tls> {
        self.lease.upstream().spec.tls.as_deref()
    }
}

/// An origin that is connected to.
struct Origin<'a> {
    authority: &'a Authority,
    allows: &'a dyn Fn(IpAddr) -> bool,
}

impl Goal for Origin<'_> {
    fn authority(&self) -> &Authority {
        self.authority
    }

    fn allows(&self, address: IpAddr) -> bool {
        (self.allows)(address)
    }
}

impl<'a> Exchange<'a> {
    /// A connection to the upstream of `lease`: one that is there already, or a new one, or one to another
    /// upstream that is there sooner.
    pub(super) fn connect_upstream(&mut self, lease: Lease, begun: Instant) -> Result<Hop, Failed> {
        match self.idle_connection(lease, begun) {
            Ok(hop) => Ok(hop),
            Err(lease) => self.dial_upstream(lease, begun),
        }
    }

    /// A new connection to the upstream of `lease`, or one to another upstream that is there sooner. Those
    /// to which there is none are blamed.
    pub(super) fn dial_upstream(&mut self, lease: Lease, begun: Instant) -> Result<Hop, Failed> {
        decided!(self, "connects to {}", lease.upstream().spec.name);
        let dialling = Instant::now();
        let mut race = Race::new(&self.ctx.upstream_names);
        let mut join_at = self.enter(&mut race, lease, begun);
        let mut has_cleared = false;
        loop {
            let has_others = self.pool().upstreams().len() > 1;
            let may_join = has_others
                && !self.stays_with_session()
                && race.len() < MOST_RACING
                && !self.has_dialled_enough(dialling.elapsed());
            let until = may_join.then_some(join_at);
            match race.next(until, &mut || self.look()) {
                RaceEvent::Made(winner, conn) => return Ok(self.win(race, winner, conn)),
                RaceEvent::Late => match self.another_upstream() {
                    Some(lease) => match self.join(&mut race, lease) {
                        ControlFlow::Continue(late_at) => join_at = late_at,
                        ControlFlow::Break(hop) => {
                            self.settle(race);
                            return Ok(hop);
                        }
                    },
                    None => join_at = Instant::now() + STAGGER,
                },
                RaceEvent::Failed(loser, DialError::Failed(HopFailure::LocalExhaustion))
                    if race.is_empty() && !has_cleared =>
                {
                    // The descriptors of idle connections are needed.
                    has_cleared = true;
                    self.snapshot.clear_idle_pools();
                    race.enter(loser.goal, loser.deadline);
                }
                RaceEvent::Failed(loser, error) => {
                    let failed = self.lose(&loser, error);
                    if race.is_empty() {
                        self.state.dialled_in_vain += dialling.elapsed();
                        self.report.goes_to(&loser.goal.lease);
                        return Err(failed);
                    }
                    report::count_attempt::<()>(loser.goal.lease.upstream().vitals(), &Err(failed));
                    join_at = Instant::now();
                }
                RaceEvent::GivenUp => {
                    self.leave(&race);
                    return Err(self.given_up());
                }
            }
        }
    }

    /// One more takes part. Returns when it is late.
    fn enter(&self, race: &mut Race<'_, Contender<'a>>, lease: Lease, begun: Instant) -> Instant {
        let contender = Contender {
            lease,
            begun,
            snapshot: self.snapshot,
        };
        race.enter(contender, self.connect_deadline())
    }

    /// One more takes part, unless it wins at once: there is an idle connection.
    fn join(
        &mut self,
        race: &mut Race<'_, Contender<'a>>,
        lease: Lease,
    ) -> ControlFlow<Hop, Instant> {
        let begun = Instant::now();
        match self.idle_connection(lease, begun) {
            Ok(hop) => ControlFlow::Break(hop),
            Err(lease) => {
                let name = &lease.upstream().spec.name;
                decided!(self, "connects to {name}, too: the others take their time");
                ControlFlow::Continue(self.enter(race, lease, begun))
            }
        }
    }

    /// The hop over the connection that was made first.
    fn win(
        &mut self,
        race: Race<'_, Contender<'a>>,
        winner: Runner<Contender<'a>>,
        mut conn: Conn,
    ) -> Hop {
        let took = report::dialled(self.ctx, winner.begun);
        self.report.connected(Some(took));
        self.settle(race);
        let Contender { lease, begun, .. } = winner.goal;
        let name = &lease.upstream().spec.name;
        decided!(self, "is connected to {name} after {took:.1?}");
        self.report.goes_to(&lease);
        report::count_connection(&lease);
        conn.borrow_memory(&mut self.scratch.from_hop);
        Hop::new(conn, Some(lease), begun, HopOrigin::Fresh)
    }

    /// The race is won: what becomes of the others.
    fn settle(&mut self, race: Race<'_, Contender<'a>>) {
        for (loser, conn) in race.finish() {
            let is_late = loser.is_late();
            let Contender { lease, begun, .. } = loser.goal;
            self.report.tried(self.ctx, Some(&lease), begun, OUTRUN);
            match conn {
                Some(conn) => self.keep_unused(&lease, conn),
                None if is_late => self.doubt(&lease, Doubt::CannotConnect),
                None => {}
            }
            report::count_given_up(&lease);
        }
    }

    /// Keeps a connection that was not needed.
    fn keep_unused(&self, lease: &Lease, conn: Conn) {
        report::count_connection(lease);
        let most = self.snapshot.config.limits.upstream_idle_connections;
        let upstream = lease.upstream();
        if let Some(idle_pool) = self.snapshot.idle_pool(upstream)
            && !upstream.vitals().is_offline()
            && !upstream.spec.is_socks()
            && upstream.spec.told.proxy_header.is_none()
            && let Some(shared_by) = self.shared_by(upstream)
        {
            let now = Instant::now();
            let last_use = LastUse {
                use_for: UseFor::Anything,
                shared_by,
                sender: Sender::Upstream,
                client: self.client.id,
                begun: now,
                leftover: Leftover::Nothing,
                home: self.worker.home(),
            };
            idle_pool.keep(conn, last_use, most, now);
        }
    }

    /// There is no connection to this one, which is blamed.
    fn lose(&mut self, loser: &Runner<Contender<'a>>, error: DialError) -> Failed {
        let failure = match error {
            // The client is not to look for the mistake in its URL.
            DialError::Failed(HopFailure::DnsError) => HopFailure::UpstreamDnsError,
            DialError::Failed(HopFailure::DnsTimeout) => HopFailure::UpstreamDnsTimeout,
            DialError::Failed(failure) => failure,
            DialError::Forbidden => return Failed::Refused(Refusal::TargetForbidden),
            DialError::GivenUp => return self.given_up(),
        };
        let goal = &loser.goal;
        let end = TryEnd::Word(failure.label());
        self.report
            .tried(self.ctx, Some(&goal.lease), goal.begun, end);
        report::dialled(self.ctx, loser.begun);
        let error = AttemptError::NotSent(failure);
        // Cut short by the time of the whole request, which others may have used up.
        let is_late = matches!(
            failure,
            HopFailure::ConnectTimeout | HopFailure::UpstreamDnsTimeout
        );
        let cut = is_late && self.deadline().is_some_and(|whole| whole <= loser.deadline);
        let Contender { lease, begun, .. } = &loser.goal;
        if cut {
            self.doubt(lease, Doubt::CannotConnect);
        } else {
            self.blame(lease, *begun, &error);
        }
        Failed::Hop(error)
    }

    /// The client or the process waits no more, and that is the fault of none of them.
    fn leave(&mut self, race: &Race<'_, Contender<'a>>) {
        let end = TryEnd::Word(self.given_up().label());
        for (position, Contender { lease, begun, .. }) in race.goals().enumerate() {
            self.report.tried(self.ctx, Some(lease), *begun, end);
            if position == 0 {
                self.report.goes_to(lease);
            } else {
                report::count_given_up(lease);
            }
        }
    }

    /// A new connection to the origin, if the direct route may go there.
    pub(super) fn dial_origin(&mut self) -> Result<Conn, Failed> {
        decided!(self, "connects to {}", self.authority());
        let (begun, deadline) = (Instant::now(), self.connect_deadline());
        let dial = || {
            let origin = Origin {
                authority: self.authority(),
                allows: &|address| self.may_reach(address),
            };
            let names = self.ctx.origin_names.asked_by(self.client.address.ip());
            dial::dial(origin, &names, deadline, &mut || self.look())
        };
        let mut dialled = dial();
        if matches!(dialled, Err(DialError::Failed(HopFailure::LocalExhaustion))) {
            self.snapshot.clear_idle_pools();
            dialled = dial();
        }
        let failed = match dialled {
            Ok(conn) => {
                let took = report::dialled(self.ctx, begun);
                self.report.connected(Some(took));
                return Ok(conn);
            }
            Err(DialError::Failed(failure)) => {
                report::dialled(self.ctx, begun);
                Failed::Refused(Refusal::NextHop(failure))
            }
            Err(DialError::Forbidden) => Failed::Refused(Refusal::TargetForbidden),
            Err(DialError::GivenUp) => self.given_up(),
        };
        let end = TryEnd::Word(failed.label());
        self.report.tried(self.ctx, None, begun, end);
        Err(failed)
    }

    /// Whether the direct route may go there for this client.
    pub(super) fn may_reach(&self, address: IpAddr) -> bool {
        let rules = &self.snapshot.config.access;
        access::allows_origin(rules, Requester::of(self.client), self.head, address)
    }

    /// A connection is to be waited for: whether there is a point in that.
    fn look(&self) -> LookAround {
        self.worker.may_block();
        if self.client_is_gone() {
            LookAround::GiveUp
        } else {
            look_at(self.ctx.stop.stage())
        }
    }

    fn connect_deadline(&self) -> Instant {
        let own = Instant::now() + self.snapshot.config.limits.connect_timeout;
        self.deadline().map_or(own, |whole| whole.min(own))
    }

    /// Whether the upstream has not failed although this connection has: it had died while it was idle, or
    /// the name has another address that may do. Of the latter one is enough, or a request that no upstream
    /// can serve would go to all.
    pub(super) fn may_dial_again(
        &mut self,
        lease: &Lease,
        origin: HopOrigin,
        error: &AttemptError,
    ) -> bool {
        if let HopOrigin::Reused(_) = origin {
            return reuse::explains(origin, error);
        }
        if !is_staleness(error) || self.state.given_up_addresses > 0 {
            return false;
        }
        self.state.given_up_addresses += 1;
        let book = self.snapshot.addresses(lease.upstream());
        let may = book.is_some_and(|book| book.has_awake(Instant::now()));
        if may {
            decided!(self, "goes to another address of the same upstream");
        }
        may
    }

    /// Notes whether an upstream can be talked to at the address of a new connection.
    pub(super) fn learn_of_address<T>(&self, hop: &Hop, answer: &Result<Option<T>, Failed>) {
        let (Some(lease), Some(address)) = (&hop.lease, hop.conn.dialled()) else {
            return;
        };
        let book = match hop.origin {
            HopOrigin::Fresh => self.snapshot.addresses(lease.upstream()),
            HopOrigin::Reused(_) => None,
        };
        match (book, answer) {
            (Some(book), Ok(Some(_))) => book.answered(address),
            (Some(book), Err(Failed::Hop(error))) if is_staleness(error) => {
                book.failed(address, hop.begun, Instant::now());
            }
            (_, Ok(_) | Err(_)) => {}
        }
    }
}

/// Whether the next hop has ended the connection without a word.
fn is_staleness(error: &AttemptError) -> bool {
    match error {
        AttemptError::NotSent(failure) | AttemptError::NoResponse(failure) => {
            matches!(failure, HopFailure::Closed | HopFailure::Reset)
        }
        AttemptError::Truncated(_) => false,
    }
}
