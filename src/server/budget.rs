//! How many requests are at work at once (`limits.workers`), as guards.
//!
//! A permit is taken before a request is worked at and lives in its exchange, with a thread or without. Where
//! there is none, the client stands in line, and its lane gets one by mail: each client address in its turn,
//! whichever lane it is in. While any stand in line, none is taken past them.
//!
//! An exchange that lasts longer than a second gives its permit up for one of the budget for what lasts, as
//! soon as any stand in line: so neither streams nor slow readers use the permits up.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::net::permits::{Permit, Permits};
use crate::net::threads::LongThreads;

/// After so long an exchange lasts.
const LASTING: Duration = Duration::from_secs(1);

/// Where clients wait for permits: a lane.
pub(super) trait WaitsForPermits: Send + Sync {
    /// A permit for a client from this address.
    fn permit_came(&self, client: IpAddr, permit: WorkPermit);
}

/// Not derived: the only type behind it is the handle of a lane, and its `{:?}` would take code for all that
/// it holds into the program.
impl fmt::Debug for dyn WaitsForPermits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WaitsForPermits")
    }
}

/// A client in line: from which address, and where.
type InLine = (IpAddr, Arc<dyn WaitsForPermits>);

/// The permits.
#[derive(Debug)]
pub(super) struct Budget {
    taken: AtomicUsize,
    limit: AtomicUsize,
    /// How many stand in `line`.
    wanted: AtomicUsize,
    line: Mutex<Line>,
    long_threads: LongThreads,
    /// Counts what lasts.
    lasting: Arc<Permits>,
}

/// Who stands in line, by client address; the addresses take turns.
#[derive(Debug, Default)]
struct Line {
    turns: VecDeque<IpAddr>,
    /// The lanes of each; none is empty.
    lanes: HashMap<IpAddr, VecDeque<Arc<dyn WaitsForPermits>>>,
    length: usize,
}

impl Line {
    fn push(&mut self, client: IpAddr, lane: Arc<dyn WaitsForPermits>) {
        self.length += 1;
        let lanes = self.lanes.entry(client).or_default();
        if lanes.is_empty() {
            self.turns.push_back(client);
        }
        lanes.push_back(lane);
    }

    fn pop(&mut self) -> Option<InLine> {
        let client = self.turns.pop_front()?;
        let lanes = self.lanes.get_mut(&client)?;
        let lane = lanes.pop_front()?;
        self.length -= 1;
        if lanes.is_empty() {
            self.lanes.remove(&client);
        } else {
            self.turns.push_back(client);
        }
        Some((client, lane))
    }

    /// One client of this address and lane waits no more.
    fn remove(&mut self, client: IpAddr, lane: &Arc<dyn WaitsForPermits>) {
        let Some(lanes) = self.lanes.get_mut(&client) else {
            return;
        };
        if let Some(place) = lanes.iter().position(|other| Arc::ptr_eq(other, lane)) {
            lanes.remove(place);
            self.length -= 1;
        }
        if lanes.is_empty() {
            self.lanes.remove(&client);
            self.turns.retain(|other| *other != client);
        }
    }
}

/// The right to be at work at one request; given back when dropped.
#[must_use = "a permit that is dropped at once permits nothing"]
#[derive(Debug)]
pub(super) struct WorkPermit(Arc<Budget>);

/// What an exchange holds.
#[must_use = "a permit that is dropped at once permits nothing"]
#[derive(Debug)]
pub(super) enum Held {
    /// One of `limits.workers`.
    Work(WorkPermit),
    /// One of the budget for what lasts, and the count of those.
    Lasting {
        _thread: Option<Permit>,
        _count: Permit,
    },
}

/// How an exchange waits for its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    /// A follower does.
    WithThread,
    /// It is suspended.
    WithoutThread,
}

impl Held {
    /// Gives a permit up that others want, if this exchange lasts since `since`.
    pub(super) fn lasts(&mut self, since: Instant, now: Instant, how: Waiting) {
        let Self::Work(WorkPermit(budget)) = self else {
            return;
        };
        if !budget.is_wanted() || now.saturating_duration_since(since) < LASTING {
            return;
        }
        let thread = match how {
            Waiting::WithoutThread => None,
            Waiting::WithThread => match budget.long_threads.take(1) {
                None => return,
                thread => thread,
            },
        };
        if let Some(count) = budget.lasting.take(1) {
            *self = Self::Lasting {
                _thread: thread,
                _count: count,
            };
        }
    }
}

impl Budget {
    /// At most `limit` at once, those not counted that last.
    pub(super) fn new(limit: usize, long_threads: LongThreads) -> Arc<Self> {
        Arc::new(Self {
            taken: AtomicUsize::new(0),
            limit: AtomicUsize::new(limit),
            wanted: AtomicUsize::new(0),
            line: Mutex::default(),
            long_threads,
            lasting: Permits::new(usize::MAX),
        })
    }

    /// Changes the limit; permits already taken stay.
    pub(super) fn set_limit(self: &Arc<Self>, limit: usize) {
        self.limit.store(limit, Ordering::SeqCst);
        self.pass_on();
    }

    pub(super) fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Exchanges that last.
    pub(super) fn lasting(&self) -> usize {
        self.lasting.taken()
    }

