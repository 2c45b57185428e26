//! Durations counted by size, as Prometheus wants them: one atomic addition to a bucket, one to the sum.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds for exchanges and their phases, in microseconds: 1 ms to 60 s.
pub const EXCHANGE_BOUNDS: &[u64] = &[
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

/// Upper bounds for tunnels, in microseconds: 100 ms to one day.
pub const TUNNEL_BOUNDS: &[u64] = &[
    100_000,
    1_000_000,
    10_000_000,
    60_000_000,
    600_000_000,
    3_600_000_000,
    14_400_000_000,
    86_400_000_000,
];

/// A histogram of durations.
#[derive(Debug)]
pub struct Histogram {
    /// In microseconds, ascending.
    bounds: &'static [u64],
    /// One more than `bounds`: the last one holds what is longer than all of them.
    buckets: Box<[AtomicU64]>,
    /// In microseconds.
    sum: AtomicU64,
}

impl Histogram {
    /// An empty one; `bounds` are microseconds, ascending.
    pub fn new(bounds: &'static [u64]) -> Self {
        Self {
            bounds,
            buckets: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
        }
    }

    /// Counts one duration.
    pub fn observe(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let place = self.bounds.partition_point(|bound| *bound < micros);
        if let Some(bucket) = self.buckets.get(place) {
            bucket.fetch_add(1, Ordering::Relaxed);
            self.sum.fetch_add(micros, Ordering::Relaxed);
        }
    }

    /// How many durations were at most each bound (in microseconds), in ascending order. The last one,
    /// without a bound, is the number of all.
    pub fn cumulative(&self) -> Vec<(Option<u64>, u64)> {
        let bounds = self.bounds.iter().copied().map(Some).chain([None]);
        let mut so_far = 0;
        bounds
            .zip(&self.buckets)
            .map(|(bound, bucket)| {
                so_far += bucket.load(Ordering::Relaxed);
                (bound, so_far)
            })
            .collect()
    }

    /// All durations together.
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.sum.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(micros: &[u64], expected: &[u64]) {
        let histogram = Histogram::new(&[10, 20]);
        for micros in micros {
            histogram.observe(Duration::from_micros(*micros));
        }
        let counts: Vec<u64> = histogram.cumulative().iter().map(|(_, n)| *n).collect();
        assert_eq!(counts, expected);
        assert_eq!(
            histogram.sum(),
            Duration::from_micros(micros.iter().sum::<u64>())
        );
    }

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        check(&[], &[0, 0, 0]);
        check(&[0, 10], &[2, 2, 2]);
        check(&[11, 20], &[0, 2, 2]);
        check(&[21, 5], &[1, 1, 2]);
    }

    #[test]
    fn the_bounds_ascend() {
        for bounds in [EXCHANGE_BOUNDS, TUNNEL_BOUNDS] {
            assert!(bounds.is_sorted_by(|a, b| a < b));
        }
    }
}
