//! All upstreams of one configuration.
//!
//! A pool never changes: a reload makes a new one, which takes over the vitals of the upstreams
//! that stay. So no thread holds a place in a list that has changed meanwhile, and a lease taken from
//! the old pool ends on the counter that the new one reads.
//!
//! A group is a pool, too: it has some of the same upstreams, shares them out by an account of its own, and is in
//! service or not by itself.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::belief::Belief;
use super::groups;
use super::history::History;
use super::pick::{self, Account, BalanceMode, Candidate, Chooser, Members};
use super::reason::OfflineReason;
use super::rests::{Rests, RestsForHost};
use super::state::Availability;
use super::sticky::{MoveReason, Pins, SessionKey};
use super::upstream::{Lease, Upstream, UpstreamSpec};
use super::vitals::{self, UpstreamId, Vitals};

/// An exchange that has tried so many upstreams gets a list of the others, instead of a choice among all
/// each time: it shall cost no more than a few looks at the pool, however many of it refuse.
const TRIED_ONE_BY_ONE: usize = 8;

/// An immutable list of upstreams, and the memory of what was picked.
#[derive(Debug)]
pub struct Pool {
    upstreams: Vec<Arc<Upstream>>,
    places: HashMap<UpstreamId, usize>,
    chooser: Mutex<Chooser>,
    /// For tunnels, while some members have no CONNECT: they are another set that shares.
    tunnel_chooser: Mutex<Chooser>,
    memory: Arc<Memory>,
    /// Of the name of a group; 0 for the whole.
    hash: u64,
    groups: Vec<Self>,
}

/// Which upstreams an attempt may go to, as far as its exchange is concerned.
#[derive(Clone, Copy)]
struct Filter<'f> {
    tried: &'f Tried,
    rests: Option<&'f RestsForHost<'f>>,
    /// It is for a tunnel, at this time.
    tunnel_at: Option<Instant>,
}

/// What outlives a reload, beside the vitals of each upstream.
#[derive(Debug, Default)]
struct Memory {
    belief: Belief,
    history: Arc<History>,
    pins: Mutex<Pins>,
    rests: Rests,
    /// Whoever picks a trial: two requests at once must not go to the same upstream.
    trials: Mutex<()>,
}

/// What a request wants of the upstream that is picked for it, beyond what the mode says.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'w> {
    /// It belongs to a session.
    pub session: Option<Session>,
    /// Where it goes to: not through an upstream that rests for that host, if possible.
    pub host: Option<&'w str>,
    /// Rather none than one that rests.
    pub only_rested: bool,
    /// When it is made.
    pub now: Instant,
}

/// A session that keeps its upstream.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    /// Which one.
    pub key: SessionKey,
    /// For how long after its last request.
    pub ttl: Duration,
    /// How many sessions are remembered; beyond, the one that was not used for longest is forgotten.
    pub most: usize,
}

/// The upstreams an exchange has tried. Mostly there is but one, which asks for no memory.
#[derive(Clone, Default, Debug)]
pub struct Tried {
    first: Option<UpstreamId>,
    more: Vec<UpstreamId>,
    /// Those it has not, once that is the shorter list; the next one last.
    rest: Option<Vec<Arc<Upstream>>>,
}

impl Pool {
    /// A pool of which nothing is known yet: all upstreams are online.
    pub fn new(specs: Vec<UpstreamSpec>) -> Self {
        Self::with(specs, Arc::default(), |_| Arc::default())
    }

    /// The pool of a new configuration. Upstreams with a URL known here keep their state and
    /// statistics; one whose credentials have changed is checked at once.
    #[must_use]
    pub fn succeeded_by(&self, specs: Vec<UpstreamSpec>) -> Self {
        let known: HashMap<_, _> = self
            .upstreams
            .iter()
            .map(|upstream| (upstream.spec.place(), upstream))
            .collect();
        let memory = Arc::clone(&self.memory);
        let pool = Self::with(specs, memory, |spec| match known.get(&spec.place()) {
            Some(before) => {
                if before.spec.credentials != spec.credentials {
                    before.vitals().want_check();
                }
                Arc::clone(before.vitals())
            }
            None => Arc::default(),
        });
        pool.memory
            .rests
            .keep_only(|id| pool.places.contains_key(&id));
        pool
    }

