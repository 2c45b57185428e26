//! Lines of the log that come once in a while, however often there is a reason.
//!
//! What a peer can cause it can cause a thousand times a second; the log, and what reads it, must not be
//! what breaks then.

use std::fmt;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// From one line to the next of the same kind, at least: 30 s.
const EVERY: Duration = Duration::from_secs(30);

/// Lets one line of a kind through in a while, and counts the others.
#[derive(Debug)]
pub struct LogLimiter {
    every: Duration,
    /// When a line was let through last, and how many were suppressed since.
    last: Mutex<Option<(Instant, u64)>>,
}

impl LogLimiter {
    /// For a kind of line that was never written: one in 30 s.
    pub const fn new() -> Self {
        Self::every(EVERY)
    }

    /// The same, with another interval.
    pub const fn every(every: Duration) -> Self {
        Self {
            every,
            last: Mutex::new(None),
        }
    }

    /// Whether to write the line now, and how many were suppressed since the last one.
    pub fn allow(&self) -> Option<Suppressed> {
        self.allow_at(Instant::now())
    }

    fn allow_at(&self, now: Instant) -> Option<Suppressed> {
        let mut last = self.last.lock();
        match &mut *last {
            Some((at, suppressed)) if now.saturating_duration_since(*at) < self.every => {
                *suppressed += 1;
                None
            }
            _ => {
                let before = last.replace((now, 0));
                Some(Suppressed(before.map_or(0, |(_, suppressed)| suppressed)))
            }
        }
    }
}

impl Default for LogLimiter {
    fn default() -> Self {
        Self::new()
    }
}

/// How many lines were suppressed; its `Display` stands behind the one that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suppressed(u64);

impl fmt::Display for Suppressed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            times => write!(f, " (and {times} times since this was last said)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_one_line_and_a_count() {
        let (limiter, start) = (LogLimiter::new(), Instant::now());
        assert_eq!(limiter.allow_at(start), Some(Suppressed(0)));
        for millis in 0..1000 {
            let soon = start + Duration::from_millis(millis);
            assert_eq!(limiter.allow_at(soon), None);
        }
        assert_eq!(limiter.allow_at(start + EVERY), Some(Suppressed(1000)));
        assert_eq!(limiter.allow_at(start + EVERY * 2), Some(Suppressed(0)));
        assert_eq!(
            format!("full{}", Suppressed(7)),
            "full (and 7 times since this was last said)"
        );
    }
}
