//! The prober at work, with upstreams on loopback.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::AtomicU16;
use std::thread;

use parking_lot::Condvar;

use crate::balance::reason::{Doubt, OfflineReason};
use crate::balance::state::{Availability, Thresholds};
use crate::balance::upstream::{UpstreamProtocol, UpstreamSpec};
use crate::config::health::ProbeTarget;

use super::*;

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(30);

const WRONG: OfflineReason = OfflineReason::Closes;

/// What an upstream does with probes.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Answer(u16),
    /// It says nothing, for itself neither.
    Hold,
}

/// An upstream that answers each connection in the same manner. Its threads end with the process.
struct Fake {
    authority: Authority,
    status: Arc<AtomicU16>,
    probes: Arc<CountingBell>,
}

/// Counts, and wakes the thread that waits for a count.
#[derive(Default)]
struct CountingBell {
    count: Mutex<u64>,
    rung: Condvar,
}

struct TestWorld {
    pool: Mutex<Arc<Pool>>,
    health: HealthCheck,
    results: CountingBell,
    woken: Mutex<bool>,
    rung: Condvar,
    stopped: AtomicBool,
}

impl CountingBell {
    fn ring(&self) {
        *self.count.lock() += 1;
        self.rung.notify_all();
    }

    fn count(&self) -> u64 {
        *self.count.lock()
    }

    fn wait_for(&self, count: u64) {
        let deadline = Instant::now() + PATIENCE;
        let mut now = self.count.lock();
        while *now < count {
            assert!(
                !self.rung.wait_until(&mut now, deadline).timed_out(),
                "only {now} of {count}"
            );
        }
    }
}

impl Fake {
    fn new(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let status = Arc::new(AtomicU16::new(match manner {
            Manner::Answer(status) => status,
            Manner::Hold => 0,
        }));
        let probes = Arc::new(CountingBell::default());
        let (served, rung) = (Arc::clone(&status), Arc::clone(&probes));
        let serve = move || {
            let mut held = Vec::new();
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let status = served.load(Ordering::Relaxed);
                if status == 0 {
                    rung.ring();
                    held.push(stream);
                } else if answer(stream, status) {
                    rung.ring();
                }
            }
        };
        thread::Builder::new().spawn(serve).unwrap();
        Self {
            authority: Authority::parse(address.as_bytes(), None).unwrap(),
            status,
            probes,
        }
    }

    fn spec(&self, name: &str) -> UpstreamSpec {
        UpstreamSpec {
            name: name.into(),
            ..UpstreamSpec::new(UpstreamProtocol::Http, self.authority.clone())
        }
    }
}

/// Answers the probe with `status`, and for itself 400. Says whether it was the probe.
fn answer(mut stream: TcpStream, status: u16) -> bool {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
        head.push(byte[0]);
    }
    let is_probe = head.starts_with(b"GET http://");
    let status = if is_probe { status } else { 400 };
    drop(write!(stream, "HTTP/1.1 {status} x\r\n\r\n"));
    is_probe
}

impl ProberHost for TestWorld {
    fn current(&self) -> (Arc<Pool>, HealthCheck) {
        (Arc::clone(&self.pool.lock()), self.health.clone())
    }

    fn resolve(&self, upstream: &Authority, _deadline: Instant) -> io::Result<Vec<SocketAddr>> {
        assert_ne!(upstream.port(), 1, "this port is for the test of panics");
        Ok(vec![upstream.to_string().parse().unwrap()])
    }

    fn checked(&self, _verdict: CheckVerdict) {
        self.results.ring();
    }

    fn wake(&self) {
        *self.woken.lock() = true;
        self.rung.notify_all();
    }

    fn wait(&self, limit: Duration) -> ControlFlow<()> {
        let mut woken = self.woken.lock();
        if !*woken {
            self.rung.wait_for(&mut woken, limit);
        }
        *woken = false;
        if self.stopped.load(Ordering::Relaxed) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}

fn health() -> HealthCheck {
    HealthCheck {
        interval: Duration::from_secs(1),
        timeout: PATIENCE,
        target: ProbeTarget::Get {
            authority: Authority::parse(b"probe.test:80", None).unwrap(),
            path_and_query: "/".into(),
        },
        expect_status: 204,
        fall: 1,
        rise: 1,
        online_interval: None,
        slow_start: Duration::ZERO,
    }
}

fn world(specs: Vec<UpstreamSpec>, health: HealthCheck) -> Arc<TestWorld> {
    let pool = Mutex::new(Arc::new(Pool::new(specs)));
    Arc::new(TestWorld {
        pool,
        health,
        results: CountingBell::default(),
        woken: Mutex::default(),
        rung: Condvar::new(),
        stopped: AtomicBool::new(false),
    })
}

/// Runs the prober while `test` runs.
fn with_prober(world: &Arc<TestWorld>, test: impl FnOnce(&Pool)) {
    /// Stops the prober also when the test fails.
    struct StopAtEnd<'p>(&'p TestWorld);
    impl Drop for StopAtEnd<'_> {
        fn drop(&mut self) {
            self.0.stopped.store(true, Ordering::Relaxed);
            self.0.wake();
        }
    }
    let pool = Arc::clone(&world.pool.lock());
    let host: Arc<dyn ProberHost> = Arc::<TestWorld>::clone(world);
    thread::scope(|scope| {
        scope.spawn(|| run(host));
        let _stop = StopAtEnd(world);
        test(&pool);
    });
}

