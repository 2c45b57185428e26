//! Workers: threads that serve one connection at a time, over a bounded queue.
//!
//! Threads start when requests wait and leave when they have been idle for a while. An exchange that
//! lasts (a stream, a reader that stalls, an upstream that thinks) would use the workers up one by one;
//! so when requests wait and no worker is free, such a thread stops counting as a worker: it finishes
//! its exchange within the budget of tunnels, and a new thread takes its place. While requests of
//! several clients wait, none of them holds more than half of the workers.
//!
//! A panic costs one connection: it is caught here and counted.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};

use crate::config::limits::Limits;
use crate::net::permits::Permit;
use crate::net::threads;
use crate::protocol::answer::Refusal;
use crate::relay::session::{self, Outcome, Worker};
use crate::relay::{Client, Context, Scratch};

/// How long a worker without work stays.
const LEAVE_AFTER: Duration = Duration::from_secs(10);
/// An exchange that has lasted this long gives its worker's place up when requests wait.
const LASTING: Duration = Duration::from_secs(1);
/// How often the overseer looks while requests wait.
const OVERSEE_EVERY: Duration = Duration::from_millis(20);

/// Takes connections that are not to be served now.
pub(super) trait Hold: Send + Sync + std::fmt::Debug {
    /// Idle, or its next head is incomplete.
    fn park(&self, client: Client);
    /// Answered for the last time.
    fn linger(&self, client: Client);
}

/// The workers of a server.
#[derive(Debug)]
pub(super) struct Workers {
    ctx: Arc<Context>,
    state: Mutex<State>,
    /// There is a job, or the end.
    wanted: Condvar,
    /// Jobs wait and nobody is idle, or the end.
    pressed: Condvar,
    /// A thread left.
    left: Condvar,
    bounds: RwLock<Bounds>,
    /// Copies of numbers in `state` that a lingering worker reads without its lock.
    waiting: AtomicUsize,
    idle: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    idle: usize,
    /// Threads that count as workers, idle ones included.
    workers: usize,
    /// All threads, lasting exchanges and the overseer included.
    threads: usize,
    /// What each busy thread does.
    busy: Vec<Arc<Slot>>,
    /// Workers that each client holds.
    held: HashMap<IpAddr, usize>,
    closing: bool,
}

#[derive(Debug)]
struct Job {
    client: Client,
    since: Instant,
}

/// One thread, seen by the others.
#[derive(Debug)]
struct Slot {
    client: IpAddr,
    started: Instant,
    /// Milliseconds after `started` at which its present exchange began.
    exchange: AtomicU64,
    /// It stopped counting as a worker, and uses a thread of the budget for what lasts.
    lasting: AtomicBool,
    budget: Mutex<Option<Permit>>,
}

/// How many workers there may be, how many jobs may wait, and how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    workers: usize,
    queue: usize,
    patience: Duration,
}

impl Bounds {
    /// What `limits` says, and for what it leaves open what this machine suggests. Asks the system, so
    /// not for every connection.
    pub(super) fn of(limits: &Limits) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let auto = (64 * cores).clamp(128, 1024);
        let workers = limits.workers.map_or(auto, usize::from);
        Self {
            workers,
            queue: limits.queue.map_or(4 * workers, usize::from),
            patience: limits.queue_timeout,
        }
    }
}

/// Numbers for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct WorkerCounts {
    /// Threads that count as workers.
    pub(super) workers: usize,
    /// Those of them that serve.
    pub(super) busy: usize,
    /// Threads whose exchange lasts.
    pub(super) lasting: usize,
    /// Connections that wait for a worker.
    pub(super) queue: usize,
    /// Threads that may count as workers.
    pub(super) most_workers: usize,
    /// Connections that may wait.
    pub(super) most_queued: usize,
}

impl Workers {
    pub(super) fn new(ctx: Arc<Context>) -> Arc<Self> {
        Arc::new(Self {
            bounds: RwLock::new(Bounds::of(&ctx.snapshot().config.limits)),
            ctx,
            state: Mutex::default(),
            wanted: Condvar::new(),
            pressed: Condvar::new(),
            left: Condvar::new(),
            waiting: AtomicUsize::new(0),
            idle: AtomicUsize::new(0),
        })
    }

    /// Puts other bounds in force; threads and jobs beyond them are left alone.
    pub(super) fn set_bounds(&self, bounds: Bounds) {
        *self.bounds.write() = bounds;
    }

    fn bounds(&self) -> Bounds {
        *self.bounds.read()
    }

