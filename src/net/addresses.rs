//! Which address of a name comes next, and which ones are passed over for now.
//!
//! The name of an upstream stands for all its addresses: new connections take turns over them. One that
//! fails rests for a second, and twice as long each time it fails again, so that a dead machine among
//! others costs one connection whenever its rest is over, and nothing in between. Addresses that have left
//! the name are known as well, for the connections that still lead there.
//!
//! Not here: how an address is connected to ([`super::dial`]), and the addresses of origins: clients
//! choose those names, so nothing is remembered of them.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use super::resolve::Addresses;

/// How long an address rests that failed once.
const FIRST_REST: Duration = Duration::from_secs(1);
/// How long it rests at most.
const LONGEST_REST: Duration = Duration::from_secs(30);

/// What is remembered of the addresses of one upstream, and of the time that connections there take.
#[derive(Debug, Default)]
pub struct AddressBook {
    book: Mutex<Book>,
    /// Whether any of them rests: while none does, an answer has nothing to tell.
    rests: AtomicBool,
    /// Whether an address has ever left the name: until then every connection leads to one it has.
    changed: AtomicBool,
    /// Moving average (α = 1/4) of the time to connect, in microseconds.
    usual: AtomicU64,
}

#[derive(Debug, Default)]
struct Book {
    /// The name's addresses as they were told last.
    told: Option<Addresses>,
    /// The same, each once; whose turn is next comes first.
    entries: Vec<AddressEntry>,
}

#[derive(Debug)]
struct AddressEntry {
    address: IpAddr,
    rest: Option<RestPeriod>,
}

/// The rest of an address that failed.
#[derive(Clone, Copy, Debug)]
struct RestPeriod {
    length: Duration,
    until: Instant,
    /// When it failed.
    since: Instant,
}

impl AddressBook {
    /// The addresses in the order in which a new connection tries them; the first has had its turn now.
    pub fn take_turn(&self, addresses: &Addresses, now: Instant) -> Vec<IpAddr> {
        let mut book = self.updated(addresses);
        let order = book.order(now);
        book.begin_with(order.first().copied(), now);
        order
    }

    /// The same, but no turn is over: for a probe.
    pub fn order(&self, addresses: &Addresses, now: Instant) -> Vec<IpAddr> {
        self.updated(addresses).order(now)
    }

    /// Takes in which addresses the name has by now.
    pub fn learn(&self, addresses: &Addresses) {
        drop(self.updated(addresses));
    }

    fn updated(&self, addresses: &Addresses) -> MutexGuard<'_, Book> {
        let mut book = self.book.lock();
        if book.learn(addresses) {
            self.changed.store(true, Ordering::Relaxed);
        }
        book
    }

    /// An attempt that began at `begun` found that this address does not answer. What began before its last
    /// failure says nothing new.
    pub fn failed(&self, address: IpAddr, begun: Instant, now: Instant) {
        let mut book = self.book.lock();
        let Some(entry) = book.entry(address) else {
            return;
        };
        let length = match entry.rest {
            Some(rest) if begun < rest.since => return,
            Some(rest) => (rest.length * 2).min(LONGEST_REST),
            None => FIRST_REST,
        };
        entry.rest = Some(RestPeriod {
            length,
            until: now + length,
            since: now,
        });
        self.rests.store(true, Ordering::Relaxed);
    }

    /// This address has answered.
    pub fn answered(&self, address: IpAddr) {
        if self.rests.load(Ordering::Relaxed) {
            let mut book = self.book.lock();
            if let Some(entry) = book.entry(address) {
                entry.rest = None;
            }
            let rests = book.entries.iter().any(|entry| entry.rest.is_some());
            self.rests.store(rests, Ordering::Relaxed);
        }
    }

    /// Whether there is an address that does not rest.
    pub fn has_awake(&self, now: Instant) -> bool {
        let is_awake = |entry: &AddressEntry| entry.rest.is_none_or(|rest| rest.until <= now);
        self.book.lock().entries.iter().any(is_awake)
    }

    /// Whether the name does not lead to this address any more.
    pub fn has_left(&self, address: IpAddr) -> bool {
        let has_left = |book: &Book| {
            let told = book.told.as_ref();
            told.is_some_and(|told| !told.contains(&address))
        };
        self.changed.load(Ordering::Relaxed) && has_left(&self.book.lock())
    }

    /// A connection was made within this time.
    pub fn connected(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        // One that is noted at the same moment may be lost: it is an average.
        let usual = self.usual.load(Ordering::Relaxed);
        let average = usual - usual / 4 + took / 4;
        self.usual.store(average, Ordering::Relaxed);
    }

    /// How long it usually takes to connect; nothing while that is not known.
    pub fn usual_time(&self) -> Duration {
        Duration::from_micros(self.usual.load(Ordering::Relaxed))
    }
}

