//! Complaints that come once in a while, however often there is a reason.
//!
//! What a peer can cause it can cause a thousand times a second; the log, and whoever reads it, must
//! not be what breaks then.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// From one complaint to the next of the same kind, at least: 30 s.
const EVERY: Duration = Duration::from_secs(30);

/// When one kind of complaint was made last.
#[derive(Debug, Default)]
pub struct Seldom {
    last: Mutex<Option<Last>>,
}

#[derive(Debug)]
struct Last {
    at: Instant,
    kept_back: u64,
}

impl Seldom {
    /// A kind of complaint that was never made.
    pub const fn new() -> Self {
        Self {
            last: Mutex::new(None),
        }
    }

    /// Whether to complain now, and how many complaints were kept back since the last one.
    pub fn says(&self) -> Option<KeptBack> {
        self.says_at(Instant::now())
    }

    fn says_at(&self, now: Instant) -> Option<KeptBack> {
        let mut last = self.last.lock();
        match &mut *last {
            Some(last) if now.saturating_duration_since(last.at) < EVERY => {
                last.kept_back += 1;
                None
            }
            before => {
                let kept_back = before.as_ref().map_or(0, |last| last.kept_back);
                *before = Some(Last {
                    at: now,
                    kept_back: 0,
                });
                Some(KeptBack(kept_back))
            }
        }
    }
}

/// How many complaints were not made; its `Display` stands behind one that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptBack(u64);

impl std::fmt::Display for KeptBack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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
    fn a_flood_is_one_complaint_and_a_count() {
        let (complaint, start) = (Seldom::new(), Instant::now());
        assert_eq!(complaint.says_at(start), Some(KeptBack(0)));
        for millis in 0..1000 {
            let soon = start + Duration::from_millis(millis);
            assert_eq!(complaint.says_at(soon), None);
        }
        assert_eq!(complaint.says_at(start + EVERY), Some(KeptBack(1000)));
        assert_eq!(complaint.says_at(start + EVERY * 2), Some(KeptBack(0)));
        assert_eq!(
            format!("full{}", KeptBack(7)),
            "full (and 7 times since this was last said)"
        );
    }
}
