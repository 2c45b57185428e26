//! The last latencies of an upstream, and which of them few exceed. A mean hides what is rare and long.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

/// How many are kept.
const KEPT: usize = 128;

/// The last latencies. There is no memory for them before the first one.
#[derive(Default, Debug)]
pub struct LastLatencies {
    next: AtomicUsize,
    /// In microseconds; 0: not there yet.
    micros: OnceLock<Box<[AtomicU32]>>,
}

impl LastLatencies {
    /// One more, which takes the place of the oldest.
    pub fn add(&self, micros: u64) {
        let kept = self
            .micros
            .get_or_init(|| (0..KEPT).map(|_| AtomicU32::new(0)).collect());
        let place = self.next.fetch_add(1, Ordering::Relaxed) % KEPT;
        if let Some(kept) = kept.get(place) {
            let micros = u32::try_from(micros).unwrap_or(u32::MAX);
            kept.store(micros.max(1), Ordering::Relaxed);
        }
    }

    /// The one that 95 % of them do not exceed; none: there are none.
    pub fn p95(&self) -> Option<Duration> {
        let kept = self.micros.get()?.iter();
        let mut known: Vec<u32> = kept
            .map(|micros| micros.load(Ordering::Relaxed))
            .filter(|micros| *micros > 0)
            .collect();
        known.sort_unstable();
        let rank = (known.len() * 95).div_ceil(100);
        let micros = known.get(rank.checked_sub(1)?)?;
        Some(Duration::from_micros((*micros).into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p95_of(micros: impl IntoIterator<Item = u64>) -> Option<u128> {
        let latencies = LastLatencies::default();
        for micros in micros {
            latencies.add(micros);
        }
        latencies.p95().map(|p95| p95.as_micros())
    }

    #[test]
    fn five_in_a_hundred_are_longer() {
        assert_eq!(p95_of([]), None);
        assert_eq!(p95_of([7]), Some(7));
        assert_eq!(p95_of([0]), Some(1));
        assert_eq!(p95_of((1..=100).rev()), Some(95));
        assert_eq!(p95_of([9; 95].into_iter().chain([1000; 5])), Some(9));
        assert_eq!(p95_of([9; 94].into_iter().chain([1000; 6])), Some(1000));
        assert_eq!(p95_of([u64::MAX]), Some(u32::MAX.into()));
    }

    #[test]
    fn what_is_long_ago_does_not_count() {
        let long_ago = [1_000_000; 1000].into_iter();
        assert_eq!(p95_of(long_ago.chain([5; KEPT])), Some(5));
    }
}