fn take_offline(pool: &Pool, name: &str) {
    let vitals = pool.find(name).unwrap().vitals();
    let (began, _) = vitals.check_begins();
    let once = Thresholds { fall: 1, rise: 1 };
    vitals.check_ended(began, CheckVerdict::Fails(WRONG), once, 0);
}

/// As the relay does it.
fn suspect(world: &TestWorld, name: &str) {
    let pool = Arc::clone(&world.pool.lock());
    let vitals = pool.find(name).unwrap().vitals();
    vitals.doubt(vitals.epoch(), Doubt::Silent);
    world.wake();
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        thread::park_timeout(Duration::from_millis(2));
    }
}

fn wait_online(pool: &Pool, name: &str) {
    let vitals = pool.find(name).unwrap().vitals();
    wait_until("coming online", || {
        vitals.availability() == Availability::Online
    });
}

fn wait_reason(pool: &Pool, name: &str, reason: OfflineReason) {
    let vitals = pool.find(name).unwrap().vitals();
    wait_until("going offline", || vitals.state().reason == Some(reason));
    assert_eq!(vitals.state().availability, Availability::Offline);
}

#[test]
fn an_offline_upstream_that_works_comes_back() {
    let upstream = Fake::new(Manner::Answer(204));
    let world = world(vec![upstream.spec("a")], health());
    take_offline(&world.pool.lock(), "a");
    with_prober(&world, |pool| wait_online(pool, "a"));
    assert_eq!((upstream.probes.count(), world.results.count()), (1, 1));
    let evidence = world.pool.lock().find("a").unwrap().vitals().evidence();
    assert_eq!(&*evidence, "the probe passed");
}

#[test]
fn rise_successes_are_needed() {
    let upstream = Fake::new(Manner::Answer(204));
    let world = world(
        vec![upstream.spec("a")],
        HealthCheck {
            rise: 2,
            ..health()
        },
    );
    take_offline(&world.pool.lock(), "a");
    with_prober(&world, |pool| wait_online(pool, "a"));
    assert_eq!(upstream.probes.count(), 2);
}

#[test]
fn where_the_probe_passes_through_nobody_its_target_is_not_believed() {
    let upstreams = [403, 302].map(|status| Fake::new(Manner::Answer(status)));
    let specs = vec![upstreams[0].spec("a"), upstreams[1].spec("b")];
    let world = world(specs, health());
    with_prober(&world, |pool| {
        wait_until("the disbelief", || {
            !pool.belief().is_believed(None, Instant::now())
        });
        world.results.wait_for(2);
        assert_eq!(pool.serving().count(), 2);
    });
}

#[test]
fn one_through_which_the_probe_does_not_pass_is_accused_by_another() {
    let (bad, good) = (
        Fake::new(Manner::Answer(403)),
        Fake::new(Manner::Answer(204)),
    );
    let world = world(vec![bad.spec("bad"), good.spec("good")], health());
    with_prober(&world, |pool| {
        wait_reason(pool, "bad", OfflineReason::ProbeStatus(403));
        let evidence = pool.find("bad").unwrap().vitals().evidence();
        assert_eq!(&*evidence, "the probe passes through good");
        bad.status.store(204, Ordering::Relaxed);
        wait_online(pool, "bad");
    });
}

#[test]
fn every_upstream_is_checked_once_at_the_start_and_then_left_alone() {
    let (a, b) = (
        Fake::new(Manner::Answer(204)),
        Fake::new(Manner::Answer(204)),
    );
    let dead = Fake::new(Manner::Answer(500));
    let world = world(vec![a.spec("a"), b.spec("b"), dead.spec("dead")], health());
    with_prober(&world, |_| world.results.wait_for(6));
    // One of them may have been the control.
    assert!((2..=12).contains(&(a.probes.count() + b.probes.count())));
}

#[test]
fn a_suspect_is_checked_and_taken_offline() {
    let (a, b) = (
        Fake::new(Manner::Answer(204)),
        Fake::new(Manner::Answer(204)),
    );
    let world = world(vec![a.spec("a"), b.spec("b")], health());
    with_prober(&world, |pool| {
        world.results.wait_for(2);
        a.status.store(502, Ordering::Relaxed);
        suspect(&world, "a");
        wait_reason(pool, "a", OfflineReason::ProbeStatus(502));
    });
}

