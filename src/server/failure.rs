//! Threads without which the relay only looks alive: should one panic, the program ends with an error, and its
//! supervisor starts it anew.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

/// The first essential thread that panicked, and what is done then.
#[derive(Default)]
pub(super) struct Failure {
    pub(super) thread: OnceLock<&'static str>,
    pub(super) told: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl std::fmt::Debug for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Failure").field(&self.thread).finish()
    }
}

impl Failure {
    /// Does what must not panic.
    pub(super) fn essential(&self, thread: &'static str, run: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(run)).is_err()
            && self.thread.set(thread).is_ok()
            && let Some(told) = self.told.get()
        {
            told();
        }
    }
}
