//! When to check an upstream: a plan per upstream, without a clock and without chance (both are
//! arguments).
//!
//! A suspect is checked at once. An upstream that has just gone offline is checked soon, for most faults
//! are short; then the pause doubles, so that a dead one is not bothered for ever. Pauses vary by a fifth,
//! else upstreams that fell together would be checked together from then on. An online upstream is checked
//! if the configuration says so, if a check is asked for, and while a row of failed checks is open.

use std::time::{Duration, Instant};

use crate::balance::reason::Depth;
use crate::balance::state::{Availability, CheckVerdict, Epoch};
use crate::config::health::HealthCheck;

/// From the moment an upstream is seen offline to its first check.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// From the first check to the second; also where one more result decides.
const SECOND_PAUSE: Duration = Duration::from_millis(500);

/// Between two checks of one upstream, however short an interval is configured.
const LEAST_PAUSE: Duration = Duration::from_millis(100);

/// From one check to the next of a suspect, which any client can bring about.
const SUSPECT_PAUSE: Duration = Duration::from_millis(20);

/// What is to be done about an upstream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Due {
    /// Check it.
    Now(Urgency),
    /// Look again at this moment.
    At(Instant),
    /// Nothing, as long as nothing changes.
    Never,
}

/// Which upstreams are checked first where not all can be. Ordered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Urgency {
    /// Requests wait for the verdict.
    Suspect,
    /// It may be back.
    Offline,
    /// It is new, or its time has come.
    Routine,
}

/// The pauses that are configured, and chance to vary them by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    interval: Duration,
    online_interval: Option<Duration>,
    chance: fn() -> u64,
}

/// The plan for one upstream.
#[derive(Default, Debug)]
pub(super) struct Plan {
    epoch: Option<Epoch>,
    /// By the pauses.
    due: Option<Instant>,
    /// As it was asked for.
    wanted: Option<Instant>,
    /// No check of a suspect before.
    not_before: Option<Instant>,
    /// No check at all before.
    held_until: Option<Instant>,
    /// Checks that failed in a row since it went offline.
    failed: u32,
}

impl Pace {
    pub(super) fn new(health: &HealthCheck, chance: fn() -> u64) -> Self {
        Self {
            interval: health.interval,
            online_interval: health.online_interval,
            chance,
        }
    }

    /// Around `pause`, by up to a fifth less or more, but not longer than `longest`.
    fn vary(self, pause: Duration, longest: Duration) -> Duration {
        let pause = pause.min(longest);
        let fifth = pause / 5;
        let (low, high) = (fifth * 4, longest.min(pause + fifth));
        let steps = u32::try_from((self.chance)() % 1001).unwrap_or(0);
        (low + high.saturating_sub(low) * steps / 1000).max(LEAST_PAUSE)
    }

    /// The longest pause between two checks; none: no end.
    fn longest(self, availability: Availability) -> Option<Duration> {
        match availability {
            Availability::Offline => Some(self.interval),
            Availability::Online | Availability::Suspect => self.online_interval,
        }
    }
}

impl Plan {
    /// What to do about an upstream that is not being checked right now.
    pub(super) fn look(
        &mut self,
        now: Instant,
        (epoch, availability): (Epoch, Availability),
        pace: Pace,
    ) -> Due {
        if self.epoch != Some(epoch) {
            self.epoch = Some(epoch);
            self.failed = 0;
            self.held_until = None;
            self.due = (availability == Availability::Offline)
                .then(|| now + FIRST_PAUSE.min(pace.interval));
        }
        if let Some(held) = self.held_until.filter(|held| now < *held) {
            return Due::At(held);
        }
        if let Some(longest) = pace.longest(availability) {
            // A reload may have shortened it.
            let latest = now + pace.vary(longest, longest);
            self.due = Some(
                self.due
                    .map_or(latest, |due| due.min(now + longest.max(LEAST_PAUSE))),
            );
        }
        let urgent = match availability {
            Availability::Suspect => Some(self.not_before.unwrap_or(now)),
            Availability::Online | Availability::Offline => self.wanted,
        };
        match self.due.into_iter().chain(urgent).min() {
            Some(due) if due <= now => Due::Now(match availability {
                Availability::Suspect => Urgency::Suspect,
                Availability::Offline => Urgency::Offline,
                Availability::Online => Urgency::Routine,
            }),
            Some(due) => Due::At(due),
            None => Due::Never,
        }
    }

