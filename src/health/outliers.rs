//! Upstreams that fail what others serve, told by the traffic while no probe can tell.
//!
//! One that lost its way to the world, in a network where no probe passes, answers every request with a
//! gateway error, and it answers for itself. What gives it away is that others serve. A client that asks
//! for hosts that are down raises all shares alike, of those that its requests are shared out among: so an
//! upstream is compared with the others of its group alone. A rule may send one group what no other gets.
//!
//! Where the requests of a client keep to one upstream (its session does, or its connection), its errors count for no
//! more than those of all others together.
//!
//! The counts are there already, so an exchange pays nothing for this but where it keeps to an upstream and fails.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::balance::pool::Pool;
use crate::balance::upstream::Upstream;
use crate::balance::vitals::UpstreamId;

/// Between two looks at the counts.
const EVERY: Duration = Duration::from_secs(1);
/// How many of them are looked back: 10 s.
const LOOKS: usize = 10;
/// Fewer answers in that time tell nothing.
const LEAST_ANSWERS: u64 = 10;
/// How much larger than the median of the others its share of gateway errors is, in percent.
const DISTANCE: u64 = 50;
/// How long it is offline the first time; each further time it is so much longer.
const REST: Duration = Duration::from_secs(30);

/// The counts of the last seconds.
#[derive(Default, Debug)]
pub(super) struct Outliers {
    looked: Option<Instant>,
    counted: HashMap<UpstreamId, Counted>,
}

/// Of one upstream: answers and gateway errors since the start, oldest look first.
#[derive(Default, Debug)]
struct Counted {
    looks: VecDeque<(u64, u64)>,
    /// Errors that are one client's alone, which count as neither.
    left_out: u64,
    times_found: u32,
}

/// An upstream that is to be taken offline.
#[derive(Debug)]
pub(super) struct Outlier {
    pub(super) upstream: Arc<Upstream>,
    /// How long it stays so.
    pub(super) rest: Duration,
    pub(super) evidence: String,
}

impl Outliers {
    /// Looks at the counts, if it is time. Where a probe can tell again, nothing is remembered any more.
    pub(super) fn look(&mut self, now: Instant, pool: &Pool) -> Vec<Outlier> {
        let doubted = pool.belief().doubted();
        if doubted.is_empty() {
            self.looked = None;
            self.counted.clear();
            return Vec::new();
        }
        if self.looked.is_some_and(|looked| now < looked + EVERY) {
            return Vec::new();
        }
        self.looked = Some(now);
        let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
        // not `collect`, see `Failures`
        groups.extend(doubted.iter().map(|group| (group.as_deref(), Vec::new())));
        for upstream in pool.upstreams() {
            match groups.get_mut(&upstream.group()) {
                Some(members) if upstream.is_in_service() => members.push(upstream),
                Some(_) => {}
                None => drop(self.counted.remove(&upstream.id())),
            }
        }
        let groups = groups.into_values();
        groups.flat_map(|members| self.among(&members)).collect()
    }

    /// The outliers among those that get the same requests; they leave half of them in service.
    fn among(&mut self, members: &[&Arc<Upstream>]) -> Vec<Outlier> {
        let mut shares = Vec::new();
        for upstream in members {
            let counted = self.counted.entry(upstream.id()).or_default();
            if upstream.vitals().is_offline() {
                counted.looks.clear();
            } else if let Some(share) = counted.share(upstream) {
                shares.push((share, *upstream));
            }
        }
        let offline = members.iter().filter(|one| one.vitals().is_offline());
        let most = (members.len() / 2).saturating_sub(offline.count());
        let found = outliers(&shares).take(most);
        found
            .map(|(share, median, upstream)| self.found(share, median, upstream))
            .collect()
    }

