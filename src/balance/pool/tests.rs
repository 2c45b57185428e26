//! What a pool picks, and what a reload leaves of it.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::balance::pick::BalanceMode;
use crate::balance::reason::{Depth, Doubt, NO_NAME};
use crate::balance::rests::Rest;
use crate::balance::state::{CheckVerdict, Thresholds};
use crate::balance::sticky::SessionKey;
use crate::balance::tried::Tried;
use crate::balance::upstream::UpstreamProtocol;
use crate::balance::wish::{Session, Wish};
use crate::protocol::credentials::Credentials;
use crate::protocol::target::Authority;

const CLOSED: OfflineReason = OfflineReason::Closes;
const ONCE: Thresholds = Thresholds { fall: 1, rise: 1 };
const GOT_403: OfflineReason = OfflineReason::ProbeStatus(403);

/// `a*2^3@10`: host a.test, weight 2, at most 3 requests at a time, priority 10.
fn specs(text: &str) -> Vec<UpstreamSpec> {
    text.split_whitespace()
        .map(|word| {
            let (word, priority) = word.split_once('@').unwrap_or((word, "100"));
            let (word, most) = word.split_once('^').unwrap_or((word, "0"));
            let (name, weight) = word.split_once('*').unwrap_or((word, "1"));
            let authority = Authority::parse(format!("{name}.test:8080").as_bytes(), None);
            UpstreamSpec {
                name: name.into(),
                weight: weight.parse().unwrap(),
                priority: priority.parse().unwrap(),
                max_active: NonZeroU32::new(most.parse().unwrap()),
                ..UpstreamSpec::new(UpstreamProtocol::Http, authority.unwrap())
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

#[test]
fn however_many_socks_upstreams_are_left_out_the_others_take_turns() {
    let mut specs = specs("s1 s2 s3 s4 s5 s6 s7 s8 s9 a b c");
    for spec in &mut specs[..9] {
        spec.protocol = UpstreamProtocol::Socks5;
    }
    let pool = Pool::new(specs);
    let choosy = || {
        let mut tried = Tried::default();
        tried.leave_out_socks();
        tried
    };
    let pick = |tried: &mut Tried| {
        let lease = pool.pick(BalanceMode::RoundRobin, None, tried);
        name(lease.as_ref()).to_owned()
    };
    let picked: String = (0..6).map(|_| pick(&mut choosy())).collect();
    assert_eq!(picked, "abcabc");
    let mut tried = choosy();
    let picked: String = (0..3).map(|_| pick(&mut tried)).collect();
    assert_eq!(picked, "abc");
    assert_eq!(pick(&mut tried), name(None));
    assert_eq!(tried.len(), 3);
    take_offline(&pool, "s1 s2 s3 s4 s5 s6 s7 s8 s9 a b c", CLOSED);
    let trial = pool.pick_trial(&mut choosy(), Instant::now());
    assert_eq!(name(trial.as_ref()), "a");
}

#[test]
fn a_tunnel_goes_to_one_that_rests_rather_than_to_one_that_has_no_connect() {
    let (pool, now) = (pool("a b c"), Instant::now());
    lose_connect(&pool, "a", now);
    for (name, secs) in [("b", 20), ("c", 10)] {
        let rest = Rest {
            upstream: pool.find(name).unwrap().id(),
            host: None,
            status: 429,
            until: now + Duration::from_secs(secs),
            client: SessionKey::new(b"one"),
        };
        pool.rests().begin(rest, now);
    }
    let wish = Wish {
        session: None,
        host: Some("o.test"),
        only_rested: false,
        now,
    };
    let mode = BalanceMode::RoundRobin;
    let lease = pool.pick_for_tunnel(mode, Some(&wish), &mut Tried::default(), now);
    assert_eq!(name(lease.as_ref()), "c");
    assert_eq!(pool.rests().overridden(), 1);
    let lease = pool.pick(mode, Some(&wish), &mut Tried::default());
    assert_eq!(name(lease.as_ref()), "a");
}

/// As many picks as there are, at the same time; `-`: no pick.
fn held(pool: &Pool, mode: BalanceMode, expected: &str) -> Vec<Lease> {
    let picks: Vec<_> = (0..expected.len())
        .map(|_| pool.pick(mode, None, &mut Tried::default()))
        .collect();
    let names: String = picks.iter().map(|lease| name(lease.as_ref())).collect();
    assert_eq!(names, expected);
    picks.into_iter().flatten().collect()
}

#[test]
fn one_that_has_as_many_requests_as_it_may_is_left_out_until_one_is_over() {
    for (mode, text, expected) in [
        (BalanceMode::RoundRobin, "a^2 b", "ababbb"),
        (BalanceMode::Best, "a^2 b", "ababbb"),
        (BalanceMode::Priority, "a^2@1 b@2", "aabb"),
        (BalanceMode::RoundRobin, "a^1 b^2", "abb--"),
    ] {
        let pool = pool(text);
        let mut leases = held(&pool, mode, expected);
        leases.retain(|lease| lease.upstream().spec.name != "a");
        assert_eq!(held(&pool, mode, "a").len(), 1);
    }
}

#[test]
fn what_has_no_room_is_waited_for_and_what_is_offline_or_tried_is_not() {
    let pool = pool("a^1 b^1 c*0^1");
    let _leases = held(&pool, BalanceMode::RoundRobin, "ab-");
    let waits = |tried: &[&str]| {
        let mut all = Tried::default();
        for name in tried {
            all.insert(pool.find(name).unwrap().id());
        }
        pool.full_for(None, &all).is_some()
    };
    assert!(waits(&[]) && waits(&["a"]) && !waits(&["a", "b"]));
    take_offline(&pool, "a", CLOSED);
    assert!(waits(&[]) && !waits(&["b"]));
    take_offline(&pool, "b", CLOSED);
    assert!(!waits(&[]));
    assert!(
        Pool::new(specs("a"))
            .full_for(None, &Tried::default())
            .is_none()
    );
}

#[test]
fn room_at_a_socks_upstream_that_is_left_out_is_not_waited_for() {
    let mut specs = specs("s^1 a^1");
    specs[0].protocol = UpstreamProtocol::Socks5;
    let pool = Pool::new(specs);
    let mut leases = held(&pool, BalanceMode::RoundRobin, "sa-");
    let mut choosy = Tried::default();
    choosy.leave_out_socks();
    let wants = pool.full_for(None, &choosy).unwrap();
    let in_line = pool.line().enter(wants, || {});
    drop(leases.remove(0));
    assert!(in_line.take_room().is_none());
    drop(leases);
    assert!(in_line.take_room().is_some());
    drop(in_line);
    choosy.insert(pool.find("a").unwrap().id());
    let _leases = held(&pool, BalanceMode::RoundRobin, "sa-");
    assert!(pool.full_for(None, &choosy).is_none());
}

#[test]
fn room_that_is_left_is_kept_for_who_waits_also_after_a_reload() {
    let before = pool("a^1");
    let lease = before.pick(BalanceMode::Best, None, &mut Tried::default());
    let after = before.succeeded_by(specs("a*2^1 b^1"));
    let _b = held(&after, BalanceMode::Best, "b-");
    let wants = after.full_for(None, &Tried::default()).unwrap();
    let in_line = after.line().enter(wants, || {});
    drop(lease);
    held(&before, BalanceMode::Best, "-");
    held(&after, BalanceMode::Best, "-");
    assert!(in_line.take_room().is_some());
    held(&after, BalanceMode::Best, "a");
    drop(in_line);
    let unlimited = after.succeeded_by(specs("a"));
    held(&unlimited, BalanceMode::Best, "aaaa");
    assert_eq!(unlimited.find("a").unwrap().vitals().active(), 0);
}

#[test]
fn a_session_waits_for_its_own_upstream() {
    let pool = pool("a^1 b^1 c^1");
    let now = Instant::now();
    let wish = Wish {
        session: Some(Session {
            key: SessionKey::new(b"ann"),
            ttl: Duration::from_secs(600),
            most: 10,
        }),
        host: None,
        only_rested: false,
        now,
    };
    let pick = || pool.pick(BalanceMode::RoundRobin, Some(&wish), &mut Tried::default());
    let own = pick().unwrap();
    assert!(pick().is_none(), "others have room");
    let wants = pool.full_for(Some(&wish), &Tried::default()).unwrap();
    let in_line = pool.line().enter(wants, || {});
    let id = own.upstream().id();
    drop(own);
    assert!(in_line.take_room().is_some());
    assert_eq!(pick().unwrap().upstream().id(), id);
    assert!(pool.sessions().1.iter().all(|(_, moves)| *moves == 0));
}

#[test]
fn nobody_who_rests_is_asked_for_want_of_room_elsewhere() {
    let pool = pool("a^1 b");
    let now = Instant::now();
    pool.rests().begin(
        Rest {
            upstream: pool.find("b").unwrap().id(),
            host: None,
            status: 429,
            until: now + Duration::from_secs(60),
            client: SessionKey::new(b"one"),
        },
        now,
    );
    let wish = Wish {
        session: None,
        host: Some("o.test"),
        only_rested: false,
        now,
    };
    let pick = || pool.pick(BalanceMode::RoundRobin, Some(&wish), &mut Tried::default());
    let first = pick();
    assert_eq!(name(first.as_ref()), "a");
    assert!(pick().is_none());
    assert!(pool.full_for(Some(&wish), &Tried::default()).is_some());
}

#[test]
fn threads_that_pick_at_the_same_time_never_have_more_than_there_may_be() {
    let pool = pool("a^2 b^1");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..500 {
                    let lease = pool.pick(BalanceMode::Best, None, &mut Tried::default());
                    if let Some(lease) = lease {
                        let most = if lease.upstream().spec.name == "a" {
                            2
                        } else {
                            1
                        };
                        assert!(lease.upstream().vitals().active() <= most);
                    }
                }
            });
        }
    });
    assert!(
        pool.upstreams()
            .iter()
            .all(|one| one.vitals().active() == 0)
    );
}

