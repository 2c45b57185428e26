//! All upstreams of one configuration.
//!
//! A pool never changes: a reload makes a new one, which takes over the vitals of the upstreams
//! that stay. So nobody holds a place in a list that has changed meanwhile, and a lease taken from
//! the old pool ends on the counter that the new one reads.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::pick::{BalanceMode, Candidate, Chooser, Role, Turn};
use super::state::Standing;
use super::upstream::{Lease, Upstream, UpstreamSpec};
use super::vitals::{UpstreamId, Vitals};

/// An immutable list of upstreams, and the memory of what was picked.
#[derive(Debug)]
pub struct Pool {
    upstreams: Vec<Arc<Upstream>>,
    chooser: Mutex<Chooser>,
}

/// The upstreams an exchange has tried. Mostly there is but one, which asks for no memory.
#[derive(Clone, Default, Debug)]
pub struct Tried {
    first: Option<UpstreamId>,
    more: Vec<UpstreamId>,
}

/// What a pool can do for a new request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Service {
    /// This many upstreams are online and in service.
    Online(usize),
    /// None is; this many answer probes, though not as wanted, and are used for want of better.
    LastResort(usize),
    /// Nobody can be picked.
    Nobody,
}

impl Pool {
    /// A pool of which nothing is known yet: all upstreams are online.
    pub fn new(specs: Vec<UpstreamSpec>) -> Self {
        Self::with(specs, |_| Arc::new(Vitals::new()))
    }

    /// The pool of a new configuration. Upstreams with an address known here keep their state and
    /// statistics; one whose credentials have changed is probed at once.
    #[must_use]
    pub fn succeeded_by(&self, specs: Vec<UpstreamSpec>) -> Self {
        let known: HashMap<_, _> = self
            .upstreams
            .iter()
            .map(|upstream| (&upstream.spec.authority, upstream))
            .collect();
        Self::with(specs, |spec| match known.get(&spec.authority) {
            Some(before) => {
                if before.spec.credentials != spec.credentials {
                    before.vitals().suspect();
                }
                Arc::clone(before.vitals())
            }
            None => Arc::new(Vitals::new()),
        })
    }

    fn with(specs: Vec<UpstreamSpec>, vitals: impl Fn(&UpstreamSpec) -> Arc<Vitals>) -> Self {
        let upstreams: Vec<_> = specs
            .into_iter()
            .map(|spec| {
                let vitals = vitals(&spec);
                Arc::new(Upstream::new(spec, vitals))
            })
            .collect();
        let chooser = Mutex::new(Chooser::new(upstreams.len()));
        Self { upstreams, chooser }
    }

    /// Picks an upstream for an attempt. None: nobody is online and in service, nor usable as a
    /// last resort, but those tried already.
    ///
    /// It is counted as active before the next pick can look.
    pub fn pick(&self, mode: BalanceMode, tried: &Tried) -> Option<Lease> {
        let turn = if tried.is_empty() {
            Turn::First
        } else {
            Turn::Again
        };
        let mut chooser = self.chooser.lock();
        let candidates = self
            .upstreams
            .iter()
            .map(|upstream| candidate(upstream, tried));
        let place = chooser.choose(mode, turn, candidates)?;
        self.upstreams.get(place).map(Lease::take)
    }

    /// A lease of this very upstream, if it is online and takes requests.
    pub fn lease(&self, id: UpstreamId) -> Option<Lease> {
        let upstream = self.upstreams.iter().find(|upstream| upstream.id() == id)?;
        (upstream.is_in_service() && upstream.vitals().is_online()).then(|| Lease::take(upstream))
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

    /// How many members are online, in service or not.
    pub fn online_count(&self) -> usize {
        self.upstreams
            .iter()
            .filter(|upstream| upstream.vitals().is_online())
            .count()
    }

    /// Whether requests can be served, and by what kind of upstream. A member that is drained can
    /// serve none, online or not.
    pub fn service(&self) -> Service {
        let (mut online, mut last_resort) = (0, 0);
        for upstream in self
            .upstreams
            .iter()
            .filter(|upstream| upstream.is_in_service())
        {
            match upstream.standing() {
                Standing::Online => online += 1,
                Standing::LastResort => last_resort += 1,
                Standing::Offline => {}
            }
        }
        match (online, last_resort) {
            (0, 0) => Service::Nobody,
            (0, _) => Service::LastResort(last_resort),
            (_, _) => Service::Online(online),
        }
    }

    /// Whether, with nothing online, upstreams are used that failed their probe.
    pub fn uses_last_resort(&self) -> bool {
        match self.service() {
            Service::LastResort(_) => true,
            Service::Online(_) | Service::Nobody => false,
        }
    }
}

impl Tried {
    /// Remembers one more.
    pub fn insert(&mut self, id: UpstreamId) {
        if self.first.is_none() {
            self.first = Some(id);
        } else if !self.contains(id) {
            self.more.push(id);
        }
    }

