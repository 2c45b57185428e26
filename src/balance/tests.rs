//! A month of a pool of rented exits, played in virtual time: a thousand sessions, two hundred exits, fifty
//! hosts that ban.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::protocol::target::Authority;

use super::pick::BalanceMode;
use super::pool::{Pool, Session, Tried, Wish};
use super::reason::{Depth, OfflineReason};
use super::rests::{MOST_RESTS, Rest};
use super::state::{CheckVerdict, Thresholds};
use super::sticky::SessionKey;
use super::upstream::{UpstreamProtocol, UpstreamSpec};
use super::vitals::UpstreamId;

const EXITS: usize = 200;
const SESSIONS: usize = 1_000;
const HOSTS: usize = 50;
const DAYS: u64 = 30;
const TTL: Duration = Duration::from_secs(600);
const MOST_SESSIONS: usize = 65_536;

fn weight(exit: usize) -> u32 {
    [1, 2, 3, 4][exit % 4]
}

fn pool_of(exits: impl Iterator<Item = usize>) -> Pool {
    let spec = |exit: usize| UpstreamSpec {
        name: format!("exit{exit}"),
        protocol: UpstreamProtocol::Http,
        authority: Authority::parse(format!("exit{exit}.test:8080").as_bytes(), None).unwrap(),
        credentials: None,
        weight: weight(exit),
        priority: 100,
        group: None,
    };
    Pool::new(exits.map(spec).collect())
}

/// xorshift64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// What was seen of a session.
struct Seen {
    exit: UpstreamId,
    at: Instant,
}

fn set_offline(pool: &Pool, exit: usize, offline: bool) {
    let vitals = pool.upstreams()[exit].vitals();
    let (began, _) = vitals.check_begins();
    let verdict = if offline {
        CheckVerdict::Fails(OfflineReason::Closes)
    } else {
        CheckVerdict::Works(Depth::Probe)
    };
    vitals.check_ended(began, verdict, Thresholds { fall: 1, rise: 1 }, 0);
}

#[test]
fn in_a_month_no_session_moves_without_a_reason_and_no_banned_exit_is_asked() {
    let (pool, start) = (pool_of(0..EXITS), Instant::now());
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    let mut seen: HashMap<(usize, u64), Seen> = HashMap::new();
    // When the ban of an exit by a host ends.
    let mut bans = vec![[start; EXITS]; HOSTS];
    let (mut begun, mut expected) = ([0.0; 4], [0.0; 4]);
    let places: HashMap<UpstreamId, usize> = pool
        .upstreams()
        .iter()
        .map(|exit| exit.id())
        .zip(0..)
        .collect();
    let mut stayed = 0;
    // Every client has a new session twice a day, of a few minutes.
    let mut events: Vec<(u64, (usize, u64))> = (0..SESSIONS)
        .flat_map(|session| {
            (0..DAYS * 2).map(move |half_day| (half_day * 43_200, (session, half_day)))
        })
        .flat_map(|(from, session)| {
            let from = from + dice.below(42_000);
            [0, 60, 200].map(|later| (from + later, session))
        })
        .collect();
    events.sort_unstable();
    let mut is_offline = HashSet::new();
    for (second, session) in events {
        let now = start + Duration::from_secs(second);
        if dice.below(500) == 0 {
            let exit = usize::try_from(dice.below(EXITS as u64)).unwrap();
            let goes = is_offline.len() < EXITS / 4 && is_offline.insert(exit);
            if !goes {
                is_offline.remove(&exit);
            }
            set_offline(&pool, exit, goes);
        }
        let host = usize::try_from(dice.below(HOSTS as u64)).unwrap();
        let host_name: Arc<str> = format!("host{host}.test").into();
        let wish = Wish {
            session: Some(Session {
                key: SessionKey::new(format!("session-{}-{}", session.0, session.1).as_bytes()),
                ttl: TTL,
                most: MOST_SESSIONS,
            }),
            host: Some(&host_name),
            only_rested: false,
            now,
        };
        let lease = pool.pick(BalanceMode::RoundRobin, Some(&wish), &mut Tried::default());
        let exit = lease.unwrap().upstream().clone();
        let place = places[&exit.id()];
        assert!(
            bans[host][place] <= now,
            "{} rests for {host_name}",
            exit.spec.name
        );
        let before = seen.get(&session).filter(|before| now - before.at <= TTL);
        match before {
            Some(before) if before.exit == exit.id() => stayed += 1,
            Some(before) => {
                let old = places[&before.exit];
                assert!(is_offline.contains(&old) || bans[host][old] > now);
            }
            None => {
                begun[place % 4] += 1.0;
                let may_be_chosen =
                    |exit: &usize| !is_offline.contains(exit) && bans[host][*exit] <= now;
                let mut weights = [0.0; 4];
                for exit in (0..EXITS).filter(may_be_chosen) {
                    weights[exit % 4] += f64::from(weight(exit));
                }
                let all: f64 = weights.iter().sum();
                for (expected, weight) in expected.iter_mut().zip(weights) {
                    *expected += weight / all;
                }
            }
        }
        let exit_id = exit.id();
        seen.insert(
            session,
            Seen {
                exit: exit_id,
                at: now,
            },
        );
        if dice.below(40) == 0 {
            let until = now + Duration::from_secs(60 + dice.below(3_600));
            bans[host][place] = until;
            let rest = Rest {
                upstream: exit_id,
                host: Some(host_name),
                status: 429,
                until,
            };
            pool.rests().begin(rest, now);
        }
        assert!(pool.sessions().0 <= SESSIONS && pool.rests().longest(0, now).1 <= MOST_RESTS);
    }
    assert!(stayed > 100_000, "{stayed}");
    for (begun, expected) in begun.into_iter().zip(expected) {
        let off: f64 = begun - expected;
        assert!(off.abs() <= expected * 0.03, "{begun} of {expected}");
    }
}