/// Of so many picks, how many go to a.
fn picks_of_a(pool: &Pool, mode: BalanceMode, count: usize) -> usize {
    let pick = |_| pool.pick(mode, None, &mut Tried::default());
    let picks = (0..count).map(pick);
    picks.filter(|lease| name(lease.as_ref()) == "a").count()
}

/// With the share s of its weight, one of two equals gets s / (1 + s).
#[test]
fn the_share_of_one_that_came_back_grows_from_nothing_to_all_of_it() {
    let (pool, start, time) = (pool("a b"), Instant::now(), Duration::from_secs(100));
    let at = |secs| {
        let now = start + Duration::from_secs(secs);
        let grows = pool.warm_up(now, time);
        (grows, picks_of_a(&pool, BalanceMode::RoundRobin, 200))
    };
    assert_eq!(at(0), (false, 100), "not at the start");
    take_offline(&pool, "a", CLOSED);
    assert_eq!(at(10), (false, 0));
    bring_back(&pool, "a");
    for (secs, share) in [(20, 2), (45, 40), (70, 67), (119, 99)] {
        let (grows, picks) = at(secs);
        assert!(grows && picks.abs_diff(share) <= 2, "{secs}: {picks}");
    }
    assert_eq!(at(120), (false, 100));
    // Turned off meanwhile, it counts no more.
    take_offline(&pool, "a", CLOSED);
    at(130);
    bring_back(&pool, "a");
    assert!(at(130).0);
    pool.warm_up(start, Duration::ZERO);
    assert_eq!(picks_of_a(&pool, BalanceMode::RoundRobin, 200), 100);
}