    /// Whether it was tried.
    pub fn contains(&self, id: UpstreamId) -> bool {
        self.first == Some(id) || self.more.contains(&id)
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
    let vitals = upstream.vitals();
    let latency = vitals.latency().unwrap_or_default();
    Candidate {
        role: role(upstream, tried),
        weight: upstream.spec.weight,
        priority: upstream.spec.priority,
        latency_us: u64::try_from(latency.as_micros()).unwrap_or(u64::MAX),
        active: vitals.active(),
    }
}

fn role(upstream: &Upstream, tried: &Tried) -> Role {
    if !upstream.is_in_service() {
        return Role::Out;
    }
    let was_tried = tried.contains(upstream.id());
    match upstream.standing() {
        Standing::Online if was_tried => Role::Tried,
        Standing::Online => Role::Eligible,
        Standing::LastResort if was_tried => Role::Out,
        Standing::LastResort => Role::LastResort,
        Standing::Offline => Role::Out,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use crate::balance::reason::OfflineReason;
    use crate::balance::state::Transition;
    use crate::protocol::credentials::Credentials;
    use crate::protocol::target::Authority;

    const CLOSED: OfflineReason = OfflineReason::Closed;
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
            vitals.probe_failed(vitals.epoch(), reason, 1, 0);
        }
    }

    fn bring_back(pool: &Pool, name: &str) {
        let vitals = pool.find(name).unwrap().vitals();
        vitals.probe_succeeded(vitals.epoch(), 1, 0);
    }

