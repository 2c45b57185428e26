//! Who serves what: the queue of jobs, and the workers that are busy or wait to be called.
//!
//! An exchange that waits for the answer of its next hop needs no worker meanwhile: it is set aside, still
//! counts as one that is served, and is gone on with before anything new is begun. So a worker rarely
//! blocks, and one alone serves many clients with hardly a wake-up. Another is called when what waits is
//! worth it, by what a task takes on average. But only *quick* workers count as being there: one that says
//! that it may block, or has been at its task for [`SLOW`], is waiting for somebody, and another may run in
//! its stead. The one that became idle last is called first; it is the warmest, and the others get the
//! chance to leave.
//!
//! This module knows no clock, no thread and no socket: times are microseconds, jobs are whatever is
//! served.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::net::permits::Permit;
use crate::stop::Alarm;

use super::queue::{Queue, QueuedJob};

/// After so many microseconds an exchange is one that waits: 1 ms.
pub(super) const SLOW: u64 = 1_000;
/// After so many microseconds one that makes a connection waits, too: 200 µs.
pub(super) const DIAL: u64 = 200;
/// An exchange that has lasted this long gives its worker's place up when requests wait: 1 s.
pub(super) const LASTING: u64 = 1_000_000;

/// So many microseconds of work are worth one worker: to wake another for less costs more than it spares.
const WORTH_A_CALL: usize = 400;
/// Tasks whose times the average is of.
const PACES: u64 = 16;

/// The queue and the workers.
#[derive(Debug)]
pub(super) struct Crew<T, A> {
    jobs: Queue<T>,
    /// Exchanges that can go on, and since when.
    answers: VecDeque<(u64, Ticket, A)>,
    posts: Vec<Option<Post>>,
    /// Exchanges without a worker.
    asides: Vec<Option<Unstaffed>>,
    vacant_asides: Vec<usize>,
    /// How many of them count.
    aside: usize,
    /// [`PACES`] times how long a worker took on average lately.
    paces: u64,
    /// Those that wait to be called, the latest last.
    idle: Vec<usize>,
    /// Whom to wake as soon as others may look at the crew again.
    pub(super) calls: Calls,
    /// Exchanges that are served, with a worker or set aside, those that last excepted.
    busy: usize,
    /// How many of them each client has.
    held: HashMap<IpAddr, usize>,
    /// Threads that count as workers, and exchanges set aside.
    workers: usize,
}

/// Who is to be woken.
#[derive(Debug, Default)]
pub(super) struct Calls {
    pub(super) alarms: Vec<Alarm>,
    /// Whoever watches, too.
    pub(super) watcher: bool,
}

impl Calls {
    /// Those since the last time; mostly there is nobody.
    pub(super) fn take(&mut self) -> Option<Self> {
        let is_anybody = self.watcher || !self.alarms.is_empty();
        is_anybody.then(|| std::mem::take(self))
    }
}

/// What an exchange that was set aside is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(usize);

/// What the crew knows of an exchange that was set aside.
#[derive(Debug)]
struct Unstaffed {
    client: IpAddr,
    /// When it began to wait for its next hop, however often somebody has looked at it since.
    since: u64,
    /// It can go on, and waits for a worker.
    is_answered: bool,
    /// It stopped counting, and uses a thread of the budget for what lasts, though it has none.
    lasting: Option<Permit>,
}

impl Unstaffed {
    /// Whether it takes the place of a worker.
    fn counts(&self) -> bool {
        !self.is_answered && self.lasting.is_none()
    }
}

/// What the crew knows of one worker.
#[derive(Debug)]
struct Post {
    seat: Arc<WorkerSeat>,
    serving: Option<IpAddr>,
    /// It stopped counting as a worker, and uses a thread of the budget for what lasts.
    lasting: Option<Permit>,
    /// That of an exchange which lasted while it was set aside, and since when it waited: it goes on here,
    /// and takes it along when it is set aside again.
    kept: Option<(u64, Permit)>,
}

/// Where an exchange is served.
#[derive(Clone, Copy, Debug)]
enum Served {
    AtPost(usize),
    Aside(usize),
}

