//! Online or offline: the state machine of one upstream (no sharing, no clock).
//!
//! Traffic takes an upstream offline, only probes bring it back. An attempt and a probe carry the
//! [`Epoch`] they began in: one that ends after the state has changed tells about the past, and
//! must neither take a recovered upstream down again nor bring a broken one back.
//!
//! Not here: who is to blame for a failure ([`super::failover`]), sharing between threads
//! ([`super::vitals`]).

use std::time::Duration;

use super::reason::OfflineReason;

/// How many doubtful answers in a row make an upstream a suspect.
const DOUBTS_IN_A_ROW: u32 = 3;

/// Whether an upstream takes part in balancing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Availability {
    /// It gets requests.
    Online,
    /// It gets none, or only as a last resort, until probes succeed.
    Offline,
}

/// The state of an upstream as it is shown to people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UpstreamState {
    /// Online or offline.
    pub availability: Availability,
    /// Why it is offline; none while it is online.
    pub reason: Option<OfflineReason>,
    /// When it came into this state, in milliseconds since 1970; none: it never changed.
    pub since_unix_ms: Option<u64>,
}

/// What an event did to the state. `after` is the time spent in the state before; none where that
/// was the first one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transition {
    /// It was and is online.
    StillOnline,
    /// It was online until now.
    WentOffline {
        /// What it did wrong.
        reason: OfflineReason,
        /// How long it was online.
        after: Option<Duration>,
    },
    /// It was and is offline, perhaps for another reason.
    StillOffline,
    /// It was offline until now.
    CameOnline {
        /// How long it was offline.
        after: Option<Duration>,
    },
}

/// Whether a probe is wanted at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Suspicion {
    /// No.
    None,
    /// Yes: it may be the upstream that is broken, not what lies beyond.
    Probe,
}

/// A span of time without a change between online and offline.
///
/// It begins online, and each change begins the next one: so the even ones are online.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Epoch(pub(super) u64);

impl Epoch {
    /// The one in which every upstream begins.
    pub const FIRST: Self = Self(0);

    /// The one that follows.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }

    /// The state that lasts this long.
    pub fn availability(self) -> Availability {
        if self.0.is_multiple_of(2) {
            Availability::Online
        } else {
            Availability::Offline
        }
    }
}

/// What balancing may do with an upstream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    Online,
    Offline,
    /// Offline, and usable while nothing is online.
    LastResort,
}

#[derive(Debug)]
pub(super) struct State {
    /// Why it is offline; none = online.
    offline: Option<OfflineReason>,
    since_unix_ms: Option<u64>,
    epoch: Epoch,
    attempt_failures: u32,
    probe_failures: u32,
    probe_successes: u32,
    doubts: Doubts,
}

/// Doubtful answers in a row.
#[derive(Default, Debug)]
struct Doubts {
    count: u32,
    first_target: u64,
    targets: Targets,
}

