//! Names to addresses, off the workers and under a deadline.
//!
//! The system's resolver blocks for as long as it likes and cannot be told to stop. So threads of their own
//! ask it, a worker waits for the answer only until its connect deadline, and answers are
//! kept for a fixed time: 30 s when there are addresses, 2 s when there are none. Addresses that are
//! older, but not older than 10 minutes, are used while they are asked for anew, and when there
//! is no answer: a name server that is down for a while takes nothing else down. Names that are sure to be
//! asked for again ([`Resolver::keep`]) are renewed before their time is over, so no request waits for them.
//!
//! Clients choose names, and may know some whose name servers say nothing. So there are as many threads as
//! there are look-ups under way, up to a limit, of which each client and each domain may have a share
//! ([`super::shares`]). A look-up that has an answer neither way after 5 s is *silent*: it is not
//! waited for any more, and moves to as many places again, by the same shares, where it takes none from
//! others. While it hangs, and for a while after that, a caller that asks for that name is told so at once.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::log_limiter::LogLimiter;
use super::permits::one_client;
use super::shares::{ClientOrSelf, HostName, LineTurn, Shares, WaitingNames};
use super::threads;

/// How long a look-up may take before it is not waited for any more.
const SILENT_AFTER: Duration = Duration::from_secs(5);
/// How much later than it should a wait may end; later, the whole process stood still meanwhile.
const SLACK: Duration = Duration::from_millis(250);
/// How long an answer that may have come meanwhile is waited for then.
const AFTER_STANDSTILL: Duration = Duration::from_secs(1);
/// How long addresses are used.
const KEEP: Duration = Duration::from_secs(30);
/// How long addresses are used while newer ones are asked for.
const KEEP_STALE: Duration = Duration::from_secs(600);
/// How long a failure is remembered.
const KEEP_FAILURE: Duration = Duration::from_secs(2);
/// How old the addresses of a kept name get: it is asked for again before their time is over.
const RENEW_AFTER: Duration = Duration::from_secs(25);
/// The longest pause between attempts at a kept name that has no address, or at one whose name server is
/// silent, as a power of two of [`KEEP_FAILURE`].
const DOUBLINGS: u32 = 4;
/// Names remembered; beyond this, expired ones are dropped, then all.
const MOST_NAMES: usize = 4096;
/// Addresses used of one name; a name server may list thousands.
const MOST_ADDRESSES: usize = 32;
/// How long a thread waits for another name before it leaves.
const LEAVE_AFTER: Duration = Duration::from_secs(10);
/// The stack of a thread, in bytes: there may be many, and all they do is ask the system.
const LOOK_UP_STACK: usize = 512 * 1024;

/// What is said when there is no thread.
static NO_THREAD: LogLimiter = LogLimiter::new();

/// Why a name has no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResolveError {
    /// The system says that there is none (or that it cannot ask).
    NoAddress,
    /// No answer before the deadline, or none for so long that it is not waited for.
    TimedOut,
}

/// The addresses of a name, shared by all who ask for it.
pub type Addresses = Arc<[IpAddr]>;

/// The look-up, as a function so that tests can hang it.
type LookUpFn = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

/// The resolver: a cache and the threads behind it.
#[derive(Clone)]
pub struct Resolver {
    shared: Arc<ResolverState>,
    asker: ClientOrSelf,
}

struct ResolverState {
    ask: Arc<LookUpFn>,
    /// How old a kept name gets.
    renew_after: Duration,
    table: Mutex<NameTable>,
    wanted: Condvar,
}

#[derive(Default)]
struct NameTable {
    names: HashMap<HostName, NameEntry>,
    lines: WaitingNames,
    /// In the order in which they began; each has a thread.
    under_way: Vec<LookUp>,
    threads: usize,
    idle: usize,
}

/// A name that the system is asked for.
struct LookUp {
    asker: ClientOrSelf,
    name: HostName,
    begun: Instant,
}

impl LookUp {
    /// From when on it is not waited for any more.
    fn silent_at(&self) -> Instant {
        self.begun + SILENT_AFTER
    }
}

