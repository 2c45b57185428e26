//! Halves whose receiver takes nothing more, and for which there is no thread to wait on.
//!
//! The ferry carries what one read takes and one write sends. A half with bytes left over needs a thread,
//! and where the system has none, it lies here: nothing more is read from its sender, and its receiver is
//! asked again after a moment. That is slow, and costs a few KiB each; but the tunnel goes on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::TunnelEnd;
use super::half::Haul;

/// After how long a receiver is asked again.
const AGAIN: Duration = Duration::from_millis(10);

/// What lies here.
#[derive(Debug, Default)]
pub(super) struct Stuck {
    hauls: Mutex<Vec<Haul>>,
    asked: Mutex<Option<Instant>>,
}

impl Stuck {
    /// Adds one.
    pub(super) fn push(&self, haul: Haul) {
        self.hauls.lock().push(haul);
    }

    /// How long until they are to be asked. `None`: there are none.
    pub(super) fn time_to_ask(&self) -> Option<Duration> {
        if self.hauls.lock().is_empty() {
            return None;
        }
        let asked = *self.asked.lock();
        Some(asked.map_or(Duration::ZERO, |at| AGAIN.saturating_sub(at.elapsed())))
    }

    /// Asks all receivers, and gives back those that have taken everything.
    pub(super) fn ask(&self) -> Vec<Haul> {
        *self.asked.lock() = Some(Instant::now());
        // No lock is held while the end of one is told.
        let all = std::mem::take(&mut *self.hauls.lock());
        let mut free = Vec::new();
        for mut haul in all {
            // Dropped by a panic, it ends its tunnel.
            match catch_unwind(AssertUnwindSafe(|| haul.try_again())) {
                Ok(Ok(())) if haul.is_empty() => free.push(haul),
                Ok(Ok(())) => self.push(haul),
                Ok(Err(end)) => haul.end(end),
                Err(_panic) => haul.end(TunnelEnd::Reset),
            }
        }
        free
    }
}
