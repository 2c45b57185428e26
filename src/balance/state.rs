//! Online, suspect or offline: the state machine of one upstream (no sharing, no clock).
//!
//! Evidence and proof are kept apart. A doubt makes a suspect, which is asked last until a check has
//! decided; proof takes it offline; an answer that can only come from a working upstream makes it
//! online whatever a check says. An attempt and a check carry the [`Epoch`] they began in: one that
//! ends after the upstream went offline or came back tells about a time that is over.
//!
//! Not here: what is evidence of what ([`super::failover`]), the questions of a check
//! (`health::examiner`), sharing between threads ([`super::vitals`]).

use std::time::Duration;

use super::reason::{Depth, Doubt, OfflineReason};

/// How many gateway errors in a row, for at least two targets, are a doubt.
const GATEWAY_ERRORS_IN_A_ROW: u32 = 3;

/// Whether an upstream takes part in balancing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Availability {
    /// It gets requests.
    Online,
    /// It gets requests while no upstream is online, until a check has decided.
    Suspect,
    /// It gets none; while none is online or suspect, trials.
    Offline,
}

impl Availability {
    /// Short and stable, for metrics and JSON.
    pub fn label(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Suspect => "suspect",
            Self::Offline => "offline",
        }
    }
}

/// The state of an upstream as it is shown to people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UpstreamState {
    /// Online, suspect or offline.
    pub availability: Availability,
    /// Why it is offline; none while it is not.
    pub reason: Option<OfflineReason>,
    /// Why it is a suspect; none while it is not.
    pub doubt: Option<Doubt>,
    /// When it last went offline or came back, in milliseconds since 1970; none: it never did.
    pub since_unix_ms: Option<u64>,
    /// When the last check came to its end, in milliseconds since 1970, and what it found; none: there was none.
    pub last_check: Option<(u64, CheckVerdict)>,
}

/// A change of state that an event brought about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    /// What it was.
    pub from: Availability,
    /// What it is now.
    pub to: Health,
    /// The time spent online (suspicion included) or offline before; none where that was from the
    /// start, or where it is neither offline now nor was before.
    pub after: Option<Duration>,
}

/// The state proper.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Health {
    /// In service.
    #[default]
    Online,
    /// In service, and to be checked.
    Suspect(Doubt),
    /// Out of service.
    Offline(OfflineReason),
}

impl Health {
    /// The same without the reason.
    pub fn availability(self) -> Availability {
        match self {
            Self::Online => Availability::Online,
            Self::Suspect(_) => Availability::Suspect,
            Self::Offline(_) => Availability::Offline,
        }
    }
}

/// What a check has found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CheckVerdict {
    /// The upstream works, as far as this was looked into.
    Works(Depth),
    /// It does not.
    Fails(OfflineReason),
}

/// How many events in a row change the state, from 1 each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Thresholds {
    /// Failures that take it offline.
    pub fall: u32,
    /// Successes that bring it back.
    pub rise: u32,
}

/// A span of time in which an upstream was not offline, or was offline throughout. It begins in
/// service, and each change begins the next one: so the even ones are in service.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Epoch(pub(super) u64);

impl Epoch {
    /// The one in which every upstream begins.
    pub const FIRST: Self = Self(0);

    /// The one that follows.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }

    /// Whether the upstream is offline while it lasts.
    pub fn is_offline(self) -> bool {
        !self.0.is_multiple_of(2)
    }
}

/// It starts online.
#[derive(Default, Debug)]
pub(super) struct StateMachine {
    pub(super) health: Health,
    /// What a check must find out to end the suspicion: the most that any doubt since asked for.
    needed: Depth,
    since_unix_ms: Option<u64>,
    pub(super) epoch: Epoch,
    /// In a row, each.
    connect_failures: u32,
    check_failures: u32,
    check_successes: u32,
    gateway_errors: GatewayErrors,
    /// The check under way, if there is one.
    check: Option<CheckUnderWay>,
    last_check: Option<(u64, CheckVerdict)>,
}

/// What has happened since a check began.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct CheckUnderWay {
    /// Good evidence has come: if it fails, the traffic knows better.
    is_outranked: bool,
    suspicion: Suspicion,
}

/// When the suspicion began that a check may end.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum Suspicion {
    #[default]
    BeforeCheck,
    /// The check cannot end it: what it asked first it asked before.
    DuringCheck,
}

