//! Idle connections to one upstream, kept for reuse, and how far they can be trusted.
//!
//! Nothing in HTTP/1.1 says which request an answer belongs to but its place on the connection. A byte
//! that comes late (a body behind an answer that has none, a second answer) is taken for the beginning
//! of the answer to whatever is asked next, by any client; and as the real answer is then a stray one in
//! its turn, every client of the connection gets the page of the one before it. So a connection goes
//! from one client to another only if nothing is to be expected on it, and an upstream that was seen to
//! send bytes without a request has each connection serve one client only, for a while. Through a SOCKS5 upstream it is
//! the origin that sends, so what one origin did is remembered of that one alone.
//!
//! Each lane has a shelf of its own, so that two of them do not wait for each other, and a connection stays where
//! it is watched. A lane whose shelf has nothing that will do looks at those of the others.
//!
//! The newest comes first: it is the least likely to have been closed meanwhile, and the oldest get the
//! chance to expire. Count and age are limited by `limits.upstream_idle_connections` and
//! `.upstream_idle_secs`; until the next sweep there may be more of them ([`AT_ONCE`]), or each request of a
//! crowd that needs more would open one and close one.
//!
//! Not here: what is a stray byte in the middle of an exchange, and who is told (`relay/reuse.rs`).

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::conn::Conn;
use super::socket::{self, Peeked};
use super::threads;

/// A connection idle for longer than this is not trusted with a request that cannot be repeated.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);

/// How long a connection on which more may come is silent before another client gets it.
const QUIET: Duration = Duration::from_millis(20);

/// So many times as many as are to be kept may be idle until the next sweep.
const AT_ONCE: usize = 4;

/// How long it is remembered of an upstream that it sent a stray byte, or that a connection broke under a
/// request.
pub const REMEMBERED: Duration = Duration::from_secs(600);

/// How many are remembered behind one upstream; beyond, the one that did it longest ago is forgotten.
const MOST_DOUBTED: usize = 100;

/// Idle connections to one upstream.
#[derive(Debug)]
pub struct IdlePool {
    shelves: Box<[Shelf]>,
    /// How many are on all shelves.
    count: AtomicUsize,
    /// Looked at with a shelf locked, never the other way round.
    doubts: Mutex<Doubts>,
    /// Whether there is anything in `doubts`: until then requests are spared its lock.
    has_doubts: AtomicBool,
    /// Whether there ever was a stray byte: until then those are that can be repeated.
    has_strayed: AtomicBool,
}

/// The connections of one lane, the oldest first, on a cache line of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shelf(Mutex<VecDeque<IdleConn>>);

/// Who did something that bears on their connections.
#[derive(Debug, Default)]
struct Doubts(HashMap<Sender, Trust>);

/// What was seen of one of them.
#[derive(Clone, Copy, Debug, Default)]
struct Trust {
    distrust: Option<Distrust>,
    /// When a reused connection last broke under a request.
    broke: Option<Instant>,
}

#[derive(Debug)]
struct IdleConn {
    conn: Conn,
    last_use: LastUse,
    since: Instant,
}

/// A time in which each connection serves one client.
#[derive(Clone, Copy, Debug)]
struct Distrust {
    since: Instant,
    until: Instant,
}

/// One client connection, told apart from all others there ever were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientId(u64);

impl ClientId {
    /// That of a new connection.
    pub fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// What people call it: above 0, and larger than those of all connections before.
    pub fn number(self) -> u64 {
        self.0
    }
}

/// What is known of a connection that becomes idle.
#[derive(Clone, Copy, Debug)]
pub struct LastUse {
    /// What it is good for.
    pub use_for: UseFor,
    /// Who may use it.
    pub shared_by: SharedBy,
    /// Who sends on it.
    pub sender: Sender,
    /// The client that used it last.
    pub client: ClientId,
    /// When that exchange began.
    pub begun: Instant,
    /// Whether more may come on it.
    pub leftover: Leftover,
    /// The lane that used it.
    pub home: usize,
}

/// What an idle connection is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UseFor {
    /// Every request.
    Anything,
    /// Requests for the target it was used for last, by its hash.
    Target(u64),
}

impl UseFor {
    /// Whether a request for the target of this hash may take it.
    pub fn admits(self, target: u64) -> bool {
        match self {
            Self::Anything => true,
            Self::Target(last) => last == target,
        }
    }
}