/// A name: what is known of it, and whether it is being asked for.
#[derive(Default)]
struct NameEntry {
    known: Option<KnownAnswer>,
    /// It is being asked for, or stands in a line; where its answer is waited for.
    asked: Option<Arc<Condvar>>,
    /// A thread asks.
    is_under_way: bool,
    /// In a row.
    failures: u32,
    /// When it is asked for again though no client wants it; `None`: it is not.
    renew_at: Option<Instant>,
}

struct KnownAnswer {
    answer: LookUpAnswer,
    fresh_until: Instant,
    usable_until: Instant,
}

/// Why a name is not asked for.
enum NotAsked {
    /// It would not be answered in time.
    NoAnswer,
    NoThread(io::Error),
}

impl NotAsked {
    /// What the caller is told. Says so in the log, too, which may take its time: not under the lock.
    fn report(self) -> ResolveError {
        match self {
            Self::NoAnswer => ResolveError::TimedOut,
            Self::NoThread(error) => {
                if let Some(more) = NO_THREAD.allow() {
                    log::warn!("no thread to resolve names with: {error}{more}");
                }
                ResolveError::NoAddress
            }
        }
    }
}

type LookUpAnswer = Result<Addresses, ResolveError>;

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

impl Default for Resolver {
    fn default() -> Self {
        Self::asking(|name| {
            // The port is of no interest: the system wants one, and it does not change the answer.
            Ok((name, 0).to_socket_addrs()?.map(|addr| addr.ip()).collect())
        })
    }
}

impl Resolver {
    /// A resolver that asks `ask`, which may block.
    pub fn asking(ask: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Self {
        Self::sharing(Arc::new(ask), RENEW_AFTER)
    }

    /// One that asks the same, with a table and threads of its own: what fills up this one does not keep
    /// that one from answering.
    #[must_use = "this one is not changed"]
    pub fn apart(&self) -> Self {
        Self::sharing(Arc::clone(&self.shared.ask), self.shared.renew_after)
    }

    /// This one, as `client` asks it: what that one asks for counts for its share.
    #[must_use = "this one is not changed"]
    pub fn asked_by(&self, client: IpAddr) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            asker: Some(one_client(client)),
        }
    }

    /// One that asks the same, with another idea of how old the addresses of kept names may get.
    #[must_use = "this one is not changed"]
    pub fn renewing_after(&self, pause: Duration) -> Self {
        Self::sharing(Arc::clone(&self.shared.ask), pause)
    }

    fn sharing(ask: Arc<LookUpFn>, renew_after: Duration) -> Self {
        Self {
            shared: Arc::new(ResolverState {
                ask,
                renew_after,
                table: Mutex::default(),
                wanted: Condvar::new(),
            }),
            asker: None,
        }
    }

    /// The addresses of `name`, in the system's order (RFC 6724); never empty.
    ///
    /// # Errors
    /// [`ResolveError::TimedOut`] when `deadline` passes first, or there was no answer for long.
    pub fn addresses(&self, name: &str, deadline: Instant) -> Result<Addresses, ResolveError> {
        let no_answer = Err(ResolveError::TimedOut);
        self.addresses_by(name, deadline).unwrap_or(no_answer)
    }

    /// The same for a caller that has something else to do from `until` on. `None`: there is no answer yet.
    pub fn addresses_by(
        &self,
        name: &str,
        mut until: Instant,
    ) -> Option<Result<Addresses, ResolveError>> {
        let mut table = self.shared.table.lock();
        loop {
            let now = Instant::now();
            let known = table.names.get(name).and_then(|entry| entry.known.as_ref());
            let usable = known.filter(|known| known.usable_until > now);
            let answer = usable.map(|known| known.answer.clone());
            if usable.is_some_and(|known| known.fresh_until > now) {
                return answer;
            }
            let asked = self.have_asked(&mut table, name, now);
            let (answered, silent_at) = match (answer, asked) {
                (None, Ok(asked)) => asked,
                (answer, asked) => {
                    drop(table);
                    let failure = asked.err().map(|why| Err(why.report()));
                    return answer.or(failure);
                }
            };
            if until <= now {
                return None;
            }
            let wait_until = until.min(silent_at);
            answered.wait_until(&mut table, wait_until);
            let now = Instant::now();
            if now > wait_until + SLACK {
                // The threads that ask stood still, too, and are about to read what was answered meanwhile.
                table.begin_anew(now);
                until = until.max(now + AFTER_STANDSTILL);
            }
        }
    }

    /// The addresses of `name`, if they are known and can be used; the system is not asked.
    pub fn known(&self, name: &str) -> Option<Addresses> {
        let table = self.shared.table.lock();
        let known = table.names.get(name)?.known.as_ref()?;
        let is_usable = known.usable_until > Instant::now();
        known.answer.clone().ok().filter(|_| is_usable)
    }

    /// Asks for these names now and again and again, until others are named.
    pub fn keep<N: AsRef<str>>(&self, names: impl IntoIterator<Item = N>) {
        let mut table = self.shared.table.lock();
        for entry in table.names.values_mut() {
            entry.renew_at = None;
        }
        for name in names {
            let entry = table.names.entry(name.as_ref().into()).or_default();
            entry.renew_at = Some(Instant::now());
        }
        if table.next_renewal().is_some() {
            let called = self.shared.call(&mut table);
            drop(table);
            if let Err(error) = called {
                log::debug!("no thread renews names: {error}");
                NotAsked::NoThread(error).report();
            }
        }
    }

    /// Sees to it that a name is asked for. Says where its answer can be waited for, and when that is to be
    /// looked at again.
    fn have_asked(
        &self,
        table: &mut NameTable,
        name: &str,
        now: Instant,
    ) -> Result<(Arc<Condvar>, Instant), NotAsked> {
        let entry = table.names.get(name);
        let asked = entry.and_then(|entry| entry.asked.clone());
        let answered = match asked {
            Some(answered) if entry.is_some_and(|entry| entry.is_under_way) => {
                let silent_at = table.silent_at(name).filter(|at| *at > now);
                return Ok((answered, silent_at.ok_or(NotAsked::NoAnswer)?));
            }
            // The client that has it in line may not have a share left.
            Some(answered) => answered,
            None => Arc::default(),
        };
        table.line_up(self.asker, name, &answered)?;
        self.shared.call(table).map_err(NotAsked::NoThread)?;
        Ok((answered, now + SILENT_AFTER))
    }
}

