//! Workers: threads that serve one connection at a time, over a bounded queue.
//!
//! A worker that finds no job keeps the watch over the waiting connections (see [`super::waiter`]); when
//! it finds some ready it serves the first itself and calls others for the rest. So a lone request
//! wakes one thread. The watch is vacant while that one works, until the next worker has nothing to do.
//! [`super::crew`] says how many run at once.
//!
//! The overseer (see [`overseer`]) sees to it that somebody watches, and that workers are called or
//! started for jobs that wait. Workers leave when they have been idle for a while. An exchange that lasts
//! (a stream, a reader that stalls, an upstream that thinks) would use the workers up one by one; so when
//! requests wait and no worker is free, such a thread stops counting as a worker: it finishes its exchange
//! within the budget of tunnels, and a new thread takes its place. While requests of several clients wait,
//! none of them holds more than half of the workers.
//!
//! An exchange whose next hop has not answered yet is set aside with the waiter, and still counts as one
//! worker: `limits.workers` is how many requests are at work at a time, with a thread or without. Where
//! there is no place for one more, its worker waits itself.
//!
//! A panic costs one connection: it is caught here and counted.

mod locked;
mod overseer;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::config::limits::Limits;
use crate::net::conn::Conn;
use crate::net::log_limiter::LogLimiter;
use crate::net::permits::one_client;
use crate::net::threads;
use crate::protocol::answer::Refusal;
use crate::relay::outcome::{Outcome, Suspended};
use crate::relay::session;
use crate::relay::worker::Worker;
use crate::relay::{Client, Context, Scratch};
use crate::stop::{Notify, Woken};

use super::acceptor::Acceptor;
use super::crew::{Crew, SLOW, Ticket, WorkerSeat};
use super::queue::QueuedJob;
use super::table::Slot;
use super::waiter::{AwaitingAnswer, Back, ReadyClient, ReadyWork, Waiter, WatchGuard};

use self::locked::Locked;
use self::overseer::Overseer;

/// How long a worker without work stays.
const LEAVE_AFTER: Duration = Duration::from_secs(10);
/// How long a connection whose next request is always there is served while others wait, in microseconds.
/// Without an end, a few of them would hold all workers: each of their exchanges is a short one.
const TURN: u64 = 20_000;

/// What is said when there is no thread.
static NO_THREAD: LogLimiter = LogLimiter::new();

/// The workers of a server.
#[derive(Debug)]
pub(super) struct Workers {
    ctx: Arc<Context>,
    waiter: Arc<Waiter>,
    acceptor: Arc<Acceptor>,
    born: Instant,
    state: Mutex<WorkersState>,
    /// Something is at work, or the end.
    notify: Notify,
    /// A thread left.
    left: Condvar,
}

#[derive(Debug)]
struct WorkersState {
    crew: Crew<ReadyClient, AwaitingAnswer>,
    bounds: Bounds,
    overseer: Overseer,
    closing: bool,
}

impl WorkersState {
    /// How many more workers there may be. An exchange that lasts brings its own thread, which it had not
    /// needed so far; and without any worker nobody would make room.
    fn room(&self) -> usize {
        let most = self.bounds.workers;
        let alone = self.crew.staffed() == 0;
        (most + self.crew.answered_lasting())
            .saturating_sub(self.crew.workers())
            .max(usize::from(alone).min(most))
    }
}

/// How many workers there may be, how many jobs may wait, and how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    workers: usize,
    queue: usize,
    patience: Duration,
    /// Workers that run at once, those not counted that wait for a peer: more only wake one another.
    at_once: usize,
}

impl Bounds {
    /// What `limits` says, and for what it leaves open what this machine suggests. Asks the system, so
    /// not for every connection.
    pub(super) fn of(limits: &Limits) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let auto = (64 * cores).clamp(512, 1024);
        let workers = limits.workers.map_or(auto, usize::from);
        Self {
            workers,
            queue: limits.queue.map_or(4 * workers, usize::from),
            patience: limits.queue_timeout,
            at_once: cores,
        }
    }
}