#[test]
fn in_every_mode_one_that_came_back_takes_a_part_of_its_turns() {
    for (mode, text) in [
        (BalanceMode::Priority, "a@1 b@2"),
        (BalanceMode::Best, "a b"),
    ] {
        let (pool, start, time) = (pool(text), Instant::now(), Duration::from_secs(100));
        let b = pool.find("b").unwrap().vitals();
        b.answered(Duration::from_secs(1), 200, || None);
        let a = pool.find("a").unwrap().vitals();
        a.answered(Duration::from_millis(1), 200, || None);
        pool.warm_up(start, time);
        take_offline(&pool, "a", CLOSED);
        pool.warm_up(start, time);
        bring_back(&pool, "a");
        pool.warm_up(start, time);
        pool.warm_up(start + time / 4, time);
        assert_eq!(picks_of_a(&pool, mode, 100), 25, "{mode}");
    }
}

#[test]
fn if_all_came_back_or_the_others_are_suspects_nobody_lets_a_turn_pass() {
    let (pool, start, time) = (pool("a b"), Instant::now(), Duration::from_secs(100));
    pool.warm_up(start, time);
    take_offline(&pool, "a b", CLOSED);
    pool.warm_up(start, time);
    bring_back(&pool, "a");
    bring_back(&pool, "b");
    assert!(pool.warm_up(start, time));
    assert_eq!(picks_of_a(&pool, BalanceMode::RoundRobin, 100), 50);
    pool.warm_up(start + time, time);
    take_offline(&pool, "a", CLOSED);
    pool.warm_up(start + time, time);
    bring_back(&pool, "a");
    pool.warm_up(start + time, time);
    suspect(&pool, "b");
    assert_eq!(picks_of_a(&pool, BalanceMode::RoundRobin, 100), 100);
}