/// Who shares a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedBy {
    /// Every request.
    All,
    /// Requests that the upstream takes for those of the same client, by a hash of what it is told.
    Alike(u64),
}

/// Who sends what comes on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sender {
    /// The upstream: it makes its messages itself.
    Upstream,
    /// The origin of this hash, whose bytes the upstream passes on as they are.
    Origin(u64),
}

/// Whether the last answer on a connection was surely its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leftover {
    /// Its framing said so, or it was silent for long enough since.
    Nothing,
    /// Something may still come behind it.
    Possible,
}

/// For which request a connection is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The hash of its target.
    pub target: u64,
    /// With whom it shares connections.
    pub shared_by: SharedBy,
    /// Who is to answer it.
    pub sender: Sender,
    /// Whose it is.
    pub client: ClientId,
    /// How long the connection may have been idle.
    pub within: Duration,
    /// Whether it can be sent once more if the connection breaks under it; else it is lost.
    pub is_repeatable: bool,
    /// The lane that wants it.
    pub home: usize,
}

/// What was found for a request.
#[derive(Debug)]
pub enum TakenConn {
    /// A connection on which nothing has happened since.
    Idle(Conn, Leftover),
    /// Stray bytes, on one that is closed now: the caller calls [`IdlePool::distrust`].
    Stray,
    /// No connection that it may use.
    Nothing,
}

impl Default for IdlePool {
    fn default() -> Self {
        Self {
            shelves: (0..threads::cores()).map(|_| Shelf::default()).collect(),
            count: AtomicUsize::new(0),
            doubts: Mutex::default(),
            has_doubts: AtomicBool::new(false),
            has_strayed: AtomicBool::new(false),
        }
    }
}

impl IdlePool {
    /// Does something with what is on a shelf.
    fn change<T>(&self, on: &Shelf, act: impl FnOnce(&mut VecDeque<IdleConn>) -> T) -> T {
        let mut idle = on.0.lock();
        let before = idle.len();
        let done = act(&mut idle);
        if idle.len() > before {
            self.count.fetch_add(idle.len() - before, Ordering::Relaxed);
        } else if idle.len() < before {
            self.count.fetch_sub(before - idle.len(), Ordering::Relaxed);
        }
        done
    }

    /// Those of all lanes, that of `home` first.
    fn shelves_from(&self, home: usize) -> impl Iterator<Item = &Shelf> {
        let home = home % self.shelves.len().max(1);
        let all = self.shelves.iter().cycle().skip(home);
        all.take(self.shelves.len())
    }

    /// Keeps a connection on which nothing is under way, as one of `most`, or of more until the next sweep.
    /// If there are too many, the oldest leaves.
    pub fn keep(&self, conn: Conn, last_use: LastUse, most: usize, now: Instant) {
        let idle = IdleConn {
            conn,
            last_use,
            since: now,
        };
        let LastUse { sender, begun, .. } = last_use;
        let Some(own) = self.shelves_from(last_use.home).next() else {
            return;
        };
        // Closed when the lock has been given back.
        let _lost = self.change(own, |shelf| {
            if most == 0 || self.lost_trust_since(sender, begun, now) {
                return Some(idle);
            }
            shelf.push_back(idle);
            None
        });
        if self.len() > most.saturating_mul(AT_ONCE) {
            drop(self.take_oldest());
        }
    }

    /// The one that is idle for longest.
    fn take_oldest(&self) -> Option<IdleConn> {
        let shelves = self.shelves.iter();
        let oldest = shelves.filter_map(|shelf| Some((shelf.0.lock().front()?.since, shelf)));
        let (_, on) = oldest.min_by_key(|(since, _)| *since)?;
        self.change(on, VecDeque::pop_front)
    }

    /// The connection used last of those that are good for the request, one of its own lane before others.
    /// Those found closed are dropped on the way.
    pub fn take(&self, wanted: &Wanted, now: Instant) -> TakenConn {
        if self.is_empty() {
            return TakenConn::Nothing; // Before each dial: no shelf of another lane is locked.
        }
        let bears = if wanted.is_repeatable {
            &self.has_strayed
        } else {
            &self.has_doubts
        };
        for shelf in self.shelves_from(wanted.home) {
            let newest = || {
                self.change(shelf, |idle| {
                    newest(idle, self.trust(bears, wanted.sender), wanted, now)
                })
            };
            while let Some((idle, leftover)) = newest() {
                match socket::peek(idle.conn.stream()) {
                    Peeked::Quiet => return TakenConn::Idle(idle.conn, leftover),
                    Peeked::Bytes => return TakenConn::Stray,
                    Peeked::Ended => {}
                }
            }
        }
        TakenConn::Nothing
    }