/// Numbers for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct WorkerCounts {
    /// Threads that count as workers.
    pub(super) workers: usize,
    /// Exchanges at work, those that wait for their next hop without a thread included.
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
    pub(super) fn new(
        ctx: Arc<Context>,
        waiter: Arc<Waiter>,
        acceptor: Arc<Acceptor>,
    ) -> Arc<Self> {
        let bounds = Bounds::of(&ctx.snapshot().config.limits);
        Arc::new(Self {
            ctx,
            waiter,
            acceptor,
            born: Instant::now(),
            state: Mutex::new(WorkersState {
                crew: Crew::default(),
                bounds,
                overseer: Overseer::Looks,
                closing: false,
            }),
            notify: Notify::default(),
            left: Condvar::new(),
        })
    }

    /// Puts other bounds in force; threads and jobs beyond them are left alone.
    pub(super) fn set_bounds(&self, bounds: Bounds) {
        self.lock().bounds = bounds;
    }

    fn lock(&self) -> Locked<'_> {
        Locked::new(&self.state, &self.waiter)
    }

    fn now(&self) -> u64 {
        micros(self.born.elapsed())
    }

    fn at(&self, then: Instant) -> u64 {
        micros(then.saturating_duration_since(self.born))
    }

    /// Has a client served as soon as a worker is free; refuses it when too many wait already.
    pub(super) fn submit(&self, ready: ReadyClient) {
        let mut found = ReadyWork {
            clients: vec![ready],
            answers: Vec::new(),
        };
        let mut state = self.lock();
        let refused = self.leave_to_others(&mut state, &mut found, self.now());
        drop(state);
        self.refuse(refused, &Refusal::QueueFull);
    }

    /// As [`Workers::offer`], for who serves nothing of it himself: somebody else is to know of it.
    fn leave_to_others(
        &self,
        state: &mut WorkersState,
        found: &mut ReadyWork,
        now: u64,
    ) -> Vec<ReadyClient> {
        let refused = self.offer(state, found, now);
        self.alert(state);
        refused
    }

    /// Queues what was found and calls workers for it. Clients that find no room are returned.
    fn offer(&self, state: &mut WorkersState, found: &mut ReadyWork, now: u64) -> Vec<ReadyClient> {
        let ReadyWork { clients, answers } = found;
        if clients.is_empty() && answers.is_empty() {
            return Vec::new();
        }
        let room = state.bounds.queue.saturating_sub(state.crew.queued());
        let refused = clients.split_off(room.min(clients.len()));
        for what in clients.drain(..) {
            state.crew.queue(waiting(what, now));
        }
        for what in answers.drain(..) {
            state.crew.answer(what.ticket, now, what);
        }
        self.reinforce(state, now);
        refused
    }

    /// Calls workers for what waits; where there are none to be called, the overseer starts some.
    fn reinforce(&self, state: &mut WorkersState, now: u64) {
        let missing = state.crew.reinforce(now, state.bounds.at_once);
        if missing > 0 && !state.crew.is_active(now) {
            self.rouse(state, Overseer::Looks);
        }
    }

    fn refuse(&self, clients: Vec<ReadyClient>, refusal: &Refusal) {
        for (client, slot) in clients {
            self.waiter.refuse(client, slot, refusal);
        }
    }

    /// Waits until something happens, at most `limit`; adds what is to be served to `found`.
    fn watch(&self, watch: WatchGuard<'_>, limit: Option<Duration>, found: &mut ReadyWork) {
        watch.wait(limit, found);
        if self.waiter.has_rung() {
            self.acceptor.take_in(&mut found.clients);
        }
    }

    /// Starts `count` workers, or as many as there are threads for; returns how many.
    fn start(self: &Arc<Self>, state: &mut Locked<'_>, count: usize) -> usize {
        for started in 0..count {
            // While one is started, others may set exchanges aside.
            if state.room() == 0 {
                return started;
            }
            let (number, seat) = state.crew.join();
            let workers = Arc::clone(self);
            let thread =
                state.unlocked(|| threads::start("worker", move || workers.run(number, &seat)));
            if let Err(error) = thread {
                state.crew.leave(number);
                if state.crew.threads() == 0
                    && let Some(more) = NO_THREAD.allow()
                {
                    state.unlocked(|| {
                        log::error!("no thread to serve requests with: {error}{more}");
                    });
                }
                return started;
            }
        }
        count
    }

    /// One worker: serves jobs until there has been none for a while, or its exchange lasted.
    fn run(self: Arc<Self>, number: usize, seat: &WorkerSeat) {
        let mut scratch = Scratch::default();
        let mut found = ReadyWork::default();
        // However it ends: a worker that is gone and still counts would be waited for for ever.
        let _leaves = Leaves {
            workers: &self,
            number,
        };
        let mut state = self.lock();
        // The end of one task is the beginning of the next.
        let mut now = self.now();
        while let Some(task) = self.next_task(&mut state, (number, seat), &mut found, &mut now) {
            if state.crew.has_work() {
                self.alert(&mut state);
            } else {
                self.rouse(&mut state, Overseer::Dozes);
            }
            let begun = now;
            seat.begun.store(begun, Ordering::Relaxed);
            seat.may_block.store(false, Ordering::Relaxed);
            seat.dials.store(false, Ordering::Relaxed);
            let again = state.unlocked(|| self.serve(task, (number, seat), &mut scratch));
            now = self.now();
            state.crew.note_pace(now.saturating_sub(begun));
            if let Some(again) = again {
                state.crew.queue(waiting(again, now));
            }
            if state.crew.is_lasting(number) {
                break;
            }
        }
    }

    fn next_task(
        &self,
        state: &mut Locked<'_>,
        (number, seat): (usize, &WorkerSeat),
        found: &mut ReadyWork,
        now: &mut u64,
    ) -> Option<Task> {
        loop {
            let most = state.bounds.workers;
            if let Some((_, answer)) = state.crew.take_answer(number, most) {
                return Some(Task::GoOn(answer));
            }
            let fair = most / 2;
            if let Some(job) = state.crew.take(number, fair) {
                return Some(Task::Begin(job));
            }
            state.crew.rest(number);
            // Another had the answer for which this one was started.
            let is_spare = state.crew.workers() > most && state.crew.staffed() > 1;
            if state.closing || is_spare {
                return None;
            }
            if let Some(watch) = self.waiter.try_watch() {
                state.unlocked(|| self.watch(watch, None, found));
                *now = self.now();
                let refused = self.offer(state, found, *now);
                if !refused.is_empty() {
                    self.alert(state);
                    state.unlocked(|| self.refuse(refused, &Refusal::QueueFull));
                }
                continue;
            }
            state.crew.wait(number);
            let woken = state.unlocked(|| seat.called.wait(Some(LEAVE_AFTER)));
            *now = self.now();
            let gives_up = state.crew.give_up_waiting(number) && woken == Woken::TimedOut;
            if gives_up && !state.crew.has_work() {
                return None;
            }
        }
    }

    /// Serves one client; returns it when it has more to say already.
    fn serve(
        &self,
        task: Task,
        (number, seat): (usize, &WorkerSeat),
        scratch: &mut Scratch,
    ) -> Option<ReadyClient> {
        let bench = Bench::new(self, number, seat);
        let mut task = task;
        loop {
            let outcome = self.try_to_serve(task, &bench, scratch);
            let slot = bench.slot.get();
            match outcome {
                Outcome::Park(client) => return self.waiter.park(client, slot),
                Outcome::Yield(client) => return Some((client, slot)),
                Outcome::Linger(client) => {
                    self.waiter.linger(client, slot);
                    return None;
                }
                Outcome::Closed | Outcome::Tunneled => {
                    if let Some(slot) = slot {
                        self.waiter.leave(slot);
                    }
                    return None;
                }
                Outcome::Suspended(suspended) => match self.suspend(suspended, &bench) {
                    Some(waiting) => task = Task::GoOn(waiting),
                    None => return None,
                },
            }
        }
    }

    /// Lets an exchange wait without this worker, or returns it because that goes on with it at once.
    fn suspend(&self, suspended: Box<Suspended>, bench: &Bench<'_>) -> Option<AwaitingAnswer> {
        let Leave::Taken(ticket) = bench.leave.replace(Leave::Allowed) else {
            return None; // It was not asked for.
        };
        let slot = bench.slot.get();
        let back = self.waiter.suspend(AwaitingAnswer {
            suspended,
            slot,
            ticket,
        });
        let waiting = match back {
            Ok(()) => return None,
            Err(Back::Ready(waiting)) => waiting,
            Err(Back::Unwatched(waiting)) => {
                bench.leave.set(Leave::Forbidden);
                waiting
            }
        };
        self.lock().crew.take_up(bench.number, ticket);
        Some(waiting)
    }

    /// Serves one client until it is somebody else's business. A panic costs that client.
    fn try_to_serve(&self, task: Task, bench: &Bench<'_>, scratch: &mut Scratch) -> Outcome {
        let now = bench.seat.begun.load(Ordering::Relaxed);
        let since = match &task {
            Task::Begin(_) => now,
            Task::GoOn(waiting) => self.at(waiting.suspended.since()),
        };
        bench.seat.since.store(since, Ordering::Relaxed);
        let served = match task {
            Task::Begin(job) => {
                let (mut client, slot) = job.what;
                client.has_waited(Duration::from_micros(now.saturating_sub(job.since)));
                bench.slot.set(slot);
                catch_unwind(AssertUnwindSafe(|| {
                    session::serve(&self.ctx, scratch, client, bench)
                }))
            }
            Task::GoOn(waiting) => {
                bench.slot.set(waiting.slot);
                catch_unwind(AssertUnwindSafe(|| {
                    session::resume(&self.ctx, scratch, *waiting.suspended, bench)
                }))
            }
        };
        served.unwrap_or_else(|_panic| {
            self.ctx.metrics.panics.increment();
            if let Leave::Taken(ticket) = bench.leave.replace(Leave::Allowed) {
                self.lock().crew.give_up(ticket);
            }
            Outcome::Closed
        })
    }

    /// Numbers for people.
    pub(super) fn counts(&self) -> WorkerCounts {
        let state = self.lock();
        WorkerCounts {
            workers: state.crew.staffed(),
            busy: state.crew.busy(),
            lasting: state.crew.lasting(),
            queue: state.crew.queued() + state.crew.answered(),
            most_workers: state.bounds.workers,
            most_queued: state.bounds.queue,
        }
    }

    /// How long the request that has waited longest for a worker has done so.
    pub(super) fn oldest_wait(&self) -> Duration {
        let now = self.now();
        Duration::from_micros(self.lock().crew.oldest(now))
    }

    /// Has the overseer see to it that somebody watches.
    pub(super) fn ensure_watched(&self) {
        self.leave_watch(&mut self.lock());
    }

    /// Lets the threads go once their work is done; ends what was `left` waiting for its next hop.
    pub(super) fn close(&self, left: Vec<AwaitingAnswer>) {
        let mut state = self.lock();
        state.closing = true;
        state.crew.call(usize::MAX);
        let answered = state.crew.take_answers();
        for waiting in &left {
            state.crew.give_up(waiting.ticket);
        }
        state.crew.calls.notifies.push(self.notify.clone());
        drop(state);
        self.cut(left.into_iter().chain(answered));
    }

    /// Ends exchanges for which no worker is left.
    fn cut(&self, left: impl IntoIterator<Item = AwaitingAnswer>) {
        let mut scratch = Scratch::default();
        for waiting in left {
            let ended = catch_unwind(AssertUnwindSafe(|| {
                session::resume(&self.ctx, &mut scratch, *waiting.suspended, &Last)
            }));
            drop(ended);
        }
    }

    /// Waits for threads to leave, at most `limit`.
    pub(super) fn wait_a_moment(&self, limit: Duration) {
        let mut state = self.lock();
        self.left.wait_for(state.guard(), limit);
    }

    /// Waits until nothing is served and nobody waits, until `deadline`.
    pub(super) fn wait_until_over(&self, deadline: Instant) -> bool {
        let mut state = self.lock();
        while state.crew.threads() > 0 {
            if self.left.wait_until(state.guard(), deadline).timed_out() {
                return state.crew.threads() == 0;
            }
        }
        true
    }
}