impl Book {
    /// Takes in which addresses the name has; says whether one has left it.
    fn learn(&mut self, addresses: &Addresses) -> bool {
        let told = self.told.replace(Arc::clone(addresses));
        if told.is_some_and(|told| Arc::ptr_eq(&told, addresses)) {
            return false;
        }
        let before = self.entries.len();
        self.entries
            .retain(|entry| addresses.contains(&entry.address));
        let has_left = before != self.entries.len();
        for address in addresses.iter().copied() {
            if self.entry(address).is_none() {
                let rest = None;
                self.entries.push(AddressEntry { address, rest });
            }
        }
        has_left
    }

    /// Those that are awake in their turn, then the others: the one whose rest ends first comes first.
    fn order(&self, now: Instant) -> Vec<IpAddr> {
        let mut order = Vec::with_capacity(self.entries.len());
        for entry in &self.entries {
            let until = entry.rest.map(|rest| rest.until);
            let until = until.filter(|until| *until > now);
            let place = order.partition_point(|(other, _)| *other <= until);
            order.insert(place, (until, entry.address));
        }
        order.into_iter().map(|(_, address)| address).collect()
    }

    /// The first is tried now. If its rest is over, it is a trial: no other connection joins in for as long
    /// as the rest was.
    fn begin_with(&mut self, first: Option<IpAddr>, now: Instant) {
        let mut entries = self.entries.iter();
        let Some(place) = entries.position(|entry| Some(entry.address) == first) else {
            return;
        };
        let mut entry = self.entries.remove(place);
        if let Some(rest) = &mut entry.rest
            && rest.until <= now
        {
            rest.until = now + rest.length;
        }
        self.entries.push(entry);
    }