    fn found(&mut self, share: u64, median: u64, upstream: &Arc<Upstream>) -> Outlier {
        let counted = self.counted.entry(upstream.id()).or_default();
        counted.looks.clear();
        counted.times_found = counted.times_found.saturating_add(1);
        Outlier {
            upstream: Arc::clone(upstream),
            rest: REST.saturating_mul(counted.times_found),
            evidence: format!(
                "{share} % of its answers in {LOOKS} s are 502, 503 or 504, and {median} % of those of the \
                 others"
            ),
        }
    }
}

impl Counted {
    /// The share of gateway errors in the last seconds, in percent; none: too few answers.
    fn share(&mut self, upstream: &Upstream) -> Option<u64> {
        let counters = &upstream.vitals().counters;
        let answers = counters.responses.load(Ordering::Relaxed);
        let errors = counters.gateway_errors.load(Ordering::Relaxed);
        self.left_out += upstream.vitals().take_errors_of_one();
        let counting = |all: u64| all.saturating_sub(self.left_out);
        let (answers, errors) = (counting(answers), counting(errors));
        self.looks.push_back((answers, errors));
        if self.looks.len() > LOOKS + 1 {
            self.looks.pop_front();
        }
        let (answers_then, errors_then) = *self.looks.front()?;
        let answers = answers.saturating_sub(answers_then);
        if answers < LEAST_ANSWERS {
            return None;
        }
        Some(
            (errors.saturating_sub(errors_then) * 100)
                .checked_div(answers)?
                .min(100),
        )
    }
}

/// Those whose share lies far above the median of the others, the worst first, with that median.
fn outliers<T>(shares: &[(u64, T)]) -> impl Iterator<Item = (u64, u64, &T)> {
    let mut sorted: Vec<u64> = shares.iter().map(|(share, _)| *share).collect();
    sorted.sort_unstable();
    let mut found: Vec<_> = shares
        .iter()
        .enumerate()
        .filter_map(|(place, (share, whose))| {
            let median = median_without(&sorted, *share)?;
            (*share >= median + DISTANCE).then_some((*share, median, whose, place))
        })
        .collect();
    found.sort_unstable_by_key(|(share, .., place)| (std::cmp::Reverse(*share), *place));
    found
        .into_iter()
        .map(|(share, median, whose, _)| (share, median, whose))
}

