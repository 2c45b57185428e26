//! Whole outages, played in virtual time against the real pool, state machine and examiner.
//!
//! Each test is a situation: what the upstreams are like, what becomes of the probe's target, who asks for
//! what. It says what clients lost that could have been served, how many upstreams were online on average,
//! and how often one went offline. The play follows the rules of the relay (at most three attempts, doubts
//! after half of the time-out); the relay itself is not involved.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use crate::balance::pick::BalanceMode;
use crate::balance::pool::Pool;
use crate::balance::reason::Doubt;
use crate::balance::state::{Availability, is_gateway_error};
use crate::balance::tried::Tried;
use crate::balance::upstream::{Lease, UpstreamProtocol, UpstreamSpec};
use crate::config::health::{HealthCheck, ProbeTarget};
use crate::protocol::target::Authority;

use super::super::question::{CheckAnswer, CheckQuestion};
use super::{CheckContext, Examiner, Inquiry};

/// `health_check.timeout_secs`.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What an upstream is like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Behavior {
    Alive,
    /// Refuses connections.
    Dead,
    /// Accepts, and says nothing.
    Hung,
    /// Answers everything with 302.
    Captive,
    /// Answers everything with 503.
    NoUplink,
    /// Refuses the probe alone.
    Policy,
    /// Closes whatever it does not know, and that is the question of the check, too.
    Curt,
    /// Accepts and closes.
    Closing,
}

/// What becomes of a probe behind a good upstream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ProbeFate {
    Passes,
    Dropped,
    Says(u16),
}

/// What a client asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum RequestKind {
    Get,
    /// Takes 9 s.
    Slow,
    /// Its origin cuts the response short.
    Cut,
    /// Its origin, through this upstream, is answered by a closed connection.
    Closed,
    /// Its origin answers 407.
    Auth,
}

type Behaviors = Box<dyn Fn(f64) -> Behavior>;

enum Happening {
    Look,
    Answered(Inquiry, CheckAnswer),
    Request(RequestKind),
    Waits(Box<OpenExchange>),
    Responds(Box<OpenExchange>, u16),
}

/// An exchange at an upstream.
struct OpenExchange {
    kind: RequestKind,
    lease: Lease,
    tried: Tried,
    attempts: usize,
    asked: Instant,
    begun: Instant,
}

struct VirtualWorld {
    began: Instant,
    now: Instant,
    pool: Pool,
    health: HealthCheck,
    examiner: Examiner,
    manners: Vec<Behaviors>,
    target: Box<dyn Fn(f64) -> ProbeFate>,
    queue: BinaryHeap<Reverse<(Instant, usize)>>,
    events: Vec<Option<Happening>>,
    dice: u64,
    lost: u32,
    served: u32,
    repeated: u32,
    slowest: Duration,
    online: Vec<usize>,
}

thread_local! {
    static CHANCE: Cell<u64> = const { Cell::new(7) };
}

fn next_chance() -> u64 {
    CHANCE.with(|chance| {
        let next = roll(chance.get());
        chance.set(next);
        next >> 11
    })
}

fn roll(dice: u64) -> u64 {
    dice.wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407)
}

impl VirtualWorld {
    fn new(manners: Vec<Behaviors>, target: impl Fn(f64) -> ProbeFate + 'static) -> Self {
        CHANCE.set(7);
        let spec = |number| UpstreamSpec {
            name: format!("u{number}"),
            ..UpstreamSpec::new(
                UpstreamProtocol::Http,
                Authority::parse(format!("u{number}.test:8080").as_bytes(), None).unwrap(),
            )
        };
        let now = Instant::now();
        let mut world = Self {
            began: now,
            now,
            pool: Pool::new((0..manners.len()).map(spec).collect()),
            health: HealthCheck {
                interval: Duration::from_secs(30),
                timeout: TIMEOUT,
                target: ProbeTarget::Get {
                    authority: Authority::parse(b"probe.test:80", None).unwrap(),
                    path_and_query: "/".into(),
                },
                expect_status: 204,
                fall: 1,
                rise: 1,
                online_interval: None,
                slow_start: Duration::ZERO,
            },
            examiner: Examiner::new(next_chance),
            manners,
            target: Box::new(target),
            queue: BinaryHeap::new(),
            events: Vec::new(),
            dice: 20_261_128,
            lost: 0,
            served: 0,
            repeated: 0,
            slowest: Duration::ZERO,
            online: Vec::new(),
        };
        world.examiner.follow_pool(&world.pool);
        world.at(Duration::ZERO, Happening::Look);
        world
    }