    fn entry(&mut self, address: IpAddr) -> Option<&mut AddressEntry> {
        let mut entries = self.entries.iter_mut();
        entries.find(|entry| entry.address == address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn addresses(lasts: &[u8]) -> Addresses {
        lasts.iter().copied().map(ip).collect()
    }

    /// A book with a clock that the test sets.
    struct Day {
        book: AddressBook,
        morning: Instant,
        name: Addresses,
    }

    impl Day {
        fn of(lasts: &[u8]) -> Self {
            Self {
                book: AddressBook::default(),
                morning: Instant::now(),
                name: addresses(lasts),
            }
        }

        fn at(&self, seconds: f64) -> Instant {
            self.morning + Duration::from_secs_f64(seconds)
        }

        fn turn(&self, seconds: f64) -> Vec<IpAddr> {
            self.book.take_turn(&self.name, self.at(seconds))
        }

        /// The last byte of each address in the order of this moment.
        fn check(&self, seconds: f64, order: &[u8]) {
            let expected: Vec<_> = order.iter().copied().map(ip).collect();
            assert_eq!(self.turn(seconds), expected, "at {seconds} s");
        }

        fn fails(&self, last: u8, seconds: f64) {
            let now = self.at(seconds);
            self.book.failed(ip(last), now, now);
        }
    }

    #[test]
    fn connections_take_turns() {
        let day = Day::of(&[1, 2, 3]);
        for _ in 0..3 {
            day.check(0.0, &[1, 2, 3]);
            day.check(0.0, &[2, 3, 1]);
            day.check(0.0, &[3, 1, 2]);
        }
    }

    #[test]
    fn a_probe_takes_nobodys_turn() {
        let day = Day::of(&[1, 2]);
        for _ in 0..3 {
            assert_eq!(day.book.order(&day.name, day.at(0.0)), [ip(1), ip(2)]);
        }
        day.check(0.0, &[1, 2]);
    }

    #[test]
    fn one_that_fails_is_passed_over_and_tried_by_one_connection_when_its_rest_is_over() {
        let day = Day::of(&[1, 2, 3]);
        day.turn(0.0);
        day.fails(1, 0.0);
        day.check(0.1, &[2, 3, 1]);
        day.check(0.2, &[3, 2, 1]);
        day.check(1.0, &[1, 2, 3]);
        day.check(1.0, &[2, 3, 1]);
        day.fails(1, 1.2);
        day.check(3.1, &[3, 2, 1]);
        day.check(3.2, &[1, 2, 3]);
    }

    #[test]
    fn rests_grow_to_half_a_minute() {
        let day = Day::of(&[1, 2]);
        day.turn(0.0);
        let mut now = 0.0;
        for rest in [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0] {
            day.fails(1, now);
            assert_eq!(day.turn(now + rest - 0.1).first(), Some(&ip(2)), "{rest}");
            now += rest;
        }
    }

    #[test]
    fn an_answer_ends_a_rest_and_forgets_how_long_it_was() {
        let day = Day::of(&[1, 2]);
        day.turn(0.0);
        day.fails(1, 0.0);
        day.fails(1, 1.0);
        day.book.answered(ip(1));
        day.check(1.0, &[2, 1]);
        day.check(1.0, &[1, 2]);
        day.fails(1, 2.0);
        day.check(3.0, &[2, 1]);
        day.check(3.0, &[1, 2]);
    }

    #[test]
    fn connections_that_fail_together_are_one_failure() {
        let day = Day::of(&[1, 2]);
        day.turn(0.0);
        for _ in 0..9 {
            day.book.failed(ip(1), day.at(0.0), day.at(0.3));
        }
        day.check(1.2, &[2, 1]);
        day.check(1.3, &[1, 2]);
    }

    #[test]
    fn if_all_rest_the_one_whose_rest_ends_first_comes_first() {
        let day = Day::of(&[1, 2, 3]);
        day.turn(0.0);
        day.fails(2, 0.0);
        day.fails(3, 0.1);
        assert!(day.book.has_awake(day.at(0.2)));
        day.fails(1, 0.2);
        assert!(!day.book.has_awake(day.at(0.3)));
        day.check(0.3, &[2, 3, 1]);
    }

    #[test]
    fn what_left_the_name_is_tried_no_more_and_what_stays_keeps_its_rest() {
        let mut day = Day::of(&[1, 2]);
        day.turn(0.0);
        day.fails(2, 0.0);
        assert!(!day.book.has_left(ip(1)));
        day.name = addresses(&[2, 3]);
        day.check(0.5, &[3, 2]);
        assert!(day.book.has_left(ip(1)));
        assert!(!day.book.has_left(ip(2)));
        day.fails(1, 0.5);
        assert!(day.book.has_awake(day.at(0.5)));
    }

    #[test]
    fn the_usual_time_follows_what_connections_take_and_no_single_one_of_them() {
        let book = AddressBook::default();
        book.connected(Duration::from_millis(400));
        assert_eq!(book.usual_time(), Duration::from_millis(100));
        for _ in 0..50 {
            book.connected(Duration::from_millis(400));
        }
        assert!(book.usual_time() > Duration::from_millis(390));
    }
}
