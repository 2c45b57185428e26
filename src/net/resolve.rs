//! Names to addresses, off the workers and under a deadline.
//!
//! The system's resolver blocks for as long as it likes and cannot be told to stop. So a few threads
//! of their own ask it, a worker waits for the answer only until its connect deadline, and answers are
//! kept for a fixed time: 30 s when there are addresses, 2 s when there are none. Addresses that are
//! older, but not older than 10 minutes, are used while they are asked for anew, and when nobody
//! answers: a name server that is down for a while takes nothing else down. Names that are sure to be
//! asked for again ([`Resolver::keep`]) are renewed before their time is over, so nobody waits for them.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::seldom::Seldom;
use super::threads;

/// Threads that may ask the system at once; a hanging name server holds at most these.
const MOST_THREADS: usize = 8;
/// How long addresses are used.
const KEEP: Duration = Duration::from_secs(30);
/// How long addresses are used while newer ones are asked for.
const KEEP_STALE: Duration = Duration::from_secs(600);
/// How long a failure is remembered.
const KEEP_FAILURE: Duration = Duration::from_secs(2);
/// How old the addresses of a kept name get: it is asked for again before their time is over.
const RENEW_AFTER: Duration = Duration::from_secs(25);
/// The longest pause between attempts at a kept name that has no address, as a power of two of
/// [`KEEP_FAILURE`].
const DOUBLINGS: u32 = 4;
/// Names remembered; beyond this, expired ones are dropped, then all.
const MOST_NAMES: usize = 4096;
/// Addresses used of one name; whoever answers for a name may list thousands.
const MOST_ADDRESSES: usize = 32;
/// Names waiting for a thread; beyond this a look-up fails at once.
const MOST_WAITING: usize = 1024;
/// How long a thread waits for another name before it leaves.
const LEAVE_AFTER: Duration = Duration::from_secs(10);

/// What is said when there is no thread.
static NO_THREAD: Seldom = Seldom::new();

/// Why a name has no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResolveError {
    /// The system says that there is none (or that it cannot ask).
    NoAddress,
    /// No answer before the deadline.
    TimedOut,
}

/// The addresses of a name, shared by everybody who asks for it.
pub type Addresses = Arc<[IpAddr]>;

/// The look-up, as a function so that tests can hang it.
type Ask = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

/// The resolver: a cache and the threads behind it.
#[derive(Clone)]
pub struct Resolver {
    shared: Arc<Shared>,
}

struct Shared {
    ask: Arc<Ask>,
    /// How old a kept name gets.
    renew_after: Duration,
    table: Mutex<Table>,
    answered: Condvar,
    wanted: Condvar,
}

#[derive(Default)]
struct Table {
    names: HashMap<Box<str>, Entry>,
    waiting: VecDeque<Box<str>>,
    threads: usize,
    idle: usize,
}

/// A name: what is known of it, and whether it is being asked for.
#[derive(Default)]
struct Entry {
    known: Option<Known>,
    asking: bool,
    /// In a row.
    failures: u32,
    kept: Kept,
}

/// Whether a name is asked for without being wanted by anybody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kept {
    #[default]
    No,
    /// From then on.
    RenewAt(Instant),
}

struct Known {
    answer: Answer,
    fresh_until: Instant,
    usable_until: Instant,
}

