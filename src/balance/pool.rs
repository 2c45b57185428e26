//! All upstreams of one configuration.
//!
//! A pool never changes: a reload makes a new one, which takes over the vitals of the upstreams
//! that stay. So no thread holds a place in a list that has changed meanwhile, and a lease taken from
//! the old pool ends on the counter that the new one reads.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::belief::Belief;
use super::history::History;
use super::pick::{self, Account, BalanceMode, Candidate, Chooser};
use super::reason::OfflineReason;
use super::upstream::{Lease, Upstream, UpstreamSpec};
use super::vitals::{UpstreamId, Vitals};

/// An exchange that has tried so many upstreams gets a list of the others, instead of a choice among all
/// each time: it shall cost no more than a few looks at the pool, however many of it refuse.
const TRIED_ONE_BY_ONE: usize = 8;

/// An immutable list of upstreams, and the memory of what was picked.
#[derive(Debug)]
pub struct Pool {
    upstreams: Vec<Arc<Upstream>>,
    chooser: Mutex<Chooser>,
    /// For tunnels, while some members have no CONNECT: they are another set that shares.
    tunnel_chooser: Mutex<Chooser>,
    belief: Arc<Belief>,
    history: Arc<History>,
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
        Self::with(specs, Arc::default(), Arc::default(), |_| Arc::default())
    }

    /// The pool of a new configuration. Upstreams with an address known here keep their state and
    /// statistics; one whose credentials have changed is checked at once.
    #[must_use]
    pub fn succeeded_by(&self, specs: Vec<UpstreamSpec>) -> Self {
        let known: HashMap<_, _> = self
            .upstreams
            .iter()
            .map(|upstream| (&upstream.spec.authority, upstream))
            .collect();
        let (belief, history) = (Arc::clone(&self.belief), Arc::clone(&self.history));
        Self::with(specs, belief, history, |spec| {
            match known.get(&spec.authority) {
                Some(before) => {
                    if before.spec.credentials != spec.credentials {
                        before.vitals().want_check();
                    }
                    Arc::clone(before.vitals())
                }
                None => Arc::default(),
            }
        })
    }

    fn with(
        specs: Vec<UpstreamSpec>,
        belief: Arc<Belief>,
        history: Arc<History>,
        vitals: impl Fn(&UpstreamSpec) -> Arc<Vitals>,
    ) -> Self {
        let upstreams: Vec<_> = specs
            .into_iter()
            .map(|spec| {
                let vitals = vitals(&spec);
                Arc::new(Upstream::new(spec, vitals, Arc::clone(&history)))
            })
            .collect();
        let [chooser, tunnel_chooser] =
            [upstreams.len(); 2].map(|members| Mutex::new(Chooser::new(members)));
        Self {
            upstreams,
            chooser,
            tunnel_chooser,
            belief,
            history,
        }
    }

    /// Picks an upstream in service for an attempt, and notes it in `tried`. None: there is none but those
    /// tried already.
    ///
    /// It is counted as active before the next pick can look.
    pub fn pick(&self, mode: BalanceMode, tried: &mut Tried) -> Option<Lease> {
        if tried.len() >= TRIED_ONE_BY_ONE {
            return self.pick_from_rest(mode, tried);
        }
        self.choose(&self.chooser, mode, tried, |_| true)
    }

    /// The same for a tunnel: who has no CONNECT is picked if nobody else is left, or if it is time to ask it
    /// again; or after so many others that there is no choice any more.
    pub fn pick_for_tunnel(
        &self,
        mode: BalanceMode,
        tried: &mut Tried,
        now: Instant,
    ) -> Option<Lease> {
        let mut members = self.upstreams.iter();
        let has_choice = tried.len() < TRIED_ONE_BY_ONE;
        if !has_choice || !members.any(|upstream| upstream.vitals().lacks_connect()) {
            return self.pick(mode, tried);
        }
        let may_be_asked = |upstream: &Upstream| upstream.vitals().may_be_asked_for_tunnel(now);
        let lease = self.choose(&self.tunnel_chooser, mode, tried, may_be_asked);
        let lease = lease.or_else(|| self.pick(mode, tried))?;
        lease.upstream().vitals().asked_for_tunnel(now);
        Some(lease)
    }

    fn choose(
        &self,
        chooser: &Mutex<Chooser>,
        mode: BalanceMode,
        tried: &mut Tried,
        may_be_asked: impl Fn(&Upstream) -> bool,
    ) -> Option<Lease> {
        let account = if tried.is_empty() {
            Account::First
        } else {
            Account::Again
        };
        let lease = {
            let mut chooser = chooser.lock();
            let candidates = self.upstreams.iter().map(|upstream| {
                if may_be_asked(upstream) {
                    candidate(upstream, tried)
                } else {
                    Candidate::OUT
                }
            });
            let place = chooser.choose(mode, account, candidates)?;
            self.upstreams.get(place).map(Lease::take)?
        };
        tried.insert(lease.upstream().id());
        Some(lease)
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
        // Trials of two requests at once must not go to the same one.
        let _chooser = self.chooser.lock();
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
        let upstream = self.upstreams.iter().find(|upstream| upstream.id() == id)?;
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
        &self.belief
    }

    /// What happened to its members and to the configuration.
    pub fn history(&self) -> &History {
        &self.history
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

fn candidate(upstream: &Upstream, tried: &Tried) -> Candidate {
    if !upstream.is_in_service() || tried.contains(upstream.id()) {
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
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

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
                    authority: Authority::parse(format!("{name}.test:8080").as_bytes(), None)
                        .unwrap(),
                    credentials: None,
                    weight: weight.parse().unwrap(),
                    priority: priority.parse().unwrap(),
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
            .map(|_| match pool.pick(mode, &mut Tried::default()) {
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
        while let Some(lease) = pool.pick(mode, &mut tried) {
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
        let pick = |_| pool.pick_for_tunnel(mode, &mut Tried::default(), now);
        let name = |lease: Option<Lease>| lease.map(|lease| lease.upstream().spec.name.clone());
        (0..count).filter_map(|n| name(pick(n))).collect()
    }

    #[test]
    fn who_has_no_connect_gets_no_tunnels_and_its_share_of_everything_else() {
        let (pool, now) = (pool("a*2 b c"), Instant::now());
        lose_connect(&pool, "a", now);
        assert_eq!(tunnels(&pool, BalanceMode::RoundRobin, now, 4), "bcbc");
        check(&pool, BalanceMode::RoundRobin, "abcaabca");
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
        let mut pick = || pool.pick_for_tunnel(BalanceMode::Priority, &mut tried, now);
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
            let lease = pool.pick_for_tunnel(BalanceMode::RoundRobin, &mut tried, later)?;
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
            .pick(BalanceMode::RoundRobin, &mut Tried::default())
            .unwrap();
        assert_eq!(lease.upstream().vitals().active(), 1);
    }

    #[test]
    fn best_sees_the_picks_before_it() {
        let pool = pool("a b c");
        let mut leases = Vec::new();
        for _ in 0..9 {
            leases.push(pool.pick(BalanceMode::Best, &mut Tried::default()).unwrap());
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
        let first = pool.pick(BalanceMode::Best, &mut Tried::default()).unwrap();
        let second = pool.pick(BalanceMode::Best, &mut Tried::default()).unwrap();
        let third = pool.pick(BalanceMode::Best, &mut Tried::default()).unwrap();
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
        check(&pool, BalanceMode::RoundRobin, "acac");
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
        while let Some(lease) = pool.pick(BalanceMode::Priority, &mut tried) {
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
            .pick(BalanceMode::RoundRobin, &mut Tried::default())
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
                .pick(BalanceMode::RoundRobin, &mut tried.clone())
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
                    .pick(BalanceMode::RoundRobin, &mut Tried::default())
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
                        let lease = pool.pick(BalanceMode::Best, &mut Tried::default()).unwrap();
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