/// Takes a worker out of the crew when dropped.
struct Leaves<'a> {
    workers: &'a Workers,
    number: usize,
}

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.workers.ctx.metrics.panics.increment();
        }
        let mut state = self.workers.lock();
        state.crew.leave(self.number);
        // Whoever counted on this one looks again.
        self.workers.alert(&mut state);
        drop(state);
        self.workers.left.notify_all();
    }
}

/// A worker as its session sees it.
struct Bench<'a> {
    workers: &'a Workers,
    number: usize,
    seat: &'a WorkerSeat,
    slot: Cell<Option<Slot>>,
    /// When the first of its exchanges began.
    begun: u64,
    /// They have lasted for so long that somebody else was to watch meanwhile.
    is_replaced: Cell<bool>,
    /// When this worker last looked whether others wait, or began.
    looked: Cell<u64>,
    leave: Cell<Leave>,
}

/// Whether an exchange may wait without its worker.
#[derive(Clone, Copy, Debug)]
enum Leave {
    Allowed,
    /// It is about to.
    Taken(Ticket),
    /// Its next hop cannot be watched.
    Forbidden,
}

impl<'a> Bench<'a> {
    /// That of a task which begins now.
    fn new(workers: &'a Workers, number: usize, seat: &'a WorkerSeat) -> Self {
        let begun = seat.begun.load(Ordering::Relaxed);
        Self {
            workers,
            number,
            seat,
            slot: Cell::new(None),
            begun,
            is_replaced: Cell::new(false),
            looked: Cell::new(begun),
            leave: Cell::new(Leave::Allowed),
        }
    }
}