    /// Each upstream is in its group.
    fn grouped(&mut self, groups: &[&str]) {
        let upstreams = self.pool.upstreams().iter().zip(groups);
        let specs = upstreams.map(|(upstream, group)| UpstreamSpec {
            group: Some((*group).into()),
            ..upstream.spec.clone()
        });
        self.pool = Pool::new(specs.collect());
        self.examiner.follow_pool(&self.pool);
    }

    fn seconds(&self) -> f64 {
        self.now.duration_since(self.began).as_secs_f64()
    }

    fn at(&mut self, later: Duration, event: Happening) {
        self.queue
            .push(Reverse((self.now + later, self.events.len())));
        self.events.push(Some(event));
    }

    fn random(&mut self) -> f64 {
        self.dice = roll(self.dice);
        f64::from(u32::try_from(self.dice >> 32).unwrap()) / f64::from(u32::MAX)
    }

    /// So many requests a second, at moments that cannot be foretold.
    fn load(&mut self, kind: RequestKind, a_second: f64, from: f64, to: f64) {
        let mut at = from;
        loop {
            at -= (1.0 - self.random()).max(1e-9).ln() / a_second;
            if at >= to {
                return;
            }
            self.at(Duration::from_secs_f64(at), Happening::Request(kind));
        }
    }

    fn run(&mut self, seconds: f64) {
        let end = self.began + Duration::from_secs_f64(seconds);
        let mut watched = self.now + Duration::from_secs(1);
        while let Some(Reverse((at, number))) = self.queue.pop() {
            if at > end {
                return;
            }
            while watched <= at {
                let upstreams = self.pool.upstreams().iter();
                let online =
                    upstreams.filter(|u| u.vitals().availability() == Availability::Online);
                self.online.push(online.count());
                watched += Duration::from_millis(50);
            }
            self.now = at;
            if let Some(event) = self.events[number].take() {
                self.play(event);
            }
        }
    }

    fn play(&mut self, event: Happening) {
        match event {
            Happening::Look => {
                let pause = self.look();
                self.at(pause, Happening::Look);
            }
            Happening::Answered(ask, answer) => {
                let asks = {
                    let moment = moment(&self.pool, &self.health, (self.began, self.now));
                    self.examiner.answered(moment, &ask, answer)
                };
                self.send(asks);
                self.look();
            }
            Happening::Request(kind) => {
                let now = self.now;
                self.attempt(kind, Tried::default(), 0, now);
            }
            Happening::Waits(waiting) => self.wait(waiting),
            Happening::Responds(waiting, status) => self.respond(&waiting, status),
        }
    }

    /// Returns when to look again.
    fn look(&mut self) -> Duration {
        let moment = moment(&self.pool, &self.health, (self.began, self.now));
        let (inquiries, pause) = self.examiner.look(moment, 32);
        self.send(inquiries);
        pause.max(Duration::from_millis(1))
    }

    fn send(&mut self, asks: Vec<Inquiry>) {
        for ask in asks {
            let (after, answer) = self.answer(&ask);
            self.at(after.min(ask.limit), Happening::Answered(ask, answer));
        }
    }

    fn manner(&self, name: &str) -> Behavior {
        let number: usize = name.trim_start_matches('u').parse().unwrap();
        (self.manners[number])(self.seconds())
    }

    fn answer(&self, ask: &Inquiry) -> (Duration, CheckAnswer) {
        let ms = Duration::from_millis;
        match (self.manner(&ask.upstream.spec.name), ask.question) {
            (Behavior::Dead, _) => (ms(1), CheckAnswer::CannotConnect("connection refused")),
            (Behavior::Hung, _) => (ask.limit, CheckAnswer::Unanswered),
            (Behavior::Closing, _) | (Behavior::Curt, CheckQuestion::Itself) => {
                (ms(2), CheckAnswer::Closed)
            }
            (_, CheckQuestion::Itself) => (ms(2), CheckAnswer::Status(400)),
            (Behavior::Captive, CheckQuestion::Probe) => (ms(20), CheckAnswer::Status(302)),
            (Behavior::NoUplink, CheckQuestion::Probe) => (ms(20), CheckAnswer::Status(503)),
            (Behavior::Policy, CheckQuestion::Probe) => (ms(20), CheckAnswer::Status(403)),
            (Behavior::Alive | Behavior::Curt, CheckQuestion::Probe) => {
                match (self.target)(self.seconds()) {
                    ProbeFate::Passes => (ms(50), CheckAnswer::Status(204)),
                    ProbeFate::Dropped => (ask.limit, CheckAnswer::Unanswered),
                    ProbeFate::Says(status) => (ms(50), CheckAnswer::Status(status)),
                }
            }
        }
    }

