//! Whether a body is moved without waiting, or a worker waits for it.
//!
//! To have another worker serve the others costs a thread's wake-up, which is more than most bodies do.
//! So reads and writes of a body are first tried without waiting. Once that does not go on, or the body
//! turns out to be long, the others get a worker of their own, and this one may wait as long as it likes.

use crate::net::socket::Wait;

use super::exchange::Exchange;

/// From here on a body is long, in bytes: others are not to wait for the rest of it. It takes about a
/// millisecond to move so much.
const LONG: u64 = 1024 * 1024;
/// A piece takes as long as one of so many bytes at least.
const LEAST: u64 = 16 * 1024;

/// How far an exchange has come with its bodies on the worker at hand.
#[derive(Debug)]
pub(super) struct Flow {
    wait: Wait,
    moved: u64,
}

impl Default for Flow {
    fn default() -> Self {
        Self {
            wait: Wait::No,
            moved: 0,
        }
    }
}

impl Flow {
    /// Whether the next read or write of a body may wait.
    pub(super) fn wait(&self) -> Wait {
        self.wait
    }
}

impl Exchange<'_> {
    /// A peer is to be waited for. Says whether that is new: what was tried is to be tried again then.
    pub(super) fn begins_to_wait(&mut self) -> bool {
        let is_new = self.flow.wait == Wait::No;
        if is_new {
            self.flow.wait = Wait::Tick;
            self.worker.may_block();
        }
        is_new
    }

    /// A piece of so many bytes of a body went on.
    pub(super) fn has_moved(&mut self, bytes: u64) {
        self.flow.moved = self.flow.moved.saturating_add(bytes.max(LEAST));
        if self.flow.moved > LONG {
            self.begins_to_wait();
        }
    }
}