/// What a worker and the others share without a lock.
#[derive(Debug, Default)]
pub(super) struct WorkerSeat {
    /// There is a job, or the end.
    pub(super) called: Alarm,
    /// When its task began.
    pub(super) begun: AtomicU64,
    /// When its exchange did, or began to wait for its next hop if it was set aside since.
    pub(super) since: AtomicU64,
    /// It may be waiting for a peer.
    pub(super) may_block: AtomicBool,
    /// It makes, or has made, a connection.
    pub(super) dials: AtomicBool,
}

impl<T, A> Default for Crew<T, A> {
    fn default() -> Self {
        Self {
            jobs: Queue::default(),
            answers: VecDeque::new(),
            posts: Vec::new(),
            asides: Vec::new(),
            vacant_asides: Vec::new(),
            aside: 0,
            paces: 0,
            idle: Vec::new(),
            calls: Calls::default(),
            busy: 0,
            held: HashMap::new(),
            workers: 0,
        }
    }
}

impl<T, A> Crew<T, A> {
    /// Adds a job to the end of the queue.
    pub(super) fn queue(&mut self, job: QueuedJob<T>) {
        self.jobs.push(job);
    }

    /// How many jobs wait.
    pub(super) fn queued(&self) -> usize {
        self.jobs.len()
    }

    /// Whether a worker could do something.
    pub(super) fn has_work(&self) -> bool {
        self.answers.len() + self.jobs.len() > 0
    }

    /// How long the job or answer has waited that came first.
    pub(super) fn oldest(&self, now: u64) -> u64 {
        let answer = self.answers.front().map(|(since, ..)| *since);
        let oldest = self.jobs.oldest().into_iter().chain(answer).min();
        oldest.map_or(0, |since| now.saturating_sub(since))
    }

    /// For so long the whole process stood still: that is not counted as waiting.
    pub(super) fn excuse(&mut self, now: u64, time: u64) {
        self.jobs.excuse(now, time);
        for (since, ..) in &mut self.answers {
            *since = since.saturating_add(time).min(now);
        }
    }

    /// The job that came first if it has waited for more than `patience`.
    pub(super) fn overdue(&mut self, now: u64, patience: u64) -> Option<QueuedJob<T>> {
        let is_late = |since| now.saturating_sub(since) > patience;
        self.jobs
            .oldest()
            .is_some_and(is_late)
            .then(|| self.jobs.pop())?
    }

    /// Sets the exchange of worker `number` aside, which waits for its next hop since `since`, unless there
    /// are `most` workers and such exchanges already. The worker has nothing to do then.
    pub(super) fn set_aside(&mut self, number: usize, since: u64, most: usize) -> Option<Ticket> {
        let is_full = self.workers >= most;
        let post = self.post(number)?;
        // Not that of an exchange before it on the same connection.
        let kept = post.kept.take_if(|(before, _)| *before == since);
        if post.lasting.is_some() || (is_full && kept.is_none()) {
            return None;
        }
        let client = post.serving.take()?;
        let lasting = kept.map(|(_, permit)| permit);
        if lasting.is_some() {
            self.release(client);
        } else {
            self.workers += 1;
            self.aside += 1;
        }
        let aside = Unstaffed {
            client,
            since,
            is_answered: false,
            lasting,
        };
        let index = self.vacant_asides.pop().unwrap_or(self.asides.len());
        match self.asides.get_mut(index) {
            Some(vacant) => *vacant = Some(aside),
            None => self.asides.push(Some(aside)),
        }
        Some(Ticket(index))
    }

    /// An exchange that was set aside can go on: until a worker does so it waits like any other.
    pub(super) fn answer(&mut self, ticket: Ticket, now: u64, what: A) {
        if let Some(Some(aside)) = self.asides.get_mut(ticket.0)
            && aside.counts()
        {
            aside.is_answered = true;
            self.workers -= 1;
            self.aside -= 1;
            self.busy -= 1;
        }
        self.answers.push_back((now, ticket, what));
    }

    /// How many can go on.
    pub(super) fn answered(&self) -> usize {
        self.answers.len()
    }