    /// Has `client` served as soon as a worker is free; refuses it when too many wait already.
    pub(super) fn submit(self: &Arc<Self>, client: Client, hold: &Arc<dyn Hold>) {
        let bounds = self.bounds();
        let mut state = self.state.lock();
        if state.jobs.len() >= bounds.queue {
            drop(state);
            return self.refuse(client, &Refusal::QueueFull, hold);
        }
        state.jobs.push_back(Job {
            client,
            since: Instant::now(),
        });
        self.waiting.store(state.jobs.len(), Ordering::Relaxed);
        let enough = state.jobs.len() <= state.idle
            || (state.workers < bounds.workers && self.start(&mut state, hold));
        drop(state);
        if enough {
            self.wanted.notify_one();
        } else {
            self.pressed.notify_one();
        }
    }

    /// Starts a worker. `false`: there is no thread.
    fn start(self: &Arc<Self>, state: &mut State, hold: &Arc<dyn Hold>) -> bool {
        let (workers, to) = (Arc::clone(self), Arc::clone(hold));
        match threads::start("worker", move || workers.run(&to)) {
            Ok(_counted) => {
                state.workers += 1;
                state.threads += 1;
                true
            }
            Err(error) => {
                if state.workers == 0 {
                    log::error!("no thread to serve requests with: {error}");
                }
                false
            }
        }
    }

    /// One worker: serves jobs until there has been none for a while, or its exchange lasted.
    fn run(self: Arc<Self>, hold: &Arc<dyn Hold>) {
        let mut scratch = Scratch::default();
        let mut state = self.state.lock();
        loop {
            let Some(job) = self.next_job(&mut state) else {
                state.workers -= 1;
                break;
            };
            let slot = Arc::new(Slot::new(job.client.address.ip()));
            *state.held.entry(slot.client).or_insert(0) += 1;
            state.busy.push(Arc::clone(&slot));
            drop(state);
            self.serve(job, &slot, &mut scratch, hold);
            state = self.state.lock();
            state.busy.retain(|other| !Arc::ptr_eq(other, &slot));
            if slot.lasting.load(Ordering::Relaxed) {
                break;
            }
            state.release(slot.client);
        }
        state.threads -= 1;
        drop(state);
        self.left.notify_all();
    }

    fn next_job(&self, state: &mut parking_lot::MutexGuard<'_, State>) -> Option<Job> {
        loop {
            if let Some(job) = state.take_job(self.bounds().workers / 2) {
                self.waiting.store(state.jobs.len(), Ordering::Relaxed);
                return Some(job);
            }
            if state.closing {
                return None;
            }
            state.idle += 1;
            self.idle.store(state.idle, Ordering::Relaxed);
            let late = self.wanted.wait_for(state, LEAVE_AFTER).timed_out();
            state.idle -= 1;
            self.idle.store(state.idle, Ordering::Relaxed);
            if late && state.jobs.is_empty() {
                return None;
            }
        }
    }

    fn serve(&self, job: Job, slot: &Slot, scratch: &mut Scratch, hold: &Arc<dyn Hold>) {
        if job.since.elapsed() > self.bounds().patience {
            return self.refuse(job.client, &Refusal::QueueTimeout, hold);
        }
        let bench = Bench {
            workers: self,
            slot,
        };
        let served = catch_unwind(AssertUnwindSafe(|| {
            session::serve(&self.ctx, scratch, job.client, &bench)
        }));
        match served {
            Ok(Outcome::Park(client)) => hold.park(client),
            Ok(Outcome::Linger(client)) => hold.linger(client),
            Ok(Outcome::Closed(_) | Outcome::Tunneled) => {}
            Err(_panic) => self.ctx.metrics.panics.increment(),
        }
    }

    fn refuse(&self, client: Client, refusal: &Refusal, hold: &Arc<dyn Hold>) {
        match session::refuse(&self.ctx, client, refusal) {
            Outcome::Park(client) | Outcome::Linger(client) => hold.linger(client),
            Outcome::Closed(_) | Outcome::Tunneled => {}
        }
    }

    /// The overseer: makes room for those who wait, and tells those who waited too long.
    pub(super) fn oversee(self: &Arc<Self>, hold: &Arc<dyn Hold>) {
        let mut state = self.state.lock();
        while !state.closing {
            if state.jobs.is_empty() {
                self.pressed.wait(&mut state);
                continue;
            }
            let bounds = self.bounds();
            let mut late = Vec::new();
            while let Some(first) = state.jobs.front() {
                if first.since.elapsed() <= bounds.patience {
                    break;
                }
                late.extend(state.jobs.pop_front());
            }
            self.waiting.store(state.jobs.len(), Ordering::Relaxed);
            self.make_room(&mut state, bounds, hold);
            if !late.is_empty() {
                drop(state);
                for job in late {
                    self.refuse(job.client, &Refusal::QueueTimeout, hold);
                }
                state = self.state.lock();
            }
            if !state.jobs.is_empty() && !state.closing {
                self.pressed.wait_for(&mut state, OVERSEE_EVERY);
            }
        }
    }