    /// Drops what is older than `within`, was closed by the upstream, or is more than `most`. Says who
    /// sent stray bytes on one of them: the caller calls [`IdlePool::distrust`].
    pub fn sweep(&self, within: Duration, most: usize, now: Instant) -> HashSet<Sender> {
        let mut dropped = Vec::new();
        let mut strays = HashSet::new();
        for shelf in &self.shelves {
            self.change(shelf, |shelf| {
                for idle in std::mem::take(shelf) {
                    let is_old = now.saturating_duration_since(idle.since) >= within;
                    // A look does not wait, and a request that comes meanwhile would find none of them.
                    let seen = socket::peek(idle.conn.stream());
                    if seen == Peeked::Bytes {
                        strays.insert(idle.last_use.sender);
                    }
                    if is_old || seen != Peeked::Quiet {
                        dropped.push(idle);
                    } else {
                        shelf.push_back(idle);
                    }
                }
            });
        }
        while self.len() > most
            && let Some(oldest) = self.take_oldest()
        {
            dropped.push(oldest);
        }
        strays
    }

    /// Drops what leads elsewhere than to one of these addresses.
    pub fn keep_only(&self, addresses: &[IpAddr]) {
        self.retain(|idle| idle.conn.dialled().is_none_or(|at| addresses.contains(&at)));
    }

    /// Drops what does not `stay`.
    fn retain(&self, stay: impl Fn(&IdleConn) -> bool) {
        for shelf in &self.shelves {
            // They are closed outside of the lock.
            let _others: VecDeque<_> = self.change(shelf, |shelf| {
                let (staying, others) = shelf.drain(..).partition(&stay);
                *shelf = staying;
                others
            });
        }
    }

    /// Drops all.
    pub fn clear(&self) {
        for shelf in &self.shelves {
            let _dropped = self.change(shelf, std::mem::take);
        }
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A stray byte came from `sender`. The first one ends all connections on which it sends, also those at work
    /// once their exchange is over; from then on until [`REMEMBERED`] after the last one each serves one client.
    /// Says whether it is the first one.
    pub fn distrust(&self, sender: Sender, now: Instant) -> bool {
        self.has_strayed.store(true, Ordering::Release);
        let before = self.doubt(sender, |trust| {
            let before = trust.distrust_at(now);
            trust.distrust = Some(Distrust {
                since: before.map_or(now, |distrust| distrust.since),
                until: now + REMEMBERED,
            });
            before
        });
        if before.is_some() {
            return false;
        }
        // Whoever locks a shelf after this knows already.
        self.retain(|idle| idle.last_use.sender != sender);
        true
    }

    /// Notes what was seen of `sender`.
    fn doubt<T>(&self, sender: Sender, note: impl FnOnce(&mut Trust) -> T) -> T {
        let mut doubts = self.doubts.lock();
        self.has_doubts.store(true, Ordering::Release);
        note(doubts.of(sender))
    }

    /// What was seen of `sender`, if anything was that bears on the question.
    fn trust(&self, bears: &AtomicBool, sender: Sender) -> Trust {
        let is_asked = bears.load(Ordering::Acquire);
        let known = is_asked.then(|| self.doubts.lock().0.get(&sender).copied());
        known.flatten().unwrap_or_default()
    }

    /// Until when each connection serves one client, if the upstream is to blame for that.
    pub fn distrusted_until(&self, now: Instant) -> Option<Instant> {
        let trust = self.trust(&self.has_strayed, Sender::Upstream);
        let distrust = trust.distrust_at(now);
        distrust.map(|distrust| distrust.until)
    }

    /// Whether `sender` lost its trust during an exchange that began at `begun`: what comes on its
    /// connection may be meant for another client.
    pub fn lost_trust_since(&self, sender: Sender, begun: Instant, now: Instant) -> bool {
        self.trust(&self.has_strayed, sender).lost_since(begun, now)
    }

    /// A reused connection to `sender` broke under a request: for [`REMEMBERED`] those that cannot be repeated
    /// get a fresh one.
    pub fn broke(&self, sender: Sender, now: Instant) {
        self.doubt(sender, |trust| trust.broke = Some(now));
    }
}

/// The newest that is good for `wanted`, and whether more may come on it.
fn newest(
    idle: &mut VecDeque<IdleConn>,
    trust: Trust,
    wanted: &Wanted,
    now: Instant,
) -> Option<(IdleConn, Leftover)> {
    let broke = trust.broke.is_some_and(|at| is_within(REMEMBERED, at, now));
    if broke && !wanted.is_repeatable {
        return None;
    }
    let within = if wanted.is_repeatable {
        wanted.within
    } else {
        wanted.within.min(TRUSTED_IDLE)
    };
    let is_shared = trust.distrust_at(now).is_none();
    let index = idle.iter().rposition(|idle| {
        idle.last_use.use_for.admits(wanted.target)
            && idle.last_use.shared_by == wanted.shared_by
            && idle.last_use.sender == wanted.sender
            && (idle.last_use.client == wanted.client
                || is_shared && idle.leftover_at(now) == Leftover::Nothing)
    })?;
    let found = idle.get(index)?;
    if !is_within(within, found.since, now) {
        return None; // Every other one is older still; the next sweep has them.
    }
    let leftover = found.leftover_at(now);
    Some((idle.remove(index)?, leftover))
}

impl Doubts {
    /// What is remembered of `sender` from now on.
    fn of(&mut self, sender: Sender) -> &mut Trust {
        if self.0.len() >= MOST_DOUBTED && !self.0.contains_key(&sender) {
            let first = self.0.iter().min_by_key(|(_, trust)| trust.until());
            if let Some(first) = first.map(|(sender, _)| *sender) {
                self.0.remove(&first);
            }
        }
        self.0.entry(sender).or_default()
    }
}

impl Trust {
    /// When it is forgotten.
    fn until(&self) -> Option<Instant> {
        let distrusted = self.distrust.map(|distrust| distrust.until);
        distrusted.max(self.broke.map(|at| at + REMEMBERED))
    }

