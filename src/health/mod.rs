//! The prober: finds out whether upstreams work.
//!
//! A loop on a thread of its caller looks at the pool again and again, and has those checked that are due:
//! suspects at once, the offline ones, those that are new, and, if configured, all. What a check asks, and
//! what the answers mean, is decided by the [`examiner`] alone; this module carries questions out and
//! answers back. Questions are asked side by side on a small pool of named threads which exists only while
//! there is something to ask; each upstream has at most one check at a time, so a slow one delays nobody.
//!
//! Not here: what a verdict does to an upstream ([`crate::balance::state`]), resolving names, and who
//! doubts an upstream (relay, by [`crate::balance::vitals::Vitals::doubt`]).

mod examiner;
mod outliers;
mod question;
mod schedule;
#[cfg(test)]
mod situations;
pub mod survey;
mod threads;
mod transport;

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
use crate::balance::state::Verdict;
use crate::config::health::HealthCheck;
use crate::net::addresses::AddressBook;
use crate::net::dial;
use crate::net::resolve::Resolver;
use crate::protocol::answer::HopFailure;
use crate::protocol::target::Authority;

use self::examiner::{Answer, Ask, Examiner, Moment};
use self::threads::{MOST_THREADS, Threads};

/// How long threads without a question are kept.
const KEEP_THREADS: Duration = Duration::from_secs(10);

/// What the prober needs of the rest of the program.
pub trait Surroundings: Send + Sync + 'static {
    /// The pool and the settings as they are now.
    fn current(&self) -> (Arc<Pool>, HealthCheck);

    /// The addresses of an upstream. Called on probe threads; must return by the deadline.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] if the deadline passed; any other kind if there is no address.
    fn resolve(&self, upstream: &Authority, deadline: Instant) -> io::Result<Vec<SocketAddr>>;

    /// A check has ended. For metrics.
    fn checked(&self, verdict: Verdict);

    /// Ends the wait of [`Pause::wait`]. Called on probe threads.
    fn wake(&self);
}

/// How the prober waits.
pub trait Pause {
    /// Returns after `limit`, or earlier when somebody rings, e.g. after
    /// [`crate::balance::vitals::Vitals::doubt`]. `Break`: the program stops.
    fn wait(&self, limit: Duration) -> ControlFlow<()>;
}

/// The addresses of an upstream, looked up by `names`, in the order of `book`: as [`Surroundings::resolve`]
/// gives them.
///
/// # Errors
/// As there.
pub fn addresses(
    upstream: &Authority,
    names: &Resolver,
    book: Option<&AddressBook>,
    deadline: Instant,
) -> io::Result<Vec<SocketAddr>> {
    match dial::addresses(upstream.host(), names, book, deadline) {
        Ok(found) => {
            let with_port = |ip| SocketAddr::new(ip, upstream.port());
            Ok(found.into_iter().map(with_port).collect())
        }
        Err(HopFailure::DnsTimeout) => Err(io::ErrorKind::TimedOut.into()),
        Err(_) => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Checks until `pause` says that the program stops. A question that is open at that moment comes to its
/// end by its time limit, and its answer is dropped.
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
    examiner: Examiner,
    /// The one that the examiner knows.
    pool: Option<Arc<Pool>>,
    answers: Arc<Mutex<Vec<(Ask, Answer)>>>,
    /// Questions that are not answered yet.
    open: usize,
    threads: Threads,
    /// Since when there was nothing to ask.
    idle_since: Option<Instant>,
    service: Option<Service>,
    stopped: Arc<AtomicBool>,
}

/// A question under way. When it is dropped, also by a panic, there is an answer.
struct Errand {
    ask: Option<Ask>,
    answer: Answer,
    answers: Arc<Mutex<Vec<(Ask, Answer)>>>,
    surroundings: Arc<dyn Surroundings>,
    stopped: Arc<AtomicBool>,
}

impl Prober {
    fn new(surroundings: Arc<dyn Surroundings>) -> Self {
        Self {
            surroundings,
            examiner: Examiner::new(chance),
            pool: None,
            answers: Arc::default(),
            open: 0,
            threads: Threads::None,
            idle_since: None,
            service: None,
            stopped: Arc::new(AtomicBool::new(false)),
        }
    }

    /// Takes answers in and asks what is to be asked; gives the time until the next look.
    fn round(&mut self, now: Instant) -> Duration {
        let (pool, health) = self.surroundings.current();
        if !self
            .pool
            .as_ref()
            .is_some_and(|known| Arc::ptr_eq(known, &pool))
        {
            self.examiner.follow_pool(&pool);
            self.pool = Some(Arc::clone(&pool));
        }
        let moment = Moment {
            pool: &pool,
            health: &health,
            now,
            unix_ms: unix_ms(),
        };
        let answers = std::mem::take(&mut *self.answers.lock());
        self.open -= answers.len();
        for (ask, answer) in answers {
            for next in self.examiner.answered(moment, &ask, answer) {
                self.send(next, &health, pool.upstreams().len());
            }
        }
        let room = MOST_THREADS.saturating_sub(self.open);
        let round = self.examiner.look(moment, room);
        for ask in round.asks {
            self.send(ask, &health, pool.upstreams().len());
        }
        for verdict in self.examiner.take_verdicts() {
            self.surroundings.checked(verdict);
        }
        self.tell_service(pool.service());
        self.rest(now);
        round.pause
    }

    fn send(&mut self, ask: Ask, health: &HealthCheck, upstreams: usize) {
        self.open += 1;
        let mut errand = Errand {
            ask: Some(ask),
            answer: Answer::NotAsked,
            answers: Arc::clone(&self.answers),
            surroundings: Arc::clone(&self.surroundings),
            stopped: Arc::clone(&self.stopped),
        };
        let target = health.target.clone();
        if let Some(threads) = self.threads.get(examiner::most_questions(upstreams)) {
            threads.spawn(move || errand.run(&target));
        }
    }

    /// Lets threads go that nobody needs any more.
    fn rest(&mut self, now: Instant) {
        if self.open > 0 || !self.examiner.is_idle() {
            self.idle_since = None;
        } else if *self.idle_since.get_or_insert(now) + KEEP_THREADS <= now {
            self.threads = Threads::None;
        }
    }

    /// Tells when the pool as a whole begins or ceases to be of use.
    fn tell_service(&mut self, service: Service) {
        let before = self.service.replace(service);
        let same = before.is_none_or(|before| is_some(before) == is_some(service));
        match service {
            _ if same => {}
            Service::By(_) => log::info!("upstreams are in service again"),
            Service::Nobody => log::warn!(
                "no upstream is in service: requests that need one are answered with 503, but for \
                 one a second that tries each"
            ),
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
            .field("examiner", &self.examiner)
            .finish_non_exhaustive()
    }
}

impl Errand {
    fn run(&mut self, target: &crate::config::health::ProbeTarget) {
        let Some(ask) = &self.ask else {
            return;
        };
        if self.stopped.load(Ordering::Relaxed) {
            return;
        }
        self.answer = question::ask(
            &ask.upstream.spec,
            (ask.question, target),
            ask.limit,
            &|spec, deadline| self.surroundings.resolve(&spec.authority, deadline),
        );
        log::debug!(
            "{:?} of {}: it {}",
            ask.question,
            ask.upstream.spec.name,
            self.answer
        );
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        if let Some(ask) = self.ask.take() {
            self.answers.lock().push((ask, self.answer));
            if !self.stopped.load(Ordering::Relaxed) {
                self.surroundings.wake();
            }
        }
    }
}

fn is_some(service: Service) -> bool {
    service != Service::Nobody
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