/// Gateway errors in a row.
#[derive(Default, Debug)]
struct GatewayErrors {
    count: u32,
    first_target: u64,
    has_other_targets: bool,
}

impl StateMachine {
    /// Of attempts to connect and of checks, each in a row.
    pub(super) fn failures(&self) -> u32 {
        self.connect_failures.saturating_add(self.check_failures)
    }

    /// Whether good evidence would change anything.
    pub(super) fn heeds_good_evidence(&self) -> bool {
        self.health != Health::Online
            || self.failures() != 0
            || self.gateway_errors.count != 0
            || self.check.is_some_and(|check| !check.is_outranked)
    }

    /// What a check of the upstream as it is now must find out.
    pub(super) fn needed(&self) -> Depth {
        match self.health {
            Health::Suspect(_) => self.needed,
            Health::Online | Health::Offline(_) => Depth::Probe,
        }
    }

    pub(super) fn shown(&self) -> UpstreamState {
        let (reason, doubt) = match self.health {
            Health::Online => (None, None),
            Health::Suspect(doubt) => (None, Some(doubt)),
            Health::Offline(reason) => (Some(reason), None),
        };
        UpstreamState {
            availability: self.health.availability(),
            reason,
            doubt,
            since_unix_ms: self.since_unix_ms,
            last_check: self.last_check,
        }
    }

    /// An exchange that began in `began` got what only a working upstream gives. One that began
    /// while the upstream was offline is a trial, and brings it back.
    pub(super) fn good(&mut self, began: Epoch, now_unix_ms: u64) -> Option<Change> {
        if let Some(check) = &mut self.check {
            check.is_outranked = true;
        }
        self.gateway_errors = GatewayErrors::default();
        match self.health {
            Health::Offline(_) if began != self.epoch => None,
            Health::Offline(_) => Some(self.go_online(now_unix_ms)),
            Health::Online | Health::Suspect(_) => self.become_online(),
        }
    }

    /// An attempt that began in `began` could not connect; `fall` of them in a row take the upstream
    /// offline.
    pub(super) fn cannot_connect(
        &mut self,
        began: Epoch,
        what: &'static str,
        fall: u32,
        now_unix_ms: u64,
    ) -> Option<Change> {
        if began != self.epoch {
            return None;
        }
        self.connect_failures = self.connect_failures.saturating_add(1);
        let reason = OfflineReason::CannotConnect(what);
        if let Health::Offline(known) = &mut self.health {
            *known = reason;
            return None;
        }
        if self.connect_failures < fall {
            return self.doubt(began, Doubt::CannotConnect);
        }
        Some(self.go_offline(reason, now_unix_ms))
    }

    /// Something was seen in an exchange that began in `began` that may be the upstream's fault.
    pub(super) fn doubt(&mut self, began: Epoch, doubt: Doubt) -> Option<Change> {
        if began != self.epoch {
            return None;
        }
        match self.health {
            Health::Offline(_) => None,
            Health::Suspect(_) => {
                if self.needed < doubt.depth() {
                    self.needed = doubt.depth();
                    self.health = Health::Suspect(doubt);
                }
                None
            }
            Health::Online => {
                self.needed = doubt.depth();
                if let Some(check) = &mut self.check {
                    check.suspicion = Suspicion::DuringCheck;
                }
                self.health = Health::Suspect(doubt);
                Some(Change {
                    from: Availability::Online,
                    to: self.health,
                    after: None,
                })
            }
        }
    }

    /// A gateway error; `target` tells targets apart. The third in a row, for at least two targets, is
    /// a doubt.
    pub(super) fn gateway_error(&mut self, began: Epoch, target: u64) -> Option<Change> {
        let row = &mut self.gateway_errors;
        if row.count == 0 {
            row.first_target = target;
        }
        row.has_other_targets |= row.first_target != target;
        row.count = row.count.saturating_add(1);
        if row.count < GATEWAY_ERRORS_IN_A_ROW || !row.has_other_targets {
            return None;
        }
        *row = GatewayErrors::default();
        self.doubt(began, Doubt::GatewayErrors)
    }

    /// A check begins. It ends with [`StateMachine::check_ended`] or
    /// [`StateMachine::check_abandoned`].
    pub(super) fn check_begins(&mut self) -> Epoch {
        self.check = Some(CheckUnderWay::default());
        self.epoch
    }

    /// It could not be carried out, for no fault of the upstream.
    pub(super) fn check_abandoned(&mut self) {
        self.check = None;
    }

