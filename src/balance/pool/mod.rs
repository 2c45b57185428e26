//! All upstreams of one configuration.
//!
//! A pool never changes: a reload makes a new one, which takes over the vitals of the upstreams
//! that stay. So no thread holds a place in a list that has changed meanwhile, and a lease taken from
//! the old pool ends on the counter that the new one reads.
//!
//! A group is a pool, too: it has some of the same upstreams, shares them out by an account of its own, and is in
//! service or not by itself.
//!
//! Not here: which upstream the next attempt goes to (`picks.rs`).

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::belief::Belief;
use super::groups;
use super::history::History;
use super::pick::{self, Chooser};
use super::reason::OfflineReason;
use super::rests::Rests;
use super::room::Line;
use super::sticky::{MoveReason, Pins};
use super::succession;
use super::upstream::{Lease, Upstream, UpstreamSpec};
use super::vitals::{UpstreamId, Vitals};

mod picks;

/// The members of a group that does not exist.
static NOBODY: LazyLock<Pool> = LazyLock::new(|| Pool::new(Vec::new()));

/// An immutable list of upstreams, and the memory of what was picked.
#[derive(Debug)]
pub struct Pool {
    upstreams: Vec<Arc<Upstream>>,
    places: Arc<HashMap<UpstreamId, usize>>,
    /// Whether any member takes no more than so many requests at a time.
    has_limits: bool,
    chooser: Chooser,
    /// For tunnels, while some members have no CONNECT: they are another set that shares.
    tunnel_chooser: Chooser,
    memory: Arc<Memory>,
    /// Of the name of a group; 0 for the whole.
    hash: u64,
    groups: Vec<Self>,
}

/// What outlives a reload, beside the vitals of each upstream.
#[derive(Debug, Default)]
struct Memory {
    belief: Belief,
    history: Arc<History>,
    pins: Mutex<Pins>,
    rests: Rests,
    line: Arc<Line>,
    /// Whoever picks a trial: two requests at once must not go to the same upstream.
    trials: Mutex<()>,
}

impl Pool {
    /// A pool of which nothing is known yet: all upstreams are online.
    pub fn new(specs: Vec<UpstreamSpec>) -> Self {
        Self::with(specs, Arc::default(), |_| Arc::default())
    }

    /// The pool of a new configuration. Upstreams known here keep their state and statistics; one whose
    /// credentials have changed is checked at once, and one whose weight has changed has that of the file.
    #[must_use]
    pub fn succeeded_by(&self, specs: Vec<UpstreamSpec>) -> Self {
        let specs_before: Vec<_> = self.upstreams.iter().map(|one| &one.spec).collect();
        let mut known = succession::predecessors(&specs_before, &specs)
            .into_iter()
            .map(|place| self.upstreams.get(place?));
        let memory = Arc::clone(&self.memory);
        let pool = Self::with(specs, memory, |spec| match known.next().flatten() {
            Some(before) => {
                if before.spec.credentials != spec.credentials || before.spec.told != spec.told {
                    before.vitals().want_check();
                }
                if before.spec.weight != spec.weight {
                    before.vitals().forget_weight();
                }
                Arc::clone(before.vitals())
            }
            None => Arc::default(),
        });
        pool.memory
            .rests
            .keep_only(|id| pool.places.contains_key(&id));
        let groups: HashSet<_> = pool.upstreams.iter().map(|one| one.group()).collect();
        let is_there = |group: Option<&str>| groups.contains(&group);
        pool.memory.belief.keep_only(is_there);
        pool
    }

    fn with(
        specs: Vec<UpstreamSpec>,
        memory: Arc<Memory>,
        mut vitals: impl FnMut(&UpstreamSpec) -> Arc<Vitals>,
    ) -> Self {
        let upstreams: Vec<_> = specs
            .into_iter()
            .map(|spec| {
                let vitals = vitals(&spec);
                let shared = (Arc::clone(&memory.history), Arc::clone(&memory.line));
                Arc::new(Upstream::new(spec, vitals, shared))
            })
            .collect();
        let groups = groups::members(&upstreams).into_iter();
        let groups = groups
            .map(|(hash, members)| Self::of(members, Arc::clone(&memory), hash, Vec::new()))
            .collect();
        Self::of(upstreams, memory, 0, groups)
    }