    fn with(
        specs: Vec<UpstreamSpec>,
        memory: Arc<Memory>,
        vitals: impl Fn(&UpstreamSpec) -> Arc<Vitals>,
    ) -> Self {
        let upstreams: Vec<_> = specs
            .into_iter()
            .map(|spec| {
                let vitals = vitals(&spec);
                Arc::new(Upstream::new(spec, vitals, Arc::clone(&memory.history)))
            })
            .collect();
        let groups = groups::members(&upstreams).into_iter();
        let groups = groups
            .map(|(hash, members)| Self::of(members, Arc::clone(&memory), hash, Vec::new()))
            .collect();
        Self::of(upstreams, memory, 0, groups)
    }

    fn of(
        upstreams: Vec<Arc<Upstream>>,
        memory: Arc<Memory>,
        hash: u64,
        groups: Vec<Self>,
    ) -> Self {
        let ids = upstreams.iter().map(|upstream| upstream.id());
        Self {
            places: ids.zip(0..).collect(),
            chooser: Mutex::default(),
            tunnel_chooser: Mutex::default(),
            memory,
            hash,
            groups,
            upstreams,
        }
    }

    /// The group at this place, see [`super::groups::names`]; the whole pool without one.
    pub fn group(&self, place: Option<usize>) -> &Self {
        place
            .and_then(|place| self.groups.get(place))
            .unwrap_or(self)
    }

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
            None => self.pick_resting(tried, rests?),
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
        let account = if filter.tried.is_empty() {
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
    fn pick_resting(&self, tried: &Tried, mut rests: RestsForHost<'_>) -> Option<Lease> {
        let upstream = self
            .serving()
            .filter(|upstream| !tried.contains(upstream.id()))
            .min_by_key(|upstream| rests.until(upstream.id()))?;
        rests.overridden();
        Some(Lease::take(upstream))
    }

    /// The member that has this identity.
    pub fn by_id(&self, id: UpstreamId) -> Option<&Arc<Upstream>> {
        self.places
            .get(&id)
            .and_then(|place| self.upstreams.get(*place))
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
        let were_tried: HashSet<_> = tried.ids().collect();
        let serving = self.serving();
        let mut rest: Vec<_> = serving
            .filter(|upstream| !were_tried.contains(&upstream.id()))
            .collect();
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
            .filter(|upstream| upstream.is_in_service() && !tried.contains(upstream.id()))
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

    /// A lease of this very upstream, if it is in service.
    pub fn lease(&self, id: UpstreamId) -> Option<Lease> {
        let upstream = self.by_id(id)?;
        upstream.serves().then(|| Lease::take(upstream))
    }

    /// Whether it is their names alone that keep all that could serve from it.
    pub fn is_without_names(&self) -> bool {
        let members = self.upstreams.iter();
        let mut members = members
            .filter(|upstream| upstream.is_in_service())
            .peekable();
        members.peek().is_some()
            && members.all(|upstream| {
                let reason = upstream.vitals().state().reason;
                reason.is_some_and(OfflineReason::is_about_name)
            })
    }

    /// The average latency of those in service that were measured.
    pub fn average_latency(&self) -> Option<Duration> {
        let latencies = self
            .serving()
            .map(|upstream| upstream.vitals().latency_us());
        pick::average(latencies).map(Duration::from_micros)
    }

    /// Whether the target of the probe is believed.
    pub fn belief(&self) -> &Belief {
        &self.memory.belief
    }

    /// Which upstreams rest.
    pub fn rests(&self) -> &Rests {
        &self.memory.rests
    }

    /// How many sessions are remembered, and how many left their upstream, by reason.
    pub fn sessions(&self) -> (usize, [(MoveReason, u64); MoveReason::ALL.len()]) {
        let pins = self.memory.pins.lock();
        let moves = MoveReason::ALL.map(|reason| (reason, pins.moves_by(reason)));
        (pins.len(), moves)
    }

    /// What happened to its members and to the configuration.
    pub fn history(&self) -> &History {
        &self.memory.history
    }

    /// All members, in the order of the file.
    pub fn upstreams(&self) -> &[Arc<Upstream>] {
        &self.upstreams
    }

    /// The member of this name.
    pub fn find(&self, name: &str) -> Option<&Arc<Upstream>> {
        self.upstreams
            .iter()
            .find(|upstream| upstream.spec.name == name)
    }

    /// Whether there are members, and all of them are drained: at run time or by a weight of 0.
    pub fn is_drained(&self) -> bool {
        !self.upstreams.is_empty() && !self.upstreams.iter().any(|one| one.is_in_service())
    }

    /// How many members are not offline, drained or not.
    pub fn online_count(&self) -> usize {
        self.upstreams
            .iter()
            .filter(|upstream| !upstream.vitals().is_offline())
            .count()
    }

    /// The members that get requests now: with none of them, requests are answered with 503, trials left out.
    pub fn serving(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.upstreams.iter().filter(|upstream| upstream.serves())
    }
}

impl Tried {
    /// Remembers one more.
    pub fn insert(&mut self, id: UpstreamId) {
        if self.first.is_none() {
            self.first = Some(id);
        } else if self.rest.is_some() || !self.contains(id) {
            self.more.push(id);
        }
    }

    /// Whether it was tried.
    pub fn contains(&self, id: UpstreamId) -> bool {
        self.first == Some(id) || self.more.contains(&id)
    }

    fn ids(&self) -> impl Iterator<Item = UpstreamId> {
        self.first.into_iter().chain(self.more.iter().copied())
    }

    /// How many were tried.
    pub fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.more.len()
    }

    /// Whether none was tried.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }
}

impl Filter<'_> {
    fn passes(self, upstream: &Upstream) -> bool {
        let vitals = upstream.vitals();
        !self.tried.contains(upstream.id())
            && !self.rests(upstream)
            && self
                .tunnel_at
                .is_none_or(|at| vitals.may_be_asked_for_tunnel(at))
    }

