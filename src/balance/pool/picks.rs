//! Which upstream of the pool the next attempt goes to.
//!
//! Mostly the one whose turn it is; that of its session, if the exchange belongs to one; one that rests, or is
//! offline, for want of others.
//!
//! Not here: whose turn it is ([`pick`](super::super::pick) says), and what the pool is (the module above).

use std::sync::Arc;
use std::time::Instant;

use super::Pool;
use crate::balance::pick::{Account, BalanceMode, Candidate, Members};
use crate::balance::rests::RestsForHost;
use crate::balance::state::Availability;
use crate::balance::sticky::{MoveReason, SessionKey};
use crate::balance::tried::Tried;
use crate::balance::upstream::{Lease, Upstream};
use crate::balance::vitals;
use crate::balance::wish::{Filter, Session, Wish};

/// An exchange that has tried so many upstreams gets a list of the others, instead of a choice among all
/// each time: it shall cost no more than a few looks at the pool, however many of it refuse.
const TRIED_ONE_BY_ONE: usize = 8;

impl Pool {
    /// Picks an upstream in service for an attempt, and notes it in `tried`. None: there is none but those
    /// tried already.
    ///
    /// It is counted as active before the next pick can look.
    pub fn pick(
        &self,
        mode: BalanceMode,
        wish: Option<&Wish<'_>>,
        tried: &mut Tried,
    ) -> Option<Lease> {
        if tried.len() >= TRIED_ONE_BY_ONE {
            return self.pick_from_rest(mode, tried);
        }
        self.pick_by(mode, wish, tried, None)
    }

    /// The same for a tunnel: who has no CONNECT is picked if nobody else is left, or if it is time to ask it
    /// again; or after so many others that there is no choice any more.
    pub fn pick_for_tunnel(
        &self,
        mode: BalanceMode,
        wish: Option<&Wish<'_>>,
        tried: &mut Tried,
        now: Instant,
    ) -> Option<Lease> {
        let mut members = self.upstreams.iter();
        let has_choice = tried.len() < TRIED_ONE_BY_ONE && vitals::may_lack_connect();
        if !has_choice || !members.any(|one| one.vitals().lacks_connect()) {
            return self.pick(mode, wish, tried);
        }
        let lease = self.pick_by(mode, wish, tried, Some(now));
        let lease = lease.or_else(|| self.pick(mode, wish, tried))?;
        lease.upstream().vitals().asked_for_tunnel(now);
        Some(lease)
    }

    fn pick_by(
        &self,
        mode: BalanceMode,
        wish: Option<&Wish<'_>>,
        tried: &mut Tried,
        tunnel_at: Option<Instant>,
    ) -> Option<Lease> {
        let rests = wish.and_then(|wish| self.memory.rests.for_host(wish.host?, wish.now));
        let filter = Filter {
            tried,
            rests: rests.as_ref(),
            tunnel_at,
        };
        let picked = match wish.and_then(|wish| Some((wish.session?, wish.now))) {
            Some((session, now)) => self.pick_for_session(session, mode, now, filter),
            None => self.pick_in_turn(mode, filter),
        };
        let picked = match picked {
            None if wish.is_some_and(|wish| wish.only_rested) => None,
            None => {
                let filter = Filter {
                    tried,
                    rests: None,
                    tunnel_at,
                };
                self.pick_resting(filter, rests?)
            }
            Some(_) => picked,
        }?;
        tried.insert(picked.upstream().id());
        Some(picked)
    }

    fn pick_in_turn(&self, mode: BalanceMode, filter: Filter<'_>) -> Option<Lease> {
        let chooser = match filter.tunnel_at {
            Some(_) => &self.tunnel_chooser,
            None => &self.chooser,
        };
        let is_open = filter.tried.is_empty() && !filter.tried.is_choosy();
        let account = if is_open {
            Account::First
        } else {
            Account::Again
        };
        let at = |place: usize| self.upstreams.get(place);
        let members = Members {
            count: self.upstreams.len(),
            version: vitals::changes(),
            look: |place| at(place).map_or(Candidate::OUT, |upstream| candidate(upstream)),
            may: |place| at(place).is_some_and(|upstream| filter.passes(upstream)),
        };
        let place = chooser.lock().choose(mode, account, &members)?;
        at(place).map(Lease::take)
    }

