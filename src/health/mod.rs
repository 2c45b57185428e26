//! The prober: finds out whether upstreams work.
//!
//! A loop on a thread of its caller looks at the pool again and again, and has those checked that are due:
//! suspects at once, the offline ones, those that are new, and, if configured, all. What a check asks, and
//! what follows from the answers, is decided by the [`examiner`] and its [`rules`] alone; this module carries
//! questions out and answers back. Questions are asked side by side on a small pool of named threads which
//! exists only while there is something to ask; each upstream has at most one check at a time, so a slow one
//! delays no other.
//!
//! Not here: what a verdict does to an upstream ([`crate::balance::state`]), resolving names, and
//! what makes an upstream a suspect (relay, by [`crate::balance::vitals::Vitals::doubt`]).

mod examiner;
mod outliers;
mod question;
mod rules;
mod schedule;
mod socks;
pub mod survey;
mod threads;
#[cfg(feature = "tls")]
mod tls;
mod transport;

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use crate::balance::pool::Pool;
use crate::balance::state::CheckVerdict;
use crate::balance::upstream::UpstreamSpec;
use crate::config::health::{HealthCheck, ProbeTarget};
use crate::net::addresses::AddressBook;
use crate::net::dial;
use crate::net::resolve::Resolver;
use crate::protocol::answer::HopFailure;
use crate::protocol::target::Authority;

use self::examiner::{CheckContext, Examiner, Inquiry};
use self::question::CheckAnswer;
use self::threads::{MOST_THREADS, Threads};

/// In so many steps the share of an upstream grows that came back, at least.
const WARM_UP_STEPS: u32 = 20;

/// How long threads without a question are kept.
const KEEP_THREADS: Duration = Duration::from_secs(10);

/// What the prober needs of the program that runs it.
pub trait ProberHost: Send + Sync + 'static {
    /// The pool and the settings as they are now.
    fn current(&self) -> (Arc<Pool>, HealthCheck);

    /// The addresses of an upstream. Called on probe threads; must return by the deadline.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] if the deadline passed; any other kind if there is no address.
    fn resolve(&self, upstream: &Authority, deadline: Instant) -> io::Result<Vec<SocketAddr>>;

    /// A check has ended. For metrics.
    fn checked(&self, verdict: CheckVerdict);

    /// Returns after `limit`, or earlier after [`ProberHost::wake`] and when a thread has doubted an upstream
    /// ([`crate::balance::vitals::Vitals::doubt`]). `Break`: the program stops.
    fn wait(&self, limit: Duration) -> ControlFlow<()>;

    /// Ends that wait. Called on probe threads.
    fn wake(&self);
}

/// The addresses of an upstream, looked up by `names`, in the order of `book`: as [`ProberHost::resolve`]
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

/// Checks until `host` says that the program stops. A question that is open at that moment comes to its
/// end by its time limit, and its answer is dropped.
pub fn run(host: Arc<dyn ProberHost>) {
    let mut prober = Prober::new(host);
    loop {
        let limit = prober.round(Instant::now());
        if prober.desk.host.wait(limit).is_break() {
            break;
        }
    }
}

/// The state of the loop. It must not go away before the loop ends: what it leaves behind is
/// stopped when it is dropped.
struct Prober {
    examiner: Examiner,
    /// The one that the examiner knows.
    pool: Option<Arc<Pool>>,
    desk: Arc<ProberDesk>,
    /// Questions that are not answered yet.
    open: usize,
    threads: Threads,
    /// Since when there was nothing to ask.
    idle_since: Option<Instant>,
    /// Whether the share of an upstream grows that came back.
    is_warming_up: bool,
    /// Whether an upstream was in service when it was last told.
    serves: Option<bool>,
}

/// What the loop and the probe threads share.
struct ProberDesk {
    host: Arc<dyn ProberHost>,
    answers: Mutex<Vec<(Inquiry, CheckAnswer)>>,
    stopped: AtomicBool,
}

/// A question under way. When it is dropped, also by a panic, there is an answer.
struct Errand {
    inquiry: Inquiry,
    answer: CheckAnswer,
    desk: Arc<ProberDesk>,
}

