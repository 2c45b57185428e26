//! When a loop last went round, for a watchdog.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// When a loop last went round.
#[derive(Debug)]
pub(super) struct Pulse {
    pub(super) born: Instant,
    /// Milliseconds after `born`.
    last: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Self {
        Self {
            born: Instant::now(),
            last: AtomicU64::new(0),
        }
    }
}

impl Pulse {
    /// The loop goes round.
    pub(super) fn beat(&self, now: Instant) {
        let since = now.saturating_duration_since(self.born);
        let since = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        self.last.store(since, Ordering::Relaxed);
    }

    /// How long ago that was.
    pub(super) fn age(&self) -> Duration {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        self.born.elapsed().saturating_sub(last)
    }
}
