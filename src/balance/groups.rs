//! Which upstreams are in which group.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::sticky;
use super::upstream::{Upstream, UpstreamSpec};

/// The names of all groups, in the order in which they first come up. A group is known by its place in this
/// list.
pub fn names<'s>(specs: impl Iterator<Item = &'s UpstreamSpec>) -> Vec<&'s str> {
    let mut seen = HashSet::new();
    specs
        .filter_map(|spec| spec.group.as_deref())
        .filter(|name| seen.insert(*name))
        .collect()
}

/// The members of each group, with the hash of its name.
pub(super) fn members(upstreams: &[Arc<Upstream>]) -> Vec<(u64, Vec<Arc<Upstream>>)> {
    let names = names(upstreams.iter().map(|upstream| &upstream.spec));
    let begun = |name: &&str| (sticky::hash(name.as_bytes()), Vec::new());
    let mut groups: Vec<(u64, Vec<_>)> = names.iter().map(begun).collect();
    let places: HashMap<_, _> = names.into_iter().zip(0..).collect();
    for upstream in upstreams {
        let name = upstream.spec.group.as_deref();
        if let Some(place) = name.and_then(|name| places.get(name))
            && let Some((_, members)) = groups.get_mut::<usize>(*place)
        {
            members.push(Arc::clone(upstream));
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::balance::pick::BalanceMode;
    use crate::balance::pool::Pool;
    use crate::balance::reason::OfflineReason;
    use crate::balance::state::{CheckVerdict, Thresholds};
    use crate::balance::sticky::SessionKey;
    use crate::balance::tried::Tried;
    use crate::balance::wish::{Session, Wish};
    use crate::protocol::target::Authority;

    /// `a/eu`: host a.test, in the group eu.
    fn pool(text: &str) -> Pool {
        let spec = |word: &str| {
            let (name, group) = word.split_once('/').unwrap_or((word, ""));
            UpstreamSpec {
                name: name.into(),
                group: (!group.is_empty()).then(|| group.into()),
                ..UpstreamSpec::new(
                    crate::balance::upstream::UpstreamProtocol::Http,
                    Authority::parse(format!("{name}.test:80").as_bytes(), None).unwrap(),
                )
            }
        };
        Pool::new(text.split_whitespace().map(spec).collect())
    }

    fn picks(pool: &Pool, count: usize) -> String {
        let pick = |_| pool.pick(BalanceMode::RoundRobin, None, &mut Tried::default());
        let name = |lease: Option<_>| lease.map_or("-".into(), name_of);
        (0..count).map(pick).map(name).collect()
    }

    #[expect(clippy::needless_pass_by_value, reason = "the lease ends here")]
    fn name_of(lease: crate::balance::upstream::Lease) -> String {
        lease.upstream().spec.name.clone()
    }

    fn take_offline(pool: &Pool, name: &str) {
        let vitals = pool.find(name).unwrap().vitals();
        let (began, _) = vitals.check_begins();
        let fails = CheckVerdict::Fails(OfflineReason::Closes);
        vitals.check_ended(began, fails, Thresholds { fall: 1, rise: 1 }, 0);
    }

    #[test]
    fn a_group_shares_by_an_account_of_its_own() {
        let pool = pool("a/eu b/us c/eu d e/us");
        let (eu, us) = (pool.group(Some(0)), pool.group(Some(1)));
        assert_eq!(picks(eu, 3), "aca");
        assert_eq!(picks(us, 3), "beb");
        assert_eq!(picks(eu, 2), "ca");
        assert_eq!(picks(pool.group(None), 5), "abcde");
    }

    #[test]
    fn nobody_is_in_a_group_that_does_not_exist() {
        let pool = pool("a/eu b/us");
        assert_eq!(picks(pool.group(Some(2)), 1), "-");
        assert_eq!(picks(pool.group(Some(0)).group(Some(0)), 1), "-");
    }

    #[test]
    fn a_group_is_down_by_itself_and_the_same_upstream_has_one_state() {
        let pool = pool("a/eu b/us c/eu");
        let (eu, us) = (pool.group(Some(0)), pool.group(Some(1)));
        take_offline(&pool, "a");
        assert_eq!(picks(eu, 2), "cc");
        take_offline(eu, "c");
        assert_eq!(picks(eu, 1), "-");
        assert_eq!((eu.serving().count(), us.serving().count()), (0, 1));
        assert_eq!(picks(&pool, 2), "bb");
        us.find("b").unwrap().vitals().drain();
        assert!(us.is_drained() && !eu.is_drained());
    }

    #[test]
    fn a_trial_goes_to_the_group_that_is_down_and_no_upstream_has_two() {
        let (pool, now) = (pool("a/eu b/us"), Instant::now());
        take_offline(&pool, "a");
        let trial = |pool: &Pool| pool.pick_trial(&mut Tried::default(), now).map(name_of);
        assert_eq!(trial(&pool), None, "b serves");
        assert_eq!(trial(pool.group(Some(1))), None, "b serves");
        let eu = pool.group(Some(0));
        let first = eu.pick_trial(&mut Tried::default(), now);
        assert!(first.is_some());
        take_offline(&pool, "b");
        assert_eq!(trial(&pool).as_deref(), Some("b"));
        assert_eq!(trial(eu), None);
    }

    #[test]
    fn a_session_keeps_an_upstream_in_each_group() {
        let pool = pool("a/eu b/us c/eu d/us");
        let now = Instant::now();
        let wish = Wish {
            session: Some(Session {
                key: SessionKey::new(b"ann"),
                ttl: Duration::from_secs(600),
                most: 10,
            }),
            host: None,
            only_rested: false,
            now,
        };
        let pick = |group: usize| {
            let pool = pool.group(Some(group));
            let lease = pool.pick(BalanceMode::RoundRobin, Some(&wish), &mut Tried::default());
            lease.map(name_of).unwrap()
        };
        let (eu, us) = (pick(0), pick(1));
        for _ in 0..3 {
            assert_eq!((pick(0), pick(1)), (eu.clone(), us.clone()));
        }
        let (sessions, moves) = pool.sessions();
        assert_eq!(sessions, 2);
        assert!(moves.iter().all(|(_, count)| *count == 0));
    }
}