    /// Whether any stand in line.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::SeqCst) > 0
    }

    /// One permit, if there is one and none stands in line for it.
    pub(super) fn take(self: &Arc<Self>) -> Option<WorkPermit> {
        if self.is_wanted() {
            return None;
        }
        self.take_past_line()
    }

    fn take_past_line(self: &Arc<Self>) -> Option<WorkPermit> {
        let limit = self.limit.load(Ordering::SeqCst);
        let one_more = |taken: usize| (taken < limit).then_some(taken + 1);
        self.taken
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more)
            .ok()
            .map(|_| WorkPermit(Arc::clone(self)))
    }

    /// Has a permit for `client` sent to `lane` when it is its turn. Says whether it is the first in line.
    pub(super) fn stand_in_line(
        self: &Arc<Self>,
        client: IpAddr,
        place: Arc<dyn WaitsForPermits>,
    ) -> bool {
        let mut line = self.line.lock();
        line.push(client, place);
        let is_first = line.length == 1;
        self.wanted.store(line.length, Ordering::SeqCst);
        drop(line);
        // One may have been given back since it was looked.
        self.pass_on();
        is_first
    }

    /// A client waits no more. If a permit for it is on the way to its lane already, that gives the permit to
    /// another client from this address, or back.
    pub(super) fn leave_line(&self, client: IpAddr, place: &Arc<dyn WaitsForPermits>) {
        let mut line = self.line.lock();
        line.remove(client, place);
        self.wanted.store(line.length, Ordering::SeqCst);
    }

    /// Gives those in line what there is.
    fn pass_on(self: &Arc<Self>) {
        while self.is_wanted()
            && let Some(((client, lane), permit)) = self.next_in_line()
        {
            lane.permit_came(client, permit);
        }
    }

    fn next_in_line(self: &Arc<Self>) -> Option<(InLine, WorkPermit)> {
        let mut line = self.line.lock();
        if line.length == 0 {
            return None;
        }
        let permit = self.take_past_line()?;
        let next = line.pop();
        self.wanted.store(line.length, Ordering::SeqCst);
        drop(line);
        next.map(|next| (next, permit))
    }
}

impl Drop for WorkPermit {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::SeqCst);
        self.0.pass_on();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Lane(Mutex<Vec<(IpAddr, WorkPermit)>>);

    impl WaitsForPermits for Lane {
        fn permit_came(&self, client: IpAddr, permit: WorkPermit) {
            self.0.lock().push((client, permit));
        }
    }

    impl Lane {
        fn permits(&self) -> Vec<(IpAddr, WorkPermit)> {
            std::mem::take(&mut self.0.lock())
        }
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn addresses_take_turns() {
        let place: Arc<dyn WaitsForPermits> = Arc::new(Lane::default());
        let mut line = Line::default();
        for client in [1, 1, 1, 2, 3, 2] {
            line.push(address(client), Arc::clone(&place));
        }
        line.remove(address(3), &place);
        let turns: Vec<_> = std::iter::from_fn(|| line.pop()).collect();
        let turns: Vec<_> = turns.iter().map(|(client, _)| *client).collect();
        assert_eq!(turns, [1, 2, 1, 2, 1].map(address));
        assert_eq!(line.length, 0);
        assert!(line.lanes.is_empty());
    }

    #[test]
    fn a_permit_that_is_given_back_is_for_who_stands_in_line_whichever_lane_that_is() {
        let budget = Budget::new(1, LongThreads::within_system_limits());
        let [one, other] = [(); 2].map(|()| Arc::new(Lane::default()));
        let held = budget.take().unwrap();
        assert!(budget.stand_in_line(address(1), Arc::<Lane>::clone(&other)));
        assert!(!budget.stand_in_line(address(2), Arc::<Lane>::clone(&one)));
        assert!(one.permits().is_empty() && other.permits().is_empty());
        drop(held);
        assert!(budget.take().is_none(), "none is taken past the line");
        assert!(one.permits().is_empty());
        let given = other.permits();
        assert_eq!(given.len(), 1);
        drop(given);
        assert_eq!(one.permits().len(), 1);
        assert_eq!((budget.taken(), budget.is_wanted()), (0, false));
    }

    #[test]
    fn what_lasts_gives_its_permit_up_only_once_it_is_wanted() {
        let budget = Budget::new(1, LongThreads::within_system_limits());
        let lane = Arc::new(Lane::default());
        let mut held = Held::Work(budget.take().unwrap());
        let now = Instant::now();
        let since = now.checked_sub(LASTING).unwrap();
        held.lasts(since, now, Waiting::WithThread);
        assert_eq!((budget.taken(), budget.lasting()), (1, 0));
        budget.stand_in_line(address(1), Arc::<Lane>::clone(&lane));
        held.lasts(now, now, Waiting::WithThread);
        assert_eq!(budget.lasting(), 0, "it does not last");
        held.lasts(since, now, Waiting::WithThread);
        assert_eq!((budget.taken(), budget.lasting()), (1, 1));
        assert_eq!(lane.permits().len(), 1);
        drop(held);
        assert_eq!((budget.taken(), budget.lasting()), (0, 0));
    }
}
