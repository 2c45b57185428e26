//! Whether the target of the probe is believed.
//!
//! A probe asks a stranger. Where it passes through no upstream, the stranger (or the way to it) is at
//! fault, and nothing it says is held against an upstream for a while. The prober writes this, every thread
//! may read it.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long the target is not believed after a probe that passed through no upstream.
pub const DISBELIEF: Duration = Duration::from_secs(30);

/// Whether the target of the probe is believed. Starts believed.
#[derive(Default, Debug)]
pub struct Belief {
    doubted: Mutex<Option<Disbelief>>,
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
    /// Whether a probe that fails at `now` may be the upstream's fault.
    pub fn is_believed(&self, now: Instant) -> bool {
        self.disbelief(now).is_none()
    }

    /// Why it is not believed at `now`, if it is not.
    pub fn disbelief(&self, now: Instant) -> Option<Disbelief> {
        let doubted = self.doubted.lock();
        doubted.clone().filter(|doubted| now < doubted.until)
    }

    /// When the time is over, also if it is over already.
    pub fn doubted_until(&self) -> Option<Instant> {
        self.doubted.lock().as_ref().map(|doubted| doubted.until)
    }

    /// The probe passed through none of those in `seen`. Says whether that is new.
    pub fn doubt(&self, now: Instant, seen: &str, now_unix_ms: u64) -> bool {
        let mut doubted = self.doubted.lock();
        let since = doubted.as_ref().map(|before| before.since_unix_ms);
        *doubted = Some(Disbelief {
            since_unix_ms: since.unwrap_or(now_unix_ms),
            until: now + DISBELIEF,
            seen: seen.into(),
        });
        since.is_none()
    }

    /// Lets the time last a little longer, for the target is being asked.
    pub fn wait_until(&self, until: Instant) {
        if let Some(doubted) = &mut *self.doubted.lock() {
            doubted.until = doubted.until.max(until);
        }
    }

    /// The probe passed through an upstream, or its target is another one. Says whether that is new.
    pub fn believe(&self) -> bool {
        self.doubted.lock().take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_is_believed_until_a_probe_passes_through_nobody() {
        let (belief, now) = (Belief::default(), Instant::now());
        assert!(belief.is_believed(now));
        assert!(belief.doubt(now, "a got 403", 7));
        assert!(!belief.is_believed(now + DISBELIEF / 2));
        assert!(belief.is_believed(now + DISBELIEF));
    }

    #[test]
    fn a_disbelief_that_goes_on_began_when_it_began() {
        let (belief, now) = (Belief::default(), Instant::now());
        belief.doubt(now, "a got 403", 7);
        let later = now + DISBELIEF / 2;
        assert!(!belief.doubt(later, "b got 302", 9));
        let disbelief = belief.disbelief(later + DISBELIEF / 2).expect("it lasts");
        assert_eq!(
            (disbelief.since_unix_ms, &*disbelief.seen),
            (7, "b got 302")
        );
    }

    #[test]
    fn one_probe_that_passes_restores_the_belief() {
        let (belief, now) = (Belief::default(), Instant::now());
        assert!(!belief.believe());
        belief.doubt(now, "a got 403", 7);
        assert!(belief.believe());
        assert!(belief.is_believed(now));
    }
}
