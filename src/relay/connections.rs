//! Who is connected: one entry for each client connection, for operators to look at.
//!
//! There are entries only where somebody can look at them: with an admin server. Each belongs to its
//! connection, which writes to it without waiting for another: what a request leads to stands in memory
//! that its worker lends, so a connection that is idle has no more than an address.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::net::idle_pool::ClientId;
use crate::net::tunnel::{Age, Direction, Meter};
use crate::protocol::target::Authority;

use super::route_taken::RouteTaken;

/// The most connections that are told at a time.
const MOST_TOLD: usize = 1000;

/// All client connections.
pub struct Connections {
    is_on: bool,
    started: Instant,
    entries: Mutex<BTreeMap<u64, Arc<Entry>>>,
}

/// One connection.
struct Entry {
    id: u64,
    all: Arc<Connections>,
    /// Milliseconds after `started` of all.
    begun: u64,
    received: AtomicU64,
    sent: AtomicU64,
    now: Mutex<Now>,
}

/// What a connection is now.
struct Now {
    ip: IpAddr,
    port: u16,
    work: Option<Box<Work>>,
}

/// A request or tunnel of a connection.
#[derive(Clone, Debug)]
pub struct Work {
    /// Whether it is a tunnel by now.
    pub is_tunnel: bool,
    /// Since when it is that.
    pub since: Instant,
    /// Where it leads.
    pub target: String,
    /// Who the client has shown to be; empty: nobody.
    pub user: String,
    /// Through whom it goes, once that is decided.
    pub route: RouteTaken,
}

/// The entry of one connection, which is there as long as this.
pub(super) struct Listed(Option<Arc<Entry>>);

/// A connection as it was at one moment.
#[derive(Debug)]
pub struct Connection {
    /// Its number; later ones have larger numbers.
    pub id: u64,
    /// Its client.
    pub client: SocketAddr,
    /// How long it has been there.
    pub age: Duration,
    /// Bytes received from the client, as far as they were made out to be part of messages.
    pub received: u64,
    /// Bytes sent to the client.
    pub sent: u64,
    /// None: it is idle.
    pub work: Option<Box<Work>>,
}

/// Some of the connections.
#[derive(Debug)]
pub struct ConnectionPage {
    /// How many there are in all.
    pub total: usize,
    /// These of them, the oldest first.
    pub connections: Vec<Connection>,
    /// The number behind which the next page begins; none: there is no other.
    pub next: Option<u64>,
}

impl Connections {
    /// None yet.
    pub fn on() -> Arc<Self> {
        Arc::new(Self {
            is_on: true,
            ..Self::default()
        })
    }

    /// None ever: nobody can look at them.
    pub fn off() -> Arc<Self> {
        Arc::default()
    }

    /// Enters a connection.
    pub(super) fn list(self: &Arc<Self>, id: ClientId, client: SocketAddr) -> Listed {
        if !self.is_on {
            return Listed(None);
        }
        let entry = Arc::new(Entry {
            id: id.number(),
            all: Arc::clone(self),
            begun: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            now: Mutex::new(Now {
                ip: client.ip(),
                port: client.port(),
                work: None,
            }),
        });
        self.entries.lock().insert(entry.id, Arc::clone(&entry));
        Listed(Some(entry))
    }

    /// The oldest connections among those with numbers above `after`.
    pub fn page(&self, after: u64) -> ConnectionPage {
        let (total, mut found): (_, Vec<_>) = {
            let entries = self.entries.lock();
            let behind = entries.range((Excluded(after), Unbounded));
            let found = behind.take(MOST_TOLD + 1);
            (
                entries.len(),
                found.map(|(_, entry)| Arc::clone(entry)).collect(),
            )
        };
        let is_last = found.len() <= MOST_TOLD;
        found.truncate(MOST_TOLD);
        let connections: Vec<_> = found.iter().map(|entry| entry.shown()).collect();
        let next = connections.last().map(|last| last.id);
        ConnectionPage {
            total,
            connections,
            next: next.filter(|_| !is_last),
        }
    }
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            is_on: false,
            started: Instant::now(),
            entries: Mutex::default(),
        }
    }
}