#[derive(Default, Debug)]
enum Targets {
    #[default]
    One,
    Several,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            offline: None,
            since_unix_ms: None,
            epoch: Epoch::FIRST,
            attempt_failures: 0,
            probe_failures: 0,
            probe_successes: 0,
            doubts: Doubts::default(),
        }
    }

    pub(super) fn standing(&self) -> Standing {
        match self.offline {
            None => Standing::Online,
            Some(reason) if reason.allows_last_resort() => Standing::LastResort,
            Some(_) => Standing::Offline,
        }
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Of attempts and of probes, each in a row.
    pub(super) fn failures(&self) -> u32 {
        self.attempt_failures.saturating_add(self.probe_failures)
    }

    pub(super) fn doubts(&self) -> u32 {
        self.doubts.count
    }

    pub(super) fn shown(&self) -> UpstreamState {
        UpstreamState {
            availability: match self.offline {
                None => Availability::Online,
                Some(_) => Availability::Offline,
            },
            reason: self.offline,
            since_unix_ms: self.since_unix_ms,
        }
    }

    /// A response below 500 came to its end, which shows that the upstream works.
    pub(super) fn attempt_completed(&mut self) {
        self.attempt_failures = 0;
    }

    /// See [`super::vitals::Vitals::trust`].
    pub(super) fn trust(&mut self) {
        self.doubts = Doubts::default();
    }

    /// See [`super::vitals::Vitals::doubt`].
    pub(super) fn doubt(&mut self, target: u64) -> Suspicion {
        if self.doubts.count == 0 {
            self.doubts.first_target = target;
        } else if self.doubts.first_target != target {
            self.doubts.targets = Targets::Several;
        }
        self.doubts.count = self.doubts.count.saturating_add(1);
        match self.doubts.targets {
            Targets::Several if DOUBTS_IN_A_ROW <= self.doubts.count => {
                self.doubts = Doubts::default();
                Suspicion::Probe
            }
            Targets::Several | Targets::One => Suspicion::None,
        }
    }

    /// An attempt that began in `began` failed by the fault of the upstream; `fall` of them in a
    /// row take it offline.
    pub(super) fn attempt_failed(
        &mut self,
        began: Epoch,
        reason: OfflineReason,
        fall: u32,
        now_unix_ms: u64,
    ) -> Transition {
        if began != self.epoch {
            return self.unchanged();
        }
        self.attempt_failures = self.attempt_failures.saturating_add(1);
        if self.attempt_failures < fall {
            return self.unchanged();
        }
        if self.offline.is_none() {
            return self.go_offline(reason, now_unix_ms);
        }
        // It was tried as a last resort, and is no good for that either.
        self.offline = Some(reason);
        Transition::StillOffline
    }

    /// A probe that began in `began` was answered as wanted; `rise` of them in a row bring the
    /// upstream back.
    pub(super) fn probe_succeeded(
        &mut self,
        began: Epoch,
        rise: u32,
        now_unix_ms: u64,
    ) -> Transition {
        if began != self.epoch {
            return self.unchanged();
        }
        self.probe_failures = 0;
        if self.offline.is_none() {
            return Transition::StillOnline;
        }
        self.probe_successes = self.probe_successes.saturating_add(1);
        if self.probe_successes < rise {
            return Transition::StillOffline;
        }
        self.offline = None;
        self.attempt_failures = 0;
        Transition::CameOnline {
            after: self.begin_epoch(now_unix_ms),
        }
    }

    /// A probe that began in `began` failed; `fall` of them in a row take the upstream offline.
    pub(super) fn probe_failed(
        &mut self,
        began: Epoch,
        reason: OfflineReason,
        fall: u32,
        now_unix_ms: u64,
    ) -> Transition {
        if began != self.epoch {
            return self.unchanged();
        }
        self.probe_successes = 0;
        self.probe_failures = self.probe_failures.saturating_add(1);
        match self.offline {
            Some(_) => {
                self.offline = Some(reason);
                Transition::StillOffline
            }
            None if self.probe_failures < fall => Transition::StillOnline,
            None => self.go_offline(reason, now_unix_ms),
        }
    }

    fn go_offline(&mut self, reason: OfflineReason, now_unix_ms: u64) -> Transition {
        self.offline = Some(reason);
        self.probe_successes = 0;
        Transition::WentOffline {
            reason,
            after: self.begin_epoch(now_unix_ms),
        }
    }

    /// Gives the length of the epoch that ends.
    fn begin_epoch(&mut self, now_unix_ms: u64) -> Option<Duration> {
        self.epoch = self.epoch.next();
        self.doubts = Doubts::default();
        let began = self.since_unix_ms.replace(now_unix_ms)?;
        Some(Duration::from_millis(now_unix_ms.saturating_sub(began)))
    }

    fn unchanged(&self) -> Transition {
        match self.offline {
            None => Transition::StillOnline,
            Some(_) => Transition::StillOffline,
        }
    }
}