#[test]
fn a_suspect_is_checked_until_fall_decides() {
    let (a, b) = (
        Fake::new(Manner::Answer(204)),
        Fake::new(Manner::Answer(204)),
    );
    let health = HealthCheck {
        fall: 2,
        ..health()
    };
    let world = world(vec![a.spec("a"), b.spec("b")], health);
    with_prober(&world, |pool| {
        world.results.wait_for(2);
        a.status.store(502, Ordering::Relaxed);
        suspect(&world, "a");
        wait_reason(pool, "a", OfflineReason::ProbeStatus(502));
    });
    assert!(a.probes.count() >= 3, "{}", a.probes.count());
}

#[test]
fn a_doubt_that_a_round_trip_settles_asks_nobody_beyond_the_upstream() {
    let upstream = Fake::new(Manner::Answer(204));
    let world = world(vec![upstream.spec("a")], health());
    with_prober(&world, |pool| {
        world.results.wait_for(1);
        let vitals = pool.find("a").unwrap().vitals();
        vitals.doubt(vitals.epoch(), Doubt::Truncated);
        world.wake();
        wait_online(pool, "a");
        world.results.wait_for(2);
    });
    assert_eq!(upstream.probes.count(), 1, "that of the start");
}

#[test]
fn with_an_online_interval_a_dead_idle_upstream_is_found() {
    let upstream = Fake::new(Manner::Answer(204));
    let other = Fake::new(Manner::Answer(204));
    let online_interval = Some(Duration::from_millis(100));
    let world = world(
        vec![upstream.spec("a"), other.spec("b")],
        HealthCheck {
            online_interval,
            ..health()
        },
    );
    with_prober(&world, |pool| {
        upstream.probes.wait_for(2);
        assert!(!pool.find("a").unwrap().vitals().is_offline());
        upstream.status.store(503, Ordering::Relaxed);
        wait_reason(pool, "a", OfflineReason::ProbeStatus(503));
    });
}

#[test]
fn silent_upstreams_do_not_delay_the_probes_of_others() {
    let silent: Vec<_> = (0..6).map(|_| Fake::new(Manner::Hold)).collect();
    let good = Fake::new(Manner::Answer(204));
    let named = |(at, upstream): (usize, &Fake)| upstream.spec(&format!("silent{at}"));
    let mut specs: Vec<_> = silent.iter().enumerate().map(named).collect();
    specs.push(good.spec("good"));
    let world = world(specs, health());
    let all: Vec<_> = {
        let pool = world.pool.lock();
        pool.upstreams()
            .iter()
            .map(|one| one.spec.name.clone())
            .collect()
    };
    for name in &all {
        take_offline(&world.pool.lock(), name);
    }
    with_prober(&world, |pool| {
        wait_online(pool, "good");
        for _ in 0..2 {
            take_offline(pool, "good");
            wait_online(pool, "good");
        }
        for upstream in &silent {
            upstream.probes.wait_for(1);
        }
    });
    assert!(silent.iter().all(|upstream| upstream.probes.count() == 1));
}

#[test]
fn an_upstream_added_by_a_reload_is_watched() {
    let (old, new) = (
        Fake::new(Manner::Answer(204)),
        Fake::new(Manner::Answer(204)),
    );
    let world = world(vec![old.spec("old")], health());
    with_prober(&world, |pool| {
        let after = Arc::new(pool.succeeded_by(vec![new.spec("new")]));
        take_offline(&after, "new");
        *world.pool.lock() = Arc::clone(&after);
        wait_online(&after, "new");
    });
    assert!(old.probes.count() <= 1);
}

#[test]
fn a_panic_costs_one_probe() {
    let good = Fake::new(Manner::Answer(204));
    let broken = UpstreamSpec {
        authority: Authority::parse(b"127.0.0.1:1", None).unwrap(),
        ..good.spec("broken")
    };
    let world = world(vec![broken, good.spec("good")], health());
    take_offline(&world.pool.lock(), "broken");
    with_prober(&world, |pool| {
        for _ in 0..4 {
            take_offline(pool, "good");
            wait_online(pool, "good");
        }
    });
    let broken = Arc::clone(world.pool.lock().find("broken").unwrap());
    assert!(broken.vitals().is_offline());
}

#[test]
fn threads_exist_only_while_there_is_something_to_ask() {
    let upstream = Fake::new(Manner::Answer(204));
    let world = world(vec![upstream.spec("a")], health());
    let host: Arc<dyn ProberHost> = Arc::<TestWorld>::clone(&world);
    let mut prober = Prober::new(host);
    assert!(matches!(prober.threads, Threads::None));
    prober.round(Instant::now());
    assert!(matches!(prober.threads, Threads::Some(_)));
    while prober.open > 0 {
        let _answer = TestWorld::wait(&world, PATIENCE);
        prober.round(Instant::now());
    }
    assert!(matches!(prober.threads, Threads::Some(_)));
    prober.round(Instant::now() + KEEP_THREADS);
    assert!(matches!(prober.threads, Threads::None));
}