    /// A check is asked for, at once.
    pub(super) fn want(&mut self, now: Instant) {
        self.wanted = Some(self.not_before.map_or(now, |earliest| earliest.max(now)));
    }

    /// How deep the next check must go at least.
    pub(super) fn wanted_depth(&self) -> Depth {
        match self.wanted {
            Some(_) => Depth::Probe,
            None => Depth::Itself,
        }
    }

    /// No check before this moment, as long as `epoch` lasts.
    pub(super) fn hold_until(&mut self, epoch: Epoch, until: Instant) {
        self.epoch = Some(epoch);
        self.failed = 0;
        self.held_until = Some(until);
        self.due = Some(until);
    }

    /// A check has ended, and the upstream looks like this after it. No verdict: it could not be carried out.
    pub(super) fn ended(
        &mut self,
        now: Instant,
        verdict: Option<CheckVerdict>,
        availability: Availability,
        pace: Pace,
    ) {
        self.wanted = None;
        let pause = match (availability, verdict) {
            (_, None) => Some(SECOND_PAUSE),
            (Availability::Offline, Some(CheckVerdict::Works(_))) => {
                self.failed = 0;
                Some(pace.vary(SECOND_PAUSE, pace.interval))
            }
            (Availability::Offline, Some(CheckVerdict::Fails(_))) => {
                let doubled = SECOND_PAUSE.saturating_mul(2_u32.saturating_pow(self.failed));
                self.failed = self.failed.saturating_add(1);
                Some(pace.vary(doubled, pace.interval))
            }
            (Availability::Online | Availability::Suspect, Some(CheckVerdict::Fails(_))) => {
                Some(pace.vary(SECOND_PAUSE, pace.interval))
            }
            (Availability::Online | Availability::Suspect, Some(CheckVerdict::Works(_))) => pace
                .online_interval
                .map(|interval| pace.vary(interval, interval)),
        };
        self.due = pause.map(|pause| now + pause);
        self.not_before = Some(match verdict {
            Some(CheckVerdict::Works(_)) => now + SUSPECT_PAUSE,
            Some(CheckVerdict::Fails(_)) | None => now + SECOND_PAUSE,
        });
    }
}

#[cfg(test)]
mod tests {
    use crate::balance::reason::OfflineReason;

    use super::*;

    /// The chance that gives the pause itself where nothing caps it.
    const MIDDLE: u64 = 500;
    const PASSED: Option<CheckVerdict> = Some(CheckVerdict::Works(Depth::Probe));
    const FAILED: Option<CheckVerdict> = Some(CheckVerdict::Fails(OfflineReason::Silent));
    const ONLINE: (Epoch, Availability) = (Epoch::FIRST, Availability::Online);
    const SUSPECT: (Epoch, Availability) = (Epoch::FIRST, Availability::Suspect);

    fn offline() -> (Epoch, Availability) {
        (Epoch::FIRST.next(), Availability::Offline)
    }