/// Without the connections, which would show all of them in turn.
impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").finish_non_exhaustive()
    }
}

impl fmt::Debug for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.0.as_ref().map(|entry| entry.id);
        f.debug_tuple("Listed").field(&id).finish()
    }
}

impl Entry {
    fn shown(&self) -> Connection {
        let begun = self.all.started + Duration::from_millis(self.begun);
        let now = self.now.lock();
        Connection {
            id: self.id,
            client: SocketAddr::new(now.ip, now.port),
            age: begun.elapsed(),
            received: self.received.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
            work: now.work.clone(),
        }
    }

    fn totals_are(&self, (received, sent): (u64, u64)) {
        self.received.store(received, Ordering::Relaxed);
        self.sent.store(sent, Ordering::Relaxed);
    }

    /// Changes its request, if it has one.
    fn update(&self, change: impl FnOnce(&mut Work)) {
        if let Some(work) = &mut self.now.lock().work {
            change(work);
        }
    }
}

impl Listed {
    /// The client is another than the one that connected.
    pub(super) fn is_from(&self, client: SocketAddr) {
        if let Some(entry) = &self.0 {
            let mut now = entry.now.lock();
            (now.ip, now.port) = (client.ip(), client.port());
        }
    }

    /// A request of `user` begins that leads to `target`; it is written to the memory of another one.
    pub(super) fn begins(&self, target: &Authority, user: &str, spare: &mut Option<Box<Work>>) {
        let Some(entry) = &self.0 else {
            return;
        };
        let mut work = spare.take().unwrap_or_default();
        work.is_tunnel = false;
        work.since = Instant::now();
        work.route = RouteTaken::None;
        work.user.clear();
        work.user.push_str(user);
        work.target.clear();
        let written = write!(work.target, "{target}");
        debug_assert!(written.is_ok());
        entry.now.lock().work = Some(work);
    }

    /// It is sent that way.
    pub(super) fn goes(&self, route: &RouteTaken) {
        if let Some(entry) = &self.0 {
            entry.update(|work| work.route = route.clone());
        }
    }

    /// So much was received from the client and sent to it, in all.
    pub(super) fn moved(&self, totals: impl FnOnce() -> (u64, u64)) {
        if let Some(entry) = &self.0 {
            entry.totals_are(totals());
        }
    }

    /// The request is over; its memory serves for another one.
    pub(super) fn ends(&self, totals: (u64, u64), spare: &mut Option<Box<Work>>) {
        if let Some(entry) = &self.0 {
            entry.totals_are(totals);
            let work = entry.now.lock().work.take();
            *spare = work.or(spare.take());
            // An upstream that leaves the pool is not to stay for the sake of spare memory.
            if let Some(spare) = spare {
                spare.route = RouteTaken::None;
            }
        }
    }

    /// The request has become a tunnel, whose bytes `meter` is told of from now on.
    pub(super) fn becomes_tunnel(
        &self,
        route: &RouteTaken,
        meter: impl Meter + 'static,
    ) -> Arc<dyn Meter> {
        let Some(entry) = &self.0 else {
            return Arc::new(meter);
        };
        entry.update(|work| {
            work.is_tunnel = true;
            work.since = Instant::now();
            work.route = route.clone();
        });
        Arc::new(ListedMeter {
            meter,
            entry: Arc::clone(entry),
        })
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        if let Some(entry) = &self.0 {
            entry.all.entries.lock().remove(&entry.id);
        }
    }
}

impl Default for Work {
    fn default() -> Self {
        Self {
            is_tunnel: false,
            since: Instant::now(),
            target: String::new(),
            user: String::new(),
            route: RouteTaken::None,
        }
    }
}

/// Counts the bytes of a tunnel for its entry, too.
struct ListedMeter<M> {
    meter: M,
    entry: Arc<Entry>,
}