impl Worker for Bench<'_> {
    fn may_go_on(&self) -> bool {
        let now = self.workers.now();
        self.seat.begun.store(now, Ordering::Relaxed);
        self.seat.since.store(now, Ordering::Relaxed);
        if now.saturating_sub(self.begun) >= SLOW && !self.is_replaced.replace(true) {
            // Each of them is short, so nobody would notice by himself.
            self.workers.leave_watch(&mut self.workers.lock());
        }
        if now.saturating_sub(self.looked.get()) < TURN {
            return true;
        }
        self.looked.set(now);
        !self.workers.lock().crew.has_work()
    }

    fn takes_over(&self, client: &Client) {
        if let Some(slot) = self.slot.take() {
            self.workers.waiter.dismiss(client, slot);
        }
    }

    fn takes_over_hop(&self, conn: &mut Conn) {
        self.workers.waiter.dismiss_hop(conn);
    }

    fn may_block(&self) {
        if self.seat.may_block.swap(true, Ordering::Relaxed) {
            return;
        }
        let now = self.workers.now();
        let mut state = self.workers.lock();
        self.workers.leave_watch(&mut state);
        if state.crew.has_work() {
            self.workers.reinforce(&mut state, now);
        }
    }

    fn dials(&self) {
        self.seat.dials.store(true, Ordering::Relaxed);
        self.workers.leave_watch(&mut self.workers.lock());
    }

    fn may_suspend(&self, since: Instant) -> bool {
        match self.leave.get() {
            Leave::Allowed => {}
            Leave::Taken(_) | Leave::Forbidden => return false,
        }
        let since = self.workers.at(since);
        let mut state = self.workers.lock();
        let most = state.bounds.workers;
        let ticket = state.crew.set_aside(self.number, since, most);
        if let Some(ticket) = ticket {
            self.leave.set(Leave::Taken(ticket));
        }
        ticket.is_some()
    }
}

