//! Whether the target of the probe is believed.
//!
//! A probe asks a stranger. Where it passes through no upstream, the stranger (or the way to it) is at
//! fault, and nothing it says is held against an upstream for a while. The prober writes this, every thread
//! may read it.
//!
//! A group may be in a network of its own, so each has a belief of its own; upstreams in none share one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long the target is not believed after a probe that passed through no upstream.
pub const DISBELIEF: Duration = Duration::from_secs(30);

/// The name of a group; none: all that are in no group.
type Group = Option<Box<str>>;

/// Whether the target of the probe is believed, by the upstreams of each group. Starts believed.
#[derive(Default, Debug)]
pub struct Belief {
    doubted: Mutex<BTreeMap<Group, Disbelief>>,
}

/// Why the target is not believed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Disbelief {
    /// Since when, in milliseconds since 1970.
    pub since_unix_ms: u64,
    /// Until when, unless a probe passes before or the time is extended.
    pub until: Instant,
    /// The upstreams that were asked, and what each got.
    pub seen: Box<str>,
}

impl Belief {
    /// Whether a probe that fails at `now` may be the fault of an upstream of this group.
    pub fn is_believed(&self, group: Option<&str>, now: Instant) -> bool {
        let until = self.doubted_until(group);
        until.is_none_or(|until| until <= now)
    }

    /// Why it is not believed at `now`, if there is a group in which it is not.
    pub fn disbelief(&self, now: Instant) -> Option<Disbelief> {
        let doubted = self.doubted.lock();
        let all = doubted.values().filter(|one| now < one.until).cloned();
        all.reduce(|one, other| Disbelief {
            since_unix_ms: one.since_unix_ms.min(other.since_unix_ms),
            until: one.until.max(other.until),
            seen: format!("{}, {}", one.seen, other.seen).into(),
        })
    }

    /// The groups in which it was doubted and has not passed since.
    pub fn doubted(&self) -> Vec<Group> {
        self.doubted.lock().keys().cloned().collect()
    }

    /// When the time of such a group is over, also if it is over already.
    pub fn doubted_until(&self, group: Option<&str>) -> Option<Instant> {
        let doubted = self.doubted.lock();
        let mut doubted = doubted.iter();
        doubted
            .find(|(name, _)| name.as_deref() == group)
            .map(|(_, doubted)| doubted.until)
    }

    /// The probe passed through none of those in `seen`, which are of this group. Says whether that is new.
    pub fn doubt(&self, group: Option<&str>, now: Instant, seen: &str, now_unix_ms: u64) -> bool {
        let mut doubted = self.doubted.lock();
        let group: Group = group.map(Into::into);
        let since = doubted.get(&group).map(|before| before.since_unix_ms);
        let disbelief = Disbelief {
            since_unix_ms: since.unwrap_or(now_unix_ms),
            until: now + DISBELIEF,
            seen: seen.into(),
        };
        doubted.insert(group, disbelief);
        since.is_none()
    }

    /// Lets the time of a group last a little longer, for the target is being asked.
    pub fn wait_until(&self, group: Option<&str>, until: Instant) {
        for (name, doubted) in &mut *self.doubted.lock() {
            if name.as_deref() == group {
                doubted.until = doubted.until.max(until);
            }
        }
    }

    /// The probe passed through an upstream of this group. Says whether that is new.
    pub fn believe(&self, group: Option<&str>) -> bool {
        let mut doubted = self.doubted.lock();
        let before = doubted.len();
        doubted.retain(|name, _| name.as_deref() != group);
        doubted.len() < before
    }

    /// The target is another one.
    pub fn believe_all(&self) {
        self.doubted.lock().clear();
    }

    /// Forgets groups that are no more.
    pub(super) fn keep_only(&self, is_there: impl Fn(Option<&str>) -> bool) {
        self.doubted
            .lock()
            .retain(|name, _| is_there(name.as_deref()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_is_believed_until_a_probe_passes_through_nobody() {
        let (belief, now) = (Belief::default(), Instant::now());
        assert!(belief.is_believed(None, now));
        assert!(belief.doubt(None, now, "a got 403", 7));
        assert!(!belief.is_believed(None, now + DISBELIEF / 2));
        assert!(belief.is_believed(None, now + DISBELIEF));
    }

    #[test]
    fn a_disbelief_that_goes_on_began_when_it_began() {
        let (belief, now) = (Belief::default(), Instant::now());
        belief.doubt(None, now, "a got 403", 7);
        let later = now + DISBELIEF / 2;
        assert!(!belief.doubt(None, later, "b got 302", 9));
        let disbelief = belief.disbelief(later + DISBELIEF / 2).expect("it lasts");
        assert_eq!(
            (disbelief.since_unix_ms, &*disbelief.seen),
            (7, "b got 302")
        );
    }

    #[test]
    fn one_probe_that_passes_restores_the_belief() {
        let (belief, now) = (Belief::default(), Instant::now());
        assert!(!belief.believe(None));
        belief.doubt(None, now, "a got 403", 7);
        assert!(belief.believe(None));
        assert!(belief.is_believed(None, now));
    }

    #[test]
    fn each_group_believes_by_itself() {
        let (belief, now) = (Belief::default(), Instant::now());
        assert!(belief.doubt(Some("eu"), now, "a got 403", 7));
        assert!(belief.is_believed(Some("us"), now) && belief.is_believed(None, now));
        assert!(!belief.is_believed(Some("eu"), now));
        assert!(belief.doubt(None, now, "b got 302", 9));
        let told = belief.disbelief(now).expect("two of them");
        assert_eq!(
            (told.since_unix_ms, &*told.seen),
            (7, "b got 302, a got 403")
        );
        assert!(!belief.believe(Some("us")) && belief.believe(Some("eu")));
        assert_eq!(belief.doubted(), [None]);
        belief.keep_only(|group| group.is_some());
        assert_eq!(belief.disbelief(now), None);
    }
}