impl<M: Meter> Meter for ListedMeter<M> {
    fn moved(&self, direction: Direction, age: Age, bytes: u64) {
        let total = match direction {
            Direction::ToHop => &self.entry.received,
            Direction::ToClient => &self.entry.sent,
        };
        total.fetch_add(bytes, Ordering::Relaxed);
        self.meter.moved(direction, age, bytes);
    }

    fn is_cut(&self) -> bool {
        self.meter.is_cut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address() -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], 5000))
    }

    fn listed(all: &Arc<Connections>, count: usize) -> Vec<Listed> {
        let list = || all.list(ClientId::next(), address());
        (0..count).map(|_| list()).collect()
    }

    #[test]
    fn without_an_admin_server_nobody_is_entered() {
        let all = Connections::off();
        let one = listed(&all, 1);
        let mut spare = None;
        let target = Authority::parse(b"a.test:1", None).unwrap();
        one[0].begins(&target, "", &mut spare);
        one[0].moved(|| panic!("asked"));
        let page = all.page(0);
        assert_eq!((page.total, page.connections.len()), (0, 0));
    }

    #[test]
    fn a_connection_is_there_until_it_is_dropped() {
        let all = Connections::on();
        let one = listed(&all, 1);
        let page = all.page(0);
        assert_eq!((page.total, page.next), (1, None));
        assert_eq!(page.connections[0].client, address());
        assert!(page.connections[0].work.is_none());
        drop(one);
        assert_eq!(all.page(0).total, 0);
    }

    #[test]
    fn a_client_behind_a_balancer_is_told_by_its_own_address() {
        let all = Connections::on();
        let one = listed(&all, 1);
        let own = SocketAddr::from(([2001, 0xdb8, 0, 0, 0, 0, 0, 1], 7));
        one[0].is_from(own);
        assert_eq!(all.page(0).connections[0].client, own);
    }

    #[test]
    fn many_are_told_page_by_page_each_once() {
        let all = Connections::on();
        let kept = listed(&all, 2 * MOST_TOLD + 1);
        let (mut after, mut told) = (0, Vec::new());
        loop {
            let page = all.page(after);
            assert!(page.connections.len() <= MOST_TOLD && page.total == kept.len());
            told.extend(page.connections.iter().map(|one| one.id));
            match page.next {
                Some(next) => after = next,
                None => break,
            }
        }
        assert_eq!(told.len(), kept.len());
        assert!(told.is_sorted_by(|one, next| one < next));
    }

    #[test]
    fn the_memory_of_a_request_serves_for_the_next_one_and_tells_nothing_of_it() {
        let all = Connections::on();
        let one = listed(&all, 2);
        let mut spare = None;
        let authority = |text: &str| Authority::parse(text.as_bytes(), None).unwrap();
        one[0].begins(&authority("long-name.test:80"), "bob", &mut spare);
        one[0].goes(&RouteTaken::Direct);
        one[0].ends((10, 20), &mut spare);
        assert!(all.page(0).connections.iter().all(|one| one.work.is_none()));
        let route = spare.as_ref().map(|work| &work.route);
        assert!(matches!(route, Some(RouteTaken::None)), "{route:?}");
        one[1].begins(&authority("b.test:443"), "", &mut spare);
        assert!(spare.is_none());
        let page = all.page(0);
        let [first, second] = &page.connections[..] else {
            panic!("two");
        };
        assert_eq!((first.received, first.sent), (10, 20));
        let work = second.work.as_ref().unwrap();
        assert_eq!((&*work.target, &*work.user), ("b.test:443", ""));
        assert!(matches!(work.route, RouteTaken::None));
    }

    #[test]
    fn debug_shows_no_other_connection() {
        let all = Connections::on();
        let one = listed(&all, 2);
        assert!(!format!("{all:?} {one:?}").contains("192.0.2.1"));
    }

    #[test]
    fn an_idle_connection_takes_few_bytes() {
        assert!(size_of::<Entry>() <= 80, "{}", size_of::<Entry>());
    }
}
