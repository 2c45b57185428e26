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
use crate::balance::room::Wants;
use crate::balance::state::Availability;
use crate::balance::sticky::{MoveReason, Pins, SessionKey};
use crate::balance::tried::Tried;
use crate::balance::upstream::{Lease, Upstream};
use crate::balance::vitals::{self, UpstreamId};
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
            // It is waited for: who rests would be asked for want of room alone.
            None if self.is_full_for(filter) => None,
            None => self.pick_resting(filter),
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
        let choose = |may_warm_up: bool| {
            let may = |one: &Arc<Upstream>| {
                filter.passes(one)
                    && !one.vitals().is_full()
                    && (may_warm_up || !one.vitals().is_warming_up())
            };
            let members = Members {
                count: self.upstreams.len(),
                version: vitals::changes(),
                look: |place| at(place).map_or(Candidate::OUT, |upstream| candidate(upstream)),
                may: |place| at(place).is_some_and(may),
            };
            chooser.choose(mode, account, &members).and_then(at)
        };
        loop {
            let mut upstream = choose(true)?;
            if upstream.vitals().sits_out()
                && let Some(other) = choose(false)
                && other.vitals().availability() <= upstream.vitals().availability()
            {
                upstream = other;
            }
            // Another pick may have taken the last of its room meanwhile.
            if let Some(lease) = Lease::take(upstream) {
                return Some(lease);
            }
        }
    }

    /// Whether somebody in service could be picked and has no room. None of them rests.
    fn is_full_for(&self, filter: Filter<'_>) -> bool {
        let is_full = |one: &Arc<Upstream>| one.vitals().is_full() && filter.passes(one);
        self.has_limits && self.serving().any(is_full)
    }

    /// What is to be waited for once nobody can be picked: those that have no room, of which a session that has
    /// an upstream wants this alone. None: room would not help.
    pub fn full_for(&self, wish: Option<&Wish<'_>>, tried: &Tried) -> Option<Wants> {
        if !self.has_limits || wish.is_some_and(|wish| wish.only_rested) {
            return None;
        }
        let session = wish.and_then(|wish| Some((wish.session?, wish.now)));
        let pinned = session.and_then(|(session, now)| {
            let key = session.key.within(self.hash);
            self.memory.pins.lock().find(key, session.ttl, now)
        });
        let may_help = |one: &Arc<Upstream>| may_get_room(one, tried);
        let only = pinned.filter(|id| self.by_id(*id).is_some_and(may_help));
        let wants = || self.wants(only, tried);
        (only.is_some() || self.upstreams.iter().any(may_help)).then(wants)
    }

    /// The same for a client that is bound to this upstream, and wants no other.
    pub fn full_alone(&self, id: UpstreamId, tried: &Tried) -> Option<Wants> {
        let upstream = self.by_id(id)?;
        may_get_room(upstream, tried).then(|| self.wants(Some(id), tried))
    }

    fn wants(&self, only: Option<UpstreamId>, tried: &Tried) -> Wants {
        let members = if tried.is_choosy() {
            let places = self.upstreams.iter().zip(0..);
            let those = places.filter(|(one, _)| tried.may_try(one));
            Arc::new(those.map(|(one, place)| (one.id(), place)).collect())
        } else {
            Arc::clone(&self.places)
        };
        Wants {
            members,
            only,
            tried: tried.ids().collect(),
        }
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
        let may = |id| {
            let upstream = self.by_id(id);
            upstream.filter(|upstream| upstream.serves() && filter.passes(upstream))
        };
        let find = |pins: &mut Pins| pins.find(session.key, session.ttl, now);
        let pinned = find(&mut self.memory.pins.lock());
        if let Some(upstream) = pinned.and_then(may) {
            // One that has no room is waited for.
            return Lease::take(upstream);
        }
        // Without the lock: it looks at the whole pool.
        let upstream = self.first_for(session.key, mode, filter)?;
        let mut pins = self.memory.pins.lock();
        let pinned = find(&mut pins);
        if let Some(upstream) = pinned.and_then(may) {
            // Another request of the session was faster.
            return Lease::take(upstream);
        }
        let reason = match pinned.map(|id| self.by_id(id)) {
            None => None,
            Some(None) => Some(MoveReason::Removed),
            Some(Some(before)) if !before.is_in_service() => Some(MoveReason::Drained),
            Some(Some(before)) if before.vitals().is_offline() => Some(MoveReason::Offline),
            Some(Some(before)) if filter.rests(before) => Some(MoveReason::Resting),
            // It is in service, and was tried or has no CONNECT: this request goes elsewhere, the session stays.
            Some(Some(_)) => return Lease::take(upstream),
        };
        let lease = Lease::take(upstream)?;
        if let Some(reason) = reason {
            pins.moved(reason);
        }
        pins.pin(session.key, upstream.id(), (session.most, session.ttl), now);
        Some(lease)
    }

    /// Whom the session goes to by its hash: of the best-standing ones, and in `priority` of the preferred.
    fn first_for(
        &self,
        key: SessionKey,
        mode: BalanceMode,
        filter: Filter<'_>,
    ) -> Option<&Arc<Upstream>> {
        let mut best = None;
        for upstream in &self.upstreams {
            let candidate = candidate(upstream);
            let class = (candidate.availability, candidate.level(mode));
            let is_worse = best.is_some_and(|(best, _, _)| best < class);
            if is_worse
                || candidate.availability == Availability::Offline
                || !filter.passes(upstream)
                || upstream.vitals().is_full()
            {
                continue;
            }
            let score = key.score(upstream.hash(), upstream.weight());
            if best.is_none_or(|(best, most, _)| class < best || score >= most) {
                best = Some((class, score, upstream));
            }
        }
        best.map(|(_, _, upstream)| upstream)
    }

    /// The upstream whose rest ends first: all that could be picked rest.
    fn pick_resting(&self, filter: Filter<'_>) -> Option<Lease> {
        let rests = filter.rests?;
        let upstream = self
            .serving()
            .filter(|upstream| filter.may_try(upstream) && !upstream.vitals().is_full())
            .min_by_key(|upstream| rests.until(upstream.id()))?;
        let lease = Lease::take(upstream)?;
        self.memory.rests.override_one();
        Some(lease)
    }

    fn pick_from_rest(&self, mode: BalanceMode, tried: &mut Tried) -> Option<Lease> {
        if tried.rest.is_none() {
            tried.rest = Some(self.rest(mode, tried));
        }
        let rest = tried.rest.as_mut()?;
        let mut last_first = rest.iter().enumerate().rev();
        let (at, lease) = last_first.find_map(|(at, next)| {
            let lease = next.serves().then(|| Lease::take(next))?;
            Some((at, lease?))
        })?;
        rest.remove(at);
        tried.insert(lease.upstream().id());
        Some(lease)
    }

    /// Those in service that were not tried, the best last.
    fn rest(&self, mode: BalanceMode, tried: &Tried) -> Vec<Arc<Upstream>> {
        let serving = self.serving();
        let untried = serving.filter(|upstream| tried.may_try(upstream));
        let ranked = untried.enumerate().map(|(place, upstream)| {
            let preference = match mode {
                BalanceMode::RoundRobin => 0,
                BalanceMode::Best => upstream.vitals().latency_us().unwrap_or(0),
                BalanceMode::Priority => u64::from(upstream.spec.priority),
            };
            let rank = (upstream.vitals().availability(), preference);
            (std::cmp::Reverse(rank), place, upstream)
        });
        let mut rest: Vec<_> = ranked.collect();
        rest.sort_unstable_by_key(|(rank, place, _)| (*rank, *place));
        let rest = rest.into_iter();
        rest.map(|(.., upstream)| Arc::clone(upstream)).collect()
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
            .filter(|upstream| upstream.vitals().may_be_tried(now) && !upstream.vitals().is_full())
            .filter_map(|upstream| {
                let last = upstream.vitals().last_trial();
                let reason = upstream.vitals().state().reason?;
                Some((reason.badness(), last, upstream))
            })
            .min_by_key(|(badness, last, _)| (*badness, *last))?;
        let lease = Lease::trial(upstream, now)?;
        tried.insert(upstream.id());
        Some(lease)
    }
}

fn candidate(upstream: &Upstream) -> Candidate {
    if !upstream.is_in_service() {
        return Candidate::OUT;
    }
    let vitals = upstream.vitals();
    Candidate {
        availability: vitals.availability(),
        weight: upstream.weight(),
        priority: upstream.spec.priority,
        latency_us: vitals.latency_us(),
        active: vitals.active(),
        errors: vitals.errors_millionths(),
    }
}

/// Whether it is worth waiting for room at this one. Any that is limited is: it was full a moment ago.
fn may_get_room(upstream: &Upstream, tried: &Tried) -> bool {
    upstream.serves() && upstream.vitals().is_limited() && tried.may_try(upstream)
}
