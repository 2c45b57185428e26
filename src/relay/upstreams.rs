//! Upstream after upstream: which is tried next, and when that is enough.
//!
//! The rules of failover are pure functions of [`AttemptError`] (`balance/failover.rs`); here they are applied.

use std::time::{Duration, Instant};

use crate::balance::failover::{self, AttemptError, Next};
use crate::balance::pool::Pool;
use crate::balance::state::is_gateway_error;
use crate::balance::upstream::Lease;
use crate::protocol::answer::{HopFailure, Refusal};
use crate::protocol::rewrite::Form;

use super::client::BoundTo;
use super::exchange::{Done, Exchange};
use super::failed::{Failed, refused};
use super::hop::Hop;
use super::report::{self, RouteTaken};

/// The most upstreams one request is tried at.
const MOST_ATTEMPTS: usize = 3;

/// Where an attempt begins.
#[expect(clippy::large_enum_variant, reason = "one at a time, on the stack")]
pub(super) enum AttemptStart {
    /// With an upstream that was picked, and since when it is: what was waited before is not its doing.
    Picked(Lease, Instant),
    /// At the answer of this next hop, which was waited for without a worker.
    Resumed(Hop),
}

impl Exchange<'_> {
    /// Tries one upstream after the other until `attempt` succeeds or the rules say stop.
    ///
    /// # Errors
    /// The last failure, as an answer.
    pub(super) fn over_upstreams(
        &mut self,
        attempt: &mut dyn FnMut(&mut Self, AttemptStart) -> Result<Done, Failed>,
    ) -> Result<Done, Failed> {
        if self.state.destination.form == Form::AsReceived {
            self.state.tried.leave_out_socks();
        }
        while let Some(start) = self.next_start()? {
            let result = attempt(self, start);
            // It need not be the one it began with: another may have been connected to sooner.
            if let RouteTaken::Upstream(upstream) = &self.report.route
                && !matches!(result, Ok(Done::Suspended(_)))
            {
                report::count_attempt(upstream.vitals(), &result);
            }
            let error = match result {
                Err(Failed::Hop(error)) => error,
                done_or_over => return done_or_over,
            };
            if !failover::is_unreached(&error) {
                self.state.attempts += 1;
            }
            let is_over = self.deadline().is_some_and(|at| at <= Instant::now())
                || self.has_dialled_enough(Duration::ZERO)
                || self.is_refused_twice(&error);
            let next = self.next_after(&error);
            decided!(
                self,
                "{}",
                match next {
                    Next::Failover if !is_over => "tries another upstream",
                    Next::Failover => "tries no other upstream: time or reason to do so is over",
                    Next::GiveUp => "tries no other upstream: it may have been acted upon",
                    Next::Close => "tries no other upstream: the response has begun",
                }
            );
            match next {
                Next::Failover if !is_over => self.state.last = Some(error),
                Next::Failover | Next::GiveUp => return Err(refused(Failed::Hop(error))),
                Next::Close => return Err(Failed::Hop(error)),
            }
        }
        let pool = self.pool();
        let serves = |pool: &Pool| pool.serving().next().is_some();
        Err(match self.state.last {
            // No upstream was in service, and those tried all the same could not be connected to.
            Some(error) if !failover::is_unreached(&error) || !self.state.had_only_trials() => {
                refused(Failed::Hop(error))
            }
            Some(_) | None if serves(&self.snapshot.pool) && !serves(pool) => {
                Failed::Refused(Refusal::GroupNotInService)
            }
            Some(_) | None if pool.is_without_names() => {
                Failed::Refused(Refusal::NoUpstreamResolved)
            }
            None if pool.upstreams().is_empty() => Failed::Refused(Refusal::NoUpstreamConfigured),
            None if pool.is_drained() => Failed::Refused(Refusal::AllDrained),
            Some(_) | None => Failed::Refused(Refusal::NoUpstream),
        })
    }

    /// Whether it has waited for connections as long as for those of all its attempts; `now`: in the race at
    /// hand. They cost no attempt, but no client is to wait for the whole of a large pool that takes none.
    pub(super) fn has_dialled_enough(&self, now: Duration) -> bool {
        let most = u32::try_from(MOST_ATTEMPTS).unwrap_or(u32::MAX);
        self.snapshot
            .config
            .limits
            .connect_timeout
            .saturating_mul(most)
            <= self.state.dialled_in_vain + now
    }

    /// Whether a second upstream says the same, and a third would not know better: that it wants credentials,
    /// which is the origin's doing then or the operator's mistake; or that it cannot connect to the target.
    fn is_refused_twice(&self, error: &AttemptError) -> bool {
        let is_refused =
            |error: &AttemptError| matches!(error.failure(), HopFailure::AuthenticationRefused);
        let refused = self.state.kept.as_ref();
        let has_refused = refused.is_some_and(|kept| is_gateway_error(kept.head.status()));
        let is_second = |says: &dyn Fn(&AttemptError) -> bool| {
            says(error) && self.state.last.as_ref().is_some_and(says)
        };
        is_second(&is_refused)
            || is_second(&failover::is_about_target)
            || (failover::is_about_target(error) && has_refused)
    }

    /// The next hop of an exchange that was suspended, or another upstream unless enough were tried.
    ///
    /// # Errors
    /// When there is no point in waiting for one.
    fn next_start(&mut self) -> Result<Option<AttemptStart>, Failed> {
        if let Some(hop) = self.resumed.take() {
            return Ok(Some(AttemptStart::Resumed(hop)));
        }
        self.state.follow_rule(self.snapshot);
        let most = self.pool().upstreams().len().min(MOST_ATTEMPTS);
        if self.state.attempts >= most {
            return Ok(None);
        }
        let (lease, begun) = match self.another_upstream() {
            None => (self.wait_for_room()?, None),
            found if self.report.attempts == 1 => (found, self.state.request_done),
            found => (found, None),
        };
        let begun = begun.unwrap_or_else(Instant::now);
        Ok(lease.map(|lease| AttemptStart::Picked(lease, begun)))
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
        let (pool, mode) = (self.pool(), self.snapshot.config.mode);
        let wanted = self.state.destination.wanted.as_ref();
        let wish = wanted.map(|wanted| wanted.wish(self.state.last));
        let tried = &mut self.state.tried;
        if let Some(bound) = &self.client.bound {
            if let BoundTo::Upstream(id) = bound.to
                && let Some(lease) = pool.lease(id)
                && tried.may_try(lease.upstream())
            {
                tried.insert(id);
                decided!(
                    self,
                    "picks {}, to which the client is bound",
                    lease.upstream().spec.name
                );
                return Some(lease);
            }
            if let BoundTo::Upstream(id) = bound.to
                && pool.full_alone(id, tried).is_some()
            {
                return None;
            }
            self.client.bound = None;
        }
        let picked = if self.head.method() == "CONNECT" {
            pool.pick_for_tunnel(mode, wish.as_ref(), tried, Instant::now())
        } else {
            pool.pick(mode, wish.as_ref(), tried)
        };
        if let Some(lease) = picked {
            decided!(
                self,
                "picks {} by {}, of {} that serve",
                lease.upstream().spec.name,
                match &wish {
                    Some(wish) if wish.session.is_some() => format!("its session and {mode}"),
                    Some(_) | None => mode.to_string(),
                },
                pool.serving().count()
            );
            return Some(lease);
        }
        if self.state.trials >= MOST_ATTEMPTS {
            return None;
        }
        let Some(lease) = pool.pick_trial(tried, Instant::now()) else {
            decided!(self, "has no upstream left to try");
            return None;
        };
        self.state.trials += 1;
        decided!(
            self,
            "picks {} although it is offline: none serves",
            lease.upstream().spec.name
        );
        Some(lease)
    }

    pub(super) fn next_after(&self, error: &AttemptError) -> Next {
        failover::next(error, self.head.method(), self.state.upload.replay())
    }
}