    fn attempt(&mut self, kind: RequestKind, mut tried: Tried, attempts: usize, begun: Instant) {
        if attempts >= self.pool.upstreams().len().min(3) {
            return self.over(kind, None, begun);
        }
        let picked = self.pool.pick(BalanceMode::RoundRobin, None, &mut tried);
        let picked = picked.or_else(|| self.pool.pick_trial(&mut tried, self.now));
        let Some(lease) = picked else {
            return self.over(kind, None, begun);
        };
        let ms = Duration::from_millis;
        let manner = self.manner(&lease.upstream().spec.name);
        let waiting = |lease, asked| {
            Box::new(OpenExchange {
                kind,
                lease,
                tried: tried.clone(),
                attempts: attempts + 1,
                asked,
                begun,
            })
        };
        match manner {
            Behavior::Dead => {
                let vitals = lease.upstream().vitals();
                if let Some(change) = vitals.cannot_connect(lease.began(), "refused", 1, 0) {
                    lease.upstream().tell(change, "", 0);
                }
                drop(lease);
                self.attempt(kind, tried, attempts, begun);
                self.look();
            }
            Behavior::Hung => {
                let waiting = waiting(lease, self.now);
                self.at(ms(100), Happening::Waits(waiting));
            }
            Behavior::Closing => {
                let waiting = waiting(lease, self.now);
                self.doubt(&waiting.lease, Doubt::Closed);
                self.attempt(kind, waiting.tried.clone(), waiting.attempts, begun);
            }
            Behavior::Captive => self.responds(waiting(lease, self.now), ms(20), 302),
            Behavior::NoUplink => self.responds(waiting(lease, self.now), ms(20), 503),
            Behavior::Alive | Behavior::Policy | Behavior::Curt => {
                let waiting = waiting(lease, self.now);
                self.asked(waiting, attempts);
            }
        }
    }

    /// A good upstream was asked.
    fn asked(&mut self, waiting: Box<OpenExchange>, attempts: usize) {
        let ms = Duration::from_millis;
        let doubt = match waiting.kind {
            RequestKind::Get => return self.responds(waiting, ms(50), 200),
            RequestKind::Slow => return self.at(ms(100), Happening::Waits(waiting)),
            RequestKind::Cut => Doubt::Truncated,
            RequestKind::Auth => Doubt::Auth,
            RequestKind::Closed => Doubt::Closed,
        };
        self.doubt(&waiting.lease, doubt);
        let is_tried_elsewhere = match waiting.kind {
            RequestKind::Get | RequestKind::Slow | RequestKind::Cut => false,
            RequestKind::Auth => attempts == 0,
            RequestKind::Closed => true,
        };
        if is_tried_elsewhere {
            let tried = waiting.tried.clone();
            self.attempt(waiting.kind, tried, waiting.attempts, waiting.begun);
        }
    }

    fn responds(&mut self, waiting: Box<OpenExchange>, after: Duration, status: u16) {
        self.at(after, Happening::Responds(waiting, status));
    }

    fn wait(&mut self, waiting: Box<OpenExchange>) {
        let waited = self.now.duration_since(waiting.asked);
        let is_hung = self.manner(&waiting.lease.upstream().spec.name) == Behavior::Hung;
        if waiting.lease.is_lost() {
            self.repeated += 1;
            return self.attempt(
                waiting.kind,
                waiting.tried.clone(),
                waiting.attempts,
                waiting.begun,
            );
        }
        if waiting.kind == RequestKind::Slow && !is_hung && waited >= Duration::from_secs(9) {
            return self.respond(&waiting, 200);
        }
        if waiting.kind != RequestKind::Slow && !is_hung {
            return self.respond(&waiting, 200);
        }
        let vitals = waiting.lease.upstream().vitals();
        if vitals.silent_since(waiting.asked) + TIMEOUT / 2 <= self.now {
            self.doubt(&waiting.lease, Doubt::Silent);
        }
        if waited >= Duration::from_secs(300) {
            return self.over(waiting.kind, None, waiting.begun);
        }
        self.at(Duration::from_millis(100), Happening::Waits(waiting));
    }

