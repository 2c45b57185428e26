//! Room at upstreams that take so many requests at a time (`max_active`), and who waits for it.
//!
//! First come, first served: room that is left is kept for whoever waits longest of those that it is for, until
//! that one looks. Then it is free again for a moment, in which another may be quicker.
//!
//! Not here: the waiting itself (relay). Nothing here blocks; who waits is told by a call.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use super::vitals::{UpstreamId, Vitals};

/// One of the requests or tunnels that an upstream has; given back when dropped.
#[must_use = "the upstream has room again when this is dropped"]
#[derive(Debug)]
pub struct Slot(Arc<Vitals>);

/// Who waits, the longest first.
#[derive(Debug, Default)]
pub struct Line(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    places: VecDeque<Place>,
}

/// Which upstreams are waited for.
#[derive(Clone, Debug)]
pub struct Wants {
    /// The members of the pool.
    pub(super) members: Arc<HashMap<UpstreamId, usize>>,
    /// This one alone.
    pub(super) only: Option<UpstreamId>,
    /// Not those.
    pub(super) tried: Vec<UpstreamId>,
}

struct Place {
    number: u64,
    wants: Wants,
    /// What is kept for it.
    given: Option<Slot>,
    wake: Box<dyn Fn() + Send + Sync>,
}

/// A place in the line, which ends when dropped.
#[derive(Debug)]
pub struct InLine {
    line: Arc<Line>,
    number: u64,
}

impl Slot {
    /// One more, if the upstream has room for it.
    pub(super) fn take(vitals: &Arc<Vitals>) -> Option<Self> {
        vitals.begin().then(|| Self(Arc::clone(vitals)))
    }