    /// How many of them have a thread of the budget for what lasts, and none at work.
    pub(super) fn answered_lasting(&self) -> usize {
        let lasts = |ticket: &Ticket| {
            let aside = self.asides.get(ticket.0).and_then(Option::as_ref);
            aside.is_some_and(|aside| aside.lasting.is_some())
        };
        let tickets = self.answers.iter().map(|(_, ticket, _)| ticket);
        tickets.filter(|ticket| lasts(ticket)).count()
    }

    /// Gives worker `number` the exchange that can go on and has waited longest for that. One that lasts
    /// makes its worker another thread that does, if there are more than `most` workers.
    pub(super) fn take_answer(&mut self, number: usize, most: usize) -> Option<(Ticket, A)> {
        let (_, ticket, what) = self.answers.pop_front()?;
        self.take_up(number, ticket);
        let post = Served::AtPost(number);
        if self.workers > most
            && let Some(client) = self.serving(number)
            && let Some(permit) = self.take_kept(post)
        {
            self.lasts(post, client, permit);
        }
        Some((ticket, what))
    }

    /// All exchanges that can go on; they count no more.
    pub(super) fn take_answers(&mut self) -> Vec<A> {
        let answers = std::mem::take(&mut self.answers);
        let give_up = |(_, ticket, what)| {
            self.give_up(ticket);
            what
        };
        answers.into_iter().map(give_up).collect()
    }

    /// Worker `number` goes on with what was set aside.
    pub(super) fn take_up(&mut self, number: usize, ticket: Ticket) {
        let Some(aside) = self.remove(ticket) else {
            return;
        };
        if let Some(permit) = aside.lasting {
            self.serves(number, aside.client);
            if let Some(post) = self.post(number) {
                post.kept = Some((aside.since, permit));
            }
            return;
        }
        // What its client holds stays the same.
        self.rest(number);
        self.busy += 1;
        if let Some(post) = self.post(number) {
            post.serving = Some(aside.client);
        }
    }

    /// What was set aside is over.
    pub(super) fn give_up(&mut self, ticket: Ticket) {
        if let Some(aside) = self.remove(ticket)
            && aside.lasting.is_none()
        {
            self.let_go(aside.client);
        }
    }

    fn remove(&mut self, ticket: Ticket) -> Option<Unstaffed> {
        let aside = self.asides.get_mut(ticket.0)?.take()?;
        self.vacant_asides.push(ticket.0);
        if aside.counts() {
            self.workers -= 1;
            self.aside -= 1;
            self.busy -= 1;
        }
        Some(aside)
    }

    /// A new worker.
    pub(super) fn join(&mut self) -> (usize, Arc<WorkerSeat>) {
        let seat = Arc::<WorkerSeat>::default();
        let post = Post {
            seat: Arc::clone(&seat),
            serving: None,
            lasting: None,
            kept: None,
        };
        self.workers += 1;
        let free = self.posts.iter().position(Option::is_none);
        let number = free.unwrap_or(self.posts.len());
        match self.posts.get_mut(number) {
            Some(free) => *free = Some(post),
            None => self.posts.push(Some(post)),
        }
        (number, seat)
    }

    /// A worker leaves.
    pub(super) fn leave(&mut self, number: usize) {
        self.rest(number);
        self.idle.retain(|idle| *idle != number);
        let post = self.posts.get_mut(number).and_then(Option::take);
        if post.is_some_and(|post| post.lasting.is_none()) {
            self.workers -= 1;
        }
    }

    /// Gives worker `number` the job that has waited longest, but one of a client that has `fair` workers
    /// already only when nobody else waits.
    pub(super) fn take(&mut self, number: usize, fair: usize) -> Option<QueuedJob<T>> {
        let job = if self.busy < fair || fair == 0 {
            // Nobody can have so many, or everybody has.
            self.jobs.pop()?
        } else {
            let own = self.serving(number);
            let held = &self.held;
            self.jobs.pop_fairly(|client| {
                let held = held.get(&client).copied().unwrap_or(0);
                held < fair + usize::from(own == Some(client))
            })?
        };
        self.serves(number, job.client);
        Some(job)
    }

    fn serves(&mut self, number: usize, client: IpAddr) {
        if let Some(post) = self.post(number) {
            post.kept = None;
        }
        if self.serving(number) != Some(client) {
            self.rest(number);
            *self.held.entry(client).or_insert(0) += 1;
            self.busy += 1;
            if let Some(post) = self.post(number) {
                post.serving = Some(client);
            }
        }
    }