    fn doubt(&mut self, lease: &Lease, doubt: Doubt) {
        let change = lease.upstream().vitals().doubt(lease.began(), doubt);
        if let Some(change) = change {
            lease.upstream().tell(change, "", 0);
        }
        self.look();
    }

    fn respond(&mut self, waiting: &OpenExchange, status: u16) {
        let upstream = waiting.lease.upstream();
        let vitals = upstream.vitals();
        vitals.answered(self.now.duration_since(waiting.asked), status, || None);
        if is_gateway_error(status) {
            let target = (self.random() * 20.0).to_bits();
            vitals.gateway_error(waiting.lease.began(), target);
            self.look();
        } else if let Some(change) = vitals.good(waiting.lease.began(), || 0) {
            upstream.tell(change, "", 0);
        }
        self.over(waiting.kind, Some(status), waiting.begun);
    }

    /// `status`: that of the answer, if there was one.
    fn over(&mut self, kind: RequestKind, status: Option<u16>, begun: Instant) {
        if !matches!(kind, RequestKind::Get | RequestKind::Slow) {
            return;
        }
        if status == Some(200) {
            self.served += 1;
        } else {
            self.lost += 1;
        }
        if kind == RequestKind::Get {
            self.slowest = self.slowest.max(self.now.duration_since(begun));
        }
    }

    fn mean_online(&self) -> f64 {
        let sum: usize = self.online.iter().sum();
        f64::from(u32::try_from(sum).unwrap())
            / f64::from(u32::try_from(self.online.len()).unwrap())
    }

    fn went_offline(&self) -> u64 {
        let counts = self.pool.upstreams().iter().map(|upstream| {
            let counters = &upstream.vitals().counters;
            counters
                .went_offline
                .load(std::sync::atomic::Ordering::Relaxed)
        });
        counts.sum()
    }
}

fn moment<'a>(
    pool: &'a Pool,
    health: &'a HealthCheck,
    (began, now): (Instant, Instant),
) -> CheckContext<'a> {
    let unix_ms = u64::try_from(now.duration_since(began).as_millis()).unwrap();
    CheckContext {
        pool,
        health,
        now,
        unix_ms,
    }
}

fn always(manner: Behavior) -> Behaviors {
    Box::new(move |_| manner)
}

fn for_a_while(manner: Behavior, from: f64, to: f64) -> Behaviors {
    Box::new(move |at| {
        if (from..to).contains(&at) {
            manner
        } else {
            Behavior::Alive
        }
    })
}

fn all_alive(count: usize) -> Vec<Behaviors> {
    (0..count).map(|_| always(Behavior::Alive)).collect()
}

/// Fifty requests a second for a minute, one in fifty of them slow.
fn play(manners: Vec<Behaviors>, target: ProbeFate, also: &[(RequestKind, f64)]) -> VirtualWorld {
    let mut world = VirtualWorld::new(manners, move |_| target);
    play_in(&mut world, also);
    world
}

fn play_in(world: &mut VirtualWorld, also: &[(RequestKind, f64)]) {
    world.load(RequestKind::Get, 49.0, 1.0, 60.0);
    world.load(RequestKind::Slow, 1.0, 1.0, 60.0);
    for (kind, a_second) in also {
        world.load(*kind, *a_second, 5.0, 60.0);
    }
    world.run(400.0);
}

const TARGETS: [ProbeFate; 5] = [
    ProbeFate::Passes,
    ProbeFate::Dropped,
    ProbeFate::Says(403),
    ProbeFate::Says(302),
    ProbeFate::Says(503),
];

#[test]
fn whatever_becomes_of_the_probe_a_sound_pool_serves_everything_and_stays_online() {
    for target in TARGETS {
        for count in [1, 2, 5] {
            let world = play(all_alive(count), target, &[]);
            assert_eq!(world.lost, 0, "{target:?}, {count}");
            assert_eq!(world.went_offline(), 0, "{target:?}, {count}");
            assert_eq!(world.repeated, 0, "slow is not dead");
            assert!(world.slowest < Duration::from_millis(100));
        }
    }
}