    /// The check that began in `began` has come to its end.
    pub(super) fn check_ended(
        &mut self,
        began: Epoch,
        verdict: CheckVerdict,
        thresholds: Thresholds,
        now_unix_ms: u64,
    ) -> Option<Change> {
        let check = self.check.take().unwrap_or_default();
        self.last_check = Some((now_unix_ms, verdict));
        if began != self.epoch {
            return None;
        }
        match (self.health, verdict) {
            (Health::Offline(_), CheckVerdict::Works(_)) => {
                self.check_successes = self.check_successes.saturating_add(1);
                if self.check_successes < thresholds.rise {
                    return None;
                }
                Some(self.go_online(now_unix_ms))
            }
            (Health::Offline(_), CheckVerdict::Fails(reason)) => {
                self.check_successes = 0;
                self.check_failures = self.check_failures.saturating_add(1);
                self.health = Health::Offline(reason);
                None
            }
            (Health::Suspect(_), CheckVerdict::Works(depth))
                if depth < self.needed || check.suspicion == Suspicion::DuringCheck =>
            {
                None
            }
            (Health::Online | Health::Suspect(_), CheckVerdict::Works(_)) => self.become_online(),
            (Health::Online | Health::Suspect(_), CheckVerdict::Fails(_)) if check.is_outranked => {
                None
            }
            (Health::Online | Health::Suspect(_), CheckVerdict::Fails(reason)) => {
                self.check_failures = self.check_failures.saturating_add(1);
                if self.check_failures < thresholds.fall {
                    return None;
                }
                Some(self.go_offline(reason, now_unix_ms))
            }
        }
    }

    /// It fails what others serve, seen while no probe can tell.
    pub(super) fn eject(&mut self, began: Epoch, now_unix_ms: u64) -> Option<Change> {
        if began != self.epoch || began.is_offline() {
            return None;
        }
        Some(self.go_offline(OfflineReason::Outlier, now_unix_ms))
    }

    fn become_online(&mut self) -> Option<Change> {
        self.connect_failures = 0;
        self.check_failures = 0;
        let from = self.health.availability();
        self.health = Health::Online;
        self.needed = Depth::Itself;
        (from != Availability::Online).then_some(Change {
            from,
            to: Health::Online,
            after: None,
        })
    }

    fn go_online(&mut self, now_unix_ms: u64) -> Change {
        self.connect_failures = 0;
        self.check_failures = 0;
        self.begin_epoch(Health::Online, now_unix_ms)
    }

    fn go_offline(&mut self, reason: OfflineReason, now_unix_ms: u64) -> Change {
        self.check_successes = 0;
        self.begin_epoch(Health::Offline(reason), now_unix_ms)
    }

