//! How many requests are at work at once (`limits.workers`), as guards.
//!
//! A permit is taken before a request is served and lives in its exchange, with a thread or without. A lane
//! that finds none says so, and is woken when one is given back.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::lane::inbox::Handle;

/// The permits.
#[derive(Debug)]
pub(super) struct Budget {
    taken: AtomicUsize,
    limit: AtomicUsize,
    /// Lanes in which clients wait for one.
    wanted: AtomicUsize,
    lanes: OnceLock<Vec<(Arc<Handle>, AtomicBool)>>,
}

/// The right to be at work at one request; given back when dropped.
#[must_use = "a permit that is dropped at once permits nothing"]
#[derive(Debug)]
pub(super) struct WorkPermit(Arc<Budget>);

impl Budget {
    /// At most `limit` at once.
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            taken: AtomicUsize::new(0),
            limit: AtomicUsize::new(limit),
            wanted: AtomicUsize::new(0),
            lanes: OnceLock::new(),
        })
    }

    /// Whom to wake; said once.
    pub(super) fn serves(&self, lanes: &[Arc<Handle>]) {
        let lanes = lanes
            .iter()
            .map(|lane| (Arc::clone(lane), AtomicBool::new(false)));
        drop(self.lanes.set(lanes.collect()));
    }

    /// Changes the limit; permits already taken stay.
    pub(super) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    pub(super) fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// One permit, if there is one.
    pub(super) fn take(self: &Arc<Self>) -> Option<WorkPermit> {
        let limit = self.limit();
        let one_more = |taken: usize| (taken < limit).then_some(taken + 1);
        self.taken
            .fetch_update(Ordering::SeqCst, Ordering::Relaxed, one_more)
            .ok()?;
        Some(WorkPermit(Arc::clone(self)))
    }

    /// Whether clients of this lane wait for a permit. Who says so looks once more.
    pub(super) fn is_wanted_by(&self, lane: usize, wanted: bool) {
        let lanes = self.lanes.get().map(Vec::as_slice).unwrap_or_default();
        if let Some((_, flag)) = lanes.get(lane)
            && flag.swap(wanted, Ordering::SeqCst) != wanted
        {
            if wanted {
                self.wanted.fetch_add(1, Ordering::SeqCst);
            } else {
                self.wanted.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }
}

impl Drop for WorkPermit {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::SeqCst);
        if self.0.wanted.load(Ordering::SeqCst) > 0 {
            for (lane, wants) in self.0.lanes.get().into_iter().flatten() {
                if wants.load(Ordering::SeqCst) {
                    lane.wake();
                }
            }
        }
    }
}