    /// One exchange after the other, `expected.len()` in number; `-`: no pick.
    fn check(pool: &Pool, mode: BalanceMode, expected: &str) {
        let picks: String = (0..expected.len())
            .map(|_| match pool.pick(mode, &Tried::default()) {
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
        while let Some(lease) = pool.pick(mode, &tried) {
            tried.insert(lease.upstream().id());
            order.push_str(&lease.upstream().spec.name);
        }
        order
    }

    #[test]
    fn a_pick_counts_before_it_returns() {
        let pool = pool("a b");
        let lease = pool
            .pick(BalanceMode::RoundRobin, &Tried::default())
            .unwrap();
        assert_eq!(lease.upstream().vitals().active(), 1);
    }

    #[test]
    fn best_sees_the_picks_before_it() {
        let pool = pool("a b c");
        let mut leases = Vec::new();
        for _ in 0..9 {
            leases.push(pool.pick(BalanceMode::Best, &Tried::default()).unwrap());
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
            .answered(Duration::from_millis(10), 200);
        pool.upstreams()[1]
            .vitals()
            .answered(Duration::from_millis(65), 200);
        check(&pool, BalanceMode::Best, "aaa");
        let first = pool.pick(BalanceMode::Best, &Tried::default()).unwrap();
        let second = pool.pick(BalanceMode::Best, &Tried::default()).unwrap();
        let third = pool.pick(BalanceMode::Best, &Tried::default()).unwrap();
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
    fn with_nothing_online_nothing_is_picked() {
        let pool = pool("a b");
        take_offline(&pool, "a b", CLOSED);
        check(&pool, BalanceMode::RoundRobin, "-");
        assert_eq!(pool.service(), Service::Nobody);
        assert!(!pool.uses_last_resort());
        check(&Pool::new(Vec::new()), BalanceMode::Best, "-");
    }

    #[test]
    fn the_last_resort_is_those_whose_probe_got_another_status() {
        let pool = pool("a b c");
        take_offline(&pool, "a c", GOT_403);
        assert_eq!(pool.service(), Service::Online(1));
        check(&pool, BalanceMode::RoundRobin, "bb");
        take_offline(&pool, "b", CLOSED);
        assert_eq!(pool.service(), Service::LastResort(2));
        assert!(pool.uses_last_resort());
        check(&pool, BalanceMode::RoundRobin, "acac");
        bring_back(&pool, "b");
        check(&pool, BalanceMode::RoundRobin, "bb");
        assert!(!pool.uses_last_resort());
    }

    #[test]
    fn the_last_resort_waits_while_an_upstream_tried_is_still_online() {
        let pool = pool("a b");
        take_offline(&pool, "b", GOT_403);
        assert_eq!(attempts(&pool, BalanceMode::RoundRobin), "a");
    }

    #[test]
    fn a_last_resort_that_fails_an_attempt_serves_no_longer_and_is_probed() {
        let pool = pool("a b");
        take_offline(&pool, "a b", GOT_403);
        let lease = pool
            .pick(BalanceMode::RoundRobin, &Tried::default())
            .unwrap();
        assert_eq!(
            lease.failed(CLOSED, Duration::ZERO, 1, 0),
            Transition::StillOffline
        );
        check(&pool, BalanceMode::RoundRobin, "bbb");
        assert!(pool.find("a").unwrap().vitals().take_suspect());
        assert!(!pool.find("b").unwrap().vitals().take_suspect());
    }

    #[test]
    fn a_drained_upstream_is_never_picked() {
        let pool = pool("a b*0 c");
        pool.find("c").unwrap().vitals().drain();
        check(&pool, BalanceMode::RoundRobin, "aaa");
        check(&pool, BalanceMode::Best, "aaa");
        check(&pool, BalanceMode::Priority, "aaa");
        take_offline(&pool, "a b c", GOT_403);
        assert_eq!(pool.service(), Service::LastResort(1));
        check(&pool, BalanceMode::RoundRobin, "aaa");
        pool.find("c").unwrap().vitals().enable();
        check(&pool, BalanceMode::RoundRobin, "acac");
    }

    #[test]
    fn an_online_upstream_that_is_drained_does_not_stop_the_last_resort() {
        let pool = pool("a b*0");
        take_offline(&pool, "a", GOT_403);
        assert_eq!(
            (pool.online_count(), pool.service()),
            (1, Service::LastResort(1))
        );
        check(&pool, BalanceMode::RoundRobin, "aa");
    }

    #[test]
    fn a_reload_keeps_state_load_and_drain_of_upstreams_that_stay() {
        let before = pool("a b c");
        take_offline(&before, "a", CLOSED);
        before.find("b").unwrap().vitals().drain();
        let lease = before
            .pick(BalanceMode::RoundRobin, &Tried::default())
            .unwrap();
        let after = before.succeeded_by(specs("d c*5 b@1 a"));
        assert!(!after.find("a").unwrap().vitals().is_online());
        assert!(after.find("b").unwrap().vitals().is_drained());
        assert_eq!(after.find("c").unwrap().vitals().active(), 1);
        assert!(after.find("d").unwrap().vitals().is_online());
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
            let lease = after.pick(BalanceMode::RoundRobin, &tried).unwrap();
            assert_ne!(lease.upstream().spec.name, "a");
        }
    }

    #[test]
    fn new_credentials_are_probed_at_once() {
        let before = pool("a b");
        let mut specs = specs("a b");
        specs[0].credentials = Some(Credentials::basic("bob", "secret"));
        let after = before.succeeded_by(specs);
        assert!(after.find("a").unwrap().vitals().take_suspect());
        assert!(!after.find("b").unwrap().vitals().take_suspect());
    }

    #[test]
    fn upstreams_removed_and_added_again_begin_anew() {
        let before = pool("a b");
        take_offline(&before, "a", CLOSED);
        let after = before.succeeded_by(specs("b")).succeeded_by(specs("a b"));
        assert!(after.find("a").unwrap().vitals().is_online());
    }

    #[test]
    fn threads_that_pick_at_the_same_time_share_exactly() {
        let pool = pool("a b*2 c*3");
        let picks = |count: usize| {
            let mut shares = [0_usize; 3];
            for _ in 0..count {
                let lease = pool
                    .pick(BalanceMode::RoundRobin, &Tried::default())
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
                        let lease = pool.pick(BalanceMode::Best, &Tried::default()).unwrap();
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
        assert!(vitals.is_online() && vitals.active() == 0);
        assert_eq!(vitals.counters.went_offline.load(Ordering::Relaxed), 500);
        assert_eq!(vitals.counters.came_online.load(Ordering::Relaxed), 500);
    }
}