    fn distrust_at(&self, now: Instant) -> Option<Distrust> {
        self.distrust.filter(|distrust| now < distrust.until)
    }

    fn lost_since(&self, begun: Instant, now: Instant) -> bool {
        let distrust = self.distrust_at(now);
        distrust.is_some_and(|distrust| begun <= distrust.since)
    }
}

impl IdleConn {
    /// Whether more may come, if nothing did until now.
    fn leftover_at(&self, now: Instant) -> Leftover {
        match self.last_use.leftover {
            Leftover::Possible if is_within(QUIET, self.since, now) => Leftover::Possible,
            Leftover::Possible | Leftover::Nothing => Leftover::Nothing,
        }
    }
}

/// Whether `at` was less than `time` before `now`.
fn is_within(time: Duration, at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) < time
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::net::socket::TICK;

    const LONG: Duration = Duration::from_secs(3600);
    const MS: Duration = Duration::from_millis(1);
    /// A millisecond less than [`REMEMBERED`].
    const ALMOST: Duration = Duration::from_millis(599_999);

    /// A pool whose time the test makes pass, and the far ends of what is in it.
    struct Fixture {
        pool: IdlePool,
        now: Instant,
        far: Vec<TcpStream>,
    }

    fn pair() -> (Conn, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let near = TcpStream::connect_timeout(&address, Duration::from_secs(10)).unwrap();
        (Conn::prepared(near, TICK), listener.accept().unwrap().0)
    }

    fn wanted(client: ClientId) -> Wanted {
        Wanted {
            target: 0,
            shared_by: SharedBy::All,
            sender: Sender::Upstream,
            client,
            within: LONG,
            is_repeatable: true,
            home: 0,
        }
    }

    impl Fixture {
        fn new() -> Self {
            Self {
                pool: IdlePool::default(),
                now: Instant::now(),
                far: Vec::new(),
            }
        }

        fn last_use(&self, client: ClientId, leftover: Leftover) -> LastUse {
            LastUse {
                use_for: UseFor::Anything,
                shared_by: SharedBy::All,
                sender: Sender::Upstream,
                client,
                begun: self.now,
                leftover,
                home: 0,
            }
        }

        /// Keeps a new connection; returns its number.
        fn keep(&mut self, last_use: LastUse, most: usize) -> usize {
            let (near, far) = pair();
            self.far.push(far);
            self.pool.keep(near, last_use, most, self.now);
            self.far.len() - 1
        }

