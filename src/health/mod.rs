//! The prober: finds out whether upstreams work.
//!
//! A loop on a thread of its caller looks at the pool again and again, and has those probed that
//! are due: the offline ones, the suspects, and, if configured, all. Probes run side by side on a
//! small pool of named threads which exists only while there is something to probe; each upstream
//! has a plan of its own and at most one probe at a time, so a slow one delays nobody.
//!
//! Not here: the meaning of results ([`crate::balance::state`]), resolving names, and who asks for
//! a probe (relay, by [`crate::balance::vitals::Vitals::suspect`]).

mod probe;
mod schedule;
mod threads;
mod transport;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use crate::balance::pool::{Pool, Service};
use crate::balance::reason::OfflineReason;
use crate::balance::state::{Epoch, Transition};
use crate::balance::upstream::{ChangedTo, Upstream};
use crate::balance::vitals::UpstreamId;
use crate::config::health::HealthCheck;
use crate::protocol::target::Authority;

use self::probe::Failure;
use self::schedule::{Due, Outcome, Pace, Plan};
use self::threads::Threads;

/// The longest time between two looks at the pool, for whoever forgets to ring.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// What the prober needs of the rest of the program.
pub trait Surroundings: Send + Sync + 'static {
    /// The pool and the settings as they are now.
    fn current(&self) -> (Arc<Pool>, HealthCheck);

    /// The addresses of an upstream. Called on probe threads; must return by the deadline.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] if the deadline passed; any other kind if there is no address.
    fn resolve(&self, upstream: &Authority, deadline: Instant) -> io::Result<Vec<SocketAddr>>;

    /// A probe has ended. For metrics.
    fn probed(&self, result: Result<(), OfflineReason>);
}

/// How the prober waits.
pub trait Pause {
    /// Returns after `limit`, or earlier when somebody rings, e.g. after
    /// [`crate::balance::vitals::Vitals::suspect`]. `Break`: the program stops.
    fn wait(&self, limit: Duration) -> ControlFlow<()>;
}

/// Probes until `pause` says that the program stops. A probe that runs at that moment comes to its
/// end by its timeout, and its result is dropped.
pub fn run(surroundings: Arc<dyn Surroundings>, pause: &dyn Pause) {
    let mut prober = Prober::new(surroundings);
    loop {
        let limit = prober.round(Instant::now());
        if pause.wait(limit).is_break() {
            break;
        }
    }
}

/// The state of the loop. It must not go away before the loop ends: what it leaves behind is
/// stopped when it is dropped.
struct Prober {
    surroundings: Arc<dyn Surroundings>,
    watches: HashMap<UpstreamId, Arc<Watch>>,
    threads: Threads,
    service: Option<Service>,
    stopped: Arc<AtomicBool>,
}

/// What is remembered of one upstream.
#[derive(Default, Debug)]
struct Watch {
    plan: Mutex<Plan>,
    running: AtomicBool,
}

/// One probe under way. When it is dropped, also by a panic, the upstream can be probed again.
struct Run {
    watch: Arc<Watch>,
    upstream: Arc<Upstream>,
    health: HealthCheck,
    outcome: Outcome,
}

impl Prober {
    fn new(surroundings: Arc<dyn Surroundings>) -> Self {
        Self {
            surroundings,
            watches: HashMap::new(),
            threads: Threads::None,
            service: None,
            stopped: Arc::new(AtomicBool::new(false)),
        }
    }

    /// Has probed what is due; gives the time until the next look.
    fn round(&mut self, now: Instant) -> Duration {
        let (pool, health) = self.surroundings.current();
        self.tell_service(pool.service());
        let mut pause = LOOK_AGAIN;
        let mut is_idle = true;
        for upstream in pool.upstreams() {
            let watch = Arc::clone(self.watches.entry(upstream.id()).or_default());
            match watch.look(now, upstream, &health) {
                Some(Due::Now) => {
                    is_idle = false;
                    self.start(Run::new(watch, upstream, &health), pool.upstreams().len());
                }
                Some(Due::At(due)) => {
                    is_idle = false;
                    pause = pause.min(due.saturating_duration_since(now));
                }
                Some(Due::Never) => {}
                None => is_idle = false,
            }
        }
        if is_idle {
            self.threads = Threads::None;
        }
        if pool.upstreams().len() < self.watches.len() {
            let stays: HashSet<_> = pool
                .upstreams()
                .iter()
                .map(|upstream| upstream.id())
                .collect();
            self.watches.retain(|id, _| stays.contains(id));
        }
        pause
    }