fn exit_of(pool: &Pool, session: usize, now: Instant) -> String {
    let wish = Wish {
        session: Some(Session {
            key: SessionKey::new(format!("someone-session-{session}").as_bytes()),
            ttl: TTL,
            most: MOST_SESSIONS,
        }),
        host: None,
        only_rested: false,
        now,
    };
    let lease = pool.pick(BalanceMode::Best, Some(&wish), &mut Tried::default());
    lease.unwrap().upstream().spec.name.clone()
}

#[test]
fn two_relays_agree_on_every_session_and_only_those_of_an_exit_that_left_move() {
    let now = Instant::now();
    let (one, other) = (pool_of(0..EXITS), pool_of((0..EXITS).rev()));
    let without = pool_of((0..EXITS).filter(|exit| *exit != 77));
    let mut moved = 0;
    for session in 0..10_000 {
        let exit = exit_of(&one, session, now);
        assert_eq!(exit, exit_of(&other, session, now));
        if exit == "exit77" {
            moved += 1;
        } else {
            assert_eq!(exit, exit_of(&without, session, now));
        }
    }
    assert!(moved > 0);
}

#[test]
fn an_exit_that_joins_moves_no_session_in_use() {
    let now = Instant::now();
    let few = pool_of(0..10);
    let before: Vec<_> = (0..100)
        .map(|session| exit_of(&few, session, now))
        .collect();
    let more = few.succeeded_by(
        pool_of(0..EXITS)
            .upstreams()
            .iter()
            .map(|upstream| upstream.spec.clone())
            .collect(),
    );
    let after: Vec<_> = (0..100)
        .map(|session| exit_of(&more, session, now))
        .collect();
    assert_eq!(before, after);
}

#[test]
fn a_retry_elsewhere_leaves_the_session_where_it_is() {
    let (pool, now) = (pool_of(0..10), Instant::now());
    let exit = exit_of(&pool, 1, now);
    let mut tried = Tried::default();
    tried.insert(pool.find(&exit).unwrap().id());
    let wish = Wish {
        session: Some(Session {
            key: SessionKey::new(b"someone-session-1"),
            ttl: TTL,
            most: MOST_SESSIONS,
        }),
        host: None,
        only_rested: false,
        now,
    };
    let elsewhere = pool.pick(BalanceMode::Best, Some(&wish), &mut tried);
    assert_ne!(elsewhere.unwrap().upstream().spec.name, exit);
    assert_eq!(exit_of(&pool, 1, now), exit);
}

#[test]
fn when_all_rest_the_one_whose_rest_ends_first_is_asked_and_counted() {
    let (pool, now) = (pool_of(0..3), Instant::now());
    for (place, secs) in [(0, 30), (1, 10), (2, 20)] {
        let rest = Rest {
            upstream: pool.upstreams()[place].id(),
            host: None,
            status: 403,
            until: now + Duration::from_secs(secs),
        };
        pool.rests().begin(rest, now);
    }
    let wish = Wish {
        session: None,
        host: Some("a.test"),
        only_rested: false,
        now,
    };
    let lease = pool.pick(BalanceMode::RoundRobin, Some(&wish), &mut Tried::default());
    assert_eq!(lease.unwrap().upstream().spec.name, "exit1");
    assert_eq!(pool.rests().overridden(), 1);
}