        fn keep_of(&mut self, client: ClientId, leftover: Leftover) -> usize {
            self.keep(self.last_use(client, leftover), 64)
        }

        /// The number of the connection that is taken.
        fn take(&self, wanted: &Wanted) -> Option<usize> {
            match self.pool.take(wanted, self.now) {
                TakenConn::Idle(conn, _) => {
                    let name = conn.stream().local_addr().unwrap();
                    let mut peers = self.far.iter().map(|far| far.peer_addr().unwrap());
                    peers.position(|peer| peer == name)
                }
                TakenConn::Stray => panic!("stray bytes"),
                TakenConn::Nothing => None,
            }
        }

        fn sends(&mut self, number: usize, bytes: &[u8]) {
            self.far[number].write_all(bytes).unwrap();
            // The bytes are on loopback, but arrival is the kernel's business: wait for it.
            let name = self.far[number].peer_addr().unwrap();
            for idle in self.pool.shelves[0].0.lock().iter() {
                if idle.conn.stream().local_addr().unwrap() == name {
                    idle.conn.stream().peek(&mut [0]).unwrap();
                }
            }
        }
    }

    #[test]
    fn the_last_used_connection_comes_back_first() {
        let mut fixture = Fixture::new();
        let client = ClientId::next();
        fixture.keep_of(client, Leftover::Nothing);
        let second = fixture.keep_of(client, Leftover::Nothing);
        assert_eq!(fixture.take(&wanted(ClientId::next())), Some(second));
        assert_eq!(fixture.pool.len(), 1);
    }

    #[test]
    fn a_connection_that_may_be_a_pipe_serves_no_other_target() {
        let mut fixture = Fixture::new();
        let client = ClientId::next();
        let last_use = LastUse {
            use_for: UseFor::Target(1),
            ..fixture.last_use(client, Leftover::Nothing)
        };
        fixture.keep(last_use, 64);
        let of_target = |target| Wanted {
            target,
            ..wanted(client)
        };
        assert_eq!(fixture.take(&of_target(2)), None);
        assert_eq!(fixture.take(&of_target(1)), Some(0));
    }

    #[test]
    fn a_connection_that_is_one_clients_for_the_upstream_serves_no_other() {
        let mut fixture = Fixture::new();
        let client = ClientId::next();
        let last_use = LastUse {
            shared_by: SharedBy::Alike(1),
            ..fixture.last_use(client, Leftover::Nothing)
        };
        fixture.keep(last_use, 64);
        let of = |shared_by| Wanted {
            shared_by,
            ..wanted(client)
        };
        assert_eq!(fixture.take(&of(SharedBy::Alike(2))), None);
        assert_eq!(fixture.take(&of(SharedBy::All)), None);
        assert_eq!(fixture.take(&of(SharedBy::Alike(1))), Some(0));
    }

    #[test]
    fn one_that_was_closed_is_passed_over_and_is_no_stray_byte() {
        let mut fixture = Fixture::new();
        let client = ClientId::next();
        let first = fixture.keep_of(client, Leftover::Nothing);
        let (near, far) = pair();
        let last_use = fixture.last_use(client, Leftover::Nothing);
        fixture.pool.keep(near, last_use, 64, fixture.now);
        drop(far);
        assert_eq!(fixture.take(&wanted(client)), Some(first));
        assert!(fixture.pool.is_empty());
        assert_eq!(fixture.pool.distrusted_until(fixture.now), None);
    }

    #[test]
    fn unasked_bytes_are_told_and_their_connection_is_never_handed_out() {
        let mut fixture = Fixture::new();
        let client = ClientId::next();
        let number = fixture.keep_of(client, Leftover::Nothing);
        fixture.sends(number, b"HTTP/1.1 200 OK\r\n");
        let found = fixture.pool.take(&wanted(client), fixture.now);
        assert!(matches!(found, TakenConn::Stray), "{found:?}");
        assert!(fixture.pool.is_empty());
    }

    #[test]
    fn a_sweep_finds_them_too() {
        let mut fixture = Fixture::new();
        let client = ClientId::next();
        fixture.keep_of(client, Leftover::Nothing);
        assert!(fixture.pool.sweep(LONG, 64, fixture.now).is_empty());
        let number = fixture.keep_of(client, Leftover::Nothing);
        fixture.sends(number, b"x");
        let strays = fixture.pool.sweep(LONG, 64, fixture.now);
        assert_eq!(strays, HashSet::from([Sender::Upstream]));
        assert_eq!(fixture.take(&wanted(client)), Some(0));
    }

