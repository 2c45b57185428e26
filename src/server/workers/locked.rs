//! The lock over what the workers share, and the calls that go out once it is free.
//!
//! Nobody is woken while the lock is held, and only who waits for the end does so on a condition variable
//! of it: a thread that is woken there is queued for the lock, and now and then handed it before it runs.
//! On a busy machine that is milliseconds later, and until then nobody serves anything. The others wait on
//! alarms of their own.

use std::ops::{Deref, DerefMut};

use parking_lot::{Mutex, MutexGuard};

use super::super::crew::Calls;
use super::super::waiter::Waiter;
use super::WorkersState;

/// The state under its lock; when that ends, those who were called meanwhile are woken.
#[derive(Debug)]
pub(super) struct Locked<'a> {
    // In this order: first it is let go of.
    guard: MutexGuard<'a, WorkersState>,
    wakes: Wakes<'a>,
}

/// Wakes when dropped.
#[derive(Debug)]
struct Wakes<'a> {
    calls: Option<Calls>,
    waiter: &'a Waiter,
}

impl<'a> Locked<'a> {
    /// Waits for the lock. Whoever watches does so at `waiter`.
    pub(super) fn new(state: &'a Mutex<WorkersState>, waiter: &'a Waiter) -> Self {
        Self {
            guard: state.lock(),
            wakes: Wakes {
                calls: None,
                waiter,
            },
        }
    }

    /// Lets go of the lock while `what` runs.
    pub(super) fn unlocked<R>(&mut self, what: impl FnOnce() -> R) -> R {
        let wakes = Wakes {
            calls: self.guard.crew.calls.take(),
            waiter: self.wakes.waiter,
        };
        MutexGuard::unlocked(&mut self.guard, || {
            drop(wakes);
            what()
        })
    }

    /// The lock itself, for who waits until nothing is left.
    pub(super) fn guard(&mut self) -> &mut MutexGuard<'a, WorkersState> {
        &mut self.guard
    }
}

impl Deref for Locked<'_> {
    type Target = WorkersState;

    fn deref(&self) -> &WorkersState {
        &self.guard
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut WorkersState {
        &mut self.guard
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.wakes.calls = self.guard.crew.calls.take();
    }
}

impl Drop for Wakes<'_> {
    fn drop(&mut self) {
        let Some(calls) = self.calls.take() else {
            return;
        };
        for alarm in calls.alarms {
            alarm.ring();
        }
        if calls.watcher {
            self.waiter.wake();
        }
    }
}
