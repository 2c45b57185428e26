//! The overseer: one thread that sees to it that the others get on.
//!
//! It sleeps while nothing happens, is roused by who has others wait or may block, and looks every
//! millisecond from then on: whether somebody watches, whether jobs wait for which more workers are to be
//! called or started, and whether some wait too long; more often while connections take their time to be
//! made. While requests are served as they come it only looks once in a while, and costs them nothing.

use std::sync::Arc;
use std::time::Duration;

use crate::protocol::answer::Refusal;
use crate::stop::Woken;

use super::super::crew::{DIAL, SLOW};
use super::super::waiter::ReadyWork;
use super::{Locked, Workers, WorkersState, micros};

/// How often the overseer looks while anybody waits or may block.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// How often it looks while requests come and are served at once.
const DOZE: Duration = Duration::from_millis(20);
/// How long it watches at a time when all workers have something else to do.
const STAND_IN: Duration = Duration::from_millis(20);

/// How much later than it should it may come to look; later, the whole process stood still.
const SLACK: Duration = Duration::from_millis(250);

/// What the overseer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Overseer {
    /// Nothing has happened for a while: it sleeps.
    Rests,
    /// Nobody waits, and nobody says that he may block: it looks once in a while.
    Dozes,
    /// It looks every millisecond.
    Looks,
    /// Whoever watched may block: it looks at once for somebody else who does.
    Relieves,
}

impl Overseer {
    /// How long it sleeps.
    fn limit(self) -> Option<Duration> {
        match self {
            Self::Rests => None,
            Self::Dozes => Some(DOZE),
            Self::Looks | Self::Relieves => Some(LOOK_EVERY),
        }
    }
}

impl Workers {
    /// Has the overseer look from now on, while anybody waits; and whoever watches, who counts as coming
    /// but does not know what others have queued meanwhile.
    pub(super) fn alert(&self, state: &mut WorkersState) {
        if state.crew.has_work() && self.waiter.is_watched() {
            state.crew.calls.watcher = true;
        }
        self.rouse(state, Overseer::Looks);
    }

    /// The same when a worker may block: until it is done, another is to watch.
    pub(super) fn leave_watch(&self, state: &mut WorkersState) {
        if state.overseer < Overseer::Looks {
            self.rouse(state, Overseer::Relieves);
        }
    }

    /// Has the overseer do more than it does.
    pub(super) fn rouse(&self, state: &mut WorkersState, what: Overseer) {
        if state.overseer < what {
            state.overseer = what;
            state.crew.calls.notifies.push(self.notify.clone());
        }
    }

    /// The overseer: has somebody watch, makes room for those who wait, and tells those who waited too
    /// long.
    pub(in crate::server) fn oversee(self: &Arc<Self>) {
        let mut found = ReadyWork::default();
        // How often somebody had begun to watch when it was last looked, if that is as long ago as it should.
        let mut seen = None;
        let mut looked = self.now();
        let mut state = self.lock();
        while !state.closing {
            self.dismiss_late(&mut state, &mut looked);
            let watches = self.waiter.watches();
            if state.crew.has_work() && !state.crew.is_active(self.now()) {
                // All wait for somebody: maybe for one who has come meanwhile.
                self.stand_in(&mut state, Some(Duration::ZERO), &mut found);
            }
            self.help(&mut state);
            // Whoever should may block, or nobody has watched since the last look.
            let is_left = state.overseer == Overseer::Relieves || seen == Some(watches);
            if is_left && !self.waiter.is_watched() && !self.is_relieved(&mut state) {
                // Nobody is needed yet, everybody has something else to do, or there is no thread for
                // those who wait: then it is asked for again.
                let limit = match (state.crew.has_work(), state.crew.threads()) {
                    // It watches, and no notification reaches it: waiting workers must not wait for that.
                    (true, _) => Some(LOOK_EVERY),
                    (false, 0) => None,
                    (false, _) => Some(STAND_IN),
                };
                if self.stand_in(&mut state, limit, &mut found) {
                    seen = Some(self.waiter.watches());
                    continue;
                }
            }
            let is_quiet = !state.crew.has_work() && self.waiter.is_watched();
            state.overseer = match (state.overseer, is_quiet) {
                (_, false) => Overseer::Looks,
                // Whoever has roused it may do so again at once.
                (Overseer::Looks, true) if seen.is_none() => Overseer::Looks,
                (Overseer::Relieves, true) => Overseer::Looks,
                (Overseer::Dozes, true) if seen == Some(watches) => Overseer::Rests,
                (_, true) => Overseer::Dozes,
            };
            let limit = if self.is_held_up(&state) {
                Some(Duration::from_micros(DIAL))
            } else {
                state.overseer.limit()
            };
            let watches = self.waiter.watches();
            let woken = state.unlocked(|| self.notify.wait(limit));
            seen = (woken == Woken::TimedOut).then_some(watches);
        }
        // What this one has seen last, when the workers may have left already.
        let left = state.crew.take_answers();
        drop(state);
        self.cut(left);
    }