    /// Lets lasting exchanges give up their workers' places, as many as requests wait.
    fn make_room(self: &Arc<Self>, state: &mut State, bounds: Bounds, hold: &Arc<dyn Hold>) {
        let mut wanted = state.jobs.len().saturating_sub(state.idle);
        while wanted > 0 && state.workers < bounds.workers {
            if !self.start(state, hold) {
                return;
            }
            wanted -= 1;
        }
        let half = bounds.workers / 2;
        let busy = state.busy.clone();
        for slot in busy {
            if wanted == 0 {
                return;
            }
            let greedy = state.held_by(slot.client) > half
                && state
                    .jobs
                    .iter()
                    .any(|job| job.client.address.ip() != slot.client);
            if slot.lasting.load(Ordering::Relaxed) || !(slot.lasts() || greedy) {
                continue;
            }
            let Some(permit) = self.ctx.long_threads.take(1) else {
                return;
            };
            *slot.budget.lock() = Some(permit);
            slot.lasting.store(true, Ordering::Relaxed);
            state.workers -= 1;
            state.release(slot.client);
            if !self.start(state, hold) {
                return;
            }
            wanted -= 1;
        }
    }

    /// Numbers for people.
    pub(super) fn counts(&self) -> WorkerCounts {
        let bounds = self.bounds();
        let state = self.state.lock();
        let lasting = state
            .busy
            .iter()
            .filter(|slot| slot.lasting.load(Ordering::Relaxed))
            .count();
        WorkerCounts {
            workers: state.workers,
            busy: state.busy.len() - lasting,
            lasting,
            queue: state.jobs.len(),
            most_workers: bounds.workers,
            most_queued: bounds.queue,
        }
    }

    /// How long the request that has waited longest for a worker has done so.
    pub(super) fn oldest_wait(&self) -> Duration {
        let state = self.state.lock();
        let first = state.jobs.front();
        first.map_or(Duration::ZERO, |job| job.since.elapsed())
    }

    /// Lets the threads go once their work is done.
    pub(super) fn close(&self) {
        self.state.lock().closing = true;
        self.wanted.notify_all();
        self.pressed.notify_all();
    }

    /// Waits for threads to leave, at most `limit`.
    pub(super) fn wait_a_moment(&self, limit: Duration) {
        let mut state = self.state.lock();
        self.left.wait_for(&mut state, limit);
    }

    /// Waits until nothing is served and nobody waits, until `deadline`.
    pub(super) fn wait_until_over(&self, deadline: Instant) -> bool {
        let mut state = self.state.lock();
        while state.threads > 0 {
            if self.left.wait_until(&mut state, deadline).timed_out() {
                return state.threads == 0;
            }
        }
        true
    }
}

impl State {
    /// The job that has waited longest, but of a client with `fair` workers only when nobody else waits.
    fn take_job(&mut self, fair: usize) -> Option<Job> {
        let index = self
            .jobs
            .iter()
            .position(|job| self.held_by(job.client.address.ip()) < fair)
            .unwrap_or(0);
        self.jobs.remove(index)
    }

    fn held_by(&self, client: IpAddr) -> usize {
        self.held.get(&client).copied().unwrap_or(0)
    }

    fn release(&mut self, client: IpAddr) {
        if let Some(count) = self.held.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                self.held.remove(&client);
            }
        }
    }
}

impl Slot {
    fn new(client: IpAddr) -> Self {
        Self {
            client,
            started: Instant::now(),
            exchange: AtomicU64::new(0),
            lasting: AtomicBool::new(false),
            budget: Mutex::new(None),
        }
    }

    fn lasts(&self) -> bool {
        let began = Duration::from_millis(self.exchange.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(began) >= LASTING
    }
}

/// A worker as its session sees it.
struct Bench<'a> {
    workers: &'a Workers,
    slot: &'a Slot,
}

impl Worker for Bench<'_> {
    fn may_linger(&self) -> bool {
        self.workers.waiting.load(Ordering::Relaxed) == 0
            && self.workers.idle.load(Ordering::Relaxed) > 0
            && !self.slot.lasting.load(Ordering::Relaxed)
    }

    fn exchange_begins(&self) {
        let now = self.slot.started.elapsed().as_millis();
        self.slot
            .exchange
            .store(u64::try_from(now).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}