type Answer = Result<Addresses, ResolveError>;

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let table = self.shared.table.lock();
        f.debug_struct("Resolver")
            .field("names", &table.names.len())
            .field("waiting", &table.waiting.len())
            .field("threads", &table.threads)
            .finish()
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

    /// One that asks the same, with a table and threads of its own: whoever fills up this one cannot
    /// keep that one from answering.
    #[must_use = "this one is not changed"]
    pub fn apart(&self) -> Self {
        Self::sharing(Arc::clone(&self.shared.ask), self.shared.renew_after)
    }

    /// One that asks the same, with another idea of how old the addresses of kept names may get.
    #[must_use = "this one is not changed"]
    pub fn renewing_after(&self, pause: Duration) -> Self {
        Self::sharing(Arc::clone(&self.shared.ask), pause)
    }

    fn sharing(ask: Arc<Ask>, renew_after: Duration) -> Self {
        Self {
            shared: Arc::new(Shared {
                ask,
                renew_after,
                table: Mutex::default(),
                answered: Condvar::new(),
                wanted: Condvar::new(),
            }),
        }
    }

    /// The addresses of `name`, in the system's order (RFC 6724); never empty.
    ///
    /// # Errors
    /// [`ResolveError::TimedOut`] when `deadline` passes first.
    pub fn addresses(&self, name: &str, deadline: Instant) -> Result<Addresses, ResolveError> {
        let answer = self.addresses_by(name, deadline);
        answer.unwrap_or(Err(ResolveError::TimedOut))
    }

    /// The same for whoever has something else to do from `until` on. `None`: there is no answer yet.
    pub fn addresses_by(
        &self,
        name: &str,
        until: Instant,
    ) -> Option<Result<Addresses, ResolveError>> {
        let mut table = self.shared.table.lock();
        loop {
            let now = Instant::now();
            let entry = table.names.get(name);
            let known = entry.and_then(|entry| entry.known.as_ref());
            let fresh = known.filter(|known| known.fresh_until > now);
            if let Some(known) = fresh {
                return Some(known.answer.clone());
            }
            let usable = known.filter(|known| known.usable_until > now);
            let usable = usable.map(|known| known.answer.clone());
            let asked = match entry {
                Some(entry) if entry.asking => Ok(()),
                Some(_) | None => self.enqueue(&mut table, name),
            };
            if usable.is_some() {
                return usable;
            }
            if let Err(error) = asked {
                return Some(Err(error));
            }
            let waited = self.shared.answered.wait_until(&mut table, until);
            if waited.timed_out() {
                return None;
            }
        }
    }

    /// The addresses of `name`, if they are known and can be used; nobody is asked.
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
            entry.kept = Kept::No;
        }
        for name in names {
            let entry = table.names.entry(name.as_ref().into()).or_default();
            entry.kept = Kept::RenewAt(Instant::now());
        }
        if table.next_renewal().is_some() && self.have_thread(&mut table).is_ok() {
            self.shared.wanted.notify_one();
        }
    }

    fn enqueue(&self, table: &mut Table, name: &str) -> Result<(), ResolveError> {
        if table.waiting.len() >= MOST_WAITING {
            return Err(ResolveError::TimedOut);
        }
        self.have_thread(table)?;
        if table.names.len() >= MOST_NAMES {
            table.forget_some();
        }
        table.names.entry(name.into()).or_default().asking = true;
        table.waiting.push_back(name.into());
        self.shared.wanted.notify_one();
        Ok(())
    }

    fn have_thread(&self, table: &mut Table) -> Result<(), ResolveError> {
        if table.idle == 0 && table.threads < MOST_THREADS {
            let shared = Arc::clone(&self.shared);
            match threads::start("resolver", move || shared.run()) {
                Ok(_detached) => table.threads += 1,
                Err(error) if table.threads == 0 => {
                    if let Some(more) = NO_THREAD.says() {
                        log::warn!("no thread to resolve names with: {error}{more}");
                    }
                    return Err(ResolveError::NoAddress);
                }
                Err(_) => {} // The ones there are will do it.
            }
        }
        Ok(())
    }
}

impl Table {
    /// Makes room for names: expired ones are dropped, then all that nobody asks for at the moment.
    fn forget_some(&mut self) {
        let now = Instant::now();
        let is_fresh = |known: &Known| known.fresh_until > now;
        let is_needed = |entry: &Entry| entry.asking || entry.kept != Kept::No;
        self.names
            .retain(|_, entry| is_needed(entry) || entry.known.as_ref().is_some_and(is_fresh));
        if self.names.len() >= MOST_NAMES {
            self.names.retain(|_, entry| is_needed(entry));
        }
    }

    /// When the next kept name is to be asked for.
    fn next_renewal(&self) -> Option<Instant> {
        let entries = self.names.values().filter(|entry| !entry.asking);
        let at = entries.filter_map(|entry| match entry.kept {
            Kept::No => None,
            Kept::RenewAt(at) => Some(at),
        });
        at.min()
    }

    /// Lines up the kept names whose time has come.
    fn renew(&mut self, now: Instant) {
        for (name, entry) in &mut self.names {
            if matches!(entry.kept, Kept::RenewAt(at) if at <= now) && !entry.asking {
                entry.asking = true;
                self.waiting.push_back(name.clone());
            }
        }
    }
}

impl Shared {
    /// One resolver thread: asks for names until there has been none for a while. One of them stays
    /// as long as there are names to keep, and anybody to keep them for.
    fn run(self: &Arc<Self>) {
        let mut table = self.table.lock();
        loop {
            let Some(name) = table.waiting.pop_front() else {
                let now = Instant::now();
                let renewal = table.next_renewal();
                if renewal.is_some_and(|at| at <= now) {
                    table.renew(now);
                    self.wanted.notify_one();
                    continue;
                }
                let leave_at = now + LEAVE_AFTER;
                let until = renewal.map_or(leave_at, |at| at.min(leave_at));
                table.idle += 1;
                let late = self.wanted.wait_until(&mut table, until).timed_out();
                table.idle -= 1;
                let is_kept = renewal.is_some()
                    && table.threads == 1
                    && Arc::strong_count(self) > table.threads;
                if late && table.waiting.is_empty() && !is_kept {
                    table.threads -= 1;
                    return;
                }
                continue;
            };
            drop(table);
            let answer = match (self.ask)(&name) {
                Ok(addresses) if !addresses.is_empty() => Ok(distinct(addresses)),
                Ok(_) => Err(ResolveError::NoAddress),
                Err(error) => {
                    log::debug!("no address for {name}: {error}");
                    Err(ResolveError::NoAddress)
                }
            };
            table = self.table.lock();
            let entry = table.names.entry(name).or_default();
            entry.learn(answer);
            entry.renew_after(self.renew_after);
            self.answered.notify_all();
        }
    }
}