    /// Watches for at most `limit`; whatever is found is for others. `false`: somebody else watches.
    fn stand_in(
        &self,
        state: &mut Locked<'_>,
        limit: Option<Duration>,
        found: &mut ReadyWork,
    ) -> bool {
        let Some(watch) = self.waiter.try_watch() else {
            return false;
        };
        state.unlocked(|| self.watch(watch, limit, found));
        let refused = self.leave_to_others(state, found, self.now());
        state.unlocked(|| self.refuse(refused, &Refusal::QueueFull));
        true
    }

    /// Whether some wait behind workers that make connections, of whom only so many begin at a time.
    fn is_held_up(&self, state: &WorkersState) -> bool {
        state.crew.has_work() && state.crew.dials(self.now())
    }

    /// Has a worker watch from now on, if one can be had.
    fn is_relieved(self: &Arc<Self>, state: &mut Locked<'_>) -> bool {
        let (workers, most) = (state.crew.workers(), state.bounds.workers);
        let may_start = state.crew.threads() > 0 && workers < most;
        state.crew.coming() > 0
            || state.crew.call(1) == 1
            || (may_start && self.start(state, 1) == 1)
    }

    /// Calls and starts workers for jobs that wait, and lets lasting exchanges give up their places.
    fn help(self: &Arc<Self>, state: &mut Locked<'_>) {
        let (now, bounds) = (self.now(), state.bounds);
        let wanted = state.crew.reinforce(now, bounds.at_once);
        // What has just come may find a worker that is just done.
        if wanted == 0 || (state.crew.is_active(now) && state.crew.oldest(now) < SLOW) {
            return;
        }
        let possible = state.room();
        let started = self.start(state, wanted.min(possible));
        if possible < wanted {
            let room = (wanted - started, bounds.workers / 2);
            let threads = &self.ctx.long_threads;
            let made = state.crew.make_room(now, room, &|| threads.take(1));
            self.start(state, made);
        }
    }

    /// Refuses those who have waited too long; nobody else does. While it has not `looked`, nobody was
    /// served either, or nobody waited.
    pub(super) fn dismiss_late(&self, state: &mut Locked<'_>, looked: &mut u64) {
        let (now, patience) = (self.now(), micros(state.bounds.patience));
        let passed = now.saturating_sub(std::mem::replace(looked, now));
        if passed > micros(SLACK) {
            state.crew.excuse(now, passed);
        }
        while let Some(mut job) = state.crew.overdue(now, patience) {
            let waited = Duration::from_micros(now.saturating_sub(job.since));
            job.what.0.has_waited(waited);
            state.unlocked(|| {
                self.refuse(vec![job.what], &Refusal::QueueTimeout);
            });
        }
    }
}