#[test]
fn a_poisonous_client_keeps_nobody_out_of_service() {
    for target in TARGETS {
        for kind in [RequestKind::Cut, RequestKind::Closed, RequestKind::Auth] {
            for count in [1, 4] {
                let world = play(all_alive(count), target, &[(kind, 10.0)]);
                assert_eq!(world.lost, 0, "{kind:?}, {target:?}, {count}");
                assert_eq!(world.went_offline(), 0, "{kind:?}, {target:?}");
                let least = f64::from(u32::try_from(count).unwrap()) * 0.95;
                // A probe that is dropped lets the first doubts wait for it, until it is not believed.
                let mean = world.mean_online();
                assert!(
                    mean >= least,
                    "{mean} online: {kind:?}, {target:?}, {count}"
                );
            }
        }
    }
}

#[test]
fn restarts_one_after_the_other_lose_nothing() {
    for target in TARGETS {
        let manners = vec![
            for_a_while(Behavior::Dead, 10.0, 12.0),
            for_a_while(Behavior::Dead, 20.0, 22.0),
        ];
        let world = play(manners, target, &[]);
        assert_eq!(world.lost, 0, "{target:?}");
        assert!(world.mean_online() > 1.85, "{target:?}");
    }
}

/// What is lost is what came while all were down, and up to a second more.
#[test]
fn a_pool_that_was_down_serves_again_within_a_second_whatever_becomes_of_the_probe() {
    for target in TARGETS {
        let manners = (0..3)
            .map(|_| for_a_while(Behavior::Dead, 10.0, 20.0))
            .collect();
        let world = play(manners, target, &[]);
        assert!(
            world.lost <= 50 * 11 + 30,
            "{} lost, {target:?}",
            world.lost
        );
        assert!(world.lost >= 400, "{} lost", world.lost);
    }
}

#[test]
fn one_that_hangs_is_found_out_within_the_time_of_a_check_and_its_requests_move_on() {
    for target in TARGETS {
        let manners = vec![
            for_a_while(Behavior::Hung, 10.0, 40.0),
            always(Behavior::Alive),
            always(Behavior::Alive),
        ];
        let world = play(manners, target, &[]);
        assert_eq!(world.lost, 0, "{target:?}");
        assert!(world.repeated > 0);
        let slowest = world.slowest;
        let most = TIMEOUT + Duration::from_millis(300);
        assert!(slowest < most, "{slowest:?}, {target:?}");
    }
}

#[test]
fn a_single_upstream_that_hung_serves_again() {
    for target in TARGETS {
        let mut world =
            VirtualWorld::new(vec![for_a_while(Behavior::Hung, 10.0, 20.0)], move |_| {
                target
            });
        world.load(RequestKind::Get, 5.0, 1.0, 60.0);
        world.run(400.0);
        let (lost, served) = (world.lost, world.served);
        assert!(served >= 230, "{served} served, {lost} lost, {target:?}");
        assert_eq!(world.pool.online_count(), 1);
    }
}

#[test]
fn one_that_only_passes_what_it_likes_is_accused_by_a_control() {
    let manners = vec![
        always(Behavior::Captive),
        always(Behavior::Alive),
        always(Behavior::Alive),
    ];
    let world = play(manners, ProbeFate::Passes, &[]);
    assert_eq!(world.lost, 0, "it was found out before the first request");
    let reason = world.pool.upstreams()[0].vitals().state().reason;
    assert_eq!(
        reason.map(|reason| reason.to_string()).as_deref(),
        Some("probe: got 302")
    );
    let evidence = world.pool.upstreams()[0].vitals().evidence();
    assert!(
        evidence.starts_with("the probe passes through u"),
        "{evidence}"
    );
}

/// It serves, and good traffic outranks the probe; with nothing to serve it, the control decides.
#[test]
fn one_that_refuses_the_probe_alone_costs_nobody_anything() {
    for target in TARGETS {
        let manners = vec![
            always(Behavior::Policy),
            always(Behavior::Alive),
            always(Behavior::Alive),
        ];
        let world = play(manners, target, &[(RequestKind::Auth, 5.0)]);
        assert_eq!(world.lost, 0, "{target:?}");
        assert!(world.went_offline() <= 1, "{target:?}");
    }
}