    fn begin_epoch(&mut self, to: Health, now_unix_ms: u64) -> Change {
        let from = self.health.availability();
        self.health = to;
        self.needed = Depth::Itself;
        self.epoch = self.epoch.next();
        self.gateway_errors = GatewayErrors::default();
        let began = self.since_unix_ms.replace(now_unix_ms);
        Change {
            from,
            to,
            after: began.map(|began| Duration::from_millis(now_unix_ms.saturating_sub(began))),
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

    const EVENTS: [char; 9] = ['g', 'f', 'd', 'D', 'p', 'i', 'x', 'b', 'o'];
    const REFUSED: &str = "connection refused";

    /// A state machine driven by letters:
    ///
    /// | letter | event |
    /// |---|---|
    /// | `g` | good evidence of an exchange of now |
    /// | `f` | an attempt of now cannot connect |
    /// | `d` `D` | a doubt that a round trip settles, one that needs a probe |
    /// | `p` `i` `x` | the check at hand passes the probe, passes the round trip alone, fails (one begins if there is none) |
    /// | `b` | an attempt and a check begin and go on |
    /// | `G` `F` | that attempt gets good evidence, cannot connect |
    /// | `o` | it is an outlier |
    struct Driver {
        state: StateMachine,
        thresholds: Thresholds,
        begun: Epoch,
        check: Option<Epoch>,
        now: u64,
    }

    impl Driver {
        fn new(fall: u32, rise: u32) -> Self {
            Self {
                state: StateMachine::default(),
                thresholds: Thresholds { fall, rise },
                begun: Epoch::FIRST,
                check: None,
                now: 1_000,
            }
        }

        fn event(&mut self, letter: char) -> Option<Change> {
            self.now += 1_000;
            let (now, current) = (self.now, self.state.epoch);
            match letter {
                'g' => self.state.good(current, now),
                'G' => self.state.good(self.begun, now),
                'f' => self
                    .state
                    .cannot_connect(current, REFUSED, self.thresholds.fall, now),
                'F' => self
                    .state
                    .cannot_connect(self.begun, REFUSED, self.thresholds.fall, now),
                'd' => self.state.doubt(current, Doubt::Truncated),
                'D' => self.state.doubt(current, Doubt::Silent),
                'p' => self.ends(CheckVerdict::Works(Depth::Probe)),
                'i' => self.ends(CheckVerdict::Works(Depth::Itself)),
                'x' => self.ends(CheckVerdict::Fails(OfflineReason::Silent)),
                'o' => self.state.eject(current, now),
                'b' => {
                    self.begun = current;
                    self.check = Some(self.state.check_begins());
                    None
                }
                other => panic!("no event {other}"),
            }
        }

        fn ends(&mut self, verdict: CheckVerdict) -> Option<Change> {
            let began = match self.check.take() {
                Some(began) => began,
                None => self.state.check_begins(),
            };
            self.state
                .check_ended(began, verdict, self.thresholds, self.now)
        }

        /// `+` online, `?` suspect, `-` offline.
        fn sign(&self) -> char {
            match self.state.health {
                Health::Online => '+',
                Health::Suspect(_) => '?',
                Health::Offline(_) => '-',
            }
        }
    }

    /// The state after each event.
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
        let shown = StateMachine::default().shown();
        assert_eq!(shown.availability, Availability::Online);
        assert_eq!((shown.reason, shown.since_unix_ms), (None, None));
        assert_eq!(shown.last_check, None);
    }

    #[test]
    fn a_doubt_makes_a_suspect_and_never_takes_it_offline() {
        check(1, 1, "dddddddd", "????????");
        check(1, 1, "DDDdDDD", "???????");
    }

    #[test]
    fn proof_takes_it_offline_from_either_state() {
        check(1, 1, "f", "-");
        check(1, 1, "df", "?-");
        check(1, 1, "Dx", "?-");
        check(1, 1, "x", "-");
    }

    #[test]
    fn good_evidence_ends_a_suspicion() {
        check(1, 1, "dgDg", "?+?+");
    }

    #[test]
    fn good_evidence_outranks_the_check_that_is_under_way() {
        check(1, 1, "Dbgx", "??++");
        check(1, 1, "bgx", "+++");
        check(1, 1, "DbgDx", "??+??");
    }

    #[test]
    fn a_check_that_began_before_a_suspicion_does_not_end_it_but_may_prove_it() {
        check(1, 1, "bDpp", "+??+");
        check(1, 1, "bdii", "+??+");
        check(1, 1, "bDx", "+?-");
    }

    #[test]
    fn good_evidence_before_a_check_does_not_count_against_it() {
        check(1, 1, "gbx", "++-");
    }

    #[test]
    fn a_check_ends_a_suspicion_if_it_went_deep_enough() {
        check(1, 1, "di", "?+");
        check(1, 1, "Dip", "??+");
        check(1, 1, "dDip", "???+");
        check(1, 1, "dbDip", "????+");
    }

    #[test]
    fn fall_failures_in_a_row_are_needed() {
        check(3, 1, "fff", "??-");
        check(3, 1, "ffgfff", "??+??-");
        check(3, 1, "xxxp", "++-+");
        check(3, 1, "xxpxxx", "+++++-");
        check(3, 1, "fxfx", "????");
    }

    #[test]
    fn rise_successes_in_a_row_are_needed() {
        check(1, 3, "fppp", "---+");
        check(1, 3, "fppxppp", "------+");
    }

    #[test]
    fn good_evidence_of_a_trial_brings_it_back_at_once() {
        check(1, 3, "fg", "-+");
        check(1, 1, "fbG", "--+");
    }

    #[test]
    fn good_evidence_of_an_exchange_from_before_does_not_bring_it_back() {
        check(1, 1, "bfG", "+--");
    }

    #[test]
    fn a_late_failure_does_not_take_it_down_again() {
        check(1, 1, "bfF", "+--");
        check(1, 1, "fbpF", "--++");
    }

    #[test]
    fn a_late_check_changes_nothing() {
        check(1, 1, "bfp", "+--");
        check(1, 1, "fbgx", "--++");
    }

    #[test]
    fn doubts_about_one_that_is_offline_change_nothing() {
        check(1, 1, "fdDp", "---+");
    }

    #[test]
    fn an_outlier_is_offline_once() {
        check(1, 1, "oo", "--");
        check(1, 1, "Do", "?-");
    }

    #[test]
    fn flapping_is_followed() {
        check(1, 1, "fpfpfpfp", "-+-+-+-+");
        check(2, 2, "xxppxxpp", "+--++--+");
    }

    #[test]
    fn a_change_tells_what_was_and_how_long() {
        let mut driver = Driver::new(1, 1);
        let change = driver.event('f').unwrap();
        assert_eq!(change.from, Availability::Online);
        let reason = OfflineReason::CannotConnect(REFUSED);
        assert_eq!((change.to, change.after), (Health::Offline(reason), None));
        assert_eq!(driver.event('x'), None);
        assert_eq!(driver.state.shown().reason, Some(OfflineReason::Silent));
        let change = driver.event('p').unwrap();
        let after = Some(Duration::from_secs(2));
        assert_eq!((change.to, change.after), (Health::Online, after));
        assert_eq!(driver.event('p'), None);
        assert_eq!(driver.event('f').unwrap().after, after);
        assert_eq!(driver.state.shown().since_unix_ms, Some(6_000));
    }

    #[test]
    fn a_clock_that_goes_back_gives_no_nonsense() {
        let mut state = StateMachine::default();
        state.cannot_connect(Epoch(0), REFUSED, 1, 5_000);
        let change = state.good(Epoch(1), 4_000).unwrap();
        assert_eq!(change.after, Some(Duration::ZERO));
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
        assert_eq!(shown("ffxx"), 4);
        assert_eq!(shown("fg"), 0);
        assert_eq!(shown("ffxxp"), 0);
    }

    #[test]
    fn good_evidence_is_heeded_exactly_when_it_changes_something() {
        for number in 0..EVENTS.len().pow(4) {
            let mut driver = Driver::new(2, 2);
            for at in 0..4 {
                driver.event(EVENTS[number / EVENTS.len().pow(at) % EVENTS.len()]);
            }
            if !driver.state.heeds_good_evidence() {
                let before = format!("{:?}", driver.state);
                driver.event('g');
                assert_eq!(format!("{:?}", driver.state), before);
            }
        }
    }

    /// Which check can settle a suspicion.
    #[derive(PartialEq)]
    enum Settled {
        ByAny,
        ByTheNext,
    }

    /// The contract's table, kept as simply as a person would: counts in a row, and who knows better.
    struct Contract {
        state: char,
        deep: bool,
        connects: u32,
        fails: u32,
        passes: u32,
        check: Option<(u64, bool)>,
        settled: Settled,
        epoch: u64,
        begun: u64,
    }

    impl Contract {
        fn new() -> Self {
            Self {
                state: '+',
                deep: false,
                connects: 0,
                fails: 0,
                passes: 0,
                check: None,
                settled: Settled::ByAny,
                epoch: 0,
                begun: 0,
            }
        }

        fn turn(&mut self, state: char) {
            self.epoch += 1;
            self.state = state;
            self.deep = false;
            if state == '+' {
                (self.connects, self.fails) = (0, 0);
            } else {
                self.passes = 0;
            }
        }

        fn suspect(&mut self, letter: char) {
            if self.state != '-' {
                if self.state == '+' {
                    self.settled = match self.check {
                        Some(_) => Settled::ByTheNext,
                        None => Settled::ByAny,
                    };
                }
                self.state = '?';
                self.deep |= letter == 'D';
            }
        }

        fn good(&mut self, current: Option<()>) {
            if let Some((_, outranked)) = &mut self.check {
                *outranked = true;
            }
            match (self.state, current) {
                ('-', Some(())) => self.turn('+'),
                ('-', None) => {}
                (_, _) => {
                    (self.state, self.deep) = ('+', false);
                    (self.connects, self.fails) = (0, 0);
                }
            }
        }

        fn event(&mut self, letter: char, (fall, rise): (u32, u32)) {
            let current = match letter {
                'G' | 'F' => self.begun == self.epoch,
                _ => true,
            };
            match letter.to_ascii_lowercase() {
                'g' => self.good(current.then_some(())),
                'f' if current => {
                    self.connects += 1;
                    match self.state {
                        '-' => {}
                        _ if self.connects >= fall => self.turn('-'),
                        _ => self.suspect('f'),
                    }
                }
                'd' => self.suspect(letter),
                'b' => {
                    self.begun = self.epoch;
                    self.check = Some((self.epoch, false));
                    self.settled = Settled::ByAny;
                }
                'o' if self.state != '-' => self.turn('-'),
                'p' | 'i' | 'x' => {
                    if self.check.is_none() {
                        self.settled = Settled::ByAny;
                    }
                    let (epoch, outranked) = self.check.take().unwrap_or((self.epoch, false));
                    if epoch != self.epoch {
                        return;
                    }
                    match (self.state, letter) {
                        ('-', 'x') => {
                            self.passes = 0;
                            self.fails += 1;
                        }
                        ('-', _) => {
                            self.passes += 1;
                            if self.passes >= rise {
                                self.turn('+');
                            }
                        }
                        (_, 'x') if outranked => {}
                        (_, 'x') => {
                            self.fails += 1;
                            if self.fails >= fall {
                                self.turn('-');
                            }
                        }
                        ('?', 'i') if self.deep => {}
                        ('?', _) if self.settled == Settled::ByTheNext => {}
                        (_, _) => {
                            (self.state, self.deep) = ('+', false);
                            (self.connects, self.fails) = (0, 0);
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn replay(events: impl Iterator<Item = char>, (fall, rise): (u32, u32)) {
        let (mut driver, mut contract) = (Driver::new(fall, rise), Contract::new());
        let mut history = String::new();
        for letter in events {
            history.push(letter);
            let before = driver.sign();
            let change = driver.event(letter);
            contract.event(letter, (fall, rise));
            let now = driver.sign();
            assert_eq!(now, contract.state, "{history}, fall {fall}, rise {rise}");
            assert_eq!(change.is_some(), before != now, "{history}");
            assert_eq!(driver.state.epoch.is_offline(), now == '-', "{history}");
            assert_eq!(driver.state.failures(), contract.connects + contract.fails);
        }
    }

    #[test]
    fn every_sequence_of_five_events_obeys_the_contract() {
        for (fall, rise) in (1..=2).flat_map(|fall| (1..=2).map(move |rise| (fall, rise))) {
            for number in 0..EVENTS.len().pow(5) {
                let events = (0..5).map(|at| EVENTS[number / EVENTS.len().pow(at) % EVENTS.len()]);
                replay(events, (fall, rise));
            }
        }
    }

    /// Two million steps, the same ones at every run.
    #[test]
    fn random_histories_obey_the_contract() {
        const ALL: &[u8] = b"gfdDpixbGFogd";
        let mut dice = 20_261_128_u64;
        let mut roll = |limit: usize| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(dice >> 33).unwrap() % limit
        };
        for _ in 0..20_000 {
            let thresholds = (
                u32::try_from(roll(3)).unwrap() + 1,
                u32::try_from(roll(3)).unwrap() + 1,
            );
            let events: Vec<char> = (0..100).map(|_| char::from(ALL[roll(ALL.len())])).collect();
            replay(events.into_iter(), thresholds);
        }
    }

    /// Statuses and the target each was for, as `503a`; `!` = a suspicion is expected with this one.
    fn check_gateway(answers: &str) {
        let mut state = StateMachine::default();
        for answer in answers.split_whitespace() {
            let status = answer.get(..3).unwrap().parse().unwrap();
            let change = if is_gateway_error(status) {
                state.gateway_error(Epoch::FIRST, u64::from(answer.as_bytes()[3]))
            } else {
                state.good(Epoch::FIRST, 0);
                None
            };
            assert_eq!(
                change.is_some(),
                answer.ends_with('!'),
                "{answer} in {answers}"
            );
            if change.is_some() {
                state.good(Epoch::FIRST, 0);
            }
        }
    }

    #[test]
    fn three_gateway_errors_for_two_targets_are_a_doubt() {
        check_gateway("502a 503b 504a!");
        check_gateway("502a 502a 502b!");
    }

    #[test]
    fn one_bad_target_is_no_doubt() {
        check_gateway("502a 502a 502a 502a 502b! 502a 502a 502a");
    }

    #[test]
    fn any_other_answer_ends_the_row() {
        for other in ["200", "404", "500", "501", "505"] {
            check_gateway(&format!("502a 502b {other}c 502a 502b 502c!"));
        }
    }
}