impl Entry {
    /// Takes an answer in. A failure does not replace addresses that can still be used.
    fn learn(&mut self, answer: Answer) {
        self.asking = false;
        self.failures = match &answer {
            Ok(_) => 0,
            Err(_) => self.failures.saturating_add(1),
        };
        let now = Instant::now();
        match (&mut self.known, answer) {
            (Some(known), Err(_)) if known.answer.is_ok() && known.usable_until > now => {
                known.fresh_until = now + KEEP_FAILURE;
            }
            (known, Ok(addresses)) => {
                *known = Some(Known {
                    answer: Ok(addresses),
                    fresh_until: now + KEEP,
                    usable_until: now + KEEP_STALE,
                });
            }
            (known, failure @ Err(_)) => {
                *known = Some(Known {
                    answer: failure,
                    fresh_until: now + KEEP_FAILURE,
                    usable_until: now + KEEP_FAILURE,
                });
            }
        }
    }
}

impl Entry {
    /// Notes when a kept name is asked for again: after `pause`, or, if there was no address, sooner and
    /// less and less often.
    fn renew_after(&mut self, pause: Duration) {
        if self.kept == Kept::No {
            return;
        }
        let pause = if self.failures == 0 {
            pause
        } else {
            KEEP_FAILURE * 2_u32.pow((self.failures - 1).min(DOUBLINGS))
        };
        self.kept = Kept::RenewAt(Instant::now() + pause);
    }
}

/// The first addresses, each once: the system lists one for each type of socket.
fn distinct(addresses: Vec<IpAddr>) -> Addresses {
    let mut seen = Vec::new();
    for address in addresses {
        if seen.len() == MOST_ADDRESSES {
            break;
        }
        if !seen.contains(&address) {
            seen.push(address);
        }
    }
    seen.into()
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
        let mut entry = Entry {
            kept: Kept::RenewAt(Instant::now()),
            ..Entry::default()
        };
        let mut last = Instant::now();
        for _ in 0..5 {
            entry.learn(Err(ResolveError::NoAddress));
            entry.renew_after(KEEP);
            let Kept::RenewAt(at) = entry.kept else {
                panic!("it is kept");
            };
            assert!(at > last + KEEP_FAILURE / 2);
            last = at;
        }
        entry.learn(Ok(vec![IpAddr::from([192, 0, 2, 1])].into()));
        assert_eq!(entry.failures, 0);
    }

    #[test]
    fn kept_names_stay_when_the_table_is_full() {
        let mut table = Table::default();
        let kept = Entry {
            kept: Kept::RenewAt(Instant::now()),
            ..Entry::default()
        };
        table.names.insert("kept.test".into(), kept);
        for number in 0..MOST_NAMES {
            table
                .names
                .insert(format!("{number}.test").into(), Entry::default());
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

    #[test]
    fn known_addresses_outlive_a_name_server_that_fails() {
        let mut entry = Entry::default();
        let addresses: Addresses = vec![IpAddr::from([192, 0, 2, 1])].into();
        entry.learn(Ok(Arc::clone(&addresses)));
        entry.learn(Err(ResolveError::NoAddress));
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

    #[test]
    fn look_ups_beyond_the_limit_fail_at_once() {
        let (release, hold) = std::sync::mpsc::channel::<()>();
        let hold = Mutex::new(hold);
        let resolver = Resolver::asking(move |_| {
            assert!(hold.lock().recv().is_err());
            Ok(vec![[192, 0, 2, 2].into()])
        });
        let past = Instant::now();
        let most = MOST_WAITING + MOST_THREADS;
        for number in 0..most + 100 {
            let asked = resolver.addresses(&format!("n{number}.test"), past);
            assert_eq!(asked, Err(ResolveError::TimedOut));
        }
        {
            let table = resolver.shared.table.lock();
            assert!(table.waiting.len() <= MOST_WAITING);
            assert!(table.threads <= MOST_THREADS);
            assert!(table.names.len() <= most);
        }
        // The next fails at once, however long it would wait.
        let asked = resolver.addresses("one-more.test", soon());
        assert_eq!(asked, Err(ResolveError::TimedOut));
        drop(release);
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