    #[test]
    fn when_there_are_too_many_at_once_the_oldest_leaves() {
        let mut fixture = Fixture::new();
        let client = ClientId::next();
        let last_use = fixture.last_use(client, Leftover::Nothing);
        for _ in 0..=AT_ONCE {
            fixture.keep(last_use, 1);
        }
        assert_eq!(fixture.pool.len(), AT_ONCE);
        for left in (1..=AT_ONCE).rev() {
            assert_eq!(fixture.take(&wanted(client)), Some(left));
        }
        fixture.keep(last_use, 0);
        assert!(fixture.pool.is_empty());
    }

    #[test]
    fn a_sweep_drops_the_oldest_of_more_than_are_to_be_kept() {
        let mut fixture = Fixture::new();
        let client = ClientId::next();
        for _ in 0..3 {
            fixture.keep_of(client, Leftover::Nothing);
        }
        fixture.pool.sweep(LONG, 1, fixture.now);
        assert_eq!(fixture.pool.len(), 1);
        assert_eq!(fixture.take(&wanted(client)), Some(2));
    }

    #[test]
    fn one_that_is_too_old_is_neither_taken_nor_kept() {
        let mut fixture = Fixture::new();
        let client = ClientId::next();
        fixture.keep_of(client, Leftover::Nothing);
        fixture.now += Duration::from_secs(30);
        let wanted = Wanted {
            within: Duration::from_secs(30),
            ..wanted(client)
        };
        assert_eq!(fixture.take(&wanted), None);
        assert_eq!(fixture.pool.len(), 1);
        fixture.pool.sweep(Duration::from_secs(30), 64, fixture.now);
        assert!(fixture.pool.is_empty());
    }

    #[test]
    fn where_more_may_come_another_client_waits_for_silence_and_the_same_does_not() {
        let mut fixture = Fixture::new();
        let (client, other) = (ClientId::next(), ClientId::next());
        let number = fixture.keep_of(client, Leftover::Possible);
        fixture.now += 19 * MS;
        assert_eq!(fixture.take(&wanted(other)), None);
        assert_eq!(fixture.take(&wanted(client)), Some(number));
        let number = fixture.keep_of(client, Leftover::Possible);
        fixture.now += 20 * MS;
        assert_eq!(fixture.take(&wanted(other)), Some(number));
    }

    #[test]
    fn one_without_an_own_silence_is_passed_over_for_an_older_one() {
        let mut fixture = Fixture::new();
        let client = ClientId::next();
        let first = fixture.keep_of(client, Leftover::Nothing);
        fixture.keep_of(client, Leftover::Possible);
        assert_eq!(fixture.take(&wanted(ClientId::next())), Some(first));
    }

    #[test]
    fn whether_more_may_come_is_told_with_the_connection() {
        let mut fixture = Fixture::new();
        let client = ClientId::next();
        for (pause, expected) in [
            (Duration::ZERO, Leftover::Possible),
            (20 * MS, Leftover::Nothing),
        ] {
            fixture.keep_of(client, Leftover::Possible);
            fixture.now += pause;
            match fixture.pool.take(&wanted(client), fixture.now) {
                TakenConn::Idle(_, rest) => assert_eq!(rest, expected),
                found @ (TakenConn::Stray | TakenConn::Nothing) => panic!("{found:?}"),
            }
        }
    }

    #[test]
    fn what_cannot_be_repeated_gets_one_that_was_just_used_and_none_after_one_broke() {
        let mut fixture = Fixture::new();
        let client = ClientId::next();
        let once = Wanted {
            is_repeatable: false,
            ..wanted(client)
        };
        fixture.keep_of(client, Leftover::Nothing);
        fixture.now += 1000 * MS;
        assert_eq!(fixture.take(&once), None);
        let second = fixture.keep_of(client, Leftover::Nothing);
        fixture.now += 999 * MS;
        assert_eq!(fixture.take(&once), Some(second));
        fixture.pool.broke(Sender::Upstream, fixture.now);
        fixture.now += ALMOST;
        let third = fixture.keep_of(client, Leftover::Nothing);
        assert_eq!(fixture.take(&once), None);
        fixture.now += MS;
        assert_eq!(fixture.take(&once), Some(third));
    }