/// Whether a status says that the upstream, or what lies beyond it, could not serve.
pub fn is_gateway_error(status: u16) -> bool {
    matches!(status, 502..=504)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [char; 5] = ['f', 's', 'p', 't', '4'];

    /// A state machine driven by letters:
    ///
    /// | letter | event |
    /// |---|---|
    /// | `f` `s` | an attempt of now fails, is answered with 200 |
    /// | `p` `t` `4` | a probe of now succeeds, times out, gets 403 |
    /// | `b` | an attempt and a probe begin and go on |
    /// | `F` | that attempt fails |
    /// | `P` `T` | that probe succeeds, times out |
    struct Driver {
        state: State,
        fall: u32,
        rise: u32,
        begun: Epoch,
        now: u64,
    }

    impl Driver {
        fn new(fall: u32, rise: u32) -> Self {
            Self {
                state: State::new(),
                fall,
                rise,
                begun: Epoch(0),
                now: 1_000,
            }
        }

        fn event(&mut self, letter: char) -> Transition {
            const CLOSED: OfflineReason = OfflineReason::Closed;
            const TIMEOUT: OfflineReason = OfflineReason::ProbeTimeout;
            const GOT_403: OfflineReason = OfflineReason::ProbeStatus(403);
            self.now += 1_000;
            let (fall, rise, now, current) = (self.fall, self.rise, self.now, self.state.epoch());
            match letter {
                'f' => self.state.attempt_failed(current, CLOSED, fall, now),
                'F' => self.state.attempt_failed(self.begun, CLOSED, fall, now),
                'p' => self.state.probe_succeeded(current, rise, now),
                'P' => self.state.probe_succeeded(self.begun, rise, now),
                't' => self.state.probe_failed(current, TIMEOUT, fall, now),
                'T' => self.state.probe_failed(self.begun, TIMEOUT, fall, now),
                '4' => self.state.probe_failed(current, GOT_403, fall, now),
                's' => {
                    self.state.attempt_completed();
                    self.state.unchanged()
                }
                'b' => {
                    self.begun = current;
                    self.state.unchanged()
                }
                other => panic!("no event {other}"),
            }
        }

        /// `+` online, `-` offline, `?` last resort.
        fn sign(&self) -> char {
            match self.state.standing() {
                Standing::Online => '+',
                Standing::Offline => '-',
                Standing::LastResort => '?',
            }
        }
    }

    /// The standing after each event.
    fn check(fall: u32, rise: u32, events: &str, expected: &str) {
        let mut driver = Driver::new(fall, rise);
        let signs: String = events
            .chars()
            .map(|letter| {
                driver.event(letter);
                driver.sign()
            })
            .collect();
        assert_eq!(signs, expected, "{events} with fall {fall} and rise {rise}");
    }

    #[test]
    fn it_starts_online_and_never_changed() {
        let shown = State::new().shown();
        assert_eq!(shown.availability, Availability::Online);
        assert_eq!((shown.reason, shown.since_unix_ms), (None, None));
    }

    #[test]
    fn one_failure_takes_it_offline_and_one_probe_brings_it_back() {
        check(1, 1, "fp", "-+");
        check(1, 1, "tp", "-+");
    }

    #[test]
    fn fall_failures_in_a_row_are_needed() {
        check(3, 1, "fff", "++-");
        check(3, 1, "ffsfff", "+++++-");
        check(3, 1, "tttp", "++-+");
        check(3, 1, "ttpttt", "+++++-");
    }

    #[test]
    fn attempts_and_probes_are_counted_apart() {
        check(2, 1, "ftf", "++-");
        check(2, 1, "fpf", "++-");
        check(2, 1, "tst", "++-");
    }

    #[test]
    fn rise_successes_in_a_row_are_needed() {
        check(1, 3, "fppp", "---+");
        check(1, 3, "fpptppp", "------+");
        check(1, 2, "fp4pp", "--??+");
    }

    #[test]
    fn traffic_does_not_bring_it_back() {
        check(1, 1, "fssss", "-----");
        check(1, 1, "4ssss", "?????");
    }

    #[test]
    fn a_row_of_failures_is_over_when_it_comes_back() {
        check(2, 1, "ffpff", "+-++-");
        check(2, 1, "fttpftt", "++-+++-");
    }

    #[test]
    fn flapping_is_followed() {
        check(1, 1, "fpfpfpfp", "-+-+-+-+");
        check(2, 2, "ffppffpp", "+--++--+");
    }

    #[test]
    fn another_status_makes_it_a_last_resort_until_something_worse_is_known() {
        check(1, 1, "f4tp", "-?-+");
        check(1, 1, "4f4p", "?-?+");
        check(2, 1, "44ff", "+??-");
        check(2, 1, "44fsff", "+????-");
    }

    #[test]
    fn a_late_failure_does_not_take_it_down_again() {
        check(1, 1, "bfpFF", "+-+++");
        check(1, 1, "fbpF", "--++");
        check(2, 1, "bffpFf", "++-+++");
    }

    #[test]
    fn a_late_failure_does_not_change_the_reason() {
        check(1, 1, "b4F", "+??");
        check(1, 1, "b4T", "+??");
    }

    #[test]
    fn a_late_probe_does_not_bring_it_back() {
        check(1, 1, "bfPp", "+--+");
        check(1, 2, "bfPpp", "+---+");
    }

    #[test]
    fn a_late_probe_does_not_take_it_down_again() {
        check(1, 1, "fbpT", "--++");
    }

    #[test]
    fn a_change_tells_what_was_and_how_long() {
        let mut driver = Driver::new(1, 1);
        let reason = OfflineReason::Closed;
        assert_eq!(
            driver.event('f'),
            Transition::WentOffline {
                reason,
                after: None
            }
        );
        assert_eq!(driver.event('4'), Transition::StillOffline);
        let after = Some(Duration::from_secs(2));
        assert_eq!(driver.event('p'), Transition::CameOnline { after });
        assert_eq!(driver.event('p'), Transition::StillOnline);
        assert_eq!(driver.event('f'), Transition::WentOffline { reason, after });
        assert_eq!(driver.state.shown().since_unix_ms, Some(6_000));
    }

    #[test]
    fn a_clock_that_goes_back_gives_no_nonsense() {
        let mut state = State::new();
        state.attempt_failed(Epoch(0), OfflineReason::Closed, 1, 5_000);
        let after = Some(Duration::ZERO);
        assert_eq!(
            state.probe_succeeded(Epoch(1), 1, 4_000),
            Transition::CameOnline { after }
        );
    }

    #[test]
    fn failures_in_a_row_are_shown_until_it_works() {
        let shown = |events: &str| {
            let mut driver = Driver::new(2, 1);
            for letter in events.chars() {
                driver.event(letter);
            }
            driver.state.failures()
        };
        assert_eq!(shown("ff"), 2);
        assert_eq!(shown("fftt"), 4);
        assert_eq!(shown("fs"), 0);
        assert_eq!(shown("ffttp"), 0);
    }

    /// What the contract says, from the events since the last change alone.
    fn changes(now: Availability, since_change: &str, fall: usize, rise: usize) -> bool {
        let row = |of: &[char], end: &[char]| {
            since_change
                .rsplit(end)
                .next()
                .map_or(0, |since| since.matches(of).count())
        };
        if now == Availability::Online {
            let last = since_change.chars().next_back();
            (last == Some('f') && fall <= row(&['f'], &['s']))
                || (matches!(last, Some('t' | '4')) && fall <= row(&['t', '4'], &['p']))
        } else {
            since_change.ends_with('p') && rise <= row(&['p'], &['t', '4'])
        }
    }

    #[test]
    fn every_sequence_of_six_events_obeys_the_contract() {
        for (fall, rise) in (1..=3).flat_map(|fall| (1..=3).map(move |rise| (fall, rise))) {
            for number in 0..EVENTS.len().pow(6) {
                let events = (0..6).map(|at| EVENTS[number / EVENTS.len().pow(at) % EVENTS.len()]);
                let mut driver = Driver::new(fall, rise);
                let (mut now, mut since_change) = (Availability::Online, String::new());
                for letter in events {
                    since_change.push(letter);
                    let expected = changes(now, &since_change, fall as usize, rise as usize);
                    let changed = match driver.event(letter) {
                        Transition::WentOffline { .. } | Transition::CameOnline { .. } => true,
                        Transition::StillOnline | Transition::StillOffline => false,
                    };
                    assert_eq!(
                        changed, expected,
                        "{since_change}, fall {fall}, rise {rise}"
                    );
                    if changed {
                        now = match now {
                            Availability::Online => Availability::Offline,
                            Availability::Offline => Availability::Online,
                        };
                        since_change.clear();
                    }
                    assert_eq!(driver.sign() == '+', now == Availability::Online);
                    assert_eq!(driver.state.epoch().availability(), now);
                }
            }
        }
    }

    /// Statuses and the target each was for, as `503a`; `!` = suspicion is expected with this one.
    fn check_gateway(answers: &str) {
        let mut state = State::new();
        for answer in answers.split_whitespace() {
            let status = answer.get(..3).unwrap().parse().unwrap();
            let suspicion = if is_gateway_error(status) {
                state.doubt(u64::from(answer.as_bytes()[3]))
            } else {
                state.trust();
                Suspicion::None
            };
            let expected = if answer.ends_with('!') {
                Suspicion::Probe
            } else {
                Suspicion::None
            };
            assert_eq!(suspicion, expected, "{answer} in {answers}");
        }
    }

    #[test]
    fn three_gateway_errors_for_two_targets_are_suspicious() {
        check_gateway("502a 503b 504a!");
        check_gateway("502a 502a 502b!");
    }

    #[test]
    fn one_bad_target_is_not_suspicious() {
        check_gateway("502a 502a 502a 502a 502b! 502a 502a 502a");
    }

    #[test]
    fn any_other_answer_ends_the_row() {
        for other in ["200", "404", "500", "501", "505"] {
            check_gateway(&format!("502a 502b {other}c 502a 502b 502c!"));
        }
    }
}