impl Prober {
    fn new(host: Arc<dyn ProberHost>) -> Self {
        let desk = ProberDesk {
            host,
            answers: Mutex::default(),
            stopped: AtomicBool::new(false),
        };
        Self {
            examiner: Examiner::new(chance),
            pool: None,
            desk: Arc::new(desk),
            open: 0,
            threads: Threads::None,
            idle_since: None,
            is_warming_up: false,
            serves: None,
        }
    }

    /// Takes answers in and asks what is to be asked; gives the time until the next look.
    fn round(&mut self, now: Instant) -> Duration {
        let (pool, health) = self.desk.host.current();
        let known = self.pool.replace(Arc::clone(&pool));
        if known.is_none_or(|known| !Arc::ptr_eq(&known, &pool)) {
            self.examiner.follow_pool(&pool);
        }
        let ctx = CheckContext {
            pool: &pool,
            health: &health,
            now,
            unix_ms: unix_ms(),
        };
        let answers = std::mem::take(&mut *self.desk.answers.lock());
        self.open -= answers.len();
        for (inquiry, answer) in answers {
            let follow = self.examiner.answered(ctx, &inquiry, answer);
            self.send(follow, ctx);
        }
        if !health.slow_start.is_zero() || self.is_warming_up {
            self.is_warming_up = pool.warm_up(now, health.slow_start);
        }
        let room = MOST_THREADS.saturating_sub(self.open);
        let (inquiries, pause) = self.examiner.look(ctx, room);
        self.send(inquiries, ctx);
        for verdict in self.examiner.take_verdicts() {
            self.desk.host.checked(verdict);
        }
        self.tell_service(&pool);
        self.rest(now);
        if self.is_warming_up {
            pause.min(health.slow_start / WARM_UP_STEPS)
        } else {
            pause
        }
    }

    fn send(&mut self, inquiries: Vec<Inquiry>, ctx: CheckContext<'_>) {
        for inquiry in inquiries {
            self.open += 1;
            let mut errand = Errand {
                inquiry,
                answer: CheckAnswer::NotAsked,
                desk: Arc::clone(&self.desk),
            };
            let target = ctx.health.target.clone();
            let (upstreams, groups) = (ctx.pool.upstreams().len(), ctx.pool.groups_count());
            let most = examiner::most_questions(upstreams, groups);
            if let Some(threads) = self.threads.get(most) {
                threads.spawn(move || errand.run(&target));
            }
        }
    }

    /// Lets threads go that have had nothing to do for a while.
    fn rest(&mut self, now: Instant) {
        if self.open > 0 || !self.examiner.is_idle() {
            self.idle_since = None;
        } else if *self.idle_since.get_or_insert(now) + KEEP_THREADS <= now {
            self.threads = Threads::None;
        }
    }

    /// Tells when the pool as a whole begins or ceases to be of use.
    fn tell_service(&mut self, pool: &Pool) {
        let serves = pool.serving().next().is_some();
        match (self.serves.replace(serves), serves) {
            (Some(false), true) => log::info!("upstreams are in service again"),
            (Some(true), false) => log::warn!(
                "no upstream is in service: requests that need one are answered with 503, but for \
                 one a second that tries each"
            ),
            (_, _) => {}
        }
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.desk.stopped.store(true, Ordering::Relaxed);
    }
}

impl Errand {
    fn run(&mut self, target: &ProbeTarget) {
        if self.desk.stopped.load(Ordering::Relaxed) {
            return;
        }
        let Inquiry {
            upstream,
            question,
            limit,
            ..
        } = &self.inquiry;
        let resolve = |spec: &UpstreamSpec, until| self.desk.host.resolve(&spec.authority, until);
        self.answer = question::ask(&upstream.spec, (*question, target), *limit, &resolve);
        log::debug!("{question:?} of {}: it {}", upstream.spec.name, self.answer);
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        let answered = (self.inquiry.clone(), self.answer);
        self.desk.answers.lock().push(answered);
        if !self.desk.stopped.load(Ordering::Relaxed) {
            self.desk.host.wake();
        }
    }
}

/// A number that cannot be foretold, from the seeds of the hash maps of std.
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