    /// Worker `number` has nothing to do any more.
    pub(super) fn rest(&mut self, number: usize) {
        let Some(post) = self.post(number) else {
            return;
        };
        post.kept = None;
        let (served, counts) = (post.serving.take(), post.lasting.is_none());
        if let Some(client) = served.filter(|_| counts) {
            self.release(client);
        }
    }

    fn release(&mut self, client: IpAddr) {
        self.busy -= 1;
        self.let_go(client);
    }

    fn let_go(&mut self, client: IpAddr) {
        if let Some(count) = self.held.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                self.held.remove(&client);
            }
        }
    }

    /// Worker `number` waits to be called.
    pub(super) fn wait(&mut self, number: usize) {
        self.idle.push(number);
    }

    /// Worker `number` has waited enough. `false`: it was called.
    pub(super) fn give_up_waiting(&mut self, number: usize) -> bool {
        let place = self.idle.iter().position(|idle| *idle == number);
        place.map(|place| self.idle.remove(place)).is_some()
    }

    /// Calls as many idle workers as there is work for, by what a task takes on average, but no more than
    /// `at_once` quick ones are to run; returns how many are wanted beyond those there are.
    pub(super) fn reinforce(&mut self, now: u64, at_once: usize) -> usize {
        let coming = self.coming();
        let jobs = (self.answers.len() + self.jobs.len()).saturating_sub(coming);
        if jobs == 0 {
            return 0;
        }
        let time = (jobs + coming).saturating_mul(self.pace());
        let useful = time.div_ceil(WORTH_A_CALL).clamp(1, at_once);
        let active = self.quick(now) + coming;
        let wanted = jobs.min(useful.saturating_sub(active));
        wanted - self.call(wanted)
    }

    /// A worker has served for so many microseconds.
    pub(super) fn note_pace(&mut self, took: u64) {
        let took = took.min(SLOW);
        self.paces = self.paces - self.paces / PACES + took;
    }

    /// How long a worker takes on average, in microseconds.
    fn pace(&self) -> usize {
        usize::try_from(self.paces / PACES).unwrap_or(usize::MAX)
    }

    /// Whether somebody is at work, or will be, who does not wait for anything.
    pub(super) fn is_active(&self, now: u64) -> bool {
        self.coming() + self.quick(now) > 0
    }

    /// Workers that are about to look for a job: the one that watches, and whoever was called or started
    /// just now.
    pub(super) fn coming(&self) -> usize {
        self.workers.saturating_sub(self.busy + self.idle.len())
    }

    /// Calls up to `count` idle workers; returns how many there were.
    pub(super) fn call(&mut self, count: usize) -> usize {
        for called in 0..count {
            let Some(number) = self.idle.pop() else {
                return called;
            };
            if let Some(post) = self.post(number) {
                let called = post.seat.called.clone();
                self.calls.alarms.push(called);
            }
        }
        count
    }

    /// Busy workers whose exchange has begun just now.
    fn quick(&self, now: u64) -> usize {
        let posts = self.posts.iter().flatten();
        posts.filter(|post| post.is_quick(now)).count()
    }

    /// Whether a connection that somebody makes takes its time.
    pub(super) fn dials(&self, now: u64) -> bool {
        let posts = self.posts.iter().flatten();
        let mut late = posts.filter(|post| post.serving.is_some() && !post.is_quick(now));
        late.any(|post| post.seat.dials.load(Ordering::Relaxed))
    }

    /// Lets up to `wanted` exchanges that last, or that belong to a client with more than `fair` workers
    /// while others wait, give up their workers' places; returns how many did. `budget` is what their
    /// threads are counted in from now on.
    pub(super) fn make_room(
        &mut self,
        now: u64,
        (wanted, fair): (usize, usize),
        budget: &dyn Fn() -> Option<Permit>,
    ) -> usize {
        let greedy = self.greedy(fair);
        let posts = (0..self.posts.len()).map(Served::AtPost);
        let all = posts.chain((0..self.asides.len()).map(Served::Aside));
        let mut made = 0;
        for which in all {
            if made == wanted {
                break;
            }
            let Some((client, begun)) = self.at_work(which) else {
                continue;
            };
            let lasts = now.saturating_sub(begun) >= LASTING;
            let is_greedy = greedy == Some(client) && self.held_by(client) > fair;
            if !lasts && !is_greedy {
                continue;
            }
            let Some(permit) = self.take_kept(which).or_else(budget) else {
                break;
            };
            self.lasts(which, client, permit);
            made += 1;
        }
        made
    }

    fn take_kept(&mut self, which: Served) -> Option<Permit> {
        match which {
            Served::AtPost(number) => self.post(number)?.kept.take().map(|(_, permit)| permit),
            Served::Aside(_) => None,
        }
    }

    fn lasts(&mut self, which: Served, client: IpAddr, permit: Permit) {
        self.workers -= 1;
        self.release(client);
        match which {
            Served::AtPost(number) => {
                if let Some(post) = self.post(number) {
                    post.lasting = Some(permit);
                }
            }
            Served::Aside(index) => {
                if let Some(Some(aside)) = self.asides.get_mut(index) {
                    aside.lasting = Some(permit);
                    self.aside -= 1;
                }
            }
        }
    }

    /// The client with more than `fair` workers, if others wait; more than one there hardly is.
    fn greedy(&self, fair: usize) -> Option<IpAddr> {
        let mut many = self.held.iter().filter(|(_, held)| **held > fair);
        let (client, _) = many.find(|(client, _)| self.jobs.has_others_than(**client))?;
        Some(*client)
    }

    /// Whether the exchange of worker `number` has given up its place.
    pub(super) fn is_lasting(&self, number: usize) -> bool {
        let post = self.posts.get(number).and_then(Option::as_ref);
        post.is_some_and(|post| post.lasting.is_some())
    }

    /// Whom a worker that counts as one serves, or whose exchange was set aside and counts; since when.
    fn at_work(&self, which: Served) -> Option<(IpAddr, u64)> {
        match which {
            Served::AtPost(number) => {
                let post = self.posts.get(number)?.as_ref()?;
                let counts = post.lasting.is_none();
                let client = post.serving.filter(|_| counts)?;
                Some((client, post.seat.since.load(Ordering::Relaxed)))
            }
            Served::Aside(index) => {
                let aside = self.asides.get(index)?.as_ref()?;
                aside.counts().then_some((aside.client, aside.since))
            }
        }
    }

    fn serving(&self, number: usize) -> Option<IpAddr> {
        self.posts.get(number)?.as_ref()?.serving
    }

    fn held_by(&self, client: IpAddr) -> usize {
        self.held.get(&client).copied().unwrap_or(0)
    }

    fn post(&mut self, number: usize) -> Option<&mut Post> {
        self.posts.get_mut(number)?.as_mut()
    }

    /// Threads that count as workers, and exchanges set aside.
    pub(super) fn workers(&self) -> usize {
        self.workers
    }

    /// Threads that count as workers.
    pub(super) fn staffed(&self) -> usize {
        self.workers - self.aside
    }

    /// Exchanges that are served; those that last excepted.
    pub(super) fn busy(&self) -> usize {
        self.busy
    }

    /// Exchanges that last.
    pub(super) fn lasting(&self) -> usize {
        let posts = self.posts.iter().flatten();
        let asides = self.asides.iter().flatten();
        posts.filter(|post| post.lasting.is_some()).count()
            + asides.filter(|aside| aside.lasting.is_some()).count()
    }

    /// All threads.
    pub(super) fn threads(&self) -> usize {
        self.posts.iter().flatten().count()
    }
}

