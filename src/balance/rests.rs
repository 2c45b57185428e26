//! Upstreams that rest: an exit that one site has banned is good for others.
//!
//! A rest is for one host, or for all (`scope: upstream`), and ends by itself. What rests is not picked
//! while another may be; where all rest, the one whose rest ends first is. An upstream that rests is not out
//! of service, and its health is not looked at: the answer that began the rest was the site's.
//!
//! Hosts come from clients, so the table is bounded: when it is full, a rest of the client that has begun most of them
//! leaves, the one that ends first. So no client with a site of its own ends the rests of others.
//!
//! Not here: which answers begin a rest ([`crate::config`]), and the choice ([`super::pool`]).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};

use super::sticky::SessionKey;
use super::vitals::UpstreamId;

/// The most rests that are remembered.
pub const MOST_RESTS: usize = 65_536;

/// Which upstreams rest. Outlives a reload.
#[derive(Debug, Default)]
pub struct Rests {
    table: Mutex<Table>,
    /// How many there are, to be read without the lock: mostly there is none.
    len: AtomicUsize,
    /// Picks of an upstream although it rested, because all did.
    overridden: AtomicU64,
}

/// Why and for how long an upstream rests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rest {
    /// The upstream.
    pub upstream: UpstreamId,
    /// For which host; none: for all.
    pub host: Option<Arc<str>>,
    /// The status that began it.
    pub status: u16,
    /// When it ends.
    pub until: Instant,
    /// Whose request it was.
    pub client: SessionKey,
}

#[derive(Debug, Default)]
struct Table {
    for_hosts: HashMap<Arc<str>, Arc<Resting>>,
    for_all: Arc<Resting>,
    /// All of them, the one that ends first in front.
    rows: BTreeMap<RowKey, Rest>,
    rows_ever: u64,
    /// The same by client.
    by_client: HashMap<SessionKey, BTreeSet<RowKey>>,
    /// How many each client has begun, the most at the end.
    shares: BTreeSet<(usize, SessionKey)>,
    /// Rests begun, by upstream and status.
    begun: BTreeMap<(UpstreamId, u16), u64>,
}

/// When a rest ends, and its number.
type RowKey = (Instant, u64);

/// The upstreams that rest, each with its row.
type Resting = BTreeMap<UpstreamId, RowKey>;

/// The rests that matter for one host, as they were a moment ago: a pick among ten thousand upstreams looks at them,
/// and keeps no other waiting.
#[derive(Debug)]
pub(super) struct RestsForHost([Arc<Resting>; 2]);

impl Rests {
    /// Lets `upstream` rest. A longer rest is not cut short by a shorter one. Says whether it is new, or
    /// longer than the one before.
    pub fn begin(&self, rest: Rest, now: Instant) -> bool {
        let mut table = self.table.lock();
        table.forget_until(now);
        *table.begun.entry((rest.upstream, rest.status)).or_default() += 1;
        if let Some(before) = table
            .resting(rest.host.as_ref())
            .get(&rest.upstream)
            .copied()
        {
            if rest.until <= before.0 {
                return false;
            }
            table.remove(before);
        }
        while table.rows.len() >= MOST_RESTS
            && let Some(first) = table.first_of_largest_share()
        {
            table.remove(first);
        }
        table.rows_ever += 1;
        let key = (rest.until, table.rows_ever);
        table.resting(rest.host.as_ref()).insert(rest.upstream, key);
        table.change_share(rest.client, |rows| rows.insert(key));
        table.rows.insert(key, rest);
        self.len.store(table.rows.len(), Ordering::Release);
        true
    }

    /// What rests for `host`; none: nothing does.
    pub(super) fn for_host(&self, host: &str, now: Instant) -> Option<RestsForHost> {
        if self.len.load(Ordering::Acquire) == 0 {
            return None;
        }
        let table = self.current(now);
        let for_host = table.for_hosts.get(host).map(Arc::clone);
        if for_host.is_none() && table.for_all.is_empty() {
            return None;
        }
        let for_all = Arc::clone(&table.for_all);
        Some(RestsForHost([for_all, for_host.unwrap_or_default()]))
    }