impl NameTable {
    /// Has a name wait for a thread.
    fn line_up(
        &mut self,
        asker: ClientOrSelf,
        name: &str,
        answered: &Arc<Condvar>,
    ) -> Result<(), NotAsked> {
        if !self.lines.has_room(asker, name) {
            let names = &mut self.names;
            self.lines.take(|_, name| {
                if is_wanted(names, name) {
                    LineTurn::Later
                } else {
                    LineTurn::Never
                }
            });
            if !self.lines.has_room(asker, name) {
                return Err(NotAsked::NoAnswer);
            }
        }
        if self.names.len() >= MOST_NAMES {
            self.forget_some();
        }
        let name = HostName::from(name);
        self.lines.push(asker, &name);
        let entry = self.names.entry(name).or_default();
        entry.asked = Some(Arc::clone(answered));
        Ok(())
    }

    /// Takes the next name out of the lines, if a look-up may begin.
    fn begin(&mut self, now: Instant) -> Option<HostName> {
        let names = &mut self.names;
        let shares = shares(&self.under_way, now);
        let next = self.lines.take(|asker, name| match is_wanted(names, name) {
            true if shares.admits(asker, name) => LineTurn::Now,
            true => LineTurn::Later,
            false => LineTurn::Never,
        });
        let (asker, name) = next?;
        let entry = self.names.get_mut(&name)?;
        entry.is_under_way = true;
        self.under_way.push(LookUp {
            asker,
            name: Arc::clone(&name),
            begun: now,
        });
        Some(name)
    }