impl Post {
    fn is_quick(&self, now: u64) -> bool {
        let begun = self.seat.begun.load(Ordering::Relaxed);
        let waits = self.seat.may_block.load(Ordering::Relaxed);
        let counts = self.serving.is_some() && self.lasting.is_none();
        let dials = self.seat.dials.load(Ordering::Relaxed);
        let limit = if dials { DIAL } else { SLOW };
        counts && !waits && now.saturating_sub(begun) < limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::permits::Permits;

    const AT_ONCE: usize = 2;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    /// A crew of `workers` idle ones.
    fn crew(workers: usize) -> Crew<u32, u32> {
        let mut crew = Crew::default();
        take_on_average(&mut crew, WORTH_A_CALL as u64);
        for _ in 0..workers {
            let (number, _) = crew.join();
            crew.wait(number);
        }
        crew
    }

    fn take_on_average(crew: &mut Crew<u32, u32>, micros: u64) {
        crew.paces = PACES * micros;
    }

    fn queue(crew: &mut Crew<u32, u32>, client: u8, what: u32) {
        crew.queue(QueuedJob {
            what,
            client: ip(client),
            since: 0,
        });
    }

    fn begin(crew: &mut Crew<u32, u32>, number: usize, now: u64) -> Option<u32> {
        let job = crew.take(number, 100)?;
        let post = crew.post(number)?;
        post.seat.begun.store(now, Ordering::Relaxed);
        post.seat.since.store(now, Ordering::Relaxed);
        Some(job.what)
    }

    #[test]
    fn the_worker_that_became_idle_last_is_called_first() {
        let mut crew = crew(3);
        queue(&mut crew, 1, 1);
        assert_eq!(crew.reinforce(0, AT_ONCE), 0);
        assert_eq!(crew.idle, [0, 1]);
    }

    #[test]
    fn a_burst_of_quick_requests_wakes_only_a_few() {
        let mut crew = crew(10);
        (0..10).for_each(|job| queue(&mut crew, 1, job));
        crew.reinforce(0, AT_ONCE);
        assert_eq!(crew.idle.len(), 8);
        begin(&mut crew, 8, 0);
        begin(&mut crew, 9, 0);
        // Both are at it, and not for long yet.
        crew.reinforce(SLOW - 1, AT_ONCE);
        assert_eq!(crew.idle.len(), 8);
    }

    #[test]
    fn a_worker_that_waits_for_its_upstream_does_not_keep_another_from_running() {
        let mut crew = crew(4);
        (0..4).for_each(|job| queue(&mut crew, 1, job));
        crew.reinforce(0, AT_ONCE);
        begin(&mut crew, 3, 0);
        begin(&mut crew, 2, 0);
        crew.reinforce(SLOW, AT_ONCE);
        assert_eq!(crew.idle, [] as [usize; 0]);
    }

    #[test]
    fn a_worker_that_comes_anyway_is_enough_for_one_job() {
        let mut crew = crew(2);
        // It watches, or was started just now.
        crew.join();
        queue(&mut crew, 1, 1);
        crew.reinforce(0, AT_ONCE);
        assert_eq!(crew.idle.len(), 2);
        queue(&mut crew, 1, 2);
        crew.reinforce(0, AT_ONCE);
        assert_eq!(crew.idle.len(), 1);
    }

    #[test]
    fn workers_that_do_not_exist_yet_are_said_to_be_wanted() {
        let mut crew = crew(1);
        (0..5).for_each(|job| queue(&mut crew, 1, job));
        assert_eq!(crew.reinforce(0, AT_ONCE), 1);
    }

    #[test]
    fn a_client_with_its_share_of_workers_waits_behind_the_others() {
        let mut crew = crew(4);
        (0..4).for_each(|job| queue(&mut crew, 1, job));
        queue(&mut crew, 2, 20);
        let fair = 2;
        let taken: Vec<u32> = (0..4)
            .filter_map(|number| crew.take(number, fair))
            .map(|job| job.what)
            .collect();
        assert_eq!(taken, [0, 1, 20, 2]);
        // A worker that is done does not count against the client it has served.
        assert_eq!(crew.take(0, fair).unwrap().what, 3);
    }

    #[test]
    fn an_exchange_that_lasts_gives_its_place_up_and_is_counted_elsewhere() {
        let budget = Permits::new(1);
        let mut crew = crew(2);
        queue(&mut crew, 1, 1);
        queue(&mut crew, 1, 2);
        begin(&mut crew, 0, 0);
        begin(&mut crew, 1, 5);
        queue(&mut crew, 1, 3);
        let take = || budget.take(1);
        assert_eq!(crew.make_room(LASTING - 1, (1, 100), &take), 0);
        assert_eq!(
            crew.make_room(LASTING + 5, (2, 100), &take),
            1,
            "the budget"
        );
        assert_eq!((crew.workers(), crew.busy(), crew.lasting()), (1, 1, 1));
        assert!(crew.is_lasting(0));
        crew.leave(0);
        assert_eq!((crew.workers(), crew.busy(), budget.taken()), (1, 1, 0));
    }

    #[test]
    fn a_job_that_waited_too_long_is_taken_out_of_the_queue() {
        let mut crew = crew(0);
        queue(&mut crew, 1, 1);
        assert!(crew.overdue(5, 5).is_none());
        assert_eq!(crew.overdue(6, 5).unwrap().what, 1);
        assert_eq!(crew.queued(), 0);
    }

    #[test]
    fn while_the_whole_process_stands_still_nobody_waits_too_long() {
        let mut crew = crew(0);
        queue(&mut crew, 1, 1);
        crew.excuse(90, 88);
        assert!(crew.overdue(93, 5).is_none());
        assert_eq!(crew.overdue(94, 5).unwrap().what, 1);
        queue(&mut crew, 1, 2);
        crew.excuse(100, 1000);
        assert_eq!(crew.oldest(103), 3, "not longer than it waits");
    }

    #[test]
    fn another_worker_is_called_for_as_much_work_as_is_worth_a_call() {
        let mut crew = crew(4);
        take_on_average(&mut crew, 10);
        let few = WORTH_A_CALL / 10;
        (0..few).for_each(|_| queue(&mut crew, 1, 1));
        crew.reinforce(0, AT_ONCE);
        assert_eq!(crew.idle.len(), 3);
        begin(&mut crew, 3, 0);
        crew.reinforce(0, AT_ONCE);
        assert_eq!(crew.idle.len(), 3);
        (0..few).for_each(|_| queue(&mut crew, 1, 1));
        crew.reinforce(0, AT_ONCE);
        assert_eq!(crew.idle.len(), 2);
    }

    #[test]
    fn the_average_follows_what_workers_take_and_no_single_one_spoils_it() {
        let mut crew = crew(1);
        take_on_average(&mut crew, 16);
        crew.note_pace(1_000_000);
        assert_eq!(crew.pace(), 15 + 1_000 / 16);
        (0..1000).for_each(|_| crew.note_pace(16));
        assert_eq!(crew.pace(), 16);
    }

    #[test]
    fn an_exchange_that_is_set_aside_counts_and_its_worker_serves_somebody_else() {
        let mut crew = crew(1);
        queue(&mut crew, 1, 1);
        queue(&mut crew, 2, 2);
        begin(&mut crew, 0, 0);
        let ticket = crew.set_aside(0, 0, 2).unwrap();
        assert_eq!((crew.workers(), crew.busy(), crew.threads()), (2, 1, 1));
        assert_eq!(begin(&mut crew, 0, 0), Some(2));
        assert_eq!((crew.workers(), crew.busy(), crew.threads()), (2, 2, 1));
        assert!(crew.set_aside(0, 0, 2).is_none(), "there are two");
        crew.answer(ticket, 0, 10);
        assert_eq!((crew.workers(), crew.busy(), crew.answered()), (1, 1, 1));
        crew.rest(0);
        assert_eq!(crew.take_answer(0, 9), Some((ticket, 10)));
        assert_eq!((crew.workers(), crew.busy(), crew.threads()), (1, 1, 1));
        crew.rest(0);
        assert_eq!((crew.workers(), crew.busy()), (1, 0));
        assert!(crew.held.is_empty());
    }

    #[test]
    fn what_can_go_on_goes_before_what_is_new_and_is_never_too_late() {
        let mut crew = crew(1);
        queue(&mut crew, 1, 1);
        begin(&mut crew, 0, 0);
        let ticket = crew.set_aside(0, 0, 9).unwrap();
        queue(&mut crew, 2, 2);
        crew.answer(ticket, 0, 10);
        assert_eq!(
            (crew.queued(), crew.has_work(), crew.oldest(7)),
            (1, true, 7)
        );
        assert!(crew.take_answer(0, 9).is_some() && crew.take_answer(0, 9).is_none());
        assert!(crew.overdue(9, 5).is_some() && crew.overdue(9, 5).is_none());
    }

    #[test]
    fn exchanges_set_aside_count_for_the_share_of_their_client() {
        let mut crew = crew(2);
        (0..3).for_each(|job| queue(&mut crew, 1, job));
        queue(&mut crew, 2, 20);
        let fair = 1;
        assert_eq!(crew.take(0, fair).unwrap().what, 0);
        crew.set_aside(0, 0, 9).unwrap();
        assert_eq!(crew.take(0, fair).unwrap().what, 20);
    }

    #[test]
    fn one_that_lasts_while_it_is_set_aside_gives_its_place_up_too() {
        let budget = Permits::new(1);
        let mut crew = crew(1);
        queue(&mut crew, 1, 1);
        begin(&mut crew, 0, 0);
        let ticket = crew.set_aside(0, 5, 9).unwrap();
        queue(&mut crew, 1, 2);
        let take = || budget.take(1);
        assert_eq!(crew.make_room(LASTING + 4, (1, 100), &take), 0);
        assert_eq!(crew.make_room(LASTING + 5, (1, 100), &take), 1);
        assert_eq!((crew.workers(), crew.busy(), crew.lasting()), (1, 0, 1));
        crew.take_up(0, ticket);
        assert_eq!((crew.workers(), crew.busy(), crew.lasting()), (1, 1, 0));
        crew.rest(0);
        assert_eq!((crew.workers(), crew.busy(), budget.taken()), (1, 0, 0));
    }

    /// Somebody looks at it once a second, whether it lasts or not.
    #[test]
    fn one_that_lasts_needs_no_worker_again_because_somebody_looked_at_it() {
        let budget = Permits::new(1);
        let mut crew = crew(1);
        queue(&mut crew, 1, 1);
        begin(&mut crew, 0, 0);
        let ticket = crew.set_aside(0, 5, 2).unwrap();
        let take = || budget.take(1);
        assert_eq!(crew.make_room(LASTING + 5, (1, 100), &take), 1);
        crew.answer(ticket, LASTING + 6, 10);
        crew.take_answer(0, 9).unwrap();
        assert_eq!((crew.busy(), budget.taken()), (1, 1));
        let ticket = crew.set_aside(0, 5, 1).unwrap();
        assert_eq!((crew.workers(), crew.busy(), crew.lasting()), (1, 0, 1));
        // The next on the same connection has nothing of that.
        crew.take_up(0, ticket);
        assert!(crew.set_aside(0, LASTING + 7, 1).is_none());
        crew.rest(0);
        assert_eq!((crew.workers(), crew.busy(), budget.taken()), (1, 0, 0));
        assert!(crew.held.is_empty());
    }

    #[test]
    fn the_answer_to_one_that_lasts_waits_for_no_worker_of_others() {
        let budget = Permits::new(1);
        let mut crew = crew(1);
        queue(&mut crew, 1, 1);
        begin(&mut crew, 0, 0);
        let ticket = crew.set_aside(0, 5, 2).unwrap();
        assert_eq!(crew.make_room(LASTING + 5, (1, 100), &|| budget.take(1)), 1);
        queue(&mut crew, 2, 2);
        begin(&mut crew, 0, LASTING + 5);
        crew.answer(ticket, LASTING + 6, 10);
        assert_eq!((crew.workers(), crew.answered_lasting()), (1, 1));
        let (number, _) = crew.join();
        assert_eq!(crew.take_answer(number, 1), Some((ticket, 10)));
        assert_eq!((crew.workers(), crew.busy(), crew.lasting()), (1, 1, 1));
        assert!(crew.is_lasting(number));
        crew.leave(number);
        crew.rest(0);
        assert_eq!((crew.workers(), crew.busy(), budget.taken()), (1, 0, 0));
        assert!(crew.held.is_empty());
    }

    #[test]
    fn one_that_was_looked_at_waits_since_it_was_asked() {
        let budget = Permits::new(1);
        let mut crew = crew(1);
        queue(&mut crew, 1, 1);
        begin(&mut crew, 0, 0);
        let ticket = crew.set_aside(0, 5, 2).unwrap();
        crew.answer(ticket, LASTING, 10);
        crew.take_answer(0, 9).unwrap();
        crew.set_aside(0, 5, 2).unwrap();
        let take = || budget.take(1);
        assert_eq!(crew.make_room(LASTING + 5, (1, 100), &take), 1);
    }
}
