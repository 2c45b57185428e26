//! The lock over what the workers share, and the calls that go out once it is free.
//!
//! Nobody is woken while the lock is held, and nobody waits on a condition variable of it: a thread that
//! is woken so is queued for the lock, and now and then handed it before it runs. On a busy machine that
//! is milliseconds later, and until then nobody serves anything. Threads wait on alarms of their own.

use std::ops::{Deref, DerefMut};

use parking_lot::{Mutex, MutexGuard};

use super::super::crew::Calls;
use super::super::waiter::Waiter;

/// What may have somebody woken while it is locked.
pub(super) trait Calling {
    /// As [`Calls::take`].
    fn take_calls(&mut self) -> Option<Calls>;
}

/// `S` under its lock; when that ends, those who were called meanwhile are woken.
#[derive(Debug)]
pub(super) struct Locked<'a, S: Calling> {
    // In this order: first it is let go of.
    guard: MutexGuard<'a, S>,
    wakes: Wakes<'a>,
}

/// Wakes when dropped.
#[derive(Debug)]
struct Wakes<'a> {
    calls: Option<Calls>,
    waiter: &'a Waiter,
}

impl<'a, S: Calling> Locked<'a, S> {
    /// Waits for the lock. Whoever watches does so at `waiter`.
    pub(super) fn new(state: &'a Mutex<S>, waiter: &'a Waiter) -> Self {
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
            calls: self.guard.take_calls(),
            waiter: self.wakes.waiter,
        };
        MutexGuard::unlocked(&mut self.guard, || {
            drop(wakes);
            what()
        })
    }

    /// The lock itself, for who waits until nothing is left.
    pub(super) fn guard(&mut self) -> &mut MutexGuard<'a, S> {
        &mut self.guard
    }
}

impl<S: Calling> Deref for Locked<'_, S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.guard
    }
}

impl<S: Calling> DerefMut for Locked<'_, S> {
    fn deref_mut(&mut self) -> &mut S {
        &mut self.guard
    }
}

impl<S: Calling> Drop for Locked<'_, S> {
    fn drop(&mut self) {
        self.wakes.calls = self.guard.take_calls();
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
