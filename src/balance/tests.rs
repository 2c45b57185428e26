//! A month of a pool of rented exits, played in virtual time: a thousand sessions, two hundred exits, fifty
//! hosts that ban.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::protocol::target::Authority;

use super::pick::BalanceMode;
use super::pool::Pool;
use super::reason::{Depth, OfflineReason};
use super::rests::{MOST_RESTS, Rest};
use super::state::{CheckVerdict, Thresholds};
use super::sticky::SessionKey;
use super::tried::Tried;
use super::upstream::{UpstreamProtocol, UpstreamSpec};
use super::vitals::UpstreamId;
use super::wish::{Session, Wish};

const EXITS: usize = 200;
const SESSIONS: usize = 1_000;
const HOSTS: usize = 50;
const DAYS: u64 = 30;
const TTL: Duration = Duration::from_secs(600);
const REMEMBERED: usize = 65_536;

fn weight(exit: usize) -> u32 {
    [1, 2, 3, 4][exit % 4]
}

fn pool_of(exits: impl Iterator<Item = usize>) -> Pool {
    let spec = |exit: usize| UpstreamSpec {
        name: format!("exit{exit}"),
        weight: weight(exit),
        ..UpstreamSpec::new(
            UpstreamProtocol::Http,
            Authority::parse(format!("exit{exit}.test:8080").as_bytes(), None).unwrap(),
        )
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
    exit: usize,
    at: Instant,
}

/// The number of a client, and of a half of a day.
type SessionName = (usize, u64);

/// The pool, and what must be true of it.
struct Month {
    pool: Pool,
    dice: Dice,
    places: HashMap<UpstreamId, usize>,
    is_offline: HashSet<usize>,
    /// When the ban of an exit by a host ends.
    bans: Vec<[Instant; EXITS]>,
    seen: HashMap<SessionName, Seen>,
    /// Picks for a session that had an exit, and of the others how many each weight got, and should have.
    stayed: usize,
    begun: [f64; 4],
    expected: [f64; 4],
}

impl Month {
    fn new(start: Instant) -> Self {
        let pool = pool_of(0..EXITS);
        let ids = pool.upstreams().iter().map(|exit| exit.id());
        Self {
            places: ids.zip(0..).collect(),
            pool,
            dice: Dice(0x2545_f491_4f6c_dd1d),
            is_offline: HashSet::new(),
            bans: vec![[start; EXITS]; HOSTS],
            seen: HashMap::new(),
            stayed: 0,
            begun: [0.0; 4],
            expected: [0.0; 4],
        }
    }

    /// When requests are made, in seconds: every client has a session twice a day, of a few minutes.
    fn requests(&mut self) -> Vec<(u64, SessionName)> {
        let mut requests = Vec::new();
        for session in 0..SESSIONS {
            for half_day in 0..DAYS * 2 {
                let from = half_day * 43_200 + self.dice.below(42_000);
                requests.extend([0, 60, 200].map(|later| (from + later, (session, half_day))));
            }
        }
        requests.sort_unstable();
        requests
    }

    /// One of them goes offline, or comes back.
    fn flip(&mut self) {
        let exit = usize::try_from(self.dice.below(EXITS as u64)).unwrap();
        let vitals = self.pool.upstreams()[exit].vitals();
        let (began, _) = vitals.check_begins();
        let verdict = if self.is_offline.len() < EXITS / 4 && self.is_offline.insert(exit) {
            CheckVerdict::Fails(OfflineReason::Closes)
        } else {
            self.is_offline.remove(&exit);
            CheckVerdict::Works(Depth::Probe)
        };
        vitals.check_ended(began, verdict, Thresholds { fall: 1, rise: 1 }, 0);
    }

    /// A request of `session` to a host.
    fn request(&mut self, session: SessionName, now: Instant) {
        let host = usize::try_from(self.dice.below(HOSTS as u64)).unwrap();
        let host_name: Arc<str> = format!("host{host}.test").into();
        let name = format!("session-{}-{}", session.0, session.1);
        let wish = Wish {
            host: Some(&host_name),
            ..wish_of(&name, now)
        };
        let lease = self
            .pool
            .pick(BalanceMode::RoundRobin, Some(&wish), &mut Tried::default());
        let lease = lease.unwrap();
        let id = lease.upstream().id();
        let exit = self.places[&id];
        assert!(self.bans[host][exit] <= now, "{exit} rests for {host}");
        self.check(session, host, exit, now);
        self.seen.insert(session, Seen { exit, at: now });
        if self.dice.below(40) == 0 {
            let until = now + Duration::from_secs(60 + self.dice.below(3_600));
            self.bans[host][exit] = until;
            let rest = Rest {
                upstream: id,
                host: Some(host_name),
                status: 429,
                until,
                client: SessionKey::new(&[1]),
            };
            self.pool.rests().begin(rest, now);
        }
        let (sessions, rests) = (self.pool.sessions().0, self.pool.rests().longest(0, now).1);
        assert!(sessions <= SESSIONS && rests <= MOST_RESTS);
    }

    /// Whether `session` may be at this exit.
    fn check(&mut self, session: SessionName, host: usize, exit: usize, now: Instant) {
        let may_be_chosen =
            |exit: usize| !self.is_offline.contains(&exit) && self.bans[host][exit] <= now;
        let before = self.seen.get(&session);
        match before.filter(|before| now - before.at <= TTL) {
            Some(before) if before.exit == exit => self.stayed += 1,
            Some(before) => assert!(!may_be_chosen(before.exit)),
            None => {
                self.begun[exit % 4] += 1.0;
                let mut weights = [0.0; 4];
                for exit in (0..EXITS).filter(|exit| may_be_chosen(*exit)) {
                    weights[exit % 4] += f64::from(weight(exit));
                }
                let all: f64 = weights.iter().sum();
                for (expected, weight) in self.expected.iter_mut().zip(weights) {
                    *expected += weight / all;
                }
            }
        }
    }
}

fn wish_of(session: &str, now: Instant) -> Wish<'static> {
    Wish {
        session: Some(Session {
            key: SessionKey::new(session.as_bytes()),
            ttl: TTL,
            most: REMEMBERED,
        }),
        host: None,
        only_rested: false,
        now,
    }
}

#[test]
fn in_a_month_no_session_moves_without_a_reason_and_no_banned_exit_is_asked() {
    let start = Instant::now();
    let mut month = Month::new(start);
    for (second, session) in month.requests() {
        if month.dice.below(500) == 0 {
            month.flip();
        }
        month.request(session, start + Duration::from_secs(second));
    }
    assert!(month.stayed > 100_000, "{}", month.stayed);
    for (begun, expected) in month.begun.into_iter().zip(month.expected) {
        let off: f64 = begun - expected;
        assert!(off.abs() <= expected * 0.03, "{begun} of {expected}");
    }
}

fn exit_of(pool: &Pool, session: usize, now: Instant) -> String {
    let wish = wish_of(&format!("someone-session-{session}"), now);
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
    let wish = wish_of("someone-session-1", now);
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
            client: SessionKey::new(b"one"),
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