    /// The table without the rests that are over.
    fn current(&self, now: Instant) -> MutexGuard<'_, Table> {
        let mut table = self.table.lock();
        table.forget_until(now);
        self.len.store(table.rows.len(), Ordering::Release);
        table
    }

    /// Ends all rests of `upstream`. Gives their number.
    pub fn clear(&self, upstream: UpstreamId) -> usize {
        let mut table = self.table.lock();
        let count = table.remove_where(|rest| rest.upstream == upstream);
        self.len.store(table.rows.len(), Ordering::Release);
        count
    }

    /// Those that end last, at most `most`, and how many there are.
    pub fn longest(&self, most: usize, now: Instant) -> (Vec<Rest>, usize) {
        let table = self.current(now);
        let longest = table.rows.values().rev().take(most).cloned().collect();
        (longest, table.rows.len())
    }

    /// How many rests each upstream has that has any.
    pub fn by_upstream(&self, now: Instant) -> HashMap<UpstreamId, usize> {
        let table = self.current(now);
        let mut counts = HashMap::new();
        for rest in table.rows.values() {
            *counts.entry(rest.upstream).or_default() += 1;
        }
        counts
    }

    /// Forgets upstreams that have left the configuration.
    pub(super) fn keep_only(&self, stays: impl Fn(UpstreamId) -> bool) {
        let mut table = self.table.lock();
        table.begun.retain(|(upstream, _), _| stays(*upstream));
        table.remove_where(|rest| !stays(rest.upstream));
        self.len.store(table.rows.len(), Ordering::Release);
    }

    /// How many rests each upstream has begun, by status; in order of the status.
    pub fn begun_by(&self, upstream: UpstreamId) -> Vec<(u16, u64)> {
        let table = self.table.lock();
        let all = (u16::MIN, u16::MAX);
        let its = table.begun.range((upstream, all.0)..=(upstream, all.1));
        its.map(|((_, status), count)| (*status, *count)).collect()
    }

    /// How often an upstream was picked although it rested, because all did.
    pub fn overridden(&self) -> u64 {
        self.overridden.load(Ordering::Relaxed)
    }

    /// Counts such a pick.
    pub(super) fn override_one(&self) {
        self.overridden.fetch_add(1, Ordering::Relaxed);
    }
}

impl Table {
    fn forget_until(&mut self, now: Instant) {
        while let Some((first, _)) = self.rows.first_key_value()
            && first.0 <= now
        {
            let first = *first;
            self.remove(first);
        }
    }

    /// Removes those, and gives their number.
    fn remove_where(&mut self, is_one: impl Fn(&Rest) -> bool) -> usize {
        let rows = self.rows.iter().filter(|(_, rest)| is_one(rest));
        let those: Vec<_> = rows.map(|(key, _)| *key).collect();
        for key in &those {
            self.remove(*key);
        }
        those.len()
    }

    /// Those that rest for `host`; none: for all hosts.
    fn resting(&mut self, host: Option<&Arc<str>>) -> &mut Resting {
        Arc::make_mut(match host {
            Some(host) => self.for_hosts.entry(Arc::clone(host)).or_default(),
            None => &mut self.for_all,
        })
    }

    /// The first to end of those that the client has begun who has begun most.
    fn first_of_largest_share(&self) -> Option<RowKey> {
        let (_, client) = self.shares.last()?;
        self.by_client.get(client)?.first().copied()
    }

    fn change_share(
        &mut self,
        client: SessionKey,
        change: impl FnOnce(&mut BTreeSet<RowKey>) -> bool,
    ) {
        let rows = self.by_client.entry(client).or_default();
        self.shares.remove(&(rows.len(), client));
        let is_other = change(rows);
        debug_assert!(is_other);
        if rows.is_empty() {
            self.by_client.remove(&client);
        } else {
            self.shares.insert((rows.len(), client));
        }
    }

    fn remove(&mut self, key: RowKey) {
        let Some(rest) = self.rows.remove(&key) else {
            return;
        };
        self.change_share(rest.client, |rows| rows.remove(&key));
        let resting = self.resting(rest.host.as_ref());
        resting.remove(&rest.upstream);
        if let (true, Some(host)) = (resting.is_empty(), &rest.host) {
            self.for_hosts.remove(host);
        }
    }
}

