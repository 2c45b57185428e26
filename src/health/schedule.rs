//! When to probe an upstream: a plan per upstream, without a clock and without chance (both are
//! arguments).
//!
//! An upstream that has just gone offline is probed soon, for most faults are short; then the pause
//! doubles, so that a dead one is not bothered for ever. Pauses vary by a fifth, else upstreams
//! that fell together would be probed together from then on. An online upstream is probed if the
//! configuration says so, if somebody suspects it, and while a row of failed probes is open.

use std::time::{Duration, Instant};

use crate::balance::state::{Availability, Epoch};
use crate::config::health::HealthCheck;

/// From the moment an upstream is seen offline to its first probe. With [`super::LOOK_AGAIN`], and
/// some slowness, it stays below the second that users are promised.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// From the first probe to the second; also where one more result decides.
const SECOND_PAUSE: Duration = Duration::from_secs(1);

/// Between two probes of one upstream, however short an interval is configured.
const LEAST_PAUSE: Duration = Duration::from_millis(100);

/// From one probe to the next that is asked for: one who asks now has its answer already.
const SUSPECT_PAUSE: Duration = Duration::from_millis(500);

/// What is to be done about an upstream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Due {
    /// Probe it.
    Now,
    /// Look again at this moment.
    At(Instant),
    /// Nothing, as long as nothing changes.
    Never,
}

/// What came out of a probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    Passed,
    Failed,
}

/// The pauses that are configured, and a number drawn by chance to vary them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    interval: Duration,
    online_interval: Option<Duration>,
    chance: u64,
}

/// The plan for one upstream.
#[derive(Default, Debug)]
pub(super) struct Plan {
    epoch: Option<Epoch>,
    /// By the pauses.
    due: Option<Instant>,
    /// For a suspect.
    wanted: Option<Instant>,
    ended: Option<Instant>,
    /// Probes that failed in a row since it went offline.
    failed: u32,
}

impl Pace {
    pub(super) fn new(health: &HealthCheck, chance: u64) -> Self {
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
        let steps = u32::try_from(self.chance % 1001).unwrap_or(0);
        (low + high.saturating_sub(low) * steps / 1000).max(LEAST_PAUSE)
    }
}

impl Plan {
    /// What to do about an upstream that is not being probed right now.
    pub(super) fn look(&mut self, now: Instant, epoch: Epoch, pace: Pace) -> Due {
        if self.epoch != Some(epoch) {
            self.epoch = Some(epoch);
            self.failed = 0;
            self.due = match epoch.availability() {
                Availability::Offline => Some(now + FIRST_PAUSE.min(pace.interval)),
                Availability::Online => None,
            };
        }
        let longest = match epoch.availability() {
            Availability::Offline => Some(pace.interval),
            Availability::Online => pace.online_interval,
        };
        if let Some(longest) = longest {
            // A reload may have shortened it.
            let latest = now + pace.vary(longest, longest);
            self.due = Some(
                self.due
                    .map_or(latest, |due| due.min(now + longest.max(LEAST_PAUSE))),
            );
        }
        match self.due.into_iter().chain(self.wanted).min() {
            Some(due) if due <= now => Due::Now,
            Some(due) => Due::At(due),
            None => Due::Never,
        }
    }

    /// Somebody wants a probe at once.
    pub(super) fn suspect(&mut self, now: Instant) {
        let earliest = self.ended.map(|ended| ended + SUSPECT_PAUSE);
        self.wanted = Some(earliest.map_or(now, |earliest| earliest.max(now)));
    }

