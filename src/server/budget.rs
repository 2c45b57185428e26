//! How many requests are at work at once (`limits.workers`), as guards.
//!
//! A permit is taken before a request is served and lives in its exchange, with a thread or without. Where
//! there is none a lane stands in line, once for each client that waits there, and gets one by mail: in the
//! order in which they came, whichever lane they are in. While any stand in line, none is taken past them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::lane::inbox::{Handle, Mail};

/// The permits.
#[derive(Debug)]
pub(super) struct Budget {
    taken: AtomicUsize,
    limit: AtomicUsize,
    /// How many stand in `line`.
    wanted: AtomicUsize,
    line: Mutex<VecDeque<Arc<Handle>>>,
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
            line: Mutex::default(),
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

    /// One permit, if there is one and none stands in line for it.
    pub(super) fn take(self: &Arc<Self>) -> Option<WorkPermit> {
        (self.wanted.load(Ordering::SeqCst) == 0).then(|| self.take_past_line())?
    }

    fn take_past_line(self: &Arc<Self>) -> Option<WorkPermit> {
        let limit = self.limit.load(Ordering::SeqCst);
        let one_more = |taken: usize| (taken < limit).then_some(taken + 1);
        self.taken
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more)
            .ok()
            .map(|_| WorkPermit(Arc::clone(self)))
    }

    /// Has a permit sent to `lane` when it is its turn.
    pub(super) fn stand_in_line(self: &Arc<Self>, lane: &Arc<Handle>) {
        let mut line = self.line.lock();
        line.push_back(Arc::clone(lane));
        self.wanted.store(line.len(), Ordering::SeqCst);
        drop(line);
        // One may have been given back since it was looked.
        self.pass_on();
    }

    /// Gives those in line what there is.
    fn pass_on(self: &Arc<Self>) {
        while self.wanted.load(Ordering::SeqCst) > 0
            && let Some((lane, permit)) = self.next_in_line()
        {
            // From a lane that has ended it comes back, and is given back here.
            drop(lane.post(Mail::Permit(permit)));
        }
    }

    fn next_in_line(self: &Arc<Self>) -> Option<(Arc<Handle>, WorkPermit)> {
        let mut line = self.line.lock();
        if line.is_empty() {
            return None;
        }
        let permit = self.take_past_line()?;
        let lane = line.pop_front();
        self.wanted.store(line.len(), Ordering::SeqCst);
        drop(line);
        lane.map(|lane| (lane, permit))
    }
}

impl Drop for WorkPermit {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::SeqCst);
        self.0.pass_on();
    }
}