    /// A thread has asked.
    fn end(&mut self, name: &HostName, answer: LookUpAnswer, renew_after: Duration) {
        let now = Instant::now();
        let is_silent = self.silent_at(name).is_some_and(|at| at <= now);
        self.under_way.retain(|look_up| look_up.name != *name);
        let entry = self.names.entry(Arc::clone(name)).or_default();
        let answer = if is_silent {
            answer.or(Err(ResolveError::TimedOut))
        } else {
            answer
        };
        entry.learn(answer, now);
        entry.renew_after(renew_after, now);
        entry.is_under_way = false;
        if let Some(answered) = entry.asked.take() {
            answered.notify_all();
        }
    }

    fn silent_at(&self, name: &str) -> Option<Instant> {
        let mut all = self.under_way.iter();
        Some(all.find(|look_up| &*look_up.name == name)?.silent_at())
    }

    /// When the next look-up becomes silent.
    fn next_silent(&self, now: Instant) -> Option<Instant> {
        let all = self.under_way.iter().map(LookUp::silent_at);
        all.filter(|at| *at > now).min()
    }

    /// The process stood still: no look-up had a chance.
    fn begin_anew(&mut self, now: Instant) {
        for look_up in &mut self.under_way {
            look_up.begun = now;
        }
    }

    /// Makes room for names: expired ones are dropped, then all that are not asked for at the moment.
    fn forget_some(&mut self) {
        let now = Instant::now();
        let is_fresh = |known: &KnownAnswer| known.fresh_until > now;
        let is_needed = |entry: &NameEntry| entry.asked.is_some() || entry.renew_at.is_some();
        self.names
            .retain(|_, entry| is_needed(entry) || entry.known.as_ref().is_some_and(is_fresh));
        if self.names.len() >= MOST_NAMES {
            self.names.retain(|_, entry| is_needed(entry));
        }
    }

    /// When the next kept name is to be asked for.
    fn next_renewal(&self) -> Option<Instant> {
        let entries = self.names.values().filter(|entry| entry.asked.is_none());
        entries.filter_map(|entry| entry.renew_at).min()
    }

    /// Lines up the kept names whose time has come.
    fn renew(&mut self, now: Instant) {
        for (name, entry) in &mut self.names {
            if entry.renew_at.is_some_and(|at| at <= now) && entry.asked.is_none() {
                entry.asked = Some(Arc::default());
                self.lines.push(None, name);
            }
        }
    }
}

/// Whether a name that stands in a line is still to be asked for: it may not be waited for any more, or a
/// thread may ask already because it stood in another line, too.
fn is_wanted(names: &mut HashMap<HostName, NameEntry>, name: &str) -> bool {
    let Some(entry) = names.get_mut(name) else {
        return false;
    };
    let Some(answered) = entry.asked.as_ref().filter(|_| !entry.is_under_way) else {
        return false;
    };
    let is_renewed = matches!(&entry.known, Some(known) if known.answer.is_ok());
    let is_wanted = is_renewed || entry.renew_at.is_some() || Arc::strong_count(answered) > 1;
    if !is_wanted {
        entry.asked = None;
    }
    is_wanted
}

/// What is taken of the places for look-ups. Silent ones take none as long as they have places of their own.
fn shares(under_way: &[LookUp], now: Instant) -> Shares<'_> {
    let (mut shares, mut silent) = (Shares::default(), Shares::default());
    for look_up in under_way {
        let LookUp { asker, name, .. } = look_up;
        let is_silent = look_up.silent_at() <= now && silent.admits(*asker, name);
        let places = if is_silent { &mut silent } else { &mut shares };
        places.add(*asker, name);
    }
    shares
}

impl ResolverState {
    /// Has a thread look at what is to be asked for. An error: there is none at all.
    fn call(self: &Arc<Self>, table: &mut NameTable) -> io::Result<()> {
        if table.idle > 0 {
            self.wanted.notify_one();
            return Ok(());
        }
        if table.threads > table.under_way.len() {
            return Ok(()); // One is on its way.
        }
        let shared = Arc::clone(self);
        match threads::start_with_stack(LOOK_UP_STACK, "resolver", move || shared.run()) {
            Ok(_detached) => table.threads += 1,
            Err(error) if table.threads == 0 => return Err(error),
            Err(_) => {} // The ones there are will do it.
        }
        Ok(())
    }

