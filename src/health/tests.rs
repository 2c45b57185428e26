//! The prober at work, with upstreams on loopback.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::AtomicU16;
use std::thread;

use parking_lot::Condvar;

use crate::balance::state::Availability;
use crate::balance::upstream::UpstreamSpec;
use crate::config::health::ProbeTarget;

use super::*;

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(30);

const WRONG: OfflineReason = OfflineReason::Closed;

/// What an upstream does with probes.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Answer(u16),
    Hold,
}

/// An upstream that answers each connection in the same manner. Its threads end with the process.
struct Fake {
    authority: Authority,
    status: Arc<AtomicU16>,
    probes: Arc<Bell>,
}

/// Counts, and wakes who waits for a count.
#[derive(Default)]
struct Bell {
    count: Mutex<u64>,
    rung: Condvar,
}

struct TestWorld {
    pool: Mutex<Arc<Pool>>,
    health: HealthCheck,
    results: Bell,
}

/// A pause that stops when it is told so.
#[derive(Default)]
struct TestPause {
    stopped: Mutex<Option<()>>,
    rung: Condvar,
}

impl Bell {
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
        let probes = Arc::new(Bell::default());
        let (served, rung) = (Arc::clone(&status), Arc::clone(&probes));
        let serve = move || {
            let mut held = Vec::new();
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                rung.ring();
                let status = served.load(Ordering::Relaxed);
                if status == 0 {
                    held.push(stream);
                } else {
                    answer(stream, status);
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
            authority: self.authority.clone(),
            credentials: None,
            weight: 1,
            priority: 100,
        }
    }
}

fn answer(mut stream: TcpStream, status: u16) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
        head.push(byte[0]);
    }
    drop(write!(stream, "HTTP/1.1 {status} x\r\n\r\n"));
}

impl Surroundings for TestWorld {
    fn current(&self) -> (Arc<Pool>, HealthCheck) {
        (Arc::clone(&self.pool.lock()), self.health.clone())
    }

    fn resolve(&self, upstream: &Authority, _deadline: Instant) -> io::Result<Vec<SocketAddr>> {
        assert_ne!(upstream.port(), 1, "this port is for the test of panics");
        Ok(vec![upstream.to_string().parse().unwrap()])
    }

    fn probed(&self, _result: Result<(), OfflineReason>) {
        self.results.ring();
    }
}

impl Pause for TestPause {
    fn wait(&self, limit: Duration) -> ControlFlow<()> {
        let mut stopped = self.stopped.lock();
        if stopped.is_none() {
            self.rung.wait_for(&mut stopped, limit);
        }
        if stopped.is_some() {
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
        target: ProbeTarget {
            authority: Authority::parse(b"probe.test:80", None).unwrap(),
            path_and_query: "/".into(),
        },
        expect_status: 204,
        fall: 1,
        rise: 1,
        online_interval: None,
    }
}

fn world(specs: Vec<UpstreamSpec>, health: HealthCheck) -> Arc<TestWorld> {
    let pool = Mutex::new(Arc::new(Pool::new(specs)));
    Arc::new(TestWorld {
        pool,
        health,
        results: Bell::default(),
    })
}

/// Runs the prober while `test` runs.
fn with_prober(world: &Arc<TestWorld>, test: impl FnOnce(&Pool)) {
    /// Stops the prober also when the test fails.
    struct Stop<'p>(&'p TestPause);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            *self.0.stopped.lock() = Some(());
            self.0.rung.notify_all();
        }
    }
    let pause = TestPause::default();
    let pool = Arc::clone(&world.pool.lock());
    let surroundings: Arc<dyn Surroundings> = Arc::<TestWorld>::clone(world);
    thread::scope(|scope| {
        scope.spawn(|| run(surroundings, &pause));
        let _stop = Stop(&pause);
        test(&pool);
    });
}