#[test]
fn one_without_uplink_is_found_out_by_the_probe_or_as_an_outlier() {
    for target in TARGETS {
        let manners = vec![
            for_a_while(Behavior::NoUplink, 10.0, 400.0),
            always(Behavior::Alive),
            always(Behavior::Alive),
        ];
        let world = play(manners, target, &[]);
        // Where no probe passes, the traffic of some seconds tells, and tells again after each rest.
        let evidence = world.pool.upstreams()[0].vitals().evidence();
        assert!(
            world.lost <= 150,
            "{} lost, {target:?}: {evidence}",
            world.lost
        );
        assert!(world.pool.upstreams()[1].vitals().availability() == Availability::Online);
    }
}

#[test]
fn one_that_closes_what_it_does_not_know_is_judged_by_the_probe() {
    let manners = vec![always(Behavior::Curt), always(Behavior::Alive)];
    let world = play(manners, ProbeFate::Passes, &[(RequestKind::Cut, 5.0)]);
    assert_eq!((world.lost, world.went_offline()), (0, 0));
    for target in TARGETS {
        // Where no probe passes, nothing is known against it while it answers all that clients ask. One that
        // answers neither a client for long, nor the check, is another case: so nobody asks for what is slow.
        let manners = vec![always(Behavior::Curt), always(Behavior::Curt)];
        let mut world = VirtualWorld::new(manners, move |_| target);
        world.load(RequestKind::Get, 49.0, 1.0, 60.0);
        world.run(400.0);
        assert_eq!((world.lost, world.went_offline()), (0, 0), "{target:?}");
        let manners = vec![always(Behavior::Closing), always(Behavior::Alive)];
        let world = play(manners, target, &[]);
        assert_eq!(
            (world.lost, world.pool.online_count()),
            (0, 1),
            "{target:?}"
        );
    }
}

#[test]
fn a_target_that_goes_away_or_flaps_takes_nobody_along() {
    let goes_away = |at: f64| {
        if at < 20.0 {
            ProbeFate::Passes
        } else {
            ProbeFate::Dropped
        }
    };
    let flaps = |at: f64| {
        if at % 6.0 < 3.0 {
            ProbeFate::Passes
        } else {
            ProbeFate::Dropped
        }
    };
    // One that came back between a probe and its control accuses an upstream, which the next check acquits.
    for (target, most) in [(goes_away as fn(f64) -> ProbeFate, 0), (flaps, 3)] {
        let mut world = VirtualWorld::new(all_alive(3), target);
        play_in(&mut world, &[(RequestKind::Cut, 10.0)]);
        assert_eq!(world.lost, 0);
        assert!(world.went_offline() <= most, "{}", world.went_offline());
        assert!(world.mean_online() > 2.85, "{}", world.mean_online());
    }
}

#[test]
fn the_target_is_believed_again_once_the_probe_passes() {
    let comes_back = |at: f64| {
        if at < 20.0 {
            ProbeFate::Says(403)
        } else {
            ProbeFate::Passes
        }
    };
    let mut world = VirtualWorld::new(all_alive(2), comes_back);
    world.run(10.0);
    let disbelief = world
        .pool
        .belief()
        .disbelief(world.now)
        .expect("it says 403");
    assert!(disbelief.seen.contains("got 403"), "{}", disbelief.seen);
    world.at(Duration::from_secs(1), Happening::Look);
    world.run(60.0);
    assert!(world.pool.belief().is_believed(None, world.now));
    assert!(
        world.pool.belief().doubted_until(None).is_none(),
        "it was asked"
    );
}

#[test]
fn a_group_is_judged_by_its_own_controls_and_one_alone_in_it_by_none() {
    let manners = [
        Behavior::Policy,
        Behavior::Policy,
        Behavior::Alive,
        Behavior::Alive,
        Behavior::Captive,
        Behavior::Policy,
        Behavior::Dead,
    ];
    let manners = manners.into_iter().map(always).collect();
    let mut world = VirtualWorld::new(manners, |_| ProbeFate::Passes);
    world.grouped(&["lan", "lan", "exits", "exits", "exits", "one", "other"]);
    world.run(10.0);
    let upstreams = world.pool.upstreams().iter();
    let offline = upstreams.filter(|upstream| upstream.vitals().is_offline());
    let offline: Vec<_> = offline.map(|upstream| &*upstream.spec.name).collect();
    assert_eq!(offline, ["u4", "u6"]);
    let is_believed = |group| world.pool.belief().is_believed(Some(group), world.now);
    assert_eq!(
        ["lan", "exits", "one"].map(is_believed),
        [false, true, false]
    );
}