/// Whoever ends an exchange that is cut.
struct Last;

impl Worker for Last {
    fn may_go_on(&self) -> bool {
        false
    }

    fn takes_over(&self, _client: &Client) {}

    fn takes_over_hop(&self, _conn: &mut Conn) {}

    fn may_block(&self) {}

    fn dials(&self) {}

    fn may_suspend(&self, _since: Instant) -> bool {
        false
    }
}

/// What a worker is to do.
#[derive(Debug)]
enum Task {
    Begin(QueuedJob<ReadyClient>),
    GoOn(AwaitingAnswer),
}

/// Who waits to be served since `since`, as the crew counts clients.
fn waiting(what: ReadyClient, since: u64) -> QueuedJob<ReadyClient> {
    QueuedJob {
        client: one_client(what.0.address.ip()),
        what,
        since,
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{IpAddr, TcpListener, TcpStream};

    use super::super::systemd::SystemdReporter;
    use super::*;
    use crate::config;
    use crate::net::conn::Conn;
    use crate::net::inherited::ListenerOwner;
    use crate::net::permits::{PerClient, Permits};
    use crate::net::resolve::Resolver;
    use crate::net::socket::TICK;
    use crate::net::systemd_notifier::SystemdNotifier;
    use crate::relay::Arrival;
    use crate::relay::connections::Connections;

    fn workers() -> Arc<Workers> {
        let config = config::parse("listen: 127.0.0.1:0\nupstream: []\n", "c.yaml").unwrap();
        let ctx = Arc::new(Context::new(config, Resolver::default()).unwrap());
        let service = Arc::new(SystemdReporter::new(SystemdNotifier::default()));
        let waiter = Waiter::new(Arc::clone(&ctx), Arc::clone(&service)).unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let listener = (listener, ListenerOwner::ThisProcess);
        let acceptor =
            Acceptor::new((&ctx, &service), &waiter, listener, &Permits::new(1)).unwrap();
        Workers::new(ctx, waiter, acceptor)
    }

    /// A client that has something to say, and its own end.
    fn client() -> (Box<Client>, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let far = TcpStream::connect_timeout(&address, Duration::from_secs(10)).unwrap();
        let (near, address) = listener.accept().unwrap();
        let one = Permits::new(1).take(1).unwrap();
        let of_client = Arc::<PerClient>::default();
        let of_client = of_client.take(IpAddr::from([127, 0, 0, 1]), None).unwrap();
        let conn = Conn::new(near, TICK).unwrap();
        let client = Client::new(
            conn,
            (address, Arrival::Direct),
            (one, of_client),
            &Connections::off(),
        );
        (Box::new(client), far)
    }

    /// Submits a client that has no upstream, or no worker, and closes the workers once it knows.
    fn expect_refused(workers: &Workers, client: Box<Client>, mut far: TcpStream) {
        workers.submit((client, None));
        far.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut start = [0; 12];
        far.read_exact(&mut start).unwrap();
        assert_eq!(start, *b"HTTP/1.1 503");
        workers.close(workers.waiter.end());
    }

    #[test]
    fn a_request_is_refused_in_time_while_no_thread_can_be_had() {
        let workers = workers();
        workers.set_bounds(Bounds {
            workers: 0,
            queue: 1,
            // Not over yet when the overseer first sees it.
            patience: Duration::from_millis(200),
            at_once: 1,
        });
        let overseer = Arc::clone(&workers);
        let overseer = threads::start("overseer", move || overseer.oversee()).unwrap();
        while !workers.waiter.is_watched() {
            std::thread::yield_now();
        }
        let (client, far) = client();
        expect_refused(&workers, client, far);
        overseer.join().unwrap();
    }

    #[test]
    fn nobody_is_refused_because_the_whole_process_stood_still() {
        let mut workers = workers();
        let long_ago = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
        Arc::get_mut(&mut workers).unwrap().born = long_ago;
        let (client, _far) = client();
        let mut state = workers.lock();
        state.crew.queue(waiting((client, None), 0));
        let mut looked = 0;
        workers.dismiss_late(&mut state, &mut looked);
        assert_eq!(state.crew.queued(), 1);
        // But whoever waits while somebody looks is, as before.
        state.bounds.patience = Duration::ZERO;
        while workers.now() == looked {
            std::thread::yield_now();
        }
        workers.dismiss_late(&mut state, &mut looked);
        assert_eq!(state.crew.queued(), 0);
    }

    /// As it happens when two workers watch one after the other, and the first is slower to tell.
    #[test]
    fn whoever_watches_serves_what_another_has_seen() {
        let workers = workers();
        workers.start(&mut workers.lock(), 1);
        while !workers.waiter.is_watched() {
            std::thread::yield_now();
        }
        let (client, mut far) = client();
        far.write_all(b"GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n")
            .unwrap();
        expect_refused(&workers, client, far);
        assert!(workers.wait_until_over(Instant::now() + Duration::from_secs(10)));
    }

    /// As it happens when a worker is done at the very moment in which the overseer has seen something.
    #[test]
    fn what_the_overseer_has_seen_is_told_to_whoever_watches_by_then() {
        const PATIENCE: Duration = Duration::from_secs(10);
        let workers = workers();
        let (client, mut far) = client();
        assert!(workers.waiter.park(client, None).is_none());
        let nobody = &mut ReadyWork::default();
        // Whoever watches first is told of the deadline of that.
        let watch = workers.waiter.try_watch().unwrap();
        watch.wait(Some(Duration::ZERO), nobody);
        let overseer = Arc::clone(&workers);
        let overseer = threads::start("overseer", move || overseer.oversee()).unwrap();
        while !workers.waiter.is_watched() {
            std::thread::yield_now();
        }
        let mut state = workers.lock();
        far.write_all(b"GET").unwrap();
        while workers.waiter.is_watched() {
            std::thread::yield_now();
        }
        // The overseer waits for the lock, and this is the worker.
        let (number, _) = state.crew.join();
        let watch = workers.waiter.try_watch().unwrap();
        drop(state);
        let begun = Instant::now();
        watch.wait(Some(PATIENCE), nobody);
        assert!(begun.elapsed() < PATIENCE, "nobody told it");
        let mut state = workers.lock();
        assert!(state.crew.take(number, 9).is_some());
        state.crew.leave(number);
        drop(state);
        workers.close(workers.waiter.end());
        overseer.join().unwrap();
    }

    #[test]
    fn an_overseer_that_looks_is_not_held_up_by_more_calls() {
        let workers = workers();
        let (client, _far) = client();
        let mut state = workers.lock();
        state.crew.queue(waiting((client, None), 0));
        let mut calls = |overseer| {
            state.overseer = overseer;
            workers.reinforce(&mut state, 0);
            state.crew.calls.take().is_some()
        };
        assert_eq!(
            [calls(Overseer::Rests), calls(Overseer::Looks)],
            [true, false]
        );
    }

    fn is_notified(notify: &Notify) -> bool {
        notify.wait(Some(Duration::ZERO)) == Woken::Notified
    }

    #[test]
    fn whoever_is_called_is_woken_once_the_lock_is_free() {
        let workers = workers();
        let notify = Notify::default();
        let mut state = workers.lock();
        state.crew.calls.notifies.push(notify.clone());
        assert!(!is_notified(&notify));
        assert!(state.unlocked(|| is_notified(&notify)));
        state.crew.calls.notifies.push(notify.clone());
        assert!(!is_notified(&notify));
        drop(state);
        assert!(is_notified(&notify));
    }

    #[test]
    fn requests_that_are_served_as_they_come_rouse_nobody_twice() {
        let workers = workers();
        workers.lock().overseer = Overseer::Rests;
        let served = || {
            workers.rouse(&mut workers.lock(), Overseer::Dozes);
            is_notified(&workers.notify)
        };
        assert_eq!([served(), served()], [true, false]);
        // But whoever may block does.
        let left = || {
            workers.leave_watch(&mut workers.lock());
            is_notified(&workers.notify)
        };
        assert_eq!([left(), left()], [true, false]);
        assert_eq!(workers.lock().overseer, Overseer::Relieves);
    }

    #[test]
    fn a_client_whose_next_request_is_always_there_does_not_keep_the_watch() {
        let workers = workers();
        workers.lock().overseer = Overseer::Rests;
        let seat = WorkerSeat::default();
        seat.begun.store(workers.now(), Ordering::Relaxed);
        let bench = Bench::new(&workers, 0, &seat);
        while workers.now() < bench.begun + SLOW {
            std::thread::yield_now();
        }
        let replaced = || {
            bench.may_go_on();
            is_notified(&workers.notify)
        };
        assert_eq!([replaced(), replaced()], [true, false]);
        assert_eq!(workers.lock().overseer, Overseer::Relieves);
    }

    #[test]
    fn a_worker_that_panics_outside_of_a_session_does_not_count_any_more() {
        let workers = workers();
        let (number, _) = workers.lock().crew.join();
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _leaves = Leaves {
                workers: &workers,
                number,
            };
            panic!("as a test");
        }));
        assert!(panicked.is_err());
        assert_eq!(
            workers.counts(),
            WorkerCounts {
                most_workers: workers.counts().most_workers,
                most_queued: workers.counts().most_queued,
                ..WorkerCounts::default()
            }
        );
        assert_eq!(workers.ctx.metrics.panics.value(), 1);
    }
}