    #[test]
    fn the_first_stray_byte_ends_all_connections_those_at_work_included() {
        let mut fixture = Fixture::new();
        let client = ClientId::next();
        let at_work = fixture.last_use(client, Leftover::Nothing);
        fixture.keep_of(client, Leftover::Nothing);
        assert!(fixture.pool.distrust(Sender::Upstream, fixture.now));
        assert!(fixture.pool.is_empty());
        assert!(
            fixture
                .pool
                .lost_trust_since(Sender::Upstream, at_work.begun, fixture.now)
        );
        fixture.now += MS;
        fixture.keep(at_work, 64);
        assert!(fixture.pool.is_empty());
    }

    #[test]
    fn without_trust_a_connection_serves_the_client_that_used_it_last() {
        let mut fixture = Fixture::new();
        let (client, other) = (ClientId::next(), ClientId::next());
        fixture.pool.distrust(Sender::Upstream, fixture.now);
        fixture.now += MS;
        let number = fixture.keep_of(client, Leftover::Nothing);
        fixture.now += 1000 * MS;
        assert_eq!(fixture.take(&wanted(other)), None);
        assert_eq!(fixture.take(&wanted(client)), Some(number));
    }

    #[test]
    fn trust_comes_back_ten_minutes_after_the_last_stray_byte() {
        let mut fixture = Fixture::new();
        let (client, other) = (ClientId::next(), ClientId::next());
        fixture.pool.distrust(Sender::Upstream, fixture.now);
        fixture.now += ALMOST;
        let number = fixture.keep_of(client, Leftover::Nothing);
        assert!(!fixture.pool.distrust(Sender::Upstream, fixture.now));
        fixture.now += ALMOST;
        assert_eq!(fixture.take(&wanted(other)), None);
        let until = fixture.pool.distrusted_until(fixture.now);
        assert_eq!(until, Some(fixture.now + MS));
        fixture.now += MS;
        assert_eq!(fixture.take(&wanted(other)), Some(number));
        assert_eq!(fixture.pool.distrusted_until(fixture.now), None);
        assert!(fixture.pool.distrust(Sender::Upstream, fixture.now));
    }

    #[test]
    fn what_an_origin_behind_the_upstream_did_is_remembered_of_that_one_alone() {
        let mut fixture = Fixture::new();
        let (client, other) = (ClientId::next(), ClientId::next());
        let (odd, good) = (Sender::Origin(1), Sender::Origin(2));
        let keep = |fixture: &mut Fixture, sender| {
            let last_use = fixture.last_use(client, Leftover::Nothing);
            fixture.keep(LastUse { sender, ..last_use }, 64)
        };
        let of = |sender, client| Wanted {
            sender,
            is_repeatable: false,
            ..wanted(client)
        };
        keep(&mut fixture, odd);
        let number = keep(&mut fixture, good);
        assert!(fixture.pool.distrust(odd, fixture.now));
        assert_eq!(fixture.pool.len(), 1);
        assert_eq!(fixture.take(&of(good, other)), Some(number));
        assert_eq!(fixture.pool.distrusted_until(fixture.now), None);
        fixture.pool.broke(odd, fixture.now);
        fixture.now += MS;
        keep(&mut fixture, odd);
        assert_eq!(fixture.take(&of(odd, client)), None);
        let number = keep(&mut fixture, good);
        assert_eq!(fixture.take(&of(good, client)), Some(number));
    }

    #[test]
    fn of_too_many_origins_the_one_that_was_odd_longest_ago_is_forgotten() {
        let mut fixture = Fixture::new();
        for number in 0..MOST_DOUBTED as u64 {
            fixture.pool.broke(Sender::Origin(number), fixture.now);
            fixture.now += MS;
        }
        assert!(fixture.pool.distrust(Sender::Origin(0), fixture.now));
        assert!(fixture.pool.distrust(Sender::Origin(1000), fixture.now));
        assert_eq!(fixture.pool.doubts.lock().0.len(), MOST_DOUBTED);
        let remembers = |number| {
            let doubts = fixture.pool.doubts.lock();
            doubts.0.contains_key(&Sender::Origin(number))
        };
        assert!(remembers(0) && !remembers(1) && remembers(2) && remembers(1000));
    }
}