    /// The pinned upstream of `session`, else the one that its hash says.
    fn pick_for_session(
        &self,
        session: Session,
        mode: BalanceMode,
        now: Instant,
        filter: Filter<'_>,
    ) -> Option<Lease> {
        let session = Session {
            key: session.key.within(self.hash),
            ..session
        };
        let mut pins = self.memory.pins.lock();
        let pinned = pins
            .find(session.key, session.ttl, now)
            .map(|id| self.by_id(id));
        if let Some(Some(upstream)) = pinned
            && upstream.serves()
            && filter.passes(upstream)
        {
            return Some(Lease::take(upstream));
        }
        let upstream = self.first_for(session.key, mode, filter)?;
        let reason = match pinned {
            None => None,
            Some(None) => Some(MoveReason::Removed),
            Some(Some(before)) if !before.is_in_service() => Some(MoveReason::Drained),
            Some(Some(before)) if before.vitals().is_offline() => Some(MoveReason::Offline),
            Some(Some(before)) if filter.rests(before) => Some(MoveReason::Resting),
            // It is in service, and was tried or has no CONNECT: this request goes elsewhere, the session stays.
            Some(Some(_)) => return Some(Lease::take(upstream)),
        };
        if let Some(reason) = reason {
            pins.moved(reason);
        }
        pins.pin(session.key, upstream.id(), (session.most, session.ttl), now);
        Some(Lease::take(upstream))
    }

    /// Whom the session goes to by its hash: of the best-standing ones, and in `priority` of the preferred.
    fn first_for(
        &self,
        key: SessionKey,
        mode: BalanceMode,
        filter: Filter<'_>,
    ) -> Option<&Arc<Upstream>> {
        let class = |candidate: &Candidate| {
            let priority = match mode {
                BalanceMode::RoundRobin | BalanceMode::Best => 0,
                BalanceMode::Priority => candidate.priority,
            };
            (candidate.availability, priority)
        };
        let candidates = || {
            let all = self.upstreams.iter();
            all.map(|upstream| (upstream, candidate(upstream)))
                .filter(|(_, candidate)| candidate.availability != Availability::Offline)
                .filter(|(upstream, _)| filter.passes(upstream))
        };
        let best = candidates().map(|(_, candidate)| class(&candidate)).min()?;
        let (_, upstream) = candidates()
            .filter(|(_, candidate)| class(candidate) == best)
            .map(|(upstream, _)| (key.score(upstream.hash(), upstream.spec.weight), upstream))
            .max_by(|(a, _), (b, _)| a.total_cmp(b))?;
        Some(upstream)
    }

    /// The upstream whose rest ends first: all that could be picked rest.
    fn pick_resting(&self, filter: Filter<'_>, mut rests: RestsForHost<'_>) -> Option<Lease> {
        let upstream = self
            .serving()
            .filter(|upstream| filter.may_try(upstream))
            .min_by_key(|upstream| rests.until(upstream.id()))?;
        rests.overridden();
        Some(Lease::take(upstream))
    }

    fn pick_from_rest(&self, mode: BalanceMode, tried: &mut Tried) -> Option<Lease> {
        if tried.rest.is_none() {
            tried.rest = Some(self.rest(mode, tried));
        }
        while let Some(next) = tried.rest.as_mut()?.pop() {
            if next.serves() {
                tried.insert(next.id());
                return Some(Lease::take(&next));
            }
        }
        None
    }

    /// Those in service that were not tried, the best last.
    fn rest(&self, mode: BalanceMode, tried: &Tried) -> Vec<Arc<Upstream>> {
        let serving = self.serving();
        let mut rest: Vec<_> = serving.filter(|upstream| tried.may_try(upstream)).collect();
        rest.sort_by_cached_key(|upstream| {
            let preference = match mode {
                BalanceMode::RoundRobin => 0,
                BalanceMode::Best => upstream.vitals().latency_us().unwrap_or(0),
                BalanceMode::Priority => u64::from(upstream.spec.priority),
            };
            std::cmp::Reverse((upstream.vitals().availability(), preference))
        });
        rest.into_iter().map(Arc::clone).collect()
    }

    /// Picks an upstream that is offline, for want of one in service: one request at a time and one a
    /// second for each, the least bad reason first. None: there is one in service, tried or not, or it is
    /// too early for each.
    pub fn pick_trial(&self, tried: &mut Tried, now: Instant) -> Option<Lease> {
        let _alone = self.memory.trials.lock();
        if self.serving().next().is_some() {
            return None;
        }
        let (_, _, upstream) = self
            .upstreams
            .iter()
            .filter(|upstream| upstream.is_in_service() && tried.may_try(upstream))
            .filter(|upstream| upstream.vitals().may_be_tried(now))
            .filter_map(|upstream| {
                let last = upstream.vitals().last_trial();
                let reason = upstream.vitals().state().reason?;
                Some((reason.badness(), last, upstream))
            })
            .min_by_key(|(badness, last, _)| (*badness, *last))?;
        upstream.vitals().trial_begins(now);
        tried.insert(upstream.id());
        Some(Lease::trial(upstream))
    }
}

fn candidate(upstream: &Upstream) -> Candidate {
    if !upstream.is_in_service() {
        return Candidate::OUT;
    }
    let vitals = upstream.vitals();
    Candidate {
        availability: vitals.availability(),
        weight: upstream.spec.weight,
        priority: upstream.spec.priority,
        latency_us: vitals.latency_us(),
        active: vitals.active(),
        errors: vitals.errors_millionths(),
    }
}