/// The upper median of `sorted` without one of the value `without`.
fn median_without(sorted: &[u64], without: u64) -> Option<u64> {
    let own = sorted.binary_search(&without).ok()?;
    let middle = (sorted.len() - 1) / 2;
    let at = if middle < own { middle } else { middle + 1 };
    sorted.get(at).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::iter::repeat_n;

    use crate::balance::upstream::{UpstreamProtocol, UpstreamSpec};
    use crate::protocol::target::Authority;

    /// `a/eu`: host a.test, in the group eu.
    fn pool(text: &str) -> Pool {
        let spec = |word: &str| {
            let (name, group) = word.split_once('/').unwrap_or((word, ""));
            UpstreamSpec {
                name: name.into(),
                group: (!group.is_empty()).then(|| group.into()),
                ..UpstreamSpec::new(
                    UpstreamProtocol::Http,
                    Authority::parse(format!("{name}.test:80").as_bytes(), None).unwrap(),
                )
            }
        };
        Pool::new(text.split_whitespace().map(spec).collect())
    }

    /// The outliers of a pool in which these answer everything with 504, and all others with 200.
    fn found(pool: &Pool, failing: &[&str]) -> Vec<String> {
        let (mut outliers, now) = (Outliers::default(), Instant::now());
        for upstream in pool.upstreams() {
            pool.belief().doubt(upstream.group(), now, "", 0);
        }
        assert!(outliers.look(now, pool).is_empty());
        for upstream in pool.upstreams() {
            let fails = failing.contains(&&*upstream.spec.name);
            for status in repeat_n(if fails { 504 } else { 200 }, 20) {
                let vitals = upstream.vitals();
                vitals.answered(Duration::from_millis(1), status, || None);
            }
        }
        let found = outliers.look(now + EVERY, pool);
        let name = |one: Outlier| one.upstream.spec.name.clone();
        found.into_iter().map(name).collect()
    }

    #[test]
    fn a_group_of_which_all_fail_what_only_it_is_asked_accuses_none_of_its_members() {
        let groups = pool("a/eu b/eu c/us d/us e f");
        assert!(found(&groups, &["a", "b"]).is_empty());
        assert!(found(&groups, &["e", "f"]).is_empty());
        assert!(found(&pool("a/eu b/us c/us"), &["a"]).is_empty());
    }

    #[test]
    fn an_upstream_that_fails_what_its_group_serves_is_found() {
        let pool = pool("a/eu b/eu c/eu d/us e/us f");
        assert_eq!(found(&pool, &["b", "d", "f"]), ["b", "d"]);
    }

    #[test]
    fn where_the_probe_can_tell_nobody_is_an_outlier() {
        let pool = pool("a/eu b/eu c/eu d/us e/us");
        pool.belief().doubt(Some("us"), Instant::now(), "", 0);
        let (mut outliers, now) = (Outliers::default(), Instant::now());
        outliers.look(now, &pool);
        assert_eq!(outliers.counted.len(), 2);
        pool.belief().believe(Some("us"));
        outliers.look(now + EVERY, &pool);
        assert!(outliers.counted.is_empty() && outliers.looked.is_none());
    }

    #[test]
    fn at_least_half_of_a_group_is_left_in_service() {
        let pool = pool("a/eu b/eu c/eu d/eu e/us f/us g/us h/us");
        let down = pool.find("a").unwrap().vitals();
        assert!(down.eject(down.epoch(), 0).is_some());
        assert_eq!(found(&pool, &["b"]), ["b"]);
        let down = pool.find("b").unwrap().vitals();
        assert!(down.eject(down.epoch(), 0).is_some());
        assert!(found(&pool, &["c"]).is_empty());
    }

    /// The outliers among three, of which the first answers these clients, who keep to it, with 504, and 20
    /// others with 200.
    fn found_by(clients: &[u8]) -> usize {
        let pool = pool("a b c");
        let (mut outliers, now) = (Outliers::default(), Instant::now());
        pool.belief().doubt(None, now, "", 0);
        outliers.look(now, &pool);
        let answers = |upstream: &Upstream, status| {
            let ms = Duration::from_millis(1);
            upstream.vitals().answered(ms, status, || None);
        };
        for upstream in pool.upstreams() {
            (0..20).for_each(|_| answers(upstream, 200));
        }
        let failing = &pool.upstreams()[0];
        for client in clients {
            answers(failing, 504);
            failing.vitals().gateway_error_of(u64::from(*client));
        }
        outliers.look(now + EVERY, &pool).len()
    }

    #[test]
    fn one_client_alone_makes_no_outlier_of_the_upstream_that_it_keeps_to() {
        assert_eq!(found_by(&[b'a'; 1000]), 0);
        assert_eq!(found_by(&[&[b'a'; 1000][..], b"bbb"].concat()), 0);
        assert_eq!(found_by(&b"ab".repeat(500)), 1);
    }

    fn check(shares: &[u64], expected: &[u64]) {
        let shares: Vec<_> = shares.iter().map(|share| (*share, ())).collect();
        let found: Vec<_> = outliers(&shares).map(|(share, ..)| share).collect();
        assert_eq!(found, expected, "{shares:?}");
    }

    #[test]
    fn one_that_fails_what_others_serve_is_found() {
        check(&[0, 2, 100], &[100]);
        check(&[0, 50], &[50]);
        check(&[5, 60, 1, 3, 90], &[90, 60]);
    }

    #[test]
    fn shares_that_rise_together_accuse_nobody() {
        check(&[60, 65, 90], &[]);
        check(&[100, 100, 100], &[]);
        check(&[49, 0], &[]);
    }

    #[test]
    fn one_alone_is_compared_with_nobody() {
        check(&[100], &[]);
        check(&[], &[]);
    }
}