    /// A probe has ended, and the upstream looks like this after it.
    pub(super) fn ended(&mut self, now: Instant, outcome: Outcome, epoch: Epoch, pace: Pace) {
        self.ended = Some(now);
        self.wanted = None;
        let pause = match (epoch.availability(), outcome) {
            (Availability::Offline, Outcome::Passed) => {
                self.failed = 0;
                Some(pace.vary(SECOND_PAUSE, pace.interval))
            }
            (Availability::Offline, Outcome::Failed) => {
                let doubled = SECOND_PAUSE.saturating_mul(2_u32.saturating_pow(self.failed));
                self.failed = self.failed.saturating_add(1);
                Some(pace.vary(doubled, pace.interval))
            }
            (Availability::Online, Outcome::Failed) => Some(pace.vary(SECOND_PAUSE, pace.interval)),
            (Availability::Online, Outcome::Passed) => pace
                .online_interval
                .map(|interval| pace.vary(interval, interval)),
        };
        self.due = pause.map(|pause| now + pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONLINE: Epoch = Epoch::FIRST;

    /// The chance that gives the pause itself where nothing caps it.
    const MIDDLE: u64 = 500;

    fn secs(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn pace(interval: f64, online_interval: Option<f64>) -> Pace {
        let online_interval = online_interval.map(secs);
        Pace {
            interval: secs(interval),
            online_interval,
            chance: MIDDLE,
        }
    }

    /// Follows a plan that is looked at when it says so and whose probes take no time; gives the
    /// seconds from each probe to the next.
    fn pauses(plan: &mut Plan, epoch: Epoch, pace: Pace, outcomes: &[Outcome]) -> Vec<f64> {
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for outcome in outcomes {
            let began = now;
            while let Due::At(due) = plan.look(now, epoch, pace) {
                now = due;
            }
            plan.ended(now, *outcome, epoch, pace);
            pauses.push(now.duration_since(began).as_secs_f64());
        }
        pauses
    }

    fn check(interval: f64, outcomes: &[Outcome], expected: &[f64]) {
        let offline = ONLINE.next();
        let got = pauses(
            &mut Plan::default(),
            offline,
            pace(interval, None),
            outcomes,
        );
        for (got, expected) in got.iter().zip(expected) {
            assert!((got - expected).abs() < 0.001, "{got} is not {expected}");
        }
        assert_eq!(got.len(), expected.len());
    }

    #[test]
    fn the_first_probe_is_soon_and_then_the_pause_doubles_up_to_the_interval() {
        // The last ones vary downwards only: the interval is the longest pause.
        check(
            30.0,
            &[Outcome::Failed; 8],
            &[0.25, 1.0, 2.0, 4.0, 8.0, 16.0, 27.0, 27.0],
        );
    }

    #[test]
    fn a_short_interval_caps_all_pauses() {
        check(0.2, &[Outcome::Failed; 3], &[0.2, 0.18, 0.18]);
    }

    #[test]
    fn no_interval_is_so_short_that_probes_become_a_flood() {
        check(0.001, &[Outcome::Failed; 3], &[0.001, 0.1, 0.1]);
    }

    #[test]
    fn a_success_that_is_not_enough_is_followed_by_a_short_pause() {
        let (passed, failed) = (Outcome::Passed, Outcome::Failed);
        check(
            30.0,
            &[failed, failed, failed, passed, passed, failed, failed],
            &[0.25, 1.0, 2.0, 4.0, 1.0, 1.0, 1.0],
        );
    }

    #[test]
    fn a_new_outage_begins_with_the_first_pause() {
        let mut plan = Plan::default();
        let (offline, again) = (ONLINE.next(), ONLINE.next().next().next());
        let pace = pace(30.0, None);
        pauses(&mut plan, offline, pace, &[Outcome::Failed; 6]);
        let first = pauses(&mut plan, again, pace, &[Outcome::Failed; 2]);
        assert!(
            (first[0] - 0.25).abs() < 0.001 && (first[1] - 1.0).abs() < 0.001,
            "{first:?}"
        );
    }

    #[test]
    fn pauses_vary_by_a_fifth_and_never_exceed_the_interval() {
        for chance in [0, 1, 999, 1000, 1001, u64::MAX] {
            let pace = Pace {
                chance,
                ..pace(30.0, None)
            };
            let (short, long) = (
                pace.vary(secs(10.0), pace.interval),
                pace.vary(secs(99.0), pace.interval),
            );
            assert!((secs(8.0)..=secs(12.0)).contains(&short), "{short:?}");
            assert!((secs(24.0)..=secs(30.0)).contains(&long), "{long:?}");
        }
        let lowest = Pace {
            chance: 0,
            ..pace(30.0, None)
        };
        let highest = Pace {
            chance: 1000,
            ..pace(30.0, None)
        };
        assert_eq!(lowest.vary(secs(10.0), secs(30.0)), secs(8.0));
        assert_eq!(highest.vary(secs(10.0), secs(30.0)), secs(12.0));
    }

    #[test]
    fn an_online_upstream_is_left_alone() {
        assert_eq!(
            Plan::default().look(Instant::now(), ONLINE, pace(30.0, None)),
            Due::Never
        );
    }

    #[test]
    fn an_online_upstream_is_probed_at_its_interval_if_there_is_one() {
        let got = pauses(
            &mut Plan::default(),
            ONLINE,
            pace(30.0, Some(10.0)),
            &[Outcome::Passed; 3],
        );
        assert!(
            got.iter().all(|pause| (pause - 9.0).abs() < 0.001),
            "{got:?}"
        );
    }

    #[test]
    fn a_suspect_is_probed_at_once_and_then_left_alone() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        assert_eq!(plan.look(now, ONLINE, pace(30.0, None)), Due::Never);
        plan.suspect(now);
        assert_eq!(plan.look(now, ONLINE, pace(30.0, None)), Due::Now);
        plan.ended(now, Outcome::Passed, ONLINE, pace(30.0, None));
        assert_eq!(plan.look(now, ONLINE, pace(30.0, None)), Due::Never);
    }

    #[test]
    fn a_suspect_that_was_probed_just_now_waits_a_moment() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        plan.ended(now, Outcome::Passed, ONLINE, pace(30.0, None));
        plan.suspect(now);
        let due = plan.look(now, ONLINE, pace(30.0, None));
        assert_eq!(due, Due::At(now + SUSPECT_PAUSE));
    }

    #[test]
    fn a_suspicion_outlasts_a_change_of_state() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        plan.suspect(now);
        assert_eq!(plan.look(now, ONLINE, pace(30.0, None)), Due::Now);
        assert_eq!(plan.look(now, ONLINE.next(), pace(30.0, None)), Due::Now);
    }

    #[test]
    fn a_suspect_that_is_offline_does_not_wait_for_its_pause() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        let offline = ONLINE.next();
        let pace = pace(3600.0, None);
        plan.look(now, offline, pace);
        for _ in 0..12 {
            plan.ended(now, Outcome::Failed, offline, pace);
        }
        let later = now + secs(10.0);
        plan.suspect(later);
        assert_eq!(plan.look(later, offline, pace), Due::Now);
    }

    #[test]
    fn an_open_row_of_failures_is_decided_soon() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        let pace = pace(30.0, None);
        plan.look(now, ONLINE, pace);
        plan.ended(now, Outcome::Failed, ONLINE, pace);
        assert_eq!(plan.look(now, ONLINE, pace), Due::At(now + SECOND_PAUSE));
    }

    #[test]
    fn a_shorter_interval_applies_at_once() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        let offline = ONLINE.next();
        plan.look(now, offline, pace(3600.0, None));
        for _ in 0..12 {
            plan.ended(now, Outcome::Failed, offline, pace(3600.0, None));
        }
        assert_eq!(
            plan.look(now, offline, pace(5.0, None)),
            Due::At(now + secs(5.0))
        );
    }
}