    /// That of a lease which ends, and does not give it back itself.
    pub(super) fn of_lease(vitals: &Arc<Vitals>) -> Self {
        Self(Arc::clone(vitals))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Wants {
    fn accept(&self, id: UpstreamId) -> bool {
        match self.only {
            Some(only) => only == id,
            None => self.members.contains_key(&id) && !self.tried.contains(&id),
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Place").field(&self.number).finish()
    }
}

impl Line {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.0.lock().places.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits behind all others; `wake` is called, and must not block, when there is room.
    pub fn enter(
        self: &Arc<Self>,
        wants: Wants,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> InLine {
        let mut waiting = self.0.lock();
        let number = waiting.next;
        waiting.next += 1;
        waiting.places.push_back(Place {
            number,
            wants,
            given: None,
            wake: Box::new(wake),
        });
        InLine {
            line: Arc::clone(self),
            number,
        }
    }

    /// A slot is not needed any more: it is kept for whoever waits for it longest, if anybody does.
    pub(super) fn offer(&self, slot: Slot) {
        self.offer_from(0, slot);
    }

    /// The same for those with numbers from `first` on.
    fn offer_from(&self, first: u64, slot: Slot) {
        let vitals = &slot.0;
        if vitals.is_offline() || vitals.is_drained() || vitals.is_overfull() {
            return;
        }
        let id = vitals.id();
        let mut waiting = self.0.lock();
        let mut places = waiting.places.iter_mut();
        let place = places
            .find(|place| first <= place.number && place.given.is_none() && place.wants.accept(id));
        if let Some(place) = place {
            place.given = Some(slot);
            (place.wake)();
        }
    }
}

impl InLine {
    /// Where there is room for it: that was kept, and is free for anybody from now on.
    pub fn take_room(&self) -> Option<Arc<Vitals>> {
        let slot = self.line.0.lock().place(self.number)?.given.take()?;
        Some(Arc::clone(&slot.0))
    }

    /// It cannot use that room after all.
    pub fn pass_on(&self, vitals: &Arc<Vitals>) {
        if let Some(slot) = Slot::take(vitals) {
            self.line.offer_from(self.number + 1, slot);
        }
    }
}

impl Waiting {
    fn at(&self, number: u64) -> Option<usize> {
        let found = self
            .places
            .binary_search_by_key(&number, |place| place.number);
        found.ok()
    }

    fn place(&mut self, number: u64) -> Option<&mut Place> {
        let at = self.at(number)?;
        self.places.get_mut(at)
    }
}

impl Drop for InLine {
    fn drop(&mut self) {
        let mut waiting = self.line.0.lock();
        let at = waiting.at(self.number);
        let place = at.and_then(|at| waiting.places.remove(at));
        drop(waiting);
        if let Some(slot) = place.and_then(|place| place.given) {
            self.line.offer(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Upstreams with room for so many each.
    fn upstreams(most: &[u32]) -> Vec<Arc<Vitals>> {
        let with_limit = |most: &u32| {
            let vitals = Arc::<Vitals>::default();
            vitals.limit(std::num::NonZeroU32::new(*most));
            vitals
        };
        most.iter().map(with_limit).collect()
    }

    fn wants(upstreams: &[Arc<Vitals>]) -> Wants {
        let ids = upstreams.iter().map(|one| one.id());
        Wants {
            members: Arc::new(ids.zip(0..).collect()),
            only: None,
            tried: Vec::new(),
        }
    }

    /// Someone in the line, and how often it was woken.
    fn enter(line: &Arc<Line>, wants: Wants) -> (InLine, Arc<AtomicU64>) {
        let woken = Arc::<AtomicU64>::default();
        let counts = Arc::clone(&woken);
        let wake = move || {
            counts.fetch_add(1, Ordering::Relaxed);
        };
        (line.enter(wants, wake), woken)
    }

    fn take(vitals: &Arc<Vitals>) -> Slot {
        Slot::take(vitals).expect("room")
    }

    #[test]
    fn there_are_as_many_slots_as_there_is_room_for() {
        let a = &upstreams(&[2])[0];
        let (first, _second) = (take(a), take(a));
        assert!(Slot::take(a).is_none());
        drop(first);
        assert!(Slot::take(a).is_some());
        let unlimited = Arc::<Vitals>::default();
        let many: Vec<_> = (0..1000).map(|_| take(&unlimited)).collect();
        assert_eq!(unlimited.active(), 1000);
        drop(many);
        assert_eq!(unlimited.active(), 0);
    }

    #[test]
    fn room_is_kept_for_whoever_waits_longest_and_nobody_else_can_take_it() {
        let (line, all) = (Arc::<Line>::default(), upstreams(&[1]));
        let held = take(&all[0]);
        let (first, first_woken) = enter(&line, wants(&all));
        let (_second, second_woken) = enter(&line, wants(&all));
        line.offer(held);
        let woken = || {
            (
                first_woken.load(Ordering::Relaxed),
                second_woken.load(Ordering::Relaxed),
            )
        };
        assert_eq!(woken(), (1, 0));
        assert!(Slot::take(&all[0]).is_none(), "it is kept");
        assert!(first.take_room().is_some());
        line.offer(take(&all[0]));
        assert_eq!(woken(), (2, 0), "it still waits");
        drop(first);
        assert_eq!(woken(), (2, 1), "what was kept for it is the next one's");
        assert_eq!(line.len(), 1);
    }

    #[test]
    fn room_goes_to_those_it_is_for() {
        let (line, all) = (Arc::<Line>::default(), upstreams(&[1, 1]));
        let (a, b) = (take(&all[0]), take(&all[1]));
        let only = |id| Wants {
            only: Some(id),
            ..wants(&all)
        };
        let tried = Wants {
            tried: vec![all[1].id()],
            ..wants(&all)
        };
        let (_elsewhere, elsewhere) = enter(&line, wants(&upstreams(&[1])));
        let (_has_tried_b, has_tried_b) = enter(&line, tried);
        let (_only_b, only_b) = enter(&line, only(all[1].id()));
        let woken = || [&elsewhere, &has_tried_b, &only_b].map(|one| one.load(Ordering::Relaxed));
        line.offer(b);
        assert_eq!(woken(), [0, 0, 1]);
        line.offer(a);
        assert_eq!(woken(), [0, 1, 1]);
    }

    #[test]
    fn who_cannot_use_the_room_passes_it_on_to_those_behind() {
        let (line, all) = (Arc::<Line>::default(), upstreams(&[1]));
        let held = take(&all[0]);
        let (first, _) = enter(&line, wants(&all));
        let (_second, second_woken) = enter(&line, wants(&all));
        line.offer(held);
        let room = first.take_room().expect("room");
        first.pass_on(&room);
        assert_eq!(second_woken.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn an_upstream_that_gets_no_requests_or_has_too_many_keeps_no_room() {
        let (line, all) = (Arc::<Line>::default(), upstreams(&[2]));
        let (first, second) = (take(&all[0]), take(&all[0]));
        let (_waits, woken) = enter(&line, wants(&all));
        all[0].limit(std::num::NonZeroU32::new(1));
        line.offer(first);
        assert_eq!((woken.load(Ordering::Relaxed), all[0].active()), (0, 1));
        all[0].drain();
        line.offer(second);
        assert_eq!((woken.load(Ordering::Relaxed), all[0].active()), (0, 0));
    }

    #[test]
    fn threads_that_leave_while_they_are_served_leave_nothing_behind() {
        let (line, all) = (Arc::<Line>::default(), upstreams(&[1]));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let (_waits, _) = enter(&line, wants(&all));
                        if let Some(slot) = Slot::take(&all[0]) {
                            line.offer(slot);
                        }
                    }
                });
            }
        });
        assert_eq!((line.len(), all[0].active()), (0, 0));
    }
}