    fn of(
        upstreams: Vec<Arc<Upstream>>,
        memory: Arc<Memory>,
        hash: u64,
        groups: Vec<Self>,
    ) -> Self {
        let ids = upstreams.iter().map(|upstream| upstream.id());
        Self {
            places: Arc::new(ids.zip(0..).collect()),
            has_limits: upstreams.iter().any(|one| one.spec.max_active.is_some()),
            chooser: Chooser::default(),
            tunnel_chooser: Chooser::default(),
            memory,
            hash,
            groups,
            upstreams,
        }
    }

    /// In how many groups its upstreams are, those in none counted as one.
    pub fn groups_count(&self) -> usize {
        self.groups.len() + 1
    }

    /// The group at this place, see [`super::groups::names`]; the whole pool without one. Nobody is in a group
    /// that does not exist: a request is rather refused than sent where its rule does not say.
    pub fn group(&self, place: Option<usize>) -> &Self {
        match place {
            None => self,
            Some(place) => self.groups.get(place).unwrap_or(&NOBODY),
        }
    }

    /// The member that has this identity.
    pub fn by_id(&self, id: UpstreamId) -> Option<&Arc<Upstream>> {
        self.places
            .get(&id)
            .and_then(|place| self.upstreams.get(*place))
    }

    /// A lease of this very upstream, if it is in service and has room.
    pub fn lease(&self, id: UpstreamId) -> Option<Lease> {
        let upstream = self.by_id(id)?;
        upstream.serves().then(|| Lease::take(upstream))?
    }

    /// Each that came back online takes a share of its turns that grows for `time`; to be called again and again.
    /// Says whether that of any still grows.
    pub fn warm_up(&self, now: Instant, time: Duration) -> bool {
        let mut grows = false;
        for upstream in &self.upstreams {
            grows |= upstream.vitals().warm_up(now, time);
        }
        grows
    }

    /// Who waits until an upstream has room.
    pub fn line(&self) -> &Arc<Line> {
        &self.memory.line
    }

    /// Whether it is their names alone that keep all that could serve from it.
    pub fn is_without_names(&self) -> bool {
        let members = self.upstreams.iter();
        let mut members = members
            .filter(|upstream| upstream.is_in_service())
            .peekable();
        members.peek().is_some()
            && members.all(|upstream| {
                let reason = upstream.vitals().state().reason;
                reason.is_some_and(OfflineReason::is_about_name)
            })
    }

    /// The average latency of those in service that were measured.
    pub fn average_latency(&self) -> Option<Duration> {
        let latencies = self
            .serving()
            .map(|upstream| upstream.vitals().latency_us());
        pick::average(latencies).map(Duration::from_micros)
    }

    /// Whether the target of the probe is believed.
    pub fn belief(&self) -> &Belief {
        &self.memory.belief
    }

    /// Which upstreams rest.
    pub fn rests(&self) -> &Rests {
        &self.memory.rests
    }

    /// How many sessions are remembered, and how many left their upstream, by reason.
    pub fn sessions(&self) -> (usize, [(MoveReason, u64); MoveReason::ALL.len()]) {
        let pins = self.memory.pins.lock();
        let moves = MoveReason::ALL.map(|reason| (reason, pins.moves_by(reason)));
        (pins.len(), moves)
    }

    /// What happened to its members and to the configuration.
    pub fn history(&self) -> &History {
        &self.memory.history
    }

    /// All members, in the order of the file.
    pub fn upstreams(&self) -> &[Arc<Upstream>] {
        &self.upstreams
    }

    /// The member of this name.
    pub fn find(&self, name: &str) -> Option<&Arc<Upstream>> {
        self.upstreams
            .iter()
            .find(|upstream| upstream.spec.name == name)
    }

    /// Whether there are members, and all of them are drained: at run time or by a weight of 0.
    pub fn is_drained(&self) -> bool {
        !self.upstreams.is_empty() && !self.upstreams.iter().any(|one| one.is_in_service())
    }

    /// How many members are not offline, drained or not.
    pub fn online_count(&self) -> usize {
        self.upstreams
            .iter()
            .filter(|upstream| !upstream.vitals().is_offline())
            .count()
    }

    /// The members that get requests now: with none of them, requests are answered with 503, trials left out.
    pub fn serving(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.upstreams.iter().filter(|upstream| upstream.serves())
    }
}

#[cfg(test)]
mod tests;