    fn secs(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn pace(interval: f64, online_interval: Option<f64>) -> Pace {
        Pace {
            interval: secs(interval),
            online_interval: online_interval.map(secs),
            chance: || MIDDLE,
        }
    }

    /// Follows a plan that is looked at when it says so and whose checks take no time; gives the
    /// seconds from each check to the next.
    fn pauses(
        plan: &mut Plan,
        state: (Epoch, Availability),
        pace: Pace,
        outcomes: &[Option<CheckVerdict>],
    ) -> Vec<f64> {
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for outcome in outcomes {
            let began = now;
            while let Due::At(due) = plan.look(now, state, pace) {
                now = due;
            }
            plan.ended(now, *outcome, state.1, pace);
            pauses.push(now.duration_since(began).as_secs_f64());
        }
        pauses
    }

    fn check(got: &[f64], expected: &[f64]) {
        for (got, expected) in got.iter().zip(expected) {
            assert!((got - expected).abs() < 0.001, "{got} is not {expected}");
        }
        assert_eq!(got.len(), expected.len());
    }

    #[test]
    fn the_first_check_is_soon_and_then_the_pause_doubles_up_to_the_interval() {
        let got = pauses(
            &mut Plan::default(),
            offline(),
            pace(30.0, None),
            &[FAILED; 9],
        );
        // The last ones vary downwards only: the interval is the longest pause.
        check(&got, &[0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 27.0, 27.0]);
    }

    #[test]
    fn a_short_interval_is_the_longest_pause_but_makes_no_storm() {
        let outcomes = [FAILED; 4];
        let got = pauses(&mut Plan::default(), offline(), pace(0.2, None), &outcomes);
        check(&got, &[0.2, 0.18, 0.18, 0.18]);
        let got = pauses(
            &mut Plan::default(),
            offline(),
            pace(0.001, None),
            &outcomes,
        );
        check(&got, &[0.001, 0.1, 0.1, 0.1]);
    }

    #[test]
    fn where_one_more_result_decides_it_comes_soon() {
        let outcomes = [FAILED, FAILED, PASSED, PASSED];
        let got = pauses(&mut Plan::default(), offline(), pace(30.0, None), &outcomes);
        check(&got, &[0.25, 0.5, 1.0, 0.5]);
    }

    #[test]
    fn an_online_upstream_is_left_alone_unless_the_file_says_otherwise() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        assert_eq!(plan.look(now, ONLINE, pace(30.0, None)), Due::Never);
        let got = pauses(
            &mut Plan::default(),
            ONLINE,
            pace(30.0, Some(10.0)),
            &[PASSED; 3],
        );
        check(&got, &[9.0, 9.0, 9.0]);
    }

    #[test]
    fn a_suspect_is_checked_at_once_and_again_after_a_moment() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        let pace = pace(30.0, None);
        assert_eq!(plan.look(now, SUSPECT, pace), Due::Now(Urgency::Suspect));
        plan.ended(now, PASSED, Availability::Online, pace);
        assert_eq!(plan.look(now, ONLINE, pace), Due::Never);
        assert_eq!(plan.look(now, SUSPECT, pace), Due::At(now + SUSPECT_PAUSE));
    }

    #[test]
    fn a_wish_is_followed_once_and_goes_to_the_bottom() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        let pace = pace(30.0, None);
        assert_eq!(plan.wanted_depth(), Depth::Itself);
        plan.want(now);
        assert_eq!(plan.wanted_depth(), Depth::Probe);
        assert_eq!(plan.look(now, ONLINE, pace), Due::Now(Urgency::Routine));
        plan.ended(now, PASSED, Availability::Online, pace);
        assert_eq!(plan.look(now, ONLINE, pace), Due::Never);
    }

    #[test]
    fn one_that_is_held_is_not_checked_until_then() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        let pace = pace(30.0, None);
        plan.look(now, ONLINE, pace);
        plan.hold_until(offline().0, now + secs(60.0));
        let later = now + secs(59.0);
        assert_eq!(plan.look(later, offline(), pace), Due::At(now + secs(60.0)));
        let then = now + secs(60.0);
        assert_eq!(plan.look(then, offline(), pace), Due::Now(Urgency::Offline));
    }

    #[test]
    fn a_reload_that_shortens_the_interval_is_followed() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        plan.look(now, offline(), pace(300.0, None));
        for _ in 0..8 {
            plan.ended(now, FAILED, Availability::Offline, pace(300.0, None));
        }
        let Due::At(due) = plan.look(now, offline(), pace(2.0, None)) else {
            panic!("it is due some time");
        };
        assert!(due <= now + secs(2.0));
    }
}