    fn start(&mut self, run: Run, upstreams: usize) {
        let Some(threads) = self.threads.get(upstreams) else {
            return;
        };
        run.watch.running.store(true, Ordering::Relaxed);
        let surroundings = Arc::clone(&self.surroundings);
        let stopped = Arc::clone(&self.stopped);
        threads.spawn(move || run.execute(surroundings.as_ref(), &stopped));
    }

    /// Tells when the pool as a whole begins or ceases to be of use.
    fn tell_service(&mut self, service: Service) {
        let before = self.service.replace(service);
        let same = before.is_none_or(|before| kind(before) == kind(service));
        match service {
            _ if same => {}
            Service::Online(_) => log::info!("upstreams are online again"),
            Service::LastResort(count) => log::warn!(
                "no upstream is online: the last resort are {count} that answer probes, but not \
                 as wanted"
            ),
            Service::Nobody => {
                log::warn!("no upstream is online: requests that need one are answered with 503");
            }
        }
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

impl fmt::Debug for Prober {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prober")
            .field("watches", &self.watches)
            .finish_non_exhaustive()
    }
}

impl Watch {
    /// None: a probe is under way, and whoever asks for another one has to wait for its end.
    fn look(&self, now: Instant, upstream: &Upstream, health: &HealthCheck) -> Option<Due> {
        if self.running.load(Ordering::Acquire) {
            return None;
        }
        let mut plan = self.plan.lock();
        if upstream.vitals().take_suspect() {
            plan.suspect(now);
        }
        Some(plan.look(now, upstream.vitals().epoch(), Pace::new(health, chance())))
    }
}

impl Run {
    fn new(watch: Arc<Watch>, upstream: &Arc<Upstream>, health: &HealthCheck) -> Self {
        let upstream = Arc::clone(upstream);
        Self {
            watch,
            upstream,
            health: health.clone(),
            outcome: Outcome::Failed,
        }
    }

    fn execute(mut self, surroundings: &dyn Surroundings, stopped: &AtomicBool) {
        let began = self.upstream.vitals().epoch();
        let result = probe::probe(&self.upstream.spec, &self.health, &|spec, deadline| {
            surroundings.resolve(&spec.authority, deadline)
        });
        let result = match result {
            _ if stopped.load(Ordering::Relaxed) => return,
            Ok(()) => Ok(()),
            Err(Failure::Upstream(reason)) => Err(reason),
            Err(Failure::NotAsked) => {
                log::debug!("{} could not be probed", self.upstream.spec.name);
                return;
            }
        };
        surroundings.probed(result);
        self.apply(began, result);
    }

    fn apply(&mut self, began: Epoch, result: Result<(), OfflineReason>) {
        let (vitals, health) = (self.upstream.vitals(), &self.health);
        let transition = match result {
            Ok(()) => {
                self.outcome = Outcome::Passed;
                vitals.probe_succeeded(began, health.rise, unix_ms())
            }
            Err(reason) => vitals.probe_failed(began, reason, health.fall, unix_ms()),
        };
        tell(&self.upstream, transition);
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.watch.running.load(Ordering::Relaxed) {
            return;
        }
        let pace = Pace::new(&self.health, chance());
        let epoch = self.upstream.vitals().epoch();
        self.watch
            .plan
            .lock()
            .ended(Instant::now(), self.outcome, epoch, pace);
        self.watch.running.store(false, Ordering::Release);
    }
}

fn tell(upstream: &Upstream, transition: Transition) {
    let Some(change) = upstream.change(transition) else {
        return;
    };
    match change.to() {
        ChangedTo::Online => log::info!("{change}"),
        ChangedTo::Offline(_) => log::warn!("{change}"),
    }
}

fn kind(service: Service) -> std::mem::Discriminant<Service> {
    std::mem::discriminant(&service)
}

/// A number nobody can foretell, from the seeds of the hash maps of std.
fn chance() -> u64 {
    RandomState::new().hash_one(())
}

fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