    fn rests(self, upstream: &Upstream) -> bool {
        self.rests
            .is_some_and(|rests| rests.until(upstream.id()).is_some())
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

#[cfg(test)]
mod tests {
    use super::super::upstream::UpstreamProtocol;
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    use crate::balance::identity::Identity;
    use crate::balance::reason::{Depth, Doubt, NO_NAME};
    use crate::balance::state::{CheckVerdict, Thresholds};
    use crate::protocol::credentials::Credentials;
    use crate::protocol::target::Authority;

    const CLOSED: OfflineReason = OfflineReason::Closes;
    const ONCE: Thresholds = Thresholds { fall: 1, rise: 1 };
    const GOT_403: OfflineReason = OfflineReason::ProbeStatus(403);

    /// `a*2@10`: host a.test, weight 2, priority 10.
    fn specs(text: &str) -> Vec<UpstreamSpec> {
        text.split_whitespace()
            .map(|word| {
                let (word, priority) = word.split_once('@').unwrap_or((word, "100"));
                let (name, weight) = word.split_once('*').unwrap_or((word, "1"));
                UpstreamSpec {
                    name: name.into(),
                    protocol: UpstreamProtocol::Http,
                    authority: Authority::parse(format!("{name}.test:8080").as_bytes(), None)
                        .unwrap(),
                    credentials: None,
                    identity: Identity::default(),
                    weight: weight.parse().unwrap(),
                    priority: priority.parse().unwrap(),
                    group: None,
                }
            })
            .collect()
    }

    fn pool(text: &str) -> Pool {
        Pool::new(specs(text))
    }

    fn take_offline(pool: &Pool, names: &str, reason: OfflineReason) {
        for name in names.split_whitespace() {
            let vitals = pool.find(name).unwrap().vitals();
            let (began, _) = vitals.check_begins();
            vitals.check_ended(began, CheckVerdict::Fails(reason), ONCE, 0);
        }
    }

    fn suspect(pool: &Pool, names: &str) {
        for name in names.split_whitespace() {
            let vitals = pool.find(name).unwrap().vitals();
            vitals.doubt(vitals.epoch(), Doubt::Silent);
        }
    }

    fn bring_back(pool: &Pool, name: &str) {
        let vitals = pool.find(name).unwrap().vitals();
        let (began, _) = vitals.check_begins();
        vitals.check_ended(began, CheckVerdict::Works(Depth::Probe), ONCE, 0);
    }

    /// One exchange after the other, `expected.len()` in number; `-`: no pick.
    fn check(pool: &Pool, mode: BalanceMode, expected: &str) {
        let picks: String = (0..expected.len())
            .map(|_| match pool.pick(mode, None, &mut Tried::default()) {
                Some(lease) => lease.upstream().spec.name.clone(),
                None => "-".into(),
            })
            .collect();
        assert_eq!(picks, expected);
    }

    /// The attempts of one exchange in which all fail without a change of state.
    fn attempts(pool: &Pool, mode: BalanceMode) -> String {
        let mut tried = Tried::default();
        let mut order = String::new();
        while let Some(lease) = pool.pick(mode, None, &mut tried) {
            order.push_str(&lease.upstream().spec.name);
        }
        order
    }

    fn lose_connect(pool: &Pool, name: &str, now: Instant) {
        let vitals = pool.find(name).unwrap().vitals();
        assert!(!vitals.refused_tunnel(1, now));
        assert!(vitals.refused_tunnel(2, now));
    }

    /// The upstreams of as many tunnels, one after the other.
    fn tunnels(pool: &Pool, mode: BalanceMode, now: Instant, count: usize) -> String {
        let pick = |_| pool.pick_for_tunnel(mode, None, &mut Tried::default(), now);
        let name = |lease: Option<Lease>| lease.map(|lease| lease.upstream().spec.name.clone());
        (0..count).filter_map(|n| name(pick(n))).collect()
    }

    #[test]
    fn who_has_no_connect_gets_no_tunnels_and_its_share_of_everything_else() {
        let (pool, now) = (pool("a*2 b c"), Instant::now());
        lose_connect(&pool, "a", now);
        assert_eq!(tunnels(&pool, BalanceMode::RoundRobin, now, 4), "bcbc");
        check(&pool, BalanceMode::RoundRobin, "abacabac");
        assert_eq!(tunnels(&pool, BalanceMode::RoundRobin, now, 4), "bcbc");
    }

    #[test]
    fn who_has_no_connect_is_asked_for_tunnels_if_nobody_else_is_left() {
        let (pool, now) = (pool("a b"), Instant::now());
        for name in ["a", "b"] {
            lose_connect(&pool, name, now);
        }
        assert_eq!(tunnels(&pool, BalanceMode::RoundRobin, now, 4), "abab");
        bring_back(&pool, "b");
        pool.find("b").unwrap().vitals().opened_tunnel(now);
        let mut tried = Tried::default();
        let mut pick = || pool.pick_for_tunnel(BalanceMode::Priority, None, &mut tried, now);
        let names = [pick(), pick()].map(|lease| lease.unwrap().upstream().spec.name.clone());
        assert_eq!(names, ["b", "a"]);
    }

    #[test]
    fn one_tunnel_in_a_while_shows_whether_there_still_is_no_connect() {
        let (pool, now) = (pool("a b"), Instant::now());
        lose_connect(&pool, "a", now);
        let later = now + Duration::from_secs(30);
        assert_eq!(tunnels(&pool, BalanceMode::RoundRobin, later, 4), "abbb");
        pool.find("a").unwrap().vitals().opened_tunnel(later);
        assert_eq!(tunnels(&pool, BalanceMode::RoundRobin, later, 4), "abab");
    }

    /// Also if it becomes time to ask one of them again meanwhile.
    #[test]
    fn a_tunnel_tries_each_upstream_once_however_many_fail() {
        let (pool, now) = (pool("a b c d e f g h i j k l"), Instant::now());
        for name in ["k", "l"] {
            lose_connect(&pool, name, now);
        }
        let mut tried = Tried::default();
        let pick = |n| {
            let later = now + Duration::from_secs(30 * n);
            let lease = pool.pick_for_tunnel(BalanceMode::RoundRobin, None, &mut tried, later)?;
            Some(lease.upstream().spec.name.clone())
        };
        let mut order: Vec<_> = [0_u64; 11]
            .into_iter()
            .chain(1..9)
            .filter_map(pick)
            .collect();
        order.sort_unstable();
        assert_eq!(order.concat(), "abcdefghijkl");
    }

    #[test]
    fn a_pool_whose_names_all_lead_nowhere_is_known() {
        let pool = pool("a b c*0");
        let nameless = OfflineReason::CannotConnect(NO_NAME);
        assert!(!pool.is_without_names());
        take_offline(&pool, "a", nameless);
        take_offline(&pool, "b", CLOSED);
        assert!(!pool.is_without_names());
        take_offline(&pool, "b", nameless);
        assert!(pool.is_without_names());
    }

    #[test]
    fn a_pick_counts_before_it_returns() {
        let pool = pool("a b");
        let lease = pool
            .pick(BalanceMode::RoundRobin, None, &mut Tried::default())
            .unwrap();
        assert_eq!(lease.upstream().vitals().active(), 1);
    }

    #[test]
    fn best_sees_the_picks_before_it() {
        let pool = pool("a b c");
        let mut leases = Vec::new();
        for _ in 0..9 {
            leases.push(
                pool.pick(BalanceMode::Best, None, &mut Tried::default())
                    .unwrap(),
            );
        }
        for upstream in pool.upstreams() {
            assert_eq!(upstream.vitals().active(), 3, "{}", upstream.spec.name);
        }
    }

    #[test]
    fn best_prefers_the_fast_one_until_it_is_loaded() {
        let pool = pool("a b");
        pool.upstreams()[0]
            .vitals()
            .answered(Duration::from_millis(10), 200, || None);
        pool.upstreams()[1]
            .vitals()
            .answered(Duration::from_millis(65), 200, || None);
        check(&pool, BalanceMode::Best, "aaa");
        let first = pool
            .pick(BalanceMode::Best, None, &mut Tried::default())
            .unwrap();
        let second = pool
            .pick(BalanceMode::Best, None, &mut Tried::default())
            .unwrap();
        let third = pool
            .pick(BalanceMode::Best, None, &mut Tried::default())
            .unwrap();
        let names = [&first, &second, &third].map(|lease| lease.upstream().spec.name.as_str());
        assert_eq!(names, ["a", "a", "b"]);
    }

    #[test]
    fn an_exchange_tries_each_upstream_once() {
        let pool = pool("a b*3 c*2");
        for mode in [
            BalanceMode::RoundRobin,
            BalanceMode::Best,
            BalanceMode::Priority,
        ] {
            for _ in 0..20 {
                let mut order: Vec<_> = attempts(&pool, mode).chars().collect();
                order.sort_unstable();
                assert_eq!(order, ['a', 'b', 'c'], "{mode:?}");
            }
        }
    }

    #[test]
    fn priority_fails_over_downwards() {
        let pool = pool("low@300 first@1 second@2");
        assert_eq!(attempts(&pool, BalanceMode::Priority), "firstsecondlow");
    }

    #[test]
    fn an_offline_upstream_gets_nothing_until_it_is_back() {
        let pool = pool("a b");
        take_offline(&pool, "a", CLOSED);
        check(&pool, BalanceMode::RoundRobin, "bbb");
        bring_back(&pool, "a");
        check(&pool, BalanceMode::RoundRobin, "abab");
    }

    #[test]
    fn with_nothing_in_service_nothing_is_picked() {
        let pool = pool("a b");
        take_offline(&pool, "a b", CLOSED);
        check(&pool, BalanceMode::RoundRobin, "-");
        assert_eq!(pool.serving().count(), 0);
        check(&Pool::new(Vec::new()), BalanceMode::Best, "-");
    }

    #[test]
    fn suspects_serve_while_nobody_is_online_and_are_asked_last() {
        let pool = pool("a b c");
        suspect(&pool, "a");
        check(&pool, BalanceMode::RoundRobin, "bcbc");
        assert_eq!(attempts(&pool, BalanceMode::RoundRobin).pop(), Some('a'));
        suspect(&pool, "b c");
        check(&pool, BalanceMode::RoundRobin, "cab");
        assert_eq!(pool.serving().count(), 3);
    }

    #[test]
    fn a_drained_upstream_is_never_picked() {
        let pool = pool("a b*0 c");
        pool.find("c").unwrap().vitals().drain();
        check(&pool, BalanceMode::RoundRobin, "aaa");
        check(&pool, BalanceMode::Best, "aaa");
        check(&pool, BalanceMode::Priority, "aaa");
        suspect(&pool, "a b c");
        assert_eq!(pool.serving().count(), 1);
        check(&pool, BalanceMode::RoundRobin, "aaa");
        pool.find("c").unwrap().vitals().enable();
        check(&pool, BalanceMode::RoundRobin, "caca");
    }

    fn trial(pool: &Pool, now: Instant) -> Option<Lease> {
        pool.pick_trial(&mut Tried::default(), now)
    }

    fn name(lease: Option<&Lease>) -> &str {
        lease.map_or("-", |lease| &lease.upstream().spec.name)
    }

    #[test]
    fn trials_go_to_the_least_bad_reason_first_and_one_a_second_to_each() {
        let (pool, now) = (pool("a b c d*0"), Instant::now());
        take_offline(&pool, "a", OfflineReason::Silent);
        take_offline(&pool, "b", CLOSED);
        take_offline(&pool, "c d", GOT_403);
        for expected in ["c", "b", "a", "-"] {
            assert_eq!(name(trial(&pool, now).as_ref()), expected);
        }
        let later = now + Duration::from_secs(1);
        assert_eq!(name(trial(&pool, later).as_ref()), "c");
    }

    #[test]
    fn there_is_one_trial_at_a_time_for_each_upstream() {
        let (pool, now) = (pool("a"), Instant::now());
        take_offline(&pool, "a", CLOSED);
        let first = trial(&pool, now);
        let later = now + Duration::from_secs(5);
        assert!(trial(&pool, later).is_none());
        drop(first);
        assert!(trial(&pool, later).is_some());
    }

    #[test]
    fn there_is_no_trial_while_somebody_is_in_service() {
        let (pool, now) = (pool("a b c*0"), Instant::now());
        take_offline(&pool, "a", CLOSED);
        suspect(&pool, "b");
        assert!(trial(&pool, now).is_none());
        take_offline(&pool, "b", CLOSED);
        assert!(trial(&pool, now).is_some(), "c serves nobody");
    }

    #[test]
    fn an_exchange_does_not_try_the_same_trial_twice() {
        let (pool, now) = (pool("a"), Instant::now());
        take_offline(&pool, "a", CLOSED);
        let mut tried = Tried::default();
        assert!(pool.pick_trial(&mut tried, now).is_some());
        let later = now + Duration::from_secs(5);
        assert!(pool.pick_trial(&mut tried, later).is_none());
    }

    #[test]
    fn an_exchange_goes_through_a_large_pool_once_the_best_first() {
        let names: Vec<_> = (0..40).map(|n| format!("u{n}@{}", 40 - n)).collect();
        let pool = pool(&names.join(" "));
        suspect(&pool, "u20");
        let mut tried = Tried::default();
        let mut order = Vec::new();
        while let Some(lease) = pool.pick(BalanceMode::Priority, None, &mut tried) {
            order.push(lease.upstream().spec.priority);
        }
        let suspect = order.pop();
        assert_eq!(suspect, Some(20));
        let expected: Vec<_> = (1..=40).filter(|priority| *priority != 20).collect();
        assert_eq!(order, expected);
    }

    #[test]
    fn a_reload_keeps_state_load_and_drain_of_upstreams_that_stay() {
        let before = pool("a b c");
        take_offline(&before, "a", CLOSED);
        before.find("b").unwrap().vitals().drain();
        let lease = before
            .pick(BalanceMode::RoundRobin, None, &mut Tried::default())
            .unwrap();
        let after = before.succeeded_by(specs("d c*5 b@1 a"));
        assert!(after.find("a").unwrap().vitals().is_offline());
        assert!(after.find("b").unwrap().vitals().is_drained());
        assert_eq!(after.find("c").unwrap().vitals().active(), 1);
        assert!(!after.find("d").unwrap().vitals().is_offline());
        drop(lease);
        assert_eq!(after.find("c").unwrap().vitals().active(), 0);
    }

    #[test]
    fn what_was_tried_is_known_after_a_reload() {
        let before = pool("a b");
        let mut tried = Tried::default();
        tried.insert(before.find("a").unwrap().id());
        let after = before.succeeded_by(specs("new b a"));
        for _ in 0..6 {
            let lease = after
                .pick(BalanceMode::RoundRobin, None, &mut tried.clone())
                .unwrap();
            assert_ne!(lease.upstream().spec.name, "a");
        }
    }

    #[test]
    fn new_credentials_are_checked_at_once() {
        let before = pool("a b");
        for upstream in before.upstreams() {
            upstream.vitals().take_wanted_check();
        }
        let mut specs = specs("a b");
        specs[0].credentials = Some(Credentials::basic("bob", "secret"));
        let after = before.succeeded_by(specs);
        assert!(after.find("a").unwrap().vitals().take_wanted_check());
        assert!(!after.find("b").unwrap().vitals().take_wanted_check());
    }

    #[test]
    fn upstreams_removed_and_added_again_begin_anew() {
        let before = pool("a b");
        take_offline(&before, "a", CLOSED);
        let after = before.succeeded_by(specs("b")).succeeded_by(specs("a b"));
        assert!(!after.find("a").unwrap().vitals().is_offline());
    }

    #[test]
    fn threads_that_pick_at_the_same_time_share_exactly() {
        let pool = pool("a b*2 c*3");
        let picks = |count: usize| {
            let mut shares = [0_usize; 3];
            for _ in 0..count {
                let lease = pool
                    .pick(BalanceMode::RoundRobin, None, &mut Tried::default())
                    .unwrap();
                let place = pool
                    .upstreams()
                    .iter()
                    .position(|u| u.id() == lease.upstream().id());
                shares[place.unwrap()] += 1;
            }
            shares
        };
        let shares = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| picks(150))).collect();
            threads.into_iter().fold([0; 3], |sum, thread| {
                let shares = thread.join().unwrap();
                [sum[0] + shares[0], sum[1] + shares[1], sum[2] + shares[2]]
            })
        });
        assert_eq!(shares, [100, 200, 300]);
        assert!(
            pool.upstreams()
                .iter()
                .all(|upstream| upstream.vitals().active() == 0)
        );
    }

    #[test]
    fn an_upstream_that_flaps_while_threads_pick_leaves_no_lease_behind() {
        let pool = pool("a b");
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let lease = pool
                            .pick(BalanceMode::Best, None, &mut Tried::default())
                            .unwrap();
                        assert!(lease.upstream().vitals().active() != 0);
                    }
                });
            }
            for _ in 0..500 {
                take_offline(&pool, "a", CLOSED);
                bring_back(&pool, "a");
            }
            done.store(true, Ordering::Relaxed);
        });
        let vitals = pool.find("a").unwrap().vitals();
        assert!(!vitals.is_offline() && vitals.active() == 0);
        assert_eq!(vitals.counters.went_offline.load(Ordering::Relaxed), 500);
        assert_eq!(vitals.counters.came_online.load(Ordering::Relaxed), 500);
    }
}