impl RestsForHost {
    /// When the rest of `upstream` ends; none: it does not rest for this host.
    pub(super) fn until(&self, upstream: UpstreamId) -> Option<Instant> {
        let ends = self.0.iter().filter_map(|those| those.get(&upstream));
        ends.map(|(until, _)| *until).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::balance::vitals::Vitals;

    const MINUTE: Duration = Duration::from_secs(60);

    fn rest(upstream: &Vitals, host: Option<&str>, until: Instant) -> Rest {
        Rest {
            upstream: upstream.id(),
            host: host.map(Arc::from),
            status: 429,
            until,
            client: SessionKey::new(b"one"),
        }
    }

    fn rests_for(rests: &Rests, upstream: &Vitals, host: &str, now: Instant) -> bool {
        let for_host = rests.for_host(host, now);
        for_host.is_some_and(|rests| rests.until(upstream.id()).is_some())
    }

    #[test]
    fn a_rest_is_for_one_host_or_for_all_and_ends_by_itself() {
        let (rests, now) = (Rests::default(), Instant::now());
        let (a, b) = (Vitals::default(), Vitals::default());
        assert!(rests.begin(rest(&a, Some("x.test"), now + MINUTE), now));
        assert!(rests.begin(rest(&b, None, now + MINUTE), now));
        assert!(rests_for(&rests, &a, "x.test", now));
        assert!(!rests_for(&rests, &a, "y.test", now));
        assert!(rests_for(&rests, &b, "y.test", now));
        assert!(!rests_for(&rests, &a, "x.test", now + MINUTE));
        assert_eq!(rests.len.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_longer_rest_is_not_cut_short_by_a_shorter_one() {
        let (rests, now, a) = (Rests::default(), Instant::now(), Vitals::default());
        assert!(rests.begin(rest(&a, Some("x.test"), now + MINUTE * 5), now));
        assert!(!rests.begin(rest(&a, Some("x.test"), now + MINUTE), now));
        assert!(rests_for(&rests, &a, "x.test", now + MINUTE * 4));
        assert!(rests.begin(rest(&a, Some("x.test"), now + MINUTE * 6), now));
        assert!(rests_for(&rests, &a, "x.test", now + MINUTE * 5));
        assert_eq!(rests.longest(10, now).1, 1);
        assert_eq!(rests.begun_by(a.id()), [(429, 3)]);
    }

    #[test]
    fn the_rest_that_ends_first_leaves_a_full_table() {
        let (rests, now, a) = (Rests::default(), Instant::now(), Vitals::default());
        for number in 0..=MOST_RESTS {
            let seconds = 60 + u64::try_from(number).unwrap();
            let until = now + Duration::from_secs(seconds);
            rests.begin(rest(&a, Some(&format!("h{number}.test")), until), now);
        }
        assert_eq!(rests.longest(0, now).1, MOST_RESTS);
        assert!(!rests_for(&rests, &a, "h0.test", now));
        assert!(rests_for(&rests, &a, "h1.test", now));
        assert_eq!(rests.table.lock().for_hosts.len(), MOST_RESTS);
    }

    /// Its site may ask for rests that end later than all others.
    #[test]
    fn a_client_that_fills_the_table_ends_no_rest_of_others() {
        let (rests, now, a) = (Rests::default(), Instant::now(), Vitals::default());
        let of = |client: &[u8], host: &str, until| Rest {
            client: SessionKey::new(client),
            ..rest(&a, Some(host), until)
        };
        rests.begin(of(b"ann", "before.test", now + MINUTE), now);
        for number in 0..MOST_RESTS + 9 {
            let rest = of(b"stranger", &format!("h{number}.test"), now + MINUTE * 10);
            rests.begin(rest, now);
        }
        rests.begin(of(b"ann", "after.test", now + MINUTE), now);
        rests.begin(of(b"bob", "bob.test", now + MINUTE), now);
        for host in ["before.test", "after.test", "bob.test"] {
            assert!(rests_for(&rests, &a, host, now), "{host}");
        }
        assert_eq!(rests.longest(0, now).1, MOST_RESTS);
        rests.clear(a.id());
        let table = rests.table.lock();
        assert_eq!((table.by_client.len(), table.shares.len()), (0, 0));
    }

    /// It would keep every other request waiting while it looks at ten thousand upstreams.
    #[test]
    fn whoever_looks_at_the_rests_for_a_host_locks_nobody_out() {
        let (rests, now) = (Rests::default(), Instant::now());
        let (a, b) = (Vitals::default(), Vitals::default());
        rests.begin(rest(&a, Some("x.test"), now + MINUTE), now);
        let seen = rests.for_host("x.test", now).unwrap();
        assert!(rests.table.try_lock().is_some());
        rests.begin(rest(&b, Some("x.test"), now + MINUTE), now);
        assert_eq!(
            (seen.until(a.id()), seen.until(b.id())),
            (Some(now + MINUTE), None)
        );
        assert!(rests_for(&rests, &b, "x.test", now));
        assert!(rests.for_host("y.test", now).is_none());
    }

    #[test]
    fn upstreams_that_left_the_configuration_are_forgotten() {
        let (rests, now) = (Rests::default(), Instant::now());
        let (a, b) = (Vitals::default(), Vitals::default());
        rests.begin(rest(&a, Some("x.test"), now + MINUTE), now);
        rests.begin(rest(&b, None, now + MINUTE), now);
        rests.keep_only(|id| id == b.id());
        assert_eq!(
            (rests.begun_by(a.id()).len(), rests.longest(9, now).1),
            (0, 1)
        );
        assert_eq!(rests.begun_by(b.id()), [(429, 1)]);
        assert_eq!(rests.len.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn clearing_ends_the_rests_of_one_upstream() {
        let (rests, now) = (Rests::default(), Instant::now());
        let (a, b) = (Vitals::default(), Vitals::default());
        rests.begin(rest(&a, Some("x.test"), now + MINUTE), now);
        rests.begin(rest(&a, None, now + MINUTE), now);
        rests.begin(rest(&b, Some("x.test"), now + MINUTE * 2), now);
        assert_eq!(rests.clear(a.id()), 2);
        assert!(!rests_for(&rests, &a, "x.test", now));
        let (longest, count) = rests.longest(10, now);
        assert_eq!((longest[0].upstream, count), (b.id(), 1));
    }
}