fn take_offline(pool: &Pool, name: &str) {
    let vitals = pool.find(name).unwrap().vitals();
    vitals.probe_failed(vitals.epoch(), WRONG, 1, 0);
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
    wait_until("coming online", || vitals.is_online());
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
fn one_that_answers_another_status_becomes_the_last_resort() {
    let upstream = Fake::new(Manner::Answer(403));
    let world = world(vec![upstream.spec("a")], health());
    take_offline(&world.pool.lock(), "a");
    with_prober(&world, |pool| {
        wait_reason(pool, "a", OfflineReason::ProbeStatus(403));
        assert_eq!(pool.service(), Service::LastResort(1));
        upstream.status.store(204, Ordering::Relaxed);
        wait_online(pool, "a");
    });
}

#[test]
fn an_online_upstream_is_not_probed() {
    let (online, offline) = (Fake::new(Manner::Hold), Fake::new(Manner::Answer(500)));
    let world = world(vec![online.spec("a"), offline.spec("b")], health());
    take_offline(&world.pool.lock(), "b");
    with_prober(&world, |_| world.results.wait_for(2));
    assert_eq!(online.probes.count(), 0);
}

#[test]
fn a_suspect_is_probed_and_taken_offline() {
    let upstream = Fake::new(Manner::Answer(502));
    let world = world(vec![upstream.spec("a")], health());
    with_prober(&world, |pool| {
        pool.find("a").unwrap().vitals().suspect();
        wait_reason(pool, "a", OfflineReason::ProbeStatus(502));
    });
}

#[test]
fn a_suspect_is_probed_until_fall_decides() {
    let upstream = Fake::new(Manner::Answer(502));
    let world = world(
        vec![upstream.spec("a")],
        HealthCheck {
            fall: 2,
            ..health()
        },
    );
    with_prober(&world, |pool| {
        pool.find("a").unwrap().vitals().suspect();
        wait_reason(pool, "a", OfflineReason::ProbeStatus(502));
    });
    let vitals = world.pool.lock().find("a").unwrap().vitals().state();
    assert_eq!(vitals.reason, Some(OfflineReason::ProbeStatus(502)));
    assert!(2 <= upstream.probes.count());
}

#[test]
fn with_an_online_interval_a_dead_idle_upstream_is_found() {
    let upstream = Fake::new(Manner::Answer(204));
    let online_interval = Some(Duration::from_millis(100));
    let world = world(
        vec![upstream.spec("a")],
        HealthCheck {
            online_interval,
            ..health()
        },
    );
    with_prober(&world, |pool| {
        upstream.probes.wait_for(2);
        assert!(pool.find("a").unwrap().vitals().is_online());
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
    for upstream in world.pool.lock().upstreams() {
        let vitals = upstream.vitals();
        vitals.probe_failed(vitals.epoch(), WRONG, 1, 0);
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
    assert_eq!(old.probes.count(), 0);
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
    assert!(
        !world
            .pool
            .lock()
            .find("broken")
            .unwrap()
            .vitals()
            .is_online()
    );
}

#[test]
fn threads_exist_only_while_there_is_something_to_probe() {
    let upstream = Fake::new(Manner::Answer(204));
    let world = world(vec![upstream.spec("a")], health());
    let surroundings: Arc<dyn Surroundings> = Arc::<TestWorld>::clone(&world);
    let mut prober = Prober::new(surroundings);
    let pool = Arc::clone(&world.pool.lock());
    assert_eq!(prober.round(Instant::now()), LOOK_AGAIN);
    assert!(matches!(prober.threads, Threads::None));
    pool.find("a").unwrap().vitals().suspect();
    prober.round(Instant::now());
    assert!(matches!(prober.threads, Threads::Some(_)));
    wait_until("the end of the probe", || {
        prober
            .watches
            .values()
            .all(|watch| !watch.running.load(Ordering::Acquire))
    });
    prober.round(Instant::now());
    assert!(matches!(prober.threads, Threads::None));
}