    /// One resolver thread: asks for names until there has been none for a while. One that does not ask
    /// stays as long as there are names to keep, and a resolver to keep them for.
    fn run(self: &Arc<Self>) {
        let mut table = self.table.lock();
        let mut leave_at = Instant::now() + LEAVE_AFTER;
        loop {
            let now = Instant::now();
            if let Some(name) = table.begin(now) {
                if !table.lines.is_empty() {
                    // This thread is one, so there is no error.
                    drop(self.call(&mut table));
                }
                drop(table);
                let answer = self.ask(&name);
                table = self.table.lock();
                table.end(&name, answer, self.renew_after);
                leave_at = Instant::now() + LEAVE_AFTER;
                continue;
            }
            let renewal = table.next_renewal();
            if renewal.is_some_and(|at| at <= now) {
                table.renew(now);
                continue;
            }
            // The names that wait in line may go on then.
            let silent = table.next_silent(now).filter(|_| !table.lines.is_empty());
            let until = renewal.into_iter().chain(silent).fold(leave_at, Ord::min);
            table.idle += 1;
            let late = self.wanted.wait_until(&mut table, until).timed_out();
            table.idle -= 1;
            if !late || Instant::now() < leave_at {
                continue;
            }
            let is_kept =
                renewal.is_some() && table.idle == 0 && Arc::strong_count(self) > table.threads;
            if table.lines.is_empty() && !is_kept {
                table.threads -= 1;
                return;
            }
            leave_at = Instant::now() + LEAVE_AFTER;
        }
    }

    fn ask(&self, name: &str) -> LookUpAnswer {
        // A thread that is gone would be waited for.
        let asked = catch_unwind(AssertUnwindSafe(|| (self.ask)(name)));
        match asked.unwrap_or_else(|_panic| Err(io::Error::other("the look-up panicked"))) {
            Ok(addresses) if !addresses.is_empty() => Ok(distinct(addresses)),
            Ok(_) => Err(ResolveError::NoAddress),
            Err(error) => {
                log::debug!("no address for {name}: {error}");
                Err(ResolveError::NoAddress)
            }
        }
    }
}

impl NameEntry {
    /// Takes an answer in. A failure does not replace addresses that can still be used.
    fn learn(&mut self, answer: LookUpAnswer, now: Instant) {
        self.failures = match &answer {
            Ok(_) => 0,
            Err(_) => self.failures.saturating_add(1),
        };
        let (fresh, usable) = match &answer {
            Ok(_) => (KEEP, KEEP_STALE),
            Err(ResolveError::NoAddress) => (KEEP_FAILURE, KEEP_FAILURE),
            Err(ResolveError::TimedOut) => (self.growing_pause(), self.growing_pause()),
        };
        let fresh_until = now + fresh;
        let is_usable = |known: &KnownAnswer| known.answer.is_ok() && known.usable_until > now;
        match &mut self.known {
            Some(known) if answer.is_err() && is_usable(known) => known.fresh_until = fresh_until,
            known => {
                *known = Some(KnownAnswer {
                    answer,
                    fresh_until,
                    usable_until: now + usable,
                });
            }
        }
    }

    /// Notes when a kept name is asked for again: after `pause`, or, if there was no address, sooner and
    /// less and less often.
    fn renew_after(&mut self, pause: Duration, now: Instant) {
        let pause = match self.failures {
            0 => pause,
            _ => self.growing_pause(),
        };
        self.renew_at = self.renew_at.map(|_| now + pause);
    }

    /// Longer after each failure.
    fn growing_pause(&self) -> Duration {
        KEEP_FAILURE * 2_u32.pow(self.failures.saturating_sub(1).min(DOUBLINGS))
    }
}

/// The first addresses, each once: the system lists one for each type of socket.
fn distinct(addresses: Vec<IpAddr>) -> Addresses {
    let mut seen = HashSet::new();
    let distinct = addresses
        .into_iter()
        .filter(|address| seen.insert(*address));
    distinct.take(MOST_ADDRESSES).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn a_known_name_is_not_asked_for_again() {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let resolver = Resolver::asking(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(vec![[192, 0, 2, 1].into(), [192, 0, 2, 1].into()])
        });
        for _ in 0..3 {
            let addresses = resolver.addresses("a.test", soon()).unwrap();
            assert_eq!(*addresses, [IpAddr::from([192, 0, 2, 1])]);
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_kept_name_is_renewed_though_nobody_asks_for_it_and_nobody_waits_for_it() {
        let (said, asked) = std::sync::mpsc::channel();
        let (release, hold) = std::sync::mpsc::channel::<()>();
        let (said, hold) = (Mutex::new(said), Mutex::new(hold));
        let ask = move |name: &str| {
            assert!(said.lock().send(name.to_owned()).is_ok());
            assert!(hold.lock().recv().is_ok());
            Ok(vec![[192, 0, 2, 1].into()])
        };
        let resolver = Resolver::sharing(Arc::new(ask), Duration::ZERO);
        resolver.keep(["a.test"]);
        assert_eq!(asked.recv().unwrap(), "a.test");
        release.send(()).unwrap();
        // The second question shows that the first answer was learnt, and hangs.
        assert_eq!(asked.recv().unwrap(), "a.test");
        assert!(resolver.addresses("a.test", Instant::now()).is_ok());
        resolver.keep::<&str>([]);
        release.send(()).unwrap();
        drop(release);
        assert!(resolver.addresses("a.test", Instant::now()).is_ok());
    }

    #[test]
    fn a_kept_name_without_an_address_is_asked_for_less_and_less_often() {
        let mut entry = NameEntry {
            renew_at: Some(Instant::now()),
            ..NameEntry::default()
        };
        let mut last = Instant::now();
        for _ in 0..5 {
            entry.learn(Err(ResolveError::NoAddress), Instant::now());
            entry.renew_after(KEEP, Instant::now());
            let at = entry.renew_at.expect("it is kept");
            assert!(at > last + KEEP_FAILURE / 2);
            last = at;
        }
        entry.learn(Ok(vec![IpAddr::from([192, 0, 2, 1])].into()), last);
        assert_eq!(entry.failures, 0);
    }

    #[test]
    fn kept_names_stay_when_the_table_is_full() {
        let mut table = NameTable::default();
        let kept = NameEntry {
            renew_at: Some(Instant::now()),
            ..NameEntry::default()
        };
        table.names.insert("kept.test".into(), kept);
        for number in 0..MOST_NAMES {
            table
                .names
                .insert(format!("{number}.test").into(), NameEntry::default());
        }
        table.forget_some();
        assert_eq!(table.names.len(), 1);
        assert!(table.names.contains_key("kept.test"));
    }

    #[test]
    fn a_hanging_look_up_costs_its_asker_only_the_deadline_and_nobody_else() {
        let (release, hold) = std::sync::mpsc::channel::<()>();
        let hold = Mutex::new(hold);
        let resolver = Resolver::asking(move |name| {
            if name == "hangs.test" {
                assert!(hold.lock().recv().is_err());
            }
            Ok(vec![[192, 0, 2, 2].into()])
        });
        let now = Instant::now();
        assert_eq!(
            resolver.addresses("hangs.test", now),
            Err(ResolveError::TimedOut)
        );
        assert!(resolver.addresses("works.test", soon()).is_ok());
        drop(release);
        assert!(resolver.addresses("hangs.test", soon()).is_ok());
    }

    /// With one for all, each answer woke everyone who waited, whatever for.
    #[test]
    fn those_who_wait_for_a_name_are_woken_by_its_answer_only() {
        let (resolver, _release) = hanging();
        let mut table = resolver.shared.table.lock();
        let [one, other, again] = ["hangs1.test", "hangs2.test", "hangs1.test"].map(|name| {
            let asked = resolver.have_asked(&mut table, name, Instant::now());
            asked.ok().unwrap().0
        });
        assert!(Arc::ptr_eq(&one, &again));
        assert!(!Arc::ptr_eq(&one, &other));
    }

    #[test]
    fn known_addresses_outlive_a_name_server_that_fails() {
        let mut entry = NameEntry::default();
        let addresses: Addresses = vec![IpAddr::from([192, 0, 2, 1])].into();
        let now = Instant::now();
        entry.learn(Ok(Arc::clone(&addresses)), now);
        entry.learn(Err(ResolveError::TimedOut), now);
        let known = entry.known.unwrap();
        assert_eq!(known.answer, Ok(addresses));
        assert!(known.usable_until > known.fresh_until);
    }

    #[test]
    fn of_a_name_with_thousands_of_addresses_the_first_few_are_used() {
        let resolver = Resolver::asking(|_| {
            let all = 0..u16::MAX;
            Ok(all
                .map(|n| [10, 9, n.to_be_bytes()[0], n.to_be_bytes()[1]].into())
                .collect())
        });
        let addresses = resolver.addresses("many.test", soon()).unwrap();
        assert_eq!(addresses.len(), MOST_ADDRESSES);
        assert_eq!(addresses[0], IpAddr::from([10, 9, 0, 0]));
    }

    #[test]
    fn names_beyond_the_limit_are_forgotten() {
        let resolver = Resolver::asking(|_| Ok(vec![[192, 0, 2, 3].into()]));
        for number in 0..MOST_NAMES + 100 {
            assert!(
                resolver
                    .addresses(&format!("n{number}.test"), soon())
                    .is_ok()
            );
            assert!(resolver.shared.table.lock().names.len() <= MOST_NAMES);
        }
    }

    /// One that hangs for every name that begins with `hangs` until what comes with it is dropped.
    fn hanging() -> (Resolver, std::sync::mpsc::Sender<()>) {
        let (release, hold) = std::sync::mpsc::channel::<()>();
        let hold = Mutex::new(hold);
        let resolver = Resolver::asking(move |name| {
            if name.starts_with("hangs") {
                // The first that comes here waits, and the others wait for it.
                assert!(hold.lock().recv().is_err());
            }
            Ok(vec![[192, 0, 2, 2].into()])
        });
        (resolver, release)
    }

    fn client(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn look_ups_beyond_the_limit_fail_at_once() {
        let (resolver, release) = hanging();
        let greedy = resolver.asked_by(client(1));
        // Each is waited for.
        let answered = Arc::<Condvar>::default();
        let mut table = resolver.shared.table.lock();
        for number in 0..2000 {
            let name = format!("hangs{number}.test");
            let lined_up = table.line_up(greedy.asker, &name, &answered);
            assert_eq!(lined_up.is_ok(), number < 512);
        }
        assert_eq!(table.lines.len(), 512);
        drop(table);
        let asked = greedy.addresses("hangs-too.test", soon());
        assert_eq!(asked, Err(ResolveError::TimedOut));
        let other = resolver.asked_by(client(2));
        assert!(other.addresses("works.test", soon()).is_ok());
        let table = resolver.shared.table.lock();
        assert!(table.under_way.len() <= 32);
        assert!(table.threads <= 64);
        drop((table, release));
    }

    #[test]
    fn what_nobody_waits_for_any_more_is_not_asked_for() {
        let (resolver, _release) = hanging();
        let greedy = resolver.asked_by(client(1));
        let past = Instant::now();
        for number in 0..2000 {
            let asked = greedy.addresses(&format!("hangs{number}.test"), past);
            assert_eq!(asked, Err(ResolveError::TimedOut));
        }
        assert!(greedy.addresses("works.test", soon()).is_ok());
    }

    /// Has the look-ups under way hang for `time`, as far as anybody can tell.
    fn let_pass(resolver: &Resolver, time: Duration) {
        let mut table = resolver.shared.table.lock();
        for look_up in &mut table.under_way {
            look_up.begun = look_up.begun.checked_sub(time).unwrap();
        }
    }

    fn wait_for_look_ups(resolver: &Resolver, count: usize) {
        while resolver.shared.table.lock().under_way.len() != count {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_silent_name_is_told_at_once_and_its_answer_is_taken_when_it_comes() {
        let (resolver, release) = hanging();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| resolver.addresses("hangs.test", soon()));
            wait_for_look_ups(&resolver, 1);
            let_pass(&resolver, SILENT_AFTER);
            let asked = resolver.addresses("hangs.test", soon());
            assert_eq!(asked, Err(ResolveError::TimedOut));
            drop(release);
            assert!(waits.join().unwrap().is_ok());
        });
        assert!(resolver.addresses("hangs.test", soon()).is_ok());
    }

    #[test]
    fn silent_look_ups_take_up_no_places_and_one_client_has_no_more_than_half_of_their_own() {
        let started = Instant::now();
        let begun_by = |client: u8, names: std::ops::Range<usize>, begun: Instant| {
            names.map(move |number| LookUp {
                asker: Some([10, 0, 0, client].into()),
                name: format!("n{number}.test").into(),
                begun,
            })
        };
        let now = started + SILENT_AFTER;
        let silent: Vec<_> = begun_by(1, 0..32, started).collect();
        assert!(shares(&silent, now).admits(Some(client(1)), "new.test"));
        let more: Vec<_> = begun_by(1, 0..64, started).collect();
        assert!(!shares(&more, now).admits(Some(client(1)), "new.test"));
        assert!(shares(&more, now).admits(Some(client(2)), "new.test"));
    }

    #[test]
    fn a_name_whose_server_is_silent_is_asked_for_less_and_less_often() {
        let (mut entry, now) = (NameEntry::default(), Instant::now());
        let pauses = [2, 4, 8, 16, 32, 32].map(|expected| {
            entry.learn(Err(ResolveError::TimedOut), now);
            let known = entry.known.as_ref().unwrap();
            (known.fresh_until - now, Duration::from_secs(expected))
        });
        assert!(pauses.iter().all(|(got, expected)| got == expected));
    }

    #[test]
    fn one_client_with_hanging_names_keeps_nobody_waiting_and_a_zone_not_even_that_client() {
        let (resolver, release) = hanging();
        let (greedy, other) = (resolver.asked_by(client(1)), resolver.asked_by(client(2)));
        let under = |zone: &'static str| (0..40).map(move |n| format!("hangs{n}.{zone}"));
        std::thread::scope(|scope| {
            for name in under("silent.test") {
                let greedy = &greedy;
                scope.spawn(move || greedy.addresses(&name, soon()));
            }
            wait_for_look_ups(&resolver, 16);
            assert!(greedy.addresses("works.test", soon()).is_ok());
            for name in under("test") {
                let greedy = &greedy;
                scope.spawn(move || greedy.addresses(&name, soon()));
            }
            wait_for_look_ups(&resolver, 32);
            for number in 0..20 {
                let name = format!("works{number}.test");
                assert!(other.addresses(&name, soon()).is_ok());
            }
            drop(release);
        });
    }

    #[test]
    fn a_name_that_waits_in_the_line_of_a_client_with_its_share_is_asked_for_by_another() {
        let (resolver, release) = hanging();
        let (greedy, other) = (resolver.asked_by(client(1)), resolver.asked_by(client(2)));
        std::thread::scope(|scope| {
            for number in 0..32 {
                let greedy = &greedy;
                scope.spawn(move || greedy.addresses(&format!("hangs{number}.test"), soon()));
            }
            wait_for_look_ups(&resolver, 32);
            let first = scope.spawn(|| greedy.addresses("works.test", soon()));
            while resolver.shared.table.lock().lines.is_empty() {
                std::thread::yield_now();
            }
            assert!(other.addresses("works.test", soon()).is_ok());
            assert!(first.join().unwrap().is_ok());
            drop(release);
        });
    }

    #[test]
    fn a_look_up_that_panics_is_one_without_an_answer() {
        let resolver = Resolver::asking(|name| {
            assert_ne!(name, "panics.test");
            Ok(vec![[192, 0, 2, 2].into()])
        });
        let asked = resolver.addresses("panics.test", soon());
        assert_eq!(asked, Err(ResolveError::NoAddress));
        assert!(resolver.addresses("works.test", soon()).is_ok());
    }

    #[test]
    fn a_name_without_an_address_is_an_error() {
        let resolver = Resolver::asking(|_| Ok(Vec::new()));
        assert_eq!(
            resolver.addresses("none.test", soon()),
            Err(ResolveError::NoAddress)
        );
    }
}
